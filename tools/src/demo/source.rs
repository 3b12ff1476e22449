//! Where the demo's data lives: the lab in this process, or a store of the user's.

use std::time::Duration;

use bytes::Bytes;
use reqwest::Client;
use rusty_s3::Credentials;
use tenderfs_daemon::Daemon;
use tenderfs_lab::{Lab, Latency, Operation, Shape};
use url::Url;

use super::data_set::DataObject;
use super::direct::{Store, client};
use super::epochs::Expected;
use crate::cli::DemoArgs;
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// Bucket of the lab.
const LAB_BUCKET: &str = "demo";
/// How long requests that readers do not wait for, such as read-ahead, may take to end.
const IDLE_PATIENCE: Duration = Duration::from_secs(30);
/// Puts in flight at once while the data set is stored.
const PUTS: usize = 4;

/// The key pair of the demo's lab. The mount takes it from the environment, as a user's mount does.
pub const LAB_KEYS: (&str, &str) = ("tenderfs-demo", "tenderfs-demo-secret");

/// GETs and their body bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tally {
    /// GET requests for objects.
    pub gets: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
}

impl Tally {
    /// What came since `before`.
    pub fn since(self, before: Tally) -> (u64, u64) {
        (self.gets.saturating_sub(before.gets), self.bytes.saturating_sub(before.bytes))
    }
}

/// The store under the demo's mount.
#[derive(Debug)]
pub struct Source {
    store: Store,
    kind: Kind,
    /// Keys to delete at the end, in the store of a user.
    stored: Vec<String>,
    /// `s3://bucket/prefix`, its endpoint and region.
    pub address: Address,
}

/// What a mount must be told of the store.
#[derive(Debug, Clone)]
pub struct Address {
    /// `s3://bucket/prefix`
    pub source: String,
    /// The store's URL.
    pub endpoint: String,
    /// Its region.
    pub region: String,
}

#[derive(Debug)]
enum Kind {
    Lab(Lab),
    Store,
}

