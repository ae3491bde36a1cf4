//! `PREPARE TRANSACTION` (`xl_xact_prepare`): what the second phase will need stands in this record.

use chrono::{DateTime, Utc};

use super::invalidations::INVALIDATION_SIZE;
use super::record::RecordFault;
use super::xact::{RELATION_SIZE, RelationLocators, TransactionIds, XID_SIZE, dropped_stats_size, time};
use crate::postgres::fields::Fields;
use crate::postgres::relation::Oid;
use crate::postgres::{MajorVersion, TransactionId};

/// `PREPARE TRANSACTION`: the transaction will end in a later record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreparedTransaction<'a> {
    pub xid: TransactionId,
    pub database: Oid,
    pub time: DateTime<Utc>,
    pub gid: &'a [u8],
    pub subtransactions: TransactionIds<'a>,
    /// Relations whose files go away with the commit.
    pub dropped_on_commit: RelationLocators<'a>,
    /// Relations whose files go away if it is rolled back.
    pub dropped_on_abort: RelationLocators<'a>,
}

/// A header that counts what follows; then the name and the parts, each padded to a multiple of eight
/// (`save_state_data`). The records of resource managers behind them are not looked at.
pub(super) fn prepare(data: &[u8], major: MajorVersion) -> Result<PreparedTransaction<'_>, RecordFault> {
    Fields::new(data).prepare(major).ok_or(RecordFault::MainDataTooShort)?
}

impl<'a> Fields<'a> {
    fn prepare(mut self, major: MajorVersion) -> Option<Result<PreparedTransaction<'a>, RecordFault>> {
        let has_stats = major >= MajorVersion::V15;
        let _magic = self.u32()?;
        let _total_length = self.u32()?;
        let xid = TransactionId::new(self.u32()?);
        let database = self.u32()?;
        let microseconds = self.i64()?;
        let _owner = self.u32()?;
        let (subtransactions, on_commit, on_abort) = (self.u32()?, self.u32()?, self.u32()?);
        let (stats_on_commit, stats_on_abort) = if has_stats { (self.u32()?, self.u32()?) } else { (0, 0) };
        let invalidations = self.u32()?;
        let _init_file_invalidation = self.u16()?;
        let gid_length = self.u16()?;
        let _origin_lsn = self.lsn()?;
        let _origin_time = self.i64()?;

        // The length counts the NUL at the end.
        let gid = Fields::new(self.part(gid_length.into(), 1)?).c_string()?;
        let subtransactions = TransactionIds(self.part(subtransactions, XID_SIZE)?);
        let dropped_on_commit = RelationLocators(self.part(on_commit, RELATION_SIZE)?);
        let dropped_on_abort = RelationLocators(self.part(on_abort, RELATION_SIZE)?);
        self.part(stats_on_commit, dropped_stats_size(major))?;
        self.part(stats_on_abort, dropped_stats_size(major))?;
        self.part(invalidations, INVALIDATION_SIZE)?;
        Some(time(microseconds).map(|time| PreparedTransaction {
            xid,
            database,
            time,
            gid,
            subtransactions,
            dropped_on_commit,
            dropped_on_abort,
        }))
    }

    /// `count` items of `size` bytes, and the padding behind them.
    fn part(&mut self, count: u32, size: usize) -> Option<&'a [u8]> {
        let length = usize::try_from(count).ok()?.checked_mul(size)?;
        let part = self.bytes(length)?;
        self.bytes(length.checked_next_multiple_of(8)? - length)?;
        Some(part)
    }
}
