//! The memory of one block while it is filled, read and written to disk.
//!
//! Invariant: a frame has one [`Filler`], the only one that writes to it, and only behind the
//! watermark (`filled`); bytes before the watermark never change. So readers share the one side
//! while the filler or the kernel writes the other. A part lent to the kernel ([`Lent`]) owns its
//! frame, so that memory stays where it is until the completion is reaped, whatever is dropped.
#![allow(unsafe_code, reason = "readers and the filler share a frame, parted by the watermark")]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio_uring::buf::{IoBuf, IoBufMut};

use crate::memory::arena::Allocation;
use crate::memory::buddy::Extent;

/// What lengths and offsets of direct disk I/O are rounded to.
pub(crate) const DIRECT_BYTES: usize = 4096;

/// The memory of one block.
pub(crate) struct Frame {
    memory: Allocation,
    len_bytes: usize,
    /// Bytes that have arrived; they never change again.
    filled: AtomicUsize,
    /// All bytes have arrived and the padding behind them is zeroed.
    sealed: AtomicBool,
}

impl Frame {
    /// A frame for `len_bytes` in `memory`, and the right to fill it.
    pub(crate) fn new(memory: Allocation, len_bytes: usize) -> (Arc<Self>, Filler) {
        assert!((1..=memory.len_bytes()).contains(&len_bytes), "a frame of {len_bytes} bytes");
        let frame = Arc::new(Self {
            memory,
            len_bytes,
            filled: AtomicUsize::new(0),
            sealed: AtomicBool::new(false),
        });
        (Arc::clone(&frame), Filler { frame, lent: 0 })
    }

    /// Bytes of the block.
    pub(crate) fn len_bytes(&self) -> usize {
        self.len_bytes
    }

    /// Bytes that have arrived.
    pub(crate) fn filled_bytes(&self) -> usize {
        // SeqCst: one half of the handshake with waiters, see `slot::Block::announce`.
        self.filled.load(Ordering::SeqCst)
    }

    /// The bytes that have arrived.
    pub(crate) fn filled(&self) -> &[u8] {
        let filled_bytes = self.filled_bytes();
        // SAFETY: `memory` is at least `len_bytes >= filled_bytes` long, always initialised, and
        // lives as long as `self`. Bytes before the watermark are written no more; the load above
        // synchronises with the store that published them.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().as_ptr(), filled_bytes) }
    }

    /// Where the frame lies in the arena.
    pub(crate) fn place(&self) -> Extent {
        self.memory.extent()
    }

    /// The bytes of the block rounded up to what direct I/O wants.
    fn padded_bytes(&self) -> usize {
        self.len_bytes.next_multiple_of(DIRECT_BYTES)
    }

    fn byte_ptr(&self, offset: usize) -> NonNull<u8> {
        debug_assert!(offset <= self.memory.len_bytes());
        // SAFETY: callers stay within the allocation; its end is a valid address too.
        unsafe { self.memory.as_ptr().add(offset) }
    }
}

/// The right to fill a frame.
pub(crate) struct Filler {
    frame: Arc<Frame>,
    /// Parts that the kernel may be writing to.
    lent: usize,
}

impl Filler {
    /// Bytes still to come.
    pub(crate) fn missing_bytes(&self) -> usize {
        self.frame.len_bytes - self.frame.filled_bytes()
    }

