//! Where a repository is: `s3://bucket/prefix` or `file:///absolute/path`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::KeyPrefix;

/// Prefixes longer than this would leave too little of S3's 1024 bytes to the keys.
const MAX_PREFIX_BYTES: usize = 100;

/// The text names no place for a repository.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid repository url \"{url}\": {reason}")]
pub struct InvalidUrl {
    url: String,
    reason: String,
}

/// The place of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageUrl {
    S3 { bucket: String, prefix: KeyPrefix },
    File { path: PathBuf },
}

impl StorageUrl {
    /// The directory, of a repository that is in one.
    #[must_use]
    pub fn local_path(&self) -> Option<&Path> {
        match self {
            Self::File { path } => Some(path),
            Self::S3 { .. } => None,
        }
    }
}

impl FromStr for StorageUrl {
    type Err = InvalidUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = |reason: &str| InvalidUrl { url: without_credentials(text), reason: reason.to_owned() };
        if let Some(rest) = text.strip_prefix("s3://") {
            parse_s3(rest).map_err(|reason| invalid(&reason))
        } else if text.starts_with("file:") {
            parse_file(text).map_err(|reason| invalid(&reason))
        } else if text.starts_with('/') {
            Err(invalid(&format!("write a local directory as \"file://{text}\"")))
        } else {
            Err(invalid("it starts neither with \"s3://\" nor with \"file:///\""))
        }
    }
}

impl fmt::Display for StorageUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::S3 { bucket, prefix } => write!(f, "s3://{bucket}/{}", prefix.as_str().trim_end_matches('/')),
            Self::File { path } => write!(f, "file://{}", path.display()),
        }
    }
}

fn without_credentials(text: &str) -> String {
    match (text.find("://"), text.rfind('@')) {
        (Some(scheme), Some(at)) if scheme + 3 <= at => format!("{}***{}", &text[..scheme + 3], &text[at..]),
        _ => text.to_owned(),
    }
}

fn parse_s3(rest: &str) -> Result<StorageUrl, String> {
    let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
    if bucket.contains(['@', ':']) {
        return Err(
            "credentials and ports do not belong here: credentials come from the AWS chain, a port from endpoint"
                .to_owned(),
        );
    }
    let named = (3..=63).contains(&bucket.len())
        && bucket.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
    if !named {
        return Err(format!("\"{bucket}\" is no name of a bucket"));
    }
    let prefix = prefix.trim_end_matches('/');
    let prefix = if prefix.is_empty() { KeyPrefix::root() } else { read_prefix(prefix)? };
    Ok(StorageUrl::S3 { bucket: bucket.to_owned(), prefix })
}

fn read_prefix(prefix: &str) -> Result<KeyPrefix, String> {
    if prefix.len() > MAX_PREFIX_BYTES {
        return Err(format!("the prefix has more than {MAX_PREFIX_BYTES} characters"));
    }
    KeyPrefix::new(format!("{prefix}/")).map_err(|_| {
        "the prefix may hold letters, digits and . _ - @ + only, in parts joined by one / that do not start with a dot"
            .to_owned()
    })
}

fn parse_file(text: &str) -> Result<StorageUrl, String> {
    let relative = || "the path is not absolute: write three slashes, \"file:///var/lib/pitr\"".to_owned();
    if !text.starts_with("file:///") {
        return Err(relative());
    }
    if text.contains(['?', '#']) {
        return Err("write ? and # in the path as %3F and %23".to_owned());
    }
    let url = url::Url::parse(text).map_err(|error| error.to_string().to_ascii_lowercase())?;
    let path = url.to_file_path().map_err(|()| relative())?;
    if path.file_name().is_none() {
        return Err("the root directory cannot be a repository".to_owned());
    }
    Ok(StorageUrl::File { path: path.components().collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<StorageUrl, String> {
        text.parse().map_err(|error: InvalidUrl| error.to_string())
    }

    #[test]
    fn reads_both_kinds_and_prints_them_again() {
        for text in ["s3://backups/pitr", "s3://backups/", "s3://b.c-d/a/b", "file:///var/lib/pitr"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(parse("s3://backups"), parse("s3://backups/"));
        assert_eq!(parse("s3://backups/pitr/"), parse("s3://backups/pitr"));
        assert_eq!(parse("file:///a/b/"), parse("file:///a/b"));
        assert_eq!(parse("file:///a%20b").unwrap().local_path(), Some(Path::new("/a b")));
    }

    #[test]
    fn says_what_to_write_instead() {
        for (text, reason) in [
            ("/var/lib/pitr", "write a local directory as \"file:///var/lib/pitr\""),
            ("file://var/lib", "three slashes"),
            ("file:relative", "three slashes"),
            ("file:///", "root directory"),
            ("file:///a?b", "%3F"),
            ("gs://backups", "neither"),
            ("", "neither"),
            ("s3://", "no name of a bucket"),
            ("s3:///prefix", "no name of a bucket"),
            ("s3://a b/c", "no name of a bucket"),
            ("s3://backups/a//b", "the prefix may hold"),
            ("s3://backups/.hidden", "the prefix may hold"),
            ("s3://backups/p?versionId=1", "the prefix may hold"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn repeats_no_credentials() {
        let error = parse("s3://AKIA:p4/ss@word@backups/pitr").unwrap_err();
        assert!(!error.contains("AKIA") && !error.contains("p4") && !error.contains("word@"), "{error}");
    }
}
