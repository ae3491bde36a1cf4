//! The port to object stores, and the stores behind it.
//!
//! [`ObjectStore`] is the contract; `conformance` holds every store and every decorator to it. [`open`] makes a store from
//! [`StorageOptions`], in layers that each do one thing:
//!
//! ```text
//! Metered ▸ Retrying ▸ Limited ▸ Prefixed ▸ S3Store
//! Metered ▸ Retrying ▸ Limited ▸ LocalStore
//! ```
//!
//! [`ObjectStoreExt`] has what users do often on top of the port.

#[cfg(any(test, feature = "testing"))]
pub mod conformance;
pub mod error;
pub mod ext;
#[cfg(any(test, feature = "testing"))]
pub mod fault;
pub mod key;
pub mod limited;
pub mod local;
pub mod memory;
pub mod metered;
pub mod object;
mod open;
pub mod options;
pub mod prefixed;
mod probe;
pub mod retry;
#[cfg(feature = "s3")]
pub mod s3;
mod settle;
pub mod url;

use async_trait::async_trait;
use futures::stream::BoxStream;

pub use error::{Error, ErrorKind, Operation};
pub use ext::ObjectStoreExt;
pub use key::{KeyPrefix, ObjectKey};
pub use limited::Limited;
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use metered::{Meter, Metered, OperationFigures};
pub use object::{ByteRange, ObjectMeta, ObjectReader, Payload, PutMode, VersionTag};
pub use open::{open, open_observed};
pub use options::{LimitOptions, RetryOptions, S3Options, StorageOptions};
pub use prefixed::Prefixed;
pub use probe::probe_create_only;
pub use retry::{RetryPolicy, Retrying};
#[cfg(feature = "s3")]
pub use s3::S3Store;
pub use url::{InvalidUrl, StorageUrl};

pub type Result<T> = std::result::Result<T, Error>;

/// A store of immutable objects.
///
/// What every implementation keeps, and `conformance` proves:
/// - `Ok` from [`put`](ObjectStore::put) means atomic **and durable**: the object is whole and survives a power cut, or it
///   is not there.
/// - [`PutMode::CreateNew`] on an existing key is [`ErrorKind::AlreadyExists`], the object is as before, and it is durable, so
///   whoever finds its own content in it may rely on it. Of several who create one key at once, one succeeds.
/// - [`PutMode::Replace`] succeeds only when the object still has that tag, else [`ErrorKind::Changed`], also when there is no
///   object any more.
/// - [`get`](ObjectStore::get) delivers exactly the bytes asked for or fails; a range beyond the end is
///   [`ErrorKind::Invalid`].
/// - [`list`](ObjectStore::list) is complete and sorted by key, or fails: it never leaves out what it cannot read. Names that
///   start with a dot belong to others and are not objects.
/// - [`delete`](ObjectStore::delete) of a missing key succeeds.
/// - [`ErrorKind::NotFound`] from `get` or `head` is the store's own answer that the object does not exist, never a guess. A
///   missing bucket or root directory is [`ErrorKind::NoContainer`].
/// - A dropped future leaves no object behind that a reader could see half-written.
///
/// What a failed put leaves is open: it may have had its effect. `Retrying` settles that where it can.
#[async_trait]
pub trait ObjectStore: std::fmt::Debug + Send + Sync + 'static {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta>;
    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader>;
    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta>;
    /// Every object whose key starts with `prefix`, in key order, at any depth.
    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>>;
    /// The direct sub-prefixes of `prefix` ("folders"), sorted: all that have an object below them. One whose objects were
    /// all deleted may be among them, because some stores keep empty folders for a while or for good.
    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>>;
    async fn delete(&self, keys: &[ObjectKey]) -> Result<()>;
}
