//! Rewriting on a store that fails, and beside those who read and write.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use chrono::TimeDelta;
use chrono_tz::Tz;
use futures::TryStreamExt;

use super::*;
use crate::clock::Clock as _;
use crate::expire::tests::run;
use crate::expire::{Expired, load_holdings};
use crate::lookup::BackupFiles;
use crate::repository::backup::{BackupId, ContentsLine, Extent, Intent};
use crate::repository::catalog::testing::{at, lease};
use crate::restore::contents::Contents;
use crate::restore::prepare::testing::{Archive, History};
use crate::restore::testing::{BackupSpan, BackupWriter, WrittenFrame, snapshot};
use crate::restore::tests::{restore, target};
use crate::retention::{Order, Policy, plan};
use crate::storage::fault::{Fault, FaultRule};
use crate::storage::{ErrorKind, KeyPrefix, ObjectStore, Operation, PutMode};
use crate::verify::{Depth, VerifyOptions, verify_lineage};

const DAY: i64 = 86_400;
/// Frames of the relation that every backup has.
const FRAMES: usize = 14;

/// What each backup holds.
type Files = BTreeMap<BackupId, BTreeMap<PathBuf, String>>;

/// Four backups, a day apart. Each takes a frame or two over from each pack before it; the first two are nobody's to keep.
struct Cluster {
    archive: Archive,
    backups: Vec<BackupManifest>,
    files: Files,
    packs: Vec<PackId>,
}

fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..bytes).map(|_| next()).collect()
}

fn span(history: &mut History, second: i64) -> BackupSpan {
    let start = history.wal.filler(100);
    let checkpoint = history.wal.filler(100);
    history.commit(second - 5);
    let end = history.wal.backup_end(start.start);
    BackupSpan {
        timeline: history.wal.tli,
        start: start.start,
        checkpoint: checkpoint.start,
        end_record: end.start,
        stop: end.end,
    }
}

/// A frame of the relation: who wrote it, and where.
#[derive(Clone)]
struct Held {
    day: usize,
    frame: WrittenFrame,
    bytes: usize,
}

impl Cluster {
    async fn new() -> Self {
        let mut cluster = Self::unread().await;
        for backup in &cluster.backups {
            let files = cluster.restored(backup).await.unwrap();
            cluster.files.insert(backup.id.clone(), files);
        }
        cluster
    }

    /// The same; what its backups hold is to be told.
    async fn unread() -> Self {
        let archive = Archive::new().await;
        let mut history = History::new();
        let (mut backups, mut packs): (Vec<BackupManifest>, Vec<ContentsLine>) = (Vec::new(), Vec::new());
        let mut relation: Vec<Held> = Vec::new();
        for day in 0..4 {
            let second = day as i64 * DAY;
            let id = BackupId::new(at(second), 1);
            let parent = backups.last().map(|backup| backup.id.clone());
            put_intent(&archive, &id, parent).await;
            let mut writer = BackupWriter::at(archive.lineage.clone(), id, span(&mut history, second));
            writer.adopt(packs.clone());
            writer.directory("base", 0o700);
            writer.directory("base/5", 0o700);
            relation = (0..FRAMES)
                .map(|place| {
                    // What is left of each pack: one frame, with the blocks of two files in it.
                    let stays = relation.get(place).filter(|_| place < day * 2 && place.is_multiple_of(2));
                    stays.cloned().unwrap_or_else(|| {
                        let bytes = 9 * 8192 + place * 1000;
                        let content = noise((day * 100 + place) as u64, bytes);
                        let (one, other) = content.split_at(3 * 8192 + 100);
                        Held { day, frame: writer.frame(&[one, other]), bytes }
                    })
                })
                .collect();
            // Two maps, with files that share frames, and a part of a frame.
            for (number, half) in relation.chunks(FRAMES / 2).enumerate() {
                let extents = half.iter().map(|held| held.frame.extent(0, held.bytes)).collect();
                writer.file_of(crate::restore::testing::path(&format!("base/5/10{number}")), 0o600, extents);
                let part = relation[0].frame.extent(8192, 8192);
                let parts = vec![part, Extent::Zeros { bytes: 8192 }, half[2].frame.extent(0, 100)];
                writer.file_of(crate::restore::testing::path(&format!("base/5/20{number}")), 0o600, parts);
                if number == 0 {
                    writer.close_map().await;
                }
            }
            writer.needed_files();
            let (manifest, lines) = writer.finish_with_lines().await;
            let own = |line: &&ContentsLine| matches!(line, ContentsLine::Pack { id, .. } if id.backup == manifest.id);
            packs.push(lines.iter().find(own).unwrap().clone());
            backups.push(manifest);
            history.fill(1);
            history.commit(second + 1200);
            assert!(relation.iter().all(|held| held.frame.pack as usize == held.day), "frames know their packs");
        }
        archive.put_wal(1, 0, &history.wal).await;
        archive.put_lease(&lease(1, history.wal.position().as_u64(), 4 * DAY)).await;
        archive.clock.advance(TimeDelta::hours(2 * 24 + 4));
        let packs = packs.into_iter().filter_map(|line| match line {
            ContentsLine::Pack { id, .. } => Some(id),
            _ => None,
        });
        Self { packs: packs.collect(), archive, backups, files: BTreeMap::new() }
    }

