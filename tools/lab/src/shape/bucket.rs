//! A decider of when bytes may go: a link of a given bandwidth on which pieces queue.
//!
//! Each piece takes its place behind the pieces before it, and its time is when its last byte would have
//! left such a link. A sender that was woken late has its next piece's time in the past and catches up;
//! a link on which nobody sends saves nothing.

/// How far a busy link may lag behind and still catch up. More than a timer is late, or a busy machine.
const LAG_NS_MAX: u64 = 50_000_000;
/// Pieces are what the link carries in this time, within the bounds below.
const PIECE_NS: u128 = 2_000_000;
const PIECE_BYTES_MAX: u64 = 256 * 1024;

/// A link. All times are nanoseconds on one clock.
#[derive(Debug, Default)]
pub(crate) struct Link {
    /// When the last byte of all pieces so far will have left.
    free_ns: u64,
    /// Answers that are being sent.
    senders: u64,
}

impl Link {
    /// An answer begins to be sent.
    pub(crate) fn begin(&mut self, now_ns: u64) {
        if self.senders == 0 {
            self.free_ns = self.free_ns.max(now_ns);
        }
        self.senders += 1;
    }

    /// An answer that had begun has ended.
    pub(crate) fn end(&mut self) {
        self.senders -= 1;
    }

    /// Queues a piece and returns when it may be handed over.
    pub(crate) fn reserve(&mut self, now_ns: u64, bytes: u64, bytes_per_second: u64) -> u64 {
        let takes = u128::from(bytes) * 1_000_000_000 / u128::from(bytes_per_second.max(1));
        let start = self.free_ns.max(now_ns.saturating_sub(LAG_NS_MAX));
        self.free_ns = start.saturating_add(u64::try_from(takes).unwrap_or(u64::MAX));
        self.free_ns
    }
}

/// Size of the pieces that a body is cut into at this bandwidth.
pub(crate) fn piece_bytes(bytes_per_second: u64) -> u64 {
    let bytes = u128::from(bytes_per_second) * PIECE_NS / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX).clamp(1, PIECE_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn pieces_queue_behind_each_other() {
        let mut link = Link::default();
        link.begin(5 * MS);
        assert_eq!(link.reserve(5 * MS, 1_000, 1_000_000), 6 * MS);
        assert_eq!(link.reserve(5 * MS, 2_000, 1_000_000), 8 * MS);
        assert_eq!(link.reserve(9 * MS, 1_000, 1_000_000), 9 * MS, "woken late, catches up");
    }

    #[test]
    fn an_idle_link_saves_nothing() {
        let mut link = Link::default();
        link.begin(0);
        link.reserve(0, 1_000, 1_000_000);
        link.end();
        link.begin(20 * MS);
        assert_eq!(link.reserve(20 * MS, 1_000, 1_000_000), 21 * MS);
    }

    #[test]
    fn a_busy_link_catches_up_so_far_and_no_further() {
        let mut link = Link::default();
        link.begin(0);
        let late = LAG_NS_MAX + 100 * MS;
        assert_eq!(link.reserve(late, 1_000, 1_000_000), late - LAG_NS_MAX + MS);
    }

    #[test]
    fn bandwidth_holds_however_late_the_timer_is() {
        for rate in [10_000u64, 90_000_000, 1_000_000_000, 5_000_000_000] {
            let mut link = Link::default();
            let (mut now, mut sent) = (0, 0);
            link.begin(now);
            for turn in 0..50_000u64 {
                let due = link.reserve(now, piece_bytes(rate), rate);
                if due > now {
                    now = due + turn % 7 * MS / 4;
                }
                sent += piece_bytes(rate);
            }
            let expected = u128::from(now) * u128::from(rate) / 1_000_000_000;
            let off = u128::from(sent).abs_diff(expected) * 1000 / expected;
            assert!(off <= 2, "{rate} B/s: sent {sent}, expected {expected}");
        }
    }

    #[test]
    fn no_bandwidth_stops_for_good() {
        let mut link = Link::default();
        assert_eq!(link.reserve(0, 1, 0), 1_000_000_000);
        assert_eq!(piece_bytes(0), 1);
        assert_eq!(piece_bytes(u64::MAX), PIECE_BYTES_MAX);
    }
}
