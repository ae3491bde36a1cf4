//! A writer of small backups in the repository's format, for tests: every frame and every object stands where the test
//! wants it.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::clock::SystemClock;
use crate::postgres::control_file::CONTROL_FILE_SIZE;
use crate::postgres::{Lsn, PAGE_SIZE, ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::recovery::{FetchSize, PlanBasis, RecoveryTarget, ResolvedTarget, RestorePlan};
use crate::repository::backup::file_map::{FileMapPacks, FrameExtent};
use crate::repository::backup::pack::{self, PackedBlock, PackedFrame};
use crate::repository::backup::{
    BackupId, BackupManifest, BackupSource, BackupTablespace, ContentsHeader, ContentsLine, Extent, ExternalRole,
    FileEntry, FileMapHeader, MinimumSettings, Owner, PackId, StoredPath,
};
use crate::repository::document::{self, Document};
use crate::repository::envelope;
use crate::repository::hash::{BlockHash, ContentHash, FrameHash};
use crate::repository::lineage::{Lineage, LineageId};
use crate::repository::{LineageStore, Repository};
use crate::storage::{MemoryStore, ObjectKey, ObjectStore, ObjectStoreExt as _, PutMode};

pub(crate) const SYSTEM_IDENTIFIER: u64 = 7_450_000_000_000_000_000;

pub(crate) fn path(text: &str) -> StoredPath {
    text.to_owned().try_into().unwrap()
}

/// A `pg_control` of PostgreSQL 15 that a server wrote for the lineage of these tests.
pub(crate) fn control_file() -> Vec<u8> {
    control_file_of(SYSTEM_IDENTIFIER, WalSegmentSize::DEFAULT)
}

/// The same of another cluster.
pub(crate) fn control_file_of(system_identifier: u64, segment_size: WalSegmentSize) -> Vec<u8> {
    let mut bytes = vec![0_u8; CONTROL_FILE_SIZE];
    let mut put = |offset: usize, value: &[u8]| bytes[offset..offset + value.len()].copy_from_slice(value);
    put(0, &system_identifier.to_le_bytes());
    put(8, &1300_u32.to_le_bytes());
    put(12, &202_209_061_u32.to_le_bytes());
    put(16, &6_u32.to_le_bytes());
    put(32, &0x0300_0060_u64.to_le_bytes());
    put(40, &0x0300_0028_u64.to_le_bytes());
    put(48, &1_u32.to_le_bytes());
    put(52, &1_u32.to_le_bytes());
    put(56, &[1]);
    put(172, &1_i32.to_le_bytes());
    for (offset, value) in [(180, 100_i32), (184, 8), (188, 10), (192, 0), (196, 64)] {
        put(offset, &value.to_le_bytes());
    }
    put(216, &8192_u32.to_le_bytes());
    put(224, &8192_u32.to_le_bytes());
    put(228, &u32::from(segment_size).to_le_bytes());
    let crc = crc32c::crc32c(&bytes[..288]);
    bytes[288..292].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) const BACKUP_LABEL: &str = "START WAL LOCATION: 0/3000028 (file 000000010000000000000003)\n\
    CHECKPOINT LOCATION: 0/3000060\n\
    BACKUP METHOD: streamed\n\
    BACKUP FROM: primary\n\
    START TIME: 2026-11-22 06:31:00 UTC\n\
    LABEL: pitr\n\
    START TIMELINE: 1\n";

/// Where a backup lies in the WAL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackupSpan {
    pub(crate) timeline: TimelineId,
    pub(crate) start: Lsn,
    pub(crate) checkpoint: Lsn,
    pub(crate) end_record: Lsn,
    pub(crate) stop: Lsn,
}

impl BackupSpan {
    const USUAL: Self = Self {
        timeline: TimelineId::FIRST,
        start: Lsn::new(0x0300_0028),
        checkpoint: Lsn::new(0x0300_0060),
        end_record: Lsn::new(0x0300_0110),
        stop: Lsn::new(0x0300_0138),
    };
}

