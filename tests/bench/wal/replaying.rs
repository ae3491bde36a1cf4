//! A recovery from its start to the end of the WAL: how long redo takes by the server's own account.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use pitr_tests::ports::Port;
use pitr_tests::{Account, Process, S3Server, wait};

use super::figures::Figures;
use super::pgbackrest::PgBackRest;
use super::source::WalSource;
use super::{Where, fetching};
use crate::contender::settle;
use crate::settings::Settings;

const JOB: &str = "replay";

pub async fn measure(
    settings: &Settings,
    source: &WalSource,
    places: &[Where<'_>],
    figures: &mut Figures,
) -> Result<()> {
    for run in 0..settings.runs {
        for (index, place) in places.iter().enumerate() {
            let mut tools = vec!["pitr"];
            if index == 0 {
                tools.insert(0, "cp");
            }
            if settings.compares() {
                tools.extend(["pgbackrest sync", "pgbackrest async"]);
            }
            for tool in tools {
                let data = source.scratch.join(format!("replay-{run}-{index}-{}", tool.replace(' ', "-")));
                fetching::restore(source, index, &data)?;
                let command = match tool {
                    "cp" => Some(format!("cp \"{}/pg_wal/%f\" \"%p\"", source.data.display())),
                    "pgbackrest sync" | "pgbackrest async" => Some(
                        PgBackRest::filled(settings, source, place, 0)?
                            .restore_command(&data, tool == "pgbackrest async"),
                    ),
                    _ => None,
                };
                if let Some(command) = command {
                    replace(&data, &command)?;
                }
                settle();
                figures.add(JOB, place.name, tool, &[("redo s", redo(source, &data).await?)]);
            }
        }
    }
    Ok(())
}

/// Another `restore_command`, and no target: a tool that does not know the last segment's tails ends before it.
fn replace(data: &Path, command: &str) -> Result<()> {
    let path = data.join("postgresql.auto.conf");
    let mut text = fs::read_to_string(&path)?;
    for (name, value) in [("restore_command", command), ("recovery_target_lsn", ""), ("recovery_target_timeline", "1")]
    {
        text.push_str(&format!("\n{name} = '{}'", value.replace('\'', "''")));
    }
    text.push('\n');
    fs::write(path, text)?;
    Ok(())
}

async fn redo(source: &WalSource, data: &Path) -> Result<f64> {
    let port = Port::take()?;
    let mut command = Account::of_servers()?.command(source.server.bin().join("postgres"));
    command.arg("-D").arg(data).args(["-c", "listen_addresses=", "-c", "fsync=on", "-p", &port.number().to_string()]);
    command.envs(S3Server::credentials()).arg("-k").arg(source.server.socket_directory());
    // The server's own words, whatever it was configured to do with them.
    command.args(["-c", "logging_collector=off", "-c", "log_destination=stderr", "-c", "shared_buffers=256MB"]);
    let log = data.with_extension("log");
    let mut server = Process::spawn(command, &log)?;
    let elapsed = wait::until("redo is done", Duration::from_mins(5), async || {
        anyhow::ensure!(server.ended()?.is_none(), "the server ended:\n{}", server.tail());
        let text = server.output();
        let done = text.lines().find_map(|line| line.split_once("redo done at")?.1.split_once("elapsed: "));
        Ok(done.and_then(|(_, rest)| rest.split(' ').next()?.parse::<f64>().ok()))
    });
    let elapsed = elapsed.await.context("measure redo")?;
    server.signal(nix::sys::signal::Signal::SIGQUIT)?;
    server.wait(Duration::from_mins(1)).await?;
    Ok(elapsed)
}
