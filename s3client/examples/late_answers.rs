//! What hedging does to the tail: 4 MiB reads from a store of which one answer in a hundred is 2 s late.
//!
//! `cargo run --release -p tenderfs-s3client --example late_answers [reads [readers]]`
//!
//! The same reads are made twice, without hedging and with it; the lab's ledger says how many requests
//! there were more than reads.

#![allow(clippy::print_stdout, reason = "an example reports to its user")]

use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use tenderfs_byterange::ByteRange;
use tenderfs_lab::{Content, Fault, FaultRule, Lab, Latency, Operation, Shape};
use tenderfs_s3client::{
    Bucket, BucketConfig, Client, CredentialSource, Credentials, GetRequest, Importance,
    ListedObject, Secret,
};

const READ_BYTES: u64 = 4 << 20;
const OBJECT_BYTES: u64 = 64 * READ_BYTES;
const KEY: &str = "object";

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let (reads, readers) = (next(4000)?, next(16)?);
    let lab = Lab::builder().start()?;
    lab.create_bucket("data")?;
    lab.put("data", KEY, Content::seeded(1, OBJECT_BYTES))?;
    let ms = Duration::from_millis;
    let first_byte = Latency::Distribution { median: ms(15), p99: ms(40) };
    lab.shape(Shape { first_byte, ..Shape::default() });
    let late = Fault::Slow { first_byte: Latency::Fixed(ms(2000)) };
    lab.faults().add(FaultRule::new(late).operation(Operation::Get).probability(0.01, 7));
    println!("{reads} reads of 4 MiB by {readers} readers; 1 % of the answers are 2 s late");
    for hedging in [false, true] {
        tokio_uring::start(measure(&lab, hedging, (reads, readers)))?;
    }
    Ok(())
}

async fn measure(lab: &Lab, hedging: bool, (reads, readers): (u64, u64)) -> Result<(), Failure> {
    let client = client(lab, hedging, readers).await?;
    let object = client.head(KEY, Importance::Demand).await?;
    // What is late is known after some.
    latencies(&client, &object, (200, readers)).await?;
    let before = lab.ledger().gets();
    let took = latencies(&client, &object, (reads, readers)).await?;
    let requests = lab.ledger().gets() - before;
    let permille = |permille: usize| took[took.len() * permille / 1000].as_secs_f64() * 1e3;
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let extra = (requests as f64 / took.len() as f64 - 1.0) * 100.0;
    println!(
        "hedging {}: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, p99.5 {:.0} ms, max {:.0} ms; {extra:.2} % more requests",
        if hedging { "on " } else { "off" },
        permille(500),
        permille(900),
        permille(990),
        permille(995),
        took.last().map_or(0.0, Duration::as_secs_f64) * 1e3,
    );
    Ok(())
}

/// How long each read took, sorted.
async fn latencies(
    client: &Client,
    object: &ListedObject,
    (reads, readers): (u64, u64),
) -> Result<Vec<Duration>, Failure> {
    let reader = |reader: u64| async move {
        let mut took = Vec::new();
        let mut room = vec![0; 256 << 10];
        for turn in 0..reads / readers {
            let start = (reader * 7 + turn) % (OBJECT_BYTES / READ_BYTES) * READ_BYTES;
            let begun = Instant::now();
            let range = ByteRange::at(start, READ_BYTES).ok_or("a range inside the object")?;
            let mut body = client
                .get(GetRequest {
                    key: &object.key,
                    etag: &object.etag,
                    range,
                    object_size_bytes: object.size_bytes,
                    importance: Importance::Demand,
                })
                .await?;
            while body.read(&mut room).await? > 0 {}
            took.push(begun.elapsed());
        }
        Ok::<_, Failure>(took)
    };
    let mut took = try_join_all((0..readers).map(reader)).await?.concat();
    took.sort();
    Ok(took)
}

async fn client(lab: &Lab, hedging: bool, readers: u64) -> Result<Client, Failure> {
    let credentials = Credentials::resolve(CredentialSource::Static {
        access_key_id: lab.access_key().to_owned(),
        secret_access_key: Secret::new(lab.secret_key()),
        session_token: None,
    });
    let config = BucketConfig {
        endpoint_url: Some(lab.endpoint().parse()?),
        connections_max: usize::try_from(2 * readers)?,
        hedging,
        ..BucketConfig::new("data")
    };
    Ok(Client::new(Bucket::new(config, credentials.await?)?))
}
