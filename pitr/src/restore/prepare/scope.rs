//! How much of the archive must be listed for a request.

use crate::postgres::Lsn;
use crate::recovery::{PlanRequest, RecoveryTarget, TargetTimeline};
use crate::repository::backup::BackupManifest;
use crate::repository::catalog::Catalog;
use crate::repository::catalog_load::MarkerScope;

/// The markers that the request names.
pub(super) fn markers(request: &PlanRequest) -> MarkerScope {
    match &request.target {
        RecoveryTarget::Marker { marker, .. } => MarkerScope::Named(marker.name.clone()),
        _ => MarkerScope::None,
    }
}

/// From where WAL is needed, by a catalog without WAL: the start of the backup that will serve if its WAL is whole. None
/// where everything is to be listed.
pub(super) fn wal(catalog: &Catalog, request: &PlanRequest) -> Option<Lsn> {
    if let Some(id) = &request.backup {
        return Some(catalog.backup(id)?.start_lsn);
    }
    let timeline = match request.timeline {
        TargetTimeline::Id(timeline) => timeline,
        TargetTimeline::Latest => catalog.default_timeline()?,
        TargetTimeline::Current => catalog.backups.last()?.timeline,
    };
    let path = catalog.path(timeline).ok()?;
    let on_path = |backup: &&BackupManifest| path.contains(backup.timeline, backup.stop_lsn);
    let mut backups: Vec<_> = catalog.backups.iter().filter(on_path).collect();
    backups.sort_by_key(|backup| backup.stop_lsn);
    let serving = match &request.target {
        RecoveryTarget::Latest | RecoveryTarget::Immediate | RecoveryTarget::Xid { .. } => backups.len(),
        RecoveryTarget::Time { time } => backups.iter().take_while(|backup| backup.stop_time <= *time).count(),
        RecoveryTarget::Lsn { lsn } => backups.partition_point(|backup| backup.stop_lsn <= *lsn),
        RecoveryTarget::Marker { .. } => {
            let first = catalog.markers.iter().map(|marker| marker.marker.end_lsn).min()?;
            backups.partition_point(|backup| backup.stop_lsn <= first)
        }
    };
    let backup = serving.checked_sub(1).and_then(|newest| backups.get(newest))?;
    Some(backup.start_lsn)
}
