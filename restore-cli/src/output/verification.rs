//! What a verification found, as a document.

use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::repository::backup::BackupId;
use pitr::verify::{BackupVerdict, Damage, Depth, Figures, LineageReport, Loss, LostRange};
use serde::Serialize;

use super::View;
use super::human;
use super::info::{GapDocument, MomentDocument, WindowDocument};
use super::json::Time;
use super::verify::TimelineDocument;

/// `pitr verify`.
#[derive(Debug, Clone, Serialize)]
pub struct VerificationDocument {
    pub format: u32,
    pub cluster: String,
    pub repaired: bool,
    #[serde(flatten)]
    pub mode: ModeDocument,
    pub lineages: Vec<VerifiedLineageDocument>,
}

/// How much was read.
#[derive(Debug, Clone, Serialize)]
pub struct ModeDocument {
    /// `fast`, `full` or `sample`.
    pub mode: &'static str,
    pub sample_bytes: Option<u64>,
    /// Gives the same sample again.
    pub seed: Option<u64>,
}

#[derive(Debug, Clone, Serialize)]
pub struct VerifiedLineageDocument {
    pub system_identifier: SystemIdentifier,
    pub generation: u32,
    pub whole: bool,
    pub damaged: Vec<DamageDocument>,
    pub more_damaged: u64,
    pub backups: Vec<VerdictDocument>,
    pub lost: LossDocument,
    pub window: Vec<WindowDocument>,
    pub gaps: Vec<GapDocument>,
    pub incomplete: Vec<BackupId>,
    pub garbage: GarbageDocument,
    pub checked: CheckedDocument,
    pub notes: Vec<String>,
    pub timelines: Vec<TimelineDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct DamageDocument {
    pub key: String,
    pub kind: &'static str,
    pub missing: bool,
    pub reason: String,
    pub offset: Option<u64>,
    pub lsn: Option<Lsn>,
}

#[derive(Debug, Clone, Serialize)]
pub struct VerdictDocument {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub stop_time: Time,
    pub whole: bool,
    pub faults: Vec<String>,
    pub more_faults: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct LossDocument {
    pub ranges: Vec<LostRangeDocument>,
    pub backups: Vec<BackupId>,
    pub markers: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct LostRangeDocument {
    pub timeline: TimelineId,
    pub from: MomentDocument,
    pub to: MomentDocument,
    pub markers: Vec<String>,
}

/// What no backup names, and what is not known.
#[derive(Debug, Clone, Serialize)]
pub struct GarbageDocument {
    pub objects: u64,
    pub bytes: u64,
    pub unknown_objects: u64,
}

/// How much was looked at.
#[derive(Debug, Clone, Serialize)]
pub struct CheckedDocument {
    pub backups: u64,
    pub documents: u64,
    pub maps: u64,
    pub packs: u64,
    pub packs_read: u64,
    pub pack_bytes_read: u64,
    pub segments: u64,
    pub tails: u64,
    pub segments_read: u64,
    pub wal_bytes_read: u64,
    pub summaries_compared: u64,
}

impl ModeDocument {
    pub fn new(depth: Depth) -> Self {
        match depth {
            Depth::Fast => Self { mode: "fast", sample_bytes: None, seed: None },
            Depth::Full => Self { mode: "full", sample_bytes: None, seed: None },
            Depth::Sample { bytes, seed } => Self { mode: "sample", sample_bytes: Some(bytes), seed: Some(seed) },
        }
    }
}

impl VerifiedLineageDocument {
    pub fn new(report: &LineageReport) -> Self {
        let id = report.lineage.system_identifier();
        Self {
            system_identifier: id,
            generation: report.lineage.generation(),
            whole: report.is_whole(),
            damaged: report.damages.iter().map(DamageDocument::new).collect(),
            more_damaged: report.more_damages,
            backups: report.backups.iter().map(VerdictDocument::new).collect(),
            lost: LossDocument::new(&report.loss),
            window: report.windows.iter().map(|window| WindowDocument::new(window, id)).collect(),
            gaps: report.gaps.iter().map(|gap| GapDocument::new(gap.clone(), id)).collect(),
            incomplete: report.incomplete.clone(),
            garbage: GarbageDocument {
                objects: report.figures.unnamed_objects,
                bytes: report.figures.unnamed_bytes,
                unknown_objects: report.figures.unknown_objects,
            },
            checked: CheckedDocument::new(&report.figures),
            notes: report.notes.clone(),
            timelines: report.summaries.iter().map(TimelineDocument::new).collect(),
        }
    }

    pub fn knows(&self, id: &BackupId) -> bool {
        self.backups.iter().any(|backup| backup.id == *id) || self.lost.backups.contains(id)
    }

    fn lines(&self, view: &View, lines: &mut Vec<String>) {
        for damage in &self.damaged {
            lines.push(view.paint.red(&format!("damaged: {}", damage.text())));
        }
        if self.more_damaged > 0 {
            lines.push(format!("damaged: and {} more", human::grouped(self.more_damaged)));
        }
        for backup in self.backups.iter().filter(|backup| !backup.whole) {
            lines.push(view.paint.red(&format!("backup {} cannot be restored", backup.id)));
            backup.faults.iter().for_each(|fault| lines.push(format!("  {fault}")));
            if backup.more_faults > 0 {
                lines.push(format!("  and {} more", human::grouped(backup.more_faults)));
            }
        }
        self.lost.lines(view, lines);
        for gap in &self.gaps {
            lines.push(format!("known gap: timeline {}, {}: {}", gap.timeline, gap.range(), gap.reason));
        }
        lines.extend(self.notes.iter().map(|note| format!("note: {note}")));
        self.summary_lines(lines);
        self.unharmed(view, lines);
    }

    fn summary_lines(&self, lines: &mut Vec<String>) {
        let missing: usize = self.timelines.iter().map(|timeline| timeline.missing.len()).sum();
        let unusable: usize = self.timelines.iter().map(|timeline| timeline.unusable.len()).sum();
        if missing + unusable > 0 {
            lines.push(format!(
                "note: {} without a usable WAL summary; \"pitr verify --repair-summaries\" builds them",
                human::count(missing as u64, "segment")
            ));
        }
        if self.garbage.objects > 0 {
            let objects = human::count(self.garbage.objects, "object");
            lines.push(format!("garbage: {objects} that no backup names, {}", human::bytes(self.garbage.bytes)));
        }
        if self.garbage.unknown_objects > 0 {
            lines.push(format!("unknown: {}", human::count(self.garbage.unknown_objects, "object")));
        }
    }

    /// What can be restored all the same, and what that is known from.
    fn unharmed(&self, view: &View, lines: &mut Vec<String>) {
        let whole = self.backups.iter().filter(|backup| backup.whole).count();
        lines.push(format!("whole: {} of {}", whole, human::count(self.backups.len() as u64, "backup")));
        for window in &self.window {
            lines.push(format!(
                "can be restored: timeline {}, {} to {}",
                window.timeline,
                window.from.text(view),
                window.to.text(view)
            ));
        }
        let checked = &self.checked;
        lines.push(format!(
            "read: {}, {}, {} of {} ({}), {} of WAL; WAL summaries compared: {}",
            human::count(checked.documents, "document"),
            human::count(checked.maps, "map"),
            human::grouped(checked.packs_read),
            human::count(checked.packs, "pack"),
            human::bytes(checked.pack_bytes_read),
            human::bytes(checked.wal_bytes_read),
            human::grouped(checked.summaries_compared),
        ));
    }
}

impl MomentDocument {
    fn text(&self, view: &View) -> String {
        match self.time {
            Some(time) => format!("{} ({})", self.lsn, view.zone.both(time.0)),
            None => self.lsn.to_string(),
        }
    }
}

impl DamageDocument {
    fn new(damage: &Damage) -> Self {
        Self {
            key: damage.key.clone(),
            kind: damage.kind.name(),
            missing: damage.missing,
            reason: damage.reason.clone(),
            offset: damage.offset,
            lsn: damage.lsn,
        }
    }

    fn text(&self) -> String {
        let at = self.lsn.map(|lsn| format!(" (at {lsn})")).unwrap_or_default();
        format!("{}: {}{at}", self.key, self.reason)
    }
}

impl VerdictDocument {
    fn new(verdict: &BackupVerdict) -> Self {
        Self {
            id: verdict.id.clone(),
            timeline: verdict.timeline,
            stop_lsn: verdict.stop_lsn,
            stop_time: verdict.stop_time.into(),
            whole: verdict.is_whole(),
            faults: verdict.faults.clone(),
            more_faults: verdict.more_faults,
        }
    }
}

impl LossDocument {
    fn new(loss: &Loss) -> Self {
        Self {
            ranges: loss.ranges.iter().map(LostRangeDocument::new).collect(),
            backups: loss.backups.clone(),
            markers: loss.markers.clone(),
        }
    }

    fn lines(&self, view: &View, lines: &mut Vec<String>) {
        for range in &self.ranges {
            let (from, to) = (range.from.text(view), range.to.text(view));
            let markers = match range.markers.as_slice() {
                [] => String::new(),
                markers => format!(", with {}", markers.join(", ")),
            };
            lines.push(format!("cannot be reached: timeline {}, {from} to {to}{markers}", range.timeline));
        }
        if !self.markers.is_empty() {
            lines.push(format!("markers that cannot be used: {}", self.markers.join(", ")));
        }
    }
}

impl LostRangeDocument {
    fn new(range: &LostRange) -> Self {
        let moment = |moment: &pitr::repository::catalog::Moment| MomentDocument {
            lsn: moment.lsn,
            time: moment.time.map(Time),
        };
        Self {
            timeline: range.timeline,
            from: moment(&range.from),
            to: moment(&range.to),
            markers: range.markers.clone(),
        }
    }
}

impl CheckedDocument {
    fn new(figures: &Figures) -> Self {
        Self {
            backups: figures.backups,
            documents: figures.documents,
            maps: figures.maps,
            packs: figures.packs,
            packs_read: figures.packs_read,
            pack_bytes_read: figures.pack_bytes_read,
            segments: figures.segments,
            tails: figures.tails,
            segments_read: figures.segments_read,
            wal_bytes_read: figures.wal_bytes_read,
            summaries_compared: figures.summaries_compared,
        }
    }
}

impl VerificationDocument {
    /// What is wrong, in a line; none where nothing is.
    pub fn verdict(&self) -> Option<String> {
        let damaged: u64 =
            self.lineages.iter().map(|lineage| lineage.damaged.len() as u64 + lineage.more_damaged).sum();
        let backups = self.lineages.iter().flat_map(|lineage| &lineage.backups).filter(|backup| !backup.whole).count();
        if self.lineages.iter().all(|lineage| lineage.whole) {
            return None;
        }
        let objects = human::count(damaged, "damaged object");
        Some(format!("{objects}; {} cannot be restored", human::count(backups as u64, "backup")))
    }

    pub fn text(&self, view: &View) -> String {
        let mut lines = Vec::new();
        if let (Some(bytes), Some(seed)) = (self.mode.sample_bytes, self.mode.seed) {
            lines.push(format!("a sample of {}; --seed {seed} gives the same again", human::bytes(bytes)));
        }
        for lineage in &self.lineages {
            if self.lineages.len() > 1 {
                lines.push(format!("system identifier {}", lineage.system_identifier));
            }
            lineage.lines(view, &mut lines);
        }
        lines.join("\n") + "\n"
    }
}
