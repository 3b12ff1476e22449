//! What can go wrong for a user of the command line, in one line each.

use std::io;
use std::path::PathBuf;

use tenderfs_daemon::DaemonError;
use tenderfs_daemon::config::ConfigError;
use tenderfs_daemon::config::mount_options::MountOptionError;

use crate::admin_client::AdminError;

/// Everything went well.
pub const EXIT_OK: u8 = 0;
/// What was asked for could not be done.
pub const EXIT_FAILED: u8 = 1;
/// The command line or configuration makes no sense.
pub const EXIT_USAGE: u8 = 2;
/// `warm --check`: not everything is cached.
pub const EXIT_NOT_CACHED: u8 = 3;
/// `cache verify`: something on disk was wrong.
pub const EXIT_CACHE_DAMAGED: u8 = 4;
/// Ended by Ctrl-C or a termination signal (128 + SIGINT).
pub const EXIT_INTERRUPTED: u8 = 130;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum ToolError {
    /// The user or the system asked to stop.
    #[error("interrupted")]
    Interrupted,
    /// A runtime, thread or signal handler could not be made.
    #[error("cannot start: {0}")]
    Runtime(io::Error),
    /// A plan could not be read.
    #[error("cannot read the plan {path}: {source}; `-` reads it from standard input", path = path.display())]
    Plan {
        /// The file, as given.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A cache directory cannot be looked into.
    #[error(transparent)]
    CacheDir(tenderfs_daemon::CacheError),
    /// A relative path has no meaning because the working directory is gone.
    #[error("cannot make {path} absolute: {source}")]
    Path {
        /// As written.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A flag or `-o` option makes no sense.
    #[error(transparent)]
    MountOption(#[from] MountOptionError),
    /// This machine or user cannot mount.
    #[error("{obstacle}")]
    CannotMount {
        /// One sentence that says why and what to do.
        obstacle: String,
    },
    /// The daemon in this process failed.
    #[error(transparent)]
    Daemon(DaemonError),
    /// The serving process could not be started.
    #[error("cannot start the daemon in the background: {0}")]
    Background(io::Error),
    /// The serving process said why it failed.
    #[error("{reason}")]
    Reported {
        /// Its own line.
        reason: String,
        /// Its exit code.
        exit_code: u8,
    },
    /// The mount cannot be taken away.
    #[error("cannot unmount {path}: {reason}", path = path.display())]
    Unmount {
        /// The mount point.
        path: PathBuf,
        /// Why, and what to do.
        reason: String,
    },
    /// The daemon cannot be asked.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A warm job ended badly.
    #[error("{reason}")]
    Warm {
        /// What was not done, and what to do.
        reason: String,
    },
    /// `warm --check` found something.
    #[error(
        "{files} of {files_total} files are not cached; `tenderfs warm` without --check brings them in"
    )]
    NotCached {
        /// Files that are not cached whole.
        files: u64,
        /// Files looked at.
        files_total: u64,
    },
    /// `cache verify` found something.
    #[error(
        "the cache was damaged: what is wrong was dropped and is fetched again when it is read; look after the disk if this comes again"
    )]
    CacheDamaged,
    /// The lab could not be started or filled.
    #[error("the lab: {reason}")]
    Lab {
        /// Its own reason.
        reason: String,
    },
    /// `doctor` found something missing.
    #[error("something is missing; the lines above say what to do")]
    Unhealthy,
    /// A file of the data set could not be read through the mount.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file of the tool's own could not be written or made.
    #[error("cannot write {path}: {source}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The store of the demo refused or failed.
    #[error("cannot {action} {key}: {reason}")]
    Store {
        /// What was tried.
        action: &'static str,
        /// On what.
        key: String,
        /// The store's or the network's reason.
        reason: String,
    },
    /// The demo cannot go on.
    #[error("{what}: {reason}")]
    Demo {
        /// What cannot be done.
        what: &'static str,
        /// Why.
        reason: String,
    },
}

impl ToolError {
    /// The exit code that tells scripts which kind of failure it was.
    pub fn exit_code(&self) -> u8 {
        match self {
            ToolError::Interrupted => EXIT_INTERRUPTED,
            ToolError::Config(_)
            | ToolError::MountOption(_)
            | ToolError::Daemon(DaemonError::Config(_)) => EXIT_USAGE,
            ToolError::NotCached { .. } => EXIT_NOT_CACHED,
            ToolError::CacheDamaged => EXIT_CACHE_DAMAGED,
            ToolError::Reported { exit_code, .. } => *exit_code,
            ToolError::Runtime(_)
            | ToolError::Plan { .. }
            | ToolError::Path { .. }
            | ToolError::CacheDir(_)
            | ToolError::CannotMount { .. }
            | ToolError::Daemon(_)
            | ToolError::Background(_)
            | ToolError::Unmount { .. }
            | ToolError::Admin(_)
            | ToolError::Warm { .. }
            | ToolError::Lab { .. }
            | ToolError::Unhealthy
            | ToolError::Read { .. }
            | ToolError::Write { .. }
            | ToolError::Store { .. }
            | ToolError::Demo { .. } => EXIT_FAILED,
        }
    }
}

/// The last cause in a chain of errors, which is the one that says what happened.
pub fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}
