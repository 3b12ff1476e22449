//! The kernel's caches, dropped for both sides alike.

use std::fs::{self, File};
use std::path::Path;

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::unistd::geteuid;

use super::error::CompareError;

const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";

/// Drops the page cache: all of it as root, otherwise the pages of the files below `folders`.
pub(crate) fn drop_pages(folders: &[&Path]) -> Result<(), CompareError> {
    if geteuid().is_root() {
        return order("1");
    }
    folders.iter().try_for_each(|folder| drop_pages_below(folder))
}

/// Drops pages, dentries and inodes; `false` if that takes more rights than we have.
pub(crate) fn drop_everything() -> Result<bool, CompareError> {
    if !geteuid().is_root() {
        return Ok(false);
    }
    order("3").map(|()| true)
}

fn order(what: &str) -> Result<(), CompareError> {
    fs::write(DROP_CACHES, what).map_err(CompareError::file(DROP_CACHES))
}

fn drop_pages_below(folder: &Path) -> Result<(), CompareError> {
    for entry in fs::read_dir(folder).map_err(CompareError::file(folder))? {
        let path = entry.map_err(CompareError::file(folder))?.path();
        if path.is_dir() {
            drop_pages_below(&path)?;
            continue;
        }
        let file = File::open(&path).map_err(CompareError::file(&path))?;
        posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED)
            .map_err(|error| CompareError::File { path, source: error.into() })?;
    }
    Ok(())
}
