//! Whether the server that answers is still the one whose WAL goes into this lineage.
//!
//! While the agent runs, the server can be stopped and a restored copy started in its place: same host, port and system
//! identifier. What tells them apart stands in the data directory.

use std::path::{Path, PathBuf};

use pitr::repository::lineage::Lineage;

use super::error::ArchiverError;
use crate::postgres::SqlSession;
use crate::postgres::origin::{Origin, OriginError, is_served_from};

const PLACE: &str = "SELECT (SELECT setting FROM pg_settings WHERE name = 'data_directory'),
    floor(extract(epoch FROM pg_postmaster_start_time()))::int8";

/// Looks into the server's data directory, where that is on this host.
///
/// # Errors
/// It is one that must not write to the lineage; the server does not answer.
pub(super) async fn check(session: &SqlSession, lineage: &Lineage) -> Result<(), ArchiverError> {
    let row = session.query_one(PLACE, &[]).await?;
    let (path, started): (Option<String>, i64) = (row.get(0), row.get(1));
    let Some(path) = path.map(PathBuf::from) else { return Ok(()) };
    let lineage = lineage.clone();
    let looked = tokio::task::spawn_blocking(move || look(&path, started, &lineage)).await;
    Ok(looked.map_err(|crash| ArchiverError::Broken(crash.to_string()))??)
}

fn look(path: &Path, started: i64, lineage: &Lineage) -> Result<(), OriginError> {
    if !is_served_from(path, started) {
        return Ok(());
    }
    Origin::read(path)?.may_go_on(path, lineage)
}
