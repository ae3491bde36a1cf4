//! From a request to a plan: loads the catalog, reads the WAL that the plan needs, and decodes it.
//!
//! Nothing is written anywhere. WAL summaries tell where the target is and what lies on the way to it, so that only the WAL
//! around the end of the backup and around the target is read; the plan is the same as if all of it had been. What was not
//! read was not proven either: damage in it shows when it is replayed, which then stops with an error. With `check_wal` every
//! byte that a restore will replay is read and decoded beforehand.
//!
//! WAL is read ahead in a few segments at a time and decoded off the async threads; memory does not grow with its length.

mod scope;
mod search;
pub(crate) mod segments;
mod summaries;

use crate::clock::Clock;
use crate::postgres::Lsn;
use crate::recovery::{Aim, Conclusion, PlanBasis, PlanError, PlanRequest, RestorePlan};
use crate::repository::LineageStore;
use crate::repository::catalog::Catalog;
use crate::repository::catalog_load::{MarkerScope, load_wal, load_without_wal};
use crate::repository::{self};

use search::search;

/// How far the reading of WAL is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRead {
    pub from: Lsn,
    pub position: Lsn,
    /// The end of what may have to be read.
    pub to: Lsn,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    #[error(transparent)]
    Plan(Box<PlanError>),
    #[error(transparent)]
    Repository(#[from] repository::Error),
}

impl From<PlanError> for PrepareError {
    fn from(error: PlanError) -> Self {
        Self::Plan(Box::new(error))
    }
}

impl PrepareError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Plan(error) => error.hint(),
            Self::Repository(error) => error.hint().map(str::to_owned),
        }
    }
}

/// The plan for what was asked.
///
/// # Errors
/// The target cannot be reached, or the repository cannot be read.
pub async fn prepare(
    lineage: &LineageStore,
    request: &PlanRequest,
    clock: &dyn Clock,
) -> Result<RestorePlan, PrepareError> {
    prepare_observed(lineage, request, clock, &|_| {}).await
}

/// As [`prepare`], telling how far it is.
///
/// # Errors
/// As [`prepare`].
pub async fn prepare_observed(
    lineage: &LineageStore,
    request: &PlanRequest,
    clock: &dyn Clock,
    observe: &(dyn Fn(WalRead) + Send + Sync),
) -> Result<RestorePlan, PrepareError> {
    // Most plans need a fraction of the archive. A refusal, though, names what can be reached instead, so it is made from
    // all of it.
    let mut catalog = load_without_wal(lineage, &scope::markers(request)).await?;
    if let Some(from) = scope::wal(&catalog, request) {
        load_wal(lineage, &mut catalog, from).await?;
        match resolve(lineage, &catalog, request, clock, observe).await {
            Err(PrepareError::Plan(refusal)) => tracing::debug!(%refusal, "planning again with the whole catalog"),
            planned => return planned,
        }
    }
    let mut catalog = load_without_wal(lineage, &MarkerScope::All).await?;
    load_wal(lineage, &mut catalog, Lsn::INVALID).await?;
    resolve(lineage, &catalog, request, clock, observe).await
}

/// The plan for what was asked, by a catalog that holds what it needs.
///
/// # Errors
/// As [`prepare`].
pub async fn resolve(
    lineage: &LineageStore,
    catalog: &Catalog,
    request: &PlanRequest,
    clock: &dyn Clock,
    observe: &(dyn Fn(WalRead) + Send + Sync),
) -> Result<RestorePlan, PrepareError> {
    let aim = Aim::take(catalog, request, clock.now())?;
    let mut basis = PlanBasis::default();
    for nth in 0.. {
        let Some(attempt) = aim.attempt(catalog, nth) else { break };
        let found = search(lineage, catalog, &attempt, request.check_wal, observe).await?;
        basis.add(&found.basis);
        match attempt.conclude(catalog, &found.findings)? {
            Conclusion::Plan(plan) => return Ok(RestorePlan { basis, ..*plan }),
            Conclusion::TryOlder => {}
        }
    }
    Err(aim.exhausted(catalog).into())
}

#[cfg(test)]
mod equivalence_tests;
#[cfg(test)]
mod property_tests;
#[cfg(test)]
mod sample_tests;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;
