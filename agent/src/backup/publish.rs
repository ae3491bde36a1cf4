//! The last steps of a backup: its packs are looked for, then its contents and its manifest are written.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, TryStreamExt, stream};
use nix::unistd::{Gid, Group, Uid, User};
use pitr::postgres::control_file::HotStandbyMinimums;
use pitr::postgres::{ControlFile, Lsn};
use pitr::repository::backup::{
    BackupId, BackupManifest, BackupSource, BackupTablespace, ContentsLine, ContentsWriter, FinishedContents,
    MinimumSettings, Owner, PackId, Sharing,
};
use pitr::repository::{self, LineageStore};
use pitr::storage::{Payload, PutMode};
use tracing::warn;

use super::copy::{CopiedFiles, CopyError, Stored, TablespaceCopy};
use super::error::{BackupError, Result};
use super::listing::{DataDirectoryStat, Listing};
use super::session::{ServerFacts, StartedBackup, StoppedBackup};

/// Backups whose packs are listed at once.
const PARALLEL_LISTINGS: usize = 8;

/// All that is known of a backup once its files and its WAL are in the repository.
pub struct Published {
    pub id: BackupId,
    pub compression_level: i32,
    pub agent_version: String,
    pub facts: ServerFacts,
    pub started: StartedBackup,
    pub stopped: StoppedBackup,
    pub control: ControlFile,
    pub end_record_lsn: Lsn,
    pub listing: Listing,
    pub external: Vec<ContentsLine>,
    pub files: CopiedFiles,
    pub given: TablespaceCopy,
    pub stored: Stored,
    pub parent: Option<BackupId>,
    /// Packs of other backups that may be named, and their sizes.
    pub shared_packs: BTreeMap<PackId, u64>,
    /// How many bytes the frames of these packs take, where that is known.
    pub shared_frames: BTreeMap<PackId, u64>,
    pub sharing: Sharing,
    pub pages_read: u64,
}

/// Makes the backup exist.
///
/// # Errors
/// A pack is not there, or the repository fails; the backup does not exist then.
pub async fn publish(lineage: &LineageStore, published: Published) -> Result<BackupManifest> {
    let tablespaces = tablespaces(&published);
    let known: BTreeSet<u32> = tablespaces.iter().map(|tablespace| tablespace.oid).collect();
    let parts = Parts::of(&published, &known);
    let packs = parts.packs(&published)?;
    // Of its own also those that nothing needs in the end: a pack that was lost is a store that loses packs.
    let own = published.stored.pack_bytes.iter();
    let own = own.map(|(number, bytes)| (PackId { backup: published.id.clone(), number: *number }, *bytes));
    check_packs(lineage, &own.chain(packs.clone()).collect()).await?;

    let contents = write_contents(&published, &known, &parts, &packs).map_err(CopyError::from)?;
    let payload = Payload::Chunks(contents.object);
    let contents_bytes = payload.size_bytes();
    let key = lineage.layout().contents(&published.id);
    lineage.store().put(&key, payload, PutMode::CreateNew).await.map_err(repository::Error::from)?;

    let manifest = BackupManifest {
        id: published.id.clone(),
        cluster: lineage.lineage().cluster.clone(),
        system_identifier: published.control.system_identifier,
        postgres_version: published.facts.version,
        catalog_version: published.control.catalog_version,
        control_version: published.control.control_version,
        wal_segment_size: published.control.wal_segment_size,
        data_checksums: published.control.data_checksums,
        timeline: published.control.tli,
        start_lsn: published.started.start_lsn,
        checkpoint_lsn: published.stopped.label.checkpoint_lsn(),
        stop_lsn: published.stopped.stop_lsn,
        end_record_lsn: published.end_record_lsn,
        start_time: published.started.time,
        stop_time: published.stopped.time,
        source: BackupSource::Primary,
        tablespaces,
        settings: settings(published.control.hot_standby_minimums),
        owner: owner(published.listing.data_directory),
        directory_mode: published.listing.data_directory.mode,
        data_directory: published.facts.data_directory.display().to_string(),
        files: parts.files,
        size_bytes: parts.bytes,
        stored_bytes: packs.values().sum(),
        new_bytes: published.stored.new_bytes + contents_bytes,
        pages_read: published.pages_read,
        corrupt_pages: published.files.corrupt_pages,
        parent: published.parent,
        sharing: published.sharing,
        contents: contents.hash,
        agent_version: published.agent_version,
    };
    lineage.create(&lineage.layout().manifest(&published.id), &manifest).await?;
    Ok(manifest)
}

