//! Decides, for one open file, which blocks to fetch before they are asked for.
//!
//! A pure decider. Reads arrive as the kernel sends them: its own read-ahead keeps two requests in
//! the air, so neighbours come swapped, and memory maps touch edges before they fill the holes. A
//! stream is therefore any run of reads that start within two blocks of the furthest byte asked
//! for, not a strictly rising one. It is believed after four reads that have entered two blocks
//! more, or that began with the file.
//!
//! A first read at offset 0 opens a window of one block, or of the whole of a short file. The window
//! of a stream starts at `first_blocks` and grows by a block with each new block the reader enters,
//! up to `max_blocks`; beyond that it doubles each time a reader in full stream still had to wait,
//! up to what the prefetch budget allows. A jump closes it.

use tenderfs_byterange::ByteRange;
use tenderfs_cache::BLOCK_BYTES;

/// Reads remembered, and reads needed before a pattern is believed.
const READS_REMEMBERED: u8 = 8;
const READS_TO_BELIEVE: u8 = 4;

/// How far from the furthest byte a read may start and still belong to the stream, in blocks.
const SLACK_BLOCKS: u64 = 2;

/// Files up to this size are fetched whole once their start is read: as much as one GET may bring,
/// and the size of a common training shard.
const SHORT_FILE_BYTES: u64 = 4 * BLOCK_BYTES;

/// Bounds of what is fetched ahead, in a file and in a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Window {
    /// Where it starts.
    pub(crate) first_blocks: u32,
    /// How far it grows by itself.
    pub(crate) max_blocks: u32,
    /// How far it grows for a reader that still waits.
    pub(crate) budget_blocks: u32,
    /// How many files of a directory may be fetched before they are opened.
    pub(crate) lookahead_files: usize,
}

/// What the reads of a handle look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pattern {
    /// Too few reads to tell.
    Unknown,
    /// One stream forward.
    Sequential,
    /// Anything else.
    Random,
}

/// Blocks to fetch: `first..end`, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ahead {
    /// First block.
    pub(crate) first: u32,
    /// Block behind the last.
    pub(crate) end: u32,
}

/// The state of one open file.
#[derive(Debug, Default)]
pub(crate) struct ReadAhead {
    /// Furthest byte asked for so far.
    front: u64,
    /// Reads in a row that belonged to the stream, up to `READS_REMEMBERED`.
    streak: u8,
    /// Where the stream began.
    began: u64,
    /// Reads seen, up to `READS_REMEMBERED`.
    reads: u8,
    window_blocks: u32,
    /// Block behind the last one that was queued or read.
    queued_end: u32,
    /// Whether a read has waited since the window was last looked at: the first of a block's reads is often
    /// the one that finds its bytes.
    waited: bool,
}

impl ReadAhead {
    /// What the reads so far look like.
    pub(crate) fn pattern(&self) -> Pattern {
        if self.reads < READS_TO_BELIEVE {
            Pattern::Unknown
        } else if self.streak >= READS_TO_BELIEVE && self.has_gone_far() {
            Pattern::Sequential
        } else {
            Pattern::Random
        }
    }

    /// Whether nobody is likely to ask for the neighbours of `range` soon: it is a jump, or the first
    /// read, whose bytes are wanted at once. To be asked before the read is told to
    /// [`ReadAhead::on_read`].
    pub(crate) fn jumps(&self, range: ByteRange) -> bool {
        match self.pattern() {
            Pattern::Random => true,
            Pattern::Unknown if self.reads == 0 => true,
            Pattern::Unknown | Pattern::Sequential => !self.is_near(range),
        }
    }

    /// A read of `range` in a file of `file_bytes`; `waited`: it had to wait for S3. Returns what
    /// to fetch now, ahead of the reader. `room_blocks`: how many more blocks can be ahead of all
    /// readers together.
    pub(crate) fn on_read(
        &mut self,
        range: ByteRange,
        file_bytes: u64,
        waited: bool,
        (window, room_blocks): (Window, impl FnOnce() -> u32),
    ) -> Option<Ahead> {
        let first_read = self.reads == 0;
        let entered = block_of(range.last()) > block_of(self.front.saturating_sub(1));
        self.observe(range);
        self.waited |= waited;
        match self.pattern() {
            Pattern::Random => {
                self.window_blocks = 0;
                return None;
            }
            // The start of a file is where streams start. A short file is most likely read whole;
            // of a long one it is the next block, no more.
            Pattern::Unknown if first_read && range.start() == 0 => {
                let is_short = file_bytes <= SHORT_FILE_BYTES;
                self.window_blocks = if is_short { window.first_blocks } else { 1 };
            }
            Pattern::Sequential if self.window_blocks < window.first_blocks => {
                self.window_blocks = window.first_blocks;
            }
            Pattern::Sequential if entered => self.grow(window, room_blocks),
            Pattern::Unknown | Pattern::Sequential => {}
        }
        self.ahead(file_bytes)
    }

