//! OPENDIR and READDIR: listings to directory entries.
//!
//! An open directory keeps the entries it was opened with, so an offset is an index into them: 0 is
//! `.`, 1 is `..`, then the names in the order of their keys.

use tenderfs_fuse::{
    DirectoryBuffer, DirectoryEntry, Errno, Fh, FileKind, Ino, Listing as Dirents, OpenFlags,
    Reply, Unique,
};

use super::Server;
use crate::errno;
use crate::namespace::{Child, Entries, NamespaceError, ROOT_INO};

/// Entries before the first name: `.` and `..`.
const DOTS: usize = 2;

impl Server {
    /// Takes a listing of the directory that can still be believed, or begins one.
    pub(super) async fn open_directory(&self, unique: Unique, ino: Ino) -> Result<(), Errno> {
        let prefix = self.mount.namespace.directory(ino.0).map_err(errno::of_inode)?;
        let listed = self.mount.namespace.entries(self.origin.client(), &prefix);
        let entries = self.interruptible(unique, listed).await?;
        let entries = entries.map_err(|error| self.name_errno(ino.0, &error))?;
        // The kernel reads the directory once for each listing, and from its own memory after that.
        let listing = entries.listing().cloned();
        let flags = if listing.as_ref().is_some_and(|listing| listing.is_shown()) {
            OpenFlags::CACHE_DIR | OpenFlags::KEEP_CACHE
        } else {
            OpenFlags::CACHE_DIR
        };
        let fh = self.mount.handles.open_directory(entries);
        if self.send(unique, &Reply::Open { fh, flags }) {
            if let Some(listing) = listing {
                listing.set_shown();
            }
        } else {
            self.mount.handles.close_directory(fh);
        }
        Ok(())
    }

    fn name_errno(&self, ino: u64, error: &NamespaceError) -> Errno {
        let errno = errno::of_name(error);
        self.report_name_error(ino, error, errno);
        errno
    }

    /// Fills `buffer` with entries from `offset` on and sends it.
    pub(super) async fn read_directory(
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
        let dots = first..DOTS;
        let has_room = dots.into_iter().all(|index| push_dot(&mut buffer, ino, index));
        if has_room {
            let first = first.saturating_sub(DOTS);
            let push = |index: usize, name: &str, child: &Child| {
                self.push_child(&mut buffer, (&directory, index), (name, child), &mut counted)
            };
            let read = directory.read(self.origin.client(), first, push);
            let read = self.interruptible(unique, read).await;
            let read = read.and_then(|read| read.map_err(|error| self.name_errno(ino.0, &error)));
            if let Err(errno) = read {
                self.mount.namespace.forget(counted);
                return Err(errno);
            }
        }
        if !self.send(unique, &Reply::Directory(&buffer)) {
            self.mount.namespace.forget(counted);
        }
        Ok(())
    }

    /// Appends the entry `index` of the directory; false if it does not fit.
    fn push_child(
        &self,
        buffer: &mut DirectoryBuffer,
        (directory, index): (&Entries, usize),
        (name, child): (&str, &Child),
        counted: &mut Vec<(u64, u64)>,
    ) -> bool {
        let namespace = &self.mount.namespace;
        let kind = match child {
            Child::Directory => FileKind::Directory,
            Child::File(_) => FileKind::File,
        };
        let next_offset = (index + DOTS) as u64 + 1;
        let dirent =
            DirectoryEntry { name: name.as_bytes(), ino: Ino(0), kind, next_offset, entry: None };
        let listed_at = match buffer.listing() {
            Dirents::Plain => None,
            // What is not remembered here is not to be remembered by the kernel in its stead.
            Dirents::Plus => directory.listed_at(),
        };
        let Some(listed_at) = listed_at else {
            let ino = Ino(namespace.ino_of(directory.prefix(), name, child));
            return buffer.push(&DirectoryEntry { ino, ..dirent });
        };
        let ttl = namespace.entry_ttl(listed_at);
        let entered = namespace.enter(directory.prefix(), name, child, ttl);
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
