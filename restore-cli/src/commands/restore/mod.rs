//! `pitr restore`: plan, show, execute, certify.

mod access;
mod options;
mod planning;
mod run;
mod watch;

pub use planning::{plan_in, plan_request};
pub use run::run;
