//! What a pushed file must be to be stored. Pure.
//!
//! A server hands its archiver files that are no segments: recycled ones, pre-allocated ones, what a copy left behind. And a
//! disk can have turned a bit. So every page header and the checksum of every record that lies within a segment are read. A
//! record that begins in the segment before, or ends in the next one, is not seen whole from here: it is checked where the
//! segments come together.

use pitr::postgres::history::HistoryError;
use pitr::postgres::wal::{DecodeError, SegmentError, SegmentFacts, SegmentValidator, WalDecoder};
use pitr::postgres::{MajorVersion, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

/// Larger history files and backup history files do not exist.
const MAX_TEXT_BYTES: u64 = 1 << 20;
const FEED_BYTES: usize = 128 << 10;
const PAGE_BYTES: usize = pitr::postgres::PAGE_SIZE;

/// Why a file is not what its name says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("it has {found} bytes, a segment of this cluster has {expected}")]
    Size { found: u64, expected: u64 },
    #[error("it has {found} bytes, at most {MAX_TEXT_BYTES} make sense")]
    TooLarge { found: u64 },
    #[error("no segment of this size has that name")]
    ImpossibleName,
    #[error("the server has not written it to its end yet: {0}")]
    Recycled(SegmentError),
    #[error(transparent)]
    Pages(SegmentError),
    #[error("it ends in zeros that no XLOG_SWITCH explains: {0}")]
    UnexplainedZeros(DecodeError),
    #[error(transparent)]
    Records(DecodeError),
    #[error(transparent)]
    History(HistoryError),
    #[error("it is not the backup history file of this segment")]
    BackupHistory,
    #[error("the server's version is not supported")]
    Version,
}

impl Refusal {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Recycled(_) => Some("it is tried again; if that goes on, the server archives a file that is no WAL"),
            Self::Pages(_) | Self::Records(_) | Self::UnexplainedZeros(_) => Some(
                "check the server's storage, and the file with pg_waldump; once it cannot be mended, take a backup and \
                 then remove its .ready file from pg_wal/archive_status",
            ),
            Self::Size { .. } => Some("check the server's storage: the file was cut, or it is of another cluster"),
            _ => None,
        }
    }
}

/// What all segments of a cluster have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    pub system_identifier: SystemIdentifier,
    pub major: MajorVersion,
    pub segment_size: WalSegmentSize,
}

/// A segment is whole and sound, or that cannot be told from it alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Sound(SegmentFacts),
    /// It holds the end of a record of the segment before, and then zeros: sound if that record is an `XLOG_SWITCH`.
    AsksForPrevious(SegmentFacts),
}

impl ClusterFacts {
    /// Looks at a whole segment.
    ///
    /// # Errors
    /// It is not one.
    pub fn verify(&self, name: SegmentName, content: &[u8]) -> Result<Verdict, Refusal> {
        let number = name.number(self.segment_size).ok_or(Refusal::ImpossibleName)?;
        self.check_size(content.len() as u64)?;
        let mut pages = SegmentValidator::new(name.tli(), number, self.segment_size)
            .with_system_identifier(self.system_identifier)
            .with_major(self.major);
        let refused =
            |error: SegmentError| if error.is_recycled() { Refusal::Recycled(error) } else { Refusal::Pages(error) };
        pages.feed(content).map_err(refused)?;
        let facts = pages.finish().map_err(refused)?;

        let mut decoder = self.decoder(name)?;
        match decode(&mut decoder, content) {
            Ok(()) => Ok(Verdict::Sound(facts)),
            Err(error) if error.is_end_of_wal() && facts.zero_from.is_some() && decoder.last_record().is_none() => {
                Ok(Verdict::AsksForPrevious(facts))
            }
            Err(error) if error.is_end_of_wal() => Err(Refusal::UnexplainedZeros(error)),
            Err(error) => Err(Refusal::Records(error)),
        }
    }

