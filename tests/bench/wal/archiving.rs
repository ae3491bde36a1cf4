//! WAL that is waiting, into the repository: how fast, and for how much CPU time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::figures::Figures;
use super::pgbackrest::PgBackRest;
use super::source::WalSource;
use super::{Where, handing_over, status};
use crate::contender::settle;
use crate::measure;
use crate::settings::Settings;

const JOB: &str = "archive waiting WAL";

pub async fn measure(
    settings: &Settings,
    source: &mut WalSource,
    places: &[Where<'_>],
    figures: &mut Figures,
) -> Result<()> {
    let (data, segments) = (source.server.data_directory().to_owned(), source.segments.clone());
    for run in 0..settings.runs {
        for (index, place) in places.iter().enumerate() {
            if settings.compares() {
                let tool = PgBackRest::prepare(settings, source, place, run)?;
                settle();
                source.mark_ready(&source.segments)?;
                let pushed = tool.push(&source.segments)?;
                source.mark_ready(&source.prior)?;
                tool.push(&source.prior)?;
                let seconds = pushed.wall.as_secs_f64();
                figures.add(
                    JOB,
                    place.name,
                    "pgbackrest async, zstd 3",
                    &[
                        ("MB/s", source.gigabytes() * 1000.0 / seconds),
                        ("CPU s/GB", pushed.cpu_seconds / source.gigabytes()),
                        ("p50 ms", pushed.p50()),
                        ("p95 ms", pushed.p95()),
                    ],
                );
            }
            settle();
            let (end, gigabytes) = (source.end, source.gigabytes());
            let agent = source.agents.get_mut(index).and_then(|agents| agents.get_mut(run)).context("no agent")?;
            let begun = Instant::now();
            agent.run()?;
            let socket = status::socket(agent);
            let pid = agent.pid().context("the agent does not run")?;
            status::wait_sealed(&socket, end, Duration::from_mins(5)).await.with_context(|| agent.log())?;
            let seconds = begun.elapsed().as_secs_f64();
            let cpu = measure::cpu_seconds(pid)?;
            let memory = measure::peak_resident_bytes(pid);
            figures.add(
                JOB,
                place.name,
                "pitr stream, zstd 1",
                &[("MB/s", gigabytes * 1000.0 / seconds), ("CPU s/GB", cpu / gigabytes), ("MiB", memory)],
            );
            settle();
            handing_over::streamed(&data, place, agent, &segments, figures)?;
            agent.kill()?;
        }
    }
    Ok(())
}
