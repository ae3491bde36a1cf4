//! Rows of the system catalogs that name relations (`pg_class.h`, `pg_namespace.h`, `pg_database.h`), and the map of those
//! that have no place of their own in `pg_class` (`relmapper.c`).
//!
//! Only columns that come before the first one that may be null are read: they stand at fixed places.

use serde::{Deserialize, Serialize};

use super::MajorVersion;
use super::fields::Fields;
use super::relation::Oid;

/// `NAMEDATALEN`.
const NAME_SIZE: usize = 64;

/// `FirstNormalObjectId`: objects with lower numbers are those that `initdb` made.
pub const FIRST_NORMAL_OID: Oid = 16_384;
/// `PG_CATALOG_NAMESPACE`, `PG_TOAST_NAMESPACE`, `PG_PUBLIC_NAMESPACE`.
pub const PG_CATALOG: Oid = 11;
pub const PG_TOAST: Oid = 99;
pub const PUBLIC: Oid = 2200;

/// A catalog that names things.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NamingCatalog {
    Class,
    Namespace,
    Database,
}

impl NamingCatalog {
    /// Its OID, which is the number of its file as `initdb` made it.
    #[must_use]
    pub const fn oid(self) -> Oid {
        match self {
            Self::Class => 1259,
            Self::Namespace => 2615,
            Self::Database => 1262,
        }
    }

    #[must_use]
    pub const fn of_file(relfilenode: Oid) -> Option<Self> {
        match relfilenode {
            1259 => Some(Self::Class),
            2615 => Some(Self::Namespace),
            1262 => Some(Self::Database),
            _ => None,
        }
    }
}

/// `relkind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    Table,
    PartitionedTable,
    MaterializedView,
    View,
    ForeignTable,
    Sequence,
    Index,
    Toast,
    CompositeType,
    Other,
}

impl RelationKind {
    const fn of(letter: u8) -> Self {
        match letter {
            b'r' => Self::Table,
            b'p' => Self::PartitionedTable,
            b'm' => Self::MaterializedView,
            b'v' => Self::View,
            b'f' => Self::ForeignTable,
            b'S' => Self::Sequence,
            b'i' | b'I' => Self::Index,
            b't' => Self::Toast,
            b'c' => Self::CompositeType,
            _ => Self::Other,
        }
    }

    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            Self::Table | Self::PartitionedTable => "table",
            Self::MaterializedView => "materialized view",
            Self::View => "view",
            Self::ForeignTable => "foreign table",
            Self::Sequence => "sequence",
            Self::Index => "index",
            Self::Toast => "TOAST table",
            Self::CompositeType => "type",
            Self::Other => "relation",
        }
    }
}

/// `relpersistence`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Persistence {
    Permanent,
    Unlogged,
    Temporary,
}

/// A row of `pg_class`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassRow {
    pub oid: Oid,
    pub name: String,
    pub namespace: Oid,
    /// Zero for relations without a file, and for mapped ones.
    pub relfilenode: Oid,
    /// Zero for that of the database.
    pub tablespace: Oid,
    pub persistence: Persistence,
    pub kind: RelationKind,
}

impl ClassRow {
    /// From a row's data, as `major` writes it. None where it is no row of `pg_class`.
    #[must_use]
    pub fn parse(data: &[u8], major: MajorVersion) -> Option<Self> {
        // 18 put `relallfrozen` before the columns told last.
        let persistence_offset = if major >= MajorVersion::V18 { 118 } else { 114 };
        let (oid, name) = named(data)?;
        let word = |offset: usize| Fields::at(data, offset)?.u32();
        let mut letters = Fields::at(data, persistence_offset)?;
        let persistence = match letters.u8()? {
            b'p' => Persistence::Permanent,
            b'u' => Persistence::Unlogged,
            b't' => Persistence::Temporary,
            _ => return None,
        };
        let kind = RelationKind::of(letters.u8()?);
        let (namespace, relfilenode, tablespace) = (word(68)?, word(88)?, word(92)?);
        Some(Self { oid, name, namespace, relfilenode, tablespace, persistence, kind })
    }
}