    /// Whether a segment that [`Verdict::AsksForPrevious`] is sound behind the one before it.
    ///
    /// # Errors
    /// It is not.
    pub fn verify_behind(&self, previous: SegmentName, before: &[u8], content: &[u8]) -> Result<(), Refusal> {
        let mut decoder = self.decoder(previous)?;
        let decoded = decode(&mut decoder, before).and_then(|()| decode(&mut decoder, content));
        decoded.map_err(
            |error| if error.is_end_of_wal() { Refusal::UnexplainedZeros(error) } else { Refusal::Records(error) },
        )
    }

    /// A partial segment: only its first page can be trusted to be of its timeline.
    ///
    /// # Errors
    /// It is of another cluster, another place, or no WAL.
    pub fn verify_partial(&self, name: SegmentName, content: &[u8]) -> Result<(), Refusal> {
        let number = name.number(self.segment_size).ok_or(Refusal::ImpossibleName)?;
        self.check_size(content.len() as u64)?;
        let mut pages = SegmentValidator::new(name.tli(), number, self.segment_size)
            .with_system_identifier(self.system_identifier)
            .with_major(self.major);
        pages.feed(content.get(..PAGE_BYTES).unwrap_or(content)).map_err(Refusal::Pages)
    }

    /// # Errors
    /// No segment has this size.
    pub fn check_size(&self, bytes: u64) -> Result<(), Refusal> {
        let expected = self.segment_size.as_u64();
        if bytes == expected { Ok(()) } else { Err(Refusal::Size { found: bytes, expected }) }
    }

    fn decoder(&self, name: SegmentName) -> Result<WalDecoder, Refusal> {
        let number = name.number(self.segment_size).ok_or(Refusal::ImpossibleName)?;
        Ok(WalDecoder::new(self.segment_size.start_of(number), name.tli(), self.segment_size)
            .with_system_identifier(self.system_identifier)
            .with_major(self.major))
    }
}

fn decode(decoder: &mut WalDecoder, content: &[u8]) -> Result<(), DecodeError> {
    for piece in content.chunks(FEED_BYTES) {
        decoder.feed(piece);
        while decoder.next_record()?.is_some() {}
    }
    Ok(())
}

/// # Errors
/// The file is too large to be a history file or a backup history file.
pub const fn check_text_size(bytes: u64) -> Result<(), Refusal> {
    if bytes <= MAX_TEXT_BYTES { Ok(()) } else { Err(Refusal::TooLarge { found: bytes }) }
}

/// # Errors
/// It is not the history of this timeline.
pub fn verify_history(tli: TimelineId, content: &[u8]) -> Result<(), Refusal> {
    TimelineHistory::parse(tli, content).map(drop).map_err(Refusal::History)
}

