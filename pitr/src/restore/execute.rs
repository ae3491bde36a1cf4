//! A restore from the checks to the moment at which the directory can start.
//!
//! The order is what makes an interruption harmless: stamp, files, configuration, sync, stamp again, and as the last of all
//! `global/pg_control`. Before that a server refuses the directory, afterwards it recovers to the target.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use chrono::{DateTime, Utc};
use tokio_util::sync::CancellationToken;

use super::configure::{Configuration, publish_control_file};
use super::contents::Contents;
use super::copy::{Copied, FileCopy, blocking};
use super::destination::{
    Destination, Ownership, PreparedDestination, Reuse, SpaceNeed, SystemAccounts, check_companion, check_space,
};
use super::files::{DeltaOutlook, TreeSizes};
use super::options::RestoreOptions;
use super::progress::{Phase, Progress, ProgressSender};
use super::stamp::RestoreStamp;
use super::tablespace_guard::{self, TablespacesInWal};
use super::{Error, Result};
use crate::clock::Clock;
use crate::postgres::MajorVersion;
use crate::recovery::RestorePlan;
use crate::repository::LineageStore;

/// Room for the first segments that replay fetches and for what it writes before the first restart point.
const SEGMENTS_OF_ROOM: u64 = 4;

/// What a restore works with.
#[derive(Clone, Debug)]
pub struct Restorer {
    pub lineage: LineageStore,
    pub clock: Arc<dyn Clock>,
    pub progress: ProgressSender,
    pub cancel: CancellationToken,
}

/// A restore that passed every check, and has not written anything.
#[derive(Clone, Debug)]
pub struct CheckedRestore {
    pub destination: Destination,
    pub(super) contents: Arc<Contents>,
    /// Where files that are there are to be reused.
    pub delta: Option<DeltaOutlook>,
    pub(super) tablespaces_in_wal: TablespacesInWal,
}

/// A data directory that can start.
#[derive(Clone, Debug)]
pub struct RestoredDirectory {
    pub directory: PathBuf,
    pub ownership: Ownership,
    pub started: DateTime<Utc>,
    pub files: u64,
    pub bytes: u64,
    pub fetched_bytes: u64,
    /// What came of files that were there, where they were to be reused.
    pub delta: Option<DeltaResult>,
    /// Seconds for each part, in order.
    pub seconds: Vec<(&'static str, f64)>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// What was found in an old directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeltaResult {
    /// Bytes that were read and compared.
    pub compared_bytes: u64,
    /// Bytes that were as they should be, and were left alone.
    pub reused_bytes: u64,
    /// Files, links and directories that the backup lacks and that were removed; a directory counts as one.
    pub removed_entries: u64,
}

impl CheckedRestore {
    /// What a person should know before going on.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        [self.destination.notes.as_slice(), &self.tablespaces_in_wal.notes].concat()
    }
}

impl Restorer {
    /// Everything that can be found out without writing: a dry run ends here.
    ///
    /// # Errors
    /// The destination is refused, or the backup cannot be read.
    pub async fn check(&self, plan: &RestorePlan, options: &RestoreOptions) -> Result<CheckedRestore> {
        self.progress.phase(Phase::Checking);
        major_version(plan)?;
        let (manifest, asked) = (plan.backup.clone(), options.clone());
        let destination = blocking(move || {
            let owner = asked.owner.as_ref();
            if let Some(companion) = &asked.companion {
                check_companion(&companion.path)?;
            }
            let reuse = if asked.delta { Reuse::SameCluster } else { Reuse::Nothing };
            Ok(Destination::check(&manifest, &asked.directory, &asked.tablespaces, owner, &SystemAccounts, reuse)?)
        })
        .await?;
        let (warnings, policy) = (plan.warnings.clone(), options.tablespaces_in_wal);
        let former = destination.former_tablespaces();
        let tablespaces_in_wal = blocking(move || tablespace_guard::inspect(&warnings, policy, &former)).await?;
        let contents = Arc::new(Contents::load(&self.lineage, &plan.backup).await?);
        let delta = self.check_space(plan, options, &destination, &contents).await?;
        Ok(CheckedRestore { destination, contents, delta, tablespaces_in_wal })
    }