    fn observe(&mut self, range: ByteRange) {
        if self.reads > 0 && self.is_near(range) {
            self.streak = (self.streak + 1).min(READS_REMEMBERED);
            self.front = self.front.max(range.end());
        } else {
            self.streak = 1;
            self.began = range.start();
            self.front = range.end();
            self.queued_end = 0;
            self.window_blocks = 0;
        }
        self.reads = (self.reads + 1).min(READS_REMEMBERED);
    }

    /// Whether the stream has entered two blocks after its first, or began with the file. One long
    /// read at a random place comes as several requests, and is none.
    fn has_gone_far(&self) -> bool {
        self.began == 0 || block_of(self.front.saturating_sub(1)) >= block_of(self.began) + 2
    }

    fn is_near(&self, range: ByteRange) -> bool {
        let slack = SLACK_BLOCKS * BLOCK_BYTES;
        range.start() <= self.front.saturating_add(slack)
            && range.end().saturating_add(slack) >= self.front
    }

    fn grow(&mut self, window: Window, room_blocks: impl FnOnce() -> u32) {
        let waited = std::mem::take(&mut self.waited);
        self.window_blocks = if self.window_blocks < window.max_blocks {
            self.window_blocks + 1
        } else if waited {
            // What other streams have fetched and not read yet is not to be thrown out for it.
            let most = window.budget_blocks.max(window.max_blocks);
            let doubled = self.window_blocks.saturating_mul(2).min(most);
            doubled.min(self.window_blocks.saturating_add(room_blocks()))
        } else {
            self.window_blocks
        };
    }

    /// The part of the window in front of the reader that was not queued yet.
    fn ahead(&mut self, file_bytes: u64) -> Option<Ahead> {
        let reader = block_of(self.front.saturating_sub(1));
        let blocks = u32::try_from(file_bytes.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX);
        let first = self.queued_end.max(reader.saturating_add(1));
        let end = reader.saturating_add(1).saturating_add(self.window_blocks).min(blocks);
        if first >= end {
            return None;
        }
        self.queued_end = end;
        Some(Ahead { first, end })
    }
}

