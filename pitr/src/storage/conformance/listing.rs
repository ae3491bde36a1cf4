//! Listings are complete and in order.

use super::{Profile, Scene};
use crate::storage::{KeyPrefix, ObjectStoreExt};

pub(super) async fn run(scene: &Scene, profile: &Profile) {
    nothing_is_an_empty_list(scene).await;
    order_is_that_of_bytes(scene).await;
    more_than_a_page(scene, profile).await;
    prefix_ends_at_its_slash(scene).await;
    children_are_direct(scene).await;
    entries_say_what_head_says(scene).await;
}

async fn nothing_is_an_empty_list(scene: &Scene) {
    let none = scene.below("none");
    assert!(scene.names(&none).await.is_empty());
    assert!(scene.store.list_children(&none).await.expect("children").is_empty());
}

/// `-`, `+` and `.` sort before the slash, `0` after it: a walk through directories has to take care.
async fn order_is_that_of_bytes(scene: &Scene) {
    let names = ["a/x", "a-b/x", "a.b", "a+b", "a0", "A", "Z/y", "a/x-1/y", "a/x0", "b@c", "_", "a/w/z"];
    let names = names.map(|name| format!("order/{name}"));
    scene.create_many(&names).await;
    let mut expected: Vec<String> = names.iter().map(|name| name.trim_start_matches("order/").to_owned()).collect();
    expected.sort();
    assert_eq!(scene.names(&scene.below("order")).await, expected);
}

async fn more_than_a_page(scene: &Scene, profile: &Profile) {
    let names: Vec<String> = (0..profile.listed_objects).map(|n| format!("pages/{:02}/{n:05}", n % 7)).collect();
    scene.create_many(&names).await;
    let mut expected: Vec<String> = names.iter().map(|name| name.trim_start_matches("pages/").to_owned()).collect();
    expected.sort();
    assert!(scene.names(&scene.below("pages")).await == expected, "a long listing is not complete or not in order");
    assert_eq!(scene.store.list_children(&scene.below("pages")).await.expect("children").len(), 7);
}

async fn prefix_ends_at_its_slash(scene: &Scene) {
    scene.create_many(&["slash/a/1".to_owned(), "slash/ab/2".to_owned(), "slash/a-/3".to_owned()]).await;
    assert_eq!(scene.names(&scene.below("slash/a")).await, ["1"]);
}

async fn children_are_direct(scene: &Scene) {
    let names = ["kids/one/deep/er/x", "kids/one/y", "kids/two-/z", "kids/two/z", "kids/two0/z", "kids/file"];
    scene.create_many(&names.map(str::to_owned)).await;
    let kids = scene.below("kids");
    let children =
        |names: &[&str]| -> Vec<KeyPrefix> { names.iter().map(|name| kids.child(name).expect("prefix")).collect() };
    assert_eq!(scene.store.list_children(&kids).await.expect("children"), children(&["one", "two-", "two", "two0"]));
    scene.store.delete(&[scene.key("kids/two/z")]).await.expect("delete");
    // The prefix that has lost its last object may or may not be there still.
    let mut left = scene.store.list_children(&kids).await.expect("children");
    left.retain(|child| *child != kids.child("two").expect("prefix"));
    assert_eq!(left, children(&["one", "two-", "two0"]));
    let root = scene.store.list_children(&KeyPrefix::root()).await.expect("children of the root");
    assert!(root.iter().any(|child| scene.prefix.as_str().starts_with(child.as_str())));
}

async fn entries_say_what_head_says(scene: &Scene) {
    scene.create("meta/object", "12345").await;
    let listed = scene.store.list_all(&scene.below("meta"), 1).await.expect("list");
    let head = scene.store.head(&scene.key("meta/object")).await.expect("head");
    assert_eq!((listed[0].size_bytes, &listed[0].tag), (5, &head.tag));
    assert_eq!(listed[0].key, head.key);
}
