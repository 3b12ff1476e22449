//! Each fault as the wire shows it and the ledger tells it.

use std::time::{Duration, Instant};

use tenderfs_lab::{Endless, Fault, FaultRule, Latency, Malformation, Operation};

use crate::client::{Answer, Connection, End, Rig, ask};

const SIZE: u64 = 3 << 20;

/// One GET of an object of [`SIZE`] bytes that meets the fault, and the ledger's entry.
fn meet(fault: Fault, headers: &[(&str, &str)]) -> (Rig, Answer, tenderfs_lab::Entry) {
    let rig = Rig::new();
    rig.seeded("k", SIZE);
    let name = fault.name();
    rig.lab.faults().add(FaultRule::new(fault));
    let answer = rig.get("k", headers);
    let entry = rig.only_entry();
    assert_eq!(entry.fault, Some(name));
    (rig, answer, entry)
}

#[test]
fn statuses_come_with_and_without_retry_after() {
    let cases = [
        (Fault::slow_down(), 503, "SlowDown", ""),
        (Fault::Status { code: 503, retry_after: Some(7) }, 503, "SlowDown", "7"),
        (Fault::status(500), 500, "InternalError", ""),
        (Fault::Status { code: 429, retry_after: Some(1) }, 429, "TooManyRequests", "1"),
        (Fault::status(404), 404, "NoSuchKey", ""),
        (Fault::S3Error { code: 400, error_code: "ExpiredToken".into() }, 400, "ExpiredToken", ""),
    ];
    for (fault, status, code, retry_after) in cases {
        let (_, answer, entry) = meet(fault, &[]);
        assert_eq!((answer.status, answer.end), (status, End::Whole));
        assert_eq!((&*answer.element("Code"), answer.header("retry-after")), (code, retry_after));
        assert_eq!((entry.status, entry.body_bytes_sent), (status, answer.body.len() as u64));
        assert!(entry.completed && !entry.is_data());
    }
}

#[test]
fn a_redirect_names_its_location() {
    let fault = Fault::Redirect { code: 307, location: "http://127.0.0.1:1/elsewhere".into() };
    let (_, answer, _) = meet(fault, &[]);
    assert_eq!((answer.status, answer.header("location")), (307, "http://127.0.0.1:1/elsewhere"));
}

#[test]
fn resets_come_at_the_byte() {
    let (_, answer, entry) = meet(Fault::ResetBeforeHeaders, &[]);
    assert_eq!((answer.head_bytes, answer.end), (0, End::Reset));
    assert_eq!((entry.status, entry.completed), (0, false));

    for after_bytes in [0, 1, 20] {
        let (_, answer, entry) = meet(Fault::ResetInHeaders { after_bytes }, &[]);
        assert_eq!((answer.head_bytes as u64, answer.end), (after_bytes, End::Reset));
        assert_eq!((entry.body_bytes_sent, entry.completed), (0, false));
    }
    for after_bytes in [0, 1, SIZE / 2, SIZE - 1] {
        let (rig, answer, entry) = meet(Fault::ResetInBody { after_bytes }, &[]);
        assert_eq!((answer.status, answer.end), (200, End::Reset), "{after_bytes}");
        assert_eq!(answer.header("content-length"), SIZE.to_string());
        assert_eq!(answer.body.len() as u64, after_bytes);
        assert!(rig.lab.content("data", "k").unwrap().matches(0, &answer.body));
        assert_eq!((entry.body_bytes_sent, entry.completed), (after_bytes, false));
    }
}

#[test]
fn a_reset_behind_the_last_byte_leaves_the_answer_whole() {
    let rig = Rig::new();
    rig.seeded("k", SIZE);
    rig.lab.faults().add(FaultRule::new(Fault::ResetInBody { after_bytes: SIZE }));
    let mut connection = Connection::open(&rig.get_url("k"));
    connection.send("GET", &rig.get_url("k"), &[], &[]);
    let answer = connection.receive("GET");
    assert_eq!((answer.body.len() as u64, answer.end), (SIZE, End::Whole));
    assert_eq!(connection.end(), End::Reset);
    let entry = rig.only_entry();
    assert_eq!((entry.body_bytes_sent, entry.completed), (SIZE, true));
}

#[test]
fn a_truncated_body_ends_in_good_order() {
    for after_bytes in [0, 1, SIZE - 1] {
        let (_, answer, entry) = meet(Fault::Truncate { after_bytes }, &[]);
        assert_eq!((answer.body.len() as u64, answer.end), (after_bytes, End::Closed));
        assert_eq!(answer.header("content-length"), SIZE.to_string());
        assert_eq!((entry.body_bytes_sent, entry.completed), (after_bytes, false));
    }
}

