//! A proxy between the product and its S3 server that does what networks and stores do on a bad day.

mod exchange;
mod fault;
mod http;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Result;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

pub use fault::{Fault, Rule};

use fault::Rules;

/// A listener on the loopback address that forwards HTTP requests to a server, with faults that can be switched while
/// it runs. Dropping it closes every connection.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    rules: Arc<Rules>,
    listener: JoinHandle<()>,
}

impl FaultProxy {
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr) -> Result<Self> {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = socket.local_addr()?;
        let rules = Arc::new(Rules::default());
        let shared = Arc::clone(&rules);
        let listener = tokio::spawn(async move {
            // The connections end with this task: dropping the set aborts them.
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                let rules = Arc::clone(&shared);
                connections.spawn(async move {
                    // The client sees a closed connection; that is all a proxy has to say.
                    let _ = exchange::serve(client, server, &rules).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, rules, listener })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What the client takes as its endpoint.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// One fault for every request from now on; [`Fault::None`] ends it.
    pub fn set(&self, fault: Fault) {
        self.rules.replace(vec![Rule::every(fault)]);
    }

    /// These rules from now on; the first that matches a request counts.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        self.rules.replace(rules);
    }

    /// Requests seen so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.rules.seen()
    }

    /// Requests that met a fault so far.
    #[must_use]
    pub fn faults(&self) -> u64 {
        self.rules.hit()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}
