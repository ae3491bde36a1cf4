//! `pitr markers`.

use chrono::{DateTime, Utc};
use pitr::lookup::schema_changes;
use pitr::repository::catalog_load::{MarkerScope, load, load_without_wal};

use crate::args::MarkersOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::implicit::{ImplicitDocument, ImplicitMoment, UnknownWal};
use crate::output::marker::{MarkerDocument, MarkersDocument};

/// # Errors
/// The repository cannot be read, or holds markers that cannot.
pub async fn run(context: &Context, order: MarkersOrder) -> Result<(), Failure> {
    if let Some(since) = order.implicit_since {
        let document = context.interruptible(None, implicit(context, since, order.limit)).await?;
        return context.print(&document, ImplicitDocument::text);
    }
    let document = context.interruptible(None, listed(context, &order)).await?;
    context.print(&document, MarkersDocument::text)
}

async fn listed(context: &Context, order: &MarkersOrder) -> Result<MarkersDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let cluster = settings.cluster(&repository).await?;
    let scope = order.name.clone().map_or(MarkerScope::All, MarkerScope::Named);
    let mut markers = Vec::new();
    for lineage in settings.lineages(&repository, &cluster).await? {
        let catalog = load_without_wal(&lineage, &scope).await?;
        for damaged in &catalog.damaged {
            tracing::warn!(key = %damaged.key, reason = %damaged.reason, "an object is damaged");
        }
        let id = catalog.lineage.lineage.system_identifier();
        markers.extend(catalog.markers.iter().map(|marker| MarkerDocument::new(marker, Some(id))));
    }
    if let Some(limit) = order.limit {
        markers.drain(..markers.len().saturating_sub(limit));
    }
    Ok(MarkersDocument { format: 1, cluster: cluster.to_string(), markers })
}

/// Changes of the schema on the timeline that the live cluster writes.
async fn implicit(context: &Context, since: DateTime<Utc>, limit: Option<usize>) -> Result<ImplicitDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let cluster = settings.cluster(&repository).await?;
    let mut document = ImplicitDocument::new(cluster.to_string(), since);
    for lineage in settings.lineages(&repository, &cluster).await? {
        let catalog = load(&lineage).await?;
        let Some(timeline) = catalog.default_timeline() else { continue };
        let found = schema_changes(&lineage, &catalog, timeline, since).await?;
        document.moments.extend(found.moments.iter().map(ImplicitMoment::new));
        document.unknown.extend(found.unknown.iter().map(UnknownWal::new));
    }
    if let Some(limit) = limit {
        document.moments.drain(..document.moments.len().saturating_sub(limit));
    }
    Ok(document)
}
