//! Which blocks become one fetch.
//!
//! A pure decider.

use crate::block::BlockRun;

/// Cuts `indices`, which rise, into runs of adjacent blocks, none longer than `blocks_max`: each is
/// one request to the source.
pub(crate) fn coalesce(indices: impl IntoIterator<Item = u32>, blocks_max: u32) -> Vec<BlockRun> {
    let mut runs: Vec<BlockRun> = Vec::new();
    for index in indices {
        let longer = runs.last().and_then(|run| {
            let fits = run.end() == index && run.len_blocks() < blocks_max;
            if fits { BlockRun::new(run.first()..index + 1) } else { None }
        });
        match (longer, runs.last_mut()) {
            (Some(longer), Some(last)) => *last = longer,
            _ => runs.extend(BlockRun::new(index..index + 1)),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::block::RUN_BLOCKS_MAX;

    #[track_caller]
    fn check(indices: &[u32], expected: &[(u32, u32)]) {
        let runs: Vec<_> = coalesce(indices.iter().copied(), RUN_BLOCKS_MAX);
        let runs: Vec<_> = runs.iter().map(|run| (run.first(), run.end())).collect();
        assert_eq!(runs, expected);
    }

    /// Proves W05.
    #[test]
    fn adjacent_missing_blocks_become_one_run() {
        check(&[], &[]);
        check(&[7], &[(7, 8)]);
        check(&[7, 8], &[(7, 9)]);
        check(&[0, 1, 2, 3, 4], &[(0, 4), (4, 5)]);
        check(&[0, 2, 3, 9], &[(0, 1), (2, 4), (9, 10)]);
    }

    proptest! {
        #[test]
        fn runs_are_exactly_the_missing_blocks(mut indices in prop::collection::btree_set(0u32..60, 0..40)) {
            let runs = coalesce(indices.iter().copied(), RUN_BLOCKS_MAX);
            for run in &runs {
                prop_assert!(run.len_blocks() <= RUN_BLOCKS_MAX);
                for index in run.indices() {
                    prop_assert!(indices.remove(&index));
                }
            }
            prop_assert!(indices.is_empty());
        }
    }
}
