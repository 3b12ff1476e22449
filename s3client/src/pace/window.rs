//! How many requests may be in flight: as many as make the bucket's throughput grow.
//!
//! Judged from epoch to epoch, each as long as it takes for a whole window of requests to end. While
//! throughput grows, so does the window: doubled at first, by an eighth later. A step that brought
//! nothing is taken back, and tried again after a while, for links and stores change. Where throughput
//! falls by a third, a quarter of the window goes. An epoch in which the window was never full says
//! nothing about it.

use std::time::Duration;

/// The window of a bucket of which nothing is known, and the least that a slow link shrinks it to.
/// Slow beginnings cost more than a few requests too many.
const REQUESTS_FIRST: u32 = 32;
/// The largest window.
const REQUESTS_MAX: u32 = 1024;
/// The shortest epoch: below it, chance is larger than what a step brings.
const EPOCH_MIN: Duration = Duration::from_millis(100);
/// What a request counts for beside its bytes, so that many small ones are work too: about what one
/// connection to S3 carries in the time of one first byte.
const REQUEST_WORK_BYTES: u64 = 64 << 10;
/// Growth of throughput that is more than chance.
const GROWN: f64 = 1.05;
/// A fall that says that the link or the store has become slower.
const FALLEN: f64 = 0.67;
/// Epochs without growth until a larger window is tried again.
const HOLD_EPOCHS: u32 = 8;

/// A window of requests in flight.
#[derive(Debug)]
pub(super) struct Window {
    requests: u32,
    /// What the window was before the last step; `None` once that step was judged.
    before: Option<u32>,
    /// Whether steps still double it.
    doubling: bool,
    /// The best throughput lately, in bytes of work a second.
    best: f64,
    held_epochs: u32,
    epoch: Epoch,
}

#[derive(Debug, Default)]
struct Epoch {
    /// `None` until its first request ends.
    began: Option<Duration>,
    began_bytes: u64,
    ended_requests: u32,
    was_full: bool,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            requests: REQUESTS_FIRST,
            before: None,
            doubling: true,
            best: 0.0,
            held_epochs: 0,
            epoch: Epoch::default(),
        }
    }

    /// Requests that may be in flight.
    pub(super) fn requests(&self) -> u32 {
        self.requests
    }

    /// A request found no room.
    pub(super) fn was_full(&mut self) {
        self.epoch.was_full = true;
    }

    /// A request has ended when `received_bytes` had come in all.
    pub(super) fn ended(&mut self, received_bytes: u64, now: Duration) {
        let epoch = &mut self.epoch;
        let Some(began) = epoch.began else {
            epoch.began = Some(now);
            epoch.began_bytes = received_bytes;
            return;
        };
        epoch.ended_requests += 1;
        let elapsed = now.saturating_sub(began);
        if epoch.ended_requests < self.requests || elapsed < EPOCH_MIN {
            return;
        }
        let work_bytes = received_bytes.saturating_sub(epoch.began_bytes)
            + u64::from(epoch.ended_requests) * REQUEST_WORK_BYTES;
        let was_full = epoch.was_full;
        self.epoch = Epoch { began: Some(now), began_bytes: received_bytes, ..Epoch::default() };
        if was_full {
            #[allow(clippy::cast_precision_loss, reason = "an estimate")]
            self.judge(work_bytes as f64 / elapsed.as_secs_f64());
        }
    }

    /// Chooses the window of the next epoch by the throughput of the last one.
    fn judge(&mut self, throughput: f64) {
        let before = self.before.take();
        if throughput > self.best * GROWN {
            self.best = throughput;
            self.held_epochs = 0;
            self.grow();
            return;
        }
        self.doubling = false;
        if throughput < self.best * FALLEN {
            self.best = throughput;
            self.held_epochs = 0;
            self.requests = (self.requests - self.requests / 4).max(REQUESTS_FIRST);
            return;
        }
        // What was best once is forgotten slowly.
        self.best += (throughput - self.best) / 8.0;
        if let Some(before) = before {
            self.requests = before;
        }
        self.held_epochs += 1;
        if self.held_epochs >= HOLD_EPOCHS {
            self.held_epochs = 0;
            self.grow();
        }
    }

    fn grow(&mut self) {
        self.before = Some(self.requests);
        let step = if self.doubling { self.requests } else { self.requests / 8 };
        self.requests = (self.requests + step).min(REQUESTS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The windows of `epochs` epochs over a link on which `throughput` says how many requests of
    /// 1 MiB a second end with a window.
    fn course(
        window: &mut Window,
        began: Duration,
        epochs: u32,
        throughput: impl Fn(u32) -> u32,
    ) -> Duration {
        let mut now = began;
        let mut received_bytes = 0;
        for _ in 0..epochs {
            let requests = window.requests();
            let each = Duration::from_secs(1) / throughput(requests);
            let wanted = (0..).map(|ended| each * ended).take_while(|time| *time <= EPOCH_MIN);
            let count = u32::try_from(wanted.count()).unwrap().max(requests) + 1;
            for _ in 0..count {
                window.was_full();
                now += each;
                received_bytes += 1 << 20;
                window.ended(received_bytes, now);
            }
        }
        now
    }

    #[test]
    fn the_window_grows_as_long_as_throughput_does() {
        // 20 requests a second each, and the link is full at 2000 a second: by 100 in flight.
        let mut window = Window::new();
        let link = |requests: u32| (requests * 20).min(2000);
        course(&mut window, Duration::ZERO, 100, link);
        assert!((100..=160).contains(&window.requests()), "{}", window.requests());
    }

    #[test]
    fn a_full_link_keeps_the_first_window() {
        let mut window = Window::new();
        course(&mut window, Duration::ZERO, 100, |_| 500);
        assert!(window.requests() <= REQUESTS_FIRST * 9 / 8, "{}", window.requests());
    }

    #[test]
    fn a_link_that_becomes_slow_shrinks_the_window_and_a_fast_one_lets_it_grow() {
        let mut window = Window::new();
        let now = course(&mut window, Duration::ZERO, 50, |requests| requests * 20);
        let large = window.requests();
        assert_eq!(large, REQUESTS_MAX);
        let now = course(&mut window, now, 1, |_| 200);
        assert!(window.requests() < large, "{}", window.requests());
        course(&mut window, now, 200, |requests| requests * 20);
        assert_eq!(window.requests(), REQUESTS_MAX);
    }

    #[test]
    fn an_epoch_that_never_filled_the_window_changes_nothing() {
        let mut window = Window::new();
        for turn in 0..100_000_u32 {
            window.ended(u64::from(turn) << 20, Duration::from_millis(1) * turn);
        }
        assert_eq!(window.requests(), REQUESTS_FIRST);
    }
}
