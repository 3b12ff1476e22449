//! Rounds in which a figure and its reference take turns, so that both see the same machine.

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "printed figures have fewer digits than a double")]
pub(super) fn figure(count: u64) -> f64 {
    count as f64
}

/// The figures of all rounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Series(Vec<f64>);

impl Series {
    /// Takes one more figure.
    pub(super) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle one, or the mean of the two in the middle; 0 of none.
    pub(super) fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match (sorted.len() % 2, sorted.get(middle)) {
            (_, None) => 0.0,
            (1, Some(figure)) => *figure,
            (_, Some(figure)) => f64::midpoint(sorted[middle - 1], *figure),
        }
    }

    /// The median, and none of the figures any more.
    pub(super) fn take_median(&mut self) -> f64 {
        std::mem::take(self).median()
    }

    /// Difference of the largest and the smallest over the median; 0 of none.
    pub(super) fn spread(&self) -> f64 {
        let bound = |pick: fn(f64, f64) -> f64| self.0.iter().copied().reduce(pick);
        let median = self.median();
        match (bound(f64::max), bound(f64::min)) {
            (Some(most), Some(least)) if median > 0.0 => (most - least) / median,
            _ => 0.0,
        }
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    /// What is judged.
    Subject,
    /// What it is held against.
    Reference,
}

/// Who is measured when: each round has both, and who goes first changes from round to round, so that neither always
/// inherits the other's heat.
pub(super) fn turns(rounds: u16) -> impl Iterator<Item = Side> {
    (0..rounds).flat_map(|round| {
        if round % 2 == 0 {
            [Side::Subject, Side::Reference]
        } else {
            [Side::Reference, Side::Subject]
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(figures: &[f64], median: f64, spread: f64) {
        let series = Series(figures.to_vec());
        assert!((series.median() - median).abs() < 1e-9, "{figures:?}: {}", series.median());
        assert!((series.spread() - spread).abs() < 1e-9, "{figures:?}: {}", series.spread());
    }

    #[test]
    fn median_is_the_middle_whatever_the_order() {
        check(&[], 0.0, 0.0);
        check(&[3.0], 3.0, 0.0);
        check(&[9.0, 1.0, 2.0], 2.0, 4.0);
        check(&[4.0, 1.0, 3.0, 2.0], 2.5, 1.2);
        check(&[0.0, 0.0], 0.0, 0.0);
    }

    #[test]
    fn both_sides_have_every_round_and_take_turns_in_going_first() {
        use Side::{Reference, Subject};
        let expected = [Subject, Reference, Reference, Subject, Subject, Reference];
        assert_eq!(turns(3).collect::<Vec<_>>(), expected);
    }
}