    async fn check_space(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        destination: &Destination,
        contents: &Contents,
    ) -> Result<Option<DeltaOutlook>> {
        let room = u64::from(u32::from(plan.backup.wal_segment_size)) * SEGMENTS_OF_ROOM;
        let mut needs = vec![SpaceNeed { path: destination.directory.clone(), bytes: room }];
        let mut delta = None;
        if options.delta {
            let (outlook, more) = DeltaOutlook::measure(&self.lineage, contents, destination).await?;
            needs.extend(more);
            delta = Some(outlook);
        } else if destination.is_one_file_system()? {
            needs.push(SpaceNeed { path: destination.directory.clone(), bytes: plan.backup.size_bytes });
        } else {
            let oids: Vec<u32> = destination.tablespaces.iter().map(|target| target.oid).collect();
            let sizes = TreeSizes::measure(&self.lineage, contents, &oids).await?;
            needs.push(SpaceNeed { path: destination.directory.clone(), bytes: sizes.data_directory });
            needs.extend(destination.tablespaces.iter().map(|target| SpaceNeed {
                path: target.path.clone(),
                bytes: sizes.tablespaces.get(&target.oid).copied().unwrap_or(0),
            }));
        }
        blocking(move || Ok(check_space(&needs)?)).await?;
        Ok(delta)
    }

    /// Restores the files of the plan's backup and makes them a cluster that recovers to the plan's target.
    ///
    /// # Errors
    /// [`Error::Incomplete`] once the first byte was written: what is there cannot start, and the next restore into the same
    /// directory removes it.
    pub async fn restore(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        checked: CheckedRestore,
    ) -> Result<RestoredDirectory> {
        let directory = checked.destination.directory.clone();
        let stamp = RestoreStamp::new(options.restore.clone(), plan, self.clock.now(), &directory);
        let destination = checked.destination.clone();
        let prepared = blocking(move || Ok(PreparedDestination::prepare(destination, stamp)?)).await?;
        self.fill(plan, options, &checked, prepared).await.map_err(|source| Error::Incomplete {
            directory,
            delta: options.delta,
            source: Box::new(source),
        })
    }

    async fn fill(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        checked: &CheckedRestore,
        prepared: PreparedDestination,
    ) -> Result<RestoredDirectory> {
        let mut clock = PhaseClock::default();
        self.progress.update(|progress| {
            let (files_total, bytes_total) = (plan.backup.files, plan.backup.size_bytes);
            *progress = Progress { files_total, bytes_total, ..Progress::default() };
        });
        let copy = FileCopy::new(&prepared)?;
        let Copied { control_file, notes: link_notes, removed } =
            copy.write(&self.lineage, &checked.contents, options.transfer, &self.progress, &self.cancel).await?;
        clock.note("copy");
        let mut notes = [checked.notes(), prepared.notes().to_vec(), link_notes].concat();

        let configuration = Configuration::new(plan, options, checked)?;
        let (mut prepared, control_file, configured) = blocking(move || {
            let notes = configuration.apply(&prepared, &control_file)?;
            Ok((prepared, control_file, notes))
        })
        .await?;
        notes.extend(configured);
        clock.note("configure");

        copy.sync(&self.progress).await?;
        clock.note("sync");
        // The last moment at which there is nothing that could start.
        if self.cancel.is_cancelled() {
            return Err(Error::Interrupted);
        }
        let prepared = blocking(move || {
            prepared.mark_restored()?;
            publish_control_file(&prepared, &control_file)?;
            Ok(prepared)
        })
        .await?;
        clock.note("publish");
        let reached = self.progress.now();
        Ok(RestoredDirectory {
            directory: prepared.destination().directory.clone(),
            ownership: prepared.destination().ownership.clone(),
            started: prepared.stamp().started,
            files: reached.files_done,
            bytes: reached.bytes_done,
            fetched_bytes: reached.fetched_bytes,
            delta: options.delta.then_some(DeltaResult {
                compared_bytes: reached.compared_bytes,
                reused_bytes: reached.reused_bytes,
                removed_entries: removed.entries,
            }),
            seconds: clock.seconds,
            notes,
        })
    }
}

/// Seconds since the last part ended, part by part.
#[derive(Debug)]
pub(super) struct PhaseClock {
    last: Instant,
    pub(super) seconds: Vec<(&'static str, f64)>,
}

impl Default for PhaseClock {
    fn default() -> Self {
        Self { last: Instant::now(), seconds: Vec::new() }
    }
}

impl PhaseClock {
    pub(super) fn note(&mut self, part: &'static str) {
        self.seconds.push((part, self.last.elapsed().as_secs_f64()));
        self.last = Instant::now();
    }
}

pub(super) fn major_version(plan: &RestorePlan) -> Result<MajorVersion> {
    let (backup, version) = (&plan.backup.id, plan.backup.postgres_version);
    version.major().ok_or_else(|| Error::Unsupported { backup: backup.clone(), version })
}
