//! Sets that name a few of their members only, because a record may have any number of them.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The smallest members of a set, and whether there were more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(bound(deserialize = "T: Deserialize<'de> + Ord"))]
pub struct Listed<T> {
    members: BTreeSet<T>,
    more: bool,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { members: BTreeSet::new(), more: false }
    }
}

impl<T: Ord + Copy> Listed<T> {
    /// How many members are named at most.
    pub const LIMIT: usize = 64;

    pub(super) fn insert(&mut self, member: T) {
        self.members.insert(member);
        if self.members.len() > Self::LIMIT {
            self.members.pop_last();
            self.more = true;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.more |= other.more;
        for member in &other.members {
            self.insert(*member);
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = T> + '_ {
        self.members.iter().copied()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// There were members that are not named.
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.more
    }
}

impl<T: Ord + Copy> FromIterator<T> for Listed<T> {
    fn from_iter<I: IntoIterator<Item = T>>(members: I) -> Self {
        let mut listed = Self::default();
        for member in members {
            listed.insert(member);
        }
        listed
    }
}
