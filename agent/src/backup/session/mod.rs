//! The session that holds a backup open: from `pg_backup_start` to `pg_backup_stop`.
//!
//! When it ends, the backup is dead, and the server says so to nobody but this session; so it is asked every few seconds.
//! Nothing has to be undone then: the server forgets a backup whose session is gone.

mod error;
mod postmaster;
mod preflight;
mod role;
mod servers;
mod standby;

pub use error::{Result, SessionError};
pub use preflight::ServerFacts;
pub use role::ServerRole;
pub use servers::BackupServers;

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use pitr::postgres::{BackupLabel, Lsn, MajorVersion, ServerVersion, TablespaceMap};
use tokio_postgres::Row;
use tracing::warn;

use crate::error_text::in_full;
use crate::postgres::{self, ConnInfo, SqlSession, sql};
use postmaster::PostmasterFile;

/// How often the session is asked whether it still is what it was.
const HEARTBEAT: Duration = Duration::from_secs(2);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A checkpoint, however fast, writes all of `shared_buffers`.
const START_TIMEOUT: Duration = Duration::from_secs(3600);
const STOP_TIMEOUT: Duration = Duration::from_secs(600);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct ControlSession {
    sql: SqlSession,
    conninfo: ConnInfo,
    role: ServerRole,
    version: ServerVersion,
    major: MajorVersion,
}

/// What `pg_backup_start` said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StartedBackup {
    /// The redo position of the checkpoint.
    pub start_lsn: Lsn,
    /// By the server's clock.
    pub time: DateTime<Utc>,
}

/// What `pg_backup_stop` said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoppedBackup {
    /// Where the record that ends the backup ends.
    pub stop_lsn: Lsn,
    pub label: BackupLabel,
    /// As the server returned it.
    pub tablespace_map_bytes: Vec<u8>,
    pub tablespace_map: TablespaceMap,
    pub time: DateTime<Utc>,
}

impl ControlSession {
    /// Connects, straight to the server whose data directory it says it has: a pooler in between could hand every statement
    /// to another session.
    ///
    /// # Errors
    /// The server cannot be reached, or is of a version that is not supported.
    pub async fn connect(conninfo: &ConnInfo, role: ServerRole) -> Result<Self> {
        let conninfo = conninfo.clone().with_application_name("pitr-agent backup");
        let first = Self::open(&conninfo, role).await?;
        if !role.is_here() {
            // The standby's data directory may well have the same path.
            return Ok(first);
        }
        let data_directory: String = first.setting("data_directory").await?;
        let postmaster = PostmasterFile::read(Path::new(&data_directory));
        let Some(direct) = postmaster.and_then(|file| file.direct(&conninfo)) else { return Ok(first) };
        if direct.endpoints == conninfo.endpoints {
            return Ok(first);
        }
        match Self::open(&direct, role).await {
            Ok(session) => Ok(session),
            Err(error) => {
                // pg_hba.conf may admit us by the configured way only; the heartbeat notices a pooler in between.
                warn!(error = %error, "no direct connection to the server for the backup, taking the configured one");
                Ok(first)
            }
        }
    }

    async fn open(conninfo: &ConnInfo, role: ServerRole) -> Result<Self> {
        let sql = sql::connect(conninfo).await?;
        let number: i32 = sql.query_one("SELECT current_setting('server_version_num')::int4", &[]).await?.get(0);
        let version = ServerVersion::new(u32::try_from(number).unwrap_or(0));
        let Some(major) = version.major() else {
            return Err(SessionError::unfit(
                format!("the server has version {version}"),
                "PostgreSQL 13 to 18 is supported",
            ));
        };
        let session = Self { sql, conninfo: conninfo.clone(), role, version, major };
        session.prepare().await?;
        Ok(session)
    }

    /// Nothing may end this session by itself.
    async fn prepare(&self) -> Result<()> {
        let mut settings = vec!["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"];
        if self.major >= MajorVersion::V14 {
            settings.push("idle_session_timeout");
        }
        if self.major >= MajorVersion::V17 {
            settings.push("transaction_timeout");
        }
        for setting in settings {
            self.sql.simple(&format!("SET {setting} = 0")).await?;
        }
        self.sql.simple("SET search_path = pg_catalog").await?;
        Ok(())
    }

    #[must_use]
    pub const fn version(&self) -> ServerVersion {
        self.version
    }

    async fn setting(&self, name: &str) -> Result<String> {
        let row = self.sql.query_one("SELECT current_setting($1)", &[&name]).await?;
        column(&row, 0)
    }

