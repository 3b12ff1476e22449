//! One core's hand on a bucket: asks, waits, checks, asks again.

use std::collections::VecDeque;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http::header::{CONNECTION, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use http_body::Body as _;
use hyper::body::Incoming;
use jiff::Timestamp;
use tenderfs_byterange::ByteRange;
use tokio::time::{Instant, timeout};

use crate::addressing::Place;
use crate::answer;
use crate::body::Body;
use crate::bucket::Bucket;
use crate::connection::Connection;
use crate::counters::Operation;
use crate::credentials::Keys;
use crate::deadlines::StallWatch;
use crate::error::{AnswerFault, Deadline, Error};
use crate::hedging::SizeClass;
use crate::listing::{self, ListPage, ListRequest, ListedObject};
use crate::pool::{LEFTOVER_BYTES_MAX, Leftover, Pool, Slot, Wanted};
use crate::refusal::{self, Refused};
use crate::retry::{Importance, Retry, Verdict};
use crate::signing::{self, Ask};

/// Largest listing: 1000 keys of 1024 bytes, each three times as long when encoded, and as much
/// again for the rest, doubled.
const LISTING_BYTES_MAX: usize = 16 << 20;
/// Largest error message.
const REFUSAL_BYTES_MAX: usize = 64 << 10;
/// How long a request waits for credentials that the store called expired to be renewed.
const RENEWAL_WAIT_MAX: Duration = Duration::from_secs(10);

/// One core's client of a bucket. Cheap to clone; clones share their connections.
///
/// Must be used inside a tokio current-thread runtime, on the thread it was made on.
#[derive(Clone)]
pub struct Client {
    core: Rc<Core>,
}

/// A ranged GET of one version of an object.
#[derive(Debug, Clone, Copy)]
pub struct GetRequest<'a> {
    /// The object.
    pub key: &'a str,
    /// The version, as S3 gave it, quotes included; empty for any.
    pub etag: &'a str,
    /// The bytes, which must be in the object.
    pub range: ByteRange,
    /// The size of that version.
    pub object_size_bytes: u64,
    /// Whether failures are retried.
    pub importance: Importance,
}

impl Client {
    /// A client without connections yet.
    pub fn new(bucket: Arc<Bucket>) -> Self {
        Self { core: Rc::new(Core { pool: Pool::new(Arc::clone(&bucket)), bucket }) }
    }

    /// The bucket asked.
    pub fn bucket(&self) -> &Arc<Bucket> {
        &self.core.bucket
    }

    /// Checks that the bucket answers and lets us list `prefix`.
    pub async fn probe(&self, prefix: &str) -> Result<(), Error> {
        let prefix = prefix.to_owned();
        let request = ListRequest { prefix, keys_max: Some(1), ..ListRequest::default() };
        self.list(&request).await.map(|_| ())
    }

    /// One page of a listing.
    pub async fn list(&self, request: &ListRequest) -> Result<ListPage, Error> {
        let core = &self.core;
        let mut course = Course::new(&core.bucket, Operation::List, Importance::Demand);
        loop {
            match course.within(core.list(request)).await {
                Ok(page) => return Ok(page),
                Err(error) => course.after(error).await?,
            }
        }
    }

    /// What the store says of the object `key`.
    pub async fn head(&self, key: &str, importance: Importance) -> Result<ListedObject, Error> {
        let core = &self.core;
        let mut course = Course::new(&core.bucket, Operation::Head, importance);
        loop {
            match course.within(core.head(key, importance)).await {
                Ok(object) => return Ok(object),
                Err(error) => course.after(error).await?,
            }
        }
    }

    /// Bytes of an object. Returns once the head of the answer was checked.
    pub async fn get(&self, request: GetRequest<'_>) -> Result<Body, Error> {
        if request.range.end() > request.object_size_bytes {
            let key = request.key.to_owned();
            return Err(Error::RangeNotSatisfiable { key, range: request.range });
        }
        Body::open(Rc::clone(&self.core), request).await
    }
}

