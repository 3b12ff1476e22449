//! Half-open ranges of bytes in an object.
//!
//! The one type that the S3 client, the cache and the daemon all speak: which bytes of an object.
//!
//! Architecture invariant: knows nothing but integers.

use std::fmt;

/// A half-open, never empty range of bytes `start..end` of an object.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ByteRange {
    start: u64,
    end: u64,
}

impl ByteRange {
    /// The range `start..end`; `None` if it would be empty.
    pub const fn new(start: u64, end: u64) -> Option<Self> {
        if start < end { Some(Self { start, end }) } else { None }
    }

    /// The range of `len_bytes` bytes from `start`; `None` if it would be empty or pass `u64::MAX`.
    pub const fn at(start: u64, len_bytes: u64) -> Option<Self> {
        match start.checked_add(len_bytes) {
            Some(end) => Self::new(start, end),
            None => None,
        }
    }

    /// Offset of the first byte.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// Offset behind the last byte.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Offset of the last byte, as HTTP's `Range` header wants it.
    pub const fn last(self) -> u64 {
        self.end - 1
    }

    /// Number of bytes, at least 1.
    pub const fn len_bytes(self) -> u64 {
        self.end - self.start
    }

    /// The bytes in both ranges; `None` if there are none.
    pub fn intersect(self, other: Self) -> Option<Self> {
        Self::new(self.start.max(other.start), self.end.min(other.end))
    }

    /// The part of the range below `end`; `None` if nothing is.
    pub fn below(self, end: u64) -> Option<Self> {
        Self::new(self.start, self.end.min(end))
    }

    /// The part of the range at and after `start`; `None` if nothing is.
    pub fn from(self, start: u64) -> Option<Self> {
        Self::new(self.start.max(start), self.end)
    }

    /// Whether every byte of `other` is in this range.
    pub const fn contains(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }
}

impl fmt::Debug for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_never_empty() {
        assert_eq!(ByteRange::new(4, 4), None);
        assert_eq!(ByteRange::new(5, 4), None);
        assert_eq!(ByteRange::at(7, 0), None);
        assert_eq!(ByteRange::at(u64::MAX, 1), None);
        assert_eq!(ByteRange::at(4, 3).map(ByteRange::last), Some(6));
    }

    #[test]
    fn parts_of_a_range_stay_inside_it() {
        let range = ByteRange::new(10, 20).unwrap();
        assert_eq!(range.below(15), ByteRange::new(10, 15));
        assert_eq!(range.below(10), None);
        assert_eq!(range.from(15), ByteRange::new(15, 20));
        assert_eq!(range.from(20), None);
        assert_eq!(range.intersect(ByteRange::new(0, 11).unwrap()), ByteRange::new(10, 11));
        assert_eq!(range.intersect(ByteRange::new(0, 10).unwrap()), None);
        assert!(range.contains(ByteRange::new(19, 20).unwrap()));
        assert!(!range.contains(ByteRange::new(19, 21).unwrap()));
    }
}
