//! The file of a complete object, for those who can read it by themselves.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::object::{DiskObject, Readiness};
use crate::disk::space::FileSpace;

/// The open file of an object version, read-only: as long as the object, and right when it was
/// opened. Nothing writes to it while its lease lives, and it is never truncated: it may be evicted,
/// which unlinks it.
#[derive(Debug)]
pub struct BackingFile {
    pub(crate) file: File,
    /// To be kept as long as anybody can read the file.
    pub lease: Lease,
}

impl AsFd for BackingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Keeps the space of a file counted while it can be read from outside the cache. While it is in
/// use the object is not evicted, since that would free nothing.
#[derive(Debug)]
pub struct Lease {
    object: Arc<DiskObject>,
    in_use: AtomicBool,
    _space: Arc<FileSpace>,
}

impl Lease {
    /// A lease in use; `None` if the object is evicted.
    pub(crate) fn new(object: &Arc<DiskObject>) -> Option<Self> {
        let space = object.space()?;
        object.lend();
        Some(Self { object: Arc::clone(object), in_use: AtomicBool::new(true), _space: space })
    }

    pub(crate) fn object(&self) -> &Arc<DiskObject> {
        &self.object
    }

    /// Whether the file is still the object's, complete and right. If not, the lease is to be
    /// dropped as soon as nobody reads the file.
    pub fn is_current(&self) -> bool {
        matches!(self.object.readiness(), Readiness::Ready(_))
    }

    /// Says whether anybody reads the file.
    pub fn set_in_use(&self, in_use: bool) {
        if self.in_use.swap(in_use, Ordering::AcqRel) != in_use {
            if in_use {
                self.object.lend();
            } else {
                self.object.given_back();
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.set_in_use(false);
    }
}
