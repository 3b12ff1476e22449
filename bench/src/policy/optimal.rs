//! What a cache would hit that knows the future: it keeps what is used again soonest (L. A. Belady: A study of
//! replacement algorithms for a virtual-storage computer, 1966), and does not take in what would be used again later
//! than all that is there. With objects of one size nothing hits more; with several sizes something may.

use std::collections::{BTreeSet, HashMap};

use crate::policy::uses::Uses;

/// The next use of what is not used again.
const NEVER: usize = usize::MAX;

/// Whether each use is a hit.
pub(super) fn hits(uses: &Uses, capacity_bytes: u64) -> Vec<bool> {
    let mut used_bytes = 0;
    // By when they are used next.
    let mut here: BTreeSet<(usize, u32)> = BTreeSet::new();
    let mut hits = Vec::with_capacity(uses.order().len());
    for ((now, object), next) in uses.order().iter().enumerate().zip(next_uses(uses.order())) {
        let hit = here.remove(&(now, *object));
        hits.push(hit);
        let bytes = uses.object(*object).bytes;
        if hit {
            here.insert((next, *object));
        } else if let Some(victims) =
            victims(uses, &here, ((used_bytes + bytes).saturating_sub(capacity_bytes), next))
        {
            for victim in victims {
                here.remove(&victim);
                used_bytes -= uses.object(victim.1).bytes;
            }
            here.insert((next, *object));
            used_bytes += bytes;
        }
    }
    hits
}

/// Objects of `missing_bytes` that are used later than `next`; `None` if there are too few.
fn victims(
    uses: &Uses,
    here: &BTreeSet<(usize, u32)>,
    (missing_bytes, next): (u64, usize),
) -> Option<Vec<(usize, u32)>> {
    let (mut found_bytes, mut victims) = (0, Vec::new());
    let mut later = here.iter().rev().take_while(|(other, _)| *other > next);
    while found_bytes < missing_bytes {
        let victim = *later.next()?;
        found_bytes += uses.object(victim.1).bytes;
        victims.push(victim);
    }
    Some(victims)
}

/// For each use, when its object is used next.
fn next_uses(order: &[u32]) -> Vec<usize> {
    let mut next = vec![NEVER; order.len()];
    let mut coming = HashMap::new();
    for (now, object) in order.iter().enumerate().rev() {
        next[now] = coming.insert(*object, now).unwrap_or(NEVER);
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The most hits there can be: every choice is tried at every use.
    fn most_hits(order: &[u32], capacity: usize, here: &[u32]) -> usize {
        let Some((object, rest)) = order.split_first() else { return 0 };
        if here.contains(object) {
            return 1 + most_hits(rest, capacity, here);
        }
        let with = [here, &[*object]].concat();
        if with.len() <= capacity {
            return most_hits(rest, capacity, &with);
        }
        let without = |gone| [&with[..gone], &with[gone + 1..]].concat();
        (0..with.len()).map(|gone| most_hits(rest, capacity, &without(gone))).max().unwrap_or(0)
    }

    #[test]
    fn nothing_hits_more() {
        for seed in 0..40 {
            let uses = Uses::shuffled(5, 2, seed);
            for capacity in 1..5 {
                let hits = hits(&uses, capacity as u64).into_iter().filter(|hit| *hit).count();
                assert_eq!(hits, most_hits(uses.order(), capacity, &[]), "seed {seed}");
            }
        }
    }
}
