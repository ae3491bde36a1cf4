//! What is refused, what is cleaned up, and what an interruption leaves.

use super::*;
use crate::restore::destination::{Error as DestinationError, TablespaceMapping};
use crate::restore::testing::{BackupWriter, lineage_in, memory};

async fn backup() -> (LineageStore, BackupManifest) {
    backup_with_tablespace(None).await
}

async fn backup_with_tablespace(location: Option<&str>) -> (LineageStore, BackupManifest) {
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    if let Some(location) = location {
        writer.tablespace(16400, location);
        writer.directory("pg_tblspc", 0o700);
        writer.directory("pg_tblspc/16400/PG_15_202209061", 0o700);
        writer.file("pg_tblspc/16400/PG_15_202209061/9", b"in a tablespace");
        writer.file("tablespace_map", format!("16400 {location}\n").as_bytes());
    }
    let manifest = writer.finish().await;
    (lineage, manifest)
}

async fn refusal(directory: &Path) -> DestinationError {
    let (lineage, manifest) = backup().await;
    match restore(&lineage, &manifest, directory).await {
        Err(Error::Destination(error)) => error,
        other => panic!("not refused: {other:?}"),
    }
}

#[tokio::test]
async fn an_empty_directory_is_taken_and_gets_the_mode() {
    use std::os::unix::fs::PermissionsExt;

    let (lineage, manifest) = backup().await;
    let (_scratch, target) = target();
    std::fs::create_dir(&target).unwrap();
    std::fs::set_permissions(&target, std::fs::Permissions::from_mode(0o755)).unwrap();
    restore(&lineage, &manifest, &target).await.unwrap();
    assert_eq!(std::fs::metadata(&target).unwrap().permissions().mode() & 0o777, 0o700);
}

#[tokio::test]
async fn a_directory_with_anything_in_it_is_refused_and_untouched() {
    for name in ["file", ".hidden", "lost+found/x"] {
        let (_scratch, target) = target();
        let path = target.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "precious").unwrap();
        let error = refusal(&target).await;
        assert!(matches!(error, DestinationError::NotEmpty { .. }), "{error:?}");
        assert_eq!(
            crate::restore::testing::snapshot(&target).len(),
            path.strip_prefix(&target).unwrap().iter().count()
        );
    }
}

#[tokio::test]
async fn places_within_a_cluster_are_refused() {
    let (scratch, _) = target();
    let cluster = scratch.path().join("cluster");
    std::fs::create_dir_all(cluster.join("global")).unwrap();
    std::fs::create_dir_all(cluster.join("sub")).unwrap();
    std::fs::write(cluster.join("PG_VERSION"), "15\n").unwrap();
    for name in ["new", "sub/new"] {
        let error = refusal(&cluster.join(name)).await;
        assert!(matches!(error, DestinationError::WithinCluster { .. }), "{error:?}");
    }
    let version = scratch.path().join("ts/PG_15_202209061");
    std::fs::create_dir_all(&version).unwrap();
    assert!(matches!(refusal(&version.join("new")).await, DestinationError::WithinCluster { .. }));
    // Through a link as well.
    std::os::unix::fs::symlink(&cluster, scratch.path().join("link")).unwrap();
    assert!(matches!(refusal(&scratch.path().join("link/new")).await, DestinationError::WithinCluster { .. }));
}

#[tokio::test]
async fn odd_places_are_refused_by_name() {
    let (scratch, _) = target();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", scratch.path().join("dangling")).unwrap();
    assert!(matches!(refusal(Path::new("relative")).await, DestinationError::NotAbsolute { .. }));
    assert!(matches!(refusal(&scratch.path().join("a/b")).await, DestinationError::NoParent { .. }));
    assert!(matches!(refusal(&scratch.path().join("file")).await, DestinationError::NotADirectory { .. }));
    assert!(matches!(refusal(&scratch.path().join("dangling")).await, DestinationError::NotADirectory { .. }));
}

