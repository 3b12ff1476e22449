//! The disk tier: what it keeps, for how long, and what it never does.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use futures_util::future::join_all;
use tenderfs_cache::{
    BLOCK_BYTES, BlockRun, Cache, CacheError, CacheSettings, Class, Object, Tier, Verify,
};

use crate::source::{
    MIB, Seeded, blocks, check_read, check_whole, on_core, on_cores, range, settings, version,
};

/// Sizes around every boundary there is: page, granule, block.
const SIZES: [u64; 8] =
    [1, 4095, 4096, 4097, 65_537, 1_000_000, BLOCK_BYTES + 1, 2 * BLOCK_BYTES + 4097];

fn objects(cache: &Cache) -> Vec<Arc<Object>> {
    let object = |size_bytes| cache.object(version(&format!("object {size_bytes}"), size_bytes));
    SIZES.into_iter().map(object).collect()
}

/// Reads all objects wholly.
fn read_all(cache: &Cache, source: &Seeded) {
    on_core(cache, async |core| {
        for object in objects(cache) {
            check_whole(&core, source, &object).await;
        }
    });
}

fn object_files(dir: &Path) -> Vec<PathBuf> {
    let folders = fs::read_dir(dir.join("objects")).unwrap().map(|entry| entry.unwrap().path());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap());
    files.map(|entry| entry.unwrap().path()).collect()
}

pub(crate) fn file_of(dir: &Path, object: &Object) -> PathBuf {
    let id = object.id().to_string();
    dir.join("objects").join(&id[..2]).join(format!("{id}.data"))
}

/// Bytes that the cache takes on disk, as the file system counts them.
fn taken_bytes(dir: &Path) -> u64 {
    let catalogue = fs::metadata(dir.join("catalogue.redb")).map_or(0, |file| file.blocks() * 512);
    let blocks = |path: PathBuf| fs::metadata(path).map_or(0, |file| file.blocks() * 512);
    catalogue + object_files(dir).into_iter().map(blocks).sum::<u64>()
}

#[test]
fn a_restart_keeps_every_block() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    read_all(&cache, &source);
    assert_eq!(source.fetched_bytes(), SIZES.iter().sum::<u64>());
    for object in objects(&cache) {
        assert!(object.complete_on_disk(), "{object:?}");
        assert_eq!(object.cached_bytes().disk_bytes, object.size_bytes());
    }
    cache.shutdown();
    drop(cache);
    for object in SIZES {
        let version = version(&format!("object {object}"), object);
        let id = version.id().to_string();
        let path = dir.path().join("objects").join(&id[..2]).join(format!("{id}.data"));
        assert_eq!(fs::metadata(path).unwrap().len(), object, "trimmed to the object's size");
    }

    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    assert!(objects(&cache).iter().all(|object| object.complete_on_disk()));
    read_all(&cache, &source);
    assert_eq!(source.fetches(), []);
    assert_eq!(cache.counters().verify_mismatches.get(), 0);
    assert!(cache.counters().disk_hits.get() > 0);
    assert_eq!(cache.counters().disk_read_bytes.get(), SIZES.iter().sum::<u64>());
    assert_eq!(cache.counters().disk_write_blocks.get(), 0, "what is on disk is not written again");
}

/// What the child of `a_killed_daemon_loses_nothing_that_was_committed` does: it reads object
/// after object, says after each commit how far it is, and is killed.
#[test]
fn child_that_is_killed() {
    #[allow(clippy::disallowed_methods, reason = "how a parent test tells its child its part")]
    let Ok(dir) = std::env::var("TENDERFS_TEST_CACHE_DIR") else { return };
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(Path::new(&dir)))).unwrap();
    on_core(&cache, async |core| {
        for number in 0.. {
            let object = cache.object(version(&format!("killed {number}"), 2 * BLOCK_BYTES + 5));
            check_whole(&core, &source, &object).await;
            if number % 3 == 2 {
                core.drain().await;
                cache.commit();
                println!("\ncommitted {}", number + 1);
            }
        }
    });
}

