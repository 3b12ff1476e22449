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

/// Retries that a store may get which refuses, for each request that it serves.
const RETRIES_FOR_SERVED: f64 = 0.2;
/// Retries that it may get each second although it serves nothing.
const RETRIES_EACH_SECOND: f64 = 10.0;
/// Retries that may come together.
const RETRIES_TOGETHER: f64 = 50.0;

/// How many retries one bucket may get in all: a store in trouble is not helped by more requests than
/// it would get in good health. Retries beyond the budget wait.
#[derive(Debug)]
pub(crate) struct RetryBudget {
    retries: f64,
    filled: Duration,
}

impl RetryBudget {
    /// A store that has refused nothing yet.
    pub(crate) fn new() -> Self {
        Self { retries: RETRIES_TOGETHER, filled: Duration::ZERO }
    }

    /// The store has served a request.
    pub(crate) fn served(&mut self) {
        self.retries = (self.retries + RETRIES_FOR_SERVED).min(RETRIES_TOGETHER);
    }

    /// Takes one retry, which is in the budget after the wait returned.
    pub(crate) fn take(&mut self, now: Duration) -> Duration {
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.filled = now;
        self.retries = (self.retries + passed * RETRIES_EACH_SECOND).min(RETRIES_TOGETHER) - 1.0;
        Duration::from_secs_f64((-self.retries).max(0.0) / RETRIES_EACH_SECOND)
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

    #[test]
    fn retries_beyond_a_fifth_of_what_is_served_wait() {
        let second = Duration::from_secs(1);
        let mut budget = RetryBudget::new();
        // Every request is refused once, a hundred of them each second.
        let mut waits = Vec::new();
        for turn in 0..2000 {
            waits.push(budget.take(second * turn / 100));
            budget.served();
        }
        assert_eq!(waits[..50].iter().max(), Some(&Duration::ZERO));
        assert!(waits[1999] > second, "{:?}", waits[1999]);
        // One of ten is refused: every retry is in the budget.
        let mut budget = RetryBudget::new();
        for turn in 0..2000 {
            assert_eq!(budget.take(second * turn / 100), Duration::ZERO);
            (0..10).for_each(|_| budget.served());
        }
    }

    #[test]
    fn a_store_that_serves_nothing_gets_ten_retries_a_second() {
        let mut budget = RetryBudget::new();
        let start = Duration::from_secs(100);
        let due: Vec<_> = (0..250).map(|_| budget.take(start)).collect();
        assert_eq!(due[49], Duration::ZERO);
        assert_eq!(due[249], Duration::from_secs(20));
    }
}
