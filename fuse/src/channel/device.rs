//! Messages through a descriptor of /dev/fuse: one read(2) a request, one writev(2) a reply.
//!
//! Why not a READ on the core's ring: docs/decisions/0002-reading-dev-fuse.md.

use super::readiness::{Readiness, Waking};
use crate::abi::{ByteValued, NotifyInvalEntryOut, NotifyInvalInodeOut, NotifyOpcode, OutHeader};
use crate::reply::{Head, Payload};
use crate::request::Ino;
use nix::errno::Errno as Sys;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::uio::writev;
use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::OwnedFd;

/// Slices of a reply that need no allocation: 31 frames and the header.
const SLICES_INLINE: usize = 32;

/// `UIO_MAXIOV`: most slices of one writev(2).
const SLICES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct DeviceTransport {
    fd: Readiness,
    /// Borrowed only within [`DeviceTransport::read`], which awaits nothing.
    buffer: RefCell<Box<[u8]>>,
}

/// What a read gave.
pub(super) enum Outcome<T> {
    Read(T),
    Nothing,
    Unmounted,
    Failed(io::Error),
}

/// What a write gave.
pub(super) enum Written {
    Done,
    Gone,
    Unmounted,
    Failed(io::Error),
}

impl DeviceTransport {
    pub(super) fn new(fd: OwnedFd, buffer_bytes: usize, waking: Waking) -> io::Result<Self> {
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        let fd = Readiness::new(fd, waking)?;
        Ok(Self { fd, buffer: RefCell::new(vec![0; buffer_bytes].into_boxed_slice()) })
    }

    /// Reads a message, if there is one, and gives it to `decode`.
    pub(super) fn read<T>(&self, decode: impl FnOnce(&[u8]) -> T) -> Outcome<T> {
        let mut buffer = self.buffer.borrow_mut();
        loop {
            return match nix::unistd::read(self.fd.fd(), &mut buffer) {
                Ok(length) => Outcome::Read(decode(&buffer[..length])),
                // ENOENT: the request was interrupted before it was read.
                Err(Sys::EINTR | Sys::ENOENT) => continue,
                Err(Sys::EAGAIN) => Outcome::Nothing,
                Err(Sys::ENODEV | Sys::ECONNABORTED) => Outcome::Unmounted,
                Err(errno) => Outcome::Failed(errno.into()),
            };
        }
    }

    /// Waits until a read may give something. To be called after one gave [`Outcome::Nothing`].
    pub(super) async fn readable(&self) -> io::Result<()> {
        self.fd.wait().await
    }

    /// Whether a read may give something. If so, reads are to go on until one gives
    /// [`Outcome::Nothing`].
    pub(super) fn is_readable(&self) -> io::Result<bool> {
        self.fd.poll()
    }

    /// Writes a reply.
    pub(super) fn write(&self, head: &Head, payload: Payload<'_>) -> Written {
        let head = IoSlice::new(head.bytes());
        let written = match payload {
            Payload::None => self.writev(&[head]),
            Payload::One(bytes) => self.writev(&[head, IoSlice::new(bytes)]),
            Payload::Many(slices) if slices.len() < SLICES_INLINE => {
                let mut all = [IoSlice::new(&[]); SLICES_INLINE];
                all[0] = head;
                all[1..=slices.len()].copy_from_slice(slices);
                self.writev(&all[..=slices.len()])
            }
            Payload::Many(slices) if slices.len() < SLICES_MAX => {
                self.writev(&[&[head], slices].concat())
            }
            Payload::Many(slices) => {
                let bytes: Vec<u8> =
                    slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                self.writev(&[head, IoSlice::new(&bytes)])
            }
        };
        match written {
            Ok(_) => Written::Done,
            Err(Sys::ENOENT) => Written::Gone,
            Err(Sys::ENODEV | Sys::ECONNABORTED) => Written::Unmounted,
            Err(errno) => Written::Failed(errno.into()),
        }
    }

    /// The kernel takes a reply whole or not at all, and interrupts none.
    fn writev(&self, slices: &[IoSlice<'_>]) -> Result<usize, Sys> {
        writev(self.fd.fd(), slices)
    }
}

/// `FUSE_NOTIFY_INVAL_INODE` of `range`, or of the whole file.
pub(super) fn inval_inode(ino: Ino, range: Option<Range<u64>>) -> Vec<u8> {
    let (start, len) = match range {
        None => (0, 0),
        // An empty range is that of the kernel's "attributes only": a negative offset.
        Some(range) if range.is_empty() => (-1, 0),
        Some(range) => (
            i64::try_from(range.start).unwrap_or(i64::MAX),
            i64::try_from(range.end - range.start).unwrap_or(0),
        ),
    };
    let body = NotifyInvalInodeOut { ino: ino.0, off: start, len };
    notification(NotifyOpcode::InvalInode, body.as_slice(), &[])
}

/// `FUSE_NOTIFY_INVAL_ENTRY` of `name` in `parent`.
pub(super) fn inval_entry(parent: Ino, name: &[u8]) -> Vec<u8> {
    let namelen = u32::try_from(name.len()).unwrap_or(u32::MAX);
    let body = NotifyInvalEntryOut { parent: parent.0, namelen, padding: 0 };
    notification(NotifyOpcode::InvalEntry, body.as_slice(), &[name, b"\0"].concat())
}

/// A message that answers no request: its unique is 0 and its error is the code.
fn notification(code: NotifyOpcode, fixed: &[u8], rest: &[u8]) -> Vec<u8> {
    let length = size_of::<OutHeader>() + fixed.len() + rest.len();
    let len = u32::try_from(length).unwrap_or(u32::MAX);
    let header = OutHeader { len, error: code as i32, unique: 0 };
    [header.as_slice(), fixed, rest].concat()
}

/// Writes a notification. What the kernel does not know needs no dropping, and an end of the mount
/// drops all.
pub(super) fn notify(session: &OwnedFd, message: &[u8]) -> io::Result<()> {
    match nix::unistd::write(session, message) {
        Ok(_) | Err(Sys::ENOENT | Sys::ENOTDIR | Sys::ENODEV | Sys::EPERM) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::read_front;

    #[test]
    fn notifications_have_no_unique_and_their_code_as_error() {
        let message = inval_entry(Ino(5), b"name");
        let (header, body) = read_front::<OutHeader>(&message).unwrap();
        assert_eq!((header.unique, header.error, header.len), (0, 3, 16 + 16 + 5));
        let (out, rest) = read_front::<NotifyInvalEntryOut>(body).unwrap();
        assert_eq!((out.parent, out.namelen, rest), (5, 4, &b"name\0"[..]));
        for (range, off, len) in [
            (None, 0, 0),
            (Some(4096..8192), 4096, 4096),
            (Some(7..7), -1, 0),
            (Some(1..u64::MAX), 1, 0),
        ] {
            let message = inval_inode(Ino(5), range.clone());
            let (header, body) = read_front::<OutHeader>(&message).unwrap();
            assert_eq!((header.error, header.len), (2, 40));
            let (out, _) = read_front::<NotifyInvalInodeOut>(body).unwrap();
            assert_eq!((out.off, out.len), (off, len), "{range:?}");
        }
    }
}