/// What the clones of a client share.
pub(crate) struct Core {
    pub(crate) bucket: Arc<Bucket>,
    pool: Pool,
}

impl Core {
    async fn list(&self, request: &ListRequest) -> Result<ListPage, Error> {
        let mut answer = self.ask(&Ask::List(request), Importance::Demand).await?;
        if answer.status != StatusCode::OK {
            let status = answer.status.as_u16();
            return Err(Error::wrong(AnswerFault::Status { status }));
        }
        let (bytes, read) = answer.read(LISTING_BYTES_MAX).await;
        read?;
        answer.settle(self);
        let parsed = listing::parse(request, &bytes)?;
        self.bucket.counters().listing_entries_skipped.add(parsed.skipped);
        Ok(parsed.page)
    }

    async fn head(&self, key: &str, importance: Importance) -> Result<ListedObject, Error> {
        let answer = self.ask(&Ask::Head { key }, importance).await?;
        let object = answer::read_head(key, answer.status, &answer.headers);
        answer.settle(self);
        object
    }

    /// Asks once and waits for the head of an answer that is no refusal.
    pub(crate) async fn ask(&self, ask: &Ask<'_>, importance: Importance) -> Result<Answer, Error> {
        let place = self.bucket.place();
        let slot = self.pool.slot(importance).await?;
        let mut answer = self.send_hedged(ask, place, slot).await?;
        if answer.status.is_success() {
            return Ok(answer);
        }
        // A message that breaks off still says what it says.
        let (body, _read) = answer.read(REFUSAL_BYTES_MAX).await;
        let refused = Refused { ask, place: &answer.place, signed_at: answer.signed_at };
        let error = refusal::error(refused, answer.status, &answer.headers, &body);
        answer.settle(self);
        Err(error)
    }

    /// Sends `ask`, and once it is late a second time by another connection; gives the answer that
    /// comes first. All that is asked so far only reads, so that it may be asked twice.
    async fn send_hedged(
        &self,
        ask: &Ask<'_>,
        place: Arc<Place>,
        slot: Slot,
    ) -> Result<Answer, Error> {
        let class = SizeClass::of(ask);
        let mut first = pin!(self.send_timed(class, ask, Arc::clone(&place), (slot, Wanted::Any)));
        let Some(late) = self.bucket.hedging().begin(class) else { return first.await };
        if let Ok(answer) = timeout(late, &mut first).await {
            return answer;
        }
        let Some(slot) = self.pool.spare_slot() else { return first.await };
        if !self.bucket.hedging().take() {
            drop(slot);
            return first.await;
        }
        let counters = self.bucket.counters();
        counters.hedges.inc();
        // Who loses is dropped, and its connection closed. An error waits for what the other brings.
        let wanted = self.pool.for_duplicate();
        let mut second = Box::pin(self.send_timed(class, ask, place, (slot, wanted)));
        let (answer, hedged) = tokio::select! {
            answer = &mut first => match answer {
                Ok(answer) => (Ok(answer), false),
                Err(_) => (second.await, true),
            },
            answer = &mut second => match answer {
                Ok(answer) => (Ok(answer), true),
                Err(_) => (first.await, false),
            },
        };
        if hedged && answer.is_ok() {
            counters.hedges_won.inc();
        }
        answer
    }

    /// Sends `ask` and notes how long its answer took.
    async fn send_timed(
        &self,
        class: SizeClass,
        ask: &Ask<'_>,
        place: Arc<Place>,
        by: (Slot, Wanted),
    ) -> Result<Answer, Error> {
        let begun = Instant::now();
        let answer = self.send(ask, place, by).await?;
        self.bucket.hedging().answered(class, begun.elapsed());
        Ok(answer)
    }

