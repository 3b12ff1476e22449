//! The store without a file system in between: a small S3 client of the demo's own, so that what the mount is compared
//! with shares none of its code.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use reqwest::{Client, Response, StatusCode, header};
use rusty_s3::actions::{CreateBucket, DeleteObject, GetObject, PutObject};
use rusty_s3::{Bucket, Credentials, S3Action, UrlStyle};
use url::Url;

use super::epochs::{Expected, Reading};
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// How long a signed request may be used.
const SIGNED_FOR: Duration = Duration::from_hours(1);
/// Bytes of one GET when an object is read by several.
const PART_BYTES: usize = 8 << 20;

/// Where the data set lives.
#[derive(Debug, Clone)]
pub struct Store {
    bucket: Bucket,
    credentials: Credentials,
    prefix: String,
}

impl Store {
    /// A path-style store; `prefix` is empty or ends with `/`.
    pub fn new(
        endpoint: Url,
        bucket: String,
        region: String,
        (credentials, prefix): (Credentials, String),
    ) -> Result<Store, ToolError> {
        let bucket = Bucket::new(endpoint, UrlStyle::Path, bucket, region).map_err(|error| {
            ToolError::Demo { what: "the store cannot be used", reason: error.to_string() }
        })?;
        Ok(Store { bucket, credentials, prefix })
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// Makes the bucket; one that is there already is fine.
    pub async fn create_bucket(&self, client: &Client) -> Result<(), ToolError> {
        let url = CreateBucket::new(&self.bucket, &self.credentials).sign(SIGNED_FOR);
        let response =
            client.put(url).send().await.map_err(|error| failed("create", "the bucket", &error))?;
        match response.status() {
            StatusCode::OK | StatusCode::CONFLICT => Ok(()),
            status => Err(refused("create", self.bucket.name(), status)),
        }
    }

    /// Stores one object.
    pub async fn put(
        &self,
        client: &Client,
        key: &str,
        bytes: bytes::Bytes,
    ) -> Result<(), ToolError> {
        let key = self.key(key);
        let url = PutObject::new(&self.bucket, Some(&self.credentials), &key).sign(SIGNED_FOR);
        let response = client
            .put(url)
            .header(header::CONTENT_LENGTH, bytes.len())
            .body(bytes)
            .send()
            .await
            .map_err(|error| failed("store", &key, &error))?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(refused("store", &key, response.status()))
        }
    }

    /// Removes one object.
    pub async fn delete(&self, client: &Client, key: &str) -> Result<(), ToolError> {
        let key = self.key(key);
        let url = DeleteObject::new(&self.bucket, Some(&self.credentials), &key).sign(SIGNED_FOR);
        let response =
            client.delete(url).send().await.map_err(|error| failed("delete", &key, &error))?;
        if response.status().is_success() {
            Ok(())
        } else {
            Err(refused("delete", &key, response.status()))
        }
    }

    async fn get(
        &self,
        client: &Client,
        key: &str,
        range: &Range<usize>,
    ) -> Result<Response, ToolError> {
        let key = self.key(key);
        let url = GetObject::new(&self.bucket, Some(&self.credentials), &key).sign(SIGNED_FOR);
        let bytes = format!("bytes={}-{}", range.start, range.end - 1);
        let request = client.get(url).header(header::RANGE, bytes);
        let response = request.send().await.map_err(|error| failed("get", &key, &error))?;
        match response.status() {
            StatusCode::PARTIAL_CONTENT => Ok(response),
            status => Err(refused("get", &key, status)),
        }
    }
}

/// A client without limits of its own on connections.
pub fn client() -> Result<Client, ToolError> {
    Client::builder()
        .http1_only()
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_secs(10))
        .read_timeout(Duration::from_secs(30))
        .build()
        .map_err(|error| failed("make", "an HTTP client", &error))
}

/// One GET to do: a part of one file and where its bytes go.
struct Job<'a> {
    file: &'a Expected,
    range: Range<usize>,
    slot: &'a mut [u8],
}

/// How the store is read.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// GETs in flight at once.
    pub connections: usize,
    /// Bytes of one GET at most; `None`: whole objects.
    pub part_bytes: Option<usize>,
}

impl Plan {
    /// One GET for the whole object.
    pub const ONE_STREAM: Plan = Plan { connections: 1, part_bytes: None };

    /// Ranges of 8 MiB, so many at once.
    pub fn parallel(connections: usize) -> Plan {
        Plan { connections, part_bytes: Some(PART_BYTES) }
    }
}

