//! The steps of a restore, and what is printed between them.

use pitr::recovery::RestorePlan;
use pitr::restore::certificate::Certificate;
use pitr::restore::{CheckedRestore, ProgressSender, RestoreOptions, RestoredDirectory, Restorer};

use super::options::{restore_options, start_options};
use super::planning::plan;
use super::watch::watched;
use crate::args::RestoreOrder;
use crate::context::Context;
use crate::failure::Failure;
use crate::output::plan::{DeltaDocument, PlanDocument};
use crate::output::restored::{Finished, RestoredDocument};
use crate::settings::Settings;

/// # Errors
/// The target cannot be reached, the destination cannot be used, or the restore fails on the way.
pub async fn run(context: &Context, order: RestoreOrder) -> Result<(), Failure> {
    let settings = context.settings()?;
    let lineages = context.interruptible(None, settings.lineages_of_cluster()).await?;
    let (lineage, plan) = plan(context, &lineages, &order).await?;
    let options = restore_options(context, &settings, &order, &plan)?;
    let restorer = Restorer {
        lineage,
        clock: context.clock.clone(),
        progress: ProgressSender::default(),
        cancel: context.cancel.clone(),
    };

    let checking = async { Ok(restorer.check(&plan, &options).await) };
    let checked = context.interruptible(None, checking).await?;
    let mut document = PlanDocument::new(&plan, &order.into);
    document.delta = checked.as_ref().ok().and_then(|checked| checked.delta.as_ref()).map(DeltaDocument::new);
    document.warnings.extend(checked.as_ref().map(CheckedRestore::notes).unwrap_or_default());
    // The plan is worth seeing also where the destination will not do.
    if order.dry_run || !context.global.json {
        context.print(&document, PlanDocument::text)?;
    }
    let checked = checked?;
    let configured = settings.config.as_ref().and_then(|config| config.postgres.bin_directory.as_deref());
    if order.start {
        let start = start_options(&order, configured);
        context.interruptible(None, async { Ok(restorer.check_start(&plan, &start).await?) }).await?;
    }
    if order.dry_run {
        return Ok(());
    }
    confirm(context, &order, &document).await?;
    let (restored, certificate) = Execution { context, settings: &settings, order: &order, restorer: &restorer }
        .execute(&plan, &options, checked)
        .await?;
    let programs = RestoredDirectory::programs(&plan, order.bin_directory.as_deref().or(configured));
    let finished = Finished {
        restore: options.restore,
        start_command: restored.start_command(programs.as_ref()),
        restored,
        certificate,
    };
    context.print(&RestoredDocument::new(document, finished), RestoredDocument::text)
}

/// Warnings are for a person to weigh, where there is one.
async fn confirm(context: &Context, order: &RestoreOrder, document: &PlanDocument) -> Result<(), Failure> {
    if document.warnings.is_empty() || order.yes || !context.terminal.can_ask() {
        return Ok(());
    }
    if context.global.json {
        context.say(&document.text(&context.view()));
    }
    if context.ask("restore all the same?".to_owned()).await? {
        Ok(())
    } else {
        Err(Failure::Failed { message: "nothing was restored".to_owned(), hint: None })
    }
}

struct Execution<'a> {
    context: &'a Context,
    settings: &'a Settings,
    order: &'a RestoreOrder,
    restorer: &'a Restorer,
}

impl Execution<'_> {
    /// Not cut off at an interruption: the restorer itself ends cleanly, and says what it leaves.
    async fn execute(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        checked: CheckedRestore,
    ) -> Result<(RestoredDirectory, Option<Certificate>), Failure> {
        let progress = self.restorer.progress.subscribe();
        let mut meter = self.context.meter();
        let restored = watched(&progress, &mut meter, self.restorer.restore(plan, options, checked)).await?;
        let tested = self.restorer.test_restore_command(plan, options, &restored);
        watched(&progress, &mut meter, tested).await?;
        if !self.order.start {
            return Ok((restored, None));
        }
        if self.context.cancel.is_cancelled() {
            return Err(pitr::restore::Error::Interrupted.into());
        }
        let configured = self.settings.config.as_ref().and_then(|config| config.postgres.bin_directory.as_deref());
        let start = start_options(self.order, configured);
        let certificate = watched(&progress, &mut meter, self.restorer.start(plan, options, &restored, &start)).await?;
        Ok((restored, Some(certificate)))
    }
}
