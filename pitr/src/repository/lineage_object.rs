//! What an object is, by its key alone.

use super::backup::{BackupId, PackId};
use super::hash::ContentHash;
use super::layout::{GapKey, LineageLayout, MarkerKey, SummaryKey, WalObject};
use super::note_id::NoteId;
use crate::postgres::{Lsn, SegmentName, TimelineId, WalFileName};
use crate::storage::{KeyPrefix, ObjectKey};

/// An object of a lineage.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LineageObject {
    Lineage,
    Lease,
    Segment(SegmentName),
    Tail {
        segment: SegmentName,
        from: Lsn,
        to: Lsn,
    },
    History(TimelineId),
    /// A backup history file or a partial segment, with the segment that it belongs to.
    WalFile(SegmentName),
    Summary(SummaryKey),
    Intent(BackupId),
    Contents(BackupId),
    /// What a backup that is being made has stored.
    Progress {
        backup: BackupId,
        number: u32,
    },
    Manifest(BackupId),
    Pack(PackId),
    Map(ContentHash),
    /// A marker or its finish.
    Marker(MarkerKey),
    Gap(GapKey),
    Restore,
    Pin(NoteId),
    PinRelease(NoteId),
    Condemnation(NoteId),
}

impl LineageLayout {
    /// Reads what this layout made; none for every other key.
    #[must_use]
    pub fn classify(&self, object: &ObjectKey) -> Option<LineageObject> {
        let rest = object.as_str().strip_prefix(self.root().as_str())?;
        let Some((kind, rest)) = rest.split_once('/') else {
            return match rest {
                "lineage.json" => Some(LineageObject::Lineage),
                "lease" => Some(LineageObject::Lease),
                _ => None,
            };
        };
        match kind {
            "wal" => self.classify_wal(object, rest),
            "summaries" => self.parse_summary(object).map(LineageObject::Summary),
            "backups" => {
                let (id, file) = rest.split_once('/')?;
                let id = id.parse().ok()?;
                if let Some(number) = file.strip_prefix("progress-").and_then(|file| file.strip_suffix(".zst")) {
                    let number = u32::from_str_radix(number, 16).ok()?;
                    let known = self.progress(&id, number) == *object;
                    return known.then_some(LineageObject::Progress { backup: id, number });
                }
                Some(match file {
                    "intent.json" => LineageObject::Intent(id),
                    "contents.zst" => LineageObject::Contents(id),
                    "manifest.json" => LineageObject::Manifest(id),
                    _ => return None,
                })
            }
            "packs" => rest.parse().ok().map(LineageObject::Pack),
            "maps" => rest.strip_suffix(".zst")?.parse().ok().map(LineageObject::Map),
            "markers" => self.parse_marker(object).map(LineageObject::Marker),
            "gaps" => self.parse_gap(object).map(LineageObject::Gap),
            "restores" => rest.ends_with(".json").then_some(LineageObject::Restore),
            "pins" => {
                let name = rest.strip_suffix(".json")?;
                match name.strip_suffix(".released") {
                    Some(name) => name.parse().ok().map(LineageObject::PinRelease),
                    None => name.parse().ok().map(LineageObject::Pin),
                }
            }
            "condemned" => rest.strip_suffix(".json")?.parse().ok().map(LineageObject::Condemnation),
            _ => None,
        }
    }

    fn classify_wal(&self, object: &ObjectKey, rest: &str) -> Option<LineageObject> {
        if let Some(found) = self.parse_wal(object) {
            return Some(match found {
                WalObject::Segment(name) => LineageObject::Segment(name),
                WalObject::Tail { segment, from, to } => LineageObject::Tail { segment, from, to },
            });
        }
        let name: WalFileName = rest.rsplit('/').next()?.strip_suffix(".zst")?.parse().ok()?;
        if self.wal_file(name) != *object {
            return None;
        }
        Some(match name {
            WalFileName::History(tli) => LineageObject::History(tli),
            WalFileName::Segment(segment) => LineageObject::Segment(segment),
            WalFileName::BackupHistory { segment, .. } | WalFileName::Partial(segment) => {
                LineageObject::WalFile(segment)
            }
        })
    }

