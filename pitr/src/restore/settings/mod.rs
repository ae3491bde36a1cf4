//! The configuration of a restored server: what makes it recover to the target, and what must not carry over from its origin.
//!
//! A data directory brings the settings of the server it was copied from. Some would end the recovery elsewhere, some would
//! let the copy archive into its origin's repository, wait for the origin's standbys, or open the origin's own files. All of
//! these are answered in `postgresql.auto.conf`, which the server reads last, but for `data_directory` and its kind, which
//! must not stand in any file of the copy.

mod auto_conf;
mod conf_file;
mod external;
mod parameters;
mod paths;
mod restore_command;
mod view;
mod writer;

pub(super) use auto_conf::RecoverySettings;
pub use auto_conf::TargetAction;
pub use restore_command::RestoreCommand;
pub(super) use view::ConfigView;
pub(super) use writer::ConfigurationWriter;
