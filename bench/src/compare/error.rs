//! Why a comparison ends before its time.

use std::io;
use std::path::PathBuf;

/// What went wrong, in words for the one who started it.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// Ctrl-C.
    #[error("interrupted; everything is unmounted and deleted")]
    Interrupted,
    /// No row has this in its name.
    #[error("no row of these suites has `{only}` in its name; there are: {names}")]
    NoRow {
        /// What was asked for.
        only: String,
        /// What there is.
        names: String,
    },
    /// The daemon's program is not there.
    #[error(
        "{path} is not there: build it with `cargo build --release -p tenderfs-daemon`, or name it with --tenderfsd"
    )]
    NoDaemon {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A program could not be started.
    #[error("cannot start {program}: {source}")]
    Start {
        /// Which.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// A child of ours ended, or did not do what it must.
    #[error("{program} {what}:\n{log}")]
    Child {
        /// Which.
        program: &'static str,
        /// What it did.
        what: &'static str,
        /// What it said.
        log: String,
    },
    /// A file or folder of the comparison.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A question over HTTP to the daemon or the lab.
    #[error("cannot ask {whom} for {what}: {source}")]
    Ask {
        /// Who was asked.
        whom: &'static str,
        /// For what.
        what: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The answer of a program or endpoint makes no sense.
    #[error("{whom} answered what cannot be understood: {answer}")]
    Answer {
        /// Who answered.
        whom: &'static str,
        /// The beginning of the answer.
        answer: String,
    },
    /// The bytes are wrong: nothing that was measured counts.
    #[error("WRONG BYTES: {path} differs from its object in the {len_bytes} bytes from {offset}")]
    WrongBytes {
        /// The file.
        path: PathBuf,
        /// First byte of the difference's chunk.
        offset: u64,
        /// Length of the chunk.
        len_bytes: u64,
    },
    /// The lab.
    #[error("the lab: {source}")]
    Lab {
        /// Its reason.
        source: tenderfs_lab::LabError,
    },
    /// Our own client of the store.
    #[error("the direct GETs failed: {reason}")]
    Gets {
        /// Why.
        reason: String,
    },
    /// What was to be there after a while was not.
    #[error("waited {seconds} s in vain for {what}")]
    Waited {
        /// For how long.
        seconds: u64,
        /// For what.
        what: &'static str,
    },
    /// The result could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// Where to.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
}

impl CompareError {
    /// For `map_err`: the failure of an operation on `path`.
    pub fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> CompareError {
        let path = path.into();
        move |source| CompareError::File { path, source }
    }
}
