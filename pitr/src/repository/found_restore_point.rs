//! Restore points that were found in WAL, and the markers made of them.
//!
//! Whoever reads WAL records what it finds, again at every reading: a marker that is there already is left as it is,
//! whatever it says. So what `pitr mark` said of its own restore point stays, as long as it comes first.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::error::{Error, Result};
use super::layout::MarkerKey;
use super::marker::{Marker, MarkerSource, finish_point_name};
use super::store::LineageStore;
use crate::postgres::{Lsn, TimelineId};
use crate::storage::ErrorKind;

/// The record of a restore point.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundRestorePoint {
    pub timeline: TimelineId,
    /// Where the record starts.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub name: String,
    pub time: DateTime<Utc>,
}

/// What became of a restore point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recorded {
    /// It is a marker now.
    Created,
    /// It was one before.
    Known,
    /// It closes a marker, and is none itself.
    Finish,
}

/// A restore point's name as text. It is in the encoding of some database: a byte that is not UTF-8 becomes a question mark,
/// one that a person can type, and a single byte of the object's name.
#[must_use]
pub fn name_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::REPLACEMENT_CHARACTER, "?")
}

impl FoundRestorePoint {
    /// Makes it a marker, where it is none yet.
    ///
    /// # Errors
    /// The repository fails.
    pub async fn record(&self, lineage: &LineageStore) -> Result<Recorded> {
        if let Some(known) = self.recorded(lineage).await? {
            return Ok(known);
        }
        let marker = Marker {
            name: self.name.clone(),
            timeline: self.timeline,
            lsn: self.lsn,
            end_lsn: self.end_lsn,
            time: self.time,
            source: MarkerSource::Discovered,
            who: None,
            key: None,
            meta: BTreeMap::new(),
        };
        let key = MarkerKey { tli: self.timeline, lsn: self.lsn, name: self.name.clone(), finish: false };
        match lineage.create(&lineage.layout().marker(&key), &marker).await {
            Ok(_) => Ok(Recorded::Created),
            Err(Error::Storage(error)) if error.kind() == ErrorKind::AlreadyExists => Ok(Recorded::Known),
            Err(error) => Err(error),
        }
    }