#[test]
fn a_killed_daemon_loses_nothing_that_was_committed() {
    let dir = tempfile::tempdir().unwrap();
    let mut kept = 0;
    // Twice, so that recovery is killed too.
    for life in 1..=2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "disk::child_that_is_killed", "--nocapture"])
            .env("TENDERFS_TEST_CACHE_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        for line in lines {
            if let Some(count) = line.unwrap().strip_prefix("committed ") {
                kept = count.parse::<u32>().unwrap();
                if kept >= 6 * life {
                    break;
                }
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!(kept, 12);
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let source = Seeded::new();
    on_core(&cache, async |core| {
        for number in 0..kept {
            let object = cache.object(version(&format!("killed {number}"), 2 * BLOCK_BYTES + 5));
            assert!(object.complete_on_disk(), "object {number}");
            check_whole(&core, &source, &object).await;
        }
        assert_eq!(source.fetches(), []);
        // What was under way when the child died may be there or not; it is never wrong.
        for number in kept..kept + 6 {
            let object = cache.object(version(&format!("killed {number}"), 2 * BLOCK_BYTES + 5));
            check_whole(&core, &source, &object).await;
        }
    });
    assert_eq!(cache.counters().verify_mismatches.get(), 0);
}

#[test]
fn flipped_bytes_on_disk_are_counted_and_never_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let object = cache.object(version("flipped", 2 * BLOCK_BYTES));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    cache.commit();
    cache.forget_memory();
    let file = fs::File::options().write(true).open(file_of(dir.path(), &object)).unwrap();
    let at = BLOCK_BYTES + 3 * MIB + 17;
    let right = crate::source::bytes_of(object.version(), at, at + 1)[0];
    file.write_all_at(&[right ^ 0x10], at).unwrap();
    file.sync_all().unwrap();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(cache.counters().verify_mismatches.get(), 1);
    // The part of the block that was right was read from disk, the rest was fetched.
    let rest = range(BLOCK_BYTES + 3 * MIB, 2 * BLOCK_BYTES);
    assert_eq!(source.fetches()[2..].iter().map(|fetch| fetch.range).collect::<Vec<_>>(), [rest]);
    // The block was written anew.
    assert!(object.complete_on_disk());
    cache.forget_memory();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(cache.counters().verify_mismatches.get(), 1);
    cache.shutdown();
    drop((cache, object));
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let object = cache.object(version("flipped", 2 * BLOCK_BYTES));
    let fetches = source.fetches().len();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(source.fetches().len(), fetches);
}

#[test]
fn files_that_are_swapped_cut_or_gone_are_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let keys = ["swapped a", "swapped b", "cut", "gone"];
    let object = |cache: &Cache, key| cache.object(version(key, BLOCK_BYTES + 100));
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    on_core(&cache, async |core| {
        for key in keys {
            check_whole(&core, &source, &object(&cache, key)).await;
        }
    });
    let files = keys.map(|key| file_of(dir.path(), &object(&cache, key)));
    cache.shutdown();
    drop(cache);
    fs::rename(&files[0], dir.path().join("third")).unwrap();
    fs::rename(&files[1], &files[0]).unwrap();
    fs::rename(dir.path().join("third"), &files[1]).unwrap();
    fs::File::options().write(true).open(&files[2]).unwrap().set_len(5000).unwrap();
    fs::remove_file(&files[3]).unwrap();

    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    for _ in 0..2 {
        on_core(&cache, async |core| {
            for key in keys {
                check_whole(&core, &source, &object(&cache, key)).await;
            }
        });
        cache.commit();
        cache.forget_memory();
    }
    assert_eq!(cache.counters().verify_mismatches.get(), 4);
    // By each block of a file, as it is read.
    assert!(cache.counters().records_dropped.get() >= 2);
    for key in keys {
        on_core(&cache, async |core| check_whole(&core, &source, &object(&cache, key)).await);
        assert!(object(&cache, key).complete_on_disk(), "{key}");
    }
}

