//! Finds the end of an answer's head in the bytes that pass.

use std::io::IoSlice;

/// Offset of the first digit of the status in `HTTP/1.1 200 OK`.
const STATUS_OFFSET: u64 = 9;

/// Follows a head up to the empty line that ends it. Interim answers (100 Continue) before the answer
/// itself count as a part of its head.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HeadScanner {
    /// Bytes of the head that have passed.
    seen: u64,
    /// Bytes of the present line's block that have passed.
    block: u64,
    /// How much of `\r\n\r\n` the last bytes are.
    matched: u8,
    interim: bool,
    ended: bool,
}

impl HeadScanner {
    /// Bytes of the head that have passed.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// Whether the whole head has passed.
    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    /// How many of the bytes are the head's, and whether it ends in them or before.
    pub(super) fn look_ahead(&self, slices: &[IoSlice<'_>]) -> (usize, bool) {
        let mut ahead = *self;
        let bytes = ahead.advance(slices, usize::MAX);
        (bytes, ahead.ended)
    }

    /// Passes the first `written` bytes; returns how many of them are the head's.
    pub(super) fn advance(&mut self, slices: &[IoSlice<'_>], written: usize) -> usize {
        if self.ended {
            return 0;
        }
        let before = self.seen;
        let mut left = written;
        for slice in slices {
            for byte in &slice[..slice.len().min(left)] {
                self.pass(*byte);
                if self.ended {
                    return usize::try_from(self.seen - before).unwrap_or(usize::MAX);
                }
            }
            left = left.saturating_sub(slice.len());
        }
        usize::try_from(self.seen - before).unwrap_or(usize::MAX)
    }

    #[inline]
    fn pass(&mut self, byte: u8) {
        if self.block == STATUS_OFFSET {
            self.interim = byte == b'1';
        }
        self.seen += 1;
        self.block += 1;
        self.matched = match (byte, self.matched) {
            (b'\r', 2) => 3,
            (b'\r', _) => 1,
            (b'\n', 1) => 2,
            (b'\n', 3) => 4,
            _ => 0,
        };
        if self.matched == 4 {
            self.ended = !self.interim;
            self.block = 0;
            self.matched = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\na: b\r\n\r\n";

    #[test]
    fn the_head_ends_at_the_empty_line_however_it_is_cut() {
        let bytes = [HEAD, b"body\r\n\r\n"].concat();
        for cut in 0..bytes.len() {
            let (first, second) = bytes.split_at(cut);
            let slices = [IoSlice::new(first), IoSlice::new(second)];
            let mut scanner = HeadScanner::default();
            assert_eq!(scanner.look_ahead(&slices), (HEAD.len(), true));
            let head = scanner.advance(&slices, cut);
            assert_eq!(head, cut.min(HEAD.len()));
            assert_eq!(scanner.ended(), cut >= HEAD.len());
            assert_eq!(head + scanner.advance(&slices[1..], second.len()), HEAD.len());
            assert_eq!(scanner.seen(), HEAD.len() as u64);
        }
    }

    #[test]
    fn interim_answers_belong_to_the_head() {
        let bytes = [b"HTTP/1.1 100 Continue\r\n\r\n", HEAD].concat();
        let mut scanner = HeadScanner::default();
        let passed = scanner.advance(&[IoSlice::new(&bytes), IoSlice::new(b"x")], usize::MAX);
        assert_eq!(passed, bytes.len());
        assert!(scanner.ended());
    }
}
