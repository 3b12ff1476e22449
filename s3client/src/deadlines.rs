//! How long each part of a request may take.
//!
//! Invariant: decides only. Elapsed time is an argument.

use std::time::Duration;

use crate::error::ConfigError;

/// Slowest body that is not a halt, in bytes a second.
const STALL_BYTES_PER_SECOND: f64 = 1024.0;

/// How long each part of a request may take. None of them may be zero.
#[derive(Debug, Clone)]
pub struct Deadlines {
    /// Opening a connection: names, TCP and TLS.
    pub connect: Duration,
    /// From the request to the head of its answer.
    pub first_byte: Duration,
    /// Waiting for a body that brings less than 1 KiB/s.
    pub stall: Duration,
    /// One request with all its retries, waits and its body.
    pub whole: Duration,
}

impl Deadlines {
    /// Refuses a deadline of zero, by which everything would fail.
    pub(crate) fn check(&self) -> Result<(), ConfigError> {
        for (setting, deadline) in [
            ("the connect time-out", self.connect),
            ("the first-byte time-out", self.first_byte),
            ("the stall time-out", self.stall),
            ("the whole request's time-out", self.whole),
        ] {
            if deadline.is_zero() {
                return Err(ConfigError::Zero { setting });
            }
        }
        Ok(())
    }
}

/// Tells a body that came to a halt from one that is slow, or whose reader is.
///
/// Only time spent waiting for the store counts. A body has halted when it brought less than
/// 1 KiB/s over a whole stall deadline of waiting.
#[derive(Debug)]
pub struct StallWatch {
    deadline: Duration,
    waited: Duration,
    received_bytes: u64,
    enough_bytes: u64,
}

impl StallWatch {
    /// A body of which nothing was waited for yet.
    pub fn new(deadline: Duration) -> Self {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a positive number of seconds times 1024; the cast saturates"
        )]
        let enough_bytes = (deadline.as_secs_f64() * STALL_BYTES_PER_SECOND) as u64;
        Self { deadline, waited: Duration::ZERO, received_bytes: 0, enough_bytes }
    }

    /// How much longer to wait for the next bytes; zero: the body has halted.
    pub fn left(&self) -> Duration {
        self.deadline.saturating_sub(self.waited)
    }

    /// Counts `bytes` that came after a wait of `waited`.
    pub fn received(&mut self, bytes: usize, waited: Duration) {
        self.waited = self.waited.saturating_add(waited);
        self.received_bytes = self.received_bytes.saturating_add(bytes as u64);
        if self.received_bytes >= self.enough_bytes.max(1) {
            self.waited = Duration::ZERO;
            self.received_bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[track_caller]
    fn seconds_until_halt(bytes_per_second: usize) -> Option<u32> {
        let mut watch = StallWatch::new(5 * SECOND);
        (1..100).find(|_| {
            watch.received(bytes_per_second, SECOND);
            watch.left().is_zero()
        })
    }

    #[test]
    fn a_drip_is_a_halt_and_a_slow_body_is_not() {
        assert_eq!(seconds_until_halt(0), Some(5));
        assert_eq!(seconds_until_halt(1), Some(5));
        assert_eq!(seconds_until_halt(1000), Some(5));
        assert_eq!(seconds_until_halt(1280), None);
        assert_eq!(seconds_until_halt(1 << 20), None);
    }

    #[test]
    fn a_body_that_comes_without_a_wait_never_halts() {
        let mut watch = StallWatch::new(5 * SECOND);
        for _ in 0..1000 {
            watch.received(1, Duration::ZERO);
        }
        assert_eq!(watch.left(), 5 * SECOND);
    }
}
