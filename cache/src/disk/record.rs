//! The bytes of the catalogue's values, drawn in `docs/DISK_FORMAT.md`. All numbers are
//! little-endian.
//!
//! An object's state: format (u8, 1), object bytes (u64), last use in milliseconds since 1970
//! (u64), then the bitmap of its blocks in words (u64), as many as its number of blocks needs.
//! An object's name: format (u8, 1), then store, key and ETag, each with its length (u32) before
//! it. A block's checksums: crc32c (u32) of each granule.
//!
//! A packed object's state: format (u8, 1), id (16 bytes), object bytes (u32), last use in seconds
//! since 1970 (u32). Its facts: format (u8, 1), number of checksums (u8), checksums, name as above.
//!
//! The catalogue is hostile input: nothing here panics, and what does not fit exactly is refused.

use std::sync::Arc;

use crate::block::{BLOCK_BYTES, block_count};
use crate::disk::bitmap::Bitmap;
use crate::version::{ObjectId, ObjectVersion};

const FORMAT: u8 = 1;

/// What the catalogue says of an object, without its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ObjectRecord {
    pub(crate) size_bytes: u64,
    pub(crate) last_use_ms: u64,
    pub(crate) blocks: Bitmap,
}

impl ObjectRecord {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let words = words_of(self.size_bytes);
        let mut bytes = Vec::with_capacity(17 + 8 * words);
        bytes.push(FORMAT);
        bytes.extend(self.size_bytes.to_le_bytes());
        bytes.extend(self.last_use_ms.to_le_bytes());
        let known = self.blocks.words().iter().copied().chain(std::iter::repeat(0));
        bytes.extend(known.take(words).flat_map(u64::to_le_bytes));
        bytes
    }

    /// `None` for anything that [`ObjectRecord::encode`] does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, bytes) = bytes.split_first()?;
        let (size_bytes, bytes) = bytes.split_first_chunk()?;
        let (last_use_ms, bytes) = bytes.split_first_chunk()?;
        let size_bytes = u64::from_le_bytes(*size_bytes);
        let (words, rest) = bytes.as_chunks();
        if *format != FORMAT || !rest.is_empty() || words.len() != words_of(size_bytes) {
            return None;
        }
        let blocks = Bitmap::from_words(words.iter().map(|word| u64::from_le_bytes(*word)));
        if blocks.last().is_some_and(|last| last >= block_count(size_bytes)) {
            return None;
        }
        Some(Self { size_bytes, last_use_ms: u64::from_le_bytes(*last_use_ms), blocks })
    }
}

/// Words of the bitmap of an object of `size_bytes`.
fn words_of(size_bytes: u64) -> usize {
    block_count(size_bytes).div_ceil(64) as usize
}

pub(crate) fn encode_name(version: &ObjectVersion) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    for part in [&version.store, &version.key, &version.etag] {
        let length = u32::try_from(part.len()).unwrap_or(u32::MAX);
        bytes.extend(length.to_le_bytes());
        bytes.extend(part.as_bytes());
    }
    bytes
}

/// Store and key of a name; `None` for anything that [`encode_name`] does not write.
pub(crate) fn decode_name(bytes: &[u8]) -> Option<(&str, &str)> {
    let (format, mut rest) = bytes.split_first()?;
    let mut part = || {
        let (length, after) = rest.split_first_chunk()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (text, after) = after.split_at_checked(length)?;
        rest = after;
        std::str::from_utf8(text).ok()
    };
    let (store, key, _etag) = (part()?, part()?, part()?);
    (*format == FORMAT && rest.is_empty()).then_some((store, key))
}

/// What the catalogue says of an object in a pack, by its place, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedRecord {
    pub(crate) id: ObjectId,
    pub(crate) bytes: u32,
    pub(crate) used_s: u32,
}

impl PackedRecord {
    pub(crate) fn encode(&self) -> [u8; 25] {
        let mut bytes = [FORMAT; 25];
        bytes[1..17].copy_from_slice(&self.id.0);
        bytes[17..21].copy_from_slice(&self.bytes.to_le_bytes());
        bytes[21..].copy_from_slice(&self.used_s.to_le_bytes());
        bytes
    }

