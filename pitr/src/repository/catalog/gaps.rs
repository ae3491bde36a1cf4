//! Holes in the WAL, and what is known of why.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::{Catalog, MissingWal};
use crate::postgres::history::TimelinePath;
use crate::postgres::{Lsn, TimelineId};
use crate::repository::backup::BackupManifest;
use crate::repository::gap::GapNote;

/// WAL that is missing between two things that are there, or at the end of what is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gap {
    pub timeline: TimelineId,
    /// The first segment of which something is missing.
    pub segment: String,
    pub from_lsn: Lsn,
    /// None where nothing was stored behind it yet.
    pub to_lsn: Option<Lsn>,
    pub reason: String,
    /// By the agent that noticed.
    pub noticed: Option<DateTime<Utc>>,
    /// Retention made the hole, all of it: nothing that was to be kept is missing.
    #[serde(default)]
    pub expired: bool,
}

impl Catalog {
    /// Holes that end a window, or that lie between a backup and later WAL. Where no backup comes before, nothing is lost.
    ///
    /// The holes follow from the WAL itself; notes only say why. A note counts by itself at the very end of the WAL: there
    /// nothing could prove that something is missing.
    #[must_use]
    pub fn gaps(&self) -> Vec<Gap> {
        let mut gaps: Vec<Gap> = Vec::new();
        for path in self.paths_with_wal() {
            let on_path = |b: &&BackupManifest| path.contains(b.timeline, b.stop_lsn);
            let Some(first) = self.backups.iter().filter(on_path).map(|backup| backup.start_lsn).min() else {
                continue;
            };
            for gap in self.gaps_on(path, first) {
                if !gaps.iter().any(|known| known.timeline == gap.timeline && known.from_lsn == gap.from_lsn) {
                    gaps.push(gap);
                }
            }
        }
        gaps.sort_by_key(|gap| (gap.timeline, gap.from_lsn));
        gaps
    }

    fn gaps_on(&self, path: &TimelinePath, first: Lsn) -> Vec<Gap> {
        let mut gaps = Vec::new();
        let mut from = first;
        loop {
            let reach = self.reach(path, from);
            let Some(missing) = reach.missing else {
                gaps.extend(self.lost_behind(path, reach.end));
                return gaps;
            };
            let notes = self.notes_on(path, missing.from, Some(missing.to));
            gaps.push(Gap {
                timeline: missing.segment.tli(),
                segment: missing.segment.to_string(),
                from_lsn: missing.from,
                to_lsn: Some(missing.to),
                expired: notes.iter().any(|note| tells_of_all(note, &missing)),
                noticed: notes.iter().map(|note| note.noticed).min(),
                reason: words(&notes).unwrap_or_else(|| by_the_wal(&missing)),
            });
            if !missing.resumes {
                return gaps;
            }
            from = missing.to;
        }
    }

    /// What is noted as lost behind `end`, where the WAL of `path` ends.
    fn lost_behind(&self, path: &TimelinePath, end: Lsn) -> Option<Gap> {
        let notes = self.notes_on(path, end, None);
        // What begins before the end was stored after all; what was deleted on purpose is no loss.
        let notes: Vec<&GapNote> =
            notes.into_iter().filter(|note| note.from_lsn >= end && !note.is_expired()).collect();
        let segment = self.segment_name(path, self.segment_size().segment_of(end));
        Some(Gap {
            timeline: segment.tli(),
            segment: segment.to_string(),
            from_lsn: end,
            to_lsn: notes.iter().filter_map(|note| note.to_lsn).max(),
            noticed: notes.iter().map(|note| note.noticed).min(),
            reason: words(&notes)?,
            expired: false,
        })
    }

    /// Notes on `path` that say something of the WAL from `from` to `to`.
    fn notes_on(&self, path: &TimelinePath, from: Lsn, to: Option<Lsn>) -> Vec<&GapNote> {
        let size = self.segment_size();
        // A note without an end says where the loss began. It may have been noticed a few bytes before what was stored last.
        let begin = size.start_of(size.segment_of(from));
        let concerns = |note: &&GapNote| {
            path.step(note.timeline).is_some()
                && to.is_none_or(|to| note.from_lsn < to)
                && note.to_lsn.map_or(note.from_lsn >= begin, |end| end > from)
        };
        self.gap_notes.iter().filter(concerns).collect()
    }
}

