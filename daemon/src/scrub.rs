//! The thread that reads the disk tier for damage: slowly now and then, and at once when asked.
//!
//! One pass at a time. A pass that is asked for ends the slow one; a second one that is asked for
//! meanwhile is the first.

use std::num::NonZeroU64;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tenderfs_cache::{Cache, VerifyCounts};
use tracing::{info, warn};

use crate::admin::model::{VerifyReport, VerifyState};
use crate::config::ScrubSettings;

/// How long after the start the first slow pass begins, at the latest: readers come first.
const FIRST_PASS_AFTER: Duration = Duration::from_mins(10);

/// What the thread and those who ask it share.
#[derive(Default)]
pub struct Scrub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    stopping: bool,
    /// Whether the pass in `last` was asked for and has not begun.
    asked: bool,
    last: Option<VerifyReport>,
}

impl State {
    /// Makes the report of a new pass; one that runs is cancelled by that.
    fn begin(&mut self, requested: bool) -> VerifyReport {
        let pass = self.last.as_ref().map_or(1, |last| last.pass + 1);
        let report = VerifyReport::new(pass, requested);
        self.last = Some(report.clone());
        report
    }

    fn running(&self) -> Option<&VerifyReport> {
        self.last.as_ref().filter(|last| last.state == VerifyState::Running)
    }
}

impl Scrub {
    /// Has all of the disk tier verified at full speed; joins the pass that does that already.
    pub fn request(&self) -> VerifyReport {
        let mut state = self.lock();
        if let Some(running) = state.running().filter(|running| running.requested) {
            return running.clone();
        }
        let report = state.begin(true);
        state.asked = true;
        self.changed.notify_all();
        report
    }

    /// The last pass; `None` if there was none.
    pub fn report(&self) -> Option<VerifyReport> {
        self.lock().last.clone()
    }

    /// Ends the pass that runs, if one does; returns the last one.
    pub fn cancel(&self) -> Option<VerifyReport> {
        let mut state = self.lock();
        if let Some(last) = state.last.as_mut().filter(|last| last.state == VerifyState::Running) {
            last.state = VerifyState::Cancelled;
            state.asked = false;
            self.changed.notify_all();
        }
        state.last.clone()
    }

    fn run(&self, cache: &Cache, settings: Option<ScrubSettings>) {
        let now = Instant::now();
        let mut due = settings.map(|slow| now + slow.period.min(FIRST_PASS_AFTER));
        while let Some(report) = self.next_pass(due) {
            let rate = settings.map(|slow| slow.rate_bytes_per_s).filter(|_| !report.requested);
            if !report.requested {
                due = settings.map(|slow| Instant::now() + slow.period);
            }
            self.carry_out(cache, report.pass, rate);
        }
    }

    /// Waits for a pass that is asked for or `due`; `None` if the daemon stops.
    fn next_pass(&self, due: Option<Instant>) -> Option<VerifyReport> {
        let mut state = self.lock();
        loop {
            if state.stopping {
                return None;
            }
            if std::mem::take(&mut state.asked) {
                return state.last.clone();
            }
            let left = due.map(|due| due.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                return Some(state.begin(false));
            }
            state = self.wait(state, left);
        }
    }

    fn carry_out(&self, cache: &Cache, pass: u64, rate: Option<NonZeroU64>) {
        let mut verification = match cache.verification() {
            Ok(verification) => verification,
            Err(error) => {
                warn!(%error, "the disk tier cannot be verified");
                self.cancel();
                return;
            }
        };
        let began = Instant::now();
        loop {
            let goes_on = verification.step();
            let counts = verification.counts();
            let pause = rate
                .filter(|_| goes_on)
                .map_or(Duration::ZERO, |rate| pause(counts.bytes_checked, rate, began.elapsed()));
            let state = if goes_on { VerifyState::Running } else { VerifyState::Done };
            if !self.note(pass, began.elapsed(), counts, state) {
                return;
            }
            if !self.rest(pass, pause) {
                return;
            }
        }
    }

