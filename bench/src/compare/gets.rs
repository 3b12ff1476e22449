//! GETs straight from the store with TenderFS's own S3 client: what the daemon could reach if files cost nothing.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::thread;

use futures_util::future::try_join_all;
use tenderfs_byterange::ByteRange;
use tenderfs_s3client::{
    Bucket, BucketConfig, Client, CredentialSource, Credentials, GetRequest, Importance, Secret,
};

use super::data::{BUCKET, Object, Set};
use super::error::CompareError;
use super::lab::{Door, KEYS};
use super::reads::{Start, Took};

/// Bytes of one GET, as the daemon's.
const RANGE_BYTES: u64 = 16 << 20;
/// Bytes that are read at once at most.
pub(crate) const ROOM_BYTES: usize = 256 << 10;

/// Fetches all objects, `parallel` ranges at a time, on as many threads as there are processors.
pub(super) fn fetch(
    lab: Door<'_>,
    (set, objects): (Set, &[Object]),
    parallel: usize,
) -> Result<Took, CompareError> {
    let threads = thread::available_parallelism().map_or(1, usize::from).min(parallel);
    let start = Start::new(threads);
    let work = |number: usize| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let started = start.wait();
        let mine: Vec<&Object> = objects.iter().skip(number).step_by(threads).collect();
        let runtime = runtime.map_err(|error| failed(&error))?;
        let took = runtime.block_on(fetch_all(lab, (set, &mine), parallel / threads))?;
        Ok(Took { elapsed: started.elapsed(), ..took })
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> =
            (0..threads).map(|number| scope.spawn(move || work(number))).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .try_fold(Took::default(), |all, one| Ok(all.merge(one?)))
    })
}

async fn fetch_all(
    lab: Door<'_>,
    (set, objects): (Set, &[&Object]),
    parallel: usize,
) -> Result<Took, CompareError> {
    let client = client(lab).await?;
    let ranges: Vec<(&Object, ByteRange)> = objects
        .iter()
        .flat_map(|object| {
            let len = object.content.len_bytes();
            let starts = (0..len).step_by(usize::try_from(RANGE_BYTES).unwrap_or(usize::MAX));
            let range = move |start| ByteRange::at(start, RANGE_BYTES.min(len - start));
            starts.filter_map(range).map(|range| (*object, range))
        })
        .collect();
    let next = Rc::new(std::cell::Cell::new(0));
    let stream = || async {
        let mut took = Took::default();
        let mut room = vec![0; ROOM_BYTES];
        while let Some((object, range)) = ranges.get(next.replace(next.get() + 1)) {
            let key = format!("{}/{}", set.prefix(), object.key);
            let whole_bytes = object.content.len_bytes();
            took.bytes += fetch_range(&client, (&key, whole_bytes), *range, &mut room).await?;
            took.operations += 1;
        }
        Ok::<_, CompareError>(took)
    };
    let streams = try_join_all((0..parallel.max(1)).map(|_| stream())).await?;
    Ok(streams.into_iter().fold(Took::default(), Took::merge))
}

/// Fetches a part of an object and returns how many bytes it was.
pub(crate) async fn fetch_range(
    client: &Client,
    (key, whole_bytes): (&str, u64),
    range: ByteRange,
    room: &mut [u8],
) -> Result<u64, CompareError> {
    let request = GetRequest {
        key,
        etag: "",
        range,
        object_size_bytes: whole_bytes,
        importance: Importance::Demand,
    };
    let mut bytes = 0;
    let mut body = client.get(request).await.map_err(|error| failed(&error))?;
    loop {
        match body.read(room).await.map_err(|error| failed(&error))? {
            0 => return Ok(bytes),
            count => bytes += count as u64,
        }
    }
}

/// A client of the lab's bucket that makes no request twice.
pub(crate) async fn client(lab: Door<'_>) -> Result<Client, CompareError> {
    let source = CredentialSource::Static {
        access_key_id: KEYS.0.to_owned(),
        secret_access_key: Secret::new(KEYS.1),
        session_token: None,
    };
    let credentials = Credentials::resolve(source).await.map_err(|error| failed(&error))?;
    let config = BucketConfig {
        region: Some(lab.region.to_owned()),
        endpoint_url: Some(lab.endpoint.parse().map_err(|error| failed(&error))?),
        ca_bundle: lab.ca_bundle.map(Path::to_owned),
        connections_max: 64,
        hedging: false,
        ..BucketConfig::new(BUCKET)
    };
    let bucket: Arc<Bucket> = Bucket::new(config, credentials).map_err(|error| failed(&error))?;
    Ok(Client::new(bucket))
}

fn failed(error: &dyn std::error::Error) -> CompareError {
    CompareError::Gets { reason: error.to_string() }
}
