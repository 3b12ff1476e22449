//! Users other than root: mounting by fusermount3, and who may use a mount.

use crate::memfs::{HELLO, Mounted, UnmountOnDrop, can_mount, options};
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::thread;
use tenderfs_fuse::{Access, Error, MountpointState, Session, Unmount, mountpoint_state, unmount};

const NOBODY: u32 = 65534;

/// Runs `work` in a thread whose user is nobody; children it starts are nobody's too.
fn as_nobody<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            become_nobody();
            work()
        });
        thread.join().unwrap()
    })
}

#[allow(unsafe_code, reason = "the C library would change every thread of the process")]
fn become_nobody() {
    let id = libc::c_long::from(NOBODY);
    // SAFETY: the system call changes the group of this thread and touches no memory.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresgid, id, id, id) }, 0);
    // SAFETY: the system call changes the user of this thread and touches no memory.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, id, id, id) }, 0);
}

/// Whether users may mount: fusermount3 has its setuid bit, and opens /dev/fuse as they.
fn has_helper() -> bool {
    let device = fs::metadata("/dev/fuse").unwrap();
    if device.mode() & 0o006 != 0o006 {
        println!("skipped: /dev/fuse is root's alone");
        return false;
    }
    let path = Command::new("sh").args(["-c", "command -v fusermount3"]).output().unwrap().stdout;
    let path = String::from_utf8(path).unwrap();
    let setuid = fs::metadata(path.trim()).is_ok_and(|metadata| metadata.mode() & 0o4000 != 0);
    if !setuid {
        println!("skipped: there is no fusermount3 with the setuid bit");
    }
    setuid
}

#[test]
fn a_user_mounts_and_unmounts_by_fusermount() {
    if !can_mount() || !has_helper() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(dir.path().into());
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    let options = options(dir.path());
    let session = as_nobody(|| Session::mount(&options)).unwrap();
    let mounted = Mounted::serve(dir, session, 2);
    let path = mounted.dir.path();
    let state = as_nobody(|| mountpoint_state(path)).unwrap();
    assert_eq!(
        state,
        MountpointState::Mounted { fstype: "fuse.tenderfs".into(), source: options.source.clone() }
    );
    as_nobody(|| {
        assert_eq!(fs::read(path.join("hello")).unwrap(), HELLO);
        let file = fs::File::open(path.join("hello")).unwrap();
        let error = unmount(path, Unmount::Plain).unwrap_err();
        assert!(matches!(error, Error::Busy { .. }), "{error}");
        drop(file);
        let outcome = mounted.session.as_ref().unwrap().set_read_ahead(1 << 20);
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::ReadAhead { in_force_bytes: 131_072, .. }), "{error}");
        unmount(path, Unmount::Plain).unwrap();
        let error = unmount(path, Unmount::Lazy).unwrap_err();
        assert!(matches!(error, Error::NotMounted { .. }), "{error}");
    });
    assert_eq!(mountpoint_state(path).unwrap(), MountpointState::Ready);
}

#[test]
fn a_user_who_may_not_mount_is_told_why() {
    if !can_mount() || !has_helper() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(dir.path().into());
    let mut options = options(dir.path());
    fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
    let error = as_nobody(|| Session::mount(&options)).unwrap_err();
    assert!(error.to_string().contains("no write access"), "{error}");
    let allowed = fs::read_to_string("/etc/fuse.conf")
        .is_ok_and(|text| text.lines().any(|line| line.trim() == "user_allow_other"));
    if allowed {
        println!("skipped: /etc/fuse.conf lets users share their mounts");
        return;
    }
    chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    options.access = Access::AllowOther;
    let error = as_nobody(|| Session::mount(&options)).unwrap_err();
    assert!(matches!(error, Error::AllowOther { .. }), "{error}");
}

#[test]
fn access_is_for_whom_the_mount_says() {
    if !can_mount() {
        return;
    }
    for (access, allowed, denied_by_channel) in [
        (Access::OwnerOnly, false, false),
        (Access::AllowRoot, false, true),
        (Access::AllowOther, true, false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        chown(dir.path(), Some(NOBODY), None).unwrap();
        let mut options = options(dir.path());
        options.access = access;
        let mounted = Mounted::serve(dir, Session::mount(&options).unwrap(), 2);
        assert_eq!(fs::read(mounted.path("hello")).unwrap(), HELLO, "root, {access:?}");
        let read = as_nobody(|| read(&mounted.path("hello")));
        match read {
            Ok(bytes) => assert!(allowed && bytes == HELLO, "{access:?}"),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::EACCES), "{access:?}");
                assert!(!allowed, "{access:?}");
            }
        }
        assert_eq!(mounted.counters().denied.get() > 0, denied_by_channel, "{access:?}");
        // Where /dev/fuse is root's alone, this is a duplicate of the session's descriptor.
        as_nobody(|| mounted.session.as_ref().unwrap().device()).unwrap();
        assert_eq!(mounted.seen.interrupts.load(Ordering::Relaxed), 0);
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    fs::read(path)
}
