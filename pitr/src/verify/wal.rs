//! WAL: every stored segment and tail, read, decoded and held against what is told of it.
//!
//! A task is decoded front to back: page headers, record checksums, the chain of records from one to the next, across
//! segments and, where a timeline begins, from its parent. What the records say is folded to the ranges of the stored
//! summaries and compared, and restore points are held against markers.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};

use super::damage::{Damage, Harm, ObjectKind, fault_of, internal};
use super::summaries::Rebuilt;
use super::wal_tasks::WalTask;
use crate::postgres::wal::{DecodeError, WalDecoder};
use crate::postgres::{Lsn, MajorVersion, SegmentName, SegmentNumber, TimelineId};
use crate::repository::catalog::{Catalog, LsnRange};
use crate::repository::layout::SummaryKey;
use crate::repository::marker::finish_point_name;
use crate::repository::summary_store::ReadSummary;
use crate::repository::wal_store::{StoredSegment, Tail};
use crate::repository::{Error, FoundRestorePoint, LineageStore, Result, SummaryStore, WalStore};
use crate::storage::ObjectKey;
use crate::summarize::cutter::{CutSummary, SummaryCutter};
use crate::summarize::found_restore_points;
use crate::wal_summary::WalSummary;

/// Bytes that the decoder gets at once.
const PIECE: usize = 256 << 10;
/// Larger segments are not read ahead.
const READ_AHEAD_BYTES: u64 = 64 << 20;

/// What a task found.
#[derive(Debug, Default)]
pub(super) struct WalFound {
    pub(super) damages: Vec<Damage>,
    pub(super) segments: u64,
    pub(super) bytes: u64,
    pub(super) summaries_compared: u64,
}

/// Checks WAL of one lineage.
#[derive(Debug)]
pub(super) struct WalCheck<'a> {
    wal: WalStore,
    catalog: &'a Catalog,
    major: Option<MajorVersion>,
    finishes: BTreeMap<(TimelineId, Lsn), String>,
}

impl<'a> WalCheck<'a> {
    pub(super) fn new(lineage: &LineageStore, catalog: &'a Catalog) -> Self {
        let finishes = catalog.markers.iter().filter_map(|known| {
            let finish = known.finish.as_ref()?;
            Some(((finish.timeline, finish.lsn), finish_point_name(&known.marker.name)))
        });
        Self {
            wal: WalStore::new(lineage.clone()),
            catalog,
            major: lineage.lineage().postgres_version.major(),
            finishes: finishes.collect(),
        }
    }

    fn lineage(&self) -> &LineageStore {
        self.wal.lineage()
    }

    /// Reads every segment of the task, and says after each how many bytes that was.
    ///
    /// # Errors
    /// The store fails.
    pub(super) async fn task(&self, task: &WalTask, read: &(dyn Fn(u64) + Send + Sync)) -> Result<WalFound> {
        let mut found = WalFound::default();
        let mut scan = Scan::new(self.lineage(), self.major, task);
        if let Some(lead_in) = task.lead_in
            && let Ok(bytes) = self.wal.whole_segment(lead_in).await
        {
            scan = blocking(move || scan.lead_in(lead_in, &bytes)).await?;
        }
        let size = self.catalog.segment_size();
        let ahead = if size.as_u64() > READ_AHEAD_BYTES { 1 } else { 2 };
        let numbers = (task.first.as_u64()..=task.last.as_u64()).map(SegmentNumber::new);
        let mut reads = stream::iter(numbers)
            .map(async |number| (number, self.wal.read_segment(number.name(task.timeline, size)).await))
            .buffered(ahead);
        while let Some((number, segment)) = reads.next().await {
            match segment {
                Ok(Some(stored)) => {
                    let bytes = stored.bytes().clone();
                    read(bytes.len() as u64);
                    found.segments += 1;
                    found.bytes += bytes.len() as u64;
                    scan = blocking(move || scan.take(number, &bytes)).await?;
                }
                // It was removed since it was listed.
                Ok(None) => scan.interrupt(),
                Err(error) => {
                    let name = number.name(task.timeline, size);
                    found.damages.extend(self.unreadable(name, error)?);
                    scan.interrupt();
                }
            }
        }
        drop(reads);
        let scan = self.follow(task, scan).await?;
        found.damages.extend(scan.damages.iter().map(|damage| self.undecodable(task.timeline, damage)));
        self.compare(&scan, &mut found).await?;
        self.markers(task.timeline, &scan, &mut found.damages);
        Ok(found)
    }

