use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::conformance::Profile;
use crate::storage::fault::{Fault, FaultRule, Faulty};
use crate::storage::{MemoryStore, Meter, ObjectStoreExt, RetryOptions, conformance};

const TRANSIENT: Fault = Fault::ErrorBefore(ErrorKind::Transient);

fn quick() -> RetryPolicy {
    RetryPolicy::new(RetryOptions { base: Duration::from_millis(1), ..RetryOptions::default() })
}

fn key(text: &str) -> ObjectKey {
    ObjectKey::new(text).unwrap()
}

fn scene() -> (Arc<MemoryStore>, Arc<Faulty>, Retrying) {
    let memory = Arc::new(MemoryStore::new());
    let faulty = Arc::new(Faulty::new(memory.clone(), 7));
    let store = Retrying::new(faulty.clone(), quick());
    (memory, faulty, store)
}

#[tokio::test]
async fn keeps_the_contract() {
    conformance::run(Arc::new(Retrying::new(Arc::new(MemoryStore::new()), quick()))).await;
}

#[tokio::test(start_paused = true)]
async fn keeps_the_contract_over_a_store_that_fails_now_and_then() {
    for (operation, fault) in [
        (Operation::Put, TRANSIENT),
        (Operation::Put, Fault::ErrorAfter(ErrorKind::Transient)),
        (Operation::Get, Fault::Break { after_bytes: 70_000 }),
        (Operation::Get, Fault::ShortRead { after_bytes: 70_000 }),
        (Operation::Get, TRANSIENT),
        (Operation::Head, TRANSIENT),
        (Operation::List, TRANSIENT),
        (Operation::List, Fault::ErrorAfter(ErrorKind::Transient)),
        (Operation::Delete, TRANSIENT),
        (Operation::Delete, Fault::ErrorAfter(ErrorKind::Transient)),
    ] {
        let (_, faulty, store) = scene();
        for nth in (1..2000).step_by(3) {
            faulty.add(FaultRule::new(fault).on(operation).nth(nth));
        }
        let profile = Profile { no_lost_answers: false, ..Profile::default() };
        conformance::run_with(Arc::new(store), &profile).await;
        assert!(faulty.struck().len() > 3, "{operation} {fault:?} was struck {} times", faulty.struck().len());
    }
}

#[tokio::test(start_paused = true)]
async fn passing_trouble_is_not_seen_and_is_counted() {
    let (_, faulty, _) = scene();
    let meter = Meter::new();
    let store = Retrying::new(faulty.clone(), quick().counted_by(meter.clone()));
    for nth in 1..=4 {
        faulty.add(FaultRule::new(TRANSIENT).on(Operation::Put).nth(nth));
    }
    store.create_bytes(&key("a"), "x").await.unwrap();
    assert_eq!(faulty.calls_of(Operation::Put), 5);
    assert_eq!(meter.figures()[&Operation::Put].retries, 4);
}

#[tokio::test(start_paused = true)]
async fn deadline_ends_it_and_keeps_the_cause() {
    let (_, faulty, store) = scene();
    faulty.add(FaultRule::new(TRANSIENT));
    let began = tokio::time::Instant::now();
    let error = store.head(&key("a")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("scripted fault"));
    let elapsed = began.elapsed();
    assert!(elapsed > Duration::from_secs(60) && elapsed <= Duration::from_secs(120), "gave up after {elapsed:?}");
    assert!(faulty.calls() > 10, "{} attempts", faulty.calls());
}

#[tokio::test(start_paused = true)]
async fn answers_are_not_tried_again() {
    for kind in [ErrorKind::NotFound, ErrorKind::Denied, ErrorKind::NoContainer, ErrorKind::Full, ErrorKind::Corrupt] {
        let (_, faulty, store) = scene();
        faulty.add(FaultRule::new(Fault::ErrorBefore(kind)));
        assert_eq!(store.head(&key("a")).await.unwrap_err().kind(), kind);
        assert_eq!(faulty.calls(), 1);
    }
}

