//! What a verification found, as a document.

use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::repository::lineage::LineageId;
use pitr::summarize::{Stretch, VerifiedTimeline};
use serde::Serialize;

use super::View;

#[derive(Debug, Clone, Serialize)]
pub struct RangeDocument {
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
}

#[derive(Debug, Clone, Serialize)]
pub struct UnusableDocument {
    #[serde(flatten)]
    pub range: RangeDocument,
    /// `outdated` or `damaged`.
    pub state: &'static str,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct DamagedDocument {
    #[serde(flatten)]
    pub range: RangeDocument,
    pub reason: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct TimelineDocument {
    pub timeline: TimelineId,
    pub usable: u64,
    pub unusable: Vec<UnusableDocument>,
    pub missing: Vec<RangeDocument>,
    pub pending: Vec<RangeDocument>,
    pub built: u64,
    pub damaged: Vec<DamagedDocument>,
    #[serde(skip)]
    lacking: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct LineageDocument {
    pub system_identifier: SystemIdentifier,
    pub timelines: Vec<TimelineDocument>,
}

/// `pitr verify`.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyDocument {
    pub format: u32,
    pub cluster: String,
    pub repaired: bool,
    pub lineages: Vec<LineageDocument>,
}

impl From<Stretch> for RangeDocument {
    fn from(stretch: Stretch) -> Self {
        Self { from_lsn: stretch.from, to_lsn: stretch.to }
    }
}

impl LineageDocument {
    pub fn new(lineage: LineageId, timelines: &[VerifiedTimeline]) -> Self {
        let timelines = timelines.iter().map(TimelineDocument::new).collect();
        Self { system_identifier: lineage.system_identifier(), timelines }
    }
}

impl TimelineDocument {
    pub fn new(verified: &VerifiedTimeline) -> Self {
        let unusable = verified.unusable.iter().map(|unusable| UnusableDocument {
            range: unusable.stretch.into(),
            state: if unusable.outdated { "outdated" } else { "damaged" },
            reason: unusable.reason.clone(),
        });
        let damaged = verified
            .damaged
            .iter()
            .map(|damaged| DamagedDocument { range: damaged.stretch.into(), reason: damaged.reason.clone() });
        Self {
            timeline: verified.timeline,
            usable: verified.usable,
            unusable: unusable.collect(),
            missing: verified.missing.iter().map(|stretch| (*stretch).into()).collect(),
            pending: verified.pending.iter().map(|stretch| (*stretch).into()).collect(),
            built: verified.built,
            damaged: damaged.collect(),
            lacking: verified.lacking(),
        }
    }

    fn lines(&self, lines: &mut Vec<String>) {
        let Self { timeline, usable, built, .. } = self;
        let (missing, pending) = (self.missing.len(), self.pending.len());
        lines.push(format!(
            "timeline {timeline}: {usable} WAL summaries, {missing} segments had none, {built} built, {} lacking{}",
            self.lacking,
            if pending > 0 { format!(", {pending} not due yet") } else { String::new() }
        ));
        for unusable in &self.unusable {
            let RangeDocument { from_lsn, to_lsn } = &unusable.range;
            lines.push(format!("  {} from {from_lsn} to {to_lsn}: {}", unusable.state, unusable.reason));
        }
        for damaged in &self.damaged {
            let RangeDocument { from_lsn, to_lsn } = &damaged.range;
            lines.push(format!("  cannot be built from {from_lsn} to {to_lsn}: {}", damaged.reason));
        }
    }
}

impl VerifyDocument {
    /// How many segments have no summary and should have one.
    pub fn lacking(&self) -> u64 {
        self.lineages.iter().flat_map(|lineage| &lineage.timelines).map(|timeline| timeline.lacking).sum()
    }

    pub fn text(&self, _: &View) -> String {
        let mut lines = Vec::new();
        for lineage in &self.lineages {
            if self.lineages.len() > 1 {
                lines.push(format!("system identifier {}", lineage.system_identifier));
            }
            lineage.timelines.iter().for_each(|timeline| timeline.lines(&mut lines));
        }
        if lines.is_empty() {
            lines.push("no WAL is stored yet".to_owned());
        }
        lines.join("\n") + "\n"
    }
}

#[cfg(test)]
mod tests {
    use pitr::summarize::verify::{DamagedStretch, UnusableSummary};

    use super::*;

    fn stretch(from: u64) -> Stretch {
        Stretch { from: Lsn::new(from << 24), to: Lsn::new((from + 1) << 24) }
    }

    #[test]
    fn says_what_is_lacking_as_text_and_json() {
        let timeline = VerifiedTimeline {
            timeline: TimelineId::FIRST,
            usable: 40,
            unusable: vec![UnusableSummary {
                stretch: stretch(3),
                outdated: true,
                reason: "made by version 0".to_owned(),
            }],
            missing: vec![stretch(3), stretch(7)],
            pending: vec![stretch(9)],
            built: 1,
            damaged: vec![DamagedStretch { stretch: stretch(7), reason: "record checksum".to_owned() }],
        };
        let lineage = LineageId::new(SystemIdentifier::new(7_450_000_000_000_000_000), 1);
        let document = VerifyDocument {
            format: 1,
            cluster: "main".to_owned(),
            repaired: true,
            lineages: vec![LineageDocument::new(lineage, &[timeline])],
        };
        assert_eq!(document.lacking(), 1);
        insta::assert_snapshot!("verify_text", document.text(&View::fixed()));
        insta::assert_snapshot!("verify_json", super::super::json::document(&document));
    }
}
