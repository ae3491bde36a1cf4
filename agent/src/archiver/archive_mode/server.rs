//! How far the server is, asked through SQL, by one session that is opened again when it breaks.

use std::time::Duration;

use pitr::postgres::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use pitr::repository::lease::WalPosition;
use pitr::repository::lineage::Lineage;

use crate::archiver::{ArchiverError, whose};
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::sql::{self, SqlSession};
use crate::postgres::{self, Error};

/// A server that does not answer for so long is asked over another session.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// `pg_walfile_name` has the timeline of the WAL that is being written, which `pg_control` learns only from the next checkpoint.
const POSITION: &str = "SELECT (SELECT system_identifier FROM pg_control_system())::text, pg_is_in_recovery(),
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_flush_lsn()::text END,
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) END,
    CASE WHEN pg_is_in_recovery() THEN NULL ELSE pg_current_wal_insert_lsn()::text END";

#[derive(Debug)]
pub(super) struct Server {
    conninfo: ConnInfo,
    lineage: Lineage,
    session: Option<SqlSession>,
    /// Whether the server of this session is the lineage's.
    is_ours: bool,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ServerPosition {
    pub flushed: WalPosition,
    pub inserted: Lsn,
}

impl Server {
    pub(super) const fn new(conninfo: ConnInfo, lineage: Lineage) -> Self {
        Self { conninfo, lineage, session: None, is_ours: false }
    }

    /// # Errors
    /// It is another cluster, or a standby; or it does not answer.
    pub(super) async fn position(&mut self) -> Result<ServerPosition, ArchiverError> {
        let row = self.ask(POSITION).await?;
        let identifier: String = row.get(0);
        let protocol = |text: &str| Error::Protocol(format!("\"{text}\" in an answer"));
        let found: SystemIdentifier = identifier.parse().map_err(|_| protocol(&identifier))?;
        let expected: SystemIdentifier = self.lineage.lineage.system_identifier();
        if found != expected {
            self.session = None;
            return Err(ArchiverError::WrongCluster { found, expected });
        }
        if let (false, Some(session)) = (self.is_ours, &self.session) {
            whose::check(session, &self.lineage).await?;
            self.is_ours = true;
        }
        let texts = (row.get::<_, Option<String>>(2), row.get::<_, Option<String>>(3), row.get::<_, Option<String>>(4));
        let (Some(flushed), Some(timeline), Some(inserted)) = texts else {
            let text = "the server is in recovery: in archive mode the primary is archived".to_owned();
            return Err(ArchiverError::Unsuitable(text));
        };
        Ok(ServerPosition {
            flushed: WalPosition {
                timeline: TimelineId::from_hex(&timeline).map_err(|_| protocol(&timeline))?,
                lsn: flushed.parse().map_err(|_| protocol(&flushed))?,
            },
            inserted: inserted.parse().map_err(|_| protocol(&inserted))?,
        })
    }

    /// Ends the open segment, so that it is archived; returns up to where all is in segments that are complete.
    ///
    /// # Errors
    /// The role may not, or the server does not answer.
    pub(super) async fn switch_wal(&mut self, size: WalSegmentSize) -> Result<Lsn, ArchiverError> {
        let row = self.ask("SELECT pg_switch_wal()::text").await?;
        let text: String = row.get(0);
        let lsn: Lsn = text.parse().map_err(|_| Error::Protocol(format!("\"{text}\" in an answer")))?;
        // The end of the switch's record, or the start of a segment in which nothing was written yet.
        Ok(size.end_of(size.segment_before(lsn)))
    }

    async fn ask(&mut self, sql: &str) -> Result<tokio_postgres::Row, ArchiverError> {
        let answered = tokio::time::timeout(ANSWER_TIMEOUT, self.ask_session(sql)).await;
        let answered = answered
            .unwrap_or(Err(Error::TimedOut { server: "the server".to_owned(), seconds: ANSWER_TIMEOUT.as_secs() }));
        if answered.as_ref().is_err_and(|error| error.sqlstate().is_none()) {
            self.session = None;
        }
        Ok(answered?)
    }

    async fn ask_session(&mut self, sql: &str) -> postgres::error::Result<tokio_postgres::Row> {
        let session = match self.session.take().filter(|session| !session.is_closed()) {
            Some(session) => session,
            None => {
                self.is_ours = false;
                sql::connect(&self.conninfo).await?
            }
        };
        let session = self.session.insert(session);
        session.query_one(sql, &[]).await
    }
}
