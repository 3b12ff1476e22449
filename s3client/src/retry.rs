//! Whether a failed request is made again, and after how long.
//!
//! Invariant: decides only. Time and chance are arguments.

use std::time::Duration;

use crate::error::Error;

/// How often and how soon a failed request is made again.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// Attempts of one request at most, the first included; at least 1.
    pub attempts_max: u32,
    /// The wait after the first failure; each further one doubles it.
    pub backoff_first: Duration,
    /// The longest wait, except where the store asks for a longer one.
    pub backoff_max: Duration,
}

/// How much depends on a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Importance {
    /// Somebody waits for the bytes: failures are retried by the policy.
    Demand,
    /// The bytes are only predicted: a failure is final, so that a store in trouble is spared.
    Prefetch,
}

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Make the request again after this long.
    Wait(Duration),
    /// Report the failure.
    GiveUp,
}

/// The attempts of one request.
#[derive(Debug)]
pub struct Retry {
    policy: RetryPolicy,
    importance: Importance,
    failures: u32,
}

impl Retry {
    /// A request that has not failed yet.
    pub fn new(policy: RetryPolicy, importance: Importance) -> Self {
        Self { policy, importance, failures: 0 }
    }

    /// Counts the failure by `error` and says what to do. `chance`, in 0..1, spreads waits over the
    /// upper half of the backoff so that clients that failed together do not return together;
    /// `left` is what remains of the whole deadline: a wait that would outlast it is not begun.
    pub fn next(&mut self, error: &Error, chance: f64, left: Duration) -> Verdict {
        self.failures = self.failures.saturating_add(1);
        if self.importance == Importance::Prefetch
            || !error.is_transient()
            || self.failures >= self.policy.attempts_max
        {
            return Verdict::GiveUp;
        }
        let doublings = (self.failures - 1).min(31);
        let backoff =
            self.policy.backoff_first.saturating_mul(1 << doublings).min(self.policy.backoff_max);
        let jittered = backoff.mul_f64(0.5 + 0.5 * chance.clamp(0.0, 1.0));
        // What the store asks for is the least; the jitter still spreads the clients it told the
        // same.
        let wait = match error.retry_after() {
            Some(asked) => asked.saturating_add(jittered / 2),
            None => jittered,
        };
        if wait >= left { Verdict::GiveUp } else { Verdict::Wait(wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_hours(1);

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn policy() -> RetryPolicy {
        RetryPolicy { attempts_max: 5, backoff_first: ms(100), backoff_max: ms(300) }
    }

    fn throttled(retry_after: Option<Duration>) -> Error {
        Error::Throttled { status: 503, retry_after }
    }

    #[track_caller]
    fn check(chance: f64, expected: &[Verdict]) {
        let mut retry = Retry::new(policy(), Importance::Demand);
        let verdicts: Vec<_> =
            expected.iter().map(|_| retry.next(&throttled(None), chance, LONG)).collect();
        assert_eq!(verdicts, expected);
    }

    #[test]
    fn waits_double_up_to_the_longest_and_end_with_the_attempts() {
        use Verdict::{GiveUp, Wait};
        check(1.0, &[Wait(ms(100)), Wait(ms(200)), Wait(ms(300)), Wait(ms(300)), GiveUp]);
        check(0.0, &[Wait(ms(50)), Wait(ms(100)), Wait(ms(150)), Wait(ms(150)), GiveUp]);
    }

    #[test]
    fn the_wait_the_store_asks_for_is_the_least() {
        let mut retry = Retry::new(policy(), Importance::Demand);
        let asked = throttled(Some(Duration::from_secs(2)));
        assert_eq!(retry.next(&asked, 0.0, LONG), Verdict::Wait(ms(2025)));
        assert_eq!(retry.next(&asked, 1.0, LONG), Verdict::Wait(ms(2100)));
    }

    #[test]
    fn a_wait_that_outlasts_the_deadline_is_not_begun() {
        let mut retry = Retry::new(policy(), Importance::Demand);
        let asked = throttled(Some(Duration::from_secs(2)));
        assert_eq!(retry.next(&asked, 0.0, ms(2025)), Verdict::GiveUp);
    }

    /// Proves V23.
    #[test]
    fn a_prefetch_fails_fast() {
        let mut retry = Retry::new(policy(), Importance::Prefetch);
        assert_eq!(retry.next(&throttled(None), 0.5, LONG), Verdict::GiveUp);
    }

    #[test]
    fn what_will_fail_again_is_not_asked_again() {
        let mut retry = Retry::new(policy(), Importance::Demand);
        let gone = Error::NotFound { bucket: "b".into(), key: "k".into() };
        assert_eq!(retry.next(&gone, 0.5, LONG), Verdict::GiveUp);
    }

    #[test]
    fn many_failures_do_not_overflow() {
        let policy =
            RetryPolicy { attempts_max: u32::MAX, backoff_first: LONG, backoff_max: Duration::MAX };
        let mut retry = Retry::new(policy, Importance::Demand);
        for _ in 0..100 {
            assert!(matches!(
                retry.next(&throttled(None), 0.0, Duration::MAX),
                Verdict::Wait(wait) if wait >= LONG / 2
            ));
        }
    }
}
