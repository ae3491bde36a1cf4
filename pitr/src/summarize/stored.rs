//! Summaries built from stored WAL, one segment after the other: one of them in memory at a time.

use std::collections::VecDeque;

use bytes::Bytes;

use super::coverage::Stretch;
use super::cutter::{CutSummary, SummaryCutter};
use crate::postgres::wal::WalDecoder;
use crate::postgres::{Lsn, MajorVersion, SegmentNumber, SystemIdentifier, TimelineId, WalSegmentSize};
use crate::repository::{Error, Result, WalStore};
use crate::storage;
use crate::wal_summary::WalSummary;

/// Bytes that the decoder gets at once.
const PIECE: usize = 256 << 10;

/// What became of a stretch.
#[derive(Debug)]
pub enum Built {
    Summary(Box<WalSummary>),
    /// There is no summary, because the stored WAL cannot be read or understood.
    Damaged {
        stretch: Stretch,
        reason: String,
    },
    /// There is none yet: its last record ends behind what is stored.
    Unfinished(Stretch),
}

/// The summaries of a run of stretches that follow each other.
#[derive(Debug)]
pub struct StoredSummaries {
    wal: WalStore,
    facts: Facts,
    /// Those that are still to be handed out.
    stretches: VecDeque<Stretch>,
    next: SegmentNumber,
    scan: Option<Scan>,
    ready: VecDeque<Built>,
    /// Nothing that begins before this position can be built, and why.
    damage: Option<(Lsn, String)>,
}

#[derive(Clone, Copy, Debug)]
struct Facts {
    timeline: TimelineId,
    system_identifier: SystemIdentifier,
    major: MajorVersion,
    segment_size: WalSegmentSize,
}

#[derive(Debug)]
struct Scan {
    /// None before the start of a segment from which the records can be read.
    decoder: Option<WalDecoder>,
    cutter: SummaryCutter,
}

/// What one segment gave.
struct Decoded {
    scan: Scan,
    built: Vec<Built>,
    damage: Option<String>,
}

impl StoredSummaries {
    /// `stretches` follow each other, on a timeline whose own first byte is at `begin`.
    ///
    /// # Errors
    /// The lineage is of a version that is not known here.
    pub fn new(wal: WalStore, timeline: TimelineId, begin: Lsn, stretches: Vec<Stretch>) -> Result<Self> {
        let lineage = wal.lineage().lineage();
        let major = lineage.postgres_version.major().ok_or_else(|| Error::WrongCluster {
            reason: format!("PostgreSQL {} is not supported", lineage.postgres_version),
        })?;
        let (segment_size, system_identifier) = (lineage.wal_segment_size, lineage.lineage.system_identifier());
        let first = stretches.first().map_or(Lsn::INVALID, |stretch| stretch.from);
        let cutter = SummaryCutter::new(timeline, major, segment_size, begin);
        Ok(Self {
            facts: Facts { timeline, system_identifier, major, segment_size },
            next: segment_size.segment_of(first),
            stretches: stretches.into(),
            scan: Some(Scan { decoder: None, cutter }),
            ready: VecDeque::new(),
            damage: None,
            wal,
        })
    }

    /// What became of the next stretch; none behind the last one.
    ///
    /// # Errors
    /// The store fails; asking again goes on at the same segment.
    pub async fn next(&mut self) -> Result<Option<Built>> {
        loop {
            let Some(wanted) = self.stretches.front().copied() else { return Ok(None) };
            let damage = self.damage.as_ref().filter(|(end, _)| wanted.from < *end).map(|(_, reason)| reason.clone());
            let built = match (self.take_ready(wanted), damage) {
                (Some(built), _) => built,
                (None, Some(reason)) => Built::Damaged { stretch: wanted, reason },
                (None, None) if self.read_segment(wanted).await? => continue,
                (None, None) => Built::Unfinished(wanted),
            };
            self.stretches.pop_front();
            return Ok(Some(built));
        }
    }

    /// What is ready for `wanted`; what was built on the way to it and nobody wants is dropped.
    fn take_ready(&mut self, wanted: Stretch) -> Option<Built> {
        while let Some(built) = self.ready.pop_front() {
            if built.stretch() == wanted {
                return Some(built);
            }
        }
        None
    }

