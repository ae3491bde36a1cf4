//! What each name in a data directory means to a backup, as far as the name tells.
//!
//! The rules are those of `basebackup.c`, with what it learned from accidents: signal files that make a restored server
//! wait for ever, contents of `pg_replslot` that resurrect slots. Whatever has no rule is copied.

use std::path::{Component, Path};

use super::relation::{DEFAULT_TABLESPACE, Fork, GLOBAL_TABLESPACE, Oid, RelationLocator};
use super::relation_file::{RelationFileName, is_temporary_relation_file, number};

/// Directories that a server needs and fills anew.
const EMPTIED: [&str; 8] =
    ["pg_wal", "pg_dynshmem", "pg_notify", "pg_replslot", "pg_serial", "pg_snapshots", "pg_stat_tmp", "pg_subtrans"];
/// Directories within `pg_wal` that must exist; `summaries` from 17 on.
const IN_WAL: [&str; 2] = ["archive_status", "summaries"];
/// Files at the top that belong to the running server or to one backup.
const SKIPPED: [&str; 9] = [
    "postmaster.pid",
    "postmaster.opts",
    "recovery.signal",
    "standby.signal",
    "recovery.conf",
    "recovery.done",
    "postgresql.auto.conf.tmp",
    "current_logfiles.tmp",
    // The stamp of the restore that this directory came out of: what a backup of it becomes has a stamp of its own.
    "pitr_restore.json",
];
/// The same, with whatever follows: `.old` copies and temporary files.
const SKIPPED_PREFIXES: [&str; 3] = ["backup_label", "tablespace_map", "backup_manifest"];
/// How a `pg_wal` is called, with more behind it, that a restore over an old data directory moved aside: a directory, or the
/// link that `pg_wal` was.
pub const FORMER_WAL_PREFIX: &str = "pg_wal.before-";
const SKIPPED_ANYWHERE: [&str; 2] = [".DS_Store", "lost+found"];
const TEMPORARY_PREFIX: &str = "pgsql_tmp";
const RELATION_CACHE_PREFIX: &str = "pg_internal.init";

/// What to do with an entry of a data directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// Not part of a backup; of a directory, nothing in it is.
    Skip(SkipReason),
    /// Exists in a restored cluster, without what it holds but for the directories that are classified so themselves.
    EmptyDirectory,
    /// Its entries are classified one by one.
    Directory,
    /// `pg_tblspc/<oid>`: a link to a directory elsewhere, or a directory in place.
    Tablespace {
        oid: Oid,
    },
    /// A tablespace's part for one version of the server; those of other versions are no part of this cluster.
    TablespaceVersion {
        oid: Oid,
        directory: String,
    },
    Relation(RelationFile),
    Special(SpecialFile),
    Plain,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// Of the server that runs, or of a backup or recovery of the past.
    ServerState,
    /// In a directory that is kept empty.
    Emptied,
    /// Temporary files and relations.
    Temporary,
    /// Caches that a server makes anew.
    RelationCache,
    /// Not a tablespace's.
    Foreign,
}

/// A file of a relation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationFile {
    pub relation: RelationLocator,
    pub fork: Fork,
    pub segment: u32,
}

/// Files that follow rules of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpecialFile {
    /// `global/pg_control`: copied last, checked, restored last.
    ControlFile,
    /// `pg_filenode.map`: replaced in place, so read until its checksum is right.
    RelationMap,
    /// `PG_VERSION`.
    Version,
}

impl EntryKind {
    /// The file may not vanish while its directory is there.
    #[must_use]
    pub const fn is_indispensable(&self) -> bool {
        matches!(self, Self::Special(_))
    }
}

