//! `pitr expire`.

use std::time::Duration;

use chrono::TimeDelta;
use pitr::api::{ApiErrorKind, ExpireJob, ExpireRequest, ExpireState};
use pitr::expire::{load_cluster, survey};
use pitr::repository::LineageStore;
use pitr::retention::{Order, Policy, plan};

use super::who::who;
use crate::agent_client::AgentError;
use crate::args::{ExpireOrder, UsageError};
use crate::context::Context;
use crate::failure::Failure;
use crate::output::expire::{ExpireDocument, ExpireJobDocument, ExpireLineage};
use crate::settings::Settings;
use crate::terminal::Terminal;

const POLL_INTERVAL: Duration = Duration::from_millis(300);
const INTERRUPTED: &str = "the agent goes on, and what it keeps is unharmed";
const UNHARMED: &str = "what is kept is unharmed; the same command goes on";

/// # Errors
/// The repository cannot be read, or what was named cannot go.
pub async fn run(context: &Context, order: ExpireOrder) -> Result<(), Failure> {
    let document = context.interruptible(None, preview(context, &order)).await?;
    if order.dry_run {
        return context.print(&document, ExpireDocument::text);
    }
    if !order.yes && !confirmed(context, &document).await? {
        return Err(Failure::Failed { message: "nothing was deleted".to_owned(), hint: None });
    }
    let job = context.interruptible(Some(INTERRUPTED), carry_out(context, order)).await?;
    if let Some(error) = &job.error {
        let message = format!("retention failed: {error}");
        return Err(Failure::Failed { message, hint: job.hint.clone().or_else(|| Some(UNHARMED.to_owned())) });
    }
    context.print(&ExpireJobDocument::new(job), ExpireJobDocument::text)
}

/// A person saw what goes, and wants it.
async fn confirmed(context: &Context, document: &ExpireDocument) -> Result<bool, Failure> {
    if !context.terminal.can_ask() {
        return Err(UsageError::new("this deletes, and nobody can be asked")
            .with_hint("say so with --yes; --dry-run shows what goes")
            .into());
    }
    context.say(&document.text(&context.view()));
    if document.is_idle() {
        return Ok(true);
    }
    let question = format!("Delete {}?", document.summary());
    let asked = tokio::task::spawn_blocking(move || Terminal::confirm(&question));
    match context.interruptible(None, async { Ok(asked.await) }).await? {
        Ok(Ok(answer)) => Ok(answer),
        _ => Ok(false),
    }
}

/// The agent deletes; this only asks and watches.
async fn carry_out(context: &Context, order: ExpireOrder) -> Result<ExpireJob, Failure> {
    let agent = context.settings()?.agent()?;
    let who = Some(who(context.uid, &context.environment));
    let request = ExpireRequest { who, backups: order.backups, forced: order.force };
    let mut job = loop {
        match agent.start_expire(&request).await {
            // It does so after each backup by itself: ours comes next.
            Err(AgentError::Refused { error, .. }) if error.kind == ApiErrorKind::Conflict => {
                tokio::time::sleep(POLL_INTERVAL).await;
            }
            started => break started?,
        }
    };
    let started = job.started;
    while job.state == ExpireState::Running {
        tokio::time::sleep(POLL_INTERVAL).await;
        job = agent.current_expire().await?;
        if job.started != started && job.state != ExpireState::Running {
            // Another run followed at once; ours is over.
            break;
        }
    }
    Ok(job)
}

async fn preview(context: &Context, order: &ExpireOrder) -> Result<ExpireDocument, Failure> {
    let settings = context.settings()?;
    let repository = settings.open_repository().await?;
    let cluster = settings.cluster(&repository).await?;
    let lineages = settings.lineages(&repository, &cluster).await?;
    let policy = policy(&settings);
    let wanted = if order.backups.is_empty() {
        Order::Policy(policy.clone())
    } else {
        Order::Named { backups: order.backups.clone(), forced: order.force, grace: policy.grace }
    };
    let window_begin = policy.window_begin(context.now()).filter(|_| order.backups.is_empty());
    let lineages = judged(context, &lineages, &wanted).await?;
    Ok(ExpireDocument { format: 1, cluster: cluster.to_string(), window_begin: window_begin.map(Into::into), lineages })
}

async fn judged(context: &Context, stores: &[LineageStore], order: &Order) -> Result<Vec<ExpireLineage>, Failure> {
    let cluster = load_cluster(stores).await?;
    let planned = plan(&cluster, order, context.now())
        .map_err(|refusal| UsageError::new(refusal.to_string()).with_hint(refusal.hint()))?;
    let mut lineages = Vec::new();
    for (store, planned) in stores.iter().zip(&planned.lineages) {
        lineages.push(ExpireLineage::new(planned, &survey(store, planned.judge()).await?));
    }
    Ok(lineages)
}

/// Without a configuration nothing is known of what is to stay.
fn policy(settings: &Settings) -> Policy {
    let keep_all = || Policy::keep_all(TimeDelta::days(1));
    settings.config.as_ref().map_or_else(keep_all, |config| Policy::of(&config.retention))
}