/// A backup in the making.
pub(crate) struct BackupWriter {
    lineage: LineageStore,
    id: BackupId,
    span: BackupSpan,
    data_checksums: bool,
    parent: Option<BackupId>,
    /// Of other backups, with the lines that name them.
    shared: Vec<ContentsLine>,
    packs: Vec<(PackId, Vec<u8>, Vec<PackedFrame>)>,
    /// Which of these are packs of other backups.
    adopted: BTreeMap<PackId, ContentsLine>,
    /// What the maps need of each pack, by where the frames begin.
    live: BTreeMap<PackId, BTreeMap<u64, u32>>,
    lines: Vec<ContentsLine>,
    maps: Vec<ContentsLine>,
    files: Vec<FileEntry>,
    tablespaces: Vec<BackupTablespace>,
    counted: (u64, u64),
}

/// A place in a pack, for extents.
#[derive(Clone, Copy)]
pub(crate) struct WrittenFrame {
    pub(crate) pack: u32,
    pub(crate) offset: u64,
    pub(crate) stored_bytes: u32,
    pub(crate) hash: FrameHash,
}

impl WrittenFrame {
    pub(crate) fn extent(self, at: usize, bytes: usize) -> Extent {
        Extent::Frame(FrameExtent {
            bytes: bytes as u64,
            pack: self.pack,
            offset: self.offset,
            stored_bytes: self.stored_bytes,
            at: at as u32,
            hash: self.hash,
        })
    }
}

pub(crate) async fn lineage_in(store: Arc<dyn ObjectStore>) -> LineageStore {
    let repository = Repository::open_or_create(store, &SystemClock).await.unwrap();
    let lineage = Lineage {
        cluster: "main".parse().unwrap(),
        lineage: LineageId::new(SystemIdentifier::new(SYSTEM_IDENTIFIER), 1),
        postgres_version: ServerVersion::new(150_018),
        wal_segment_size: WalSegmentSize::DEFAULT,
        created: "2026-11-22T06:00:00Z".parse().unwrap(),
        restore: None,
    };
    repository.ensure_lineage(&lineage).await.unwrap()
}

impl BackupWriter {
    pub(crate) async fn new(lineage: LineageStore) -> Self {
        Self::at(lineage, "20261122T063100Z".parse().unwrap(), BackupSpan::USUAL)
    }

    /// Of this name, between these positions.
    pub(crate) fn at(lineage: LineageStore, id: BackupId, span: BackupSpan) -> Self {
        let mut writer = Self {
            lineage,
            id,
            span,
            data_checksums: false,
            parent: None,
            shared: Vec::new(),
            packs: Vec::new(),
            adopted: BTreeMap::new(),
            live: BTreeMap::new(),
            lines: Vec::new(),
            maps: Vec::new(),
            files: Vec::new(),
            tablespaces: Vec::new(),
            counted: (0, 0),
        };
        writer.next_pack();
        writer
    }

    pub(crate) fn with_checksums(mut self) -> Self {
        self.data_checksums = true;
        self
    }

    /// Takes over the first map of another backup, whose packs are those of `lines`.
    pub(crate) fn share(&mut self, parent: &BackupId, lines: &[ContentsLine]) {
        self.parent = Some(parent.clone());
        let map = lines.iter().find(|line| matches!(line, ContentsLine::Map { .. })).unwrap();
        if let ContentsLine::Map { files, plain_bytes, .. } = map {
            self.counted.0 += files;
            self.counted.1 += plain_bytes;
        }
        self.shared.extend(lines.iter().filter(|line| matches!(line, ContentsLine::Pack { .. })).cloned());
        self.maps.push(map.clone());
    }

