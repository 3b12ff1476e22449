//! Histories of the disk tier on a disk that fails to order.
//!
//! Each history is made from a seed: what is read in which order, what fails, and where the power is
//! cut. The cache runs on a real mount of a disk in memory ([`disk`]), so nothing in it knows that
//! it is tested. Whatever happens: no reader ever gets a wrong byte or an error (the source works);
//! after a cut, what was committed before is there; the bytes allocated never pass the bound; the
//! cache opens again.
//!
//! Cataloguing before a file is synced, and taking what is read for right without its checksums, are
//! each found within the first ten seeds.
//!
//! `TENDERFS_SEED=7` runs the history of that seed alone, `TENDERFS_SEEDS=100000` that many.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]
#![allow(clippy::print_stderr, reason = "a test says what it skips and which seed failed")]

mod chance;
mod disk;
mod mount;
#[path = "../cache/source.rs"]
#[allow(dead_code, reason = "the other tests use all of it")]
mod source;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use chance::Chance;
use disk::{Disk, Faults};
use mount::Mounted;
use source::{Seeded, check_whole, on_core, settings};
use tenderfs_cache::{BLOCK_BYTES, Cache, CacheSettings, ObjectVersion, Policy, Verify};

/// Histories that are run unless the environment says otherwise.
const SEEDS: u64 = 2000;

/// Histories that run side by side: they wait more than they work.
const AT_ONCE: u64 = 4;

/// How long one history may take: far more than any does.
const PATIENCE: Duration = Duration::from_mins(1);

/// Keys that a history reads.
const KEYS: u64 = 12;

/// Bound of the disk tier: a few of the objects, and the catalogue.
const LIMIT_BYTES: u64 = 1 << 20;

#[expect(clippy::disallowed_methods, reason = "which histories to run is said from outside")]
fn from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn no_history_of_cuts_and_faults_gives_a_wrong_byte_or_loses_what_was_committed() {
    if let Err(error) = Mounted::new(Disk::new(0), tempfile::tempdir().unwrap().path()) {
        eprintln!("skipped: cannot mount a FUSE file system here: {error}");
        return;
    }
    let seeds = match from_environment("TENDERFS_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("TENDERFS_SEEDS").unwrap_or(SEEDS),
    };
    let (next, kept) = (AtomicU64::new(seeds.start), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if !seeds.contains(&seed) {
                        return;
                    }
                    kept.fetch_add(run(seed), Ordering::Relaxed);
                }
            });
        }
    });
    let kept = kept.into_inner();
    eprintln!("{} histories; {kept} committed objects were looked for after a cut", seeds.end);
    assert!(kept > seeds.end - seeds.start || seeds.end - seeds.start < 100);
}

/// Runs one history in a thread of its own; fails if it panics or hangs. Returns how many objects
/// were looked for after a cut, and found.
fn run(seed: u64) -> u64 {
    let (done, end) = mpsc::channel();
    let history = thread::Builder::new().name(format!("seed {seed}"));
    let history = history.spawn(move || done.send(History::new(seed).run())).unwrap();
    match end.recv_timeout(PATIENCE) {
        Ok(kept) => kept,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("TENDERFS_SEED={seed} hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            drop(history.join());
            panic!("TENDERFS_SEED={seed} fails, see above")
        }
    }
}

struct History {
    seed: u64,
    chance: Chance,
    source: Seeded,
    folder: tempfile::TempDir,
    /// Objects that were committed as wholes and must be there after a cut.
    committed: BTreeSet<u64>,
    looked_for: u64,
    /// Whether the disk is trusted: then it does what it says until the power is cut, no bit is turned,
    /// and every byte is right without being compared.
    is_trusted: bool,
    /// Whether a bit was turned since the last life.
    is_damaged: bool,
}

