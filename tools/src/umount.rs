//! `tenderfs umount`: take the mount away and wait until its daemon has written down what it cached.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use nix::unistd::geteuid;
use tenderfs_daemon::admin::model::Status;

use crate::admin_client;
use crate::cli::UmountArgs;
use crate::error::ToolError;

/// Pause between two looks whether the daemon has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// How a mount is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum How {
    /// Refused while files are open.
    Plain,
    /// Now; files that are open keep working or fail, whichever their daemon can.
    Lazy,
}

/// `tenderfs umount`.
pub async fn main(args: &UmountArgs) -> Result<(), ToolError> {
    let path = &args.mountpoint;
    let mountpoint = std::path::absolute(path)
        .map_err(|source| ToolError::Path { path: path.clone(), source })?;
    let daemon = daemon_of(&mountpoint).await;
    detach(&mountpoint, if args.lazy { How::Lazy } else { How::Plain })?;
    if let Some(pid) = daemon {
        while is_alive(std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().as_deref()) {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(())
}

/// Whether a process lives, by its `/proc/PID/stat`. One that has ended but whose parent has not noticed holds nothing.
fn is_alive(stat: Option<&str>) -> bool {
    let state = stat.and_then(|stat| stat.rsplit_once(") ")).map(|(_, rest)| rest.as_bytes());
    !matches!(state, None | Some([b'Z' | b'X', ..]))
}

/// The process that serves this mount and nothing else, and so ends with it.
async fn daemon_of(mountpoint: &Path) -> Option<u32> {
    let client = admin_client::find(mountpoint, None).await.ok()?;
    pid_of_only_mount(&client.status().await.ok()?, mountpoint)
}

fn pid_of_only_mount(status: &Status, mountpoint: &Path) -> Option<u32> {
    match status.mounts.as_slice() {
        [mount] if Path::new(&mount.mountpoint) == mountpoint => Some(status.pid),
        _ => None,
    }
}

/// Takes a mount away: by umount2 as root, by fusermount3 otherwise.
pub fn detach(mountpoint: &Path, how: How) -> Result<(), ToolError> {
    let failed = |reason: String| ToolError::Unmount { path: mountpoint.to_path_buf(), reason };
    if geteuid().is_root() {
        let flags = match how {
            How::Plain => MntFlags::UMOUNT_NOFOLLOW,
            How::Lazy => MntFlags::UMOUNT_NOFOLLOW | MntFlags::MNT_DETACH,
        };
        return umount2(mountpoint, flags).map_err(|errno| failed(explain(errno, mountpoint)));
    }
    let mut command = Command::new("fusermount3");
    command.args(match how {
        How::Plain => ["-u"].as_slice(),
        How::Lazy => &["-u", "-z"],
    });
    let output = command.arg("--").arg(mountpoint).output();
    let output = output
        .map_err(|error| failed(format!("cannot run fusermount3: {error}; install fuse3")))?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let complaint = complaint.trim().trim_start_matches("fusermount3: ");
    let busy = complaint.contains("busy");
    Err(failed(if busy {
        explain(Errno::EBUSY, mountpoint)
    } else {
        complaint.replace('\n', "; ")
    }))
}

fn explain(errno: Errno, mountpoint: &Path) -> String {
    let shown = mountpoint.display();
    match errno {
        Errno::EBUSY => format!(
            "files of it are open; `fuser -vm {shown}` says whose; --lazy detaches it all the same"
        ),
        Errno::EINVAL => "nothing is mounted there".to_owned(),
        Errno::ENOENT => "it does not exist".to_owned(),
        other => other.desc().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn process_that_waits_to_be_noticed_is_over() {
        assert!(is_alive(Some("7 (a) b) S 1 7")));
        for over in [None, Some("7 (tenderfs) Z 1 7"), Some("7 (tenderfs) X 1 7"), Some("")] {
            assert!(!is_alive(over), "{over:?}");
        }
    }

    #[test]
    fn what_is_not_mounted_is_said_so() {
        let dir = tempfile::tempdir().unwrap();
        for how in [How::Plain, How::Lazy] {
            let error = detach(dir.path(), how).unwrap_err().to_string();
            assert!(error.starts_with("cannot unmount /") && !error.contains('\n'), "{error}");
        }
        assert!(explain(Errno::EBUSY, dir.path()).contains("--lazy"));
        assert_eq!(explain(Errno::EINVAL, dir.path()), "nothing is mounted there");
    }
}
