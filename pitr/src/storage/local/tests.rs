use std::os::unix::fs::symlink;
use std::path::PathBuf;

use chrono::TimeDelta;
use tempfile::TempDir;

use super::*;
use crate::clock::ManualClock;
use crate::storage::{ObjectStoreExt, conformance};

async fn store() -> (TempDir, LocalStore) {
    let scratch = tempfile::tempdir().unwrap();
    let store = LocalStore::create(scratch.path().join("repository")).await.unwrap();
    (scratch, store)
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn staged(store: &LocalStore) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(store.path().join(".tmp")) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.extension().is_some_and(|e| e == "tmp")).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keeps_the_contract() {
    let (_scratch, store) = store().await;
    conformance::run(Arc::new(store.clone())).await;
    assert!(staged(&store).is_empty(), "staged files were left");
}

#[tokio::test]
async fn missing_root_is_no_container() {
    let (_scratch, store) = store().await;
    std::fs::remove_dir_all(store.path()).unwrap();
    conformance::missing_container(Arc::new(store.clone())).await;
    assert_eq!(LocalStore::open(store.path()).await.unwrap_err().kind(), ErrorKind::NoContainer);
    assert!(!store.path().exists(), "the root was made on demand");
}

#[tokio::test]
async fn root_that_is_a_file_is_invalid() {
    let scratch = tempfile::tempdir().unwrap();
    let path = scratch.path().join("file");
    std::fs::write(&path, "").unwrap();
    assert_eq!(LocalStore::open(&path).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(LocalStore::create(&path).await.unwrap_err().kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn listing_fails_at_what_it_cannot_name() {
    type Spoil = fn(&Path);
    let spoils: [(ErrorKind, Spoil); 5] = [
        (ErrorKind::Corrupt, |root| std::fs::write(root.join("a/with space"), "").unwrap()),
        (ErrorKind::Corrupt, |root| std::fs::create_dir(root.join("a/ü")).unwrap()),
        (ErrorKind::Invalid, |root| symlink("/etc", root.join("a/link")).unwrap()),
        (ErrorKind::Invalid, |root| symlink("object", root.join("a/link")).unwrap()),
        (ErrorKind::Invalid, |root| {
            std::os::unix::net::UnixListener::bind(root.join("a/socket")).unwrap();
        }),
    ];
    for (number, (kind, spoil)) in spoils.into_iter().enumerate() {
        let (_scratch, store) = store().await;
        store.create_bytes(&key("a/object"), "x").await.unwrap();
        spoil(store.path());
        let error = store.list_all(&KeyPrefix::root(), 10).await.unwrap_err();
        assert_eq!(error.kind(), kind, "case {number}: {error}");
    }
}

#[tokio::test]
async fn hidden_names_are_not_objects() {
    let (_scratch, store) = store().await;
    store.create_bytes(&key("a/object"), "x").await.unwrap();
    std::fs::create_dir(store.path().join("lost+found")).unwrap();
    std::fs::write(store.path().join("lost+found/#1"), "").unwrap();
    std::fs::create_dir(store.path().join("a/.snapshot")).unwrap();
    std::fs::write(store.path().join("a/.nfs0001"), "").unwrap();
    std::fs::write(store.path().join(".tmp/stage.1.tmp"), "").unwrap();
    let listed = store.list_all(&KeyPrefix::root(), 10).await.unwrap();
    assert_eq!(listed.iter().map(|meta| meta.key.as_str()).collect::<Vec<_>>(), ["a/object"]);
    assert_eq!(store.list_children(&KeyPrefix::root()).await.unwrap(), [KeyPrefix::new("a/").unwrap()]);
}

#[tokio::test]
async fn follows_no_symbolic_link() {
    let (scratch, store) = store().await;
    let outside = scratch.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), "secret").unwrap();
    symlink(&outside, store.path().join("dir")).unwrap();
    symlink(outside.join("file"), store.path().join("file")).unwrap();
    for name in ["dir/file", "file"] {
        let key = key(name);
        assert_eq!(store.get(&key, None).await.unwrap_err().kind(), ErrorKind::Invalid);
        assert_eq!(store.head(&key).await.unwrap_err().kind(), ErrorKind::Invalid);
        for mode in [PutMode::CreateNew, PutMode::Overwrite] {
            assert_eq!(store.put_bytes(&key, "x", mode).await.unwrap_err().kind(), ErrorKind::Invalid);
        }
        assert_eq!(store.delete(&[key]).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"secret");
    assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn no_object_inside_an_object() {
    let (_scratch, store) = store().await;
    store.create_bytes(&key("a/b"), "x").await.unwrap();
    assert_eq!(store.create_bytes(&key("a/b/c"), "x").await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(store.head(&key("a/b/c")).await.unwrap_err().kind(), ErrorKind::NotFound);
    for mode in [PutMode::CreateNew, PutMode::Overwrite] {
        assert_eq!(store.put_bytes(&key("a"), "x", mode).await.unwrap_err().kind(), ErrorKind::Invalid);
    }
    assert_eq!(store.get_bytes(&key("a/b"), 1).await.unwrap(), "x");
}

#[tokio::test]
async fn tags_differ_while_the_clock_stands_still() {
    let scratch = tempfile::tempdir().unwrap();
    let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap());
    let store = LocalStore::open_with_clock(scratch.path(), Arc::new(clock.clone())).await.unwrap();
    let mut tags = std::collections::HashSet::new();
    for number in 0..50 {
        let meta = store.put_bytes(&key("lease"), "same size", PutMode::Overwrite).await.unwrap();
        assert!(tags.insert(meta.tag), "tag came again in round {number}");
        if number == 25 {
            clock.advance(TimeDelta::hours(-1));
        }
    }
}

#[tokio::test]
async fn stale_staged_files_go_after_a_day() {
    let scratch = tempfile::tempdir().unwrap();
    let written: chrono::DateTime<chrono::Utc> = std::fs::metadata(scratch.path()).unwrap().modified().unwrap().into();
    let clock = ManualClock::new(written);
    let open = || LocalStore::open_with_clock(scratch.path(), Arc::new(clock.clone()));
    let store = open().await.unwrap();
    store.create_bytes(&key("object"), "x").await.unwrap();
    std::fs::write(store.path().join(".tmp/stage.1.0.tmp"), "half").unwrap();
    clock.advance(TimeDelta::hours(23));
    assert_eq!(staged(&open().await.unwrap()).len(), 1);
    clock.advance(TimeDelta::hours(2));
    assert!(staged(&open().await.unwrap()).is_empty());
    assert_eq!(store.get_bytes(&key("object"), 1).await.unwrap(), "x");
}

#[tokio::test]
async fn reopening_settles_what_was_published_without_its_sync() {
    let (_scratch, store) = store().await;
    store.create_bytes(&key("object"), "x").await.unwrap();
    // As a process leaves it that was killed between its link and its sync.
    std::fs::hard_link(store.path().join("object"), store.path().join(".tmp/stage.1.0.tmp")).unwrap();
    let store = LocalStore::open(store.path()).await.unwrap();
    assert!(staged(&store).is_empty());
    assert_eq!(store.get_bytes(&key("object"), 1).await.unwrap(), "x");
}

#[tokio::test]
async fn full_device_is_told_apart() {
    let (_scratch, store) = store().await;
    // Every write to it fails with ENOSPC; the error passes through the same mapping as a full repository.
    let error = std::fs::write("/dev/full", "x").unwrap_err();
    let error = failed(Operation::Put, "k", fs::Error::new(fs::Action::Write, store.path(), error));
    assert_eq!(error.kind(), ErrorKind::Full);
}

#[tokio::test]
async fn object_that_is_cut_off_while_it_is_read_is_an_error() {
    let (_scratch, store) = store().await;
    store.create_bytes(&key("object"), vec![7; 3_000_000]).await.unwrap();
    let reader = store.get(&key("object"), None).await.unwrap();
    std::fs::OpenOptions::new().write(true).open(store.path().join("object")).unwrap().set_len(2_000_000).unwrap();
    assert_eq!(reader.bytes(u64::MAX).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

/// A process that is stopped while it holds a lock must not stop those that work elsewhere, nor hang those that work there.
#[tokio::test]
async fn a_lock_that_is_never_given_back_hangs_nobody() {
    let (_scratch, store) = store().await;
    let (there, elsewhere) = (key("a/object"), key("b/object"));
    for key in [&there, &elsewhere] {
        store.put(key, Payload::from("1".to_owned()), PutMode::CreateNew).await.unwrap();
    }
    let stopped = std::fs::File::create(store.path().join(".tmp").join(write::lock_name(&there))).unwrap();
    rustix::fs::flock(&stopped, rustix::fs::FlockOperation::LockExclusive).unwrap();
    store.put(&elsewhere, Payload::from("2".to_owned()), PutMode::Overwrite).await.unwrap();
    store.delete(std::slice::from_ref(&elsewhere)).await.unwrap();
    let error = store.put(&there, Payload::from("2".to_owned()), PutMode::Overwrite).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient);
    assert!(error.to_string().contains("lock"), "{error}");
    assert!(staged(&store).is_empty(), "staged files were left");
    drop(stopped);
    store.put(&there, Payload::from("2".to_owned()), PutMode::Overwrite).await.unwrap();
}
