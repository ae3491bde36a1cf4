//! Create, replace, overwrite: what is promised under races too.

use std::sync::Arc;

use futures::future::join_all;

use super::{Profile, Scene, assert_kind, pattern};
use crate::storage::{ErrorKind, ObjectKey, ObjectMeta, ObjectStoreExt, Payload, PutMode, VersionTag};

const RIVALS: u64 = 16;

pub(super) async fn run(scene: &Scene, profile: &Profile) {
    create_never_overwrites(scene, profile).await;
    overwrite_does(scene).await;
    replace_wants_its_version(scene).await;
    tags_never_come_again(scene).await;
    if profile.exclusive_races {
        one_of_many_creators_wins(scene, 1000).await;
        if profile.exclusive_large_races {
            one_of_many_creators_wins(scene, profile.large_bytes).await;
        }
        one_of_many_replacers_wins(scene).await;
        every_round_of_replacers_has_one_winner(scene).await;
    }
}

async fn create_never_overwrites(scene: &Scene, profile: &Profile) {
    let key = scene.key("create");
    let created = scene.create("create", "first").await;
    let same = profile.no_lost_answers.then_some("first");
    for content in ["second", ""].into_iter().chain(same) {
        assert_kind(scene.store.create_bytes(&key, content).await, ErrorKind::AlreadyExists);
    }
    assert_eq!(scene.content("create").await, "first");
    assert_eq!(scene.store.head(&key).await.expect("head").tag, created.tag, "a refused put changed the object");
}

async fn overwrite_does(scene: &Scene) {
    let key = scene.key("overwrite");
    for content in ["first", "second, longer", "3"] {
        let meta = scene.store.put_bytes(&key, content, PutMode::Overwrite).await.expect("overwrite");
        assert_eq!(meta.tag, scene.store.head(&key).await.expect("head").tag);
        assert_eq!(scene.content("overwrite").await, content);
    }
}

async fn replace_wants_its_version(scene: &Scene) {
    let key = scene.key("replace");
    let absent = PutMode::Replace(VersionTag::new("\"d41d8cd98f00b204e9800998ecf8427e\""));
    assert_kind(scene.store.put_bytes(&key, "x", absent).await, ErrorKind::Changed);
    assert!(!scene.store.exists(&key).await.expect("exists"), "a refused replacement made an object");

    let first = scene.create("replace", "first").await;
    let second = scene.store.put_bytes(&key, "second", PutMode::Replace(first.tag.clone())).await.expect("replace");
    assert_ne!(first.tag, second.tag);
    assert_kind(scene.store.put_bytes(&key, "third", PutMode::Replace(first.tag.clone())).await, ErrorKind::Changed);
    assert_eq!(scene.content("replace").await, "second");

    scene.store.delete(std::slice::from_ref(&key)).await.expect("delete");
    assert_kind(scene.store.put_bytes(&key, "fourth", PutMode::Replace(second.tag)).await, ErrorKind::Changed);
}

/// Content that changes tells its versions apart. (The same content again may have the same tag: an ETag is a hash.)
async fn tags_never_come_again(scene: &Scene) {
    let key = scene.key("tags");
    let mut tags: Vec<VersionTag> = Vec::new();
    for number in 0..30 {
        let meta = scene.store.put_bytes(&key, format!("{number:02}"), PutMode::Overwrite).await.expect("overwrite");
        assert!(!tags.contains(&meta.tag), "tag {:?} came twice", meta.tag);
        tags.push(meta.tag);
    }
}

/// Runs one put per rival at the same time and returns the numbers and metas of those who succeeded; the others must have
/// failed with `loss`.
async fn race(scene: &Scene, key: &ObjectKey, size: usize, mode: &PutMode, loss: ErrorKind) -> Vec<(u64, ObjectMeta)> {
    let start = Arc::new(tokio::sync::Barrier::new(usize::try_from(RIVALS).unwrap_or(1)));
    let rivals = (0..RIVALS).map(|rival| {
        let (store, key, mode) = (Arc::clone(&scene.store), key.clone(), mode.clone());
        let (start, body) = (Arc::clone(&start), Payload::from(pattern(size, rival * 2)));
        tokio::spawn(async move {
            start.wait().await;
            (rival, store.put(&key, body, mode).await)
        })
    });
    let mut winners = Vec::new();
    for outcome in join_all(rivals).await {
        match outcome.expect("rival") {
            (rival, Ok(meta)) => winners.push((rival, meta)),
            (_, Err(error)) => assert_eq!(error.kind(), loss, "{error}"),
        }
    }
    winners
}

async fn assert_one_winner(scene: &Scene, name: &str, size: usize, winners: &[(u64, ObjectMeta)]) {
    assert_eq!(winners.len(), 1, "{} of {RIVALS} were told that they won {name}", winners.len());
    assert!(scene.content(name).await == pattern(size, winners[0].0 * 2), "the content is not the winner's");
    assert_eq!(scene.store.head(&scene.key(name)).await.expect("head").tag, winners[0].1.tag);
}

async fn one_of_many_creators_wins(scene: &Scene, size: usize) {
    let name = format!("race-create-{size}");
    let winners = race(scene, &scene.key(&name), size, &PutMode::CreateNew, ErrorKind::AlreadyExists).await;
    assert_one_winner(scene, &name, size, &winners).await;
}

async fn one_of_many_replacers_wins(scene: &Scene) {
    let start = scene.create("race-replace", "start").await;
    let mode = PutMode::Replace(start.tag);
    let winners = race(scene, &scene.key("race-replace"), 1000, &mode, ErrorKind::Changed).await;
    assert_one_winner(scene, "race-replace", 1000, &winners).await;
}

async fn every_round_of_replacers_has_one_winner(scene: &Scene) {
    let key = scene.key("rounds");
    let mut tag = scene.create("rounds", "start").await.tag;
    for round in 0..5 {
        let size = 100 + round;
        let winners = race(scene, &key, size, &PutMode::Replace(tag), ErrorKind::Changed).await;
        assert_one_winner(scene, "rounds", size, &winners).await;
        tag = winners[0].1.tag.clone();
    }
}
