//! What the lab was asked and what it sent: one entry a request, in order of arrival.
//!
//! An entry is there before its request is answered, and bytes are counted under the entry's lock in the
//! same breath as the system call that hands them to the socket. So a client that has seen a byte finds
//! it in the ledger.
//!
//! Invariant: entries are in order of `seq`; when there are too many the oldest are dropped and counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Serialize, Serializer};

use crate::request::{Facts, Operation};

/// One request.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Entry {
    /// Counts the requests since the lab started, from 0, in order of arrival.
    pub seq: u64,
    /// What was asked.
    pub operation: Operation,
    /// The bucket asked of; empty if none.
    pub bucket: Arc<str>,
    /// The key asked for, or the prefix that was listed; empty if none.
    pub key: Arc<str>,
    /// First byte asked for and the byte behind the last, as the `Range` header says (`u64::MAX` if it
    /// leaves the end open); `None` without a range, or with one that counts from the end.
    pub range: Option<(u64, u64)>,
    /// HTTP status answered; 0 if none was.
    pub status: u16,
    /// Bytes of the body, without the head, that the socket took.
    pub body_bytes_sent: u64,
    /// When the request's head had been read, since the lab started.
    #[serde(rename = "started_ns", serialize_with = "nanos")]
    pub started: Duration,
    /// When the socket took the first byte of the answer.
    #[serde(rename = "first_byte_ns", serialize_with = "nanos_or_null")]
    pub first_byte: Option<Duration>,
    /// When the socket took the last byte, or the connection ended; `None` while under way.
    #[serde(rename = "ended_ns", serialize_with = "nanos_or_null")]
    pub ended: Option<Duration>,
    /// Name of the fault that the request met.
    pub fault: Option<&'static str>,
    /// Whether the socket took the whole answer. A fault that sends less than the head promised leaves
    /// it `false`.
    pub completed: bool,
    /// Counts the connections since the lab started, from 0.
    pub connection: u64,
}

impl Entry {
    /// Time from the request to the first byte of its answer.
    pub fn latency(&self) -> Option<Duration> {
        self.first_byte.map(|first_byte| first_byte.saturating_sub(self.started))
    }

    /// Whether this is a GET of an object answered with its bytes.
    pub fn is_data(&self) -> bool {
        self.operation == Operation::Get && matches!(self.status, 200 | 206)
    }
}

/// A place in the ledger: between two requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Mark(pub u64);

/// The ledger. Clones are the same ledger.
#[derive(Clone, Debug)]
pub struct Ledger {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    epoch: Instant,
    capacity: usize,
    book: Mutex<Book>,
    idle: Condvar,
}

#[derive(Debug, Default)]
struct Book {
    records: VecDeque<Arc<Record>>,
    /// `seq` of the next request.
    next: u64,
    /// Entries dropped since the last `clear`, for want of room.
    dropped: u64,
    /// Requests that have not ended, also such as have been dropped or cleared.
    under_way: u64,
}

/// An entry that a connection still writes to.
#[derive(Debug)]
pub(crate) struct Record {
    ledger: Arc<Shared>,
    /// As in the entry: to be read under the book's lock, which no entry's lock is taken under.
    seq: u64,
    entry: Mutex<Entry>,
}

impl Ledger {
    pub(crate) fn new(capacity: usize) -> Self {
        let book = Mutex::new(Book::default());
        let shared = Shared { epoch: Instant::now(), capacity, book, idle: Condvar::new() };
        Self { shared: Arc::new(shared) }
    }

    /// Every entry that is still kept.
    pub fn entries(&self) -> Vec<Entry> {
        self.since(Mark(0))
    }

    /// The entries of requests that arrived after `mark` was taken.
    pub fn since(&self, mark: Mark) -> Vec<Entry> {
        let records: Vec<Arc<Record>> = {
            let book = self.shared.book();
            let first = book.records.partition_point(|record| record.seq < mark.0);
            book.records.range(first..).cloned().collect()
        };
        records.iter().map(|record| record.entry().clone()).collect()
    }

    /// The place behind the last entry.
    pub fn mark(&self) -> Mark {
        Mark(self.shared.book().next)
    }

    /// Forgets every entry. Requests go on being counted from where they were.
    pub fn clear(&self) {
        let mut book = self.shared.book();
        book.records.clear();
        book.dropped = 0;
    }

    /// How many kept entries have this operation.
    pub fn count(&self, operation: Operation) -> u64 {
        self.sum(|entry| u64::from(entry.operation == operation))
    }

    /// How many kept entries are GETs of objects, whatever was answered.
    pub fn gets(&self) -> u64 {
        self.count(Operation::Get)
    }

    /// Bytes of objects sent, over all kept entries; bodies of errors and listings are not counted.
    pub fn body_bytes(&self) -> u64 {
        self.sum(|entry| if entry.is_data() { entry.body_bytes_sent } else { 0 })
    }

    /// Entries dropped since the last [`Self::clear`] because the ledger was full.
    pub fn dropped(&self) -> u64 {
        self.shared.book().dropped
    }

