//! Large buffers that are used again.
//!
//! A buffer of megabytes that comes from the system is paid for page by page when it is written for the first time, and again
//! when it goes back: more than what is done with it costs, where that is a copy. So whoever takes one after the other keeps
//! them here for a while. [`BufferPool::forget_unused`] gives back what nobody took meanwhile.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

/// A shelf of buffers. Cheap to clone; all clones share what they have.
#[derive(Clone, Default)]
pub struct BufferPool(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    /// The one that was used last is the last.
    buffers: Vec<Vec<u8>>,
    /// The least that lay here at once since it was last asked.
    unused: usize,
}

impl BufferPool {
    /// An empty buffer with room for `capacity` bytes at least.
    #[must_use]
    pub fn take(&self, capacity: usize) -> PooledBuffer {
        let kept = {
            let mut shelf = self.shelf();
            let place = shelf.buffers.iter().rposition(|buffer| buffer.capacity() >= capacity);
            let kept = place.map(|place| shelf.buffers.remove(place));
            shelf.unused = shelf.unused.min(shelf.buffers.len());
            kept
        };
        // Only the pages that are written take memory.
        let bytes = kept.unwrap_or_else(|| Vec::with_capacity(capacity));
        PooledBuffer { bytes, pool: self.clone() }
    }

    /// Gives back to the system what lay here all the time since this was last called.
    pub fn forget_unused(&self) {
        let forgotten: Vec<_> = {
            let mut shelf = self.shelf();
            let count = shelf.unused.min(shelf.buffers.len());
            let forgotten = shelf.buffers.drain(..count).collect();
            shelf.unused = shelf.buffers.len();
            forgotten
        };
        drop(forgotten);
    }

    fn shelf(&self) -> std::sync::MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BufferPool").field("kept", &self.shelf().buffers.len()).finish()
    }
}

/// A buffer that goes back to its pool when it is dropped.
pub struct PooledBuffer {
    bytes: Vec<u8>,
    pool: BufferPool,
}

impl Deref for PooledBuffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for PooledBuffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for PooledBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<PooledBuffer> for bytes::Bytes {
    /// The buffer goes back when the last clone is dropped.
    fn from(buffer: PooledBuffer) -> Self {
        Self::from_owner(buffer)
    }
}

impl Drop for PooledBuffer {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        self.pool.shelf().buffers.push(bytes);
    }
}

impl fmt::Debug for PooledBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PooledBuffer").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn kept(pool: &BufferPool) -> usize {
        pool.shelf().buffers.len()
    }

    #[test]
    fn comes_back_empty_once_nobody_reads_it() {
        let pool = BufferPool::default();
        let mut buffer = pool.take(1000);
        buffer.extend_from_slice(b"content");
        let bytes = Bytes::from(buffer);
        let part = bytes.slice(3..);
        drop(bytes);
        assert_eq!(kept(&pool), 0);
        assert_eq!(part, b"tent"[..]);
        drop(part);
        assert_eq!(kept(&pool), 1);
        let again = pool.take(900);
        assert!(again.is_empty() && again.capacity() >= 1000);
        assert_eq!(kept(&pool), 0);
    }

    #[test]
    fn one_that_is_too_small_is_left() {
        let pool = BufferPool::default();
        drop(pool.take(10));
        let large = pool.take(1000);
        assert!(large.capacity() >= 1000);
        assert_eq!(kept(&pool), 1);
    }

    #[test]
    fn what_lies_unused_is_forgotten() {
        let pool = BufferPool::default();
        let many: Vec<_> = (0..5).map(|_| pool.take(100)).collect();
        drop(many);
        // They came since the last time.
        pool.forget_unused();
        assert_eq!(kept(&pool), 5);
        let two = (pool.take(100), pool.take(100));
        drop(two);
        pool.forget_unused();
        assert_eq!(kept(&pool), 2);
        pool.forget_unused();
        assert_eq!(kept(&pool), 0);
    }
}
