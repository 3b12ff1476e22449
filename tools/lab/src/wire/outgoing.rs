//! An answer on its way out.

use std::sync::Arc;

use crate::ledger::Record;

/// How a cut answer ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The connection is closed in good order.
    #[default]
    Close,
    /// The connection is reset.
    Reset,
    /// Nothing more comes.
    Hang,
}

/// Where an answer is cut, and how it ends there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cut {
    /// Bytes of the head sent before.
    pub(crate) head: Option<u64>,
    /// Bytes of the body sent before. With the length of the body the cut is behind its last byte.
    pub(crate) body: Option<u64>,
    /// What happens there.
    pub(crate) ending: Ending,
}

impl Cut {
    /// Bytes of the head that may still be sent, if it is to be cut in the head.
    pub(crate) fn left_in_head(&self, seen: u64) -> Option<u64> {
        self.head.map(|head| head.saturating_sub(seen))
    }
}

/// An answer given to hyper.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) record: Arc<Record>,
    /// Length of the body.
    pub(crate) body_bytes: u64,
    /// Whether nothing but the end of the connection tells the body's end; its chunks' framing is then
    /// not told from the body.
    pub(crate) until_close: bool,
    /// Bandwidth of this body alone.
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) cut: Cut,
    /// When its first byte was due, on the clock of the pace. The body's bandwidth counts from here, so
    /// that what the lab itself takes is not held against it.
    pub(crate) due_ns: u64,
    sent: u64,
    shut: bool,
}

impl Outgoing {
    /// An answer without faults.
    pub(crate) fn new(record: Arc<Record>, body_bytes: u64) -> Self {
        Self {
            record,
            body_bytes,
            until_close: false,
            bytes_per_second: None,
            cut: Cut::default(),
            due_ns: 0,
            sent: 0,
            shut: false,
        }
    }

    /// Bytes of the body that may still be sent: up to its end, or up to its cut.
    pub(crate) fn body_left(&self) -> u64 {
        match self.cut.body {
            Some(cut) => cut.min(self.body_bytes) - self.sent.min(cut).min(self.body_bytes),
            None if self.until_close => u64::MAX,
            None => self.body_bytes - self.sent,
        }
    }

    /// Counts bytes taken by the socket; returns how many of them are the body's.
    pub(crate) fn count(&mut self, bytes: u64) -> u64 {
        let bytes = bytes.min(self.body_bytes - self.sent);
        self.sent += bytes;
        bytes
    }

    /// Whether all of the body was sent, and nothing else is to come of this answer.
    pub(crate) fn is_whole(&self) -> bool {
        self.sent == self.body_bytes && !self.until_close && self.cut.body.is_none()
    }

    /// Whether all of the body was sent.
    pub(crate) fn all_sent(&self) -> bool {
        self.sent == self.body_bytes && (!self.until_close || self.shut)
    }

    /// hyper has closed the connection behind this answer.
    pub(crate) fn shut(&mut self) {
        self.shut = true;
    }

    /// Enters the end of this answer in the ledger.
    pub(crate) fn end(self, completed: bool) {
        let mut entry = self.record.entry();
        self.record.end(&mut entry, completed);
    }
}
