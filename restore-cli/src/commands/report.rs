//! `pitr report`.

use futures::TryStreamExt;
use pitr::deployments::deployments;
use pitr::repository::LineageStore;
use pitr::repository::catalog_load::{MarkerScope, load_without_wal};
use pitr::restore::certificate::Certificate;

use crate::args::ReportOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::deployments::{DeploymentsDocument, Found};
use crate::output::deployments_page;

/// # Errors
/// The repository cannot be read, or the page cannot be written.
pub async fn run(context: &Context, order: ReportOrder) -> Result<(), Failure> {
    let (cluster, found) = context.interruptible(None, found(context)).await?;
    let view = context.view();
    let document = DeploymentsDocument::new(cluster, found, order.since, &view);
    if let Some(file) = &order.html {
        std::fs::write(file, deployments_page::page(&document, &view)).map_err(|error| Failure::Failed {
            message: format!("could not write \"{}\": {error}", file.display()),
            hint: Some("name a file in a directory that you may write to".to_owned()),
        })?;
    }
    context.print(&document, DeploymentsDocument::text)
}

async fn found(context: &Context) -> Result<(String, Found), Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let cluster = settings.cluster(&repository).await?;
    let mut found = Found::default();
    for lineage in settings.lineages(&repository, &cluster).await? {
        let catalog = load_without_wal(&lineage, &MarkerScope::All).await?;
        for damaged in &catalog.damaged {
            tracing::warn!(key = %damaged.key, reason = %damaged.reason, "an object is damaged");
        }
        let (deployed, unread) = deployments(&catalog.markers, &certificates(&lineage).await?);
        found.unfinished += catalog.markers.len().saturating_sub(deployed.len());
        found.deployments.extend(deployed);
        found.unread.extend(unread);
    }
    found.deployments.sort_by_key(|deployment| deployment.ended);
    Ok((cluster.to_string(), found))
}

/// Those of the restores from this lineage that could tell the repository how they ended.
async fn certificates(lineage: &LineageStore) -> Result<Vec<Certificate>, Failure> {
    let prefix = lineage.layout().restores();
    let mut listed = lineage.store().list(&prefix);
    let mut certificates = Vec::new();
    while let Some(meta) = listed.try_next().await.map_err(pitr::repository::Error::from)? {
        match lineage.get::<Certificate>(&meta.key).await {
            Ok(certificate) => certificates.push(certificate),
            Err(error) if error.is_corruption() || error.is_not_found() => {
                tracing::warn!(key = %meta.key, %error, "the certificate of a restore cannot be read");
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(certificates)
}
