//! `global/pg_control` (`src/include/catalog/pg_control.h`).
//!
//! The server writes it in place, and a reader can catch it half written: the checksum tells, and the reader tries again.

use super::fields::Fields;
use super::{Lsn, MajorVersion, PAGE_SIZE, SystemIdentifier, TimelineId, WalSegmentSize};

/// Bytes in the file (`PG_CONTROL_FILE_SIZE`); most of them are zero.
pub const CONTROL_FILE_SIZE: usize = 8192;

const VERSION_OFFSET: usize = 8;
const CHECKPOINT_OFFSET: usize = 32;
/// Where recovery cannot start from. It stands in no WAL: the first page of a cluster is in segment 1.
const INVALID_CHECKPOINT: u64 = 0xDEAD;

/// What the server was doing (`DBState`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterState {
    StartingUp,
    ShutDown,
    ShutDownInRecovery,
    ShuttingDown,
    InCrashRecovery,
    InArchiveRecovery,
    InProduction,
}

impl ClusterState {
    const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::StartingUp,
            1 => Self::ShutDown,
            2 => Self::ShutDownInRecovery,
            3 => Self::ShuttingDown,
            4 => Self::InCrashRecovery,
            5 => Self::InArchiveRecovery,
            6 => Self::InProduction,
            _ => return None,
        })
    }
}

/// `wal_level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalLevel {
    Minimal,
    Replica,
    Logical,
}

impl WalLevel {
    const fn from_number(number: i32) -> Option<Self> {
        Some(match number {
            0 => Self::Minimal,
            1 => Self::Replica,
            2 => Self::Logical,
            _ => return None,
        })
    }
}

/// Settings that a server which replays this cluster's WAL must not have lower.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HotStandbyMinimums {
    pub max_connections: i32,
    pub max_worker_processes: i32,
    pub max_wal_senders: i32,
    pub max_prepared_transactions: i32,
    pub max_locks_per_transaction: i32,
}

/// What `pg_control` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    pub system_identifier: SystemIdentifier,
    pub major: MajorVersion,
    /// `pg_control_version`: the layout of this file.
    pub control_version: u32,
    pub catalog_version: u32,
    pub state: ClusterState,
    /// The latest checkpoint record, and what it says.
    pub checkpoint_lsn: Lsn,
    pub redo_lsn: Lsn,
    pub tli: TimelineId,
    pub previous_tli: TimelineId,
    pub full_page_writes: bool,
    /// How far replay must go before the files are consistent; invalid on a primary.
    pub min_recovery_lsn: Lsn,
    pub min_recovery_tli: Option<TimelineId>,
    pub wal_level: WalLevel,
    pub wal_log_hints: bool,
    pub hot_standby_minimums: HotStandbyMinimums,
    pub wal_segment_size: WalSegmentSize,
    pub data_checksums: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    #[error("pg_control has only {found} bytes")]
    TooShort { found: usize },
    #[error("pg_control has version {found}, which no supported version of PostgreSQL writes")]
    Version { found: u32 },
    /// Damaged, or caught while the server was writing it: read it again.
    #[error("pg_control has checksum {stored:08X}, computed {computed:08X}")]
    Checksum { stored: u32, computed: u32 },
    #[error("pg_control has catalog version {found}, which is not that of a release from 13 to 18")]
    CatalogVersion { found: u32 },
    #[error("pg_control has {field} {found}, which is out of range")]
    Field { field: &'static str, found: u64 },
}

impl ControlFileError {
    /// The server may have been writing the file just then.
    #[must_use]
    pub const fn may_be_torn(&self) -> bool {
        matches!(self, Self::Checksum { .. } | Self::TooShort { .. })
    }
}

impl ControlFile {
    /// # Errors
    /// Not a control file of a supported version, or its checksum is wrong.
    pub fn parse(bytes: &[u8]) -> Result<Self, ControlFileError> {
        let crc_offset = verify(bytes)?;
        let read = Fixed(bytes.get(..crc_offset).unwrap_or_default());
        let catalog_version = read.u32(12)?;
        let major =
            major_of_catalog(catalog_version).ok_or(ControlFileError::CatalogVersion { found: catalog_version })?;
        for (field, offset) in [("block size", 216), ("WAL block size", 224)] {
            let found = read.u32(offset)?;
            if usize::try_from(found) != Ok(PAGE_SIZE) {
                return Err(out_of_range(field, found));
            }
        }
        let (state, wal_level, segment_size) = (read.u32(16)?, read.i32(172)?, read.u32(228)?);
        Ok(Self {
            system_identifier: SystemIdentifier::new(read.u64(0)?),
            major,
            control_version: read.u32(VERSION_OFFSET)?,
            catalog_version,
            state: ClusterState::from_number(state).ok_or_else(|| out_of_range("state", state))?,
            checkpoint_lsn: Lsn::new(read.u64(CHECKPOINT_OFFSET)?),
            redo_lsn: Lsn::new(read.u64(40)?),
            tli: read.timeline("timeline", 48)?,
            previous_tli: read.timeline("previous timeline", 52)?,
            full_page_writes: read.bool(56)?,
            min_recovery_lsn: Lsn::new(read.u64(136)?),
            min_recovery_tli: TimelineId::new(read.u32(144)?),
            wal_level: WalLevel::from_number(wal_level)
                .ok_or_else(|| out_of_range("wal_level", wal_level.cast_unsigned()))?,
            wal_log_hints: read.bool(176)?,
            hot_standby_minimums: HotStandbyMinimums {
                max_connections: read.i32(180)?,
                max_worker_processes: read.i32(184)?,
                max_wal_senders: read.i32(188)?,
                max_prepared_transactions: read.i32(192)?,
                max_locks_per_transaction: read.i32(196)?,
            },
            wal_segment_size: WalSegmentSize::new(segment_size)
                .map_err(|_| out_of_range("WAL segment size", segment_size))?,
            data_checksums: data_checksums(read.u32(252)?)?,
        })
    }

