//! System calls that have no safe wrapper.

#![allow(
    unsafe_code,
    reason = "a hook between fork and exec, and a memory map, are unsafe by nature"
)]

use std::fs::File;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use memmap2::{Mmap, MmapOptions};
use rustix::process::{Signal, set_parent_process_death_signal};

/// Has the kernel send SIGTERM to the process that `command` starts when the thread that started it
/// ends, so that a killed test run leaves no daemon and no mount behind.
pub(crate) fn die_with_parent(command: &mut Command) {
    let hook = || set_parent_process_death_signal(Some(Signal::TERM)).map_err(io::Error::from);
    // SAFETY: the hook runs between fork and exec and makes one system call (prctl); it neither
    // allocates nor takes a lock.
    unsafe { command.pre_exec(hook) };
}

/// Maps a whole file for reading, in pages of the process's own.
pub fn map_file_private(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is on a read-only mount of the test's own; nobody truncates it while mapped.
    unsafe { MmapOptions::new().map_copy_read_only(file) }
}

/// Maps a whole file for reading.
pub fn map_file(file: &File) -> io::Result<Mmap> {
    // SAFETY: the file is on a read-only mount of the test's own; nobody truncates it while mapped.
    unsafe { Mmap::map(file) }
}
