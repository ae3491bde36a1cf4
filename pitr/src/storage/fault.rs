//! A store that fails as it is told, for tests.
//!
//! Every fault happens at a chosen call, before or **after** its effect, so that a test can walk through all calls of a piece
//! of work and let each fail in turn. What is random (which bit is flipped) comes from a seed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{
    ByteRange, Error, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload,
    PutMode, Result,
};

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call fails and has no effect.
    ErrorBefore(ErrorKind),
    /// The call has its effect, and fails: an answer that got lost.
    ErrorAfter(ErrorKind),
    /// A read breaks with a transient error after so many bytes.
    Break { after_bytes: u64 },
    /// A read ends after so many bytes as if that were all.
    ShortRead { after_bytes: u64 },
    /// One bit of what is put or read is another one.
    FlippedBit,
    /// The call never answers and has no effect.
    Stall,
    /// A put that the next so many listings do not show.
    LateListing { listings: u32 },
}

/// Which of the calls that match it a rule strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Calls {
    Nth(u64),
    From(u64),
}

/// A fault with the calls that it strikes; all calls, unless it is narrowed.
#[derive(Clone, Debug)]
pub struct FaultRule {
    fault: Fault,
    operation: Option<Operation>,
    glob: String,
    calls: Calls,
    matched: u64,
}

impl FaultRule {
    #[must_use]
    pub fn new(fault: Fault) -> Self {
        Self { fault, operation: None, glob: "*".to_owned(), calls: Calls::From(1), matched: 0 }
    }

    /// Only this operation.
    #[must_use]
    pub fn on(mut self, operation: Operation) -> Self {
        self.operation = Some(operation);
        self
    }

    /// Only keys (of a listing: prefixes; of a delete: one of its keys) that match; `*` stands for any characters, `/`
    /// included.
    #[must_use]
    pub fn keys(mut self, glob: impl Into<String>) -> Self {
        self.glob = glob.into();
        self
    }

    /// Only the n-th of the matching calls, counted from 1.
    #[must_use]
    pub fn nth(mut self, n: u64) -> Self {
        self.calls = Calls::Nth(n);
        self
    }

    /// The n-th of the matching calls and all after it.
    #[must_use]
    pub fn from_nth(mut self, n: u64) -> Self {
        self.calls = Calls::From(n);
        self
    }

    fn strikes(&mut self, operation: Operation, keys: &[&str]) -> bool {
        let meant = self.operation.is_none_or(|meant| meant == operation);
        if !meant || !keys.iter().any(|key| matches_glob(&self.glob, key)) {
            return false;
        }
        self.matched += 1;
        match self.calls {
            Calls::Nth(n) => self.matched == n,
            Calls::From(n) => self.matched >= n,
        }
    }
}

