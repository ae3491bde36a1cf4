//! The contract of a store, against a real server that speaks S3.
//!
//! The server comes from the environment: `PITR_TEST_S3_ENDPOINT`, `PITR_TEST_S3_BUCKET` (which exists),
//! `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; for TLS also `PITR_TEST_S3_TLS_ENDPOINT` and `PITR_TEST_S3_CA_FILE`.
//! Without it the tests say that they are skipped, and fail where `REQUIRE_E2E=1` forbids that.
#![cfg(feature = "s3")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use pitr::storage::conformance::{self, Profile};
use pitr::storage::options::{Checksums, CreateOnly, S3Credentials};
use pitr::storage::{
    ErrorKind, KeyPrefix, ObjectKey, ObjectStore, ObjectStoreExt, RetryOptions, RetryPolicy, S3Options, S3Store,
    StorageOptions, open, probe_create_only,
};

const MIB: usize = 1024 * 1024;

struct Server {
    endpoint: String,
    bucket: String,
}

fn variables(names: &[&str]) -> Option<Vec<String>> {
    let values: Result<Vec<String>, String> =
        names.iter().map(|name| std::env::var(name).map_err(|_| (*name).to_owned())).collect();
    match values {
        Ok(values) => Some(values),
        Err(missing) => {
            let required = std::env::var("REQUIRE_E2E").is_ok_and(|value| value == "1");
            assert!(!required, "REQUIRE_E2E=1 forbids to skip this test, and {missing} is not set");
            // Not by the macro, whose output the test harness keeps to itself.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no S3 server to test against, {missing} is not set");
            None
        }
    }
}

fn server() -> Option<Server> {
    let mut values =
        variables(&["PITR_TEST_S3_ENDPOINT", "PITR_TEST_S3_BUCKET", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])?;
    Some(Server { bucket: values.swap_remove(1), endpoint: values.swap_remove(0) })
}

impl Server {
    fn options(&self) -> S3Options {
        S3Options {
            endpoint: Some(self.endpoint.clone()),
            region: Some("us-east-1".to_owned()),
            path_style: true,
            ..S3Options::default()
        }
    }

    async fn store(&self, options: S3Options) -> Arc<S3Store> {
        Arc::new(S3Store::open(&self.bucket, &options, policy()).await.unwrap())
    }
}

fn policy() -> RetryPolicy {
    RetryPolicy::new(RetryOptions { deadline: Duration::from_secs(30), ..RetryOptions::default() })
}

/// Two and a half parts of the least size, and listings of one page. SeaweedFS honours the condition of a completed upload,
/// but when several are completed in the same moment it accepts more than one.
fn in_parts() -> Profile {
    Profile { large_bytes: 12 * MIB + 345, listed_objects: 20, exclusive_large_races: false, ..Profile::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_keeps_the_contract() {
    let Some(server) = server() else { return };
    conformance::run(server.store(server.options()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn opened_with_all_its_layers_it_keeps_the_contract() {
    let Some(server) = server() else { return };
    let url = format!("s3://{}/some/where", server.bucket).parse().unwrap();
    let options = StorageOptions { s3: server.options(), ..StorageOptions::new(url) };
    conformance::run(open(&options).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_parts_it_keeps_the_contract() {
    let Some(server) = server() else { return };
    let part_size_bytes = 5 * MIB as u64;
    let options = S3Options {
        multipart_threshold_bytes: part_size_bytes,
        part_size_bytes,
        part_concurrency: 3,
        ..server.options()
    };
    conformance::run_with(server.store(options.clone()).await, &in_parts()).await;
    // Two parts at most: they grow.
    let options = S3Options { max_parts: 2, ..options };
    conformance::run_with(server.store(options).await, &in_parts()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_conditional_puts_it_keeps_the_contract_but_under_races() {
    let Some(server) = server() else { return };
    let options = S3Options { create_only: CreateOnly::Emulated, ..server.options() };
    let profile = Profile { exclusive_races: false, listed_objects: 20, ..Profile::default() };
    conformance::run_with(server.store(options).await, &profile).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_any_use_of_checksums_it_keeps_the_contract() {
    let Some(server) = server() else { return };
    for checksums in [Checksums::Off, Checksums::Required] {
        let part_size_bytes = 5 * MIB as u64;
        let options =
            S3Options { checksums, multipart_threshold_bytes: part_size_bytes, part_size_bytes, ..server.options() };
        conformance::run_with(server.store(options).await, &in_parts()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_tls_with_its_own_authority_it_keeps_the_contract() {
    let Some(server) = server() else { return };
    let Some(tls) = variables(&["PITR_TEST_S3_TLS_ENDPOINT", "PITR_TEST_S3_CA_FILE"]) else { return };
    let options = S3Options { endpoint: Some(tls[0].clone()), ..server.options() };
    let trusting = S3Options { ca_file: Some(tls[1].clone().into()), ..options.clone() };
    conformance::run_with(server.store(trusting).await, &in_parts()).await;
    // A certificate that is not trusted is a fault of the settings, not of the line.
    conformance::refuses_everything(server.store(options).await, ErrorKind::Invalid).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn probe_finds_conditional_puts_and_leaves_nothing() {
    let Some(server) = server() else { return };
    let store = server.store(server.options()).await;
    assert!(probe_create_only(store.as_ref()).await.unwrap());
    assert!(store.list_all(&KeyPrefix::new("probe/").unwrap(), 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_credentials_are_denied() {
    let Some(server) = server() else { return };
    for (access_key_id, secret_access_key) in
        [("nobody".to_owned(), "wrong".to_owned()), (std::env::var("AWS_ACCESS_KEY_ID").unwrap(), "wrong".to_owned())]
    {
        let credentials =
            S3Credentials { access_key_id, secret_access_key: secret_access_key.into(), session_token: None };
        let options = S3Options { credentials: Some(credentials), ..server.options() };
        conformance::refuses_everything(server.store(options).await, ErrorKind::Denied).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_bucket_is_no_container() {
    let Some(server) = server() else { return };
    // Nothing is put: this server makes a bucket when an administrator puts something into it.
    let name = format!("pitr-no-such-bucket-{}", std::process::id());
    let store = S3Store::open(&name, &server.options(), policy()).await.unwrap();
    conformance::refuses_all_but_puts(&store, ErrorKind::NoContainer).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_server_is_unavailable() {
    if server().is_none() {
        return;
    }
    // A port that was free a moment ago and that nobody listens at.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let s3 = S3Options { endpoint: Some(endpoint), region: Some("us-east-1".to_owned()), ..S3Options::default() };
    let options = StorageOptions {
        s3: S3Options { path_style: true, ..s3 },
        retry: RetryOptions { deadline: Duration::from_secs(1), ..RetryOptions::default() },
        ..StorageOptions::new("s3://bucket/prefix".parse().unwrap())
    };
    let store: Arc<dyn ObjectStore> = open(&options).await.unwrap();
    let error = store.get(&ObjectKey::new("k").unwrap(), None).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    conformance::refuses_everything(store, ErrorKind::Unavailable).await;
}
