//! What `pgbackrest info --output=json` would say of a cluster, for programs that read that.
//!
//! Keys and types are those of pgBackRest; `docs/json.md` says what each holds here.

use chrono::{DateTime, TimeDelta, Utc};
use pitr::postgres::{Lsn, SegmentName, WalSegmentSize};
use pitr::repository::backup::{BackupId, BackupManifest};
use pitr::repository::catalog::Catalog;
use pitr::repository::layout::ClusterName;
use serde::Serialize;

const REPO_KEY: u32 = 1;
/// The format of pgBackRest's repository whose shape of `info` this is.
const BACKREST_FORMAT: u32 = 5;
const PAGE_BYTES: u64 = 8192;

/// One cluster.
#[derive(Debug, Clone, Serialize)]
pub struct StanzaDocument {
    archive: Vec<ArchiveDocument>,
    backup: Vec<StanzaBackupDocument>,
    cipher: &'static str,
    db: Vec<DatabaseDocument>,
    name: String,
    repo: Vec<RepoDocument>,
    status: StanzaStatusDocument,
}

#[derive(Debug, Clone, Serialize)]
struct ArchiveDocument {
    database: DatabaseReference,
    id: String,
    max: Option<String>,
    min: Option<String>,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct DatabaseReference {
    id: usize,
    #[serde(rename = "repo-key")]
    repo_key: u32,
}

#[derive(Debug, Clone, Serialize)]
struct StanzaBackupDocument {
    annotation: AnnotationDocument,
    archive: Range<String>,
    backrest: BackrestDocument,
    database: DatabaseReference,
    error: bool,
    info: SizesDocument,
    label: String,
    lsn: Range<Lsn>,
    prior: Option<String>,
    reference: Option<Vec<String>>,
    timestamp: Range<i64>,
    #[serde(rename = "type")]
    kind: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct AnnotationDocument {
    /// The name by which every other command knows the backup.
    #[serde(rename = "pitr-backup")]
    id: BackupId,
}

#[derive(Debug, Clone, Serialize)]
struct Range<T> {
    start: T,
    stop: T,
}

#[derive(Debug, Clone, Serialize)]
struct BackrestDocument {
    format: u32,
    version: String,
}

#[derive(Debug, Clone, Serialize)]
struct SizesDocument {
    delta: u64,
    repository: RepositorySizesDocument,
    size: u64,
}

#[derive(Debug, Clone, Serialize)]
struct RepositorySizesDocument {
    delta: u64,
    size: u64,
}

#[derive(Debug, Clone, Serialize)]
struct DatabaseDocument {
    id: usize,
    #[serde(rename = "repo-key")]
    repo_key: u32,
    #[serde(rename = "system-id")]
    system_id: u64,
    version: String,
}

#[derive(Debug, Clone, Serialize)]
struct RepoDocument {
    cipher: &'static str,
    key: u32,
    status: CodeDocument,
}

#[derive(Debug, Clone, Copy, Serialize)]
struct CodeDocument {
    code: u32,
    message: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct StanzaStatusDocument {
    code: u32,
    lock: LocksDocument,
    message: &'static str,
}

#[derive(Debug, Clone, Serialize)]
struct LocksDocument {
    backup: HeldDocument,
}

#[derive(Debug, Clone, Serialize)]
struct HeldDocument {
    held: bool,
}

impl CodeDocument {
    const OK: Self = Self { code: 0, message: "ok" };
    const NO_STANZA: Self = Self { code: 1, message: "missing stanza path" };
    const NO_BACKUP: Self = Self { code: 2, message: "no valid backups" };
    const OTHER: Self = Self { code: 99, message: "other" };
}

impl StanzaDocument {
    /// `catalogs` are those of the cluster's lineages, oldest first; there is none where there is no such cluster.
    pub fn new(cluster: &ClusterName, catalogs: &[Catalog], now: DateTime<Utc>) -> Self {
        let status = status(catalogs);
        let (mut archive, mut backup, mut db) = (Vec::new(), Vec::new(), Vec::new());
        for (catalog, id) in catalogs.iter().zip(1..) {
            let version = major(catalog);
            let database = DatabaseReference { id, repo_key: REPO_KEY };
            let (min, max) = stored_segments(catalog);
            archive.push(ArchiveDocument { database, id: format!("{version}-{id}"), max, min });
            backup
                .extend(catalog.backups.iter().map(|manifest| StanzaBackupDocument::new(manifest, catalog, database)));
            let system_id = catalog.lineage.lineage.system_identifier().as_u64();
            db.push(DatabaseDocument { id, repo_key: REPO_KEY, system_id, version });
        }
        let held = catalogs.iter().any(|catalog| is_taking_a_backup(catalog, now));
        Self {
            archive,
            backup,
            cipher: "none",
            db,
            name: cluster.to_string(),
            repo: vec![RepoDocument { cipher: "none", key: REPO_KEY, status }],
            status: StanzaStatusDocument {
                code: status.code,
                lock: LocksDocument { backup: HeldDocument { held } },
                message: status.message,
            },
        }
    }
}

fn status(catalogs: &[Catalog]) -> CodeDocument {
    if catalogs.is_empty() {
        CodeDocument::NO_STANZA
    } else if catalogs.iter().any(|catalog| !catalog.damaged.is_empty()) {
        CodeDocument::OTHER
    } else if catalogs.iter().all(|catalog| catalog.backups.is_empty()) {
        CodeDocument::NO_BACKUP
    } else {
        CodeDocument::OK
    }
}

/// The newest backup has no manifest, and the agent is there.
fn is_taking_a_backup(catalog: &Catalog, now: DateTime<Utc>) -> bool {
    let alive = catalog.lease.as_ref().is_some_and(|lease| lease.expires > now);
    alive && catalog.incomplete.last() > catalog.backups.last().map(|backup| &backup.id)
}

fn major(catalog: &Catalog) -> String {
    let version = catalog.lineage.postgres_version;
    version.major().map_or_else(|| version.to_string(), |major| major.as_u16().to_string())
}

/// The first and the last whole segment by name, as pgBackRest tells them.
fn stored_segments(catalog: &Catalog) -> (Option<String>, Option<String>) {
    let size = catalog.segment_size();
    let names = || {
        catalog.timelines.iter().flat_map(move |(tli, timeline)| {
            timeline.wal.whole_runs().flat_map(move |(first, last)| [first.name(*tli, size), last.name(*tli, size)])
        })
    };
    let text = |name: SegmentName| name.to_string();
    (names().map(text).min(), names().map(text).max())
}

impl StanzaBackupDocument {
    fn new(manifest: &BackupManifest, catalog: &Catalog, database: DatabaseReference) -> Self {
        let shares = manifest.parent.is_some();
        let read = manifest.pages_read.saturating_mul(PAGE_BYTES).min(manifest.size_bytes);
        Self {
            annotation: AnnotationDocument { id: manifest.id.clone() },
            archive: segments(manifest, catalog.segment_size()),
            backrest: BackrestDocument { format: BACKREST_FORMAT, version: manifest.agent_version.clone() },
            database,
            error: !manifest.corrupt_pages.is_empty(),
            info: SizesDocument {
                delta: if shares { read } else { manifest.size_bytes },
                repository: RepositorySizesDocument { delta: manifest.new_bytes, size: manifest.stored_bytes },
                size: manifest.size_bytes,
            },
            label: label(&manifest.id, manifest.parent.as_ref(), manifest.sharing.base.as_ref()),
            lsn: Range { start: manifest.start_lsn, stop: manifest.stop_lsn },
            prior: manifest.parent.as_ref().map(|parent| label_of(parent, catalog)),
            reference: references(manifest, catalog),
            timestamp: Range { start: manifest.start_time.timestamp(), stop: manifest.stop_time.timestamp() },
            kind: if shares { "incr" } else { "full" },
        }
    }
}

fn segments(manifest: &BackupManifest, size: WalSegmentSize) -> Range<String> {
    let name = |segment: pitr::postgres::SegmentNumber| segment.name(manifest.timeline, size).to_string();
    Range { start: name(size.segment_of(manifest.start_lsn)), stop: name(size.segment_before(manifest.stop_lsn)) }
}

/// The backup that shared nothing, and the one whose pages were taken over.
fn references(manifest: &BackupManifest, catalog: &Catalog) -> Option<Vec<String>> {
    let parent = manifest.parent.as_ref()?;
    let mut named: Vec<String> = manifest.sharing.base.iter().chain([parent]).map(|id| label_of(id, catalog)).collect();
    named.sort();
    named.dedup();
    Some(named)
}

/// Of a backup that may have been removed since.
fn label_of(id: &BackupId, catalog: &Catalog) -> String {
    let known = catalog.backup(id);
    let parent = known.and_then(|manifest| manifest.parent.as_ref());
    label(id, parent, known.and_then(|manifest| manifest.sharing.base.as_ref()))
}

/// `YYYYMMDD-HHMMSSF` of what shares nothing, and that of the backup behind all sharing, `_`, and its own with `I` of what
/// does; programs tell the types by these letters.
fn label(id: &BackupId, parent: Option<&BackupId>, base: Option<&BackupId>) -> String {
    match base.or(parent) {
        Some(base) => format!("{}F_{}I", time_of(base), time_of(id)),
        None => format!("{}F", time_of(id)),
    }
}

/// Of backups that began in the same second the later ones count as a second later each.
fn time_of(id: &BackupId) -> String {
    let ordinal: i64 = id.to_string().split_once('-').and_then(|(_, ordinal)| ordinal.parse().ok()).unwrap_or(1);
    let time = id.time() + TimeDelta::seconds(ordinal.saturating_sub(1).clamp(0, 3600));
    time.format("%Y%m%d-%H%M%S").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::output::info::tests::healthy;

    fn now() -> DateTime<Utc> {
        "2026-11-22T12:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_cluster_is_told_as_a_stanza() {
        let mut catalog = healthy();
        let first = catalog.backups[0].id.clone();
        let second = &mut catalog.backups[1];
        second.parent = Some(first.clone());
        second.sharing.base = Some(first);
        let stanza = StanzaDocument::new(&"main".parse().unwrap(), &[catalog], now());
        let told = serde_json::to_value(&stanza).unwrap();
        let at = |pointer: &str| told.pointer(pointer).cloned().unwrap_or_default();
        assert_eq!((at("/name"), at("/status/code"), at("/repo/0/key")), ("main".into(), 0.into(), 1.into()));
        assert_eq!((at("/backup/0/type"), at("/backup/1/type")), ("full".into(), "incr".into()));
        assert_eq!((at("/backup/0/prior"), at("/backup/0/reference")), (Value::Null, Value::Null));
        assert_eq!(at("/backup/1/prior"), at("/backup/0/label"));
        assert_eq!(at("/backup/1/reference/0"), at("/backup/0/label"));
        assert!(at("/db/0/system-id").is_u64() && at("/backup/0/timestamp/start").is_i64(), "{told:#}");
        assert!(at("/archive/0/min").as_str() < at("/archive/0/max").as_str(), "{told:#}");
    }

    #[test]
    fn a_cluster_that_is_not_there_and_one_without_backups_say_so() {
        let name = "main".parse().unwrap();
        assert_eq!(StanzaDocument::new(&name, &[], now()).status.code, 1);
        let mut empty = healthy();
        empty.backups.clear();
        assert_eq!(StanzaDocument::new(&name, &[empty], now()).status.code, 2);
    }

    #[test]
    fn labels_have_the_letters_of_their_types() {
        let id = |text: &str| text.parse::<BackupId>().unwrap();
        let (base, own) = (id("20261122T063100Z"), id("20261123T063100Z-2"));
        assert_eq!(label(&base, None, None), "20261122-063100F");
        assert_eq!(label(&own, Some(&base), None), "20261122-063100F_20261123-063101I");
        assert_eq!(label(&own, Some(&id("20261122T200000Z")), Some(&base)), "20261122-063100F_20261123-063101I");
    }
}
