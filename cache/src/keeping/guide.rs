//! What the uses of whole objects say of the order in which a cache gives objects up that it
//! holds elsewhere, and in parts.

use crate::keeping::horizon::Horizon;
use crate::keeping::{Chooser, Order, Policy, Stamp};
use crate::version::ObjectId;

/// How objects go now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Regime {
    pub(crate) order: Order,
    /// What was used last before this is used no more; 0 while nothing is known.
    pub(crate) stale_before: Stamp,
}

/// Hears of each use.
#[derive(Debug)]
pub(crate) struct Guide {
    chooser: Chooser,
    order: Order,
    horizon: Horizon,
    capacity_bytes: u64,
    now: Stamp,
}

impl Guide {
    /// Guides a cache of `capacity_bytes`.
    pub(crate) fn new(policy: Policy, capacity_bytes: u64) -> Self {
        let chooser = Chooser::new(policy, capacity_bytes);
        let order = chooser.order();
        Self { chooser, order, horizon: Horizon::default(), capacity_bytes, now: 0 }
    }

    /// Object `id` of `bytes` is used, for the first time since `since`, which is 0 if that is not
    /// known. Returns the stamp of this use.
    pub(crate) fn used(&mut self, (id, bytes): (ObjectId, u64), since: Stamp) -> Stamp {
        self.now += bytes.max(1);
        self.order = self.chooser.used((id, bytes), self.now);
        // Shorter waits say nothing of passes.
        if since > 0 && self.now - since >= self.capacity_bytes {
            self.horizon.waited(since, self.now);
        }
        self.now
    }

    /// The stamp of the last use of anything.
    pub(crate) fn now(&self) -> Stamp {
        self.now
    }

    pub(crate) fn regime(&self) -> Regime {
        Regime { order: self.order, stale_before: self.horizon.stale_before(self.now) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u8) -> ObjectId {
        ObjectId([number; 16])
    }

    #[test]
    fn passes_tell_when_what_they_leave_out_is_stale() {
        let mut guide = Guide::new(Policy::Pin, 10);
        let mut used = [0; 40];
        for _ in 0..3 {
            for number in 0..40 {
                let last = &mut used[usize::from(number)];
                *last = guide.used((id(number), 1), *last);
            }
        }
        assert_eq!(guide.now(), 120);
        assert_eq!(guide.regime(), Regime { order: Order::LowestIds, stale_before: 0 });
        for _ in 0..3 {
            for number in 0..40 {
                let last = &mut used[usize::from(number)];
                *last = guide.used((id(number), 1), *last);
            }
        }
        assert_eq!(guide.regime().stale_before, 240 - 4 * 40);
    }

    #[test]
    fn short_waits_and_unknown_ones_say_nothing() {
        let mut guide = Guide::new(Policy::Pin, 10);
        let mut last = 0;
        for _ in 0..100 {
            guide.used((id(1), 20), 0);
            last = guide.used((id(2), 1), last);
            last = guide.used((id(2), 9), last);
        }
        // 21 bytes lie between two uses of the second object, 9 within its visits.
        assert_eq!(guide.regime().stale_before, guide.now() - 4 * 21);
        let mut guide = Guide::new(Policy::Lru, 10);
        for _ in 0..100 {
            guide.used((id(1), 20), 0);
        }
        assert_eq!(guide.regime(), Regime { order: Order::LeastRecent, stale_before: 0 });
    }
}
