//! A store that counts requests: as many as it takes, hardly one more, and no error for it.

use std::time::Instant;

use futures_util::future::join_all;
use tenderfs_lab::{Entry, Fault, FaultRule, Latency, Shape};

use super::*;

/// Readers that always want more, for `time`; the requests that each made without an error.
async fn read_for(client: &Client, object: &ListedObject, readers: u64, time: Duration) -> u64 {
    let begun = Instant::now();
    let reader = |number: u64| async move {
        let mut reads = 0;
        while begun.elapsed() < time {
            let start = (number * 64 + reads) % 100 * 1000;
            let bytes = read(client, object, (start, start + 1000)).await.unwrap();
            assert_eq!(bytes.len(), 1000);
            reads += 1;
        }
        reads
    };
    join_all((0..readers).map(reader)).await.into_iter().sum()
}

/// Requests answered 206 and 503 of those that began in `from..to`, counted from the first.
fn answers(entries: &[Entry], from: Duration, to: Duration) -> (u32, u32) {
    let first = entries[0].started;
    let within = |entry: &&Entry| (from..to).contains(&entry.started.saturating_sub(first));
    let count = |status: u16| {
        let answered = entries.iter().filter(within).filter(|entry| entry.status == status);
        u32::try_from(answered.count()).unwrap()
    };
    (count(206), count(503))
}

/// Requests served and refused in the last 4 of 9 seconds, of a store that allows 200 a second.
fn served_and_refused(first_byte: Latency) -> (u32, u32) {
    let lab = lab();
    run(async {
        let config = BucketConfig { connections_max: 64, ..config(&lab.endpoint()) };
        let client = client_of(&lab, config).await;
        let object = described(&client, KEY).await;
        lab.shape(Shape { first_byte, requests_per_second: Some(200), ..Shape::default() });
        let mark = lab.ledger().mark();
        read_for(&client, &object, 48, ms(9_000)).await;
        answers(&lab.ledger().since(mark), ms(5_000), ms(9_000))
    })
}

/// Proves that a store's limit of requests is used and kept, with a store that is near and one that
/// is far. A machine that is busy with other things gets three tries to be quick enough.
#[test]
fn a_store_that_allows_200_requests_a_second_gets_as_many() {
    for first_byte in [Latency::Zero, Latency::Fixed(ms(40))] {
        let mut tries = Vec::new();
        let is_kept = (0..3).any(|_| {
            let (served, refused) = served_and_refused(first_byte);
            tries.push((served, refused));
            served >= 4 * 180 && refused * 20 < served + refused
        });
        assert!(is_kept, "{first_byte:?}: of 800 were served, and refused: {tries:?}");
    }
}

/// Proves that a store which refuses everything is spared, and used again when it is back.
#[test]
fn a_store_that_refuses_everything_gets_few_requests_and_is_used_again_at_once() {
    let lab = lab();
    run(async {
        let mut config = config(&lab.endpoint());
        // As configs/default.toml has it, but for the attempts: nobody gives up here.
        config.retry =
            RetryPolicy { attempts_max: 1000, backoff_first: ms(50), backoff_max: ms(5_000) };
        config.connections_max = 64;
        let client = client_of(&lab, config).await;
        let object = described(&client, KEY).await;
        lab.shape(Shape { first_byte: Latency::Fixed(ms(40)), ..Shape::default() });
        let healthy = lab.ledger().mark();
        read_for(&client, &object, 16, ms(2_000)).await;
        let healthy = lab.ledger().since(healthy).len() / 2;
        let rule = lab.faults().add(FaultRule::new(Fault::slow_down()));
        let mark = lab.ledger().mark();
        let heal = async {
            tokio::time::sleep(ms(6_000)).await;
            let refused = lab.ledger().since(mark).len();
            lab.faults().remove(rule);
            refused
        };
        let (_, refused) = tokio::join!(read_for(&client, &object, 16, ms(11_000)), heal);
        assert!(refused < healthy * 6 / 4, "{refused} requests, {healthy} a second before");
        let entries = lab.ledger().since(mark);
        let (served, _) = answers(&entries, ms(10_000), ms(11_000));
        assert!(served as usize > healthy / 2, "{served} a second again, {healthy} before");
    });
}
