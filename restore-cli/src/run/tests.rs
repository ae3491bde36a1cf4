use std::path::Path;
use std::sync::Arc;

use pitr::clock::SystemClock;
use pitr::repository::layout::MarkerKey;
use pitr::repository::{LineageStore, Repository};
use pitr::storage::{LocalStore, ObjectStore};

use super::*;
use crate::ending::{guarded, is_wal_fetch};
use crate::output::marker::tests::marker;
use crate::testing::{lease, lineage, manifest};

/// The exit code of a whole run.
fn exit_code(words: &[&str]) -> u8 {
    let arguments: Vec<OsString> = std::iter::once("pitr").chain(words.iter().copied()).map(OsString::from).collect();
    guarded(is_wal_fetch(&arguments), || run(arguments, Environment::default()))
}

/// A repository with one lineage that holds a manifest, a marker and a lease, and no WAL.
fn repository(directory: &Path) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store: Arc<dyn ObjectStore> = Arc::new(LocalStore::create(directory).await.unwrap());
        let repository = Repository::open_or_create(store, &SystemClock).await.unwrap();
        let lineage: LineageStore = repository.ensure_lineage(&lineage()).await.unwrap();
        let layout = lineage.layout();
        let manifest = manifest("2026-11-22T06:31:00Z", 0x200_0028, 0x200_0138);
        lineage.create(&layout.manifest(&manifest.id), &manifest).await.unwrap();
        let marker = marker("release-42", 0x300_0028, 40).marker;
        let key = MarkerKey { tli: marker.timeline, lsn: marker.lsn, name: marker.name.clone(), finish: false };
        lineage.create(&layout.marker(&key), &marker).await.unwrap();
        lineage.create(&layout.lease(), &lease(0x300_1000, 0x300_1000)).await.unwrap();
    });
    format!("file://{}", directory.display())
}

#[test]
fn usage_errors_end_with_2_and_in_wal_fetch_with_200() {
    assert_eq!(exit_code(&["nonsense"]), 2);
    assert_eq!(exit_code(&[]), 2);
    assert_eq!(exit_code(&["restore", "--latest"]), 2);
    assert_eq!(exit_code(&["restore", "--time", "yesterday", "--into", "/x"]), 2);
    assert_eq!(exit_code(&["--agent", "nowhere", "mark", "x"]), 2);
    for words in [
        &["wal-fetch"][..],
        &["wal-fetch", "a"],
        &["wal-fetch", "--nonsense", "a", "b"],
        &["--nonsense", "wal-fetch", "a", "b"],
        &["--cluster", "a b", "wal-fetch", "a", "b"],
        &["wal-fetch", "a/b", "c"],
        &["wal-fetch", "--restore", "relative.json", "a", "b"],
    ] {
        assert_eq!(exit_code(words), 200, "{words:?}");
    }
}

#[test]
fn help_is_no_failure() {
    assert_eq!(exit_code(&["--help"]), 0);
    assert_eq!(exit_code(&["restore", "--help"]), 0);
    assert_eq!(exit_code(&["--version"]), 0);
}

#[test]
fn a_repository_is_all_that_reading_needs() {
    let scratch = tempfile::tempdir().unwrap();
    let url = repository(&scratch.path().join("repository"));
    for command in
        [&["info"][..], &["info", "--json"], &["status"], &["markers"], &["markers", "release-42", "--limit", "1"]]
    {
        let words = [&["--repository", &url, "--cluster", "main"], command].concat();
        assert_eq!(exit_code(&words), 0, "{command:?}");
    }
    // The only cluster needs no name.
    assert_eq!(exit_code(&["--repository", &url, "status"]), 0);
    assert_eq!(exit_code(&["--repository", &url, "--cluster", "other", "info"]), 4);
    let nowhere = format!("file://{}", scratch.path().join("nowhere").display());
    assert_eq!(exit_code(&["--repository", &nowhere, "info"]), 4);
}

#[test]
fn what_cannot_be_restored_is_refused_and_nothing_is_written() {
    let scratch = tempfile::tempdir().unwrap();
    let url = repository(&scratch.path().join("repository"));
    let into = scratch.path().join("restored");
    let into_text = into.to_str().unwrap();
    for (target, code) in [(&["--latest"][..], 3), (&["--before", "release-42"], 3), (&["--before", "release-4"], 3)] {
        let words = [&["--repository", &url, "restore", "--into", into_text], target].concat();
        assert_eq!(exit_code(&words), code, "{target:?}");
    }
    assert!(!into.exists());
}

#[test]
fn absent_wal_is_proven_by_the_repository() {
    let scratch = tempfile::tempdir().unwrap();
    let url = repository(&scratch.path().join("repository"));
    let to = scratch.path().join("RECOVERYXLOG");
    let fetch = |url: &str, name: &str| {
        exit_code(&["--repository", url, "--cluster", "main", "wal-fetch", name, to.to_str().unwrap()])
    };
    assert_eq!(fetch(&url, "00000009.history"), 1);
    // The lease says that it was sealed: its absence is a hole.
    assert_eq!(fetch(&url, "000000010000000000000002"), 200);
    assert_eq!(fetch(&url, "nonsense"), 200);
    let nowhere = format!("file://{}", scratch.path().join("nowhere").display());
    assert_eq!(fetch(&nowhere, "00000009.history"), 200);
    assert!(!to.exists());
}
