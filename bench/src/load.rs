//! The readers: threads that open, read and time.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nix::fcntl::{OFlag, PosixFadviseAdvice, posix_fadvise};

use crate::checksum::Checksums;
use crate::cli::{DIRECT_ALIGN_BYTES, Pattern};
use crate::data_set::{Chunk, DataSet};
use crate::pattern::{Extent, Order, Place, Step};

/// Open files a reader keeps while it jumps between them.
const OPEN_FILES_MAX: usize = 64;

/// Whether the kernel's page cache may serve a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caching {
    /// Plain reads.
    Kernel,
    /// `O_DIRECT`.
    Direct,
}

/// A read buffer aligned for `O_DIRECT`.
#[derive(Debug)]
pub struct Buffer {
    bytes: Vec<u8>,
    start: usize,
}

impl Buffer {
    /// Room for one chunk.
    pub fn new(chunk_bytes: u64) -> Buffer {
        let align = usize::try_from(DIRECT_ALIGN_BYTES).unwrap_or(usize::MAX);
        let len = usize::try_from(chunk_bytes).unwrap_or(usize::MAX).next_multiple_of(align);
        // Not zeroes: memory that is asked for as zeroes gets its pages only when it is written.
        let bytes = vec![1; len + align];
        let address = bytes.as_ptr().addr();
        Buffer { start: address.next_multiple_of(align) - address, bytes }
    }

    /// The first `len_bytes` bytes, as the last read left them.
    pub fn first(&self, len_bytes: u64) -> &[u8] {
        &self.bytes[self.start..][..usize::try_from(len_bytes).unwrap_or(usize::MAX)]
    }
}

/// A file open for reading chunks.
#[derive(Debug)]
pub struct OpenFile(File);

impl OpenFile {
    /// Opens a file of the data set.
    pub fn open(path: &Path, caching: Caching) -> io::Result<OpenFile> {
        let flags = match caching {
            Caching::Kernel => OFlag::empty(),
            Caching::Direct => OFlag::O_DIRECT,
        };
        OpenOptions::new().read(true).custom_flags(flags.bits()).open(path).map(OpenFile)
    }

    /// Reads exactly `len_bytes`; an earlier end of file is an error, since the listing promised them.
    pub fn read<'b>(
        &self,
        offset: u64,
        len_bytes: u64,
        buffer: &'b mut Buffer,
    ) -> io::Result<&'b [u8]> {
        let len = usize::try_from(len_bytes).map_err(io::Error::other)?;
        let room = &mut buffer.bytes[buffer.start..];
        // O_DIRECT wants whole blocks, so the last chunk of a file is asked for in full and answered short.
        let ask = len.next_multiple_of(usize::try_from(DIRECT_ALIGN_BYTES).unwrap_or(1));
        let mut got = 0;
        while got < len {
            let at = offset + u64::try_from(got).unwrap_or(u64::MAX);
            match self.0.read_at(&mut room[got..ask], at) {
                Ok(0) => {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        format!("ends at byte {at}, shorter than its size"),
                    ));
                }
                Ok(more) => got += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(&room[..len])
    }

    /// Asks the kernel to drop its cached pages of this file.
    pub fn drop_cached_pages(&self) -> io::Result<()> {
        Ok(posix_fadvise(&self.0, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
    }
}

/// What all readers share.
#[derive(Debug)]
pub struct Load<'a> {
    /// What is read.
    pub set: &'a DataSet,
    /// In which order.
    pub pattern: Pattern,
    /// With or without the page cache.
    pub caching: Caching,
    /// When to stop.
    pub duration: Duration,
    /// Seed of all orders.
    pub seed: u64,
    /// Where bytes are compared, if they are.
    pub checksums: Option<&'a Checksums>,
}

/// What readers did, one reader's or all readers' together.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes read.
    pub bytes: u64,
    /// Latency of every operation that succeeded, in nanoseconds.
    pub latency_ns: Histogram<u64>,
    /// Operations that failed.
    pub errors: u64,
    /// The first failure, in words.
    pub first_error: Option<String>,
    /// From the common start to the end of the last operation.
    pub elapsed: Duration,
}

impl Outcome {
    fn new() -> Outcome {
        Outcome {
            bytes: 0,
            latency_ns: histogram(),
            errors: 0,
            first_error: None,
            elapsed: Duration::ZERO,
        }
    }

    fn merge(mut self, other: Outcome) -> Outcome {
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.or(other.first_error);
        self.elapsed = self.elapsed.max(other.elapsed);
        // Both have the same precision and resize themselves, the one case in which adding can fail.
        if self.latency_ns.add(&other.latency_ns).is_err() {
            debug_assert!(false, "histograms of equal precision add up");
        }
        self
    }
}