impl Source {
    /// The lab with the latency and bandwidth asked for, or the store asked for.
    pub fn open(
        args: &DemoArgs,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Source, ToolError> {
        match (&args.endpoint_url, &args.bucket) {
            (Some(endpoint), Some(bucket)) => Source::of_user(endpoint, bucket, args, environment),
            _ => Source::lab(args),
        }
    }

    fn lab(args: &DemoArgs) -> Result<Source, ToolError> {
        let failed = |error: &dyn std::error::Error| ToolError::Lab { reason: error.to_string() };
        let builder = Lab::builder().credentials(LAB_KEYS.0, LAB_KEYS.1);
        let lab = builder.start().map_err(|error| failed(&error))?;
        lab.create_bucket(LAB_BUCKET).map_err(|error| failed(&error))?;
        lab.shape(Shape {
            first_byte: Latency::Fixed(args.first_byte),
            connection_bytes_per_second: Some(args.connection_bandwidth).filter(|bytes| *bytes > 0),
            ..Shape::default()
        });
        let address = Address {
            source: format!("s3://{LAB_BUCKET}"),
            endpoint: lab.endpoint(),
            region: lab.region().to_owned(),
        };
        let endpoint = Url::parse(&address.endpoint).map_err(|error| failed(&error))?;
        let keys = (Credentials::new(LAB_KEYS.0, LAB_KEYS.1), String::new());
        let store = Store::new(endpoint, LAB_BUCKET.to_owned(), address.region.clone(), keys)?;
        Ok(Source { store, kind: Kind::Lab(lab), stored: Vec::new(), address })
    }

    fn of_user(
        endpoint: &Url,
        bucket: &str,
        args: &DemoArgs,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Source, ToolError> {
        let key = environment("AWS_ACCESS_KEY_ID").zip(environment("AWS_SECRET_ACCESS_KEY"));
        let Some((key, secret)) = key else {
            return Err(ToolError::Demo {
                what: "the store needs credentials",
                reason: "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY".to_owned(),
            });
        };
        let credentials = match environment("AWS_SESSION_TOKEN") {
            Some(token) => Credentials::new_with_token(key, secret, token),
            None => Credentials::new(key, secret),
        };
        let prefix = format!("tenderfs-demo-{}-{}/", args.seed, std::process::id());
        let address = Address {
            source: format!("s3://{bucket}/{prefix}"),
            endpoint: endpoint.to_string(),
            region: args.region.clone(),
        };
        let store = Store::new(
            endpoint.clone(),
            bucket.to_owned(),
            args.region.clone(),
            (credentials, prefix),
        )?;
        Ok(Source { store, kind: Kind::Store, stored: Vec::new(), address })
    }

    /// The store, for direct GETs.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Stores the data set and says what must be read back.
    pub fn fill(
        &mut self,
        objects: impl Iterator<Item = DataObject>,
        interrupt: &Interrupt,
    ) -> Result<Vec<Expected>, ToolError> {
        let mut expected = Vec::new();
        let runtime = runtime()?;
        let client = client()?;
        let mut batch = Vec::new();
        for object in objects {
            if interrupt.raised() {
                return Err(ToolError::Interrupted);
            }
            let DataObject { key, bytes, md5 } = object;
            expected.push(Expected { key: key.clone(), len_bytes: bytes.len(), md5 });
            match &self.kind {
                Kind::Lab(lab) => {
                    lab.put(LAB_BUCKET, &key, bytes)
                        .map_err(|error| ToolError::Lab { reason: error.to_string() })?;
                }
                Kind::Store => batch.push((key, bytes)),
            }
            if batch.len() == PUTS {
                runtime.block_on(self.put_all(&client, &mut batch))?;
            }
        }
        runtime.block_on(self.put_all(&client, &mut batch))?;
        Ok(expected)
    }

    async fn put_all(
        &mut self,
        client: &Client,
        batch: &mut Vec<(String, Bytes)>,
    ) -> Result<(), ToolError> {
        // Noted before it is stored, so that one that is stored half-way is deleted too.
        self.stored.extend(batch.iter().map(|(key, _)| key.clone()));
        let store = &self.store;
        let puts =
            batch.drain(..).map(|(key, bytes)| async move { store.put(client, &key, bytes).await });
        futures_util::future::try_join_all(puts).await.map(drop)
    }

    /// GETs so far, once those under way have ended. The lab's ledger knows; of a store, the daemon's own counters must do.
    pub fn tally(&self, daemon: Option<&Daemon>) -> Tally {
        match &self.kind {
            Kind::Lab(lab) => {
                // Those that are still under way after that long are counted as far as they are.
                let _idle = lab.ledger().wait_idle(IDLE_PATIENCE);
                Tally { gets: lab.ledger().count(Operation::Get), bytes: lab.ledger().body_bytes() }
            }
            Kind::Store => daemon.map(counted_by).unwrap_or_default(),
        }
    }

    /// Whether a [`Tally`] holds the GETs of the direct passes too.
    pub fn sees_direct_gets(&self) -> bool {
        matches!(self.kind, Kind::Lab(_))
    }

    /// Where the S3 columns of the table come from.
    pub fn tally_source(&self) -> &'static str {
        match self.kind {
            Kind::Lab(_) => "what the lab's ledger says it was asked for and sent",
            Kind::Store => {
                "what the clients counted (listings' bytes included), for the store keeps no ledger"
            }
        }
    }

    /// Deletes what was stored in a user's store; the lab's data goes with the lab.
    pub fn clean_up(&mut self) -> Result<(), ToolError> {
        let keys = std::mem::take(&mut self.stored);
        if keys.is_empty() {
            return Ok(());
        }
        let runtime = runtime()?;
        let client = client()?;
        let store = &self.store;
        runtime.block_on(async {
            for some in keys.chunks(16) {
                let deletes = some.iter().map(|key| store.delete(&client, key));
                futures_util::future::try_join_all(deletes).await?;
            }
            Ok(())
        })
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        if let Err(error) = self.clean_up() {
            eprintln!("tenderfs demo: objects below {} are left: {error}", self.address.source);
        }
    }
}

fn counted_by(daemon: &Daemon) -> Tally {
    daemon.mounts().iter().fold(Tally::default(), |tally, mount| {
        let counters = mount.bucket.counters();
        Tally {
            gets: tally.gets + counters.get.requests.get(),
            bytes: tally.bytes + counters.bytes_received.get(),
        }
    })
}

fn runtime() -> Result<tokio::runtime::Runtime, ToolError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ToolError::Runtime)
}
