//! The memory of a core's entries: header areas, then payloads, in one anonymous map of which only
//! what was written to has pages.
//!
//! Invariant: it is given back only if whoever drops it knows that the kernel has none of it.
#![allow(unsafe_code, reason = "hands out parts of a map that the kernel writes to as well")]

use super::slots::Slot;
use super::wire::HEADER_BYTES;
use memmap2::{MmapMut, MmapOptions, UncheckedAdvice};
use std::io;
use std::mem::ManuallyDrop;
use std::ops::Range;
use std::ptr::NonNull;

/// Room for a header area and the two `struct iovec` that register it and its payload.
const HEADER_STRIDE: usize = 512;
const SEGMENTS_OFFSET: usize = 320;

/// Payloads start at a page, whatever a page is, and are whole pages long.
const ALIGNMENT: usize = 64 << 10;

pub(super) struct Memory {
    /// Its bytes are reached by `base` alone, since the kernel writes to some of them while others
    /// are borrowed.
    map: ManuallyDrop<MmapMut>,
    base: NonNull<u8>,
    /// Where the payloads start.
    payloads: usize,
    payload_bytes: usize,
}

impl Memory {
    /// Room for `entries` with payloads of `payload_bytes`.
    pub(super) fn map(entries: usize, payload_bytes: usize) -> io::Result<Self> {
        let headers = entries.checked_mul(HEADER_STRIDE);
        let headers = headers.and_then(|bytes| bytes.checked_next_multiple_of(ALIGNMENT));
        let headers = headers.ok_or(io::ErrorKind::OutOfMemory)?;
        let bytes = entries.checked_mul(payload_bytes).and_then(|bytes| bytes.checked_add(headers));
        let bytes = bytes.ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = MmapOptions::new().len(bytes).no_reserve_swap().map_anon()?;
        let base = NonNull::new(map.as_mut_ptr()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { map: ManuallyDrop::new(map), base, payloads: headers, payload_bytes })
    }

    /// Header area and payload of `slot`.
    ///
    /// # Safety
    ///
    /// The server has `slot`: the kernel has not been given it since it returned it.
    pub(super) unsafe fn entry(&mut self, slot: Slot) -> (&mut [u8; HEADER_BYTES], &mut [u8]) {
        let header = self.at(header_start(slot)).cast::<[u8; HEADER_BYTES]>();
        let payload = self.at(self.payload_start(slot));
        // SAFETY: `at` has checked that the start lies in the map, and a header area is shorter
        // than its stride. Bytes of anonymous memory are initialised, this one's are borrowed from
        // `self` alone, and the kernel does not have the entry.
        let header = unsafe { &mut *header.as_ptr() };
        // SAFETY: as above; payloads lie behind each other up to the end of the map, and header
        // areas before all of them, so that the two do not overlap.
        let payload =
            unsafe { std::slice::from_raw_parts_mut(payload.as_ptr(), self.payload_bytes) };
        (header, payload)
    }

    /// Writes down where the entry of `slot` lies, for the kernel to read when it is registered, and
    /// returns the address and number of the `struct iovec`.
    ///
    /// # Safety
    ///
    /// The kernel has never been given `slot`.
    pub(super) unsafe fn describe(&mut self, slot: Slot) -> (u64, u32) {
        let header = self.at(header_start(slot));
        let payload = self.at(self.payload_start(slot));
        let segments = [
            libc::iovec { iov_base: header.as_ptr().cast(), iov_len: HEADER_BYTES },
            libc::iovec { iov_base: payload.as_ptr().cast(), iov_len: self.payload_bytes },
        ];
        let to = self.at(header_start(slot) + SEGMENTS_OFFSET).cast::<[libc::iovec; 2]>();
        // SAFETY: there is room for two behind the header area and before the next, aligned to 64
        // bytes, and nobody else reads or writes there yet.
        unsafe { to.write(segments) };
        (to.as_ptr().addr() as u64, 2)
    }

    /// Takes the pages of the payload of `slot` from `start` on, which read as zero from then on.
    ///
    /// # Safety
    ///
    /// Nobody looks at those bytes before they are written to again.
    pub(super) unsafe fn discard(&mut self, slot: Slot, start: usize) {
        let first = self.payload_start(slot);
        self.discard_range(first + start.min(self.payload_bytes)..first + self.payload_bytes);
    }

    /// Gives the memory back.
    ///
    /// # Safety
    ///
    /// The kernel has no entry, and will be given none.
    pub(super) unsafe fn unmap(&mut self) {
        // SAFETY: the caller drops `self` next, without another use of the map.
        unsafe { ManuallyDrop::drop(&mut self.map) };
    }

    /// Keeps the addresses taken for ever, as the kernel may write to them, and gives the pages back.
    pub(super) fn abandon(&mut self) {
        self.discard_range(0..self.map.len());
    }

    fn discard_range(&mut self, range: Range<usize>) {
        // SAFETY: the range is private anonymous memory and not borrowed; all its bit patterns are
        // valid. That nobody misses its contents is what the callers promise.
        let discarded = unsafe {
            self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len())
        };
        debug_assert!(discarded.is_ok(), "{range:?}: {discarded:?}");
    }

    fn payload_start(&self, slot: Slot) -> usize {
        self.payloads + slot.index() * self.payload_bytes
    }

    fn at(&self, start: usize) -> NonNull<u8> {
        assert!(start < self.map.len(), "an entry lies outside its map");
        // SAFETY: the offset lies within the map that `base` is the start of.
        unsafe { self.base.add(start) }
    }
}

fn header_start(slot: Slot) -> usize {
    slot.index() * HEADER_STRIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_keep_apart_and_lose_only_what_is_discarded() {
        let mut memory = Memory::map(3, 256 << 10).unwrap();
        for number in 0..3 {
            // SAFETY: no kernel has heard of these entries.
            let (address, segments) = unsafe { memory.describe(Slot(number)) };
            assert_eq!((address % 8, segments), (0, 2));
            // SAFETY: as above.
            let (header, payload) = unsafe { memory.entry(Slot(number)) };
            let letter = b'a' + u8::try_from(number).unwrap();
            header.fill(letter);
            payload.fill(letter);
        }
        // SAFETY: what is read of it is read to see that it is gone.
        unsafe { memory.discard(Slot(1), 128 << 10) };
        for (number, letter) in (0..3).zip(b'a'..) {
            // SAFETY: no kernel has heard of these entries.
            let (header, payload) = unsafe { memory.entry(Slot(number)) };
            assert!(header.iter().all(|byte| *byte == letter));
            let (front, back) = payload.split_at(128 << 10);
            assert!(front.iter().all(|byte| *byte == letter));
            let expected = if number == 1 { 0 } else { letter };
            assert!(back.iter().all(|byte| *byte == expected));
        }
        // SAFETY: no kernel has heard of these entries.
        unsafe { memory.unmap() };
    }
}