#[test]
fn a_damaged_or_foreign_catalogue_is_moved_aside_and_its_files_collected() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 4] = [
        ("zeroed", |dir| fs::write(dir.join("catalogue.redb"), vec![0; 100_000]).unwrap()),
        ("cut", |dir| {
            let file = fs::File::options().write(true).open(dir.join("catalogue.redb")).unwrap();
            file.set_len(file.metadata().unwrap().len() / 2).unwrap();
        }),
        ("a text", |dir| fs::write(dir.join("catalogue.redb"), "not ours\n".repeat(1000)).unwrap()),
        ("older", |dir| fs::write(dir.join("version"), "tenderfs cache 0\n").unwrap()),
    ];
    for (name, damage) in damages {
        let dir = tempfile::tempdir().unwrap();
        let source = Seeded::new();
        let cache = Cache::open(settings(Some(dir.path()))).unwrap();
        read_all(&cache, &source);
        cache.shutdown();
        drop(cache);
        damage(dir.path());
        let cache = Cache::open(settings(Some(dir.path()))).unwrap();
        while cache.counters().orphans_removed.get() < SIZES.len() as u64 {
            std::thread::yield_now();
        }
        assert!(dir.path().join("catalogue.aside").exists(), "{name}");
        let before = source.fetches().len();
        read_all(&cache, &source);
        assert!(source.fetches().len() > before, "{name}");
        cache.shutdown();
        drop(cache);
        let cache = Cache::open(settings(Some(dir.path()))).unwrap();
        let before = source.fetches().len();
        read_all(&cache, &source);
        assert_eq!(source.fetches().len(), before, "{name}");
    }
}

#[test]
fn orphans_are_removed_and_other_files_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    cache.shutdown();
    drop(cache);
    let folder = dir.path().join("objects/ab");
    fs::create_dir(&folder).unwrap();
    let orphan = folder.join("ab000000000000000000000000000000.data");
    let other = folder.join("notes.txt");
    fs::write(&orphan, "left by a crash").unwrap();
    fs::write(&other, "mine").unwrap();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    while cache.counters().orphans_removed.get() < 1 {
        std::thread::yield_now();
    }
    assert!(!orphan.exists() && other.exists());
    cache.shutdown();
    assert_eq!(cache.counters().orphans_removed.get(), 1);
}

#[test]
fn a_second_cache_on_the_directory_is_refused_naming_the_first_ones_pid() {
    let dir = tempfile::tempdir().unwrap();
    let first = Cache::open(settings(Some(dir.path()))).unwrap();
    let Err(error) = Cache::open(settings(Some(dir.path()))) else { panic!("opened twice") };
    assert!(matches!(error, CacheError::InUse { .. }));
    assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
    drop(first);
    Cache::open(settings(Some(dir.path()))).unwrap();
}

/// Proves V13 on disk.
#[test]
fn the_disk_never_takes_more_than_its_size() {
    const LIMIT: u64 = 40 << 20;
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let settings = CacheSettings { disk_size_bytes: LIMIT, ..settings(Some(dir.path())) };
    let cache = Cache::open(settings).unwrap();
    on_cores(&cache, 2, async |core_number, core| {
        for number in 0..24 {
            let key = format!("{core_number} {number}");
            let object = cache.object(version(&key, 2 * BLOCK_BYTES + 100));
            check_whole(&core, &source, &object).await;
            assert!(cache.usage().disk_bytes <= LIMIT);
            assert!(taken_bytes(dir.path()) <= LIMIT);
        }
    });
    let evicted = cache.counters().disk_evicted_objects.get();
    assert!(evicted > 20, "{evicted} {:?}", cache.counters());
    cache.commit();
    assert!(taken_bytes(dir.path()) <= LIMIT);
    cache.shutdown();
    drop(cache);
    let cache = Cache::open(CacheSettings {
        disk_size_bytes: LIMIT,
        ..crate::source::settings(Some(dir.path()))
    });
    assert!(cache.unwrap().usage().disk_bytes <= LIMIT);
}

#[test]
fn objects_in_use_are_evicted_last_and_least_recently_used_ones_first() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let limit = CacheSettings { disk_size_bytes: 34 << 20, ..settings(Some(dir.path())) };
    let cache = Cache::open(limit).unwrap();
    let object = |number: u32| cache.object(version(&format!("{number}"), 2 * BLOCK_BYTES));
    let in_use = object(0);
    on_core(&cache, async |core| {
        for number in 0..3 {
            check_whole(&core, &source, &object(number)).await;
            core.drain().await;
            // The coarse clock of last uses must move on between them.
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        }
        for number in 3..5 {
            check_whole(&core, &source, &object(number)).await;
            core.drain().await;
        }
    });
    cache.commit();
    assert!(in_use.complete_on_disk(), "the oldest, but in use");
    assert!(!object(1).complete_on_disk(), "the oldest that nobody uses");
    assert!(object(4).complete_on_disk());
}

