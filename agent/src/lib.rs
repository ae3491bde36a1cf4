//! The daemon beside a PostgreSQL server: streams its WAL to a repository, takes base backups, answers `pitr`.

pub mod allocator;
pub mod archiver;
pub mod args;
pub mod backup;
pub mod check;
pub mod daemon;
pub mod error_text;
pub mod exit;
pub mod expire;
pub mod http;
pub mod mark;
pub mod postgres;
pub mod schedule;
pub mod summaries;
pub mod supervisor;
pub mod wal_push;
