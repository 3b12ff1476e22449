//! Reads through the memory tier, with and without a disk below it.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::future::join_all;
use tenderfs_cache::{
    BLOCK_BYTES, BlockRun, Cache, CacheError, CacheSettings, Class, PrefetchOutcome,
    READ_BYTES_MAX, ReadError, SourceErrorKind, Tier,
};

use crate::source::{
    Fault, MIB, Seeded, blocks, check_read, check_whole, on_core, on_cores, range, settings,
    version,
};

fn cache() -> Cache {
    Cache::open(settings(None)).unwrap()
}

/// Proves V24 and W19.
#[test]
fn a_hundred_readers_of_one_cold_block_on_two_cores_cause_one_fetch() {
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("cold", BLOCK_BYTES));
    let started = AtomicUsize::new(0);
    on_cores(&cache, 2, async |_, core| {
        let readers = (0..50).map(|_| async {
            started.fetch_add(1, Ordering::SeqCst);
            check_read(&core, &source, &object, range(0, BLOCK_BYTES)).await
        });
        let opener = async {
            while started.load(Ordering::SeqCst) < 100 {
                tokio::task::yield_now().await;
            }
            source.allow_all();
        };
        futures_util::future::join(join_all(readers), opener).await
    });
    assert_eq!(source.fetches().len(), 1);
    assert_eq!(cache.counters().fetched_bytes.get(), BLOCK_BYTES);
    assert_eq!(cache.counters().misses.get(), 100);
}

#[test]
fn a_reader_is_woken_before_the_whole_block_is_there() {
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("early", BLOCK_BYTES));
    on_core(&cache, async |core| {
        source.allow(2);
        check_read(&core, &source, &object, range(1000, 100_000)).await;
        // What has arrived is a hit, the rest is not there.
        assert_eq!(check_read(&core, &source, &object, range(0, 131_072)).await, Tier::Memory);
        assert_eq!(object.cached_bytes().memory_bytes, 0);
        source.allow_all();
        assert_eq!(check_read(&core, &source, &object, range(MIB, 2 * MIB)).await, Tier::S3);
    });
    assert_eq!(source.fetches().len(), 1);
    assert_eq!(object.cached_bytes().memory_bytes, BLOCK_BYTES);
}

/// Proves W05.
#[test]
fn adjacent_missing_blocks_become_one_fetch() {
    let cache = cache();
    let source = Seeded::new();
    let object = cache.object(version("run", 10 * BLOCK_BYTES + 77));
    on_core(&cache, async |core| {
        check_read(&core, &source, &object, range(BLOCK_BYTES - 10, BLOCK_BYTES + 10)).await;
        assert_eq!(source.fetches().len(), 1);
        assert_eq!(source.fetches()[0].range, range(0, 2 * BLOCK_BYTES));
        // Block 3 is there, so two runs are missing around it; the last block is short.
        check_read(&core, &source, &object, range(3 * BLOCK_BYTES, 3 * BLOCK_BYTES + 1)).await;
        check_read(&core, &source, &object, range(blocks(2), blocks(6))).await;
        let last = range(10 * BLOCK_BYTES + 1, 10 * BLOCK_BYTES + 77);
        check_read(&core, &source, &object, last).await;
    });
    let ranges: Vec<_> = source.fetches()[2..].iter().map(|fetch| fetch.range).collect();
    assert_eq!(
        ranges,
        [
            range(blocks(2), blocks(3)),
            range(blocks(4), blocks(6)),
            range(blocks(10), blocks(10) + 77)
        ]
    );
}

/// Proves W05 and S10: what small readers on two cores want at about the same time is asked for in runs.
#[test]
fn small_reads_that_come_together_share_requests() {
    const BLOCKS: u64 = 16;
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("crowd", BLOCKS * BLOCK_BYTES));
    let started = AtomicUsize::new(0);
    on_cores(&cache, 2, async |core_index, core| {
        let readers = (0..500_u64).map(|reader| {
            let (core, source, object, started) = (&core, &source, &object, &started);
            async move {
                started.fetch_add(1, Ordering::SeqCst);
                let start = (reader * 7919 + core_index as u64) % (BLOCKS * 256) * 16_384;
                check_read(core, source, object, range(start, start + 16_384)).await
            }
        });
        let opener = async {
            while started.load(Ordering::SeqCst) < 1000 {
                tokio::task::yield_now().await;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            source.allow_all();
        };
        futures_util::future::join(join_all(readers), opener).await
    });
    let fetches = source.fetches().len();
    assert!(fetches as u64 <= BLOCKS / 2 * 3 / 2, "{fetches} fetches of {BLOCKS} blocks");
    assert_eq!(cache.counters().fetched_bytes.get(), BLOCKS * BLOCK_BYTES);
}

