//! WAL on its way to the repository and back, compared with pgBackRest on the same segments.

mod archiving;
mod fetching;
mod figures;
mod handing_over;
mod losing;
mod mover;
mod pgbackrest;
mod replaying;
mod source;
mod status;

use std::time::Duration;

use anyhow::Result;
use pitr::postgres::Lsn;
use pitr_tests::relay::Relay;
use pitr_tests::{Agent, S3Server, Scratch};

use crate::settings::Settings;
pub use figures::Figures;
use source::WalSource;

/// A round trip to a store in another region.
const DISTANT: Duration = Duration::from_millis(30);

/// Where the repository of a measurement is.
pub struct Where<'a> {
    pub name: &'static str,
    pub server: Option<&'a S3Server>,
    /// The way to the server, where it is not the short one.
    pub relay: Option<&'a Relay>,
}

impl Where<'_> {
    /// Scheme, host and port.
    pub fn endpoint(&self) -> Option<String> {
        let direct = self.server?.endpoint();
        Some(match (self.relay, direct.rsplit_once(':')) {
            (Some(relay), Some((host, _))) => format!("{host}:{}", relay.port()),
            _ => direct,
        })
    }
}

/// Until the agent has sealed everything before `end`.
pub async fn wait_sealed(agent: &Agent, end: Lsn, limit: Duration) -> Result<()> {
    status::wait_sealed(&status::socket(agent), end, limit).await
}

pub async fn run(settings: &Settings, scratch: &Scratch, figures: &mut Figures) -> Result<()> {
    if settings.has("archive") || settings.has("feed") {
        let server = S3Server::start_tls().await?;
        let relay = Relay::start(server.tls_address()?, DISTANT).await?;
        let mut places = vec![Where { name: "local", server: None, relay: None }];
        if settings.stores.iter().any(|store| store == "s3") {
            places.push(Where { name: "s3", server: Some(&server), relay: None });
            places.push(Where { name: "s3+30ms", server: Some(&server), relay: Some(&relay) });
        }
        let mut source = WalSource::prepare(settings, scratch, &places).await?;
        archiving::measure(settings, &mut source, &places, figures).await?;
        handing_over::measure(settings, &source, &places, figures).await?;
        if settings.has("feed") {
            fetching::measure(settings, &source, &places, figures)?;
            replaying::measure(settings, &source, &places, figures).await?;
        }
    }
    if settings.has("loss") {
        losing::measure(settings, figures).await?;
    }
    Ok(())
}
