//! Readers by mmap(2): what page faults cost.
#![allow(unsafe_code, reason = "a memory map has no safe face")]

use std::fs::File;
use std::io;
use std::time::{Duration, Instant};

use memmap2::Mmap;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::data::Source;
use super::error::CompareError;
use super::reads::{Order, Took, compare};

/// A page fault brings at least this much.
const PAGE_BYTES: usize = 4096;
/// Bytes of a map that are compared with the object's after the clock has stopped.
const COMPARED_BYTES: usize = 1 << 20;

/// Maps each file in turn, touches every page of it in the order given, and unmaps it; over and over until the time is
/// over. Bytes are those of the pages touched.
pub(super) fn touch(
    sources: &[Source],
    order: Order,
    limit: Duration,
) -> Result<Took, CompareError> {
    let mut took = Took::default();
    let mut last = None;
    let orders: Vec<Vec<usize>> = sources.iter().map(|source| pages(source, order)).collect();
    let started = Instant::now();
    while started.elapsed() < limit {
        for (source, pages) in sources.iter().zip(&orders) {
            let file = File::open(&source.path).map_err(CompareError::file(&source.path))?;
            let map = map(&file).map_err(CompareError::file(&source.path))?;
            let sum = pages.iter().fold(0_u64, |sum, page| sum + u64::from(map[page * PAGE_BYTES]));
            std::hint::black_box(sum);
            took.operations += pages.len() as u64;
            took.bytes += source.len_bytes;
            last = Some((source, map));
        }
    }
    took.elapsed = started.elapsed();
    if let Some((source, map)) = last {
        compare(source, 0, &map[..map.len().min(COMPARED_BYTES)])?;
    }
    Ok(took)
}

fn pages(source: &Source, order: Order) -> Vec<usize> {
    let count = usize::try_from(source.len_bytes).unwrap_or(usize::MAX).div_ceil(PAGE_BYTES);
    let mut pages: Vec<usize> = (0..count).collect();
    if let Order::Random(seed) = order {
        pages.shuffle(&mut StdRng::seed_from_u64(seed));
    }
    pages
}

fn map(file: &File) -> io::Result<Mmap> {
    // SAFETY: `file` is on a read-only mount, or a copy in the comparison's own folder; nobody writes to or truncates it
    // while it is mapped.
    unsafe { Mmap::map(file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_order_touches_every_page_once() {
        let source = Source { path: "x".into(), len_bytes: 10_000, content: None };
        assert_eq!(pages(&source, Order::Sequential), [0, 1, 2]);
        let mut random = pages(&source, Order::Random(3));
        random.sort_unstable();
        assert_eq!(random, [0, 1, 2]);
    }
}
