//! Markers: named moments.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::Document;
use super::layout::MarkerKey;
use crate::postgres::{Lsn, TimelineId};

/// How a marker came to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MarkerSource {
    /// `pitr mark`.
    Mark,
    /// A restore point that another client made, found in the WAL.
    Discovered,
}

/// A named moment: the record of a restore point.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Marker {
    pub name: String,
    pub timeline: TimelineId,
    /// Where the restore point's record **starts**; recovery to it is inclusive. What `pg_create_restore_point` returns is
    /// the record's end, and recovery to that would replay one more record.
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    /// The time in the restore point's record, by the server's clock.
    pub time: DateTime<Utc>,
    pub source: MarkerSource,
    /// Who asked: user and host of the client.
    pub who: Option<String>,
    /// Given by the client so that a retry finds the first marker again.
    pub key: Option<String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

impl Document for Marker {
    const KIND: &'static str = "marker";
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok,
    Failed,
}

/// The end of what a marker began, with a restore point of its own: "after" a marker means up to here.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Finish {
    /// The marker that it closes; none in what earlier versions wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub marker: Option<MarkerName>,
    pub outcome: Outcome,
    pub timeline: TimelineId,
    pub lsn: Lsn,
    pub end_lsn: Lsn,
    pub time: DateTime<Utc>,
    pub who: Option<String>,
    #[serde(default)]
    pub meta: BTreeMap<String, String>,
}

/// What tells a marker from others of its lineage.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct MarkerName {
    pub name: String,
    pub timeline: TimelineId,
    pub lsn: Lsn,
}

impl Marker {
    #[must_use]
    pub fn name(&self) -> MarkerName {
        MarkerName { name: self.name.clone(), timeline: self.timeline, lsn: self.lsn }
    }
}

impl Finish {
    /// Whether it may be what stands at `key`.
    #[must_use]
    pub fn closes(&self, key: &MarkerKey) -> bool {
        self.marker.as_ref().is_none_or(|own| own.name == key.name && (own.timeline, own.lsn) == (key.tli, key.lsn))
    }
}

impl Document for Finish {
    const KIND: &'static str = "marker-finish";
}

/// A marker with its finish, if it has one.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FinishedMarker {
    #[serde(flatten)]
    pub marker: Marker,
    pub finish: Option<Finish>,
}

/// The name of the restore point that closes the marker `name`: within the 63 bytes that one can have.
#[must_use]
pub fn finish_point_name(name: &str) -> String {
    const MAX_NAME_BYTES: usize = 63;
    let mut point = format!("finish:{name}");
    while point.len() > MAX_NAME_BYTES {
        point.pop();
    }
    point
}
