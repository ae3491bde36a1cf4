//! `pitr info`: what the repository holds.

use pitr::lookup::WindowEnd;
use pitr::postgres::{Lsn, ServerVersion, SystemIdentifier, TimelineId};
use pitr::repository::backup::{BackupId, BackupManifest, CopyMethod, CorruptPage, Resumed};
use pitr::repository::catalog::{Catalog, DamagedObject, Gap, Window};
use pitr::repository::layout::ClusterName;
use pitr::repository::pin::{Pin, PinSubject};
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;
use super::marker::{MarkerDocument, marker_table};
use super::plan::TransactionDocument;
use super::table::Table;

#[derive(Debug, Clone, Serialize)]
pub struct InfoDocument {
    pub format: u32,
    pub clusters: Vec<ClusterDocument>,
}

/// One cluster, all its lineages together.
#[derive(Debug, Clone, Serialize)]
pub struct ClusterDocument {
    pub cluster: String,
    pub backups: Vec<BackupDocument>,
    pub window: Vec<WindowDocument>,
    pub gaps: Vec<GapDocument>,
    pub markers: Vec<MarkerDocument>,
    /// Of the newest lineage.
    pub sealed: Option<SealedDocument>,
    /// Backups without a manifest: under way, or given up.
    pub incomplete: Vec<BackupId>,
    pub damaged: Vec<DamagedDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct BackupDocument {
    pub id: BackupId,
    pub system_identifier: SystemIdentifier,
    pub postgres_version: ServerVersion,
    pub timeline: TimelineId,
    pub start_lsn: Lsn,
    pub stop_lsn: Lsn,
    pub start_time: Time,
    pub stop_time: Time,
    pub size_bytes: u64,
    pub stored_bytes: u64,
    pub new_bytes: u64,
    pub pages_read: u64,
    pub corrupt_pages: Vec<CorruptPage>,
    pub pinned: bool,
    pub files: u64,
    pub parent: Option<BackupId>,
    /// How it was found out what to read, and why not in a faster way.
    pub method: CopyMethod,
    pub reason: Option<String>,
    /// The backup that shared nothing, from which this one comes.
    pub base: Option<BackupId>,
    pub sampled_pages: u64,
    /// What was taken over from an interrupted backup.
    pub resumed: Option<Resumed>,
}

#[derive(Debug, Clone, Serialize)]
pub struct WindowDocument {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub from: MomentDocument,
    pub to: MomentDocument,
    /// The last one that can be restored; null where none ended in the window, or none is known.
    pub last_transaction: Option<TransactionDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MomentDocument {
    pub lsn: Lsn,
    pub time: Option<Time>,
}

#[derive(Debug, Clone, Serialize)]
pub struct GapDocument {
    pub system_identifier: SystemIdentifier,
    pub timeline: TimelineId,
    pub segment: String,
    pub from_lsn: Lsn,
    /// Where WAL is there again; none where it is not yet.
    pub to_lsn: Option<Lsn>,
    pub reason: String,
    pub noticed: Option<Time>,
    /// Retention made the hole: nothing that was to be kept is missing.
    pub expired: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct SealedDocument {
    pub timeline: TimelineId,
    pub lsn: Lsn,
    /// Of the last transaction that is sealed, where one was seen.
    pub time: Option<Time>,
}

#[derive(Debug, Clone, Serialize)]
pub struct DamagedDocument {
    pub key: String,
    pub reason: String,
}

impl ClusterDocument {
    /// `catalogs` are those of the cluster's lineages, oldest first.
    pub fn new(cluster: &ClusterName, catalogs: &[Catalog]) -> Self {
        let mut document = Self {
            cluster: cluster.to_string(),
            backups: Vec::new(),
            window: Vec::new(),
            gaps: Vec::new(),
            markers: Vec::new(),
            sealed: catalogs.last().and_then(SealedDocument::new),
            incomplete: Vec::new(),
            damaged: Vec::new(),
        };
        for catalog in catalogs {
            let id = catalog.lineage.lineage.system_identifier();
            document.backups.extend(catalog.backups.iter().map(BackupDocument::new));
            document.window.extend(catalog.windows().iter().map(|window| WindowDocument::new(window, id)));
            document.gaps.extend(catalog.gaps().into_iter().map(|gap| GapDocument::new(gap, id)));
            document.markers.extend(catalog.markers.iter().map(|marker| MarkerDocument::new(marker, Some(id))));
            document.incomplete.extend(catalog.incomplete.iter().cloned());
            document.damaged.extend(catalog.damaged.iter().map(DamagedDocument::new));
        }
        document
    }
}

impl ClusterDocument {
    /// Tells which backups are pinned.
    pub fn tell_pins(&mut self, system_identifier: SystemIdentifier, pins: &[Pin]) {
        for backup in self.backups.iter_mut().filter(|backup| backup.system_identifier == system_identifier) {
            backup.pinned |=
                pins.iter().any(|pin| matches!(&pin.subject, PinSubject::Backup { id } if *id == backup.id));
        }
        for marker in self.markers.iter_mut().filter(|m| m.system_identifier == Some(system_identifier)) {
            marker.pinned |= pins.iter().any(|pin| {
                matches!(&pin.subject, PinSubject::Marker { timeline, lsn, name }
                    if (*timeline, *lsn, name) == (marker.timeline, marker.lsn, &marker.name))
            });
        }
    }
}

/// The windows of one lineage, each with its last transaction.
#[derive(Debug, Clone)]
pub struct LineageEnds {
    pub system_identifier: SystemIdentifier,
    pub ends: Vec<WindowEnd>,
}

impl ClusterDocument {
    /// Tells of every window with which transaction it ends.
    pub fn tell_ends(&mut self, lineages: &[LineageEnds]) {
        for lineage in lineages {
            for WindowEnd { window, last } in &lineage.ends {
                let told = WindowDocument::new(window, lineage.system_identifier);
                let same = |known: &&mut WindowDocument| {
                    known.system_identifier == told.system_identifier
                        && (known.timeline, known.from.lsn, known.to.lsn) == (told.timeline, told.from.lsn, told.to.lsn)
                };
                if let (Some(known), Some(last)) = (self.window.iter_mut().find(same), last) {
                    // The last commit may carry an earlier time than the end of the backup.
                    known.to.time = Some(last.time).max(known.from.time.map(|time| time.0)).map(Time);
                    known.last_transaction = Some(TransactionDocument::new(last));
                }
            }
        }
    }
}

impl BackupDocument {
    pub fn new(manifest: &BackupManifest) -> Self {
        Self {
            id: manifest.id.clone(),
            system_identifier: manifest.system_identifier,
            postgres_version: manifest.postgres_version,
            timeline: manifest.timeline,
            start_lsn: manifest.start_lsn,
            stop_lsn: manifest.stop_lsn,
            start_time: manifest.start_time.into(),
            stop_time: manifest.stop_time.into(),
            size_bytes: manifest.size_bytes,
            stored_bytes: manifest.stored_bytes,
            new_bytes: manifest.new_bytes,
            pages_read: manifest.pages_read,
            corrupt_pages: manifest.corrupt_pages.clone(),
            pinned: false,
            files: manifest.files,
            parent: manifest.parent.clone(),
            method: manifest.sharing.method,
            reason: manifest.sharing.reason.clone(),
            base: manifest.sharing.base.clone(),
            sampled_pages: manifest.sharing.sampled_pages,
            resumed: manifest.sharing.resumed.clone(),
        }
    }
}

impl WindowDocument {
    pub fn new(window: &Window, system_identifier: SystemIdentifier) -> Self {
        let moment = |lsn, time: Option<_>| MomentDocument { lsn, time: time.map(Time) };
        // The last commit may be older than the backup: what can be reached begins with the backup all the same.
        let to_time = window.to.time.max(window.from.time.filter(|_| window.to.time.is_some()));
        Self {
            system_identifier,
            timeline: window.timeline,
            from: moment(window.from.lsn, window.from.time),
            to: moment(window.to.lsn, to_time),
            last_transaction: None,
        }
    }
}

impl GapDocument {
    pub fn new(gap: Gap, system_identifier: SystemIdentifier) -> Self {
        let Gap { timeline, segment, from_lsn, to_lsn, reason, noticed, expired } = gap;
        Self { system_identifier, timeline, segment, from_lsn, to_lsn, reason, noticed: noticed.map(Time), expired }
    }

