//! Readers of large files: threads that read parts of a line of chunks, all at once, timed from their common start to
//! the end of the last.
//!
//! Invariant: after the clock has stopped each reader compares the last bytes it got with the object's, and
//! [`verify`] compares all of them. So what is measured is never wrong without being noticed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

use super::data::Source;
use super::error::CompareError;
use super::rounds::figure;
use crate::load::{Buffer, Caching, OpenFile};

/// Bytes of one read of [`verify`].
const VERIFY_BYTES: u64 = 4 << 20;
/// The block that `O_DIRECT` reads must start at.
const ALIGN_BYTES: u64 = 4096;

/// In which order chunks are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// As they lie; each reader has a part of the line to itself.
    Sequential,
    /// Shuffled by this seed.
    Random(u64),
}

/// How long is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Span {
    /// Every chunk once.
    Pass,
    /// Every chunk once, or fewer if the time is over.
    PassAtMost(Duration),
    /// Over and over until the time is over.
    Repeat(Duration),
}

/// What is read, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading<'a> {
    /// The files.
    pub(super) sources: &'a [Source],
    /// Threads.
    pub(super) readers: usize,
    /// Bytes of one read.
    pub(super) chunk_bytes: u64,
    /// One chunk is read of each stretch of this many bytes: the chunk's own size, or more to leave gaps.
    pub(super) stride_bytes: u64,
    /// With or without the kernel's page cache.
    pub(super) caching: Caching,
    /// In which order.
    pub(super) order: Order,
    /// For how long.
    pub(super) span: Span,
}

/// What reading came to.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Took {
    /// Bytes read.
    pub(super) bytes: u64,
    /// Reads, or files.
    pub(super) operations: u64,
    /// From the common start to the end of the last reader.
    pub(super) elapsed: Duration,
}

#[expect(clippy::cast_precision_loss, reason = "printed figures have fewer digits than a double")]
impl Took {
    /// 1e9 bytes a second.
    pub(super) fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.seconds()
    }

    /// Reads, or files, a second.
    pub(super) fn operations_per_s(&self) -> f64 {
        self.operations as f64 / self.seconds()
    }

    fn seconds(&self) -> f64 {
        self.elapsed.max(Duration::from_nanos(1)).as_secs_f64()
    }

    pub(super) fn merge(self, other: Took) -> Took {
        Took {
            bytes: self.bytes + other.bytes,
            operations: self.operations + other.operations,
            elapsed: self.elapsed.max(other.elapsed),
        }
    }
}

/// One read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    source: usize,
    offset: u64,
    len_bytes: u64,
}

/// Reads.
pub(super) fn read(reading: &Reading<'_>) -> Result<Took, CompareError> {
    Ok(read_each(reading)?.into_iter().fold(Took::default(), Took::merge))
}

/// The bytes that the slowest of them read, as a part of the mean.
pub(super) fn slowest_of_mean(readers: &[Took]) -> f64 {
    let all: u64 = readers.iter().map(|took| took.bytes).sum();
    let least = readers.iter().map(|took| took.bytes).min().unwrap_or(0);
    figure(least) * figure(readers.len() as u64) / figure(all.max(1))
}