/// OID and name, with which rows of all three catalogs begin.
#[must_use]
pub fn named(data: &[u8]) -> Option<(Oid, String)> {
    let mut fields = Fields::new(data);
    let oid = fields.u32().filter(|oid| *oid != 0)?;
    let room = fields.bytes(NAME_SIZE)?;
    let end = room.iter().position(|byte| *byte == 0)?;
    let (name, padding) = room.split_at(end);
    let valid = !name.is_empty() && padding.iter().all(|byte| *byte == 0);
    valid.then(|| (oid, String::from_utf8_lossy(name).into_owned()))
}

/// `dattablespace` of a row of `pg_database`: where the catalogs of the database are.
#[must_use]
pub fn database_tablespace(data: &[u8], major: MajorVersion) -> Option<Oid> {
    // 15 turned collations into text, which stands behind the columns of fixed width.
    let offset = if major >= MajorVersion::V15 { 92 } else { 224 };
    Fields::at(data, offset)?.u32()
}

/// `RELMAPPER_FILEMAGIC`.
const MAP_MAGIC: u32 = 0x0059_2717;

/// Where a `pg_filenode.map` puts a catalog. None where it is no map, or does not map it.
#[must_use]
pub fn mapped_file(map: &[u8], catalog: NamingCatalog) -> Option<Oid> {
    let mut fields = Fields::new(map);
    let magic = fields.u32()?;
    let count = usize::try_from(fields.i32()?).ok()?;
    let (pairs, _) = fields.bytes(count.checked_mul(8)?)?.as_chunks::<8>();
    let mut pairs = pairs.iter().filter(|_| magic == MAP_MAGIC).map(|pair| {
        let mut pair = Fields::new(pair);
        (pair.u32(), pair.u32())
    });
    pairs.find(|(oid, _)| *oid == Some(catalog.oid()))?.1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(major: MajorVersion) -> Vec<u8> {
        let mut data = vec![0; 130];
        data[..4].copy_from_slice(&16_400_u32.to_le_bytes());
        data[4..10].copy_from_slice(b"orders");
        data[68..72].copy_from_slice(&2200_u32.to_le_bytes());
        data[88..92].copy_from_slice(&16_402_u32.to_le_bytes());
        let at = if major == MajorVersion::V18 { 118 } else { 114 };
        data[at..at + 2].copy_from_slice(b"pr");
        data
    }

    #[test]
    fn rows_of_pg_class_are_read() {
        for major in MajorVersion::ALL {
            let row = ClassRow::parse(&class(major), major).unwrap();
            assert_eq!((row.oid, row.name.as_str(), row.relfilenode), (16_400, "orders", 16_402));
            assert_eq!((row.kind, row.persistence), (RelationKind::Table, Persistence::Permanent));
        }
        assert_eq!(ClassRow::parse(&class(MajorVersion::V17), MajorVersion::V18), None);
    }

    #[test]
    fn what_is_no_name_is_none() {
        let mut data = class(MajorVersion::V15);
        data[20] = b'x';
        assert_eq!(named(&data), None, "something stands behind the end of the name");
        assert_eq!(named(&[1, 0, 0, 0]), None);
    }

    #[test]
    fn maps_are_read() {
        let mut map = vec![0; 524];
        map[..4].copy_from_slice(&MAP_MAGIC.to_le_bytes());
        map[4] = 2;
        map[8..12].copy_from_slice(&1249_u32.to_le_bytes());
        map[16..20].copy_from_slice(&1259_u32.to_le_bytes());
        map[20..24].copy_from_slice(&16_390_u32.to_le_bytes());
        assert_eq!(mapped_file(&map, NamingCatalog::Class), Some(16_390));
        assert_eq!(mapped_file(&map, NamingCatalog::Database), None);
        map[7] = 0x7F;
        assert_eq!(mapped_file(&map, NamingCatalog::Class), None);
    }
}
