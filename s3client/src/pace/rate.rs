//! How many requests a second a store takes that has said `SlowDown`.
//!
//! What the store accepted in the last second is what it takes. Requests are held to a tenth less, and
//! from there the rate follows a cubic curve: fast back towards what was accepted, level around it,
//! and then ever faster, for stores grow with their load (CUBIC, RFC 9438, which the adaptive mode of
//! the AWS SDKs uses for the same purpose). A minute without `SlowDown` ends the bound.
//!
//! A store that accepts nothing at all is asked ever less often, down to two requests a second. When it
//! accepts again, or the last second did not show what it takes, the rate doubles every fifth of a
//! second until it is what it was, or the store refuses.
//!
//! A few refusals among many answers are chance and not a bound: the request that met one waits, and
//! nobody else.

use std::collections::VecDeque;
use std::time::Duration;

/// What is kept of the accepted rate when the store refuses.
const KEPT: f64 = 0.9;
/// How steep the curve is, in requests a second to the power of four, and at least as a part of the
/// accepted rate: it is back there after about four seconds.
const STEEPNESS_MIN: f64 = 0.4;
const STEEPNESS_SHARE: f64 = 0.0016;
/// A store that accepts anything is not held to less than this.
const ACCEPTING_MIN: f64 = 20.0;
/// How often a store is asked that accepts nothing: often enough to see in time that it does again.
const REFUSING_MIN: f64 = 2.0;
/// How long the rate takes to double while nobody knows what a store takes.
const DOUBLING: Duration = Duration::from_millis(200);
/// How long a bound lasts without a refusal.
const BOUND_MAX: Duration = Duration::from_mins(1);
/// Refusals that are no chance: at least so many, and more than this part of all answers.
const REFUSALS_MIN: u32 = 2;
const REFUSALS_SHARE: f64 = 0.02;
/// What may be sent at once after a pause, as time at the present rate.
const BURST: Duration = Duration::from_millis(20);

/// The bound on requests a second.
#[derive(Debug)]
pub(super) struct Rate {
    answers: LastSecond,
    /// `None`: the store takes what it is sent.
    bound: Option<Bound>,
}

#[derive(Debug)]
struct Bound {
    /// What the store takes, as far as known, in requests a second; infinite if nothing is.
    taken: f64,
    phase: Phase,
    /// When it was lowered last; refusals of requests sent before say nothing new.
    lowered: Duration,
    /// Whether the store has accepted anything since.
    accepted: bool,
    /// Requests that may be sent at once.
    tokens: f64,
    filled: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    /// The store accepts: on the curve that began when the bound was lowered.
    Accepting,
    /// It accepts nothing.
    Refusing { per_second: f64 },
    /// It accepts, nobody knows how much: doubling since `since`, when it was sent `from` requests a
    /// second.
    Searching { from: f64, since: Duration },
}

impl Phase {
    /// From a little less than what was accepted on.
    fn searching(accepted_per_second: f64, now: Duration) -> Self {
        Self::Searching { from: accepted_per_second.max(ACCEPTING_MIN) * KEPT, since: now }
    }
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { answers: LastSecond::default(), bound: None }
    }

    /// Takes the right to send one request; how long to wait if there is none.
    pub(super) fn take(&mut self, now: Duration) -> Option<Duration> {
        let bound = self.bound.as_mut()?;
        if !bound.is_refusing() && now.saturating_sub(bound.lowered) > BOUND_MAX {
            self.bound = None;
            return None;
        }
        bound.take(now)
    }

    /// Whether the store refuses everything.
    pub(super) fn is_refused(&self) -> bool {
        self.bound.as_ref().is_some_and(Bound::is_refusing)
    }

    /// Requests that may be sent each second; `None`: any number.
    pub(super) fn per_second(&self, now: Duration) -> Option<f64> {
        self.bound.as_ref().map(|bound| bound.per_second(now))
    }

    /// The store answered.
    pub(super) fn accepted(&mut self, now: Duration) {
        self.answers.count(true, now);
        if let Some(bound) = &mut self.bound {
            bound.accepted(now);
        }
    }

    /// The store asked for fewer requests, when it was sent one at `sent`.
    pub(super) fn refused(&mut self, sent: Duration, now: Duration) {
        self.answers.count(false, now);
        let known = self.bound.as_ref().is_some_and(|bound| sent <= bound.lowered);
        if known || !self.answers.show_refusal() {
            return;
        }
        let accepted = self.answers.accepted_per_second();
        match &mut self.bound {
            Some(bound) => bound.lower(accepted, now),
            None => self.bound = Some(Bound::new(accepted, now)),
        }
        self.answers.forget_refusals();
    }
}

