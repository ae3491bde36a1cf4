//! How the C library's allocator gives memory back.

/// Buffers of this size and more are mappings of their own, and go back to the system when they are dropped.
const MAPPED_BYTES: i32 = 1 << 20;

/// So much of what is free at the end of a heap stays ours. A stream takes and gives back a few pieces of 256 KiB all the time;
/// below the 128 KiB that go by default, each would be made anew by the system, page by page.
const KEPT_BYTES: i32 = 1 << 20;

/// Keeps what is freed from staying ours. To be called before the first thread.
///
/// Buffers of megabytes come and go all the time: segments, packs, frames. glibc raises the size from which it maps a buffer
/// by itself as soon as one was freed, up to 32 MiB, and takes them from heaps of threads from then on, where holes stay:
/// three times the memory that is used, for good. A threshold that was set is not raised (`mallopt(3)`).
pub fn return_large_buffers() {
    #[cfg(target_env = "gnu")]
    #[expect(
        unsafe_code,
        reason = "there is no safe interface; the calls only set numbers, before there is a second thread"
    )]
    // SAFETY: `mallopt` takes two integers, and no other thread allocates meanwhile.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, MAPPED_BYTES);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, KEPT_BYTES);
    }
}