    /// Notes how far `pass` is; false if it is over.
    fn note(&self, pass: u64, elapsed: Duration, counts: VerifyCounts, now: VerifyState) -> bool {
        let mut state = self.lock();
        let Some(last) = state.last.as_mut().filter(|last| last.pass == pass) else { return false };
        last.elapsed_seconds = elapsed.as_secs_f64();
        last.count(counts);
        if last.state == VerifyState::Running {
            last.state = now;
        }
        if last.state == VerifyState::Done {
            let VerifyReport { requested, blocks_checked, mismatches, .. } = last;
            info!(pass, requested, blocks_checked, mismatches, "verified the disk tier");
        }
        last.state == VerifyState::Running
    }

    /// Waits; false if `pass` is over or the daemon stops.
    fn rest(&self, pass: u64, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.lock();
        loop {
            if state.stopping || state.running().is_none_or(|running| running.pass != pass) {
                return false;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            state = self.wait(state, Some(left));
        }
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State>,
        at_most: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match at_most {
            Some(time) => {
                let waited = self.changed.wait_timeout(state, time);
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long to wait so that `bytes` since the beginning, `elapsed` ago, are no more than `rate` a
/// second.
fn pause(bytes: u64, rate: NonZeroU64, elapsed: Duration) -> Duration {
    let ms = u128::from(bytes) * 1000 / u128::from(rate.get());
    Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)).saturating_sub(elapsed)
}

/// The thread; ends when this is dropped.
pub(crate) struct Scrubber {
    scrub: Arc<Scrub>,
    thread: Option<JoinHandle<()>>,
}

impl Scrubber {
    /// Starts it. Without `settings` there are only passes that are asked for.
    pub(crate) fn start(
        scrub: &Arc<Scrub>,
        cache: &Cache,
        settings: Option<ScrubSettings>,
    ) -> std::io::Result<Self> {
        let (shared, cache) = (Arc::clone(scrub), cache.clone());
        let thread = std::thread::Builder::new()
            .name("tenderfs-scrub".to_owned())
            .spawn(move || shared.run(&cache, settings))?;
        Ok(Self { scrub: Arc::clone(scrub), thread: Some(thread) })
    }
}

impl Drop for Scrubber {
    fn drop(&mut self) {
        self.scrub.lock().stopping = true;
        self.scrub.changed.notify_all();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            warn!("the scrub thread ended by a panic");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_keeps_a_pass_at_its_rate() {
        let rate = NonZeroU64::new(4 << 20).unwrap();
        for (bytes, elapsed_ms, expected_ms) in [
            (0, 0, 0),
            (4 << 20, 0, 1000),
            (4 << 20, 300, 700),
            (4 << 20, 1500, 0),
            (u64::MAX, 0, u64::MAX / (4 << 20) * 1000 + 999),
        ] {
            let elapsed = Duration::from_millis(elapsed_ms);
            assert_eq!(pause(bytes, rate, elapsed), Duration::from_millis(expected_ms), "{bytes}");
        }
    }

    #[test]
    fn a_request_joins_one_that_runs_and_ends_a_slow_pass() {
        let scrub = Scrub::default();
        assert_eq!((scrub.report(), scrub.cancel()), (None, None));
        let slow = scrub.next_pass(Some(Instant::now())).unwrap();
        assert_eq!((slow.pass, slow.requested), (1, false));
        let asked = scrub.request();
        assert_eq!((asked.pass, asked.requested), (2, true));
        assert_eq!(scrub.request(), asked);
        let counts = VerifyCounts::default();
        assert!(!scrub.note(1, Duration::ZERO, counts, VerifyState::Running), "it is over");
        assert_eq!(scrub.next_pass(None), Some(asked));
        assert!(scrub.note(2, Duration::ZERO, counts, VerifyState::Running));
        assert_eq!(scrub.cancel().unwrap().state, VerifyState::Cancelled);
        assert!(!scrub.note(2, Duration::ZERO, counts, VerifyState::Done), "it is over");
        assert_eq!(scrub.report().unwrap().state, VerifyState::Cancelled);
        assert_eq!(scrub.request().pass, 3);
    }
}
