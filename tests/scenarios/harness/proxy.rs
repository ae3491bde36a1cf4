use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pitr_tests::proxy::Rule;
use pitr_tests::{Account, Fault, FaultProxy, S3Server, s3};

/// What `curl` says of a request to the store's file interface: the status (0 for a broken connection), and the body.
fn curl(address: SocketAddr, method: &str, key: &str, body: Option<&str>) -> Result<(u32, String)> {
    let mut command = Account::of_servers()?.command("curl");
    command.args(["--silent", "--max-time", "5", "--write-out", "\n%{http_code}", "--request", method]);
    if let Some(body) = body {
        command.args(["--header", "Content-Type: application/octet-stream", "--data-binary", body]);
    }
    let output =
        command.arg(format!("http://{address}/buckets/{}/{key}", s3::BUCKET)).output().context("start curl")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (body, code) = text.rsplit_once('\n').context("curl said nothing")?;
    let broken = !output.status.success();
    Ok((if broken { 0 } else { code.parse()? }, body.to_owned()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_fault_does_what_it_says() -> Result<()> {
    let store = S3Server::start().await?;
    let proxy = FaultProxy::start(store.file_address()).await?;
    let (near, far) = (store.file_address(), proxy.address());
    let body = "x".repeat(1000);
    assert_eq!(curl(far, "PUT", "plain", Some(&body))?.0, 201);
    assert_eq!(curl(far, "GET", "plain", None)?, (200, body.clone()));

    proxy.set(Fault::SlowDown);
    let (code, answer) = curl(far, "PUT", "slow", Some(&body))?;
    assert!(code == 503 && answer.contains("SlowDown"), "{code} {answer}");
    assert_eq!(curl(near, "GET", "slow", None)?.0, 404, "it reached the store");

    proxy.set(Fault::ErrorAfterEffect);
    assert_eq!(curl(far, "PUT", "after", Some(&body))?.0, 500);
    assert_eq!(curl(near, "GET", "after", None)?, (200, body.clone()));

    proxy.set(Fault::ResetAfterEffect);
    assert_eq!(curl(far, "PUT", "reset-after", Some(&body))?.0, 0);
    assert_eq!(curl(near, "GET", "reset-after", None)?.0, 200);

    proxy.set(Fault::ResetAfter { bytes: 100 });
    assert_eq!(curl(far, "PUT", "reset", Some(&body))?.0, 0);
    assert_eq!(curl(near, "GET", "reset", None)?.0, 404);

    proxy.set(Fault::TruncateBody { bytes: 10 });
    assert_eq!(curl(far, "GET", "plain", None)?.0, 0);

    proxy.set(Fault::Delay(Duration::from_millis(300)));
    let start = Instant::now();
    assert_eq!(curl(far, "GET", "plain", None)?.0, 200);
    assert!(start.elapsed() >= Duration::from_millis(300));

    proxy.set(Fault::Throttle { bytes_per_second: 2000 });
    let start = Instant::now();
    assert_eq!(curl(far, "GET", "plain", None)?.0, 200);
    assert!(start.elapsed() >= Duration::from_millis(400));

    proxy.set(Fault::Stall);
    assert_eq!(curl(far, "GET", "plain", None)?.0, 0);

    proxy.set_rules(vec![Rule::every(Fault::SlowDown).method("PUT").path("special").times(1)]);
    assert_eq!(curl(far, "PUT", "special", Some(&body))?.0, 503);
    assert_eq!(curl(far, "PUT", "special", Some(&body))?.0, 201);
    assert_eq!(curl(far, "GET", "special", None)?.0, 200);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_store_comes_back_with_what_it_had() -> Result<()> {
    let mut store = S3Server::start().await?;
    assert_eq!(curl(store.file_address(), "PUT", "kept", Some("content"))?.0, 201);
    store.kill()?;
    assert_eq!(curl(store.file_address(), "GET", "kept", None)?.0, 0);
    store.restart().await?;
    let address = store.file_address();
    pitr_tests::wait::until("the object is served", Duration::from_secs(30), async || {
        Ok((curl(address, "GET", "kept", None)? == (200, "content".to_owned())).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tls_store_shows_a_certificate_of_its_authority() -> Result<()> {
    let store = S3Server::start_tls().await?;
    let authority = store.authority().context("no authority")?;
    let fetch = |arguments: &[&str]| -> Result<bool> {
        let mut command = Account::of_servers()?.command("curl");
        Ok(command
            .args(["--silent", "--output", "/dev/null"])
            .args(arguments)
            .arg(store.endpoint())
            .status()?
            .success())
    };
    assert!(fetch(&["--cacert", &authority.display().to_string()])?);
    assert!(!fetch(&[])?);
    Ok(())
}
