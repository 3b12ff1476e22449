//! Descriptors of /dev/fuse that come from elsewhere: out of a socket, or by `FUSE_DEV_IOC_CLONE`.
#![allow(unsafe_code, reason = "an ioctl, and descriptors that arrive as integers")]

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

nix::ioctl_read!(
    /// `FUSE_DEV_IOC_CLONE`: attaches a fresh /dev/fuse to the connection of another descriptor.
    fuse_dev_ioc_clone, 229, 0, u32
);

/// Attaches the freshly opened /dev/fuse `clone` to the connection of `of`.
pub(super) fn attach(clone: &OwnedFd, of: &OwnedFd) -> io::Result<()> {
    let mut number = u32::try_from(of.as_raw_fd()).map_err(io::Error::other)?;
    // SAFETY: `clone` is open for the whole call, and the kernel reads one u32, the number of an
    // open descriptor, from `number`, which outlives the call.
    unsafe { fuse_dev_ioc_clone(clone.as_raw_fd(), &raw mut number) }?;
    Ok(())
}

/// The one descriptor that the peer of `socket` has sent.
pub(super) fn receive_descriptor(socket: &OwnedFd) -> io::Result<OwnedFd> {
    let mut byte = [0; 8];
    let mut slices = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let flags = MsgFlags::MSG_CMSG_CLOEXEC | MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), flags)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let [descriptor] = descriptors[..]
        {
            // SAFETY: the kernel has just installed `descriptor` in this process for us, and
            // nothing else knows its number, so this is its only owner.
            return Ok(unsafe { OwnedFd::from_raw_fd(descriptor) });
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
