//! `pitr impact`.

use std::path::Path;
use std::sync::Mutex;

use pitr::impact::{Reading, survey};

use super::range::{self, Range};
use super::restore::plan_request;
use crate::args::ImpactOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::impact::{ImpactDocument, ImpactInput};
use crate::output::impact_page;

/// # Errors
/// A moment cannot be reached, the repository cannot be read, or the page cannot be written.
pub async fn run(context: &Context, order: ImpactOrder) -> Result<(), Failure> {
    let settings = context.settings()?;
    let lineages = context.interruptible(None, settings.lineages_of_cluster()).await?;
    let (lineage, from) = plan_request(context, &lineages, range::request(&order.target)).await?;
    let document = context.interruptible(None, look(context, &order, lineage, from)).await?;
    if let Some(file) = &order.html {
        write(file, &impact_page::page(&document, &context.view()))?;
        context.say(&format!("wrote {}", file.display()));
    }
    context.print(&document, ImpactDocument::text)
}

async fn look(
    context: &Context,
    order: &ImpactOrder,
    lineage: pitr::repository::LineageStore,
    from: pitr::recovery::RestorePlan,
) -> Result<ImpactDocument, Failure> {
    let range = Range::load(context, lineage, from, &order.to, order.target.timeline).await?;
    let meter = Mutex::new(context.meter());
    let observe = |read: Reading| {
        if let Ok(mut meter) = meter.lock() {
            range::show(&mut meter, read);
        }
    };
    let impact = survey(&range.survey(&observe)).await?;
    Ok(ImpactDocument::new(&ImpactInput {
        from: &range.from,
        to: &range.to,
        order: &order.target,
        markers: &range.catalog.markers,
        path: &range.path,
        impact: &impact,
    }))
}

fn write(file: &Path, page: &str) -> Result<(), Failure> {
    std::fs::write(file, page).map_err(|error| Failure::Failed {
        message: format!("could not write \"{}\": {error}", file.display()),
        hint: None,
    })
}
