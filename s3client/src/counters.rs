//! What one bucket's requests are counted by. All cores count into the same numbers.

use tenderfs_telemetry::{Counter, Gauge, Histogram};

/// The counters of one bucket.
#[derive(Debug, Default)]
pub struct Counters {
    /// `ListObjectsV2` requests.
    pub list: OperationCounters,
    /// `HeadObject` requests.
    pub head: OperationCounters,
    /// `GetObject` requests.
    pub get: OperationCounters,
    /// Failed requests by what failed, those that a retry mended included.
    errors: [Counter; ErrorKind::ALL.len()],
    /// Answers by the first digit of their status, 1 to 5.
    statuses: [Counter; 5],
    /// Bytes of bodies received, listings and error messages included.
    pub bytes_received: Counter,
    /// Connections opened.
    pub connections_opened: Counter,
    /// Connections open now, idle ones included.
    pub connections_open: Gauge,
    /// Requests sent again at once because a kept connection had died meanwhile.
    pub connections_stale: Counter,
    /// Requests for the rest of a body whose connection broke.
    pub resumed: Counter,
    /// Entries of listings that could not be decoded and were left out.
    pub listing_entries_skipped: Counter,
    /// Requests waiting for a connection, or for the bucket's pace, now.
    pub waiting_for_connection: Gauge,
    /// Requests in flight now.
    pub in_flight: Gauge,
    /// Requests that may be in flight now; 0 before the first has ended.
    pub in_flight_max: Gauge,
    /// Requests that may be sent each second now; 0: any number.
    pub requests_per_second_max: Gauge,
    /// Requests made a second time because the first was late.
    pub hedges: Counter,
    /// Those of them whose answer came first.
    pub hedges_won: Counter,
    /// Objects whose bytes had the checksum that the store sent.
    pub checksums_compared: Counter,
    /// Objects whose bytes had another.
    pub checksum_mismatches: Counter,
    /// Answers that asked for fewer requests: 503 and 429.
    pub slow_downs: Counter,
}

/// The counters of one kind of request.
#[derive(Debug, Default)]
pub struct OperationCounters {
    /// Requests sent, each attempt once.
    pub requests: Counter,
    /// Requests that failed, those that a retry mended included.
    pub errors: Counter,
    /// Requests sent again by the retry policy.
    pub retries: Counter,
    /// From the request to the head of its answer.
    pub first_byte: Histogram,
}

/// The kinds of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `ListObjectsV2`.
    List,
    /// `HeadObject`.
    Head,
    /// `GetObject`.
    Get,
}

impl Operation {
    /// The value of the label `op`.
    pub fn label(self) -> &'static str {
        match self {
            Self::List => "list",
            Self::Head => "head",
            Self::Get => "get",
        }
    }
}

/// What a request can fail by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such key or bucket.
    NotFound,
    /// 401 or 403.
    AccessDenied,
    /// Missing, broken or expired credentials, or a clock that is wrong.
    Credentials,
    /// The bucket is elsewhere.
    WrongRegion,
    /// The object is no longer that version.
    Replaced,
    /// 416.
    Range,
    /// The object is archived.
    Archived,
    /// 429 and 503.
    Throttled,
    /// Other 5xx.
    Server,
    /// Other 4xx.
    Refused,
    /// No connection in time.
    ConnectDeadline,
    /// No answer in time.
    FirstByteDeadline,
    /// A body that came to a halt.
    Stall,
    /// The request with all its retries took too long.
    WholeDeadline,
    /// An answer that failed a check.
    WrongAnswer,
    /// No connection.
    Unreachable,
    /// A connection that ended in the middle.
    ConnectionBroken,
    /// No trusted connection.
    Tls,
}

impl ErrorKind {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Self; 18] = [
        Self::NotFound,
        Self::AccessDenied,
        Self::Credentials,
        Self::WrongRegion,
        Self::Replaced,
        Self::Range,
        Self::Archived,
        Self::Throttled,
        Self::Server,
        Self::Refused,
        Self::ConnectDeadline,
        Self::FirstByteDeadline,
        Self::Stall,
        Self::WholeDeadline,
        Self::WrongAnswer,
        Self::Unreachable,
        Self::ConnectionBroken,
        Self::Tls,
    ];

    /// The value of the label `kind`.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::AccessDenied => "access_denied",
            Self::Credentials => "credentials",
            Self::WrongRegion => "wrong_region",
            Self::Replaced => "replaced",
            Self::Range => "range",
            Self::Archived => "archived",
            Self::Throttled => "throttled",
            Self::Server => "server",
            Self::Refused => "refused",
            Self::ConnectDeadline => "connect_deadline",
            Self::FirstByteDeadline => "first_byte_deadline",
            Self::Stall => "stall",
            Self::WholeDeadline => "whole_deadline",
            Self::WrongAnswer => "wrong_answer",
            Self::Unreachable => "unreachable",
            Self::ConnectionBroken => "connection_broken",
            Self::Tls => "tls",
        }
    }
}

impl Counters {
    /// The counters of `operation`.
    pub fn of(&self, operation: Operation) -> &OperationCounters {
        match operation {
            Operation::List => &self.list,
            Operation::Head => &self.head,
            Operation::Get => &self.get,
        }
    }

    /// Every kind of request with its counters.
    pub fn operations(&self) -> [(Operation, &OperationCounters); 3] {
        [Operation::List, Operation::Head, Operation::Get].map(|op| (op, self.of(op)))
    }

    /// Requests that failed by `kind`.
    pub fn errors(&self, kind: ErrorKind) -> &Counter {
        &self.errors[kind as usize]
    }

    /// Answers of the status class whose first digit is `class`, 1 to 5; `None` for others.
    pub fn statuses(&self, class: u8) -> Option<&Counter> {
        self.statuses.get(usize::from(class).checked_sub(1)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_error_has_its_own_counter() {
        let counters = Counters::default();
        for kind in ErrorKind::ALL {
            counters.errors(kind).inc();
            assert_eq!(counters.errors(kind).get(), 1, "{}", kind.label());
        }
    }

    #[test]
    fn a_status_class_is_its_first_digit() {
        let counters = Counters::default();
        assert!(counters.statuses(0).is_none());
        assert!(counters.statuses(6).is_none());
        counters.statuses(5).unwrap().inc();
        assert_eq!(counters.statuses(5).unwrap().get(), 1);
        assert_eq!(counters.statuses(4).unwrap().get(), 0);
    }
}
