//! What can go wrong between TenderFS and the kernel, each as one sentence with its remedy.

use crate::mountpoint::MountpointState;
use std::io;
use std::path::PathBuf;

/// An error of mounting, unmounting or the connection to the kernel. An error of a request is an
/// `Errno` in its reply and not one of these.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no /dev/fuse.
    #[error(
        "the kernel offers no /dev/fuse: run `modprobe fuse`, or start the container with \
         `--device /dev/fuse --cap-add SYS_ADMIN`"
    )]
    DeviceMissing,
    /// /dev/fuse is there and cannot be used.
    #[error("cannot open /dev/fuse: {source}{}", device_hint(source))]
    DeviceRefused {
        /// Why.
        source: io::Error,
    },
    /// The mount point cannot take a mount.
    #[error("cannot mount on {}: {}", path.display(), state.remedy(path))]
    Mountpoint {
        /// The mount point.
        path: PathBuf,
        /// What stands in the way.
        state: MountpointState,
    },
    /// The mount point cannot be looked at.
    #[error("cannot look at {}: {source}", path.display())]
    Inspect {
        /// The path, or the file of /proc that tells of it.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A field of the mount has a byte that mount(2) cannot carry.
    #[error("cannot mount on {}: the source {source_name:?} has a NUL or line break", path.display())]
    SourceName {
        /// The mount point.
        path: PathBuf,
        /// The name that was to be shown as the source.
        source_name: String,
    },
    /// mount(2) failed.
    #[error("the kernel refused to mount on {}: {source}{}", path.display(), mount_hint(source))]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// fusermount3 is needed and not there.
    #[error(
        "cannot run fusermount3, which users other than root need to mount and unmount: {source}: \
         install the package `fuse3`, or run as root"
    )]
    FusermountMissing {
        /// Why.
        source: io::Error,
    },
    /// fusermount3 ran and failed.
    #[error("fusermount3 failed on {}: {said}", path.display())]
    Fusermount {
        /// The mount point.
        path: PathBuf,
        /// What it printed.
        said: String,
    },
    /// fusermount3 ended well and handed over no connection.
    #[error("fusermount3 mounted {} without handing over the connection: {source}", path.display())]
    FusermountHandover {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Only root may let other users in.
    #[error(
        "cannot let other users use {}: only root may, unless /etc/fuse.conf has the line \
         `user_allow_other`: add it, or mount without allow_other and allow_root", path.display()
    )]
    AllowOther {
        /// The mount point.
        path: PathBuf,
    },
    /// Mounted, and then not to be found.
    #[error("{} was mounted, but /proc/self/mountinfo does not list it", path.display())]
    MountLost {
        /// The mount point.
        path: PathBuf,
    },
    /// Nothing is mounted there.
    #[error("cannot unmount {}: nothing is mounted there", path.display())]
    NotMounted {
        /// The path.
        path: PathBuf,
    },
    /// Files are open.
    #[error(
        "cannot unmount {}: it is in use: `fuser -vm {}` lists by whom; end them, or unmount \
         lazily with `umount -l` (`fusermount3 -uz`)", path.display(), path.display()
    )]
    Busy {
        /// The mount point.
        path: PathBuf,
    },
    /// umount2(2) failed.
    #[error("cannot unmount {}: {source}", path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's FUSE is too old.
    #[error(
        "the kernel speaks FUSE {major}.{minor}, TenderFS needs 7.31 or newer: use Linux 5.4 or newer"
    )]
    KernelTooOld {
        /// Major version offered.
        major: u32,
        /// Minor version offered.
        minor: u32,
    },
    /// The first message was not INIT.
    #[error("the kernel's first message on {} was not INIT but {bytes} bytes of something else", path.display())]
    NotInit {
        /// The mount point.
        path: PathBuf,
        /// Length of the message.
        bytes: usize,
    },
    /// INIT could not be read or answered.
    #[error("the first exchange with the kernel failed on {}: {source}", path.display())]
    Init {
        /// The mount point.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel's read-ahead could not be set. Reads work, sequential ones are slower.
    #[error(
        "the kernel's read-ahead of {} stays at {in_force_bytes} bytes instead of {wanted_bytes}: \
         cannot write {}: {source}: run as root for faster sequential reads",
        path.display(), control.display()
    )]
    ReadAhead {
        /// The mount point.
        path: PathBuf,
        /// The file of /sys that sets it.
        control: PathBuf,
        /// What was wanted.
        wanted_bytes: u64,
        /// What is in force.
        in_force_bytes: u64,
        /// Why.
        source: io::Error,
    },
    /// Requests could not be read.
    #[error("cannot read requests from /dev/fuse: {source}")]
    Receive {
        /// Why.
        source: io::Error,
    },
    /// A reply was refused by the kernel, which is our bug.
    #[error("the kernel refused a reply of {bytes} bytes: {source}")]
    Send {
        /// Length of the reply.
        bytes: usize,
        /// Why.
        source: io::Error,
    },
    /// The kernel registers no file for passthrough, whichever it is.
    #[error("the kernel reads no cached file by itself: {source}{}", passthrough_hint(source))]
    PassthroughUnavailable {
        /// Why.
        source: io::Error,
    },
    /// The kernel did not register this file for passthrough.
    #[error("the kernel does not read this cached file by itself: {source}")]
    BackingRefused {
        /// Why.
        source: io::Error,
    },
    /// A notification was refused by the kernel.
    #[error("the kernel refused to drop what it caches: {source}")]
    Notify {
        /// Why.
        source: io::Error,
    },
}

fn device_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EACCES | libc::EPERM) => ": run as root, or `chmod 0666 /dev/fuse`",
        Some(libc::EMFILE | libc::ENFILE) => ": raise the limit of open files (`ulimit -n`)",
        _ => "",
    }
}

fn passthrough_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EPERM) => ": it takes CAP_SYS_ADMIN",
        Some(libc::ELOOP) => {
            ": the cache directory is on a stacked file system such as overlayfs; ext4, xfs and \
             tmpfs serve"
        }
        Some(libc::EOPNOTSUPP | libc::ENOTTY | libc::ENOSYS | libc::EINVAL) => {
            ": the kernel, or the file system of the cache directory, has no passthrough"
        }
        _ => "",
    }
}

fn mount_hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::ENODEV) => ": it has no FUSE: run `modprobe fuse`",
        Some(libc::EPERM | libc::EACCES) => {
            ": mounting needs CAP_SYS_ADMIN: run as root, start the container with \
             `--cap-add SYS_ADMIN`, or install the package `fuse3`"
        }
        Some(libc::ENOSPC) => ": too many mounts: raise /proc/sys/fs/mount-max",
        _ => "",
    }
}
