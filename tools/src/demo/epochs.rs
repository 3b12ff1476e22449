//! Timed passes over the mount.
//!
//! How time is taken: the files of a pass are read whole into buffers whose pages exist already; the clock runs from the
//! moment all readers start to the moment the last has ended. Only then are the MD5s computed and compared. When a data
//! set is larger than `WAVE_BYTES_MAX`, it is read in waves of that much and the waves' times are added up, so that
//! memory stays bounded. Each pass has fresh buffers, so that a byte that was not read cannot pass for one that was.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use md5::{Digest, Md5};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};

use super::report::Epoch;
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// Bytes read before they are verified and their memory is used again.
const WAVE_BYTES_MAX: usize = 1 << 30;
/// Bytes of the first read of a file, which the time to first byte waits for.
const FIRST_READ_BYTES: usize = 64 << 10;
/// Bytes of each further read.
const READ_BYTES: usize = 1 << 20;

/// A file as it must be.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Key below the data set's prefix, and path below the mount.
    pub key: String,
    /// Its length.
    pub len_bytes: usize,
    /// MD5 of its bytes as they were made.
    pub md5: [u8; 16],
}

/// What reading took.
#[derive(Debug, Default)]
pub struct Reading {
    /// From the common start to the end of the last reader.
    pub elapsed: Duration,
    /// From open (or request) to the first bytes, one for each file or GET.
    pub first_bytes: Vec<Duration>,
    /// GETs the client itself sent; 0 when it read files.
    pub gets: usize,
}

/// A pass over several waves, verified.
#[derive(Debug, Default)]
pub struct Verified {
    reading: Reading,
    bytes: usize,
    files: usize,
    mismatches: usize,
}

impl Verified {
    /// Runs `read` for each wave of `files` and verifies what it brought.
    pub fn run(
        files: &[Expected],
        mut read: impl FnMut(&[Expected], &mut [Vec<u8>]) -> Result<Reading, ToolError>,
    ) -> Result<Verified, ToolError> {
        let mut all = Verified::default();
        for wave in waves(files, WAVE_BYTES_MAX) {
            let files = &files[wave];
            // Not zeroes: memory that is asked for as zeroes gets its pages only when it is written.
            let mut buffers: Vec<_> = files.iter().map(|file| vec![1_u8; file.len_bytes]).collect();
            let reading = read(files, &mut buffers)?;
            all.reading.elapsed += reading.elapsed;
            all.reading.first_bytes.extend(reading.first_bytes);
            all.reading.gets += reading.gets;
            all.bytes += files.iter().map(|file| file.len_bytes).sum::<usize>();
            all.files += files.len();
            all.mismatches += mismatches(files, &buffers);
        }
        Ok(all)
    }

    /// GETs the reader itself sent.
    pub fn gets(&self) -> usize {
        self.reading.gets
    }

    /// Bytes read.
    pub fn bytes(&self) -> u64 {
        u64::try_from(self.bytes).unwrap_or(u64::MAX)
    }

    /// 1e9 bytes a second.
    #[expect(clippy::cast_precision_loss, reason = "a printed figure")]
    pub fn gb_per_s(&self) -> f64 {
        let seconds = self.reading.elapsed.max(Duration::from_nanos(1)).as_secs_f64();
        self.bytes as f64 / seconds / 1e9
    }

    /// The row of the report, with what the store saw meanwhile.
    pub fn into_epoch(
        mut self,
        name: &'static str,
        (s3_gets, s3_bytes): (u64, u64),
        note: String,
    ) -> Epoch {
        Epoch {
            name,
            bytes: self.bytes(),
            seconds: self.reading.elapsed.as_secs_f64(),
            gb_per_s: self.gb_per_s(),
            ttfb_ms: median(&mut self.reading.first_bytes).as_secs_f64() * 1e3,
            s3_gets,
            s3_bytes,
            note,
            files: self.files,
            mismatches: self.mismatches,
        }
    }
}

fn median(durations: &mut [Duration]) -> Duration {
    durations.sort_unstable();
    durations.get(durations.len() / 2).copied().unwrap_or_default()
}

