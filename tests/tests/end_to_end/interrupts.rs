//! A reader that waits can always be stopped.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tenderfs_lab::Fault;
use tenderfs_tests::{Stage, eventually};

use super::{LIMIT, MIB, check_all};
use crate::store_faults::on_get;

/// A `cat` of `key` whose GET hangs at the store.
fn blocked_reader(stage: &Stage, key: &str) -> Child {
    let mut command = Command::new("cat");
    command.arg(stage.path(key)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let child = command.spawn().unwrap();
    let ledger = stage.lab().ledger();
    eventually(LIMIT, "its GET", || {
        ledger
            .entries()
            .iter()
            .any(|entry| &*entry.key == key && entry.fault.is_some())
            .then_some(())
    });
    child
}

#[track_caller]
fn check(signal: Signal, limit: Duration) {
    let Some(mut stage) = Stage::new() else { return };
    stage.set("s3.first_byte_timeout", "30s").set("s3.request_timeout", "60s");
    stage.fill([("hangs", 8 * MIB)]);
    let others = stage.fill([("works", 8 * MIB)]);
    stage.lab().faults().add(on_get("hangs", Fault::HangBeforeHeaders));
    stage.start();
    let mut reader = blocked_reader(&stage, "hangs");
    let signalled = Instant::now();
    kill(Pid::from_raw(reader.id().try_into().unwrap()), signal).unwrap();
    eventually(LIMIT, "the reader's end", || reader.try_wait().unwrap());
    let took = signalled.elapsed();
    eprintln!("a reader blocked on a hanging GET ended {took:?} after {signal}");
    assert!(took < limit, "{signal} took {took:?}");
    check_all(&stage, &others);
    stage.lab().faults().clear();
}

#[test]
fn sigkill_ends_a_reader_of_a_hanging_get_within_a_second() {
    check(Signal::SIGKILL, Duration::from_secs(1));
}

#[test]
fn ctrl_c_ends_a_reader_of_a_hanging_get_within_100_ms() {
    check(Signal::SIGINT, Duration::from_millis(100));
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