    /// Requests that have not ended.
    pub fn under_way(&self) -> u64 {
        self.shared.book().under_way
    }

    /// Waits until no request is under way; `false` if some are when `patience` is over. Blocks the
    /// thread: not for use on a runtime that clients of the lab need.
    pub fn wait_idle(&self, patience: Duration) -> bool {
        let book = self.shared.book();
        let waited = self.shared.idle.wait_timeout_while(book, patience, |book| book.under_way > 0);
        waited.unwrap_or_else(PoisonError::into_inner).0.under_way == 0
    }

    /// Time since the lab started, which entries count in.
    pub fn now(&self) -> Duration {
        self.shared.epoch.elapsed()
    }

    /// Enters a request that has just arrived.
    pub(crate) fn enter(&self, facts: &Facts, connection: u64) -> Arc<Record> {
        let started = self.now();
        let mut book = self.shared.book();
        let entry = Entry {
            seq: book.next,
            operation: facts.operation,
            bucket: Arc::clone(&facts.bucket),
            key: Arc::clone(&facts.key),
            range: facts.range,
            status: 0,
            body_bytes_sent: 0,
            started,
            first_byte: None,
            ended: None,
            fault: None,
            completed: false,
            connection,
        };
        let ledger = Arc::clone(&self.shared);
        let record = Arc::new(Record { ledger, seq: entry.seq, entry: Mutex::new(entry) });
        book.next += 1;
        book.under_way += 1;
        if book.records.len() >= self.shared.capacity {
            book.records.pop_front();
            book.dropped += 1;
        }
        if self.shared.capacity > 0 {
            book.records.push_back(Arc::clone(&record));
        }
        record
    }

    fn sum(&self, value: impl Fn(&Entry) -> u64) -> u64 {
        let records: Vec<Arc<Record>> = self.shared.book().records.iter().cloned().collect();
        records.iter().map(|record| value(&record.entry())).sum()
    }
}

impl Shared {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    /// The entry, locked: whoever holds it across a system call makes readers wait for its count.
    pub(crate) fn entry(&self) -> MutexGuard<'_, Entry> {
        self.entry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn seq(&self) -> u64 {
        self.seq
    }

    /// Time since the lab started.
    pub(crate) fn now(&self) -> Duration {
        self.ledger.epoch.elapsed()
    }

    /// Ends the request, once.
    pub(crate) fn end(&self, entry: &mut Entry, completed: bool) {
        if entry.ended.is_some() {
            return;
        }
        entry.ended = Some(self.now());
        entry.completed = completed;
        let mut book = self.ledger.book();
        book.under_way -= 1;
        if book.under_way == 0 {
            self.ledger.idle.notify_all();
        }
    }
}

fn nanos<S: Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

#[expect(clippy::ref_option, reason = "the shape that serde asks for")]
fn nanos_or_null<S: Serializer>(time: &Option<Duration>, serializer: S) -> Result<S::Ok, S::Error> {
    match time {
        Some(time) => nanos(time, serializer),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(ledger: &Ledger, key: &str) -> Arc<Record> {
        let facts = Facts { key: key.into(), operation: Operation::Get, ..Facts::default() };
        ledger.enter(&facts, 0)
    }

    fn keys(entries: &[Entry]) -> Vec<&str> {
        entries.iter().map(|entry| &*entry.key).collect()
    }

    #[test]
    fn marks_divide_the_ledger_and_the_oldest_fall_out() {
        let ledger = Ledger::new(3);
        enter(&ledger, "a");
        let mark = ledger.mark();
        for key in ["b", "c"] {
            enter(&ledger, key);
        }
        assert_eq!(keys(&ledger.entries()), ["a", "b", "c"]);
        assert_eq!(keys(&ledger.since(mark)), ["b", "c"]);
        enter(&ledger, "d");
        assert_eq!(keys(&ledger.entries()), ["b", "c", "d"]);
        assert_eq!(ledger.dropped(), 1);
        ledger.clear();
        assert_eq!((ledger.gets(), ledger.dropped(), ledger.mark()), (0, 0, Mark(4)));
        enter(&ledger, "e");
        assert_eq!(ledger.entries()[0].seq, 4);
    }

    #[test]
    fn only_data_counts_as_body_bytes() {
        let ledger = Ledger::new(10);
        for (status, sent) in [(206, 5), (200, 7), (503, 100)] {
            let record = enter(&ledger, "k");
            let mut entry = record.entry();
            entry.status = status;
            entry.body_bytes_sent = sent;
            record.end(&mut entry, true);
        }
        assert_eq!((ledger.gets(), ledger.body_bytes()), (3, 12));
    }

    #[test]
    fn idle_is_when_every_request_has_ended() {
        let ledger = Ledger::new(1);
        let records = [enter(&ledger, "a"), enter(&ledger, "b")];
        assert!(!ledger.wait_idle(Duration::ZERO));
        for record in records {
            let mut entry = record.entry();
            record.end(&mut entry, false);
            record.end(&mut entry, true);
            assert!(!entry.completed, "the first end counts");
        }
        assert!(ledger.wait_idle(Duration::ZERO));
    }
}
