//! `tenderfs-bench`: what a mounted file system gives its readers.
//!
//! It reads a directory the way training jobs do, with many readers at once, and says GB/s (1e9), operations per
//! second, latency percentiles and, on request, whether the bytes were right. `run` knows nothing of TenderFS: any
//! directory of any file system can be measured, which is what makes comparisons fair. `compare` starts a daemon, a
//! store and the references itself, and measures each figure beside its reference. `train`
//! tells how busy it keeps a job that computes what it reads. `policy` reads nothing: it simulates what a cache would
//! hit.
//!
//! Invariant: what is measured is only `read` (and `open`/`close` for the pattern `files`). Checks that cost processor
//! time run outside each operation's latency, and a second reading happens after the clock has stopped.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line tool: its result belongs on standard output"
)]

pub mod checksum;
pub mod cli;
pub mod compare;
pub mod data_set;
pub mod load;
pub mod null_server;
pub mod pattern;
pub mod policy;
pub mod report;
pub mod run;
pub mod train;
