//! The summary itself.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::blocks::ChangedBlocks;
use super::catalog::{CatalogChange, SequenceState};
use super::moment::Moment;
use super::rows::RowChanges;
use super::stored;
use super::times::{SegmentTimes, TransactionTimes, segments_per_row};
use super::transactions::Transactions;
use crate::postgres::relation::RelationLocator;
use crate::postgres::{Lsn, MajorVersion, TimelineId, WalSegmentSize};

/// Version of what a summary means. It changes whenever another decoder would find something else in the same WAL; then a
/// summary of another version counts as missing, and is built anew.
pub const DECODER_VERSION: u32 = 2;

/// What all records say that start at `from` or later and before `to`, on one timeline.
///
/// Normally the range is one segment. Where a timeline ends within a segment, `to` is the switch LSN, and `from` of the
/// next timeline's first summary is the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WalSummary {
    pub timeline: TimelineId,
    #[serde(with = "stored::lsn")]
    pub from: Lsn,
    #[serde(with = "stored::lsn")]
    pub to: Lsn,
    #[serde(with = "stored::major")]
    pub major: MajorVersion,
    pub segment_size: WalSegmentSize,
    pub times: TransactionTimes,
    /// By rising segment; those without an end of a transaction are left out.
    pub segments: Vec<SegmentTimes>,
    /// By rising LSN.
    pub moments: Vec<Moment>,
    pub blocks: ChangedBlocks,
    /// Changes of rows by what committed in the range, as far as they were made in it.
    pub rows: BTreeMap<RelationLocator, RowChanges>,
    pub transactions: Transactions,
    /// By rising LSN, whatever became of who made them.
    pub catalog: Vec<CatalogChange>,
    /// Sequences that were set or went on; no transaction takes that back.
    pub sequences: BTreeMap<RelationLocator, SequenceState>,
}

impl WalSummary {
    /// How many segments share one entry of `segments`.
    #[must_use]
    pub fn segments_per_row(&self) -> u64 {
        segments_per_row(self.from, self.to, self.segment_size)
    }
}