/// What belongs to the backup of all that was copied.
struct Parts<'a> {
    copies: Vec<&'a TablespaceCopy>,
    /// Bytes that are needed of each pack.
    live_bytes: BTreeMap<PackId, u64>,
    files: u64,
    bytes: u64,
}

impl<'a> Parts<'a> {
    /// A tablespace that the server does not know in this backup was made after its start, or dropped before its end: WAL
    /// makes or drops it again, and would stumble over its files.
    fn of(published: &'a Published, known: &BTreeSet<u32>) -> Self {
        let copied = &published.files.tablespaces;
        let kept = copied.iter().filter(|(oid, _)| oid.is_none_or(|oid| known.contains(&oid)));
        let copies: Vec<&TablespaceCopy> = kept.map(|(_, copy)| copy).chain([&published.given]).collect();
        let mut live_bytes = BTreeMap::new();
        for (pack, bytes) in copies.iter().flat_map(|copy| &copy.live_bytes) {
            *live_bytes.entry(pack.clone()).or_insert(0) += bytes;
        }
        let maps = || copies.iter().flat_map(|copy| &copy.maps);
        let (files, bytes) = (maps().map(|map| map.files).sum(), maps().map(|map| map.file_bytes).sum());
        Self { copies, live_bytes, files, bytes }
    }

    /// Every pack that is needed, with its size.
    fn packs(&self, published: &Published) -> Result<BTreeMap<PackId, u64>> {
        let size = |pack: &PackId| {
            if pack.backup == published.id {
                published.stored.pack_bytes.get(&pack.number)
            } else {
                published.shared_packs.get(pack)
            }
        };
        let sized = |pack: &PackId| match size(pack) {
            Some(bytes) => Ok((pack.clone(), *bytes)),
            None => Err(BackupError::PackLost { pack: pack.clone(), reason: "its size is not known".to_owned() }),
        };
        self.live_bytes.keys().map(sized).collect()
    }

    fn frame_bytes(published: &Published, pack: &PackId) -> Option<u64> {
        if pack.backup == published.id {
            published.stored.frame_bytes.get(&pack.number).copied()
        } else {
            published.shared_frames.get(pack).copied()
        }
    }
}

/// The tablespaces of `tablespace_map`, from which the server makes its links again, and those in place.
fn tablespaces(published: &Published) -> Vec<BackupTablespace> {
    let listed = &published.listing.tablespaces;
    let mode_of = |oid| listed.iter().find(|tablespace| tablespace.oid == oid).map_or(0o700, |listed| listed.mode);
    let mapped = published.stopped.tablespace_map.tablespaces().iter().map(|tablespace| BackupTablespace {
        oid: tablespace.oid,
        location: tablespace.path.display().to_string(),
        in_place: false,
        mode: mode_of(tablespace.oid),
    });
    let in_place = listed.iter().filter(|tablespace| tablespace.in_place).cloned();
    let mut all: Vec<_> = mapped.chain(in_place).collect();
    all.sort_by_key(|tablespace| tablespace.oid);
    for left_out in listed.iter().filter(|listed| !all.iter().any(|known| known.oid == listed.oid)) {
        warn!(backup_id = %published.id, oid = left_out.oid, "a tablespace that was made during the backup is left to WAL");
    }
    all
}

