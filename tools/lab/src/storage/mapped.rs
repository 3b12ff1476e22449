//! A file's bytes without reading it.
#![allow(unsafe_code, reason = "a memory map has no safe face")]

use std::fs::File;
use std::io;

use bytes::Bytes;
use memmap2::Mmap;

/// The bytes of `file` as they are on disk. They are handed to the socket without being touched, so a
/// file cut short meanwhile fails the write with EFAULT and kills nobody.
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: `file` is open for reading, and the map outlives it. Storage::Folder asks that files are
    // replaced and not written in place; bytes that change anyway are only copied by the kernel, and no
    // reference to them is interpreted as anything but bytes.
    let map = unsafe { Mmap::map(file) }?;
    Ok(Bytes::from_owner(map))
}