    /// What it is already, as far as another name or another object than its own has to be known for that.
    async fn recorded(&self, lineage: &LineageStore) -> Result<Option<Recorded>> {
        let may_close = self.name.starts_with(&finish_point_name(""));
        // As text the name may differ from what the one who made it said.
        if !may_close && self.name.is_ascii() && !self.name.contains('?') {
            return Ok(None);
        }
        let listed = lineage.list(&lineage.layout().markers()).await?;
        let markers: Vec<MarkerKey> = listed
            .iter()
            .filter_map(|object| lineage.layout().parse_marker(&object.key))
            .filter(|key| !key.finish)
            .collect();
        let closes = |key: &MarkerKey| key.lsn < self.lsn && finish_point_name(&key.name) == self.name;
        if markers.iter().any(|key| key.tli == self.timeline && key.lsn == self.lsn) {
            Ok(Some(Recorded::Known))
        } else if may_close && markers.iter().any(closes) {
            Ok(Some(Recorded::Finish))
        } else {
            Ok(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::clock::ManualClock;
    use crate::postgres::{ServerVersion, SystemIdentifier, WalSegmentSize};
    use crate::repository::Repository;
    use crate::repository::lineage::{Lineage, LineageId};
    use crate::storage::MemoryStore;

    const TIME: &str = "2026-11-22T11:40:00.123456Z";

    async fn lineage() -> LineageStore {
        let clock = ManualClock::new(TIME.parse().unwrap());
        let repository = Repository::open_or_create(Arc::new(MemoryStore::new()), &clock).await.unwrap();
        let lineage = Lineage {
            cluster: "main".parse().unwrap(),
            lineage: LineageId::new(SystemIdentifier::new(7), 1),
            postgres_version: ServerVersion::new(150_018),
            wal_segment_size: WalSegmentSize::DEFAULT,
            created: TIME.parse().unwrap(),
            restore: None,
        };
        repository.ensure_lineage(&lineage).await.unwrap()
    }

    fn point(name: &[u8], lsn: u64) -> FoundRestorePoint {
        let (lsn, end_lsn) = (Lsn::new(lsn), Lsn::new(lsn + 0x68));
        FoundRestorePoint {
            timeline: TimelineId::FIRST,
            lsn,
            end_lsn,
            name: name_of(name),
            time: TIME.parse().unwrap(),
        }
    }

    async fn markers(lineage: &LineageStore) -> Vec<Marker> {
        let mut found = Vec::new();
        for object in lineage.list(&lineage.layout().markers()).await.unwrap() {
            found.push(lineage.get::<Marker>(&object.key).await.unwrap());
        }
        found
    }

    #[tokio::test]
    async fn becomes_a_marker_once_and_a_namesake_another() {
        let lineage = lineage().await;
        let (first, second) = (point(b"release-42", 0x28), point(b"release-42", 0x1000));
        assert_eq!(first.record(&lineage).await.unwrap(), Recorded::Created);
        assert_eq!(first.record(&lineage).await.unwrap(), Recorded::Known);
        assert_eq!(second.record(&lineage).await.unwrap(), Recorded::Created);
        let markers = markers(&lineage).await;
        let found: Vec<_> = markers.iter().map(|marker| (marker.name.as_str(), marker.lsn, marker.source)).collect();
        let source = MarkerSource::Discovered;
        assert_eq!(found, [("release-42", Lsn::new(0x28), source), ("release-42", Lsn::new(0x1000), source)]);
    }

    #[tokio::test]
    async fn what_was_said_of_a_marker_stays_also_in_another_encoding() {
        let lineage = lineage().await;
        for (said, found, lsn) in [("release-42", &b"release-42"[..], 0x28), ("größe", b"gr\xF6\xDFe", 0x1000)] {
            let point = FoundRestorePoint { name: said.to_owned(), ..point(found, lsn) };
            let key = MarkerKey { tli: point.timeline, lsn: point.lsn, name: said.to_owned(), finish: false };
            let said = Marker {
                name: said.to_owned(),
                timeline: point.timeline,
                lsn: point.lsn,
                end_lsn: point.end_lsn,
                time: point.time,
                source: MarkerSource::Mark,
                who: Some("ci".to_owned()),
                key: Some("job-7".to_owned()),
                meta: BTreeMap::new(),
            };
            lineage.create(&lineage.layout().marker(&key), &said).await.unwrap();
        }
        assert_eq!(point(b"release-42", 0x28).record(&lineage).await.unwrap(), Recorded::Known);
        assert_eq!(point(b"gr\xF6\xDFe", 0x1000).record(&lineage).await.unwrap(), Recorded::Known);
        let sources: Vec<_> = markers(&lineage).await.iter().map(|marker| marker.source).collect();
        assert_eq!(sources, [MarkerSource::Mark, MarkerSource::Mark]);
    }

    #[tokio::test]
    async fn odd_names_have_a_key_and_are_read_back() {
        let lineage = lineage().await;
        let umlauts = "ä".repeat(31);
        let names: [&[u8]; 5] = [b"", b"a\nb/../c", &[0xFF; 63], umlauts.as_bytes(), b"x@0/1"];
        for (name, lsn) in names.into_iter().zip((0x1000..).step_by(0x1000)) {
            assert_eq!(point(name, lsn).record(&lineage).await.unwrap(), Recorded::Created);
            assert_eq!(point(name, lsn).record(&lineage).await.unwrap(), Recorded::Known);
        }
        let listed = lineage.list(&lineage.layout().markers()).await.unwrap();
        // No file system takes longer names.
        assert!(listed.iter().all(|object| object.key.as_str().rsplit('/').next().unwrap().len() <= 255));
        let read: Vec<_> = markers(&lineage).await.into_iter().map(|marker| marker.name.into_bytes()).collect();
        let mut expected: Vec<_> = names.iter().map(|name| name.to_vec()).collect();
        expected[2] = vec![b'?'; 63];
        assert_eq!(read, expected);
    }

    #[tokio::test]
    async fn what_closes_a_marker_is_none() {
        let lineage = lineage().await;
        point(b"release-42", 0x28).record(&lineage).await.unwrap();
        assert_eq!(point(b"finish:release-42", 0x1000).record(&lineage).await.unwrap(), Recorded::Finish);
        assert_eq!(point(b"finish:release-43", 0x2000).record(&lineage).await.unwrap(), Recorded::Created);
    }
}
