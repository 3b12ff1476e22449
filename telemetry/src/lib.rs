//! Counters, gauges and histograms that every crate counts with and the daemon exports.
//!
//! All of them are plain atomics: counting never locks, allocates or fails, so it may stand on the
//! path of a read. Names, units and meanings are the daemon's (`daemon/src/metrics.rs`).

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// A counter at zero.
    pub const fn new() -> Self {
        Self(AtomicU64::new(0))
    }

    /// Adds one.
    pub fn inc(&self) {
        self.add(1);
    }

    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The count so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

impl Gauge {
    /// A gauge at zero.
    pub const fn new() -> Self {
        Self(AtomicI64::new(0))
    }

    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Sets the value.
    pub fn set(&self, n: i64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Buckets of a [`Histogram`]: upper bounds 2^k microseconds for k in `0..BUCKETS - 1` (1 us to
/// about 67 s), and one for everything slower.
pub const BUCKETS: usize = 28;

/// Durations in buckets of powers of two.
#[derive(Debug)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_ns: AtomicU64,
}

/// What a [`Histogram`] held at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// Observations per bucket, not cumulative.
    pub buckets: [u64; BUCKETS],
    /// Sum of all observations in nanoseconds.
    pub sum_ns: u64,
}

impl Histogram {
    /// An empty histogram.
    pub const fn new() -> Self {
        Self { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_ns: AtomicU64::new(0) }
    }

    /// Counts one duration.
    pub fn observe(&self, elapsed: Duration) {
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket_of(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// All counts now. Buckets are read one after another, so a snapshot taken under load may lack
    /// an observation that it has the sum of.
    pub fn snapshot(&self) -> HistogramSnapshot {
        let mut buckets = [0; BUCKETS];
        for (copy, bucket) in buckets.iter_mut().zip(&self.buckets) {
            *copy = bucket.load(Ordering::Relaxed);
        }
        HistogramSnapshot { buckets, sum_ns: self.sum_ns.load(Ordering::Relaxed) }
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self::new()
    }
}

impl HistogramSnapshot {
    /// Number of observations.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// Upper bound of the bucket that holds the observation at `quantile` (0..=1), `None` if there
    /// are no observations. The last bucket has no bound and answers with the largest one known.
    pub fn quantile(&self, quantile: f64) -> Option<Duration> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        #[allow(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank among fewer than 2^53 observations; the bucket is coarser by far"
        )]
        let rank = ((count as f64 * quantile.clamp(0.0, 1.0)).ceil() as u64).max(1);
        let mut seen = 0;
        for (index, bucket) in self.buckets.iter().enumerate() {
            seen += bucket;
            if seen >= rank {
                return Some(upper_bound(index));
            }
        }
        Some(upper_bound(BUCKETS - 1))
    }
}

/// Upper bound of bucket `index`; for the last one, that of the bucket before it.
pub fn upper_bound(index: usize) -> Duration {
    Duration::from_micros(1 << index.min(BUCKETS - 2))
}

/// The bucket that counts `ns` nanoseconds: the first whose upper bound is not below it.
fn bucket_of(ns: u64) -> usize {
    let us = ns.div_ceil(1000).max(1);
    let index = us.next_power_of_two().trailing_zeros() as usize;
    index.min(BUCKETS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_in_the_first_bucket_that_holds_it() {
        for (ns, bucket) in
            [(0, 0), (1_000, 0), (1_001, 1), (2_000, 1), (1_000_000, 10), (1 << 62, BUCKETS - 1)]
        {
            assert_eq!(bucket_of(ns), bucket, "{ns} ns");
        }
    }

    #[test]
    fn quantiles_are_upper_bounds_of_what_was_observed() {
        let histogram = Histogram::new();
        for _ in 0..99 {
            histogram.observe(Duration::from_micros(100));
        }
        histogram.observe(Duration::from_secs(1));
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count(), 100);
        assert_eq!(snapshot.quantile(0.5), Some(Duration::from_micros(128)));
        assert_eq!(snapshot.quantile(0.99), Some(Duration::from_micros(128)));
        assert_eq!(snapshot.quantile(1.0), Some(Duration::from_micros(1 << 20)));
        assert_eq!(Histogram::new().snapshot().quantile(0.5), None);
    }
}
