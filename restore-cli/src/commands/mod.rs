//! One module a command. Each takes its validated order, asks the repository or the agent, and prints one document.

pub mod backup;
mod catalogs;
pub mod expire;
pub mod find;
pub mod finish;
pub mod impact;
pub mod info;
pub mod mark;
pub mod markers;
pub mod pin;
mod range;
pub mod report;
pub mod restore;
mod sealing;
pub mod status;
pub mod verify;
pub mod wal_fetch;
mod who;
