//! Keys: the only builder and parser of the names of objects.
//!
//! ```text
//! repository.json
//! <cluster>/<lineage>/lineage.json
//!                     lease
//!                     wal/<TLI>/<TLI>.history.zst
//!                     wal/<TLI>/<LOG>/<SEGMENT>.zst
//!                     wal/<TLI>/<LOG>/<SEGMENT>.tail/<from>-<to>.zst
//!                     wal/<TLI>/<LOG>/<SEGMENT>.<offset>.backup.zst
//!                     wal/<TLI>/<LOG>/<SEGMENT>.partial.zst
//!                     summaries/<TLI>/<from>-<to>.zst
//!                     backups/<id>/intent.json  contents.zst  manifest.json
//!                     packs/<id>/<number>
//!                     maps/<hash>.zst
//!                     markers/<TLI>/<lsn>@<name>.json  …finish.json
//!                     gaps/<TLI>/<from>-<to>.json
//!                     restores/<id>.json
//!                     pins/<id>.json  <id>.released.json
//!                     condemned/<id>.json
//! ```
//! Upper-case parts are PostgreSQL's file name parts, `<lsn>`, `<from>` and `<to>` are sixteen lower-case hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use super::backup::{BackupId, PackId};
use super::hash::ContentHash;
use super::lineage::LineageId;
use crate::postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use crate::storage::{KeyPrefix, ObjectKey};

/// Name of a cluster in the repository, as the configuration has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterName(String);

/// The text cannot name a cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid cluster name \"{0}\", expected 1 to 63 letters, digits, \"-\" or \"_\", beginning with a letter or digit"
)]
pub struct InvalidClusterName(String);

impl ClusterName {
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ClusterName {
    type Err = InvalidClusterName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
            && text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if valid { Ok(Self(text.to_owned())) } else { Err(InvalidClusterName(text.to_owned())) }
    }
}

impl TryFrom<String> for ClusterName {
    type Error = InvalidClusterName;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ClusterName> for String {
    fn from(name: ClusterName) -> Self {
        name.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `repository.json`.
#[must_use]
pub fn repository_key() -> ObjectKey {
    key("repository.json".to_owned())
}

/// Where the lineages of `cluster` stand, one sub-prefix each.
#[must_use]
pub fn cluster_prefix(cluster: &ClusterName) -> KeyPrefix {
    prefix(format!("{cluster}/"))
}

#[expect(clippy::expect_used, reason = "built from types whose text is made of key characters only")]
fn key(text: String) -> ObjectKey {
    ObjectKey::new(text).expect("parts of keys are valid by their types")
}

#[expect(clippy::expect_used, reason = "built from types whose text is made of key characters only")]
fn prefix(text: String) -> KeyPrefix {
    KeyPrefix::new(text).expect("parts of prefixes are valid by their types")
}

/// The keys of one lineage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LineageLayout {
    root: String,
}

/// What stands under `wal/<TLI>/<LOG>/`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum WalObject {
    Segment(SegmentName),
    Tail { segment: SegmentName, from: Lsn, to: Lsn },
}

/// What stands under `summaries/<TLI>/`: the summary of all records that start from `from` on and before `to`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SummaryKey {
    pub tli: TimelineId,
    pub from: Lsn,
    pub to: Lsn,
}

/// What stands under `markers/<TLI>/`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct MarkerKey {
    pub tli: TimelineId,
    pub lsn: Lsn,
    pub name: String,
    pub finish: bool,
}

/// What stands under `gaps/<TLI>/`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct GapKey {
    pub tli: TimelineId,
    pub from: Lsn,
    /// None where the gap had no end yet: `open` in the key.
    pub to: Option<Lsn>,
}

impl LineageLayout {
    #[must_use]
    pub fn new(cluster: &ClusterName, lineage: LineageId) -> Self {
        Self { root: format!("{cluster}/{lineage}/") }
    }

