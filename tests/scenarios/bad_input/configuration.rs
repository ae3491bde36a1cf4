use anyhow::Result;
use pitr_tests::{Agent, Cli, Postgres, PostgresOptions, Scratch, Store};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_key_is_refused_with_a_suggestion() -> Result<()> {
    let server = Postgres::init(PostgresOptions::of(15))?;
    let options = Store::local()?.options(&server).set("wal", "flush_intervall = \"1s\"");
    let mut agent = Agent::spawn(&options)?;
    let (code, said) = agent.ends(std::time::Duration::from_secs(10)).await?;
    assert_ne!(code, 0, "{said}");
    assert!(said.contains("flush_intervall") && said.contains("\"flush_interval\""), "{said}");
    agent.cli().run(["info"]).await?.code(2)?.says(&["flush_intervall", "\"flush_interval\""])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_configuration_is_named() -> Result<()> {
    let scratch = Scratch::new()?;
    let missing = scratch.path().join("missing.toml");
    Cli::new(&missing, &[])?.run(["info"]).await?.code(2)?.says(&["missing.toml"])?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unknown_command_and_an_unknown_option_are_usage_errors() -> Result<()> {
    for arguments in
        [&["restor"][..], &["info", "--jason"], &["restore"], &["restore", "--latest", "--immediate", "--into", "/x"]]
    {
        let run = Cli::bare(&[])?.run(arguments).await?.code(2)?;
        assert!(run.stdout.is_empty(), "{run:?}");
    }
    Ok(())
}
