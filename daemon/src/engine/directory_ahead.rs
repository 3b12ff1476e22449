//! Decides, for one directory, which of its files to fetch before they are opened.
//!
//! A pure decider. Jobs read a directory in the order of its names, usually by several workers that
//! take turns, so opens come in rising order with neighbours swapped. Three opens in a row that each
//! go a little further make a stream; its window starts at four files and doubles whenever a file
//! of the stream is opened before its bytes are there. An open far from the front ends the stream.
//!
//! Of each file at most [`FILE_BLOCKS`] blocks are fetched: read-ahead inside the file goes on from
//! there once it is read.
//!
//! Where everything is cached, opens are not looked at any more until a reader waits for the start of a file.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tenderfs_cache::BLOCK_BYTES;

/// Blocks fetched of a file that is not open yet.
pub(crate) const FILE_BLOCKS: u32 = 4;

/// Files fetched ahead when a stream is first seen.
const FIRST_FILES: usize = 4;

/// Opens that must have gone forward before a stream is believed.
const OPENS_TO_BELIEVE: u8 = 3;

/// How far in front of the furthest open the next one may be, in files; as many as workers of a
/// usual loader take at once.
const FORWARD_FILES: usize = 8;

/// How far behind the furthest open another may be and still belong to the stream.
const BACKWARD_FILES: usize = 32;

/// Bytes of files ahead of the furthest open: four files of four blocks, or many small ones.
const AHEAD_BYTES_MAX: u64 = FIRST_FILES as u64 * FILE_BLOCKS as u64 * BLOCK_BYTES;

/// Directories whose opens are remembered. What is dropped beyond it is seen anew.
const DIRECTORIES_MAX: usize = 256;

/// Opens in a row after which nothing was fetched, until a mount counts as
/// cached: a stream whose files are fetched in time comes nowhere near.
const OPENS_TO_REST: u32 = 1024;

/// The opens of one directory, as places in its listing.
#[derive(Debug, Default)]
struct Opens {
    /// Furthest file opened.
    front: usize,
    /// Opens that went forward since the last jump.
    streak: u8,
    window_files: usize,
    /// File behind the last one that was queued or opened.
    queued_end: usize,
    /// Names in the listing: places in another listing are not comparable.
    names: usize,
}

impl Opens {
    fn starting_at(index: usize, names: usize) -> Self {
        Self { front: index, queued_end: index + 1, names, ..Self::default() }
    }

    /// File `index` was opened; `is_late` if its bytes were not there. Returns the files to fetch
    /// now, at most `files_max` ahead, where `bytes_of` says what fetching one costs.
    fn on_open(
        &mut self,
        (index, names): (usize, usize),
        is_late: bool,
        files_max: usize,
        bytes_of: impl Fn(usize) -> u64,
    ) -> Range<usize> {
        let nothing = 0..0;
        let reach = self.front.saturating_sub(BACKWARD_FILES)..=self.front + FORWARD_FILES;
        if names != self.names || !reach.contains(&index) {
            *self = Self::starting_at(index, names);
            return nothing;
        }
        if index > self.front {
            self.front = index;
            self.streak = self.streak.saturating_add(1);
        }
        if self.streak < OPENS_TO_BELIEVE {
            return nothing;
        }
        if self.window_files == 0 {
            self.window_files = FIRST_FILES;
        } else if is_late {
            self.window_files *= 2;
        }
        self.window_files = self.window_files.min(files_max);
        let first = self.queued_end.max(self.front + 1);
        let mut end = (self.front + 1).min(names);
        let mut ahead_bytes = 0;
        while end < names.min(self.front + 1 + self.window_files) {
            ahead_bytes += bytes_of(end);
            if ahead_bytes > AHEAD_BYTES_MAX {
                break;
            }
            end += 1;
        }
        if first >= end {
            return nothing;
        }
        self.queued_end = end;
        first..end
    }
}

/// The opens of a mount's directories.
#[derive(Debug, Default)]
pub(crate) struct DirectoryAhead {
    directories: Mutex<HashMap<Arc<str>, Opens>>,
    /// Opens since one had something fetched, or a reader waited.
    idle_opens: AtomicU32,
}

/// An open, as a place in the listing of its directory.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Opened<'a> {
    /// Bucket prefix of the directory.
    pub(crate) prefix: &'a Arc<str>,
    /// Place of the file in the listing.
    pub(crate) index: usize,
    /// Names in the listing.
    pub(crate) names: usize,
    /// Whether its first bytes were not there yet.
    pub(crate) is_late: bool,
}

impl DirectoryAhead {
    /// Whether an open is worth finding its place in the listing.
    pub(crate) fn is_looking(&self) -> bool {
        self.idle_opens.load(Ordering::Relaxed) < OPENS_TO_REST
    }

    /// A reader waited for the start of a file: what is opened next may not be cached either.
    pub(crate) fn look_again(&self) {
        if !self.is_looking() {
            self.idle_opens.store(0, Ordering::Relaxed);
        }
    }

