//! All objects of a lineage, judged and counted.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use serde::{Deserialize, Serialize};

use crate::repository::{LineageObject, LineageStore, Result};
use crate::retention::{Fate, Judge, ObjectReason};

/// Kinds of objects as a person counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectKind {
    BackupDescriptor,
    BackupContents,
    Pack,
    Map,
    WalSegment,
    WalTail,
    WalFile,
    History,
    WalSummary,
    Marker,
    Gap,
    Pin,
    Condemnation,
    Certificate,
    Lineage,
    Unknown,
}

impl ObjectKind {
    #[must_use]
    pub const fn of(object: Option<&LineageObject>) -> Self {
        match object {
            None => Self::Unknown,
            Some(LineageObject::Lineage | LineageObject::Lease) => Self::Lineage,
            Some(LineageObject::Segment(_)) => Self::WalSegment,
            Some(LineageObject::Tail { .. }) => Self::WalTail,
            Some(LineageObject::History(_)) => Self::History,
            Some(LineageObject::WalFile(_)) => Self::WalFile,
            Some(LineageObject::Summary(_)) => Self::WalSummary,
            Some(LineageObject::Intent(_) | LineageObject::Manifest(_)) => Self::BackupDescriptor,
            Some(LineageObject::Contents(_) | LineageObject::Progress { .. }) => Self::BackupContents,
            Some(LineageObject::Pack(_)) => Self::Pack,
            Some(LineageObject::Map(_)) => Self::Map,
            Some(LineageObject::Marker(_)) => Self::Marker,
            Some(LineageObject::Gap(_)) => Self::Gap,
            Some(LineageObject::Restore) => Self::Certificate,
            Some(LineageObject::Pin(_) | LineageObject::PinRelease(_)) => Self::Pin,
            Some(LineageObject::Condemnation(_)) => Self::Condemnation,
        }
    }

    /// In words: one of them.
    #[must_use]
    pub const fn noun(self) -> &'static str {
        match self {
            Self::BackupDescriptor => "backup descriptor",
            Self::BackupContents => "backup contents",
            Self::Pack => "pack",
            Self::Map => "file map",
            Self::WalSegment => "WAL segment",
            Self::WalTail => "WAL tail",
            Self::WalFile => "other WAL file",
            Self::History => "history file",
            Self::WalSummary => "WAL summary",
            Self::Marker => "marker",
            Self::Gap => "gap note",
            Self::Pin => "pin",
            Self::Condemnation => "condemnation",
            Self::Certificate => "certificate",
            Self::Lineage => "lineage document",
            Self::Unknown => "unknown object",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ObjectCount {
    pub objects: u64,
    pub bytes: u64,
}

impl ObjectCount {
    pub const fn add(&mut self, bytes: u64) {
        self.objects += 1;
        self.bytes += bytes;
    }
}

/// How many objects have which fate, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    pub counts: BTreeMap<(Fate, ObjectKind, ObjectReason), ObjectCount>,
}

impl Survey {
    #[must_use]
    pub fn total(&self, fate: Fate) -> ObjectCount {
        let mut total = ObjectCount::default();
        for (_, count) in self.counts.iter().filter(|((found, _, _), _)| *found == fate) {
            total.objects += count.objects;
            total.bytes += count.bytes;
        }
        total
    }
}

/// Judges every object of the lineage, and changes nothing.
///
/// # Errors
/// The store fails.
pub async fn survey(lineage: &LineageStore, judge: &Judge) -> Result<Survey> {
    let mut survey = Survey::default();
    let root = lineage.layout().root();
    let mut listed = lineage.store().list(&root);
    while let Some(meta) = listed.try_next().await? {
        let judged = judge.judge(&meta);
        let place = (judged.fate, ObjectKind::of(judged.object.as_ref()), judged.reason);
        survey.counts.entry(place).or_default().add(meta.size_bytes);
    }
    Ok(survey)
}
