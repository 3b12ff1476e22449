//! What all cores know of one bucket.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ClientConfig;
use url::Url;

use crate::addressing::{self, Addressing, Place, REGION_DEFAULT};
use crate::clock::StoreClock;
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::deadlines::Deadlines;
use crate::error::{ConfigError, Error};
use crate::gate::Gate;
use crate::hedging::Hedging;
use crate::retry::RetryPolicy;
use crate::signing::Payer;
use crate::tls;

/// Where a bucket is and how it is asked.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// The bucket's name.
    pub name: String,
    /// The region signed for. `None`: `us-east-1` until the store names another.
    pub region: Option<String>,
    /// The store; AWS where `None`.
    pub endpoint_url: Option<Url>,
    /// How the bucket's name goes into an address.
    pub addressing: Addressing,
    /// A PEM file of the certificate authorities to trust instead of the system's.
    pub ca_bundle: Option<PathBuf>,
    /// Whether who asks agrees to pay.
    pub requester_pays: bool,
    /// How long each part of a request may take.
    pub deadlines: Deadlines,
    /// How often and how soon a failed request is made again.
    pub retry: RetryPolicy,
    /// Requests in flight at once on each core, each on its own connection; prefetches leave a
    /// quarter of them to demand.
    pub connections_max: usize,
    /// Whether a request that is late is made a second time.
    pub hedging: bool,
}

/// One bucket as seen through one set of credentials; shared by all cores.
pub struct Bucket {
    config: BucketConfig,
    identity: String,
    place: ArcSwap<Place>,
    tls: Option<Arc<ClientConfig>>,
    credentials: Credentials,
    counters: Counters,
    gate: Gate,
    hedging: Mutex<Hedging>,
    clock: StoreClock,
}

impl Bucket {
    /// The bucket of `config`. Nothing is asked of the store yet; for TLS, certificate authorities
    /// are read.
    pub fn new(config: BucketConfig, credentials: Credentials) -> Result<Arc<Self>, Error> {
        config.deadlines.check()?;
        for (setting, value) in [
            ("the number of connections", config.connections_max),
            ("the number of attempts", config.retry.attempts_max as usize),
        ] {
            if value == 0 {
                return Err(ConfigError::Zero { setting }.into());
            }
        }
        let region = config.region.as_deref().unwrap_or(REGION_DEFAULT);
        let place = place(&config, region)?;
        let tls =
            if place.encrypted() { Some(tls::config(config.ca_bundle.as_deref())?) } else { None };
        let identity = addressing::identity(region, config.endpoint_url.as_ref());
        let place = ArcSwap::from_pointee(place);
        let counters = Counters::default();
        let gate = Gate::new();
        let hedging = Mutex::new(Hedging::new(config.hedging));
        Ok(Arc::new(Self {
            config,
            identity,
            place,
            tls,
            credentials,
            counters,
            gate,
            hedging,
            clock: StoreClock::default(),
        }))
    }

    /// What this bucket's requests are counted by.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// `scheme://host[:port]`, the identity of the store: the same whatever region is learned.
    pub fn endpoint(&self) -> String {
        self.identity.clone()
    }

    /// The region signed for now.
    pub fn region(&self) -> String {
        self.place.load().region().to_owned()
    }

    /// Who asks.
    pub fn credentials(&self) -> &Credentials {
        &self.credentials
    }

    pub(crate) fn config(&self) -> &BucketConfig {
        &self.config
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn hedging(&self) -> MutexGuard<'_, Hedging> {
        self.hedging.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn clock(&self) -> &StoreClock {
        &self.clock
    }

    pub(crate) fn place(&self) -> Arc<Place> {
        self.place.load_full()
    }

    pub(crate) fn tls(&self) -> Option<&Arc<ClientConfig>> {
        self.tls.as_ref()
    }

    pub(crate) fn payer(&self) -> Payer {
        if self.config.requester_pays { Payer::Requester } else { Payer::Owner }
    }

    /// Signs for the store's time from now on, which is `store_time`; whether that is another than the
    /// refused request was signed for, which took the store to be `asked_ahead_seconds` ahead.
    pub(crate) fn learn_clock(&self, asked_ahead_seconds: i64, store_time: Timestamp) -> bool {
        let known = self.clock.ahead_seconds();
        let learned = self.clock.learn(asked_ahead_seconds, store_time, Timestamp::now());
        let ahead_seconds = self.clock.ahead_seconds();
        if known.abs_diff(ahead_seconds) > 1 {
            let bucket = self.name();
            tracing::warn!(
                bucket,
                ahead_seconds,
                "the store's clock is another: set this machine's"
            );
        }
        learned
    }

    /// Asks in `region` from now on, unless another one was configured; whether it does.
    pub(crate) fn learn_region(&self, region: &str) -> bool {
        if self.config.region.is_some() {
            return false;
        }
        match place(&self.config, region) {
            Ok(place) => {
                let bucket = self.name();
                tracing::info!(bucket, region, "the store named the bucket's region");
                self.place.store(Arc::new(place));
                true
            }
            Err(_) => false,
        }
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({} at {}, {:?})", self.name(), self.identity, self.credentials)
    }
}

fn place(config: &BucketConfig, region: &str) -> Result<Place, ConfigError> {
    Place::new(&config.name, region, config.endpoint_url.as_ref(), config.addressing)
}
