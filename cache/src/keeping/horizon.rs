//! When an object that stays put has been unused for so long that it is used no more.
//!
//! A set that stays put would keep for ever what a job has read that has ended. How long a job's
//! passes are shows in how long objects wait for their next use; what waits several times as long
//! as any of late is not waited for any more.

use crate::keeping::Stamp;

/// How many of the longest waits an object may be unused.
const WAITS: u64 = 4;

/// Waits that must have been seen before the longest of them says how long passes are: of 16
/// drawn evenly from a pass, the longest is shorter than a quarter of it once in 4^16 times.
const SEEN_MIN: u32 = 16;

/// How long objects waited for their next use, of late.
#[derive(Debug, Default)]
pub(super) struct Horizon {
    /// Of the period that is not over.
    current: Longest,
    /// Of the period before.
    previous: Longest,
    /// When the period is over.
    end: Stamp,
}

/// The longest of several waits.
#[derive(Clone, Copy, Debug, Default)]
struct Longest {
    wait_bytes: u64,
    seen: u32,
}

impl Longest {
    fn known(self) -> Option<u64> {
        (self.seen >= SEEN_MIN).then_some(self.wait_bytes)
    }
}

impl Horizon {
    /// An object was used that had waited for it since `since`.
    pub(super) fn waited(&mut self, since: Stamp, now: Stamp) {
        self.current.wait_bytes = self.current.wait_bytes.max(now - since);
        self.current.seen = self.current.seen.saturating_add(1);
        if now >= self.end && self.current.known().is_some() {
            self.previous = std::mem::take(&mut self.current);
            self.end = now + self.previous.wait_bytes * WAITS;
        }
    }

    /// What was used last before this is used no more. 0 while nothing is known.
    pub(super) fn stale_before(&self, now: Stamp) -> Stamp {
        let longest = self.current.known().max(self.previous.known());
        longest.map_or(0, |wait_bytes| now.saturating_sub(wait_bytes * WAITS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_stale_until_enough_waits_were_seen() {
        let mut horizon = Horizon::default();
        for wait in 1..16 {
            horizon.waited(1000, 1000 + wait);
        }
        assert_eq!(horizon.stale_before(5000), 0);
        horizon.waited(900, 1020);
        assert_eq!(horizon.stale_before(5000), 5000 - 4 * 120);
    }

    #[test]
    fn long_waits_are_forgotten_two_periods_later() {
        let mut horizon = Horizon::default();
        let mut pass = |wait: u64, from: Stamp| {
            for now in from..from + 100 {
                horizon.waited(now - wait, now);
            }
            horizon.stale_before(from + 100)
        };
        assert_eq!(pass(1000, 10_000), 10_100 - 4000);
        assert_eq!(pass(10, 10_100), 10_200 - 4000, "the period before counts");
        assert_eq!(pass(10, 20_000), 20_100 - 4000, "and the whole of it");
        assert_eq!(pass(10, 30_000), 30_100 - 40);
    }
}
