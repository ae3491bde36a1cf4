//! What one object was called, and since when.

use crate::postgres::Lsn;

/// What is known of an object from some position on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Version<T> {
    Is(T),
    Gone,
    /// It was changed in a way that could not be read.
    Unknown,
}

impl<T> Version<T> {
    pub const fn known(&self) -> Option<&T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Gone | Self::Unknown => None,
        }
    }
}

/// Versions by the position of the commit that made them; [`Lsn::INVALID`] is that of the copy which all began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History<T> {
    versions: Vec<(Lsn, Version<T>)>,
}

impl<T> Default for History<T> {
    fn default() -> Self {
        Self { versions: Vec::new() }
    }
}

impl<T> History<T> {
    /// Up to `keep_from` only the last version matters.
    pub fn push(&mut self, lsn: Lsn, version: Version<T>, keep_from: Lsn) {
        if lsn < keep_from {
            self.versions.clear();
        }
        self.versions.push((lsn, version));
    }

    pub fn last(&self) -> Option<&Version<T>> {
        self.versions.last().map(|(_, version)| version)
    }

    /// What it was to a commit at `lsn` or later, if not changed before that.
    pub fn before(&self, lsn: Lsn) -> Option<&Version<T>> {
        let count = self.versions.partition_point(|(at, _)| *at < lsn);
        count.checked_sub(1).and_then(|last| self.versions.get(last)).map(|(_, version)| version)
    }

    /// The last version before `lsn` in which it was something.
    pub fn last_known_before(&self, lsn: Lsn) -> Option<&T> {
        let before = self.versions.iter().rev().filter(|(at, _)| *at < lsn);
        before.take_while(|(_, version)| !matches!(version, Version::Unknown)).find_map(|(_, version)| version.known())
    }
}
