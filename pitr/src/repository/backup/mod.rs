//! Backups as they stand in the repository: manifest, contents, file maps, packs.

pub mod contents;
pub mod file_map;
pub mod id;
pub mod manifest;
pub mod pack;
pub mod path;

pub use contents::{ContentsHeader, ContentsLine, ExternalRole};
pub use file_map::{Extent, FileEntry, FileMapHeader};
pub use id::{BackupId, PackId};
pub use manifest::{
    BackupManifest, BackupSource, BackupTablespace, CopyMethod, CorruptPage, Intent, MinimumSettings, Owner, Sharing,
};
pub use path::StoredPath;
