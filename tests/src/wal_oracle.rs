//! What the WAL says, read by PostgreSQL itself (`pg_walinspect`, 15 and later): the judge over the product's decoder.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use chrono::{DateTime, NaiveDateTime, Utc};
use pitr::postgres::Lsn;

use crate::Postgres;

/// The end of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XactEnd {
    pub start: Lsn,
    pub end: Lsn,
    pub xid: u32,
    pub time: DateTime<Utc>,
    pub committed: bool,
}

/// All transactions that ended and all restore points, in the order of the WAL.
#[derive(Debug, Clone, Default)]
pub struct WalOracle {
    pub xacts: Vec<XactEnd>,
    pub restore_points: Vec<(Lsn, String)>,
}

impl WalOracle {
    /// Whether this major version can be asked.
    #[must_use]
    pub const fn exists_for(major: u32) -> bool {
        major >= 15
    }

    /// Reads the WAL that the server still has from `from` on. `wal_keep_size` has to have kept it.
    ///
    /// # Errors
    /// The server no longer has it, or describes a record in a way that is not known here.
    pub async fn read(server: &Postgres, from: Lsn) -> Result<Self> {
        let session = server.connect().await?;
        session.batch_execute("CREATE EXTENSION IF NOT EXISTS pg_walinspect").await?;
        let to = session.value("SELECT pg_current_wal_flush_lsn()").await?;
        let rows = session
            .rows(&format!(
                "SELECT start_lsn, end_lsn, xid, resource_manager, record_type, description \
                 FROM pg_get_wal_records_info('{from}', '{to}') \
                 WHERE resource_manager = 'Transaction' OR record_type = 'RESTORE_POINT' ORDER BY start_lsn"
            ))
            .await?;
        let mut oracle = Self::default();
        for row in rows {
            let [start, end, xid, _, kind, description] = row.as_slice() else { continue };
            let start: Lsn = start.parse()?;
            match kind.as_str() {
                "COMMIT" | "ABORT" | "COMMIT_PREPARED" | "ABORT_PREPARED" => oracle.xacts.push(XactEnd {
                    start,
                    end: end.parse()?,
                    xid: prepared_xid(description).map_or_else(|| xid.parse(), Ok)?,
                    time: xact_time(description).with_context(|| format!("time of the {kind} at {start}"))?,
                    committed: kind.starts_with("COMMIT"),
                }),
                "RESTORE_POINT" => oracle.restore_points.push((start, description.clone())),
                _ => {}
            }
        }
        Ok(oracle)
    }

    /// The transactions by id.
    #[must_use]
    pub fn by_xid(&self) -> BTreeMap<u32, &XactEnd> {
        self.xacts.iter().map(|xact| (xact.xid, xact)).collect()
    }

    /// The start of the last restore point of this name.
    #[must_use]
    pub fn restore_point(&self, name: &str) -> Option<Lsn> {
        self.restore_points.iter().rev().find(|(_, found)| found == name).map(|(start, _)| *start)
    }
}

/// `123: 2026-...` where a prepared transaction ends.
fn prepared_xid(description: &str) -> Option<u32> {
    description.split_once(": ").and_then(|(xid, _)| xid.parse().ok())
}

/// `2026-11-22 10:47:11.123456+00; ...`; the session's zone is UTC.
fn xact_time(description: &str) -> Result<DateTime<Utc>> {
    let text = description
        .split_once(": ")
        .filter(|(xid, _)| xid.parse::<u32>().is_ok())
        .map_or(description, |(_, rest)| rest);
    let text = text.split(';').next().unwrap_or_default().trim();
    // As the server's date style prints the zone.
    let text = text.strip_suffix(" UTC").or_else(|| text.strip_suffix("+00"));
    let text = text.with_context(|| format!("no UTC time in \"{description}\""))?;
    Ok(NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")?.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_time_of_plain_and_prepared_commits() {
        let time = xact_time("2026-11-22 10:47:11.123456 UTC; rels: base/5/16384").unwrap();
        assert_eq!(time.to_rfc3339(), "2026-11-22T10:47:11.123456+00:00");
        assert_eq!(xact_time("740: 2026-11-22 10:47:11.123456+00").unwrap(), time);
        assert_eq!(prepared_xid("740: 2026-11-22 10:47:11.123456 UTC"), Some(740));
        assert_eq!(prepared_xid("2026-11-22 10:47:11.123456 UTC"), None);
    }
}
