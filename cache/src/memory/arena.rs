//! The memory that all blocks live in: one anonymous map, split by the buddy allocator.
//!
//! Invariant: an [`Allocation`] is the only owner of its bytes from [`Arena::allocate`] to its
//! drop; no two live ones overlap. Bytes are always initialised, because the map starts zeroed.
//!
//! The first touch of a page is dear (the kernel finds and zeroes it; a virtual machine may have to
//! ask its host), so a thread of the least priority touches chunks a little before they are handed
//! out, in the time that nobody else wants. What is never needed is never touched.
#![allow(unsafe_code, reason = "hands out parts of one map; the buddy allocator keeps them apart")]

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Thread};

use memmap2::{MmapMut, MmapOptions};

use crate::memory::buddy::{Buddy, CHUNK_BYTES, Extent};
use crate::settings::HugePages;

/// Chunks that are touched before they are needed: 256 MiB.
const AHEAD_CHUNKS: u32 = 64;

/// Nice value of the thread that touches them.
const LEAST_PRIORITY: i32 = 19;

/// The map and which parts of it are free.
pub(crate) struct Arena {
    /// Its bytes are reached by `base` only.
    map: MmapMut,
    /// Bytes of the map before `base`.
    pad_bytes: usize,
    /// First byte of the first chunk, aligned to a chunk.
    base: NonNull<u8>,
    chunks: u32,
    buddy: Mutex<Buddy>,
    /// Chunks up to here were handed out at some time.
    reached: AtomicU32,
    /// The thread that touches chunks ahead.
    toucher: OnceLock<Thread>,
}

// SAFETY: `base` points into `map`, which the arena owns and never moves. The arena itself reads
// and writes nothing there; allocations do, each its own bytes.
unsafe impl Send for Arena {}
// SAFETY: as above; the only shared state is behind `buddy`'s mutex.
unsafe impl Sync for Arena {}

impl Arena {
    /// Maps `bytes`, rounded down to whole chunks.
    pub(crate) fn map(bytes: usize, huge_pages: HugePages) -> io::Result<Arc<Self>> {
        let chunks = u32::try_from(bytes / CHUNK_BYTES).unwrap_or(u32::MAX >> 6);
        // One chunk more, so that the first can be aligned: huge pages and O_DIRECT want it.
        let len_bytes = (chunks as usize + 1) * CHUNK_BYTES;
        let mut map = MmapOptions::new().len(len_bytes).map_anon()?;
        if huge_pages == HugePages::Advised
            && let Err(error) = map.advise(memmap2::Advice::HugePage)
        {
            tracing::debug!(%error, "no huge pages for the block arena");
        }
        let start = map.as_mut_ptr();
        let pad_bytes = start.align_offset(CHUNK_BYTES);
        assert!(pad_bytes < CHUNK_BYTES, "a map cannot be aligned to a chunk");
        // SAFETY: `pad_bytes` is below a chunk and the map is one chunk longer than what is used.
        let first = unsafe { start.add(pad_bytes) };
        let base = NonNull::new(first).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Arc::new(Self {
            map,
            pad_bytes,
            base,
            chunks,
            buddy: Mutex::new(Buddy::new(chunks)),
            reached: AtomicU32::new(0),
            toucher: OnceLock::new(),
        }))
    }

    /// Starts the thread that touches chunks ahead of their use. It ends with the arena, or when
    /// all is touched. Without it everything works, with dearer first uses.
    pub(crate) fn touch_ahead(self: &Arc<Self>) -> io::Result<()> {
        let arena = Arc::downgrade(self);
        let work = move || {
            yield_to_all_others();
            let mut next = 0;
            while let Some(arena) = arena.upgrade() {
                let goal = arena.reached.load(Ordering::Relaxed).saturating_add(AHEAD_CHUNKS);
                if next >= arena.chunks {
                    return;
                }
                if next >= goal {
                    drop(arena);
                    thread::park();
                } else if arena.touch(next).is_ok() {
                    next += 1;
                } else {
                    // A kernel before 5.14: the first use will do it.
                    return;
                }
            }
        };
        let handle = thread::Builder::new().name("tenderfs-arena".to_owned()).spawn(work)?;
        self.toucher.get_or_init(|| handle.thread().clone());
        Ok(())
    }

    fn touch(&self, chunk: u32) -> io::Result<()> {
        let offset = self.pad_bytes + chunk as usize * CHUNK_BYTES;
        // Bytes stay as they are, whoever uses them meanwhile.
        self.map.advise_range(memmap2::Advice::PopulateWrite, offset, CHUNK_BYTES)
    }

    /// Memory for `len_bytes`, at most a chunk; `None` if no extent that large is free.
    pub(crate) fn allocate(self: &Arc<Self>, len_bytes: usize) -> Option<Allocation> {
        let order = Extent::order_for(len_bytes)?;
        let extent = self.buddy().allocate(order)?;
        assert!(extent.chunk() < self.chunks, "{extent:?} lies outside the arena");
        if extent.chunk() >= self.reached.load(Ordering::Relaxed) {
            self.reached.fetch_max(extent.chunk() + 1, Ordering::Relaxed);
            self.wake_toucher();
        }
        Some(Allocation { arena: Arc::clone(self), extent })
    }

    /// Bytes that blocks can take.
    pub(crate) fn len_bytes(&self) -> usize {
        self.chunks as usize * CHUNK_BYTES
    }

    /// Bytes that are free.
    pub(crate) fn free_bytes(&self) -> usize {
        self.buddy().free_bytes()
    }

    fn wake_toucher(&self) {
        if let Some(toucher) = self.toucher.get() {
            toucher.unpark();
        }
    }

    fn buddy(&self) -> std::sync::MutexGuard<'_, Buddy> {
        self.buddy.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets the calling thread run when nothing else wants the processor: what it does for later must