#[tokio::test]
async fn a_tablespace_that_is_in_use_is_refused() {
    let (scratch, target) = target();
    let location = scratch.path().join("ts");
    std::fs::create_dir_all(location.join("PG_15_202209061/5")).unwrap();
    let (lineage, manifest) = backup_with_tablespace(location.to_str()).await;
    let error = restore(&lineage, &manifest, &target).await.unwrap_err();
    assert!(
        matches!(&error, Error::Destination(DestinationError::NotEmpty { path, .. }) if *path == location),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("--tablespace"));
    assert!(!target.exists());

    let mut elsewhere = options(&target);
    elsewhere.tablespaces = TablespaceMapping { all_into: Some(scratch.path().join("new")), pairs: Vec::new() };
    restore_with(&lineage, &manifest, &elsewhere).await.unwrap();
    assert!(location.join("PG_15_202209061/5").exists());
}

#[tokio::test]
async fn a_restore_without_room_is_refused_with_both_numbers() {
    let (lineage, mut manifest) = backup().await;
    manifest.size_bytes = 1 << 60;
    let (_scratch, target) = target();
    let error = restore(&lineage, &manifest, &target).await.unwrap_err();
    let Error::Destination(DestinationError::NoSpace { needed_bytes, free_bytes, .. }) = error else {
        panic!("not refused: {error:?}");
    };
    assert!(needed_bytes > 1 << 60 && free_bytes > 0);
    assert!(!target.exists());
}

#[tokio::test]
async fn two_restores_into_one_directory_are_one_too_many() {
    let (lineage, manifest) = backup().await;
    let (_scratch, target) = target();
    std::fs::create_dir(&target).unwrap();
    let held = crate::fs::Directory::open(&target).unwrap();
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let error = restore(&lineage, &manifest, &target).await.unwrap_err();
    assert!(matches!(error, Error::Destination(DestinationError::Busy { .. })), "{error:?}");
}

/// Ends the restore after `requests` requests to the store.
async fn interrupted_after(lineage: &LineageStore, manifest: &BackupManifest, options: &RestoreOptions) -> Error {
    let cancel = CancellationToken::new();
    let restorer = restorer(lineage, &cancel);
    let plan = plan_for(lineage, manifest);
    let checked = restorer.check(&plan, options).await.unwrap();
    let mut progress = restorer.progress.subscribe();
    let watcher = async {
        progress.wait_for(|progress| progress.files_done > 0).await.unwrap();
        cancel.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = watcher => unreachable!(),
        restored = restorer.restore(&plan, options, checked) => restored.unwrap_err(),
    }
}

#[tokio::test]
async fn an_interrupted_restore_cannot_start_and_is_cleaned_up_by_the_next() {
    let (scratch, target) = target();
    let location = scratch.path().join("ts");
    let (lineage, manifest) = backup_with_tablespace(location.to_str()).await;
    let options = options(&target);
    let error = interrupted_after(&lineage, &manifest, &options).await;
    assert_eq!(error.class(), FailureClass::Interrupted, "{error:?}");
    assert!(error.hint().unwrap().contains("cleans it up"));
    assert!(!target.join("global/pg_control").exists());
    let stamp = RestoreStamp::read(&target).unwrap().unwrap();
    assert_eq!(stamp.state, StampState::Restoring);
    // What the first left must not be in the second.
    std::fs::create_dir_all(target.join("base/left")).unwrap();
    std::fs::write(target.join("base/left/over"), "x").unwrap();
    std::fs::write(location.join("left"), "x").unwrap();

    restore(&lineage, &manifest, &target).await.unwrap();
    assert!(!target.join("base/left").exists() && !location.join("left").exists());
    assert!(target.join("global/pg_control").exists());
}

#[tokio::test]
async fn a_finished_restore_is_never_cleaned_up() {
    let (lineage, manifest) = backup().await;
    let (_scratch, target) = target();
    restore(&lineage, &manifest, &target).await.unwrap();
    let before = crate::restore::testing::snapshot(&target);
    assert!(matches!(refusal(&target).await, DestinationError::NotEmpty { .. }));
    assert_eq!(crate::restore::testing::snapshot(&target), before);
}

#[tokio::test]
async fn an_unfinished_restore_with_a_server_in_it_is_left_alone() {
    let (_scratch, target) = target();
    let (lineage, manifest) = backup().await;
    interrupted_after(&lineage, &manifest, &options(&target)).await;
    for name in ["postmaster.pid", "global/pg_control"] {
        std::fs::create_dir_all(target.join("global")).unwrap();
        std::fs::write(target.join(name), "").unwrap();
        assert!(matches!(refusal(&target).await, DestinationError::NotEmpty { .. }), "{name}");
        std::fs::remove_file(target.join(name)).unwrap();
    }
}

