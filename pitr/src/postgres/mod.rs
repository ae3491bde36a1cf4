//! Facts about PostgreSQL 13 to 18: names, sizes and layouts. Pure.

pub mod backup_label;
pub mod control_file;
pub mod data_directory;
mod fields;
pub mod heap_page;
pub mod history;
pub mod lsn;
pub mod page;
pub mod relation;
pub mod relation_file;
pub mod segment;
pub mod system_catalog;
pub mod tablespace_map;
pub mod time;
pub mod timeline;
pub mod transaction_id;
pub mod version;
pub mod wal;
pub mod wal_file_name;

pub use backup_label::BackupLabel;
pub use control_file::ControlFile;
pub use history::{TimelineHistory, TimelinePath};
pub use lsn::Lsn;
pub use relation::{Fork, Oid, RelationLocator};
pub use relation_file::RelationFileName;
pub use segment::{SegmentName, SegmentNumber, WalSegmentSize};
pub use tablespace_map::TablespaceMap;
pub use timeline::{SystemIdentifier, TimelineId};
pub use transaction_id::TransactionId;
pub use version::{MajorVersion, ServerVersion};
pub use wal_file_name::WalFileName;

/// Size of a page of a relation and of WAL; servers built with another size are refused.
pub const PAGE_SIZE: usize = 8192;
/// Pages in one file of a relation (`RELSEG_SIZE`): a file never exceeds 1 GiB.
pub const PAGES_PER_RELATION_SEGMENT: u32 = 131_072;
