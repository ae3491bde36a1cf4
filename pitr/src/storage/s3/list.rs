//! Listing, in the order of the keys, whatever the order of the store.
//!
//! S3 lists by the bytes of the keys. Stores that keep objects in a tree of directories list each directory by its names, so
//! that `a/x` comes before `a-b/x`, and page boundaries lie in that order. So only what is known completely can be put in
//! order: a prefix whose objects fit into one page is one request; any other is asked for level by level, and each
//! sub-prefix is treated in the same way. Memory is that of one level per depth.

use aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output;
use aws_sdk_s3::types::Object;
use futures::stream::{self, BoxStream, StreamExt};

use super::super::{Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, Operation, Result};
use super::Bucket;
use super::error::Failure;
use super::read::meta;
use super::stall::{Progress, watched};

/// What stands below a prefix.
enum Entry {
    Object(ObjectMeta),
    Below(KeyPrefix),
}

impl Entry {
    fn as_str(&self) -> &str {
        match self {
            Self::Object(meta) => meta.key.as_str(),
            Self::Below(prefix) => prefix.as_str(),
        }
    }
}

/// Puts a level in the order of its keys; a prefix sorts with the slash at its end, as the keys below it do.
fn sort(prefix: &KeyPrefix, entries: &mut [Entry]) -> Result<()> {
    entries.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    let twice = entries.windows(2).find(|pair| matches!(pair, [a, b] if a.as_str() == b.as_str()));
    match twice.and_then(|pair| pair.first()) {
        None => Ok(()),
        Some(entry) => {
            let reason = format!("the store lists \"{}\" twice", entry.as_str());
            Err(Error::new(ErrorKind::Invalid, Operation::List, prefix, reason))
        }
    }
}

/// A walk through the levels: those that are entered, each with what is left of it in reverse order.
struct Walk<'a> {
    bucket: &'a Bucket,
    levels: Vec<Vec<Entry>>,
}

impl Walk<'_> {
    async fn next(&mut self) -> Result<Option<ObjectMeta>> {
        while let Some(level) = self.levels.last_mut() {
            match level.pop() {
                None => {
                    self.levels.pop();
                }
                Some(Entry::Object(meta)) => return Ok(Some(meta)),
                Some(Entry::Below(prefix)) => {
                    let mut below = self.bucket.entries(&prefix).await?;
                    below.reverse();
                    self.levels.push(below);
                }
            }
        }
        Ok(None)
    }
}

impl Bucket {
    pub(super) fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        let walk = Walk { bucket: self, levels: vec![vec![Entry::Below(prefix.clone())]] };
        stream::try_unfold(walk, |mut walk| async move { Ok(walk.next().await?.map(|meta| (meta, walk))) }).boxed()
    }

    pub(super) async fn children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let entries = self.level(prefix).await?;
        let child = |entry| match entry {
            Entry::Below(child) => Some(child),
            Entry::Object(_) => None,
        };
        Ok(entries.into_iter().filter_map(child).collect())
    }

    /// Everything below `prefix` where it fits into a page; else its level.
    async fn entries(&self, prefix: &KeyPrefix) -> Result<Vec<Entry>> {
        let page = self.page(prefix, false, None).await?;
        if page.is_truncated() == Some(true) {
            return self.level(prefix).await;
        }
        let mut entries = read_page(prefix, page)?;
        sort(prefix, &mut entries)?;
        Ok(entries)
    }

    /// The objects and sub-prefixes directly below `prefix`.
    async fn level(&self, prefix: &KeyPrefix) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let mut token: Option<String> = None;
        loop {
            let page = self.page(prefix, true, token.as_deref()).await?;
            let next = page.next_continuation_token().map(str::to_owned);
            let is_truncated = page.is_truncated() == Some(true);
            entries.append(&mut read_page(prefix, page)?);
            if !is_truncated {
                sort(prefix, &mut entries)?;
                return Ok(entries);
            }
            if next.is_none() || next == token {
                let reason = "the store says that there is more and not how to get it";
                return Err(Error::new(ErrorKind::Invalid, Operation::List, prefix, reason));
            }
            token = next;
        }
    }

    async fn page(&self, prefix: &KeyPrefix, level: bool, token: Option<&str>) -> Result<ListObjectsV2Output> {
        self.policy.run(|| self.request_page(prefix, level, token)).await
    }

    async fn request_page(&self, prefix: &KeyPrefix, level: bool, token: Option<&str>) -> Result<ListObjectsV2Output> {
        let request = self
            .client
            .list_objects_v2()
            .bucket(&self.name)
            .prefix(prefix.as_str())
            .set_delimiter(level.then(|| "/".to_owned()))
            .set_continuation_token(token.map(str::to_owned))
            .send();
        match watched(self.options.stall_timeout, &Progress::default(), request).await {
            Ok(Ok(page)) => Ok(page),
            Ok(Err(error)) => Err(Failure::of(error).into_error(Operation::List, prefix)),
            Err(stalled) => Err(Failure::from(stalled).into_error(Operation::List, prefix)),
        }
    }
}

