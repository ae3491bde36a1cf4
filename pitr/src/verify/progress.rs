//! How far a verification is.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Documents,
    Backups,
    Maps,
    Packs,
    Wal,
    Losses,
}

/// How far it is: objects or bytes, by the phase; a total of 0 is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    pub phase: Phase,
    pub done: u64,
    pub total: u64,
}

impl Phase {
    /// Whether [`Step`] counts bytes.
    #[must_use]
    pub const fn counts_bytes(self) -> bool {
        matches!(self, Self::Packs | Self::Wal)
    }
}

/// Where steps go.
pub(super) type Observe<'a> = &'a (dyn Fn(Step) + Send + Sync);
