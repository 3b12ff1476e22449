//! A cache that keeps what came last, whatever was used since.

use std::collections::{HashSet, VecDeque};

/// Objects in the order in which they came.
#[derive(Debug)]
pub(super) struct Fifo {
    free_bytes: u64,
    capacity_bytes: u64,
    queue: VecDeque<(u32, u64)>,
    here: HashSet<u32>,
}

impl Fifo {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        let (queue, here) = (VecDeque::new(), HashSet::new());
        Self { free_bytes: capacity_bytes, capacity_bytes, queue, here }
    }

    /// An object is used: whether it was here. If not, it comes.
    pub(super) fn used(&mut self, object: u32, bytes: u64) -> bool {
        if self.here.contains(&object) {
            return true;
        }
        if bytes <= self.capacity_bytes {
            while self.free_bytes < bytes {
                let Some((gone, freed_bytes)) = self.queue.pop_front() else { break };
                self.here.remove(&gone);
                self.free_bytes += freed_bytes;
            }
            self.free_bytes -= bytes;
            self.queue.push_back((object, bytes));
            self.here.insert(object);
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_to_come_goes_first_though_it_was_used() {
        let mut fifo = Fifo::new(3);
        let uses = [(1, 1), (2, 1), (3, 1), (1, 1), (4, 1), (1, 1), (5, 4), (3, 1), (6, 2), (4, 1)];
        let hits = uses.map(|(object, bytes)| fifo.used(object, bytes));
        assert_eq!(hits, [false, false, false, true, false, false, false, true, false, false]);
    }
}
