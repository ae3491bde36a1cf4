//! What a server is to a backup.

/// Two servers may take part: the one whose backup it is, and the one whose files are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRole {
    /// Holds the backup open, and its files here are read.
    Primary,
    /// Holds the backup open; the files are those of a standby. It may be on any host.
    DistantPrimary,
    /// Lends its files.
    Standby,
}

impl ServerRole {
    pub(super) const fn in_recovery(self) -> bool {
        matches!(self, Self::Standby)
    }

    /// Whether the data directory that it names is one of this host.
    pub(super) const fn is_here(self) -> bool {
        !matches!(self, Self::DistantPrimary)
    }
}