    #[must_use]
    pub fn maps(&self) -> KeyPrefix {
        self.below("maps/")
    }

    /// One sub-prefix for each backup that wrote packs.
    #[must_use]
    pub fn all_packs(&self) -> KeyPrefix {
        self.below("packs/")
    }

    #[must_use]
    pub fn pins(&self) -> KeyPrefix {
        self.below("pins/")
    }

    #[must_use]
    pub fn condemnations(&self) -> KeyPrefix {
        self.below("condemned/")
    }

    #[must_use]
    pub fn pin(&self, id: &NoteId) -> ObjectKey {
        self.object(&format!("pins/{id}.json"))
    }

    #[must_use]
    pub fn pin_release(&self, id: &NoteId) -> ObjectKey {
        self.object(&format!("pins/{id}.released.json"))
    }

    #[must_use]
    pub fn condemnation(&self, id: &NoteId) -> ObjectKey {
        self.object(&format!("condemned/{id}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::postgres::{SystemIdentifier, WalSegmentSize};
    use crate::repository::lineage::LineageId;

    #[test]
    fn every_key_is_known_and_no_other() {
        let layout = LineageLayout::new(&"main".parse().unwrap(), LineageId::new(SystemIdentifier::new(7), 1));
        let id: BackupId = "20261122T063100Z".parse().unwrap();
        let note = NoteId::new(id.time(), 7);
        let pack = PackId { backup: id.clone(), number: 3 };
        let hash = ContentHash::of(b"x");
        let size = WalSegmentSize::DEFAULT;
        let segment = size.segment_of(Lsn::new(0x300_0000)).name(TimelineId::FIRST, size);
        let (from, to) = (Lsn::new(0x300_0000), Lsn::new(0x300_0100));
        let marker = MarkerKey { tli: TimelineId::FIRST, lsn: from, name: "a b".to_owned(), finish: true };
        let gap = GapKey { tli: TimelineId::FIRST, from, to: None };
        let summary = SummaryKey { tli: TimelineId::FIRST, from, to };
        let backup_history = WalFileName::BackupHistory { segment, offset: 0x28 };
        let table = [
            (layout.lineage(), LineageObject::Lineage),
            (layout.lease(), LineageObject::Lease),
            (layout.segment(segment), LineageObject::Segment(segment)),
            (layout.tail(segment, from, to), LineageObject::Tail { segment, from, to }),
            (layout.history(TimelineId::FIRST), LineageObject::History(TimelineId::FIRST)),
            (layout.wal_file(backup_history), LineageObject::WalFile(segment)),
            (layout.wal_file(WalFileName::Partial(segment)), LineageObject::WalFile(segment)),
            (layout.summary(summary), LineageObject::Summary(summary)),
            (layout.intent(&id), LineageObject::Intent(id.clone())),
            (layout.contents(&id), LineageObject::Contents(id.clone())),
            (layout.manifest(&id), LineageObject::Manifest(id.clone())),
            (layout.progress(&id, 0x1f), LineageObject::Progress { backup: id.clone(), number: 0x1f }),
            (layout.pack(&pack), LineageObject::Pack(pack)),
            (layout.map(&hash), LineageObject::Map(hash)),
            (layout.marker(&marker), LineageObject::Marker(marker)),
            (layout.gap(&gap), LineageObject::Gap(gap)),
            (layout.restore("r1").unwrap(), LineageObject::Restore),
            (layout.pin(&note), LineageObject::Pin(note.clone())),
            (layout.pin_release(&note), LineageObject::PinRelease(note.clone())),
            (layout.condemnation(&note), LineageObject::Condemnation(note)),
        ];
        for (key, object) in table {
            assert_eq!(layout.classify(&key), Some(object), "{key}");
        }
        for text in [
            "main/7-1/later/x",
            "main/7-1/wal/x",
            "main/7-2/lease",
            "main/7-1/backups/20261122T063100Z/x.json",
            "main/7-1/backups/20261122T063100Z/progress-1f.zst",
            "main/7-1/backups/20261122T063100Z/progress-0000001F.zst",
        ] {
            assert_eq!(layout.classify(&ObjectKey::new(text).unwrap()), None, "{text}");
        }
    }
}
