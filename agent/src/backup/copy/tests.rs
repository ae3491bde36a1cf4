use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pitr::lookup::{InterruptedFiles, interrupted_backups};
use pitr::postgres::page::page_checksum;
use pitr::postgres::relation::{Fork, RelationLocator};
use pitr::postgres::{Lsn, PAGE_SIZE, SystemIdentifier, TimelineId};
use pitr::repository::backup::{BackupId, CorruptPage, Intent, PackId, ProgressHeader, ProgressLine};
use pitr::repository::hash::ContentHash;
use pitr::storage::{KeyPrefix, MemoryStore, PutMode};
use pitr::wal_summary::{ChangedBlocks, RelationChanges};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tempfile::TempDir;

use super::*;
use crate::backup::incremental::cursor::ParentFiles;
use crate::backup::listing::{self, Listing, ListingRequest};
use crate::backup::recorder;
use crate::backup::testing::{self, Reader};

struct NobodyAnswers;

impl InsertLsn for NobodyAnswers {
    fn insert_lsn(&self) -> Option<Lsn> {
        None
    }
}

struct Bench {
    directory: TempDir,
    lineage: LineageStore,
    threads: usize,
    checksums: bool,
    cancel: CancellationToken,
}

impl Bench {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        for path in ["base/5", "global", "pg_tblspc"] {
            fs::create_dir_all(directory.path().join(path)).unwrap();
        }
        let lineage = testing::lineage(Arc::new(MemoryStore::new()), SystemIdentifier::new(7)).await;
        Self { directory, lineage, threads: 2, checksums: false, cancel: CancellationToken::new() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.directory.path().join(path)
    }

    fn write(&self, path: &str, content: &[u8]) {
        fs::create_dir_all(self.path(path).parent().unwrap()).unwrap();
        fs::write(self.path(path), content).unwrap();
    }

    fn list(&self) -> Listing {
        let request = ListingRequest {
            data_directory: self.directory.path().to_owned(),
            tablespace_version_directory: "PG_15_202209061".to_owned(),
        };
        listing::list(&request, &CancellationToken::new()).unwrap()
    }

    fn backup() -> BackupId {
        "20261122T063100Z".parse().unwrap()
    }

    fn copier(&self, progress: &Arc<CopyProgress>) -> Copier {
        Copier::start(self.lineage.clone(), Self::backup(), settings(self), Arc::clone(progress), &self.cancel)
    }

    async fn try_copy(&self, listing: Listing) -> Result<(CopiedFiles, Stored, Arc<CopyProgress>), CopyError> {
        let progress = Arc::new(CopyProgress::default());
        let check = PageCheck {
            enabled: self.checksums,
            start_lsn: Lsn::new(1000),
            insert_lsn: Arc::new(NobodyAnswers),
            corrupt: Arc::clone(&progress.corrupt_pages),
        };
        let mut copier = self.copier(&progress);
        let copied =
            copier.copy_files(self.directory.path().to_owned(), Arc::new(listing.files), check, &[], None).await?;
        Ok((copied, copier.finish().await?, progress))
    }

    /// Copies what was listed and reads it back.
    async fn round_trip(&self, listing: Listing) -> (BTreeMap<String, Vec<u8>>, CopiedFiles, Stored) {
        let (copied, stored, _) = self.try_copy(listing).await.unwrap();
        let mut reader = Reader::new(&self.lineage);
        let mut files = BTreeMap::new();
        for map in copied.tablespaces.values().flat_map(|tablespace| &tablespace.maps) {
            let read = reader.map(&map.hash).await;
            assert_eq!(map.files, read.len() as u64);
            assert_eq!(map.file_bytes, read.values().map(|file| file.content.len() as u64).sum::<u64>());
            files.extend(read.into_iter().map(|(path, file)| (path, file.content)));
        }
        let mut live = BTreeMap::new();
        for ((pack, _), bytes) in &reader.live {
            *live.entry(pack.clone()).or_insert(0) += bytes;
        }
        let mut said = BTreeMap::new();
        for (pack, bytes) in copied.tablespaces.values().flat_map(|tablespace| &tablespace.live_bytes) {
            *said.entry(pack.clone()).or_insert(0) += bytes;
        }
        assert_eq!(said, live);
        self.check_objects(&stored).await;
        (files, copied, stored)
    }

