//! How far a job has read one plan, and what to fetch for it next.
//!
//! A pure decider. Entries are taken in order and held until they are used, as many as a window of
//! bytes allows. Uses come out of order, because workers take turns; what lies further behind the
//! furthest use than half of the window is not waited for any more. A reader that keeps using
//! entries before they are taken is followed to where it is.

use std::collections::{BTreeMap, BTreeSet};

use tenderfs_byterange::ByteRange;
use tenderfs_cache::BLOCK_BYTES;

use super::entries::{Entries, Span};
use crate::engine::FILE_BLOCKS;

/// Bytes fetched ahead for one entry at most; read-ahead inside the file goes on from there.
const ENTRY_BYTES_MAX: u64 = FILE_BLOCKS as u64 * BLOCK_BYTES;

/// Entries held at once at most: those of which everything is cached take no bytes.
const HELD_MAX: usize = 16 * 1024;

/// Uses of entries that are not taken yet, in a row, after which a reader is followed.
const USES_TO_FOLLOW: usize = 8;

/// Places of one file that are looked at for one use.
const LOOKS_MAX: usize = 64;

/// What a reader did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// It read these bytes of a file of so many, as `Reader` says.
    Read(ByteRange, u64, Reader),
    /// It closed the file.
    Closed,
}

/// Whether who reads a part of a file may be the reader of all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// It may.
    New,
    /// It was already: a file that is opened once is one use of it.
    Known,
}

/// An entry that is held for its reader.
#[derive(Debug)]
struct Held<H> {
    bytes: u64,
    handle: Option<H>,
}

/// One plan and its reader. `H` is what keeps an entry's bytes while they wait for it.
#[derive(Debug)]
pub(crate) struct Stream<H> {
    entries: Entries,
    /// The next entry to take.
    next: u32,
    held: BTreeMap<u32, Held<H>>,
    held_bytes: u64,
    /// Entries that were used before they were taken.
    early: BTreeSet<u32>,
    /// How many of the last uses were such.
    early_in_a_row: usize,
    /// The furthest entry used.
    front: Option<u32>,
    used: u64,
    missing: u64,
}

impl<H> Stream<H> {
    pub(crate) fn new(entries: Entries) -> Self {
        Self {
            entries,
            next: 0,
            held: BTreeMap::new(),
            held_bytes: 0,
            early: BTreeSet::new(),
            early_in_a_row: 0,
            front: None,
            used: 0,
            missing: 0,
        }
    }

    pub(crate) fn entries(&self) -> &Entries {
        &self.entries
    }

    /// Entries that were used.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// Entries whose file does not exist.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// The next entry that will be taken.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Bytes that are fetched and not used yet.
    pub(crate) fn held_bytes(&self) -> u64 {
        self.held_bytes
    }

    /// What is held, with its bytes.
    pub(crate) fn held(&self) -> impl Iterator<Item = (u64, &H)> {
        self.held.values().filter_map(|held| Some((held.bytes, held.handle.as_ref()?)))
    }

    /// Whether every entry was taken, and either used or given up.
    pub(crate) fn is_over(&self) -> bool {
        self.next == self.entries.len() && self.held.is_empty()
    }

    /// Takes the next entry, if there is one and it fits a window of `window_bytes`.
    pub(crate) fn take(&mut self, window_bytes: u64) -> Option<u32> {
        if self.held_bytes >= window_bytes || self.held.len() >= HELD_MAX {
            return None;
        }
        while self.early.remove(&self.next) {
            self.next += 1;
        }
        if self.next == self.entries.len() {
            return None;
        }
        let place = self.next;
        self.next += 1;
        self.held.insert(place, Held { bytes: 0, handle: None });
        Some(place)
    }

    /// Whether the entry that was taken is waited for still.
    pub(crate) fn is_held(&self, place: u32) -> bool {
        self.held.contains_key(&place)
    }

    /// The entry that was taken needs `bytes`, which `handle` keeps.
    pub(crate) fn hold(&mut self, place: u32, bytes: u64, handle: H) {
        if let Some(held) = self.held.get_mut(&place) {
            self.held_bytes += bytes - held.bytes;
            *held = Held { bytes, handle: Some(handle) };
        }
    }

    /// The entry that was taken is nothing to wait for: its file does not exist.
    pub(crate) fn is_missing(&mut self, place: u32) {
        self.missing += 1;
        self.settle(place);
    }

