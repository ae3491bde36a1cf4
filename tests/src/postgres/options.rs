//! How a server of a test differs from a stock one.

/// A stock server of one major version, and what a test wants otherwise.
#[derive(Debug, Clone)]
pub struct PostgresOptions {
    pub(super) major: u32,
    pub(super) wal_segment_mb: Option<u32>,
    pub(super) checksums: bool,
    pub(super) listen: bool,
    pub(super) conf: Vec<String>,
    pub(super) hba: Option<String>,
    pub(super) directory: &'static str,
}

impl PostgresOptions {
    #[must_use]
    pub const fn of(major: u32) -> Self {
        Self {
            major,
            wal_segment_mb: None,
            checksums: true,
            listen: false,
            conf: Vec::new(),
            hba: None,
            directory: "data",
        }
    }

    /// Segments of another size than 16 MB.
    #[must_use]
    pub const fn wal_segment_mb(mut self, megabytes: u32) -> Self {
        self.wal_segment_mb = Some(megabytes);
        self
    }

    /// No data checksums.
    #[must_use]
    pub const fn without_checksums(mut self) -> Self {
        self.checksums = false;
        self
    }

    /// Another name of the data directory.
    #[must_use]
    pub const fn directory(mut self, name: &'static str) -> Self {
        self.directory = name;
        self
    }

    /// Listens on the loopback address too, not only on its socket.
    #[must_use]
    pub const fn listening(mut self) -> Self {
        self.listen = true;
        self
    }

    /// A line of `postgresql.conf`.
    #[must_use]
    pub fn conf(mut self, line: impl Into<String>) -> Self {
        self.conf.push(line.into());
        self
    }

    /// The whole `pg_hba.conf`, in place of one that trusts everybody.
    #[must_use]
    pub fn hba(mut self, content: impl Into<String>) -> Self {
        self.hba = Some(content.into());
        self
    }
}
