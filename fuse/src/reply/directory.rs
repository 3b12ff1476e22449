//! The entries of a READDIR or READDIRPLUS reply.

use super::{Entry, FileKind, entry_out};
use crate::abi::{self, ByteValued};
use crate::request::{Ino, Listing};

/// Entries start at multiples of this (`FUSE_REC_ALIGN`).
const ALIGN_BYTES: usize = 8;

/// One entry to be listed.
#[derive(Debug, Clone, Copy)]
pub struct DirectoryEntry<'a> {
    /// One path component.
    pub name: &'a [u8],
    /// Inode number to show.
    pub ino: Ino,
    /// What it names.
    pub kind: FileKind,
    /// What the kernel will ask for to get the entries behind this one. Never 0.
    pub next_offset: u64,
    /// For [`Listing::Plus`]: what LOOKUP would answer. With an inode it counts as a lookup that
    /// FORGET will give back, but for `.` and `..`, which the kernel does not look up. `None`
    /// lists the name alone.
    pub entry: Option<&'a Entry>,
}

/// As many entries as the kernel has room for.
#[derive(Debug)]
pub struct DirectoryBuffer {
    bytes: Vec<u8>,
    bytes_max: usize,
    listing: Listing,
}

impl DirectoryBuffer {
    /// An empty buffer with room for `size_bytes`, the number in the request.
    pub fn new(size_bytes: u32, listing: Listing) -> Self {
        let bytes_max = usize::try_from(size_bytes).unwrap_or(usize::MAX);
        Self { bytes: Vec::new(), bytes_max, listing }
    }

    /// Appends `entry`. False, and nothing changed, if it does not fit: the reply is then complete.
    pub fn push(&mut self, entry: &DirectoryEntry<'_>) -> bool {
        let plus_bytes = match self.listing {
            Listing::Plain => 0,
            Listing::Plus => size_of::<abi::EntryOut>(),
        };
        let unpadded = plus_bytes + size_of::<abi::Dirent>() + entry.name.len();
        let end = self.bytes.len() + unpadded.next_multiple_of(ALIGN_BYTES);
        let Ok(namelen) = u32::try_from(entry.name.len()) else { return false };
        if end > self.bytes_max {
            return false;
        }
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(self.bytes_max.min(64 << 10));
        }
        if self.listing == Listing::Plus {
            let out = entry.entry.map(entry_out).unwrap_or_default();
            self.bytes.extend_from_slice(out.as_slice());
        }
        let dirent = abi::Dirent {
            ino: entry.ino.0,
            off: entry.next_offset,
            namelen,
            type_: entry.kind.dirent_type(),
        };
        self.bytes.extend_from_slice(dirent.as_slice());
        self.bytes.extend_from_slice(entry.name);
        self.bytes.resize(end, 0);
        true
    }

    /// Whether nothing was appended, which tells the kernel that the directory has ended.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Which kind of entries it holds.
    pub fn listing(&self) -> Listing {
        self.listing
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::{Dirent, EntryOut, read_front};
    use crate::reply::tests::entry;

    fn named(name: &[u8]) -> DirectoryEntry<'_> {
        DirectoryEntry { name, ino: Ino(7), kind: FileKind::File, next_offset: 2, entry: None }
    }

    #[test]
    fn entries_are_aligned_and_padded_with_zeros() {
        let mut buffer = DirectoryBuffer::new(4096, Listing::Plain);
        assert!(buffer.push(&named(b"abc")));
        assert!(buffer.push(&DirectoryEntry { kind: FileKind::Directory, ..named(b"12345678") }));
        assert_eq!(buffer.bytes().len(), 32 + 32);
        let (first, rest) = read_front::<Dirent>(buffer.bytes()).unwrap();
        assert_eq!((first.ino, first.off, first.namelen, first.type_), (7, 2, 3, 8));
        assert_eq!(&rest[..8], b"abc\0\0\0\0\0");
        let (second, rest) = read_front::<Dirent>(&buffer.bytes()[32..]).unwrap();
        assert_eq!((second.namelen, second.type_), (8, 4));
        assert_eq!(rest, b"12345678");
    }

    #[test]
    fn a_full_buffer_takes_nothing_more_and_stays_as_it_was() {
        let mut buffer = DirectoryBuffer::new(32 + 31, Listing::Plain);
        assert!(buffer.push(&named(b"abc")));
        assert!(!buffer.push(&named(b"abc")));
        assert_eq!(buffer.bytes().len(), 32);
        assert!(!DirectoryBuffer::new(0, Listing::Plain).push(&named(b"abc")));
    }

    #[test]
    fn a_plus_listing_carries_the_entry_and_zeros_where_there_is_none() {
        let mut buffer = DirectoryBuffer::new(4096, Listing::Plus);
        let entry = entry();
        assert!(buffer.push(&DirectoryEntry { entry: Some(&entry), ..named(b"abc") }));
        assert!(buffer.push(&named(b"..")));
        assert_eq!(buffer.bytes().len(), 2 * 160);
        let (first, rest) = read_front::<EntryOut>(buffer.bytes()).unwrap();
        assert_eq!((first.nodeid, first.attr.size), (7, 1_000_000));
        assert_eq!(read_front::<Dirent>(rest).unwrap().0.namelen, 3);
        let (second, _) = read_front::<EntryOut>(&buffer.bytes()[160..]).unwrap();
        assert_eq!(second.nodeid, 0);
    }
}