    /// Sends `ask` by a kept connection, if one is wanted, and if that turns out to have died, by a new
    /// one.
    async fn send(
        &self,
        ask: &Ask<'_>,
        place: Arc<Place>,
        (slot, mut wanted): (Slot, Wanted),
    ) -> Result<Answer, Error> {
        let counters = self.bucket.counters();
        let after = self.bucket.config().deadlines.first_byte;
        loop {
            let keys = self.bucket.credentials().keys();
            let now = self.bucket.clock().time(Timestamp::now());
            let terms = self.bucket.terms();
            let mut request = signing::signed(ask, &place, keys.signing.as_ref(), terms, now)?;
            if let Some(proxy) = place.proxy().filter(|_| !place.encrypted()) {
                signing::by_proxy(&mut request, &place, proxy)?;
            }
            let mut connection = self.pool.connection(&place, wanted).await?;
            let sent = Instant::now();
            counters.of(ask.operation()).requests.inc();
            let head = match timeout(after, connection.send(request)).await {
                Err(_) => {
                    let deadline = Deadline::FirstByte;
                    return Err(Error::DeadlineExpired { deadline, after });
                }
                Ok(Err(_)) if connection.was_stale() => {
                    // Servers close idle connections when they like; that is no failure.
                    counters.connections_stale.inc();
                    wanted = Wanted::New;
                    continue;
                }
                Ok(Err(source)) => return Err(broken(&place, source)),
                Ok(Ok(head)) => head,
            };
            counters.of(ask.operation()).first_byte.observe(sent.elapsed());
            let (head, body) = head.into_parts();
            let lasts = lasts(&head);
            self.bucket.gate().answered(head.status, sent, counters);
            #[allow(clippy::cast_possible_truncation, reason = "a status has three digits")]
            if let Some(class) = counters.statuses((head.status.as_u16() / 100) as u8) {
                class.inc();
            }
            return Ok(Answer {
                signed_at: now,
                status: head.status,
                headers: head.headers,
                body,
                ended: false,
                bare: None,
                lasts,
                watch: StallWatch::new(self.bucket.config().deadlines.stall),
                connection,
                place,
                _slot: slot,
            });
        }
    }
}

/// An answer whose head has come.
pub(crate) struct Answer {
    /// The time by the store's clock that the request was signed for.
    signed_at: Timestamp,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Incoming,
    ended: bool,
    /// The body, once it is read from the socket by itself.
    bare: Option<Bare>,
    /// Whether the connection may serve again.
    lasts: bool,
    watch: StallWatch,
    connection: Connection,
    place: Arc<Place>,
    _slot: Slot,
}

/// A body that is read from the socket.
struct Bare {
    /// Bytes that hyper had read.
    early: VecDeque<Bytes>,
    /// Bytes that are still to come.
    left_bytes: u64,
}

impl Answer {
    /// Has the body read from the socket from now on, if it is `len_bytes` long as announced and nothing
    /// but its bytes.
    pub(crate) fn take_over(&mut self, len_bytes: u64) {
        if self.headers.contains_key(TRANSFER_ENCODING) {
            return;
        }
        let Some(early) = self.connection.take_over(&mut self.body) else { return };
        let mut bare = Bare { early: VecDeque::new(), left_bytes: len_bytes };
        for mut bytes in early {
            let most = usize::try_from(bare.left_bytes).unwrap_or(usize::MAX);
            // What stands behind the body answers nothing.
            self.lasts &= bytes.len() <= most;
            bytes.truncate(most);
            bare.left_bytes -= bytes.len() as u64;
            bare.early.push_back(bytes);
        }
        self.bare = Some(bare);
    }

