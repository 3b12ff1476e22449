//! What an object holds: given bytes, or bytes that follow from a seed.
//!
//! Seeded content costs no memory and no time: every granule of 256 KiB is a window into one pool of
//! random bytes that the process makes once; where the window starts follows from the seed and the
//! granule's number. Two granules of one object, or the same granule of two seeds, differ (but for one
//! chance in eight million), so a block that lands in the wrong place is noticed by any comparison.
//!
//! Invariant: reading copies nothing; what is returned are shared views.

use std::fmt;
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use md5::{Digest, Md5};

/// Bytes of seeded content that come from one window of the pool.
const GRANULE_BYTES: u64 = 256 * 1024;
/// Number of places in the pool at which a window may start.
const WINDOW_COUNT: u64 = 8 * 1024 * 1024;

/// The random bytes that all seeded content is cut from.
static POOL: LazyLock<Bytes> = LazyLock::new(|| {
    let words = (WINDOW_COUNT + GRANULE_BYTES) / 8;
    (0..words).flat_map(|word| mix(0x7e4d_e2f5 ^ word).to_le_bytes()).collect::<Vec<u8>>().into()
});

/// The content of an object.
#[derive(Clone)]
pub enum Content {
    /// These bytes.
    Bytes(Bytes),
    /// Bytes that follow from the seed and their offset; equal seeds and sizes are equal content.
    Seeded {
        /// Chooses the bytes.
        seed: u64,
        /// Length of the object.
        size_bytes: u64,
    },
    /// These contents one after another, as a multipart upload leaves them.
    Parts(Arc<[Content]>),
}

impl Content {
    /// Seeded content of `size_bytes` bytes.
    pub const fn seeded(seed: u64, size_bytes: u64) -> Self {
        Self::Seeded { seed, size_bytes }
    }

    /// Length of the content.
    pub fn len_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Seeded { size_bytes, .. } => *size_bytes,
            Self::Parts(parts) => parts.iter().map(Self::len_bytes).sum(),
        }
    }

    /// The bytes `start..end` as shared views in order; what lies behind the end is left out.
    pub fn slices(&self, start: u64, end: u64) -> Vec<Bytes> {
        let mut slices = Vec::new();
        self.push_slices(start, end, &mut slices);
        slices
    }

    /// The bytes `start..end` in one piece; copies unless one view holds them all.
    pub fn read(&self, start: u64, end: u64) -> Bytes {
        let mut slices = self.slices(start, end);
        match slices.len() {
            0 => Bytes::new(),
            1 => slices.remove(0),
            _ => slices.concat().into(),
        }
    }

    /// Whether `bytes` are what the content holds at `offset`.
    pub fn matches(&self, offset: u64, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        for slice in self.slices(offset, offset.saturating_add(bytes.len() as u64)) {
            let Some(head) = rest.split_off(..slice.len()) else { return false };
            if head != slice {
                return false;
            }
        }
        rest.is_empty()
    }

    /// MD5 of the whole content, in lower-case hex. Reads all of it: 0.5 s for 256 MiB.
    pub fn md5(&self) -> String {
        hex(&self.md5_digest())
    }

    /// MD5 of the whole content.
    pub(crate) fn md5_digest(&self) -> [u8; 16] {
        let mut hasher = Md5::new();
        let end = self.len_bytes();
        let mut start = 0;
        while start < end {
            let stop = end.min(start + (16 << 20));
            for slice in self.slices(start, stop) {
                hasher.update(&slice);
            }
            start = stop;
        }
        hasher.finalize().into()
    }

    /// The ETag that S3 would give a plain PUT of this content, without quotes. Seeded content is not
    /// hashed: its ETag follows from seed and size and has the form of a multipart upload's, which no
    /// client takes for an MD5 of the bytes.
    pub(crate) fn etag(&self) -> String {
        match self {
            Self::Bytes(_) => self.md5(),
            Self::Seeded { seed, size_bytes } => {
                format!("{}-1", hex(&Md5::digest(format!("seeded {seed} {size_bytes}"))))
            }
            Self::Parts(parts) => {
                let digests: Vec<[u8; 16]> = parts.iter().map(Self::md5_digest).collect();
                etag_of_parts(&digests)
            }
        }
    }

    fn push_slices(&self, start: u64, end: u64, slices: &mut Vec<Bytes>) {
        match self {
            Self::Bytes(bytes) => {
                let end = index(end).min(bytes.len());
                let start = index(start).min(end);
                if start < end {
                    slices.push(bytes.slice(start..end));
                }
            }
            Self::Seeded { seed, size_bytes } => {
                push_seeded(*seed, start, end.min(*size_bytes), slices);
            }
            Self::Parts(parts) => {
                let mut part_start = 0;
                for part in parts.iter() {
                    let part_end = part_start + part.len_bytes();
                    if start < part_end && part_start < end {
                        part.push_slices(
                            start.max(part_start) - part_start,
                            end.min(part_end) - part_start,
                            slices,
                        );
                    }
                    part_start = part_end;
                }
            }
        }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::Bytes(bytes)
    }
}

