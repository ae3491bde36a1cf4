//! What a caller asks of a restore beyond the plan.

use std::path::PathBuf;

use super::destination::{OwnerRequest, TablespaceMapping};
use super::files::TransferOptions;
use super::settings::{RestoreCommand, TargetAction};
use super::stamp::RestoreId;
use super::tablespace_guard::TablespacePolicy;

/// How a plan is carried out.
#[derive(Clone, Debug)]
pub struct RestoreOptions {
    pub restore: RestoreId,
    /// The data directory to be.
    pub directory: PathBuf,
    pub tablespaces: TablespaceMapping,
    /// Whether the directory may hold the same cluster, whose files are compared by content and kept where they are equal.
    pub delta: bool,
    pub owner: Option<OwnerRequest>,
    pub action: TargetAction,
    pub restore_command: RestoreCommand,
    /// Written before the command can be used, with mode 0600 and the owner of the restored files.
    pub companion: Option<CompanionFile>,
    pub transfer: TransferOptions,
    pub tablespaces_in_wal: TablespacePolicy,
}

/// A file beside the data directory that the `restore_command` reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompanionFile {
    pub path: PathBuf,
    pub content: Vec<u8>,
}
