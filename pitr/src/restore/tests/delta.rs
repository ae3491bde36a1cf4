//! Restores into directories that hold older files of the same cluster.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;
use crate::fs::Directory;
use crate::repository::backup::Extent;
use crate::restore::destination::{self, TablespaceMapping, TablespacePair};
use crate::restore::testing::{BackupWriter, control_file, control_file_of, lineage_in, memory, path, snapshot};

const PAGE: usize = 8192;

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(bytes)
    .collect()
}

/// A backup with files of every shape.
async fn backup(lineage: &LineageStore) -> BackupManifest {
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.directory("base", 0o700);
    writer.directory("base/5", 0o700);
    writer.directory("pg_xact", 0o700);
    writer.directory("conf.d", 0o755);
    writer.file("base/5/large", &noise(1, 100 * PAGE));
    writer.file("base/5/other", &noise(2, 40 * PAGE));
    let mut holes = vec![0; 4 << 20];
    holes[1 << 20..2 << 20].copy_from_slice(&noise(3, 1 << 20));
    writer.file("base/5/holes", &holes);
    writer.file("base/5/zeros", &vec![0; 1 << 20]);
    writer.file("base/5/empty", b"");
    writer.file("pg_xact/0000", &noise(4, PAGE));
    writer.file("conf.d/x.conf", b"work_mem = '8MB'\n");
    writer.close_map().await;
    writer.next_pack();
    // Small files that share a frame, in two maps.
    let small: Vec<Vec<u8>> = (0..20).map(|n| noise(n + 100, 200 + n as usize * 700)).collect();
    let pieces: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
    let frame = writer.frame(&pieces);
    let mut at = 0;
    for (number, content) in small.iter().enumerate() {
        writer.file_of(path(&format!("base/5/s{number:02}")), 0o640, vec![frame.extent(at, content.len())]);
        at += content.len();
        if number == 9 {
            writer.close_map().await;
        }
    }
    // A frame of which only a part is used, as after an incremental backup, and twice.
    let block = noise(77, 20 * PAGE);
    let frame = writer.frame(&[&block]);
    writer.file_of(
        path("base/5/mixed"),
        0o600,
        vec![frame.extent(3 * PAGE, 4 * PAGE), Extent::Zeros { bytes: PAGE as u64 }, frame.extent(0, 2 * PAGE)],
    );
    writer.file_of(path("base/5/twice"), 0o600, vec![frame.extent(0, 2 * PAGE)]);
    writer.file_of(path("key"), 0o400, vec![writer_extent(&frame)]);
    writer.link("base/5/link", "../../PG_VERSION");
    writer.finish().await
}

fn writer_extent(frame: &crate::restore::testing::WrittenFrame) -> Extent {
    frame.extent(19 * PAGE, PAGE)
}

fn with_delta(directory: &Path) -> RestoreOptions {
    RestoreOptions { delta: true, ..options(directory) }
}

async fn delta(lineage: &LineageStore, manifest: &BackupManifest, directory: &Path) -> Result<RestoredDirectory> {
    restore_with(lineage, manifest, &with_delta(directory)).await
}

/// Everything but what names the restore itself.
fn content(directory: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = snapshot(directory);
    found.retain(|path, _| {
        path != Path::new(RestoreStamp::FILE_NAME) && !path.to_string_lossy().starts_with("pg_wal.before-")
    });
    found
}

fn set(directory: &Path, name: &str, at: usize, bytes: &[u8]) {
    let file = directory.join(name);
    let mut content = std::fs::read(&file).unwrap();
    content[at..at + bytes.len()].copy_from_slice(bytes);
    std::fs::write(file, content).unwrap();
}

