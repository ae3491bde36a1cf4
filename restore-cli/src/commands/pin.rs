//! `pitr pin` and `pitr unpin`.

use pitr::expire;
use pitr::repository::catalog_load::{MarkerScope, load_without_wal};
use pitr::repository::pin::{Pin, PinSubject};
use pitr::repository::{LineageStore, catalog::Catalog};

use super::who::who;
use crate::args::{PinOrder, PinnedName, UsageError};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::pin::PinDocument;

/// # Errors
/// There is no such backup or marker, or the repository cannot be written.
pub async fn pin(context: &Context, order: PinOrder) -> Result<(), Failure> {
    let document = context.interruptible(Some("a pin may have been set"), set(context, order)).await?;
    context.print(&document, PinDocument::text)
}

/// # Errors
/// There is no such pin, or the repository cannot be written.
pub async fn unpin(context: &Context, order: PinOrder) -> Result<(), Failure> {
    let documents = context.interruptible(Some("the pin may have been released"), release(context, order)).await?;
    for document in documents {
        context.print(&document, PinDocument::text)?;
    }
    Ok(())
}

async fn set(context: &Context, order: PinOrder) -> Result<PinDocument, Failure> {
    let (cluster, lineages) = lineages(context).await?;
    let (lineage, subject) = find(&lineages, &order.subject).await?;
    let (pins, _) = expire::load_pins(&lineage).await?;
    if let Some(known) = pins.into_iter().find(|pin| pin.subject == subject) {
        return Ok(PinDocument::new(&cluster, known, true));
    }
    let who = Some(who(context.uid, &context.environment));
    let pin = expire::pin(&lineage, subject, order.reason, who, context.clock.as_ref()).await?;
    // Only now: a deletion that was announced before may not have seen the pin.
    if let PinSubject::Backup { id } = &pin.subject
        && expire::is_condemned(&lineage, id).await?
    {
        let message = format!("the backup {id} is just being deleted: the pin may have come too late");
        let hint = Some("\"pitr info\" tells whether it is still there; then it stays".to_owned());
        return Err(Failure::Failed { message, hint });
    }
    Ok(PinDocument::new(&cluster, pin, true))
}

async fn release(context: &Context, order: PinOrder) -> Result<Vec<PinDocument>, Failure> {
    let (cluster, lineages) = lineages(context).await?;
    let who = Some(who(context.uid, &context.environment));
    let mut released = Vec::new();
    for lineage in &lineages {
        let (pins, _) = expire::load_pins(lineage).await?;
        for pin in pins.into_iter().filter(|pin| is_meant(pin, &order.subject)) {
            expire::release(lineage, &pin, who.clone(), context.clock.as_ref()).await?;
            released.push(PinDocument::new(&cluster, pin, false));
        }
    }
    if released.is_empty() {
        let hint = "\"pitr info\" and \"pitr markers\" show what is pinned";
        return Err(UsageError::new("nothing of that name is pinned").with_hint(hint).into());
    }
    Ok(released)
}

async fn lineages(context: &Context) -> Result<(String, Vec<LineageStore>), Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository().await?;
    let cluster = settings.cluster(&repository).await?;
    Ok((cluster.to_string(), settings.lineages(&repository, &cluster).await?))
}

/// The newest lineage counts where several have it.
async fn find(lineages: &[LineageStore], name: &PinnedName) -> Result<(LineageStore, PinSubject), Failure> {
    let scope = match name {
        PinnedName::Backup(_) => MarkerScope::None,
        PinnedName::Marker(marker) => MarkerScope::Named(marker.name.clone()),
    };
    for lineage in lineages.iter().rev() {
        let catalog = load_without_wal(lineage, &scope).await?;
        if let Some(subject) = find_in(&catalog, name)? {
            return Ok((lineage.clone(), subject));
        }
    }
    Err(match name {
        PinnedName::Backup(id) => {
            UsageError::new(format!("there is no backup \"{id}\"")).with_hint("\"pitr info\" lists the backups")
        }
        PinnedName::Marker(marker) => {
            UsageError::new(format!("there is no marker \"{marker}\"")).with_hint("\"pitr markers\" lists all")
        }
    }
    .into())
}

fn find_in(catalog: &Catalog, name: &PinnedName) -> Result<Option<PinSubject>, UsageError> {
    match name {
        PinnedName::Backup(id) => Ok(catalog.backup(id).map(|backup| PinSubject::Backup { id: backup.id.clone() })),
        PinnedName::Marker(wanted) => {
            let is_it = |lsn| wanted.lsn.is_none_or(|wanted| wanted == lsn);
            let found: Vec<_> = catalog
                .markers
                .iter()
                .map(|found| &found.marker)
                .filter(|marker| marker.name == wanted.name && (is_it(marker.lsn) || is_it(marker.end_lsn)))
                .collect();
            match found.as_slice() {
                [] => Ok(None),
                [one] => Ok(Some(PinSubject::Marker { timeline: one.timeline, lsn: one.lsn, name: one.name.clone() })),
                several => {
                    let picks: Vec<_> = several.iter().map(|found| format!("{}@{}", found.name, found.lsn)).collect();
                    Err(UsageError::new(format!("{} markers are named \"{}\"", several.len(), wanted.name))
                        .with_hint(format!("name one of {}", picks.join(", "))))
                }
            }
        }
    }
}

fn is_meant(pin: &Pin, name: &PinnedName) -> bool {
    match (&pin.subject, name) {
        (PinSubject::Backup { id }, PinnedName::Backup(wanted)) => id == wanted,
        (PinSubject::Marker { lsn, name, .. }, PinnedName::Marker(wanted)) => {
            *name == wanted.name && wanted.lsn.is_none_or(|wanted| wanted == *lsn)
        }
        _ => false,
    }
}
