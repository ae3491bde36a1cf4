//! `pitr status`.

use pitr::repository::catalog::Catalog;

use super::catalogs::{ends_of, load_all};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::status::{AgentWord, StatusDocument, StatusInput};
use crate::settings::Settings;

/// # Errors
/// The repository cannot be read. An agent that cannot be reached is no failure: the lease tells of it.
pub async fn run(context: &Context) -> Result<(), Failure> {
    let document = context.interruptible(None, load(context)).await?;
    context.print(&document, StatusDocument::text)
}

async fn load(context: &Context) -> Result<StatusDocument, Failure> {
    let mut settings = context.settings()?;
    let repository = settings.open_repository_soon().await?;
    let cluster = settings.cluster(&repository).await?;
    settings.cluster = Some(cluster.clone());
    let lineages = settings.lineages(&repository, &cluster).await?;
    let (catalogs, agent) = tokio::join!(load_all(&lineages), ask_agent(&settings));
    let catalogs = catalogs?;
    let ends = ends_of(&lineages, &catalogs).await?;
    let agent = match agent {
        AgentWord::Says(agent) if agent.cluster != cluster.as_str() => AgentWord::Elsewhere,
        AgentWord::Silent { .. } if !is_here(&catalogs) => AgentWord::Elsewhere,
        word => word,
    };
    Ok(StatusDocument::new(StatusInput {
        cluster: &cluster,
        repository: settings.url().to_string(),
        catalogs: &catalogs,
        ends: &ends,
        agent,
        now: context.now(),
    }))
}

/// Whether the agent that archives the cluster is on this host.
fn is_here(catalogs: &[Catalog]) -> bool {
    let lease = catalogs.last().and_then(|catalog| catalog.lease.as_ref());
    let host = nix::unistd::gethostname();
    lease.is_some_and(|lease| host.is_ok_and(|host| host.to_string_lossy() == lease.host))
}

async fn ask_agent(settings: &Settings) -> AgentWord {
    let Ok(agent) = settings.agent() else { return AgentWord::Elsewhere };
    match agent.status().await {
        Ok(status) => AgentWord::Says(Box::new(status)),
        Err(error) => {
            if error.is_unreachable() {
                tracing::info!(%error, "the agent cannot be reached from here");
            } else {
                tracing::warn!(%error, "the agent did not say how it is");
            }
            AgentWord::Silent { address: agent.address().to_string() }
        }
    }
}
