//! Verifying all that is on disk, while the cache is in use.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use tenderfs_cache::{BLOCK_BYTES, Cache, CoreCache, Object, VerifyCounts};

use crate::disk::file_of;
use crate::source::{Seeded, check_whole, on_core, range, settings, version};

const OBJECTS: u32 = 6;

/// Odd, so that the last block ends inside a granule.
const SIZE_BYTES: u64 = 2 * BLOCK_BYTES + 70_001;

fn object(cache: &Cache, number: u32) -> Arc<Object> {
    cache.object(version(&format!("verified {number}"), SIZE_BYTES))
}

async fn read_all(cache: &Cache, core: &CoreCache, source: &Seeded) {
    for number in 0..OBJECTS {
        check_whole(core, source, &object(cache, number)).await;
    }
}

/// Fills a cache in a life that ends.
fn fill(dir: &Path) {
    let cache = Cache::open(settings(Some(dir))).unwrap();
    on_core(&cache, async |core| read_all(&cache, &core, &Seeded::new()).await);
    cache.shutdown();
}

fn flip(dir: &Path, object: &Object, at: u64) {
    let file = File::options().read(true).write(true).open(file_of(dir, object)).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

fn verify(cache: &Cache) -> VerifyCounts {
    let mut pass = cache.verification().unwrap();
    while pass.step() {}
    pass.counts()
}

#[test]
fn as_many_mismatches_are_counted_as_bytes_were_flipped_and_readers_get_right_bytes() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    // The last byte of an object, the first of a block, and one amid another.
    let flips =
        [(0, SIZE_BYTES - 1), (2, BLOCK_BYTES), (2, 5), (5, BLOCK_BYTES + 3 * (1 << 20) + 9)];
    for (number, at) in flips {
        flip(dir.path(), &object(&cache, number), at);
    }
    let found = verify(&cache);
    let bytes = u64::from(OBJECTS) * SIZE_BYTES;
    let expected = VerifyCounts {
        bytes_total: bytes,
        bytes_checked: bytes,
        blocks_checked: u64::from(OBJECTS) * 3,
        mismatches: flips.len() as u64,
        blocks_unreadable: 0,
        objects_dropped: 0,
    };
    assert_eq!(found, expected);
    assert_eq!(cache.counters().verify_mismatches.get(), flips.len() as u64);
    let source = Seeded::new();
    on_core(&cache, async |core| read_all(&cache, &core, &source).await);
    assert_eq!(source.fetched_bytes(), 70_001 + 3 * BLOCK_BYTES);
    let again = verify(&cache);
    assert_eq!((again.mismatches, again.bytes_checked), (0, bytes));
}

#[test]
fn files_that_are_gone_or_short_cost_their_object_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    fs::remove_file(file_of(dir.path(), &object(&cache, 1))).unwrap();
    let cut = File::options().write(true).open(file_of(dir.path(), &object(&cache, 3))).unwrap();
    cut.set_len(BLOCK_BYTES + 1).unwrap();
    let found = verify(&cache);
    assert_eq!((found.mismatches, found.objects_dropped), (0, 2));
    cache.commit();
    for number in 0..OBJECTS {
        assert_eq!(object(&cache, number).complete_on_disk(), !matches!(number, 1 | 3));
    }
}

#[test]
fn parts_of_objects_and_what_is_not_committed_yet_are_verified_too() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    on_core(&cache, async |core| {
        let part = range(BLOCK_BYTES, BLOCK_BYTES + 1);
        core.read(&Seeded::new(), &object(&cache, 0), part).await.unwrap();
        core.drain().await;
    });
    assert_eq!(verify(&cache).blocks_checked, 1);
    flip(dir.path(), &object(&cache, 0), BLOCK_BYTES + 4000);
    assert_eq!(verify(&cache).mismatches, 1);
    assert_eq!(verify(&cache), VerifyCounts::default());
}

#[test]
fn a_pass_makes_the_files_of_an_earlier_life_ready_to_be_given() {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    on_core(&cache, async |core| {
        assert!(!core.is_ready(&object(&cache, 0)));
        verify(&cache);
        assert!(core.is_ready(&object(&cache, 0)));
    });
}

#[test]
fn without_a_disk_tier_there_is_nothing_to_verify() {
    let cache = Cache::open(settings(None)).unwrap();
    assert_eq!(verify(&cache), VerifyCounts::default());
}
