//! What happened between two moments.

use pitr::impact::{ActionKind, DdlAction, DdlCommit, Impact, NamedRelation, RelationName, TableImpact, Traffic};
use pitr::postgres::history::TimelinePath;
use pitr::postgres::relation::Oid;
use pitr::postgres::system_catalog::{Persistence, RelationKind};
use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::recovery::{MarkerSide, RecoveryTarget, RestorePlan, TargetTimeline};
use pitr::repository::marker::FinishedMarker;
use pitr::wal_summary::EndedTransaction;
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;
use super::table::{Table, printable};
use crate::args::TargetOrder;

/// How many stretches of time the activity is told in.
const BUCKETS: usize = 120;
/// Changes of the schema that the text lists.
const LISTED_DDL: usize = 30;

#[derive(Debug, Clone, Serialize)]
pub struct ImpactDocument {
    pub format: u32,
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    pub from: MomentDocument,
    pub to: MomentDocument,
    pub transactions: Transactions,
    pub wal_bytes: u64,
    pub tables: Vec<TableDocument>,
    pub sequences: Vec<SequenceDocument>,
    pub ddl: Vec<DdlDocument>,
    pub activity: Activity,
    pub markers: Vec<PassedMarker>,
    /// WAL before the range in which it was looked for live traffic.
    pub baseline: Option<WalRange>,
    /// The command that goes back.
    pub restore: String,
    pub warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct MomentDocument {
    pub asked: String,
    pub timeline: TimelineId,
    /// End of the last record that belongs to the state.
    pub lsn: Lsn,
    /// When the last transaction before it ended.
    pub time: Option<Time>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Transactions {
    pub commits: u64,
    pub aborts: u64,
    /// Commits.
    pub first: Option<Ended>,
    pub last: Option<Ended>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Ended {
    pub xid: u32,
    pub time: Time,
    pub lsn: Lsn,
}

/// Schema and name.
#[derive(Debug, Clone, Serialize)]
pub struct NameDocument {
    pub schema: String,
    pub name: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct RelationDocument {
    /// As people would write it; `database/relfilenode` where no name is known.
    pub label: String,
    pub database: Option<String>,
    pub database_oid: Oid,
    pub schema: Option<String>,
    pub name: Option<String>,
    pub oid: Option<Oid>,
    /// The file, where no relation is known: tablespace, database and relfilenode.
    pub file: Option<String>,
    pub kind: RelationKind,
    pub persistence: Persistence,
    pub renamed_to: Option<NameDocument>,
    pub existed: Option<bool>,
    pub exists: Option<bool>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TableDocument {
    #[serde(flatten)]
    pub relation: RelationDocument,
    pub inserted: u64,
    pub updated: u64,
    pub deleted: u64,
    pub moved: u64,
    pub truncated: u64,
    pub rewritten: u64,
    /// `live` or `only`.
    pub traffic: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub struct SequenceDocument {
    #[serde(flatten)]
    pub relation: RelationDocument,
    pub last_value: i64,
    pub is_called: bool,
}

#[derive(Debug, Clone, Serialize)]
pub struct DdlDocument {
    pub time: Option<Time>,
    pub xid: Option<u32>,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub database: Option<String>,
    pub database_oid: Option<Oid>,
    pub actions: Vec<ActionDocument>,
    pub others: Vec<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
pub struct ActionDocument {
    pub action: ActionKind,
    pub kind: Option<RelationKind>,
    pub oid: Option<Oid>,
    pub schema: Option<String>,
    pub name: Option<String>,
    pub renamed_to: Option<NameDocument>,
}

/// Ends of transactions by time.
#[derive(Debug, Clone, Serialize)]
pub struct Activity {
    /// Length of each stretch.
    pub seconds: i64,
    pub buckets: Vec<Bucket>,
}

#[derive(Debug, Clone, Serialize)]
pub struct Bucket {
    pub time: Time,
    pub commits: u64,
    pub aborts: u64,
}

#[derive(Debug, Clone, Serialize)]
pub struct PassedMarker {
    pub name: String,
    pub lsn: Lsn,
    pub timeline: TimelineId,
    pub time: Time,
}

#[derive(Debug, Clone, Serialize)]
pub struct WalRange {
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
}

/// What the document is made of.
pub struct ImpactInput<'a> {
    pub from: &'a RestorePlan,
    pub to: &'a RestorePlan,
    pub order: &'a TargetOrder,
    pub markers: &'a [FinishedMarker],
    pub path: &'a TimelinePath,
    pub impact: &'a Impact,
}

impl ImpactDocument {
    pub fn new(input: &ImpactInput<'_>) -> Self {
        let ImpactInput { from, to, order, markers, path, impact } = input;
        let (seconds, beats) = impact.pulse.beats(BUCKETS);
        let bucket = |(time, beat): &(_, pitr::impact::Beat)| Bucket {
            time: Time(*time),
            commits: beat.commits,
            aborts: beat.aborts,
        };
        let passed = markers.iter().filter(|marker| {
            let (lsn, timeline) = (marker.marker.end_lsn, marker.marker.timeline);
            path.contains(timeline, lsn) && impact.range.from <= lsn && lsn <= impact.range.to
        });
        let mut warnings = Vec::new();
        if impact.uncounted > 0 {
            warnings.push(format!(
                "{} began before the WAL that was looked at: what they did before is not counted",
                human::count(impact.uncounted, "transaction")
            ));
        }
        let unlogged = impact.tables.iter().any(|table| table.relation.persistence == Persistence::Unlogged);
        if unlogged {
            warnings.push("rows of unlogged tables are not in the WAL, and a restore empties these tables".to_owned());
        }
        Self {
            format: 1,
            cluster: from.lineage.cluster.to_string(),
            system_identifier: from.lineage.lineage.system_identifier(),
            from: MomentDocument::new(from),
            to: MomentDocument::new(to),
            transactions: Transactions {
                commits: impact.commits.map_or(0, |ends| ends.count),
                aborts: impact.aborts.map_or(0, |ends| ends.count),
                first: impact.commits.map(|ends| Ended::new(ends.first)),
                last: impact.commits.map(|ends| Ended::new(ends.last)),
            },
            wal_bytes: impact.range.to.distance_from(impact.range.from).unwrap_or(0),
            tables: impact.tables.iter().map(TableDocument::new).collect(),
            sequences: impact
                .sequences
                .iter()
                .map(|sequence| SequenceDocument {
                    relation: RelationDocument::new(&sequence.relation),
                    last_value: sequence.state.last_value,
                    is_called: sequence.state.is_called,
                })
                .collect(),
            ddl: impact.ddl.iter().map(DdlDocument::new).collect(),
            activity: Activity { seconds, buckets: beats.iter().map(bucket).collect() },
            markers: passed
                .map(|marker| PassedMarker {
                    name: marker.marker.name.clone(),
                    lsn: marker.marker.lsn,
                    timeline: marker.marker.timeline,
                    time: marker.marker.time.into(),
                })
                .collect(),
            baseline: impact.baseline.map(|range| WalRange { from_lsn: range.from, to_lsn: range.to }),
            restore: restore_command(order),
            warnings,
        }
    }

    pub fn text(&self, view: &View) -> String {
        let paint = view.paint;
        let mut text = format!(
            "{} of going back from {} to {}\n\n",
            paint.bold(&format!("impact on {}", self.cluster)),
            paint.bold(&printable(&self.to.asked)),
            paint.bold(&printable(&self.from.asked))
        );
        let mut line = |name: &str, value: String| {
            text += &format!("  {}  {value}\n", paint.dim(&format!("{name:<9}")));
        };
        line("from", self.from.line(view));
        line("to", self.to.line(view));
        line("undone", self.transactions.line());
        if let (Some(first), Some(last)) = (&self.transactions.first, &self.transactions.last) {
            line("first", first.line(view));
            line("last", last.line(view));
        }
        line("WAL", human::bytes(self.wal_bytes));
        let names: Vec<String> = self.markers.iter().map(|marker| printable(&marker.name)).collect();
        if !names.is_empty() {
            line("markers", names.join(", "));
        }
        text += &self.tables_text(view);
        text += &self.ddl_text(view);
        if !self.sequences.is_empty() {
            let set = self.sequences.iter().map(|sequence| printable(&sequence.relation.label));
            text += &format!("\n{}  {}\n", paint.bold("sequences"), set.collect::<Vec<_>>().join(", "));
        }
        text += &format!("\n{}\n", paint.dim(&self.restore));
        for warning in &self.warnings {
            text += &format!("\n{} {warning}\n", paint.yellow("warning:"));
        }
        text
    }

    fn tables_text(&self, view: &View) -> String {
        if self.tables.is_empty() {
            return "\nno table was changed\n".to_owned();
        }
        let mut text = String::new();
        for (traffic, title) in [
            (Some("only"), "changed only since then"),
            (Some("live"), "live traffic, changed before too"),
            (None, "changed since then"),
        ] {
            let mut table = Table::new(&["TABLE", ">INSERTED", ">UPDATED", ">DELETED", "NOTES"]);
            for row in self.tables.iter().filter(|table| table.traffic == traffic) {
                table.row([
                    row.relation.label.clone(),
                    human::grouped(row.inserted),
                    human::grouped(row.updated),
                    human::grouped(row.deleted),
                    row.notes(),
                ]);
            }
            if !table.is_empty() {
                text += &format!("\n{}\n{}", view.paint.bold(title), table.render(view.paint, "  "));
            }
        }
        text
    }

    fn ddl_text(&self, view: &View) -> String {
        if self.ddl.is_empty() {
            return String::new();
        }
        let mut text = format!("\n{}\n", view.paint.bold("changes of the schema"));
        for change in self.ddl.iter().take(LISTED_DDL) {
            let time = change.time.map_or_else(|| format!("LSN {}", change.lsn), |time| view.zone.local(time.0));
            text += &format!("  {time}  {}\n", change.words());
        }
        if self.ddl.len() > LISTED_DDL {
            text += &format!("  and {} more; --json has all\n", self.ddl.len() - LISTED_DDL);
        }
        text
    }
}

impl MomentDocument {
    pub fn new(plan: &RestorePlan) -> Self {
        Self {
            asked: plan.target.asked.to_string(),
            timeline: plan.target.timeline,
            lsn: plan.target.end_lsn,
            time: plan.target.last_kept.as_ref().map(|last| last.time.into()),
        }
    }

    pub fn line(&self, view: &View) -> String {
        let time = self.time.map_or_else(|| "no transaction before".to_owned(), |time| view.zone.both(time.0));
        format!("{}, {time}, LSN {}, timeline {}", printable(&self.asked), self.lsn, self.timeline)
    }
}

impl Transactions {
    pub fn line(&self) -> String {
        let rolled_back = match self.aborts {
            0 => String::new(),
            aborts => format!(" ({} more rolled back by themselves)", human::grouped(aborts)),
        };
        format!("{}{rolled_back}", human::count(self.commits, "committed transaction"))
    }
}

impl Ended {
    const fn new(end: EndedTransaction) -> Self {
        Self { xid: end.xid.as_u32(), time: Time(end.time), lsn: end.lsn }
    }

    fn line(&self, view: &View) -> String {
        format!("{}, transaction {}, LSN {}", view.zone.exact(self.time.0), self.xid, self.lsn)
    }
}

impl NameDocument {
    fn new(name: &RelationName) -> Self {
        Self { schema: name.schema.clone(), name: name.name.clone() }
    }
}

impl RelationDocument {
    pub fn new(relation: &NamedRelation) -> Self {
        let database = relation.database_name.clone().unwrap_or_else(|| relation.database.to_string());
        let number = relation.file.map(|file| file.relfilenode).or(relation.relation.map(|known| known.oid));
        let label = match (&relation.name, number) {
            (Some(name), _) => format!("{database}: {}.{}", name.schema, name.name),
            (None, number) => format!("{database}/{}", number.unwrap_or(0)),
        };
        Self {
            label,
            database: relation.database_name.clone(),
            database_oid: relation.database,
            schema: relation.name.as_ref().map(|name| name.schema.clone()),
            name: relation.name.as_ref().map(|name| name.name.clone()),
            oid: relation.relation.map(|known| known.oid),
            file: relation.file.map(|file| file.to_string()),
            kind: relation.kind,
            persistence: relation.persistence,
            renamed_to: relation.renamed_to.as_ref().map(NameDocument::new),
            existed: relation.existed,
            exists: relation.exists,
        }
    }
}

impl TableDocument {
    fn new(table: &TableImpact) -> Self {
        Self {
            relation: RelationDocument::new(&table.relation),
            inserted: table.rows.inserted,
            updated: table.rows.updated,
            deleted: table.rows.deleted,
            moved: table.rows.moved,
            truncated: table.truncated,
            rewritten: table.rewritten,
            traffic: table.traffic.map(|traffic| match traffic {
                Traffic::Live => "live",
                Traffic::Only => "only",
            }),
        }
    }

    /// What is there to say besides numbers.
    pub fn notes(&self) -> String {
        let mut notes = Vec::new();
        let relation = &self.relation;
        match (relation.existed, relation.exists) {
            (Some(false), Some(false)) => notes.push("created and dropped".to_owned()),
            (Some(false), _) => notes.push("created".to_owned()),
            (_, Some(false)) => notes.push("dropped".to_owned()),
            _ => {}
        }
        if let Some(name) = &relation.renamed_to {
            notes.push(format!("now {}.{}", name.schema, name.name));
        }
        match self.truncated {
            0 => {}
            1 => notes.push("truncated".to_owned()),
            times => notes.push(format!("truncated {times} times")),
        }
        if self.rewritten > 0 {
            notes.push(format!("{} rewritten", human::count(self.rewritten, "row")));
        }
        if self.moved > 0 {
            notes.push(format!("{} to other partitions", human::count(self.moved, "row")));
        }
        if relation.persistence == Persistence::Unlogged {
            notes.push("unlogged".to_owned());
        }
        notes.join(", ")
    }
}

impl DdlDocument {
    pub fn new(commit: &DdlCommit) -> Self {
        Self {
            time: commit.time.map(Time),
            xid: commit.xid.map(pitr::postgres::TransactionId::as_u32),
            lsn: commit.lsn,
            end_lsn: commit.end_lsn,
            database: commit.database_name.clone(),
            database_oid: commit.database,
            actions: commit.actions.iter().map(ActionDocument::new).collect(),
            others: commit.others.clone(),
        }
    }

    /// In words.
    pub fn words(&self) -> String {
        let mut words: Vec<String> = self.actions.iter().map(ActionDocument::words).collect();
        words.extend(self.others.iter().map(|&other| other.to_owned()));
        let words = if words.is_empty() { "changed what has no known name".to_owned() } else { words.join(", ") };
        match &self.database {
            Some(database) => format!("{}: {words}", printable(database)),
            None => words,
        }
    }
}

impl ActionDocument {
    pub fn new(action: &DdlAction) -> Self {
        Self {
            action: action.action,
            kind: action.kind,
            oid: action.relation.map(|relation| relation.oid),
            schema: action.name.as_ref().map(|name| name.schema.clone()),
            name: action.name.as_ref().map(|name| name.name.clone()),
            renamed_to: action.renamed_to.as_ref().map(NameDocument::new),
        }
    }

    pub fn words(&self) -> String {
        let verb = match self.action {
            ActionKind::Created => "created",
            ActionKind::Dropped => "dropped",
            ActionKind::Renamed => "renamed",
            ActionKind::Truncated => "truncated",
            ActionKind::Rewritten => "rewrote",
            ActionKind::Altered => "altered",
        };
        let kind = self.kind.map_or("relation", RelationKind::word);
        let name = match (&self.schema, &self.name) {
            (Some(schema), Some(name)) => printable(&format!("{schema}.{name}")),
            _ => self.oid.map_or_else(|| "?".to_owned(), |oid| oid.to_string()),
        };
        let to = self.renamed_to.as_ref().map(|name| printable(&format!(" to {}.{}", name.schema, name.name)));
        format!("{verb} {kind} {name}{}", to.unwrap_or_default())
    }
}

/// The command that goes back to a target.
fn restore_command(order: &TargetOrder) -> String {
    let marker = |side: MarkerSide| match side {
        MarkerSide::Before => "--before",
        MarkerSide::After => "--after",
    };
    let target = match &order.target {
        RecoveryTarget::Latest => "--latest".to_owned(),
        RecoveryTarget::Immediate => "--immediate".to_owned(),
        RecoveryTarget::Time { time } => format!("--time {}", time.format("%Y-%m-%dT%H:%M:%S%.6fZ")),
        RecoveryTarget::Lsn { lsn } => format!("--lsn {lsn}"),
        RecoveryTarget::Xid { xid } => format!("--xid {xid}"),
        RecoveryTarget::Marker { side, marker: named } => format!("{} {}", marker(*side), quoted(&named.to_string())),
    };
    let exclusive = if order.exclusive { " --exclusive" } else { "" };
    let timeline = match order.timeline {
        TargetTimeline::Latest => String::new(),
        TargetTimeline::Current => " --timeline current".to_owned(),
        TargetTimeline::Id(timeline) => format!(" --timeline {timeline}"),
    };
    format!("pitr restore {target}{exclusive}{timeline} --into DIR")
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = text.chars().all(|character| character.is_ascii_alphanumeric() || "-_.:/@+=".contains(character));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_for_a_shell() {
        assert_eq!(quoted("release-42@0/3000060"), "release-42@0/3000060");
        assert_eq!(quoted("it's; rm -rf /"), "'it'\\''s; rm -rf /'");
    }
}
