//! The harness itself: an oracle or a fault that does not work would make every other test here worthless.

mod ledger;
mod postgres;
mod proxy;