fn write_contents(
    published: &Published,
    known: &BTreeSet<u32>,
    parts: &Parts<'_>,
    packs: &BTreeMap<PackId, u64>,
) -> pitr::codec::Result<FinishedContents> {
    let mut writer = ContentsWriter::new(published.compression_level)?;
    for directory in &published.listing.directories {
        let oid = directory.path.as_str().strip_prefix("pg_tblspc/").and_then(|rest| rest.split('/').next());
        if oid.and_then(|oid| oid.parse().ok()).is_none_or(|oid| known.contains(&oid)) {
            writer.add(&ContentsLine::Directory { path: directory.path.clone(), mode: directory.mode })?;
        }
    }
    for link in &published.listing.links {
        writer.add(&ContentsLine::Link { path: link.path.clone(), target: link.target.clone() })?;
    }
    for external in &published.external {
        writer.add(external)?;
    }
    for (id, bytes) in packs {
        let live_bytes = parts.live_bytes.get(id).copied().unwrap_or(0);
        let frame_bytes = Parts::frame_bytes(published, id);
        writer.add(&ContentsLine::Pack { id: id.clone(), bytes: *bytes, live_bytes, frame_bytes })?;
    }
    for map in parts.copies.iter().flat_map(|copy| &copy.maps) {
        writer.add(&ContentsLine::Map {
            hash: map.hash,
            files: map.files,
            plain_bytes: map.file_bytes,
            stored_bytes: map.stored_bytes,
            first: map.first.clone(),
        })?;
    }
    writer.finish(&published.id)
}

/// The store has every pack, in the size it was given.
async fn check_packs(lineage: &LineageStore, packs: &BTreeMap<PackId, u64>) -> Result<()> {
    let mut by_backup: BTreeMap<&BackupId, BTreeMap<u32, u64>> = BTreeMap::new();
    for (id, bytes) in packs {
        by_backup.entry(&id.backup).or_default().insert(id.number, *bytes);
    }
    let checks = stream::iter(by_backup).map(Ok);
    checks.try_for_each_concurrent(PARALLEL_LISTINGS, |(backup, packs)| check_packs_of(lineage, backup, packs)).await
}

async fn check_packs_of(lineage: &LineageStore, backup: &BackupId, mut missing: BTreeMap<u32, u64>) -> Result<()> {
    let prefix = lineage.layout().packs(backup);
    let mut listed = lineage.store().list(&prefix);
    while let Some(object) = listed.try_next().await.map_err(repository::Error::from)? {
        let number = u32::from_str_radix(object.key.file_name(), 16).ok();
        let Some((number, bytes)) = number.and_then(|number| missing.remove_entry(&number)) else { continue };
        if object.size_bytes != bytes {
            let reason = format!("it has {} bytes instead of {bytes}", object.size_bytes);
            return Err(BackupError::PackLost { pack: PackId { backup: backup.clone(), number }, reason });
        }
    }
    match missing.keys().next() {
        Some(number) => {
            let pack = PackId { backup: backup.clone(), number: *number };
            Err(BackupError::PackLost { pack, reason: "it is missing".to_owned() })
        }
        None => Ok(()),
    }
}

fn settings(minimums: HotStandbyMinimums) -> MinimumSettings {
    let number = |value: i32| u32::try_from(value).unwrap_or(0);
    MinimumSettings {
        max_connections: number(minimums.max_connections),
        max_worker_processes: number(minimums.max_worker_processes),
        max_wal_senders: number(minimums.max_wal_senders),
        max_prepared_transactions: number(minimums.max_prepared_transactions),
        max_locks_per_transaction: number(minimums.max_locks_per_transaction),
    }
}

fn owner(stat: DataDirectoryStat) -> Owner {
    let user = User::from_uid(Uid::from_raw(stat.uid)).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(stat.gid)).ok().flatten();
    Owner { uid: stat.uid, gid: stat.gid, user: user.map(|user| user.name), group: group.map(|group| group.name) }
}

#[cfg(test)]
mod tests;
