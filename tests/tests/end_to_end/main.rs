//! End to end: the real daemon and tools as processes, real mounts, and the lab, whose ledger says
//! what was asked of S3 and which fails to order.
//!
//! Each test is named as the sentence it proves; docs/SEMANTICS.md names it beside the promise.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]
#![allow(clippy::print_stderr, reason = "a test says what it skips, and what it measured")]

mod admin;
mod bad_input;
mod cache_faults;
mod checksums;
mod command_line;
mod compare;
mod crash;
mod credentials;
mod fstab;
mod hostile_keys;
mod interrupts;
mod inventory;
mod keeping;
mod kills;
mod large_directories;
mod memory;
mod passthrough;
mod plans;
mod read_ahead;
mod requests;
mod rings;
mod train;
mod verify;

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use tenderfs_lab::{Entry, Fault, FaultRule, Ledger, Mark, Operation};
use tenderfs_tests::{File, Stage, md5_of_file};

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;
/// Everything that a test waits for happens well within it.
const LIMIT: Duration = Duration::from_mins(1);

#[track_caller]
fn check_all(stage: &Stage, files: &[File]) {
    for file in files {
        check_md5(&stage.path(&file.key), file);
    }
}

#[track_caller]
fn check_md5(path: &Path, file: &File) {
    let found = md5_of_file(path).unwrap_or_else(|error| panic!("{}: {error}", file.key));
    assert_eq!(found, file.md5(), "{} has other bytes than its object", file.key);
}

/// Reads every file once with `readers` threads and compares each with its object.
#[track_caller]
fn check_all_in_parallel(stage: &Stage, files: &[File], readers: usize) {
    let start = Barrier::new(readers);
    thread::scope(|scope| {
        for reader in 0..readers {
            let start = &start;
            scope.spawn(move || {
                start.wait();
                files.iter().skip(reader).step_by(readers).for_each(|file| {
                    check_md5(&stage.path(&file.key), file);
                });
            });
        }
    });
}

/// The requests for bytes of objects since `mark`.
fn gets_since(ledger: &Ledger, mark: Mark) -> Vec<Entry> {
    let mut entries = ledger.since(mark);
    entries.retain(|entry| entry.operation == Operation::Get);
    entries
}

/// A rule for every GET of `key`.
fn on_get(key: &str, fault: Fault) -> FaultRule {
    FaultRule::new(fault).operation(Operation::Get).key(key)
}

/// How many requests of this operation there were since `mark`.
fn count_since(ledger: &Ledger, mark: Mark, operation: Operation) -> usize {
    ledger.since(mark).iter().filter(|entry| entry.operation == operation).count()
}
