//! Small objects that share files.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tenderfs_cache::{Cache, CacheSettings, Object, Pin, Policy, Verify, inspect};

use crate::source::{Seeded, bytes_of, check_whole, on_core, on_cores, range, settings, version};

const OBJECTS: u64 = 60;

fn packing(dir: &Path) -> CacheSettings {
    CacheSettings { pack_below_bytes: 1 << 20, ..settings(Some(dir)) }
}

/// Of odd sizes from some bytes to several granules.
fn object(cache: &Cache, number: u64) -> Arc<Object> {
    cache.object(version(&format!("small {number}"), 1 + number * 3331))
}

fn sizes(numbers: impl Iterator<Item = u64>) -> u64 {
    numbers.map(|number| 1 + number * 3331).sum()
}

fn read(cache: &Cache, source: &Seeded, numbers: impl IntoIterator<Item = u64>) {
    let numbers: Vec<u64> = numbers.into_iter().collect();
    on_core(cache, async |core| {
        for &number in &numbers {
            check_whole(&core, source, &object(cache, number)).await;
        }
    });
}

fn files(dir: &Path, folder: &str) -> Vec<PathBuf> {
    fn walk(path: &Path, into: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(path).unwrap().flatten() {
            if entry.file_type().unwrap().is_dir() {
                walk(&entry.path(), into);
            } else {
                into.push(entry.path());
            }
        }
    }
    let mut found = Vec::new();
    walk(&dir.join(folder), &mut found);
    found
}

fn taken_bytes(dir: &Path) -> u64 {
    // One that is being removed takes nothing.
    let taken = |path: &PathBuf| fs::metadata(path).map_or(0, |facts| facts.blocks() * 512);
    files(dir, "packs").iter().map(taken).sum()
}

#[test]
fn small_objects_share_a_file_and_are_there_after_a_restart() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = Seeded::new();
    {
        let cache = Cache::open(packing(dir.path())).unwrap();
        read(&cache, &source, 0..OBJECTS);
        assert!((0..OBJECTS).all(|number| object(&cache, number).complete_on_disk()));
        cache.forget_memory();
        let before = source.fetched_bytes();
        read(&cache, &source, 0..OBJECTS);
        assert_eq!(source.fetched_bytes(), before, "nothing is fetched again");
        let usage = cache.usage();
        assert_eq!((usage.disk_objects, usage.disk_packed_objects), (OBJECTS, OBJECTS));
        cache.shutdown();
    }
    assert_eq!(files(dir.path(), "packs").len(), 1);
    assert!(files(dir.path(), "objects").is_empty(), "no object has a file of its own");
    let found = inspect(dir.path()).unwrap();
    assert_eq!((found.packed, found.packs, found.orphans, found.without_file), (OBJECTS, 1, 0, 0));
    let cache = Cache::open(packing(dir.path())).unwrap();
    let before = source.fetched_bytes();
    read(&cache, &source, 0..OBJECTS);
    assert_eq!(source.fetched_bytes(), before, "nothing is fetched again");
    assert_eq!(cache.counters().verify_mismatches.get(), 0);
    on_core(&cache, async |core| {
        core.read_sparse(&source, &object(&cache, 50), range(70_000, 70_010)).await.unwrap();
        assert!(core.backing(&object(&cache, 50)).await.is_none(), "its file is not its own");
    });
    let named = cache.cached_objects(|_, key| key == "small 7").unwrap();
    assert_eq!(named[0].disk_bytes, 1 + 7 * 3331);
}

#[test]
fn what_is_evicted_gives_its_bytes_back_at_once_and_an_empty_pack_goes() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = Seeded::new();
    let cache = Cache::open(packing(dir.path())).unwrap();
    read(&cache, &source, 0..OBJECTS);
    cache.commit();
    let (taken, held) = (taken_bytes(dir.path()), cache.usage().disk_bytes);
    let evicted = cache.evict(|_, key| !key.ends_with('7')).unwrap();
    let kept = (0..OBJECTS).filter(|number| number % 10 == 7);
    assert_eq!(evicted.objects, OBJECTS - 6);
    assert_eq!(evicted.bytes, sizes(0..OBJECTS) - sizes(kept.clone()));
    assert!(taken_bytes(dir.path()) <= taken - evicted.bytes);
    assert!(cache.usage().disk_bytes <= held - evicted.bytes + (1 << 20), "and the catalogue's");
    let before = source.fetched_bytes();
    read(&cache, &source, kept);
    assert_eq!(source.fetched_bytes(), before, "what is left is right");
    read(&cache, &source, 0..OBJECTS);
    cache.shutdown();
    drop(cache);
    // Another life begins another pack; once nothing is left in the first, it goes.
    let cache = Cache::open(packing(dir.path())).unwrap();
    cache.evict(|_, _| true).unwrap();
    assert!(files(dir.path(), "packs").is_empty());
    assert_eq!(cache.usage().disk_objects, 0);
}

#[test]
fn damage_is_counted_dropped_and_fetched_again_by_readers_and_by_verification() {
    for by_reader in [true, false] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let source = Seeded::new();
        let cache = Cache::open(packing(dir.path())).unwrap();
        read(&cache, &source, 0..OBJECTS);
        cache.commit();
        cache.forget_memory();
        let pack =
            File::options().read(true).write(true).open(&files(dir.path(), "packs")[0]).unwrap();
        let damaged = 3;
        for number in 0..damaged {
            let at = find(&pack, &object(&cache, 20 + number));
            let mut byte = [0];
            pack.read_exact_at(&mut byte, at).unwrap();
            pack.write_all_at(&[byte[0] ^ 1], at).unwrap();
        }
        pack.sync_all().unwrap();
        if by_reader {
            read(&cache, &source, 0..OBJECTS);
        } else {
            let mut pass = cache.verification().unwrap();
            while pass.step() {}
            assert_eq!(pass.counts().mismatches, damaged);
            assert_eq!(pass.counts().blocks_checked, OBJECTS);
            read(&cache, &source, 0..OBJECTS);
        }
        assert_eq!(cache.counters().verify_mismatches.get(), damaged);
        cache.forget_memory();
        let before = source.fetched_bytes();
        read(&cache, &source, 0..OBJECTS);
        assert_eq!(source.fetched_bytes(), before, "what was damaged was written again");
    }
}

