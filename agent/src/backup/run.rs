//! One backup, from its intent to its manifest.
//!
//! ```text
//! intent ─ preflight ─ start ─ list ─ copy … pg_control ─ stop ─ labels ─ WAL sealed, packs there ─ contents ─ manifest
//!                      └──── the session is watched all the time ────┘
//! ```
//! What has not changed since the parent, an earlier backup that the intent names, is taken over from there, and so is what an
//! interrupted backup had stored. What is stored is recorded, for the case that this one is interrupted.
//!
//! Nothing exists as a backup before the manifest does. Whatever ends a backup earlier leaves objects that no manifest
//! names, and a server that forgets the backup because its session is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::api::BackupPhase;
use pitr::clock::Clock;
use pitr::postgres::{ControlFile, Lsn};
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupId, BackupManifest, ProgressHeader};
use pitr::repository::hash::ContentHash;
use pitr::repository::wal_store::WalStore;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::claim::ClaimedBackup;
use super::config_files::external_files;
use super::control::read_control_file;
use super::copy::{
    CopiedFiles, Copier, CopyProgress, CopySettings, GivenFile, InsertLsn, PageCheck, Stored, TablespaceCopy,
};
use super::error::{BackupError, Result};
use super::incremental::method::Since;
use super::incremental::parent::ParentChoice;
use super::incremental::sample::Sample;
use super::job::JobReporter;
use super::listing::{self, Listing, ListingRequest};
use super::options::BackupOptions;
use super::publish::{Published, publish};
use super::recorder::{self, Recorder};
use super::session::{BackupServers, ControlSession, ServerFacts, StartedBackup, StoppedBackup};
use super::shared::{EarlierFiles, Shared};
use super::wal_proof;
use crate::archiver::{ArchiveProgress, GapBook, LandmarkKind, WaitError};
use crate::error_text::in_full;
use crate::postgres::ConnInfo;

/// How long WAL may take to reach the repository before anything is copied.
const ARCHIVING_TIMEOUT: Duration = Duration::from_secs(300);

/// What every backup of an agent stands on.
#[derive(Clone, Debug)]
pub struct BackupContext {
    pub lineage: LineageStore,
    pub conninfo: ConnInfo,
    /// A standby of this host, whose files are read instead of the primary's.
    pub standby: Option<ConnInfo>,
    pub archive: ArchiveProgress,
    pub gaps: GapBook,
    pub clock: Arc<dyn Clock>,
    pub host: String,
    pub agent_version: String,
}

/// Takes the backup whose name was claimed.
///
/// # Errors
/// The first failure; the backup does not exist then.
pub async fn run_backup(
    context: &BackupContext,
    options: &BackupOptions,
    claimed: &ClaimedBackup,
    reporter: &JobReporter,
    cancel: &CancellationToken,
) -> Result<BackupManifest> {
    let result = Run { context, options, claimed, id: &claimed.id, reporter, cancel }.run().await;
    let now = context.clock.now();
    match &result {
        Ok(_) => reporter.complete(now),
        Err(error) => reporter.fail(error, now),
    }
    result
}

struct Run<'a> {
    context: &'a BackupContext,
    options: &'a BackupOptions,
    claimed: &'a ClaimedBackup,
    id: &'a BackupId,
    reporter: &'a JobReporter,
    cancel: &'a CancellationToken,
}

/// What came of the time between start and stop.
struct Copied {
    facts: ServerFacts,
    started: StartedBackup,
    stopped: StoppedBackup,
    /// `pg_control` as it is in the backup.
    control: ControlFile,
    listing: Listing,
    files: CopiedFiles,
    given: TablespaceCopy,
    stored: Stored,
    shared: Shared,
    progress: Arc<CopyProgress>,
    /// How many records were put of what is stored.
    records: u32,
}

/// What came of the files.
struct CopiedDirectory {
    listing: Listing,
    files: CopiedFiles,
    control_bytes: Vec<u8>,
    control: ControlFile,
    shared: Shared,
    records: u32,
}

