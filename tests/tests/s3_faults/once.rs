//! Faults that pass: every byte is right, nobody is told, and no more is asked for than was lost.

use std::thread;
use std::time::{Duration, Instant};

use tenderfs_lab::{Attributes, ChecksumKind, Fault, Latency};
use tenderfs_tests::md5_of_file;

use super::{MIB, gets_of, impatient_stage, on_get};

/// One block, so that whoever reads the file whole causes one GET.
const FILE_BYTES: u64 = MIB + 17;

/// A fault, and how many GETs the file may cost whose first ones meet it.
struct Row {
    name: &'static str,
    fault: Fault,
    /// GETs that meet the fault.
    times: u64,
    gets_max: usize,
}

const fn row(name: &'static str, fault: Fault) -> Row {
    Row { name, fault, times: 2, gets_max: 3 }
}

/// As [`row`], of a fault that is no reason to ask again.
const fn borne(name: &'static str, fault: Fault) -> Row {
    Row { name, fault, times: 2, gets_max: 1 }
}

fn rows() -> Vec<Row> {
    let slow = Latency::Fixed(Duration::from_secs(3));
    vec![
        row("first byte after 3 s", Fault::Slow { first_byte: slow }),
        row("no answer", Fault::HangBeforeHeaders),
        row("halt before the body", Fault::HangInBody { after_bytes: 0 }),
        row("halt in the body", Fault::HangInBody { after_bytes: 300_000 }),
        row("one byte a second", Fault::Drip { bytes_per_second: 1 }),
        row("reset at byte 0", Fault::ResetBeforeHeaders),
        row("reset in the header", Fault::ResetInHeaders { after_bytes: 10 }),
        row("reset before the body", Fault::ResetInBody { after_bytes: 0 }),
        row("reset after 1 byte", Fault::ResetInBody { after_bytes: 1 }),
        row("reset in the middle", Fault::ResetInBody { after_bytes: FILE_BYTES / 2 }),
        row("reset before the last byte", Fault::ResetInBody { after_bytes: FILE_BYTES - 1 }),
        borne("reset after the last byte", Fault::ResetInBody { after_bytes: FILE_BYTES }),
        row("end before the body", Fault::Truncate { after_bytes: 0 }),
        row("end after 1 byte", Fault::Truncate { after_bytes: 1 }),
        row("end in the middle", Fault::Truncate { after_bytes: FILE_BYTES / 2 }),
        row("end before the last byte", Fault::Truncate { after_bytes: FILE_BYTES - 1 }),
        row("too long", Fault::TooLong { extra_bytes: 100 }),
        borne("no length", Fault::NoContentLength),
        row("length too large", Fault::WrongContentLength { by: 1 }),
        row("length too small", Fault::WrongContentLength { by: -1 }),
        row("another range", Fault::WrongRange),
        row("another total", Fault::WrongTotal),
        borne("the whole object", Fault::FullBodyFor206),
        row("a flipped bit", Fault::FlipBit { offset: 600_000 }),
    ]
}

#[test]
fn a_fault_that_passes_costs_a_request_and_no_byte() {
    let Some(mut stage) = impatient_stage() else { return };
    let rows = rows();
    let key = |row: &Row| format!("once/{}", row.name);
    let files = stage.fill(rows.iter().map(|row| (key(row), FILE_BYTES)));
    for (row, file) in rows.iter().zip(&files) {
        // Without one, a flipped bit is a byte like any other.
        let checksum = Some(ChecksumKind::Crc32c);
        stage.put_with(file, Attributes { checksum, ..Attributes::default() });
        stage.lab().faults().add(on_get(&file.key, row.fault.clone()).times(row.times));
    }
    stage.start();
    let stage = &stage;
    thread::scope(|scope| {
        for (row, file) in rows.iter().zip(&files) {
            scope.spawn(move || {
                let begun = Instant::now();
                let read = md5_of_file(&stage.path(&file.key));
                let read = read.unwrap_or_else(|error| panic!("{}: {error}", row.name));
                assert_eq!(read, file.md5(), "{}", row.name);
                let took = begun.elapsed();
                assert!(took < Duration::from_secs(15), "{}: {took:?}", row.name);
                let gets = gets_of(stage, &file.key).len();
                assert!(gets <= row.gets_max, "{}: {gets} GETs", row.name);
            });
        }
    });
}

/// Stores that ask for patience are given it; these share one pace, and so have a mount of their own.
#[test]
fn a_store_that_refuses_at_first_is_asked_again() {
    for (name, fault) in [
        ("500", Fault::status(500)),
        ("503", Fault::slow_down()),
        ("429", Fault::status(429)),
        ("503 with a wait", Fault::Status { code: 503, retry_after: Some(1) }),
        ("429 with a wait", Fault::Status { code: 429, retry_after: Some(1) }),
    ] {
        let Some(mut stage) = impatient_stage() else { return };
        let files = stage.fill([("file", FILE_BYTES)]);
        stage.lab().faults().add(on_get("file", fault).times(2));
        stage.start();
        let begun = Instant::now();
        assert_eq!(md5_of_file(&stage.path("file")).unwrap(), files[0].md5(), "{name}");
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(15), "{name}: {took:?}");
        let waited = if name.ends_with("wait") { 2 } else { 0 };
        assert!(took >= Duration::from_secs(waited), "{name}: the store was not given its time");
        assert_eq!(gets_of(&stage, "file").len(), 3, "{name}");
    }
}

/// Proves that a clock which is wrong costs each of many requests under way one more at most.
#[test]
fn a_clock_that_is_off_is_learned_once_for_all_requests() {
    let Some(mut stage) = impatient_stage() else { return };
    let files = stage.fill((0..16).map(|n| (format!("clock/{n}"), 5000 + n)));
    stage.start();
    assert_eq!(std::fs::read_dir(stage.path("clock")).unwrap().count(), files.len());
    let behind = Fault::ClockBehind { seconds: 800 };
    stage.lab().faults().add(tenderfs_lab::FaultRule::new(behind));
    let stage = &stage;
    thread::scope(|scope| {
        for file in &files {
            scope.spawn(move || {
                assert_eq!(md5_of_file(&stage.path(&file.key)).unwrap(), file.md5());
                let gets = gets_of(stage, &file.key).len();
                assert!(gets <= 2, "{}: {gets} GETs", file.key);
            });
        }
    });
    assert!(stage.log_line("the store's clock is another"));
}
