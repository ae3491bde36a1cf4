//! `pitr-agent check`: every precondition, each finding with what it means and how to mend it.

mod archiving;
mod report;
mod steps;

pub use report::{CheckFinding, CheckReport, Level};
pub use steps::check;
