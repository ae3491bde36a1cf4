//! Timeline history files, and the way through timelines that leads to one of them.
//!
//! `readTimeLineHistory` and its neighbours in `timeline.c` are the model, except that nothing doubtful is let through:
//! a history file decides which WAL is replayed.

use std::fmt;

use super::{Lsn, SegmentNumber, TimelineId, WalSegmentSize};

/// Where the path to a timeline left one of its ancestors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The timeline that was left.
    pub parent: TimelineId,
    /// First byte that is no longer the parent's.
    pub switch_lsn: Lsn,
    /// Why, in the server's words.
    pub reason: String,
}

/// The contents of `<tli>.history`: the ancestors of a timeline, oldest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    tli: TimelineId,
    switches: Vec<TimelineSwitch>,
}

/// A history file that no server would have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid history file of timeline {tli}, line {line}: {kind}")]
pub struct HistoryError {
    pub tli: TimelineId,
    /// From 1; one more than there are where the whole is wrong.
    pub line: usize,
    pub kind: HistoryErrorKind,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryErrorKind {
    #[error("expected a timeline, a WAL position and a reason, separated by tabs")]
    Syntax,
    #[error("timeline {found} does not come after {previous}")]
    NotRising { found: TimelineId, previous: TimelineId },
    #[error("timeline {found} is not an ancestor of {descendant}")]
    NotAncestor { found: TimelineId, descendant: TimelineId },
    #[error("position {found} is before the one of the line above")]
    PositionGoesBack { found: Lsn },
    #[error("it names no ancestor")]
    Empty,
}

impl TimelineHistory {
    /// Reads the history file of `tli`. Empty lines and comments are skipped.
    ///
    /// # Errors
    /// Anything but rising ancestors with positions that do not go back, or no ancestor at all.
    pub fn parse(tli: TimelineId, contents: &[u8]) -> Result<Self, HistoryError> {
        let text = String::from_utf8_lossy(contents);
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        let mut lines = 0;
        for (line, number) in text.lines().zip(1..) {
            lines = number;
            let line = line.trim_ascii_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let error = |kind| HistoryError { tli, line: number, kind };
            let switch = parse_line(line).ok_or_else(|| error(HistoryErrorKind::Syntax))?;
            check_order(tli, switches.last(), &switch).map_err(error)?;
            switches.push(switch);
        }
        if switches.is_empty() {
            return Err(HistoryError { tli, line: lines + 1, kind: HistoryErrorKind::Empty });
        }
        Ok(Self { tli, switches })
    }

    /// The timeline whose history this is.
    #[must_use]
    pub const fn tli(&self) -> TimelineId {
        self.tli
    }

    /// Oldest first; never empty.
    #[must_use]
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// Where the timeline began.
    #[must_use]
    pub fn begin(&self) -> Lsn {
        self.switches.last().map_or(Lsn::INVALID, |switch| switch.switch_lsn)
    }

    /// The timeline that it left.
    #[must_use]
    pub fn parent(&self) -> Option<TimelineId> {
        self.switches.last().map(|switch| switch.parent)
    }
}

fn parse_line(line: &str) -> Option<TimelineSwitch> {
    let mut fields = line.splitn(3, '\t');
    let parent = fields.next()?.parse().ok()?;
    let switch_lsn: Lsn = fields.next()?.trim_ascii_end().parse().ok()?;
    let reason = fields.next().unwrap_or_default().trim_ascii_end().to_owned();
    switch_lsn.is_valid().then_some(TimelineSwitch { parent, switch_lsn, reason })
}

fn check_order(
    tli: TimelineId,
    previous: Option<&TimelineSwitch>,
    switch: &TimelineSwitch,
) -> Result<(), HistoryErrorKind> {
    if switch.parent >= tli {
        return Err(HistoryErrorKind::NotAncestor { found: switch.parent, descendant: tli });
    }
    let Some(previous) = previous else { return Ok(()) };
    if switch.parent <= previous.parent {
        return Err(HistoryErrorKind::NotRising { found: switch.parent, previous: previous.parent });
    }
    if switch.switch_lsn < previous.switch_lsn {
        return Err(HistoryErrorKind::PositionGoesBack { found: switch.switch_lsn });
    }
    Ok(())
}

impl fmt::Display for TimelineHistory {
    /// As the server writes it. The original may have comments and bytes that are not UTF-8: keep that where it must be
    /// the same.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for switch in &self.switches {
            writeln!(f, "{}\t{}\t{}", switch.parent, switch.switch_lsn, switch.reason)?;
        }
        Ok(())
    }
}

/// One timeline on the way, and what of it belongs to the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathStep {
    pub tli: TimelineId,
    pub begin: Lsn,
    /// First byte that is the next timeline's; none on the last, which goes on.
    pub end: Option<Lsn>,
}

/// The WAL that leads to a timeline: a part of each ancestor, then the timeline itself without an end. Without gaps from
/// position zero on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelinePath {
    steps: Vec<PathStep>,
}

