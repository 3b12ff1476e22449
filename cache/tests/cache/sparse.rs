//! Reads by readers that jump.

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use tenderfs_cache::{BLOCK_BYTES, Cache, CoreCache, Object, Tier};

use crate::source::{MIB, Seeded, bytes_of, check_whole, on_core, range, settings, version};

const GRANULE_BYTES: u64 = 64 << 10;

/// A cache whose disk, and nothing else, has the object.
fn on_disk(dir: &std::path::Path, source: &Seeded, size_bytes: u64) -> (Cache, Arc<Object>) {
    let cache = Cache::open(settings(Some(dir))).unwrap();
    let object = cache.object(version("sparse", size_bytes));
    on_core(&cache, async |core| check_whole(&core, source, &object).await);
    cache.commit();
    cache.forget_memory();
    (cache, object)
}

async fn check_sparse(core: &CoreCache, source: &Seeded, object: &Arc<Object>, at: u64) -> Tier {
    let end = (at + 16_384).min(object.size_bytes());
    let view = core.read_sparse(source, object, range(at, end)).await.unwrap();
    assert!(view.to_vec() == bytes_of(object.version(), at, end), "wrong bytes at {at}");
    view.tier()
}

#[test]
fn a_reader_that_jumps_has_its_granules_read_and_no_more() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let (cache, object) = on_disk(dir.path(), &source, 3 * BLOCK_BYTES + 100_000);
    let fetches = source.fetches().len();
    for (at, granules_bytes) in [
        (0, GRANULE_BYTES),
        (2 * MIB + 5, GRANULE_BYTES),
        (2 * BLOCK_BYTES + GRANULE_BYTES - 1, 2 * GRANULE_BYTES),
        (3 * BLOCK_BYTES + 90_000, 100_000 - GRANULE_BYTES),
    ] {
        let before_bytes = cache.counters().disk_read_bytes.get();
        let tier = on_core(&cache, async |core| check_sparse(&core, &source, &object, at).await);
        assert_eq!(tier, Tier::Disk, "{at}");
        assert_eq!(cache.counters().disk_read_bytes.get() - before_bytes, granules_bytes, "{at}");
        assert_eq!(object.cached_bytes().memory_bytes, 0, "no part of a block is kept");
    }
    assert_eq!(source.fetches().len(), fetches);
}

#[test]
fn a_read_across_two_blocks_has_the_granules_of_both_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let (cache, object) = on_disk(dir.path(), &source, 2 * BLOCK_BYTES);
    on_core(&cache, async |core| {
        let before_bytes = cache.counters().disk_read_bytes.get();
        let across = check_sparse(&core, &source, &object, BLOCK_BYTES - 8192).await;
        assert_eq!(across, Tier::Disk);
        assert_eq!(cache.counters().disk_read_bytes.get() - before_bytes, 2 * GRANULE_BYTES);
        check_whole(&core, &source, &object).await;
        assert_eq!(check_sparse(&core, &source, &object, MIB).await, Tier::Memory);
    });
}

#[test]
fn a_damaged_granule_is_fetched_again_and_its_neighbours_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let (cache, object) = on_disk(dir.path(), &source, BLOCK_BYTES);
    let id = object.id().to_string();
    let path = dir.path().join("objects").join(&id[..2]).join(format!("{id}.data"));
    let at = 10 * GRANULE_BYTES + 17;
    let right = bytes_of(object.version(), at, at + 1)[0];
    fs::File::options().write(true).open(path).unwrap().write_all_at(&[right ^ 1], at).unwrap();
    let fetches = source.fetches().len();
    on_core(&cache, async |core| {
        let neighbour = check_sparse(&core, &source, &object, 9 * GRANULE_BYTES).await;
        assert_eq!((neighbour, source.fetches().len()), (Tier::Disk, fetches));
        assert_eq!(check_sparse(&core, &source, &object, at).await, Tier::S3);
    });
    assert_eq!(cache.counters().verify_mismatches.get(), 1);
    assert_eq!(source.fetches().len(), fetches + 1);
    assert!(object.complete_on_disk(), "the block was written anew");
}

#[test]
fn what_the_disk_lacks_is_fetched_by_blocks() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let object = cache.object(version("absent", 2 * BLOCK_BYTES));
    let tier = on_core(&cache, async |core| check_sparse(&core, &source, &object, 5 * MIB).await);
    assert_eq!(tier, Tier::S3);
    let fetched: Vec<_> = source.fetches().iter().map(|fetch| fetch.range).collect();
    assert_eq!(fetched, [range(BLOCK_BYTES, 2 * BLOCK_BYTES)]);
}
