//! From an order to a plan, and to the lineage that it reads from.

use std::sync::Mutex;

use pitr::recovery::{MarkerRef, PlanError, PlanRequest, PlanWarning, RecoveryTarget, RestorePlan, SeveralMarkers};
use pitr::repository::LineageStore;
use pitr::repository::marker::FinishedMarker;
use pitr::restore::prepare::{PrepareError, WalRead, prepare_observed};

use crate::args::RestoreOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::marker::{MarkerDocument, marker_table};
use crate::output::progress::{Meter, Step, Unit};
use crate::output::table::printable;
use crate::terminal::{Terminal, paint};

/// The plan for `order`. Where several markers have the name, a person at the terminal may take the newest.
///
/// # Errors
/// The target cannot be reached, or the repository cannot be read.
pub async fn plan(
    context: &Context,
    lineages: &[LineageStore],
    order: &RestoreOrder,
) -> Result<(LineageStore, RestorePlan), Failure> {
    let request = PlanRequest {
        target: order.target.clone(),
        timeline: order.timeline,
        exclusive: order.exclusive,
        backup: order.backup.clone(),
        several_markers: SeveralMarkers::Refuse,
        check_wal: order.check_wal,
    };
    plan_request(context, lineages, request).await
}

/// As [`plan`], for any request.
///
/// # Errors
/// As [`plan`].
pub async fn plan_request(
    context: &Context,
    lineages: &[LineageStore],
    mut request: PlanRequest,
) -> Result<(LineageStore, RestorePlan), Failure> {
    match context.interruptible(None, plan_in_lineages(context, lineages, &request)).await {
        Err(Failure::Plan(refusal)) if context.terminal.can_ask() => match refusal.as_ref() {
            PlanError::AmbiguousMarker { name, markers } => {
                if !confirm_newest(context, name, markers).await? {
                    return Err(Failure::Plan(refusal));
                }
                request.several_markers = SeveralMarkers::TakeNewest;
                context.interruptible(None, plan_in_lineages(context, lineages, &request)).await
            }
            _ => Err(Failure::Plan(refusal)),
        },
        planned => planned,
    }
}

/// The newest lineage is the live cluster. An older one only counts where what was asked for can be nowhere else: a marker or
/// backup by its name, or a time before the newest one began.
async fn plan_in_lineages(
    context: &Context,
    lineages: &[LineageStore],
    request: &PlanRequest,
) -> Result<(LineageStore, RestorePlan), Failure> {
    let mut newest_refusal = None;
    for lineage in lineages.iter().rev() {
        match plan_in(context, lineage, request).await {
            Ok(plan) if newest_refusal.is_none() || !ends_before_asked(&plan) => return Ok((lineage.clone(), plan)),
            Ok(_) => {}
            Err(PrepareError::Plan(refusal)) => {
                let older_may_have_it = may_be_elsewhere(&refusal, &request.target);
                newest_refusal.get_or_insert(refusal);
                if !older_may_have_it {
                    break;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    let refusal = newest_refusal.expect("a cluster has at least one lineage, and each gave a plan or a refusal");
    Err(Failure::Plan(refusal))
}

fn may_be_elsewhere(refusal: &PlanError, target: &RecoveryTarget) -> bool {
    match refusal {
        PlanError::NoSuchBackup { .. } | PlanError::NoSuchMarker { .. } => true,
        PlanError::BeforeFirstBackup { .. } => matches!(target, RecoveryTarget::Time { .. }),
        // A lineage that has just begun says nothing of what was before it.
        PlanError::NoBackup { .. } => matches!(target, RecoveryTarget::Time { .. } | RecoveryTarget::Marker { .. }),
        _ => false,
    }
}

/// Whether the lineage ended before the wanted time: then it is not the moment that was meant.
fn ends_before_asked(plan: &RestorePlan) -> bool {
    plan.warnings.iter().any(|warning| matches!(warning, PlanWarning::BeyondLastCommit { .. }))
}

/// The plan in one lineage.
///
/// # Errors
/// The target cannot be reached there, or the repository cannot be read.
pub async fn plan_in(
    context: &Context,
    lineage: &LineageStore,
    request: &PlanRequest,
) -> Result<RestorePlan, PrepareError> {
    let meter = Mutex::new(context.meter());
    let observe = |read: WalRead| {
        if let Ok(mut meter) = meter.lock() {
            show(&mut meter, read);
        }
    };
    prepare_observed(lineage, request, context.clock.as_ref(), &observe).await
}

fn show(meter: &mut Meter, read: WalRead) {
    meter.show(&Step {
        phase: "reading WAL",
        done: read.position.distance_from(read.from).unwrap_or(0),
        total: read.to.distance_from(read.from).unwrap_or(0),
        unit: Unit::Bytes,
        note: None,
    });
}

async fn confirm_newest(context: &Context, name: &str, markers: &[FinishedMarker]) -> Result<bool, Failure> {
    let Some(newest) = markers.iter().max_by_key(|marker| (marker.marker.time, marker.marker.lsn)) else {
        return Ok(false);
    };
    let documents: Vec<MarkerDocument> = markers.iter().map(|marker| MarkerDocument::new(marker, None)).collect();
    let mut view = context.view();
    view.paint = paint(context.global.color, context.terminal.stderr, &context.environment);
    let name = printable(name);
    crate::output::stdout::say(&format!(
        "{} markers are named \"{name}\":\n{}",
        markers.len(),
        marker_table(&documents, &view).render(view.paint, "  ")
    ));
    let marker = MarkerRef { name, lsn: Some(newest.marker.lsn) };
    let question = format!("take the newest, {marker} of {}?", view.zone.both(newest.marker.time));
    context.ask(question).await
}

impl Context {
    /// Asks at the terminal.
    ///
    /// # Errors
    /// Interrupted while asking, or the terminal is gone.
    pub async fn ask(&self, question: String) -> Result<bool, Failure> {
        let asked = tokio::task::spawn_blocking(move || Terminal::confirm(&question));
        self.interruptible(None, async {
            let answer = asked.await.unwrap_or_else(|error| Err(std::io::Error::other(error)));
            answer.map_err(|error| Failure::Failed { message: format!("no answer: {error}"), hint: None })
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::output::plan::tests::plan;

    #[test]
    fn only_names_and_early_times_are_looked_for_in_older_lineages() {
        let time = RecoveryTarget::Time { time: "2026-11-22T12:00:00Z".parse().unwrap() };
        let nearest = pitr::recovery::Nearest::default();
        let early = PlanError::BeforeFirstBackup { target: "x".to_owned(), nearest };
        let no_marker = PlanError::NoSuchMarker { name: "x".to_owned(), similar: Vec::new() };
        let no_backup = PlanError::NoBackup { incomplete: 0, damaged: 0 };
        for (refusal, target, elsewhere) in [
            (&early, &time, true),
            (&early, &RecoveryTarget::Lsn { lsn: pitr::postgres::Lsn::new(0x28) }, false),
            (&no_marker, &RecoveryTarget::Latest, true),
            (&no_backup, &RecoveryTarget::Latest, false),
            (&no_backup, &time, true),
        ] {
            assert_eq!(may_be_elsewhere(refusal, target), elsewhere, "{refusal:?} {target:?}");
        }
    }

    #[test]
    fn an_older_lineage_must_reach_the_wanted_time() {
        let mut plan = plan();
        assert!(ends_before_asked(&plan));
        plan.warnings.clear();
        assert!(!ends_before_asked(&plan));
    }
}
