//! From the server's replication stream to sealed WAL in the repository.

mod acknowledgement;
mod archive_mode;
mod assembler;
mod backoff;
mod begin;
pub mod error;
pub mod findings;
pub mod gaps;
mod lead_in;
pub mod lease;
mod losses;
mod open_segment;
mod problems;
pub mod progress;
mod receiver;
mod record_scan;
mod resume;
mod seam;
pub mod service;
mod session;
mod stored_segments;
mod stretch;
mod uploader;
pub mod valve;
mod whose;

pub(crate) use backoff::Backoff;
pub use error::ArchiverError;
pub use findings::{Finding, Findings};
pub use gaps::GapBook;
pub use lease::Identity;
pub(crate) use lease::living_holder;
pub(crate) use problems::{Place, Problems};
pub use progress::{ArchiveProgress, Landmark, LandmarkKind, Progress, WaitError};
pub use service::{Archiver, ArchiverOptions};
pub use valve::{SlotGuard, Valve};
