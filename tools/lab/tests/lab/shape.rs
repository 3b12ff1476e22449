//! Latency and bandwidth on the wire: never less than ordered. How much more depends on who else wants
//! the machine, so that bounds above only catch what is out of all proportion; the tests of the decider
//! and the example `throughput` show how exact it is.

use std::time::{Duration, Instant};

use tenderfs_lab::{Latency, Shape};

use crate::client::{Connection, End, Rig};

const MS: Duration = Duration::from_millis(1);
/// Out of all proportion.
const TOO_LONG: Duration = Duration::from_secs(30);

#[test]
fn the_first_byte_waits() {
    let rig = Rig::new();
    rig.seeded("k", 100);
    rig.lab.shape(Shape { first_byte: Latency::Fixed(100 * MS), ..Shape::default() });
    assert_eq!(rig.get("k", &[]).status, 200);
    let entry = rig.only_entry();
    let late = entry.latency().unwrap();
    assert!((100 * MS..TOO_LONG).contains(&late), "{late:?}");
}

#[test]
fn latencies_are_drawn_from_the_distribution() {
    let rig = Rig::new();
    rig.seeded("k", 1);
    let first_byte = Latency::Uniform { min: 5 * MS, max: 25 * MS };
    rig.lab.shape(Shape { first_byte, ..Shape::default() });
    let mut connection = Connection::open(&rig.get_url("k"));
    for _ in 0..40 {
        connection.send("GET", &rig.get_url("k"), &[], &[]);
        assert_eq!(connection.receive("GET").end, End::Whole);
    }
    let mut late: Vec<Duration> =
        rig.lab.ledger().entries().iter().map(|entry| entry.latency().unwrap()).collect();
    late.sort();
    assert!(late[0] >= 5 * MS && late[39] < TOO_LONG, "{late:?}");
    assert!(late[20] > 9 * MS, "{late:?}");
}

#[test]
fn a_connection_keeps_to_its_bandwidth() {
    let rig = Rig::new();
    let content = rig.seeded("k", 4 << 20);
    rig.lab.shape(Shape { connection_bytes_per_second: Some(20_000_000), ..Shape::default() });
    let begin = Instant::now();
    let answer = rig.get("k", &[]);
    let elapsed = begin.elapsed();
    assert!(content.matches(0, &answer.body));
    assert!((195 * MS..TOO_LONG).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn all_connections_share_the_total() {
    let rig = Rig::new();
    rig.seeded("k", 2 << 20);
    rig.lab.shape(Shape { total_bytes_per_second: Some(40_000_000), ..Shape::default() });
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(rig.get("k", &[]).end, End::Whole));
        }
    });
    let elapsed = begin.elapsed();
    assert!((195 * MS..TOO_LONG).contains(&elapsed), "{elapsed:?}");
}

#[test]
fn a_shape_lifted_frees_what_is_under_way() {
    let rig = Rig::new();
    rig.seeded("k", 4 << 20);
    rig.lab.shape(Shape { connection_bytes_per_second: Some(10_000), ..Shape::default() });
    let mut connection = Connection::open(&rig.get_url("k"));
    connection.send("GET", &rig.get_url("k"), &[], &[]);
    let mut bytes = connection.receive_some();
    let begin = Instant::now();
    rig.lab.shape(Shape::default());
    assert_eq!(rig.lab.shape_in_force(), Shape::default());
    // The head comes on top, so what is left is enough.
    while bytes < 4 << 20 {
        bytes += connection.receive_some();
    }
    assert!(begin.elapsed() < TOO_LONG, "it would have taken seven minutes");
}

#[test]
fn requests_beyond_the_allowance_are_told_to_slow_down() {
    let rig = Rig::new();
    rig.seeded("k", 1);
    rig.lab.shape(Shape { requests_per_second: Some(10), ..Shape::default() });
    let answers: Vec<_> = (0..3).map(|_| rig.get("k", &[])).collect();
    assert_eq!(answers[0].status, 200);
    let refused = answers.iter().find(|answer| answer.status != 200).unwrap();
    assert_eq!(refused.status, 503);
    assert!(String::from_utf8_lossy(&refused.body).contains("<Code>SlowDown</Code>"));
    rig.lab.shape(Shape::default());
    assert_eq!(rig.get("k", &[]).status, 200);
}
