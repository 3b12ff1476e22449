//! The objects that are measured. Their bytes follow from the seed, so the lab, the native copies and every comparison
//! of bytes make them without asking each other.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tenderfs_lab::Content;

/// The lab's bucket.
pub(crate) const BUCKET: &str = "bench";

/// Bytes of one write of a copy.
const WRITE_BYTES: u64 = 4 << 20;
/// Keys of one folder of [`Set::Keys`].
const KEYS_PER_FOLDER: u64 = 1000;
const MIB: u64 = 1 << 20;

/// How large everything is; 1 is what the bars are meant for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scale(pub f64);

impl Scale {
    /// `full` scaled, a whole number of `unit`s and at least `least`.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sizes are far below 2^52, and a rounded one is as good"
    )]
    pub(super) fn of(self, full: u64, unit: u64, least: u64) -> u64 {
        (((full as f64 * self.0) as u64) / unit * unit).max(least)
    }
}

/// Objects below one prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Set {
    /// 16 objects of 128 MiB.
    Large,
    /// One of 2 GiB.
    Huge,
    /// 5 000 of about 100 KiB in one folder.
    Small,
    /// 100 000 in folders of 1 000; nobody reads them.
    Keys,
    /// 32 of 16 MiB, of which only the first bytes are read.
    First,
}

impl Set {
    /// All of them.
    pub(super) const ALL: [Set; 5] = [Set::Large, Set::Huge, Set::Small, Set::Keys, Set::First];

    /// The prefix in the bucket, without a slash; the folder's name in copies.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Set::Large => "large",
            Set::Huge => "huge",
            Set::Small => "small",
            Set::Keys => "keys",
            Set::First => "first",
        }
    }
}

/// One object: its key below the set's prefix, and its bytes.
#[derive(Debug, Clone)]
pub(crate) struct Object {
    /// Key below the prefix, which is its path below a mount or copy.
    pub(crate) key: String,
    /// Its bytes.
    pub(crate) content: Content,
}

/// The objects of `set`.
pub(super) fn objects(set: Set, scale: Scale, seed: u64) -> Vec<Object> {
    let (count, bytes): (u64, fn(u64) -> u64) = match set {
        Set::Large => (16, |_| 128 * MIB),
        Set::Huge => (1, |_| 2048 * MIB),
        Set::Small => (scale.of(5000, 1, 50), |number| (60 << 10) + number * 7919 % (80 << 10)),
        Set::Keys => (scale.of(100_000, 1, 500), |number| 1 + number % 5000),
        Set::First => (32, |_| 16 * MIB),
    };
    let bytes_of = |number| match set {
        Set::Large => scale.of(bytes(number), 4 * MIB, 8 * MIB),
        Set::Huge => scale.of(bytes(number), 4 * MIB, 128 * MIB),
        Set::Small | Set::Keys | Set::First => bytes(number),
    };
    let kind = Set::ALL.iter().position(|one| *one == set).map_or(0, |at| at as u64);
    let object = |number| Object {
        key: match set {
            Set::Keys => format!("{:03}/{number:06}", number / KEYS_PER_FOLDER),
            _ => format!("{number:05}"),
        },
        content: Content::seeded(seed << 40 | kind << 32 | number, bytes_of(number)),
    };
    (0..count).map(object).collect()
}

/// The objects of all sets, each with its whole key.
pub(super) fn every_object(scale: Scale, seed: u64) -> Vec<Object> {
    let of = |set: Set| {
        let with_prefix = move |object: Object| Object {
            key: format!("{}/{}", set.prefix(), object.key),
            ..object
        };
        objects(set, scale, seed).into_iter().map(with_prefix)
    };
    Set::ALL.into_iter().flat_map(of).collect()
}

/// A file to be read, with the bytes that it must have.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Where it is.
    pub(super) path: PathBuf,
    /// Its length.
    pub(super) len_bytes: u64,
    /// What must be in it; `None` if nobody knows.
    pub(super) content: Option<Content>,
}

/// The objects as files below `root`.
pub(super) fn sources(root: &Path, objects: &[Object]) -> Vec<Source> {
    let source = |object: &Object| Source {
        path: root.join(&object.key),
        len_bytes: object.content.len_bytes(),
        content: Some(object.content.clone()),
    };
    objects.iter().map(source).collect()
}

/// Bytes of all of them.
pub(crate) fn len_bytes(objects: &[Object]) -> u64 {
    objects.iter().map(|object| object.content.len_bytes()).sum()
}

/// Whether copies have their bytes or only their sizes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Copied {
    /// All bytes, on disk when this returns.
    Bytes,
    /// Sparse files of the right sizes, for readers of attributes.
    Sizes,
}

/// Writes the objects as files below `root`.
pub(crate) fn copy(root: &Path, objects: &[Object], copied: Copied) -> io::Result<()> {
    for object in objects {
        let path = root.join(&object.key);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = File::create(&path)?;
        let end = object.content.len_bytes();
        match copied {
            Copied::Sizes => file.set_len(end)?,
            Copied::Bytes => {
                for start in (0..end).step_by(usize::try_from(WRITE_BYTES).unwrap_or(usize::MAX)) {
                    for slice in object.content.slices(start, end.min(start + WRITE_BYTES)) {
                        file.write_all(&slice)?;
                    }
                }
            }
        }
    }
    if copied == Copied::Bytes {
        // One for all: a thousand calls of fsync(2) would take longer than the writing.
        rustix::fs::syncfs(File::open(root)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_scale_and_have_a_least() {
        let bytes = |set, scale| len_bytes(&objects(set, Scale(scale), 1)) / MIB;
        assert_eq!((bytes(Set::Large, 1.0), bytes(Set::Large, 0.001)), (2048, 128));
        assert_eq!((bytes(Set::Huge, 1.0), bytes(Set::Huge, 0.5)), (2048, 1024));
        let small = objects(Set::Small, Scale(1.0), 1);
        assert_eq!(small.len(), 5000);
        assert!((95 << 10..105 << 10).contains(&(len_bytes(&small) / 5000)));
        assert_eq!(objects(Set::Keys, Scale(1.0), 1)[1234].key, "001/001234");
    }

    #[test]
    fn copy_has_the_bytes_of_its_object_and_another_seed_has_others() {
        let dir = tempfile::tempdir().unwrap();
        let small = objects(Set::Small, Scale(0.001), 1);
        copy(dir.path(), &small, Copied::Bytes).unwrap();
        let bytes = fs::read(dir.path().join(&small[3].key)).unwrap();
        assert_eq!(bytes.len() as u64, small[3].content.len_bytes());
        assert!(small[3].content.matches(0, &bytes));
        assert!(!objects(Set::Small, Scale(0.001), 2)[3].content.matches(0, &bytes));
    }
}