    #[must_use]
    pub fn root(&self) -> KeyPrefix {
        prefix(self.root.clone())
    }

    fn at(&self, rest: fmt::Arguments<'_>) -> ObjectKey {
        key(format!("{}{rest}", self.root))
    }

    fn under(&self, rest: fmt::Arguments<'_>) -> KeyPrefix {
        prefix(format!("{}{rest}", self.root))
    }

    pub(super) fn object(&self, rest: &str) -> ObjectKey {
        self.at(format_args!("{rest}"))
    }

    pub(super) fn below(&self, rest: &str) -> KeyPrefix {
        self.under(format_args!("{rest}"))
    }

    #[must_use]
    pub fn lineage(&self) -> ObjectKey {
        self.at(format_args!("lineage.json"))
    }

    #[must_use]
    pub fn lease(&self) -> ObjectKey {
        self.at(format_args!("lease"))
    }

    /// One sub-prefix for each timeline.
    #[must_use]
    pub fn wal(&self) -> KeyPrefix {
        self.under(format_args!("wal/"))
    }

    /// One sub-prefix for each log, and the history file.
    #[must_use]
    pub fn wal_timeline(&self, tli: TimelineId) -> KeyPrefix {
        self.under(format_args!("wal/{}/", tli.to_hex()))
    }

    #[must_use]
    pub fn wal_log(&self, tli: TimelineId, log: u32) -> KeyPrefix {
        self.under(format_args!("wal/{}/{log:08X}/", tli.to_hex()))
    }

    #[must_use]
    pub fn history(&self, tli: TimelineId) -> ObjectKey {
        self.at(format_args!("wal/{0}/{0}.history.zst", tli.to_hex()))
    }

    #[must_use]
    pub fn segment(&self, name: SegmentName) -> ObjectKey {
        self.at(format_args!("wal/{}/{:08X}/{name}.zst", name.tli().to_hex(), name.log()))
    }

    #[must_use]
    pub fn tails(&self, segment: SegmentName) -> KeyPrefix {
        self.under(format_args!("wal/{}/{:08X}/{segment}.tail/", segment.tli().to_hex(), segment.log()))
    }

    #[must_use]
    pub fn tail(&self, segment: SegmentName, from: Lsn, to: Lsn) -> ObjectKey {
        self.at(format_args!(
            "wal/{}/{:08X}/{segment}.tail/{}-{}.zst",
            segment.tli().to_hex(),
            segment.log(),
            from.to_key(),
            to.to_key()
        ))
    }

    /// Where a file that the server archived stands.
    #[must_use]
    pub fn wal_file(&self, name: WalFileName) -> ObjectKey {
        match name {
            WalFileName::Segment(segment) => self.segment(segment),
            WalFileName::History(tli) => self.history(tli),
            WalFileName::BackupHistory { segment, .. } | WalFileName::Partial(segment) => {
                self.at(format_args!("wal/{}/{:08X}/{name}.zst", segment.tli().to_hex(), segment.log()))
            }
        }
    }

    /// Reads what [`LineageLayout::segment`] or [`LineageLayout::tail`] made; none for every other key.
    #[must_use]
    pub fn parse_wal(&self, object: &ObjectKey) -> Option<WalObject> {
        let rest = object.as_str().strip_prefix(&self.root)?.strip_prefix("wal/")?;
        let parts: Vec<&str> = rest.split('/').collect();
        let parsed = match parts.as_slice() {
            [_, _, file] => WalObject::Segment(file.strip_suffix(".zst")?.parse().ok()?),
            [_, _, folder, file] => {
                let segment = folder.strip_suffix(".tail")?.parse().ok()?;
                let (from, to) = file.strip_suffix(".zst")?.split_once('-')?;
                WalObject::Tail { segment, from: Lsn::from_key(from).ok()?, to: Lsn::from_key(to).ok()? }
            }
            _ => return None,
        };
        let rebuilt = match parsed {
            WalObject::Segment(name) => self.segment(name),
            WalObject::Tail { segment, from, to } => self.tail(segment, from, to),
        };
        (rebuilt == *object).then_some(parsed)
    }