    /// An open that was looked at had a fetch started, or none.
    pub(crate) fn looked(&self, any_started: bool) {
        // A count that two cores miss is as good.
        let opens = if any_started { 0 } else { self.idle_opens.load(Ordering::Relaxed) + 1 };
        self.idle_opens.store(opens, Ordering::Relaxed);
    }

    /// The files to fetch after `opened`, as places in the listing; see the module's text.
    pub(crate) fn on_open(
        &self,
        opened: Opened<'_>,
        files_max: usize,
        bytes_of: impl Fn(usize) -> u64,
    ) -> Range<usize> {
        let mut directories = self.directories.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (opened.index, opened.names);
        if let Some(opens) = directories.get_mut(opened.prefix) {
            return opens.on_open(place, opened.is_late, files_max, bytes_of);
        }
        if directories.len() >= DIRECTORIES_MAX {
            directories.clear();
        }
        let opens = Opens::starting_at(opened.index, opened.names);
        directories.insert(Arc::clone(opened.prefix), opens);
        0..0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = 100_000;

    /// Opens the files of a directory of 1 000 in this order, each late or not, and compares what
    /// is queued.
    #[track_caller]
    fn check(opens: &[usize], (is_late, bytes): (bool, u64), queued: &[(usize, usize)]) {
        let ahead = DirectoryAhead::default();
        let prefix = Arc::from("images/");
        let seen: Vec<_> = opens
            .iter()
            .map(|&index| {
                let opened = Opened { prefix: &prefix, index, names: 1_000, is_late };
                ahead.on_open(opened, 32, |_| bytes)
            })
            .filter(|range| !range.is_empty())
            .map(|range| (range.start, range.end))
            .collect();
        assert_eq!(seen, queued, "{opens:?}");
    }

    /// Proves W09.
    #[test]
    fn files_opened_in_order_have_the_next_four_fetched() {
        check(&[0, 1, 2], (false, SMALL), &[]);
        check(&[0, 1, 2, 3], (false, SMALL), &[(4, 8)]);
        check(&[0, 1, 2, 3, 4, 5], (false, SMALL), &[(4, 8), (8, 9), (9, 10)]);
        check(&[500, 501, 502, 503], (false, SMALL), &[(504, 508)]);
    }

    #[test]
    fn the_window_doubles_while_files_come_late_up_to_the_lookahead() {
        let late: Vec<usize> = (0..8).collect();
        check(&late, (true, SMALL), &[(4, 8), (8, 13), (13, 22), (22, 39), (39, 40)]);
    }

    #[test]
    fn workers_that_take_turns_are_one_stream() {
        check(&[0, 2, 1, 3, 5, 4], (false, SMALL), &[(6, 10)]);
        check(&[3, 0, 2, 1, 4, 5, 7, 6], (false, SMALL), &[(8, 12)]);
    }

    #[test]
    fn opens_without_an_order_fetch_nothing() {
        check(&[900, 40, 700, 300, 10, 500, 80, 999], (true, SMALL), &[]);
        check(&[1, 1, 1, 1, 1, 1], (true, SMALL), &[]);
        check(&[9, 8, 7, 6, 5, 4, 3], (true, SMALL), &[]);
        check(&[0, 1, 2, 500, 1, 2, 501], (true, SMALL), &[]);
    }

    #[test]
    fn opens_of_cached_files_are_not_looked_at_until_a_reader_waits() {
        let ahead = DirectoryAhead::default();
        for _ in 0..OPENS_TO_REST {
            assert!(ahead.is_looking());
            ahead.looked(false);
        }
        assert!(!ahead.is_looking());
        ahead.look_again();
        for _ in 0..2 * OPENS_TO_REST {
            assert!(ahead.is_looking());
            ahead.looked(true);
        }
    }

    #[test]
    fn what_is_fetched_ahead_is_bounded_in_bytes() {
        let four_blocks = u64::from(FILE_BLOCKS) * BLOCK_BYTES;
        let late: Vec<usize> = (0..7).collect();
        check(&late, (true, four_blocks), &[(4, 8), (8, 9), (9, 10), (10, 11)]);
        check(&late, (true, AHEAD_BYTES_MAX + 1), &[]);
    }

    #[test]
    fn nothing_is_fetched_behind_the_end_or_once_the_listing_has_changed() {
        check(&[995, 996, 997, 998, 999], (false, SMALL), &[(999, 1000)]);
        let (ahead, prefix) = (DirectoryAhead::default(), Arc::from("d/"));
        let open = |index, names| {
            let opened = Opened { prefix: &prefix, index, names, is_late: false };
            ahead.on_open(opened, 32, |_| SMALL)
        };
        for index in 0..3 {
            assert!(open(index, 10).is_empty());
        }
        assert!(open(3, 11).is_empty());
        assert!(open(4, 11).is_empty());
    }

    #[test]
    fn a_lookahead_of_none_fetches_nothing() {
        let (ahead, prefix) = (DirectoryAhead::default(), Arc::from("d/"));
        for index in 0..6 {
            let opened = Opened { prefix: &prefix, index, names: 10, is_late: true };
            assert!(ahead.on_open(opened, 0, |_| SMALL).is_empty());
        }
    }
}
