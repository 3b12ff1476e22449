//! The state of a mount point, and unmounting.
//!
//! Invariant: never waits on a mounted file system without a bound. The kernel's list of mounts is
//! asked first, and the only request to a mount is made by a thread that may be left behind.

use crate::error::Error;
use crate::mountinfo::{self, MountInfo};
use nix::errno::Errno as Sys;
use nix::mount::{MntFlags, umount2};
use nix::sys::statfs::statfs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use std::{fmt, fs, io, thread};

/// The helper that lets users other than root mount and unmount.
pub(crate) const FUSERMOUNT: &str = "fusermount3";

/// How long a mounted FUSE file system may take to answer before it counts as alive but slow.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// Symbolic links followed on the way to a mount point, as many as the kernel follows.
const LINKS_MAX: usize = 40;

/// What is at a path where something is to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountpointState {
    /// An empty directory.
    Ready,
    /// Nothing.
    Missing,
    /// Something that is no directory.
    NotADirectory,
    /// A directory with entries, which a mount would hide.
    NotEmpty,
    /// A mount. A FUSE server that is alive and does not answer in time counts as this.
    Mounted {
        /// Type of the file system, `fuse.tenderfs` for ours.
        fstype: String,
        /// What is mounted.
        source: String,
    },
    /// A FUSE mount whose server is gone: "Transport endpoint is not connected".
    Stale,
}

/// How to unmount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// Only if nothing is in use.
    Plain,
    /// Out of the tree at once, for good when the last file is closed.
    Lazy,
}

impl MountpointState {
    /// The state in words, and what to do about it.
    pub(crate) fn remedy(&self, path: &Path) -> impl fmt::Display {
        let path = path.display();
        match self {
            Self::Ready => "it is an empty directory".to_owned(),
            Self::Missing => format!("it does not exist: run `mkdir -p {path}`"),
            Self::NotADirectory => "it is not a directory: choose an empty directory".to_owned(),
            Self::NotEmpty => "the directory is not empty: choose an empty one".to_owned(),
            Self::Mounted { fstype, source } => {
                format!("{source} ({fstype}) is mounted there already: run `umount {path}` first")
            }
            Self::Stale => format!(
                "a mount whose server is gone is there (\"Transport endpoint is not connected\"): \
                 run `umount -l {path}` (`fusermount3 -uz {path}` without root) first"
            ),
        }
    }
}

/// What is at `path`. Answers within about two seconds even if a dead file system is mounted there.
pub fn mountpoint_state(path: &Path) -> Result<MountpointState, Error> {
    let inspect = |source| Error::Inspect { path: path.to_owned(), source };
    let Some(path) = resolve(path)? else { return Ok(MountpointState::Missing) };
    if let Some(mount) = topmost(&path)? {
        // An automount point waits for a mount on top of it; looking into it would trigger it.
        if mount.fstype == "autofs" {
            return Ok(MountpointState::Ready);
        }
        if mount.is_fuse() && is_dead(&path) {
            return Ok(MountpointState::Stale);
        }
        let MountInfo { fstype, source, .. } = mount;
        return Ok(MountpointState::Mounted { fstype, source });
    }
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(MountpointState::Missing),
        Err(error) => Err(inspect(error)),
        Ok(metadata) if !metadata.is_dir() => Ok(MountpointState::NotADirectory),
        Ok(_) => match fs::read_dir(&path).map_err(inspect)?.next() {
            None => Ok(MountpointState::Ready),
            Some(Ok(_)) => Ok(MountpointState::NotEmpty),
            Some(Err(error)) => Err(inspect(error)),
        },
    }
}

/// Takes the mount at `path` away: umount2(2), or `fusermount3 -u` for users without the right.
pub fn unmount(path: &Path, how: Unmount) -> Result<(), Error> {
    let Some(path) = resolve(path)? else {
        return Err(Error::NotMounted { path: path.to_owned() });
    };
    let flags = match how {
        Unmount::Plain => MntFlags::UMOUNT_NOFOLLOW,
        Unmount::Lazy => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
    };
    match umount2(&path, flags) {
        Ok(()) => Ok(()),
        Err(Sys::EPERM) => unmount_by_helper(path, how),
        Err(Sys::EBUSY) => Err(Error::Busy { path }),
        Err(Sys::EINVAL | Sys::ENOENT) => Err(Error::NotMounted { path }),
        Err(errno) => Err(Error::Unmount { path, source: errno.into() }),
    }
}

