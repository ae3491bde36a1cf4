//! A server that takes only TLS and SCRAM, and a role with no more rights than the documentation names.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::Result;
use pitr_tests::certificates::{self, Certificate};
use pitr_tests::ledger::{Load, Writers};
use pitr_tests::{Account, Agent, AgentOptions, Ledger, Postgres, PostgresOptions, Scene, Scratch, Store};

const HBA: &str = "\
local   all          postgres                trust
hostssl all          pitr      127.0.0.1/32  scram-sha-256
hostssl replication  pitr      127.0.0.1/32  scram-sha-256
";

const ROLE: &str = "\
CREATE ROLE pitr LOGIN REPLICATION PASSWORD 'correct horse';
GRANT pg_monitor, pg_read_all_settings TO pitr;
GRANT EXECUTE ON FUNCTION pg_backup_start(text, boolean), pg_backup_stop(boolean), pg_switch_wal(),
  pg_create_restore_point(text) TO pitr;
";

async fn strict_server(scratch: &Scratch) -> Result<(Postgres, Certificate)> {
    let certificate = certificates::issue(scratch, &["localhost", "127.0.0.1"])?;
    fs::set_permissions(&certificate.key, fs::Permissions::from_mode(0o600))?;
    Account::of_servers()?.own(&certificate.key)?;
    let options = PostgresOptions::of(15)
        .listening()
        .hba(HBA)
        .conf("password_encryption = 'scram-sha-256'")
        .conf("ssl = on")
        .conf(format!("ssl_cert_file = '{}'", certificate.certificate.display()))
        .conf(format!("ssl_key_file = '{}'", certificate.key.display()));
    let server = Postgres::start(options).await?;
    server.execute(ROLE).await?;
    Ok((server, certificate))
}

fn options(server: &Postgres, store: &Store, scratch: &Scratch, host: &str, authority: &str) -> Result<AgentOptions> {
    let password = scratch.path().join("password");
    if !password.exists() {
        scratch.file("password", "correct horse\n")?;
    }
    let connection = format!(
        "host={host} port={} user=pitr dbname=postgres sslmode=verify-full sslrootcert={authority}",
        server.port()
    );
    Ok(store
        .options(server)
        .connection(&connection)
        .set("postgres", format!("password = {{ file = \"{}\" }}", password.display())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_job_works_over_verified_tls_with_a_restricted_role() -> Result<()> {
    let scratch = Scratch::new()?;
    let (server, certificate) = strict_server(&scratch).await?;
    let store = Store::local()?;
    let options = options(&server, &store, &scratch, "localhost", &certificate.authority.display().to_string())?;
    let scene = Scene::with(server, store, &options).await?;
    Ledger::create(&scene.server).await?;
    let writers = Writers::start(&scene.server, Load::new(2, 5)).await?;
    writers.more(50).await?;
    scene.cli().run(["mark", "over-tls"]).await?.success()?;
    writers.more(50).await?;
    let ledger = writers.stop().await?;
    scene.seal().await?;
    let encrypted = "SELECT bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)";
    assert_eq!(scene.server.value(encrypted).await?, "t");
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(Ledger::read(&restored.server.connect().await?).await?, ledger.acknowledged());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_authority_is_refused() -> Result<()> {
    let (scratch, other) = (Scratch::new()?, Scratch::new()?);
    let (server, _) = strict_server(&scratch).await?;
    let stranger = certificates::issue(&other, &["localhost"])?;
    let options = options(&server, &Store::local()?, &scratch, "localhost", &stranger.authority.display().to_string())?;
    let (code, said) = Agent::other(&options, &["check"])?;
    assert_ne!(code, 0, "{said}");
    assert!(said.to_lowercase().contains("certificate"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_name_is_refused() -> Result<()> {
    let (scratch, names) = (Scratch::new()?, Scratch::new()?);
    let (mut server, _) = strict_server(&scratch).await?;
    let elsewhere = certificates::issue(&names, &["db.example.com"])?;
    fs::set_permissions(&elsewhere.key, fs::Permissions::from_mode(0o600))?;
    server.append_conf(&format!(
        "ssl_cert_file = '{}'\nssl_key_file = '{}'",
        elsewhere.certificate.display(),
        elsewhere.key.display()
    ))?;
    server.restart(pitr_tests::StopMode::Fast).await?;
    let options =
        options(&server, &Store::local()?, &scratch, "localhost", &elsewhere.authority.display().to_string())?;
    let (code, said) = Agent::other(&options, &["check"])?;
    assert_ne!(code, 0, "{said}");
    assert!(said.to_lowercase().contains("certificate") || said.contains("name"), "{said}");
    Ok(())
}