/// Says what the entry at `path`, relative to the data directory, is to a backup.
///
/// A path whose parent is skipped or emptied must not be asked for, but for those in `pg_wal`. Whether a relation is
/// unlogged takes all names of the directory: see [`super::relation_file::InitForks`].
#[must_use]
pub fn classify(path: &Path, is_directory: bool) -> EntryKind {
    let Some(names) = names(path) else { return EntryKind::Plain };
    let Some(name) = names.last().copied() else { return EntryKind::Directory };
    if let Some(reason) = skipped_anywhere(name) {
        return EntryKind::Skip(reason);
    }
    match (names.as_slice(), is_directory) {
        ([top, ..], _) if EMPTIED.contains(top) => emptied(&names, is_directory),
        ([name], _) if name.starts_with(FORMER_WAL_PREFIX) => EntryKind::Skip(SkipReason::ServerState),
        ([name], false) if is_skipped_at_top(name) => EntryKind::Skip(SkipReason::ServerState),
        (["pg_tblspc", rest @ ..], _) => in_tablespaces(rest, is_directory),
        (_, true) => EntryKind::Directory,
        (["global", name], _) => in_database(name, GLOBAL_TABLESPACE, Some(0)),
        (["base", database, name], _) => in_database(name, DEFAULT_TABLESPACE, number(database)),
        (["PG_VERSION"], _) => EntryKind::Special(SpecialFile::Version),
        _ => EntryKind::Plain,
    }
}

/// The names in the path; none where one is not text, which no rule is about.
fn names(path: &Path) -> Option<Vec<&str>> {
    path.components()
        .filter(|component| !matches!(component, Component::CurDir))
        .map(|component| match component {
            Component::Normal(name) => name.to_str(),
            _ => None,
        })
        .collect()
}

fn skipped_anywhere(name: &str) -> Option<SkipReason> {
    if name.starts_with(TEMPORARY_PREFIX) {
        Some(SkipReason::Temporary)
    } else if name.starts_with(RELATION_CACHE_PREFIX) {
        Some(SkipReason::RelationCache)
    } else if SKIPPED_ANYWHERE.contains(&name) {
        Some(SkipReason::Foreign)
    } else {
        None
    }
}

fn is_skipped_at_top(name: &str) -> bool {
    SKIPPED.contains(&name) || SKIPPED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

fn emptied(names: &[&str], is_directory: bool) -> EntryKind {
    match names {
        // A link to a directory elsewhere is a directory here.
        [_] if is_directory => EntryKind::EmptyDirectory,
        ["pg_wal", name] if is_directory && IN_WAL.contains(name) => EntryKind::EmptyDirectory,
        _ => EntryKind::Skip(SkipReason::Emptied),
    }
}

fn in_tablespaces(names: &[&str], is_directory: bool) -> EntryKind {
    match (names, is_directory) {
        ([], _) => EntryKind::Directory,
        ([oid], _) => number(oid).map_or(EntryKind::Skip(SkipReason::Foreign), |oid| EntryKind::Tablespace { oid }),
        ([oid, version], true) => match number(oid).filter(|_| is_version_directory(version)) {
            Some(oid) => EntryKind::TablespaceVersion { oid, directory: (*version).to_owned() },
            None => EntryKind::Skip(SkipReason::Foreign),
        },
        ([_, _], false) => EntryKind::Skip(SkipReason::Foreign),
        (_, true) => EntryKind::Directory,
        ([oid, _, database, name], false) => match number(oid) {
            Some(oid) => in_database(name, oid, number(database)),
            None => EntryKind::Plain,
        },
        _ => EntryKind::Plain,
    }
}

/// `PG_<major>_<catalog version>`
fn is_version_directory(name: &str) -> bool {
    let parts = name.strip_prefix("PG_").and_then(|rest| rest.split_once('_'));
    parts.is_some_and(|(major, catalog)| number(major).is_some() && number(catalog).is_some())
}

/// A file in the directory of a database, or in `global`.
fn in_database(name: &str, tablespace: Oid, database: Option<Oid>) -> EntryKind {
    match name {
        "pg_control" if tablespace == GLOBAL_TABLESPACE => return EntryKind::Special(SpecialFile::ControlFile),
        "pg_filenode.map" => return EntryKind::Special(SpecialFile::RelationMap),
        "PG_VERSION" => return EntryKind::Special(SpecialFile::Version),
        _ => {}
    }
    let Some(database) = database else { return EntryKind::Plain };
    if is_temporary_relation_file(name) {
        return EntryKind::Skip(SkipReason::Temporary);
    }
    match name.parse::<RelationFileName>() {
        Ok(RelationFileName { relfilenode, fork, segment }) => EntryKind::Relation(RelationFile {
            relation: RelationLocator { tablespace, database, relfilenode },
            fork,
            segment,
        }),
        Err(_) => EntryKind::Plain,
    }
}

#[cfg(test)]
mod tests;
