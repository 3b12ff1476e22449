//! Where the requests of all cores wait until their bucket's [`Pace`] lets them go.
//!
//! Demand and prefetch wait in a line each, in the order in which they came; only the first of a line
//! asks the pace. A prefetch lets all demand go before it that waits.

use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

use crate::bucket::Bucket;
use crate::counters::Counters;
use crate::error::Error;
use crate::pace::{Admission, Pace, Reply};
use crate::retry::{Importance, RetryBudget};

/// What all cores share of one bucket's pace.
pub(crate) struct Gate {
    /// The moment that the deciders count from.
    began: Instant,
    deciders: Mutex<Deciders>,
    demand: Line,
    prefetch: Line,
}

struct Deciders {
    pace: Pace,
    retries: RetryBudget,
}

#[derive(Default)]
struct Line {
    /// Held by the first of the line.
    turn: tokio::sync::Mutex<()>,
    /// A request has ended.
    room: Notify,
}

/// The right to have one request in flight; ends with its drop.
pub(crate) struct Pass {
    bucket: Arc<Bucket>,
    importance: Importance,
}

impl Gate {
    pub(crate) fn new() -> Self {
        let deciders = Deciders { pace: Pace::new(), retries: RetryBudget::new() };
        Self {
            began: Instant::now(),
            deciders: Mutex::new(deciders),
            demand: Line::default(),
            prefetch: Line::default(),
        }
    }

    /// Waits until a request to `bucket` may be sent.
    pub(crate) async fn pass(bucket: &Arc<Bucket>, importance: Importance) -> Result<Pass, Error> {
        let gate = bucket.gate();
        let line = match importance {
            Importance::Demand => &gate.demand,
            Importance::Prefetch => &gate.prefetch,
        };
        let _turn = line.turn.lock().await;
        loop {
            if importance == Importance::Prefetch && gate.demand.turn.try_lock().is_err() {
                drop(gate.demand.turn.lock().await);
            }
            let mut room = pin!(line.room.notified());
            room.as_mut().enable();
            let now = gate.began.elapsed();
            let admission = gate.deciders().pace.admit(importance, now);
            match admission {
                Admission::Go => return Ok(Pass::new(bucket, importance)),
                Admission::Full => room.await,
                // Whether room came or the time was over, the pace is asked again.
                Admission::Wait(wait) => drop(timeout(wait, room).await),
                Admission::Refused => {
                    let status = StatusCode::SERVICE_UNAVAILABLE.as_u16();
                    return Err(Error::Throttled { status, retry_after: None });
                }
            }
        }
    }

    /// The right to send a request to `bucket` at once, if nobody else waits for it.
    pub(crate) fn spare_pass(bucket: &Arc<Bucket>) -> Option<Pass> {
        let gate = bucket.gate();
        let _turn = gate.demand.turn.try_lock().ok()?;
        let now = gate.began.elapsed();
        let admission = gate.deciders().pace.admit(Importance::Demand, now);
        (admission == Admission::Go).then(|| Pass::new(bucket, Importance::Demand))
    }

    /// The store answered with `status` to a request sent at `sent`.
    pub(crate) fn answered(&self, status: StatusCode, sent: Instant, counters: &Counters) {
        let reply = match status.as_u16() {
            429 | 503 => Reply::SlowDown,
            // A store that fails says nothing of how much it takes.
            500.. => return,
            _ => Reply::Accepted,
        };
        let sent = sent.saturating_duration_since(self.began);
        let now = self.began.elapsed();
        let mut deciders = self.deciders();
        deciders.pace.answered(reply, sent, now);
        match reply {
            Reply::Accepted => deciders.retries.served(),
            Reply::SlowDown => counters.slow_downs.inc(),
        }
        #[allow(clippy::cast_possible_truncation, reason = "the cast saturates")]
        let per_second_max = deciders.pace.rate(now).map_or(0, |rate| rate as i64);
        counters.requests_per_second_max.set(per_second_max);
    }

    /// How much longer than its backoff a request must wait that failed by `error`.
    pub(crate) fn retry_wait(&self, error: &Error) -> Duration {
        if !error.is_refusal() {
            return Duration::ZERO;
        }
        let now = self.began.elapsed();
        self.deciders().retries.take(now)
    }

    fn deciders(&self) -> MutexGuard<'_, Deciders> {
        self.deciders.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass {
    fn new(bucket: &Arc<Bucket>, importance: Importance) -> Self {
        bucket.counters().in_flight.add(1);
        Self { bucket: Arc::clone(bucket), importance }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let (gate, counters) = (self.bucket.gate(), self.bucket.counters());
        let received_bytes = counters.bytes_received.get();
        let now = gate.began.elapsed();
        let in_flight_max = {
            let pace = &mut gate.deciders().pace;
            pace.ended(self.importance, received_bytes, now);
            pace.window()
        };
        counters.in_flight.add(-1);
        counters.in_flight_max.set(i64::from(in_flight_max));
        gate.demand.room.notify_waiters();
        gate.prefetch.room.notify_waiters();
    }
}
