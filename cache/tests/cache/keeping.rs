//! What the disk tier keeps of passes over more than it holds.

use tenderfs_cache::{Cache, CacheSettings, Policy};

use crate::source::{Seeded, check_whole, on_cores, settings, version};

const OBJECTS: u64 = 160;
const OBJECT_BYTES: u64 = 900_000;

#[test]
fn a_set_that_stays_put_is_not_churned_by_cores_that_write_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let source = Seeded::new();
    let pinned = CacheSettings {
        disk_size_bytes: 40 << 20,
        arena_bytes: 48 << 20,
        policy: Policy::Pin,
        ..settings(Some(dir.path()))
    };
    let cache = Cache::open(pinned).unwrap();
    // Another order in each pass: a step and the number of objects have no common divisor.
    let pass = |step: u64| {
        let before = source.fetched_bytes();
        on_cores(&cache, 2, async |core_number, core| {
            let own: Vec<_> = (0..OBJECTS).filter(|at| at % 2 == core_number as u64).collect();
            for at_once in own.chunks(8) {
                let read = async |at: &u64| {
                    let key = format!("{}", at * step % OBJECTS);
                    check_whole(&core, &source, &cache.object(version(&key, OBJECT_BYTES))).await;
                };
                futures_util::future::join_all(at_once.iter().map(read)).await;
            }
        });
        cache.forget_memory();
        source.fetched_bytes() - before
    };
    let evicted = || cache.counters().disk_evicted_objects.get();
    // How many passes it takes depends on which writes find room: a set that churns never settles.
    let settled = [1, 3, 7, 9, 11, 13, 17, 19].into_iter().find_map(|step| {
        let before = evicted();
        let fetched = pass(step);
        (step > 1 && evicted() == before).then_some(fetched)
    });
    let (fetched, kept) = (settled.expect("the set settles"), cache.usage().disk_bytes);
    // All but what the catalogue may take is of objects that are hit.
    assert!(kept > 36 << 20, "{kept} bytes on disk");
    assert!(fetched <= OBJECTS * OBJECT_BYTES - (34 << 20), "{fetched} bytes were fetched");
}
