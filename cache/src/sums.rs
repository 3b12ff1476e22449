//! Checksums of a block: crc32c of each granule of 64 KiB, so that small reads can verify too.

use std::sync::Arc;

/// Bytes of a granule, the unit of checksums.
pub(crate) const SUM_BYTES: usize = 64 << 10;

/// Computes checksums of bytes that arrive in order, while they are still in the CPU's cache.
#[derive(Debug, Default)]
pub(crate) struct SumsBuilder {
    done: Vec<u32>,
    /// Checksum and number of bytes of the granule under way.
    open: (u32, usize),
}

impl SumsBuilder {
    /// Adds `bytes`, those behind all added so far.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (sum, len_bytes) = self.open;
            let (now, later) = bytes.split_at(bytes.len().min(SUM_BYTES - len_bytes));
            self.open = (crc32c::crc32c_append(sum, now), len_bytes + now.len());
            if self.open.1 == SUM_BYTES {
                self.done.push(self.open.0);
                self.open = (0, 0);
            }
            bytes = later;
        }
    }

    /// The checksums; that of a shorter last granule included.
    pub(crate) fn finish(mut self) -> Arc<[u32]> {
        if self.open.1 > 0 {
            self.done.push(self.open.0);
        }
        self.done.into()
    }
}

/// Whether `bytes`, which start at a granule, have the checksums `expected`.
pub(crate) fn verify(bytes: &[u8], expected: &[u32]) -> bool {
    bytes.len().div_ceil(SUM_BYTES) == expected.len()
        && bytes
            .chunks(SUM_BYTES)
            .zip(expected)
            .all(|(granule, expected)| crc32c::crc32c(granule) == *expected)
}

/// Number of checksums of a block of `len_bytes`.
pub(crate) fn count(len_bytes: usize) -> usize {
    len_bytes.div_ceil(SUM_BYTES)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn sums_do_not_depend_on_how_bytes_arrive(
            len_bytes in 1usize..300_000, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20)
        ) {
            let bytes: Vec<u8> = (0..len_bytes).map(|at| u8::try_from(at % 251).unwrap()).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(len_bytes)).collect();
            cuts.extend([0, len_bytes]);
            cuts.sort_unstable();
            let mut builder = SumsBuilder::default();
            for pair in cuts.windows(2) {
                builder.update(&bytes[pair[0]..pair[1]]);
            }
            let sums = builder.finish();
            prop_assert_eq!(sums.len(), count(len_bytes));
            prop_assert!(verify(&bytes, &sums));
            let mut flipped = bytes;
            flipped[len_bytes / 2] ^= 1;
            prop_assert!(!verify(&flipped, &sums));
        }
    }
}