impl TimelinePath {
    /// Of a timeline that has no history file: the first one of a cluster.
    #[must_use]
    pub fn without_history(tli: TimelineId) -> Self {
        Self { steps: vec![PathStep { tli, begin: Lsn::INVALID, end: None }] }
    }

    #[must_use]
    pub fn new(history: &TimelineHistory) -> Self {
        let mut begin = Lsn::INVALID;
        let mut steps = Vec::with_capacity(history.switches.len() + 1);
        for switch in &history.switches {
            steps.push(PathStep { tli: switch.parent, begin, end: Some(switch.switch_lsn) });
            begin = switch.switch_lsn;
        }
        steps.push(PathStep { tli: history.tli, begin, end: None });
        Self { steps }
    }

    /// Oldest first.
    #[must_use]
    pub fn steps(&self) -> &[PathStep] {
        &self.steps
    }

    /// The timeline that the path leads to.
    #[must_use]
    pub fn tli(&self) -> TimelineId {
        self.steps.last().map_or(TimelineId::FIRST, |step| step.tli)
    }

    #[must_use]
    pub fn step(&self, tli: TimelineId) -> Option<&PathStep> {
        self.steps.iter().find(|step| step.tli == tli)
    }

    /// What ends at `lsn` on `tli` is wholly part of this path: the question to ask for a backup that stopped there.
    #[must_use]
    pub fn contains(&self, tli: TimelineId, lsn: Lsn) -> bool {
        self.step(tli).is_some_and(|step| step.end.is_none_or(|end| lsn <= end))
    }

    /// The timeline to which the byte at `lsn` belongs (`tliOfPointInHistory`).
    #[must_use]
    pub fn tli_at(&self, lsn: Lsn) -> TimelineId {
        let step = self.steps.iter().rev().find(|step| step.begin <= lsn);
        step.map_or(TimelineId::FIRST, |step| step.tli)
    }

    /// The timeline whose file the server reads for `segment`: of all that have a part of it the newest, which starts
    /// with a copy of its parent's bytes (`XLogFileReadAnyTLI`).
    #[must_use]
    pub fn tli_of_segment(&self, segment: SegmentNumber, size: WalSegmentSize) -> TimelineId {
        let step = self.steps.iter().rev().find(|step| size.segment_of(step.begin) <= segment);
        step.map_or(TimelineId::FIRST, |step| step.tli)
    }

    /// All timelines with a part of `segment`, newest first: the order in which a server looks for it.
    pub fn tlis_of_segment(&self, segment: SegmentNumber, size: WalSegmentSize) -> impl Iterator<Item = TimelineId> {
        let holds = move |step: &&PathStep| {
            size.segment_of(step.begin) <= segment && step.end.is_none_or(|end| size.start_of(segment) < end)
        };
        self.steps.iter().rev().filter(holds).map(|step| step.tli)
    }

