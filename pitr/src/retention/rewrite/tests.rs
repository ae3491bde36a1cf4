//! Random histories of backups that share, of deletions, and of rewriting: what nobody needs stays bounded, and what a backup
//! needs is always there.

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::repository::hash::ContentHash;
use crate::retention::holdings::PackUse;

/// Packs are full at this.
const PACK: u64 = 16 << 20;

/// A frame: what it holds, and what it takes.
type Frame = (u64, u64);

/// A model of a repository: packs are sets of frames, and a backup says in which pack it finds each frame.
#[derive(Default)]
struct Model {
    packs: BTreeMap<PackId, BTreeSet<Frame>>,
    backups: BTreeMap<BackupId, Backup>,
    next_frame: u64,
    next_pack: u32,
}

#[derive(Clone)]
struct Backup {
    /// By place in the database.
    frames: BTreeMap<u64, (PackId, Frame)>,
    map_bytes: u64,
}

fn id(day: i64) -> BackupId {
    BackupId::new(chrono::DateTime::from_timestamp(1_790_000_000 + day * 86_400, 0).unwrap(), 1)
}

impl Model {
    /// A backup of `places`, which takes over from `parent` what did not change.
    fn back_up(&mut self, rng: &mut StdRng, day: i64, places: u64, parent: Option<&BackupId>, changed: f64) {
        let mut frames = parent.map(|parent| self.backups[parent].frames.clone()).unwrap_or_default();
        frames.retain(|place, _| *place < places);
        let backup = id(day);
        let mut open: Option<(PackId, u64)> = None;
        for place in 0..places {
            if frames.contains_key(&place) && !rng.random_bool(changed) {
                continue;
            }
            let frame = (self.next_frame, rng.random_range(1_000..200_000));
            self.next_frame += 1;
            let (pack, bytes) = open.take().filter(|(_, bytes)| *bytes < PACK).unwrap_or_else(|| {
                self.next_pack += 1;
                (PackId { backup: backup.clone(), number: self.next_pack }, 0)
            });
            self.packs.entry(pack.clone()).or_default().insert(frame);
            frames.insert(place, (pack.clone(), frame));
            open = Some((pack, bytes + frame.1));
        }
        let map_bytes = 100 + 35 * places;
        self.backups.insert(backup, Backup { frames, map_bytes });
    }

    fn parts(&self) -> BTreeMap<BackupId, BackupParts> {
        let parts = |(id, backup): (&BackupId, &Backup)| {
            let mut parts = BackupParts::of_contents(1, 500);
            for (pack, live) in live(std::iter::once(backup)) {
                let frame_bytes = self.frame_bytes(&pack);
                let live_bytes = live.iter().map(|frame| frame.1).sum();
                parts.add_pack(pack, PackUse::new(frame_bytes + 1000, live_bytes, Some(frame_bytes)));
            }
            parts.add_map(ContentHash::of(id.to_string().as_bytes()), backup.map_bytes);
            (id.clone(), parts)
        };
        self.backups.iter().map(parts).collect()
    }

    fn frame_bytes(&self, pack: &PackId) -> u64 {
        self.packs[pack].iter().map(|frame| frame.1).sum()
    }

    /// Carries a plan out: what is needed of all packs that are mostly dead goes into new ones.
    fn rewrite(&mut self, plan: &RewritePlan) -> usize {
        let live = live(self.backups.values());
        let mut places: BTreeMap<Frame, PackId> = BTreeMap::new();
        let mut new: Option<(PackId, u64)> = None;
        let mut done = 0;
        for dead in &plan.packs {
            let needed = &live[&dead.id];
            let bytes: u64 = needed.iter().map(|frame| frame.1).sum();
            assert!(bytes >= dead.live_bytes, "a plan never takes more for dead than is");
            if !is_mostly_dead(dead.frame_bytes, bytes) {
                continue;
            }
            done += 1;
            for frame in needed {
                let (pack, bytes) = new.take().filter(|(_, bytes)| *bytes < PACK).unwrap_or_else(|| {
                    self.next_pack += 1;
                    (PackId { backup: plan.backups[0].clone(), number: (1 << 31) | self.next_pack }, 0)
                });
                self.packs.entry(pack.clone()).or_default().insert(*frame);
                places.insert(*frame, pack.clone());
                new = Some((pack, bytes + frame.1));
            }
        }
        for id in &plan.backups {
            for (pack, frame) in self.backups.get_mut(id).unwrap().frames.values_mut() {
                if let Some(new) = places.get(frame) {
                    pack.clone_from(new);
                }
            }
        }
        done
    }

    /// Packs that nothing names go.
    fn sweep(&mut self) {
        let named = live(self.backups.values());
        self.packs.retain(|pack, _| named.contains_key(pack));
    }

    fn check(&self, context: &str) {
        for backup in self.backups.values() {
            for (pack, frame) in backup.frames.values() {
                assert!(
                    self.packs.get(pack).is_some_and(|frames| frames.contains(frame)),
                    "{context}: {pack} lacks one"
                );
            }
        }
    }

    /// Bytes that somebody needs, and those that nobody does.
    fn live_and_dead(&self) -> (u64, u64) {
        let live = live(self.backups.values());
        let needed: u64 = live.values().flatten().map(|frame| frame.1).sum();
        let stored: u64 = self.packs.keys().map(|pack| self.frame_bytes(pack)).sum();
        (needed, stored - needed)
    }
}

