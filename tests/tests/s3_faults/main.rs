//! A store that fails, lies, falls silent or changes under its readers, through a real mount: right
//! bytes, or the errno that says what it is, in time and without a storm of requests.
//!
//! Each test is named as the sentence it proves; docs/SEMANTICS.md names it beside the promise.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]
#![allow(clippy::print_stderr, reason = "a test says what it skips, and what it measured")]

mod lasting;
mod listings;
mod once;
mod storm;
mod transport;
mod versions;

use std::fs::{File as OpenFile, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc::O_DIRECT;
use tenderfs_lab::{Entry, Fault, FaultRule, Operation};
use tenderfs_tests::{File, Stage, md5_of_file};

const MIB: u64 = 1 << 20;
/// Everything that a test waits for happens well within it.
const LIMIT: Duration = Duration::from_mins(1);

/// A stage whose daemon loses patience soon, and makes no request twice only because it is late.
fn impatient_stage() -> Option<Stage> {
    let mut stage = Stage::new()?;
    stage
        .set("s3.connect_timeout", "1s")
        .set("s3.first_byte_timeout", "500ms")
        .set("s3.stall_timeout", "1s")
        .set("s3.request_timeout", "5s")
        .set("s3.attempts_max", i64::from(ATTEMPTS_MAX))
        .set("s3.backoff_first", "10ms")
        .set("s3.backoff_max", "100ms")
        .set("s3.hedging", false);
    Some(stage)
}

/// Tries of one request by [`impatient_stage`]'s daemon.
const ATTEMPTS_MAX: u8 = 3;

/// Every GET of `key` meets `fault`.
fn on_get(key: &str, fault: Fault) -> FaultRule {
    FaultRule::new(fault).operation(Operation::Get).key(key)
}

/// The GETs of `key` that the lab has seen.
fn gets_of(stage: &Stage, key: &str) -> Vec<Entry> {
    let mut entries = stage.lab().ledger().since(tenderfs_lab::Mark(0));
    entries.retain(|entry| entry.operation == Operation::Get && &*entry.key == key);
    entries
}

#[track_caller]
fn check_all(stage: &Stage, files: &[File]) {
    for file in files {
        let found = md5_of_file(&stage.path(&file.key));
        let found = found.unwrap_or_else(|error| panic!("{}: {error}", file.key));
        assert_eq!(found, file.md5(), "{} has other bytes than its object", file.key);
    }
}

/// A file whose every read is one request to the daemon, past the page cache and its read-ahead.
fn open_direct(path: &Path) -> io::Result<OpenFile> {
    OpenOptions::new().read(true).custom_flags(O_DIRECT).open(path)
}

/// What one read of 4 KiB at `offset` of `file` fails with.
#[track_caller]
fn errno_of_read(file: &OpenFile, offset: u64, what: &str) -> Errno {
    let mut buffer = [0; 4096];
    errno_of(file.read_at(&mut buffer, offset), what)
}

#[track_caller]
fn errno_of<T>(outcome: io::Result<T>, what: &str) -> Errno {
    let Err(error) = outcome else { panic!("{what} has succeeded") };
    Errno::from_raw(error.raw_os_error().unwrap_or_else(|| panic!("{what}: {error}")))
}
