//! How many bytes the disk tier takes and may still take.
//!
//! [`Space`] is a pure decider; [`Ledger`] guards it. Bytes are reserved before they are written
//! and belong to a file afterwards; those of an unlinked file count until its last holder is gone.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::block::BLOCK_BYTES;

/// What the file system has, for a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    /// Bytes that may be written.
    pub(crate) available_bytes: u64,
    /// Bytes that must stay free.
    pub(crate) floor_bytes: u64,
}

/// Whether space is evicted before anyone asks for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marks {
    /// From the high mark down to the low one.
    Kept,
    /// Only for the floor: where a set stays put, what is evicted early is missed, and few writes
    /// are admitted that would wait.
    Ignored,
}

/// Room that is left for objects that others would go for: eight blocks, for as many writers.
const AMPLE_BYTES: u64 = 8 * BLOCK_BYTES;

/// What a request for space comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is reserved.
    Grant,
    /// This much must be evicted first.
    Evict { bytes: u64 },
    /// Enough is evicted; its files are still held.
    Wait,
    /// It does not fit into an empty cache.
    Never,
}

/// Bytes taken, reserved and allowed.
#[derive(Debug)]
#[allow(clippy::struct_field_names, reason = "units last, and all of them are bytes")]
pub(crate) struct Space {
    limit_bytes: u64,
    /// Of files, unlinked ones that are held included.
    used_bytes: u64,
    /// Part of `used_bytes` that goes once nobody holds it.
    doomed_bytes: u64,
    /// Promised to writes under way.
    reserved_bytes: u64,
    /// Of the catalogue.
    overhead_bytes: u64,
}

impl Space {
    fn new(limit_bytes: u64) -> Self {
        Self { limit_bytes, used_bytes: 0, doomed_bytes: 0, reserved_bytes: 0, overhead_bytes: 0 }
    }

    fn total_bytes(&self) -> u64 {
        self.used_bytes + self.reserved_bytes + self.overhead_bytes
    }

    /// Asks for `bytes`, to be written to a file system with `free`.
    fn request(&mut self, bytes: u64, free: FreeSpace) -> Decision {
        let decision = self.decide(bytes, free);
        if decision == Decision::Grant {
            self.reserved_bytes += bytes;
        }
        decision
    }

    /// What a request for `bytes` would come to.
    fn decide(&self, bytes: u64, free: FreeSpace) -> Decision {
        if bytes + self.overhead_bytes > self.limit_bytes {
            return Decision::Never;
        }
        let over_limit = (self.total_bytes() + bytes).saturating_sub(self.limit_bytes);
        let under_floor =
            (free.floor_bytes + self.reserved_bytes + bytes).saturating_sub(free.available_bytes);
        match over_limit.max(under_floor) {
            0 => Decision::Grant,
            missing if missing <= self.doomed_bytes => Decision::Wait,
            missing => Decision::Evict { bytes: missing - self.doomed_bytes },
        }
    }

    /// Bytes to evict before anyone asks, so that writes seldom wait: from 95 % of the limit down
    /// to 90 %, and what lacks to the floor.
    fn surplus(&self, free: FreeSpace, marks: Marks) -> u64 {
        let staying = self.total_bytes() - self.doomed_bytes.min(self.used_bytes);
        let high = self.limit_bytes - self.limit_bytes / 20;
        let low = self.limit_bytes - self.limit_bytes / 10;
        let is_over = marks == Marks::Kept && staying > high;
        let over_mark = if is_over { staying - low } else { 0 };
        let under_floor =
            free.floor_bytes.saturating_sub(free.available_bytes.saturating_add(self.doomed_bytes));
        // Only our own files can be evicted.
        over_mark.max(under_floor).min(self.used_bytes - self.doomed_bytes.min(self.used_bytes))
    }
}

/// The space of the disk tier.
#[derive(Debug)]
pub(crate) struct Ledger {
    space: Mutex<Space>,
    /// Told when bytes come back.
    pub(crate) freed: Notify,
    path: PathBuf,
    floor_ratio: f64,
    /// Files are looked for that nobody knows the bytes of: until that is over nothing is granted.
    is_surveyed: AtomicBool,
}

/// As [`Decision`], with the reservation in hand.
pub(crate) enum Verdict {
    Granted(Reservation),
    Evict { bytes: u64 },
    Wait,
    Never,
}

impl Ledger {
    pub(crate) fn new(limit_bytes: u64, path: PathBuf, floor_ratio: f64) -> Arc<Self> {
        let space = Mutex::new(Space::new(limit_bytes));
        let is_surveyed = AtomicBool::new(true);
        Arc::new(Self { space, freed: Notify::new(), path, floor_ratio, is_surveyed })
    }

