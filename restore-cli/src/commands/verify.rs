//! `pitr verify`.

use std::sync::Mutex;

use pitr::repository::WalStore;
use pitr::repository::backup::BackupId;
use pitr::summarize::verify::{Order, Step as Done, verify_summaries};
use pitr::verify::{Depth, Phase, Step as Verified, VerifyOptions, random_seed, verify_lineage};

use crate::args::{UsageError, VerifyDepth, VerifyOrder};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::progress::{Step, Unit};
use crate::output::verification::{ModeDocument, VerificationDocument, VerifiedLineageDocument};
use crate::output::verify::{LineageDocument, VerifyDocument};

const REPAIR_INTERRUPTED: &str = "what was built stays; the same command goes on";
const INTERRUPTED: &str = "nothing can be said of what was not read";

/// # Errors
/// The repository cannot be read, or something in it is missing or damaged.
pub async fn run(context: &Context, order: VerifyOrder) -> Result<(), Failure> {
    let depth = match order.depth {
        VerifyDepth::RepairSummaries => return repair(context, order.jobs).await,
        VerifyDepth::Fast => Depth::Fast,
        VerifyDepth::Full => Depth::Full,
        VerifyDepth::Sample { bytes, seed } => Depth::Sample { bytes, seed: seed.unwrap_or_else(random_seed) },
    };
    let options =
        VerifyOptions { depth, jobs: order.jobs, backup: order.backup, since: order.since, now: context.now() };
    let document = context.interruptible(Some(INTERRUPTED), verify(context, &options)).await?;
    context.print(&document, VerificationDocument::text)?;
    match document.verdict() {
        None => Ok(()),
        Some(verdict) => Err(Failure::Damaged(verdict)),
    }
}

async fn verify(context: &Context, options: &VerifyOptions) -> Result<VerificationDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository().await?;
    let cluster = settings.cluster(&repository).await?;
    let meter = Mutex::new(context.meter());
    let observe = |done: Verified| {
        if let Ok(mut meter) = meter.lock() {
            meter.show(&told(done));
        }
    };
    let mut lineages = Vec::new();
    for lineage in settings.lineages(&repository, &cluster).await? {
        let report = verify_lineage(&lineage, options, &observe).await?;
        lineages.push(VerifiedLineageDocument::new(&report));
    }
    drop(meter);
    if let Some(id) = &options.backup
        && lineages.iter().all(|lineage| !lineage.knows(id))
    {
        return Err(no_such_backup(id));
    }
    Ok(VerificationDocument {
        format: 1,
        cluster: cluster.to_string(),
        repaired: false,
        mode: ModeDocument::new(options.depth),
        lineages,
    })
}

fn no_such_backup(id: &BackupId) -> Failure {
    UsageError::new(format!("there is no complete backup {id}")).with_hint("\"pitr info\" lists them").into()
}

async fn repair(context: &Context, jobs: usize) -> Result<(), Failure> {
    let document = context.interruptible(Some(REPAIR_INTERRUPTED), repair_all(context, jobs)).await?;
    context.print(&document, VerifyDocument::text)?;
    match document.lacking() {
        0 => Ok(()),
        lacking => Err(Failure::Incomplete { lacking }),
    }
}

async fn repair_all(context: &Context, jobs: usize) -> Result<VerifyDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository().await?;
    let cluster = settings.cluster(&repository).await?;
    let mut lineages = Vec::new();
    let mut meter = context.meter();
    for lineage in settings.lineages(&repository, &cluster).await? {
        let id = lineage.lineage().lineage;
        let wal = WalStore::new(lineage);
        let wanted = Order { repair: true, jobs, now: context.now() };
        let timelines = verify_summaries(&wal, wanted, |done| meter.show(&step(done))).await?;
        lineages.push(LineageDocument::new(id, &timelines));
    }
    meter.clear();
    Ok(VerifyDocument { format: 1, cluster: cluster.to_string(), repaired: true, lineages })
}

fn told(step: Verified) -> Step {
    let Verified { phase, done, total } = step;
    let name = match phase {
        Phase::Documents => "reading documents",
        Phase::Backups => "reading contents of backups",
        Phase::Maps => "reading file maps",
        Phase::Packs => "reading packs",
        Phase::Wal => "reading WAL",
        Phase::Losses => "working out what is lost",
    };
    if phase.counts_bytes() {
        return Step { phase: name, done, total, unit: Unit::Bytes, note: None };
    }
    let note = (total > 0).then(|| format!("{done} of {total}"));
    Step { phase: name, done, total, unit: Unit::None, note }
}

fn step(done: Done) -> Step {
    let (phase, done, total) = match done {
        Done::Reading { done, total } => ("reading WAL summaries", done, total),
        Done::Building { done, total } => ("building WAL summaries", done, total),
    };
    Step { phase, done, total, unit: Unit::None, note: Some(format!("{done} of {total}")) }
}
