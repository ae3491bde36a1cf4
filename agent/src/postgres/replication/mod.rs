//! PostgreSQL's physical replication protocol, from the side of a standby.
//!
//! tokio-postgres has no replication mode, so messages are framed here; authentication and parsing stand on
//! postgres-protocol, which knows all messages but `CopyBothResponse`. Commands go by the simple query protocol only.
//!
//! [`ReplicationConnection`] speaks commands; [`ReplicationConnection::start`] turns it into a [`WalStream`], and the end
//! of a timeline turns that back into a connection.

mod command;
mod framing;
mod startup;
mod stream;

pub use command::{ReplicationConnection, SlotState, Started, SystemFacts};
pub use stream::{StandbyStatus, StreamMessage, SwitchPoint, WalStream};

use super::conninfo::ConnInfo;
use super::error::Result;
use super::transport::{self, Purpose};

/// Connects and logs in for physical replication.
///
/// # Errors
/// No server of `conninfo` lets us in.
pub async fn connect(conninfo: &ConnInfo) -> Result<ReplicationConnection> {
    let application_name = conninfo.application_name.as_deref().unwrap_or("pitr-agent");
    let wire = transport::connect(conninfo, Purpose::Replication, |transport, login| {
        startup::log_in(transport, login, application_name)
    })
    .await?;
    Ok(ReplicationConnection::new(wire))
}