    /// The log that a sub-prefix of [`LineageLayout::wal_timeline`] stands for.
    #[must_use]
    pub fn parse_log(prefix: &KeyPrefix) -> Option<u32> {
        let name = prefix.name();
        let log = u32::from_str_radix(name, 16).ok()?;
        (format!("{log:08X}") == name).then_some(log)
    }

    /// One sub-prefix for each timeline.
    #[must_use]
    pub fn summaries(&self) -> KeyPrefix {
        self.under(format_args!("summaries/"))
    }

    /// WAL summaries of one timeline; the order of keys is that of where they begin.
    #[must_use]
    pub fn summaries_timeline(&self, tli: TimelineId) -> KeyPrefix {
        self.under(format_args!("summaries/{}/", tli.to_hex()))
    }

    #[must_use]
    pub fn summary(&self, summary: SummaryKey) -> ObjectKey {
        let SummaryKey { tli, from, to } = summary;
        self.at(format_args!("summaries/{}/{}-{}.zst", tli.to_hex(), from.to_key(), to.to_key()))
    }

    /// Reads what [`LineageLayout::summary`] made; none for every other key.
    #[must_use]
    pub fn parse_summary(&self, object: &ObjectKey) -> Option<SummaryKey> {
        let rest = object.as_str().strip_prefix(&self.root)?.strip_prefix("summaries/")?;
        let (tli, file) = rest.split_once('/')?;
        let (from, to) = file.strip_suffix(".zst")?.split_once('-')?;
        let tli = TimelineId::from_hex(tli).ok()?;
        let (from, to) = (Lsn::from_key(from).ok()?, Lsn::from_key(to).ok()?);
        (from < to).then_some(SummaryKey { tli, from, to })
    }

    /// One sub-prefix for each backup, complete or not.
    #[must_use]
    pub fn backups(&self) -> KeyPrefix {
        self.under(format_args!("backups/"))
    }

    #[must_use]
    pub fn backup(&self, id: &BackupId) -> KeyPrefix {
        self.under(format_args!("backups/{id}/"))
    }

    #[must_use]
    pub fn intent(&self, id: &BackupId) -> ObjectKey {
        self.at(format_args!("backups/{id}/intent.json"))
    }

    #[must_use]
    pub fn contents(&self, id: &BackupId) -> ObjectKey {
        self.at(format_args!("backups/{id}/contents.zst"))
    }

    /// `number` counts the objects of one backup.
    #[must_use]
    pub fn progress(&self, id: &BackupId, number: u32) -> ObjectKey {
        self.at(format_args!("backups/{id}/progress-{number:08x}.zst"))
    }

    #[must_use]
    pub fn manifest(&self, id: &BackupId) -> ObjectKey {
        self.at(format_args!("backups/{id}/manifest.json"))
    }

    #[must_use]
    pub fn packs(&self, id: &BackupId) -> KeyPrefix {
        self.under(format_args!("packs/{id}/"))
    }

    #[must_use]
    pub fn pack(&self, id: &PackId) -> ObjectKey {
        self.at(format_args!("packs/{id}"))
    }

    #[must_use]
    pub fn map(&self, hash: &ContentHash) -> ObjectKey {
        self.at(format_args!("maps/{hash}.zst"))
    }

    #[must_use]
    pub fn markers(&self) -> KeyPrefix {
        self.under(format_args!("markers/"))
    }

    #[must_use]
    pub fn marker(&self, marker: &MarkerKey) -> ObjectKey {
        self.at(format_args!(
            "markers/{}/{}@{}{}.json",
            marker.tli.to_hex(),
            marker.lsn.to_key(),
            encode_name(&marker.name),
            if marker.finish { ".finish" } else { "" }
        ))
    }