    /// Where it is, in words.
    pub fn range(&self) -> String {
        match self.to_lsn {
            Some(to) => format!("{} to {to}", self.from_lsn),
            None => format!("{} on", self.from_lsn),
        }
    }
}

impl SealedDocument {
    /// The lease is some seconds old; what is stored without a hole on its timeline says more.
    fn new(catalog: &Catalog) -> Option<Self> {
        let lease = catalog.lease.as_ref();
        let time = lease.and_then(|lease| lease.sealed_commit_time).map(Time);
        let told = lease.and_then(|lease| lease.sealed).map(|sealed| (sealed.lsn, sealed.timeline));
        let path = catalog.default_timeline().and_then(|timeline| catalog.path(timeline).ok());
        let stored = path.and_then(|path| catalog.windows_on(path).pop()).map(|last| (last.to.lsn, last.timeline));
        told.max(stored).map(|(lsn, timeline)| Self { timeline, lsn, time })
    }
}

impl DamagedDocument {
    fn new(damaged: &DamagedObject) -> Self {
        Self { key: damaged.key.clone(), reason: damaged.reason.clone() }
    }
}

impl InfoDocument {
    pub fn text(&self, view: &View) -> String {
        if self.clusters.is_empty() {
            return "the repository holds no cluster yet\n".to_owned();
        }
        self.clusters.iter().map(|cluster| cluster.text(view)).collect::<Vec<_>>().join("\n")
    }
}

impl ClusterDocument {
    fn text(&self, view: &View) -> String {
        let mut text = format!("{}\n", view.paint.bold(&self.cluster));
        for damaged in &self.damaged {
            text += &view.paint.red(&format!("  damaged: {}: {}", damaged.key, damaged.reason));
            text.push('\n');
        }
        for gap in self.gaps.iter().filter(|gap| !gap.expired) {
            let gap = format!("  gap: timeline {}, {}: {}", gap.timeline, gap.range(), gap.reason);
            text += &view.paint.red(&gap);
            text.push('\n');
        }
        let mut section = |title: &str, table: &Table, none: &str| {
            if table.is_empty() {
                text += &format!("\n  {none}\n");
            } else {
                text += &format!("\n  {title}\n{}", table.render(view.paint, "    "));
            }
        };
        section("recoverable window", &self.window_table(view), "nothing can be restored yet");
        section("backups", &self.backup_table(view), "no backup");
        section("markers", &marker_table(&self.markers, view), "no markers");
        if !self.incomplete.is_empty() {
            let ids: Vec<String> = self.incomplete.iter().map(ToString::to_string).collect();
            text += &format!("\n  not complete: {}\n", ids.join(", "));
        }
        match &self.sealed {
            Some(sealed) => text += &format!("\n  sealed up to {} on timeline {}\n", sealed.lsn, sealed.timeline),
            None => text += "\n  nothing sealed yet\n",
        }
        text
    }

