//! What can be wrong with blocks on disk that were read to be checked, and what follows from it.

use std::io;
use std::sync::Arc;

use crate::block::{block_range, in_memory};
use crate::disk::Disk;
use crate::disk::stored::Stored;
use crate::sums;

/// Why blocks on disk are of no use.
#[derive(Debug)]
pub(crate) enum Flaw {
    /// The file is missing, or shorter than the catalogue says.
    Short,
    /// This block is not what was written.
    Damaged { index: u32 },
    /// The disk did not read this block.
    Failed { index: u32, error: io::Error },
}

impl Disk {
    /// The checksums that block `index` must have, whatever `verify` says.
    pub(crate) fn sums_to_compare(&self, object: &Stored, index: u32) -> Result<Arc<[u32]>, Flaw> {
        let len_bytes = in_memory(block_range(object.size_bytes(), index).len_bytes());
        let sums = self.sums(object, index).filter(|sums| sums.len() == sums::count(len_bytes));
        sums.ok_or(Flaw::Damaged { index })
    }

    /// Counts the flaw and forgets what has it, so that it is fetched again.
    pub(crate) fn note_flaw(&self, object: &Stored, flaw: &Flaw) {
        let counters = &self.inner.counters;
        match flaw {
            Flaw::Short => {
                counters.records_dropped.inc();
                self.drop_object(object);
            }
            Flaw::Damaged { index } => {
                counters.verify_mismatches.inc();
                self.drop_block(object, *index);
            }
            Flaw::Failed { index, error } => {
                counters.disk_read_errors.inc();
                self.read_failed(object, *index, error);
            }
        }
    }
}
