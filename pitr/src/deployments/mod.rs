//! Deployments as markers record them, and the four figures that are kept of them: how often, how soon after the change was
//! made, how many failed, and how long until it was well again.
//!
//! A marker is a deployment once it is finished, or undone by a restore to just before it. What failed is over with the first
//! of two things: a restore to before it that reached its target, or the next deployment that ended well.

mod deployment;
mod figures;

pub use deployment::{COMMIT_TIME, Deployment, RecoveredBy, Recovery, Result, Unread, deployments};
pub use figures::{Figures, Spread, figures};
