//! What a commit tells other sessions to forget (`src/include/storage/sinval.h`).

use crate::postgres::relation::Oid;

pub(super) const INVALIDATION_SIZE: usize = 16;
/// `SHAREDINVALRELCACHE_ID`: a relation's entry in the relation cache. Zero as its OID means all.
const RELATION_CACHE: i8 = -2;

/// Invalidation messages as they stand in a record (`SharedInvalidationMessage`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Invalidations<'a>(pub(super) &'a [u8]);

impl<'a> Invalidations<'a> {
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub const fn len(&self) -> usize {
        self.0.len() / INVALIDATION_SIZE
    }

    /// `pg_class.oid` of the relations that are to be forgotten.
    pub fn relations(&self) -> impl Iterator<Item = Oid> + use<'a> {
        let (messages, _) = self.0.as_chunks::<INVALIDATION_SIZE>();
        messages.iter().filter_map(|message| {
            let (words, _) = message.as_chunks::<4>();
            let [[kind, ..], _, relation, _] = words else { return None };
            let relation = Oid::from_le_bytes(*relation);
            (i8::from_le_bytes([*kind]) == RELATION_CACHE && relation != 0).then_some(relation)
        })
    }
}
