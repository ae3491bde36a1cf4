//! One file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use pitr::restore::recovery_config::RecoveryConfig;
use pitr::restore::wal_feed::FetchOutcome;
use pitr::restore::wal_feed::client::{self, ResidentAnswer};

use super::feed;
use crate::args::{FEEDER_COMMAND, UsageError, WalFetchArgs, WalFetchOrder};
use crate::context::Context;
use crate::ending::Ending;
use crate::failure::Failure;
use crate::output::{Paint, stdout};
use crate::report::report;

/// Never an error: whatever happens, the ending says it.
pub async fn run(context: &Context, args: WalFetchArgs, talk: Paint) -> Ending {
    let fetched = async {
        let order = args.validate()?;
        fetch(context, &order).await
    };
    match context.interruptible(None, fetched).await {
        Ok(FetchOutcome::Found { .. }) => Ending::WalFound,
        Ok(FetchOutcome::Absent) => Ending::WalAbsent,
        Err(failure) => {
            stdout::say(&report(&failure, talk));
            Ending::WalFailed
        }
    }
}

async fn fetch(context: &Context, order: &WalFetchOrder) -> Result<FetchOutcome, Failure> {
    let Some(restore) = &order.restore else {
        return Ok(feed::of_cluster(context).await?.fetch(&order.name, &order.path).await?);
    };
    let file = recovery_file(restore)?;
    let config = RecoveryConfig::load(&file)?;
    feed::with_variables(&config.repository.environment, &context.environment).map_err(|error| Failure::Failed {
        message: format!("could not run this program again with the variables of the restore: {error}"),
        hint: None,
    })?;
    match client::ask(&config, &order.name, &order.path).await {
        ResidentAnswer::Done(outcome) => return Ok(outcome),
        ResidentAnswer::Failed => {}
        ResidentAnswer::NotRunning => start_feeder(&file),
    }
    Ok(feed::of_restore(&config, &context.environment).await?.fetch(&order.name, &order.path).await?)
}

fn recovery_file(restore: &str) -> Result<PathBuf, UsageError> {
    let path = Path::new(restore);
    if path.is_absolute() {
        Ok(path.to_owned())
    } else {
        Err(UsageError::new(format!("invalid restore \"{restore}\""))
            .with_hint("name the recovery configuration of the restore by its absolute path"))
    }
}

/// It only makes what follows faster, so nothing depends on it.
fn start_feeder(file: &Path) {
    let arguments = [FEEDER_COMMAND.into(), OsString::from("--restore"), file.as_os_str().to_owned()];
    let started = std::env::current_exe().and_then(|program| client::start(&program, &arguments));
    if let Err(error) = started {
        tracing::warn!(%error, "WAL is not fetched ahead");
    }
}