    /// The end of the last record, and the first one behind it, are in the segments that follow.
    async fn follow(&self, task: &WalTask, mut scan: Scan) -> Result<Scan> {
        let size = self.catalog.segment_size();
        let mut number = task.last.next();
        while scan.goes_on() {
            let Ok(Some(StoredSegment::Whole(bytes) | StoredSegment::Open { bytes, .. })) =
                self.wal.read_segment(number.name(task.timeline, size)).await
            else {
                break;
            };
            let follows = number;
            scan = blocking(move || scan.follow(follows, &bytes)).await?;
            number = number.next();
        }
        Ok(scan)
    }

    fn unreadable(&self, name: SegmentName, error: Error) -> Result<Option<Damage>> {
        let key = match &error {
            Error::Corrupt { key, .. } | Error::Document { key, .. } | Error::Envelope { key, .. } => key.clone(),
            _ => self.lineage().layout().segment(name),
        };
        let reason = fault_of(error)?;
        // Tails are looked at one by one.
        if matches!(self.lineage().layout().parse_wal(&key), Some(crate::repository::layout::WalObject::Tail { .. })) {
            return Ok(None);
        }
        let start = name.number(self.catalog.segment_size()).map(|number| self.catalog.segment_size().start_of(number));
        let harm = Harm::Segment { name, from: start.unwrap_or(Lsn::INVALID) };
        Ok(Some(Damage::new(&key, ObjectKind::Segment, reason).harming(harm)))
    }

    fn undecodable(&self, timeline: TimelineId, found: &ScanDamage) -> Damage {
        let size = self.catalog.segment_size();
        let name = found.segment.name(timeline, size);
        let (key, kind) = self.object_at(name, found.segment, found.error.lsn);
        let from = found.position.max(size.start_of(found.segment));
        Damage::new(&key, kind, format!("holds {}", found.error))
            .at_lsn(found.error.lsn)
            .harming(Harm::Segment { name, from })
    }

    /// The object that the bytes at `lsn` come from.
    fn object_at(&self, name: SegmentName, number: SegmentNumber, lsn: Lsn) -> (ObjectKey, ObjectKind) {
        let layout = self.lineage().layout();
        let wal = self.catalog.timelines.get(&name.tli()).map(|timeline| &timeline.wal);
        let tail = wal.filter(|wal| !wal.is_whole(number)).and_then(|wal| {
            let own = wal.tails().find(|(segment, _)| *segment == number).map(|(_, tails)| tails)?;
            own.iter().find(|tail| tail.from <= lsn && lsn < tail.to).or_else(|| own.last()).copied()
        });
        match tail {
            Some(LsnRange { from, to }) => (layout.tail(name, from, to), ObjectKind::Tail),
            None => (layout.segment(name), ObjectKind::Segment),
        }
    }

    async fn compare(&self, scan: &Scan, found: &mut WalFound) -> Result<()> {
        let store = SummaryStore::new(self.lineage().clone());
        for (key, rebuilt) in &scan.rebuilt {
            let Some(rebuilt) = rebuilt else { continue };
            // Damaged ones are told where all summaries are read; those that are gone were folded.
            let stored = match store.read(*key).await {
                Ok(ReadSummary::Usable(stored)) => stored,
                Ok(ReadSummary::Unusable { .. }) => continue,
                Err(error) if error.is_not_found() => continue,
                Err(error) => return Err(error),
            };
            found.summaries_compared += 1;
            if *stored != *rebuilt {
                let object = self.lineage().layout().summary(*key);
                let reason = "says something else than the records of its range";
                found.damages.push(Damage::new(&object, ObjectKind::Summary, reason).at_lsn(key.from));
            }
        }
        Ok(())
    }

