//! End-to-end tests on real PostgreSQL and S3 servers.

mod agent_killed;
mod archive_mode;
mod bad_input;
mod delta;
mod disk_full;
mod harness;
mod holes;
mod host_loss;
mod incremental_equality;
mod independent_reader;
mod markers;
mod restore_targets;
mod restored_cluster;
mod retention;
mod sharing;
mod signals;
mod standby_backups;
mod store_stuck;
mod summaries;
mod synchronous;
mod tablespaces;
mod timelines;
mod tls;
mod verify;
mod wal_feed;
mod wal_sizes;