fn matches_glob(glob: &str, text: &str) -> bool {
    let mut parts = glob.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A call that a rule struck.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Struck {
    pub operation: Operation,
    pub key: String,
    pub fault: Fault,
}

#[derive(Debug)]
struct Script {
    rules: Vec<FaultRule>,
    calls: HashMap<Operation, u64>,
    struck: Vec<Struck>,
    /// Objects that listings do not show yet, with how many more.
    late: HashMap<ObjectKey, u32>,
    random: StdRng,
}

/// A store with scripted faults.
#[derive(Debug)]
pub struct Faulty {
    inner: Arc<dyn ObjectStore>,
    script: Mutex<Script>,
}

impl Faulty {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, seed: u64) -> Self {
        let script = Script {
            rules: Vec::new(),
            calls: HashMap::new(),
            struck: Vec::new(),
            late: HashMap::new(),
            random: StdRng::seed_from_u64(seed),
        };
        Self { inner, script: Mutex::new(script) }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a rule. Where several strike one call, the first that was added decides.
    pub fn add(&self, rule: FaultRule) {
        self.script().rules.push(rule);
    }

    /// From now on nothing fails.
    pub fn heal(&self) {
        let mut script = self.script();
        script.rules.clear();
        script.late.clear();
    }

    /// How many calls of all kinds came so far.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.script().calls.values().sum()
    }

    /// How many calls of this kind came so far.
    #[must_use]
    pub fn calls_of(&self, operation: Operation) -> u64 {
        self.script().calls.get(&operation).copied().unwrap_or(0)
    }

    /// Every call that was struck, in order: a test that asserts nothing of it may have tested nothing.
    #[must_use]
    pub fn struck(&self) -> Vec<Struck> {
        self.script().struck.clone()
    }

    fn decide(&self, operation: Operation, keys: &[&str]) -> Option<Fault> {
        let mut script = self.script();
        *script.calls.entry(operation).or_default() += 1;
        let mut fault = None;
        for rule in &mut script.rules {
            // Every rule counts its calls, also those that another one strikes.
            if rule.strikes(operation, keys) && fault.is_none() {
                fault = Some(rule.fault);
            }
        }
        if let Some(fault) = fault {
            let key = keys.first().map(ToString::to_string).unwrap_or_default();
            script.struck.push(Struck { operation, key, fault });
        }
        fault
    }

    async fn strike_before(&self, operation: Operation, keys: &[&str]) -> Result<Option<Fault>> {
        let fault = self.decide(operation, keys);
        match fault {
            Some(Fault::ErrorBefore(kind)) => Err(scripted(kind, operation, keys)),
            Some(Fault::Stall) => std::future::pending().await,
            other => Ok(other),
        }
    }

    fn flip(&self, content: &[u8]) -> Bytes {
        let mut content = content.to_vec();
        if !content.is_empty() {
            let mut script = self.script();
            let at = script.random.random_range(0..content.len());
            content[at] ^= 1_u8 << script.random.random_range(0..8);
        }
        content.into()
    }

    /// Keys that this listing leaves out.
    fn hidden(&self) -> Vec<ObjectKey> {
        let mut script = self.script();
        let hidden = script.late.keys().cloned().collect();
        script.late.retain(|_, listings| {
            *listings -= 1;
            *listings > 0
        });
        hidden
    }

    async fn spoil(&self, key: &ObjectKey, mut reader: ObjectReader, fault: Option<Fault>) -> Result<ObjectReader> {
        reader.stream = match fault {
            Some(Fault::FlippedBit) => {
                let content: BytesMut = reader.stream.try_collect().await?;
                stream::iter([Ok(self.flip(&content))]).boxed()
            }
            Some(Fault::ShortRead { after_bytes }) => first_bytes(reader.stream, after_bytes),
            Some(Fault::Break { after_bytes }) => {
                let error = scripted(ErrorKind::Transient, Operation::Get, &[key.as_str()]);
                first_bytes(reader.stream, after_bytes).chain(stream::iter([Err(error)])).boxed()
            }
            _ => reader.stream,
        };
        Ok(reader)
    }
}

fn scripted(kind: ErrorKind, operation: Operation, keys: &[&str]) -> Error {
    Error::new(kind, operation, keys.first().unwrap_or(&""), "scripted fault")
}

fn after<T>(outcome: Result<T>, fault: Option<Fault>, operation: Operation, keys: &[&str]) -> Result<T> {
    match fault {
        Some(Fault::ErrorAfter(kind)) => outcome.and_then(|_| Err(scripted(kind, operation, keys))),
        _ => outcome,
    }
}

