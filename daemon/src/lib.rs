//! The TenderFS daemon: composes FUSE, cache and S3, and serves the admin API.
//!
//! [`start`] runs a daemon inside this process; [`run()`] is what `tenderfsd` and `tenderfs mount`
//! do: start, serve until a signal, stop. `docs/ARCHITECTURE.md` has the path of a read.
//!
//! Architecture invariant: the only crate that knows FUSE, the cache and S3 at once. Data runs down
//! by calls and back by their returns; nothing below calls up.

pub mod admin;
mod background;
pub mod cache_files;
pub mod config;
pub mod cores;
mod engine;
mod errno;
pub mod logging;
pub mod metrics;
pub mod mount;
pub mod namespace;
pub mod notify;
mod origin;
pub mod plans;
pub mod run;
mod scrub;
mod signals;
pub mod warm;
mod wiring;

pub use tenderfs_cache::CacheError;

pub use run::{Daemon, DaemonError, DaemonState, Running, one_line, run, start};