    /// `None` for anything that [`PackedRecord::encode`] does not write.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (format, bytes) = bytes.split_first()?;
        let (id, bytes) = bytes.split_first_chunk()?;
        let (size, bytes) = bytes.split_first_chunk()?;
        let (used, rest) = bytes.split_first_chunk()?;
        let record = Self {
            id: ObjectId(*id),
            bytes: u32::from_le_bytes(*size),
            used_s: u32::from_le_bytes(*used),
        };
        let fits = record.bytes > 0 && u64::from(record.bytes) <= BLOCK_BYTES;
        (*format == FORMAT && rest.is_empty() && fits).then_some(record)
    }
}

/// Checksums and name of a packed object, which has one block.
pub(crate) fn encode_facts(version: &ObjectVersion, sums: &[u32]) -> Vec<u8> {
    let mut bytes = vec![FORMAT, u8::try_from(sums.len()).unwrap_or(u8::MAX)];
    bytes.extend(encode_sums(sums));
    bytes.extend(encode_name(version));
    bytes
}

/// Checksums, store and key of a packed object; `None` for anything that [`encode_facts`] does not
/// write.
pub(crate) fn decode_facts(bytes: &[u8]) -> Option<(Arc<[u32]>, &str, &str)> {
    let (format, bytes) = bytes.split_first()?;
    let (count, bytes) = bytes.split_first()?;
    let (sums, name) = bytes.split_at_checked(usize::from(*count) * 4)?;
    let (store, key) = decode_name(name)?;
    let sums = decode_sums(sums)?;
    (*format == FORMAT).then_some((sums, store, key))
}

pub(crate) fn encode_sums(sums: &[u32]) -> Vec<u8> {
    sums.iter().flat_map(|sum| sum.to_le_bytes()).collect()
}