    /// Markers in what was decoded, and restore points of ranges that have a summary.
    fn markers(&self, timeline: TimelineId, scan: &Scan, damages: &mut Vec<Damage>) {
        let layout = self.lineage().layout();
        let point_at = |lsn: Lsn| scan.points.iter().find(|point| point.lsn == lsn);
        let was_decoded = |lsn: Lsn| scan.decoded.iter().any(|range| range.from <= lsn && lsn < range.to);
        for known in &self.catalog.markers {
            let (marker, finish) = (&known.marker, known.finish.as_ref());
            let key = |finish| crate::repository::layout::MarkerKey {
                tli: marker.timeline,
                lsn: marker.lsn,
                name: marker.name.clone(),
                finish,
            };
            if marker.timeline == timeline && was_decoded(marker.lsn) {
                let is_own = point_at(marker.lsn).is_some_and(|point| {
                    (point.end_lsn, point.time) == (marker.end_lsn, marker.time) && same_name(&point.name, &marker.name)
                });
                if !is_own {
                    let reason = "is not what the record of its restore point says";
                    let damage = Damage::new(&layout.marker(&key(false)), ObjectKind::Marker, reason);
                    damages.push(damage.at_lsn(marker.lsn).harming(Harm::Marker(key(false))));
                }
            }
            let Some(finish) = finish.filter(|finish| finish.timeline == timeline && was_decoded(finish.lsn)) else {
                continue;
            };
            let is_own = point_at(finish.lsn).is_some_and(|point| {
                (point.end_lsn, point.time) == (finish.end_lsn, finish.time)
                    && same_name(&point.name, &finish_point_name(&marker.name))
            });
            if !is_own {
                let reason = "is not what the record of its restore point says";
                let damage = Damage::new(&layout.marker(&key(true)), ObjectKind::Finish, reason);
                damages.push(damage.at_lsn(finish.lsn).harming(Harm::Marker(key(true))));
            }
        }
        self.points_without_marker(scan, damages);
    }

    fn points_without_marker(&self, scan: &Scan, damages: &mut Vec<Damage>) {
        for point in &scan.points {
            let summarized = scan.rebuilt.iter().any(|(key, _)| key.from <= point.lsn && point.lsn < key.to);
            let known = self
                .catalog
                .markers
                .iter()
                .any(|known| (known.marker.timeline, known.marker.lsn) == (point.timeline, point.lsn));
            let closes = self.finishes.contains_key(&(point.timeline, point.lsn))
                || point.name.starts_with(&finish_point_name(""));
            let key = crate::repository::layout::MarkerKey {
                tli: point.timeline,
                lsn: point.lsn,
                name: point.name.clone(),
                finish: false,
            };
            let object = self.lineage().layout().marker(&key);
            let damaged = self.catalog.damaged.iter().any(|damaged| damaged.key == object.as_str());
            if summarized && !known && !closes && !damaged {
                let damage = Damage::missing(&object, ObjectKind::Marker).at_lsn(point.lsn);
                damages.push(damage.harming(Harm::Marker(key)));
            }
        }
    }

    /// Every tail by itself, and against the whole segment where that is there as well.
    ///
    /// # Errors
    /// The store fails.
    pub(super) async fn tails(&self, within: LsnRange, jobs: usize) -> Result<WalFound> {
        let size = self.catalog.segment_size();
        let mut found = WalFound::default();
        let mut tails = Vec::new();
        for (tli, timeline) in &self.catalog.timelines {
            for (number, ranges) in timeline.wal.tails() {
                if size.end_of(number) <= within.from || size.start_of(number) >= within.to {
                    continue;
                }
                let whole = timeline.wal.is_whole(number);
                let segment = number.name(*tli, size);
                tails.extend(ranges.iter().map(|range| (Tail { segment, from: range.from, to: range.to }, whole)));
            }
        }
        let mut reads = stream::iter(tails).map(|(tail, whole)| self.tail(tail, whole)).buffer_unordered(jobs.max(1));
        while let Some((bytes, damage)) = reads.try_next().await? {
            found.bytes += bytes;
            found.damages.extend(damage);
        }
        Ok(found)
    }