fn unmount_by_helper(path: PathBuf, how: Unmount) -> Result<(), Error> {
    if topmost(&path)?.is_none() {
        return Err(Error::NotMounted { path });
    }
    let mut command = Command::new(FUSERMOUNT);
    command.arg("-u").stdin(Stdio::null());
    if how == Unmount::Lazy {
        command.arg("-z");
    }
    let output = command
        .arg("--")
        .arg(&path)
        .output()
        .map_err(|source| Error::FusermountMissing { source })?;
    if output.status.success() {
        return Ok(());
    }
    let said = one_line(&output.stderr);
    if said.contains("busy") {
        Err(Error::Busy { path })
    } else {
        Err(Error::Fusermount { path, said })
    }
}

/// What a helper printed, on one line.
pub(crate) fn one_line(printed: &[u8]) -> String {
    let printed = String::from_utf8_lossy(printed);
    printed.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ")
}

/// The last mount listed at `path`, which must be resolved.
pub(crate) fn topmost(path: &Path) -> Result<Option<MountInfo>, Error> {
    mountinfo::topmost(path)
        .map_err(|source| Error::Inspect { path: mountinfo::PATH.into(), source })
}

/// `path` absolute and without symbolic links, as the kernel lists it; `None` if its parent does
/// not exist. Nothing is asked of what is mounted at `path` itself.
pub(crate) fn resolve(path: &Path) -> Result<Option<PathBuf>, Error> {
    let mut path = path.to_owned();
    for _ in 0..LINKS_MAX {
        let inspect = |source| Error::Inspect { path: path.clone(), source };
        let absolute = std::path::absolute(&path).map_err(inspect)?;
        let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
            // The root, or a path that ends in `..`.
            return fs::canonicalize(&absolute).map(Some).map_err(inspect);
        };
        let parent = match fs::canonicalize(parent) {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(inspect(error)),
        };
        let candidate = parent.join(name);
        match fs::read_link(&candidate) {
            Ok(target) => path = parent.join(target),
            // EINVAL: no link. Other errors show when the path is used.
            Err(_) => return Ok(Some(candidate)),
        }
    }
    Err(Error::Inspect { path, source: Sys::ELOOP.into() })
}

/// Whether the server of the FUSE mount at `path` is gone. statfs(2) always becomes a request,
/// while the answer to stat(2) may come from the kernel's memory long after the server's death.
fn is_dead(path: &Path) -> bool {
    let (sender, receiver) = mpsc::sync_channel(1);
    let path = path.to_owned();
    let probe = move || {
        // The receiver may have given up.
        sender.send(statfs(&path).err()).ok();
    };
    if thread::Builder::new().name("tenderfs-probe".into()).spawn(probe).is_err() {
        return false;
    }
    matches!(
        receiver.recv_timeout(PROBE_TIMEOUT),
        Ok(Some(Sys::ENOTCONN | Sys::ECONNABORTED | Sys::ECONNREFUSED))
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_state_of_what_is_not_mounted() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        fs::create_dir_all(root.join("full/empty")).unwrap();
        fs::write(root.join("file"), b"").unwrap();
        symlink("full", root.join("link")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        for (path, state) in [
            ("full/empty", MountpointState::Ready),
            ("full/empty/", MountpointState::Ready),
            ("link/empty", MountpointState::Ready),
            ("full", MountpointState::NotEmpty),
            ("link", MountpointState::NotEmpty),
            ("file", MountpointState::NotADirectory),
            ("none", MountpointState::Missing),
            ("none/none", MountpointState::Missing),
        ] {
            assert_eq!(mountpoint_state(&root.join(path)).unwrap(), state, "{path}");
        }
        assert!(matches!(mountpoint_state(&root.join("loop")), Err(Error::Inspect { .. })));
        assert!(
            matches!(mountpoint_state(Path::new("/proc")).unwrap(), MountpointState::Mounted { fstype, .. } if fstype == "proc")
        );
    }

    #[test]
    fn unmounting_what_is_not_mounted_says_so() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().to_owned(), dir.path().join("none"), dir.path().join("a/b")] {
            let error = unmount(&path, Unmount::Plain).unwrap_err();
            assert!(matches!(error, Error::NotMounted { .. }), "{error}");
        }
    }

    #[test]
    fn every_state_names_its_remedy() {
        let path = Path::new("/mnt/data");
        let mounted =
            MountpointState::Mounted { fstype: "fuse.tenderfs".into(), source: "s3://b".into() };
        for (state, part) in [
            (MountpointState::Missing, "mkdir -p /mnt/data"),
            (MountpointState::NotADirectory, "not a directory"),
            (MountpointState::NotEmpty, "not empty"),
            (mounted, "s3://b (fuse.tenderfs) is mounted there already"),
            (MountpointState::Stale, "umount -l /mnt/data"),
        ] {
            let error = Error::Mountpoint { path: path.into(), state };
            let text = error.to_string();
            assert!(text.contains("/mnt/data") && text.contains(part), "{text}");
        }
    }
}
