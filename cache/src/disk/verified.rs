//! Which blocks of an object file were found right in this life, and of which file that is true.
//!
//! A pure decider. What this life wrote counts as found right; what the catalogue named at the start
//! counts once it was read and compared. The stamp is the file's at that time: a file that is
//! another one by now, or was changed, has to be read again.

use std::fs::Metadata;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;

use crate::disk::bitmap::Bitmap;

/// Tells a file from another one, and from itself after a change: device, inode, change time and
/// length in one number. [`FileStamp::NONE`] is no file's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileStamp(u64);

impl FileStamp {
    pub(crate) const NONE: Self = Self(0);

    /// That of the file as it is now.
    pub(crate) fn of(file: &Metadata) -> Self {
        let mut hasher = DefaultHasher::new();
        (file.dev(), file.ino(), file.ctime(), file.ctime_nsec(), file.len()).hash(&mut hasher);
        Self(hasher.finish().max(1))
    }

    fn is_none(self) -> bool {
        self == Self::NONE
    }
}

/// Which blocks were found right.
#[derive(Debug)]
pub(crate) enum Verified {
    /// None.
    Nothing,
    /// Some of those that are there.
    Some(Box<Partial>),
    /// Every one that is there.
    All { stamp: FileStamp },
}

#[derive(Debug)]
pub(crate) struct Partial {
    stamp: FileStamp,
    blocks: Bitmap,
}

impl Verified {
    /// Of a file that is begun now, or that is trusted.
    pub(crate) const ALL: Self = Self::All { stamp: FileStamp::NONE };

    /// The stamp under which all blocks were found right; `None` if some were not.
    pub(crate) fn all(&self) -> Option<FileStamp> {
        match self {
            Self::All { stamp } => Some(*stamp),
            Self::Nothing | Self::Some(_) => None,
        }
    }

    /// Whether block `index`, which is there, was found right.
    pub(crate) fn contains(&self, index: u32) -> bool {
        match self {
            Self::Nothing => false,
            Self::Some(partial) => partial.blocks.contains(index),
            Self::All { .. } => true,
        }
    }

    /// Block `index` was read from the file of `stamp` and is right. Ignored if what is known is of
    /// another file.
    pub(crate) fn found_right(&mut self, index: u32, stamp: FileStamp, present: &Bitmap) {
        if let Self::Nothing = self {
            *self = Self::Some(Box::new(Partial { stamp, blocks: Bitmap::default() }));
        }
        let Self::Some(partial) = self else { return };
        if partial.stamp.is_none() {
            partial.stamp = stamp;
        }
        if partial.stamp == stamp && present.contains(index) {
            partial.blocks.insert(index);
            self.complete(present);
        }
    }

    /// Block `index` was written.
    pub(crate) fn written(&mut self, index: u32, present: &Bitmap) {
        match self {
            Self::Nothing => {
                let mut blocks = Bitmap::default();
                blocks.insert(index);
                *self = Self::Some(Box::new(Partial { stamp: FileStamp::NONE, blocks }));
            }
            Self::Some(partial) => {
                partial.blocks.insert(index);
            }
            Self::All { .. } => return,
        }
        self.complete(present);
    }

    /// Block `index` is not there any more.
    pub(crate) fn dropped(&mut self, index: u32, present: &Bitmap) {
        if let Self::Some(partial) = self {
            partial.blocks.remove(index);
            self.complete(present);
        }
    }

    /// The file was changed by us alone, and has this stamp now.
    pub(crate) fn stamped(&mut self, now: FileStamp) {
        match self {
            Self::Nothing => {}
            Self::Some(partial) => partial.stamp = now,
            Self::All { stamp } => *stamp = now,
        }
    }

    /// What is to be believed of the file of `now`: nothing, if what is known is of another one.
    pub(crate) fn begin(&mut self, now: FileStamp) {
        let known = match self {
            Self::Nothing => return,
            Self::Some(partial) => partial.stamp,
            Self::All { stamp } => *stamp,
        };
        if known != now {
            *self = Self::Nothing;
        }
    }

    fn complete(&mut self, present: &Bitmap) {
        if let Self::Some(partial) = self
            && partial.blocks.count() == present.count()
        {
            *self = Self::All { stamp: partial.stamp };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: FileStamp = FileStamp(1);
    const TWO: FileStamp = FileStamp(2);

    fn present(blocks: &[u32]) -> Bitmap {
        let mut bitmap = Bitmap::default();
        for block in blocks {
            assert!(bitmap.insert(*block));
        }
        bitmap
    }

    #[test]
    fn catalogued_blocks_count_once_each_was_read() {
        let there = present(&[0, 1, 2]);
        let mut verified = Verified::Nothing;
        for block in [2, 0, 2] {
            verified.found_right(block, ONE, &there);
            assert_eq!(verified.all(), None);
        }
        assert!(verified.contains(2) && !verified.contains(1));
        verified.found_right(1, ONE, &there);
        assert_eq!(verified.all(), Some(ONE));
    }

    #[test]
    fn what_this_life_writes_counts_at_once() {
        let mut verified = Verified::ALL;
        verified.written(0, &present(&[0]));
        verified.stamped(ONE);
        assert_eq!(verified.all(), Some(ONE));
        let mut mixed = Verified::Nothing;
        mixed.written(1, &present(&[0, 1]));
        assert_eq!(mixed.all(), None);
        mixed.stamped(ONE);
        mixed.found_right(0, ONE, &present(&[0, 1]));
        assert_eq!(mixed.all(), Some(ONE));
    }

    #[test]
    fn blocks_of_another_file_do_not_count() {
        let there = present(&[0, 1]);
        let mut verified = Verified::Nothing;
        verified.found_right(0, ONE, &there);
        verified.found_right(1, TWO, &there);
        assert_eq!(verified.all(), None);
        verified.begin(TWO);
        verified.found_right(1, TWO, &there);
        assert_eq!(verified.all(), None, "what was read of the first file is forgotten");
        verified.found_right(0, TWO, &there);
        assert_eq!(verified.all(), Some(TWO));
        verified.begin(TWO);
        assert_eq!(verified.all(), Some(TWO));
        verified.begin(ONE);
        assert_eq!(verified.all(), None);
    }

    #[test]
    fn a_dropped_block_counts_again_when_it_was_written_again() {
        let mut verified = Verified::Nothing;
        verified.found_right(0, ONE, &present(&[0, 1]));
        verified.dropped(0, &present(&[1]));
        assert_eq!(verified.all(), None);
        verified.written(0, &present(&[0, 1]));
        assert_eq!(verified.all(), None);
        verified.dropped(1, &present(&[0]));
        assert_eq!(verified.all(), Some(ONE), "the only one that was not found right is gone");
        verified.written(1, &present(&[0, 1]));
        assert_eq!(verified.all(), Some(ONE));
    }

    #[test]
    fn a_stamp_changes_with_the_file_and_only_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let stamp = || FileStamp::of(&std::fs::metadata(&path).unwrap());
        std::fs::write(&path, "bytes").unwrap();
        let first = stamp();
        assert_eq!(std::fs::read(&path).unwrap(), b"bytes");
        assert_eq!(stamp(), first);
        std::fs::write(&path, "BYTES").unwrap();
        let second = stamp();
        assert_ne!(second, first);
        std::fs::copy(&path, dir.path().join("copy")).unwrap();
        std::fs::rename(dir.path().join("copy"), &path).unwrap();
        assert_ne!(stamp(), second);
    }

    #[test]
    fn a_file_takes_two_words() {
        assert!(size_of::<Verified>() <= 16, "{}", size_of::<Verified>());
    }
}
