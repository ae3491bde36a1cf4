//! Moments of a mistake.

use pitr::impact::{Found, FoundKind};
use pitr::postgres::history::TimelinePath;
use pitr::postgres::{Lsn, SystemIdentifier, TimelineId};
use pitr::recovery::RestorePlan;
use pitr::repository::catalog::timeline_of_end;
use serde::Serialize;

use super::View;
use super::human;
use super::impact::{ActionDocument, MomentDocument, RelationDocument};
use super::json::Time;
use super::table::printable;

#[derive(Debug, Clone, Serialize)]
pub struct FindDocument {
    pub format: u32,
    pub cluster: String,
    pub system_identifier: SystemIdentifier,
    pub from: MomentDocument,
    pub to: MomentDocument,
    /// By position.
    pub moments: Vec<FoundDocument>,
}

#[derive(Debug, Clone, Serialize)]
pub struct FoundDocument {
    /// `dropped`, `truncated`, `mass_delete` or `ddl`.
    pub kind: &'static str,
    pub time: Option<Time>,
    pub xid: Option<u32>,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub timeline: TimelineId,
    pub database: Option<String>,
    pub actions: Vec<ActionDocument>,
    pub others: Vec<&'static str>,
    /// Of a mass deletion.
    pub table: Option<RelationDocument>,
    pub rows: Option<u64>,
    /// The command that restores to just before it.
    pub restore: String,
}

impl FindDocument {
    pub fn new(from: &RestorePlan, to: &RestorePlan, path: &TimelinePath, found: &[Found]) -> Self {
        let live = path.tli();
        Self {
            format: 1,
            cluster: from.lineage.cluster.to_string(),
            system_identifier: from.lineage.lineage.system_identifier(),
            from: MomentDocument::new(from),
            to: MomentDocument::new(to),
            moments: found.iter().map(|found| FoundDocument::new(found, path, live)).collect(),
        }
    }

    pub fn text(&self, view: &View) -> String {
        let mut text = String::new();
        for moment in &self.moments {
            let time = moment.time.map_or_else(String::new, |time| format!("{}  ", view.zone.both(time.0)));
            let transaction = moment.xid.map_or_else(String::new, |xid| format!("transaction {xid}, "));
            text += &format!(
                "{time}{transaction}LSN {}, timeline {}: {}\n  {}\n",
                moment.lsn,
                moment.timeline,
                view.paint.bold(&moment.words()),
                view.paint.dim(&moment.restore)
            );
        }
        if self.moments.is_empty() {
            text += &format!("nothing found between {} and {}\n", self.from.line(view), self.to.line(view));
        }
        text
    }
}

impl FoundDocument {
    fn new(found: &Found, path: &TimelinePath, live: TimelineId) -> Self {
        let (kind, rows) = match found.kind {
            FoundKind::Dropped => ("dropped", None),
            FoundKind::Truncated => ("truncated", None),
            FoundKind::MassDelete { rows } => ("mass_delete", Some(rows)),
            FoundKind::Ddl => ("ddl", None),
        };
        // What a transaction did outside of itself before its commit must not be replayed either: so the target is the end of
        // the transaction before, and not the position of the commit.
        let target = match found.xid {
            Some(xid) => format!("--xid {xid} --exclusive"),
            None => format!("--lsn {}", found.lsn),
        };
        Self {
            kind,
            time: found.time.map(Time),
            xid: found.xid.map(pitr::postgres::TransactionId::as_u32),
            lsn: found.lsn,
            end_lsn: found.end_lsn,
            timeline: timeline_of_end(path, found.end_lsn),
            database: found.database_name.clone(),
            actions: found.actions.iter().map(ActionDocument::new).collect(),
            others: found.others.clone(),
            table: found.relation.as_ref().map(RelationDocument::new),
            rows,
            restore: format!("pitr restore {target} --timeline {live} --into DIR"),
        }
    }

    fn words(&self) -> String {
        let mut words: Vec<String> = self.actions.iter().map(ActionDocument::words).collect();
        words.extend(self.others.iter().map(|&other| other.to_owned()));
        if let (Some(table), Some(rows)) = (&self.table, self.rows) {
            return format!("deleted {} from {}", human::count(rows, "row"), printable(&table.label));
        }
        let words = if words.is_empty() { "changed what has no known name".to_owned() } else { words.join(", ") };
        self.database.as_ref().map_or(words.clone(), |database| format!("{}: {words}", printable(database)))
    }
}
