//! The demo's data: the same seed gives the same bytes, keys and MD5s.
//!
//! One large object, shards that are real tar archives laid out as WebDataset does (`<sample>.jpg`, `.cls`, `.json`),
//! and a folder of small files. All are made in memory; nothing here does I/O.

use std::io;

use bytes::Bytes;
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};

const MIB: u64 = 1 << 20;
/// Bytes of one shard, the end-of-archive blocks included.
pub const SHARD_BYTES: u64 = 16 * MIB;
/// A tar archive is a sequence of blocks of this many bytes.
const TAR_BLOCK_BYTES: u64 = 512;
/// Two empty blocks end an archive.
const TAR_END_BYTES: u64 = 2 * TAR_BLOCK_BYTES;
/// Key of the large object.
pub const LARGE_KEY: &str = "large/object.bin";

/// How much there is of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    /// Bytes of the large object.
    pub large_bytes: u64,
    /// Shards of [`SHARD_BYTES`] each.
    pub shards: u32,
    /// Small files of about 100 KiB.
    pub small_files: u32,
}

impl Scale {
    /// The data set of factor 1: 256 MiB, 15 shards of 16 MiB, 320 files. The factor scales the large object's bytes and
    /// the numbers of shards and files; of each there is at least one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the factor was checked to be positive and small, and whole numbers are wanted"
    )]
    pub fn of_factor(factor: f64) -> Scale {
        debug_assert!(factor.is_finite() && factor > 0.0);
        let scaled = |one: f64| (one * factor).round().max(1.0) as u32;
        Scale {
            large_bytes: u64::from(scaled(256.0)) * MIB,
            shards: scaled(15.0),
            small_files: scaled(320.0),
        }
    }
}

/// One object of the data set.
#[derive(Debug, Clone)]
pub struct DataObject {
    /// Key below the prefix of the data set, and path below the mount.
    pub key: String,
    /// Its bytes.
    pub bytes: Bytes,
    /// MD5 of its bytes as they were made, before any store or file system saw them.
    pub md5: [u8; 16],
}

/// Makes the data set object by object, the large one first, keys in order within each kind.
pub fn objects(scale: Scale, seed: u64) -> impl Iterator<Item = DataObject> {
    let large =
        std::iter::once_with(move || (LARGE_KEY.to_owned(), large(scale.large_bytes, seed)));
    let shards = (0..scale.shards)
        .map(move |index| (format!("shards/train-{index:06}.tar"), shard(index, seed)));
    let small = (0..scale.small_files)
        .map(move |index| (format!("images/img_{index:06}.jpg"), small_file(index, seed)));
    large.chain(shards).chain(small).map(|(key, bytes)| {
        let md5 = Md5::digest(&bytes).into();
        DataObject { key, bytes: Bytes::from(bytes), md5 }
    })
}

/// Chance of its own for each object, so that one object does not depend on how many stand before it.
fn rng(seed: u64, kind: u8, index: u32) -> StdRng {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    bytes[8] = kind;
    bytes[9..13].copy_from_slice(&index.to_le_bytes());
    StdRng::from_seed(bytes)
}

fn large(len_bytes: u64, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(len_bytes).unwrap_or(usize::MAX)];
    rng(seed, 0, 0).fill_bytes(&mut bytes);
    bytes
}

fn small_file(index: u32, seed: u64) -> Vec<u8> {
    let mut rng = rng(seed, 2, index);
    let len = rng.random_range(95 * 1024..=105 * 1024);
    jpeg_like(&mut rng, len)
}

/// Random bytes with the first bytes of a JPEG, which is what tools look at.
fn jpeg_like(rng: &mut StdRng, len: usize) -> Vec<u8> {
    const MAGIC: [u8; 4] = [0xff, 0xd8, 0xff, 0xe0];
    let mut bytes = vec![0; len];
    rng.fill_bytes(&mut bytes);
    for (byte, magic) in bytes.iter_mut().zip(MAGIC) {
        *byte = magic;
    }
    bytes
}

fn shard(index: u32, seed: u64) -> Vec<u8> {
    let mut archive =
        tar::Builder::new(Vec::with_capacity(usize::try_from(SHARD_BYTES).unwrap_or_default()));
    let written = write_samples(&mut archive, index, seed).and_then(|()| archive.into_inner());
    written.unwrap_or_else(|error| unreachable!("writing to memory does not fail: {error}"))
}