impl Run<'_> {
    async fn run(&self) -> Result<BackupManifest> {
        let servers = self.unless_cancelled(self.connect()).await?;
        // Dropping the work in the middle stops its threads; the session's end ends the backup in the server.
        let copied = self.unless_cancelled(self.start_to_stop(&servers)).await;
        if copied.is_err() {
            servers.abort().await;
        }
        drop(servers);
        self.unless_cancelled(self.conclude(copied?)).await
    }

    async fn unless_cancelled<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            result = work => result,
            () = self.cancel.cancelled() => Err(BackupError::Cancelled),
        }
    }

    async fn connect(&self) -> Result<BackupServers> {
        // The server whose WAL is archived, where there are several.
        let conninfo = match self.context.archive.now().endpoint {
            Some(endpoint) => self.context.conninfo.clone().only(&endpoint),
            None => self.context.conninfo.clone(),
        };
        Ok(BackupServers::connect(&conninfo, self.context.standby.as_ref()).await?)
    }

    async fn conclude(&self, copied: Copied) -> Result<BackupManifest> {
        let end_record_lsn = self.wait_for_wal(&copied).await?;
        self.reporter.phase(BackupPhase::Finishing);
        let records = copied.records;
        let published = self.published(copied, end_record_lsn);
        if let Some(resumed) = &published.sharing.resumed {
            self.reporter.update(|job| job.resumed_bytes = resumed.bytes);
        }
        let manifest = publish(&self.context.lineage, published).await?;
        // Of no use any more; what is left behind goes with retention.
        if let Err(error) = recorder::delete(&self.context.lineage, self.id, records).await {
            warn!(error = in_full(&error), "the records of what was stored meanwhile could not be deleted");
        }
        Ok(manifest)
    }

    /// Hours of copying are in vain where WAL does not get to the repository: what the server has now must get there first.
    async fn prove_archiving(&self, session: &ControlSession) -> Result<()> {
        let lsn = session.flush_lsn().await?;
        let archive = &self.context.archive;
        archive.request_flush();
        match archive.wait_sealed(lsn, self.options.archive_timeout.min(ARCHIVING_TIMEOUT)).await {
            Ok(_) => Ok(()),
            Err(WaitError::TimedOut) => Err(BackupError::WalNotArchived { problem: archive.now().problem }),
            Err(WaitError::Stopping) => Err(BackupError::Cancelled),
        }
    }

    async fn start_to_stop(&self, servers: &BackupServers) -> Result<Copied> {
        let session = &servers.primary;
        let lineage = self.context.lineage.lineage();
        let facts = servers.preflight(lineage.lineage.system_identifier()).await?;
        self.prove_archiving(session).await?;
        let label = format!("pitr {}", self.id);
        let starting = async { Ok(servers.start(&label).await?) };
        let earlier = EarlierFiles::load(&self.context.lineage, self.claimed);
        let (started, files) = tokio::try_join!(starting, earlier)?;
        info!(backup_id = %self.id, start_lsn = %started.start_lsn, "backup started");
        let progress = Arc::new(CopyProgress::default());
        let settings = CopySettings {
            threads: self.options.threads,
            compression_level: self.options.compression_level,
            pack_buffers: self.options.pack_buffers,
            bandwidth_limit: self.options.bandwidth_limit,
            drop_pause: Duration::from_millis(200),
        };
        let lineage = self.context.lineage.clone();
        let mut copier = Copier::start(lineage, self.id.clone(), settings, Arc::clone(&progress), self.cancel);
        let copy = self.copy(servers, &mut copier, &facts, &started, &progress, files);
        let copied = tokio::select! {
            copied = copy => copied?,
            lost = servers.watch() => return Err(lost.into()),
            never = self.reporter.follow(Arc::clone(&progress)) => match never {},
        };
        servers.confirm_source().await?;
        self.reporter.phase(BackupPhase::Stopping);
        let stopped = session.stop().await?;
        info!(backup_id = %self.id, stop_lsn = %stopped.stop_lsn, "backup stopped");
        let CopiedDirectory { listing, files, control_bytes, control, shared, records } = copied;
        check_label(&stopped, &started, &control)?;
        let given = copier.copy_given(given_files(&stopped, control_bytes, &listing, self.context.clock.now())).await?;
        let stored = copier.finish().await?;
        self.reporter.show(&progress);
        Ok(Copied { facts, started, stopped, control, listing, files, given, stored, shared, progress, records })
    }

    async fn share(&self, files: EarlierFiles, control: &ControlFile, started: &StartedBackup) -> Result<Shared> {
        let since = Since {
            lineage: &self.context.lineage,
            catalog: &self.claimed.catalog,
            archive: &self.context.archive,
            control,
            start_lsn: started.start_lsn,
            patience: self.options.archive_timeout.min(ARCHIVING_TIMEOUT),
        };
        Shared::find(files, &self.claimed.parent, started, control, since).await
    }

    fn sample_start(&self) -> u32 {
        match &self.claimed.parent {
            ParentChoice::Backup(manifest) => manifest.sharing.sample_end,
            ParentChoice::None { .. } => 0,
        }
    }

    /// Lists and copies everything, `pg_control` last.
    async fn copy(
        &self,
        servers: &BackupServers,
        copier: &mut Copier,
        facts: &ServerFacts,
        started: &StartedBackup,
        progress: &Arc<CopyProgress>,
        files: EarlierFiles,
    ) -> Result<CopiedDirectory> {
        let (_, control) = self.read_control(&facts.data_directory).await?;
        if control.redo_lsn < started.start_lsn {
            return Err(BackupError::NotTheServers(format!(
                "its pg_control knows the checkpoint at {}, the server made one at {}",
                control.redo_lsn, started.start_lsn
            )));
        }
        let (mut listing, mut shared) = tokio::try_join!(self.list(facts), self.share(files, &control, started))?;
        info!(
            backup_id = %self.id,
            parent = self.claimed.parent.id().map(tracing::field::display),
            resumes = shared.interrupted().map(|interrupted| tracing::field::display(&interrupted.header.id)),
            method = ?shared.sharing.method,
            reason = shared.sharing.reason,
            "what has changed is known"
        );
        for warning in &listing.warnings {
            warn!(backup_id = %self.id, "{warning}");
        }
        self.reporter.update(|job| {
            job.phase = BackupPhase::Copying;
            job.timeline = Some(control.tli);
            job.files_total = listing.files.len() as u64;
            job.bytes_total = listing.files.total_bytes();
            job.resumes = shared.interrupted().map(|interrupted| interrupted.header.id.clone());
        });
        let check = PageCheck {
            enabled: facts.control.data_checksums,
            start_lsn: started.start_lsn,
            insert_lsn: Arc::new(SessionInsertLsn { session: Arc::clone(&servers.primary), handle: Handle::current() }),
            corrupt: Arc::clone(&progress.corrupt_pages),
        };
        let files = Arc::new(std::mem::take(&mut listing.files));
        let mut sample = Sample::new(self.sample_start(), self.options.sample_bytes, files.total_bytes());
        let mut recorder = self.recorder(servers, copier, &control, started);
        let copied = loop {
            let directory = facts.data_directory.clone();
            let copied = tokio::select! {
                copied = copier.copy_files(directory, Arc::clone(&files), check.clone(), &shared.parents, sample) => copied,
                never = recorder.run() => match never {},
            };
            match copied {
                Ok(copied) => break copied,
                Err(error) => shared.fall_back(self.id, error)?,
            }
            recorder.withdraw().await?;
            self.reporter
                .update(|job| job.resumes = shared.interrupted().map(|interrupted| interrupted.header.id.clone()));
            progress.start_over();
            sample = None;
        };
        let records = recorder.finish().await;
        shared.sharing.sampled_pages = progress.sampled_pages.load(Ordering::Relaxed);
        shared.sharing.sample_end = sample.map_or_else(|| self.sample_start(), Sample::end);
        let (control_bytes, control) = self.read_control(&facts.data_directory).await?;
        Ok(CopiedDirectory { listing, files: copied, control_bytes, control, shared, records })
    }

    fn recorder(
        &self,
        servers: &BackupServers,
        copier: &Copier,
        control: &ControlFile,
        started: &StartedBackup,
    ) -> Recorder {
        let header = ProgressHeader {
            id: self.id.clone(),
            timeline: control.tli,
            start_lsn: started.start_lsn,
            catalog_version: control.catalog_version,
            control_version: control.control_version,
            data_checksums: control.data_checksums,
            number: 0,
            end_lsn: started.start_lsn,
            file_bytes: 0,
            bytes: 0,
            blake3: ContentHash::of(&[]),
        };
        let (lineage, archive) = (self.context.lineage.clone(), self.context.archive.clone());
        Recorder::new(
            lineage,
            Arc::clone(copier.ledger()),
            servers.clone(),
            archive,
            self.options.compression_level,
            header,
        )
    }

    async fn list(&self, facts: &ServerFacts) -> Result<Listing> {
        let request = ListingRequest {
            data_directory: facts.data_directory.clone(),
            tablespace_version_directory: facts.control.tablespace_version_directory(),
        };
        let cancel = self.cancel.child_token();
        let stop_thread = cancel.clone().drop_guard();
        let listing = tokio::task::spawn_blocking(move || listing::list(&request, &cancel)).await.map_err(broken)??;
        stop_thread.disarm();
        Ok(listing)
    }

    async fn read_control(&self, data_directory: &std::path::Path) -> Result<(Vec<u8>, ControlFile)> {
        let directory = data_directory.to_owned();
        Ok(tokio::task::spawn_blocking(move || read_control_file(&directory)).await.map_err(broken)??)
    }

    /// Waits until everything up to the end of the backup is durable; returns where its last record starts.
    async fn wait_for_wal(&self, copied: &Copied) -> Result<Lsn> {
        self.reporter.phase(BackupPhase::WaitingForWal);
        let (stop_lsn, limit) = (copied.stopped.stop_lsn, self.options.archive_timeout);
        let archive = &self.context.archive;
        let failed = |error| match error {
            WaitError::TimedOut => BackupError::WalNotSealed { stop_lsn, waited: limit },
            WaitError::Stopping => BackupError::Cancelled,
        };
        archive.request_flush();
        let landmark = archive.wait_landmark(stop_lsn, limit).await.map_err(failed)?;
        if landmark.kind != (LandmarkKind::BackupEnd { start_lsn: copied.started.start_lsn }) {
            return Err(BackupError::NoEndRecord { stop_lsn, found: format!("{:?}", landmark.kind) });
        }
        archive.request_flush();
        archive.wait_sealed(stop_lsn, limit).await.map_err(failed)?;
        let wal = WalStore::new(self.context.lineage.clone());
        wal_proof::prove(&wal, copied.control.tli, copied.started.start_lsn, stop_lsn).await?;
        Ok(landmark.start_lsn)
    }

    fn published(&self, copied: Copied, end_record_lsn: Lsn) -> Published {
        let Copied { facts, started, stopped, control, listing, files, given, stored, mut shared, progress, .. } =
            copied;
        let live = files.tablespaces.values().chain([&given]).flat_map(|copy| &copy.live_bytes);
        shared.sharing.resumed = shared.resumed(self.id, live);
        let unnamed = progress.corrupt_pages.load(Ordering::Relaxed).saturating_sub(files.corrupt_pages.len() as u64);
        if unnamed > 0 {
            warn!(backup_id = %self.id, pages = unnamed, "more corrupt pages than the manifest names");
        }
        Published {
            id: self.id.clone(),
            compression_level: self.options.compression_level,
            agent_version: self.context.agent_version.clone(),
            external: external_files(&facts.config_files, &facts.data_directory),
            pages_read: progress.pages.load(Ordering::Relaxed),
            facts,
            started,
            stopped,
            control,
            end_record_lsn,
            listing,
            files,
            given,
            stored,
            parent: self.claimed.parent.id().filter(|_| shared.has_complete()).cloned(),
            shared_packs: shared.packs(),
            sharing: shared.sharing,
        }
    }
}