    fn lineage(&self) -> &LineageStore {
        &self.archive.lineage
    }

    fn kept(&self) -> &[BackupManifest] {
        &self.backups[2..]
    }

    async fn restored(&self, backup: &BackupManifest) -> restore::Result<BTreeMap<PathBuf, String>> {
        let (_scratch, directory) = target();
        restore(self.lineage(), backup, &directory).await?;
        let mut found = snapshot(&directory);
        found.retain(|path, _| path.starts_with("base") || path.ends_with("PG_VERSION"));
        Ok(found)
    }

    async fn check(&self, context: &str) {
        for backup in self.kept() {
            let files = self.restored(backup).await.unwrap_or_else(|error| panic!("{context}: {}: {error}", backup.id));
            assert!(files == self.files[&backup.id], "{context}: {} holds something else", backup.id);
        }
    }

    async fn keys(&self) -> BTreeSet<String> {
        let listed: Vec<_> = self.archive.faults.list(&KeyPrefix::root()).try_collect().await.unwrap();
        listed.into_iter().map(|meta| meta.key.to_string()).collect()
    }

    async fn has(&self, object: &str) -> bool {
        self.keys().await.iter().any(|key| key.ends_with(object))
    }

    async fn has_pack(&self, nth: usize) -> bool {
        self.has(&format!("packs/{}", self.packs[nth])).await
    }

    /// As seen so many hours later: the newest two backups stay.
    async fn expire(&self, hours: i64) -> crate::expire::Result<Expired> {
        self.archive.clock.advance(TimeDelta::hours(hours));
        let order = Order::Policy(Policy {
            window: Some(TimeDelta::hours(20 + hours)),
            daily: 0,
            weekly: 0,
            monthly: 0,
            markers: None,
            minimum: 1,
            grace: TimeDelta::hours(12),
            zone: Tz::UTC,
        });
        let done = run(&[self.lineage().clone()], self.lineage(), &order, &self.archive.clock).await;
        self.archive.clock.advance(TimeDelta::hours(-hours));
        done
    }

    async fn rewritten(&self, hours: i64) -> RewrittenPacks {
        let done = self.expire(hours).await.unwrap();
        done.lineages[&self.lineage().lineage().lineage].rewritten
    }

    /// What is there at the end, however it came to be.
    async fn check_end(&self, context: &str) {
        self.check(context).await;
        for nth in 0..2 {
            assert!(!self.has_pack(nth).await, "{context}: pack {nth} is there");
        }
        assert!(self.has_pack(2).await && self.has_pack(3).await, "{context}: what is mostly needed stays");
        for backup in self.kept() {
            let of = |file: &str| format!("backups/{}/{file}", backup.id);
            assert!(!self.has(&of("contents.zst")).await, "{context}: {} has two generations", backup.id);
            let files = BackupFiles::load(self.lineage(), backup).await.unwrap();
            assert!(files.packs.keys().all(|pack| !self.packs[..2].contains(pack)), "{context}: {:?}", files.packs);
        }
        let held = load_holdings(self.lineage()).await.unwrap();
        assert_eq!(held.superseded, [], "{context}");
        // Everything that is there is named, and what is named is there.
        let layout = self.lineage().layout();
        let named: BTreeSet<String> = held
            .parts
            .values()
            .flat_map(|parts| {
                parts.packs().map(|pack| layout.pack(&pack)).chain(parts.maps().map(|map| layout.map(map)))
            })
            .map(|key| key.to_string())
            .collect();
        let keys = self.keys().await;
        let stored: BTreeSet<String> =
            keys.into_iter().filter(|key| key.contains("/packs/") || key.contains("/maps/")).collect();
        assert_eq!(stored, named, "{context}");
    }
}

