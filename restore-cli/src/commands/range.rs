//! From two targets to the WAL between them.

use pitr::impact::{Reading, Survey};
use pitr::postgres::history::TimelinePath;
use pitr::recovery::{PlanRequest, RecoveryTarget, RestorePlan, SeveralMarkers, TargetTimeline};
use pitr::repository::LineageStore;
use pitr::repository::catalog::{Catalog, LsnRange};
use pitr::repository::catalog_load::{MarkerScope, load_wal, load_without_wal};

use super::restore::plan_in;
use crate::args::{TargetOrder, UsageError};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::progress::{Meter, Step, Unit};

/// Two moments of one lineage, and what it takes to look at what lies between them.
pub struct Range {
    pub lineage: LineageStore,
    pub catalog: Catalog,
    pub path: TimelinePath,
    pub from: RestorePlan,
    pub to: RestorePlan,
}

/// A request for a moment.
pub fn request(order: &TargetOrder) -> PlanRequest {
    PlanRequest {
        target: order.target.clone(),
        timeline: order.timeline,
        exclusive: order.exclusive,
        backup: None,
        several_markers: SeveralMarkers::Refuse,
        check_wal: false,
    }
}

impl Range {
    /// From a moment to another one of its lineage.
    ///
    /// # Errors
    /// The other one cannot be reached, comes first, or is on another branch.
    pub async fn load(
        context: &Context,
        lineage: LineageStore,
        from: RestorePlan,
        to: &RecoveryTarget,
        timeline: TargetTimeline,
    ) -> Result<Self, Failure> {
        let order = TargetOrder { target: to.clone(), timeline, exclusive: false };
        let to = plan_in(context, &lineage, &request(&order)).await?;
        let mut catalog = load_without_wal(&lineage, &MarkerScope::All).await?;
        load_wal(&lineage, &mut catalog, from.backup.start_lsn).await?;
        let path = catalog
            .path(to.target.timeline)
            .map_err(|fault| Failure::Failed { message: fault.to_string(), hint: None })?;
        let on_path = path.contains(from.target.timeline, from.target.end_lsn);
        if !on_path || to.target.end_lsn < from.target.end_lsn {
            let (first, second) = (&from.target.asked, &to.target.asked);
            let message = if on_path {
                format!("\"{second}\" comes before \"{first}\"")
            } else {
                format!("timeline {} does not lead from \"{first}\" to \"{second}\"", to.target.timeline)
            };
            return Err(UsageError::new(message).with_hint("\"pitr info\" shows timelines and markers").into());
        }
        let path = path.clone();
        Ok(Self { lineage, catalog, path, from, to })
    }

    pub fn lsns(&self) -> LsnRange {
        LsnRange { from: self.from.target.end_lsn, to: self.to.target.end_lsn }
    }

    /// What the library is asked to look at.
    pub fn survey<'a>(&'a self, observe: pitr::impact::Observe<'a>) -> Survey<'a> {
        Survey {
            lineage: &self.lineage,
            catalog: &self.catalog,
            path: &self.path,
            backup: &self.from.backup,
            range: self.lsns(),
            observe,
        }
    }
}

/// How far the work is.
pub fn show(meter: &mut Meter, read: Reading) {
    meter.show(&Step {
        phase: "reading WAL",
        done: read.position.distance_from(read.from).unwrap_or(0),
        total: read.to.distance_from(read.from).unwrap_or(0),
        unit: Unit::Bytes,
        note: None,
    });
}
