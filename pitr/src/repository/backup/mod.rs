//! Backups as they stand in the repository: manifest, contents, file maps, packs, and what an interrupted one leaves.

pub mod contents;
pub mod file_map;
pub mod id;
pub mod manifest;
pub mod pack;
pub mod path;
pub mod progress;

pub use contents::{ContentsHeader, ContentsLine, ExternalRole};
pub use file_map::{Extent, FileEntry, FileMapHeader};
pub use id::{BackupId, PackId};
pub use manifest::{
    BackupManifest, BackupSource, BackupTablespace, CopyMethod, CorruptPage, Intent, MinimumSettings, Owner, Resumed,
    Sharing,
};
pub use path::StoredPath;
pub use progress::{ProgressHeader, ProgressLine};