#[test]
fn of_an_object_larger_than_the_cache_a_part_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let limit = CacheSettings { disk_size_bytes: 24 << 20, ..settings(Some(dir.path())) };
    let cache = Cache::open(limit).unwrap();
    let object = cache.object(version("large", 20 * BLOCK_BYTES));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    let kept = object.cached_bytes().disk_bytes;
    assert!((3 * BLOCK_BYTES..24 << 20).contains(&kept), "{kept}");
    assert!(cache.counters().disk_write_skipped.get() > 0);
    cache.forget_memory();
    let before = source.fetched_bytes();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    let fetched = source.fetched_bytes() - before;
    assert_eq!(fetched, object.size_bytes() - kept, "the part is still there");
}

#[test]
fn the_free_space_floor_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    // No file system is that empty.
    let floor = CacheSettings { free_space_ratio: 0.999_999, ..settings(Some(dir.path())) };
    let cache = Cache::open(floor).unwrap();
    let object = cache.object(version("floor", 3 * BLOCK_BYTES));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(object.cached_bytes().disk_bytes, 0);
    assert_eq!(cache.counters().disk_write_skipped.get(), 3);
}

/// A small tmpfs, unmounted at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None`, with a message, where mounting is not allowed.
    fn mount(options: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let flags = nix::mount::MsFlags::empty();
        match nix::mount::mount(Some("tmpfs"), dir.path(), Some("tmpfs"), flags, Some(options)) {
            Ok(()) => Some(Self(dir)),
            Err(error) => {
                println!("skipped: cannot mount a small tmpfs here: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        nix::mount::umount2(self.0.path(), nix::mount::MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_costs_nothing_but_speed_and_is_tried_again_later() {
    // The inodes run out before the bytes do, so that the system says ENOSPC and no sum foresees it.
    let Some(disk) = SmallDisk::mount("size=64m,nr_inodes=24,mode=0700") else { return };
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(disk.0.path()))).unwrap();
    on_core(&cache, async |core| {
        for number in 0..30 {
            let object = cache.object(version(&format!("full {number}"), 100_000));
            check_whole(&core, &source, &object).await;
            core.drain().await;
        }
    });
    let counters = cache.counters();
    assert!(counters.disk_write_blocks.get() > 2);
    assert_eq!(counters.disk_write_errors.get(), 3);
    assert_eq!(counters.disk_turned_off.get(), 1);
    assert!(counters.disk_write_skipped.get() > 5);
    assert!(!cache.usage().disk_writable);
    // What is on disk is still read.
    cache.forget_memory();
    let first = cache.object(version("full 0", 100_000));
    let tier =
        on_core(&cache, async |core| check_read(&core, &source, &first, range(0, 100_000)).await);
    assert_eq!(tier, Tier::Disk);
}

#[test]
fn a_small_disk_is_filled_to_its_brim_and_no_further() {
    let Some(disk) = SmallDisk::mount("size=24m,mode=0700") else { return };
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(disk.0.path()))).unwrap();
    on_core(&cache, async |core| {
        for number in 0..8 {
            let object = cache.object(version(&format!("brim {number}"), BLOCK_BYTES + 9));
            check_whole(&core, &source, &object).await;
        }
    });
    assert_eq!(cache.counters().disk_write_errors.get(), 0);
    assert!(cache.counters().disk_write_blocks.get() >= 6);
}

