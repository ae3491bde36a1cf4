//! Targets as texts: what `pitr restore --time T` or `pitr impact --to before:NAME` are given.

use std::str::FromStr;

use chrono::{DateTime, Utc};

use super::target::{MarkerRef, MarkerSide, RecoveryTarget, TargetTimeline};
use super::time_parse::{ParseTimeError, parse_time};
use crate::postgres::lsn::ParseLsnError;
use crate::postgres::timeline::ParseTimelineError;

/// `MAXFNAMELEN - 1`: no restore point has a longer name.
pub const MAX_MARKER_NAME_BYTES: usize = 63;

/// Why a text is not a target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTargetError {
    #[error(transparent)]
    Time(#[from] ParseTimeError),
    #[error(transparent)]
    Lsn(#[from] ParseLsnError),
    #[error(transparent)]
    Timeline(#[from] ParseTimelineError),
    #[error("invalid transaction ID \"{0}\"")]
    Xid(String),
    #[error("invalid marker name \"{0}\"")]
    MarkerName(String),
    #[error("invalid moment \"{0}\"")]
    Moment(String),
}

impl ParseTargetError {
    /// What to write instead.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Time(error) => error.hint(),
            Self::Lsn(_) => return None,
            Self::Timeline(_) => "write \"latest\", \"current\" or the number of a timeline".to_owned(),
            Self::Xid(_) => "write the number that pg_current_xact_id() or the WAL shows, 3 or more".to_owned(),
            Self::MarkerName(_) => {
                format!("write a name of 1 to {MAX_MARKER_NAME_BYTES} bytes, or NAME@LSN where several share the name")
            }
            Self::Moment(_) => {
                "write before:NAME, after:NAME, time:T, lsn:L, xid:X, or latest, such as \"before:release-42\""
                    .to_owned()
            }
        })
    }
}

/// Reads a transaction ID: 32 bits as in the WAL, or 64 with the epoch.
///
/// # Errors
/// No number, or one whose low half no transaction that commits can have.
pub fn parse_xid(text: &str) -> Result<u64, ParseTargetError> {
    const FIRST_NORMAL_XID: u64 = 3;
    let invalid = || ParseTargetError::Xid(text.to_owned());
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(invalid());
    }
    let xid: u64 = text.parse().map_err(|_| invalid())?;
    if xid & u64::from(u32::MAX) < FIRST_NORMAL_XID { Err(invalid()) } else { Ok(xid) }
}

/// Reads `before:NAME`, `after:NAME`, `time:T`, `lsn:L`, `xid:X` or `latest`.
///
/// # Errors
/// Any other text, and what the parts refuse.
pub fn parse_moment(text: &str, now: DateTime<Utc>) -> Result<RecoveryTarget, ParseTargetError> {
    let marker = |side, name: &str| Ok(RecoveryTarget::Marker { side, marker: name.parse()? });
    match text.split_once(':') {
        None if text == "latest" => Ok(RecoveryTarget::Latest),
        Some(("before", name)) => marker(MarkerSide::Before, name),
        Some(("after", name)) => marker(MarkerSide::After, name),
        Some(("time", time)) => Ok(RecoveryTarget::Time { time: parse_time(time, now)? }),
        Some(("lsn", lsn)) => Ok(RecoveryTarget::Lsn { lsn: lsn.parse()? }),
        Some(("xid", xid)) => Ok(RecoveryTarget::Xid { xid: parse_xid(xid)? }),
        _ => Err(ParseTargetError::Moment(text.to_owned())),
    }
}

/// `NAME`, or `NAME@LSN` where what follows the last `@` is an LSN: names may hold an `@` of their own.
impl FromStr for MarkerRef {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let split = text.rsplit_once('@').and_then(|(name, lsn)| Some((name, lsn.parse().ok()?)));
        let (name, lsn) = split.map_or((text, None), |(name, lsn)| (name, Some(lsn)));
        let valid = (1..=MAX_MARKER_NAME_BYTES).contains(&name.len()) && !name.chars().any(char::is_control);
        if valid { Ok(Self { name: name.to_owned(), lsn }) } else { Err(ParseTargetError::MarkerName(text.to_owned())) }
    }
}

