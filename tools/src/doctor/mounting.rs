//! Whether this user can mount at all. The demo asks the same before it sets anything up.

use std::env;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::statfs::statfs;
use nix::unistd::geteuid;

use super::line::{Line, State};

/// What stands between this user and a mount.
#[derive(Debug)]
pub struct Means {
    /// Opening `/dev/fuse`.
    pub device: io::Result<()>,
    /// Whether this process may call mount(2).
    pub root: bool,
    /// The helper that mounts for other users.
    pub fusermount: Option<PathBuf>,
}

impl Means {
    /// Looks at this machine. `path` is the value of `PATH`.
    pub fn look(path: &str) -> Means {
        Means {
            device: OpenOptions::new().read(true).write(true).open("/dev/fuse").map(drop),
            root: geteuid().is_root(),
            fusermount: find_fusermount(path),
        }
    }

    /// A line about the device.
    pub fn device_line(&self) -> Line {
        const TOPIC: &str = "/dev/fuse";
        let Err(error) = &self.device else { return Line::ok(TOPIC, "can be opened") };
        let (found, remedy) = match error.kind() {
            io::ErrorKind::NotFound => (
                "is not there",
                "`modprobe fuse` as root; in a container: `--device /dev/fuse --cap-add SYS_ADMIN`",
            ),
            io::ErrorKind::PermissionDenied => (
                "may not be opened by this user",
                "`chmod 666 /dev/fuse` as root; in a container: `--device /dev/fuse --cap-add SYS_ADMIN`",
            ),
            _ => {
                ("cannot be opened", "`modprobe fuse` as root, or use a kernel with CONFIG_FUSE_FS")
            }
        };
        Line::missing(TOPIC, format!("{found} ({error})"), remedy)
    }

    /// A line about the right to mount.
    pub fn mount_line(&self) -> Line {
        const TOPIC: &str = "mounting";
        match &self.fusermount {
            _ if self.root => Line::ok(TOPIC, "as root, by mount(2)"),
            Some(path) => Line::ok(TOPIC, format!("by {}", path.display())),
            None => Line::missing(
                TOPIC,
                "not root, and no fusermount3 in PATH",
                "`apt-get install fuse3` as root, or run as root",
            ),
        }
    }

    /// One sentence that says what is in the way, or `None` if a mount can be made.
    pub fn obstacle(&self) -> Option<String> {
        let lines = [self.device_line(), self.mount_line()];
        let line = lines.into_iter().find(|line| line.state == State::Missing)?;
        Some(format!("this machine cannot mount: {}: {}; {}", line.topic, line.found, line.remedy))
    }
}

fn find_fusermount(path: &str) -> Option<PathBuf> {
    let executable = |file: &PathBuf| {
        fs::metadata(file)
            .is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
    };
    env::split_paths(path).map(|dir| dir.join("fusermount3")).find(executable)
}

/// Whether users other than root may let others use their mounts.
pub fn allow_other() -> Line {
    const TOPIC: &str = "allow_other";
    const FILE: &str = "/etc/fuse.conf";
    if geteuid().is_root() {
        return Line::ok(TOPIC, "as root, for any mount");
    }
    let allowed = fs::read_to_string(FILE)
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    if allowed {
        Line::ok(TOPIC, format!("user_allow_other is set in {FILE}"))
    } else {
        let remedy =
            format!("write `user_allow_other` into {FILE} if other users shall use your mounts");
        Line::weaker(TOPIC, "only you can use your mounts", remedy)
    }
}

/// Whether `updatedb` walks mounts and so reads whole buckets' listings every night.
pub fn updatedb() -> Line {
    judge_updatedb(fs::read_to_string("/etc/updatedb.conf").ok().as_deref())
}

