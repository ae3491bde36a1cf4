//! `pitr verify`.

use std::num::NonZeroUsize;

use chrono::{DateTime, Utc};
use clap::Args;
use pitr::config::ByteSize;
use pitr::recovery::parse_time;
use pitr::repository::backup::BackupId;

use super::UsageError;

/// Read the repository and prove it
#[derive(Debug, Args)]
#[command(after_help = "\
Without options it reads every document and file map, looks for every pack that a backup names,
and proves that WAL is without an unexplained hole. --full reads every byte: frames, blocks, page
checksums, WAL records, and what WAL summaries and markers say of them. --sample does so for as
many packs and WAL segments as fit into SIZE, other ones each time. Needs the repository only,
writes nothing (but for --repair-summaries), and may run while an agent works.

Prints what is damaged, which backups and moments that takes away, and what can be restored.
What no backup names is told as garbage, and is no damage; nor is a WAL summary that is missing.
Exit code 5: something is damaged. 4: the repository did not answer, and nothing is known.

Examples:
  pitr verify
  pitr verify --full --jobs 4
  pitr verify --sample 50GiB
  pitr verify --full --backup 20261122T063100Z
  pitr verify --full --since \"7 days ago\" --json | jq '.lineages[].lost'
  pitr verify --repair-summaries")]
pub struct VerifyArgs {
    /// Read every byte
    #[arg(long, conflicts_with_all = ["sample", "repair_summaries"])]
    pub full: bool,
    /// Read so many bytes, chosen at random
    #[arg(long, value_name = "SIZE", conflicts_with = "repair_summaries")]
    pub sample: Option<String>,
    /// Choose what an earlier --sample chose
    #[arg(long, value_name = "N", requires = "sample")]
    pub seed: Option<u64>,
    /// This backup and the WAL that it needs
    #[arg(long, value_name = "ID", conflicts_with = "repair_summaries")]
    pub backup: Option<String>,
    /// Backups that ended since, and WAL from the first of them on
    #[arg(long, value_name = "TIME", conflicts_with_all = ["backup", "repair_summaries"])]
    pub since: Option<String>,
    /// Build WAL summaries that are missing, unreadable or outdated, and look at nothing else
    #[arg(long)]
    pub repair_summaries: bool,
    /// Objects that are read at once
    #[arg(long, value_name = "N", default_value = "2")]
    pub jobs: NonZeroUsize,
}

/// How much is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyDepth {
    Fast,
    Full,
    Sample { bytes: u64, seed: Option<u64> },
    RepairSummaries,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifyOrder {
    pub depth: VerifyDepth,
    pub jobs: usize,
    pub backup: Option<BackupId>,
    pub since: Option<DateTime<Utc>>,
}

impl VerifyArgs {
    /// # Errors
    /// A value that cannot be what it should.
    pub fn validate(self, now: DateTime<Utc>) -> Result<VerifyOrder, UsageError> {
        let sample = self.sample.map(|text| text.parse::<ByteSize>()).transpose();
        let sample = sample.map_err(|error| UsageError::new(error.to_string()))?;
        let depth = match sample {
            _ if self.repair_summaries => VerifyDepth::RepairSummaries,
            Some(size) => VerifyDepth::Sample { bytes: size.as_u64(), seed: self.seed },
            None if self.full => VerifyDepth::Full,
            None => VerifyDepth::Fast,
        };
        let backup = self.backup.map(|text| text.parse::<BackupId>()).transpose();
        let since = self.since.map(|text| parse_time(&text, now)).transpose();
        Ok(VerifyOrder {
            depth,
            jobs: self.jobs.get().min(64),
            backup: backup.map_err(|error| UsageError::new(error.to_string()).with_hint("\"pitr info\" lists them"))?,
            since: since.map_err(|error| UsageError::new(error.to_string()).with_hint(error.hint()))?,
        })
    }
}