/// Reads, and tells of each reader.
pub(super) fn read_each(reading: &Reading<'_>) -> Result<Vec<Took>, CompareError> {
    let steps = steps(reading);
    let readers = reading.readers.clamp(1, steps.len().max(1));
    let parts: Vec<&[Step]> = (0..readers)
        .map(|reader| {
            let bound = |number: usize| steps.len() * number / readers;
            &steps[bound(reader)..bound(reader + 1)]
        })
        .collect();
    let start = Start::new(readers);
    let work = |part: &[Step]| {
        let prepared = Reader::new(reading, part);
        // Every reader comes to the barrier, also one that could not open its files.
        let started = start.wait();
        prepared?.run(started)
    };
    thread::scope(|scope| {
        let threads: Vec<_> = parts.iter().map(|part| scope.spawn(|| work(part))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

/// The common start of several readers.
///
/// Each of them takes its time from when the first was let go: with more readers than processors some run only when
/// others are done, and times of their own would add up to more than there was.
#[derive(Debug)]
pub(super) struct Start {
    barrier: Barrier,
    at: OnceLock<Instant>,
}

impl Start {
    /// For so many readers, each of which must come.
    pub(super) fn new(readers: usize) -> Start {
        Start { barrier: Barrier::new(readers), at: OnceLock::new() }
    }

    /// Waits for the others and returns when all were let go.
    pub(super) fn wait(&self) -> Instant {
        self.barrier.wait();
        *self.at.get_or_init(Instant::now)
    }
}

/// The reads of one pass, in order.
fn steps(reading: &Reading<'_>) -> Vec<Step> {
    let mut steps = Vec::new();
    for (source, file) in reading.sources.iter().enumerate() {
        let mut offset = 0;
        while offset < file.len_bytes {
            let len_bytes = reading.chunk_bytes.min(file.len_bytes - offset);
            steps.push(Step { source, offset, len_bytes });
            offset += reading.stride_bytes;
        }
    }
    if let Order::Random(seed) = reading.order {
        let mut rng = StdRng::seed_from_u64(seed);
        let room = (reading.stride_bytes - reading.chunk_bytes) / ALIGN_BYTES;
        for step in &mut steps {
            let file_bytes = reading.sources[step.source].len_bytes;
            let moved = step.offset + rng.random_range(0..=room) * ALIGN_BYTES;
            if moved + step.len_bytes <= file_bytes {
                step.offset = moved;
            }
        }
        steps.shuffle(&mut rng);
    }
    steps
}

struct Reader<'a> {
    reading: &'a Reading<'a>,
    part: &'a [Step],
    files: Vec<Option<OpenFile>>,
    buffer: Buffer,
}

impl<'a> Reader<'a> {
    /// Opens the files of its part.
    fn new(reading: &'a Reading<'a>, part: &'a [Step]) -> Result<Reader<'a>, CompareError> {
        let mut files: Vec<Option<OpenFile>> = reading.sources.iter().map(|_| None).collect();
        for step in part {
            if files[step.source].is_none() {
                let path = &reading.sources[step.source].path;
                let open =
                    OpenFile::open(path, reading.caching).map_err(CompareError::file(path))?;
                files[step.source] = Some(open);
            }
        }
        Ok(Reader { reading, part, files, buffer: Buffer::new(reading.chunk_bytes) })
    }

    fn run(mut self, started: Instant) -> Result<Took, CompareError> {
        let mut took = Took::default();
        let mut last = None;
        let (limit, repeats) = match self.reading.span {
            Span::Pass => (Duration::MAX, false),
            Span::PassAtMost(limit) => (limit, false),
            Span::Repeat(limit) => (limit, true),
        };
        'over: loop {
            for step in self.part {
                self.step(*step)?;
                took.bytes += step.len_bytes;
                took.operations += 1;
                last = Some(*step);
                if started.elapsed() >= limit {
                    break 'over;
                }
            }
            if !repeats || self.part.is_empty() {
                break;
            }
        }
        took.elapsed = started.elapsed();
        if let Some(step) = last {
            self.compare(step)?;
        }
        Ok(took)
    }

    fn step(&mut self, step: Step) -> Result<&[u8], CompareError> {
        let source = &self.reading.sources[step.source];
        let file = self.files[step.source].as_ref();
        let file = file.unwrap_or_else(|| unreachable!("files of the part are open"));
        file.read(step.offset, step.len_bytes, &mut self.buffer)
            .map_err(CompareError::file(&source.path))
    }

    /// Compares what the last read left in the buffer.
    fn compare(&self, step: Step) -> Result<(), CompareError> {
        let bytes = self.buffer.first(step.len_bytes);
        compare(&self.reading.sources[step.source], step.offset, bytes)
    }
}

/// An error if `bytes` are not what the source must have at `offset`.
pub(super) fn compare(source: &Source, offset: u64, bytes: &[u8]) -> Result<(), CompareError> {
    match &source.content {
        Some(content) if !content.matches(offset, bytes) => Err(CompareError::WrongBytes {
            path: source.path.clone(),
            offset,
            len_bytes: bytes.len() as u64,
        }),
        _ => Ok(()),
    }
}

/// Reads every file once more, in order, and compares all bytes. Through the page cache this sees the very pages that
/// the readers before it saw.
pub(super) fn verify(sources: &[Source]) -> Result<(), CompareError> {
    let next = AtomicUsize::new(0);
    let work = || -> Result<(), CompareError> {
        let mut buffer = Buffer::new(VERIFY_BYTES);
        while let Some(source) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
            let failed = |error| CompareError::File { path: source.path.clone(), source: error };
            let file = OpenFile::open(&source.path, Caching::Kernel).map_err(failed)?;
            for offset in (0..source.len_bytes).step_by(1 << 22) {
                let len_bytes = VERIFY_BYTES.min(source.len_bytes - offset);
                let bytes = file.read(offset, len_bytes, &mut buffer).map_err(failed)?;
                compare(source, offset, bytes)?;
            }
        }
        Ok(())
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Copied, Scale, Set, copy, objects, sources};

    const MIB: u64 = 1 << 20;

    fn files() -> (tempfile::TempDir, Vec<Source>) {
        let dir = tempfile::tempdir().unwrap();
        let small = objects(Set::Small, Scale(0.001), 5);
        copy(dir.path(), &small[..8], Copied::Bytes).unwrap();
        let sources = sources(dir.path(), &small[..8]);
        (dir, sources)
    }

    fn reading(sources: &[Source]) -> Reading<'_> {
        Reading {
            sources,
            readers: 3,
            chunk_bytes: 16 << 10,
            stride_bytes: 16 << 10,
            caching: Caching::Kernel,
            order: Order::Sequential,
            span: Span::Pass,
        }
    }

    #[test]
    fn pass_reads_every_byte_once_in_either_order() {
        let (_dir, sources) = files();
        let bytes: u64 = sources.iter().map(|source| source.len_bytes).sum();
        for order in [Order::Sequential, Order::Random(7)] {
            let took = read(&Reading { order, ..reading(&sources) }).unwrap();
            assert_eq!(took.bytes, bytes, "{order:?}");
        }
        let once = Span::Repeat(Duration::from_millis(20));
        assert!(read(&Reading { span: once, ..reading(&sources) }).unwrap().bytes > bytes);
    }

    #[test]
    fn the_slowest_reader_is_held_against_the_mean() {
        let took = |bytes| Took { bytes, ..Took::default() };
        let close = |readers: &[Took], share: f64| (slowest_of_mean(readers) - share).abs() < 1e-9;
        assert!(close(&[took(10), took(10)], 1.0));
        assert!(close(&[took(10), took(30), took(20)], 0.5));
        assert!(close(&[took(0), took(30)], 0.0));
    }

    #[test]
    fn strides_are_read_once_each_and_inside_their_file() {
        let source = Source { path: "x".into(), len_bytes: MIB, content: None };
        let sources = [source];
        let wide = Reading { stride_bytes: 64 << 10, order: Order::Random(1), ..reading(&sources) };
        let mut steps = steps(&wide);
        steps.sort_unstable_by_key(|step| step.offset);
        let strides: Vec<u64> = steps.iter().map(|step| step.offset >> 16).collect();
        assert_eq!(strides, (0..16).collect::<Vec<_>>());
        assert!(steps.iter().any(|step| step.offset % (64 << 10) != 0));
        assert!(steps.iter().all(|step| step.offset % ALIGN_BYTES == 0));
    }

    #[test]
    fn byte_that_is_wrong_is_an_error_that_names_the_file() {
        let (_dir, sources) = files();
        verify(&sources).unwrap();
        let path = &sources[5].path;
        let mut bytes = std::fs::read(path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
        for error in [verify(&sources).unwrap_err(), read(&reading(&sources[5..6])).unwrap_err()] {
            assert!(error.to_string().contains("00005"), "{error}");
        }
    }

    #[test]
    fn file_that_is_not_there_is_an_error_and_no_deadlock() {
        let (_dir, mut sources) = files();
        sources[0].path = "/nonexistent".into();
        assert!(matches!(read(&reading(&sources)), Err(CompareError::File { .. })));
    }
}