    /// Decodes the next segment as far as it is stored; false where that does not help.
    async fn read_segment(&mut self, wanted: Stretch) -> Result<bool> {
        let size = self.facts.segment_size;
        let number = self.next;
        let (start, end) = (size.start_of(number), size.end_of(number));
        // A part that ends at a switch is finished there, also where more of its segment is stored.
        let switch = self.stretches.iter().map(|stretch| stretch.to).find(|to| start < *to && *to < end);
        let stored = match self.wal.read_segment(number.name(self.facts.timeline, size)).await {
            Ok(Some(stored)) => stored,
            Ok(None) => return Ok(false),
            Err(error) if error.is_corruption() => {
                self.damage = Some((end, error.to_string()));
                self.next = number.next();
                if let Some(scan) = &mut self.scan {
                    scan.decoder = None;
                }
                return Ok(true);
            }
            Err(error) => return Err(error),
        };
        let needed = switch.unwrap_or(end).distance_from(start).and_then(|bytes| usize::try_from(bytes).ok());
        let bytes = stored.bytes().slice(..needed.unwrap_or(usize::MAX).min(stored.bytes().len()));
        let whole = Some(bytes.len()) == needed;
        let Some(scan) = self.scan.take().filter(|_| whole || wanted.from < start) else { return Ok(false) };
        let facts = self.facts;
        let decoded = blocking(move || decode(scan, facts, number, &bytes, switch)).await?;
        self.scan = Some(decoded.scan);
        self.ready.extend(decoded.built);
        self.next = number.next();
        if let Some(reason) = decoded.damage {
            self.damage = Some((end, reason));
        }
        Ok(whole || self.ready.iter().any(|built| built.stretch() == wanted))
    }
}

impl Built {
    #[must_use]
    pub fn stretch(&self) -> Stretch {
        match self {
            Self::Summary(summary) => Stretch { from: summary.from, to: summary.to },
            Self::Damaged { stretch, .. } | Self::Unfinished(stretch) => *stretch,
        }
    }
}

impl From<CutSummary> for Built {
    fn from(cut: CutSummary) -> Self {
        match cut {
            CutSummary::Whole(summary) => Self::Summary(summary),
            CutSummary::NotUnderstood { from, to, error } => {
                Self::Damaged { stretch: Stretch { from, to }, reason: error.to_string() }
            }
        }
    }
}

