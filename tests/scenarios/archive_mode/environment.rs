//! Whatever the server's environment is.

use std::os::unix::fs::symlink;

use anyhow::Result;
use pitr_tests::{Account, Agent, Ledger, Postgres, Scene, Store, executables};

use super::{archive_with, archiver, archiving, seal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blanks_links_and_an_empty_environment_are_no_obstacle() -> Result<()> {
    let mut server = Postgres::init(archiving(15).directory("data of 15"))?;
    let disk = server.scratch().path().join("wal disk");
    let pg_wal = server.data_directory().join("pg_wal");
    let moved = Account::of_servers()?.command("mv").arg(&pg_wal).arg(&disk).status()?;
    anyhow::ensure!(moved.success());
    symlink(&disk, &pg_wal)?;
    server.run().await?;
    let store = Store::local()?;
    let mut agent = Agent::spawn(&store.options(&server).set("wal", "source = \"archive\""))?;
    let program = executables::product("pitr-wal-push")?;
    // Neither PATH nor anything else, and nobody who reads what is written.
    let command = format!("exec env -i {} --config {} \"%p\" >&- 2>&-", program.display(), agent.config().display());
    archive_with(&server, &command).await?;
    agent.wait_backups(1).await?;
    let scene = Scene::of(server, store, agent)?;
    Ledger::create(&scene.server).await?;
    seal(&scene).await?;
    assert_eq!(archiver(&scene.server, "failed_count").await?, "0");
    let restored = scene.restore(&["--latest"]).await?;
    assert_eq!(restored.server.value("SELECT count(*) FROM balance").await?, "64");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_tells_what_keeps_wal_from_being_handed_over() -> Result<()> {
    for (major, library) in [(13, None), (15, Some("archive_library = 'basic_archive'"))] {
        let mut options = pitr_tests::PostgresOptions::of(major);
        if let Some(line) = library {
            options = options.conf(line);
        }
        let server = Postgres::start(options).await?;
        let store = Store::local()?;
        let options = store.options(&server).set("wal", "source = \"archive\"");
        let (code, said) = Agent::other(&options, &["check"])?;
        assert_eq!(code, 7, "{said}");
        let expected = ["archive_mode is off", "archive_timeout is 0"];
        for words in expected.into_iter().chain(library.map(|_| "archive_library is")) {
            assert!(said.contains(words), "it does not say {words}:\n{said}");
        }
    }
    let server = Postgres::start(archiving(15).conf("archive_timeout = '60s'")).await?;
    let store = Store::local()?;
    for (command, words) in
        [("", "archive_command is not set"), ("/bin/true", "thrown away"), ("cp %p /a/%f", "not hand")]
    {
        archive_with(&server, command).await?;
        let (code, said) = Agent::other(&store.options(&server).set("wal", "source = \"archive\""), &["check"])?;
        assert!(code == 7 && said.contains(words), "{said}");
    }
    archive_with(&server, "pitr-agent wal-push %p").await?;
    let (code, said) = Agent::other(&store.options(&server).set("wal", "source = \"archive\""), &["check"])?;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("hands WAL over") && !said.contains("archive_timeout"), "{said}");
    Ok(())
}
