//! `pitr markers --implicit`: changes of the schema.

use chrono::{DateTime, Utc};
use pitr::lookup::SchemaMoment;
use pitr::postgres::{Lsn, TimelineId};
use pitr::repository::catalog::LsnRange;
use serde::Serialize;

use super::View;
use super::human;
use super::json::Time;

#[derive(Debug, Clone, Serialize)]
pub struct ImplicitDocument {
    pub format: u32,
    pub cluster: String,
    pub since: Time,
    /// By position.
    pub moments: Vec<ImplicitMoment>,
    /// WAL of which nothing is known.
    pub unknown: Vec<UnknownWal>,
}

/// A commit that changed the schema.
#[derive(Debug, Clone, Serialize)]
pub struct ImplicitMoment {
    pub time: Time,
    pub xid: u32,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub timeline: TimelineId,
    /// OID; null where the commit does not say.
    pub database: Option<u32>,
    /// `pg_class.oid` of relations that it changed, the first ones.
    pub relations: Vec<u32>,
    /// Files that it made and removed.
    pub created_files: u64,
    pub dropped_files: u64,
    /// OIDs of the system catalogs that it wrote to.
    pub catalogs: Vec<u32>,
    /// The command that restores to just before it.
    pub restore: String,
}

#[derive(Debug, Clone, Serialize)]
pub struct UnknownWal {
    pub from_lsn: Lsn,
    pub to_lsn: Lsn,
}

impl ImplicitMoment {
    pub fn new(moment: &SchemaMoment) -> Self {
        let change = &moment.change;
        let xid = change.xid.as_u32();
        // What it did outside of transactions before its commit must not be replayed either, so the target is the end of
        // the transaction before, and not the position of the commit.
        Self {
            time: change.time.into(),
            xid,
            lsn: moment.lsn,
            end_lsn: moment.end_lsn,
            timeline: moment.timeline,
            database: Some(change.database).filter(|oid| *oid != 0),
            relations: change.tables.iter().collect(),
            created_files: change.traces.created.iter().count() as u64,
            dropped_files: change.traces.dropped.iter().count() as u64,
            catalogs: change.traces.catalogs.iter().copied().collect(),
            restore: format!("pitr restore --xid {xid} --exclusive --into DIR"),
        }
    }

    fn what(&self) -> String {
        let mut words = Vec::new();
        if let Some(database) = self.database {
            words.push(format!("database {database}"));
        }
        if !self.relations.is_empty() {
            let shown: Vec<String> = self.relations.iter().take(5).map(u32::to_string).collect();
            let more = if self.relations.len() > shown.len() { ", …" } else { "" };
            words.push(format!("relations {}{more}", shown.join(", ")));
        }
        if self.created_files > 0 {
            words.push(format!("{} created", human::count(self.created_files, "file")));
        }
        if self.dropped_files > 0 {
            words.push(format!("{} dropped", human::count(self.dropped_files, "file")));
        }
        words.join("; ")
    }
}

impl UnknownWal {
    pub const fn new(range: &LsnRange) -> Self {
        Self { from_lsn: range.from, to_lsn: range.to }
    }
}

impl ImplicitDocument {
    pub fn new(cluster: String, since: DateTime<Utc>) -> Self {
        Self { format: 1, cluster, since: since.into(), moments: Vec::new(), unknown: Vec::new() }
    }

    pub fn text(&self, view: &View) -> String {
        let mut text = String::new();
        for moment in &self.moments {
            text += &format!(
                "{}  transaction {}, LSN {}, timeline {}: {}\n  {}\n",
                view.zone.both(moment.time.0),
                moment.xid,
                moment.lsn,
                moment.timeline,
                moment.what(),
                view.paint.dim(&moment.restore)
            );
        }
        if self.moments.is_empty() {
            text += &format!("no change of the schema since {}\n", view.zone.both(self.since.0));
        }
        for unknown in &self.unknown {
            let range = format!("nothing is known of {} to {}, which has no summary", unknown.from_lsn, unknown.to_lsn);
            text += &format!("{}\n", view.paint.yellow(&range));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use pitr::postgres::TransactionId;
    use pitr::wal_summary::catalog::Filled;
    use pitr::wal_summary::moment::SchemaTraces;
    use pitr::wal_summary::{RunSet, SchemaChange};

    use super::*;
    use crate::output::json;

    #[test]
    fn implicit_moments_as_text_and_json() {
        let change = SchemaChange {
            xid: TransactionId::new(742),
            time: "2026-11-22T11:40:00.123456Z".parse().unwrap(),
            database: 5,
            tables: [16_402, 16_405].into_iter().collect(),
            members: RunSet::default(),
            filled: Filled::default(),
            traces: SchemaTraces { catalogs: [1259, 2608].into(), ..SchemaTraces::default() },
        };
        let timeline = TimelineId::FIRST;
        let moment = SchemaMoment { lsn: Lsn::new(0x400_2000), end_lsn: Lsn::new(0x400_2100), timeline, change };
        let mut document = ImplicitDocument::new("main".to_owned(), "2026-11-21T12:00:00Z".parse().unwrap());
        let empty = document.text(&View::fixed());
        assert!(empty.starts_with("no change of the schema since "), "{empty}");
        document.moments = vec![ImplicitMoment::new(&moment)];
        document.unknown = vec![UnknownWal { from_lsn: Lsn::new(0x200_0000), to_lsn: Lsn::new(0x300_0000) }];
        insta::assert_snapshot!("implicit_text", document.text(&View::fixed()));
        insta::assert_snapshot!("implicit_json", json::document(&document));
    }
}
