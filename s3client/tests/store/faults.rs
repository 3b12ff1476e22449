//! A store that fails, lies or falls silent: right bytes or a true error, in time.

use std::time::Instant;

use tenderfs_lab::{Fault, FaultRule, Operation};

use super::*;

/// How a read of the whole object is to end that meets `fault` once.
struct Row {
    fault: Fault,
    /// Where each GET begins.
    starts: &'static [u64],
}

fn row(fault: Fault, starts: &'static [u64]) -> Row {
    Row { fault, starts }
}

/// A client that waits no longer than it must where `fault` makes it wait.
async fn client_for(lab: &Lab, fault: &Fault) -> Client {
    match fault {
        Fault::HangBeforeHeaders | Fault::HangInBody { .. } | Fault::Drip { .. } => {
            client_of(lab, impatient(&lab.endpoint())).await
        }
        _ => client(lab).await,
    }
}

fn on_get(fault: Fault) -> FaultRule {
    FaultRule::new(fault).operation(Operation::Get)
}

#[test]
fn a_read_that_meets_a_fault_once_resumes_at_the_byte() {
    let lab = lab();
    let rows = [
        row(Fault::status(500), &[0, 0]),
        row(Fault::slow_down(), &[0, 0]),
        row(Fault::status(429), &[0, 0]),
        row(Fault::ResetInHeaders { after_bytes: 10 }, &[0, 0]),
        row(Fault::ResetInBody { after_bytes: 0 }, &[0, 0]),
        row(Fault::Truncate { after_bytes: 0 }, &[0, 0]),
        row(Fault::Truncate { after_bytes: 1 }, &[0, 1]),
        row(Fault::Truncate { after_bytes: 600_000 }, &[0, 600_000]),
        row(Fault::Truncate { after_bytes: SIZE - 1 }, &[0, SIZE - 1]),
        row(Fault::WrongContentLength { by: 1 }, &[0, 0]),
        row(Fault::WrongContentLength { by: -1 }, &[0, 0]),
        row(Fault::TooLong { extra_bytes: 1 }, &[0, 0]),
        row(Fault::NoContentLength, &[0]),
        row(Fault::WrongRange, &[0, 0]),
        row(Fault::WrongTotal, &[0, 0]),
        row(Fault::FullBodyFor206, &[0]),
        row(Fault::HangBeforeHeaders, &[0, 0]),
        row(Fault::HangInBody { after_bytes: 0 }, &[0, 0]),
        row(Fault::HangInBody { after_bytes: 100_000 }, &[0, 100_000]),
    ];
    run(async {
        for Row { fault, starts } in rows {
            // Each on a new client, whose connections are all new.
            let client = client_for(&lab, &fault).await;
            let object = described(&client, KEY).await;
            lab.faults().clear();
            lab.faults().add(on_get(fault.clone()).times(1));
            let mark = lab.ledger().mark();
            let begun = Instant::now();
            let bytes = read(&client, &object, (0, SIZE)).await.unwrap();
            assert!(begun.elapsed() < ms(5000), "{fault:?} took {:?}", begun.elapsed());
            assert_eq!(bytes.len() as u64, SIZE, "{fault:?}");
            check_bytes(&lab, KEY, 0, &bytes);
            let entries = lab.ledger().since(mark);
            let asked: Vec<u64> =
                gets(&entries).iter().map(|get| get.range.map_or(0, |range| range.0)).collect();
            assert_eq!(asked, starts, "{fault:?}");
        }
    });
}