/// Where in `pack` the bytes of `object` are.
fn find(pack: &File, object: &Object) -> u64 {
    let mut all = vec![0; usize::try_from(pack.metadata().unwrap().len()).unwrap()];
    pack.read_exact_at(&mut all, 0).unwrap();
    let wanted = bytes_of(object.version(), 0, 4096);
    let page = all.chunks(4096).position(|page| page == wanted).unwrap();
    page as u64 * 4096
}

#[test]
fn what_a_crash_has_left_in_packs_is_given_back() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = Seeded::new();
    let cache = Cache::open(packing(dir.path())).unwrap();
    read(&cache, &source, 0..OBJECTS);
    cache.shutdown();
    drop(cache);
    let path = files(dir.path(), "packs").remove(0);
    let live = taken_bytes(dir.path());
    // Written and not catalogued, behind the objects; and a pack of which the catalogue knows nothing.
    let pack = File::options().write(true).open(&path).unwrap();
    let end = pack.metadata().unwrap().len().next_multiple_of(4096);
    pack.write_all_at(&vec![1; 3 << 20], end).unwrap();
    fs::write(path.with_file_name("00000007.pack"), [1; 5000]).unwrap();
    fs::write(path.with_file_name("notes.txt"), "mine").unwrap();
    pack.sync_all().unwrap();
    let cache = Cache::open(packing(dir.path())).unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while taken_bytes(dir.path()) > live + 8192 && std::time::Instant::now() < deadline {
        std::thread::yield_now();
    }
    assert!(taken_bytes(dir.path()) <= live + 8192);
    let mut names: Vec<_> = files(dir.path(), "packs")
        .into_iter()
        .map(|path| path.file_name().unwrap().to_owned())
        .collect();
    names.sort();
    assert_eq!(names, ["00000000.pack", "notes.txt"]);
    let before = source.fetched_bytes();
    read(&cache, &source, 0..OBJECTS);
    assert_eq!(source.fetched_bytes(), before, "what was catalogued is there");
    // The next object is in a pack of its own number, never used before.
    read(&cache, &source, [OBJECTS]);
    cache.commit();
    assert!(dir.path().join("packs/00000008.pack").is_file());
}

#[test]
fn packs_keep_to_the_size_under_cores_that_write_at_once() {
    const LIMIT: u64 = 12 << 20;
    for (policy, verify) in [
        (Policy::Lru, Verify::FirstUse),
        (Policy::Pin, Verify::Always),
        (Policy::Lru, Verify::Never),
    ] {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let source = Seeded::new();
        let tight = CacheSettings { disk_size_bytes: LIMIT, policy, verify, ..packing(dir.path()) };
        let cache = Cache::open(tight).unwrap();
        for pass in 0..4 {
            on_cores(&cache, 2, async |core_number, core| {
                for number in 0..150 {
                    let number = (number * 7 + pass) % 150;
                    if number % 2 == core_number as u64 {
                        check_whole(&core, &source, &object(&cache, number)).await;
                    }
                }
            });
            cache.forget_memory();
            let catalogue = fs::metadata(dir.path().join("catalogue.redb")).unwrap().blocks() * 512;
            assert!(taken_bytes(dir.path()) + catalogue <= LIMIT);
        }
        assert!(cache.counters().disk_evicted_objects.get() > 20, "{policy:?}");
        assert_eq!(cache.counters().verify_mismatches.get(), 0, "what was evicted is no damage");
        assert!(cache.usage().disk_packed_objects > 10, "{policy:?}: the rest stays");
    }
}

#[test]
fn pinned_small_objects_stay_and_a_pack_that_is_gone_costs_a_fetch() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let source = Seeded::new();
    let cache =
        Cache::open(CacheSettings { disk_size_bytes: 8 << 20, ..packing(dir.path()) }).unwrap();
    read(&cache, &source, 0..20);
    for number in 10..20 {
        let key = format!("small {number}").into();
        cache.pin(Pin { store: "store".into(), key, ends_ms: None }).unwrap().unwrap();
    }
    assert_eq!(cache.usage().disk_pinned_objects, 10);
    for pass in 0..3 {
        read(&cache, &source, 20 + pass * 40..60 + pass * 40);
        cache.forget_memory();
    }
    assert!(cache.counters().disk_evicted_objects.get() > 0);
    assert!((10..20).all(|number| object(&cache, number).complete_on_disk()));
    for path in files(dir.path(), "packs") {
        fs::remove_file(path).unwrap();
    }
    cache.shutdown();
    drop(cache);
    let cache = Cache::open(packing(dir.path())).unwrap();
    read(&cache, &source, 0..20);
    assert!(cache.counters().records_dropped.get() >= 10, "their pack is gone");
    assert_eq!(cache.counters().verify_mismatches.get(), 0);
    cache.forget_memory();
    let before = source.fetched_bytes();
    read(&cache, &source, 0..20);
    assert_eq!(source.fetched_bytes(), before);
}
