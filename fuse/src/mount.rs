//! Making the kernel mount: mount(2) for root, fusermount3 for everybody else.

mod handover;

use crate::error::Error;
use crate::mountinfo::has_nul;
use crate::mountpoint::{FUSERMOUNT, MountpointState, mountpoint_state, one_line, resolve};
use nix::errno::Errno as Sys;
use nix::mount::{MsFlags, mount as mount_call};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{geteuid, getgid, getuid};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The device through which the kernel asks.
const DEVICE: &str = "/dev/fuse";

/// What comes behind `fuse.` in the type of the file system.
pub const SUBTYPE: &str = "tenderfs";

/// What is to be mounted, and for whom. `nosuid`, `nodev`, `noatime` and `default_permissions` are
/// always on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountOptions {
    /// What `findmnt` shows as the source, as `s3://bucket/prefix`.
    pub source: String,
    /// An empty directory.
    pub mountpoint: PathBuf,
    /// Whether the kernel refuses every change without asking.
    pub read_only: bool,
    /// Who may use the mount.
    pub access: Access,
}

/// Who may use a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// The user who mounts, and nobody else, not even root.
    OwnerOnly,
    /// The user who mounts, and root. The kernel knows no such rule: it lets everybody in, and the
    /// channel answers `EACCES` to the others.
    AllowRoot,
    /// Everybody, within the permissions of the files.
    AllowOther,
}

/// Mounts, and returns the connection and the resolved mount point.
pub(crate) fn mount(options: &MountOptions) -> Result<(OwnedFd, PathBuf), Error> {
    let path = options.mountpoint.clone();
    match mountpoint_state(&path)? {
        MountpointState::Ready => {}
        state => return Err(Error::Mountpoint { path, state }),
    }
    let Some(path) = resolve(&path)? else {
        return Err(Error::Mountpoint { path, state: MountpointState::Missing });
    };
    if options.source.contains(['\0', '\n']) || has_nul(&path) {
        return Err(Error::SourceName { path, source_name: options.source.clone() });
    }
    let fd = if geteuid().is_root() {
        match mount_as_root(options, &path)? {
            Some(fd) => fd,
            // Root of a container without CAP_SYS_ADMIN: the helper may have it.
            None => match mount_by_helper(options, &path) {
                Err(Error::FusermountMissing { .. }) => {
                    return Err(Error::Mount { path, source: Sys::EPERM.into() });
                }
                other => other?,
            },
        }
    } else {
        mount_by_helper(options, &path)?
    };
    Ok((fd, path))
}

/// Opens /dev/fuse.
pub(crate) fn open_device() -> Result<File, Error> {
    OpenOptions::new().read(true).write(true).open(DEVICE).map_err(|source| {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => Error::DeviceMissing,
            _ => Error::DeviceRefused { source },
        }
    })
}

/// mount(2); `None` if this process may not.
fn mount_as_root(options: &MountOptions, path: &Path) -> Result<Option<OwnedFd>, Error> {
    let device = open_device()?;
    let mut data = format!(
        "fd={},rootmode={:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        libc::S_IFDIR,
        getuid(),
        getgid()
    );
    if options.access != Access::OwnerOnly {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if options.read_only {
        flags |= MsFlags::MS_RDONLY;
    }
    let fstype = format!("fuse.{SUBTYPE}");
    match mount_call(
        Some(options.source.as_str()),
        path,
        Some(fstype.as_str()),
        flags,
        Some(data.as_str()),
    ) {
        Ok(()) => Ok(Some(device.into())),
        Err(Sys::EPERM) => Ok(None),
        Err(errno) => Err(Error::Mount { path: path.into(), source: errno.into() }),
    }
}

/// fusermount3, which opens /dev/fuse, mounts and sends the descriptor over its standard input.
fn mount_by_helper(options: &MountOptions, path: &Path) -> Result<OwnedFd, Error> {
    let (ours, theirs) =
        socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|errno| Error::FusermountMissing { source: errno.into() })?;
    // The socket is handed over as descriptor 0: that needs no descriptor without close-on-exec,
    // which a child started by another thread at this moment would inherit.
    let output = Command::new(FUSERMOUNT)
        .args(["-o", &helper_options(options), "--"])
        .arg(path)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(theirs))
        .output()
        .map_err(|source| Error::FusermountMissing { source })?;
    if !output.status.success() {
        return Err(helper_error(path, one_line(&output.stderr)));
    }
    handover::receive_descriptor(&ours)
        .map_err(|source| Error::FusermountHandover { path: path.into(), source })
}

/// Options in the syntax of fusermount3, which adds `nosuid,nodev` and the ids itself.
fn helper_options(options: &MountOptions) -> String {
    let source = options.source.replace('\\', "\\\\").replace(',', "\\,");
    let mut text =
        format!("fsname={source},subtype={SUBTYPE},nosuid,nodev,noatime,default_permissions");
    if options.read_only {
        text.push_str(",ro");
    }
    if options.access != Access::OwnerOnly {
        text.push_str(",allow_other");
    }
    text
}

fn helper_error(path: &Path, said: String) -> Error {
    if said.contains("user_allow_other") {
        Error::AllowOther { path: path.into() }
    } else if said.contains("/dev/fuse") || said.contains("modprobe") {
        match open_device() {
            Err(error) => error,
            Ok(_) => Error::Fusermount { path: path.into(), said },
        }
    } else {
        Error::Fusermount { path: path.into(), said }
    }
}

/// The user whom [`Access::AllowRoot`] lets in beside root.
pub(crate) fn owner(access: Access) -> Option<u32> {
    (access == Access::AllowRoot).then(|| getuid().as_raw())
}

/// Makes `clone` a second descriptor of the connection `of`.
pub(crate) fn clone_device(of: &OwnedFd) -> io::Result<OwnedFd> {
    let clone = match open_device() {
        Ok(clone) => OwnedFd::from(clone),
        Err(Error::DeviceRefused { source }) => return Err(source),
        Err(_) => return Err(io::ErrorKind::NotFound.into()),
    };
    handover::attach(&clone, of)?;
    Ok(clone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_helper_is_told_what_mount_would_be() {
        let options = MountOptions {
            source: "s3://b/a,b\\c".into(),
            mountpoint: "/mnt".into(),
            read_only: true,
            access: Access::AllowOther,
        };
        assert_eq!(
            helper_options(&options),
            "fsname=s3://b/a\\,b\\\\c,subtype=tenderfs,nosuid,nodev,noatime,default_permissions,\
             ro,allow_other"
        );
        let options = MountOptions { read_only: false, access: Access::OwnerOnly, ..options };
        assert!(helper_options(&options).ends_with("default_permissions"));
    }

    #[test]
    fn what_the_helper_says_becomes_a_sentence() {
        let path = Path::new("/mnt");
        let said = "fusermount3: option allow_other only allowed if 'user_allow_other' is set in /etc/fuse.conf";
        let error = helper_error(path, said.into());
        assert!(matches!(error, Error::AllowOther { .. }), "{error}");
        let error =
            helper_error(path, "fusermount3: user has no write access to mountpoint /mnt".into());
        assert!(error.to_string().contains("no write access"), "{error}");
    }
}
