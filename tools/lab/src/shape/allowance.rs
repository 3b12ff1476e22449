//! A decider of which requests the lab has room for: so many a second, as S3 allows a prefix.
//!
//! The generic cell rate algorithm: each request that is let in moves the time at which the allowance
//! would be used up exactly; a request is refused when that time lies too far ahead.

/// How much of the allowance may be used at once.
const BURST_NS: u64 = 100_000_000;

/// What is left of an allowance. All times are nanoseconds on one clock.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    /// When a store that is asked evenly would have let in all requests so far.
    used_up_ns: u64,
}

impl Allowance {
    /// Whether a request is let in. 0 requests a second is none.
    pub(crate) fn take(&mut self, now_ns: u64, requests_per_second: u64) -> bool {
        let Some(each_ns) = 1_000_000_000_u64.checked_div(requests_per_second) else {
            return false;
        };
        let used_up_ns = self.used_up_ns.max(now_ns) + each_ns;
        let room = used_up_ns <= now_ns.saturating_add(BURST_NS.max(each_ns));
        if room {
            self.used_up_ns = used_up_ns;
        }
        room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// Requests let in of one each `step_ns` for ten seconds.
    #[track_caller]
    fn check(requests_per_second: u64, step_ns: u64, expected: std::ops::RangeInclusive<usize>) {
        let mut allowance = Allowance::default();
        let asked = (0..10_000 * MS).step_by(usize::try_from(step_ns).unwrap());
        let taken = asked.filter(|now| allowance.take(*now, requests_per_second)).count();
        assert!(expected.contains(&taken), "{requests_per_second}/s each {step_ns} ns: {taken}");
    }

    #[test]
    fn so_many_are_let_in_and_the_rest_is_refused() {
        check(200, MS, 2019..=2021);
        check(200, 5 * MS, 2000..=2000);
        check(200, 10 * MS, 1000..=1000);
        check(1, MS, 10..=11);
        check(0, MS, 0..=0);
    }

    #[test]
    fn an_allowance_that_was_not_used_is_saved_for_a_tenth_of_a_second() {
        let mut allowance = Allowance::default();
        let at_once = (0..1000).filter(|_| allowance.take(60_000 * MS, 200)).count();
        assert_eq!(at_once, 20);
    }
}
