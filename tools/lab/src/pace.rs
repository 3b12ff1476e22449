//! The shape in force, and the link that all connections share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use crate::content::{fraction, mix};
use crate::shape::allowance::Allowance;
use crate::shape::bucket::Link;
use crate::shape::{Latency, Shape};

/// Stands for no limit.
const UNLIMITED: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Pace {
    epoch: Instant,
    shape: RwLock<Shape>,
    connection: AtomicU64,
    total: AtomicU64,
    link: Mutex<Link>,
    allowance: Mutex<Allowance>,
    draws: AtomicU64,
}

/// Bandwidths in force.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) connection: Option<u64>,
    pub(crate) total: Option<u64>,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            shape: RwLock::default(),
            connection: AtomicU64::new(UNLIMITED),
            total: AtomicU64::new(UNLIMITED),
            link: Mutex::default(),
            allowance: Mutex::default(),
            draws: AtomicU64::new(0),
        }
    }
}

impl Pace {
    pub(crate) fn shape(&self) -> Shape {
        *self.shape.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a shape in force, for answers under way too.
    pub(crate) fn set_shape(&self, shape: Shape) {
        let mut current = self.shape.write().unwrap_or_else(PoisonError::into_inner);
        *current = shape;
        let store = |place: &AtomicU64, limit: Option<u64>| {
            place.store(limit.unwrap_or(UNLIMITED), Ordering::Relaxed);
        };
        store(&self.connection, shape.connection_bytes_per_second);
        store(&self.total, shape.total_bytes_per_second);
    }

    pub(crate) fn limits(&self) -> Limits {
        let limit = |place: &AtomicU64| {
            let limit = place.load(Ordering::Relaxed);
            (limit != UNLIMITED).then_some(limit)
        };
        Limits { connection: limit(&self.connection), total: limit(&self.total) }
    }

    /// A draw from the latency in force.
    pub(crate) fn first_byte(&self) -> Duration {
        self.draw(self.shape().first_byte)
    }

    /// A draw from `latency`. The same draws come in the same order in every run.
    pub(crate) fn draw(&self, latency: Latency) -> Duration {
        if latency == Latency::Zero {
            return Duration::ZERO;
        }
        latency.quantile(fraction(mix(self.draws.fetch_add(1, Ordering::Relaxed))))
    }

    /// Whether a request that comes now is within what is allowed each second.
    pub(crate) fn allows(&self, now_ns: u64) -> bool {
        let Some(requests_per_second) = self.shape().requests_per_second else { return true };
        let mut allowance = self.allowance.lock().unwrap_or_else(PoisonError::into_inner);
        allowance.take(now_ns, requests_per_second)
    }

    /// Nanoseconds since the lab started.
    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// An answer begins to use the shared link.
    pub(crate) fn begin(&self, now_ns: u64) {
        self.link().begin(now_ns);
    }

    /// An answer that used the shared link has ended.
    pub(crate) fn end(&self) {
        self.link().end();
    }

    /// Queues a piece on the shared link; returns when it may go.
    pub(crate) fn reserve(&self, now_ns: u64, bytes: u64, bytes_per_second: u64) -> u64 {
        self.link().reserve(now_ns, bytes, bytes_per_second)
    }

    fn link(&self) -> MutexGuard<'_, Link> {
        self.link.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