/// Reads `files` into `buffers` by direct GETs and times it.
pub fn read(
    store: &Store,
    plan: Plan,
    (files, buffers): (&[Expected], &mut [Vec<u8>]),
    interrupt: &Interrupt,
) -> Result<Reading, ToolError> {
    let mut jobs = jobs(files, buffers, plan.part_bytes);
    let gets = jobs.len();
    jobs.reverse();
    let jobs = Mutex::new(jobs);
    let threads = thread::available_parallelism().map_or(1, usize::from).min(plan.connections);
    let started = Instant::now();
    let results: Vec<Result<Vec<Duration>, ToolError>> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| {
                let share =
                    plan.connections / threads + usize::from(thread < plan.connections % threads);
                let jobs = &jobs;
                scope.spawn(move || work(store, share, jobs, interrupt))
            })
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let elapsed = started.elapsed();
    let mut reading = Reading { elapsed, gets, ..Reading::default() };
    for first_bytes in results {
        reading.first_bytes.extend(first_bytes?);
    }
    Ok(reading)
}

fn jobs<'a>(
    files: &'a [Expected],
    buffers: &'a mut [Vec<u8>],
    part_bytes: Option<usize>,
) -> Vec<Job<'a>> {
    let mut jobs = Vec::new();
    for (file, buffer) in files.iter().zip(buffers) {
        let part_bytes = part_bytes.unwrap_or(buffer.len()).max(1);
        for (index, slot) in buffer.chunks_mut(part_bytes).enumerate() {
            let start = index * part_bytes;
            jobs.push(Job { file, range: start..start + slot.len(), slot });
        }
    }
    jobs
}

/// One thread: a runtime, a client, `connections` GETs in flight until no job is left.
fn work(
    store: &Store,
    connections: usize,
    jobs: &Mutex<Vec<Job<'_>>>,
    interrupt: &Interrupt,
) -> Result<Vec<Duration>, ToolError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ToolError::Runtime)?;
    let client = client()?;
    let lane = || async {
        let mut first_bytes = Vec::new();
        loop {
            let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(job) = job else { break };
            if interrupt.raised() {
                return Err(ToolError::Interrupted);
            }
            first_bytes.push(fetch(store, &client, job).await?);
        }
        Ok(first_bytes)
    };
    let lanes = (0..connections).map(|_| lane());
    let done = runtime.block_on(futures_util::future::try_join_all(lanes))?;
    Ok(done.into_iter().flatten().collect())
}

/// One GET into its slot; the time to its first bytes.
async fn fetch(store: &Store, client: &Client, job: Job<'_>) -> Result<Duration, ToolError> {
    let Job { file, range, mut slot } = job;
    let started = Instant::now();
    let mut first = None;
    let mut response = store.get(client, &file.key, &range).await?;
    while let Some(chunk) =
        response.chunk().await.map_err(|error| failed("get", &file.key, &error))?
    {
        first.get_or_insert_with(|| started.elapsed());
        let Some((head, rest)) = slot.split_at_mut_checked(chunk.len()) else {
            return Err(wrong_length(&file.key));
        };
        head.copy_from_slice(&chunk);
        slot = rest;
    }
    if !slot.is_empty() {
        return Err(wrong_length(&file.key));
    }
    Ok(first.unwrap_or_else(|| started.elapsed()))
}

fn wrong_length(key: &str) -> ToolError {
    ToolError::Store {
        action: "get",
        key: key.to_owned(),
        reason: "the answer has another length than was asked for".to_owned(),
    }
}

fn refused(action: &'static str, key: &str, status: StatusCode) -> ToolError {
    ToolError::Store { action, key: key.to_owned(), reason: format!("the store answered {status}") }
}

/// reqwest's own text names the signed URL, so the innermost cause is told instead.
fn failed(action: &'static str, key: &str, error: &reqwest::Error) -> ToolError {
    ToolError::Store { action, key: key.to_owned(), reason: crate::error::innermost(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_cover_every_byte_once_in_order() {
        let files = [("a", 20), ("b", 8), ("c", 1)].map(|(key, len_bytes)| Expected {
            key: key.to_owned(),
            len_bytes,
            md5: [0; 16],
        });
        let mut buffers = vec![vec![0; 20], vec![0; 8], vec![0; 1]];
        let seen: Vec<_> = jobs(&files, &mut buffers, Some(8))
            .iter()
            .map(|job| (job.file.key.clone(), job.range.clone(), job.slot.len()))
            .collect();
        let expected = [("a", 0..8), ("a", 8..16), ("a", 16..20), ("b", 0..8), ("c", 0..1)];
        let expected = expected.map(|(key, range)| (key.to_owned(), range.clone(), range.len()));
        assert_eq!(seen, expected);
        assert_eq!(jobs(&files, &mut buffers, None).len(), 3, "whole objects");
    }
}