impl Bound {
    fn new(accepted_per_second: f64, now: Duration) -> Self {
        let phase = if accepted_per_second > 0.0 {
            Phase::searching(accepted_per_second, now)
        } else {
            Phase::Refusing { per_second: ACCEPTING_MIN }
        };
        Self {
            taken: f64::INFINITY,
            phase,
            lowered: now,
            accepted: false,
            tokens: 0.0,
            filled: now,
        }
    }

    fn is_refusing(&self) -> bool {
        matches!(self.phase, Phase::Refusing { .. })
    }

    fn accepted(&mut self, now: Duration) {
        self.accepted = true;
        if let Phase::Refusing { per_second } = self.phase {
            self.phase = Phase::Searching { from: per_second, since: now };
        }
    }

    /// The store refused again, although it was sent no more than the bound allows.
    fn lower(&mut self, accepted_per_second: f64, now: Duration) {
        let present = self.per_second(now);
        let accepted = accepted_per_second.max(ACCEPTING_MIN);
        self.phase = match self.phase {
            _ if !self.accepted => {
                Phase::Refusing { per_second: (present / 2.0).max(REFUSING_MIN) }
            }
            Phase::Searching { .. } => {
                self.taken = present.max(ACCEPTING_MIN);
                Phase::Accepting
            }
            // So little came in the last second because so little was sent, or the store has become
            // much slower: that second does not say what it takes.
            Phase::Accepting | Phase::Refusing { .. } if accepted < present / 2.0 => {
                self.taken = present;
                Phase::searching(accepted, now)
            }
            Phase::Accepting | Phase::Refusing { .. } => {
                self.taken = accepted.min(present);
                Phase::Accepting
            }
        };
        self.lowered = now;
        self.accepted = false;
        self.tokens = 0.0;
        self.filled = now;
    }

    fn per_second(&self, now: Duration) -> f64 {
        match self.phase {
            Phase::Accepting => curve(self.taken, now.saturating_sub(self.lowered)),
            Phase::Refusing { per_second } => per_second,
            Phase::Searching { from, since } => {
                let doublings = now.saturating_sub(since).div_duration_f64(DOUBLING);
                (from * doublings.min(32.0).exp2()).min(self.taken * KEPT)
            }
        }
    }

    fn take(&mut self, now: Duration) -> Option<Duration> {
        let per_second = self.per_second(now);
        if matches!(self.phase, Phase::Searching { .. }) && per_second >= self.taken * KEPT {
            self.phase = Phase::Accepting;
            self.lowered = now;
        }
        let room = (per_second * BURST.as_secs_f64()).max(1.0);
        let passed = now.saturating_sub(self.filled).as_secs_f64();
        self.tokens = (self.tokens + passed * per_second).min(room);
        self.filled = now;
        if self.tokens < 1.0 {
            return Some(Duration::from_secs_f64((1.0 - self.tokens) / per_second));
        }
        self.tokens -= 1.0;
        None
    }
}

