use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;

const VERSION_DIRECTORY: &str = "PG_15_202209061";

struct Tree(TempDir);

impl Tree {
    fn new() -> Self {
        let tree = Self(TempDir::new().unwrap());
        for directory in ["data/base/1", "data/base/5", "data/global", "data/pg_wal/archive_status", "data/pg_tblspc"] {
            fs::create_dir_all(tree.path(directory)).unwrap();
        }
        for file in ["data/PG_VERSION", "data/base/1/PG_VERSION", "data/base/5/PG_VERSION"] {
            tree.file(file, 3);
        }
        tree
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().canonicalize().unwrap().join(path)
    }

    fn file(&self, path: &str, bytes: usize) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), vec![b'x'; bytes]).unwrap();
    }

    fn link(&self, target: impl AsRef<Path>, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    fn try_list(&self) -> Result<Listing, ListingError> {
        let request = ListingRequest {
            data_directory: self.path("data"),
            tablespace_version_directory: VERSION_DIRECTORY.to_owned(),
        };
        list(&request, &CancellationToken::new())
    }

    fn list(&self) -> Listing {
        self.try_list().unwrap()
    }
}

fn files(listing: &Listing) -> Vec<String> {
    listing.files.iter().map(|file| file.path.to_string()).collect()
}

fn directories(listing: &Listing) -> Vec<&str> {
    listing.directories.iter().map(|directory| directory.path.as_str()).collect()
}

#[test]
fn lists_files_by_path_with_size_mode_and_kind() {
    let tree = Tree::new();
    tree.file("data/base/5/16384", 24576);
    tree.file("data/base/5/16384_vm", 8192);
    tree.file("data/base/5-odd", 1);
    tree.file("data/global/pg_control", 8192);
    tree.file("data/global/pg_filenode.map", 512);
    tree.file("data/pg_xact/0000", 8192);
    tree.file("data/postgresql.conf", 10);
    fs::set_permissions(tree.path("data/postgresql.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    let listing = tree.list();
    let expected = [
        ("PG_VERSION", FileKind::Version, 3),
        ("base/1/PG_VERSION", FileKind::Version, 3),
        ("base/5-odd", FileKind::Other, 1),
        ("base/5/16384", FileKind::Relation, 24576),
        ("base/5/16384_vm", FileKind::Relation, 8192),
        ("base/5/PG_VERSION", FileKind::Version, 3),
        ("global/pg_filenode.map", FileKind::FilenodeMap, 512),
        ("pg_xact/0000", FileKind::Other, 8192),
        ("postgresql.conf", FileKind::Other, 10),
    ];
    let found: Vec<_> = listing.files.iter().map(|f| (f.path.to_string(), f.kind, f.size)).collect();
    assert_eq!(found, expected.map(|(path, kind, size)| (path.to_owned(), kind, size)));
    assert_eq!(listing.files.get(8).unwrap().mode, 0o640);
    assert!(listing.files.get(9).is_none());
    assert_eq!(listing.files.total_bytes(), expected.iter().map(|(.., size)| size).sum::<u64>());
}

#[test]
fn keeps_directories_of_the_running_server_empty() {
    let tree = Tree::new();
    for file in
        ["pg_wal/000000010000000000000001", "pg_wal/summaries/x", "pg_replslot/s/state", "pg_stat_tmp/global.tmp"]
    {
        tree.file(&format!("data/{file}"), 1);
    }
    let listing = tree.list();
    let expected = [
        "base",
        "base/1",
        "base/5",
        "global",
        "pg_replslot",
        "pg_stat_tmp",
        "pg_tblspc",
        "pg_wal",
        "pg_wal/archive_status",
        "pg_wal/summaries",
    ];
    assert_eq!(directories(&listing), expected);
    assert_eq!(listing.files.len(), 3);
}

#[test]
fn pg_wal_behind_a_link_is_a_directory_of_the_backup() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.path("data/pg_wal")).unwrap();
    fs::create_dir_all(tree.path("wal/archive_status")).unwrap();
    tree.file("wal/000000010000000000000001", 1);
    tree.link(tree.path("wal"), "data/pg_wal");
    let listing = tree.list();
    assert!(directories(&listing).contains(&"pg_wal"));
    assert!(directories(&listing).contains(&"pg_wal/archive_status"));
    assert!(listing.links.is_empty());
    assert_eq!(listing.files.len(), 3);
}

#[test]
fn leaves_out_unlogged_and_temporary_relations() {
    let tree = Tree::new();
    for name in ["16390", "16390.1", "16390_fsm", "16390_init", "16391", "t3_16392", "pgsql_tmp/pgsql_tmp12.0"] {
        tree.file(&format!("data/base/5/{name}"), 8192);
    }
    tree.file("data/pg_xact/16390_init", 1);
    let listing = tree.list();
    let expected = [
        "PG_VERSION",
        "base/1/PG_VERSION",
        "base/5/16390_init",
        "base/5/16391",
        "base/5/PG_VERSION",
        "pg_xact/16390_init",
    ];
    assert_eq!(files(&listing), expected);
}