/// not take the time of those who read now.
fn yield_to_all_others() {
    // Of the calling thread alone: on Linux each has a priority of its own.
    if let Err(error) = rustix::process::setpriority_process(None, LEAST_PRIORITY) {
        tracing::debug!(%error, "the block arena is touched at the usual priority");
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // It finds the arena gone and ends.
        self.wake_toucher();
    }
}

/// Exclusively owned memory of the arena.
pub(crate) struct Allocation {
    arena: Arc<Arena>,
    extent: Extent,
}

impl Allocation {
    /// Its bytes: aligned to its length, so to 4 KiB at least.
    pub(crate) fn len_bytes(&self) -> usize {
        self.extent.len_bytes()
    }

    /// Where it lies.
    pub(crate) fn extent(&self) -> Extent {
        self.extent
    }

    /// The first of its [`Allocation::len_bytes`] bytes, valid until the allocation is dropped.
    pub(crate) fn as_ptr(&self) -> NonNull<u8> {
        // SAFETY: the extent lies inside the arena (asserted at allocation), whose map lives as
        // long as `self.arena`.
        unsafe { self.arena.base.add(self.extent.offset_bytes()) }
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        self.arena.buddy().release(self.extent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg_attr(miri, ignore = "Miri knows no MADV_POPULATE_WRITE")]
    fn touching_ahead_changes_no_byte_and_ends_with_the_arena() {
        let arena = Arena::map(2 * CHUNK_BYTES, HugePages::Plain).unwrap();
        let memory = arena.allocate(CHUNK_BYTES).unwrap();
        // SAFETY: the allocation is this test's alone.
        unsafe { memory.as_ptr().write_bytes(7, CHUNK_BYTES) };
        arena.touch_ahead().unwrap();
        let weak = Arc::downgrade(&arena);
        drop(arena);
        // SAFETY: as above; all of it was written.
        let bytes = unsafe { std::slice::from_raw_parts(memory.as_ptr().as_ptr(), CHUNK_BYTES) };
        assert!(bytes.iter().all(|byte| *byte == 7));
        drop(memory);
        while weak.strong_count() > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn allocations_are_aligned_and_come_back() {
        let arena = Arena::map(2 * CHUNK_BYTES + 5, HugePages::Plain).unwrap();
        assert_eq!(arena.len_bytes(), 2 * CHUNK_BYTES);
        let whole = arena.allocate(CHUNK_BYTES).unwrap();
        let small = arena.allocate(100_000).unwrap();
        assert_eq!(whole.as_ptr().as_ptr().align_offset(CHUNK_BYTES), 0);
        assert_eq!(small.len_bytes(), 128 << 10);
        assert_eq!(small.as_ptr().as_ptr().align_offset(128 << 10), 0);
        assert!(arena.allocate(CHUNK_BYTES).is_none());
        drop(small);
        let second = arena.allocate(CHUNK_BYTES).unwrap();
        assert_ne!(whole.as_ptr(), second.as_ptr());
        drop((whole, second));
        assert_eq!(arena.free_bytes(), 2 * CHUNK_BYTES);
    }
}
