//! `[repository]`: where backups and WAL are kept, and how that store is spoken to.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;
use url::Url;

use super::document::Section;
use super::value::{Value, one_of, within};
use super::{ByteSize, Environment, SecretError, SecretSource};
use crate::secret::Secret;
use crate::storage::options::{Checksums, CreateOnly, S3Credentials, ServerSideEncryption};
use crate::storage::{S3Options, StorageOptions, StorageUrl};

/// What has a meaning for S3 only.
const S3_KEYS: [&str; 18] = [
    "endpoint",
    "region",
    "path_style",
    "access_key_id",
    "secret_access_key",
    "session_token",
    "part_size",
    "max_parts",
    "checksums",
    "create_only",
    "sse",
    "kms_key",
    "storage_class",
    "tags",
    "ca_file",
    "proxy",
    "connect_timeout",
    "stall_timeout",
];
/// S3 takes no smaller part but the last, and no larger one.
const PART_SIZES: RangeInclusive<ByteSize> = ByteSize::mib(5)..=ByteSize::gib(5);
/// Objects of these classes must be thawed for hours before they can be read.
const COLD_CLASSES: [&str; 2] = ["GLACIER", "DEEP_ARCHIVE"];
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const MAX_TAGS: usize = 10;

/// The store, but for its secrets.
#[derive(Clone, Debug)]
pub struct RepositoryConfig {
    /// Complete but for what [`RepositoryConfig::storage_options`] adds.
    pub storage: StorageOptions,
    pub proxy: Option<ProxyAddress>,
    pub access_key: Option<AccessKey>,
}

/// An address that may hold a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyAddress {
    Plain(String),
    Secret(SecretSource),
}

/// An access key whose secret parts stand elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessKey {
    pub id: String,
    pub secret: SecretSource,
    pub session_token: Option<SecretSource>,
}

impl RepositoryConfig {
    /// Defaults for everything but the place.
    #[must_use]
    pub fn new(url: StorageUrl) -> Self {
        Self { storage: StorageOptions::new(url), proxy: None, access_key: None }
    }

    /// What to open the store with.
    ///
    /// # Errors
    /// A secret is not where it should be.
    pub fn storage_options(&self, environment: &Environment) -> Result<StorageOptions, SecretError> {
        let mut options = self.storage.clone();
        options.s3.proxy = match &self.proxy {
            Some(ProxyAddress::Plain(address)) => Some(Secret::new(address.clone())),
            Some(ProxyAddress::Secret(source)) => Some(source.resolve(environment)?),
            None => None,
        };
        if let Some(key) = &self.access_key {
            let token = key.session_token.as_ref().map(|source| source.resolve(environment)).transpose()?;
            options.s3.credentials = Some(S3Credentials {
                access_key_id: key.id.clone(),
                secret_access_key: key.secret.resolve(environment)?,
                session_token: token,
            });
        }
        Ok(options)
    }

    pub(super) fn read(section: &mut Section<'_, '_>) -> Option<Self> {
        let url = section.parsed("url", str::parse::<StorageUrl>);
        if !section.is_set("url") {
            section.problem("url", "missing, for example \"s3://backups/pitr\" or \"file:///var/lib/pitr\"");
        }
        let access_key = read_access_key(section);
        let proxy = section.get::<ProxyAddress>("proxy");
        let s3 = read_s3(section);
        let retry_deadline = section.get_with("retry_deadline", |value| within(value, &TIMEOUTS));
        let concurrency = section.get_with("concurrency", |value| within(value, &(1..=1024_u32)));
        let mut storage = StorageOptions::new(url?);
        if storage.url.local_path().is_some() {
            for key in S3_KEYS.into_iter().filter(|key| section.is_set(key)).collect::<Vec<_>>() {
                section.problem(key, "has a meaning for s3:// repositories only");
            }
        }
        storage.s3 = s3;
        if let Some(deadline) = retry_deadline {
            storage.retry.deadline = deadline;
        }
        if let Some(requests) = concurrency.and_then(|requests| usize::try_from(requests).ok()) {
            storage.concurrency.requests = requests;
        }
        Some(Self { storage, proxy, access_key })
    }
}

