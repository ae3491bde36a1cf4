//! The contract of [`ObjectStore`], as a suite that every store and every decorator has to pass.
//!
//! Each check proves one sentence of the trait's documentation and panics with what it saw. All work below one random
//! prefix, so a shared bucket can be used, and clear it at the end.

mod conditions;
mod content;
mod deletion;
mod listing;

use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::{ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectStore, ObjectStoreExt, Payload, PutMode, Result};

/// What is asked of a store beyond the plain contract, or forgiven.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Size of the large payloads; more than a multipart threshold.
    pub large_bytes: usize,
    /// Number of objects in the long listing; more than one page.
    pub listed_objects: usize,
    /// Off for stores that cannot create exclusively under a race, and say so.
    pub exclusive_races: bool,
    /// Off for stores that do so only for objects that are put by one request.
    pub exclusive_large_races: bool,
    /// Off where answers of puts get lost on the way: who then finds its own content takes it for its own put.
    pub no_lost_answers: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            large_bytes: 3_000_000,
            listed_objects: 1_100,
            exclusive_races: true,
            exclusive_large_races: true,
            no_lost_answers: true,
        }
    }
}

/// Proves the contract with the default profile.
///
/// # Panics
/// When the store breaks it.
pub async fn run(store: Arc<dyn ObjectStore>) {
    run_with(store, &Profile::default()).await;
}

/// Proves the contract.
///
/// # Panics
/// When the store breaks it.
pub async fn run_with(store: Arc<dyn ObjectStore>, profile: &Profile) {
    let root = KeyPrefix::new(format!("conformance-{:016x}/", rand::random::<u64>())).expect("a valid prefix");
    let scene = |name: &str| Scene { store: Arc::clone(&store), prefix: root.child(name).expect("a valid prefix") };
    content::run(&scene("content"), profile).await;
    conditions::run(&scene("conditions"), profile).await;
    listing::run(&scene("listing"), profile).await;
    deletion::run(&scene("deletion")).await;
    let left = store.list_all(&root, usize::MAX).await.expect("final listing");
    let left: Vec<ObjectKey> = left.into_iter().map(|meta| meta.key).collect();
    store.delete(&left).await.expect("final deletion");
}

/// Proves that a store without its bucket or root directory says so, whatever is asked of it, and never that an object is
/// missing.
///
/// # Panics
/// When the store says anything else.
pub async fn missing_container(store: Arc<dyn ObjectStore>) {
    refuses_everything(store, ErrorKind::NoContainer).await;
}

/// Proves that every operation of the store fails with this kind.
///
/// # Panics
/// When one does not.
pub async fn refuses_everything(store: Arc<dyn ObjectStore>, kind: ErrorKind) {
    let key = ObjectKey::new("conformance/none").expect("a valid key");
    refuses_all_but_puts(store.as_ref(), kind).await;
    for mode in [PutMode::CreateNew, PutMode::Overwrite] {
        assert_kind(store.put(&key, Payload::from(Bytes::from_static(b"x")), mode).await, kind);
    }
}

/// As [`refuses_everything`], for servers that make a bucket when something is put into it.
///
/// # Panics
/// When an operation does not fail with this kind.
pub async fn refuses_all_but_puts(store: &dyn ObjectStore, kind: ErrorKind) {
    let key = ObjectKey::new("conformance/none").expect("a valid key");
    let prefix = KeyPrefix::new("conformance/").expect("a valid prefix");
    assert_kind(store.get(&key, None).await, kind);
    assert_kind(store.head(&key).await, kind);
    assert_kind(store.list_all(&prefix, 10).await, kind);
    assert_kind(store.list_children(&prefix).await, kind);
    assert_kind(store.delete(std::slice::from_ref(&key)).await, kind);
}

/// A store with a prefix of its own.
struct Scene {
    store: Arc<dyn ObjectStore>,
    prefix: KeyPrefix,
}

impl Scene {
    fn key(&self, name: &str) -> ObjectKey {
        self.prefix.key(name).expect("a valid key")
    }

    fn below(&self, name: &str) -> KeyPrefix {
        self.prefix.child(name).expect("a valid prefix")
    }

    async fn create(&self, name: &str, content: impl Into<Bytes> + Send) -> ObjectMeta {
        self.store.create_bytes(&self.key(name), content).await.expect("create")
    }

    async fn content(&self, name: &str) -> Bytes {
        self.store.get_bytes(&self.key(name), u64::MAX).await.expect("get")
    }

    async fn create_many(&self, names: &[String]) {
        let puts = stream::iter(names.iter().map(|name| self.create(name, name.clone())));
        puts.buffer_unordered(16).for_each(|_| async {}).await;
    }

    /// The keys below a prefix, without it.
    async fn names(&self, prefix: &KeyPrefix) -> Vec<String> {
        let metas: Vec<ObjectMeta> = self.store.list(prefix).try_collect().await.expect("list");
        metas
            .iter()
            .map(|meta| meta.key.as_str().strip_prefix(prefix.as_str()).expect("a key below the prefix").to_owned())
            .collect()
    }
}

fn assert_kind<T: std::fmt::Debug>(result: Result<T>, kind: ErrorKind) {
    match result {
        Err(error) if error.kind() == kind => {}
        Err(error) => panic!("expected {kind:?}, got {:?}: {error}", error.kind()),
        Ok(value) => panic!("expected {kind:?}, got {value:?}"),
    }
}

/// Content without repetition, so that a byte from another place is noticed.
fn pattern(size: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}
