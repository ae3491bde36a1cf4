//! What a store is opened with. Plain values with defaults; nothing here is read from the environment.

use std::path::PathBuf;
use std::time::Duration;

use super::StorageUrl;
use crate::secret::Secret;

/// Everything that [`open`](super::open) needs.
#[derive(Clone, Debug)]
pub struct StorageOptions {
    pub url: StorageUrl,
    /// Looked at only when the URL is `s3://`.
    pub s3: S3Options,
    pub retry: RetryOptions,
    pub concurrency: LimitOptions,
}

impl StorageOptions {
    /// Defaults for everything but the place.
    #[must_use]
    pub fn new(url: StorageUrl) -> Self {
        Self { url, s3: S3Options::default(), retry: RetryOptions::default(), concurrency: LimitOptions::default() }
    }
}

/// How long a passing trouble is tried again: the wait before the n-th repetition is a random part of
/// `base * 2^(n-1)`, at most of `cap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryOptions {
    pub base: Duration,
    pub cap: Duration,
    /// From the first attempt; an operation that would wait beyond it is given up.
    pub deadline: Duration,
}

impl Default for RetryOptions {
    fn default() -> Self {
        Self { base: Duration::from_millis(100), cap: Duration::from_secs(10), deadline: Duration::from_secs(120) }
    }
}

impl RetryOptions {
    /// One attempt.
    #[must_use]
    pub const fn none() -> Self {
        Self { base: Duration::ZERO, cap: Duration::ZERO, deadline: Duration::ZERO }
    }
}

/// How much is under way at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Gets, each until its reader is read to the end or dropped; and apart from them as many puts, heads and deletes.
    pub requests: usize,
    /// Bytes of the payloads in memory that are being put.
    pub bytes: u64,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self { requests: 32, bytes: 256 * 1024 * 1024 }
    }
}

/// How an S3 store is spoken to. The defaults suit AWS; the other settings are for stores that differ from it.
#[derive(Clone, Debug)]
pub struct S3Options {
    /// Base URL of a store other than AWS: `https://s3.example.com:9000`.
    pub endpoint: Option<String>,
    /// Without it the AWS chain decides (`AWS_REGION`, profile); where that knows none, `us-east-1`.
    pub region: Option<String>,
    /// `endpoint/bucket/key` instead of `bucket.endpoint/key`.
    pub path_style: bool,
    /// Explicit credentials instead of the AWS chain (environment, profile, web identity, container, instance).
    pub credentials: Option<S3Credentials>,
    /// Objects larger than this are put in parts.
    pub multipart_threshold_bytes: u64,
    /// Size of every part but the last. Grows by itself where an object would need more than `max_parts`.
    pub part_size_bytes: u64,
    /// 10,000 on AWS, 1,000 on some other stores.
    pub max_parts: u32,
    /// Parts of one object that are under way at once.
    pub part_concurrency: usize,
    pub checksums: Checksums,
    pub create_only: CreateOnly,
    pub encryption: ServerSideEncryption,
    /// `STANDARD_IA`, `INTELLIGENT_TIERING`, ...; none leaves it to the bucket. A class that must be thawed before it can be
    /// read (`GLACIER`, `DEEP_ARCHIVE`) makes restores impossible and is refused.
    pub storage_class: Option<String>,
    /// Tags of every object.
    pub tags: Vec<(String, String)>,
    /// PEM file with certificates of authorities that are trusted besides those of the system.
    pub ca_file: Option<PathBuf>,
    /// `http://user:password@proxy:3128`. Without it the proxy variables of the environment count.
    pub proxy: Option<Secret<String>>,
    pub connect_timeout: Duration,
    /// A request or an answer that moves no byte for so long has failed.
    pub stall_timeout: Duration,
}

impl Default for S3Options {
    fn default() -> Self {
        Self {
            endpoint: None,
            region: None,
            path_style: false,
            credentials: None,
            multipart_threshold_bytes: 32 * 1024 * 1024,
            part_size_bytes: 16 * 1024 * 1024,
            max_parts: 10_000,
            part_concurrency: 4,
            checksums: Checksums::Auto,
            create_only: CreateOnly::Native,
            encryption: ServerSideEncryption::BucketDefault,
            storage_class: None,
            tags: Vec::new(),
            ca_file: None,
            proxy: None,
            connect_timeout: Duration::from_secs(5),
            stall_timeout: Duration::from_secs(30),
        }
    }
}

/// An access key.
#[derive(Clone, Debug)]
pub struct S3Credentials {
    pub access_key_id: String,
    pub secret_access_key: Secret<String>,
    pub session_token: Option<Secret<String>>,
}

/// Checksums (CRC-32C) of what is put, which the store compares with what it received. They go into a header, never behind a
/// chunked body, which some stores cannot take.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksums {
    /// Sent; a store that does not know them ignores them.
    #[default]
    Auto,
    /// Sent, and a put is an error unless the store confirms them; compared on whole reads too.
    Required,
    /// Not sent, for stores that refuse requests with headers they do not know.
    Off,
}

/// How "create, never overwrite" is done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CreateOnly {
    /// By the store (`If-None-Match: *`), safe under races. **A store that ignores the header overwrites**: see
    /// [`probe_create_only`](super::probe_create_only). Some stores are safe under races for single puts only and not for
    /// uploads in parts, so what several may create at once should stay below the threshold.
    #[default]
    Native,
    /// For stores that do not have it: look whether the object is there, put it, read it back and compare. Two who create
    /// one object in the same moment may both be told that they succeeded, and one of them is wrong.
    Emulated,
}

/// Encryption by the store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// Whatever the bucket is set to.
    #[default]
    BucketDefault,
    /// SSE-S3.
    Aes256,
    /// SSE-KMS, with the account's default key unless one is named.
    Kms { key_id: Option<String> },
}
