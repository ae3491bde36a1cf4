use anyhow::Result;
use pitr_tests::{Account, Agent, Postgres, PostgresOptions, Scene, StopMode, Store};

fn check(options: &pitr_tests::AgentOptions, words: &[&str]) -> Result<()> {
    let (code, said) = Agent::other(options, &["check"])?;
    assert_ne!(code, 0, "{said}");
    let lower = said.to_lowercase();
    for word in words {
        assert!(lower.contains(&word.to_lowercase()), "nothing about \"{word}\" in:\n{said}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_healthy_server_passes_the_check() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let (code, said) = Agent::other(&Store::local()?.options(&server), &["check"])?;
    assert_eq!(code, 0, "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreachable_server_is_named() -> Result<()> {
    let mut scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    scene.server.stop(StopMode::Fast).await?;
    check(&scene.store.options(&scene.server), &[&scene.server.socket_directory().display().to_string()])?;
    scene.cli().run(["mark", "nobody-there", "--timeout", "3s"]).await?.code(4)?;
    scene.agent.kill()?;
    scene.cli().run(["mark", "no-agent"]).await?.code(4)?.says(&["agent"])?;
    // What needs the repository only still works.
    scene.cli().run(["info"]).await?.success()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_without_replication_is_told_so() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    server.execute("CREATE ROLE plain LOGIN").await?;
    let connection = server.connection_string().replace("user=postgres", "user=plain");
    check(&Store::local()?.options(&server).connection(&connection), &["replication", "plain"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wal_level_minimal_is_told() -> Result<()> {
    let options = PostgresOptions::of(15).conf("wal_level = minimal").conf("max_wal_senders = 0");
    let server = Postgres::start(options).await?;
    check(&Store::local()?.options(&server), &["wal_level"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_alone_is_not_enough() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let standby = server.standby().await?;
    check(&Store::local()?.options(&standby), &["standby", "neither backups nor markers", "primary"])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_repository_of_another_cluster_is_refused() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let stranger = Postgres::start(PostgresOptions::of(15)).await?;
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    let theirs = stranger.value(identifier).await?;
    check(&scene.store.options(&stranger), &["system identifier", &theirs])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_can_not_be_read_fails_the_backup_by_name() -> Result<()> {
    let scene = Scene::start(PostgresOptions::of(15), Store::local()?).await?;
    let path = scene.server.data_directory().join("base/1/unreadable");
    std::fs::write(&path, "content")?;
    Account::of_servers()?.own(&path)?;
    assert!(Account::of_servers()?.command("chmod").arg("000").arg(&path).status()?.success());
    scene.cli().run(["backup"]).await?.code(1)?.says(&["base/1/unreadable", "denied"])?;
    std::fs::remove_file(&path)?;
    scene.cli().run(["backup"]).await?.success()?;
    Ok(())
}
