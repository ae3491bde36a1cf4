//! One backup, from its intent to its manifest.
//!
//! ```text
//! intent ─ preflight ─ start ─ list ─ copy … pg_control ─ stop ─ labels ─ WAL sealed, packs there ─ contents ─ manifest
//!                      └──── the session is watched all the time ────┘
//! ```
//! What has not changed since the parent, an earlier backup that the intent names, is taken over from there.
//!
//! Nothing exists as a backup before the manifest does. Whatever ends a backup earlier leaves objects that no manifest
//! names, and a server that forgets the backup because its session is gone.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::api::BackupPhase;
use pitr::clock::Clock;
use pitr::lookup::BackupFiles;
use pitr::postgres::{ControlFile, Lsn};
use pitr::repository::LineageStore;
use pitr::repository::backup::{BackupId, BackupManifest, CopyMethod, CorruptPage, Intent, Sharing};
use pitr::repository::catalog::Catalog;
use pitr::repository::catalog_load::{MarkerScope, load_without_wal};
use pitr::repository::wal_store::WalStore;
use pitr::restore;
use pitr::storage::ErrorKind;
use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::config_files::external_files;
use super::control::read_control_file;
use super::copy::{
    CopiedFiles, Copier, CopyError, CopyProgress, CopySettings, GivenFile, InsertLsn, PageCheck, Stored, TablespaceCopy,
};
use super::error::{BackupError, Result};
use super::incremental::cursor::Parent;
use super::incremental::method::Since;
use super::incremental::parent::{self, ParentChoice};
use super::incremental::sample::Sample;
use super::job::JobReporter;
use super::listing::{self, Listing, ListingRequest};
use super::options::BackupOptions;
use super::publish::{Published, publish};
use super::session::{BackupServers, ControlSession, ServerFacts, StartedBackup, StoppedBackup};
use super::wal_proof;
use crate::archiver::{ArchiveProgress, GapBook, LandmarkKind, WaitError};
use crate::postgres::ConnInfo;

/// Backups that start within the same second, at most.
const MAX_ORDINAL: u32 = 100;

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

/// A backup that has a name, and what it may share.
#[derive(Debug)]
pub struct ClaimedBackup {
    pub id: BackupId,
    parent: ParentChoice,
    catalog: Catalog,
}

/// Takes the name of a backup that starts now, by writing its intent, which also names its parent. A `fresh` one has none.
///
/// # Errors
/// The repository fails.
pub async fn claim(context: &BackupContext, options: &BackupOptions, fresh: bool) -> Result<ClaimedBackup> {
    let start_time = context.clock.now();
    let catalog = load_without_wal(&context.lineage, &MarkerScope::None).await?;
    let sealed = context.archive.now().sealed.map(|sealed| sealed.timeline);
    let mut parent = if fresh {
        ParentChoice::none("it was to share nothing")
    } else {
        parent::choose(&catalog, sealed.or_else(|| catalog.default_timeline()), options.fresh_every, start_time)
    };
    let id = write_intent(context, start_time, parent.id()).await?;
    if let Some(named) = parent.id().cloned()
        && !parent::still_there(&context.lineage, &named).await?
    {
        parent = ParentChoice::none(format!("backup {named} was deleted just now"));
    }
    Ok(ClaimedBackup { id, parent, catalog })
}

async fn write_intent(
    context: &BackupContext,
    start_time: DateTime<Utc>,
    parent: Option<&BackupId>,
) -> Result<BackupId> {
    let mut ordinal = 1;
    loop {
        let id = BackupId::new(start_time, ordinal);
        let intent = Intent { id: id.clone(), parent: parent.cloned(), start_time, host: context.host.clone() };
        match context.lineage.create(&context.lineage.layout().intent(&id), &intent).await {
            Ok(_) => return Ok(id),
            Err(pitr::repository::Error::Storage(error))
                if error.kind() == ErrorKind::AlreadyExists && ordinal < MAX_ORDINAL =>
            {
                ordinal += 1;
            }
            Err(pitr::repository::Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(BackupError::NoName { last: id });
            }
            Err(error) => return Err(error.into()),
        }
    }
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
}

