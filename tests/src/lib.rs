//! The harness of the end-to-end tests: real PostgreSQL and S3 servers, the product's own binaries, faults in between,
//! and an oracle that knows which commits a restored database must hold.
//!
//! Everything that is started here ends with the value that stands for it, also when a test panics: each process is
//! killed by its pid and waited for, each directory removed, each mount undone. PostgreSQL refuses to run as root, so
//! under root all servers, the agent and the command run as an unprivileged account ([`account`]). A test that can't
//! run says so and passes, unless `REQUIRE_E2E=1` is set, which makes it fail.

pub mod account;
pub mod agent;
pub mod certificates;
pub mod cli;
pub mod disk;
pub mod executables;
pub mod ledger;
pub mod moment;
pub mod pages;
pub mod ports;
pub mod postgres;
pub mod process;
pub mod proxy;
pub mod relay;
pub mod s3;
pub mod scene;
pub mod scratch;
pub mod seed;
pub mod skip;
pub mod wait;
pub mod wal_oracle;
pub mod workload;
pub mod yardstick;

pub use account::Account;
pub use agent::{Agent, AgentOptions};
pub use cli::{Cli, Run};
pub use disk::Disk;
pub use ledger::Ledger;
pub use moment::{Expected, Moment};
pub use postgres::{Postgres, PostgresOptions, StopMode};
pub use process::Process;
pub use proxy::{Fault, FaultProxy};
pub use s3::S3Server;
pub use scene::{Scene, Store};
pub use scratch::Scratch;