    /// Reads the next bytes of a body that was taken over, waiting for them at most for `left`; `None`
    /// if it was not.
    pub(crate) async fn read_bare(
        &mut self,
        bucket: &Bucket,
        left: Duration,
        room: &mut [u8],
    ) -> Option<Result<usize, Error>> {
        let bare = self.bare.as_mut()?;
        if let Some(bytes) = bare.early.front_mut() {
            let count = bytes.len().min(room.len());
            bytes.copy_to_slice(&mut room[..count]);
            if bytes.is_empty() {
                bare.early.pop_front();
            }
            bucket.counters().bytes_received.add(count as u64);
            return Some(Ok(count));
        }
        let most = usize::try_from(bare.left_bytes).unwrap_or(usize::MAX).min(room.len());
        let (connection, place) = (&mut self.connection, &self.place);
        let left_bytes = bare.left_bytes;
        let reading = async {
            match connection.read(&mut room[..most]).await {
                Ok(0) => Err(broken(place, format!("{left_bytes} bytes of the body are missing"))),
                Ok(count) => Ok(count),
                Err(source) => Err(broken(place, source)),
            }
        };
        Some(in_time(&self.watch, bucket, left, reading).await.map(|(count, waited)| {
            bare.left_bytes -= count as u64;
            self.watch.received(count, waited);
            bucket.counters().bytes_received.add(count as u64);
            count
        }))
    }

    /// The next bytes of the body, waiting for them at most for `left`; `None` at its end.
    pub(crate) async fn next(
        &mut self,
        bucket: &Bucket,
        left: Duration,
    ) -> Result<Option<Bytes>, Error> {
        let next = async {
            loop {
                match self.connection.frame(&mut self.body).await {
                    None => return Ok(None),
                    Some(Err(source)) => return Err(broken(&self.place, source)),
                    Some(Ok(frame)) => {
                        // Trailers say nothing.
                        if let Ok(bytes) = frame.into_data() {
                            return Ok(Some(bytes));
                        }
                    }
                }
            }
        };
        let (bytes, waited) = in_time(&self.watch, bucket, left, next).await?;
        match &bytes {
            None => self.ended = true,
            Some(bytes) => {
                self.watch.received(bytes.len(), waited);
                bucket.counters().bytes_received.add(bytes.len() as u64);
            }
        }
        Ok(bytes)
    }

    /// The whole body of at most `limit_bytes`, or as much of it as came before an error.
    async fn read(&mut self, limit_bytes: usize) -> (Vec<u8>, Result<(), Error>) {
        let mut whole = Vec::new();
        let bucket = Arc::clone(self.connection.bucket());
        loop {
            match self.next(&bucket, Duration::MAX).await {
                Ok(None) => return (whole, Ok(())),
                Ok(Some(bytes)) if whole.len() + bytes.len() <= limit_bytes => {
                    whole.extend_from_slice(&bytes);
                }
                Ok(Some(_)) => {
                    return (whole, Err(Error::wrong(AnswerFault::BodyTooLarge { limit_bytes })));
                }
                Err(error) => return (whole, Err(error)),
            }
        }
    }

    /// Keeps the connection if nothing, or little, of the body is left to read; else closes it.
    pub(crate) fn settle(self, core: &Core) {
        if !self.lasts {
            return;
        }
        let leftover = match self.bare {
            Some(Bare { left_bytes: 0, .. }) => None,
            Some(Bare { left_bytes, .. }) if left_bytes > LEFTOVER_BYTES_MAX => return,
            Some(Bare { left_bytes, .. }) => Some(Leftover::Bare { left_bytes }),
            None if self.ended || self.body.is_end_stream() => None,
            None => {
                let left_bytes = self.body.size_hint().upper();
                if left_bytes.is_none_or(|left| left > LEFTOVER_BYTES_MAX) {
                    return;
                }
                Some(Leftover::Body(self.body))
            }
        };
        core.pool.keep(self.connection, &self.place, leftover);
    }
}

/// The error of a connection that broke.
fn broken(place: &Place, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::ConnectionBroken { endpoint: place.label(), source: source.into() }
}

/// Whether the connection may serve again behind an answer with this head.
fn lasts(head: &http::response::Parts) -> bool {
    let closes = |value: &http::HeaderValue| {
        let tokens = value.to_str().unwrap_or("close").split(',');
        tokens.map(str::trim).any(|token| token.eq_ignore_ascii_case("close"))
    };
    head.version == http::Version::HTTP_11 && !head.headers.get_all(CONNECTION).iter().any(closes)
}

