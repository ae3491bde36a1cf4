//! Where a recovery can end, and what it takes to get there. Pure: from a catalog and decoded WAL to a plan or a refusal.

mod aim;
mod conclude;
pub mod error;
pub mod plan;
pub mod request;
pub mod scan;
pub mod skip;
pub mod target;
pub mod target_parse;
pub mod time_parse;

pub use aim::Aim;
pub use conclude::{Attempt, Conclusion};
pub use error::{Nearest, PlanError, RefusalClass};
pub use plan::{FetchSize, PlanBasis, PlanWarning, ResolvedTarget, RestorePlan, Transaction, TransactionEnd, WalRun};
pub use request::{PlanRequest, SeveralMarkers};
pub use scan::{Goal, Progress, ScanFault, ScanStart, Unsettled, WalScan};
pub(crate) use skip::LastEnd;
pub use skip::{Leg, Route, SummaryDigest, legs};
pub use target::{MarkerRef, MarkerSide, RecoveryTarget, TargetTimeline};
pub use target_parse::{ParseTargetError, parse_moment, parse_xid};
pub use time_parse::{ParseTimeError, format_time, parse_time};
