//! `pitr info`.

use pitr::expire::load_pins;
use pitr::repository::Repository;
use pitr::repository::layout::ClusterName;

use super::catalogs::{ends_of, load_all};
use crate::args::{Compat, InfoArgs};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::info::{ClusterDocument, InfoDocument};
use crate::output::json;
use crate::output::stanza::StanzaDocument;
use crate::settings::Settings;

/// # Errors
/// The repository cannot be read.
pub async fn run(context: &Context, args: &InfoArgs) -> Result<(), Failure> {
    if args.compat == Some(Compat::Pgbackrest) {
        let stanzas = context.interruptible(None, load_stanzas(context)).await?;
        // It is JSON, whether that was asked for or not.
        return context.print(&stanzas, |stanzas, _| json::document(stanzas));
    }
    let document = context.interruptible(None, load(context)).await?;
    context.print(&document, InfoDocument::text)
}

async fn load(context: &Context) -> Result<InfoDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let mut clusters = Vec::new();
    for name in names(&settings, &repository).await? {
        let lineages = settings.lineages(&repository, &name).await?;
        let catalogs = load_all(&lineages).await?;
        let mut cluster = ClusterDocument::new(&name, &catalogs);
        cluster.tell_ends(&ends_of(&lineages, &catalogs).await?);
        for lineage in &lineages {
            let (pins, _) = load_pins(lineage).await?;
            cluster.tell_pins(lineage.lineage().lineage.system_identifier(), &pins);
        }
        clusters.push(cluster);
    }
    Ok(InfoDocument { format: 1, clusters })
}

/// A cluster that is named and not there is one without anything, as pgBackRest has it.
async fn load_stanzas(context: &Context) -> Result<Vec<StanzaDocument>, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let mut stanzas = Vec::new();
    for name in names(&settings, &repository).await? {
        let catalogs = load_all(&repository.lineages(&name).await?).await?;
        stanzas.push(StanzaDocument::new(&name, &catalogs, context.now()));
    }
    Ok(stanzas)
}

async fn names(settings: &Settings, repository: &Repository) -> Result<Vec<ClusterName>, Failure> {
    match &settings.cluster {
        Some(cluster) => Ok(vec![cluster.clone()]),
        None => Ok(repository.clusters().await?),
    }
}
