//! How many requests a bucket is asked at once, and how many a second.
//!
//! Two things bound a store, and each has its own answer. A link that is full does not get faster by
//! more requests on it: the [`Window`] of requests in flight grows only while throughput does. A store
//! that counts requests says `SlowDown`: the [`Rate`] is then held to what it accepted, and grows again
//! as long as it says nothing. A window alone cannot hold a rate, for one request in flight is already
//! a thousand a second to a store that is a millisecond away.
//!
//! Prefetches leave the last quarter of the window, and never less than one request, to demand.
//!
//! Invariant: decides only. Time is an argument: what has passed since any one moment, the same for
//! all calls.

mod rate;
mod window;

use std::time::Duration;

use crate::retry::Importance;
use rate::Rate;
use window::Window;

/// What a request may do that wants to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admission {
    /// Be sent: it is counted as in flight.
    Go,
    /// Wait for another to end.
    Full,
    /// Ask again after this long, or when another ends.
    Wait(Duration),
    /// Not be sent at all: the store refuses everything, and nobody waits for this one.
    Refused,
}

/// What the store said to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    /// It was served, or refused for what it asks.
    Accepted,
    /// 503 or 429.
    SlowDown,
}

/// The requests in flight to one bucket, by all cores.
#[derive(Debug)]
pub(crate) struct Pace {
    window: Window,
    rate: Rate,
    in_flight: u32,
    prefetches: u32,
}

impl Pace {
    /// A bucket of which nothing was asked yet.
    pub(crate) fn new() -> Self {
        Self { window: Window::new(), rate: Rate::new(), in_flight: 0, prefetches: 0 }
    }

    /// Whether a request may be sent at `now`.
    pub(crate) fn admit(&mut self, importance: Importance, now: Duration) -> Admission {
        let prefetch = importance == Importance::Prefetch;
        if prefetch && self.rate.is_refused() {
            return Admission::Refused;
        }
        let window = self.window.requests();
        let prefetches_max = window - (window / 4).max(1);
        if self.in_flight >= window || (prefetch && self.prefetches >= prefetches_max) {
            self.window.was_full();
            return Admission::Full;
        }
        if let Some(wait) = self.rate.take(now) {
            return Admission::Wait(wait);
        }
        self.in_flight += 1;
        self.prefetches += u32::from(prefetch);
        Admission::Go
    }

    /// The head of an answer came at `now` to a request sent at `sent`.
    pub(crate) fn answered(&mut self, reply: Reply, sent: Duration, now: Duration) {
        match reply {
            Reply::Accepted => self.rate.accepted(now),
            Reply::SlowDown => self.rate.refused(sent, now),
        }
    }

    /// A request that was let go has ended, when `received_bytes` had come for all requests so far.
    pub(crate) fn ended(&mut self, importance: Importance, received_bytes: u64, now: Duration) {
        self.in_flight -= 1;
        self.prefetches -= u32::from(importance == Importance::Prefetch);
        self.window.ended(received_bytes, now);
    }

    /// Requests that may be in flight.
    pub(crate) fn window(&self) -> u32 {
        self.window.requests()
    }

    /// Requests a second that may be sent at `now`; `None`: any number.
    pub(crate) fn rate(&self, now: Duration) -> Option<f64> {
        self.rate.per_second(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    fn admitted(pace: &mut Pace, importance: Importance, count: u32) -> u32 {
        (0..count).map(|_| u32::from(pace.admit(importance, START) == Admission::Go)).sum()
    }

    /// Proves W11.
    #[test]
    fn prefetches_leave_a_quarter_of_the_window_to_demand() {
        let mut pace = Pace::new();
        let window = pace.window();
        assert_eq!(admitted(&mut pace, Importance::Prefetch, 1000), window - window / 4);
        assert_eq!(admitted(&mut pace, Importance::Demand, 1000), window / 4);
        assert_eq!(pace.admit(Importance::Demand, START), Admission::Full);
        pace.ended(Importance::Prefetch, 0, START);
        assert_eq!(pace.in_flight, window - 1);
        assert_eq!(pace.admit(Importance::Demand, START), Admission::Go);
        assert_eq!(pace.admit(Importance::Prefetch, START), Admission::Full);
    }

    #[test]
    fn a_store_that_refuses_everything_is_asked_by_demand_alone() {
        let mut pace = Pace::new();
        let second = Duration::from_secs(1);
        for turn in 0..10 {
            let now = second * turn;
            if pace.admit(Importance::Demand, now) == Admission::Go {
                pace.answered(Reply::SlowDown, now, now + second / 100);
                pace.answered(Reply::SlowDown, now, now + second / 100);
                pace.ended(Importance::Demand, 0, now + second / 100);
            }
        }
        assert_eq!(pace.admit(Importance::Prefetch, second * 10), Admission::Refused);
        assert_eq!(pace.admit(Importance::Demand, second * 12), Admission::Go);
        pace.answered(Reply::Accepted, second * 12, second * 12);
        assert_ne!(pace.admit(Importance::Prefetch, second * 13), Admission::Refused);
    }
}