#[test]
fn a_dropped_reader_cancels_nobody() {
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("dropped", BLOCK_BYTES));
    on_core(&cache, async |core| {
        let reader = tokio_uring::spawn({
            let (core, source, object) = (core.clone(), source.clone(), object.clone());
            async move { drop(core.read(&source, &object, range(0, 10)).await) }
        });
        source.begun(1).await;
        reader.abort();
        assert!(reader.await.unwrap_err().is_cancelled());
        source.allow_all();
        check_whole(&core, &source, &object).await;
    });
    assert_eq!(source.fetches().len(), 1);
}

#[test]
fn a_failed_prefetch_does_not_fail_the_reader_that_waits_for_it() {
    let cache = cache();
    let source = Seeded::held();
    source.fail_next([Some(Fault::After(MIB))]);
    let object = cache.object(version("prefetch", 2 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        let started = core.prefetch(&source, &object, BlockRun::new(0..2).unwrap(), Class::InFile);
        assert_eq!(started, PrefetchOutcome::Started { bytes: 2 * BLOCK_BYTES });
        source.begun(1).await;
        let read = check_read(&core, &source, &object, range(2 * MIB, 3 * MIB));
        let opener = async { source.allow_all() };
        futures_util::future::join(read, opener).await;
    });
    let classes: Vec<_> = source.fetches().iter().map(|fetch| fetch.class).collect();
    assert_eq!(classes, [Class::InFile, Class::Demand]);
    assert_eq!(cache.counters().prefetch_failed_blocks.get(), 2);
}

#[test]
fn a_failed_fetch_reaches_every_reader_that_waits_and_the_next_one_tries_again() {
    let cache = cache();
    let source = Seeded::held();
    source.fail_next([Some(Fault::After(100))]);
    let object = cache.object(version("failing", BLOCK_BYTES));
    let failed = AtomicUsize::new(0);
    on_core(&cache, async |core| {
        let readers = (0..10).map(|_| async {
            let error = core.read(&source, &object, range(0, 1000)).await.unwrap_err();
            let ReadError::Source(error) = error else { panic!("{error}") };
            assert_eq!(error.kind, SourceErrorKind::Unavailable);
            failed.fetch_add(1, Ordering::SeqCst);
        });
        let opener = async {
            source.begun(1).await;
            source.allow_all();
        };
        futures_util::future::join(join_all(readers), opener).await;
        check_whole(&core, &source, &object).await;
    });
    assert_eq!(failed.load(Ordering::SeqCst), 10);
    assert_eq!(source.fetches().len(), 2);
    assert_eq!(cache.usage().lent_frames, 0);
}

#[test]
fn a_source_that_gives_too_little_or_too_much_is_an_error_of_the_source() {
    let cache = cache();
    let source = Seeded::new();
    source.fail_next([Some(Fault::Short(BLOCK_BYTES - 1))]);
    let object = cache.object(version("short", BLOCK_BYTES));
    let long = cache.object(version("long", BLOCK_BYTES));
    on_core(&cache, async |core| {
        let error = core.read(&source, &object, range(0, BLOCK_BYTES)).await.unwrap_err();
        let ReadError::Source(error) = error else { panic!("{error}") };
        assert_eq!(error.kind, SourceErrorKind::WrongAnswer);
        // The bytes asked for have come and are right: more is the source's trouble.
        source.fail_next([Some(Fault::Long)]);
        check_whole(&core, &source, &long).await;
    });
    assert_eq!(cache.counters().fetch_errors.get(), 2);
}

#[test]
fn a_panicking_source_costs_its_readers_a_second_fetch_and_nothing_else() {
    let cache = cache();
    let source = Seeded::new();
    source.fail_next([Some(Fault::Panic(MIB))]);
    let object = cache.object(version("panic", BLOCK_BYTES));
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(source.fetches().len(), 2);
    assert_eq!(cache.counters().fetches_in_flight.get(), 0);
}

#[test]
fn a_core_that_ends_leaves_its_readers_elsewhere_to_fetch_themselves() {
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("ended", BLOCK_BYTES));
    // The first core starts the fetch and ends without waiting for it.
    tokio_uring::start(async {
        let core = cache.attach_core();
        let run = BlockRun::new(0..1).unwrap();
        assert_ne!(core.prefetch(&source, &object, run, Class::InFile), PrefetchOutcome::Refused);
        source.begun(1).await;
    });
    source.allow_all();
    on_core(&cache, async |core| check_whole(&core, &source, &object).await);
    assert_eq!(source.fetches().len(), 2);
}