    /// A reader did something with file `key`. Returns what the entry
    /// wants that it was a use of.
    pub(crate) fn observe(&mut self, key: &str, what: Use, window_bytes: u64) -> Option<Span> {
        let mut is_first = true;
        let mut found = None;
        let mut gone_before = None;
        for (place, span) in self.entries.places_of(key).take(LOOKS_MAX) {
            let is_open = place >= self.next && !self.early.contains(&place) || self.is_held(place);
            if is_open && what.ends(span) {
                found = Some((place, span));
                break;
            }
            if is_first && !is_open && place < self.next {
                gone_before = Some(place + 1);
            } else {
                is_first = false;
            }
        }
        if let Some(place) = gone_before {
            self.entries.forget_before(key, place);
        }
        let (place, span) = found?;
        self.use_of(place, window_bytes);
        Some(span)
    }

    fn use_of(&mut self, place: u32, window_bytes: u64) {
        self.used += 1;
        self.front = self.front.max(Some(place));
        if place < self.next {
            self.early_in_a_row = 0;
            self.settle(place);
            self.lapse(place, window_bytes);
            return;
        }
        self.early.insert(place);
        self.early_in_a_row += 1;
        if self.early_in_a_row >= USES_TO_FOLLOW {
            self.early_in_a_row = 0;
            if let Some(first) = self.early.first() {
                self.next = *first;
                self.held.clear();
                self.held_bytes = 0;
            }
        }
    }

    /// Gives up what lies too far behind the furthest use.
    fn lapse(&mut self, used: u32, window_bytes: u64) {
        if self.front != Some(used) {
            return;
        }
        let behind = self.held.range(..used);
        let (mut bytes, mut count) =
            behind.fold((0, 0), |(bytes, count), (_, held)| (bytes + held.bytes, count + 1));
        while bytes > window_bytes / 2 || count > HELD_MAX / 2 {
            let Some((oldest, held)) = self.held.first_key_value() else { return };
            bytes -= held.bytes;
            count -= 1;
            self.settle(*oldest);
        }
    }

    /// The entry that was taken is not waited for any more.
    pub(crate) fn give_up(&mut self, place: u32) {
        self.settle(place);
    }

    fn settle(&mut self, place: u32) {
        if let Some(held) = self.held.remove(&place) {
            self.held_bytes -= held.bytes;
        }
    }
}

