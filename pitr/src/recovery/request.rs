//! What a person asks of a plan.

use serde::{Deserialize, Serialize};

use super::target::{RecoveryTarget, TargetTimeline};
use crate::repository::backup::BackupId;

/// What to do where several markers have the name that was asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeveralMarkers {
    #[default]
    Refuse,
    /// A person saw the list and wants the newest.
    TakeNewest,
}

/// A target, and how it is to be understood.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanRequest {
    pub target: RecoveryTarget,
    pub timeline: TargetTimeline,
    /// Stop before the target: a transaction itself, or those that ended at the very time.
    pub exclusive: bool,
    /// Begin with this backup instead of the newest that serves.
    pub backup: Option<BackupId>,
    pub several_markers: SeveralMarkers,
    /// Read and decode all the WAL that is to be replayed, whatever summaries say of it: damage is found beforehand.
    pub check_wal: bool,
}

impl PlanRequest {
    #[must_use]
    pub fn new(target: RecoveryTarget) -> Self {
        Self {
            target,
            timeline: TargetTimeline::Latest,
            exclusive: false,
            backup: None,
            several_markers: SeveralMarkers::Refuse,
            check_wal: false,
        }
    }
}
