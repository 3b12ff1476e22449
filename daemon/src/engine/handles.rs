//! Open files and open directories of one mount.
//!
//! Handles are shared by all cores: a request is served where it was read. Their numbers are given
//! once and never again in the life of a mount.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenderfs_cache::Object;
use tenderfs_fuse::Fh;

use super::read_ahead::ReadAhead;
use crate::namespace::Entries;

/// An open file: one version of one object, to the end.
#[derive(Debug)]
pub(crate) struct OpenFile {
    /// The object version that was opened.
    pub(crate) object: Arc<Object>,
    /// What its reads look like.
    read_ahead: Mutex<ReadAhead>,
    /// Whether it was the use of an entry of a plan that wants the whole file: it is none of another.
    pub(crate) is_planned_use: AtomicBool,
}

impl OpenFile {
    fn new(object: Arc<Object>) -> Self {
        Self { object, read_ahead: Mutex::default(), is_planned_use: AtomicBool::new(false) }
    }

    /// The state of its read-ahead; never hold it across an await.
    pub(crate) fn read_ahead(&self) -> MutexGuard<'_, ReadAhead> {
        self.read_ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A table of handles of one kind.
#[derive(Debug)]
struct Table<T> {
    next: AtomicU64,
    open: Mutex<HashMap<u64, Arc<T>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { next: AtomicU64::new(1), open: Mutex::default() }
    }
}

impl<T> Table<T> {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<T>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, handle: T) -> Fh {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, Arc::new(handle));
        Fh(number)
    }

    fn get(&self, fh: Fh) -> Option<Arc<T>> {
        self.lock().get(&fh.0).cloned()
    }

    fn remove(&self, fh: Fh) -> Option<Arc<T>> {
        self.lock().remove(&fh.0)
    }
}

/// All handles of one mount.
#[derive(Debug, Default)]
pub(crate) struct Handles {
    files: Table<OpenFile>,
    directories: Table<Entries>,
}

impl Handles {
    /// A handle on `object`.
    pub(crate) fn open_file(&self, object: Arc<Object>) -> Fh {
        self.files.insert(OpenFile::new(object))
    }

    /// The file behind `fh`.
    pub(crate) fn file(&self, fh: Fh) -> Option<Arc<OpenFile>> {
        self.files.get(fh)
    }

    /// Closes a file.
    pub(crate) fn close_file(&self, fh: Fh) -> Option<Arc<OpenFile>> {
        self.files.remove(fh)
    }

    /// A handle on a directory with these entries, which it keeps so that offsets stay true.
    pub(crate) fn open_directory(&self, entries: Entries) -> Fh {
        self.directories.insert(entries)
    }

    /// The directory behind `fh`.
    pub(crate) fn directory(&self, fh: Fh) -> Option<Arc<Entries>> {
        self.directories.get(fh)
    }

    /// Closes a directory.
    pub(crate) fn close_directory(&self, fh: Fh) -> Option<Arc<Entries>> {
        self.directories.remove(fh)
    }

    /// Files open now.
    pub(crate) fn files_open(&self) -> usize {
        self.files.lock().len()
    }
}
