//! Reading all that is on disk and comparing it with its checksums, at the pace of who asks.
//!
//! Blocks are read past the page cache where the file system allows it: what is compared is what the
//! disk holds, and the pages of readers stay. No frame is taken and nobody waits for it. A block that
//! is wrong is dropped as if a reader had found it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::block::{BLOCK_BYTES, block_count, block_range, in_memory};
use crate::cache::Shared;
use crate::disk::Disk;
use crate::disk::flaw::Flaw;
use crate::disk::stored::Stored;
use crate::disk::verified::FileStamp;
use crate::memory::frame::DIRECT_BYTES;
use crate::sums::{self, SUM_BYTES};
use crate::version::ObjectId;

/// Bytes read and compared at once.
const PIECE_BYTES: usize = 1 << 20;

const _: () = assert!(
    PIECE_BYTES.is_multiple_of(SUM_BYTES) && PIECE_BYTES.is_multiple_of(DIRECT_BYTES),
    "pieces are compared by themselves and read directly"
);

/// What a [`Verification`] has found so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VerifyCounts {
    /// Bytes on disk when it began.
    pub bytes_total: u64,
    /// Bytes that were read and compared, or found gone.
    pub bytes_checked: u64,
    /// Blocks that were read and compared.
    pub blocks_checked: u64,
    /// Of them, blocks whose bytes were wrong, and which were dropped.
    pub mismatches: u64,
    /// Blocks that the disk did not read, and which were dropped.
    pub blocks_unreadable: u64,
    /// Objects that were dropped because their file was missing or too short.
    pub objects_dropped: u64,
}

/// One pass over the objects that are on disk when it begins; made by [`crate::Cache::verification`].
pub struct Verification {
    shared: Arc<Shared>,
    left: std::vec::IntoIter<ObjectId>,
    reading: Option<Reading>,
    buffer: MmapMut,
    counts: VerifyCounts,
}

/// The object whose blocks are read now.
struct Reading {
    stored: Stored,
    file: File,
    stamp: FileStamp,
    next: u32,
}

impl Verification {
    /// Of the objects in `shared`'s disk tier; one that does nothing if there is none.
    pub(crate) fn new(shared: Arc<Shared>) -> io::Result<Self> {
        let (ids, bytes_total) = shared.disk().map(Disk::on_disk).unwrap_or_default();
        let counts = VerifyCounts { bytes_total, ..VerifyCounts::default() };
        let buffer = MmapMut::map_anon(PIECE_BYTES)?;
        Ok(Self { shared, left: ids.into_iter(), reading: None, buffer, counts })
    }

    /// How far it is.
    pub fn counts(&self) -> VerifyCounts {
        self.counts
    }

    /// Goes on by one block at most; false once it has ended. Blocks while the disk reads.
    pub fn step(&mut self) -> bool {
        let shared = Arc::clone(&self.shared);
        let Some(disk) = shared.disk() else { return false };
        match self.reading.take() {
            Some(reading) => self.reading = self.check_next(disk, reading),
            None => match self.left.next() {
                Some(id) => self.reading = self.begin(disk, id),
                None => return false,
            },
        }
        true
    }

    fn begin(&mut self, disk: &Disk, id: ObjectId) -> Option<Reading> {
        let stored = disk.find(id)?;
        let opened =
            open(disk, &stored).and_then(|file| Ok((FileStamp::of(&file.metadata()?), file)));
        match opened {
            Ok((stamp, file)) => Some(Reading { stored, file, stamp, next: 0 }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // One without a block may have no file yet.
                if stored.present_bytes() > 0 {
                    self.found(disk, &stored, &Flaw::Short);
                }
                None
            }
            Err(error) => {
                tracing::debug!(%error, object = %id, "cannot open an object's file to verify it");
                None
            }
        }
    }

