//! Whether the disk is worth trying.
//!
//! A pure decider: time is an argument.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Errors within [`WINDOW`] that turn the disk off.
const ERRORS_MAX: usize = 3;

/// The time within which errors count together.
const WINDOW: Duration = Duration::from_mins(1);

/// How long the disk stays off before it is tried again.
const REST: Duration = Duration::from_secs(30);

/// What an error has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turned {
    /// The disk is off from now on: say so, once.
    Off,
    /// Nothing new.
    Nothing,
}

/// The recent errors of the disk, in one direction.
#[derive(Debug, Default)]
pub(crate) struct Health {
    errors: VecDeque<Instant>,
    off_until: Option<Instant>,
    /// Turned off and not yet proven well: one more error turns it off again.
    on_trial: bool,
}

impl Health {
    /// Whether to try the disk.
    pub(crate) fn is_on(&self, now: Instant) -> bool {
        self.off_until.is_none_or(|until| now >= until)
    }

    /// An operation has failed.
    pub(crate) fn failed(&mut self, now: Instant) -> Turned {
        self.errors.retain(|at| now.saturating_duration_since(*at) < WINDOW);
        self.errors.push_back(now);
        if !self.is_on(now) || (self.errors.len() < ERRORS_MAX && !self.on_trial) {
            return Turned::Nothing;
        }
        self.errors.clear();
        self.off_until = Some(now + REST);
        let news = if self.on_trial { Turned::Nothing } else { Turned::Off };
        self.on_trial = true;
        news
    }

    /// An operation has succeeded. Returns true if that ends a time of being off.
    pub(crate) fn succeeded(&mut self, now: Instant) -> bool {
        let ends = self.on_trial && self.is_on(now);
        if ends {
            self.on_trial = false;
            self.off_until = None;
            self.errors.clear();
        }
        ends
    }

    /// Whether the last word on the disk was bad; then successes are worth reporting.
    pub(crate) fn is_on_trial(&self) -> bool {
        self.on_trial
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_errors_turn_the_disk_off_and_it_is_tried_again() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut health = Health::default();
        assert_eq!(health.failed(at(0)), Turned::Nothing);
        assert_eq!(health.failed(at(50)), Turned::Nothing);
        // The first one is too old to count.
        assert_eq!(health.failed(at(61)), Turned::Nothing);
        assert!(health.is_on(at(61)));
        assert_eq!(health.failed(at(62)), Turned::Off);
        assert!(!health.is_on(at(63)));
        assert_eq!(health.failed(at(63)), Turned::Nothing);
        assert!(health.is_on(at(93)));
        // On trial one error is enough, and is no news.
        assert_eq!(health.failed(at(94)), Turned::Nothing);
        assert!(!health.is_on(at(95)));
        assert!(!health.succeeded(at(95)), "an operation of before");
        assert!(health.succeeded(at(125)));
        assert!(!health.succeeded(at(126)));
        assert_eq!(health.failed(at(127)), Turned::Nothing);
        assert!(health.is_on(at(128)));
    }
}