fn first_bytes(stream: BoxStream<'static, Result<Bytes>>, bytes: u64) -> BoxStream<'static, Result<Bytes>> {
    let cut = stream.scan(bytes, |left, chunk| {
        let chunk = chunk.map(|chunk| {
            let taken = chunk.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
            *left -= taken as u64;
            chunk.slice(..taken)
        });
        let goes_on = chunk.as_ref().is_ok_and(|chunk| !chunk.is_empty()) || chunk.is_err();
        std::future::ready(goes_on.then_some(chunk))
    });
    cut.boxed()
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put(&self, key: &ObjectKey, mut body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        let fault = self.strike_before(Operation::Put, &[key.as_str()]).await?;
        if fault == Some(Fault::FlippedBit)
            && let Payload::Chunks(chunks) = &body
        {
            body = self.flip(&chunks.concat()).into();
        }
        let outcome = self.inner.put(key, body, mode).await;
        if let (Some(Fault::LateListing { listings }), Ok(_)) = (fault, &outcome)
            && listings > 0
        {
            self.script().late.insert(key.clone(), listings);
        }
        after(outcome, fault, Operation::Put, &[key.as_str()])
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        let fault = self.strike_before(Operation::Get, &[key.as_str()]).await?;
        let outcome = after(self.inner.get(key, range).await, fault, Operation::Get, &[key.as_str()]);
        self.spoil(key, outcome?, fault).await
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        let fault = self.strike_before(Operation::Head, &[key.as_str()]).await?;
        after(self.inner.head(key).await, fault, Operation::Head, &[key.as_str()])
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        let listed = async move {
            let fault = self.strike_before(Operation::List, &[prefix.as_str()]).await?;
            let hidden = self.hidden();
            let shown = self.inner.list(prefix).try_filter(move |meta| std::future::ready(!hidden.contains(&meta.key)));
            let end = match fault {
                Some(Fault::ErrorAfter(kind)) => Some(Err(scripted(kind, Operation::List, &[prefix.as_str()]))),
                _ => None,
            };
            Ok(shown.chain(stream::iter(end)))
        };
        stream::once(listed).try_flatten().boxed()
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        let fault = self.strike_before(Operation::List, &[prefix.as_str()]).await?;
        after(self.inner.list_children(prefix).await, fault, Operation::List, &[prefix.as_str()])
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        let names: Vec<&str> = keys.iter().map(ObjectKey::as_str).collect();
        let fault = self.strike_before(Operation::Delete, &names).await?;
        after(self.inner.delete(keys).await, fault, Operation::Delete, &names)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::storage::{MemoryStore, ObjectStoreExt, conformance};

    fn key(text: &str) -> ObjectKey {
        ObjectKey::new(text).unwrap()
    }

    fn faulty() -> Faulty {
        Faulty::new(Arc::new(MemoryStore::new()), 42)
    }

    #[tokio::test]
    async fn keeps_the_contract_while_nothing_is_scripted() {
        conformance::run(Arc::new(faulty())).await;
    }

    #[tokio::test]
    async fn error_before_has_no_effect_and_error_after_has() {
        let store = faulty();
        store.add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Transient)).on(Operation::Put).nth(1));
        store.add(FaultRule::new(Fault::ErrorAfter(ErrorKind::Transient)).on(Operation::Put).nth(2));
        store.create_bytes(&key("a"), "x").await.unwrap_err();
        assert!(!store.exists(&key("a")).await.unwrap());
        store.create_bytes(&key("a"), "x").await.unwrap_err();
        assert!(store.exists(&key("a")).await.unwrap());
        assert_eq!(store.struck().len(), 2);
        assert_eq!((store.calls(), store.calls_of(Operation::Put)), (4, 2));
    }

    #[tokio::test]
    async fn reads_break_end_early_and_lie() {
        let store = faulty();
        let content = vec![0; 200_000];
        store.create_bytes(&key("a"), content.clone()).await.unwrap();
        for fault in [Fault::Break { after_bytes: 100_000 }, Fault::ShortRead { after_bytes: 100_000 }] {
            store.add(FaultRule::new(fault).on(Operation::Get).nth(1));
            assert_eq!(store.get_bytes(&key("a"), u64::MAX).await.unwrap_err().kind(), ErrorKind::Transient);
            store.heal();
        }
        store.add(FaultRule::new(Fault::FlippedBit).keys("a").nth(1));
        let read = store.get_bytes(&key("a"), u64::MAX).await.unwrap();
        assert_eq!(read.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(store.get_bytes(&key("a"), u64::MAX).await.unwrap(), content);
    }

    #[tokio::test]
    async fn late_listing_hides_an_object_that_can_be_read() {
        let store = faulty();
        store.add(FaultRule::new(Fault::LateListing { listings: 2 }).on(Operation::Put));
        store.create_bytes(&key("a"), "x").await.unwrap();
        let count = async || store.list_all(&KeyPrefix::root(), 9).await.unwrap().len();
        assert_eq!([count().await, count().await, count().await], [0, 0, 1]);
        assert_eq!(store.get_bytes(&key("a"), 1).await.unwrap(), "x");
    }

    #[tokio::test]
    async fn stalled_call_never_answers() {
        let store = faulty();
        store.add(FaultRule::new(Fault::Stall).on(Operation::Head));
        assert!(store.head(&key("a")).now_or_never().is_none());
    }

    #[test]
    fn globs() {
        for (glob, text, expected) in [
            ("*", "a/b", true),
            ("a/*", "a/b/c", true),
            ("*/manifest.json", "x/y/manifest.json", true),
            ("*wal*zst", "a/wal/b.zst", true),
            ("a", "ab", false),
            ("*a", "ab", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches_glob(glob, text), expected, "{glob} {text}");
        }
    }
}
