//! The programs under test as processes: started with a clean environment, watched, never left
//! behind.

use std::fs;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::os::die_with_parent;
use crate::wait::pause;

/// A program of the project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The daemon.
    Tenderfsd,
    /// The command line tool.
    Tenderfs,
    /// The bench.
    Bench,
}

/// The path of a program, built with these tests: cargo puts it beside their `deps` folder.
pub fn program(which: Program) -> PathBuf {
    let name = match which {
        Program::Tenderfsd => "tenderfsd-under-test",
        Program::Tenderfs => "tenderfs-under-test",
        Program::Bench => "tenderfs-bench-under-test",
    };
    let tests = std::env::current_exe().expect("a running test has a path");
    let path = tests.parent().and_then(Path::parent).expect("target/<profile>/deps").join(name);
    assert!(path.exists(), "{} is not built: run `cargo test -p tenderfs-tests`", path.display());
    path
}

/// How a program that ran to its end ended.
#[derive(Debug)]
pub struct Outcome {
    /// Its exit status.
    pub status: ExitStatus,
    /// What it printed.
    pub stdout: String,
    /// What it complained of.
    pub stderr: String,
}

impl Outcome {
    /// The exit code, or 128 plus the number of the signal that ended the program, as shells say.
    pub fn code(&self) -> i32 {
        self.status.code().or_else(|| self.status.signal().map(|signal| 128 + signal)).unwrap_or(-1)
    }
}

/// Runs a command that must end by itself within `limit`; kills it otherwise, and panics.
#[track_caller]
pub fn run(command: &mut Command, limit: Duration) -> Outcome {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name| fs::File::create(folder.path().join(name)).expect("a temporary file");
    die_with_parent(command);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(file("out"))
        .stderr(file("err"))
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let status = wait_for_exit(&mut child, limit);
    let text = |name| {
        let bytes = fs::read(folder.path().join(name)).expect("the file written above");
        String::from_utf8_lossy(&bytes).into_owned()
    };
    let Some(status) = status else {
        child.kill().expect("a child that has not ended");
        child.wait().expect("a killed child ends");
        panic!("{command:?} did not end in {limit:?}:\n{}{}", text("out"), text("err"));
    };
    Outcome { status, stdout: text("out"), stderr: text("err") }
}

/// Waits until `child` ends; `None` if it has not after `limit`.
pub(crate) fn wait_for_exit(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait().expect("one's own child can be waited for") {
            return Some(status);
        }
        if started.elapsed() > limit {
            return None;
        }
        pause();
    }
}

/// A running daemon. Dropping it stops it, by SIGKILL if SIGTERM does not.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    log: PathBuf,
    notify: UnixDatagram,
}

/// How long a daemon may take to stop before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(15);

impl Daemon {
    /// Starts the daemon of `command`; its output goes to a log file in `folder`, and it announces
    /// itself there as it does to systemd.
    pub fn spawn(command: &mut Command, folder: &Path) -> Self {
        let log = folder.join("daemon.log");
        let socket = folder.join("notify.sock");
        drop(fs::remove_file(&socket));
        let notify = UnixDatagram::bind(&socket).expect("a socket in a temporary folder");
        notify.set_read_timeout(Some(Duration::from_millis(20))).expect("a time-out above zero");
        let output = fs::File::options().create(true).append(true).open(&log).expect("a log file");
        die_with_parent(command);
        let child = command
            .env("NOTIFY_SOCKET", &socket)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a descriptor"))
            .stderr(output)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log, notify }
    }

    /// Waits until the daemon says READY=1; `Err` with its exit status if it ends before.
    ///
    /// # Panics
    ///
    /// If it does neither within `limit`.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<(), ExitStatus> {
        let started = Instant::now();
        let mut message = [0; 4096];
        loop {
            match self.notify.recv(&mut message) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&message[..count]);
                    if text.lines().any(|line| line == "READY=1") {
                        return Ok(());
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => panic!("the notification socket: {error}"),
            }
            if let Some(status) = self.child.try_wait().expect("one's own child") {
                return Err(status);
            }
            assert!(started.elapsed() < limit, "not ready after {limit:?}:\n{}", self.log());
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    pub fn log(&self) -> String {
        let bytes = fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("a process id");
        kill(Pid::from_raw(pid), signal).expect("one's own child takes signals");
    }

    /// Waits for its end; `None` if it has not ended after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait_for_exit(&mut self.child, limit)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.signal(Signal::SIGTERM);
            if self.wait(STOP_LIMIT).is_none() {
                self.signal(Signal::SIGKILL);
                drop(self.child.wait());
            }
        }
        if std::thread::panicking() {
            eprintln!("---- what the daemon said ----\n{}----", self.log());
        }
    }
}
