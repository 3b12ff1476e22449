//! The result of `policy`: a table or JSON.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::policy::UsePattern;

/// What a simulation found.
#[derive(Debug, Clone, Serialize)]
pub struct PolicyReport {
    /// Which objects were used.
    #[serde(serialize_with = "as_text")]
    pub pattern: UsePattern,
    /// Bytes of the cache as a part of those of all objects.
    pub fraction: f64,
    /// Seed of the orders.
    pub seed: u64,
    /// Different objects.
    pub objects: usize,
    /// Uses of them.
    pub uses: usize,
    /// Bytes of the cache; each object has 1 if nothing says otherwise.
    pub cache_bytes: u64,
    /// The result.
    pub hit_rate: HitRates,
}

/// Hits as a part (0..=1) of the uses after an object's first.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct HitRates {
    /// Least recently used goes first.
    pub lru: f64,
    /// First in, first out.
    pub fifo: f64,
    /// A set by hash that stays put.
    pub pin: f64,
    /// What the cache does by itself.
    pub auto: f64,
    /// What knows the future.
    pub belady: f64,
}

impl PolicyReport {
    /// As JSON.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self)
            .unwrap_or_else(|error| unreachable!("a report is plain values: {error}"))
    }
}

impl fmt::Display for PolicyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pattern, fraction, seed, objects, uses, cache_bytes, hit_rate } = self;
        writeln!(f, "run       {pattern}, {objects} objects, {uses} uses, seed {seed}")?;
        writeln!(f, "cache     {fraction} of the bytes: {cache_bytes}")?;
        writeln!(f, "policy    hit rate after each object's first use")?;
        let HitRates { lru, fifo, pin, auto, belady } = *hit_rate;
        for (name, rate) in
            [("lru", lru), ("fifo", fifo), ("pin", pin), ("auto", auto), ("belady", belady)]
        {
            writeln!(f, "{name:8}  {:5.1} %", 100.0 * rate)?;
        }
        Ok(())
    }
}

impl fmt::Display for UsePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Shuffle => f.write_str("shuffle"),
            Self::Fixed => f.write_str("fixed"),
            Self::Trace(path) => write!(f, "trace:{}", path.display()),
        }
    }
}

fn as_text<S: Serializer>(pattern: &UsePattern, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(pattern)
}
