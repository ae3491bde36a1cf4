//! What a server asks for.

use crate::postgres::{SegmentName, TimelineId};

/// The file name in a `restore_command`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedName {
    Segment(SegmentName),
    History(TimelineId),
    /// A file that only `archive_command` sees, and no recovery needs: `<segment>.partial`, `<segment>.<offset>.backup`. The
    /// repository holds none.
    Other,
}

impl FeedName {
    /// None for what no server asks for.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(segment) = text.parse() {
            return Some(Self::Segment(segment));
        }
        if let Some(tli) = text.strip_suffix(".history") {
            return TimelineId::from_hex(tli).ok().map(Self::History);
        }
        let (segment, rest) = text.split_once('.')?;
        segment.parse::<SegmentName>().ok()?;
        let backup = rest.strip_suffix(".backup").is_some_and(|offset| {
            offset.len() == 8 && offset.bytes().all(|b| b.is_ascii_digit() || (b'A'..=b'F').contains(&b))
        });
        (rest == "partial" || backup).then_some(Self::Other)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_server_are_told_apart() {
        assert!(matches!(FeedName::parse("000000010000000000000003"), Some(FeedName::Segment(_))));
        assert_eq!(FeedName::parse("0000000A.history"), TimelineId::new(10).map(FeedName::History));
        for text in ["000000010000000000000003.partial", "000000010000000000000003.00000028.backup"] {
            assert_eq!(FeedName::parse(text), Some(FeedName::Other), "{text}");
        }
    }

    #[test]
    fn everything_else_is_no_name() {
        for text in [
            "",
            "not-a-segment",
            "00000000.history",
            "1.history",
            "000000010000000000000003.history",
            "000000010000000000000003.PARTIAL",
            "000000010000000000000003.28.backup",
            "../000000010000000000000003",
            "00000001000000000000000g",
        ] {
            assert_eq!(FeedName::parse(text), None, "{text}");
        }
    }
}