impl Use {
    /// Whether who does this needs nothing more of what was fetched for an entry.
    fn ends(self, span: Span) -> bool {
        match (self, span) {
            (Self::Closed, Span::Whole) => true,
            (Self::Closed, Span::Part(_)) | (Self::Read(_, _, Reader::Known), Span::Whole) => false,
            (Self::Read(range, file_bytes, Reader::New), Span::Whole) => {
                range.end() >= file_bytes.min(ENTRY_BYTES_MAX)
            }
            (Self::Read(range, file_bytes, _), Span::Part(part)) => {
                let end = part.end().min(part.start() + ENTRY_BYTES_MAX).min(file_bytes);
                range.start() < end && end <= range.end()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: u64 = 100;

    fn stream(files: u32) -> Stream<()> {
        let mut entries = Entries::default();
        for number in 0..files {
            entries.push(&name(number), Span::Whole).unwrap();
        }
        Stream::new(entries)
    }

    fn name(number: u32) -> String {
        format!("f{number}")
    }

    fn read(stream: &mut Stream<()>, number: u32, window_bytes: u64) -> bool {
        let range = ByteRange::at(0, SMALL).unwrap();
        let what = Use::Read(range, SMALL, Reader::New);
        stream.observe(&name(number), what, window_bytes).is_some()
    }

    /// Takes all that the window allows.
    fn fill(stream: &mut Stream<()>, window_bytes: u64) -> Vec<u32> {
        let mut taken = Vec::new();
        while let Some(place) = stream.take(window_bytes) {
            stream.hold(place, SMALL, ());
            taken.push(place);
        }
        taken
    }

    #[test]
    fn entries_are_taken_in_order_as_the_window_allows_and_freed_by_use() {
        let mut stream = stream(10);
        assert_eq!(fill(&mut stream, 4 * SMALL), [0, 1, 2, 3]);
        assert!(fill(&mut stream, 4 * SMALL).is_empty());
        assert!(read(&mut stream, 1, 4 * SMALL));
        assert!(!read(&mut stream, 1, 4 * SMALL), "it is used once");
        assert_eq!(fill(&mut stream, 4 * SMALL), [4]);
        assert_eq!(stream.observe("f0", Use::Closed, 4 * SMALL), Some(Span::Whole));
        assert_eq!(stream.observe("x", Use::Closed, 4 * SMALL), None);
        assert_eq!(fill(&mut stream, 4 * SMALL), [5]);
        assert_eq!((stream.used(), stream.held_bytes()), (2, 4 * SMALL));
    }

    #[test]
    fn what_lies_far_behind_is_not_waited_for() {
        let mut stream = stream(20);
        fill(&mut stream, 8 * SMALL);
        for number in [3, 4, 5] {
            read(&mut stream, number, 8 * SMALL);
        }
        // 0, 1 and 2 may be a slow worker's: they are less than half of the window.
        assert!((0..3).all(|place| stream.is_held(place)));
        read(&mut stream, 7, 8 * SMALL);
        assert!(stream.is_held(0));
        fill(&mut stream, 8 * SMALL);
        read(&mut stream, 10, 8 * SMALL);
        let held: Vec<_> = (0..12).filter(|place| stream.is_held(*place)).collect();
        assert_eq!(held, [2, 6, 8, 9, 11], "0 and 1 are given up");
        assert_eq!(stream.held_bytes(), stream.held.len() as u64 * SMALL);
    }

    #[test]
    fn a_reader_that_is_ahead_is_followed() {
        let mut stream = stream(1000);
        assert_eq!(fill(&mut stream, 4 * SMALL), [0, 1, 2, 3]);
        for number in 500..507 {
            assert!(read(&mut stream, number, 4 * SMALL));
            assert_eq!(stream.next(), 4);
        }
        read(&mut stream, 508, 4 * SMALL);
        assert_eq!(fill(&mut stream, 4 * SMALL), [507, 509, 510, 511]);
    }

    #[test]
    fn entries_used_before_they_are_taken_are_not_taken() {
        let mut stream = stream(8);
        assert_eq!(fill(&mut stream, 2 * SMALL), [0, 1]);
        read(&mut stream, 2, 2 * SMALL);
        read(&mut stream, 0, 2 * SMALL);
        assert_eq!(fill(&mut stream, 2 * SMALL), [3]);
        for number in 0..8 {
            read(&mut stream, number, 2 * SMALL);
            fill(&mut stream, 2 * SMALL);
        }
        assert!(stream.is_over());
        assert_eq!(stream.used(), 8);
    }

    #[test]
    fn parts_of_one_file_are_used_by_reads_of_their_end() {
        let mut entries = Entries::default();
        let part = |at| Span::Part(ByteRange::at(at, 10).unwrap());
        for at in [50, 0, 50] {
            entries.push("a", part(at)).unwrap();
        }
        let mut stream: Stream<()> = Stream::new(entries);
        let mut observe = |start, len| {
            let range = ByteRange::at(start, len).unwrap();
            stream.observe("a", Use::Read(range, 100, Reader::Known), 1000).is_some()
        };
        assert!(!observe(50, 9));
        assert!(observe(52, 8));
        assert!(observe(0, 100), "all of the file is a use of the earliest that is left");
        assert!(observe(50, 10));
        assert!(!observe(50, 10));
        assert_eq!(stream.observe("a", Use::Closed, 1000), None);
    }

    #[test]
    fn a_reader_of_a_whole_file_is_not_another_one() {
        let mut stream = stream(3);
        let read = |reader| Use::Read(ByteRange::at(0, SMALL).unwrap(), SMALL, reader);
        assert_eq!(stream.observe("f1", read(Reader::Known), SMALL), None);
        assert_eq!(stream.observe("f1", read(Reader::New), SMALL), Some(Span::Whole));
    }

    #[test]
    fn files_that_do_not_exist_are_passed_over() {
        let mut stream = stream(3);
        let first = stream.take(SMALL).unwrap();
        stream.is_missing(first);
        assert_eq!(fill(&mut stream, SMALL), [1]);
        assert_eq!(stream.missing(), 1);
        // What is said of an entry after it was given up changes nothing.
        stream.hold(first, SMALL, ());
        assert_eq!(stream.held_bytes(), SMALL);
    }
}