/// Proves V05, V06 and W10.
#[test]
fn predictions_keep_to_their_budget_and_are_promoted_when_read() {
    let cache = cache();
    let source = Seeded::held();
    let object = cache.object(version("ahead", 16 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        let run = |indices| BlockRun::new(indices).unwrap();
        let first = core.prefetch(&source, &object, run(0..8), Class::InFile);
        assert_eq!(first, PrefetchOutcome::Started { bytes: 4 * BLOCK_BYTES });
        assert_eq!(cache.counters().prefetch_refused_blocks.get(), 4);
        assert_eq!(
            core.prefetch(&source, &object, run(0..4), Class::InFile),
            PrefetchOutcome::Known
        );
        let over = core.prefetch(&source, &object, run(4..5), Class::InFile);
        assert_eq!(over, PrefetchOutcome::Refused);
        source.allow_all();
        core.drain().await;
        // The fills have ended: their budget is free again.
        assert_ne!(
            core.prefetch(&source, &object, run(4..5), Class::InFile),
            PrefetchOutcome::Refused
        );
        core.drain().await;
        let before = cache.usage();
        assert_eq!((before.hot_bytes, before.prefetch_bytes), (0, 5 * BLOCK_BYTES));
        check_read(&core, &source, &object, range(0, 10)).await;
        let after = cache.usage();
        assert_eq!((after.hot_bytes, after.prefetch_bytes), (BLOCK_BYTES, 4 * BLOCK_BYTES));
    });
    assert_eq!(source.fetches().len(), 2, "one for the run, one for the block after");
    assert_eq!(cache.counters().prefetch_used_bytes.get(), BLOCK_BYTES);
    // Beyond the end there is nothing to predict.
    on_core(&cache, async |core| {
        let beyond = BlockRun::new(16..20).unwrap();
        let outcome = core.prefetch(&source, &object, beyond, Class::InFile);
        assert_eq!(outcome, PrefetchOutcome::Known);
    });
}

/// Proves V04 and W11.
#[test]
fn a_flood_of_predictions_evicts_no_hot_block() {
    let cache = cache();
    let source = Seeded::new();
    let hot = cache.object(version("hot", 8 * BLOCK_BYTES));
    let cold = cache.object(version("cold", 200 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        check_whole(&core, &source, &hot).await;
        for index in 0..200 {
            let run = BlockRun::new(index..index + 1).unwrap();
            let outcome = core.prefetch(&source, &cold, run, Class::InFile);
            assert_ne!(outcome, PrefetchOutcome::Refused, "block {index}");
            core.drain().await;
        }
        assert_eq!(hot.cached_bytes().memory_bytes, 8 * BLOCK_BYTES);
        let before = source.fetches().len();
        check_whole(&core, &source, &hot).await;
        assert_eq!(source.fetches().len(), before);
    });
    assert_eq!(cache.counters().hot_evictions.get(), 0);
    assert!(cache.counters().prefetch_wasted_bytes.get() > 100 * BLOCK_BYTES);
}

#[test]
fn an_arena_full_of_hot_blocks_still_takes_predictions() {
    let cache = cache();
    let source = Seeded::new();
    let hot = cache.object(version("hot", 32 * BLOCK_BYTES));
    let small: Vec<_> =
        (0..600).map(|number| cache.object(version(&format!("{number}"), 100_000))).collect();
    let next = cache.object(version("next", 4 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        check_whole(&core, &source, &hot).await;
        for object in &small {
            check_whole(&core, &source, object).await;
        }
        let outcome = core.prefetch(&source, &next, BlockRun::new(0..4).unwrap(), Class::InFile);
        assert_eq!(outcome, PrefetchOutcome::Started { bytes: 4 * BLOCK_BYTES });
    });
}

/// Proves V13: the arena is the bound, whatever is read.
#[test]
fn many_readers_of_far_more_data_than_memory_get_right_bytes_within_the_budget() {
    const OBJECTS: usize = 24;
    let cache = Cache::open(CacheSettings { arena_bytes: 40 << 20, ..settings(None) }).unwrap();
    let source = Seeded::new();
    let objects: Vec<_> = (0..OBJECTS)
        .map(|number| {
            let size_bytes = 3 * BLOCK_BYTES + 1000 * number as u64;
            cache.object(version(&format!("object {number}"), size_bytes))
        })
        .collect();
    on_cores(&cache, 2, async |number, core| {
        let readers = (0..16).map(|reader| {
            let (core, source, objects, cache) = (&core, &source, &objects, &cache);
            async move {
                for step in 0..4 {
                    let object = &objects[(reader * 7 + step * 5 + number) % OBJECTS];
                    check_whole(core, source, object).await;
                    // A range over a boundary, held while others want frames.
                    let held = core
                        .read(source, object, range(BLOCK_BYTES - 100, BLOCK_BYTES + 100))
                        .await
                        .unwrap();
                    tokio::task::yield_now().await;
                    assert_eq!(held.len_bytes(), 200);
                    let usage = cache.usage();
                    assert!(usage.hot_bytes + usage.prefetch_bytes <= 40 << 20);
                }
            }
        });
        join_all(readers).await;
    });
    let usage = cache.usage();
    assert_eq!((usage.lent_frames, usage.frame_waiters), (0, 0));
    assert!(cache.counters().hot_evictions.get() > 0);
}

