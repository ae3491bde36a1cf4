//! `pitr find`.

use std::sync::Mutex;

use pitr::impact::{Reading, find};
use pitr::recovery::{PlanError, PlanRequest, RecoveryTarget, RestorePlan};
use pitr::repository::LineageStore;
use pitr::repository::catalog_load::{MarkerScope, load_wal, load_without_wal};

use super::range::{self, Range};
use super::restore::{plan_in, plan_request};
use crate::args::{FindOrder, TargetOrder};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::find::FindDocument;

/// # Errors
/// A moment cannot be reached, or the repository cannot be read.
pub async fn run(context: &Context, order: FindOrder) -> Result<(), Failure> {
    let settings = context.settings()?;
    let lineages = context.interruptible(None, settings.lineages_of_cluster()).await?;
    let target = TargetOrder { target: order.from.clone(), timeline: order.timeline, exclusive: false };
    let request = range::request(&target);
    let (lineage, from) = match plan_request(context, &lineages, request.clone()).await {
        Err(Failure::Plan(refusal)) if order.from_anywhere && is_too_early(&refusal) => {
            context.interruptible(None, oldest(context, &lineages, request, refusal)).await?
        }
        planned => planned?,
    };
    let document = context.interruptible(None, look(context, &order, lineage, from)).await?;
    context.print(&document, FindDocument::text)
}

fn is_too_early(refusal: &PlanError) -> bool {
    matches!(refusal, PlanError::BeforeFirstBackup { .. })
}

/// The oldest moment of the newest lineage.
async fn oldest(
    context: &Context,
    lineages: &[LineageStore],
    request: PlanRequest,
    refusal: Box<PlanError>,
) -> Result<(LineageStore, RestorePlan), Failure> {
    let Some(lineage) = lineages.last() else { return Err(Failure::Plan(refusal)) };
    let mut catalog = load_without_wal(lineage, &MarkerScope::None).await?;
    load_wal(lineage, &mut catalog, pitr::postgres::Lsn::INVALID).await?;
    let timeline = catalog.default_timeline().and_then(|timeline| catalog.path(timeline).ok());
    let backup = timeline.and_then(|path| catalog.backups_on(path).first().map(|backup| backup.id.clone()));
    let Some(backup) = backup else { return Err(Failure::Plan(refusal)) };
    let request = PlanRequest { target: RecoveryTarget::Immediate, backup: Some(backup), ..request };
    Ok((lineage.clone(), plan_in(context, lineage, &request).await?))
}

async fn look(
    context: &Context,
    order: &FindOrder,
    lineage: LineageStore,
    from: RestorePlan,
) -> Result<FindDocument, Failure> {
    let range = Range::load(context, lineage, from, &order.to, order.timeline).await?;
    let meter = Mutex::new(context.meter());
    let observe = |read: Reading| {
        if let Ok(mut meter) = meter.lock() {
            range::show(&mut meter, read);
        }
    };
    let found = find(&range.survey(&observe), &order.find).await?;
    Ok(FindDocument::new(&range.from, &range.to, &range.path, &found))
}
