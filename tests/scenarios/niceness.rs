//! A backup yields to the server; nothing else of the agent does.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pitr_tests::{Agent, Postgres, PostgresOptions, Store, wait};

/// Name and niceness of each thread (proc(5): the name stands in parentheses, the niceness is field 19).
fn threads(pid: u32) -> Result<Vec<(String, i32)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{pid}/task"))? {
        // It may have ended.
        let Ok(stat) = fs::read_to_string(task?.path().join("stat")) else { continue };
        let (name, rest) = stat.split_once('(').and_then(|(_, rest)| rest.rsplit_once(") ")).context("no name")?;
        let nice = rest.split(' ').nth(19 - 3).context("no niceness")?.parse()?;
        threads.push((name.to_owned(), nice));
    }
    Ok(threads)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn threads_of_a_backup_are_nice_and_no_others() -> Result<()> {
    let server = Postgres::start(PostgresOptions::of(15)).await?;
    let store = Store::local()?;
    let options = store
        .options(&server)
        .set("backup", "threads = 3")
        .set("backup", "nice = 7")
        // So that it takes as long as somebody looks.
        .set("backup", "bandwidth_limit = \"64KiB\"");
    // Its first backup begins at once.
    let mut agent = Agent::spawn(&options)?;
    let pid = agent.pid().context("the agent does not run")?;
    let own = threads(pid)?.first().context("no thread")?.1;
    let seen = wait::until("a backup copies", Duration::from_mins(1), async || {
        let seen = threads(pid)?;
        let copying = seen.iter().filter(|(name, _)| name == "backup-copy");
        Ok((copying.filter(|(_, nice)| *nice == own.max(7)).count() == 3).then_some(seen))
    })
    .await?;
    for (name, nice) in &seen {
        let expected = if name == "backup-copy" { own.max(7) } else { own };
        ensure!(*nice == expected, "{name} has niceness {nice} beside {seen:?}");
    }
    agent.kill()
}
