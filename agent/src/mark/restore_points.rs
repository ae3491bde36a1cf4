//! Restore points through SQL.

use async_trait::async_trait;
use pitr::postgres::Lsn;

use super::request::MarkError;
use super::service::RestorePoints;
use crate::archiver::ArchiveProgress;
use crate::error_text::in_full;
use crate::postgres::conninfo::ConnInfo;
use crate::postgres::{Error, sql};

/// `insufficient_privilege`
const INSUFFICIENT_PRIVILEGE: &str = "42501";
/// `object_not_in_prerequisite_state`: the server is a standby.
const NOT_IN_PREREQUISITE_STATE: &str = "55000";

/// Creates restore points on the server that is archived, by a session of its own for each.
#[derive(Clone, Debug)]
pub struct ServerRestorePoints {
    conninfo: ConnInfo,
    progress: ArchiveProgress,
}

impl ServerRestorePoints {
    #[must_use]
    pub const fn new(conninfo: ConnInfo, progress: ArchiveProgress) -> Self {
        Self { conninfo, progress }
    }

    /// Of several servers the one whose WAL is archived: a restore point in the WAL of another would never be sealed.
    fn archived(&self) -> ConnInfo {
        let conninfo = self.conninfo.clone();
        match self.progress.now().endpoint {
            Some(endpoint) => conninfo.only(&endpoint),
            None => conninfo,
        }
    }

    async fn create_one(&self, name: &str) -> Result<String, Error> {
        let session = sql::connect(&self.archived()).await?;
        let row = session.query_one("SELECT pg_catalog.pg_create_restore_point($1)::text", &[&name]).await?;
        let lsn = row.get(0);
        // The restore point is in the WAL: a session that ends badly changes nothing.
        drop(session.close().await);
        Ok(lsn)
    }
}

fn failed(error: &Error) -> MarkError {
    let hint = match error.sqlstate() {
        Some(INSUFFICIENT_PRIVILEGE) => {
            Some("GRANT EXECUTE ON FUNCTION pg_create_restore_point(text) TO the agent's role".to_owned())
        }
        Some(NOT_IN_PREREQUISITE_STATE) => Some(
            "nothing was created: a standby takes no markers; let [postgres] connection lead to the primary".to_owned(),
        ),
        _ => error.hint(),
    };
    MarkError::RestorePoint { reason: in_full(error), hint }
}

#[async_trait]
impl RestorePoints for ServerRestorePoints {
    async fn create(&self, name: &str) -> Result<Lsn, MarkError> {
        let text = self.create_one(name).await.map_err(|error| failed(&error))?;
        text.parse().map_err(|error| MarkError::RestorePoint { reason: format!("{error}"), hint: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::conninfo::Environment;

    #[test]
    fn of_several_servers_the_archived_one_gets_the_restore_point() {
        let conninfo = ConnInfo::parse("host=old,new port=5432,5433 user=pitr", &Environment::default()).unwrap();
        let progress = ArchiveProgress::default();
        let points = ServerRestorePoints::new(conninfo.clone(), progress.clone());
        assert_eq!(points.archived().endpoints.len(), 2);
        progress.update(|progress| progress.endpoint = conninfo.endpoints.get(1).cloned());
        let endpoints = points.archived().endpoints;
        assert_eq!(endpoints.iter().map(|endpoint| endpoint.host.as_str()).collect::<Vec<_>>(), ["new"]);
    }
}