/// What a server and an unkind person do to a data directory.
fn change(directory: &Path) {
    let at = |name: &str| directory.join(name);
    // Equal size and times, another content.
    let times = std::fs::metadata(at("base/5/large")).unwrap();
    set(directory, "base/5/large", 50 * PAGE + 17, &[1]);
    let file = std::fs::File::options().write(true).open(at("base/5/large")).unwrap();
    file.set_modified(times.modified().unwrap()).unwrap();
    set(directory, "base/5/holes", 3 << 20, &[9; 100]);
    set(directory, "base/5/zeros", 77, &[9]);
    set(directory, "base/5/mixed", 4 * PAGE, &[9]);
    set(directory, "base/5/s03", 5, &[9]);
    std::fs::write(at("base/5/empty"), "no longer").unwrap();
    let file = std::fs::File::options().write(true).open(at("base/5/other")).unwrap();
    file.set_len(10 * PAGE as u64).unwrap();
    std::fs::remove_file(at("base/5/s07")).unwrap();
    std::fs::write(at("base/5/s08"), noise(9, 1 << 20)).unwrap();
    std::fs::set_permissions(at("base/5/s09"), PermissionsExt::from_mode(0o666)).unwrap();
    // Names that lead elsewhere.
    let outside = directory.parent().unwrap().join("outside");
    std::fs::create_dir_all(&outside).unwrap();
    for name in ["linked", "named-twice"] {
        std::fs::write(outside.join(name), "not ours").unwrap();
    }
    std::fs::remove_file(at("base/5/s10")).unwrap();
    symlink(outside.join("linked"), at("base/5/s10")).unwrap();
    std::fs::remove_file(at("base/5/s11")).unwrap();
    std::fs::hard_link(outside.join("named-twice"), at("base/5/s11")).unwrap();
    std::fs::remove_file(at("base/5/s12")).unwrap();
    std::fs::create_dir_all(at("base/5/s12/deep")).unwrap();
    std::fs::remove_dir_all(at("pg_xact")).unwrap();
    symlink(&outside, at("pg_xact")).unwrap();
    std::fs::remove_file(at("base/5/link")).unwrap();
    symlink("elsewhere", at("base/5/link")).unwrap();
    // What came since.
    for name in ["base/5/99999", "base/5/pg_internal.init", "global/1262", "pg_replslot/slot/state", "base/6/1259"] {
        std::fs::create_dir_all(at(name).parent().unwrap()).unwrap();
        std::fs::write(at(name), "new").unwrap();
    }
    symlink(outside.join("linked"), at("base/5/new-link")).unwrap();
    symlink(&outside, at("pg_tblspc/16500")).unwrap();
    for name in [
        "postmaster.opts",
        "standby.signal",
        "backup_label.old",
        ".pitr_restore.json.17.0123456789abcdef.tmp",
        "server.log",
        "conf.d/mine.conf",
    ] {
        std::fs::write(at(name), "new").unwrap();
    }
    std::fs::write(at("postmaster.pid"), "99999999\n").unwrap();
    std::fs::write(at("pg_wal/000000010000000000000007"), "last transactions").unwrap();
}

fn bytes_of(directory: &Path, name: &str) -> Vec<u8> {
    std::fs::read(directory.join(name)).unwrap()
}

#[tokio::test]
async fn an_old_directory_becomes_what_a_whole_restore_makes() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_one, whole_directory) = target();
    let whole = restore(&lineage, &manifest, &whole_directory).await.unwrap();
    let (scratch, directory) = target();
    restore(&lineage, &manifest, &directory).await.unwrap();
    let inode = |name: &str| std::fs::metadata(directory.join(name)).unwrap().ino();
    let kept = inode("base/5/other");
    change(&directory);

    let restored = delta(&lineage, &manifest, &directory).await.unwrap();
    let mut found = content(&directory);
    // Of their owner, and in no directory of the cluster's own.
    assert!(found.remove(Path::new("server.log")).is_some() && found.remove(Path::new("conf.d/mine.conf")).is_some());
    assert_eq!(found, content(&whole_directory));
    assert_eq!(inode("base/5/other"), kept, "files are completed where they stand");
    assert_eq!((restored.files, restored.bytes), (whole.files, whole.bytes));
    let told = restored.delta.unwrap();
    assert!(restored.fetched_bytes < whole.fetched_bytes * 3 / 4, "{restored:?} {whole:?}");
    assert!(told.reused_bytes > whole.bytes / 2 && told.compared_bytes >= told.reused_bytes, "{told:?}");
    // What links led to is as it was.
    for name in ["linked", "named-twice"] {
        assert_eq!(bytes_of(&scratch.path().join("outside"), name), b"not ours");
    }
    let moved = directory.join("pg_wal.before-20261122T101500Z-00001a2b/000000010000000000000007");
    assert_eq!(std::fs::read(moved).unwrap(), b"last transactions");
    assert!(restored.notes.iter().any(|note| note.contains("pg_wal.before-")), "{:?}", restored.notes);
    let mtime = std::fs::metadata(directory.join("base/5/other")).unwrap().mtime();
    assert_eq!(mtime, 1_790_000_000);
}

