//! A reader that waits can always be stopped.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenderfs_lab::{Entry, Fault, FaultRule, Operation};
use tenderfs_tests::{Stage, eventually};

use super::{LIMIT, MIB, check_all};
use crate::on_get;

/// Programs that wait for the store: for pages that the kernel reads ahead, for a read past the
/// page cache, and for a listing. The kernel lets the first be killed by itself; for the others,
/// which wait for an answer to their own request, it asks the daemon.
const WAITING: [(&str, &[&str]); 3] = [
    ("paged", &["cat", "paged/file"]),
    ("direct", &["dd", "iflag=direct", "bs=1M", "of=/dev/null", "if=direct/file"]),
    ("unlisted", &["ls", "unlisted"]),
];

/// Starts a program in the mount and waits until the store has left it hanging.
fn blocked(stage: &Stage, folder: &str, words: &[&str]) -> Child {
    // A shell that runs this in the background has its children ignore SIGINT; the reader must not.
    let mut command = Command::new("env");
    command.args(["--default-signal=INT", words[0]]);
    command.args(&words[1..]).current_dir(stage.mountpoint());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mark = stage.lab().ledger().mark();
    let child = command.spawn().unwrap();
    eventually(LIMIT, "a request that hangs", || {
        let asked = stage.lab().ledger().since(mark);
        let hangs = |entry: &Entry| entry.key.starts_with(folder) && entry.fault.is_some();
        asked.iter().any(hangs).then_some(())
    });
    child
}

#[track_caller]
pub(crate) fn check(stage: Option<Stage>, signal: Signal, limit: Duration) {
    let Some(mut stage) = stage else { return };
    stage.set("s3.first_byte_timeout", "30s").set("s3.request_timeout", "60s");
    stage.fill([("paged/file", 8 * MIB), ("direct/file", 8 * MIB), ("unlisted/file", 1)]);
    let others = stage.fill([("works/file", 8 * MIB)]);
    let hang = || FaultRule::new(Fault::HangBeforeHeaders);
    for file in ["paged/file", "direct/file"] {
        stage.lab().faults().add(on_get(file, Fault::HangBeforeHeaders));
    }
    stage.lab().faults().add(hang().operation(Operation::List).prefix("unlisted/"));
    stage.start();
    for (folder, words) in WAITING {
        let mut reader = blocked(&stage, folder, words);
        let signalled = Instant::now();
        kill(Pid::from_raw(reader.id().try_into().unwrap()), signal).unwrap();
        eventually(LIMIT, "the reader's end", || reader.try_wait().unwrap());
        let took = signalled.elapsed();
        eprintln!("{words:?}, waiting for the store, ended {took:?} after {signal}");
        assert!(took < limit, "{words:?}: {signal} took {took:?}");
        check_all(&stage, &others);
    }
    stage.lab().faults().clear();
}

#[test]
fn sigkill_ends_a_reader_of_a_hanging_get_within_a_second() {
    check(Stage::new(), Signal::SIGKILL, Duration::from_secs(1));
}

#[test]
fn ctrl_c_ends_a_reader_of_a_hanging_get_within_100_ms() {
    check(Stage::new(), Signal::SIGINT, Duration::from_millis(100));
}

/// An interrupted reader gives up its own wait and nobody else's.
#[test]
fn an_interrupt_does_not_cancel_the_fetch_that_others_wait_for() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("shared", 4 * MIB)]);
    stage.lab().shape(tenderfs_lab::Shape {
        first_byte: tenderfs_lab::Latency::Fixed(Duration::from_secs(1)),
        ..tenderfs_lab::Shape::default()
    });
    stage.start();
    let ledger = stage.lab().ledger().clone();
    std::thread::scope(|scope| {
        let mut reader =
            Command::new("cat").arg(stage.path("shared")).stdout(Stdio::null()).spawn().unwrap();
        eventually(LIMIT, "its GET", || (ledger.gets() > 0).then_some(()));
        let (stage, files) = (&stage, &files);
        let other = scope.spawn(move || check_all(stage, files));
        kill(Pid::from_raw(reader.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        reader.wait().unwrap();
        other.join().unwrap();
    });
    assert_eq!(ledger.gets(), 1);
}
