//! Faults to order: which request meets which fault.
//!
//! A rule names the requests it is for and what happens to them. Rules are asked in the order they were
//! added, and the first that applies decides. Nothing here is left to a hidden chance: a probability is
//! drawn from the rule's seed and the number of requests that the rule has seen.

mod pattern;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

pub use self::pattern::KeyPattern;
use crate::content::{fraction, mix};
use crate::request::{Facts, Operation};
use crate::shape::Latency;

/// What goes wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// An error is answered in place of the operation.
    Status {
        /// HTTP status.
        code: u16,
        /// Seconds in a `Retry-After` header.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// As `Status`, with an error code in the body that does not follow from the status.
    S3Error {
        /// HTTP status.
        code: u16,
        /// The error code, such as `ExpiredToken`.
        error_code: String,
    },
    /// The store's clock is behind: requests that are signed for another time than its own, by five
    /// minutes or more, are refused, and the `Date` of every such answer is its own. Other requests are
    /// served, as long as it is less than a quarter of an hour behind.
    ClockBehind {
        /// By how much.
        seconds: u32,
    },
    /// A redirect is answered in place of the operation.
    Redirect {
        /// HTTP status: 301, 302, 307 or 308.
        code: u16,
        /// The `Location` header.
        location: String,
    },
    /// The connection is reset (RST) before any byte of the answer.
    ResetBeforeHeaders,
    /// The connection is reset when this many bytes of the head have been sent.
    ResetInHeaders {
        /// Bytes sent before.
        after_bytes: u64,
    },
    /// The connection is reset when this many bytes of the body have been sent; with the length of the
    /// body or more, it is reset behind the last byte.
    ResetInBody {
        /// Bytes sent before.
        after_bytes: u64,
    },
    /// The connection is closed in good order (FIN) when this many bytes of the body have been sent.
    Truncate {
        /// Bytes sent before.
        after_bytes: u64,
    },
    /// `Content-Length` is off by this: if more is promised than sent the connection is closed behind
    /// the body, if less the body ends early.
    WrongContentLength {
        /// Added to the true length.
        by: i64,
    },
    /// `Content-Length` and body are longer than what was asked for.
    TooLong {
        /// Bytes of zeros at the end.
        extra_bytes: u64,
    },
    /// The body has no `Content-Length`: it is chunked, and the connection closes behind it.
    NoContentLength,
    /// The range answered is not the range asked for but one that begins a byte later (or earlier, at
    /// the end of the object); `Content-Range` says so.
    WrongRange,
    /// `Content-Range` names the range asked for, but a size of the object that is one too large.
    WrongTotal,
    /// The `Range` header is ignored: 200 with the whole object.
    FullBodyFor206,
    /// Nothing is ever answered.
    HangBeforeHeaders,
    /// Nothing comes after this many bytes of the body.
    HangInBody {
        /// Bytes sent before.
        after_bytes: u64,
    },
    /// The body comes this slowly.
    Drip {
        /// Bytes a second; 0 is taken as 1.
        bytes_per_second: u64,
    },
    /// The first byte comes later by this, on top of what the shape says.
    Slow {
        /// The time it takes longer.
        first_byte: Latency,
    },
    /// The lowest bit of one byte of the body is flipped.
    FlipBit {
        /// Offset in the body; the last byte if it lies behind the end.
        offset: u64,
    },
    /// The ETag in the headers is another one with each request; the bytes are right.
    EtagChanges,
    /// `If-Match` is ignored: the object is served as it is now.
    IgnoreIfMatch,
    /// A listing that is not as S3's are.
    MalformedListing(Malformation),
    /// A listing without end.
    EndlessListing(Endless),
}

/// What is wrong with a listing's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Malformation {
    /// The XML ends in the middle.
    CutOff,
    /// It is no XML at all.
    NotXml,
    /// It is XML of another kind.
    OtherRoot,
    /// Entries have no ETags.
    NoEtags,
    /// Sizes are no numbers.
    BadSizes,
    /// Elements are nested 100 000 deep.
    DeeplyNested,
    /// It declares entities that expand to gigabytes.
    EntityBomb,
    /// It holds bytes that are not UTF-8.
    NotUtf8,
}

