//! Mounting, unmounting, interrupting, dying.

use crate::memfs::{Mounted, UnmountOnDrop, can_mount, options, wish};
use nix::mount::{MsFlags, mount};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, sigaction};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use tenderfs_fuse::{Error, MountpointState, Session, Unmount, mountpoint_state, unmount};

#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited 10 s for {what}");
        thread::yield_now();
    }
}

extern "C" fn nothing(_: libc::c_int) {}

#[test]
fn an_interrupted_read_returns_at_once() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let action = SigAction::new(SigHandler::Handler(nothing), SaFlags::empty(), SigSet::empty());
    interrupt_thread::install(Signal::SIGUSR1, &action);
    let path = mounted.path("blocked");
    let (send_thread, receive_thread) = mpsc::channel();
    let reader = thread::spawn(move || {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(path).unwrap();
        send_thread.send(interrupt_thread::current()).unwrap();
        let mut space = vec![0; 8192];
        let skip = space.as_ptr().align_offset(4096);
        (file.read_at(&mut space[skip..skip + 4096], 0), Instant::now())
    });
    let reading = receive_thread.recv().unwrap();
    wait_until("the read", || mounted.seen.reads_waiting.load(Ordering::SeqCst) == 1);
    let before = Instant::now();
    interrupt_thread::signal(reading, Signal::SIGUSR1);
    let (result, after) = reader.join().unwrap();
    assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EINTR));
    let elapsed = after - before;
    assert!(elapsed < Duration::from_millis(100), "{elapsed:?}");
    assert_eq!(mounted.seen.interrupts.load(Ordering::SeqCst), 1);
}

/// A reader that nobody answers dies at a signal: in the page cache, and past it.
#[test]
fn a_blocked_reader_can_be_killed() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    // Each reads elsewhere: pages that were asked for stay asked for when their reader dies.
    for (skip, iflag, signal) in [
        (0, "fullblock", Signal::SIGKILL),
        (6, "direct", Signal::SIGKILL),
        (6, "direct", Signal::SIGINT),
    ] {
        let waiting = mounted.seen.reads_waiting.load(Ordering::SeqCst);
        // A shell that runs this in the background has its children ignore SIGINT; dd must not.
        let mut child = Command::new("env")
            .args(["--default-signal=INT", "dd"])
            .arg(format!("if={}", mounted.path("blocked").display()))
            .args([
                "of=/dev/null",
                "bs=1M",
                "count=1",
                &format!("iflag={iflag}"),
                &format!("skip={skip}"),
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_until("the read", || mounted.seen.reads_waiting.load(Ordering::SeqCst) > waiting);
        let before = Instant::now();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        kill(pid, signal).unwrap();
        wait_until("the end of dd", || child.try_wait().unwrap().is_some());
        let elapsed = before.elapsed();
        assert!(elapsed < Duration::from_secs(1), "{iflag} {signal}: {elapsed:?}");
    }
}

#[test]
fn unmounting_ends_every_core() {
    if !can_mount() {
        return;
    }
    for cores in [1, 2, 4] {
        let mut mounted = Mounted::on_cores(cores);
        assert_eq!(fs::read(mounted.path("hello")).unwrap(), crate::memfs::HELLO);
        unmount(mounted.dir.path(), Unmount::Plain).unwrap();
        mounted.join();
        assert_eq!(mountpoint_state(mounted.dir.path()).unwrap(), MountpointState::Ready);
        let error = unmount(mounted.dir.path(), Unmount::Plain).unwrap_err();
        assert!(matches!(error, Error::NotMounted { .. }), "{error}");
    }
}

#[test]
fn a_mount_in_use_is_busy_and_goes_lazily() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new();
    let file = File::open(mounted.path("hello")).unwrap();
    let error = unmount(mounted.dir.path(), Unmount::Plain).unwrap_err();
    assert!(matches!(error, Error::Busy { .. }), "{error}");
    assert!(error.to_string().contains("fuser -vm"), "{error}");
    unmount(mounted.dir.path(), Unmount::Lazy).unwrap();
    assert_eq!(mountpoint_state(mounted.dir.path()).unwrap(), MountpointState::Ready);
    let mut buffer = [0; 5];
    file.read_exact_at(&mut buffer, 0).unwrap();
    assert_eq!(&buffer, b"hello", "an open file outlives a lazy unmount");
    drop(file);
    mounted.join();
}

