//! Rows on a page of a table (`bufpage.h`, `htup_details.h`).

use super::fields::Fields;
use super::page::Page;
use super::{PAGE_SIZE, TransactionId};

const PAGE_HEADER_SIZE: usize = 24;
const LINE_POINTER_SIZE: usize = 4;
/// `SizeofHeapTupleHeader`.
pub(super) const ROW_HEADER_SIZE: usize = 23;
/// `LP_NORMAL`.
const NORMAL: u32 = 1;

const XMIN_COMMITTED: u16 = 0x0100;
const XMIN_INVALID: u16 = 0x0200;
const XMAX_COMMITTED: u16 = 0x0400;
const XMAX_INVALID: u16 = 0x0800;
const XMAX_IS_MULTI: u16 = 0x1000;
const XMAX_LOCK_ONLY: u16 = 0x0080;

/// What the page itself says of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hint {
    Committed,
    /// Rolled back, or never was.
    Invalid,
    Ask(TransactionId),
}

/// A version of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeapRow<'a> {
    /// Number of its line pointer, from 1.
    pub offset: u16,
    /// Who made it.
    pub inserted: Hint,
    /// Who made it go away, or replaced it.
    pub deleted: Hint,
    /// What stands behind the header and the bitmap of nulls.
    pub data: &'a [u8],
}

/// The rows of a page; those that cannot be read are left out.
pub fn rows(page: &Page) -> impl Iterator<Item = HeapRow<'_>> {
    let lower = Fields::at(page, 12).and_then(|mut fields| fields.u16()).map_or(0, usize::from);
    let count = lower.min(PAGE_SIZE).saturating_sub(PAGE_HEADER_SIZE) / LINE_POINTER_SIZE;
    (1..=count).filter_map(|number| row(page, u16::try_from(number).ok()?))
}

/// One row of a page.
#[must_use]
pub fn row(page: &Page, offset: u16) -> Option<HeapRow<'_>> {
    let place = PAGE_HEADER_SIZE + usize::from(offset.checked_sub(1)?) * LINE_POINTER_SIZE;
    let pointer = Fields::at(page, place)?.u32()?;
    if pointer >> 15 & 0x3 != NORMAL {
        return None;
    }
    let (start, length) = ((pointer & 0x7FFF) as usize, (pointer >> 17) as usize);
    parse(offset, page.get(start..start.checked_add(length)?)?)
}

fn parse(offset: u16, bytes: &[u8]) -> Option<HeapRow<'_>> {
    let mut fields = Fields::new(bytes);
    let (xmin, xmax) = (TransactionId::new(fields.u32()?), TransactionId::new(fields.u32()?));
    let info = Fields::at(bytes, 20)?.u16()?;
    let data = data(bytes)?;
    Some(HeapRow { offset, inserted: inserted(info, xmin), deleted: deleted(info, xmax), data })
}

/// What stands behind the header of a row and its bitmap of nulls.
#[must_use]
pub fn data(bytes: &[u8]) -> Option<&[u8]> {
    let start = usize::from(*bytes.get(ROW_HEADER_SIZE - 1)?);
    if start < ROW_HEADER_SIZE { None } else { bytes.get(start..) }
}

/// Both bits together mean frozen.
fn inserted(info: u16, xmin: TransactionId) -> Hint {
    if info & XMIN_COMMITTED != 0 || !xmin.is_normal() {
        Hint::Committed
    } else if info & XMIN_INVALID != 0 {
        Hint::Invalid
    } else {
        Hint::Ask(xmin)
    }
}

/// Catalogs are changed under locks on whole relations: a multixact only ever locked the row.
fn deleted(info: u16, xmax: TransactionId) -> Hint {
    if info & (XMAX_INVALID | XMAX_LOCK_ONLY | XMAX_IS_MULTI) != 0 || !xmax.is_normal() {
        Hint::Invalid
    } else if info & XMAX_COMMITTED != 0 {
        Hint::Committed
    } else {
        Hint::Ask(xmax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(rows: &[(u32, u32, u16, &[u8])]) -> Page {
        let mut page = [0; PAGE_SIZE];
        let lower = PAGE_HEADER_SIZE + rows.len() * 4;
        page[12..14].copy_from_slice(&(lower as u16).to_le_bytes());
        let mut end = PAGE_SIZE;
        for (index, (xmin, xmax, info, data)) in rows.iter().enumerate() {
            let length = 24 + data.len();
            end -= length;
            let pointer = end as u32 | NORMAL << 15 | (length as u32) << 17;
            page[PAGE_HEADER_SIZE + index * 4..][..4].copy_from_slice(&pointer.to_le_bytes());
            let row = &mut page[end..end + length];
            row[..4].copy_from_slice(&xmin.to_le_bytes());
            row[4..8].copy_from_slice(&xmax.to_le_bytes());
            row[20..22].copy_from_slice(&info.to_le_bytes());
            row[22] = 24;
            row[24..].copy_from_slice(data);
        }
        page
    }

    #[test]
    fn rows_say_who_made_and_who_removed_them() {
        let page = page(&[
            (700, 0, XMAX_INVALID, b"new"),
            (2, 701, XMIN_COMMITTED | XMIN_INVALID, b"going"),
            (699, 702, XMIN_COMMITTED | XMAX_LOCK_ONLY, b"locked"),
            (698, 703, XMIN_INVALID | XMAX_COMMITTED, b"dead"),
        ]);
        let found: Vec<_> = rows(&page).map(|row| (row.offset, row.inserted, row.deleted, row.data.to_vec())).collect();
        let ask = |xid| Hint::Ask(TransactionId::new(xid));
        assert_eq!(
            found,
            [
                (1, ask(700), Hint::Invalid, b"new".to_vec()),
                (2, Hint::Committed, ask(701), b"going".to_vec()),
                (3, Hint::Committed, Hint::Invalid, b"locked".to_vec()),
                (4, Hint::Invalid, Hint::Committed, b"dead".to_vec()),
            ]
        );
        assert!(row(&page, 0).is_none() && row(&page, 5).is_none());
    }

    proptest::proptest! {
        #[test]
        fn garbage_never_panics(seed in proptest::prelude::any::<u64>()) {
            let mut state = seed | 1;
            let page: Page = std::array::from_fn(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                (state >> 56) as u8
            });
            let _ = rows(&page).count();
        }
    }
}