    /// The directory that a tablespace holds for servers of this version (`TABLESPACE_VERSION_DIRECTORY`).
    #[must_use]
    pub fn tablespace_version_directory(&self) -> String {
        format!("PG_{}_{}", self.major, self.catalog_version)
    }
}

/// Points the checkpoint to where there is none, and makes the checksum right again.
///
/// A restored cluster recovers by its `backup_label`. Were that file removed, the server would start from the checkpoint
/// named here instead, which is a wrong one, and corrupt itself; so it gets one that cannot be found.
///
/// # Errors
/// `bytes` are not a sound control file.
pub fn invalidate_checkpoint(bytes: &[u8]) -> Result<Vec<u8>, ControlFileError> {
    let crc_offset = verify(bytes)?;
    let mut changed = bytes.to_vec();
    put(&mut changed, CHECKPOINT_OFFSET, &INVALID_CHECKPOINT.to_le_bytes());
    let crc = crc32c::crc32c(changed.get(..crc_offset).unwrap_or_default());
    put(&mut changed, crc_offset, &crc.to_le_bytes());
    Ok(changed)
}

fn put(bytes: &mut [u8], offset: usize, value: &[u8]) {
    bytes.iter_mut().skip(offset).zip(value).for_each(|(target, byte)| *target = *byte);
}

/// Checks version and checksum, and says where the checksum is.
fn verify(bytes: &[u8]) -> Result<usize, ControlFileError> {
    let read = Fixed(bytes);
    let crc_offset = match read.u32(VERSION_OFFSET)? {
        1300 | 1700 => 288,
        // A byte for the signedness of char came in before.
        1800 => 292,
        found => return Err(ControlFileError::Version { found }),
    };
    let stored = read.u32(crc_offset)?;
    let computed = crc32c::crc32c(bytes.get(..crc_offset).unwrap_or_default());
    if stored == computed { Ok(crc_offset) } else { Err(ControlFileError::Checksum { stored, computed }) }
}

/// `CATALOG_VERSION_NO` of each release: the version of this file did not change from 13 to 16.
const fn major_of_catalog(catalog_version: u32) -> Option<MajorVersion> {
    Some(match catalog_version {
        202_007_201 => MajorVersion::V13,
        202_107_181 => MajorVersion::V14,
        202_209_061 => MajorVersion::V15,
        202_307_071 => MajorVersion::V16,
        202_406_281 => MajorVersion::V17,
        202_506_291 => MajorVersion::V18,
        _ => return None,
    })
}

fn data_checksums(version: u32) -> Result<bool, ControlFileError> {
    match version {
        0 => Ok(false),
        1 => Ok(true),
        found => Err(out_of_range("data checksum version", found)),
    }
}

fn out_of_range(field: &'static str, found: u32) -> ControlFileError {
    ControlFileError::Field { field, found: u64::from(found) }
}

/// Fields at fixed offsets.
struct Fixed<'a>(&'a [u8]);

impl<'a> Fixed<'a> {
    fn field<T>(&self, offset: usize, read: impl FnOnce(&mut Fields<'a>) -> Option<T>) -> Result<T, ControlFileError> {
        let mut fields = Fields::at(self.0, offset);
        fields.as_mut().and_then(read).ok_or(ControlFileError::TooShort { found: self.0.len() })
    }

    fn u64(&self, offset: usize) -> Result<u64, ControlFileError> {
        self.field(offset, Fields::u64)
    }

    fn u32(&self, offset: usize) -> Result<u32, ControlFileError> {
        self.field(offset, Fields::u32)
    }

    fn i32(&self, offset: usize) -> Result<i32, ControlFileError> {
        self.field(offset, Fields::i32)
    }

    fn bool(&self, offset: usize) -> Result<bool, ControlFileError> {
        self.field(offset, Fields::u8).map(|byte| byte != 0)
    }

    fn timeline(&self, field: &'static str, offset: usize) -> Result<TimelineId, ControlFileError> {
        TimelineId::new(self.u32(offset)?).ok_or_else(|| out_of_range(field, 0))
    }
}

#[cfg(test)]
mod tests;