/// # Errors
/// It does not begin as `do_pg_backup_stop` lets it begin for this segment.
pub fn verify_backup_history(segment: SegmentName, content: &[u8]) -> Result<(), Refusal> {
    let first = content.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let named = format!(" (file {segment})");
    if first.starts_with(b"START WAL LOCATION: ") && first.ends_with(named.as_bytes()) {
        Ok(())
    } else {
        Err(Refusal::BackupHistory)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use pitr::postgres::SegmentNumber;
    use pitr::postgres::wal::testing::{SYSTEM_IDENTIFIER, WalWriter};

    use super::*;

    const SIZE: usize = 1 << 20;

    fn facts() -> ClusterFacts {
        ClusterFacts {
            system_identifier: SYSTEM_IDENTIFIER,
            major: MajorVersion::V15,
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        }
    }

    fn name(number: u64) -> SegmentName {
        SegmentNumber::new(number).name(TimelineId::FIRST, facts().segment_size)
    }

    /// Segment 3, whole.
    fn full() -> Vec<u8> {
        let mut writer =
            WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size);
        while writer.bytes().len() < SIZE + 5000 {
            writer.filler(3000);
        }
        writer.bytes()[..SIZE].to_vec()
    }

    fn switched() -> Vec<u8> {
        let mut writer =
            WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size);
        writer.filler(20_000);
        writer.restore_point("r", DateTime::from_timestamp(1_800_000_000, 0).unwrap());
        writer.switch();
        writer.segments().remove(0).1
    }

    #[test]
    fn whole_and_switched_segments_are_sound() {
        for content in [full(), switched()] {
            assert!(matches!(facts().verify(name(3), &content), Ok(Verdict::Sound(_))));
        }
    }

    #[test]
    fn cut_zeroed_recycled_and_foreign_files_are_refused() {
        let (full, switched) = (full(), switched());
        let refuse = |content: &[u8]| facts().verify(name(3), content).unwrap_err();
        assert!(matches!(refuse(&full[..SIZE - 8192]), Refusal::Size { .. }));
        assert!(matches!(refuse(&[]), Refusal::Size { .. }));
        assert!(matches!(refuse(&vec![0; SIZE]), Refusal::Pages(_)));
        let mut cut = full.clone();
        cut[SIZE / 2..].fill(0);
        assert!(matches!(refuse(&cut), Refusal::Records(_) | Refusal::UnexplainedZeros(_)));
        // Nothing says that the rest of a switched segment may hold the pages of its former life.
        let mut recycled = switched;
        let old = WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(1), facts().segment_size);
        drop(old);
        recycled[SIZE - 8192..].copy_from_slice(&full[..8192]);
        assert!(matches!(refuse(&recycled), Refusal::Pages(_) | Refusal::Recycled(_)));
        assert!(matches!(facts().verify(name(4), &full), Err(Refusal::Recycled(_))));
        let other = ClusterFacts { system_identifier: SystemIdentifier::new(9), ..facts() };
        assert!(matches!(other.verify(name(3), &full), Err(Refusal::Pages(_))));
        let newer = ClusterFacts { major: MajorVersion::V16, ..facts() };
        assert!(matches!(newer.verify(name(3), &full), Err(Refusal::Pages(_))));
    }

    #[test]
    fn one_bit_anywhere_in_a_record_is_found() {
        let content = full();
        for offset in (5000..SIZE - 5000).step_by(50_021) {
            let mut damaged = content.clone();
            damaged[offset] ^= 0x20;
            assert!(facts().verify(name(3), &damaged).is_err(), "a bit at {offset} was not found");
        }
    }

    #[test]
    fn a_switch_that_lies_across_two_segments_is_proved_by_both() {
        let mut found = false;
        for last in (8..600).step_by(8) {
            let mut writer =
                WalWriter::new(MajorVersion::V15, TimelineId::FIRST, SegmentNumber::new(3), facts().segment_size);
            while writer.bytes().len() < SIZE - 9000 {
                writer.filler(3000);
            }
            while writer.bytes().len() < SIZE - 500 {
                writer.filler(100);
            }
            writer.filler(last);
            writer.switch();
            let segments = writer.segments();
            let [(_, before), (_, content)] = segments.as_slice() else { continue };
            let Ok(Verdict::AsksForPrevious(_)) = facts().verify(name(4), content) else { continue };
            found = true;
            facts().verify_behind(name(3), before, content).unwrap();
            let mut damaged = content.clone();
            damaged[60] = 1;
            assert!(facts().verify_behind(name(3), before, &damaged).is_err());
        }
        assert!(found, "no switch lay across the boundary");
    }

    #[test]
    fn partial_segments_need_only_begin_right() {
        let mut content = full();
        content[SIZE / 2..].fill(0xFF);
        facts().verify_partial(name(3), &content).unwrap();
        assert!(facts().verify_partial(name(4), &content).is_err());
        assert!(facts().verify_partial(name(3), &content[..SIZE / 2]).is_err());
    }

    #[test]
    fn text_files_must_be_what_their_name_says() {
        let tli = TimelineId::new(2).unwrap();
        verify_history(tli, b"1\t0/3000000\tno recovery target specified\n").unwrap();
        assert!(verify_history(tli, b"").is_err());
        assert!(verify_history(TimelineId::FIRST, b"1\t0/3000000\tx\n").is_err());
        let backup = b"START WAL LOCATION: 0/300028 (file 000000010000000000000003)\nSTOP WAL LOCATION: ...\n";
        verify_backup_history(name(3), backup).unwrap();
        assert!(verify_backup_history(name(4), backup).is_err());
        assert!(verify_backup_history(name(3), b"").is_err());
        assert!(check_text_size(2 << 20).is_err());
    }
}
