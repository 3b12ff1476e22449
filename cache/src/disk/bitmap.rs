//! A set of block numbers, one word for objects of up to 256 MiB.

use smallvec::SmallVec;

/// A set of block numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Bitmap {
    words: SmallVec<[u64; 1]>,
}

impl Bitmap {
    /// From words, lowest blocks first.
    pub(crate) fn from_words(words: impl IntoIterator<Item = u64>) -> Self {
        Self { words: words.into_iter().collect() }
    }

    /// Its words, lowest blocks first; trailing ones that are zero may be missing.
    pub(crate) fn words(&self) -> &[u64] {
        &self.words
    }

    pub(crate) fn contains(&self, index: u32) -> bool {
        let (word, bit) = position(index);
        self.words.get(word).is_some_and(|word| word & bit != 0)
    }

    /// Adds `index`; returns whether it is new.
    pub(crate) fn insert(&mut self, index: u32) -> bool {
        let (word, bit) = position(index);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        let new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        new
    }

    /// Removes `index`; returns whether it was there.
    pub(crate) fn remove(&mut self, index: u32) -> bool {
        let (word, bit) = position(index);
        let there = self.contains(index);
        if there {
            self.words[word] &= !bit;
        }
        there
    }

    /// How many there are.
    pub(crate) fn count(&self) -> u32 {
        self.words.iter().map(|word| word.count_ones()).sum()
    }

    /// The highest one.
    pub(crate) fn last(&self) -> Option<u32> {
        let word = self.words.iter().rposition(|word| *word != 0)?;
        let bit = self.words[word].ilog2();
        u32::try_from(word).ok().map(|word| word * 64 + bit)
    }

    pub(crate) fn clear(&mut self) {
        self.words.clear();
    }
}

fn position(index: u32) -> (usize, u64) {
    ((index / 64) as usize, 1 << (index % 64))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn behaves_as_a_set(steps in prop::collection::vec((0u32..300, any::<bool>()), 0..200)) {
            let mut bitmap = Bitmap::default();
            let mut set = BTreeSet::new();
            for (index, add) in steps {
                if add {
                    prop_assert_eq!(bitmap.insert(index), set.insert(index));
                } else {
                    prop_assert_eq!(bitmap.remove(index), set.remove(&index));
                }
                prop_assert_eq!(bitmap.count() as usize, set.len());
                prop_assert_eq!(bitmap.last(), set.last().copied());
            }
            for index in 0..300 {
                prop_assert_eq!(bitmap.contains(index), set.contains(&index));
            }
            prop_assert_eq!(Bitmap::from_words(bitmap.words().iter().copied()), bitmap);
        }
    }
}
