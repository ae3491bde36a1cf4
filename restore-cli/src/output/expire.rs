//! What retention would do, as a document.

use std::collections::BTreeMap;

use pitr::api::{ExpireJob, ExpireState};
use pitr::expire::{ObjectCount, ObjectKind, Survey};
use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::repository::backup::BackupId;
use pitr::retention::{
    BackupReason, BackupVerdict, Fate, LineagePlan, LostMoments, MarkerVerdict, ObjectReason, RewritePlan,
};
use serde::Serialize;

use super::View;
use super::human;
use super::info::MomentDocument;
use super::json::Time;
use super::table::{Table, printable};

#[derive(Debug, Clone, Serialize)]
pub struct ExpireDocument {
    pub format: u32,
    pub cluster: String,
    /// Where the window begins; null where no rule says that anything goes.
    pub window_begin: Option<Time>,
    pub lineages: Vec<ExpireLineage>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExpireLineage {
    pub system_identifier: SystemIdentifier,
    pub generation: u32,
    /// Nothing of it is kept: it goes as a whole.
    pub ends: bool,
    /// What keeps anything from being deleted.
    pub held_up: Option<String>,
    /// A backup that is being taken: what nothing names waits for it.
    pub waits_for: Option<BackupId>,
    pub backups: Vec<ExpireBackup>,
    pub markers: Vec<ExpireMarker>,
    /// What stops being reachable.
    pub lost: Vec<LostDocument>,
    pub rewrite: RewriteDocument,
    pub objects: Vec<ObjectsDocument>,
}

/// Packs of which little is needed: that goes into new ones.
#[derive(Debug, Clone, Serialize)]
pub struct RewriteDocument {
    pub packs: u64,
    /// Sizes of these packs, and how much of them is needed.
    pub bytes: u64,
    pub live_bytes: u64,
    /// Backups that name one of them.
    pub backups: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExpireBackup {
    pub id: BackupId,
    pub timeline: TimelineId,
    pub stop_lsn: Lsn,
    pub stop_time: Time,
    pub stored_bytes: u64,
    pub stays: bool,
    pub reasons: Vec<BackupReason>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ExpireMarker {
    pub name: String,
    pub timeline: TimelineId,
    pub lsn: Lsn,
    pub time: Time,
    pub stays: bool,
    pub pinned: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct LostDocument {
    pub timeline: TimelineId,
    pub from: MomentDocument,
    pub to: MomentDocument,
}

#[derive(Debug, Clone, Serialize)]
pub struct ObjectsDocument {
    /// `keep`, `later` or `delete`.
    pub fate: Fate,
    pub kind: ObjectKind,
    #[serde(flatten)]
    pub reason: ObjectReason,
    pub objects: u64,
    pub bytes: u64,
}

impl ExpireLineage {
    pub fn new(plan: &LineagePlan, survey: &Survey) -> Self {
        let objects = survey.counts.iter().map(|((fate, kind, reason), count)| ObjectsDocument {
            fate: *fate,
            kind: *kind,
            reason: reason.clone(),
            objects: count.objects,
            bytes: count.bytes,
        });
        Self {
            system_identifier: plan.lineage.system_identifier(),
            generation: plan.lineage.generation(),
            ends: plan.ends,
            held_up: plan.held_up.clone(),
            waits_for: plan.waits_for.clone(),
            backups: plan.backups.iter().map(ExpireBackup::new).collect(),
            markers: plan.markers.iter().map(ExpireMarker::new).collect(),
            lost: plan.lost.iter().map(LostDocument::new).collect(),
            rewrite: RewriteDocument::new(&plan.rewrite),
            objects: objects.collect(),
        }
    }
}

impl ExpireBackup {
    fn new(backup: &BackupVerdict) -> Self {
        Self {
            id: backup.id.clone(),
            timeline: backup.timeline,
            stop_lsn: backup.stop_lsn,
            stop_time: backup.stop_time.into(),
            stored_bytes: backup.stored_bytes,
            stays: backup.stays(),
            reasons: backup.reasons.clone(),
        }
    }

    fn why(&self) -> String {
        if self.reasons.is_empty() {
            return "no rule keeps it".to_owned();
        }
        self.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

impl ExpireMarker {
    fn new(marker: &MarkerVerdict) -> Self {
        let MarkerVerdict { name, timeline, lsn, time, pinned, stays } = marker.clone();
        Self { name, timeline, lsn, time: time.into(), stays, pinned }
    }
}

impl LostDocument {
    fn new(lost: &LostMoments) -> Self {
        let moment =
            |moment: pitr::repository::catalog::Moment| MomentDocument { lsn: moment.lsn, time: moment.time.map(Time) };
        Self { timeline: lost.timeline, from: moment(lost.from), to: moment(lost.to) }
    }
}

impl RewriteDocument {
    fn new(plan: &RewritePlan) -> Self {
        Self {
            packs: plan.packs.len() as u64,
            bytes: plan.bytes(),
            live_bytes: plan.live_bytes(),
            backups: plan.backups.len() as u64,
        }
    }

    fn text(&self) -> Option<String> {
        (self.packs > 0).then(|| {
            format!(
                "{} ({}) will be rewritten: only {} of that is needed, by {}",
                human::count(self.packs, "pack"),
                human::bytes(self.bytes),
                human::bytes(self.live_bytes),
                human::count(self.backups, "backup")
            )
        })
    }
}

impl ExpireDocument {
    /// Whether nothing goes, now or later.
    pub fn is_idle(&self) -> bool {
        self.total(Fate::Delete).objects == 0 && self.goes() == 0
    }

    /// How many backups go.
    pub fn goes(&self) -> u64 {
        let all = self.lineages.iter().flat_map(|lineage| &lineage.backups);
        all.filter(|backup| !backup.stays).count() as u64
    }

    /// In words, for a question.
    pub fn summary(&self) -> String {
        let total = self.total(Fate::Delete);
        format!(
            "{} and {} ({})",
            human::count(self.goes(), "backup"),
            human::count(total.objects, "object"),
            human::bytes(total.bytes)
        )
    }

    fn total(&self, fate: Fate) -> ObjectCount {
        let mut total = ObjectCount::default();
        for objects in self.lineages.iter().flat_map(|lineage| &lineage.objects).filter(|found| found.fate == fate) {
            total.objects += objects.objects;
            total.bytes += objects.bytes;
        }
        total
    }

    pub fn text(&self, view: &View) -> String {
        let mut text = view.paint.bold(&self.cluster);
        match self.window_begin {
            Some(begin) => text += &format!("  any moment since {} is to stay\n", view.zone.both(begin.0)),
            None => text += "  no rule says that anything goes: [retention] window is not set\n",
        }
        for lineage in &self.lineages {
            text += &lineage.text(view, self.lineages.len() > 1);
        }
        let told =
            |count: ObjectCount| format!("{}, {}", human::count(count.objects, "object"), human::bytes(count.bytes));
        let [keep, later, delete] = [Fate::Keep, Fate::Later, Fate::Delete].map(|fate| told(self.total(fate)));
        text + &format!("\n  goes now: {delete}\n  goes later: {later}\n  stays: {keep}\n")
    }
}

impl ExpireLineage {
    fn text(&self, view: &View, one_of_several: bool) -> String {
        let mut text = String::new();
        if one_of_several {
            text += &format!("\n  system {}, generation {}\n", self.system_identifier, self.generation);
        }
        if self.ends {
            text += "  nothing of it is kept: it goes as a whole\n";
        }
        if let Some(held_up) = &self.held_up {
            text += &format!("  {}\n", view.paint.red(&printable(&format!("nothing is deleted: {held_up}"))));
        }
        if let Some(backup) = &self.waits_for {
            text += &format!("  what no backup names waits for {backup}\n");
        }
        if !self.backups.is_empty() {
            text += &format!("\n{}", self.backup_table(view).render(view.paint, "  "));
        }
        let gone: Vec<&str> = self.markers.iter().filter(|m| !m.stays).map(|m| m.name.as_str()).collect();
        if !gone.is_empty() {
            text += &format!("\n  markers that go: {}\n", printable(&gone.join(", ")));
        }
        if !self.lost.is_empty() {
            text += "\n  no longer reachable:\n";
        }
        for lost in &self.lost {
            let moment = |moment: &MomentDocument| match moment.time {
                Some(time) => format!("{} ({})", moment.lsn, view.zone.both(time.0)),
                None => moment.lsn.to_string(),
            };
            text += &format!("    timeline {}, {} to {}\n", lost.timeline, moment(&lost.from), moment(&lost.to));
        }
        let table = self.object_table();
        if !table.is_empty() {
            text += &format!("\n{}", table.render(view.paint, "  "));
        }
        if let Some(rewrite) = self.rewrite.text() {
            text += &format!("\n  {rewrite}\n");
        }
        text
    }

    fn backup_table(&self, view: &View) -> Table {
        let mut table = Table::new(&["BACKUP", "FINISHED", ">TLI", ">STORED", "", "WHY"]);
        for backup in &self.backups {
            table.row([
                backup.id.to_string(),
                view.zone.both(backup.stop_time.0),
                backup.timeline.to_string(),
                human::bytes(backup.stored_bytes),
                if backup.stays { "stays" } else { "goes" }.to_owned(),
                backup.why(),
            ]);
        }
        table
    }

    /// What goes; of what stays only the sums.
    fn object_table(&self) -> Table {
        let mut table = Table::new(&["OBJECTS", ">COUNT", ">SIZE", "", "WHY"]);
        let mut kept: BTreeMap<ObjectKind, ObjectCount> = BTreeMap::new();
        for found in &self.objects {
            if found.fate == Fate::Keep {
                let sum = kept.entry(found.kind).or_default();
                sum.objects += found.objects;
                sum.bytes += found.bytes;
            }
        }
        let mut row = |kind: ObjectKind, count: ObjectCount, fate: &str, why: String| {
            table.row([
                format!("{}s", kind.noun()),
                human::grouped(count.objects),
                human::bytes(count.bytes),
                fate.to_owned(),
                why,
            ]);
        };
        for found in self.objects.iter().filter(|found| found.fate != Fate::Keep) {
            let count = ObjectCount { objects: found.objects, bytes: found.bytes };
            let fate = if found.fate == Fate::Delete { "goes" } else { "later" };
            row(found.kind, count, fate, found.reason.to_string());
        }
        for (kind, count) in kept {
            row(kind, count, "stays", String::new());
        }
        table
    }
}

/// A run of retention.
#[derive(Debug, Clone, Serialize)]
pub struct ExpireJobDocument {
    pub format: u32,
    pub state: ExpireState,
    pub started: Time,
    pub finished: Option<Time>,
    pub backups: Vec<BackupId>,
    pub deleted_objects: u64,
    pub deleted_bytes: u64,
    pub later_objects: u64,
    pub later_bytes: u64,
    pub rewritten_packs: u64,
    pub rewritten_bytes: u64,
    pub copied_bytes: u64,
    pub held_up: Option<String>,
    pub error: Option<String>,
}

impl ExpireJobDocument {
    pub fn new(job: ExpireJob) -> Self {
        Self {
            format: 1,
            state: job.state,
            started: job.started.into(),
            finished: job.finished.map(Time),
            backups: job.backups,
            deleted_objects: job.deleted_objects,
            deleted_bytes: job.deleted_bytes,
            later_objects: job.later_objects,
            later_bytes: job.later_bytes,
            rewritten_packs: job.rewritten_packs,
            rewritten_bytes: job.rewritten_bytes,
            copied_bytes: job.copied_bytes,
            held_up: job.held_up,
            error: job.error,
        }
    }

    pub fn text(&self, view: &View) -> String {
        let told = |objects: u64, bytes: u64| format!("{}, {}", human::count(objects, "object"), human::bytes(bytes));
        let mut text = format!(
            "deleted {}: {}\n",
            human::count(self.backups.len() as u64, "backup"),
            told(self.deleted_objects, self.deleted_bytes)
        );
        if self.later_objects > 0 {
            text += &format!("goes later: {}\n", told(self.later_objects, self.later_bytes));
        }
        if self.rewritten_packs > 0 {
            text += &format!(
                "rewritten: {}, {}, of which {} are needed\n",
                human::count(self.rewritten_packs, "pack"),
                human::bytes(self.rewritten_bytes),
                human::bytes(self.copied_bytes)
            );
        }
        if let Some(held_up) = &self.held_up {
            text += &view.paint.red(&printable(&format!("nothing is deleted: {held_up}")));
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use pitr::retention::{Order, Policy, plan};

    use super::*;
    use crate::output::info::tests::healthy;
    use crate::output::json;

    fn document() -> ExpireDocument {
        let catalog = healthy();
        let held = pitr::retention::Holdings {
            parts: BTreeMap::new(),
            unreadable: std::collections::BTreeSet::new(),
            superseded: Vec::new(),
            open: Vec::new(),
            pins: Vec::new(),
            condemned: Vec::new(),
            wal_stored: BTreeMap::new(),
            catalog,
        };
        let now = "2026-11-22T12:00:00Z".parse().unwrap();
        let mut policy = Policy::keep_all(chrono::TimeDelta::days(1));
        (policy.window, policy.minimum) = (Some(chrono::TimeDelta::minutes(30)), 1);
        let planned = plan(&[held], &Order::Policy(policy.clone()), now).unwrap();
        let mut survey = Survey::default();
        let mut count = |fate, kind, why, objects, bytes| {
            survey.counts.insert((fate, kind, why), ObjectCount { objects, bytes });
        };
        count(Fate::Keep, ObjectKind::WalSegment, ObjectReason::Window, 3, 30 << 20);
        count(Fate::Later, ObjectKind::Pack, ObjectReason::Grace, 2, 20 << 20);
        count(Fate::Delete, ObjectKind::BackupDescriptor, ObjectReason::NoKeptBackup, 2, 3000);
        ExpireDocument {
            format: 1,
            cluster: "main".to_owned(),
            window_begin: policy.window_begin(now).map(Into::into),
            lineages: planned.lineages.iter().map(|lineage| ExpireLineage::new(lineage, &survey)).collect(),
        }
    }

    #[test]
    fn a_preview_says_what_goes_why_and_what_is_lost() {
        insta::assert_snapshot!("expire_text", document().text(&View::fixed()));
        insta::assert_snapshot!("expire_json", json::document(&document()));
    }
}
