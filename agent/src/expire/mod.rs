//! Retention: applied after each backup, by a schedule of its own, and when asked.

mod service;
mod sweep_gate;

pub use service::{ExpireDesk, ExpireService, ExpireSettings};
pub use sweep_gate::SweepGate;