#[test]
fn lengths_are_wrong_as_ordered() {
    let range = [("Range", "bytes=0-999")];
    let (_, more, entry) = meet(Fault::WrongContentLength { by: 10 }, &range);
    assert_eq!(
        (more.header("content-length"), more.body.len(), more.end),
        ("1010", 1000, End::Closed)
    );
    assert_eq!((entry.body_bytes_sent, entry.completed), (1000, false));
    let (_, less, entry) = meet(Fault::WrongContentLength { by: -10 }, &range);
    assert_eq!(
        (less.header("content-length"), less.body.len(), less.end),
        ("990", 990, End::Whole)
    );
    assert_eq!((entry.body_bytes_sent, entry.completed), (990, true));
    let (_, long, entry) = meet(Fault::TooLong { extra_bytes: 100_000 }, &range);
    assert_eq!(
        (long.header("content-length"), long.body.len(), long.end),
        ("101000", 101_000, End::Whole)
    );
    assert_eq!(long.header("content-range"), format!("bytes 0-999/{SIZE}"));
    assert_eq!((entry.body_bytes_sent, entry.completed), (101_000, true));
    let (rig, none, entry) = meet(Fault::NoContentLength, &range);
    assert_eq!((none.header("content-length"), none.header("transfer-encoding")), ("", "chunked"));
    assert_eq!((none.body.len(), none.end), (1000, End::Whole));
    assert!(rig.lab.content("data", "k").unwrap().matches(0, &none.body));
    assert_eq!((entry.body_bytes_sent, entry.completed), (1000, true));
}

#[test]
fn ranges_are_wrong_as_ordered() {
    let (rig, answer, _) = meet(Fault::WrongRange, &[("Range", "bytes=10-19")]);
    assert_eq!(
        (answer.status, answer.header("content-range")),
        (206, &*format!("bytes 11-20/{SIZE}"))
    );
    assert!(rig.lab.content("data", "k").unwrap().matches(11, &answer.body));
    let (_, answer, _) = meet(Fault::WrongRange, &[("Range", &format!("bytes=10-{}", SIZE - 1))]);
    assert_eq!(answer.header("content-range"), format!("bytes 9-{}/{SIZE}", SIZE - 2));
    let (_, answer, _) = meet(Fault::WrongTotal, &[("Range", "bytes=10-19")]);
    assert_eq!(answer.header("content-range"), format!("bytes 10-19/{}", SIZE + 1));
    let (_, answer, entry) = meet(Fault::FullBodyFor206, &[("Range", "bytes=10-19")]);
    assert_eq!((answer.status, answer.body.len() as u64), (200, SIZE));
    assert_eq!((answer.header("content-range"), entry.range), ("", Some((10, 20))));
}

#[test]
fn hanging_answers_stay_silent_until_the_client_leaves() {
    let cases = [
        (Fault::HangBeforeHeaders, 0, 0),
        (Fault::HangInBody { after_bytes: 0 }, 200, 0),
        (Fault::HangInBody { after_bytes: 1_000_000 }, 200, 1_000_000),
    ];
    for (fault, status, body) in cases {
        let rig = Rig::new();
        rig.seeded("k", SIZE);
        rig.lab.faults().add(FaultRule::new(fault).times(1));
        let mut connection = Connection::open(&rig.get_url("k"));
        connection.wait_at_most(Duration::from_millis(300));
        connection.send("GET", &rig.get_url("k"), &[], &[]);
        let answer = connection.receive("GET");
        assert_eq!((answer.status, answer.body.len(), answer.end), (status, body, End::Silence));
        assert_eq!(rig.lab.ledger().under_way(), 1);
        drop(connection);
        let entry = rig.only_entry();
        assert_eq!((entry.body_bytes_sent, entry.completed), (body as u64, false));
        assert_eq!(rig.get("k", &[]).status, 200, "others are served");
    }
}

#[test]
fn a_body_drips_at_its_rate() {
    let rig = Rig::new();
    rig.seeded("k", SIZE);
    rig.lab.faults().add(FaultRule::new(Fault::Drip { bytes_per_second: 20 }));
    let mut connection = Connection::open(&rig.get_url("k"));
    let begin = Instant::now();
    connection.send("GET", &rig.get_url("k"), &[], &[]);
    while rig.lab.ledger().entries().first().is_none_or(|entry| entry.body_bytes_sent < 10) {
        connection.receive_some();
    }
    let elapsed = begin.elapsed();
    assert!(elapsed > Duration::from_millis(400), "{elapsed:?}");
    drop(connection);
    assert!(!rig.only_entry().completed);
}

