//! A store of which one answer in a hundred takes seconds: readers hardly notice, and it hardly gets
//! more requests.

use std::time::Instant;

use futures_util::future::join_all;
use tenderfs_lab::{Fault, FaultRule, Latency, Shape};

use super::*;

/// Requests of each run, by so many readers at once.
const REQUESTS: usize = 4000;
const READERS: usize = 8;

/// How long each of the requests took, sorted.
async fn latencies(client: &Client, object: &ListedObject) -> Vec<Duration> {
    let reader = |number: usize| async move {
        let mut took = Vec::new();
        for turn in 0..REQUESTS / READERS {
            let start = (number + turn) as u64 % 100 * 1000;
            let begun = Instant::now();
            let bytes = read(client, object, (start, start + 1000)).await.unwrap();
            took.push(begun.elapsed());
            assert_eq!(bytes.len(), 1000);
        }
        took
    };
    let mut took = join_all((0..READERS).map(reader)).await.concat();
    took.sort();
    took
}

/// The latency that this many of a thousand requests do not exceed.
fn permille(sorted: &[Duration], permille: usize) -> Duration {
    sorted[sorted.len() * permille / 1000]
}

fn slow(first_byte: Duration) -> FaultRule {
    FaultRule::new(Fault::Slow { first_byte: Latency::Fixed(first_byte) })
        .operation(tenderfs_lab::Operation::Get)
}

/// A lab whose first bytes come with a tail as that of S3 has.
fn shaped_lab() -> Lab {
    let lab = lab();
    let first_byte = Latency::Distribution { median: ms(15), p99: ms(40) };
    lab.shape(Shape { first_byte, ..Shape::default() });
    lab
}

async fn hedging_client(lab: &Lab) -> Client {
    // A second request needs a connection that no reader has.
    let connections_max = 2 * READERS;
    let config = BucketConfig { hedging: true, connections_max, ..config(&lab.endpoint()) };
    client_of(lab, config).await
}

/// Proves that requests which are late are made once more, by the lab's ledger.
#[test]
fn one_slow_answer_in_a_hundred_is_not_waited_for() {
    let lab = shaped_lab();
    run(async {
        let client = hedging_client(&lab).await;
        let object = described(&client, KEY).await;
        let healthy = latencies(&client, &object).await;
        lab.faults().add(slow(ms(2000)).probability(0.01, 7));
        let mark = lab.ledger().mark();
        let hedged = latencies(&client, &object).await;
        let (late, usual) = (permille(&hedged, 995), permille(&healthy, 990));
        let extra = gets(&lab.ledger().since(mark)).len() - REQUESTS;
        assert!(extra >= REQUESTS / 200, "only {extra} were made a second time");
        assert!(extra <= REQUESTS / 50, "{extra} of {REQUESTS} were made a second time");
        assert!(late < usual * 3, "p99.5 is {late:?}; the p99 without slow answers is {usual:?}");
    });
}

#[test]
fn a_store_that_is_slow_for_everybody_does_not_get_twice_the_requests() {
    let lab = shaped_lab();
    run(async {
        let client = hedging_client(&lab).await;
        let object = described(&client, KEY).await;
        let mark = lab.ledger().mark();
        latencies(&client, &object).await;
        lab.shape(Shape { first_byte: Latency::Fixed(ms(300)), ..Shape::default() });
        let reads = (0..400).map(|_| read(&client, &object, (0, 1000)));
        assert!(join_all(reads).await.iter().all(Result::is_ok));
        let made = gets(&lab.ledger().since(mark)).len();
        let asked = REQUESTS + 400;
        assert!(made - asked <= asked / 50, "{made} requests for {asked} reads");
    });
}

#[test]
fn a_second_request_goes_by_another_connection_and_the_first_ends() {
    let lab = shaped_lab();
    run(async {
        let client = hedging_client(&lab).await;
        let object = described(&client, KEY).await;
        for _ in 0..100 {
            read(&client, &object, (0, 1000)).await.unwrap();
        }
        lab.faults().add(slow(ms(5000)).times(1));
        let mark = lab.ledger().mark();
        let begun = Instant::now();
        let bytes = read(&client, &object, (5000, 6000)).await.unwrap();
        assert!(begun.elapsed() < ms(2500), "{:?}", begun.elapsed());
        check_bytes(&lab, KEY, 5000, &bytes);
        assert!(lab.ledger().wait_idle(ms(2500)), "the first request was not ended");
        let entries = lab.ledger().since(mark);
        assert_eq!(entries.len(), 2);
        assert_ne!(entries[0].connection, entries[1].connection);
        assert_eq!((entries[0].completed, entries[1].completed), (false, true));
        assert_eq!(counters(&client).hedges_won.get(), 1);
        assert_eq!(counters(&client).in_flight.get(), 0);
    });
}

#[test]
fn listings_and_facts_are_hedged_too() {
    let lab = shaped_lab();
    run(async {
        let client = hedging_client(&lab).await;
        for _ in 0..100 {
            described(&client, KEY).await;
            client.probe("").await.unwrap();
        }
        lab.faults().add(
            FaultRule::new(Fault::Slow { first_byte: Latency::Fixed(ms(5000)) })
                .when(tenderfs_lab::When::Nth(vec![1, 3])),
        );
        let begun = Instant::now();
        described(&client, KEY).await;
        client.probe("").await.unwrap();
        assert!(begun.elapsed() < ms(2500), "{:?}", begun.elapsed());
    });
}
