//! Reads fixed-width fields of PostgreSQL's on-disk structures, which are little endian on every supported platform.
//!
//! Nothing here panics on short input: a field that is not wholly there is `None`.

use super::Lsn;

/// Takes fields from the front of a byte slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    #[inline]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// From `offset` on; none where `bytes` is shorter.
    #[inline]
    pub fn at(bytes: &'a [u8], offset: usize) -> Option<Self> {
        bytes.get(offset..).map(Self::new)
    }

    #[inline]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*head)
    }

    #[inline]
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(head)
    }

    #[inline]
    pub fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    #[inline]
    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    #[inline]
    pub fn lsn(&mut self) -> Option<Lsn> {
        self.u64().map(Lsn::new)
    }

    /// An `int` that counts items of `size` bytes, and those items.
    pub fn counted(&mut self, size: usize) -> Option<&'a [u8]> {
        let count = usize::try_from(self.i32()?).ok()?;
        self.bytes(count.checked_mul(size)?)
    }

    /// The bytes before the next NUL, which is taken too.
    pub fn c_string(&mut self) -> Option<&'a [u8]> {
        let end = self.rest.iter().position(|byte| *byte == 0)?;
        let text = self.bytes(end)?;
        self.u8()?;
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_is_not_whole_is_none_and_takes_nothing() {
        let mut fields = Fields::new(&[1, 0, 7]);
        assert_eq!(fields.u32(), None);
        assert_eq!(fields.u16(), Some(1));
        assert_eq!(fields.u16(), None);
        assert_eq!(fields.u8(), Some(7));
        assert_eq!(fields.u8(), None);
        assert!(Fields::at(&[1, 2], 3).is_none());
    }

    #[test]
    fn counts_are_checked_against_what_is_there() {
        let count = |count: i32, bytes: usize| {
            let mut input = count.to_le_bytes().to_vec();
            input.resize(4 + bytes, 0);
            Fields::new(&input).counted(12).map(<[u8]>::len)
        };
        assert_eq!(count(2, 24), Some(24));
        assert_eq!(count(2, 23), None);
        assert_eq!(count(-1, 24), None);
        assert_eq!(count(i32::MAX, 24), None);
    }

    #[test]
    fn strings_need_their_end() {
        let mut fields = Fields::new(b"abc\0\0rest");
        assert_eq!(fields.c_string(), Some(&b"abc"[..]));
        assert_eq!(fields.c_string(), Some(&b""[..]));
        assert_eq!(fields.c_string(), None);
        assert_eq!(fields.rest(), b"rest");
    }
}