/// The rate `since` a store that takes `taken` requests a second has last refused one.
fn curve(taken: f64, since: Duration) -> f64 {
    let steepness = STEEPNESS_MIN.max(taken * STEEPNESS_SHARE);
    let level_seconds = (taken * (1.0 - KEPT) / steepness).cbrt();
    taken + steepness * (since.as_secs_f64() - level_seconds).powi(3)
}

const TENTHS: usize = 10;
const TENTH: Duration = Duration::from_millis(100);

/// The answers of the last second, by tenths of it.
#[derive(Debug, Default)]
struct LastSecond {
    /// Answers accepted and refused in each tenth; the tenth counted now is at the front.
    tenths: VecDeque<(u32, u32)>,
    /// The number of the tenth counted now.
    present: u128,
}

impl LastSecond {
    fn count(&mut self, accepted: bool, now: Duration) {
        let tenth = now.as_nanos() / TENTH.as_nanos();
        let passed = usize::try_from(tenth.saturating_sub(self.present)).unwrap_or(TENTHS);
        if self.tenths.is_empty() || passed >= TENTHS {
            self.tenths.clear();
            self.tenths.push_front((0, 0));
        } else {
            (0..passed).for_each(|_| self.tenths.push_front((0, 0)));
            self.tenths.truncate(TENTHS);
        }
        self.present = self.present.max(tenth);
        if let Some((taken, refused)) = self.tenths.front_mut() {
            *(if accepted { taken } else { refused }) += 1;
        }
    }

    /// Requests accepted each second, since the first answer if that is less than a second ago.
    fn accepted_per_second(&self) -> f64 {
        let accepted: u32 = self.tenths.iter().map(|tenth| tenth.0).sum();
        let tenths = u32::try_from(self.tenths.len().max(1)).unwrap_or(1);
        f64::from(accepted) / (TENTH * tenths).as_secs_f64()
    }

    /// Whether the store refused more than chance explains.
    fn show_refusal(&self) -> bool {
        let accepted: u32 = self.tenths.iter().map(|tenth| tenth.0).sum();
        let refused: u32 = self.tenths.iter().map(|tenth| tenth.1).sum();
        refused >= REFUSALS_MIN
            && f64::from(refused) > f64::from(accepted + refused) * REFUSALS_SHARE
    }

