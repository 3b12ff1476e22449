//! Checking in the background what an earlier life left on disk.
//!
//! A complete object whose blocks were not all looked at in this life is served by the daemon, which
//! verifies every read; meanwhile its blocks are read here once, so that a later open can have the
//! file itself. They are read through the page cache, where that open will look for them, and take
//! no frame. While the disk serves others, a check uses a tenth of the time.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio_uring::buf::BoundedBuf;
use tokio_uring::fs::File;

use crate::block::{BLOCK_BYTES, block_count, block_range, in_memory};
use crate::core::Core;
use crate::core::backing::open_read;
use crate::disk::Disk;
use crate::disk::flaw::Flaw;
use crate::disk::object::DiskObject;
use crate::disk::stored::Stored;
use crate::disk::verified::FileStamp;
use crate::sums::{self, SUM_BYTES};

/// Bytes read and compared at once; the core serves others in between.
const PIECE_BYTES: usize = 1 << 20;

const _: () = assert!(PIECE_BYTES.is_multiple_of(SUM_BYTES), "pieces are compared by themselves");

/// How many times as long as a piece took a check pauses, if the disk served others meanwhile. A
/// disk without seeks takes reads in turns, so that this is the share of it that others keep.
const PAUSE_TIMES: u32 = 9;

/// Longest such pause: a disk that hangs for a moment does not put off a check for minutes.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Why a check has ended before the end of the object.
enum Ended {
    /// It was evicted, or its file is another one by now.
    Gone,
    /// Something is wrong with it.
    Flawed(Flaw),
}

impl From<Flaw> for Ended {
    fn from(flaw: Flaw) -> Self {
        Self::Flawed(flaw)
    }
}

impl Core {
    /// Has the blocks of a complete object read and compared, unless that is queued already or too
    /// much else is.
    pub(crate) fn check_later(self: &Rc<Self>, object: &Arc<DiskObject>) {
        if object.is_checking.swap(true, Ordering::AcqRel) {
            return;
        }
        let checking = Checking(Arc::clone(object));
        let Some(place) = self.disk().and_then(Disk::queue_check) else { return };
        let core = Rc::clone(self);
        // Not counted among the core's tasks: a daemon that stops does not wait for it.
        drop(tokio_uring::spawn(async move {
            let Some(disk) = core.disk() else { return };
            let Some(_turn) = disk.check_turn().await else { return };
            let ended = core.check(disk, &checking.0).await;
            if let Err(Ended::Flawed(flaw)) = ended {
                disk.note_flaw(&Stored::File(Arc::clone(&checking.0)), &flaw);
            }
            drop(place);
        }));
    }

    async fn check(&self, disk: &Disk, object: &Arc<DiskObject>) -> Result<(), Ended> {
        let file = open_read(&disk.object_path(object.id())).await.map_err(|_| Flaw::Short)?;
        let metadata = file.metadata().map_err(|_| Flaw::Short)?;
        if metadata.len() < object.size_bytes() {
            return Err(Flaw::Short.into());
        }
        let stamp = FileStamp::of(&metadata);
        object.begin_check(stamp);
        let file = File::from_std(file);
        let mut buffer = vec![0; PIECE_BYTES];
        for index in 0..block_count(object.size_bytes()) {
            if !disk.may_read() || !object.is_present(index) {
                return Err(Ended::Gone);
            }
            if object.is_verified(index) {
                continue;
            }
            buffer = check_block(&file, disk, (object, index), buffer).await?;
            self.counters().disk_check_blocks.inc();
            object.found_right(index, stamp);
        }
        Ok(())
    }
}

/// Reads block `index` and compares it; returns the buffer.
async fn check_block(
    file: &File,
    disk: &Disk,
    (object, index): (&Arc<DiskObject>, u32),
    mut buffer: Vec<u8>,
) -> Result<Vec<u8>, Flaw> {
    let len_bytes = in_memory(block_range(object.size_bytes(), index).len_bytes());
    let sums = disk.sums_to_compare(&Stored::File(Arc::clone(object)), index)?;
    for start in (0..len_bytes).step_by(PIECE_BYTES) {
        let (reads_before, began) = (disk.reads_made(), Instant::now());
        let piece_bytes = PIECE_BYTES.min(len_bytes - start);
        let offset = u64::from(index) * BLOCK_BYTES + start as u64;
        let (read, piece) = file.read_exact_at(buffer.slice(..piece_bytes), offset).await;
        buffer = piece.into_inner();
        read.map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => Flaw::Short,
            _ => Flaw::Failed { index, error },
        })?;
        let first_sum = start / SUM_BYTES;
        let expected = &sums[first_sum..first_sum + sums::count(piece_bytes)];
        if !sums::verify(&buffer[..piece_bytes], expected) {
            return Err(Flaw::Damaged { index });
        }
        let pause = pause(began.elapsed(), disk.reads_made() - reads_before);
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }
    Ok(buffer)
}

/// How long to leave the disk to others after a piece that took so long, during which they made so
/// many reads.
fn pause(took: Duration, others_reads: u64) -> Duration {
    if others_reads == 0 { Duration::ZERO } else { (took * PAUSE_TIMES).min(PAUSE_MAX) }
}

/// Marks an object as being checked until it is dropped.
struct Checking(Arc<DiskObject>);

impl Drop for Checking {
    fn drop(&mut self) {
        self.0.is_checking.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_check_leaves_a_busy_disk_to_others() {
        let took = Duration::from_millis(10);
        assert_eq!(pause(took, 0), Duration::ZERO);
        assert_eq!(pause(took, 1), Duration::from_millis(90));
        assert_eq!(pause(Duration::from_secs(5), 1000), PAUSE_MAX);
    }
}
