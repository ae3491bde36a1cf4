//! Figures of what a store was asked and what it answered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt};

use super::{
    ByteRange, ErrorKind, KeyPrefix, ObjectKey, ObjectMeta, ObjectReader, ObjectStore, Operation, Payload, PutMode,
    Result,
};

/// Figures of one operation since the store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OperationFigures {
    /// Calls of the operation, however often each was tried.
    pub requests: u64,
    /// Content that was put or delivered.
    pub bytes: u64,
    /// Calls that failed in the end. An answer is no failure: not found, exists already, changed.
    pub errors: u64,
    /// Attempts beyond the first.
    pub retries: u64,
}

/// Counts what goes through a store. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Meter(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    put: OperationCounters,
    get: OperationCounters,
    head: OperationCounters,
    list: OperationCounters,
    delete: OperationCounters,
    open: OperationCounters,
}

#[derive(Debug, Default)]
struct OperationCounters {
    requests: AtomicU64,
    bytes: AtomicU64,
    errors: AtomicU64,
    retries: AtomicU64,
}

impl Meter {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The figures of every operation now.
    #[must_use]
    pub fn figures(&self) -> BTreeMap<Operation, OperationFigures> {
        Operation::ALL.iter().map(|operation| (*operation, self.of(*operation).figures())).collect()
    }

    fn of(&self, operation: Operation) -> &OperationCounters {
        match operation {
            Operation::Put => &self.0.put,
            Operation::Get => &self.0.get,
            Operation::Head => &self.0.head,
            Operation::List => &self.0.list,
            Operation::Delete => &self.0.delete,
            Operation::Open => &self.0.open,
        }
    }

    pub(super) fn count_retry(&self, operation: Operation) {
        self.of(operation).retries.fetch_add(1, Ordering::Relaxed);
    }

    fn count_request(&self, operation: Operation) {
        self.of(operation).requests.fetch_add(1, Ordering::Relaxed);
    }

    fn count_bytes(&self, operation: Operation, bytes: u64) {
        self.of(operation).bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn count_outcome<T>(&self, operation: Operation, outcome: &Result<T>) {
        let answer = |kind| matches!(kind, ErrorKind::NotFound | ErrorKind::AlreadyExists | ErrorKind::Changed);
        if outcome.as_ref().is_err_and(|error| !answer(error.kind())) {
            self.of(operation).errors.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl OperationCounters {
    fn figures(&self) -> OperationFigures {
        OperationFigures {
            requests: self.requests.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
            retries: self.retries.load(Ordering::Relaxed),
        }
    }
}

/// A store whose use is counted.
#[derive(Debug)]
pub struct Metered {
    inner: Arc<dyn ObjectStore>,
    meter: Meter,
}

impl Metered {
    #[must_use]
    pub fn new(inner: Arc<dyn ObjectStore>, meter: Meter) -> Self {
        Self { inner, meter }
    }
}

#[async_trait]
impl ObjectStore for Metered {
    async fn put(&self, key: &ObjectKey, body: Payload, mode: PutMode) -> Result<ObjectMeta> {
        self.meter.count_request(Operation::Put);
        let size_bytes = body.size_bytes();
        let outcome = self.inner.put(key, body, mode).await;
        if outcome.is_ok() {
            self.meter.count_bytes(Operation::Put, size_bytes);
        }
        self.meter.count_outcome(Operation::Put, &outcome);
        outcome
    }

    async fn get(&self, key: &ObjectKey, range: Option<ByteRange>) -> Result<ObjectReader> {
        self.meter.count_request(Operation::Get);
        let outcome = self.inner.get(key, range).await;
        self.meter.count_outcome(Operation::Get, &outcome);
        let mut reader = outcome?;
        let meter = self.meter.clone();
        let counted = reader.stream.inspect(move |chunk| {
            meter.count_outcome(Operation::Get, chunk);
            meter.count_bytes(Operation::Get, chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
        });
        reader.stream = counted.boxed();
        Ok(reader)
    }

    async fn head(&self, key: &ObjectKey) -> Result<ObjectMeta> {
        self.meter.count_request(Operation::Head);
        let outcome = self.inner.head(key).await;
        self.meter.count_outcome(Operation::Head, &outcome);
        outcome
    }

    fn list<'a>(&'a self, prefix: &'a KeyPrefix) -> BoxStream<'a, Result<ObjectMeta>> {
        self.meter.count_request(Operation::List);
        self.inner.list(prefix).inspect(|meta| self.meter.count_outcome(Operation::List, meta)).boxed()
    }

    async fn list_children(&self, prefix: &KeyPrefix) -> Result<Vec<KeyPrefix>> {
        self.meter.count_request(Operation::List);
        let outcome = self.inner.list_children(prefix).await;
        self.meter.count_outcome(Operation::List, &outcome);
        outcome
    }

    async fn delete(&self, keys: &[ObjectKey]) -> Result<()> {
        self.meter.count_request(Operation::Delete);
        let outcome = self.inner.delete(keys).await;
        self.meter.count_outcome(Operation::Delete, &outcome);
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::fault::{Fault, FaultRule, Faulty};
    use crate::storage::{MemoryStore, ObjectStoreExt, conformance};

    #[tokio::test]
    async fn keeps_the_contract() {
        conformance::run(Arc::new(Metered::new(Arc::new(MemoryStore::new()), Meter::new()))).await;
    }

    #[tokio::test]
    async fn counts_calls_bytes_and_failures() {
        let faulty = Faulty::new(Arc::new(MemoryStore::new()), 1);
        faulty.add(FaultRule::new(Fault::ErrorBefore(ErrorKind::Denied)).on(Operation::Head).nth(2));
        let meter = Meter::new();
        let store = Metered::new(Arc::new(faulty), meter.clone());
        let key = ObjectKey::new("a").unwrap();
        store.create_bytes(&key, "12345").await.unwrap();
        store.create_bytes(&key, "12345").await.unwrap_err();
        store.get_range(&key, ByteRange::new(1, 3).unwrap()).await.unwrap();
        store.head(&key).await.unwrap();
        store.head(&key).await.unwrap_err();
        let figures = meter.figures();
        let expected = |requests, bytes, errors| OperationFigures { requests, bytes, errors, retries: 0 };
        assert_eq!(figures[&Operation::Put], expected(2, 5, 0));
        assert_eq!(figures[&Operation::Get], expected(1, 2, 0));
        assert_eq!(figures[&Operation::Head], expected(2, 0, 1));
        assert_eq!(figures[&Operation::Delete], expected(0, 0, 0));
    }
}