/// What one life of the daemon is like.
struct Life {
    faults: Faults,
    cut_at: Option<u64>,
    steps: u64,
    settings: CacheSettings,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        Self {
            seed,
            is_trusted: chance.once_in(4),
            chance,
            source: Seeded::new(),
            folder: tempfile::tempdir().unwrap(),
            committed: BTreeSet::new(),
            looked_for: 0,
            is_damaged: false,
        }
    }

    fn run(mut self) -> u64 {
        let mut disk = Disk::new(self.seed);
        let has_faults = !self.is_trusted && self.chance.once_in(3);
        for _ in 0..=self.chance.below(2) {
            let life = self.life(has_faults);
            disk = self.live(disk, &life, has_faults);
            if !self.is_trusted
                && self.chance.once_in(4)
                && (disk.flip_a_bit(".data") | disk.flip_a_bit(".pack"))
            {
                // Which object it was nobody knows: all are read in the next life, and it is
                // fetched anew.
                self.committed.clear();
                self.is_damaged = true;
            }
        }
        let last = Life { faults: Faults::default(), cut_at: None, ..self.life(false) };
        self.live(disk, &last, has_faults);
        self.looked_for
    }

    fn life(&mut self, has_faults: bool) -> Life {
        let mut rate = || if has_faults { [0, 9, 40][self.chance.index(3)] } else { 0 };
        let faults = Faults {
            read_error: rate(),
            write_error: rate(),
            no_space: rate(),
            short_write: rate(),
            sync_error: rate(),
        };
        let cut_at = (!self.chance.once_in(4)).then(|| 1 + self.chance.below(120));
        let verify = [Verify::FirstUse, Verify::Always][self.chance.index(2)];
        let verify = if self.is_trusted { Verify::Never } else { verify };
        let policy = [Policy::Lru, Policy::Pin, Policy::Auto][self.chance.index(3)];
        let settings = CacheSettings {
            disk_size_bytes: LIMIT_BYTES,
            arena_bytes: 40 << 20,
            catalogue_cache_bytes: 1 << 20,
            verify,
            policy,
            pack_below_bytes: [0, 300_000, 1 << 20][self.chance.index(3)],
            ..settings(Some(&self.folder.path().join("cache")))
        };
        Life { faults, cut_at, steps: 4 + self.chance.below(12), settings }
    }

    /// One life of the cache on `disk`; returns the disk as it is found when powered again.
    fn live(&mut self, disk: Disk, life: &Life, has_faults: bool) -> Disk {
        let root = self.folder.path().join("disk");
        std::fs::create_dir_all(&root).unwrap();
        let mounted = Mounted::new(disk, &root).unwrap();
        let dir = root.join("cache");
        let settings = CacheSettings { dir: Some(dir.clone()), ..life.settings.clone() };
        let cache = self.open(&settings, &mounted);
        self.look_for_committed(&cache);
        if std::mem::take(&mut self.is_damaged) {
            self.read_all(&cache);
        }
        {
            let mut disk = mounted.disk();
            disk.faults = life.faults;
            disk.cut_at = life.cut_at.map(|at| disk.changes + at);
        }
        for _ in 0..life.steps {
            if mounted.disk().is_cut() {
                break;
            }
            self.step(&cache, &mounted, has_faults);
            // What was evicted since is not to be there.
            self.committed.retain(|number| cache.object(version(*number)).complete_on_disk());
        }
        cache.shutdown();
        // Evicted in the background meanwhile.
        self.committed.retain(|number| cache.object(version(*number)).complete_on_disk());
        drop(cache);
        let disk = mounted.unmounted();
        assert!(
            disk.allocated_max <= LIMIT_BYTES,
            "{} bytes were allocated of {LIMIT_BYTES}",
            disk.allocated_max
        );
        disk.powered_again()
    }

    /// Opens the cache on a disk that works.
    fn open(&self, settings: &CacheSettings, mounted: &Mounted) -> Cache {
        Cache::open(settings.clone()).unwrap_or_else(|error| {
            let names = mounted.disk().count("");
            panic!("seed {}: a directory of {names} names is refused: {error:?}", self.seed)
        })
    }

    /// What was committed is there, whole, and its bytes are right.
    fn look_for_committed(&mut self, cache: &Cache) {
        for number in std::mem::take(&mut self.committed) {
            let object = cache.object(version(number));
            assert!(object.complete_on_disk(), "committed object {number} is not there");
            let before = self.source.fetched_bytes();
            on_core(cache, async |core| check_whole(&core, &self.source, &object).await);
            let fetched = self.source.fetched_bytes() - before;
            assert_eq!(
                fetched,
                0,
                "object {number} was fetched again: mismatches {} read errors {} dropped {}",
                cache.counters().verify_mismatches.get(),
                cache.counters().disk_read_errors.get(),
                cache.counters().records_dropped.get()
            );
            self.looked_for += 1;
        }
    }

    /// Reads all that is on disk.
    fn read_all(&self, cache: &Cache) {
        for number in 0..KEYS {
            let object = cache.object(version(number));
            if object.cached_bytes().disk_bytes > 0 {
                on_core(cache, async |core| {
                    check_whole(&core, &self.source, &object).await;
                    core.drain().await;
                });
            }
        }
    }

    fn step(&mut self, cache: &Cache, mounted: &Mounted, has_faults: bool) {
        match self.chance.below(8) {
            0 => cache.forget_memory(),
            1 | 2 => self.commit(cache, mounted, has_faults),
            _ => {
                let object = cache.object(version(self.chance.below(KEYS)));
                let warms = self.chance.once_in(5);
                on_core(cache, async |core| {
                    if warms {
                        core.warm(&self.source, &object).await.unwrap();
                    }
                    check_whole(&core, &self.source, &object).await;
                    core.drain().await;
                });
            }
        }
    }

    /// Commits; what is whole then must survive, as long as nothing is evicted.
    fn commit(&mut self, cache: &Cache, mounted: &Mounted, has_faults: bool) {
        cache.commit();
        let was_cut = mounted.disk().is_cut();
        if has_faults || was_cut {
            return;
        }
        self.committed.clear();
        for number in 0..KEYS {
            let object = cache.object(version(number));
            if object.complete_on_disk() {
                self.committed.insert(number);
            }
        }
    }
}

/// Objects of one block, but for two.
fn version(number: u64) -> ObjectVersion {
    let size_bytes = match number {
        0 => BLOCK_BYTES + 5000,
        1 => 1,
        2 => 8192,
        _ => 9_000 + number * 16_111,
    };
    source::version(&format!("object {number}"), size_bytes)
}
