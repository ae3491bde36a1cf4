//! Rows of catalogs by where they stand.

use std::collections::HashMap;

use crate::postgres::relation::Oid;
use crate::postgres::system_catalog::NamingCatalog;
use crate::postgres::wal::heap_row::RowPlace;
use crate::wal_summary::RowBytes;
use crate::wal_summary::catalog::MAX_ROW_BYTES;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place {
    pub database: Oid,
    pub catalog: NamingCatalog,
    pub place: RowPlace,
}

/// A row stays until another one takes its place: a transaction that replaced it may yet be rolled back.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    rows: HashMap<Place, RowBytes>,
}

impl Rows {
    /// One that could not be read is none.
    pub fn set(&mut self, place: Place, row: RowBytes) {
        if row.length == 0 {
            self.rows.remove(&place);
        } else {
            self.rows.insert(place, row);
        }
    }

    pub fn get(&self, place: Place) -> Option<&RowBytes> {
        self.rows.get(&place)
    }

    pub fn of(&self, database: Oid, catalog: NamingCatalog) -> impl Iterator<Item = &RowBytes> {
        let of = move |place: &Place| place.database == database && place.catalog == catalog;
        self.rows.iter().filter(move |(place, _)| of(place)).map(|(_, row)| row)
    }

    pub fn copy_database(&mut self, from: Oid, to: Oid) {
        let copied = self.rows.iter().filter(|(place, _)| place.database == from);
        let copied: Vec<_> = copied.map(|(place, row)| (Place { database: to, ..*place }, row.clone())).collect();
        self.rows.extend(copied);
    }
}

/// The new row, which begins and ends as the old one does. None where what is kept of the old one does not reach that far.
pub fn splice(old: &RowBytes, prefix: u16, suffix: u16, middle: &RowBytes) -> Option<RowBytes> {
    let (prefix, suffix) = (usize::from(prefix), usize::from(suffix));
    let (old_length, middle_length) = (usize::try_from(old.length).ok()?, usize::try_from(middle.length).ok()?);
    let suffix_from = old_length.checked_sub(suffix)?;
    let length = prefix.checked_add(middle_length)?.checked_add(suffix)?;
    let byte = |at: usize| {
        if at < prefix {
            old.bytes.get(at)
        } else if at < prefix + middle_length {
            middle.bytes.get(at - prefix)
        } else {
            old.bytes.get(suffix_from + (at - prefix - middle_length))
        }
    };
    let bytes: Vec<u8> = (0..length.min(MAX_ROW_BYTES)).map_while(|at| byte(at).copied()).collect();
    Some(RowBytes { length: u32::try_from(length).ok()?, bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_put_together_from_the_old_one() {
        let old = RowBytes::of(b"name=old;rest");
        let new = splice(&old, 5, 5, &RowBytes::of(b"newer")).unwrap();
        assert_eq!((new.bytes.as_slice(), new.length), (&b"name=newer;rest"[..], 15));
        let same = splice(&old, 13, 0, &RowBytes::default()).unwrap();
        assert_eq!(same, old);
        assert_eq!(splice(&old, 0, 14, &RowBytes::default()), None);
    }
}
