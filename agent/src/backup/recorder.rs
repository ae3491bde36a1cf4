//! Records what a running backup has stored, so that another one can take it up.
//!
//! ```text
//! pieces whose packs are stored ─ the server is what it was, and has written WAL up to here ─ that is sealed ─ record
//! ```
//! So whatever a record names was read from a server whose past is in the repository: one that was put back to an older state,
//! and went on from there, cannot be taken for it. Records come at intervals that grow with the copy. Nothing of a backup
//! depends on them: one that cannot be put is the last.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use pitr::codec::Compressor;
use pitr::postgres::Lsn;
use pitr::repository::backup::ProgressHeader;
use pitr::repository::hash::ContentHash;
use pitr::repository::{LineageStore, envelope};
use pitr::storage::{Payload, PutMode};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::copy::{Batch, CopyError, Ledger};
use super::error::{BackupError, Result};
use super::session::BackupServers;
use crate::archiver::{ArchiveProgress, WaitError};
use crate::error_text::in_full;

/// How often it is looked whether a record is due.
const LOOK: Duration = Duration::from_millis(500);
const FIRST_INTERVAL: Duration = Duration::from_secs(2);
const LAST_INTERVAL: Duration = Duration::from_secs(60);
/// The interval is this part of the time that the copy has taken: so much is lost with it, about.
const PART: u32 = 50;
/// So many extents make a record due, however short the interval was.
const MANY: usize = 16 << 10;
/// How long WAL may take to be sealed unasked: where the server must switch for it, that is rare.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub struct Recorder {
    lineage: LineageStore,
    ledger: Arc<Ledger>,
    servers: BackupServers,
    archive: ArchiveProgress,
    compression_level: i32,
    /// The next record's; its number is how many there are.
    header: ProgressHeader,
    begun: Instant,
    last: Instant,
    /// A record on its way.
    put: Option<JoinHandle<Result<()>>>,
}

impl Recorder {
    /// `header` is that of the first record, as far as it does not depend on what it holds.
    #[must_use]
    pub fn new(
        lineage: LineageStore,
        ledger: Arc<Ledger>,
        servers: BackupServers,
        archive: ArchiveProgress,
        compression_level: i32,
        header: ProgressHeader,
    ) -> Self {
        let now = Instant::now();
        Self { lineage, ledger, servers, archive, compression_level, header, begun: now, last: now, put: None }
    }

    /// Records for as long as it is polled.
    pub async fn run(&mut self) -> Infallible {
        let Err(error) = self.record().await;
        warn!(
            error = in_full(&error),
            "what the backup stores from here on is not recorded, and lost if it is interrupted"
        );
        self.ledger.close();
        std::future::pending().await
    }

    async fn record(&mut self) -> Result<Infallible> {
        loop {
            self.put_through().await?;
            self.due().await;
            let taken = self.ledger.take();
            self.last = Instant::now();
            let Some(batch) = taken else { continue };
            // All of it was read before what is asked now.
            self.servers.confirm_source().await?;
            let written = self.servers.primary.flush_lsn().await?;
            self.sealed(written).await?;
            self.put(batch, written);
        }
    }

    async fn due(&self) {
        let interval = interval(self.begun.elapsed());
        loop {
            tokio::time::sleep(LOOK).await;
            if self.last.elapsed() >= interval || self.ledger.waiting() >= MANY {
                return;
            }
        }
    }