fn read_page(prefix: &KeyPrefix, page: ListObjectsV2Output) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for child in page.common_prefixes.unwrap_or_default() {
        let name = child.prefix.unwrap_or_default();
        if !is_hidden(prefix, &name) {
            entries.push(Entry::Below(KeyPrefix::with_prefix(name.clone()).map_err(|_| foreign(prefix, &name))?));
        }
    }
    for object in page.contents.unwrap_or_default() {
        entries.extend(read_object(prefix, &object)?.map(Entry::Object));
    }
    Ok(entries)
}

/// None for what is no object of ours and may be there: names with a dot at their beginning, and the empty objects with a
/// slash at their end by which some tools show folders.
fn read_object(prefix: &KeyPrefix, object: &Object) -> Result<Option<ObjectMeta>> {
    let incomplete = || {
        let reason = "the store lists an object without its name or size";
        Error::new(ErrorKind::Corrupt, Operation::List, prefix, reason)
    };
    let name = object.key().ok_or_else(incomplete)?;
    let size_bytes = object.size().and_then(|size| u64::try_from(size).ok()).ok_or_else(incomplete)?;
    if is_hidden(prefix, name) || (name.ends_with('/') && size_bytes == 0) {
        return Ok(None);
    }
    let key = ObjectKey::with_prefix(name.to_owned()).map_err(|_| foreign(prefix, name))?;
    meta(&key, Operation::List, size_bytes, object.e_tag(), object.last_modified()).map(Some)
}

fn is_hidden(prefix: &KeyPrefix, name: &str) -> bool {
    let below = name.strip_prefix(prefix.as_str()).unwrap_or(name);
    below.split('/').any(|part| part.starts_with('.'))
}

fn foreign(prefix: &KeyPrefix, name: &str) -> Error {
    Error::new(ErrorKind::Corrupt, Operation::List, prefix, format!("\"{name}\" is no object of a repository"))
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::DateTime;

    use super::*;

    fn object(key: &str, size: i64) -> Object {
        Object::builder().key(key).size(size).e_tag("\"e\"").last_modified(DateTime::from_secs(0)).build()
    }

    fn read(objects: &[(&str, i64)]) -> Result<Vec<String>> {
        let objects = objects.iter().map(|(key, size)| object(key, *size)).collect();
        let page = ListObjectsV2Output::builder().set_contents(Some(objects)).build();
        let mut entries = read_page(&KeyPrefix::root(), page)?;
        sort(&KeyPrefix::root(), &mut entries)?;
        Ok(entries.iter().map(|entry| entry.as_str().to_owned()).collect())
    }

    #[test]
    fn folders_and_hidden_names_are_left_out() {
        let listed = read(&[("a/", 0), ("a/.DS_Store", 5), ("a/b", 1), (".trash/x", 1)]).unwrap();
        assert_eq!(listed, ["a/b"]);
    }

    #[test]
    fn order_of_directories_becomes_that_of_keys() {
        assert_eq!(read(&[("a/x", 1), ("a+b", 1), ("a-b/x", 1), ("a0", 1)]).unwrap(), ["a+b", "a-b/x", "a/x", "a0"]);
    }

    #[test]
    fn what_cannot_be_named_fails() {
        for (objects, kind) in [
            (&[("a b", 1)][..], ErrorKind::Corrupt),
            (&[("a/", 1)], ErrorKind::Corrupt),
            (&[("a", -1)], ErrorKind::Corrupt),
            (&[("a", 1), ("b", 1), ("a", 1)], ErrorKind::Invalid),
        ] {
            assert_eq!(read(objects).unwrap_err().kind(), kind, "{objects:?}");
        }
    }
}