#[test]
fn a_slow_answer_is_late_and_right() {
    let slow = Fault::Slow { first_byte: Latency::Fixed(Duration::from_millis(200)) };
    let (_, answer, entry) = meet(slow, &[]);
    assert_eq!((answer.status, answer.body.len() as u64), (200, SIZE));
    let late = entry.latency().unwrap();
    assert!(late >= Duration::from_millis(200), "{late:?}");
}

#[test]
fn one_bit_is_flipped() {
    let (rig, answer, _) = meet(Fault::FlipBit { offset: 1_000_000 }, &[]);
    let mut body = answer.body;
    body[1_000_000] ^= 1;
    assert!(rig.lab.content("data", "k").unwrap().matches(0, &body));
}

#[test]
fn etags_change_and_if_match_is_ignored() {
    let (rig, answer, _) = meet(Fault::EtagChanges, &[]);
    let again = rig.get("k", &[]);
    assert_ne!(answer.header("etag"), again.header("etag"));
    let (_, answer, _) = meet(Fault::IgnoreIfMatch, &[("If-Match", "\"other\"")]);
    assert_eq!(answer.status, 200);
}

#[test]
fn listings_are_malformed_as_ordered() {
    let list = |how| {
        let rig = Rig::new();
        rig.lab.put("data", "key", "text").unwrap();
        rig.lab.faults().add(FaultRule::new(Fault::MalformedListing(how)));
        let answer = rig.list(&[]);
        assert_eq!((answer.status, answer.end), (200, End::Whole));
        assert_eq!(rig.only_entry().body_bytes_sent, answer.body.len() as u64);
        answer
    };
    assert!(!list(Malformation::CutOff).text().contains("</ListBucketResult>"));
    assert!(!list(Malformation::NotXml).text().contains('<'));
    assert!(!list(Malformation::OtherRoot).text().contains("ListBucketResult"));
    let no_etags = list(Malformation::NoEtags);
    assert_eq!((no_etags.elements("ETag").len(), no_etags.elements("Key").len()), (0, 1));
    assert_eq!(list(Malformation::BadSizes).element("Size"), "x4");
    assert!(list(Malformation::DeeplyNested).body.len() > 1_000_000);
    assert!(list(Malformation::EntityBomb).text().contains("<!ENTITY"));
    assert!(std::str::from_utf8(&list(Malformation::NotUtf8).body).is_err());
}

#[test]
fn endless_listings_go_on() {
    let pages = |how| {
        let rig = Rig::new();
        rig.lab.put("data", "key", "text").unwrap();
        rig.lab.faults().add(FaultRule::new(Fault::EndlessListing(how)).operation(Operation::List));
        let first = rig.list(&[]);
        let token = first.element("NextContinuationToken");
        let second = rig.list(&[("continuation-token", &token)]);
        for page in [&first, &second] {
            assert_eq!(page.element("IsTruncated"), "true", "{}", page.text());
        }
        let same = token == second.element("NextContinuationToken");
        (first.elements("Key").len(), second.elements("Key").len(), same)
    };
    assert_eq!(pages(Endless::SameToken), (1, 1, true));
    assert_eq!(pages(Endless::SamePage), (1, 1, false));
    assert_eq!(pages(Endless::EmptyPages), (0, 0, false));
}

#[test]
fn rules_hit_their_requests_and_no_others() {
    let rig = Rig::new();
    for key in ["a", "b"] {
        rig.lab.put("data", key, "text").unwrap();
    }
    let rule = FaultRule::new(Fault::status(500)).operation(Operation::Get).key("b");
    let id = rig.lab.faults().add(rule.nth(2));
    let statuses: Vec<u16> = ["a", "b", "a", "b", "b"].map(|key| rig.get(key, &[]).status).into();
    assert_eq!(statuses, [200, 200, 200, 500, 200]);
    assert_eq!(rig.lab.faults().met(id), 1);
    assert_eq!(rig.head("b", &[]).status, 200);
}

#[test]
fn a_refused_request_meets_faults_too() {
    let rig = Rig::new();
    rig.lab.faults().add(FaultRule::new(Fault::Truncate { after_bytes: 3 }));
    let answer = ask("GET", &rig.bucket.object_url("k"), &[], &[]);
    assert_eq!((answer.status, answer.body.len(), answer.end), (403, 3, End::Closed));
}