    /// Packs of other backups, by the lines that name them, before the first frame is written: the numbers of frames in them
    /// are their places here.
    pub(crate) fn adopt(&mut self, lines: Vec<ContentsLine>) {
        let own = std::mem::take(&mut self.packs);
        for line in lines {
            let ContentsLine::Pack { id, .. } = &line else { panic!("{line:?} names no pack") };
            self.packs.push((id.clone(), Vec::new(), Vec::new()));
            self.adopted.insert(id.clone(), line);
        }
        self.packs.extend(own);
    }

    pub(crate) fn next_pack(&mut self) {
        let id = PackId { backup: self.id.clone(), number: self.packs.len() as u32 };
        let header = pack::header(&id);
        self.packs.push((id, header, Vec::new()));
    }

    /// One frame in the newest pack; every piece begins a block.
    pub(crate) fn frame(&mut self, pieces: &[&[u8]]) -> WrittenFrame {
        let number = self.packs.len() as u32 - 1;
        let (_, bytes, frames) = self.packs.last_mut().unwrap();
        let plain = pieces.concat();
        let stored = zstd::bulk::compress(&plain, 1).unwrap();
        let blocks: Vec<PackedBlock> = pieces
            .iter()
            .flat_map(|piece| piece.chunks(PAGE_SIZE))
            .map(|block| PackedBlock { bytes: block.len() as u16, hash: BlockHash::of(block) })
            .collect();
        let hash = FrameHash::of(&blocks.iter().map(|block| block.hash).collect::<Vec<_>>());
        let frame = WrittenFrame { pack: number, offset: bytes.len() as u64, stored_bytes: stored.len() as u32, hash };
        frames.push(PackedFrame {
            offset: frame.offset,
            stored_bytes: frame.stored_bytes,
            plain_bytes: plain.len() as u32,
            blocks,
        });
        bytes.extend_from_slice(&stored);
        frame
    }

    pub(crate) fn directory(&mut self, text: &str, mode: u32) {
        self.lines.push(ContentsLine::Directory { path: path(text), mode });
    }

    pub(crate) fn link(&mut self, text: &str, target: &str) {
        self.lines.push(ContentsLine::Link { path: path(text), target: target.to_owned() });
    }

    pub(crate) fn external(&mut self, role: ExternalRole, path: &str, content: &str) {
        use base64::Engine as _;
        let base64 = base64::engine::general_purpose::STANDARD.encode(content);
        self.lines.push(ContentsLine::External { role, path: path.to_owned(), mode: 0o644, base64 });
    }

    pub(crate) fn tablespace(&mut self, oid: u32, location: &str) {
        self.tablespaces.push(BackupTablespace { oid, location: location.to_owned(), in_place: false, mode: 0o700 });
    }

    /// A file of these extents, in the map that [`BackupWriter::close_map`] ends.
    pub(crate) fn file_of(&mut self, path: StoredPath, mode: u32, extents: Vec<Extent>) {
        let size = extents.iter().map(Extent::bytes).sum();
        self.files.push(FileEntry { path, size, mode, mtime: 1_790_000_000, extents });
    }

    /// A file in frames of its own, zero pages left out.
    pub(crate) fn file(&mut self, text: &str, content: &[u8]) {
        let mut extents = Vec::new();
        for chunk in content.chunks(pack::FRAME_BYTES) {
            if chunk.iter().all(|byte| *byte == 0) {
                extents.push(Extent::Zeros { bytes: chunk.len() as u64 });
            } else {
                extents.push(self.frame(&[chunk]).extent(0, chunk.len()));
            }
        }
        self.file_of(path(text), 0o600, extents);
    }

    /// The files that every backup has.
    pub(crate) fn needed_files(&mut self) {
        self.directory("global", 0o700);
        self.directory("pg_wal", 0o700);
        self.file("PG_VERSION", b"15\n");
        let label = self.label();
        self.file("backup_label", label.as_bytes());
        let lineage = self.lineage.lineage();
        let control = control_file_of(lineage.lineage.system_identifier().as_u64(), lineage.wal_segment_size);
        self.file("global/pg_control", &control);
        self.file("postgresql.conf", b"max_connections = 100\n");
        self.file("postgresql.auto.conf", b"# Do not edit\n");
        self.file("pg_hba.conf", b"local all all trust\n");
    }