    /// Reads what [`LineageLayout::marker`] made.
    #[must_use]
    pub fn parse_marker(&self, object: &ObjectKey) -> Option<MarkerKey> {
        let rest = object.as_str().strip_prefix(&self.root)?.strip_prefix("markers/")?;
        let (tli, rest) = rest.split_once('/')?;
        let (lsn, rest) = rest.strip_suffix(".json")?.split_once('@')?;
        let (name, finish) = match rest.strip_suffix(".finish") {
            Some(name) => (name, true),
            None => (rest, false),
        };
        let parsed = MarkerKey {
            tli: TimelineId::from_hex(tli).ok()?,
            lsn: Lsn::from_key(lsn).ok()?,
            name: decode_name(name)?,
            finish,
        };
        (self.marker(&parsed) == *object).then_some(parsed)
    }

    #[must_use]
    pub fn gaps(&self) -> KeyPrefix {
        self.under(format_args!("gaps/"))
    }

    #[must_use]
    pub fn gap(&self, gap: &GapKey) -> ObjectKey {
        let to = gap.to.map_or_else(|| "open".to_owned(), Lsn::to_key);
        self.at(format_args!("gaps/{}/{}-{to}.json", gap.tli.to_hex(), gap.from.to_key()))
    }

    /// Reads what [`LineageLayout::gap`] made.
    #[must_use]
    pub fn parse_gap(&self, object: &ObjectKey) -> Option<GapKey> {
        let rest = object.as_str().strip_prefix(&self.root)?.strip_prefix("gaps/")?;
        let (tli, rest) = rest.split_once('/')?;
        let (from, to) = rest.strip_suffix(".json")?.split_once('-')?;
        let to = if to == "open" { None } else { Some(Lsn::from_key(to).ok()?) };
        let parsed = GapKey { tli: TimelineId::from_hex(tli).ok()?, from: Lsn::from_key(from).ok()?, to };
        (self.gap(&parsed) == *object).then_some(parsed)
    }

    #[must_use]
    pub fn restores(&self) -> KeyPrefix {
        self.under(format_args!("restores/"))
    }

    /// The certificate of one restore; `id` is made of letters, digits and `-`.
    #[must_use]
    pub fn restore(&self, id: &str) -> Option<ObjectKey> {
        self.restores().key(&format!("{id}.json")).ok()
    }
}

/// A marker's name as part of a key: letters, digits, `-` and `_` stand for themselves, every other byte is `+` and two
/// upper-case hexadecimal digits.
fn encode_name(name: &str) -> String {
    name.bytes().fold(String::with_capacity(name.len()), |mut text, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_') {
            text.push(char::from(byte));
        } else {
            text.push_str(&format!("+{byte:02X}"));
        }
        text
    })
}

