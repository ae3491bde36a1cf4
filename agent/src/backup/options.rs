//! How backups are taken.

use std::time::Duration;

/// Memory that a copy needs: the listing and maps at work, a frame and zstd's tables for each thread, a pack.
const OTHER_BYTES: u64 = 16 << 20;
const THREAD_BYTES: u64 = 3 << 20;
const PACK_BUFFER_BYTES: u64 = 18 << 20;
const MAX_PACK_BUFFERS: usize = 64;

/// What the configuration says of backups, but when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    pub threads: usize,
    /// By how much the threads that copy yield to others, from 0 to 19.
    pub nice: u8,
    pub compression_level: i32,
    /// Bytes a second that go to the repository, at most.
    pub bandwidth_limit: Option<u64>,
    /// Packs in memory at the same time, of some 17 MB each; at least one more than threads.
    pub pack_buffers: usize,
    /// How long to wait for WAL to reach the repository: before anything is copied, and at the end.
    pub archive_timeout: Duration,
    /// After so long a backup shares nothing with earlier ones; none: only the first one, or one that is told to.
    pub fresh_every: Option<Duration>,
    /// Bytes taken for unchanged that are read all the same, and held against the parent's.
    pub sample_bytes: u64,
}

impl Default for BackupOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
        Self::with_threads(cores.min(4))
    }
}

impl BackupOptions {
    #[must_use]
    pub const fn with_threads(threads: usize) -> Self {
        Self {
            threads,
            nice: 10,
            compression_level: 1,
            bandwidth_limit: None,
            pack_buffers: threads + 2,
            archive_timeout: Duration::from_secs(3600),
            fresh_every: None,
            sample_bytes: 64 << 20,
        }
    }

    /// Takes as many packs into memory as fit in `bytes`, together with what else a copy needs.
    #[must_use]
    pub fn memory_limit(mut self, bytes: u64) -> Self {
        let packs = bytes.saturating_sub(OTHER_BYTES + self.threads as u64 * THREAD_BYTES) / PACK_BUFFER_BYTES;
        self.pack_buffers = usize::try_from(packs).unwrap_or(usize::MAX).clamp(self.threads + 1, MAX_PACK_BUFFERS);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packs_in_memory_follow_the_limit() {
        let buffers =
            |threads, mebibytes: u64| BackupOptions::with_threads(threads).memory_limit(mebibytes << 20).pack_buffers;
        assert_eq!(buffers(2, 96), 4);
        assert_eq!(buffers(2, 0), 3);
        assert_eq!(buffers(4, 256), 12);
        assert_eq!(buffers(2, 1 << 20), MAX_PACK_BUFFERS);
    }
}