    /// Where this path and `other` part: the last timeline they share, and the first byte they do not, if there is one.
    #[must_use]
    pub fn fork_from(&self, other: &Self) -> Option<PathStep> {
        let shared = self.steps.iter().zip(&other.steps).take_while(|(ours, theirs)| ours.tli == theirs.tli).last();
        shared.map(|(ours, theirs)| {
            let end = match (ours.end, theirs.end) {
                (Some(ours), Some(theirs)) => Some(ours.min(theirs)),
                (end, None) | (None, end) => end,
            };
            PathStep { end, ..*ours }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tli(id: u32) -> TimelineId {
        TimelineId::new(id).unwrap()
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn history(id: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(tli(id), text.as_bytes()).unwrap()
    }

    fn error(id: u32, text: &str) -> (usize, HistoryErrorKind) {
        let error = TimelineHistory::parse(tli(id), text.as_bytes()).expect_err(text);
        (error.line, error.kind)
    }

    const WRITTEN: &str = "1\t0/130007A8\tat restore point \"m18\"\n2\t0/15000000\tno recovery target specified\n";

    #[test]
    fn writes_what_it_reads() {
        let parsed = history(5, WRITTEN);
        assert_eq!(parsed.to_string(), WRITTEN);
        assert_eq!((parsed.tli(), parsed.parent(), parsed.begin()), (tli(5), Some(tli(2)), lsn("0/15000000")));
        assert_eq!(parsed.switches()[0].reason, "at restore point \"m18\"");
    }

    #[test]
    fn tolerates_what_the_server_tolerates() {
        let text = "# a comment\n\n  \t\n 1\t0/130007A8\tbefore 2026-01-01 00:00:00+00\n\n2\t0/15000000";
        assert_eq!(history(3, text).switches().len(), 2);
        let not_utf8 = b"1\t0/130007A8\tat restore point \"caf\xE9\"\n";
        assert_eq!(TimelineHistory::parse(tli(2), not_utf8).unwrap().begin(), lsn("0/130007A8"));
        assert_eq!(history(2, "1\t0/130007A8\twith\ttabs\n").switches()[0].reason, "with\ttabs");
    }

    #[test]
    fn refuses_what_would_mislead() {
        for text in ["x", "1", "1 0/1 reason", "1\t0/G\tr", "1\t\tr", "0\t0/100\tr", "1\t0/0\tr", "-1\t0/100\tr"] {
            assert_eq!(error(9, text), (1, HistoryErrorKind::Syntax), "{text:?}");
        }
        assert_eq!(error(9, ""), (1, HistoryErrorKind::Empty));
        assert_eq!(error(9, "# only\n# comments\n"), (3, HistoryErrorKind::Empty));
        let twice = "1\t0/100\tr\n1\t0/200\tr\n";
        assert_eq!(error(9, twice), (2, HistoryErrorKind::NotRising { found: tli(1), previous: tli(1) }));
        let back = "1\t0/200\tr\n2\t0/100\tr\n";
        assert_eq!(error(9, back), (2, HistoryErrorKind::PositionGoesBack { found: lsn("0/100") }));
        let own = HistoryErrorKind::NotAncestor { found: tli(2), descendant: tli(2) };
        assert_eq!(error(2, "2\t0/100\tr\n"), (1, own));
    }

    #[test]
    fn a_path_has_no_gaps() {
        let path = TimelinePath::new(&history(5, WRITTEN));
        let steps: Vec<_> = path.steps().iter().map(|step| (step.tli.as_u32(), step.begin, step.end)).collect();
        let (first, second) = (lsn("0/130007A8"), lsn("0/15000000"));
        assert_eq!(steps, [(1, Lsn::INVALID, Some(first)), (2, first, Some(second)), (5, second, None)]);
        assert_eq!(path.tli(), tli(5));
        assert_eq!(TimelinePath::without_history(TimelineId::FIRST).tli_at(lsn("0/1")), TimelineId::FIRST);
    }

    #[test]
    fn a_byte_belongs_to_one_timeline_and_an_end_may_touch_the_next() {
        let path = TimelinePath::new(&history(5, WRITTEN));
        let table = [("0/28", 1), ("0/130007A7", 1), ("0/130007A8", 2), ("0/14FFFFFF", 2), ("0/15000000", 5)];
        for (at, expected) in table {
            assert_eq!(path.tli_at(lsn(at)), tli(expected), "{at}");
        }
        assert_eq!(path.tli_at(Lsn::MAX), tli(5));
        assert!(path.contains(tli(1), lsn("0/130007A8")));
        assert!(!path.contains(tli(1), lsn("0/130007A9")));
        assert!(path.contains(tli(5), Lsn::MAX));
        assert!(!path.contains(tli(3), lsn("0/28")));
    }

    #[test]
    fn a_shared_segment_is_read_from_the_newest_file() {
        let size = WalSegmentSize::DEFAULT;
        let path = TimelinePath::new(&history(7, "1\t0/130007A8\tr\n2\t0/13F00000\tr\n5\t0/15000000\tr\n"));
        // The switch at the start of segment 15 leaves segment 14 as 5's last.
        for (segment, expected) in [(0, 1), (0x12, 1), (0x13, 5), (0x14, 5), (0x15, 7), (0x16, 7)] {
            assert_eq!(path.tli_of_segment(SegmentNumber::new(segment), size), tli(expected), "{segment:X}");
        }
        let all = |segment| -> Vec<u32> {
            path.tlis_of_segment(SegmentNumber::new(segment), size).map(TimelineId::as_u32).collect()
        };
        assert_eq!(all(0x12), [1]);
        assert_eq!(all(0x13), [5, 2, 1]);
        assert_eq!(all(0x14), [5]);
        assert_eq!(all(0x15), [7]);
    }

    #[test]
    fn paths_part_where_the_first_of_them_leaves() {
        let first = TimelinePath::without_history(tli(1));
        let second = TimelinePath::new(&history(2, "1\t0/200\tr\n"));
        let third = TimelinePath::new(&history(3, "1\t0/100\tr\n"));
        let fourth = TimelinePath::new(&history(4, "1\t0/200\tr\n2\t0/300\tr\n"));
        let fork = |a: &TimelinePath, b: &TimelinePath| a.fork_from(b).map(|step| (step.tli.as_u32(), step.end));
        assert_eq!(fork(&first, &second), Some((1, Some(lsn("0/200")))));
        assert_eq!(fork(&second, &third), Some((1, Some(lsn("0/100")))));
        assert_eq!(fork(&fourth, &second), Some((2, Some(lsn("0/300")))));
        assert_eq!(fork(&second, &second), Some((2, None)));
        assert_eq!(fork(&first, &TimelinePath::without_history(tli(9))), None);
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            let _ = TimelineHistory::parse(tli(7), &bytes);
        }
    }
}