/// How a listing never ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endless {
    /// Every page is the first, with the same token.
    SameToken,
    /// Every page is the first, with a new token.
    SamePage,
    /// Every page is empty, with a new token.
    EmptyPages,
}

impl Fault {
    /// The fault's name, as ledger and control endpoint write it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Status { .. } => "status",
            Self::S3Error { .. } => "s3_error",
            Self::ClockBehind { .. } => "clock_behind",
            Self::Redirect { .. } => "redirect",
            Self::ResetBeforeHeaders => "reset_before_headers",
            Self::ResetInHeaders { .. } => "reset_in_headers",
            Self::ResetInBody { .. } => "reset_in_body",
            Self::Truncate { .. } => "truncate",
            Self::WrongContentLength { .. } => "wrong_content_length",
            Self::TooLong { .. } => "too_long",
            Self::NoContentLength => "no_content_length",
            Self::WrongRange => "wrong_range",
            Self::WrongTotal => "wrong_total",
            Self::FullBodyFor206 => "full_body_for206",
            Self::HangBeforeHeaders => "hang_before_headers",
            Self::HangInBody { .. } => "hang_in_body",
            Self::Drip { .. } => "drip",
            Self::Slow { .. } => "slow",
            Self::FlipBit { .. } => "flip_bit",
            Self::EtagChanges => "etag_changes",
            Self::IgnoreIfMatch => "ignore_if_match",
            Self::MalformedListing(_) => "malformed_listing",
            Self::EndlessListing(_) => "endless_listing",
        }
    }

    /// A 503 `SlowDown` without `Retry-After`.
    pub const fn slow_down() -> Self {
        Self::status(503)
    }

    /// This status, with the error code that S3 gives with it and without `Retry-After`.
    pub const fn status(code: u16) -> Self {
        Self::Status { code, retry_after: None }
    }
}

/// Which of the requests that a rule is for meet its fault. They are counted from 1 for each rule.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum When {
    /// All.
    #[default]
    Always,
    /// Those with these numbers.
    Nth(Vec<u64>),
    /// Those with this number or a greater one.
    From(u64),
    /// Those whose number divides by this; 0 is none.
    Every(u64),
    /// Each with this probability.
    Probability {
        /// 0.0 is none, 1.0 all.
        probability: f64,
        /// The same seed hits the same numbers.
        #[serde(default)]
        seed: u64,
    },
}

impl When {
    /// Whether it hits the request with this number.
    pub fn hits(&self, number: u64) -> bool {
        match self {
            Self::Always => true,
            Self::Nth(numbers) => numbers.contains(&number),
            Self::From(first) => number >= *first,
            Self::Every(step) => *step > 0 && number.is_multiple_of(*step),
            Self::Probability { probability, seed } => {
                fraction(mix(mix(*seed).wrapping_add(number))) < *probability
            }
        }
    }
}

/// Which requests a rule is for. What is not given matches all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Match {
    /// The operation.
    pub operation: Option<Operation>,
    /// The bucket.
    pub bucket: Option<String>,
    /// The key, or the prefix that is listed.
    pub key: KeyPattern,
    /// Which of the requests that match all that.
    pub when: When,
}

/// A fault and the requests that meet it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Which requests.
    #[serde(default)]
    pub on: Match,
    /// How often at most; `None` is without end.
    #[serde(default)]
    pub times: Option<u64>,
    /// What happens.
    pub fault: Fault,
}

impl FaultRule {
    /// This fault for every request.
    pub fn new(fault: Fault) -> Self {
        Self { on: Match::default(), times: None, fault }
    }

    /// Only for this operation.
    #[must_use]
    pub fn operation(mut self, operation: Operation) -> Self {
        self.on.operation = Some(operation);
        self
    }

    /// Only in this bucket.
    #[must_use]
    pub fn bucket(mut self, bucket: impl Into<String>) -> Self {
        self.on.bucket = Some(bucket.into());
        self
    }

