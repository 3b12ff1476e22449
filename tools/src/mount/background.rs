//! Leaving a process behind that serves, and learning from it when the mount answers.
//!
//! The serving process is started with the write end of a pipe as its standard output. It writes one line: that it is
//! ready, or why it is not. End of file without a line means that it died.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, dup2_stdout, setsid};
use tenderfs_daemon::config::{LogSettings, process_environment};
use tenderfs_daemon::one_line;

use crate::error::{EXIT_FAILED, ToolError};

/// What the serving process writes once the mount answers.
const READY: &str = "ready";

/// Starts the serving process and returns when the mount answers.
pub fn start(
    arguments: &[OsString],
    log: &LogSettings,
    mountpoint: &Path,
) -> Result<(), ToolError> {
    let log = Log::choose(log, mountpoint)?;
    let program = std::env::current_exe().map_err(ToolError::Background)?;
    let (word, standard_output) = io::pipe().map_err(ToolError::Background)?;
    let child = Command::new(program)
        .arg0("tenderfs")
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(OwnedFd::from(standard_output))
        .stderr(log.stdio)
        .spawn()
        .map_err(ToolError::Background)?;
    let mut line = String::new();
    BufReader::new(word).read_line(&mut line).map_err(ToolError::Background)?;
    match line.trim_end() {
        READY => Ok(()),
        reason => Err(failure(child, reason, &log.place)),
    }
}

fn failure(mut child: Child, reason: &str, log: &str) -> ToolError {
    let status = child.wait();
    let code = status.as_ref().ok().and_then(std::process::ExitStatus::code);
    let exit_code = code.and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    let reason = match (reason, status) {
        ("", Ok(status)) => {
            format!("the daemon ended before the mount answered ({status}); see {log}")
        }
        ("", Err(error)) => {
            format!("the daemon ended before the mount answered ({error}); see {log}")
        }
        (reason, _) => reason.to_owned(),
    };
    ToolError::Reported { reason, exit_code: exit_code.unwrap_or(EXIT_FAILED) }
}

/// Where the serving process writes its log.
struct Log {
    stdio: Stdio,
    /// In words, for the message that says where to look.
    place: String,
}

impl Log {
    /// The file that was asked for is opened by the daemon itself; without one the journal, or a file of our own.
    fn choose(settings: &LogSettings, mountpoint: &Path) -> Result<Log, ToolError> {
        if let Some(file) = &settings.file {
            return Ok(Log { stdio: Stdio::null(), place: file.display().to_string() });
        }
        if let Ok(journal) = journal() {
            let stdio = Stdio::from(OwnedFd::from(journal));
            return Ok(Log { stdio, place: "`journalctl -t tenderfs`".to_owned() });
        }
        let path = log_file(mountpoint);
        let file =
            open_log(&path).map_err(|source| ToolError::Write { path: path.clone(), source })?;
        Ok(Log { stdio: Stdio::from(file), place: path.display().to_string() })
    }
}

/// A stream into the journal, as systemd gives services (`sd_journal_stream_fd(3)`).
fn journal() -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect("/run/systemd/journal/stdout")?;
    // Identifier, unit, priority (6: info), level prefix, forward to syslog, kernel log, console.
    stream.write_all(b"tenderfs\n\n6\n0\n0\n0\n0\n")?;
    Ok(stream)
}

fn log_file(mountpoint: &Path) -> PathBuf {
    let dir = if nix::unistd::geteuid().is_root() {
        PathBuf::from("/var/log/tenderfs")
    } else {
        let state = process_environment("XDG_STATE_HOME").map(PathBuf::from);
        let home = || process_environment("HOME").map(|home| Path::new(&home).join(".local/state"));
        state.or_else(home).unwrap_or_else(std::env::temp_dir).join("tenderfs")
    };
    let parts: Vec<_> = mountpoint.iter().skip(1).map(|part| part.to_string_lossy()).collect();
    dir.join(format!("{}.log", parts.join("-")))
}

fn open_log(path: &Path) -> io::Result<File> {
    if let Some(dir) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

/// The serving process's side of the pipe.
#[derive(Debug)]
pub struct Readiness {
    word: File,
}

impl Readiness {
    /// Takes standard output for the word and leaves the terminal's session, so that its end does not end us.
    pub fn take_standard_output() -> io::Result<Readiness> {
        let word = File::from(clone_standard_output()?);
        let null = OpenOptions::new().write(true).open("/dev/null")?;
        dup2_stdout(&null)?;
        setsid()?;
        // The directory it was started in may be unmounted meanwhile; all paths are absolute by now.
        std::env::set_current_dir("/")?;
        Ok(Readiness { word })
    }

    /// Runs `serve`, which calls its argument when the mount answers, and tells the one who waits how it went.
    pub fn report(
        self,
        serve: impl FnOnce(&mut dyn FnMut(())) -> Result<(), ToolError>,
    ) -> Result<(), ToolError> {
        let mut word = Some(self.word);
        let mut ready = |()| {
            let told = word.take().map_or(Ok(()), |mut word| writeln!(word, "{READY}"));
            // Whoever asked for the mount was interrupted: nobody wants it any more.
            if told.is_err() && kill(Pid::this(), Signal::SIGTERM).is_err() {
                unreachable!("a process may always signal itself");
            }
        };
        let result = serve(&mut ready);
        if let (Err(error), Some(mut word)) = (&result, word) {
            // If nobody listens, the log and the exit code still tell.
            drop(writeln!(word, "{}", one_line(error)));
        }
        result
    }
}

/// A descriptor of its own for what standard output is now.
fn clone_standard_output() -> io::Result<OwnedFd> {
    std::os::fd::AsFd::as_fd(&io::stdout()).try_clone_to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn told(serve: impl FnOnce(&mut dyn FnMut(())) -> Result<(), ToolError>) -> String {
        let (mut reader, writer) = io::pipe().unwrap();
        let readiness = Readiness { word: File::from(OwnedFd::from(writer)) };
        drop(readiness.report(serve));
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn the_one_who_waits_hears_one_line() {
        assert_eq!(
            told(|ready| {
                ready(());
                Ok(())
            }),
            "ready\n"
        );
        assert_eq!(told(|_| Err(ToolError::Interrupted)), "interrupted\n");
        let late = told(|ready| {
            ready(());
            Err(ToolError::Interrupted)
        });
        assert_eq!(late, "ready\n", "what happens later is for the log");
        assert_eq!(told(|_| Ok(())), "", "ended without ever answering");
    }

    #[test]
    fn child_that_dies_silently_is_reported_with_the_place_of_its_log() {
        let child = Command::new("/bin/sh").args(["-c", "exit 7"]).spawn().unwrap();
        let error = failure(child, "", "the log");
        assert_eq!(error.exit_code(), 7);
        assert!(error.to_string().contains("see the log"), "{error}");
    }

    #[test]
    fn log_file_is_named_after_the_mount_point() {
        assert!(log_file(Path::new("/mnt/data")).ends_with("tenderfs/mnt-data.log"));
    }
}
