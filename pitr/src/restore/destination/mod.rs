//! Where a restore goes: everything that is checked before the first byte is written.
//!
//! A restore writes into directories that are absent or empty and belong to no server. The checks only read, so a dry run
//! makes them too; what was unfinished from an earlier restore of ours is recognised by its stamp and by the absence of
//! `global/pg_control`, without which no server can have started in it.
//!
//! A restore that reuses what is there (`--delta`) also takes the data directory of the same cluster, without a server.

mod check;
mod error;
mod old_cluster;
mod owner;
mod prepare;
mod running_server;
mod space;
mod tablespaces;
mod take_over;

pub use check::{Destination, DestinationState, Reuse, check_companion};
pub use error::{Error, Result};
pub use old_cluster::{ClusterIdentity, OldCluster};
pub use owner::{Account, Accounts, OwnerRequest, Ownership, SystemAccounts};
pub use prepare::PreparedDestination;
pub use running_server::{RunningServer, running_servers};
pub use space::{SpaceNeed, check_space};
pub use tablespaces::{TablespaceMapping, TablespacePair, TablespaceTarget};