#[test]
fn an_aborted_connection_ends_every_core_and_leaves_a_stale_mount() {
    if !can_mount() {
        return;
    }
    let mut mounted = Mounted::new();
    let id = mounted.session.as_ref().unwrap().connection_id();
    let control = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(control.path().into());
    let none: Option<&str> = None;
    mount(Some("none"), control.path(), Some("fusectl"), MsFlags::empty(), none).unwrap();
    fs::write(control.path().join(format!("{id}/abort")), "1").unwrap();
    mounted.join();
    assert_eq!(mountpoint_state(mounted.dir.path()).unwrap(), MountpointState::Stale);
}

#[test]
fn a_mount_point_is_mounted_on_once() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(dir.path().into());
    let options = options(dir.path());
    let mounted = Mounted::serve(dir, Session::mount(&options).unwrap(), 2);
    let path = mounted.dir.path();
    let state = mountpoint_state(path).unwrap();
    assert_eq!(
        state,
        MountpointState::Mounted { fstype: "fuse.tenderfs".into(), source: options.source.clone() }
    );
    let error = Session::mount(&options).unwrap_err();
    assert!(matches!(error, Error::Mountpoint { .. }), "{error}");
    assert!(error.to_string().contains("is mounted there already"), "{error}");
}

/// Proves V18 as far as this crate goes: a stale mount is told from a live one, and goes away.
#[test]
fn a_mount_whose_server_died_is_stale_until_it_is_unmounted() {
    if !can_mount() {
        return;
    }
    // One core waits by epoll, one of three by a poll of its own.
    for devices in [1, 3] {
        check_stale(devices);
    }
}

#[track_caller]
fn check_stale(devices: usize) {
    let dir = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(dir.path().into());
    let options = options(dir.path());
    let mut session = Session::mount(&options).unwrap();
    let negotiated = session.negotiate(&wish()).unwrap();
    let mut devices: Vec<_> = (0..devices).map(|_| session.device().unwrap()).collect();
    let device = devices.pop().unwrap();
    drop(devices);
    // A core waits for requests, and then the whole server dies.
    tokio_uring::start(async {
        let channel = device.open(&negotiated).unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(10), channel.receive());
        assert!(wait.await.is_err(), "nobody asks");
    });
    drop(session);
    // The kernel lets go of a ring's poll in its own time.
    wait_until("the connection's end", || {
        mountpoint_state(dir.path()).unwrap() == MountpointState::Stale
    });
    let error = fs::read_dir(dir.path()).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ENOTCONN));
    let error = Session::mount(&options).unwrap_err();
    assert!(error.to_string().contains("umount -l"), "{error}");
    unmount(dir.path(), Unmount::Plain).unwrap();
    assert_eq!(mountpoint_state(dir.path()).unwrap(), MountpointState::Ready);
}

#[test]
fn a_server_that_does_not_answer_holds_nobody_up_who_asks_for_the_state() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let _guard = UnmountOnDrop(dir.path().into());
    let session = Session::mount(&options(dir.path())).unwrap();
    let start = Instant::now();
    let state = mountpoint_state(dir.path()).unwrap();
    assert!(matches!(state, MountpointState::Mounted { .. }), "{state:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(session);
}

#[test]
fn what_cannot_be_mounted_on_is_said_and_left_alone() {
    if !can_mount() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), b"").unwrap();
    for (name, part) in
        [("none", "mkdir -p"), ("file", "not a directory"), ("", "the directory is not empty")]
    {
        let path = dir.path().join(name);
        let error = Session::mount(&options(&path)).unwrap_err();
        assert!(error.to_string().contains(part), "{error}");
        assert!(error.to_string().contains(dir.path().to_str().unwrap()), "{error}");
    }
}

#[test]
fn what_was_negotiated_can_be_read() {
    if !can_mount() {
        return;
    }
    let mounted = Mounted::new();
    let features: Vec<_> = mounted.negotiated.features().collect();
    for feature in ["async_read", "readdirplus", "parallel_dirops", "max_pages"] {
        assert!(features.contains(&feature), "{feature} in {features:?}");
    }
    assert!(mounted.negotiated.to_string().starts_with("FUSE 7."));
}

mod interrupt_thread {
    //! Signals to one thread.
    #![allow(unsafe_code, reason = "signals are")]

    use nix::sys::signal::{SigAction, Signal};

    pub(super) fn install(signal: Signal, action: &SigAction) {
        // SAFETY: the handler does nothing, so it may run anywhere.
        unsafe { super::sigaction(signal, action) }.unwrap();
    }

    pub(super) fn current() -> libc::pthread_t {
        // SAFETY: it has no preconditions.
        unsafe { libc::pthread_self() }
    }

    pub(super) fn signal(thread: libc::pthread_t, signal: Signal) {
        // SAFETY: the thread is joined after this, so its id is valid.
        assert_eq!(unsafe { libc::pthread_kill(thread, signal as libc::c_int) }, 0);
    }
}
