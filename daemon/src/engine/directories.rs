//! OPENDIR and READDIR: listings to directory entries.
//!
//! An open directory keeps the listing it was opened with, so an offset is an index into it: 0 is
//! `.`, 1 is `..`, then the names in their order.

use std::sync::Arc;

use tenderfs_fuse::{
    DirectoryBuffer, DirectoryEntry, Errno, Fh, FileKind, Ino, Listing as Dirents, OpenFlags,
    Reply, Unique,
};

use super::Server;
use super::handles::OpenDirectory;
use crate::errno;
use crate::namespace::{Child, ROOT_INO};

/// Entries before the first name: `.` and `..`.
const DOTS: usize = 2;

impl Server {
    /// Lists the directory, or takes a listing that can still be believed.
    pub(super) async fn open_directory(&self, unique: Unique, ino: Ino) -> Result<(), Errno> {
        let prefix = self.mount.namespace.directory(ino.0).map_err(errno::of_inode)?;
        let listed = self.mount.namespace.listing(self.origin.client(), &prefix);
        let listing = self.interruptible(unique, listed).await?.map_err(|error| {
            let errno = errno::of_name(&error);
            self.report_name_error(ino.0, &error, errno);
            errno
        })?;
        // The kernel reads the directory once for each listing, and from its own memory after that.
        let flags = if listing.is_shown() {
            OpenFlags::CACHE_DIR | OpenFlags::KEEP_CACHE
        } else {
            OpenFlags::CACHE_DIR
        };
        let fh = self.mount.handles.open_directory(prefix, Arc::clone(&listing));
        if self.send(unique, &Reply::Open { fh, flags }) {
            listing.set_shown();
        } else {
            self.mount.handles.close_directory(fh);
        }
        Ok(())
    }

    /// Fills `buffer` with entries from `offset` on and sends it.
    pub(super) fn read_directory(
        &self,
        unique: Unique,
        (ino, fh): (Ino, Fh),
        offset: u64,
        mut buffer: DirectoryBuffer,
    ) -> Result<(), Errno> {
        let directory = self.mount.handles.directory(fh).ok_or(Errno::EBADF)?;
        // Lookups that the kernel counts once the reply has reached it.
        let mut counted = Vec::new();
        let first = usize::try_from(offset).unwrap_or(usize::MAX);
        for index in first..directory.listing.entries().len() + DOTS {
            let fits = match index.checked_sub(DOTS) {
                Some(index) => self.push_child(&mut buffer, &directory, index, &mut counted),
                None => push_dot(&mut buffer, ino, index),
            };
            if !fits {
                break;
            }
        }
        if !self.send(unique, &Reply::Directory(&buffer)) {
            self.mount.namespace.forget(counted);
        }
        Ok(())
    }

    /// Appends the entry `index` of the listing; false if it does not fit.
    fn push_child(
        &self,
        buffer: &mut DirectoryBuffer,
        directory: &Arc<OpenDirectory>,
        index: usize,
        counted: &mut Vec<(u64, u64)>,
    ) -> bool {
        let namespace = &self.mount.namespace;
        let (name, child) = &directory.listing.entries()[index];
        let kind = match child {
            Child::Directory => FileKind::Directory,
            Child::File(_) => FileKind::File,
        };
        let next_offset = (index + DOTS) as u64 + 1;
        let dirent =
            DirectoryEntry { name: name.as_bytes(), ino: Ino(0), kind, next_offset, entry: None };
        if buffer.listing() == Dirents::Plain {
            let ino = Ino(namespace.ino_of(&directory.prefix, name, child));
            return buffer.push(&DirectoryEntry { ino, ..dirent });
        }
        let ttl = namespace.entry_ttl(&directory.listing);
        let entered = namespace.enter(&directory.prefix, name, child, ttl);
        let entry = self.entry(entered.ino, &entered.node, ttl);
        let ino = Ino(entered.ino);
        if buffer.push(&DirectoryEntry { ino, entry: Some(&entry), ..dirent }) {
            counted.push((entered.ino, 1));
            return true;
        }
        // The kernel does not see the entry, so it does not count its lookup.
        namespace.forget([(entered.ino, 1)]);
        false
    }
}

/// Appends `.` or `..`; false if it does not fit.
fn push_dot(buffer: &mut DirectoryBuffer, ino: Ino, index: usize) -> bool {
    // The kernel knows better who the parent is; any number that is not 0 will do.
    let (name, ino) = if index == 0 { (".", ino) } else { ("..", Ino(ROOT_INO)) };
    let next_offset = index as u64 + 1;
    let kind = FileKind::Directory;
    buffer.push(&DirectoryEntry { name: name.as_bytes(), ino, kind, next_offset, entry: None })
}