    /// Where the missing bytes belong.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        assert_eq!(self.lent, 0, "the kernel may be writing to this frame");
        let filled_bytes = self.frame.filled_bytes();
        let target = self.frame.byte_ptr(filled_bytes);
        // SAFETY: the bytes behind the watermark up to the block's end lie in the frame and are
        // initialised; only this filler, borrowed for as long as the slice lives, writes there, nothing
        // is lent, and nobody reads there.
        unsafe { std::slice::from_raw_parts_mut(target.as_ptr(), self.missing_bytes()) }
    }

    /// Publishes the first `count` bytes of [`Filler::room`].
    pub(crate) fn advance(&mut self, count: usize) {
        assert!(count <= self.missing_bytes(), "{count} bytes without room");
        self.frame.filled.store(self.frame.filled_bytes() + count, Ordering::SeqCst);
    }

    /// Lends the whole empty frame to the kernel, in parts of `part_bytes` in order.
    pub(crate) fn lend(&mut self, part_bytes: usize) -> Vec<Lent> {
        assert_eq!((self.lent, self.frame.filled_bytes()), (0, 0), "only an empty frame is lent");
        assert_eq!(part_bytes % DIRECT_BYTES, 0);
        let padded_bytes = self.frame.padded_bytes();
        let parts: Vec<Lent> = (0..padded_bytes)
            .step_by(part_bytes)
            .map(|start| Lent {
                frame: Arc::clone(&self.frame),
                range: start..(start + part_bytes).min(padded_bytes),
                done: 0,
            })
            .collect();
        self.lent = parts.len();
        parts
    }

    /// Takes a part back. With `publish`, its bytes are right and all before it are published:
    /// the watermark moves to its end.
    pub(crate) fn take_back(&mut self, part: Lent, publish: Publish) {
        assert!(Arc::ptr_eq(&part.frame, &self.frame), "a part of another frame");
        self.lent -= 1;
        if publish == Publish::Yes {
            assert_eq!(part.range.start, self.frame.filled_bytes(), "a part out of order");
            let end = part.range.end.min(self.frame.len_bytes);
            drop(part);
            self.frame.filled.store(end, Ordering::SeqCst);
        }
    }

    /// Ends the filling: the padding is zeroed, so that no older bytes get to disk.
    pub(crate) fn seal(self) {
        assert_eq!((self.missing_bytes(), self.lent), (0, 0), "the frame is not full");
        let len_bytes = self.frame.len_bytes;
        let padding = self.frame.byte_ptr(len_bytes);
        // SAFETY: the padding lies in the frame, behind the watermark: only this filler, which
        // ends here, writes there.
        unsafe { padding.write_bytes(0, self.frame.padded_bytes() - len_bytes) };
        self.frame.sealed.store(true, Ordering::Release);
    }
}

/// Whether bytes that came back are shown to readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Publish {
    /// They are right.
    Yes,
    /// They are not.
    No,
}

/// A part of an unfilled frame that the kernel may write to.
pub(crate) struct Lent {
    frame: Arc<Frame>,
    range: Range<usize>,
    /// Bytes the kernel has written so far.
    done: usize,
}

impl Lent {
    /// Offset of the part in its block.
    pub(crate) fn start(&self) -> usize {
        self.range.start
    }

    /// Bytes of the block in this part, without padding.
    pub(crate) fn block_bytes(&self) -> usize {
        self.range.end.min(self.frame.len_bytes) - self.range.start
    }

    /// Bytes written so far, padding included.
    pub(crate) fn done_bytes(&self) -> usize {
        self.done
    }

    /// The kernel has written up to `done_bytes` of the part. The next write goes on there.
    pub(crate) fn set_done(&mut self, done_bytes: usize) {
        assert!(done_bytes <= self.range.len());
        self.done = done_bytes;
    }

    /// The block's bytes in this part, as they are now.
    pub(crate) fn bytes(&self) -> &[u8] {
        let start = self.frame.byte_ptr(self.range.start);
        // SAFETY: the part lies in the frame and is initialised; this `Lent` is the only one for
        // it, the filler writes nowhere while it is lent, and the kernel only while the operation
        // owns the `Lent`, when nobody can call this.
        unsafe { std::slice::from_raw_parts(start.as_ptr(), self.block_bytes()) }
    }
}

// SAFETY: the pointer is stable because the frame's memory is owned by `frame` and never moves.
// The reported bytes are those of the part not yet written; all of them are initialised memory.
unsafe impl IoBuf for Lent {
    fn stable_ptr(&self) -> *const u8 {
        self.frame.byte_ptr(self.range.start + self.done).as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.bytes_total()
    }

    fn bytes_total(&self) -> usize {
        self.range.len() - self.done
    }
}

// SAFETY: nobody else reads or writes the part while it is lent (see `Filler::lend`), so the
// kernel may write to all of it.
unsafe impl IoBufMut for Lent {
    fn stable_mut_ptr(&mut self) -> *mut u8 {
        self.frame.byte_ptr(self.range.start + self.done).as_ptr()
    }

    unsafe fn set_init(&mut self, _pos: usize) {
        // The memory is initialised from the start; progress is kept by `set_done`.
    }
}

/// The bytes of a full frame on their way to disk, padding included.
pub(crate) struct Outgoing {
    frame: Arc<Frame>,
    done: usize,
}

impl Outgoing {
    /// All of `frame`, which must be sealed.
    pub(crate) fn new(frame: &Arc<Frame>) -> Self {
        assert!(frame.sealed.load(Ordering::Acquire), "an unfinished frame goes to no disk");
        Self { frame: Arc::clone(frame), done: 0 }
    }

    /// Bytes taken by the kernel so far.
    pub(crate) fn done_bytes(&self) -> usize {
        self.done
    }

    /// The kernel has taken up to `done_bytes`; the next write goes on there.
    pub(crate) fn set_done(&mut self, done_bytes: usize) {
        assert!(done_bytes <= self.frame.padded_bytes());
        self.done = done_bytes;
    }

