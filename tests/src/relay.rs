//! A way to a server that takes as long as one to another region: bytes are delivered late, each by the same time.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Chunks of at most 64 KiB on their way in one direction of one connection.
const ON_THE_WAY: usize = 1024;

/// Listens on the loopback address and passes bytes on, whatever they are. Dropping it closes every connection.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    listener: JoinHandle<()>,
}

impl Relay {
    /// A round trip takes this much longer.
    ///
    /// # Errors
    /// No port is free.
    pub async fn start(server: SocketAddr, round_trip: Duration) -> Result<Self> {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = socket.local_addr()?;
        let listener = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = socket.accept().await {
                // A connection that breaks is closed on both sides; there is nobody to tell.
                connections.spawn(async move { drop(serve(client, server, round_trip).await) });
                while connections.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, listener })
    }

    #[must_use]
    pub const fn port(&self) -> u16 {
        self.address.port()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

async fn serve(client: TcpStream, server: SocketAddr, round_trip: Duration) -> std::io::Result<()> {
    // A handshake is a round trip, too.
    tokio::time::sleep(round_trip).await;
    let server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
    let half = round_trip / 2;
    tokio::try_join!(pass_on(from_client, to_server, half), pass_on(from_server, to_client, half)).map(drop)
}

async fn pass_on(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    late: Duration,
) -> std::io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THE_WAY);
    let reading = async move {
        loop {
            let mut chunk = vec![0; 64 << 10];
            let length = from.read(&mut chunk).await?;
            chunk.truncate(length);
            if length == 0 || sender.send((Instant::now() + late, chunk)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writing = async move {
        while let Some((at, chunk)) = receiver.recv().await {
            sleep_until(at).await;
            to.write_all(&chunk).await?;
        }
        to.shutdown().await
    };
    tokio::try_join!(reading, writing).map(drop)
}