    fn forget_refusals(&mut self) {
        self.tenths.iter_mut().for_each(|tenth| tenth.1 = 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);

    /// A store that takes so many requests a second, evenly or a tenth of them at once.
    struct Store {
        per_second: f64,
        room: f64,
        asked: Duration,
    }

    impl Store {
        fn new(per_second: f64) -> Self {
            Self { per_second, room: per_second / 10.0, asked: Duration::ZERO }
        }

        fn takes(&mut self, now: Duration) -> bool {
            let passed = now.saturating_sub(self.asked).as_secs_f64();
            self.asked = now;
            self.room = (self.room + passed * self.per_second).min(self.per_second / 10.0);
            let takes = self.room >= 1.0;
            self.room -= f64::from(u8::from(takes));
            takes
        }
    }

    /// What readers who always want more get of a store whose answers take `latency`: requests
    /// accepted and refused, in each of `seconds`.
    fn course(
        rate: &mut Rate,
        from: Duration,
        seconds: u32,
        latency: Duration,
        takes: &mut impl FnMut(Duration) -> bool,
    ) -> Vec<(u32, u32)> {
        let mut sent = VecDeque::new();
        let mut answers = vec![(0, 0); seconds as usize];
        for tick in 0..seconds * 1000 {
            let now = from + MS * tick;
            while let Some((at, taken)) = sent.pop_front_if(|(at, _)| *at + latency <= now) {
                if taken {
                    rate.accepted(now);
                } else {
                    rate.refused(at, now);
                }
                let second = &mut answers[(tick / 1000) as usize];
                *(if taken { &mut second.0 } else { &mut second.1 }) += 1;
            }
            while sent.len() < 64 && rate.take(now).is_none() {
                sent.push_back((now, takes(now)));
            }
        }
        answers
    }

    #[track_caller]
    fn check_limit(per_second: f64, latency: Duration) {
        let mut rate = Rate::new();
        let mut store = Store::new(per_second);
        let answers = course(&mut rate, Duration::ZERO, 65, latency, &mut |now| store.takes(now));
        let settled = &answers[5..];
        let accepted: u32 = settled.iter().map(|second| second.0).sum();
        let refused: u32 = settled.iter().map(|second| second.1).sum();
        let share = f64::from(accepted) / (60.0 * per_second);
        assert!(share >= 0.93, "{per_second}/s, {latency:?}: only {share} of what it takes");
        let refusals = f64::from(refused) / f64::from(accepted + refused);
        assert!(refusals < 0.02, "{per_second}/s, {latency:?}: {refusals} refused");
    }

    #[test]
    fn a_store_that_counts_requests_is_asked_for_as_many_as_it_takes() {
        for latency in [MS, 20 * MS, 100 * MS] {
            check_limit(200.0, latency);
        }
        check_limit(50.0, 20 * MS);
        check_limit(3000.0, 5 * MS);
    }

    #[test]
    fn a_store_that_refuses_everything_is_hardly_asked_and_recovers_at_once() {
        let mut rate = Rate::new();
        let mut store = Store::new(200.0);
        course(&mut rate, Duration::ZERO, 10, 10 * MS, &mut |now| store.takes(now));
        let minute = course(&mut rate, 10 * SECOND, 60, 10 * MS, &mut |_| false);
        let asked: u32 = minute.iter().map(|second| second.0 + second.1).sum();
        assert!((60..400).contains(&asked), "asked {asked} times");
        let after = course(&mut rate, 70 * SECOND, 5, 10 * MS, &mut |now| store.takes(now));
        assert!(after[3].0 >= 160, "{after:?}");
    }

    #[test]
    fn a_store_that_takes_less_or_more_than_before_is_followed() {
        let mut rate = Rate::new();
        let mut store = Store::new(400.0);
        course(&mut rate, Duration::ZERO, 20, 10 * MS, &mut |now| store.takes(now));
        store.per_second = 100.0;
        let less = course(&mut rate, 20 * SECOND, 10, 10 * MS, &mut |now| store.takes(now));
        let accepted: u32 = less[4..].iter().map(|second| second.0).sum();
        let refused: u32 = less[4..].iter().map(|second| second.1).sum();
        assert!(accepted >= 540 && refused < 30, "{less:?}");
        store.per_second = 2000.0;
        let more = course(&mut rate, 30 * SECOND, 40, 10 * MS, &mut |now| store.takes(now));
        assert!(more[39].0 >= 1800, "{more:?}");
    }

    #[test]
    fn refusals_by_chance_bind_nobody() {
        let mut rate = Rate::new();
        let mut asked = 0_u32;
        let mut one_in_a_hundred = |_| {
            asked += 1;
            !asked.is_multiple_of(100)
        };
        course(&mut rate, Duration::ZERO, 5, 10 * MS, &mut one_in_a_hundred);
        assert_eq!(rate.per_second(5 * SECOND), None);
        // A single refusal between few answers is one too.
        let mut rate = Rate::new();
        rate.accepted(Duration::ZERO);
        rate.refused(MS, 2 * MS);
        assert_eq!(rate.per_second(2 * MS), None);
    }

    #[test]
    fn a_bound_ends_a_minute_after_the_last_refusal() {
        let mut rate = Rate::new();
        for _ in 0..10 {
            rate.accepted(MS);
            rate.refused(MS, MS);
        }
        assert!(rate.per_second(SECOND).is_some());
        assert_eq!(rate.take(BOUND_MAX + SECOND), None);
        assert_eq!(rate.per_second(BOUND_MAX + SECOND), None);
    }
}
