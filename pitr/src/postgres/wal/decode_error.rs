//! How decoding ends: where the WAL does, or at damage.

use super::page::PageFault;
use super::record::ResourceManager;
use crate::postgres::Lsn;

/// Why there is no next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}at {lsn}: {kind}", if kind.is_end_of_wal() { "end of WAL " } else { "invalid WAL " })]
pub struct DecodeError {
    pub lsn: Lsn,
    pub kind: DecodeErrorKind,
}

impl DecodeError {
    /// The server wrote no further than this; nothing says that anything is damaged.
    #[must_use]
    pub const fn is_end_of_wal(&self) -> bool {
        self.kind.is_end_of_wal()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeErrorKind {
    #[error(transparent)]
    EndOfWal(#[from] EndOfWal),
    #[error("no record can begin here")]
    Start,
    #[error(transparent)]
    Page(#[from] PageFault),
    #[error("record length {found} is impossible")]
    RecordLength { found: u32 },
    #[error("resource manager {} does not exist", found.as_u8())]
    ResourceManager { found: ResourceManager },
    #[error("the record before is said to begin at {found}, expected {expected}")]
    Previous { found: Lsn, expected: Lsn },
    #[error("the record before is said to begin at {found}, which is not before")]
    PreviousNotBefore { found: Lsn },
    #[error("record checksum {computed:08X} does not match {stored:08X}")]
    Checksum { stored: u32, computed: u32 },
    #[error("the page does not continue the record before it: {found} bytes are said to remain, expected {expected}")]
    Continuation { found: u32, expected: usize },
    #[error("the page continues a record, and none is open")]
    UnexpectedContinuation,
    #[error("the record does not say that it replaces that of {overwritten}")]
    Overwrite { overwritten: Lsn },
    #[error("there is data after a switch of the segment")]
    DataAfterSwitch,
}

impl DecodeErrorKind {
    const fn is_end_of_wal(&self) -> bool {
        matches!(self, Self::EndOfWal(_))
    }
}

/// The zeros that end the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndOfWal {
    #[error("the length of the next record is zero")]
    ZeroLength,
    #[error("the header of the next page is zero")]
    ZeroPage,
}