#[tokio::test]
async fn a_repository_that_goes_away_is_no_damage_and_the_next_try_succeeds() {
    use crate::storage::fault::{Fault, FaultRule, Faulty};
    use crate::storage::{ErrorKind, Operation};

    let faulty = Arc::new(Faulty::new(memory(), 1));
    let lineage = lineage_in(faulty.clone()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let manifest = writer.finish().await;
    let (_scratch, target) = target();
    let requests = {
        let (_scratch, trial) = super::target();
        let before = faulty.calls_of(Operation::Get);
        restore(&lineage, &manifest, &trial).await.unwrap();
        faulty.calls_of(Operation::Get) - before
    };
    assert!(requests >= 4, "{requests} requests");
    let faults = [
        Fault::ErrorBefore(ErrorKind::Unavailable),
        Fault::Break { after_bytes: 50 },
        Fault::ShortRead { after_bytes: 50 },
    ];
    for nth in 1..=requests {
        for fault in faults {
            let first = faulty.calls_of(Operation::Get);
            faulty.add(FaultRule::new(fault).on(Operation::Get).nth(nth));
            // A request may bring less than a fault lets pass.
            match restore(&lineage, &manifest, &target).await {
                Ok(_) => std::fs::remove_dir_all(&target).unwrap(),
                Err(error) => {
                    assert_eq!(error.class(), FailureClass::Unavailable, "{fault:?} of request {nth}: {error:?}");
                    assert!(!target.join("global/pg_control").exists(), "{fault:?} of request {nth}");
                }
            }
            assert!(faulty.calls_of(Operation::Get) > first);
            faulty.heal();
        }
    }
    assert!(faulty.struck().len() >= usize::try_from(requests).unwrap());
    restore(&lineage, &manifest, &target).await.unwrap();
}

#[tokio::test]
async fn a_place_without_room_for_the_companion_is_refused_before_anything_is_written() {
    let (lineage, manifest) = backup().await;
    let (scratch, target) = target();
    std::fs::write(scratch.path().join("file"), "").unwrap();
    let mut options = options(&target);
    let path = scratch.path().join("file/recovery.json");
    options.companion = Some(CompanionFile { path, content: Vec::new() });
    let error = restore_with(&lineage, &manifest, &options).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Destination, "{error:?}");
    assert!(!target.exists());

    let path = scratch.path().join("new/directory/recovery.json");
    options.companion = Some(CompanionFile { path: path.clone(), content: b"{}".to_vec() });
    restore_with(&lineage, &manifest, &options).await.unwrap();
    assert_eq!(std::fs::read(path).unwrap(), b"{}");
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_one() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can mount a file system that is small enough");
        return;
    }
    let lineage = lineage_in(memory()).await;
    let mut writer = BackupWriter::new(lineage.clone()).await;
    writer.needed_files();
    let content: Vec<u8> = (0..3_000_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    writer.file("large", &content);
    let mut manifest = writer.finish().await;
    // So that the check lets it pass, as it does when somebody else takes the space meanwhile.
    manifest.size_bytes = 1;
    manifest.wal_segment_size = crate::postgres::WalSegmentSize::new(1 << 20).unwrap();

    let scratch = tempfile::tempdir().unwrap();
    let mounted = Mounted::tmpfs(scratch.path(), "size=5m");
    let ballast = vec![1; 700 << 10];
    std::fs::write(mounted.0.join("ballast"), &ballast).unwrap();
    let restorer = restorer(&lineage, &CancellationToken::new());
    let plan = plan_for(&lineage, &manifest);
    let options = options(&mounted.0.join("data"));
    let checked = restorer.check(&plan, &options).await.unwrap();
    std::fs::write(mounted.0.join("more"), vec![1; 2 << 20]).unwrap();
    let error = restorer.restore(&plan, &options, checked).await.unwrap_err();
    assert_eq!(error.class(), FailureClass::Destination, "{error:?}");
    assert!(error.hint().unwrap().contains("free space"), "{:?}", error.hint());
    assert!(!mounted.0.join("data/global/pg_control").exists());
}

struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(path: &Path, options: &str) -> Self {
        let mount = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(path)
            .status()
            .unwrap();
        assert!(mount.success());
        Self(path.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