#[test]
fn warming_brings_an_object_far_larger_than_memory_to_disk() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let small = CacheSettings { arena_bytes: 40 << 20, ..settings(Some(dir.path())) };
    let cache = Cache::open(small).unwrap();
    let large: Vec<_> = (0..4)
        .map(|number| cache.object(version(&format!("warm {number}"), 12 * BLOCK_BYTES + 333)))
        .collect();
    on_cores(&cache, 2, async |number, core| {
        let both =
            large[number * 2..number * 2 + 2].iter().map(|object| core.warm(&source, object));
        for warmed in join_all(both).await {
            let warmed = warmed.unwrap();
            assert_eq!(warmed.fetched_bytes, 12 * BLOCK_BYTES + 333);
            assert_eq!((warmed.skipped_bytes, warmed.memory_only_bytes), (0, 0));
        }
    });
    assert!(large.iter().all(|object| object.complete_on_disk()));
    // Again: nothing to do. And a block that is only in memory is written, not fetched.
    let part = cache.object(version("part", 3 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        let warmed = core.warm(&source, &large[0]).await.unwrap();
        assert_eq!((warmed.fetched_bytes, warmed.skipped_bytes), (0, 12 * BLOCK_BYTES + 333));
        check_read(&core, &source, &part, range(BLOCK_BYTES, BLOCK_BYTES + 5)).await;
        let warmed = core.warm(&source, &part).await.unwrap();
        assert_eq!(warmed.fetched_bytes, 2 * BLOCK_BYTES);
    });
    assert_eq!(source.fetched_bytes(), 4 * (12 * BLOCK_BYTES + 333) + 3 * BLOCK_BYTES);
    cache.forget_memory();
    let before = source.fetches().len();
    on_core(&cache, async |core| {
        for object in &large {
            check_whole(&core, &source, object).await;
        }
    });
    assert_eq!(source.fetches().len(), before);
    assert_eq!(cache.usage().lent_frames, 0);
}

#[test]
fn warming_reports_the_error_of_the_source_and_what_memory_alone_has() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let tiny = CacheSettings { disk_size_bytes: 14 << 20, ..settings(Some(dir.path())) };
    let cache = Cache::open(tiny).unwrap();
    let object = cache.object(version("failing", 2 * BLOCK_BYTES));
    let large = cache.object(version("large", 6 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        source.fail_next([Some(crate::source::Fault::After(MIB))]);
        let error = core.warm(&source, &object).await.unwrap_err();
        assert!(error.to_string().contains("as ordered"), "{error}");
        assert_eq!(core.warm(&source, &object).await.unwrap().fetched_bytes, 2 * BLOCK_BYTES);
        let warmed = core.warm(&source, &large).await.unwrap();
        assert_eq!(warmed.fetched_bytes, 6 * BLOCK_BYTES);
        assert!(warmed.memory_only_bytes >= 3 * BLOCK_BYTES, "{warmed:?}");
    });
}

#[test]
fn many_readers_of_one_block_on_disk_cause_one_disk_read() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let object = cache.object(version("once", 3 * BLOCK_BYTES));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    cache.forget_memory();
    on_cores(&cache, 2, async |_, core| {
        let readers = (0..50_u64).map(|reader| {
            let at = blocks(1) + reader * 10_000;
            check_read(&core, &source, &object, range(at, at + 5000))
        });
        join_all(readers).await
    });
    assert_eq!(cache.counters().disk_read_blocks.get(), 1);
    // Read-ahead comes from disk too.
    on_core(&cache, async |core| {
        let run = BlockRun::new(0..3).unwrap();
        core.prefetch(&source, &object, run, Class::InFile);
        core.drain().await;
    });
    assert_eq!(cache.counters().disk_read_blocks.get(), 3);
    assert_eq!(source.fetches().len(), 3);
}

#[test]
fn a_trusted_disk_is_read_without_checksums() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let trusting = CacheSettings { verify: Verify::Never, ..settings(Some(dir.path())) };
    let cache = Cache::open(trusting).unwrap();
    let object = cache.object(version("trusted", BLOCK_BYTES + 10));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    cache.forget_memory();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(source.fetches().len(), 2);
    assert!(cache.counters().disk_hits.get() > 0);
}

#[test]
fn more_blocks_than_the_backlog_holds_get_to_disk_as_long_as_memory_has_them() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let cache = Cache::open(settings(Some(dir.path()))).unwrap();
    let objects: Vec<_> =
        (0..10).map(|number| cache.object(version(&format!("{number}"), BLOCK_BYTES))).collect();
    on_core(&cache, async |core| {
        let reads =
            objects.iter().map(|object| check_read(&core, &source, object, range(0, BLOCK_BYTES)));
        join_all(reads).await;
        assert!(cache.usage().pending_write_bytes <= 16 << 20);
        core.drain().await;
    });
    assert!(objects.iter().all(|object| object.complete_on_disk()));
    assert_eq!(cache.usage().pending_write_bytes, 0);
}
