//! The entries of a plan in little memory: a million of them take some 24 bytes each, and each
//! file's name once.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};
use tenderfs_byterange::ByteRange;

/// Says that there is no further item.
const NONE: u32 = u32::MAX;

/// What an entry wants of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Span {
    /// All of it.
    Whole,
    /// These bytes, as far as it has them.
    Part(ByteRange),
}

/// A list of parts of files, in the order in which they are to be read.
#[derive(Debug, Default)]
pub(crate) struct Entries {
    /// The names of all files, without anything between them.
    text: String,
    files: Vec<File>,
    items: Vec<Item>,
    /// Places in `files`, by name.
    by_name: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

#[derive(Debug)]
struct File {
    start: usize,
    end: usize,
    /// Its first item that may be of interest still.
    first: u32,
    last: u32,
}

#[derive(Debug)]
struct Item {
    file: u32,
    /// The next item of the same file.
    next: u32,
    offset: u64,
    /// 0: the whole file.
    len_bytes: u64,
}

/// Entries at most, of one list and of all plans of a mount: each takes 24 bytes, and each file its
/// name and 40.
pub(crate) const ENTRIES_MAX: u32 = 20_000_000;

/// There are more than [`ENTRIES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooMany;

impl Entries {
    /// Appends an entry.
    pub(crate) fn push(&mut self, key: &str, span: Span) -> Result<(), TooMany> {
        let place = self.len();
        if place >= ENTRIES_MAX {
            return Err(TooMany);
        }
        let file = self.file_of(key, place);
        let (offset, len_bytes) = match span {
            Span::Whole => (0, 0),
            Span::Part(range) => (range.start(), range.len_bytes()),
        };
        self.items.push(Item { file, next: NONE, offset, len_bytes });
        let known = &mut self.files[file as usize];
        if known.last != place {
            let last = std::mem::replace(&mut known.last, place);
            self.items[last as usize].next = place;
        }
        Ok(())
    }

    /// The file called `key`, made with the item at `place` as its first if it is new.
    fn file_of(&mut self, key: &str, place: u32) -> u32 {
        let hash = self.hasher.hash_one(key);
        let Self { text, files, by_name, hasher, .. } = self;
        let name = |file: &u32| {
            let file = &files[*file as usize];
            &text[file.start..file.end]
        };
        if let Some(known) = by_name.find(hash, |file| name(file) == key) {
            return *known;
        }
        // No more files than items.
        let number = u32::try_from(files.len()).unwrap_or(NONE);
        by_name.insert_unique(hash, number, |file| hasher.hash_one(name(file)));
        let start = text.len();
        text.push_str(key);
        files.push(File { start, end: text.len(), first: place, last: place });
        number
    }

    /// How many there are.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.items.len()).unwrap_or(NONE)
    }

    /// How many files they are of.
    pub(crate) fn len_files(&self) -> usize {
        self.files.len()
    }

    /// Bytes of memory they take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.text.capacity()
            + self.files.capacity() * size_of::<File>()
            + self.items.capacity() * size_of::<Item>()
            + self.by_name.capacity() * size_of::<u32>()
    }

    /// The entry at `place`.
    pub(crate) fn get(&self, place: u32) -> Option<(&str, Span)> {
        let item = self.items.get(place as usize)?;
        let file = &self.files[item.file as usize];
        Some((&self.text[file.start..file.end], item.span()))
    }

    /// Whether any entry is of file `key`.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    /// The places of `key` in rising order, from the first that [`Entries::forget_before`] left.
    pub(crate) fn places_of(&self, key: &str) -> impl Iterator<Item = (u32, Span)> {
        let mut next = self.find(key).map_or(NONE, |file| self.files[file as usize].first);
        std::iter::from_fn(move || {
            let item = self.items.get(next as usize)?;
            let place = std::mem::replace(&mut next, item.next);
            Some((place, item.span()))
        })
    }

    /// Nobody asks for the places of `key` before `place` again.
    pub(crate) fn forget_before(&mut self, key: &str, place: u32) {
        let Some(file) = self.find(key) else { return };
        let file = &mut self.files[file as usize];
        while file.first < place {
            file.first = self.items[file.first as usize].next;
        }
    }

    fn find(&self, key: &str) -> Option<u32> {
        let name = |file: &u32| {
            let file = &self.files[*file as usize];
            &self.text[file.start..file.end]
        };
        self.by_name.find(self.hasher.hash_one(key), |file| name(file) == key).copied()
    }
}

impl Item {
    fn span(&self) -> Span {
        match self.len_bytes {
            0 => Span::Whole,
            len_bytes => ByteRange::at(self.offset, len_bytes).map_or(Span::Whole, Span::Part),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_a_file_are_found_and_forgotten() {
        let mut entries = Entries::default();
        let part = Span::Part(ByteRange::at(10, 5).unwrap());
        for (key, span) in
            [("a", Span::Whole), ("b", part), ("a", part), ("c", Span::Whole), ("a", Span::Whole)]
        {
            entries.push(key, span).unwrap();
        }
        let places = |entries: &Entries, key| entries.places_of(key).collect::<Vec<_>>();
        assert_eq!(places(&entries, "a"), [(0, Span::Whole), (2, part), (4, Span::Whole)]);
        assert_eq!(places(&entries, "b"), [(1, part)]);
        assert_eq!(places(&entries, "x"), []);
        assert_eq!(entries.get(3), Some(("c", Span::Whole)));
        assert_eq!(entries.get(5), None);
        assert_eq!((entries.len(), entries.len_files()), (5, 3));
        entries.forget_before("a", 1);
        entries.forget_before("b", 9);
        entries.forget_before("x", 9);
        assert_eq!(places(&entries, "a"), [(2, part), (4, Span::Whole)]);
        assert_eq!(places(&entries, "b"), []);
    }

    #[test]
    fn a_million_entries_take_little_memory() {
        let mut entries = Entries::default();
        for number in 0..1_000_000 {
            entries.push(&format!("images/{number:07}.jpg"), Span::Whole).unwrap();
        }
        let bytes = entries.memory_bytes() / 1_000_000;
        assert!(bytes < 120, "{bytes} bytes an entry, 18 of them its name");
    }
}