    /// Bytes not taken yet.
    pub(crate) fn left_bytes(&self) -> usize {
        self.frame.padded_bytes() - self.done
    }
}

// SAFETY: the pointer is stable because the frame's memory is owned by `frame` and never moves. A
// sealed frame is never written again, padding included.
unsafe impl IoBuf for Outgoing {
    fn stable_ptr(&self) -> *const u8 {
        self.frame.byte_ptr(self.done).as_ptr()
    }

    fn bytes_init(&self) -> usize {
        self.left_bytes()
    }

    fn bytes_total(&self) -> usize {
        self.left_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::arena::Arena;
    use crate::memory::buddy::CHUNK_BYTES;
    use crate::settings::HugePages;

    /// Appends as much of `bytes` as there is room for and publishes it; returns how much.
    fn push(filler: &mut Filler, bytes: &[u8]) -> usize {
        let room = filler.room();
        let count = room.len().min(bytes.len());
        room[..count].copy_from_slice(&bytes[..count]);
        filler.advance(count);
        count
    }

    fn frame(len_bytes: usize) -> (Arc<Frame>, Filler) {
        let arena = Arena::map(CHUNK_BYTES, HugePages::Plain).unwrap();
        Frame::new(arena.allocate(len_bytes).unwrap(), len_bytes)
    }

    #[test]
    fn readers_see_the_watermark_move_and_bytes_stay() {
        let (frame, mut filler) = frame(10_000);
        assert_eq!(push(&mut filler, &[1; 6000]), 6000);
        let before = frame.filled();
        let reader = std::thread::spawn({
            let frame = Arc::clone(&frame);
            move || {
                while frame.filled_bytes() < 10_000 {
                    assert!(frame.filled()[..6000].iter().all(|byte| *byte == 1));
                    std::thread::yield_now();
                }
                frame.filled().to_vec()
            }
        });
        assert_eq!(push(&mut filler, &[2; 6000]), 4000);
        filler.seal();
        assert_eq!(before, [1; 6000]);
        let seen = reader.join().unwrap();
        assert_eq!((seen.len(), seen[5999], seen[6000]), (10_000, 1, 2));
    }

    /// Writes as the kernel would.
    fn written(mut part: Lent, byte: u8) -> Lent {
        let count = part.bytes_total();
        // SAFETY: the part is lent to this test alone.
        unsafe { part.stable_mut_ptr().write_bytes(byte, count) };
        part.set_done(count);
        part
    }

    #[test]
    fn lent_parts_come_back_in_order() {
        let (frame, mut filler) = frame(10_000);
        let parts = filler.lend(DIRECT_BYTES);
        assert_eq!(parts.len(), 3);
        for (number, part) in (1..).zip(parts) {
            let part = written(part, number);
            let expected_bytes = part.block_bytes();
            assert_eq!(part.bytes(), vec![number; expected_bytes]);
            filler.take_back(part, Publish::Yes);
        }
        assert_eq!(frame.filled()[9999], 3);
        filler.seal();
        let mut outgoing = Outgoing::new(&frame);
        assert_eq!(outgoing.left_bytes(), 3 * DIRECT_BYTES);
        outgoing.set_done(DIRECT_BYTES);
        assert_eq!(outgoing.left_bytes(), 2 * DIRECT_BYTES);
        // SAFETY: the last byte of the padding lies in the frame and nobody writes to it.
        let padding = unsafe { *frame.byte_ptr(3 * DIRECT_BYTES - 1).as_ptr() };
        assert_eq!(padding, 0, "older bytes stay in memory");
    }

    #[test]
    fn wrong_bytes_from_disk_are_overwritten_by_the_source() {
        let (frame, mut filler) = frame(2 * DIRECT_BYTES);
        let mut parts = filler.lend(DIRECT_BYTES).into_iter();
        let (first, second) = (parts.next().unwrap(), parts.next().unwrap());
        filler.take_back(written(first, 1), Publish::Yes);
        filler.take_back(written(second, 9), Publish::No);
        assert_eq!(frame.filled_bytes(), DIRECT_BYTES);
        assert_eq!(push(&mut filler, &[2; DIRECT_BYTES]), DIRECT_BYTES);
        assert_eq!((frame.filled()[0], frame.filled()[DIRECT_BYTES]), (1, 2));
    }

    #[test]
    #[should_panic(expected = "may be writing")]
    fn there_is_no_room_while_the_kernel_may_write() {
        let (_frame, mut filler) = frame(DIRECT_BYTES);
        let _parts = filler.lend(DIRECT_BYTES);
        filler.room();
    }
}