/// Samples until the archive has exactly [`SHARD_BYTES`] once it is ended; the last picture takes up what is left.
fn write_samples(archive: &mut tar::Builder<Vec<u8>>, index: u32, seed: u64) -> io::Result<()> {
    /// A member takes a header block and its bytes rounded up to blocks.
    const SIDE_MEMBERS_BYTES: u64 = 4 * TAR_BLOCK_BYTES;
    const SAMPLE_BYTES_MAX: u64 = 128 * 1024;
    let mut rng = rng(seed, 1, index);
    let mut left = SHARD_BYTES - TAR_END_BYTES;
    for sample in 0_u32.. {
        let last = left < 2 * SAMPLE_BYTES_MAX;
        let picture = if last {
            left - SIDE_MEMBERS_BYTES - TAR_BLOCK_BYTES
        } else {
            rng.random_range(64 * 1024..=110 * 1024)
        };
        let class = rng.random_range(0..1000_u16);
        let name = format!("{index:06}{sample:06}");
        let picture_bytes = jpeg_like(&mut rng, usize::try_from(picture).unwrap_or_default());
        member(archive, &format!("{name}.jpg"), &picture_bytes)?;
        member(archive, &format!("{name}.cls"), class.to_string().as_bytes())?;
        let json = format!(r#"{{"sample":"{name}","class":{class},"bytes":{picture}}}"#);
        member(archive, &format!("{name}.json"), json.as_bytes())?;
        if last {
            break;
        }
        left -= TAR_BLOCK_BYTES + picture.next_multiple_of(TAR_BLOCK_BYTES) + SIDE_MEMBERS_BYTES;
    }
    Ok(())
}

fn member(archive: &mut tar::Builder<Vec<u8>>, name: &str, bytes: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_cksum();
    archive.append_data(&mut header, name, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    const SMALL: Scale = Scale { large_bytes: MIB, shards: 2, small_files: 3 };

    #[test]
    fn same_seed_gives_the_same_keys_and_md5s_and_another_seed_does_not() {
        let make = |seed| -> Vec<_> { objects(SMALL, seed).map(|o| (o.key, o.md5)).collect() };
        assert_eq!(make(1), make(1));
        for ((key, one), (other_key, two)) in make(1).into_iter().zip(make(2)) {
            assert_eq!(key, other_key);
            assert_ne!(one, two, "{key}");
        }
    }

    #[test]
    fn object_does_not_depend_on_the_scale() {
        let more = Scale { shards: 3, ..SMALL };
        let md5 = |scale, key: &str| objects(scale, 1).find(|o| o.key == key).unwrap().md5;
        for key in ["shards/train-000001.tar", "images/img_000002.jpg"] {
            assert_eq!(md5(SMALL, key), md5(more, key));
        }
    }

    #[test]
    fn factor_one_is_the_documented_data_set() {
        let scale = Scale::of_factor(1.0);
        assert_eq!(scale, Scale { large_bytes: 256 * MIB, shards: 15, small_files: 320 });
        let tiny = Scale::of_factor(0.001);
        assert_eq!(tiny, Scale { large_bytes: MIB, shards: 1, small_files: 1 });
    }

    #[test]
    fn shard_is_a_tar_archive_of_whole_samples_of_exactly_16_mib() {
        let bytes = shard(3, 1);
        assert_eq!(u64::try_from(bytes.len()).unwrap(), SHARD_BYTES);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut names = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            assert_eq!(u64::try_from(content.len()).unwrap(), entry.header().size().unwrap());
            if name.ends_with("json") {
                let json: serde_json::Value = serde_json::from_slice(&content).unwrap();
                assert!(json["class"].is_u64(), "{name}");
            }
            names.push(name);
        }
        assert!(names.len() > 300, "{} members", names.len());
        for sample in names.chunks(3) {
            let stem = sample[0].strip_suffix(".jpg").unwrap();
            assert_eq!(sample[1..], [format!("{stem}.cls"), format!("{stem}.json")]);
        }
    }

    #[test]
    fn small_files_have_about_100_kib() {
        for object in objects(SMALL, 1).filter(|o| o.key.starts_with("images/")) {
            assert!((95 * 1024..=105 * 1024).contains(&object.bytes.len()), "{}", object.key);
        }
    }
}
