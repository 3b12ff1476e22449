//! Programs that run beside the measurements: started in a group of their own, so that Ctrl-C reaches only us, and
//! ended with their owner.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::error::CompareError;

/// How long a child may take to end by itself before it is killed.
const STOP_LIMIT: Duration = Duration::from_mins(1);
/// How long between two looks at what sends no event.
const PAUSE: Duration = Duration::from_millis(2);

/// A program that runs beside the measurements.
#[derive(Debug)]
pub(crate) struct Child {
    name: &'static str,
    process: Process,
    log: PathBuf,
}

/// The subcommand of this program that gives its process away to another program, so that it dies with us.
pub(crate) fn guarded(program: &Path) -> Result<Command, CompareError> {
    let mut command = own("guard")?;
    command.arg(program);
    Ok(command)
}

/// A hidden subcommand of this program.
pub(crate) fn own(subcommand: &str) -> Result<Command, CompareError> {
    let program = std::env::current_exe()
        .map_err(|source| CompareError::Start { program: "tenderfs-bench".to_owned(), source })?;
    let mut command = Command::new(program);
    command.arg(subcommand);
    Ok(command)
}

/// Takes on `program` in place of this process, which from now on gets SIGTERM when its parent ends. Returns only if
/// that fails.
pub fn become_guarded(program: &OsStr, arguments: &[std::ffi::OsString]) -> std::io::Error {
    match rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM)) {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error.into(),
    }
}

impl Child {
    /// Starts `command`; what it complains of goes to `NAME.log` in `folder`.
    pub(crate) fn start(
        name: &'static str,
        command: &mut Command,
        folder: &Path,
    ) -> Result<Child, CompareError> {
        let log = folder.join(format!("{name}.log"));
        let errors = File::create(&log).map_err(CompareError::file(&log))?;
        let process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| CompareError::Start { program: name.to_owned(), source })?;
        Ok(Child { name, process, log })
    }

    /// Its standard output; `None` the second time.
    pub(crate) fn output(&mut self) -> Option<ChildStdout> {
        self.process.stdout.take()
    }

    /// Its standard input; a child of ours ends when this is closed.
    pub(crate) fn input(&mut self) -> Option<ChildStdin> {
        self.process.stdin.take()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.process.id()).unwrap_or(i32::MAX))
    }

    /// Its exit status if it has ended.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().unwrap_or(None)
    }

    /// An error that says what it did, with its last words.
    pub(crate) fn failed(&self, what: &'static str) -> CompareError {
        let log = fs::read(&self.log).unwrap_or_default();
        let log = String::from_utf8_lossy(&log).into_owned();
        CompareError::Child { program: self.name, what, log }
    }

    /// Ends it: by closing its input and SIGTERM, and by SIGKILL if that does not help.
    pub(crate) fn stop(&mut self) {
        drop(self.input());
        if self.ended().is_some() {
            return;
        }
        // It may end between the look and the signal, which is as good.
        kill(self.pid(), Signal::SIGTERM).ok();
        let started = Instant::now();
        while self.ended().is_none() {
            if started.elapsed() > STOP_LIMIT {
                self.process.kill().ok();
                self.process.wait().ok();
                return;
            }
            pause();
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Waits until `look` finds something.
pub(crate) fn wait_for<T>(
    what: &'static str,
    limit: Duration,
    mut look: impl FnMut() -> Result<Option<T>, CompareError>,
) -> Result<T, CompareError> {
    let started = Instant::now();
    loop {
        if let Some(found) = look()? {
            return Ok(found);
        }
        if started.elapsed() > limit {
            return Err(CompareError::Waited { seconds: limit.as_secs(), what });
        }
        pause();
    }
}

/// Lets other processes run before the next look.
#[allow(clippy::disallowed_methods, reason = "what is waited for sends no event to this process")]
fn pause() {
    std::thread::sleep(PAUSE);
}
