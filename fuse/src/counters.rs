//! What the crate counts.

use crate::request::OpGroup;
use std::time::Duration;
use tenderfs_telemetry::{Counter, Gauge, Histogram};

/// Counts of one mount, shared by its channels.
#[derive(Debug, Default)]
pub struct Counters {
    groups: [GroupCounters; OpGroup::ALL.len()],
    /// Bytes of file data handed to the kernel.
    pub data_bytes: Counter,
    /// Replies that carried an error.
    pub errors: Counter,
    /// Replies whose request was gone: its caller was killed, or the connection aborted.
    pub gone: Counter,
    /// Messages that were no request; each answered `EIO` if it had a header.
    pub malformed: Counter,
    /// Requests of users without access, answered `EACCES`.
    pub denied: Counter,
    /// Wake-ups that found nothing to read, because another core was faster.
    pub empty_wakeups: Counter,
    /// Files registered for the kernel to read by itself.
    pub backing_files: Gauge,
}

/// Counts of one group of requests.
#[derive(Debug, Default)]
pub struct GroupCounters {
    /// Requests received.
    pub requests: Counter,
    /// Time from receipt to reply, as observed by the server.
    pub latency: Histogram,
}

impl Counters {
    /// Counts of `group`.
    pub fn group(&self, group: OpGroup) -> &GroupCounters {
        &self.groups[group as usize]
    }

    /// Notes that a request of `group` took `elapsed` to be answered.
    pub fn observe(&self, group: OpGroup, elapsed: Duration) {
        self.group(group).latency.observe(elapsed);
    }

    /// Requests of all groups.
    pub fn requests(&self) -> u64 {
        self.groups.iter().map(|group| group.requests.get()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_has_its_own_counts() {
        let counters = Counters::default();
        for (index, group) in OpGroup::ALL.into_iter().enumerate() {
            assert_eq!(group as usize, index, "{group:?}");
            counters.group(group).requests.inc();
            counters.observe(group, Duration::from_micros(3));
        }
        assert_eq!(counters.requests(), 10);
        assert_eq!(counters.group(OpGroup::Read).latency.snapshot().count(), 1);
    }
}
