//! Readers of many small files: each opens, reads to the end and closes the next file that nobody has.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::data::Source;
use super::error::CompareError;
use super::reads::{Start, Took, compare};

/// Room for the largest file.
const BUFFER_BYTES: usize = 256 << 10;
/// What the first read of a file asks for.
pub(super) const FIRST_READ_BYTES: usize = 4096;

/// Reads every file `passes` times, shuffled by `seed`, with `workers` threads.
pub(super) fn read_whole(
    sources: &[Source],
    workers: usize,
    passes: usize,
    seed: u64,
) -> Result<Took, CompareError> {
    let mut order: Vec<usize> = (0..sources.len()).collect();
    order.shuffle(&mut StdRng::seed_from_u64(seed));
    let (next, start) = (AtomicUsize::new(0), Start::new(workers));
    let work = || {
        let mut buffer = vec![1_u8; BUFFER_BYTES];
        let mut last = None;
        let started = start.wait();
        let mut took = Took::default();
        loop {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= order.len() * passes {
                break;
            }
            let source = &sources[order[turn % order.len()]];
            let len = read_file(source, &mut buffer).map_err(CompareError::file(&source.path))?;
            took.bytes += len as u64;
            took.operations += 1;
            last = Some((source, len));
        }
        took.elapsed = started.elapsed();
        if let Some((source, len)) = last {
            compare(source, 0, &buffer[..len])?;
        }
        Ok(took)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .try_fold(Took::default(), |all, one: Result<Took, CompareError>| Ok(all.merge(one?)))
    })
}

/// Opens, reads until the end of file is seen, closes; returns the length.
fn read_file(source: &Source, buffer: &mut [u8]) -> io::Result<usize> {
    let mut file = File::open(&source.path)?;
    let mut len = 0;
    loop {
        match file.read(&mut buffer[len..])? {
            0 if len as u64 == source.len_bytes => return Ok(len),
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            more => len += more,
        }
    }
}

/// Times from open to the first bytes of each file, one after the other.
pub(super) fn first_bytes(sources: &[Source]) -> Result<Vec<Duration>, CompareError> {
    let mut buffer = vec![1_u8; FIRST_READ_BYTES];
    let first = |source: &Source| {
        let started = Instant::now();
        let file = File::open(&source.path).map_err(CompareError::file(&source.path))?;
        file.read_exact_at(&mut buffer, 0).map_err(CompareError::file(&source.path))?;
        let elapsed = started.elapsed();
        compare(source, 0, &buffer)?;
        Ok(elapsed)
    };
    sources.iter().map(first).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Copied, Scale, Set, copy, objects, sources};

    #[test]
    fn every_file_is_read_in_every_pass_and_a_short_one_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let small = objects(Set::Small, Scale(0.001), 5);
        copy(dir.path(), &small, Copied::Bytes).unwrap();
        let mut sources = sources(dir.path(), &small);
        let bytes: u64 = sources.iter().map(|source| source.len_bytes).sum();
        let took = read_whole(&sources, 4, 2, 1).unwrap();
        assert_eq!((took.operations, took.bytes), (100, 2 * bytes));
        assert_eq!(first_bytes(&sources).unwrap().len(), 50);
        sources[7].len_bytes += 1;
        assert!(read_whole(&sources, 4, 1, 1).is_err());
    }
}