    /// Checks the next block that is there; returns what to go on with.
    fn check_next(&mut self, disk: &Disk, mut reading: Reading) -> Option<Reading> {
        let Reading { stored, file, stamp, next } = &mut reading;
        let index = (*next..block_count(stored.size_bytes())).find(|at| stored.is_present(*at))?;
        *next = index + 1;
        let checked = check(disk, (stored, index), file, &mut self.buffer);
        self.counts.bytes_checked += block_range(stored.size_bytes(), index).len_bytes();
        match checked {
            Ok(()) => {
                self.counts.blocks_checked += 1;
                if let Stored::File(object) = stored {
                    object.found_right(index, *stamp);
                }
            }
            Err(flaw) => {
                let is_short = matches!(flaw, Flaw::Short);
                self.found(disk, stored, &flaw);
                if is_short {
                    return None;
                }
            }
        }
        Some(reading)
    }

    fn found(&mut self, disk: &Disk, stored: &Stored, flaw: &Flaw) {
        // What was evicted or dropped meanwhile is no flaw, or was counted by who has found it.
        let is_there = match (stored, flaw) {
            (Stored::File(object), Flaw::Short) => object.is_alive(),
            (Stored::File(object), Flaw::Damaged { index } | Flaw::Failed { index, .. }) => {
                object.is_present(*index)
            }
            (Stored::Packed(_), _) => disk.is_current(stored),
        };
        if !is_there {
            return;
        }
        match flaw {
            Flaw::Short => self.counts.objects_dropped += 1,
            Flaw::Damaged { .. } => {
                self.counts.blocks_checked += 1;
                self.counts.mismatches += 1;
            }
            Flaw::Failed { .. } => self.counts.blocks_unreadable += 1,
        }
        disk.note_flaw(stored, flaw);
    }
}

fn open(disk: &Disk, stored: &Stored) -> io::Result<File> {
    let path = match stored {
        Stored::File(object) => disk.object_path(object.id()),
        Stored::Packed(packed) => {
            disk.pack(packed.entry.place().pack).ok_or(io::ErrorKind::NotFound)?.1
        }
    };
    let open = |direct| {
        let flags = libc::O_NOFOLLOW | libc::O_CLOEXEC | direct;
        OpenOptions::new().read(true).custom_flags(flags).open(&path)
    };
    match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => open(0),
        opened => opened,
    }
}

/// Reads block `index` and compares it.
fn check(
    disk: &Disk,
    (stored, index): (&Stored, u32),
    file: &File,
    buffer: &mut [u8],
) -> Result<(), Flaw> {
    let sums = disk.sums_to_compare(stored, index)?;
    let len_bytes = in_memory(block_range(stored.size_bytes(), index).len_bytes());
    for start in (0..len_bytes).step_by(PIECE_BYTES) {
        let piece_bytes = PIECE_BYTES.min(len_bytes - start);
        let offset = stored.offset() + u64::from(index) * BLOCK_BYTES + start as u64;
        read(file, buffer, piece_bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Flaw::Short,
            _ => Flaw::Failed { index, error },
        })?;
        let first_sum = start / SUM_BYTES;
        let expected = &sums[first_sum..first_sum + sums::count(piece_bytes)];
        if !sums::verify(&buffer[..piece_bytes], expected) {
            return Err(Flaw::Damaged { index });
        }
    }
    Ok(())
}

/// Reads `wanted_bytes` from `offset` to the start of `buffer`, and maybe more: a direct read ends
/// at a boundary or at the end of the file.
fn read(file: &File, buffer: &mut [u8], wanted_bytes: usize, offset: u64) -> io::Result<()> {
    let end = wanted_bytes.next_multiple_of(DIRECT_BYTES);
    let mut done_bytes = 0;
    loop {
        let now = match file.read_at(&mut buffer[done_bytes..end], offset + done_bytes as u64) {
            Ok(count) => done_bytes + count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if now >= wanted_bytes {
            return Ok(());
        }
        let whole_bytes = now / DIRECT_BYTES * DIRECT_BYTES;
        if whole_bytes == done_bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        done_bytes = whole_bytes;
    }
}