    async fn tail(&self, tail: Tail, whole: bool) -> Result<(u64, Option<Damage>)> {
        let key = self.lineage().layout().tail(tail.segment, tail.from, tail.to);
        let damage = |reason: String| {
            let harm = Harm::Tail { segment: tail.segment, from: tail.from, to: tail.to };
            Damage::new(&key, ObjectKind::Tail, reason).harming(harm).at_lsn(tail.from)
        };
        let content = match self.wal.read_tail(tail).await {
            Ok(content) => content,
            Err(error) if error.is_not_found() => return Ok((0, None)),
            Err(error) => return Ok((0, Some(damage(fault_of(error)?)))),
        };
        if whole && let Ok(segment) = self.wal.whole_segment(tail.segment).await {
            let start = self.catalog.segment_size().offset_of(tail.from) as usize;
            if segment.get(start..start.saturating_add(content.len())) != Some(&content[..]) {
                let reason = "has other bytes than the whole segment of the same name".to_owned();
                return Ok((content.len() as u64, Some(damage(reason))));
            }
        }
        Ok((content.len() as u64, None))
    }
}

/// As text a name may differ from what the one who made it said.
fn same_name(found: &str, told: &str) -> bool {
    found == told || found.contains('?') || !told.is_ascii()
}

/// Where records could not be read any further.
#[derive(Clone, Copy, Debug)]
struct ScanDamage {
    segment: SegmentNumber,
    error: DecodeError,
    /// Everything before was read.
    position: Lsn,
}

/// Decoding of one task.
#[derive(Debug)]
struct Scan {
    task: WalTask,
    size: crate::postgres::WalSegmentSize,
    system_identifier: crate::postgres::SystemIdentifier,
    major: Option<MajorVersion>,
    decoder: Option<WalDecoder>,
    cutter: Option<SummaryCutter>,
    /// By range; the content where all of it was read.
    rebuilt: Vec<(SummaryKey, Option<WalSummary>)>,
    building: Vec<Rebuilt>,
    points: Vec<FoundRestorePoint>,
    decoded: Vec<LsnRange>,
    damages: Vec<ScanDamage>,
    /// A record that begins behind the task was seen.
    over: bool,
}

impl Scan {
    fn new(lineage: &LineageStore, major: Option<MajorVersion>, task: &WalTask) -> Self {
        let size = lineage.lineage().wal_segment_size;
        Self {
            cutter: major.map(|major| SummaryCutter::new(task.timeline, major, size, task.begin)),
            task: task.clone(),
            size,
            system_identifier: lineage.lineage().lineage.system_identifier(),
            major,
            decoder: None,
            rebuilt: Vec::new(),
            building: task.summaries.iter().map(|key| Rebuilt::new(*key)).collect(),
            points: Vec::new(),
            decoded: Vec::new(),
            damages: Vec::new(),
            over: false,
        }
    }

    fn decoder_at(&self, start: Lsn) -> WalDecoder {
        let decoder =
            WalDecoder::new(start, self.task.timeline, self.size).with_system_identifier(self.system_identifier);
        match self.major {
            Some(major) => decoder.with_major(major),
            None => decoder,
        }
    }

    /// What comes next does not follow.
    fn interrupt(&mut self) {
        self.decoder = None;
    }

    /// Reads the end of the parent's last segment, for the record that goes on in the first one here.
    fn lead_in(mut self, name: SegmentName, bytes: &Bytes) -> Self {
        let Some(number) = name.number(self.size) else { return self };
        let mut decoder = self.decoder_at(self.size.start_of(number));
        for piece in bytes.chunks(PIECE) {
            decoder.feed(piece);
            while let Ok(Some(_)) = decoder.next_record() {}
        }
        // What is wrong with it is told of the segment itself.
        if decoder.fed() == self.size.end_of(number) && decoder.last_record().is_some() {
            self.decoder = Some(decoder);
            if let Some(cutter) = &mut self.cutter {
                cutter.restart(self.size.start_of(self.task.first));
            }
        }
        self
    }