#[test]
fn tablespaces_hold_only_what_belongs_to_this_version() {
    let tree = Tree::new();
    tree.file("space one/PG_15_202209061/5/16400", 8192);
    tree.file("space one/PG_15_202209061/pgsql_tmp/pgsql_tmp1.1", 8192);
    tree.file("space one/PG_14_202107181/5/16400", 8192);
    tree.link(tree.path("space one"), "data/pg_tblspc/16399");
    tree.file("data/pg_tblspc/16500/PG_15_202209061/5/16501", 8192);
    tree.file("data/pg_tblspc/16500/PG_15_202209061/5/16501_init", 8192);
    let listing = tree.list();
    let tablespaces: Vec<_> = listing.tablespaces.iter().map(|t| (t.oid, t.in_place, t.location.clone())).collect();
    let location = tree.path("space one").to_str().unwrap().to_owned();
    assert_eq!(tablespaces, [(16399, false, location), (16500, true, String::new())]);
    let expected = ["pg_tblspc/16399/PG_15_202209061/5/16400", "pg_tblspc/16500/PG_15_202209061/5/16501_init"];
    assert_eq!(files(&listing)[3..], expected);
    assert!(listing.links.is_empty());
    assert!(directories(&listing).contains(&"pg_tblspc/16399/PG_15_202209061"));
    assert!(!directories(&listing).contains(&"pg_tblspc/16399"));
    assert!(directories(&listing).contains(&"pg_tblspc/16500"));
}

#[test]
fn tablespace_within_the_data_directory_is_copied_once() {
    let tree = Tree::new();
    tree.file("data/inside/PG_15_202209061/5/16400", 8192);
    tree.link(tree.path("data/inside"), "data/pg_tblspc/16399");
    let listing = tree.list();
    assert_eq!(files(&listing)[3..], ["pg_tblspc/16399/PG_15_202209061/5/16400"]);
    assert!(directories(&listing).contains(&"inside"));
}

#[test]
fn follows_links_to_directories_and_keeps_links_to_files_at_the_top() {
    let tree = Tree::new();
    tree.file("elsewhere/0000", 8192);
    tree.link(tree.path("elsewhere"), "data/pg_xact");
    tree.file("certs/server.key", 100);
    tree.link(tree.path("certs/server.key"), "data/server.key");
    tree.link("/nowhere/at/all", "data/dangling.conf");
    tree.file("heap/16384", 8192);
    tree.link(tree.path("heap/16384"), "data/base/5/16384");
    let listing = tree.list();
    assert!(files(&listing).contains(&"pg_xact/0000".to_owned()));
    assert!(files(&listing).contains(&"base/5/16384".to_owned()));
    assert!(directories(&listing).contains(&"pg_xact"));
    let links: Vec<_> = listing.links.iter().map(|link| (link.path.as_str(), link.target.as_str())).collect();
    let key = tree.path("certs/server.key");
    assert_eq!(links, [("dangling.conf", "/nowhere/at/all"), ("server.key", key.to_str().unwrap())]);
}

#[test]
fn refuses_links_to_links_and_links_back() {
    let tree = Tree::new();
    fs::create_dir_all(tree.path("real")).unwrap();
    tree.link(tree.path("real"), "link");
    tree.link(tree.path("link"), "data/chained");
    assert!(matches!(tree.try_list(), Err(ListingError::LinkToLink { .. })));
    fs::remove_file(tree.path("data/chained")).unwrap();

    for target in ["data/base", ""] {
        tree.link(tree.path(target), "data/back");
        assert!(matches!(tree.try_list(), Err(ListingError::LinkBack { .. })), "{target:?}");
        fs::remove_file(tree.path("data/back")).unwrap();
    }

    tree.link(tree.path("real"), "data/once");
    fs::create_dir_all(tree.path("further")).unwrap();
    tree.link(tree.path("further"), "real/twice");
    assert!(matches!(tree.try_list(), Err(ListingError::LinkBehindLink { .. })));
}

#[test]
fn warns_of_what_is_no_file() {
    let tree = Tree::new();
    let _socket = std::os::unix::net::UnixListener::bind(tree.path("data/.s.PGSQL.5432")).unwrap();
    let listing = tree.list();
    assert_eq!(listing.warnings.len(), 1);
    assert!(listing.warnings[0].starts_with("left out the socket"), "{:?}", listing.warnings);
    assert_eq!(listing.files.len(), 3);
}

#[test]
fn names_of_any_bytes_are_listed() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    let tree = Tree::new();
    fs::write(tree.path("data").join(OsStr::from_bytes(b"caf\xe9%\n")), "x").unwrap();
    let listing = tree.list();
    let found = listing.files.iter().find(|file| file.path.as_str().starts_with("caf")).unwrap();
    assert_eq!(found.path.to_path().as_os_str().as_bytes(), b"caf\xe9%\n");
}

#[test]
fn a_missing_data_directory_is_an_error_that_names_it() {
    let tree = Tree::new();
    fs::remove_dir_all(tree.path("data")).unwrap();
    let error = tree.try_list().unwrap_err().to_string();
    assert!(error.contains("/data\""), "{error}");
}

#[test]
fn stops_when_told() {
    let tree = Tree::new();
    let cancel = CancellationToken::new();
    cancel.cancel();
    let request = ListingRequest {
        data_directory: tree.path("data"),
        tablespace_version_directory: VERSION_DIRECTORY.to_owned(),
    };
    assert!(matches!(list(&request, &cancel), Err(ListingError::Cancelled)));
}