/// What a backup takes over, and how it found out.
struct Shared {
    parents: Vec<Parent>,
    sharing: Sharing,
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
        publish(&self.context.lineage, self.published(copied, end_record_lsn)).await
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
        let (started, parent_files) = tokio::try_join!(starting, self.parent_files())?;
        info!(backup_id = %self.id, start_lsn = %started.start_lsn, "backup started");
        let progress = Arc::new(CopyProgress::default());
        let settings = CopySettings {
            threads: self.options.threads,
            nice: self.options.nice,
            compression_level: self.options.compression_level,
            pack_buffers: self.options.pack_buffers,
            bandwidth_limit: self.options.bandwidth_limit,
            drop_pause: Duration::from_millis(200),
        };
        let lineage = self.context.lineage.clone();
        let mut copier = Copier::start(lineage, self.id.clone(), settings, Arc::clone(&progress), self.cancel);
        let copy = self.copy(session, &mut copier, &facts, &started, &progress, parent_files);
        let (listing, files, control_bytes, control, shared) = tokio::select! {
            copied = copy => copied?,
            lost = servers.watch() => return Err(lost.into()),
            never = self.reporter.follow(Arc::clone(&progress)) => match never {},
        };
        servers.confirm_source().await?;
        self.reporter.phase(BackupPhase::Stopping);
        let stopped = session.stop().await?;
        info!(backup_id = %self.id, stop_lsn = %stopped.stop_lsn, "backup stopped");
        check_label(&stopped, &started, &control)?;
        let given = copier.copy_given(given_files(&stopped, control_bytes, &listing, self.context.clock.now())).await?;
        let stored = copier.finish().await?;
        self.reporter.show(&progress);
        Ok(Copied { facts, started, stopped, control, listing, files, given, stored, shared, progress })
    }

    /// What the parent has; as an error in words, why there is nothing to share. A parent that is damaged is none.
    async fn parent_files(&self) -> Result<std::result::Result<Arc<BackupFiles>, String>> {
        let manifest = match &self.claimed.parent {
            ParentChoice::None { reason } => return Ok(Err(reason.clone())),
            ParentChoice::Backup(manifest) => manifest,
        };
        match BackupFiles::load(&self.context.lineage, manifest).await {
            Ok(files) => Ok(Ok(Arc::new(files))),
            Err(restore::Error::Damaged { object, reason }) => {
                error!(object, reason, "an earlier backup is damaged: nothing of it is shared");
                Ok(Err(format!("backup {} is damaged: {object} {reason}", manifest.id)))
            }
            Err(error) => Err(CopyError::Parent(error).into()),
        }
    }

    /// How the pages that changed since the parent are found.
    async fn share(
        &self,
        files: std::result::Result<Arc<BackupFiles>, String>,
        control: &ControlFile,
        started: &StartedBackup,
    ) -> Result<Shared> {
        let whole = |reason: Option<String>| {
            let sharing = Sharing { method: CopyMethod::Whole, reason, ..Sharing::default() };
            Shared { parents: Vec::new(), sharing }
        };
        let (files, manifest) = match (files, &self.claimed.parent) {
            (Ok(files), ParentChoice::Backup(manifest)) => (files, manifest),
            (Err(reason), _) => return Ok(whole(Some(reason))),
            (Ok(_), ParentChoice::None { reason }) => return Ok(whole(Some(reason.clone()))),
        };
        let since = Since {
            lineage: &self.context.lineage,
            catalog: &self.claimed.catalog,
            archive: &self.context.archive,
            parent: manifest,
            control,
            start_lsn: started.start_lsn,
            patience: self.options.archive_timeout.min(ARCHIVING_TIMEOUT),
        };
        let (changes, method, reason) = match since.changes().await? {
            Ok(changes) => (Some(Arc::new(changes)), CopyMethod::Summaries, None),
            Err(reason) => (None, CopyMethod::Scan, Some(reason)),
        };
        let base = Some(parent::base(manifest).clone());
        let sharing = Sharing { method, reason, base, ..Sharing::default() };
        Ok(Shared { parents: vec![Parent { files, changes }], sharing })
    }

    fn sample_start(&self) -> u32 {
        match &self.claimed.parent {
            ParentChoice::Backup(manifest) => manifest.sharing.sample_end,
            ParentChoice::None { .. } => 0,
        }
    }

    /// Begins anew, where it is the parent or what is known of it that was of no use.
    fn fall_back(&self, shared: &mut Shared, failure: CopyError) -> Result<()> {
        match failure {
            CopyError::Unlike { path, block } => {
                error!(
                    backup_id = %self.id, %path, block,
                    "a page has changed that the WAL summaries call unchanged: everything is compared now"
                );
                shared.parents.iter_mut().for_each(|parent| parent.changes = None);
                shared.sharing.method = CopyMethod::Scan;
                shared.sharing.reason = Some(format!("block {block} of {path} had changed without a word in the WAL"));
                shared.sharing.unlike = Some(CorruptPage { path, block });
            }
            CopyError::Parent(restore::Error::Damaged { object, reason }) if !shared.parents.is_empty() => {
                error!(backup_id = %self.id, object, reason, "an earlier backup is damaged: nothing of it is shared");
                shared.parents.clear();
                shared.sharing.method = CopyMethod::Whole;
                shared.sharing.reason = Some(format!("the parent is damaged: {object} {reason}"));
                shared.sharing.base = None;
            }
            failure => return Err(failure.into()),
        }
        Ok(())
    }

    /// Lists and copies everything, `pg_control` last.
    async fn copy(
        &self,
        session: &Arc<ControlSession>,
        copier: &mut Copier,
        facts: &ServerFacts,
        started: &StartedBackup,
        progress: &Arc<CopyProgress>,
        parent_files: std::result::Result<Arc<BackupFiles>, String>,
    ) -> Result<(Listing, CopiedFiles, Vec<u8>, ControlFile, Shared)> {
        let (_, control) = self.read_control(&facts.data_directory).await?;
        if control.redo_lsn < started.start_lsn {
            return Err(BackupError::NotTheServers(format!(
                "its pg_control knows the checkpoint at {}, the server made one at {}",
                control.redo_lsn, started.start_lsn
            )));
        }
        let (mut listing, mut shared) =
            tokio::try_join!(self.list(facts), self.share(parent_files, &control, started))?;
        info!(
            backup_id = %self.id,
            parent = self.claimed.parent.id().map(tracing::field::display),
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
        });
        let check = PageCheck {
            enabled: facts.control.data_checksums,
            start_lsn: started.start_lsn,
            insert_lsn: Arc::new(SessionInsertLsn { session: Arc::clone(session), handle: Handle::current() }),
            corrupt: Arc::clone(&progress.corrupt_pages),
        };
        let files = Arc::new(std::mem::take(&mut listing.files));
        let mut sample = Sample::new(self.sample_start(), self.options.sample_bytes, files.total_bytes());
        let copied = loop {
            let directory = facts.data_directory.clone();
            match copier.copy_files(directory, Arc::clone(&files), check.clone(), &shared.parents, sample).await {
                Ok(copied) => break copied,
                Err(error) => self.fall_back(&mut shared, error)?,
            }
            progress.start_over();
            sample = None;
        };
        shared.sharing.sampled_pages = progress.sampled_pages.load(Ordering::Relaxed);
        shared.sharing.sample_end = sample.map_or_else(|| self.sample_start(), Sample::end);
        let (bytes, control) = self.read_control(&facts.data_directory).await?;
        Ok((listing, copied, bytes, control, shared))
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
        let Copied { facts, started, stopped, control, listing, files, given, stored, shared, progress } = copied;
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
            parent: self.claimed.parent.id().filter(|_| !shared.parents.is_empty()).cloned(),
            shared_packs: shared.parents.iter().flat_map(|parent| parent.files.packs.clone()).collect(),
            shared_frames: shared.parents.iter().flat_map(|parent| parent.files.frame_bytes.clone()).collect(),
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