#[test]
fn a_reset_in_the_body_costs_only_what_was_lost() {
    let lab = lab();
    run(async {
        for after_bytes in [1, 600_000, SIZE - 1, SIZE] {
            let client = client(&lab).await;
            let object = described(&client, KEY).await;
            lab.faults().clear();
            lab.faults().add(on_get(Fault::ResetInBody { after_bytes }).times(1));
            let mark = lab.ledger().mark();
            let bytes = read(&client, &object, (0, SIZE)).await.unwrap();
            assert_eq!(bytes.len() as u64, SIZE);
            check_bytes(&lab, KEY, 0, &bytes);
            // A reset discards what the receiver's kernel still holds, so what has arrived is
            // anything up to what was sent.
            let entries = lab.ledger().since(mark);
            let gets = gets(&entries);
            assert!(gets.len() <= 2, "{after_bytes}: {gets:?}");
            if let [_, second] = gets[..] {
                assert!(second.range.unwrap().0 <= after_bytes, "{after_bytes}: {second:?}");
            }
        }
    });
}

#[test]
fn parts_are_cut_out_of_a_whole_object() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        lab.faults().add(on_get(Fault::FullBodyFor206));
        let bytes = read(&client, &object, (300_000, 300_010)).await.unwrap();
        assert_eq!(bytes.len(), 10);
        check_bytes(&lab, KEY, 300_000, &bytes);
        assert_eq!(lab.ledger().gets(), 1);
    });
}

#[test]
fn a_fault_that_stays_is_a_true_error_in_time() {
    let lab = lab();
    let rows = [
        (Fault::status(500), "Server"),
        (Fault::slow_down(), "Throttled"),
        (Fault::ResetInHeaders { after_bytes: 10 }, "ConnectionBroken"),
        (Fault::Truncate { after_bytes: 0 }, "ConnectionBroken"),
        (Fault::WrongContentLength { by: 1 }, "WrongAnswer"),
        (Fault::TooLong { extra_bytes: 1 }, "WrongAnswer"),
        (Fault::WrongRange, "WrongAnswer"),
        (Fault::WrongTotal, "WrongAnswer"),
        (Fault::HangBeforeHeaders, "DeadlineExpired { deadline: FirstByte"),
        (Fault::HangInBody { after_bytes: 0 }, "DeadlineExpired { deadline: Stall"),
        (Fault::Drip { bytes_per_second: 10 }, "DeadlineExpired { deadline: Stall"),
    ];
    run(async {
        for (fault, expected) in rows {
            let client = client_for(&lab, &fault).await;
            let object = described(&client, KEY).await;
            lab.faults().clear();
            lab.faults().add(on_get(fault.clone()));
            for (importance, attempts) in
                [(Importance::Prefetch, 1), (Importance::Demand, ATTEMPTS)]
            {
                let mark = lab.ledger().mark();
                let begun = Instant::now();
                let opened = open(&client, &object, (0, SIZE), importance).await;
                let error = match opened {
                    Ok(body) => rest(body).await.unwrap_err(),
                    Err(error) => error,
                };
                assert!(format!("{error:?}").starts_with(expected), "{fault:?}: {error:?}");
                assert!(begun.elapsed() < ms(8000), "{fault:?} took {:?}", begun.elapsed());
                let entries = lab.ledger().since(mark);
                assert_eq!(gets(&entries).len(), attempts as usize, "{fault:?} {importance:?}");
            }
        }
    });
}

#[test]
fn the_whole_deadline_ends_everything() {
    let lab = lab();
    run(async {
        let object = described(&client(&lab).await, KEY).await;
        let mut config = config(&lab.endpoint());
        config.deadlines.whole = ms(500);
        let client = client_of(&lab, config).await;
        for fault in [Fault::HangBeforeHeaders, Fault::HangInBody { after_bytes: 5 }] {
            lab.faults().clear();
            lab.faults().add(FaultRule::new(fault));
            let begun = Instant::now();
            let error = read(&client, &object, (0, SIZE)).await.unwrap_err();
            assert!(format!("{error:?}").contains("Whole"), "{error:?}");
            assert!((ms(500)..ms(5000)).contains(&begun.elapsed()), "{:?}", begun.elapsed());
        }
    });
}

#[test]
fn a_wait_that_the_store_asks_for_is_kept() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let fault = Fault::Status { code: 503, retry_after: Some(1) };
        lab.faults().add(on_get(fault).times(1));
        let mark = lab.ledger().mark();
        read(&client, &object, (0, SIZE)).await.unwrap();
        let entries = lab.ledger().since(mark);
        let waited = entries[1].started.saturating_sub(entries[0].started);
        assert!((ms(1000)..ms(5000)).contains(&waited), "{waited:?}");
    });
}