/// `None` if `bytes` are not whole checksums.
pub(crate) fn decode_sums(bytes: &[u8]) -> Option<Arc<[u32]>> {
    let (sums, rest) = bytes.as_chunks();
    rest.is_empty().then(|| sums.iter().map(|sum| u32::from_le_bytes(*sum)).collect())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn records_come_back_as_they_were(
            blocks in 1u32..200, set in prop::collection::vec(any::<prop::sample::Index>(), 0..20), last_use_ms: u64
        ) {
            let size_bytes = u64::from(blocks) * BLOCK_BYTES - 5;
            let mut bitmap = Bitmap::default();
            for index in set {
                bitmap.insert(u32::try_from(index.index(blocks as usize)).unwrap());
            }
            let record = ObjectRecord { size_bytes, last_use_ms, blocks: bitmap };
            let back = ObjectRecord::decode(&record.encode()).unwrap();
            prop_assert_eq!((back.size_bytes, back.last_use_ms), (size_bytes, last_use_ms));
            for index in 0..blocks {
                prop_assert_eq!(back.blocks.contains(index), record.blocks.contains(index));
            }
        }

        #[test]
        fn names_come_back_as_they_were(store in ".{0,9}", key in ".{0,20}", cut in 1usize..9) {
            let version = ObjectVersion { store: store.as_str().into(), key: key.as_str().into(), etag: "e".into(), size_bytes: 1 };
            let bytes = encode_name(&version);
            prop_assert_eq!(decode_name(&bytes), Some((store.as_str(), key.as_str())));
            prop_assert_eq!(decode_name(&bytes[..bytes.len() - cut]), None);
        }

        #[test]
        fn whatever_bytes_there_are_decoding_does_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(record) = ObjectRecord::decode(&bytes) {
                prop_assert_eq!(record.encode(), bytes.clone());
            }
            decode_sums(&bytes);
            if let Some(record) = PackedRecord::decode(&bytes) {
                prop_assert_eq!(&record.encode()[..], &bytes[..]);
            }
            decode_facts(&bytes);
        }

        #[test]
        fn packed_records_come_back_as_they_were(
            id: [u8; 16], bytes in 1u32..4 << 20, used_s: u32, sums in prop::collection::vec(any::<u32>(), 1..64), cut in 1usize..9
        ) {
            let record = PackedRecord { id: ObjectId(id), bytes, used_s };
            prop_assert_eq!(PackedRecord::decode(&record.encode()), Some(record));
            prop_assert_eq!(PackedRecord::decode(&record.encode()[cut..]), None);
            let version = ObjectVersion { store: "s".into(), key: "k".into(), etag: "e".into(), size_bytes: bytes.into() };
            let facts = encode_facts(&version, &sums);
            prop_assert_eq!(decode_facts(&facts), Some((Arc::from(&sums[..]), "s", "k")));
            prop_assert_eq!(decode_facts(&facts[..facts.len() - cut]), None);
        }
    }

    #[test]
    fn records_that_do_not_fit_are_refused() {
        let mut blocks = Bitmap::default();
        blocks.insert(0);
        let good = ObjectRecord { size_bytes: 5, last_use_ms: 7, blocks }.encode();
        assert!(ObjectRecord::decode(&good).is_some());
        let mut other_format = good.clone();
        other_format[0] = 2;
        let mut beyond = good.clone();
        beyond[17] = 0b11;
        let mut longer = good.clone();
        longer.push(0);
        let mut huge = good.clone();
        huge[8] = 0xff;
        for bad in [&good[..good.len() - 1], &other_format, &beyond, &longer, &huge, &[]] {
            assert_eq!(ObjectRecord::decode(bad), None, "{bad:?}");
        }
    }

    /// The bytes of the example called `name` in the document: the hexadecimal digits before each
    /// `#` of its fence.
    fn drawn(name: &str) -> Vec<u8> {
        const DOCUMENT: &str = include_str!("../../../docs/DISK_FORMAT.md");
        let fence = format!("```bytes {name}\n");
        let (_, rest) = DOCUMENT.split_once(&fence).unwrap();
        let (drawing, _) = rest.split_once("```").unwrap();
        let digits = drawing.lines().filter_map(|line| line.split('#').next());
        digits
            .flat_map(str::split_whitespace)
            .map(|byte| u8::from_str_radix(byte, 16).unwrap())
            .collect()
    }

    /// A change of these bytes is another disk format.
    #[test]
    fn records_are_as_the_document_draws_them() {
        let version = ObjectVersion {
            store: "https://s3.example.com/data".into(),
            key: "train/0001.tar".into(),
            etag: "\"9b2c\"".into(),
            size_bytes: 5 * BLOCK_BYTES + 0x1234,
        };
        assert_eq!(version.id().0, *drawn("id"));
        let mut blocks = Bitmap::default();
        for index in [0, 1, 5] {
            blocks.insert(index);
        }
        let size_bytes = version.size_bytes;
        let record = ObjectRecord { size_bytes, last_use_ms: 0x0001_9000_0000_0000, blocks };
        assert_eq!(record.encode(), drawn("objects"));
        assert_eq!(ObjectRecord::decode(&drawn("objects")), Some(record));
        assert_eq!(encode_name(&version), drawn("names"));
        let sums = [crc32c::crc32c(&[0; 0x1234])];
        assert_eq!(encode_sums(&sums), drawn("sums"));
        let image = ObjectVersion {
            key: "train/0001.jpg".into(),
            etag: "\"77aa\"".into(),
            size_bytes: 0x1234,
            ..version
        };
        let packed = PackedRecord { id: image.id(), bytes: 0x1234, used_s: 0x6700_0000 };
        assert_eq!(packed.encode(), *drawn("packed"), "{:02x?}", packed.encode());
        assert_eq!(encode_facts(&image, &sums), drawn("facts"));
    }

    #[test]
    fn sums_come_back_as_they_were() {
        assert_eq!(decode_sums(&encode_sums(&[1, u32::MAX])).as_deref(), Some(&[1, u32::MAX][..]));
        assert_eq!(decode_sums(&[1, 2, 3]), None);
    }
}
