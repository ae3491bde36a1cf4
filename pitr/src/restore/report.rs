//! A whole restore in one call.

use super::certificate::Certificate;
use super::copy::blocking;
use super::execute::{RestoredDirectory, Restorer};
use super::options::RestoreOptions;
use super::progress::Phase;
use super::server::StartOptions;
use super::{Error, Result};
use crate::recovery::RestorePlan;

/// What a restore came to.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    pub restored: RestoredDirectory,
    /// The command that starts the server, for those who did not have it started.
    pub start_command: String,
    /// Of the server that was started.
    pub certificate: Option<Certificate>,
}

impl Restorer {
    /// Checks, restores, proves that the server will get its WAL, and where `start` says so starts it and waits for the
    /// target.
    ///
    /// # Errors
    /// Of the first step that fails. [`Error::Incomplete`] is the only one that leaves something unfinished behind.
    pub async fn run(
        &self,
        plan: &RestorePlan,
        options: &RestoreOptions,
        start: Option<&StartOptions>,
    ) -> Result<RestoreReport> {
        let checked = self.check(plan, options).await?;
        if let Some(start) = start {
            self.check_start(plan, start).await?;
        }
        let restored = self.restore(plan, options, checked).await?;
        self.test_restore_command(plan, options, &restored).await?;
        let (directory, of) = (start.and_then(|start| start.bin_directory.clone()), plan.clone());
        let programs = blocking(move || Ok(RestoredDirectory::programs(&of, directory.as_deref()))).await?;
        let start_command = restored.start_command(programs.as_ref());
        let certificate = match start {
            Some(_) if self.cancel.is_cancelled() => return Err(Error::Interrupted),
            Some(start) => Some(self.start(plan, options, &restored, start).await?),
            None => None,
        };
        self.progress.phase(Phase::Done);
        Ok(RestoreReport { restored, start_command, certificate })
    }
}
