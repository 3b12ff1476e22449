//! How much of what the kernel took the client has not.
#![allow(unsafe_code, reason = "the ioctl has no safe face")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

nix::ioctl_read_bad!(
    /// Bytes in the socket's send queue (SIOCOUTQ of tcp(7)).
    siocoutq,
    libc::TIOCOUTQ,
    libc::c_int
);

/// Bytes written to the socket that its peer has not acknowledged.
pub(super) fn unsent_bytes(socket: &impl AsFd) -> io::Result<usize> {
    let mut bytes: libc::c_int = 0;
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `fd` is open while `socket` is borrowed, and `bytes` is an int for the kernel to write.
    unsafe { siocoutq(fd, &raw mut bytes) }?;
    Ok(usize::try_from(bytes).unwrap_or(0))
}