/// What `reading` gives, and how long it waited; ended by the stall deadline and after `left`.
async fn in_time<T>(
    watch: &StallWatch,
    bucket: &Bucket,
    left: Duration,
    reading: impl Future<Output = Result<T, Error>>,
) -> Result<(T, Duration), Error> {
    let started = Instant::now();
    let wait = watch.left();
    let Ok(read) = timeout(wait.min(left), reading).await else {
        let deadlines = &bucket.config().deadlines;
        let (deadline, after) = if wait < left {
            (Deadline::Stall, deadlines.stall)
        } else {
            (Deadline::Whole, deadlines.whole)
        };
        return Err(Error::DeadlineExpired { deadline, after });
    };
    Ok((read?, started.elapsed()))
}

/// One request from its first attempt to its last.
pub(crate) struct Course {
    bucket: Arc<Bucket>,
    operation: Operation,
    retry: Retry,
    started: Instant,
    region_learned: bool,
    keys_renewed: bool,
    clock_learned: bool,
    /// The keys that were current before the attempt under way.
    keys: Arc<Keys>,
    /// What was known of the store's clock before it.
    ahead_seconds: i64,
}

impl Course {
    pub(crate) fn new(bucket: &Arc<Bucket>, operation: Operation, importance: Importance) -> Self {
        Self {
            bucket: Arc::clone(bucket),
            operation,
            retry: Retry::new(bucket.config().retry.clone(), importance),
            started: Instant::now(),
            region_learned: false,
            keys_renewed: false,
            clock_learned: false,
            keys: bucket.credentials().keys(),
            ahead_seconds: bucket.clock().ahead_seconds(),
        }
    }

    /// What is left of the whole deadline.
    pub(crate) fn left(&self) -> Duration {
        self.bucket.config().deadlines.whole.saturating_sub(self.started.elapsed())
    }

    /// `attempt`, ended by the whole deadline.
    pub(crate) async fn within<T>(
        &self,
        attempt: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        timeout(self.left(), attempt).await.unwrap_or_else(|_| {
            let after = self.bucket.config().deadlines.whole;
            Err(Error::DeadlineExpired { deadline: Deadline::Whole, after })
        })
    }

    /// Counts the failure of an attempt and waits until the next one is due, or gives the error
    /// back if there is none.
    pub(crate) async fn after(&mut self, error: Error) -> Result<(), Error> {
        let bucket = Arc::clone(&self.bucket);
        let counters = bucket.counters();
        counters.errors(error.kind()).inc();
        counters.of(self.operation).errors.inc();
        if !self.mended(&error).await {
            match self.retry.next(&error, rand::random(), self.left()) {
                Verdict::GiveUp => return Err(error),
                Verdict::Wait(backoff) => {
                    let wait = backoff + bucket.gate().retry_wait(&error);
                    if wait >= self.left() {
                        return Err(error);
                    }
                    counters.of(self.operation).retries.inc();
                    tokio::time::sleep(wait).await;
                }
            }
        }
        self.keys = bucket.credentials().keys();
        self.ahead_seconds = bucket.clock().ahead_seconds();
        Ok(())
    }

    /// Whether what caused `error` was put right, which is tried once for each cause.
    async fn mended(&mut self, error: &Error) -> bool {
        match error {
            Error::WrongRegion { actual: Some(region), .. } if !self.region_learned => {
                self.region_learned = true;
                self.bucket.learn_region(region)
            }
            error if error.is_of_keys() && !self.keys_renewed => {
                self.keys_renewed = true;
                let renewed = self.bucket.credentials().renewed(&self.keys);
                timeout(self.left().min(RENEWAL_WAIT_MAX), renewed).await.unwrap_or(false)
            }
            Error::ClockSkewed { store_time: Some(time), .. } if !self.clock_learned => {
                self.clock_learned = true;
                self.bucket.learn_clock(self.ahead_seconds, *time)
            }
            _ => false,
        }
    }
}