/// From 1 ns to 1 hour with three digits: the bounds are constants that the constructor accepts.
fn histogram() -> Histogram<u64> {
    const HOUR_NS: u64 = 3_600_000_000_000;
    let mut histogram = Histogram::new_with_bounds(1, HOUR_NS, 3).unwrap_or_else(|error| {
        unreachable!("constant bounds are valid: {error}");
    });
    histogram.auto(true);
    histogram
}

/// Lets `readers` threads read until the duration is over. All start at one moment.
pub fn run(load: &Load<'_>, readers: usize) -> Outcome {
    let barrier = Barrier::new(readers);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..readers)
            .map(|reader| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut state = Reader::new(load, Place { reader, readers });
                    barrier.wait();
                    state.read_until_over();
                    state.outcome
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .fold(Outcome::new(), Outcome::merge)
    })
}

struct Reader<'a> {
    load: &'a Load<'a>,
    order: Order,
    buffer: Buffer,
    open: HashMap<usize, OpenFile>,
    outcome: Outcome,
}

impl<'a> Reader<'a> {
    fn new(load: &'a Load<'a>, place: Place) -> Reader<'a> {
        let extent = Extent { files: load.set.files().len(), chunks: load.set.chunk_count() };
        Reader {
            load,
            order: Order::new(load.pattern, extent, place, load.seed),
            buffer: Buffer::new(load.set.chunk_bytes()),
            open: HashMap::new(),
            outcome: Outcome::new(),
        }
    }

    fn read_until_over(&mut self) {
        let start = Instant::now();
        while start.elapsed() < self.load.duration {
            let result = match self.order.step() {
                Step::Chunk(chunk) => self.read_chunk(chunk),
                Step::File(file) => self.read_file(file),
            };
            if let Err((file, error)) = result {
                self.outcome.errors += 1;
                let path = self.load.set.files()[file].path.display();
                self.outcome.first_error.get_or_insert_with(|| format!("{path}: {error}"));
            }
        }
        self.outcome.elapsed = start.elapsed();
    }

    /// One chunk; the latency is that of the read alone, files are opened beforehand.
    fn read_chunk(&mut self, index: usize) -> Result<(), (usize, io::Error)> {
        let chunk = self.load.set.chunk(index);
        if !self.open.contains_key(&chunk.file) {
            if self.open.len() >= OPEN_FILES_MAX {
                self.open.clear();
            }
            let path = &self.load.set.files()[chunk.file].path;
            let open = OpenFile::open(path, self.load.caching).map_err(|e| (chunk.file, e))?;
            self.open.insert(chunk.file, open);
        }
        let started = Instant::now();
        let bytes = self.open[&chunk.file]
            .read(chunk.offset, chunk.len_bytes, &mut self.buffer)
            .map_err(|error| (chunk.file, error))?;
        self.outcome.latency_ns.saturating_record(nanoseconds(started.elapsed()));
        self.outcome.bytes += chunk.len_bytes;
        note(self.load, index, chunk, bytes);
        Ok(())
    }

    /// One file: open, every chunk, close; comparing is left out of its latency.
    fn read_file(&mut self, file: usize) -> Result<(), (usize, io::Error)> {
        let set = self.load.set;
        let mut spent = Duration::ZERO;
        let mut started = Instant::now();
        let open = OpenFile::open(&set.files()[file].path, self.load.caching)
            .map_err(|error| (file, error))?;
        for index in set.chunks_of(file) {
            let chunk = set.chunk(index);
            let bytes = open
                .read(chunk.offset, chunk.len_bytes, &mut self.buffer)
                .map_err(|error| (file, error))?;
            spent += started.elapsed();
            note(self.load, index, chunk, bytes);
            started = Instant::now();
            self.outcome.bytes += chunk.len_bytes;
        }
        drop(open);
        spent += started.elapsed();
        self.outcome.latency_ns.saturating_record(nanoseconds(spent));
        Ok(())
    }
}

fn note(load: &Load<'_>, index: usize, chunk: Chunk, bytes: &[u8]) {
    let Some(checksums) = load.checksums else { return };
    if !checksums.note(index, bytes) {
        checksums.differs(|| {
            let name = load.set.relative_path(chunk.file).display();
            format!("{name}: two readers got different bytes of the chunk at {}", chunk.offset)
        });
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Reads every file once, so that what follows measures hits.
pub fn warm_up(set: &DataSet, caching: Caching) -> io::Result<()> {
    let mut buffer = Buffer::new(set.chunk_bytes());
    for file in 0..set.files().len() {
        let open = OpenFile::open(&set.files()[file].path, caching)?;
        for index in set.chunks_of(file) {
            let chunk = set.chunk(index);
            open.read(chunk.offset, chunk.len_bytes, &mut buffer)?;
        }
    }
    Ok(())
}

/// Drops the kernel's cached pages of every file.
pub fn drop_cached_pages(set: &DataSet) -> io::Result<()> {
    for file in set.files() {
        OpenFile::open(&file.path, Caching::Kernel)?.drop_cached_pages()?;
    }
    Ok(())
}