async fn put_intent(archive: &Archive, id: &BackupId, parent: Option<BackupId>) {
    let intent = Intent { id: id.clone(), parent, resumes: None, start_time: id.time(), host: "db1".to_owned() };
    archive.lineage.create(&archive.lineage.layout().intent(id), &intent).await.unwrap();
}

#[tokio::test]
async fn what_is_left_of_dead_packs_goes_into_new_ones() {
    let cluster = Cluster::new().await;
    let held = load_holdings(cluster.lineage()).await.unwrap();
    let planned =
        plan(&[held], &Order::Policy(Policy::keep_all(TimeDelta::zero())), cluster.archive.clock.now()).unwrap();
    assert!(planned.lineages[0].rewrite.is_empty(), "all of it is needed while all backups stay");
    // A restore that is under way.
    let reading = Contents::load(cluster.lineage(), &cluster.backups[3]).await.unwrap();

    let done = cluster.rewritten(0).await;
    assert_eq!((done.packs, done.backups), (2, 2), "{done:?}");
    assert!(done.copied_bytes * 3 < done.bytes, "{done:?}");
    cluster.check("rewritten").await;
    for backup in cluster.kept() {
        assert!(cluster.has(&format!("{}/contents.2.zst", backup.id)).await);
        assert!(cluster.has(&format!("{}/contents.zst", backup.id)).await, "whoever reads the old one goes on");
    }
    assert!(cluster.has_pack(0).await && cluster.has_pack(1).await);
    for map in &reading.maps {
        assert!(cluster.has(&format!("maps/{}.zst", map.hash)).await);
    }
    let newer = Contents::load(cluster.lineage(), &cluster.backups[3]).await.unwrap();
    assert_eq!(newer.maps.len(), reading.maps.len());
    assert_ne!(newer.maps, reading.maps);

    assert_eq!(cluster.rewritten(0).await, RewrittenPacks::default(), "there is nothing more to do");
    assert!(cluster.has_pack(0).await, "in its time of grace");
    assert_eq!(cluster.rewritten(13).await, RewrittenPacks::default());
    cluster.check_end("in the end").await;
    let options =
        VerifyOptions { depth: Depth::Full, jobs: 2, backup: None, since: None, now: cluster.archive.clock.now() };
    let report = verify_lineage(cluster.lineage(), &options, &|_| {}).await.unwrap();
    assert_eq!(report.damages, []);
}

/// Of each kind of request so many, one after the other.
const REQUESTS: [(Operation, usize); 4] =
    [(Operation::Put, 1), (Operation::Delete, 1), (Operation::List, 13), (Operation::Get, 11)];

#[tokio::test]
async fn a_crash_at_any_request_loses_nothing_and_the_next_run_completes() {
    let whole = Cluster::new().await.files;
    let calls = {
        let cluster = Cluster::unread().await;
        let count = |operation| cluster.archive.faults.calls_of(operation);
        let before = REQUESTS.map(|(operation, _)| count(operation));
        cluster.expire(0).await.unwrap();
        cluster.expire(13).await.unwrap();
        [0, 1, 2, 3].map(|kind: usize| count(REQUESTS[kind].0) - before[kind])
    };
    assert!(calls[0] >= 6 && calls[1] >= 4, "{calls:?}");
    for ((operation, step), calls) in REQUESTS.into_iter().zip(calls) {
        for nth in (1..=calls).step_by(step) {
            die_and_go_on(&whole, operation, nth, false).await;
            if operation != Operation::Get {
                die_and_go_on(&whole, operation, nth, true).await;
            }
        }
    }
}

async fn die_and_go_on(whole: &Files, operation: Operation, nth: u64, after: bool) {
    let cluster = Cluster { files: whole.clone(), ..Cluster::unread().await };
    let kind = ErrorKind::Unavailable;
    let fault = if after { Fault::ErrorAfter(kind) } else { Fault::ErrorBefore(kind) };
    cluster.archive.faults.add(FaultRule::new(fault).on(operation).nth(nth));
    let first = cluster.expire(0).await;
    let second = if first.is_ok() { cluster.expire(13).await } else { Ok(Expired::default()) };
    let context = format!("{operation} {nth}, after its effect: {after}");
    assert!(first.is_err() || second.is_err(), "{context}: it went on");
    cluster.archive.faults.heal();
    cluster.check(&context).await;
    for hours in [0, 13, 26, 39] {
        cluster.expire(hours).await.unwrap();
    }
    cluster.check_end(&context).await;
}