#[tokio::test]
async fn what_is_equal_is_not_fetched() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_scratch, directory) = target();
    let whole = restore(&lineage, &manifest, &directory).await.unwrap();
    std::fs::write(directory.join("pg_wal/pitr_restore_command_test"), "left by a kill").unwrap();
    let restored = delta(&lineage, &manifest, &directory).await.unwrap();
    // What a restore adapts, the label that is always there, and the tables of packs.
    assert!(restored.fetched_bytes < whole.fetched_bytes / 4, "{} of {}", restored.fetched_bytes, whole.fetched_bytes);
    let none_moved = std::fs::read_dir(&directory)
        .unwrap()
        .all(|entry| !entry.unwrap().file_name().to_string_lossy().starts_with("pg_wal.before-"));
    assert!(none_moved, "an empty pg_wal is not worth keeping");
    let plan = plan_for(&lineage, &manifest);
    let checked = restorer(&lineage, &CancellationToken::new()).check(&plan, &with_delta(&directory)).await.unwrap();
    let outlook = checked.delta.unwrap();
    assert_eq!((outlook.files_there, outlook.lacking_bytes), (manifest.files, 0));
}

#[tokio::test]
async fn an_empty_directory_is_a_whole_restore() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_scratch, directory) = target();
    let restored = delta(&lineage, &manifest, &directory).await.unwrap();
    assert_eq!(restored.delta.unwrap().compared_bytes, 0);
    let stamp = RestoreStamp::read(&directory).unwrap().unwrap();
    assert!(!stamp.delta);
}

async fn refusal(lineage: &LineageStore, manifest: &BackupManifest, directory: &Path) -> (String, String) {
    let before = snapshot(directory);
    let error = delta(lineage, manifest, directory).await.unwrap_err();
    assert!(matches!(error, Error::Destination(_)), "{error:?}");
    assert_eq!(snapshot(directory), before, "a refusal changes nothing");
    let source = std::error::Error::source(&error).map(ToString::to_string);
    (source.unwrap_or_default(), error.hint().unwrap_or_default())
}

#[tokio::test]
async fn what_is_not_this_cluster_is_refused() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_scratch, directory) = target();
    restore(&lineage, &manifest, &directory).await.unwrap();
    let control = directory.join("global/pg_control");
    let good = std::fs::read(&control).unwrap();

    std::fs::write(&control, control_file_of(42, crate::postgres::WalSegmentSize::DEFAULT)).unwrap();
    let (error, hint) = refusal(&lineage, &manifest, &directory).await;
    assert!(error.contains("system identifier 42") && hint.contains("same cluster"), "{error} {hint}");
    let mut damaged = control_file();
    damaged[100] ^= 1;
    std::fs::write(&control, damaged).unwrap();
    assert!(refusal(&lineage, &manifest, &directory).await.0.contains("pg_control"));
    std::fs::write(&control, &good).unwrap();
    std::fs::write(directory.join("PG_VERSION"), "14\n").unwrap();
    assert!(refusal(&lineage, &manifest, &directory).await.0.contains("\"14\""));
    std::fs::write(directory.join("PG_VERSION"), "15\n").unwrap();
    std::fs::write(directory.join("postmaster.pid"), format!("{}\n", std::process::id())).unwrap();
    assert!(refusal(&lineage, &manifest, &directory).await.0.contains("is alive"));
    std::fs::remove_file(directory.join("postmaster.pid")).unwrap();
    // Neither a server's nor ours.
    std::fs::remove_file(&control).unwrap();
    std::fs::remove_file(directory.join(RestoreStamp::FILE_NAME)).unwrap();
    assert!(refusal(&lineage, &manifest, &directory).await.0.contains("no stamp"));
    let (_other, stranger) = target();
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("thesis.txt"), "").unwrap();
    refusal(&lineage, &manifest, &stranger).await;
}

#[tokio::test]
async fn an_interrupted_one_is_finished_by_the_next_and_removed_by_none() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_one, whole_directory) = target();
    restore(&lineage, &manifest, &whole_directory).await.unwrap();
    let (_scratch, directory) = target();
    restore(&lineage, &manifest, &directory).await.unwrap();
    change(&directory);
    // A pack is missing for a while.
    let pack = lineage.layout().pack(&"20261122T063100Z/00000001".parse().unwrap());
    let bytes = lineage.store().get(&pack, None).await.unwrap().bytes(64 << 20).await.unwrap();
    lineage.store().delete(std::slice::from_ref(&pack)).await.unwrap();
    let error = delta(&lineage, &manifest, &directory).await.unwrap_err();
    assert!(matches!(error, Error::Incomplete { delta: true, .. }), "{error:?}");
    assert!(error.hint().unwrap().contains("compares it again"));
    assert!(!directory.join("global/pg_control").exists());

    let error = restore(&lineage, &manifest, &directory).await.unwrap_err();
    assert!(matches!(error, Error::Destination(destination::Error::UnfinishedDelta { .. })), "{error:?}");

    use crate::storage::{ObjectStoreExt as _, PutMode};
    lineage.store().put_bytes(&pack, bytes, PutMode::CreateNew).await.unwrap();
    let mut again = with_delta(&directory);
    again.restore = "20261122T111500Z-00001a2c".parse().unwrap();
    let restored = restore_with(&lineage, &manifest, &again).await.unwrap();
    let mut found = content(&directory);
    found.remove(Path::new("server.log"));
    found.remove(Path::new("conf.d/mine.conf"));
    let mut expected = content(&whole_directory);
    // It names the restore, which is another one.
    for found in [&mut found, &mut expected] {
        assert!(found.remove(Path::new("postgresql.auto.conf")).is_some());
    }
    assert_eq!(found, expected);
    // The WAL that the first one moved is told of by the second.
    let moved = directory.join("pg_wal.before-20261122T101500Z-00001a2b/000000010000000000000007");
    assert!(moved.exists());
    assert!(restored.notes.iter().any(|note| note.contains("00001a2b")), "{:?}", restored.notes);
}

