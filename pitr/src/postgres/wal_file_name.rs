//! Names of the files that a server hands to `archive_command` (`xlog_internal.h`).

use std::fmt;
use std::str::FromStr;

use super::{SegmentName, TimelineId};

/// A file of `pg_wal` that is archived.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum WalFileName {
    /// A whole segment.
    Segment(SegmentName),
    /// `<TLI>.history`.
    History(TimelineId),
    /// `<SEGMENT>.<offset>.backup`: what a backup that began at this offset of the segment left (`BackupHistoryFileName`).
    BackupHistory { segment: SegmentName, offset: u32 },
    /// `<SEGMENT>.partial`: the last segment of a timeline that was left in its middle. Behind the switch stands garbage.
    Partial(SegmentName),
}

/// The text is not the name of a file that a server archives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not the name of a WAL segment, a history file, a backup history file or a partial segment")]
pub struct ParseWalFileNameError(String);

impl FromStr for WalFileName {
    type Err = ParseWalFileNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parsed = match text.split_once('.') {
            None => text.parse().ok().map(Self::Segment),
            Some((tli, "history")) => TimelineId::from_hex(tli).ok().map(Self::History),
            Some((segment, "partial")) => segment.parse().ok().map(Self::Partial),
            Some((segment, rest)) => backup_history(segment, rest),
        };
        parsed.ok_or_else(|| ParseWalFileNameError(text.to_owned()))
    }
}

fn backup_history(segment: &str, rest: &str) -> Option<WalFileName> {
    let digits = rest.strip_suffix(".backup")?;
    let offset = u32::from_str_radix(digits, 16).ok()?;
    let name = WalFileName::BackupHistory { segment: segment.parse().ok()?, offset };
    (format!("{offset:08X}") == digits).then_some(name)
}

impl fmt::Display for WalFileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Segment(segment) => segment.fmt(f),
            Self::History(tli) => write!(f, "{}.history", tli.to_hex()),
            Self::BackupHistory { segment, offset } => write!(f, "{segment}.{offset:08X}.backup"),
            Self::Partial(segment) => write!(f, "{segment}.partial"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_read_back() {
        for text in [
            "00000001000000000000000A",
            "0000000A.history",
            "00000001000000000000000A.00000028.backup",
            "00000001000000000000000A.partial",
        ] {
            assert_eq!(text.parse::<WalFileName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            ".",
            "00000000.history",
            "0000000a.history",
            "00000001.history.tmp",
            "00000001000000000000000A.",
            "00000001000000000000000A.28.backup",
            "00000001000000000000000A.0000002a.backup",
            "00000001000000000000000A.00000028.backup.done",
            "00000001000000000000000A.partial.partial",
            "00000001000000000000000A.tmp",
            "../00000001000000000000000A",
            "RECOVERYXLOG",
            "xlogtemp.123",
        ] {
            assert!(text.parse::<WalFileName>().is_err(), "{text:?} was accepted");
        }
    }
}
