//! What all cores know of one bucket.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use jiff::Timestamp;
use rustls::ClientConfig;
use url::Url;

use crate::addressing::{self, Addressing, AwsEndpoint, Place, REGION_DEFAULT};
use crate::clock::StoreClock;
use crate::counters::Counters;
use crate::credentials::Credentials;
use crate::customer_key::CustomerKey;
use crate::deadlines::Deadlines;
use crate::error::{ConfigError, Error};
use crate::gate::Gate;
use crate::hedging::Hedging;
use crate::proxies::Proxies;
use crate::retry::RetryPolicy;
use crate::signing::{Payer, Terms};
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
    /// Which of AWS's endpoints is asked, where the store is AWS.
    pub aws: AwsEndpoint,
    /// Which proxies lead to the store.
    pub proxies: Proxies,
    /// Whether who asks agrees to pay.
    pub requester_pays: bool,
    /// The account that must own the bucket; else the store refuses.
    pub expected_owner: Option<String>,
    /// The key of objects that were written with one (SSE-C).
    pub customer_key: Option<CustomerKey>,
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

impl BucketConfig {
    /// The bucket `name` at AWS, asked with the patience of seconds and of a few attempts.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            region: None,
            endpoint_url: None,
            addressing: Addressing::Auto,
            ca_bundle: None,
            aws: AwsEndpoint::default(),
            proxies: Proxies::none(),
            requester_pays: false,
            expected_owner: None,
            customer_key: None,
            deadlines: Deadlines {
                connect: Duration::from_secs(3),
                first_byte: Duration::from_secs(3),
                stall: Duration::from_secs(5),
                whole: Duration::from_mins(1),
            },
            retry: RetryPolicy {
                attempts_max: 5,
                backoff_first: Duration::from_millis(50),
                backoff_max: Duration::from_secs(5),
            },
            connections_max: 32,
            hedging: true,
        }
    }
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
    terms: Terms,
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
        let terms = terms(&config, &place)?;
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
            terms,
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

    /// The terms of every request.
    pub(crate) fn terms(&self) -> &Terms {
        &self.terms
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
    let BucketConfig { name, endpoint_url, addressing, aws, .. } = config;
    let place = Place::new(name, region, endpoint_url.as_ref(), *addressing, *aws)?;
    let proxy = config.proxies.of(&place)?;
    Ok(place.by(proxy))
}

fn terms(config: &BucketConfig, place: &Place) -> Result<Terms, ConfigError> {
    let is_account =
        |owner: &String| owner.len() == 12 && owner.bytes().all(|b| b.is_ascii_digit());
    if let Some(owner) = config.expected_owner.clone().filter(|owner| !is_account(owner)) {
        return Err(ConfigError::Owner { owner });
    }
    let is_here = place.host().is_err_and(|address| address.is_loopback());
    if config.customer_key.is_some() && !place.encrypted() && !is_here {
        let reason = "a customer's key is never sent without TLS";
        return Err(ConfigError::Endpoint { endpoint: place.label(), reason });
    }
    Ok(Terms {
        payer: if config.requester_pays { Payer::Requester } else { Payer::Owner },
        expected_owner: config.expected_owner.clone(),
        customer_key: config.customer_key.clone(),
    })
}
