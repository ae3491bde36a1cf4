//! `pitr restore`: plan, show, execute, certify.

mod access;
mod options;
mod planning;
mod run;
mod watch;

pub use run::run;