    fn window_table(&self, view: &View) -> Table {
        let mut table = Table::new(&[">TLI", "FROM", ">LSN", "TO", ">LSN"]);
        let time = |moment: &MomentDocument| moment.time.map_or_else(|| "-".to_owned(), |time| view.zone.both(time.0));
        for window in &self.window {
            table.row([
                window.timeline.to_string(),
                time(&window.from),
                window.from.lsn.to_string(),
                time(&window.to),
                window.to.lsn.to_string(),
            ]);
        }
        table
    }

    fn backup_table(&self, view: &View) -> Table {
        let mut table =
            Table::new(&["BACKUP", "FINISHED", ">TLI", ">STOP LSN", ">SIZE", ">STORED", ">NEW", "BY", "PAGES"]);
        for backup in &self.backups {
            let pages = match backup.corrupt_pages.len() as u64 {
                0 if backup.pinned => "ok, pinned".to_owned(),
                0 => "ok".to_owned(),
                corrupt => format!("{} corrupt", human::grouped(corrupt)),
            };
            table.row([
                backup.id.to_string(),
                view.zone.both(backup.stop_time.0),
                backup.timeline.to_string(),
                backup.stop_lsn.to_string(),
                human::bytes(backup.size_bytes),
                human::bytes(backup.stored_bytes),
                human::bytes(backup.new_bytes),
                method(backup.method).to_owned(),
                pages,
            ]);
        }
        table
    }
}

const fn method(method: CopyMethod) -> &'static str {
    match method {
        CopyMethod::Whole => "whole",
        CopyMethod::Summaries => "WAL",
        CopyMethod::Scan => "scan",
    }
}

#[cfg(test)]
pub mod tests {
    use std::collections::BTreeMap;

    use pitr::postgres::history::TimelinePath;
    use pitr::postgres::{SegmentNumber, WalSegmentSize};
    use pitr::repository::catalog::{CatalogTimeline, DurableWal, LsnRange};

    use super::*;
    use crate::output::json;
    use crate::output::marker::tests::{finished_marker, marker};
    use crate::testing::{catalog, lease, manifest};

    /// Whole segments, and the open one as a tail up to `end`.
    pub fn wal(segments: impl IntoIterator<Item = u64>, end: u64) -> CatalogTimeline {
        let size = WalSegmentSize::DEFAULT;
        let mut wal = DurableWal::new(size);
        for segment in segments {
            wal.add_segment(SegmentNumber::new(segment));
        }
        let open = size.segment_before(Lsn::new(end));
        wal.add_tail(open, LsnRange { from: size.start_of(open), to: Lsn::new(end) }).unwrap();
        CatalogTimeline { path: Some(TimelinePath::without_history(TimelineId::FIRST)), wal }
    }

