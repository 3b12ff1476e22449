//! How slow the lab is to be: first-byte latency, bandwidth, requests allowed.

pub(crate) mod allowance;
pub(crate) mod bucket;

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Latency, bandwidth and allowance in force for every request.
///
/// Bandwidth is that of bodies of answers; heads and uploads are not held back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shape {
    /// Time from the request to the first byte of its answer; never less.
    pub first_byte: Latency,
    /// Bandwidth of each connection; `None` is as fast as it goes, 0 is taken as 1.
    pub connection_bytes_per_second: Option<u64>,
    /// Bandwidth of all connections together.
    pub total_bytes_per_second: Option<u64>,
    /// Requests allowed each second, of which a tenth may come at once; those beyond are answered 503
    /// `SlowDown`. `None` is any number.
    pub requests_per_second: Option<u64>,
}

/// A distribution of times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Latency {
    /// None at all.
    #[default]
    Zero,
    /// Always the same. In JSON, here and below, times are seconds with a fraction.
    Fixed(#[serde(with = "seconds")] Duration),
    /// Evenly spread between two times.
    Uniform {
        /// The least.
        #[serde(with = "seconds")]
        min: Duration,
        /// The most.
        #[serde(with = "seconds")]
        max: Duration,
    },
    /// Log-normal, as first bytes of S3 are: given by the median and the 99th percentile.
    Distribution {
        /// Half are less.
        #[serde(with = "seconds")]
        median: Duration,
        /// 99 of 100 are less.
        #[serde(with = "seconds")]
        p99: Duration,
    },
}

/// The longest latency that is given, whatever the distribution says.
const LATENCY_MAX: Duration = Duration::from_hours(1);

impl Latency {
    /// The time that this part of all times lies below; `part` is in 0.0 ..= 1.0. With an evenly spread
    /// `part` it is a draw from the distribution.
    pub fn quantile(&self, part: f64) -> Duration {
        match *self {
            Self::Zero => Duration::ZERO,
            Self::Fixed(time) => time,
            Self::Uniform { min, max } => {
                min + max.saturating_sub(min).mul_f64(part.clamp(0.0, 1.0))
            }
            Self::Distribution { median, p99 } => {
                let median = median.as_secs_f64().max(1e-9);
                let sigma = (p99.as_secs_f64() / median).max(1.0).ln() / normal_quantile(0.99);
                let time = median * (sigma * normal_quantile(part)).exp();
                Duration::try_from_secs_f64(time).unwrap_or(LATENCY_MAX).min(LATENCY_MAX)
            }
        }
    }
}

/// The quantile of the standard normal distribution, to 5e-4 (Abramowitz and Stegun, 26.2.23).
fn normal_quantile(part: f64) -> f64 {
    let part = part.clamp(1e-9, 1.0 - 1e-9);
    let tail = part.min(1.0 - part);
    let t = (-2.0 * tail.ln()).sqrt();
    let numerator = t.mul_add(t.mul_add(0.010_328, 0.802_853), 2.515_517);
    let denominator = t.mul_add(t.mul_add(t.mul_add(0.001_308, 0.189_269), 1.432_788), 1.0);
    let distance = t - numerator / denominator;
    if part < 0.5 { -distance } else { distance }
}

/// Durations as seconds with a fraction.
mod seconds {
    use std::time::Duration;

    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        time: &Duration,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_f64(time.as_secs_f64())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Duration, D::Error> {
        let seconds = f64::deserialize(deserializer)?;
        Duration::try_from_secs_f64(seconds).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::{fraction, mix};

    const MS: Duration = Duration::from_millis(1);

    #[track_caller]
    fn check(latency: Latency, part: f64, expected_ms: f64) {
        let got = latency.quantile(part).as_secs_f64() * 1000.0;
        assert!((got - expected_ms).abs() <= expected_ms * 0.005, "{latency:?} {part}: {got}");
    }

    #[test]
    fn quantiles_are_those_of_the_distribution() {
        check(Latency::Zero, 0.9, 0.0);
        check(Latency::Fixed(20 * MS), 0.9, 20.0);
        check(Latency::Uniform { min: 10 * MS, max: 30 * MS }, 0.25, 15.0);
        check(Latency::Uniform { min: 30 * MS, max: 10 * MS }, 0.25, 30.0);
        let s3 = Latency::Distribution { median: 20 * MS, p99: 100 * MS };
        check(s3, 0.5, 20.0);
        check(s3, 0.99, 100.0);
        check(s3, 0.01, 4.0);
        check(Latency::Distribution { median: 20 * MS, p99: 5 * MS }, 0.99, 20.0);
        assert!(s3.quantile(1.0) < Duration::from_secs(2));
        assert_eq!(
            Latency::Distribution { median: MS, p99: LATENCY_MAX }.quantile(1.0),
            LATENCY_MAX
        );
    }

    #[test]
    fn draws_have_the_median_and_tail_ordered() {
        let s3 = Latency::Distribution { median: 20 * MS, p99: 100 * MS };
        let mut draws: Vec<Duration> =
            (0..100_000).map(|n| s3.quantile(fraction(mix(n)))).collect();
        draws.sort();
        let median = draws[50_000].as_secs_f64();
        let p99 = draws[99_000].as_secs_f64();
        assert!((0.0198..0.0202).contains(&median), "{median}");
        assert!((0.095..0.105).contains(&p99), "{p99}");
    }

    #[test]
    fn a_shape_is_written_as_json() {
        let text = r#"{"first_byte":{"distribution":{"median":0.02,"p99":0.1}},"total_bytes_per_second":1000}"#;
        let shape: Shape = serde_json::from_str(text).unwrap();
        assert_eq!(shape.first_byte, Latency::Distribution { median: 20 * MS, p99: 100 * MS });
        assert_eq!(
            (shape.connection_bytes_per_second, shape.total_bytes_per_second),
            (None, Some(1000))
        );
        assert_eq!(serde_json::from_str::<Shape>("{}").unwrap(), Shape::default());
        assert!(serde_json::from_str::<Shape>(r#"{"first_byt":"zero"}"#).is_err());
        let back: Shape = serde_json::from_str(&serde_json::to_string(&shape).unwrap()).unwrap();
        assert_eq!(back, shape);
    }
}
