//! How fast one core fetches: 8 MiB ranges in parallel inside one tokio-uring runtime.
//!
//! `cargo run --release -p tenderfs-s3client --example client_throughput [streams [gigabytes [range-KiB]]]`
//!
//! The lab serves from threads of its own in this process; CPU time is that of the client's thread
//! alone. Every byte is touched once (summed), as a copy into a frame would.

#![allow(clippy::print_stdout, reason = "an example reports to its user")]

use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use tenderfs_byterange::ByteRange;
use tenderfs_lab::{Content, Lab};
use tenderfs_s3client::{
    Addressing, AwsEndpoint, Bucket, BucketConfig, Client, CredentialSource, Credentials,
    Deadlines, GetRequest, Importance, ListedObject, Proxies, RetryPolicy, Secret,
};

const OBJECT_BYTES: u64 = 1 << 30;
const KEY: &str = "object";

type Failure = Box<dyn std::error::Error>;

/// What to measure.
struct Load {
    streams: u64,
    total_bytes: u64,
    range_bytes: u64,
}

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let mut next = |default| arguments.next().unwrap_or(Ok(default));
    let load = Load {
        streams: next(16)?,
        total_bytes: next(16)? * 1_000_000_000,
        range_bytes: next(8192)? << 10,
    };
    let lab = Lab::builder().threads(2).start()?;
    lab.create_bucket("data")?;
    lab.put("data", KEY, Content::seeded(1, OBJECT_BYTES))?;
    tokio_uring::start(measure(&lab, &load))
}

async fn measure(lab: &Lab, load: &Load) -> Result<(), Failure> {
    let client = client(lab).await?;
    let object = Rc::new(client.head(KEY, Importance::Demand).await?);
    // Once before, so that the object exists and connections are open.
    stream(&client, &object, 0, load.streams * load.range_bytes, load).await?;
    let (begun, cpu) = (Instant::now(), cpu_time()?);
    let share = load.total_bytes / load.streams;
    let streams = (0..load.streams).map(|n| {
        let (client, object) = (client.clone(), Rc::clone(&object));
        async move { stream(&client, &object, n, share, load).await }
    });
    let fetched: u64 = try_join_all(streams).await?.iter().sum();
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_seconds = (cpu_time()?.saturating_sub(cpu)).as_secs_f64();
    #[allow(clippy::cast_precision_loss, reason = "a figure for people")]
    let gigabytes = fetched as f64 / 1e9;
    println!(
        "{} streams of {} KiB ranges: {gigabytes:.1} GB in {seconds:.2} s = {:.2} GB/s, \
         client thread {:.3} CPU s/GB, {:.0} % busy",
        load.streams,
        load.range_bytes >> 10,
        gigabytes / seconds,
        cpu_seconds / gigabytes,
        100.0 * cpu_seconds / seconds,
    );
    Ok(())
}

/// Fetches `bytes` bytes range by range, and says how many came.
async fn stream(
    client: &Client,
    object: &ListedObject,
    number: u64,
    bytes: u64,
    load: &Load,
) -> Result<u64, Failure> {
    let ranges = OBJECT_BYTES / load.range_bytes;
    let (mut fetched, mut sum) = (0, 0_u64);
    let mut block = number * 7;
    let mut room = vec![0; 1 << 20];
    while fetched < bytes {
        let start = (block % ranges) * load.range_bytes;
        let range = ByteRange::at(start, load.range_bytes).ok_or("a range of no bytes")?;
        let request = GetRequest {
            key: &object.key,
            etag: &object.etag,
            range,
            object_size_bytes: object.size_bytes,
            importance: Importance::Demand,
        };
        let mut body = client.get(request).await?;
        loop {
            let count = body.read(&mut room).await?;
            if count == 0 {
                break;
            }
            let chunk = &room[..count];
            for word in chunk.as_chunks::<8>().0 {
                sum = sum.wrapping_add(u64::from_le_bytes(*word));
            }
            fetched += chunk.len() as u64;
        }
        block += 1;
    }
    std::hint::black_box(sum);
    Ok(fetched)
}

async fn client(lab: &Lab) -> Result<Client, Failure> {
    let credentials = Credentials::resolve(CredentialSource::Static {
        access_key_id: lab.access_key().to_owned(),
        secret_access_key: Secret::new(lab.secret_key()),
        session_token: None,
    });
    let second = Duration::from_secs(1);
    let config = BucketConfig {
        name: "data".to_owned(),
        region: None,
        endpoint_url: Some(lab.endpoint().parse()?),
        addressing: Addressing::Auto,
        ca_bundle: None,
        aws: AwsEndpoint::default(),
        proxies: Proxies::none(),
        requester_pays: false,
        expected_owner: None,
        customer_key: None,
        deadlines: Deadlines {
            connect: 5 * second,
            first_byte: 10 * second,
            stall: 10 * second,
            whole: 60 * second,
        },
        retry: RetryPolicy { attempts_max: 3, backoff_first: second / 10, backoff_max: second },
        connections_max: 64,
        hedging: false,
    };
    Ok(Client::new(Bucket::new(config, credentials.await?)?))
}

/// CPU time of this thread so far.
fn cpu_time() -> Result<Duration, Failure> {
    let usage = getrusage(UsageWho::RUSAGE_THREAD)?;
    let micros = (usage.user_time() + usage.system_time()).num_microseconds();
    Ok(Duration::from_micros(u64::try_from(micros)?))
}
