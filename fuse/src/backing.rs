//! Files that the kernel reads itself: `FUSE_PASSTHROUGH`.
//!
//! A registered file has a number that the reply to an OPEN may name; reads and memory maps of that
//! handle then go to the file, and no request comes of them. The kernel's rules (`fs/fuse/iomode.c`):
//!
//! - all open handles of an inode are passed through, to one number, or none is: an OPEN that is
//!   answered otherwise fails with `EIO`;
//! - the mode is free again once the last handle is closed, which is so before its RELEASE is sent;
//! - opening without `FOPEN_KEEP_CACHE`, as passthrough must, drops what pages the inode had.
//!
//! Invariant: a [`Backing`] is registered exactly as long as it lives.
#![allow(unsafe_code, reason = "the two ioctls have no safe wrapper")]

use crate::counters::Counters;
use crate::error::Error;
use nix::errno::Errno as Sys;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

/// `struct fuse_backing_map`.
#[repr(C)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

mod ioctl {
    use super::BackingMap;

    nix::ioctl_write_ptr!(fuse_backing_open, 229, 1, BackingMap);
    nix::ioctl_write_ptr!(fuse_backing_close, 229, 2, u32);
}

/// Number of a registered file, never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackingId(pub(crate) u32);

/// A file that is registered with the kernel, until this is dropped. Handles that were opened with
/// it go on afterwards.
#[derive(Debug)]
pub struct Backing {
    id: BackingId,
    session: Arc<OwnedFd>,
    counters: Arc<Counters>,
}

impl Backing {
    /// Registers `file`; the kernel keeps it open by itself.
    pub(crate) fn open(
        session: &Arc<OwnedFd>,
        counters: &Arc<Counters>,
        file: impl AsFd,
    ) -> Result<Self, Error> {
        let map = BackingMap { fd: file.as_fd().as_raw_fd(), flags: 0, padding: 0 };
        // SAFETY: `session` is an open /dev/fuse, and `map` is the structure that this ioctl reads
        // and outlives the call; the kernel takes its own reference to the file.
        let answer = unsafe { ioctl::fuse_backing_open(session.as_raw_fd(), &raw const map) };
        let id = answer.map_err(refusal)?;
        let id = u32::try_from(id).ok().filter(|id| *id > 0);
        let id = id.ok_or(Error::BackingRefused { source: io::ErrorKind::InvalidData.into() })?;
        counters.backing_files.add(1);
        Ok(Self { id: BackingId(id), session: Arc::clone(session), counters: Arc::clone(counters) })
    }

    /// Its number.
    pub fn id(&self) -> BackingId {
        self.id
    }
}

impl Drop for Backing {
    fn drop(&mut self) {
        // SAFETY: `session` is an open /dev/fuse, and the number that this ioctl reads outlives the
        // call. A connection that has ended has let go of it already, so an error says nothing.
        unsafe { ioctl::fuse_backing_close(self.session.as_raw_fd(), &raw const self.id.0) }.ok();
        self.counters.backing_files.add(-1);
    }
}

/// Whether another file would fare no better: for want of the capability, of the kernel's support,
/// or because of where all files lie.
fn refusal(errno: Sys) -> Error {
    let source = errno.into();
    match errno {
        Sys::EPERM | Sys::ELOOP | Sys::EOPNOTSUPP | Sys::ENOTTY | Sys::ENOSYS | Sys::EINVAL => {
            Error::PassthroughUnavailable { source }
        }
        _ => Error::BackingRefused { source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_file_would_change_is_told_from_what_one_file_suffers() {
        for (errno, lasting) in [
            (Sys::EPERM, true),
            (Sys::ELOOP, true),
            (Sys::EOPNOTSUPP, true),
            (Sys::ENOTTY, true),
            (Sys::EINVAL, true),
            (Sys::ENOMEM, false),
            (Sys::EBADF, false),
            (Sys::ENOSPC, false),
        ] {
            let error = refusal(errno);
            let is_lasting = matches!(error, Error::PassthroughUnavailable { .. });
            assert_eq!(is_lasting, lasting, "{error}");
        }
        assert!(refusal(Sys::EPERM).to_string().contains("CAP_SYS_ADMIN"));
    }

    #[test]
    fn the_map_has_the_size_of_the_wire() {
        assert_eq!(size_of::<BackingMap>(), 16);
    }
}