    /// Two backups, WAL up to 0/4002100, three markers.
    pub fn healthy() -> Catalog {
        Catalog {
            backups: vec![
                manifest("2026-11-21T02:00:00Z", 0x200_0028, 0x200_0138),
                manifest("2026-11-22T06:31:00Z", 0x300_0028, 0x300_0138),
            ],
            timelines: BTreeMap::from([(TimelineId::FIRST, wal(2..4, 0x400_2100))]),
            markers: vec![finished_marker("release-41", 0x300_1000, 10), marker("release-42", 0x400_2000, 40)],
            lease: Some(lease(0x400_2100, 0x400_2100)),
            ..catalog()
        }
    }

    /// A hole after the first backup, a damaged marker, corrupt pages, a backup that was given up.
    pub fn harmed() -> Catalog {
        let mut second = manifest("2026-11-22T06:31:00Z", 0x500_0028, 0x500_0138);
        let page = |block| CorruptPage { path: "base/5/16384".to_owned().try_into().unwrap(), block };
        second.corrupt_pages = vec![page(7), page(131_072)];
        Catalog {
            backups: vec![manifest("2026-11-21T02:00:00Z", 0x200_0028, 0x200_0138), second],
            incomplete: vec!["20261122T110000Z".parse().unwrap()],
            damaged: vec![DamagedObject {
                key: "main/7-1/markers/00000001/0000000003001000@release-41.json".to_owned(),
                reason: "not the sealed hash".to_owned(),
            }],
            timelines: BTreeMap::from([(TimelineId::FIRST, wal([2, 3, 5], 0x600_2100))]),
            markers: Vec::new(),
            lease: Some(lease(0x600_4100, 0x600_2100)),
            ..catalog()
        }
    }

    fn document(catalog: Catalog) -> InfoDocument {
        InfoDocument { format: 1, clusters: vec![ClusterDocument::new(&"main".parse().unwrap(), &[catalog])] }
    }

    #[test]
    fn info_as_text_and_json() {
        insta::assert_snapshot!("info_text", document(healthy()).text(&View::fixed()));
        insta::assert_snapshot!("info_json", json::document(&document(healthy())));
    }

    #[test]
    fn what_is_wrong_comes_first() {
        insta::assert_snapshot!("info_harmed_text", document(harmed()).text(&View::fixed()));
        insta::assert_snapshot!("info_harmed_json", json::document(&document(harmed())));
    }

    #[test]
    fn an_empty_cluster_is_no_error() {
        insta::assert_snapshot!("info_empty_text", document(catalog()).text(&View::fixed()));
        let none = InfoDocument { format: 1, clusters: Vec::new() };
        assert_eq!(none.text(&View::fixed()), "the repository holds no cluster yet\n");
    }

    /// The keys that are promised to programs.
    #[test]
    fn json_has_the_promised_keys() {
        let json = serde_json::to_value(document(harmed())).unwrap();
        let healthy = serde_json::to_value(document(healthy())).unwrap();
        let cluster = &json["clusters"][0];
        let has = |value: &serde_json::Value, keys: &[&str]| {
            for key in keys {
                assert!(value.get(key).is_some(), "{key} is missing in {value}");
            }
        };
        assert_eq!(json["format"], 1);
        has(cluster, &["cluster", "backups", "window", "gaps", "markers", "sealed"]);
        has(
            &cluster["backups"][1],
            &[
                "id",
                "system_identifier",
                "postgres_version",
                "timeline",
                "start_lsn",
                "stop_lsn",
                "start_time",
                "stop_time",
                "size_bytes",
                "stored_bytes",
                "new_bytes",
                "pages_read",
                "corrupt_pages",
                "pinned",
            ],
        );
        assert_eq!(cluster["backups"][1]["postgres_version"], 150_018);
        assert_eq!(cluster["backups"][1]["system_identifier"], "7450000000000000000");
        has(&cluster["window"][0], &["system_identifier", "timeline", "from", "to"]);
        has(&cluster["window"][0]["from"], &["lsn", "time"]);
        has(&cluster["gaps"][0], &["timeline", "from_lsn", "to_lsn", "reason"]);
        has(&cluster["sealed"], &["timeline", "lsn", "time"]);
        let marker = &healthy["clusters"][0]["markers"][1];
        has(marker, &["name", "lsn", "timeline", "time", "source", "meta", "finish"]);
        assert_eq!(marker["source"], "mark");
        assert!(marker["finish"].is_null());
        assert_eq!(marker["time"], "2026-11-22T11:40:00.123456Z");
    }
}
