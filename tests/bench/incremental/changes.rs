//! What is done between two backups.

use std::fmt;

use anyhow::Result;
use pitr_tests::Postgres;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Nothing,
    /// So many percent of the rows, neighbours of each other.
    Range(u32),
    /// One row on each of so many percent of the pages, evenly.
    Pages(u32),
    /// So many percent of the rows, anywhere: most pages have one of them.
    Rows(u32),
}

impl Change {
    pub fn all() -> [Self; 7] {
        [Self::Nothing, Self::Range(1), Self::Pages(1), Self::Rows(1), Self::Range(10), Self::Pages(10), Self::Rows(10)]
    }

    /// Makes it; gives how many rows it has changed.
    pub async fn make(self, server: &Postgres, number: u32) -> Result<f64> {
        let session = server.connect().await?;
        let condition = match self {
            Self::Nothing => "false".to_owned(),
            Self::Range(percent) => {
                let rows: u64 = session.value("SELECT max(aid) FROM pgbench_accounts").await?.parse()?;
                let first = rows / 100 * u64::from(number * 7 % 80);
                format!("aid BETWEEN {first} AND {}", first + rows / 100 * u64::from(percent))
            }
            Self::Pages(percent) => {
                let (each, line) = (100 / percent, 1 + number % 60);
                format!(
                    "ctid = ANY (ARRAY(SELECT ('(' || page || ',{line})')::tid FROM generate_series({} % {each}, \
                     (SELECT pg_relation_size('pgbench_accounts') / 8192 - 1), {each}) AS page))",
                    number * 13
                )
            }
            Self::Rows(percent) => format!("abs(hashint4(aid # {number})::bigint) % 100 < {percent}"),
        };
        let changed = session
            .value(&format!(
                "WITH changed AS (UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE {condition} RETURNING ctid, aid) \
                 SELECT count(*) FROM changed"
            ))
            .await?;
        session.batch_execute("CHECKPOINT").await?;
        Ok(changed.parse()?)
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("nothing"),
            Self::Range(percent) => write!(f, "{percent}% of rows, a range"),
            Self::Pages(percent) => write!(f, "{percent}% of pages"),
            Self::Rows(percent) => write!(f, "{percent}% of rows"),
        }
    }
}
