//! Decides what a reader reads next. No I/O, no clock; chance comes from the seed.

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use crate::cli::Pattern;

/// What to read in one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// One chunk of the line of all chunks.
    Chunk(usize),
    /// One whole file, opened and closed for it.
    File(usize),
}

/// How many things there are to choose from.
#[derive(Debug, Clone, Copy)]
pub struct Extent {
    /// Files of the data set.
    pub files: usize,
    /// Chunks of the data set.
    pub chunks: usize,
}

/// Which reader of how many.
#[derive(Debug, Clone, Copy)]
pub struct Place {
    /// From 0.
    pub reader: usize,
    /// All readers.
    pub readers: usize,
}

/// The endless order of operations of one reader.
#[derive(Debug)]
pub enum Order {
    /// Chunk after chunk, around the end.
    Sequential {
        /// The next chunk.
        next: usize,
        /// All chunks.
        chunks: usize,
    },
    /// Any chunk.
    Random {
        /// Source of chance.
        rng: Box<StdRng>,
        /// All chunks.
        chunks: usize,
    },
    /// Every file once in a shuffled order, then again in another.
    Shuffled {
        /// Source of chance.
        rng: Box<StdRng>,
        /// The pass at hand.
        files: Vec<usize>,
        /// Position in it.
        at: usize,
    },
}

impl Order {
    /// The order of one reader; the same seed and place give the same order.
    pub fn new(pattern: Pattern, extent: Extent, place: Place, seed: u64) -> Order {
        let reader = u64::try_from(place.reader).unwrap_or(u64::MAX);
        // An odd multiplier spreads neighbouring readers over the seeds (2^64 divided by the golden ratio).
        let seed = seed ^ reader.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        let rng = || Box::new(StdRng::seed_from_u64(seed));
        match pattern {
            Pattern::Seq => Order::Sequential {
                next: extent.chunks * place.reader / place.readers,
                chunks: extent.chunks,
            },
            Pattern::Random => Order::Random { rng: rng(), chunks: extent.chunks },
            Pattern::Files => {
                Order::Shuffled { rng: rng(), files: (0..extent.files).collect(), at: 0 }
            }
        }
    }

    /// The next operation.
    pub fn step(&mut self) -> Step {
        match self {
            Order::Sequential { next, chunks } => {
                let chunk = *next;
                *next = (chunk + 1) % *chunks;
                Step::Chunk(chunk)
            }
            Order::Random { rng, chunks } => Step::Chunk(rng.random_range(0..*chunks)),
            Order::Shuffled { rng, files, at } => {
                if *at == 0 {
                    files.shuffle(rng);
                }
                let file = files[*at];
                *at = (*at + 1) % files.len();
                Step::File(file)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { files: 5, chunks: 12 };

    fn steps(pattern: Pattern, reader: usize, seed: u64, count: usize) -> Vec<Step> {
        let mut order = Order::new(pattern, EXTENT, Place { reader, readers: 3 }, seed);
        (0..count).map(|_| order.step()).collect()
    }

    #[test]
    fn sequential_readers_start_evenly_spread_and_wrap_around() {
        let starts: Vec<_> = (0..3).map(|r| steps(Pattern::Seq, r, 1, 1)[0]).collect();
        assert_eq!(starts, [Step::Chunk(0), Step::Chunk(4), Step::Chunk(8)]);
        let last = steps(Pattern::Seq, 2, 1, 5);
        assert_eq!(last[3..], [Step::Chunk(11), Step::Chunk(0)]);
    }

    #[test]
    fn same_seed_same_order_and_other_reader_other_order() {
        for pattern in [Pattern::Random, Pattern::Files] {
            assert_eq!(steps(pattern, 0, 7, 40), steps(pattern, 0, 7, 40));
            assert_ne!(steps(pattern, 0, 7, 40), steps(pattern, 1, 7, 40));
            assert_ne!(steps(pattern, 0, 7, 40), steps(pattern, 0, 8, 40));
        }
    }

    #[test]
    fn files_pattern_reads_every_file_once_a_pass() {
        let seen = steps(Pattern::Files, 0, 3, 10);
        for pass in seen.chunks(5) {
            let mut files: Vec<_> = pass
                .iter()
                .map(|step| match step {
                    Step::File(file) => *file,
                    Step::Chunk(_) => usize::MAX,
                })
                .collect();
            files.sort_unstable();
            assert_eq!(files, [0, 1, 2, 3, 4]);
        }
    }
}
