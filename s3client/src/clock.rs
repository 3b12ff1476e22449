//! What time it is by the store's clock, which is what a signature must name.
//!
//! The two clocks are taken to agree until the store refuses a signature's time; what its answer says
//! then is believed from there on, by all cores.

use std::sync::atomic::{AtomicI64, Ordering};

use jiff::{SignedDuration, Timestamp};

/// Clocks that are less apart than this are not why a signature was refused: S3 allows a quarter of an
/// hour.
const APART_MIN_SECONDS: u64 = 60;

/// The difference between the store's clock and this machine's.
#[derive(Debug, Default)]
pub(crate) struct StoreClock {
    ahead_seconds: AtomicI64,
}

impl StoreClock {
    /// How far the store is believed to be ahead.
    pub(crate) fn ahead_seconds(&self) -> i64 {
        self.ahead_seconds.load(Ordering::Relaxed)
    }

    /// The time by the store's clock when this machine's says `now`.
    pub(crate) fn time(&self, now: Timestamp) -> Timestamp {
        let ahead = SignedDuration::from_secs(self.ahead_seconds());
        now.saturating_add(ahead).unwrap_or(now)
    }

    /// The store refused a signature that took it to be `asked_ahead_seconds` ahead, and says that it
    /// is `store_time` when this machine's clock says `now`. Whether that explains it, so that the same
    /// request can be made again.
    pub(crate) fn learn(
        &self,
        asked_ahead_seconds: i64,
        store_time: Timestamp,
        now: Timestamp,
    ) -> bool {
        let ahead_seconds = now.duration_until(store_time).as_secs();
        if ahead_seconds.abs_diff(asked_ahead_seconds) < APART_MIN_SECONDS {
            return false;
        }
        self.ahead_seconds.store(ahead_seconds, Ordering::Relaxed);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(seconds: i64) -> Timestamp {
        Timestamp::constant(1_000_000 + seconds, 0)
    }

    #[test]
    fn the_store_is_believed_once_it_has_refused_a_time() {
        let clock = StoreClock::default();
        assert_eq!(clock.time(at(0)), at(0));
        for ahead in [7200, -7200] {
            let asked = clock.ahead_seconds();
            assert!(clock.learn(asked, at(ahead), at(0)));
            assert_eq!(clock.time(at(5)), at(ahead + 5));
            assert!(clock.learn(asked, at(ahead), at(0)), "a request that was sent before");
        }
    }

    #[test]
    fn clocks_that_agree_do_not_explain_a_refusal() {
        let clock = StoreClock::default();
        assert!(!clock.learn(0, at(59), at(0)));
        assert!(clock.learn(0, at(3600), at(0)));
        assert!(!clock.learn(3600, at(3601), at(0)));
        assert_eq!(clock.ahead_seconds(), 3600);
    }
}