/// Cuts `files` into runs of at most `bytes_max` bytes, or one file where that alone is larger.
fn waves(files: &[Expected], bytes_max: usize) -> Vec<Range<usize>> {
    let mut waves = Vec::new();
    let (mut start, mut bytes) = (0, 0);
    for (index, file) in files.iter().enumerate() {
        if index > start && bytes + file.len_bytes > bytes_max {
            waves.push(start..index);
            (start, bytes) = (index, 0);
        }
        bytes += file.len_bytes;
    }
    if start < files.len() {
        waves.push(start..files.len());
    }
    waves
}

/// Files whose bytes have another MD5 than expected.
fn mismatches(files: &[Expected], buffers: &[Vec<u8>]) -> usize {
    let next = AtomicUsize::new(0);
    let wrong = AtomicUsize::new(0);
    let hash = || {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(index) else { break };
            let md5: [u8; 16] = Md5::digest(&buffers[index]).into();
            if md5 != file.md5 {
                wrong.fetch_add(1, Ordering::Relaxed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(hash);
        }
    });
    wrong.into_inner()
}

/// Reads `files` below `root` with `readers` threads, each taking the next file that nobody has. If there are several
/// files, their directories are listed first, as a job does to find its files; that is part of the time.
pub fn read(
    root: &Path,
    readers: usize,
    (files, buffers): (&[Expected], &mut [Vec<u8>]),
    interrupt: &Interrupt,
) -> Result<Reading, ToolError> {
    let jobs: Vec<_> = files.iter().zip(buffers).rev().collect();
    let jobs = std::sync::Mutex::new(jobs);
    let started = Instant::now();
    if files.len() > 1 {
        list_directories(root, files)?;
    }
    let results: Vec<Result<Vec<Duration>, ToolError>> = thread::scope(|scope| {
        let running: Vec<_> = (0..readers.clamp(1, files.len().max(1)))
            .map(|_| scope.spawn(|| read_until_empty(root, &jobs, interrupt)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let elapsed = started.elapsed();
    let mut reading = Reading { elapsed, ..Reading::default() };
    for first_bytes in results {
        reading.first_bytes.extend(first_bytes?);
    }
    Ok(reading)
}

/// Lists every directory that holds one of the files, side by side.
fn list_directories(root: &Path, files: &[Expected]) -> Result<(), ToolError> {
    let directories: BTreeSet<_> = files
        .iter()
        .filter_map(|file| root.join(&file.key).parent().map(Path::to_path_buf))
        .collect();
    let list = |path: &Path| {
        let counted = fs::read_dir(path).and_then(|entries| {
            entries.map(|entry| entry.map(drop)).collect::<io::Result<Vec<()>>>()
        });
        counted.map(drop).map_err(|source| ToolError::Read { path: path.to_path_buf(), source })
    };
    thread::scope(|scope| {
        let running: Vec<_> = directories.iter().map(|path| scope.spawn(|| list(path))).collect();
        running.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    })
}

type Jobs<'a> = std::sync::Mutex<Vec<(&'a Expected, &'a mut Vec<u8>)>>;

fn read_until_empty(
    root: &Path,
    jobs: &Jobs<'_>,
    interrupt: &Interrupt,
) -> Result<Vec<Duration>, ToolError> {
    let mut first_bytes = Vec::new();
    loop {
        let job = jobs.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
        let Some((file, buffer)) = job else { return Ok(first_bytes) };
        let path = root.join(&file.key);
        match read_file(&path, buffer, interrupt) {
            Ok(Some(first)) => first_bytes.push(first),
            Ok(None) => return Err(ToolError::Interrupted),
            Err(source) => return Err(ToolError::Read { path, source }),
        }
    }
}

/// Reads one file whole; the time to its first bytes, or `None` if the user wants to stop.
fn read_file(
    path: &Path,
    buffer: &mut [u8],
    interrupt: &Interrupt,
) -> io::Result<Option<Duration>> {
    let started = Instant::now();
    let mut file = File::open(path)?;
    let mut first = None;
    let mut got = 0;
    while got < buffer.len() {
        if interrupt.raised() {
            return Ok(None);
        }
        let ask = if first.is_none() { FIRST_READ_BYTES } else { READ_BYTES };
        let end = buffer.len().min(got + ask);
        match file.read(&mut buffer[got..end])? {
            0 => {
                return Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    format!("ends at byte {got}"),
                ));
            }
            more => got += more,
        }
        first.get_or_insert_with(|| started.elapsed());
    }
    if file.read(&mut [0])? != 0 {
        return Err(io::Error::other(format!("does not end at byte {got}")));
    }
    Ok(Some(first.unwrap_or_else(|| started.elapsed())))
}

/// Drops the kernel's cached pages of the files, and of everything if this is root. Says how in words.
pub fn drop_page_cache(root: &Path, files: &[Expected]) -> Result<&'static str, ToolError> {
    for file in files {
        let path = root.join(&file.key);
        let dropped = File::open(&path).and_then(|open| {
            Ok(posix_fadvise(open, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)?)
        });
        dropped.map_err(|source| ToolError::Read { path, source })?;
    }
    // Pages only (1), not names: the mount is not to be asked for its listing again.
    Ok(match fs::write("/proc/sys/vm/drop_caches", "1") {
        Ok(()) => "page cache dropped",
        Err(_) => "page cache of these files dropped",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(lens: &[usize]) -> Vec<Expected> {
        let file = |(index, len): (usize, &usize)| Expected {
            key: format!("f{index}"),
            len_bytes: *len,
            md5: Md5::digest(vec![7; *len]).into(),
        };
        lens.iter().enumerate().map(file).collect()
    }

    #[test]
    fn waves_are_bounded_and_cover_all_files_in_order() {
        for (lens, waves_expected) in [
            (&[3, 3, 3, 3][..], vec![0..3, 3..4]),
            (&[20, 1, 20][..], vec![0..1, 1..2, 2..3]),
            (&[10, 1][..], vec![0..1, 1..2]),
            (&[][..], vec![]),
        ] {
            assert_eq!(waves(&expected(lens), 10), waves_expected, "{lens:?}");
        }
    }

    fn on_disk(lens: &[usize]) -> (tempfile::TempDir, Vec<Expected>) {
        let dir = tempfile::tempdir().unwrap();
        let files = expected(lens);
        for file in &files {
            fs::write(dir.path().join(&file.key), vec![7; file.len_bytes]).unwrap();
        }
        (dir, files)
    }

    fn pass(dir: &Path, files: &[Expected]) -> Result<Verified, ToolError> {
        let interrupt = Interrupt::watch().unwrap();
        Verified::run(files, |files, buffers| read(dir, 3, (files, buffers), &interrupt))
    }

    #[test]
    fn files_read_right_have_no_mismatch_and_every_byte_counts() {
        let (dir, files) = on_disk(&[3_000_000, 0, 100_000, 65_536, 1]);
        let verified = pass(dir.path(), &files).unwrap();
        assert_eq!((verified.files, verified.bytes, verified.mismatches), (5, 3_165_537, 0));
        let epoch = verified.into_epoch("cold", (4, 5), String::new());
        assert_eq!((epoch.s3_gets, epoch.s3_bytes), (4, 5));
        assert!(epoch.gb_per_s > 0.0 && epoch.ttfb_ms > 0.0);
        assert!(drop_page_cache(dir.path(), &files).unwrap().contains("dropped"));
    }

    #[test]
    fn one_flipped_byte_is_one_mismatch() {
        let (dir, files) = on_disk(&[100_000, 100_000]);
        let mut bytes = vec![7; 100_000];
        bytes[99_999] = 6;
        fs::write(dir.path().join("f1"), bytes).unwrap();
        assert_eq!(pass(dir.path(), &files).unwrap().mismatches, 1);
    }

    #[test]
    fn file_of_another_length_is_an_error_that_names_it() {
        for len in [99, 101] {
            let (dir, files) = on_disk(&[100]);
            fs::write(dir.path().join("f0"), vec![7; len]).unwrap();
            let error = pass(dir.path(), &files).unwrap_err().to_string();
            assert!(error.contains("f0"), "{error}");
        }
    }
}
