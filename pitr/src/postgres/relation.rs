//! How relations are named on disk and in the WAL.

use std::fmt;

use serde::{Deserialize, Serialize};

/// `Oid`.
pub type Oid = u32;

/// Tablespace `pg_default`, whose files are under `base/`.
pub const DEFAULT_TABLESPACE: Oid = 1663;
/// Tablespace `pg_global`, whose files are under `global/`; its relations belong to database 0.
pub const GLOBAL_TABLESPACE: Oid = 1664;

/// Where the files of a relation are (`RelFileLocator`, `RelFileNode` before 16).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RelationLocator {
    pub tablespace: Oid,
    /// Zero for shared relations.
    pub database: Oid,
    pub relfilenode: Oid,
}

impl fmt::Display for RelationLocator {
    /// As `pg_waldump` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.tablespace, self.database, self.relfilenode)
    }
}

/// `ForkNumber`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Fork {
    Main,
    /// Free space map; not WAL-logged.
    Fsm,
    /// Visibility map.
    Vm,
    /// What an unlogged relation is reset to.
    Init,
}

impl Fork {
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Main),
            1 => Some(Self::Fsm),
            2 => Some(Self::Vm),
            3 => Some(Self::Init),
            _ => None,
        }
    }

    /// What stands between relfilenode and segment in the name of the file.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Main => "",
            Self::Fsm => "_fsm",
            Self::Vm => "_vm",
            Self::Init => "_init",
        }
    }
}
