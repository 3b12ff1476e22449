//! Which order would have hit more of late: two miniature caches tell.
//!
//! Both see the uses of the same sample of the objects, chosen by hash, in a space that is the
//! same part of the cache's; their hits are those of the whole, but for chance (Waldspurger, Saemundsson,
//! Ahmad, Park: Cache Modeling and Optimization using Miniature Simulations, ATC 2017). Repeated
//! whole passes, shuffled or not, are where the set that stays put hits more.
//!
//! The sample is halved whenever it has grown too large, so memory is bounded for any cache.

use crate::keeping::shelf::Shelf;
use crate::keeping::{Order, Stamp, Verdict};
use crate::version::ObjectId;

/// Objects in both miniatures at most, each about 100 bytes.
const SAMPLED_MAX: usize = 8192;

/// A score forgets one part in 2^10 at each use of a sampled object.
const FORGETTING_SHIFT: u32 = 10;

/// One hit in a score, so that forgetting loses nothing to rounding. A score is below 2^10 hits:
/// its square fits.
const HIT: u64 = 1 << 20;

/// Standard deviations that the other order must lead by. What only one of the two hits is a coin's
/// throw if they are as good (a sign test); 4 because it is asked at each use.
const LEAD_DEVIATIONS: u64 = 4;

/// Uses of one object within this part of the cache are one visit; memory serves them whatever is
/// on disk.
const VISIT_PART: u64 = 32;

/// The judge of one cache.
#[derive(Debug)]
pub(super) struct Judge {
    capacity_bytes: u64,
    /// The sample is one object of 2^this.
    halvings: u32,
    recent: Miniature,
    pinned: Miniature,
    /// The order that the cache follows.
    order: Order,
}

/// A cache that is too small to matter, with an order of its own.
#[derive(Debug)]
struct Miniature {
    shelf: Shelf,
    order: Order,
    /// Hits of this one alone, in units of `1 / HIT`, fading.
    score: u64,
}

impl Miniature {
    fn new(order: Order, capacity_bytes: u64) -> Self {
        Self { shelf: Shelf::new(capacity_bytes), order, score: 0 }
    }

    fn used(&mut self, object: (ObjectId, u64), now: Stamp) -> bool {
        self.shelf.used(object, self.order, now) == Verdict::Kept
    }

    fn score(&mut self, hits_alone: bool) {
        self.score -= self.score >> FORGETTING_SHIFT;
        self.score += if hits_alone { HIT } else { 0 };
    }

    /// Whether the lead is more than chance: each throw has the variance 1.
    fn leads(&self, other: &Miniature) -> bool {
        let lead = self.score.saturating_sub(other.score);
        lead * lead > LEAD_DEVIATIONS * LEAD_DEVIATIONS * HIT * (self.score + other.score)
    }
}

impl Judge {
    /// While nothing was used twice, nothing says that the recent is worth more, and a set that
    /// stays put costs the fewest writes.
    pub(super) fn new(capacity_bytes: u64) -> Self {
        Self {
            capacity_bytes,
            halvings: 0,
            recent: Miniature::new(Order::LeastRecent, capacity_bytes),
            pinned: Miniature::new(Order::LowestIds, capacity_bytes),
            order: Order::LowestIds,
        }
    }

    pub(super) fn order(&self) -> Order {
        self.order
    }

    /// An object is used; tells which order to follow.
    pub(super) fn used(&mut self, (id, bytes): (ObjectId, u64), now: Stamp) -> Order {
        if is_sampled(id, self.halvings) {
            let since = self.recent.shelf.last_use(id);
            let is_visit = since.is_none_or(|since| now - since > self.capacity_bytes / VISIT_PART);
            let recent = self.recent.used((id, bytes), now);
            let pinned = self.pinned.used((id, bytes), now);
            if is_visit {
                self.recent.score(recent && !pinned);
                self.pinned.score(pinned && !recent);
            }
            self.bound_sample();
            self.order = match self.order {
                Order::LowestIds if self.recent.leads(&self.pinned) => Order::LeastRecent,
                Order::LeastRecent if self.pinned.leads(&self.recent) => Order::LowestIds,
                order => order,
            };
        }
        self.order
    }

    fn bound_sample(&mut self) {
        if self.recent.shelf.len() + self.pinned.shelf.len() > SAMPLED_MAX {
            self.halvings += 1;
            let capacity_bytes = self.capacity_bytes >> self.halvings;
            for miniature in [&mut self.recent, &mut self.pinned] {
                miniature.shelf.shrink(capacity_bytes, |id| is_sampled(id, self.halvings));
            }
        }
    }
}

/// Whether an object is one of the sample. The end of an id says it: its beginning chooses what
/// stays.
fn is_sampled(id: ObjectId, halvings: u32) -> bool {
    let mut end = [0; 8];
    end.copy_from_slice(&id.0[8..]);
    u64::from_be_bytes(end).trailing_zeros() >= halvings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::version::ObjectVersion;

    fn object(number: u64) -> ObjectId {
        let key = number.to_string().into();
        ObjectVersion { store: "s".into(), key, etag: "e".into(), size_bytes: 1 }.id()
    }

    /// Passes over twice as many objects as fit, in a fixed order.
    fn passes(judge: &mut Judge, fitting: u64, passes: u64) -> Order {
        for step in 0..2 * fitting * passes {
            judge.used((object(step % (2 * fitting)), 1), step + 1);
        }
        judge.order
    }

    #[test]
    fn the_sample_is_bounded_and_judges_as_the_whole() {
        let fitting = 30_000;
        let mut judge = Judge::new(fitting);
        judge.order = Order::LeastRecent;
        assert_eq!(passes(&mut judge, fitting, 1), Order::LeastRecent);
        assert_eq!(passes(&mut judge, fitting, 2), Order::LowestIds);
        assert!(judge.recent.shelf.len() + judge.pinned.shelf.len() <= SAMPLED_MAX);
        assert_eq!(judge.halvings, 3);
        // Half of the objects fit; the score remembers 2^10 uses.
        let hits = judge.pinned.score / HIT;
        assert!((461..=563).contains(&hits), "{hits} of 1024");
    }

    #[test]
    fn a_visit_of_several_uses_says_nothing_for_the_recent() {
        let mut judge = Judge::new(1000);
        for step in 0..20_000 {
            assert_eq!(judge.used((object(step % 4000), 1), 3 * step + 1), Order::LowestIds);
            judge.used((object(step % 4000), 1), 3 * step + 2);
            judge.used((object(step % 4000), 1), 3 * step + 3);
        }
        assert!(judge.pinned.score > judge.recent.score);
    }

    #[test]
    fn objects_that_come_back_soon_turn_to_the_recent() {
        let mut judge = Judge::new(100);
        for step in 0..4000 {
            judge.used((object(step), 1), 2 * step + 1);
            if step >= 20 {
                judge.used((object(step - 20), 1), 2 * step + 2);
            }
        }
        assert_eq!(judge.order, Order::LeastRecent);
    }
}