#[tokio::test]
async fn cancelling_ends_the_waiting() {
    let (_, faulty, _) = scene();
    faulty.add(FaultRule::new(TRANSIENT));
    let cancel = CancellationToken::new();
    let hour = Duration::from_secs(3600);
    let policy =
        RetryPolicy::new(RetryOptions { base: hour, cap: hour, deadline: hour * 24 }).cancelled_by(cancel.clone());
    let store = Retrying::new(faulty.clone(), policy);
    let waiting = tokio::spawn(async move { store.head(&key("a")).await });
    while faulty.calls() == 0 {
        tokio::task::yield_now().await;
    }
    cancel.cancel();
    assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_a_create_is_settled_by_content() {
    let (_, faulty, store) = scene();
    faulty.add(FaultRule::new(Fault::ErrorAfter(ErrorKind::Transient)).on(Operation::Put).nth(1));
    let meta = store.create_bytes(&key("a"), "ours").await.unwrap();
    assert_eq!(meta, store.head(&key("a")).await.unwrap());
    // Without an attempt of ours that failed it is not ours, whatever its content.
    assert_eq!(store.create_bytes(&key("a"), "ours").await.unwrap_err().kind(), ErrorKind::AlreadyExists);
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_a_large_create_is_settled_for_files_too() {
    let content: Vec<u8> = (0..700_000_u32).map(|n| (n % 251) as u8).collect();
    let mut other = content.clone();
    other[650_000] ^= 1;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &content).unwrap();
    let as_file = Payload::File { path: file.path().to_owned(), size_bytes: 700_000 };
    let chunks = content.chunks(99_999).map(bytes::Bytes::copy_from_slice).collect();
    for (body, there, settled) in [
        (as_file.clone(), &content, true),
        (as_file, &other, false),
        (Payload::Chunks(chunks), &content, true),
        (content.clone().into(), &other, false),
    ] {
        let (memory, faulty, store) = scene();
        memory.create_bytes(&key("a"), there.clone()).await.unwrap();
        faulty.add(FaultRule::new(TRANSIENT).on(Operation::Put).nth(1));
        let outcome = store.put(&key("a"), body, PutMode::CreateNew).await;
        assert_eq!(outcome.map_err(|error| error.kind()).is_ok(), settled);
    }
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_a_create_that_another_won_is_exists_already() {
    let (memory, faulty, store) = scene();
    faulty.add(FaultRule::new(TRANSIENT).on(Operation::Put).nth(1));
    memory.create_bytes(&key("a"), "them").await.unwrap();
    for content in ["ours", "their"] {
        assert_eq!(store.create_bytes(&key("a"), content).await.unwrap_err().kind(), ErrorKind::AlreadyExists);
    }
    assert_eq!(memory.get_bytes(&key("a"), 9).await.unwrap(), "them");
}

#[tokio::test(start_paused = true)]
async fn lost_answer_of_a_replacement_is_settled_by_content() {
    let (_, faulty, store) = scene();
    let first = store.create_bytes(&key("lease"), "first").await.unwrap();
    faulty.add(FaultRule::new(Fault::ErrorAfter(ErrorKind::Transient)).on(Operation::Put).nth(1));
    let second = store.put_bytes(&key("lease"), "second", PutMode::Replace(first.tag)).await.unwrap();
    assert_eq!(second.tag, store.head(&key("lease")).await.unwrap().tag);
}

#[tokio::test(start_paused = true)]
async fn read_goes_on_where_it_broke() {
    let content: Vec<u8> = (0..1_000_000_u32).map(|n| (n % 253) as u8).collect();
    let (_, faulty, store) = scene();
    store.create_bytes(&key("a"), content.clone()).await.unwrap();
    for (nth, fault) in [
        (1, Fault::Break { after_bytes: 100_001 }),
        (2, TRANSIENT),
        (3, Fault::Break { after_bytes: 0 }),
        (4, Fault::ShortRead { after_bytes: 300_000 }),
        (5, Fault::Break { after_bytes: 1 }),
    ] {
        faulty.add(FaultRule::new(fault).on(Operation::Get).nth(nth));
    }
    let range = ByteRange::new(1000, 900_000).unwrap();
    assert!(store.get_range(&key("a"), range).await.unwrap() == content[1000..900_000]);
    assert_eq!(faulty.calls_of(Operation::Get), 6);
}

#[tokio::test(start_paused = true)]
async fn read_does_not_mix_two_versions() {
    let (memory, faulty, store) = scene();
    memory.create_bytes(&key("a"), vec![1; 200_000]).await.unwrap();
    faulty.add(FaultRule::new(Fault::Break { after_bytes: 100_000 }).on(Operation::Get).nth(1));
    let reader = store.get(&key("a"), None).await.unwrap();
    memory.put_bytes(&key("a"), vec![2; 200_000], PutMode::Overwrite).await.unwrap();
    assert_eq!(reader.bytes(u64::MAX).await.unwrap_err().kind(), ErrorKind::Changed);
}
