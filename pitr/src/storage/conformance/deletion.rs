//! Deleting is final, exact and can be repeated.

use super::{Scene, assert_kind};
use crate::storage::{ErrorKind, ObjectKey};

pub(super) async fn run(scene: &Scene) {
    deletes_what_is_named_and_nothing_else(scene).await;
    missing_objects_are_no_error(scene).await;
    many_at_once(scene).await;
    deleted_name_can_be_created_again(scene).await;
}

async fn deletes_what_is_named_and_nothing_else(scene: &Scene) {
    scene.create_many(&["exact/a/1", "exact/a/2", "exact/a-1", "exact/b"].map(str::to_owned)).await;
    scene.store.delete(&[scene.key("exact/a/1")]).await.expect("delete");
    assert_kind(scene.store.head(&scene.key("exact/a/1")).await, ErrorKind::NotFound);
    assert_eq!(scene.names(&scene.below("exact")).await, ["a-1", "a/2", "b"]);
    // The name of a prefix is not the name of what is below it.
    scene.store.delete(&[scene.key("exact/a")]).await.expect("delete");
    assert_eq!(scene.names(&scene.below("exact")).await, ["a-1", "a/2", "b"]);
}

async fn missing_objects_are_no_error(scene: &Scene) {
    scene.store.delete(&[]).await.expect("delete of nothing");
    let keys = [scene.key("gone"), scene.key("gone/deeper"), scene.key("here")];
    scene.create("here", "x").await;
    for _ in 0..2 {
        scene.store.delete(&keys).await.expect("delete");
    }
    assert_kind(scene.store.head(&scene.key("here")).await, ErrorKind::NotFound);
}

/// More than the 1,000 that one request to S3 can name, most of which do not exist.
async fn many_at_once(scene: &Scene) {
    let names: Vec<String> = (0..60).map(|n| format!("many/{}/{n:04}", n % 3)).collect();
    scene.create_many(&names).await;
    scene.create("many/kept", "x").await;
    let absent = (0..1_050).map(|n| scene.key(&format!("many/absent/{n}")));
    let keys: Vec<ObjectKey> = absent.chain(names.iter().map(|name| scene.key(name))).collect();
    scene.store.delete(&keys).await.expect("delete of many");
    assert_eq!(scene.names(&scene.below("many")).await, ["kept"]);
}

async fn deleted_name_can_be_created_again(scene: &Scene) {
    scene.create("again", "first").await;
    scene.store.delete(&[scene.key("again")]).await.expect("delete");
    scene.create("again", "second").await;
    assert_eq!(scene.content("again").await, "second");
}
