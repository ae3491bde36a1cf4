use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::*;

fn file(path: &str) -> EntryKind {
    classify(Path::new(path), false)
}

fn directory(path: &str) -> EntryKind {
    classify(Path::new(path), true)
}

fn relation(tablespace: Oid, database: Oid, relfilenode: Oid, fork: Fork, segment: u32) -> EntryKind {
    EntryKind::Relation(RelationFile { relation: RelationLocator { tablespace, database, relfilenode }, fork, segment })
}

#[test]
fn files_of_relations_are_known_by_place_and_name() {
    assert_eq!(file("base/5/16384"), relation(1663, 5, 16_384, Fork::Main, 0));
    assert_eq!(file("base/5/16384_vm.2"), relation(1663, 5, 16_384, Fork::Vm, 2));
    assert_eq!(file("global/1260"), relation(1664, 0, 1260, Fork::Main, 0));
    assert_eq!(file("pg_tblspc/16400/PG_15_202209061/5/7_init"), relation(16_400, 5, 7, Fork::Init, 0));
    for path in ["16384", "base/16384", "base/5/sub/16384", "base/x/16384", "pg_xact/0000", "log/1", "pg_logical/5"] {
        assert_eq!(file(path), EntryKind::Plain, "{path}");
    }
}

#[test]
fn directories_that_a_server_fills_anew_stay_empty() {
    for name in EMPTIED {
        assert_eq!(directory(name), EntryKind::EmptyDirectory, "{name}");
        assert_eq!(file(&format!("{name}/entry")), EntryKind::Skip(SkipReason::Emptied), "{name}");
        assert_eq!(directory(&format!("{name}/entry")), EntryKind::Skip(SkipReason::Emptied), "{name}");
    }
    for path in ["pg_wal/archive_status", "pg_wal/summaries"] {
        assert_eq!(directory(path), EntryKind::EmptyDirectory);
        assert_eq!(file(&format!("{path}/entry")), EntryKind::Skip(SkipReason::Emptied));
    }
    assert_eq!(file("pg_replslot/pitr/state"), EntryKind::Skip(SkipReason::Emptied));
    assert_eq!(directory("pg_replslot/archive_status"), EntryKind::Skip(SkipReason::Emptied));
    for name in ["pg_stat", "pg_logical", "pg_xact", "pg_multixact/members", "pg_twophase", "pg_commit_ts", "base/5"] {
        assert_eq!(directory(name), EntryKind::Directory, "{name}");
    }
}

#[test]
fn what_belongs_to_the_running_server_is_left_out() {
    for name in [
        "postmaster.pid",
        "postmaster.opts",
        "backup_label",
        "backup_label.old",
        "tablespace_map",
        "tablespace_map.old",
        "backup_manifest",
        "backup_manifest.tmp",
        "recovery.signal",
        "standby.signal",
        "recovery.conf",
        "recovery.done",
        "postgresql.auto.conf.tmp",
        "current_logfiles.tmp",
        "pitr_restore.json",
    ] {
        assert_eq!(file(name), EntryKind::Skip(SkipReason::ServerState), "{name}");
        assert_eq!(file(&format!("conf.d/{name}")), EntryKind::Plain, "{name}");
    }
    let former_wal = "pg_wal.before-20261122T101500Z-00001a2b";
    for kind in [file(former_wal), directory(former_wal)] {
        assert_eq!(kind, EntryKind::Skip(SkipReason::ServerState));
    }
    for name in ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf", "current_logfiles", "server.key"] {
        assert_eq!(file(name), EntryKind::Plain, "{name}");
    }
}

#[test]
fn temporary_things_are_left_out_at_every_level() {
    for path in
        ["base/pgsql_tmp", "pg_tblspc/16400/PG_15_202209061/pgsql_tmp", "base/pgsql_tmp/pgsql_tmp123.0.sharedfileset"]
    {
        assert_eq!(directory(path), EntryKind::Skip(SkipReason::Temporary), "{path}");
    }
    for path in ["base/pgsql_tmp/pgsql_tmp123.0", "base/5/t3_16384", "base/5/t3_16384_fsm.1", "base/5/pgsql_tmp_x"] {
        assert_eq!(file(path), EntryKind::Skip(SkipReason::Temporary), "{path}");
    }
    assert_eq!(file("t3_16384"), EntryKind::Plain);
    for path in ["global/pg_internal.init", "base/5/pg_internal.init.1234"] {
        assert_eq!(file(path), EntryKind::Skip(SkipReason::RelationCache), "{path}");
    }
    assert_eq!(directory("lost+found"), EntryKind::Skip(SkipReason::Foreign));
    assert_eq!(file("base/.DS_Store"), EntryKind::Skip(SkipReason::Foreign));
}

#[test]
fn files_with_rules_of_their_own() {
    let table = [
        ("global/pg_control", SpecialFile::ControlFile),
        ("global/pg_filenode.map", SpecialFile::RelationMap),
        ("base/5/pg_filenode.map", SpecialFile::RelationMap),
        ("base/5/PG_VERSION", SpecialFile::Version),
        ("PG_VERSION", SpecialFile::Version),
        ("pg_tblspc/16400/PG_15_202209061/5/PG_VERSION", SpecialFile::Version),
    ];
    for (path, special) in table {
        assert_eq!(file(path), EntryKind::Special(special), "{path}");
        assert!(file(path).is_indispensable());
    }
    assert_eq!(file("base/5/pg_control"), EntryKind::Plain);
    assert_eq!(file("pg_xact/PG_VERSION"), EntryKind::Plain);
    assert!(!file("base/5/16384").is_indispensable());
}

#[test]
fn tablespaces_have_a_part_for_each_version() {
    assert_eq!(directory("pg_tblspc"), EntryKind::Directory);
    assert_eq!(directory("pg_tblspc/16400"), EntryKind::Tablespace { oid: 16_400 });
    assert_eq!(file("pg_tblspc/16400"), EntryKind::Tablespace { oid: 16_400 });
    assert_eq!(
        directory("pg_tblspc/16400/PG_15_202209061"),
        EntryKind::TablespaceVersion { oid: 16_400, directory: "PG_15_202209061".to_owned() }
    );
    assert_eq!(directory("pg_tblspc/16400/PG_15_202209061/5"), EntryKind::Directory);
    for path in ["pg_tblspc/16400/other", "pg_tblspc/16400/PG_15", "pg_tblspc/readme", "pg_tblspc/16400/PG_x_1"] {
        assert_eq!(directory(path), EntryKind::Skip(SkipReason::Foreign), "{path}");
    }
    assert_eq!(file("pg_tblspc/16400/note.txt"), EntryKind::Skip(SkipReason::Foreign));
}

#[test]
fn names_that_are_not_text_have_no_rule() {
    let path = Path::new("base/5").join(OsStr::from_bytes(b"16384\xFF"));
    assert_eq!(classify(&path, false), EntryKind::Plain);
    assert_eq!(directory("."), EntryKind::Directory);
    assert_eq!(file("./base/./5/16384"), relation(1663, 5, 16_384, Fork::Main, 0));
}