    fn label(&self) -> String {
        let (span, size) = (self.span, self.lineage.lineage().wal_segment_size);
        let segment = size.segment_of(span.start).name(span.timeline, size);
        BACKUP_LABEL
            .replace("0/3000028 (file 000000010000000000000003)", &format!("{} (file {segment})", span.start))
            .replace("0/3000060", &span.checkpoint.to_string())
            .replace("TIMELINE: 1", &format!("TIMELINE: {}", span.timeline))
    }

    pub(crate) fn drop_file(&mut self, text: &str) {
        self.files.retain(|file| file.path.as_str() != text);
    }

    pub(crate) fn replace_file(&mut self, text: &str, content: &[u8]) {
        self.drop_file(text);
        self.file(text, content);
    }

    pub(crate) async fn close_map(&mut self) {
        let mut files = std::mem::take(&mut self.files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        for extent in files.iter().flat_map(|file| &file.extents) {
            if let Extent::Frame(frame) = extent
                && let Some((id, _, _)) = self.packs.get(frame.pack as usize)
            {
                self.live.entry(id.clone()).or_default().insert(frame.offset, frame.stored_bytes);
            }
        }
        let packs = self.packs.iter().map(|(id, _, _)| id.clone()).collect();
        let mut lines = json_line(&FileMapPacks { packs });
        files.iter().for_each(|file| lines.extend(json_line(file)));
        let hash = ContentHash::of(&lines);
        let header = FileMapHeader { files: files.len() as u64, bytes: lines.len() as u64, blake3: hash };
        let object = enveloped(&header, &lines);
        let stored_bytes = object.len() as u64;
        self.put(&self.lineage.layout().map(&hash), object).await;
        let plain_bytes = files.iter().map(|file| file.size).sum();
        self.maps.push(ContentsLine::Map { hash, files: files.len() as u64, plain_bytes, stored_bytes, first: None });
        self.counted.0 += files.len() as u64;
        self.counted.1 += plain_bytes;
    }

    /// Writes what is left, the manifest last.
    pub(crate) async fn finish(self) -> BackupManifest {
        self.finish_with_lines().await.0
    }

    /// The same, with what the contents hold.
    pub(crate) async fn finish_with_lines(mut self) -> (BackupManifest, Vec<ContentsLine>) {
        if !self.files.is_empty() {
            self.close_map().await;
        }
        let mut lines = std::mem::take(&mut self.lines);
        for (id, mut bytes, frames) in std::mem::take(&mut self.packs) {
            let needed = self.live.get(&id).map_or(0, |frames| frames.values().map(|bytes| u64::from(*bytes)).sum());
            if let Some(ContentsLine::Pack { id, bytes, frame_bytes, .. }) = self.adopted.remove(&id) {
                lines.push(ContentsLine::Pack { id, bytes, live_bytes: needed, frame_bytes });
                continue;
            }
            bytes.extend(pack::trailer(&frames));
            let size = bytes.len() as u64;
            self.put(&self.lineage.layout().pack(&id), bytes).await;
            let live_bytes: u64 = frames.iter().map(|frame| u64::from(frame.stored_bytes)).sum();
            lines.push(ContentsLine::Pack { id, bytes: size, live_bytes, frame_bytes: Some(live_bytes) });
        }
        lines.append(&mut self.shared);
        lines.append(&mut self.maps);
        let told = lines.clone();
        let lines: Vec<u8> = lines.iter().flat_map(json_line).collect();
        let header = ContentsHeader {
            id: self.id.clone(),
            bytes: lines.len() as u64,
            blake3: ContentHash::of(&lines),
            rewritten: None,
        };
        self.put(&self.lineage.layout().contents(&self.id), enveloped(&header, &lines)).await;
        let manifest = self.manifest(header.blake3);
        self.put(&self.lineage.layout().manifest(&self.id), document::seal(&manifest)).await;
        (manifest, told)
    }

    async fn put(&self, key: &ObjectKey, bytes: Vec<u8>) {
        self.lineage.store().put_bytes(key, Bytes::from(bytes), PutMode::CreateNew).await.unwrap();
    }

    fn manifest(&self, contents: ContentHash) -> BackupManifest {
        let time = self.id.time();
        BackupManifest {
            id: self.id.clone(),
            cluster: "main".parse().unwrap(),
            system_identifier: self.lineage.lineage().lineage.system_identifier(),
            postgres_version: ServerVersion::new(150_018),
            catalog_version: 202_209_061,
            control_version: 1300,
            wal_segment_size: self.lineage.lineage().wal_segment_size,
            data_checksums: self.data_checksums,
            timeline: self.span.timeline,
            start_lsn: self.span.start,
            checkpoint_lsn: self.span.checkpoint,
            stop_lsn: self.span.stop,
            end_record_lsn: self.span.end_record,
            start_time: time,
            stop_time: time,
            source: BackupSource::Primary,
            tablespaces: self.tablespaces.clone(),
            settings: MinimumSettings {
                max_connections: 100,
                max_worker_processes: 8,
                max_wal_senders: 10,
                max_prepared_transactions: 0,
                max_locks_per_transaction: 64,
            },
            owner: Owner { uid: nix::unistd::geteuid().as_raw(), gid: 0, user: None, group: None },
            directory_mode: 0o700,
            data_directory: "/var/lib/postgresql/15/main".to_owned(),
            files: self.counted.0,
            size_bytes: self.counted.1,
            stored_bytes: 0,
            new_bytes: 0,
            pages_read: 0,
            corrupt_pages: Vec::new(),
            parent: self.parent.clone(),
            sharing: crate::repository::backup::Sharing::default(),
            contents,
            agent_version: "0.1.0".to_owned(),
        }
    }
}

fn json_line<T: Serialize>(value: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(value).unwrap();
    line.push(b'\n');
    line
}

pub(crate) fn enveloped<T: Document>(header: &T, lines: &[u8]) -> Vec<u8> {
    let mut object = envelope::header(header);
    object.extend(zstd::bulk::compress(lines, 1).unwrap());
    object
}

pub(crate) fn memory() -> Arc<dyn ObjectStore> {
    Arc::new(MemoryStore::new())
}

/// A plan that restores `backup` and recovers to its end.
pub(crate) fn plan_for(lineage: &LineageStore, backup: &BackupManifest) -> RestorePlan {
    RestorePlan {
        lineage: lineage.lineage().clone(),
        backup: backup.clone(),
        target: ResolvedTarget {
            asked: RecoveryTarget::Immediate,
            timeline: backup.timeline,
            lsn: backup.end_record_lsn,
            end_lsn: backup.stop_lsn,
            last_kept: None,
            first_left_out: None,
        },
        wal: Vec::new(),
        fetch: FetchSize { files: backup.files, backup_bytes: backup.size_bytes, ..FetchSize::default() },
        settings: backup.settings,
        basis: PlanBasis::default(),
        warnings: Vec::new(),
    }
}

/// Every path below `directory` with what it is: `d` and mode, `l` and target, or `f`, mode and content.
pub(crate) fn snapshot(directory: &std::path::Path) -> BTreeMap<std::path::PathBuf, String> {
    use std::os::unix::fs::PermissionsExt as _;

    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(next) = left.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let mode = metadata.permissions().mode() & 0o7777;
            let text = if metadata.is_symlink() {
                format!("l {}", std::fs::read_link(entry.path()).unwrap().display())
            } else if metadata.is_dir() {
                left.push(entry.path());
                format!("d {mode:o}")
            } else {
                format!("f {mode:o} {}", ContentHash::of(&std::fs::read(entry.path()).unwrap()))
            };
            found.insert(entry.path().strip_prefix(directory).unwrap().to_owned(), text);
        }
    }
    found
}