fn broken(error: JoinError) -> BackupError {
    BackupError::Broken(error.to_string())
}

/// What the server returned, what it has on disk and what we were told at the start must be of one backup.
fn check_label(stopped: &StoppedBackup, started: &StartedBackup, control: &ControlFile) -> Result<()> {
    let label = &stopped.label;
    let mismatch = |what: String| Err(BackupError::NotTheServers(what));
    if label.start_lsn() != started.start_lsn {
        return mismatch(format!("backup_label starts at {}, the backup at {}", label.start_lsn(), started.start_lsn));
    }
    if control.checkpoint_lsn < label.checkpoint_lsn() {
        return mismatch(format!(
            "its pg_control knows the checkpoint at {}, the backup began with the one at {}",
            control.checkpoint_lsn,
            label.checkpoint_lsn()
        ));
    }
    if control.tli != label.tli() {
        return mismatch(format!("it is on timeline {}, the backup on {}", control.tli, label.tli()));
    }
    Ok(())
}

/// The files that come from the server's answers, and `pg_control`.
fn given_files(
    stopped: &StoppedBackup,
    control_bytes: Vec<u8>,
    listing: &Listing,
    now: DateTime<Utc>,
) -> Vec<GivenFile> {
    // As the server makes its own files: 0600, or 0640 where the group may read the data directory.
    let mode = if listing.data_directory.mode & 0o050 == 0o050 { 0o640 } else { 0o600 };
    let file = |path: &str, content: Vec<u8>| {
        let path = path.to_owned().try_into().ok()?;
        Some(GivenFile { path, mode, mtime: now.timestamp(), content: content.into() })
    };
    let mut files =
        vec![file("backup_label", stopped.label.bytes().to_vec()), file("global/pg_control", control_bytes)];
    // An empty file would make the server forget its links.
    if !stopped.tablespace_map_bytes.is_empty() {
        files.push(file("tablespace_map", stopped.tablespace_map_bytes.clone()));
    }
    files.into_iter().flatten().collect()
}

/// Asks the server from the threads that copy.
struct SessionInsertLsn {
    session: Arc<ControlSession>,
    handle: Handle,
}

impl InsertLsn for SessionInsertLsn {
    fn insert_lsn(&self) -> Option<Lsn> {
        // A failure shows in the heartbeat.
        self.handle.block_on(self.session.insert_lsn()).ok()
    }
}