#[tokio::test]
async fn the_rest_of_a_whole_restore_is_reused() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (_scratch, directory) = target();
    let whole = restore(&lineage, &manifest, &directory).await.unwrap();
    std::fs::remove_file(directory.join("global/pg_control")).unwrap();
    let mut stamp = RestoreStamp::read(&directory).unwrap().unwrap();
    stamp.state = StampState::Restoring;
    stamp.write(&Directory::open(&directory).unwrap(), None).unwrap();
    let restored = delta(&lineage, &manifest, &directory).await.unwrap();
    assert!(restored.fetched_bytes < whole.fetched_bytes / 4);
    assert!(directory.join("global/pg_control").exists());
}

#[tokio::test]
async fn a_linked_pg_wal_stays_where_it_is() {
    let lineage = lineage_in(memory()).await;
    let manifest = backup(&lineage).await;
    let (scratch, directory) = target();
    restore(&lineage, &manifest, &directory).await.unwrap();
    let wal = scratch.path().join("wal");
    std::fs::create_dir(&wal).unwrap();
    std::fs::write(wal.join("000000010000000000000007"), "last").unwrap();
    std::fs::remove_dir_all(directory.join("pg_wal")).unwrap();
    symlink(&wal, directory.join("pg_wal")).unwrap();
    let restored = delta(&lineage, &manifest, &directory).await.unwrap();
    assert_eq!(bytes_of(&wal, "000000010000000000000007"), b"last");
    assert!(std::fs::symlink_metadata(directory.join("pg_wal")).unwrap().is_dir());
    assert!(restored.notes.iter().any(|note| note.contains("symbolic link to")), "{:?}", restored.notes);
}

#[tokio::test]
async fn tablespaces_are_reused_where_they_are_known() {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    writer.tablespace(16400, "/mnt/one");
    writer.directory("pg_tblspc", 0o700);
    writer.directory("pg_tblspc/16400/PG_15_202209061", 0o700);
    writer.directory("pg_tblspc/16400/PG_15_202209061/5", 0o700);
    writer.file("pg_tblspc/16400/PG_15_202209061/5/1", &noise(1, 200 * PAGE));
    let manifest = writer.finish().await;
    let (scratch, directory) = target();
    let space = scratch.path().join("space");
    let mut options = options(&directory);
    let pair = TablespacePair { from: "16400".to_owned(), to: space.clone() };
    options.tablespaces = TablespaceMapping { all_into: None, pairs: vec![pair] };
    let whole = restore_with(&lineage, &manifest, &options).await.unwrap();
    let expected = snapshot(&space);
    set(&space, "PG_15_202209061/5/1", 3, &[7]);
    std::fs::write(space.join("PG_15_202209061/5/2"), "new").unwrap();
    std::fs::create_dir(space.join("PG_14_202107181")).unwrap();

    options.delta = true;
    let restored = restore_with(&lineage, &manifest, &options).await.unwrap();
    assert!(restored.fetched_bytes < whole.fetched_bytes / 2);
    let mut found = snapshot(&space);
    assert!(found.remove(Path::new("PG_14_202107181")).is_some(), "another version's");
    assert_eq!(found, expected);
    assert_eq!(std::fs::read_link(directory.join("pg_tblspc/16400")).unwrap(), space);

    // Somebody's else.
    let stranger = scratch.path().join("stranger");
    std::fs::create_dir(&stranger).unwrap();
    std::fs::write(stranger.join("x"), "").unwrap();
    options.tablespaces.pairs[0].to = stranger;
    let error = restore_with(&lineage, &manifest, &options).await.unwrap_err();
    assert!(matches!(error, Error::Destination(destination::Error::NotEmpty { .. })), "{error:?}");
}