    /// There may be files that are not accounted for, until [`Ledger::survey_ends`].
    pub(crate) fn survey_begins(&self) {
        self.is_surveyed.store(false, Ordering::Release);
    }

    /// All files are accounted for, or gone.
    pub(crate) fn survey_ends(&self) {
        self.is_surveyed.store(true, Ordering::Release);
        self.freed.notify_waiters();
    }

    /// Asks for `bytes` before they are written.
    pub(crate) fn reserve(self: &Arc<Self>, bytes: u64) -> Verdict {
        if !self.is_surveyed.load(Ordering::Acquire) {
            return Verdict::Wait;
        }
        let free = self.free_space();
        match self.space().request(bytes, free) {
            Decision::Grant => Verdict::Granted(Reservation { ledger: Arc::clone(self), bytes }),
            Decision::Evict { bytes } => Verdict::Evict { bytes },
            Decision::Wait => Verdict::Wait,
            Decision::Never => Verdict::Never,
        }
    }

    /// Bytes to evict in the background.
    pub(crate) fn surplus(&self, marks: Marks) -> u64 {
        let free = self.free_space();
        self.space().surplus(free, marks)
    }

    /// Whether `bytes` can be had, and after them as much again as all writers together may be about
    /// to take: what was evicted for one of them is not for whoever comes by.
    pub(crate) fn has_ample_room(&self, bytes: u64) -> bool {
        let free = self.free_space();
        let space = self.space();
        let margin_bytes = AMPLE_BYTES.max(space.limit_bytes / 32).min(space.limit_bytes / 4);
        space.decide(bytes + margin_bytes, free) == Decision::Grant
    }

    /// Bytes the catalogue takes.
    pub(crate) fn set_overhead(&self, bytes: u64) {
        self.space().overhead_bytes = bytes;
    }

    /// Bytes taken: files, held unlinked ones, reservations and the catalogue.
    pub(crate) fn total_bytes(&self) -> u64 {
        self.space().total_bytes()
    }

    pub(crate) fn limit_bytes(&self) -> u64 {
        self.space().limit_bytes
    }

    /// A file of `bytes` that is there already.
    pub(crate) fn file(self: &Arc<Self>, bytes: u64) -> Arc<FileSpace> {
        self.space().used_bytes += bytes;
        Arc::new(FileSpace {
            ledger: Arc::clone(self),
            bytes: AtomicU64::new(bytes),
            doomed: AtomicBool::new(false),
        })
    }

    /// What the file system says; if it does not answer, that there is room: writes will tell.
    fn free_space(&self) -> FreeSpace {
        match nix::sys::statvfs::statvfs(&self.path) {
            Ok(fs) => FreeSpace {
                available_bytes: fs.blocks_available() * fs.fragment_size(),
                floor_bytes: part_of(fs.blocks() * fs.fragment_size(), self.floor_ratio),
            },
            Err(_) => FreeSpace { available_bytes: u64::MAX, floor_bytes: 0 },
        }
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a part of a disk, where a few bytes more or less do not matter"
)]
fn part_of(bytes: u64, ratio: f64) -> u64 {
    (bytes as f64 * ratio) as u64
}

/// Bytes promised to a write. Dropped, they go back.
pub(crate) struct Reservation {
    ledger: Arc<Ledger>,
    bytes: u64,
}

impl Reservation {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The bytes were, or may have been, written to the file of `space`.
    pub(crate) fn belongs_to(mut self, space: &FileSpace) {
        let bytes = std::mem::take(&mut self.bytes);
        let mut sum = self.ledger.space();
        sum.reserved_bytes -= bytes;
        sum.used_bytes += bytes;
        space.bytes.fetch_add(bytes, Ordering::Relaxed);
        if space.doomed.load(Ordering::Relaxed) {
            sum.doomed_bytes += bytes;
        }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.ledger.space().reserved_bytes -= self.bytes;
            self.ledger.freed.notify_waiters();
        }
    }
}

/// The bytes of one file. Every holder of the file holds this too; the last one gives them back.
#[derive(Debug)]
pub(crate) struct FileSpace {
    ledger: Arc<Ledger>,
    bytes: AtomicU64,
    doomed: AtomicBool,
}

