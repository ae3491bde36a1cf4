//! Write-ahead log as bytes: pages, records, transactions. Sans-I/O, for untrusted input.
//!
//! [`SegmentValidator`] accepts whole segments by their page headers; [`WalDecoder`] turns contiguous bytes into
//! [`Record`]s, and [`Record::meaning`] says what those are that matter to recovery; [`Record::heap_change`] says what they do
//! to rows.

pub mod body;
pub mod decode_error;
pub mod decoder;
pub mod heap;
pub mod heap_row;
pub mod invalidations;
pub mod meaning;
pub mod page;
pub mod page_image;
pub mod prepare;
pub mod record;
pub mod segment_validator;
pub mod storage;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod xact;

pub use body::{BlockReference, BlockTag, RecordBody};
pub use decode_error::{DecodeError, DecodeErrorKind, EndOfWal};
pub use decoder::{RecordBounds, WalDecoder};
pub use heap::HeapChange;
pub use meaning::{Checkpoint, EndOfRecovery, RecordMeaning, RestorePoint};
pub use page::{PageFault, PageHeader};
pub use record::{Record, RecordError, RecordHeader, ResourceManager};
pub use segment_validator::{SegmentError, SegmentErrorKind, SegmentFacts, SegmentValidator};
pub use xact::{Outcome, TransactionEnd};
