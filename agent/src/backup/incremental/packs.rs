//! Short numbers for the packs that extents name while a backup is being made.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use pitr::repository::backup::{BackupId, PackId};

/// Numbers from here on are those of other backups' packs; below, they are the numbers of this backup's own.
const OTHERS: u32 = 1 << 31;

/// All packs that a backup in the making refers to.
#[derive(Debug)]
pub struct Packs {
    backup: BackupId,
    others: Mutex<Others>,
}

#[derive(Debug, Default)]
struct Others {
    ids: Vec<PackId>,
    numbers: HashMap<PackId, u32>,
}

impl Packs {
    #[must_use]
    pub fn new(backup: BackupId) -> Self {
        Self { backup, others: Mutex::default() }
    }

    /// The number of another backup's pack, given when it is first asked for.
    pub fn number(&self, id: &PackId) -> u32 {
        let mut others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = others.numbers.get(id) {
            return *number;
        }
        let number = OTHERS | u32::try_from(others.ids.len()).unwrap_or(u32::MAX);
        others.ids.push(id.clone());
        others.numbers.insert(id.clone(), number);
        number
    }

    /// Whether the number is that of another backup's pack.
    #[must_use]
    pub const fn is_other(number: u32) -> bool {
        number >= OTHERS
    }

    /// The pack of a number that was given, or of this backup.
    #[must_use]
    pub fn id(&self, number: u32) -> PackId {
        if Self::is_other(number) {
            let others = self.others.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(id) = others.ids.get((number - OTHERS) as usize) {
                return id.clone();
            }
        }
        PackId { backup: self.backup.clone(), number }
    }
}