fn decode_name(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        if byte == b'+' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = after.get(2..)?;
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{SystemIdentifier, WalSegmentSize};

    fn layout() -> LineageLayout {
        LineageLayout::new(&"main".parse().unwrap(), LineageId::new(SystemIdentifier::new(7), 1))
    }

    fn segment() -> SegmentName {
        WalSegmentSize::DEFAULT.segment_of(Lsn::new(0x1_0500_0000)).name(TimelineId::FIRST, WalSegmentSize::DEFAULT)
    }

    #[test]
    fn wal_keys_are_read_back() {
        let layout = layout();
        let key = layout.segment(segment());
        assert_eq!(key.as_str(), "main/7-1/wal/00000001/00000001/000000010000000100000005.zst");
        assert_eq!(layout.parse_wal(&key), Some(WalObject::Segment(segment())));

        let (from, to) = (Lsn::new(0x1_0500_0000), Lsn::new(0x1_0500_2000));
        let key = layout.tail(segment(), from, to);
        assert_eq!(layout.parse_wal(&key), Some(WalObject::Tail { segment: segment(), from, to }));
        assert!(key.as_str().starts_with(layout.tails(segment()).as_str()));
    }

    #[test]
    fn foreign_and_misplaced_wal_keys_are_not_ours() {
        let layout = layout();
        for text in [
            "main/7-1/wal/00000001/00000001.history.zst",
            "main/7-1/wal/00000001/00000002/000000010000000100000005.zst",
            "main/7-1/wal/00000002/00000001/000000010000000100000005.zst",
            "main/7-1/wal/00000001/00000001/000000010000000100000005",
            "main/8-1/wal/00000001/00000001/000000010000000100000005.zst",
        ] {
            assert_eq!(layout.parse_wal(&ObjectKey::new(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn archived_files_stand_beside_their_segment_and_are_no_wal() {
        let layout = layout();
        let place = "main/7-1/wal/00000001/00000001/000000010000000100000005";
        for (name, key) in [
            ("000000010000000100000005.00000028.backup", format!("{place}.00000028.backup.zst")),
            ("000000010000000100000005.partial", format!("{place}.partial.zst")),
        ] {
            let found = layout.wal_file(name.parse().unwrap());
            assert_eq!(found.as_str(), key);
            assert_eq!(layout.parse_wal(&found), None);
        }
        assert_eq!(layout.wal_file(WalFileName::Segment(segment())), layout.segment(segment()));
        assert_eq!(layout.wal_file(WalFileName::History(TimelineId::FIRST)), layout.history(TimelineId::FIRST));
    }

    #[test]
    fn keys_of_summaries_are_read_back() {
        let layout = layout();
        let summary =
            SummaryKey { tli: TimelineId::FIRST, from: Lsn::new(0x16_B300_0000), to: Lsn::new(0x16_B400_0000) };
        let key = layout.summary(summary);
        assert_eq!(key.as_str(), "main/7-1/summaries/00000001/00000016b3000000-00000016b4000000.zst");
        assert_eq!(layout.parse_summary(&key), Some(summary));
        for text in [
            "main/7-1/summaries/00000001/00000016b3000000-00000016b3000000.zst",
            "main/7-1/summaries/00000001/00000016B3000000-00000016b4000000.zst",
            "main/7-1/summaries/00000001/00000016b3000000-00000016b4000000",
            "main/8-1/summaries/00000001/00000016b3000000-00000016b4000000.zst",
        ] {
            assert_eq!(layout.parse_summary(&ObjectKey::new(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn marker_names_of_any_text_are_read_back() {
        let layout = layout();
        for name in ["release-42", "rélease 42/β", "a.finish", "x@0", "+2B", ".."] {
            for finish in [false, true] {
                let marker = MarkerKey { tli: TimelineId::FIRST, lsn: Lsn::new(0x28), name: name.to_owned(), finish };
                assert_eq!(layout.parse_marker(&layout.marker(&marker)), Some(marker));
            }
        }
    }

    #[test]
    fn gap_keys_are_read_back() {
        let layout = layout();
        for to in [None, Some(Lsn::new(0x500_0000))] {
            let gap = GapKey { tli: TimelineId::FIRST, from: Lsn::new(0x28), to };
            assert_eq!(layout.parse_gap(&layout.gap(&gap)), Some(gap));
        }
        for text in ["main/7-1/gaps/00000001/28-open.json", "main/7-1/gaps/00000001/0000000000000028.json"] {
            assert_eq!(layout.parse_gap(&ObjectKey::new(text).unwrap()), None, "{text}");
        }
    }

    #[test]
    fn cluster_names_are_path_parts() {
        for text in ["", ".", "..", "a/b", "-a", "a b", "ä", &"a".repeat(64)] {
            assert!(text.parse::<ClusterName>().is_err(), "{text:?} was accepted");
        }
        assert!("main_2-a".parse::<ClusterName>().is_ok());
    }
}
