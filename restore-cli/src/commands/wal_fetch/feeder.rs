//! The process that fetches ahead for one recovery. Nobody calls it but `wal-fetch`.

use pitr::restore::recovery_config::RecoveryConfig;
use pitr::restore::wal_feed::client::close_inherited_files;
use pitr::restore::wal_feed::resident::{self, ResidentOptions};

use super::feed;
use crate::args::WalFeederArgs;
use crate::context::Context;
use crate::ending::Ending;
use crate::failure::Failure;

/// To be called before anything is opened.
pub fn prepare_feeder() {
    // Without it deleted files may keep their space for as long as the recovery takes; the recovery itself is not affected.
    let _ = close_inherited_files();
}

/// Ends when the recovery does, or with 1 when it cannot help: the server then fetches for itself.
pub async fn run_feeder(context: &Context, args: WalFeederArgs) -> Ending {
    let fed: Result<(), Failure> = async {
        let config = RecoveryConfig::load(&args.restore)?;
        let feed = feed::of_restore(&config, &context.environment).await?;
        resident::run(&config, feed, &ResidentOptions::default(), &context.cancel).await?;
        Ok(())
    }
    .await;
    match fed {
        Ok(()) => Ending::Command(0),
        Err(_) => Ending::Command(1),
    }
}