fn live<'a>(backups: impl Iterator<Item = &'a Backup>) -> BTreeMap<PackId, BTreeSet<Frame>> {
    let mut live: BTreeMap<PackId, BTreeSet<Frame>> = BTreeMap::new();
    for (pack, frame) in backups.flat_map(|backup| backup.frames.values()) {
        live.entry(pack.clone()).or_default().insert(*frame);
    }
    live
}

/// The dead bytes at the end, with rewriting and without it.
fn live_through(seed: u64) -> (u64, u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let (mut model, mut without) = (Model::default(), Model::default());
    let places = rng.random_range(50..400);
    let changed = rng.random_range(0.0..0.6);
    for day in 0..rng.random_range(2..25) {
        // Mostly the newest; sometimes another, as after a recovery to an earlier moment; sometimes none.
        let parents: Vec<BackupId> = model.backups.keys().cloned().collect();
        let nth =
            if rng.random_bool(0.8) { parents.len().max(1) - 1 } else { rng.random_range(0..parents.len().max(1)) };
        let parent = parents.get(nth).filter(|_| rng.random_bool(0.95));
        let size = places + rng.random_range(0..50);
        let both = rng.random();
        model.back_up(&mut StdRng::seed_from_u64(both), day, size, parent, changed);
        without.back_up(&mut StdRng::seed_from_u64(both), day, size, parent, changed);
        for old in &parents {
            if rng.random_bool(0.3) && model.backups.len() > 1 {
                model.backups.remove(old);
                without.backups.remove(old);
            }
        }
        model.sweep();
        without.sweep();
        // A run of retention, and as many more as go on.
        for _ in 0..rng.random_range(0..3) {
            let parts = model.parts();
            let plan = choose(parts.iter());
            model.rewrite(&plan);
            model.sweep();
            model.check(&format!("seed {seed}, day {day}"));
        }
    }
    loop {
        let parts = model.parts();
        let plan = choose(parts.iter());
        if model.rewrite(&plan) == 0 {
            break;
        }
        model.sweep();
    }
    model.check(&format!("seed {seed}"));
    let parts = model.parts();
    let (live, dead) = model.live_and_dead();
    let bound = (RATIO - 1) * live + cost(parts.values());
    assert!(dead <= bound, "seed {seed}: {dead} dead bytes beside {live} live ones, at most {bound}");
    (dead, without.live_and_dead().1)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(80))]

    #[test]
    fn what_nobody_needs_is_bounded(seed in any::<u64>()) {
        live_through(seed);
    }
}

/// Rewriting nothing would pass where there is little to rewrite.
#[test]
fn much_is_rewritten() {
    let (with, without) = (0..20).map(live_through).fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
    assert!(with * 4 < without * 3, "{with} dead bytes, {without} without rewriting");
}

fn parts(packs: &[(u32, u64, u64)]) -> BackupParts {
    let mut parts = BackupParts::of_contents(1, 500);
    for (number, frame_bytes, live_bytes) in packs {
        let pack = PackId { backup: id(0), number: *number };
        parts.add_pack(pack, PackUse::new(frame_bytes + 10, *live_bytes, Some(*frame_bytes)));
    }
    parts.add_map(ContentHash::of(b"map"), 1000);
    parts
}

#[test]
fn the_deadest_come_first_and_others_stay() {
    let mib = 1 << 20;
    let old = parts(&[(0, 15 * mib, mib), (1, 15 * mib, 5 * mib), (2, 15 * mib, 4 * mib), (3, mib, 10)]);
    let new = parts(&[(0, 15 * mib, mib / 2), (2, 15 * mib, 0)]);
    let other = parts(&[(1, 15 * mib, mib)]);
    let kept = [(id(1), old), (id(2), new), (id(3), other)];
    let plan = choose(kept.iter().map(|(id, parts)| (id, parts)));
    let chosen: Vec<(u32, u64)> = plan.packs.iter().map(|pack| (pack.id.number, pack.live_bytes)).collect();
    assert_eq!(chosen, [(0, mib), (2, 4 * mib), (3, 10)]);
    assert_eq!(plan.backups, [id(2), id(1)], "newest first, and nobody who names none of them");
    assert_eq!(plan.live_bytes(), 5 * mib + 10);
}

#[test]
fn what_costs_more_than_it_brings_is_left() {
    let kept = [(id(1), parts(&[(0, 100_000, 10)]))];
    assert!(
        choose(kept.iter().map(|(id, parts)| (id, parts))).is_empty(),
        "one map and one object of contents cost more"
    );
    let kept = [(id(1), parts(&[(0, 150_000, 10)]))];
    assert_eq!(choose(kept.iter().map(|(id, parts)| (id, parts))).packs.len(), 1);
}

#[test]
fn a_run_has_its_limit() {
    let all: Vec<(u32, u64, u64)> = (0..1000).map(|number| (number, 15 << 20, 4 << 20)).collect();
    let kept = [(id(1), parts(&all))];
    let plan = choose(kept.iter().map(|(id, parts)| (id, parts)));
    assert!((250..260).contains(&plan.packs.len()), "{}", plan.packs.len());
}