impl FromStr for TargetTimeline {
    type Err = ParseTargetError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "latest" => Ok(Self::Latest),
            "current" => Ok(Self::Current),
            id => Ok(Self::Id(id.parse()?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{Lsn, TimelineId};

    fn moment(text: &str) -> Result<RecoveryTarget, ParseTargetError> {
        parse_moment(text, "2026-11-22T12:00:00Z".parse().unwrap())
    }

    fn marker(side: MarkerSide, name: &str, lsn: Option<u64>) -> RecoveryTarget {
        RecoveryTarget::Marker { side, marker: MarkerRef { name: name.to_owned(), lsn: lsn.map(Lsn::new) } }
    }

    #[test]
    fn moments_are_read() {
        assert_eq!(moment("latest"), Ok(RecoveryTarget::Latest));
        assert_eq!(moment("before:release-42"), Ok(marker(MarkerSide::Before, "release-42", None)));
        assert_eq!(moment("after:a:b"), Ok(marker(MarkerSide::After, "a:b", None)));
        assert_eq!(moment("lsn:0/3000060"), Ok(RecoveryTarget::Lsn { lsn: Lsn::new(0x300_0060) }));
        assert_eq!(moment("xid:737"), Ok(RecoveryTarget::Xid { xid: 737 }));
        let time = "2026-11-22T11:50:00Z".parse().unwrap();
        assert_eq!(moment("time:10 min ago"), Ok(RecoveryTarget::Time { time }));
        assert_eq!(moment("time:2026-11-22 12:50:00+01"), Ok(RecoveryTarget::Time { time }));
    }

    #[test]
    fn odd_moments_are_refused_with_a_hint() {
        for text in [
            "",
            "release-42",
            "before:",
            "before",
            "latest:",
            "Latest",
            "lsn:",
            "lsn:16",
            "xid:0",
            "xid:x",
            "time:",
            "time:2026-11-22 06:31:00",
            "at:release-42",
        ] {
            let error = moment(text).unwrap_err();
            assert!(error.hint().is_some() || matches!(error, ParseTargetError::Lsn(_)), "{text:?}: {error}");
        }
    }

    #[test]
    fn marker_names_may_hold_an_at_sign() {
        let parse = |text: &str| text.parse::<MarkerRef>().map(|m| (m.name, m.lsn.map(Lsn::as_u64)));
        assert_eq!(parse("release-42@0/3000060"), Ok(("release-42".to_owned(), Some(0x300_0060))));
        assert_eq!(parse("me@home"), Ok(("me@home".to_owned(), None)));
        assert_eq!(parse("me@home@1/0"), Ok(("me@home".to_owned(), Some(0x1_0000_0000))));
        assert!(parse("@0/28").is_err());
        assert!(parse(&"a".repeat(64)).is_err());
        assert!(parse("a\nb").is_err());
    }

    #[test]
    fn xids_of_64_bits_keep_their_epoch() {
        assert_eq!(parse_xid("4294968033"), Ok(4_294_968_033));
        for text in ["", "2", "-3", "+3", "4294967296", "4294967298", "18446744073709551616", "0x10"] {
            assert!(parse_xid(text).is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn timelines_are_decimal_or_named() {
        assert_eq!("latest".parse(), Ok(TargetTimeline::Latest));
        assert_eq!("current".parse(), Ok(TargetTimeline::Current));
        assert_eq!("16".parse(), Ok(TargetTimeline::Id(TimelineId::new(16).unwrap())));
        for text in ["", "0", "00000010", "newest"] {
            assert!(text.parse::<TargetTimeline>().is_err(), "{text:?} was accepted");
        }
    }
}
