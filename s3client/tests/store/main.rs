//! The client against a real S3 protocol: the lab serves, its ledger judges.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod checksums;
mod credentials;
mod faults;
mod hedging;
mod listing;
mod outside;
mod pace;
mod proxy;
mod reading;
mod refusals;
mod terms;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tenderfs_byterange::ByteRange;
use tenderfs_lab::{Content, Entry, Lab};
use tenderfs_s3client::{
    Addressing, Body, Bucket, BucketConfig, Client, CredentialSource, Credentials, Deadlines,
    Error, GetRequest, Importance, ListedObject, RetryPolicy, Secret,
};

/// The bucket of every test.
const BUCKET: &str = "data";
/// The object of most tests, and its size.
const KEY: &str = "shard-0.tar";
const SIZE: u64 = 1 << 20;
/// Attempts of every client.
const ATTEMPTS: u32 = 4;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A lab with the bucket and the object.
fn lab() -> Lab {
    let lab = Lab::builder().start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    lab.put(BUCKET, KEY, Content::seeded(7, SIZE)).unwrap();
    lab
}

/// Time-outs that only a store that hangs can pass, on a busy machine too.
fn config(endpoint: &str) -> BucketConfig {
    BucketConfig {
        region: Some("us-east-1".into()),
        endpoint_url: Some(endpoint.parse().unwrap()),
        deadlines: Deadlines {
            connect: ms(10_000),
            first_byte: ms(10_000),
            stall: ms(10_000),
            whole: ms(60_000),
        },
        retry: RetryPolicy { attempts_max: ATTEMPTS, backoff_first: ms(5), backoff_max: ms(20) },
        connections_max: 8,
        hedging: false,
        ..BucketConfig::new(BUCKET)
    }
}

/// Time-outs for a store that hangs.
fn impatient(endpoint: &str) -> BucketConfig {
    let mut config = config(endpoint);
    config.deadlines.first_byte = ms(700);
    config.deadlines.stall = ms(700);
    config
}

async fn keys(id: &str, secret: &str) -> Credentials {
    let source = CredentialSource::Static {
        access_key_id: id.into(),
        secret_access_key: Secret::new(secret),
        session_token: None,
    };
    Credentials::resolve(source).await.unwrap()
}

async fn client_of(lab: &Lab, config: BucketConfig) -> Client {
    let credentials = keys(lab.access_key(), lab.secret_key()).await;
    Client::new(Bucket::new(config, credentials).unwrap())
}

async fn client(lab: &Lab) -> Client {
    client_of(lab, config(&lab.endpoint())).await
}

/// Runs one core's worth of futures.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(test)
}

/// The object as the store describes it.
async fn described(client: &Client, key: &str) -> ListedObject {
    client.head(key, Importance::Demand).await.unwrap()
}

async fn open(
    client: &Client,
    object: &ListedObject,
    range: (u64, u64),
    importance: Importance,
) -> Result<Body, Error> {
    let request = GetRequest {
        key: &object.key,
        etag: &object.etag,
        range: ByteRange::new(range.0, range.1).unwrap(),
        object_size_bytes: object.size_bytes,
        importance,
    };
    client.get(request).await
}

async fn rest(mut body: Body) -> Result<Vec<u8>, Error> {
    let (mut bytes, mut room) = (Vec::new(), vec![0; 300_000]);
    loop {
        match body.read(&mut room).await? {
            0 => return Ok(bytes),
            count => bytes.extend_from_slice(&room[..count]),
        }
    }
}

async fn read(client: &Client, object: &ListedObject, range: (u64, u64)) -> Result<Vec<u8>, Error> {
    rest(open(client, object, range, Importance::Demand).await?).await
}

/// Whether `bytes` are those of the lab's object `key` from `start`.
#[track_caller]
fn check_bytes(lab: &Lab, key: &str, start: u64, bytes: &[u8]) {
    assert!(lab.content(BUCKET, key).unwrap().matches(start, bytes), "wrong bytes from {start}");
}

/// The GETs of objects in `entries`.
fn gets(entries: &[Entry]) -> Vec<&Entry> {
    entries.iter().filter(|entry| entry.operation == tenderfs_lab::Operation::Get).collect()
}

fn counters(client: &Client) -> &tenderfs_s3client::Counters {
    Arc::as_ref(client.bucket()).counters()
}
