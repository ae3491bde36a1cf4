//! Markers: restore points in the server's WAL, recorded in the repository.
//!
//! A marker goes through three states: its restore point is in the WAL, the decoder has passed the record (so its start
//! LSN is known and the marker's object can be written), and everything up to it is sealed. Whoever asked may give up
//! waiting at any of them; the marker goes on by itself.

mod claims;
mod request;
mod restore_points;
mod service;
#[cfg(test)]
mod tests;

pub use claims::{Claim, Claims};
pub use request::{FinishOrder, MarkError, MarkOrder, NameError, check_name};
pub use restore_points::ServerRestorePoints;
pub use service::{MarkService, Marks, RestorePoints};