    /// Only for this key.
    #[must_use]
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.on.key = KeyPattern::Exact(key.into());
        self
    }

    /// Only for keys that begin so.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.on.key = KeyPattern::Prefix(prefix.into());
        self
    }

    /// Only for keys like this; see [`KeyPattern::Glob`].
    #[must_use]
    pub fn glob(mut self, pattern: impl Into<String>) -> Self {
        self.on.key = KeyPattern::Glob(pattern.into());
        self
    }

    /// Only for the request with this number, of those that match otherwise; the first is 1.
    #[must_use]
    pub fn nth(mut self, number: u64) -> Self {
        self.on.when = When::Nth(vec![number]);
        self
    }

    /// Only when this says so.
    #[must_use]
    pub fn when(mut self, when: When) -> Self {
        self.on.when = when;
        self
    }

    /// Only with this probability.
    #[must_use]
    pub fn probability(mut self, probability: f64, seed: u64) -> Self {
        self.on.when = When::Probability { probability, seed };
        self
    }

    /// Only so often.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = Some(times);
        self
    }

    fn is_for(&self, facts: &Facts) -> bool {
        let on = &self.on;
        on.operation.is_none_or(|operation| operation == facts.operation)
            && on.bucket.as_ref().is_none_or(|bucket| **bucket == *facts.bucket)
            && on.key.matches(&facts.key)
    }
}

/// Names a rule that was added.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FaultId(pub u64);

/// A rule with what it has done so far.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ActiveRule {
    /// Names the rule.
    pub id: FaultId,
    /// The rule.
    pub rule: FaultRule,
    /// Requests that matched it but for [`Match::when`].
    pub seen: u64,
    /// Requests that met its fault.
    pub met: u64,
}

/// The rules in force. Clones are the same rules.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    rules: Mutex<Rules>,
    /// Number of rules, so that a lab without any takes no lock.
    count: AtomicUsize,
}

#[derive(Debug, Default)]
struct Rules {
    active: Vec<ActiveRule>,
    next: u64,
}

impl Faults {
    /// Adds a rule behind those that are there.
    pub fn add(&self, rule: FaultRule) -> FaultId {
        let mut rules = self.rules();
        let id = FaultId(rules.next);
        rules.next += 1;
        rules.active.push(ActiveRule { id, rule, seen: 0, met: 0 });
        self.shared.count.store(rules.active.len(), Ordering::Release);
        id
    }

    /// Takes a rule away; `false` if it is gone.
    pub fn remove(&self, id: FaultId) -> bool {
        let mut rules = self.rules();
        let before = rules.active.len();
        rules.active.retain(|active| active.id != id);
        self.shared.count.store(rules.active.len(), Ordering::Release);
        rules.active.len() < before
    }

    /// Takes all rules away.
    pub fn clear(&self) {
        self.rules().active.clear();
        self.shared.count.store(0, Ordering::Release);
    }

    /// The rules in force.
    pub fn rules_in_force(&self) -> Vec<ActiveRule> {
        self.rules().active.clone()
    }

    /// How many requests met the fault of this rule.
    pub fn met(&self, id: FaultId) -> u64 {
        self.rules().active.iter().find(|active| active.id == id).map_or(0, |active| active.met)
    }

    /// The fault that this request meets.
    pub(crate) fn decide(&self, facts: &Facts) -> Option<Fault> {
        if self.shared.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        decide(&mut self.rules().active, facts)
    }

