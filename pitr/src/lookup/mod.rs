//! What WAL summaries and backups tell without a plan: when the last transaction of a window ended, when the schema was
//! changed, which blocks WAL changed, and where the blocks of a backup are, complete or interrupted.
//!
//! Only what no summary speaks of yet, as the open segment, is read and decoded. The number of requests does not grow with
//! the length of the archive.

mod backup_files;
mod changed_blocks;
mod interrupted_backup;
mod last_end;
mod path_summaries;
mod schema_changes;
#[cfg(test)]
mod tests;

pub use backup_files::{BackupFiles, ListedMap, MapFiles, PackBlocks, read_frame};
pub use changed_blocks::{WalChanges, changed_blocks};
pub use interrupted_backup::{InterruptedBackup, InterruptedFiles, ListedRecord, Piece, Record, interrupted_backups};
pub use last_end::{WindowEnd, window_ends};
pub(crate) use path_summaries::{PathSummaries, Witness};
pub use schema_changes::{SchemaMoment, SchemaMoments, schema_changes};