#[test]
fn readers_wait_for_pinned_frames_and_get_them_in_turn() {
    let cache = Cache::open(CacheSettings { arena_bytes: 40 << 20, ..settings(None) }).unwrap();
    let source = Seeded::new();
    let object = cache.object(version("pinned", 12 * BLOCK_BYTES));
    on_core(&cache, async |core| {
        let mut views = Vec::new();
        for index in 0..10 {
            let view = core.read(&source, &object, range(blocks(index), blocks(index) + 1)).await;
            views.push(view.unwrap());
        }
        core.drain().await;
        assert_eq!(cache.usage().lent_frames, 10);
        // A prediction does not wait.
        let run = BlockRun::new(11..12).unwrap();
        let outcome = core.prefetch(&source, &object, run, Class::InFile);
        assert_eq!(outcome, PrefetchOutcome::Refused);
        let waiting = tokio_uring::spawn({
            let (core, source, object) = (core.clone(), source.clone(), object.clone());
            async move {
                check_read(&core, &source, &object, range(blocks(10), blocks(12))).await;
            }
        });
        while cache.usage().frame_waiters == 0 {
            tokio::task::yield_now().await;
        }
        // One frame is not enough for two blocks.
        views.pop();
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        assert!(!waiting.is_finished());
        // Who is served from memory overtakes nobody.
        check_read(&core, &source, &object, range(0, 1)).await;
        views.pop();
        waiting.await.unwrap();
    });
    assert_eq!(cache.counters().frame_waits.get(), 1);
    assert_eq!(cache.usage().frame_waiters, 0);
}

#[test]
fn ranges_that_make_no_sense_are_refused() {
    let cache = cache();
    let source = Seeded::new();
    let object = cache.object(version("object", 100 * BLOCK_BYTES));
    let empty = cache.object(version("empty", 0));
    assert_eq!(empty.block_count(), 0);
    on_core(&cache, async |core| {
        let outside = core.read(&source, &empty, range(0, 1)).await;
        assert!(matches!(outside, Err(ReadError::OutsideObject { size_bytes: 0, .. })));
        let long = core.read(&source, &object, range(0, READ_BYTES_MAX + 1)).await;
        assert!(matches!(long, Err(ReadError::TooLong { .. })));
        check_read(&core, &source, &object, range(5, READ_BYTES_MAX + 5)).await;
        let warmed = core.warm(&source, &empty).await.unwrap();
        assert_eq!(warmed.fetched_bytes, 0);
    });
    let small = Cache::open(CacheSettings { arena_bytes: 1 << 20, ..settings(None) });
    assert!(matches!(small, Err(CacheError::ArenaTooSmall { .. })));
    let ratio = Cache::open(CacheSettings { free_space_ratio: 1.5, ..settings(None) });
    assert!(matches!(ratio, Err(CacheError::FreeSpaceRatio { .. })));
}

#[test]
fn warming_without_a_disk_brings_blocks_to_memory() {
    let cache = cache();
    let source = Seeded::new();
    let object = cache.object(version("warm", 3 * BLOCK_BYTES + 5));
    on_core(&cache, async |core| {
        let warmed = core.warm(&source, &object).await.unwrap();
        assert_eq!(warmed.fetched_bytes, object.size_bytes());
        assert_eq!(warmed.memory_only_bytes, object.size_bytes());
        let again = core.warm(&source, &object).await.unwrap();
        assert_eq!((again.fetched_bytes, again.skipped_bytes), (0, object.size_bytes()));
        check_whole(&core, &source, &object).await;
    });
    assert_eq!(source.fetched_bytes(), object.size_bytes());
}

#[test]
fn there_is_one_handle_per_version() {
    let cache = cache();
    let first = cache.object(version("same", 10));
    let second = cache.object(version("same", 10));
    assert!(std::sync::Arc::ptr_eq(&first, &second));
    assert_ne!(first.id(), cache.object(version("same", 11)).id());
}