fn judge_updatedb(conf: Option<&str>) -> Line {
    const TOPIC: &str = "updatedb";
    let Some(conf) = conf else { return Line::ok(TOPIC, "not installed") };
    let prunes = conf
        .lines()
        .filter(|line| line.trim_start().starts_with("PRUNEFS"))
        .any(|line| line.contains("fuse.tenderfs"));
    if prunes {
        Line::ok(TOPIC, "leaves mounts alone")
    } else {
        Line::weaker(
            TOPIC,
            "walks every mount each night",
            "add fuse.tenderfs to PRUNEFS in /etc/updatedb.conf",
        )
    }
}

/// Mounts whose daemon is gone.
pub fn stale_mounts() -> Line {
    const TOPIC: &str = "stale mounts";
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let stale: Vec<_> = tenderfs_mountpoints(&mounts)
        .into_iter()
        .filter(|path| is_stale(path))
        .map(|path| path.display().to_string())
        .collect();
    if stale.is_empty() {
        return Line::ok(TOPIC, "none");
    }
    let remedy = format!("`tenderfs umount --lazy {}`", stale.join(" "));
    Line::weaker(TOPIC, format!("no daemon behind {}", stale.join(", ")), remedy)
}

/// Whether a mount answers "Transport endpoint is not connected". Attributes may still be in the kernel's cache, so it is
/// asked for its statistics, which never are.
pub fn is_stale(path: &Path) -> bool {
    statfs(path).is_err_and(|errno| errno == Errno::ENOTCONN)
}

/// Mount points of TenderFS in the text of a mountinfo file.
pub fn tenderfs_mountpoints(mountinfo: &str) -> Vec<PathBuf> {
    let mountpoint = |line: &str| {
        let (mount, system) = line.split_once(" - ")?;
        let fstype = system.split(' ').next()?;
        (fstype == "fuse.tenderfs").then(|| unescape(mount.split(' ').nth(4).unwrap_or_default()))
    };
    mountinfo.lines().filter_map(mountpoint).collect()
}

/// The kernel writes blanks and backslashes of paths as `\` and three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|_| byte == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(value) = octal {
            bytes.push(value);
            rest = &after[3..];
        } else {
            bytes.push(byte);
            rest = after;
        }
    }
    PathBuf::from(<std::ffi::OsString as std::os::unix::ffi::OsStringExt>::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn means(device: io::Result<()>, root: bool, fusermount: Option<&str>) -> Means {
        Means { device, root, fusermount: fusermount.map(PathBuf::from) }
    }

    #[test]
    fn what_is_in_the_way_of_a_mount_is_one_sentence() {
        let helper = Some("/usr/bin/fusermount3");
        assert_eq!(means(Ok(()), true, None).obstacle(), None);
        assert_eq!(means(Ok(()), false, helper).obstacle(), None);
        let no_helper = means(Ok(()), false, None).obstacle().unwrap();
        assert!(no_helper.contains("fusermount3") && !no_helper.contains('\n'), "{no_helper}");
        let absent = io::Error::from_raw_os_error(nix::libc::ENOENT);
        let no_device = means(Err(absent), true, None).obstacle().unwrap();
        assert!(no_device.contains("modprobe fuse"), "{no_device}");
    }

    #[test]
    fn mountpoints_are_found_and_unescaped() {
        let mountinfo = "\
36 35 98:0 / / rw - ext4 /dev/root rw
91 36 0:52 / /mnt/my\\040data ro,nosuid shared:3 - fuse.tenderfs s3://bucket/ ro,user_id=0
92 36 0:53 / /mnt/other ro - fuse.sshfs host: ro
";
        assert_eq!(tenderfs_mountpoints(mountinfo), [PathBuf::from("/mnt/my data")]);
    }

    #[test]
    fn updatedb_must_prune_our_type() {
        assert_eq!(judge_updatedb(None).state, State::Ok);
        assert_eq!(judge_updatedb(Some("PRUNEFS=\"nfs fuse.tenderfs\"")).state, State::Ok);
        assert_eq!(judge_updatedb(Some("# fuse.tenderfs\nPRUNEFS=\"nfs\"")).state, State::Weaker);
    }
}