    fn rules(&self) -> MutexGuard<'_, Rules> {
        self.shared.rules.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the request for every rule up to the one that applies, and returns that one's fault.
fn decide(rules: &mut [ActiveRule], facts: &Facts) -> Option<Fault> {
    for active in rules {
        let spent = active.rule.times.is_some_and(|times| active.met >= times);
        if spent || !active.rule.is_for(facts) {
            continue;
        }
        active.seen += 1;
        if active.rule.on.when.hits(active.seen) {
            active.met += 1;
            return Some(active.rule.fault.clone());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(operation: Operation, bucket: &str, key: &str) -> Facts {
        Facts { operation, bucket: bucket.into(), key: key.into(), range: None }
    }

    /// The keys, of ten GETs of `k0` .. `k9` in bucket `b`, that meet the rule.
    #[track_caller]
    fn check(rule: FaultRule, expected: &[u64]) {
        let faults = Faults::default();
        let id = faults.add(rule);
        let met: Vec<u64> = (0..10)
            .filter(|number| {
                faults.decide(&facts(Operation::Get, "b", &format!("k{number}"))).is_some()
            })
            .collect();
        assert_eq!(met, expected);
        assert_eq!(faults.met(id), expected.len() as u64);
    }

    fn rule() -> FaultRule {
        FaultRule::new(Fault::slow_down())
    }

    #[test]
    fn rules_choose_their_requests() {
        let all: Vec<u64> = (0..10).collect();
        check(rule(), &all);
        check(rule().operation(Operation::Get).bucket("b"), &all);
        check(rule().operation(Operation::Head), &[]);
        check(rule().bucket("c"), &[]);
        check(rule().key("k3"), &[3]);
        check(rule().prefix("k"), &all);
        check(rule().prefix("x"), &[]);
        check(rule().glob("*[3-5]"), &[3, 4, 5]);
        check(rule().nth(2), &[1]);
        check(rule().when(When::Nth(vec![1, 10])), &[0, 9]);
        check(rule().when(When::From(9)), &[8, 9]);
        check(rule().when(When::Every(4)), &[3, 7]);
        check(rule().when(When::Every(0)), &[]);
        check(rule().times(2), &[0, 1]);
        check(rule().when(When::Every(2)).times(2), &[1, 3]);
        check(rule().probability(0.0, 1), &[]);
        check(rule().probability(1.0, 1), &all);
    }

    #[test]
    fn probability_is_met_and_repeats_with_its_seed() {
        let hits = |seed| {
            let when = When::Probability { probability: 0.01, seed };
            (1..=100_000).filter(|number| when.hits(*number)).collect::<Vec<u64>>()
        };
        assert!((850..1150).contains(&hits(1).len()), "{} of 100000", hits(1).len());
        assert_eq!(hits(1), hits(1));
        assert_ne!(hits(1), hits(2));
    }

    #[test]
    fn the_first_rule_that_applies_decides() {
        let faults = Faults::default();
        let first = faults.add(rule().key("a").times(1));
        faults.add(FaultRule::new(Fault::ResetBeforeHeaders));
        let get = facts(Operation::Get, "b", "a");
        assert_eq!(faults.decide(&get), Some(Fault::slow_down()));
        assert_eq!(faults.decide(&get), Some(Fault::ResetBeforeHeaders));
        assert!(faults.remove(first) && !faults.remove(first));
        faults.clear();
        assert_eq!(faults.decide(&get), None);
    }

    #[test]
    fn rules_are_written_as_json() {
        let text = r#"{"on":{"operation":"get","key":{"glob":"*.tar"},"when":{"nth":[2]}},
            "times":3,"fault":{"reset_in_body":{"after_bytes":7}}}"#;
        let parsed: FaultRule = serde_json::from_str(text).unwrap();
        let fault = Fault::ResetInBody { after_bytes: 7 };
        let expected =
            FaultRule::new(fault).operation(Operation::Get).glob("*.tar").nth(2).times(3);
        assert_eq!(parsed, expected);
        let short: FaultRule = serde_json::from_str(r#"{"fault":"hang_before_headers"}"#).unwrap();
        assert_eq!(short, FaultRule::new(Fault::HangBeforeHeaders));
        assert!(serde_json::from_str::<FaultRule>(r#"{"fault":"wrong_range","of":1}"#).is_err());
    }

    #[test]
    fn names_are_those_of_the_json() {
        let faults = [
            Fault::slow_down(),
            Fault::FullBodyFor206,
            Fault::EtagChanges,
            Fault::Drip { bytes_per_second: 1 },
            Fault::MalformedListing(Malformation::CutOff),
        ];
        for fault in faults {
            let json = serde_json::to_string(&fault).unwrap();
            assert!(json.contains(&format!("\"{}\"", fault.name())), "{json}");
        }
    }
}
