//! From an order to what the library is asked for.

use std::path::Path;
use std::sync::Arc;

use pitr::recovery::RestorePlan;
use pitr::restore::destination::{OwnerRequest, TablespaceMapping, TablespacePair};
use pitr::restore::recovery_config::RecoveryConfig;
use pitr::restore::server::{StartOptions, companion_directory};
use pitr::restore::{CompanionFile, RestoreCommand, RestoreId, RestoreOptions, TablespacePolicy, TransferOptions};

use super::access::repository_access;
use crate::args::{RestoreOrder, TargetAction};
use crate::context::Context;
use crate::failure::Failure;
use crate::settings::Settings;
use crate::sql_probe::TokioPostgresProbe;

/// Name of the recovery configuration in the directory beside the data directory.
const RECOVERY_FILE: &str = "recovery.json";

/// # Errors
/// This program does not know where it is.
pub fn restore_options(
    context: &Context,
    settings: &Settings,
    order: &RestoreOrder,
    plan: &RestorePlan,
) -> Result<RestoreOptions, Failure> {
    let program = std::env::current_exe().map_err(|error| Failure::Failed {
        message: format!("could not tell where this program is, which the restored server runs: {error}"),
        hint: None,
    })?;
    let restore = RestoreId::new(context.now(), restore_number(context));
    let companion = companion_directory(&order.into).join(RECOVERY_FILE);
    let access = repository_access(settings, &context.environment, &context.current_directory);
    let recovery = RecoveryConfig::for_plan(restore.clone(), plan, access, order.into.clone());
    Ok(RestoreOptions {
        restore,
        directory: order.into.clone(),
        delta: order.delta,
        tablespaces: tablespaces(order),
        owner: order.owner.as_ref().map(|owner| OwnerRequest { user: owner.user.clone(), group: owner.group.clone() }),
        action: action(order.target_action),
        restore_command: RestoreCommand::WalFetch { program, restore: companion.clone() },
        companion: Some(CompanionFile { path: companion, content: recovery.to_bytes() }),
        transfer: transfer(order),
        tablespaces_in_wal: TablespacePolicy::default(),
    })
}

/// Tells restores apart that begin in one second.
fn restore_number(context: &Context) -> u32 {
    let nanoseconds = context.now().timestamp_subsec_nanos();
    nanoseconds.rotate_left(16) ^ std::process::id()
}

fn tablespaces(order: &RestoreOrder) -> TablespaceMapping {
    let pair = |(from, to): &(String, std::path::PathBuf)| TablespacePair { from: from.clone(), to: to.clone() };
    TablespaceMapping {
        all_into: order.tablespaces.others_into.clone(),
        pairs: order.tablespaces.moved.iter().map(pair).collect(),
    }
}

const fn action(action: TargetAction) -> pitr::restore::TargetAction {
    match action {
        TargetAction::Promote => pitr::restore::TargetAction::Promote,
        TargetAction::Pause => pitr::restore::TargetAction::Pause,
        TargetAction::Shutdown => pitr::restore::TargetAction::Shutdown,
    }
}

fn transfer(order: &RestoreOrder) -> TransferOptions {
    let default = TransferOptions::default();
    match order.threads.and_then(|threads| usize::try_from(threads.get()).ok()) {
        // Each worker has one request to work on while two more are under way for it.
        Some(workers) => TransferOptions { workers, requests: workers * 3, ..default },
        None => default,
    }
}

pub fn start_options(order: &RestoreOrder, configured: Option<&Path>) -> StartOptions {
    StartOptions {
        bin_directory: order.bin_directory.clone().or_else(|| configured.map(Path::to_owned)),
        port: order.port,
        probe: Some(Arc::new(TokioPostgresProbe)),
        ..StartOptions::default()
    }
}