fn block_of(offset: u64) -> u32 {
    u32::try_from(offset / BLOCK_BYTES).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const WINDOW: Window =
        Window { first_blocks: 4, max_blocks: 8, budget_blocks: 64, lookahead_files: 32 };

    fn read(state: &mut ReadAhead, start: u64, len: u64, waited: bool) -> Option<Ahead> {
        let range = ByteRange::at(start, len).unwrap();
        state.on_read(range, 1 << 40, waited, (WINDOW, || u32::MAX))
    }

    /// Blocks queued over a list of reads of 1 MiB at the given MiB.
    #[track_caller]
    fn check(reads_at_mib: &[u64], pattern: Pattern, queued: &[(u32, u32)]) {
        let mut state = ReadAhead::default();
        let mut seen = Vec::new();
        for at in reads_at_mib {
            seen.extend(
                read(&mut state, at * MIB, MIB, false).map(|ahead| (ahead.first, ahead.end)),
            );
        }
        assert_eq!(state.pattern(), pattern, "{reads_at_mib:?}");
        assert_eq!(seen, queued, "{reads_at_mib:?}");
    }

    #[test]
    fn a_window_of_one_block_opens_at_the_start_and_grows_with_the_stream() {
        check(&[0], Pattern::Unknown, &[(1, 2)]);
        check(&[0, 1, 2], Pattern::Unknown, &[(1, 2)]);
        check(&[0, 1, 2, 3], Pattern::Sequential, &[(1, 2), (2, 5)]);
        check(&[0, 1, 2, 3, 4], Pattern::Sequential, &[(1, 2), (2, 5), (5, 7)]);
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8], Pattern::Sequential, &[(1, 2), (2, 5), (5, 7), (7, 9)]);
    }

    #[test]
    fn swapped_neighbours_and_edge_probes_stay_a_stream() {
        check(&[0, 2, 1, 4, 3], Pattern::Sequential, &[(1, 2), (2, 6)]);
        check(&[0, 7, 1, 2, 3], Pattern::Sequential, &[(1, 2), (2, 3), (3, 6)]);
    }

    #[test]
    fn random_reads_fetch_nothing_ahead() {
        check(&[900, 40, 700, 300, 10, 500], Pattern::Random, &[]);
        check(&[0, 400, 100, 700, 300], Pattern::Random, &[(1, 2)]);
    }

    #[test]
    fn long_reads_at_random_places_are_no_stream() {
        let reads: Vec<u64> = [900, 41, 706, 302].iter().flat_map(|at| *at..at + 4).collect();
        check(&reads, Pattern::Random, &[]);
    }

    #[test]
    fn a_read_jumps_unless_it_goes_on_from_those_before() {
        for (reads_at_mib, at_mib, jumps) in [
            (&[][..], 0, true),
            (&[], 5, true),
            (&[0], 1, false),
            (&[0], 900, true),
            (&[0, 1, 2, 3], 5, false),
            (&[0, 1, 2, 3], 400, true),
            (&[900, 40, 700, 300], 301, true),
            (&[900, 40, 700, 300, 301, 302, 303], 304, true),
            (&[900, 40, 700, 300, 303, 306, 309, 312], 313, false),
        ] {
            let mut state = ReadAhead::default();
            for at in reads_at_mib {
                read(&mut state, at * MIB, MIB, false);
            }
            let range = ByteRange::at(at_mib * MIB, 16 << 10).unwrap();
            assert_eq!(state.jumps(range), jumps, "{reads_at_mib:?}, {at_mib}");
        }
    }

    #[test]
    fn a_jump_closes_the_window_and_a_new_stream_opens_it() {
        check(&[0, 1, 2, 3, 400], Pattern::Random, &[(1, 2), (2, 5)]);
        check(
            &[0, 1, 2, 3, 400, 401, 402, 403, 404, 405, 406, 407, 408],
            Pattern::Sequential,
            &[(1, 2), (2, 5), (103, 107)],
        );
    }

    #[test]
    fn the_window_doubles_only_for_a_reader_that_waits() {
        let mut state = ReadAhead::default();
        for block in 0..40 {
            read(&mut state, block * BLOCK_BYTES, BLOCK_BYTES, false);
        }
        assert_eq!(state.window_blocks, WINDOW.max_blocks);
        for block in 40..50 {
            read(&mut state, block * BLOCK_BYTES, BLOCK_BYTES, true);
        }
        assert_eq!(state.window_blocks, WINDOW.budget_blocks);
    }

    #[test]
    fn the_window_grows_only_into_room_that_others_leave() {
        let mut state = ReadAhead::default();
        let mut widths = Vec::new();
        for (block, room_blocks) in (0..40).zip(std::iter::repeat_n(0, 30).chain([3, 0, 100, 100]))
        {
            let range = ByteRange::at(block * BLOCK_BYTES, BLOCK_BYTES).unwrap();
            state.on_read(range, 1 << 40, true, (WINDOW, || room_blocks));
            widths.push(state.window_blocks);
        }
        assert_eq!(widths[29..], [8, 11, 11, 22, 44]);
    }

    #[test]
    fn a_wait_inside_a_block_counts_when_the_next_one_is_entered() {
        let mut state = ReadAhead::default();
        for at in 0..200 {
            read(&mut state, at * MIB, MIB, at % 4 == 2);
        }
        assert_eq!(state.window_blocks, WINDOW.budget_blocks);
    }

    #[test]
    fn a_short_file_is_fetched_whole_when_its_start_is_read() {
        let mut state = ReadAhead::default();
        let start = ByteRange::at(0, 4096).unwrap();
        let ahead = state.on_read(start, 16 * MIB, true, (WINDOW, || u32::MAX));
        assert_eq!(ahead, Some(Ahead { first: 1, end: 4 }));
        let mut state = ReadAhead::default();
        let tail = ByteRange::at(15 * MIB, 4096).unwrap();
        assert_eq!(state.on_read(tail, 16 * MIB, true, (WINDOW, || u32::MAX)), None);
    }

    #[test]
    fn nothing_is_queued_behind_the_end_or_twice() {
        let mut state = ReadAhead::default();
        let mut queued = Vec::new();
        for at in 0..18 {
            let range = ByteRange::at(at * MIB, MIB).unwrap();
            if let Some(ahead) = state.on_read(range, 18 * MIB, true, (WINDOW, || u32::MAX)) {
                queued.extend(ahead.first..ahead.end);
            }
        }
        assert_eq!(queued, [1, 2, 3, 4]);
    }
}