/// Whether the note says that the whole of the hole was deleted on purpose.
fn tells_of_all(note: &GapNote, missing: &MissingWal) -> bool {
    note.is_expired() && note.from_lsn <= missing.from && note.to_lsn.is_some_and(|to| to >= missing.to)
}

/// The reasons, each once.
fn words(notes: &[&GapNote]) -> Option<String> {
    let mut reasons: Vec<&str> = Vec::new();
    for note in notes {
        if !reasons.contains(&note.reason.as_str()) {
            reasons.push(&note.reason);
        }
    }
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

/// Where nobody noted why.
fn by_the_wal(missing: &MissingWal) -> String {
    if missing.resumes {
        format!("segment {} is not whole, and later WAL is there", missing.segment)
    } else {
        format!("there was WAL up to {}, and it is not there", missing.to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repository::catalog::testing::*;
    use crate::repository::gap::GapCause;

    fn note(from: u64, to: Option<u64>, reason: &str) -> GapNote {
        GapNote {
            timeline: tli(1),
            from_lsn: lsn(from),
            to_lsn: to.map(lsn),
            cause: GapCause::SlotLost,
            reason: reason.to_owned(),
            noticed: at(30),
            who: "db1/1".to_owned(),
        }
    }

    fn holey(notes: Vec<GapNote>) -> Catalog {
        let mut catalog = catalog()
            .with_timeline(1, &[], [2, 3, 5, 6], None)
            .with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0))
            .with_backup(backup(1, 6 * MIB + 40, 6 * MIB + 400, 60));
        catalog.gap_notes = notes;
        catalog
    }

    fn told(catalog: &Catalog) -> Vec<(u64, Option<u64>, String)> {
        let tell = |gap: Gap| (gap.from_lsn.as_u64(), gap.to_lsn.map(Lsn::as_u64), gap.reason);
        catalog.gaps().into_iter().map(tell).collect()
    }

    #[test]
    fn a_hole_is_told_with_the_reasons_that_were_noted() {
        let notes = vec![
            note(2 * MIB, Some(3 * MIB), "filled since"),
            note(4 * MIB, None, "slot lost"),
            note(4 * MIB, Some(5 * MIB), "slot lost"),
            note(6 * MIB, Some(9 * MIB), "elsewhere"),
        ];
        let catalog = holey(notes);
        assert_eq!(told(&catalog), [(4 * MIB, Some(5 * MIB), "slot lost".to_owned())]);
        assert_eq!(catalog.gaps()[0].noticed, Some(at(30)));
    }

    #[test]
    fn a_hole_without_a_note_is_a_hole_all_the_same() {
        let gaps = told(&holey(Vec::new()));
        assert_eq!((gaps[0].0, gaps[0].1), (4 * MIB, Some(5 * MIB)));
        assert!(gaps[0].2.contains("not whole"), "{gaps:?}");
    }

    #[test]
    fn a_hole_is_retentions_only_where_its_note_tells_of_all_of_it() {
        for (to, expired) in [(5 * MIB, true), (4 * MIB + 7, false)] {
            let mut told = note(3 * MIB, Some(to), "no rule keeps it");
            told.cause = GapCause::Expired;
            assert_eq!(holey(vec![told]).gaps()[0].expired, expired, "{to}");
        }
        assert!(!holey(vec![note(4 * MIB, Some(5 * MIB), "slot lost")]).gaps()[0].expired);
    }

    #[test]
    fn notes_make_no_hole_where_the_wal_is_whole() {
        let mut catalog =
            catalog().with_timeline(1, &[], 2..8, None).with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0));
        catalog.gap_notes = vec![note(4 * MIB + 100, None, "given up"), note(5 * MIB, Some(6 * MIB), "deleted")];
        assert_eq!(told(&catalog), []);
        assert_eq!(catalog.windows()[0].to.lsn, lsn(8 * MIB));
    }

    #[test]
    fn what_is_lost_behind_the_end_is_told_by_its_note() {
        let mut catalog =
            catalog().with_timeline(1, &[], 2..8, None).with_backup(backup(1, 2 * MIB + 40, 2 * MIB + 400, 0));
        catalog.gap_notes = vec![note(8 * MIB, None, "given up")];
        assert_eq!(told(&catalog), [(8 * MIB, None, "given up".to_owned())]);
        catalog.gap_notes.push(note(8 * MIB, Some(11 * MIB), "given up"));
        assert_eq!(told(&catalog), [(8 * MIB, Some(11 * MIB), "given up".to_owned())]);
    }
}