fn read_s3(section: &mut Section<'_, '_>) -> S3Options {
    let default = S3Options::default();
    let part_size = section.get_with("part_size", |value| within(value, &PART_SIZES)).map(ByteSize::as_u64);
    let part_size_bytes = part_size.unwrap_or(default.part_size_bytes);
    S3Options {
        endpoint: section.parsed("endpoint", |text| check_http_url(text, "they come from the AWS chain")),
        region: section.parsed("region", not_empty),
        path_style: section.get("path_style").unwrap_or(default.path_style),
        multipart_threshold_bytes: default.multipart_threshold_bytes.max(part_size_bytes),
        part_size_bytes,
        max_parts: section.get_with("max_parts", |value| within(value, &(2..=10_000))).unwrap_or(default.max_parts),
        checksums: section.parsed("checksums", |text| one_of(&CHECKSUMS, text)).unwrap_or(default.checksums),
        create_only: section.parsed("create_only", |text| one_of(&CREATE_ONLY, text)).unwrap_or(default.create_only),
        encryption: read_encryption(section),
        storage_class: section.parsed("storage_class", check_storage_class),
        tags: section.get_with("tags", read_tags).unwrap_or(default.tags.clone()),
        ca_file: section.get("ca_file"),
        connect_timeout: section
            .get_with("connect_timeout", |value| within(value, &TIMEOUTS))
            .unwrap_or(default.connect_timeout),
        stall_timeout: section
            .get_with("stall_timeout", |value| within(value, &TIMEOUTS))
            .unwrap_or(default.stall_timeout),
        ..default
    }
}

const CHECKSUMS: [(&str, Checksums); 3] =
    [("auto", Checksums::Auto), ("required", Checksums::Required), ("off", Checksums::Off)];
const CREATE_ONLY: [(&str, CreateOnly); 2] = [("native", CreateOnly::Native), ("emulated", CreateOnly::Emulated)];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Sse {
    Bucket,
    Aes256,
    Kms,
}

const SSE: [(&str, Sse); 3] = [("bucket", Sse::Bucket), ("AES256", Sse::Aes256), ("aws:kms", Sse::Kms)];

fn read_encryption(section: &mut Section<'_, '_>) -> ServerSideEncryption {
    let sse = section.parsed("sse", |text| one_of(&SSE, text));
    let key_id = section.parsed("kms_key", not_empty);
    if key_id.is_some() && sse.is_none_or(|sse| sse != Sse::Kms) {
        section.problem("kms_key", "has a meaning with sse = \"aws:kms\" only");
    }
    match sse {
        None | Some(Sse::Bucket) => ServerSideEncryption::BucketDefault,
        Some(Sse::Aes256) => ServerSideEncryption::Aes256,
        Some(Sse::Kms) => ServerSideEncryption::Kms { key_id },
    }
}

fn read_access_key(section: &mut Section<'_, '_>) -> Option<AccessKey> {
    let id = section.parsed("access_key_id", not_empty);
    let secret = section.get("secret_access_key");
    let session_token = section.get("session_token");
    for (key, needs) in [
        ("access_key_id", "secret_access_key"),
        ("secret_access_key", "access_key_id"),
        ("session_token", "access_key_id"),
    ] {
        if section.is_set(key) && !section.is_set(needs) {
            section.problem(key, format!("set without {needs}"));
        }
    }
    Some(AccessKey { id: id?, secret: secret?, session_token })
}

impl Value for ProxyAddress {
    fn from_toml(value: &DeValue<'_>) -> Result<Self, String> {
        let Some(text) = value.as_str() else { return SecretSource::from_toml(value).map(Self::Secret) };
        check_http_url(text, "write the whole URL to a file and { file = \"/absolute/path\" } here").map(Self::Plain)
    }
}

fn not_empty(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() { Err("empty") } else { Ok(text.to_owned()) }
}

fn check_http_url(text: &str, credentials: &str) -> Result<String, String> {
    if text.contains('@') {
        return Err(format!("credentials do not stand in the configuration, {credentials}"));
    }
    let url = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let url =
        url.ok_or_else(|| format!("invalid URL \"{text}\", expected one that starts with http:// or https://"))?;
    if url.query().is_some() || url.fragment().is_some() {
        return Err("the URL has a query or fragment, expected no more than scheme, host and port".to_owned());
    }
    Ok(text.trim_end_matches('/').to_owned())
}

fn check_storage_class(text: &str) -> Result<String, String> {
    if COLD_CLASSES.contains(&text) {
        return Err(format!("objects in {text} cannot be read at once, so nothing could be restored"));
    }
    let valid =
        !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || matches!(byte, b'_' | b'0'..=b'9'));
    if valid { Ok(text.to_owned()) } else { Err(format!("invalid storage class \"{text}\", such as \"STANDARD_IA\"")) }
}

fn read_tags(value: &DeValue<'_>) -> Result<Vec<(String, String)>, String> {
    let tags = BTreeMap::<String, String>::from_toml(value)?;
    if tags.len() > MAX_TAGS {
        return Err(format!("{} tags, S3 allows {MAX_TAGS} for an object", tags.len()));
    }
    if let Some((key, _)) = tags.iter().find(|(key, value)| key.is_empty() || key.len() > 128 || value.len() > 256) {
        return Err(format!(
            "the tag \"{key}\" is too long, S3 allows 128 characters for the name and 256 for the value"
        ));
    }
    Ok(tags.into_iter().collect())
}