    /// What was said to be stored is what the store has.
    async fn check_objects(&self, stored: &Stored) {
        let packs = self.lineage.list(&self.lineage.layout().packs(&Self::backup())).await.unwrap();
        let sizes: BTreeMap<u32, u64> = packs
            .iter()
            .map(|pack| (u32::from_str_radix(pack.key.file_name(), 16).unwrap(), pack.size_bytes))
            .collect();
        assert_eq!(stored.pack_bytes, sizes);
    }
}

fn noise(rng: &mut StdRng, bytes: usize) -> Vec<u8> {
    // Half of it compressible, so that frames differ in size.
    (0..bytes).map(|n| if n % 64 < 32 { b'x' } else { rng.random() }).collect()
}

/// A page with its checksum.
fn page(rng: &mut StdRng, lsn: u32, block: u32) -> [u8; PAGE_SIZE] {
    let mut page = [0; PAGE_SIZE];
    rng.fill(&mut page[24..]);
    page[4..8].copy_from_slice(&lsn.to_le_bytes());
    page[14..16].copy_from_slice(&8000_u16.to_le_bytes());
    let checksum = page_checksum(&page, block).to_le_bytes();
    page[8..10].copy_from_slice(&checksum);
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_comes_back() {
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let bench = Bench::new().await;
    let mut expected = BTreeMap::new();
    let mut add = |path: String, content: Vec<u8>| {
        bench.write(&path, &content);
        expected.insert(path, content);
    };
    for n in 0..700 {
        let bytes = if n % 7 == 0 { rng.random_range(0..600_000) } else { rng.random_range(0..20_000) };
        add(format!("base/5/{}", 16384 + n), noise(&mut rng, bytes));
    }
    for bytes in [0, 1, 8191, 8192, 8193, FRAME_BYTES - 1, FRAME_BYTES, FRAME_BYTES + 1, (35 << 20) + 5] {
        add(format!("pg_xact/{bytes}"), noise(&mut rng, bytes));
    }
    let mut sparse = vec![0; 40 << 20];
    for _ in 0..50 {
        let at = rng.random_range(0..sparse.len());
        sparse[at] = 1;
    }
    add("base/5/99999".to_owned(), sparse);
    add("base/5/99998".to_owned(), vec![0; 3 << 20]);
    add("odd name %\n".to_owned(), noise(&mut rng, 10));

    let listing = bench.list();
    assert_eq!(listing.files.len(), expected.len());
    let (files, _, stored) = bench.round_trip(listing).await;
    let stored_as: BTreeMap<String, Vec<u8>> = expected
        .into_iter()
        .map(|(path, content)| (StoredPath::from_path(path.as_ref()).unwrap().to_string(), content))
        .collect();
    assert_eq!(files.keys().collect::<Vec<_>>(), stored_as.keys().collect::<Vec<_>>());
    for (path, content) in &stored_as {
        assert!(files[path] == *content, "{path} differs");
    }
    assert!(stored.pack_bytes.len() > 2, "{} packs", stored.pack_bytes.len());
}

#[tokio::test]
async fn zeros_are_stored_nowhere() {
    let bench = Bench::new().await;
    bench.write("base/5/16384", &vec![0; 64 << 20]);
    let (files, copied, stored) = bench.round_trip(bench.list()).await;
    assert_eq!(files["base/5/16384"].len(), 64 << 20);
    assert!(stored.pack_bytes.is_empty());
    assert_eq!(copied.tablespaces[&None].maps.len(), 1);
}

#[tokio::test]
async fn keeps_mode_and_time() {
    let bench = Bench::new().await;
    bench.write("postgresql.conf", b"port = 5432\n");
    fs::set_permissions(bench.path("postgresql.conf"), fs::Permissions::from_mode(0o640)).unwrap();
    let (copied, ..) = bench.try_copy(bench.list()).await.unwrap();
    let file =
        Reader::new(&bench.lineage).map(&copied.tablespaces[&None].maps[0].hash).await["postgresql.conf"].clone();
    let expected = fs::metadata(bench.path("postgresql.conf")).unwrap().mtime();
    assert_eq!((file.mode, file.mtime), (0o640, expected));
}

#[tokio::test]
async fn relations_keep_their_listed_size_and_other_files_their_new_one() {
    let bench = Bench::new().await;
    let old = vec![7; 3 * PAGE_SIZE];
    for name in ["base/5/100", "base/5/101", "base/5/102", "longer.conf", "shorter.conf"] {
        bench.write(name, &old);
    }
    bench.write("base/5/103", &vec![7; 40 << 20]);
    let listing = bench.list();
    bench.write("base/5/100", &vec![7; 5 * PAGE_SIZE]);
    bench.write("base/5/101", &vec![7; PAGE_SIZE]);
    bench.write("base/5/102", &[7; PAGE_SIZE + 100]);
    fs::OpenOptions::new().write(true).open(bench.path("base/5/103")).unwrap().set_len(20 << 20).unwrap();
    bench.write("longer.conf", &vec![8; 5 * PAGE_SIZE]);
    bench.write("shorter.conf", b"short");
    let (files, ..) = bench.round_trip(listing).await;
    let padded = |bytes: usize, size: usize| [vec![7; bytes], vec![0; size - bytes]].concat();
    assert!(files["base/5/100"] == old);
    assert!(files["base/5/101"] == padded(PAGE_SIZE, 3 * PAGE_SIZE));
    assert!(files["base/5/102"] == padded(PAGE_SIZE + 100, 3 * PAGE_SIZE));
    assert!(files["base/5/103"] == padded(20 << 20, 40 << 20));
    assert!(files["longer.conf"] == vec![8; 5 * PAGE_SIZE]);
    assert_eq!(files["shorter.conf"], b"short");
}

#[tokio::test]
async fn files_and_databases_may_vanish() {
    let bench = Bench::new().await;
    for name in ["base/5/100", "base/5/101", "base/5/PG_VERSION", "base/6/100", "base/6/PG_VERSION"] {
        bench.write(name, &[7; 100]);
    }
    bench.write("base/6/pg_filenode.map", &[0; 512]);
    let listing = bench.list();
    fs::remove_file(bench.path("base/5/100")).unwrap();
    fs::remove_dir_all(bench.path("base/6")).unwrap();
    let (files, ..) = bench.round_trip(listing).await;
    assert_eq!(files.keys().collect::<Vec<_>>(), ["base/5/101", "base/5/PG_VERSION"]);
}

#[tokio::test]
async fn a_database_that_is_being_dropped_is_waited_for() {
    let bench = Bench::new().await;
    for name in ["base/5/PG_VERSION", "base/6/PG_VERSION"] {
        bench.write(name, &[7; 3]);
    }
    let listing = bench.list();
    fs::remove_file(bench.path("base/6/PG_VERSION")).unwrap();
    let directory = bench.path("base/6");
    let drop = tokio::task::spawn_blocking(move || {
        std::thread::sleep(Duration::from_millis(50));
        fs::remove_dir_all(directory).unwrap();
    });
    let (files, ..) = bench.round_trip(listing).await;
    drop.await.unwrap();
    assert_eq!(files.keys().collect::<Vec<_>>(), ["base/5/PG_VERSION"]);
}

#[tokio::test]
async fn what_a_database_is_lost_without_may_not_vanish() {
    for name in ["PG_VERSION", "base/5/PG_VERSION", "base/5/pg_filenode.map", "global/pg_filenode.map"] {
        let bench = Bench::new().await;
        bench.write(name, &[7; 512]);
        let listing = bench.list();
        fs::remove_file(bench.path(name)).unwrap();
        let error = bench.try_copy(listing).await.unwrap_err();
        assert!(matches!(&error, CopyError::Missing { path } if path.ends_with(name)), "{error}");
    }
}

#[tokio::test]
async fn a_relation_map_is_read_until_it_is_whole() {
    let bench = Bench::new().await;
    let whole = filenode_map::tests::map(512, 504);
    let mut torn = whole.clone();
    torn[100] ^= 1;
    bench.write("global/pg_filenode.map", &torn);
    let listing = bench.list();
    let path = bench.path("global/pg_filenode.map");
    let repair = {
        let whole = whole.clone();
        tokio::task::spawn_blocking(move || {
            std::thread::sleep(Duration::from_millis(60));
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.write_all_at(&whole, 0).unwrap();
        })
    };
    let (files, ..) = bench.round_trip(listing).await;
    repair.await.unwrap();
    assert_eq!(files["global/pg_filenode.map"], whole);

    bench.write("global/pg_filenode.map", &torn);
    let error = bench.try_copy(bench.list()).await.unwrap_err();
    assert!(matches!(error, CopyError::Damaged { .. }), "{error}");
}

#[tokio::test]
async fn corrupt_pages_are_reported_with_their_place_in_the_relation() {
    let mut rng = StdRng::seed_from_u64(1);
    let mut bench = Bench::new().await;
    bench.checksums = true;
    let relation = |rng: &mut StdRng, first: u32, pages: u32| -> Vec<u8> {
        (first..first + pages).flat_map(|block| page(rng, 500, block)).collect()
    };
    let mut content = relation(&mut rng, 0, 100);
    content[70 * PAGE_SIZE..71 * PAGE_SIZE].fill(0);
    content[77 * PAGE_SIZE + 5000] ^= 1;
    bench.write("base/5/16384", &content);
    let mut second = relation(&mut rng, 131_072, 40);
    second[3 * PAGE_SIZE + 14] = 0;
    second[3 * PAGE_SIZE + 15] = 0;
    second.extend_from_slice(&[1; 100]);
    bench.write("base/5/16384.1", &second);
    // No pages: nothing to verify.
    bench.write("base/5/pg_other", &vec![3; 2 * PAGE_SIZE]);
    let (files, copied, _) = bench.round_trip(bench.list()).await;
    let corrupt = |path: &str, block| CorruptPage { path: path.to_owned().try_into().unwrap(), block };
    assert_eq!(copied.corrupt_pages, [corrupt("base/5/16384", 77), corrupt("base/5/16384.1", 131_075)]);
    assert!(files["base/5/16384"] == content && files["base/5/16384.1"] == second);

    // Without checksums nothing is said.
    bench.checksums = false;
    let (_, _, progress) = {
        let bench =
            Bench { lineage: testing::lineage(Arc::new(MemoryStore::new()), SystemIdentifier::new(7)).await, ..bench };
        bench.try_copy(bench.list()).await.unwrap()
    };
    assert_eq!(progress.corrupt_pages.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn counts_what_it_did() {
    let bench = Bench::new().await;
    bench.write("base/5/16384", &vec![7; 20 << 20]);
    bench.write("base/5/16385", &vec![7; 3 * PAGE_SIZE]);
    let (_, stored, progress) = bench.try_copy(bench.list()).await.unwrap();
    assert_eq!(progress.files.load(Ordering::Relaxed), 2);
    assert_eq!(progress.bytes.load(Ordering::Relaxed), (20 << 20) + 3 * PAGE_SIZE as u64);
    assert_eq!(progress.pages.load(Ordering::Relaxed), (20 << 20) / PAGE_SIZE as u64 + 3);
    assert_eq!(progress.stored_bytes.load(Ordering::Relaxed), stored.new_bytes);
    let all = bench.lineage.list(&KeyPrefix::root()).await.unwrap();
    let ours = all.iter().filter(|object| !object.key.as_str().ends_with(".json")).map(|object| object.size_bytes);
    assert_eq!(stored.new_bytes, ours.sum::<u64>());
}

#[tokio::test]
async fn equal_files_make_equal_maps_and_share_them() {
    let bench = Bench::new().await;
    // Nothing but zeros: the map names no pack.
    bench.write("base/5/16384", &vec![0; PAGE_SIZE]);
    let (first, stored, _) = bench.try_copy(bench.list()).await.unwrap();
    assert!(stored.new_bytes > 0);
    let (second, stored, _) = bench.try_copy(bench.list()).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(stored.new_bytes, 0);
}

#[tokio::test]
async fn unreadable_files_end_the_copy_and_are_named() {
    let bench = Bench::new().await;
    bench.write("base/5/16384", &[7; 100]);
    let listing = bench.list();
    // Readable to nobody, root included: a directory in place of the file.
    fs::remove_file(bench.path("base/5/16384")).unwrap();
    fs::create_dir(bench.path("base/5/16384")).unwrap();
    let error = bench.try_copy(listing).await.unwrap_err();
    assert!(matches!(&error, CopyError::Read { path, .. } if path.ends_with("base/5/16384")), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_stops_the_copy() {
    let bench = Bench::new().await;
    for n in 0..50 {
        bench.write(&format!("base/5/{}", 16384 + n), &noise(&mut StdRng::seed_from_u64(n), 1 << 20));
    }
    bench.cancel.cancel();
    let error = bench.try_copy(bench.list()).await.unwrap_err();
    assert!(matches!(error, CopyError::Cancelled), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failing_store_ends_the_copy_and_is_the_reason() {
    let bench = Bench::new().await;
    for n in 0..80 {
        bench.write(&format!("base/5/{}", 16384 + n), &noise(&mut StdRng::seed_from_u64(n), 1 << 20));
    }
    // Somebody else has this pack already.
    let pack = PackId { backup: Bench::backup(), number: 0 };
    let key = bench.lineage.layout().pack(&pack);
    bench.lineage.store().put(&key, b"other".to_vec().into(), pitr::storage::PutMode::CreateNew).await.unwrap();
    let error = bench.try_copy(bench.list()).await.unwrap_err();
    assert!(matches!(&error, CopyError::Store(_)), "{error}");
}

#[tokio::test]
async fn given_files_are_files_like_any_other() {
    let bench = Bench::new().await;
    let progress = Arc::new(CopyProgress::default());
    let mut copier = bench.copier(&progress);
    let given = |path: &str, content: Vec<u8>| GivenFile {
        path: path.to_owned().try_into().unwrap(),
        mode: 0o600,
        mtime: 5,
        content: content.into(),
    };
    let label = b"START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\n".to_vec();
    let mut control = vec![0; 8192];
    control[3] = 9;
    let files = vec![given("backup_label", label.clone()), given("global/pg_control", control.clone())];
    let copied = copier.copy_given(files).await.unwrap();
    copier.finish().await.unwrap();
    let files = Reader::new(&bench.lineage).map(&copied.maps[0].hash).await;
    assert_eq!(files["backup_label"].content, label);
    assert_eq!(files["global/pg_control"].content, control);
    assert_eq!(files["backup_label"].mtime, 5);
}

impl Bench {
    /// Leaves an interrupted backup in the repository, of what `ledger` gives out.
    async fn interrupt(&self, ledger: &Ledger, keep: impl Fn(&ProgressLine) -> bool) -> Arc<InterruptedFiles> {
        let id = Self::backup();
        let intent =
            Intent { id: id.clone(), parent: None, resumes: None, start_time: id.time(), host: "db1".to_owned() };
        self.lineage.create(&self.lineage.layout().intent(&id), &intent).await.unwrap();
        let mut batch = ledger.take().unwrap();
        batch.lines.retain(keep);
        let header = ProgressHeader {
            id: id.clone(),
            timeline: TimelineId::FIRST,
            start_lsn: Lsn::new(1000),
            catalog_version: 1,
            control_version: 1,
            data_checksums: false,
            number: 0,
            end_lsn: Lsn::new(2000),
            file_bytes: batch.file_bytes,
            bytes: 0,
            blake3: ContentHash::of(&[]),
        };
        let object = recorder::object(&batch, header, 1).unwrap();
        self.lineage.store().put(&self.lineage.layout().progress(&id, 0), object, PutMode::CreateNew).await.unwrap();
        let found = interrupted_backups(&self.lineage, None).await.unwrap();
        Arc::new(InterruptedFiles::load(&self.lineage, &found[0]).await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_copy_has_recorded_is_not_read_again() {
    let bench = Bench::new().await;
    let mut rng = StdRng::seed_from_u64(7);
    let pages = usize::try_from(2 * plan::UNIT_BYTES).unwrap() / PAGE_SIZE + 100;
    bench.write("base/5/16384", &noise(&mut rng, pages * PAGE_SIZE));
    bench.write("base/5/16385", &noise(&mut rng, 70 * PAGE_SIZE));
    bench.write("base/5/16384_vm", &noise(&mut rng, 3 * PAGE_SIZE));
    bench.write("PG_VERSION", b"15\n");
    let (listing, progress) = (bench.list(), Arc::new(CopyProgress::default()));
    let check = PageCheck {
        enabled: false,
        start_lsn: Lsn::new(1000),
        insert_lsn: Arc::new(NobodyAnswers),
        corrupt: Arc::clone(&progress.corrupt_pages),
    };
    let mut first = bench.copier(&progress);
    let ledger = Arc::clone(first.ledger());
    let files = Arc::new(listing.files);
    let directory = || bench.directory.path().to_owned();
    first.copy_files(directory(), Arc::clone(&files), check.clone(), &[], None).await.unwrap();
    first.finish().await.unwrap();
    // The second unit of the large file was not stored in time.
    let lost = |line: &ProgressLine| matches!(line, ProgressLine::Piece { from, .. } if *from == plan::UNIT_BYTES);
    let interrupted = bench.interrupt(&ledger, |line| !lost(line)).await;

    let large = fs::OpenOptions::new().write(true).open(bench.path("base/5/16384")).unwrap();
    for page in [3, 700, 4095, 4096] {
        large.write_all_at(&noise(&mut rng, PAGE_SIZE), page * PAGE_SIZE as u64).unwrap();
    }
    let mut changes = ChangedBlocks::default();
    let relation = RelationLocator { tablespace: 1663, database: 5, relfilenode: 16384 };
    let blocks = [3, 700, 4095, 4096].into_iter().collect();
    changes.relations.insert((relation, Fork::Main), RelationChanges { limit: None, blocks });
    let progress = Arc::new(CopyProgress::default());
    let parent = Parent { files: ParentFiles::Interrupted(Arc::clone(&interrupted)), changes: Some(Arc::new(changes)) };
    let id: BackupId = "20261122T070000Z".parse().unwrap();
    let mut second =
        Copier::start(bench.lineage.clone(), id.clone(), settings(&bench), Arc::clone(&progress), &bench.cancel);
    let ledger = Arc::clone(second.ledger());
    let copied = second.copy_files(directory(), files, check, &[parent], None).await.unwrap();
    second.finish().await.unwrap();
    let unit_pages = plan::UNIT_BYTES / PAGE_SIZE as u64;
    // The unit that was lost has one of the pages that changed.
    assert_eq!(progress.pages.load(Ordering::Relaxed), unit_pages + 3 + 3);
    let mut reader = Reader::new(&bench.lineage);
    for map in copied.tablespaces.values().flat_map(|tablespace| &tablespace.maps) {
        for (path, file) in reader.map(&map.hash).await {
            assert!(file.content == fs::read(bench.path(&path)).unwrap(), "{path}");
        }
    }
    // What was taken over counts as stored, for the one that takes this up.
    let batch = ledger.take().unwrap();
    let packs: Vec<&PackId> = batch
        .lines
        .iter()
        .filter_map(|line| if let ProgressLine::Pack { id, .. } = line { Some(id) } else { None })
        .collect();
    assert!(packs.iter().any(|pack| pack.backup == id) && packs.iter().any(|pack| pack.backup == Bench::backup()));
    let all = interrupted.header.file_bytes;
    assert_eq!(batch.file_bytes, all);
}

fn settings(bench: &Bench) -> CopySettings {
    CopySettings {
        threads: bench.threads,
        compression_level: 1,
        pack_buffers: bench.threads + 2,
        bandwidth_limit: None,
        drop_pause: Duration::from_millis(1),
    }
}