impl From<Vec<u8>> for Content {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Bytes(bytes.into())
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self::Bytes(text.into())
    }
}

impl From<&'static str> for Content {
    fn from(text: &'static str) -> Self {
        Self::Bytes(Bytes::from_static(text.as_bytes()))
    }
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bytes(bytes) => write!(f, "Bytes({} bytes)", bytes.len()),
            Self::Seeded { seed, size_bytes } => write!(f, "Seeded({seed}, {size_bytes} bytes)"),
            Self::Parts(parts) => f.debug_list().entries(parts.iter()).finish(),
        }
    }
}

/// The ETag of a multipart upload whose parts have these MD5s.
pub(crate) fn etag_of_parts(digests: &[[u8; 16]]) -> String {
    format!("{}-{}", hex(&Md5::digest(digests.concat())), digests.len())
}

fn push_seeded(seed: u64, start: u64, end: u64, slices: &mut Vec<Bytes>) {
    let mut offset = start;
    while offset < end {
        let granule = offset / GRANULE_BYTES;
        let inside = offset % GRANULE_BYTES;
        let len = (GRANULE_BYTES - inside).min(end - offset);
        let window = mix(mix(seed).wrapping_add(granule)) % WINDOW_COUNT;
        let from = index(window + inside);
        slices.push(POOL.slice(from..from + index(len)));
        offset += len;
    }
}

/// An offset into memory; what memory cannot hold lies behind every slice.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}

/// One step of splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
pub(crate) const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `value` as a number in 0.0 ..= 1.0, evenly spread if `value` is.
#[expect(clippy::cast_precision_loss, reason = "53 bits of chance are enough")]
pub(crate) fn fraction(value: u64) -> f64 {
    (value >> 11) as f64 / (1u64 << 53) as f64
}

/// Lower-case hex of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |nibble: u8| char::from(DIGITS[usize::from(nibble & 15)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(*byte)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_range_of_seeded_content_is_a_part_of_the_whole() {
        let content = Content::seeded(7, 3 * GRANULE_BYTES + 17);
        let whole = content.read(0, u64::MAX);
        assert_eq!(whole.len() as u64, content.len_bytes());
        for (start, end) in
            [(0, 1), (GRANULE_BYTES - 1, GRANULE_BYTES + 1), (5, whole.len() as u64)]
        {
            assert_eq!(content.read(start, end), whole.slice(index(start)..index(end)));
            assert!(content.matches(start, &whole[index(start)..index(end)]));
        }
        assert!(content.read(u64::MAX - 1, u64::MAX).is_empty());
    }

    #[test]
    fn seeds_and_granules_differ() {
        let one = Content::seeded(1, 2 * GRANULE_BYTES).read(0, u64::MAX);
        let two = Content::seeded(2, 2 * GRANULE_BYTES).read(0, u64::MAX);
        let (first, second) = one.split_at(index(GRANULE_BYTES));
        assert_ne!(first, second);
        assert_ne!(one, two);
        assert!(!Content::seeded(1, 2 * GRANULE_BYTES).matches(0, &two));
    }

    #[test]
    fn parts_read_as_one() {
        let parts = Content::Parts([Content::from("abc"), Content::from("defg")].into());
        assert_eq!(parts.len_bytes(), 7);
        assert_eq!(&parts.read(2, 5)[..], b"cde");
        assert_eq!(parts.md5(), Content::from("abcdefg").md5());
        assert!(parts.matches(1, b"bcdefg"));
        assert!(!parts.matches(1, b"bcdefgh"));
    }

    #[test]
    fn etags_of_plain_content_are_md5() {
        assert_eq!(Content::from("").etag(), "d41d8cd98f00b204e9800998ecf8427e");
        assert_eq!(Content::from("abc").etag(), "900150983cd24fb0d6963f7d28e17f72");
    }
}