fn decode(mut scan: Scan, facts: Facts, number: SegmentNumber, bytes: &Bytes, switch: Option<Lsn>) -> Decoded {
    let start = facts.segment_size.start_of(number);
    let cutter = &mut scan.cutter;
    let mut decoder = scan.decoder.take().unwrap_or_else(|| {
        cutter.restart(start);
        WalDecoder::new(start, facts.timeline, facts.segment_size)
            .with_system_identifier(facts.system_identifier)
            .with_major(facts.major)
    });
    let mut built = Vec::new();
    for piece in bytes.chunks(PIECE) {
        decoder.feed(piece);
        if let Err(error) = cutter.take(&mut decoder, |_| (), |cut| built.push(cut.into())) {
            return Decoded { scan, built, damage: Some(error.to_string()) };
        }
    }
    match switch {
        Some(end) => cutter.finish(end, |cut| built.push(cut.into())),
        None => scan.decoder = Some(decoder),
    }
    Decoded { scan, built, damage: None }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down refuses the work.
            Err(_) => Err(storage::Error::new(
                storage::ErrorKind::Cancelled,
                storage::Operation::Get,
                "wal",
                "the runtime is shutting down",
            )
            .into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::PutMode;
    use crate::summarize::testing::{SEGMENT, fill, size, store, wal, writer};

    fn segments(numbers: std::ops::Range<u64>) -> Vec<Stretch> {
        numbers.map(|n| Stretch { from: Lsn::new(n * SEGMENT), to: Lsn::new((n + 1) * SEGMENT) }).collect()
    }

    async fn built(wal: &WalStore, stretches: Vec<Stretch>) -> Vec<Built> {
        let mut summaries = StoredSummaries::new(wal.clone(), TimelineId::FIRST, Lsn::INVALID, stretches).unwrap();
        let mut built = Vec::new();
        while let Some(next) = summaries.next().await.unwrap() {
            built.push(next);
        }
        built
    }

    fn kinds(built: &[Built]) -> String {
        let kind = |built: &Built| match built {
            Built::Summary(_) => 's',
            Built::Damaged { .. } => 'd',
            Built::Unfinished(_) => 'u',
        };
        built.iter().map(kind).collect()
    }

    #[tokio::test]
    async fn a_run_is_built_as_each_of_its_segments_alone() {
        let (wal, mut writer) = (wal().await, writer(3));
        fill(&mut writer, 6);
        store(&wal, &writer).await;
        let run = built(&wal, segments(3..7)).await;
        assert_eq!(kinds(&run), "ssss");
        for (built_in_run, stretch) in run.iter().zip(segments(3..7)) {
            let alone = built(&wal, vec![stretch]).await;
            let (Built::Summary(one), Built::Summary(other)) = (built_in_run, &alone[0]) else { panic!("{alone:?}") };
            assert_eq!(one, other);
        }
    }

    #[tokio::test]
    async fn the_last_record_must_be_there() {
        let (wal, mut writer) = (wal().await, writer(3));
        fill(&mut writer, 4);
        let end = usize::try_from(2 * SEGMENT).unwrap();
        for (number, bytes) in (3..).map(SegmentNumber::new).zip(writer.bytes()[..end].chunks(size().as_usize())) {
            let prepared =
                wal.prepare_segment(number.name(TimelineId::FIRST, size()), MajorVersion::V15, bytes).unwrap();
            wal.put(&prepared).await.unwrap();
        }
        assert_eq!(kinds(&built(&wal, segments(3..5)).await), "su");
        store(&wal, &writer).await;
        assert_eq!(kinds(&built(&wal, segments(3..5)).await), "ss");
        // Of what is not stored whole nothing is said.
        assert_eq!(kinds(&built(&wal, segments(5..6)).await), "u");
    }

    #[tokio::test]
    async fn damage_spoils_what_it_touches_only() {
        let (wal, mut writer) = (wal().await, writer(3));
        fill(&mut writer, 7);
        let mut bytes = writer.bytes().to_vec();
        bytes[usize::try_from(2 * SEGMENT).unwrap() + 500_000] ^= 1;
        for (number, bytes) in (3..).map(SegmentNumber::new).zip(bytes.chunks_exact(size().as_usize())) {
            let prepared =
                wal.prepare_segment(number.name(TimelineId::FIRST, size()), MajorVersion::V15, bytes).unwrap();
            wal.put(&prepared).await.unwrap();
        }
        assert_eq!(kinds(&built(&wal, segments(3..7)).await), "ssds");
        // An object that cannot be read takes the record at its start with it.
        let key = wal.lineage().layout().segment(SegmentNumber::new(5).name(TimelineId::FIRST, size()));
        wal.lineage().store().put(&key, b"nothing".to_vec().into(), PutMode::Overwrite).await.unwrap();
        assert_eq!(kinds(&built(&wal, segments(3..7)).await), "sdds");
    }

    #[tokio::test]
    async fn a_timeline_that_was_left_is_summarized_up_to_the_switch() {
        let (wal, mut writer) = (wal().await, writer(3));
        fill(&mut writer, 3);
        writer.filler(1000);
        let switch = writer.position();
        writer.filler(1000);
        store(&wal, &writer).await;
        let stretches = vec![segments(3..4)[0], Stretch { from: Lsn::new(4 * SEGMENT), to: switch }];
        let run = built(&wal, stretches).await;
        assert_eq!(kinds(&run), "ss");
        assert_eq!(run[1].stretch().to, switch);
        let beyond = vec![Stretch { from: Lsn::new(4 * SEGMENT), to: switch.advance(SEGMENT / 2) }];
        assert_eq!(kinds(&built(&wal, beyond).await), "u");
    }
}