#[test]
fn a_wait_longer_than_the_deadline_is_not_begun() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        lab.faults().add(on_get(Fault::Status { code: 503, retry_after: Some(60) }));
        let begun = Instant::now();
        let error = read(&client, &object, (0, SIZE)).await.unwrap_err();
        assert!(matches!(error, Error::Throttled { retry_after: Some(_), .. }), "{error}");
        assert!(begun.elapsed() < ms(5000));
    });
}

#[test]
fn another_etag_is_another_version_even_if_the_store_ignores_if_match() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        lab.faults().add(on_get(Fault::IgnoreIfMatch));
        lab.put(BUCKET, KEY, Content::seeded(8, SIZE)).unwrap();
        let error = read(&client, &object, (0, SIZE)).await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
        lab.faults().clear();
        lab.faults().add(on_get(Fault::EtagChanges));
        let object = described(&client, KEY).await;
        let error = read(&client, &object, (0, SIZE)).await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
    });
}

#[test]
fn a_read_without_an_etag_resumes_only_in_the_same_version() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = ListedObject { etag: String::new(), ..described(&client, KEY).await };
        lab.faults().add(on_get(Fault::Truncate { after_bytes: 600_000 }).times(1));
        let mut body = open(&client, &object, (0, SIZE), Importance::Demand).await.unwrap();
        body.read(&mut [0; 1000]).await.unwrap();
        lab.put(BUCKET, KEY, Content::seeded(8, SIZE)).unwrap();
        let error = rest(body).await.unwrap_err();
        assert!(matches!(error, Error::Replaced { .. }), "{error}");
    });
}

#[test]
fn a_kept_connection_that_died_is_no_failure() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        lab.faults().add(on_get(Fault::ResetBeforeHeaders).times(1));
        // Even a prefetch, which is never retried, gets its bytes.
        let body = open(&client, &object, (0, SIZE), Importance::Prefetch).await.unwrap();
        assert_eq!(rest(body).await.unwrap().len() as u64, SIZE);
        let counters = counters(&client);
        assert_eq!(counters.connections_stale.get(), 1);
        assert_eq!(counters.get.retries.get(), 0);
        // On a new connection it is one.
        lab.faults().add(on_get(Fault::ResetBeforeHeaders));
        let error = open(&client, &object, (0, SIZE), Importance::Prefetch).await.err().unwrap();
        assert!(matches!(error, Error::ConnectionBroken { .. }), "{error}");
        assert_eq!(counters.connections_stale.get(), 2);
    });
}

/// Proves faults.md's promise 1 under random faults: right bytes or an error, never wrong bytes.
#[test]
fn a_storm_of_faults_never_yields_a_wrong_byte() {
    let lab = lab();
    for (seed, fault) in [
        Fault::status(500),
        Fault::ResetBeforeHeaders,
        Fault::ResetInBody { after_bytes: 5000 },
        Fault::Truncate { after_bytes: 70_000 },
        Fault::TooLong { extra_bytes: 10 },
        Fault::WrongRange,
        Fault::WrongTotal,
        Fault::FullBodyFor206,
        Fault::WrongContentLength { by: -3 },
        Fault::NoContentLength,
    ]
    .into_iter()
    .enumerate()
    {
        lab.faults().add(on_get(fault).probability(0.05, seed as u64));
    }
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        let mut right = 0;
        for n in 0..300 {
            let start = (n * 7919) % (SIZE / 2);
            match read(&client, &object, (start, start + 100_000)).await {
                Ok(bytes) => {
                    assert_eq!(bytes.len(), 100_000);
                    check_bytes(&lab, KEY, start, &bytes);
                    right += 1;
                }
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        }
        assert!(right > 200, "only {right} of 300 succeeded");
        drop(client);
    });
}