    /// Begins the backup, with a checkpoint at once.
    ///
    /// # Errors
    /// The server refuses, or the session ends.
    pub async fn start(&self, label: &str) -> Result<StartedBackup> {
        let call = if self.major >= MajorVersion::V15 {
            "SELECT pg_backup_start($1, true)::text, clock_timestamp()"
        } else {
            // The third parameter would make the backup exclusive.
            "SELECT pg_start_backup($1, true, false)::text, clock_timestamp()"
        };
        let row = self.within(START_TIMEOUT, "start", self.sql.query_one(call, &[&label])).await?;
        Ok(StartedBackup { start_lsn: lsn(&row, 0)?, time: column(&row, 1)? })
    }

    /// Ends the backup, without waiting for WAL: that is ours to prove.
    ///
    /// # Errors
    /// The server refuses, or the session ends.
    pub async fn stop(&self) -> Result<StoppedBackup> {
        let call =
            if self.major >= MajorVersion::V15 { "pg_backup_stop(false)" } else { "pg_stop_backup(false, false)" };
        // The files are taken in the server's own encoding, byte for byte.
        let sql = format!(
            "SELECT lsn::text, convert_to(labelfile, getdatabaseencoding()), \
             convert_to(spcmapfile, getdatabaseencoding()), clock_timestamp() FROM {call}"
        );
        let row = self.within(STOP_TIMEOUT, "stop", self.sql.query_one(&sql, &[])).await?;
        let label: Vec<u8> = column(&row, 1)?;
        let tablespace_map_bytes = column::<Option<Vec<u8>>>(&row, 2)?.unwrap_or_default();
        Ok(StoppedBackup {
            stop_lsn: lsn(&row, 0)?,
            label: BackupLabel::parse(&label)?,
            tablespace_map: TablespaceMap::parse(&tablespace_map_bytes)?,
            tablespace_map_bytes,
            time: column(&row, 3)?,
        })
    }

    /// Where the server inserts WAL now.
    ///
    /// # Errors
    /// The session ends.
    pub async fn insert_lsn(&self) -> Result<Lsn> {
        self.position("SELECT pg_current_wal_insert_lsn()::text").await
    }

    /// Up to where the server's WAL is on its disk now.
    ///
    /// # Errors
    /// The session ends.
    pub async fn flush_lsn(&self) -> Result<Lsn> {
        self.position("SELECT pg_current_wal_flush_lsn()::text").await
    }

    async fn position(&self, sql: &str) -> Result<Lsn> {
        let query = self.sql.query_one(sql, &[]);
        lsn(&self.within(ANSWER_TIMEOUT, "answer", query).await?, 0)
    }

    /// Never returns while the session is what it was: the same process of a server in the same role.
    pub async fn watch(&self) -> SessionError {
        loop {
            if let Err(error) = self.heartbeat().await {
                return error;
            }
            tokio::time::sleep(HEARTBEAT).await;
        }
    }

    async fn heartbeat(&self) -> Result<()> {
        let query = self.sql.query_one("SELECT pg_backend_pid(), pg_is_in_recovery()", &[]);
        let row = match self.within(ANSWER_TIMEOUT, "answer", query).await {
            Err(SessionError::Server(error)) => return Err(SessionError::Lost(in_full(&error))),
            answered => answered?,
        };
        let pid: i32 = column(&row, 0)?;
        if pid != self.sql.backend_pid() {
            let reason = format!("process {} of the server answers instead of {}", pid, self.sql.backend_pid());
            return Err(SessionError::unfit(reason, "connect to the server itself instead of a connection pooler"));
        }
        match (column(&row, 1)?, self.role.in_recovery()) {
            (true, false) => Err(SessionError::Lost("the server is in recovery".to_owned())),
            (false, true) => Err(SessionError::promoted()),
            _ => Ok(()),
        }
    }

    async fn within<T>(
        &self,
        limit: Duration,
        what: &'static str,
        query: impl Future<Output = postgres::Result<T>>,
    ) -> Result<T> {
        match tokio::time::timeout(limit, query).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(SessionError::TimedOut { what, seconds: limit.as_secs() }),
        }
    }

    /// Ends what the server does for this session. Its last reference closes it, and the backup with it.
    pub async fn abort(&self) {
        // A dropped query goes on in the server until it is told.
        let cancelled = tokio::time::timeout(CANCEL_TIMEOUT, self.sql.cancel(&self.conninfo)).await;
        if let Ok(Err(error)) = cancelled {
            warn!(error = %error, "could not cancel the backup's session in the server");
        }
    }
}

fn column<'a, T: tokio_postgres::types::FromSql<'a>>(row: &'a Row, index: usize) -> Result<T> {
    row.try_get(index).map_err(|error| SessionError::Answer(error.to_string()))
}

fn lsn(row: &Row, index: usize) -> Result<Lsn> {
    let text: String = column(row, index)?;
    text.parse().map_err(|_| SessionError::Answer(format!("\"{text}\" is no LSN")))
}
