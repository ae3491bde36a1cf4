//! What is put is what comes back.

use std::io::Write;

use futures::TryStreamExt;

use super::{Profile, Scene, assert_kind, pattern};
use crate::storage::{ByteRange, ErrorKind, ObjectKey, ObjectStoreExt, Payload, PutMode};

pub(super) async fn run(scene: &Scene, profile: &Profile) {
    empty_object(scene).await;
    chunks_are_joined(scene).await;
    large_payloads(scene, profile).await;
    file_that_is_not_as_announced(scene).await;
    ranges(scene, profile).await;
    every_character_of_a_key(scene).await;
    missing_object(scene).await;
}

async fn empty_object(scene: &Scene) {
    let meta = scene.create("empty", "").await;
    assert_eq!((meta.size_bytes, &meta.key), (0, &scene.key("empty")));
    let reader = scene.store.get(&scene.key("empty"), None).await.expect("get of an empty object");
    assert_eq!(reader.size_bytes, 0);
    drop(reader);
    assert_eq!(scene.content("empty").await, "");
    let range = ByteRange::new(0, 1);
    assert_kind(scene.store.get(&scene.key("empty"), range).await, ErrorKind::Invalid);
}

async fn chunks_are_joined(scene: &Scene) {
    let chunks = Payload::Chunks(vec!["one ".into(), "".into(), "two ".into(), "three".into()]);
    let meta = scene.store.put(&scene.key("chunks"), chunks, PutMode::CreateNew).await.expect("put of chunks");
    assert_eq!(meta.size_bytes, 13);
    assert_eq!(scene.content("chunks").await, "one two three");
    let no_chunks = Payload::Chunks(Vec::new());
    scene.store.put(&scene.key("no-chunks"), no_chunks, PutMode::CreateNew).await.expect("put of no chunks");
    assert_eq!(scene.content("no-chunks").await, "");
}

async fn large_payloads(scene: &Scene, profile: &Profile) {
    let content = pattern(profile.large_bytes, 1);
    // Cut so that no boundary of ours falls on a boundary of the store's.
    let chunks = (0..content.len()).step_by(333_333).map(|at| content.slice(at..content.len().min(at + 333_333)));
    let meta = scene
        .store
        .put(&scene.key("large-chunks"), Payload::Chunks(chunks.collect()), PutMode::CreateNew)
        .await
        .expect("put of a large object");
    assert_eq!(meta.size_bytes, content.len() as u64);
    assert!(scene.content("large-chunks").await == content, "large object from chunks differs");
    let other = pattern(profile.large_bytes, 3);
    let again = scene.store.put(&scene.key("large-chunks"), other.into(), PutMode::CreateNew).await;
    assert_kind(again, ErrorKind::AlreadyExists);
    assert!(scene.content("large-chunks").await == content, "a refused put changed a large object");

    let mut file = tempfile::NamedTempFile::new().expect("temporary file");
    file.write_all(&content).expect("temporary file");
    let payload = Payload::File { path: file.path().to_owned(), size_bytes: content.len() as u64 };
    let meta = scene.store.put(&scene.key("large-file"), payload, PutMode::CreateNew).await.expect("put of a file");
    let head = scene.store.head(&scene.key("large-file")).await.expect("head");
    assert_eq!((meta.size_bytes, meta.tag), (head.size_bytes, head.tag));
    assert!(scene.content("large-file").await == content, "large object from a file differs");
}

async fn file_that_is_not_as_announced(scene: &Scene) {
    let file = tempfile::NamedTempFile::new().expect("temporary file");
    file.as_file().set_len(1000).expect("temporary file");
    let key = scene.key("announced");
    let longer = Payload::File { path: file.path().to_owned(), size_bytes: 1001 };
    assert_kind(scene.store.put(&key, longer, PutMode::CreateNew).await, ErrorKind::Invalid);
    let missing = Payload::File { path: file.path().join("missing"), size_bytes: 1 };
    assert_kind(scene.store.put(&key, missing, PutMode::CreateNew).await, ErrorKind::Invalid);
    assert!(!scene.store.exists(&key).await.expect("exists"), "a failed put left an object");
}

async fn ranges(scene: &Scene, profile: &Profile) {
    let content = pattern(profile.large_bytes, 2);
    let key = scene.key("ranges");
    scene.store.put(&key, content.clone().into(), PutMode::CreateNew).await.expect("put");
    let size = content.len();
    let whole = scene.store.head(&key).await.expect("head");
    for (start, end) in [(0, 1), (0, size), (size - 1, size), (7, 9), (1_000_000, 2_500_001.min(size))] {
        let range = ByteRange::new(start as u64, end as u64).expect("a range");
        let reader = scene.store.get(&key, Some(range)).await.expect("ranged get");
        assert_eq!(reader.size_bytes, range.size_bytes());
        assert_eq!((reader.meta.size_bytes, &reader.meta.tag), (size as u64, &whole.tag), "meta is the whole object's");
        let chunks: Vec<_> = reader.stream.try_collect().await.expect("stream");
        assert!(chunks.concat() == content[start..end], "bytes {start}..{end} differ");
    }
    for (start, end) in [(0, size + 1), (size, size + 1), (size + 10, size + 20)] {
        let range = ByteRange::new(start as u64, end as u64);
        assert_kind(scene.store.get(&key, range).await, ErrorKind::Invalid);
    }
}

async fn every_character_of_a_key(scene: &Scene) {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-@+";
    for name in [letters, &format!("{letters}/{letters}"), "a..b", "-", "+", "@", "_", &"x".repeat(255)] {
        let name = format!("keys/{}/{name}", name.len());
        let meta = scene.create(&name, name.clone()).await;
        assert_eq!(meta.key, scene.key(&name));
        assert_eq!(scene.content(&name).await, name);
    }
    assert_eq!(scene.names(&scene.below("keys")).await.len(), 8, "keys were taken for one another");
    // The longest key that there is, with the prefix of the suite.
    let room = 900 - scene.key("long/x").as_str().len();
    let long: Vec<String> = (0..room / 101).map(|_| "y".repeat(100)).collect();
    let name = format!("long/{}", long.join("/"));
    scene.create(&name, "long").await;
    assert_eq!(scene.content(&name).await, "long");
}

async fn missing_object(scene: &Scene) {
    scene.create("present/inner", "x").await;
    let prefix_of_another: ObjectKey = scene.key("present");
    for key in [scene.key("absent"), scene.key("absent/deeper"), prefix_of_another] {
        assert_kind(scene.store.get(&key, None).await, ErrorKind::NotFound);
        assert_kind(scene.store.get(&key, ByteRange::new(0, 1)).await, ErrorKind::NotFound);
        assert_kind(scene.store.head(&key).await, ErrorKind::NotFound);
        assert!(!scene.store.exists(&key).await.expect("exists"));
    }
}