    /// Takes the bytes of the next segment, as far as they are stored.
    fn take(mut self, number: SegmentNumber, bytes: &Bytes) -> Self {
        let start = self.size.start_of(number);
        if self.decoder.is_none() {
            self.decoder = Some(self.decoder_at(start));
            if let Some(cutter) = &mut self.cutter {
                cutter.restart(start);
            }
        }
        let end = self.size.end_of(number);
        // A summary ends where the timeline was left.
        let left = self.task.summaries.iter().map(|key| key.to).find(|to| start < *to && *to < end);
        let split = left.map_or(bytes.len(), |left| (self.size.offset_of(left) as usize).min(bytes.len()));
        let (before, behind) = bytes.split_at(split);
        if self.feed(number, before) {
            if let Some(left) = left.filter(|_| split < bytes.len() || self.fed() == left) {
                self.finish_at(left);
            }
            self.feed(number, behind);
        }
        if self.decoder.is_some() && bytes.len() < self.size.as_usize() && number < self.task.last {
            self.interrupt();
        }
        self
    }

    fn fed(&self) -> Option<Lsn> {
        self.decoder.as_ref().map(WalDecoder::fed)
    }

    /// False where the records cannot be read any further.
    fn feed(&mut self, number: SegmentNumber, bytes: &[u8]) -> bool {
        for piece in bytes.chunks(PIECE) {
            if !self.piece(number, piece) {
                return false;
            }
        }
        self.decoder.is_some()
    }

    fn piece(&mut self, number: SegmentNumber, piece: &[u8]) -> bool {
        let Some(decoder) = &mut self.decoder else { return false };
        decoder.feed(piece);
        let end = self.size.end_of(self.task.last);
        let mut cuts = Vec::new();
        let mut over = false;
        let taken = match &mut self.cutter {
            Some(cutter) => cutter.take(decoder, |record| over |= record.start_lsn() >= end, |cut| cuts.push(cut)),
            None => loop {
                match decoder.next_record() {
                    Ok(Some(record)) => over |= record.start_lsn() >= end,
                    Ok(None) => break Ok(()),
                    Err(error) => break Err(error),
                }
            },
        };
        self.over |= over;
        cuts.into_iter().for_each(|cut| self.cut(cut));
        let Err(error) = taken else { return true };
        let (position, fresh) = self
            .decoder
            .take()
            .map_or((error.lsn, false), |decoder| (decoder.position(), decoder.last_record().is_none()));
        // Zeros behind a switch in a segment that is not at hand look so.
        if !(error.is_end_of_wal() && fresh) {
            self.damages.push(ScanDamage { segment: number, error, position });
        }
        false
    }

    fn finish_at(&mut self, end: Lsn) {
        let mut cuts = Vec::new();
        if let Some(cutter) = &mut self.cutter {
            cutter.finish(end, |cut| cuts.push(cut));
        }
        cuts.into_iter().for_each(|cut| self.cut(cut));
    }

    fn cut(&mut self, cut: CutSummary) {
        let CutSummary::Whole(summary) = cut else { return };
        if summary.from >= self.size.end_of(self.task.last) {
            return;
        }
        match self.decoded.last_mut().filter(|last| last.to == summary.from) {
            Some(last) => last.to = summary.to,
            None => self.decoded.push(LsnRange { from: summary.from, to: summary.to }),
        }
        self.points.extend(found_restore_points(&summary));
        for building in &mut self.building {
            building.add(&summary);
        }
        while self.building.first().is_some_and(|building| building.key().to <= summary.to) {
            let done = self.building.remove(0);
            self.rebuilt.push((done.key(), done.finish()));
        }
    }

    /// The last record ends, or the next one begins, behind what was read.
    fn goes_on(&self) -> bool {
        !self.over && self.fed().is_some_and(|fed| self.size.offset_of(fed) == 0)
    }

    fn follow(mut self, number: SegmentNumber, bytes: &Bytes) -> Self {
        for piece in bytes.chunks(PIECE) {
            if self.over || !self.piece(number, piece) {
                break;
            }
        }
        if bytes.len() < self.size.as_usize() {
            self.interrupt();
        }
        self
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| internal(&error.to_string()))
}