#[tokio::test]
async fn nothing_is_rewritten_while_a_backup_is_taken() {
    let cluster = Cluster::new().await;
    let running = BackupId::new(cluster.archive.clock.now(), 1);
    put_intent(&cluster.archive, &running, Some(cluster.backups[3].id.clone())).await;
    assert_eq!(cluster.rewritten(0).await, RewrittenPacks::default());
    cluster.check("beside a backup").await;
}

/// A backup that began before the rewriting, and names an old pack when it is complete.
#[tokio::test]
async fn a_pack_that_a_later_backup_names_stays() {
    let cluster = Cluster::new().await;
    let parent = &cluster.backups[3];
    let old = Contents::load(cluster.lineage(), parent).await.unwrap();
    assert_eq!(cluster.rewritten(0).await.packs, 2);
    // What it saw of its parent is the generation before.
    let layout = cluster.lineage().layout();
    let (_, lines) = crate::restore::contents::read_generation(
        cluster.lineage(),
        &layout.contents_of(&parent.id, 1),
        Lines::default(),
    )
    .await
    .unwrap();
    assert_eq!(old.maps.len(), 2);
    let id = BackupId::new(at(3 * DAY + 7200), 1);
    let mut writer = BackupWriter::at(
        cluster.lineage().clone(),
        id,
        BackupSpan {
            timeline: parent.timeline,
            start: parent.start_lsn,
            checkpoint: parent.checkpoint_lsn,
            end_record: parent.end_record_lsn,
            stop: parent.stop_lsn,
        },
    );
    writer.directory("base", 0o700);
    writer.directory("base/5", 0o700);
    writer.share(&parent.id, &lines.0);
    writer.needed_files();
    let late = writer.finish().await;
    let files = cluster.restored(&late).await.unwrap();
    cluster.expire(13).await.unwrap();
    assert!(cluster.has_pack(0).await, "the late one names it");
    cluster.check("beside the late one").await;
    assert!(cluster.restored(&late).await.unwrap() == files);
    // That pack is mostly dead as well, and goes the same way.
    cluster.expire(26).await.unwrap();
    cluster.expire(39).await.unwrap();
    assert!(cluster.restored(&late).await.unwrap() == files);
    cluster.check_end("after the late one").await;
}

#[derive(Default)]
struct Lines(Vec<ContentsLine>);

impl crate::restore::enveloped_lines::LineSink for Lines {
    fn line(&mut self, line: &[u8]) -> std::result::Result<(), String> {
        self.0.push(crate::restore::enveloped_lines::json(line)?);
        Ok(())
    }
}

/// A copy of a damaged frame would have a right hash to its name, and what is whole of it would go.
#[tokio::test]
async fn a_damaged_pack_stays_as_it_is() {
    let cluster = Cluster::new().await;
    let key = cluster.lineage().layout().pack(&cluster.packs[0]);
    let store = cluster.lineage().store();
    let mut bytes = store.get_bytes(&key, u64::MAX).await.unwrap().to_vec();
    let contents = Contents::load(cluster.lineage(), &cluster.backups[3]).await.unwrap();
    let map = crate::restore::files::FileMap::load(cluster.lineage(), &contents.maps[0]).await.unwrap();
    let of_first = |extent: &Extent| match extent {
        Extent::Frame(frame) if map.packs[frame.pack as usize] == cluster.packs[0] => Some(frame.offset),
        _ => None,
    };
    let at = map.files.iter().flat_map(|file| &file.extents).find_map(of_first).unwrap();
    bytes[usize::try_from(at).unwrap() + 20] ^= 1;
    store.put_bytes(&key, bytes, PutMode::Overwrite).await.unwrap();
    let done = cluster.rewritten(0).await;
    assert_eq!((done.packs, done.backups), (1, 2), "{done:?}");
    cluster.expire(13).await.unwrap();
    assert!(cluster.has_pack(0).await, "what is left of it is all there is");
    assert!(!cluster.has_pack(1).await);
}