impl FileSpace {
    /// The file is unlinked: its bytes come back once nobody holds it.
    pub(crate) fn doom(&self) {
        let mut sum = self.ledger.space();
        if !self.doomed.swap(true, Ordering::Relaxed) {
            sum.doomed_bytes += self.bytes.load(Ordering::Relaxed);
        }
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the file is unlinked.
    pub(crate) fn is_doomed(&self) -> bool {
        self.doomed.load(Ordering::Relaxed)
    }

    /// `bytes` of the file were given back to the file system.
    pub(crate) fn give_back(&self, bytes: u64) {
        let mut sum = self.ledger.space();
        let bytes = bytes.min(self.bytes.load(Ordering::Relaxed));
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        sum.used_bytes -= bytes;
        if self.doomed.load(Ordering::Relaxed) {
            sum.doomed_bytes -= bytes;
        }
        drop(sum);
        self.ledger.freed.notify_waiters();
    }

    /// The file was found to take `bytes`: an earlier life wrote blocks that were not catalogued.
    pub(crate) fn found(&self, bytes: u64) {
        let mut sum = self.ledger.space();
        let known = self.bytes.load(Ordering::Relaxed);
        if bytes > known && !self.doomed.load(Ordering::Relaxed) {
            sum.used_bytes += bytes - known;
            self.bytes.store(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for FileSpace {
    fn drop(&mut self) {
        let bytes = self.bytes.load(Ordering::Relaxed);
        let mut sum = self.ledger.space();
        sum.used_bytes -= bytes;
        if self.doomed.load(Ordering::Relaxed) {
            sum.doomed_bytes -= bytes;
        }
        drop(sum);
        self.ledger.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PLENTY: FreeSpace = FreeSpace { available_bytes: u64::MAX, floor_bytes: 0 };

    #[test]
    fn nothing_is_granted_while_there_may_be_files_that_nobody_has_counted() {
        let ledger = Ledger::new(100, "/".into(), 0.0);
        ledger.survey_begins();
        assert!(matches!(ledger.reserve(1), Verdict::Wait));
        ledger.survey_ends();
        assert!(matches!(ledger.reserve(1), Verdict::Granted(_)));
    }

    #[test]
    fn bytes_are_granted_up_to_the_limit_and_then_cost_an_eviction() {
        let mut space = Space::new(100);
        space.overhead_bytes = 10;
        assert_eq!(space.request(91, PLENTY), Decision::Never);
        assert_eq!(space.request(90, PLENTY), Decision::Grant);
        assert_eq!(space.request(5, PLENTY), Decision::Evict { bytes: 5 });
        space.reserved_bytes = 0;
        space.used_bytes = 90;
        space.doomed_bytes = 30;
        assert_eq!(space.request(5, PLENTY), Decision::Wait);
        assert_eq!(space.request(40, PLENTY), Decision::Evict { bytes: 10 });
    }

    #[test]
    fn the_file_system_keeps_its_free_floor() {
        let mut space = Space::new(1000);
        let free = FreeSpace { available_bytes: 100, floor_bytes: 80 };
        assert_eq!(space.request(15, free), Decision::Grant);
        // What is reserved is not written yet: the file system does not know of it.
        assert_eq!(space.request(15, free), Decision::Evict { bytes: 10 });
        assert_eq!(space.request(5, free), Decision::Grant);
    }

    #[test]
    fn eviction_starts_before_the_limit_is_reached() {
        let mut space = Space::new(1000);
        space.used_bytes = 950;
        assert_eq!(space.surplus(PLENTY, Marks::Kept), 0);
        space.used_bytes = 951;
        assert_eq!(space.surplus(PLENTY, Marks::Kept), 51);
        space.doomed_bytes = 51;
        assert_eq!(space.surplus(PLENTY, Marks::Kept), 0);
        space.doomed_bytes = 0;
        space.used_bytes = 50;
        let free = FreeSpace { available_bytes: 100, floor_bytes: 180 };
        assert_eq!(space.surplus(free, Marks::Kept), 50);
    }

    proptest! {
        /// Whatever is asked, granted, written, dropped and unlinked: never more than the limit,
        /// and all of it comes back.
        #[test]
        fn the_limit_is_never_passed(steps in prop::collection::vec((0u8..4, 1u64..400), 1..200)) {
            let ledger = Ledger::new(1000, "/".into(), 0.0);
            ledger.set_overhead(50);
            let mut reservations = Vec::new();
            let mut files: Vec<Arc<FileSpace>> = Vec::new();
            for (step, bytes) in steps {
                match step {
                    0 => if let Verdict::Granted(reservation) = ledger.reserve(bytes) {
                        reservations.push(reservation);
                    },
                    1 => if let Some(reservation) = reservations.pop() {
                        let file = ledger.file(0);
                        reservation.belongs_to(&file);
                        files.push(file);
                    },
                    2 => drop(reservations.pop()),
                    _ => if let Some(file) = files.pop() { file.doom(); },
                }
                prop_assert!(ledger.total_bytes() <= 1000);
            }
            drop((reservations, files));
            prop_assert_eq!(ledger.total_bytes(), 50);
            prop_assert_eq!(ledger.space().doomed_bytes, 0);
        }
    }
}