    /// Waits until everything before `lsn` is sealed on the backup's timeline.
    async fn sealed(&self, lsn: Lsn) -> Result<()> {
        let mut changes = self.archive.subscribe();
        let unasked = async {
            loop {
                let sealed = changes.borrow_and_update().sealed;
                match sealed {
                    Some(sealed) if sealed.lsn >= lsn => return Ok::<_, WaitError>(sealed),
                    _ => changes.changed().await.map_err(|_| WaitError::Stopping)?,
                }
            }
        };
        let sealed = match tokio::time::timeout(PATIENCE, unasked).await {
            Ok(sealed) => sealed.map_err(|_| BackupError::Cancelled)?,
            Err(_) => loop {
                match self.archive.wait_sealed(lsn, PATIENCE).await {
                    Ok(sealed) => break sealed,
                    Err(WaitError::TimedOut) => {}
                    Err(WaitError::Stopping) => return Err(BackupError::Cancelled),
                }
            },
        };
        if sealed.timeline == self.header.timeline {
            return Ok(());
        }
        Err(BackupError::NotTheServers(format!("its WAL is archived on timeline {}", sealed.timeline)))
    }

    fn put(&mut self, batch: Batch, written: Lsn) {
        let header = &mut self.header;
        (header.end_lsn, header.file_bytes) = (written, header.file_bytes + batch.file_bytes);
        debug!(number = header.number, bytes = header.file_bytes, "what is stored so far is recorded");
        let (lineage, level, wanted) = (self.lineage.clone(), self.compression_level, header.clone());
        header.number += 1;
        self.put = Some(tokio::spawn(async move {
            let key = lineage.layout().progress(&wanted.id, wanted.number);
            let made = tokio::task::spawn_blocking(move || object(&batch, wanted, level)).await;
            let object = made.map_err(|error| BackupError::Broken(error.to_string()))??;
            lineage.store().put(&key, object, PutMode::CreateNew).await.map_err(pitr::repository::Error::from)?;
            Ok(())
        }));
    }

    async fn put_through(&mut self) -> Result<()> {
        let Some(put) = &mut self.put else { return Ok(()) };
        let done = put.await.map_err(|error| BackupError::Broken(error.to_string()));
        self.put = None;
        done?
    }

    /// Nothing is recorded any more. Gives how many records there are.
    pub async fn finish(&mut self) -> u32 {
        self.ledger.close();
        if let Err(error) = self.put_through().await {
            debug!(error = in_full(&error), "the last record was not put");
        }
        self.header.number
    }

    /// What was recorded turned out to be wrong: it is taken back, and nothing more is recorded.
    ///
    /// # Errors
    /// The store fails; the backup must then end.
    pub async fn withdraw(&mut self) -> Result<()> {
        let records = self.finish().await;
        delete(&self.lineage, &self.header.id, records).await?;
        self.header.number = 0;
        Ok(())
    }
}

/// Deletes the records of a backup.
///
/// # Errors
/// The store fails.
pub async fn delete(
    lineage: &LineageStore,
    backup: &pitr::repository::backup::BackupId,
    records: u32,
) -> pitr::repository::Result<()> {
    let keys: Vec<_> = (0..records).map(|number| lineage.layout().progress(backup, number)).collect();
    for keys in keys.chunks(1000) {
        lineage.store().delete(keys).await?;
    }
    Ok(())
}

fn interval(elapsed: Duration) -> Duration {
    (elapsed / PART).clamp(FIRST_INTERVAL, LAST_INTERVAL)
}

/// A record as it is stored.
///
/// # Errors
/// zstd fails.
pub fn object(batch: &Batch, header: ProgressHeader, compression_level: i32) -> Result<Payload> {
    let mut lines = Vec::new();
    for line in &batch.lines {
        serde_json::to_writer(&mut lines, line).map_err(|error| BackupError::Broken(error.to_string()))?;
        lines.push(b'\n');
    }
    let header = ProgressHeader { bytes: lines.len() as u64, blake3: ContentHash::of(&lines), ..header };
    let content = Compressor::new(compression_level).and_then(|mut compressor| compressor.compress(&lines));
    let content = content.map_err(CopyError::from)?;
    Ok(Payload::Chunks(vec![envelope::header(&header).into(), content.into()]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_become_rarer_as_the_copy_goes_on() {
        let seconds = |elapsed| interval(Duration::from_secs(elapsed)).as_secs();
        assert_eq!([0, 100, 500, 3000, 100_000].map(seconds), [2, 2, 10, 60, 60]);
    }
}
