use std::collections::BTreeSet;
use std::path::Path;

use http::StatusCode;
use pitr::api::ApiError;
use pitr::config::{Config, LoadError, LocateError, SecretError};
use pitr::postgres::{Lsn, TimelineId};
use pitr::recovery::PlanError;
use pitr::repository::document::DocumentError;
use pitr::repository::marker::FinishedMarker;
use pitr::restore;
use pitr::storage::{self, ObjectKey, Operation};

use super::*;
use crate::args::UsageError;

fn storage(kind: ErrorKind) -> storage::Error {
    storage::Error::new(kind, Operation::Get, "main/x", "because")
}

fn key() -> ObjectKey {
    ObjectKey::new("main/x").unwrap()
}

fn refused(kind: ApiErrorKind) -> Failure {
    let error = ApiError { kind, message: "no".to_owned(), hint: None, markers: Vec::<FinishedMarker>::new() };
    Failure::Agent(AgentError::Refused { status: StatusCode::BAD_REQUEST, error: Box::new(error) })
}

fn stdout(kind: io::ErrorKind) -> Failure {
    Failure::Stdout(io::Error::from(kind))
}

fn plan(error: PlanError) -> Failure {
    Failure::Plan(Box::new(error))
}

fn document(source: DocumentError) -> Failure {
    Failure::Repository(repository::Error::Document { key: key(), source })
}

fn rows() -> Vec<(u8, Failure)> {
    let address = || "/run/pitr/main.sock".to_owned();
    let io_error = || io::Error::from(io::ErrorKind::NotFound);
    vec![
        (0, stdout(io::ErrorKind::BrokenPipe)),
        (1, stdout(io::ErrorKind::StorageFull)),
        (1, Failure::Failed { message: "no".to_owned(), hint: None }),
        (1, Failure::Storage(storage(ErrorKind::AlreadyExists))),
        (1, Failure::Storage(storage(ErrorKind::Changed))),
        (1, Failure::Repository(repository::Error::Conflict { key: key(), reason: "twice".to_owned() })),
        (1, document(DocumentError::TooNew { found: 9 })),
        (1, refused(ApiErrorKind::NotFound)),
        (1, refused(ApiErrorKind::Conflict)),
        (1, refused(ApiErrorKind::Internal)),
        (1, Failure::Restore(restore::Error::Internal { reason: "x".to_owned() })),
        (2, Failure::Usage(UsageError::new("no"))),
        (2, Failure::Config(LoadError::Unreadable { path: "x".into(), source: io_error() })),
        (2, Failure::ConfigValue(Config::parse("", Path::new("x")).unwrap_err())),
        (2, Failure::Locate(LocateError::None { directory: "x".into() })),
        (2, Failure::Secret(SecretError::Env("X".to_owned()))),
        (2, Failure::Storage(storage(ErrorKind::Invalid))),
        (2, Failure::Repository(repository::Error::WrongCluster { reason: "x".to_owned() })),
        (2, plan(PlanError::AmbiguousMarker { name: "x".to_owned(), markers: Vec::new() })),
        (2, refused(ApiErrorKind::Invalid)),
        (2, refused(ApiErrorKind::Ambiguous)),
        (3, plan(PlanError::NoBackup { incomplete: 0, damaged: 0 })),
        (5, plan(PlanError::NoBackup { incomplete: 0, damaged: 1 })),
        (3, plan(PlanError::UnknownTimeline { timeline: TimelineId::FIRST, known: Vec::new() })),
        (4, Failure::Storage(storage(ErrorKind::Denied))),
        (4, Failure::Storage(storage(ErrorKind::NoContainer))),
        (4, Failure::Storage(storage(ErrorKind::Unavailable))),
        (4, Failure::Storage(storage(ErrorKind::Transient))),
        (4, Failure::Storage(storage(ErrorKind::Full))),
        (4, Failure::Repository(repository::Error::Storage(storage(ErrorKind::Unavailable)))),
        (4, Failure::Repository(repository::Error::NotARepository)),
        (4, Failure::Repository(repository::Error::NoSuchCluster { cluster: "x".to_owned() })),
        (4, Failure::Agent(AgentError::Unreachable { address: address(), source: io_error() })),
        (4, Failure::Agent(AgentError::NoAnswer { address: address(), after: std::time::Duration::from_secs(1) })),
        (4, refused(ApiErrorKind::Unavailable)),
        (4, Failure::Restore(restore::Error::Repository(repository::Error::Storage(storage(ErrorKind::Unavailable))))),
        (5, Failure::Storage(storage(ErrorKind::Corrupt))),
        (5, Failure::Storage(storage(ErrorKind::NotFound))),
        (5, Failure::Repository(repository::Error::Storage(storage(ErrorKind::Corrupt)))),
        (5, Failure::Repository(repository::Error::Corrupt { key: key(), reason: "x".to_owned() })),
        (5, document(DocumentError::Damaged("x"))),
        (
            5,
            plan(PlanError::WrongRecord {
                what: "a restore point".to_owned(),
                lsn: Lsn::new(0x28),
                segment: "000000010000000000000001".parse().unwrap(),
            }),
        ),
        (5, Failure::Restore(restore::Error::Damaged { object: "x".to_owned(), reason: "is missing".to_owned() })),
        (
            6,
            Failure::Restore(restore::Error::Destination(restore::destination::Error::NotEmpty {
                path: "/x".into(),
                found: "y".to_owned(),
            })),
        ),
        (6, Failure::Restore(restore::Error::Tablespace { reason: "x".to_owned() })),
        (8, Failure::NotSealedInTime("x".to_owned())),
        (8, refused(ApiErrorKind::TimedOut)),
        (130, Failure::Interrupted(None)),
        (130, Failure::Storage(storage(ErrorKind::Cancelled))),
        (130, Failure::Restore(restore::Error::Interrupted)),
    ]
}

#[test]
fn every_failure_has_its_code() {
    for (code, failure) in rows() {
        assert_eq!(exit_status(&failure).code(), code, "{failure:?}");
    }
}

/// 7 is for checks and drills, which this command does not have yet.
#[test]
fn every_documented_code_is_in_the_table() {
    let codes: BTreeSet<u8> = rows().iter().map(|(code, _)| *code).collect();
    assert_eq!(codes, BTreeSet::from([0, 1, 2, 3, 4, 5, 6, 8, 130]));
}
