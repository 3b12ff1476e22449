//! When a request that is late gets a duplicate.
//!
//! A store that answers nearly always at once and sometimes after seconds is asked a second time, by
//! another connection, once a request has waited for twice as long as nine of ten of its kind do; the
//! first answer is taken (Dean and Barroso, "The Tail at Scale", 2013). Duplicates are at most one in
//! fifty requests, so that a store that is slow for everybody does not get twice the load.
//!
//! Invariant: decides only. How long requests took is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::signing::Ask;

/// Requests for each duplicate.
const REQUESTS_A_DUPLICATE: u32 = 50;
/// Duplicates that may come together.
const DUPLICATES_TOGETHER: u32 = 20;
/// Samples of a class below which nothing is known of it.
const SAMPLES_MIN: usize = 64;
/// Samples kept of a class, the newest: some seconds of a busy mount.
const SAMPLES_MAX: usize = 512;
/// Samples after which a class is looked at again.
const SAMPLES_A_LOOK: usize = 16;
/// The shortest wait: a busy machine is late by as much itself, and nobody notices less.
const WAIT_MIN: Duration = Duration::from_millis(50);

/// Requests that take about as long to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizeClass {
    /// The facts of an object.
    Head,
    /// A page of a listing.
    List,
    /// Up to 64 KiB of an object.
    Small,
    /// Up to 1 MiB.
    Medium,
    /// More.
    Large,
}

impl SizeClass {
    /// The class of `ask`.
    pub(crate) fn of(ask: &Ask<'_>) -> Self {
        match ask {
            Ask::Head { .. } => Self::Head,
            Ask::List(_) => Self::List,
            Ask::Get { range, .. } => match range.len_bytes() {
                0..=0x1_0000 => Self::Small,
                0x1_0001..=0x10_0000 => Self::Medium,
                _ => Self::Large,
            },
        }
    }
}

/// What is known of a bucket's latency, and how many duplicates it may get.
#[derive(Debug)]
pub(crate) struct Hedging {
    enabled: bool,
    classes: [Latencies; 5],
    /// Requests that no duplicate was paid from.
    requests: u32,
}

impl Hedging {
    /// A bucket of which nothing is known; no request to it is ever late unless `enabled`.
    pub(crate) fn new(enabled: bool) -> Self {
        Self { enabled, classes: Default::default(), requests: 0 }
    }

    /// How long a request of `class` that is sent now is waited for before it is late; `None`: too
    /// little is known.
    pub(crate) fn begin(&mut self, class: SizeClass) -> Option<Duration> {
        let requests_max = REQUESTS_A_DUPLICATE * DUPLICATES_TOGETHER;
        self.requests = (self.requests + 1).min(requests_max);
        self.classes[class as usize].late.filter(|_| self.enabled)
    }

    /// Takes the right to a duplicate, if there is one.
    pub(crate) fn take(&mut self) -> bool {
        let left = self.requests.checked_sub(REQUESTS_A_DUPLICATE);
        self.requests = left.unwrap_or(self.requests);
        left.is_some()
    }

    /// The head of an answer to a request of `class` came after `took`.
    pub(crate) fn answered(&mut self, class: SizeClass, took: Duration) {
        self.classes[class as usize].observe(took);
    }
}

/// How long the last requests of a class took.
#[derive(Debug, Default)]
struct Latencies {
    recent: VecDeque<Duration>,
    unseen: usize,
    late: Option<Duration>,
}

impl Latencies {
    fn observe(&mut self, took: Duration) {
        if self.recent.len() >= SAMPLES_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(took);
        self.unseen += 1;
        if self.recent.len() >= SAMPLES_MIN && self.unseen >= SAMPLES_A_LOOK {
            self.unseen = 0;
            self.late = Some((self.p90() * 2).max(WAIT_MIN));
        }
    }

    fn p90(&self) -> Duration {
        let mut sorted: Vec<_> = self.recent.iter().copied().collect();
        let at = sorted.len() * 9 / 10;
        *sorted.select_nth_unstable(at).1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// Observes `count` requests that took 1 ms to 100 ms, evenly.
    fn observe(hedging: &mut Hedging, class: SizeClass, count: u64) {
        for turn in 0..count {
            hedging.begin(class);
            hedging.answered(class, ms(turn * 37 % 100 + 1));
        }
    }

    #[test]
    fn a_request_is_late_after_twice_the_p90_of_its_class() {
        let mut hedging = Hedging::new(true);
        observe(&mut hedging, SizeClass::Small, 512);
        let late = hedging.begin(SizeClass::Small).unwrap();
        assert!((ms(176)..=ms(186)).contains(&late), "{late:?}");
        assert_eq!(hedging.begin(SizeClass::Large), None, "of which nothing is known");
    }

    #[test]
    fn nothing_is_late_where_hedging_is_off() {
        let mut hedging = Hedging::new(false);
        observe(&mut hedging, SizeClass::Small, 512);
        assert_eq!(hedging.begin(SizeClass::Small), None);
    }

    #[test]
    fn below_the_least_sample_nothing_is_late() {
        let mut hedging = Hedging::new(true);
        observe(&mut hedging, SizeClass::Small, SAMPLES_MIN as u64 - 1);
        assert_eq!(hedging.begin(SizeClass::Small), None);
        observe(&mut hedging, SizeClass::Small, 1);
        assert!(hedging.begin(SizeClass::Small).is_some());
    }

    #[test]
    fn a_store_that_becomes_slow_is_waited_for_longer() {
        let mut hedging = Hedging::new(true);
        observe(&mut hedging, SizeClass::Head, 512);
        for _ in 0..SAMPLES_MAX {
            hedging.answered(SizeClass::Head, ms(500));
        }
        assert_eq!(hedging.begin(SizeClass::Head), Some(ms(1000)));
    }

    #[test]
    fn a_near_store_is_waited_for_longer_than_a_busy_machine_is_late() {
        let mut hedging = Hedging::new(true);
        for _ in 0..100 {
            hedging.answered(SizeClass::Small, ms(0));
        }
        assert_eq!(hedging.begin(SizeClass::Small), Some(WAIT_MIN));
    }

    #[test]
    fn duplicates_are_one_in_fifty_however_many_are_late() {
        let mut hedging = Hedging::new(true);
        let mut duplicates = 0;
        for turn in 1..=10_000_u32 {
            hedging.begin(SizeClass::Small);
            duplicates += u32::from(hedging.take());
            assert!(duplicates * REQUESTS_A_DUPLICATE <= turn);
        }
        assert_eq!(duplicates, 200);
    }

    #[test]
    fn duplicates_are_not_saved_without_end() {
        let mut hedging = Hedging::new(true);
        observe(&mut hedging, SizeClass::Small, 100_000);
        let together = (0..1000).filter(|_| hedging.take()).count();
        assert_eq!(together, DUPLICATES_TOGETHER as usize);
    }
}
