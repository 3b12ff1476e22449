//! A source in process: seeded bytes, every fetch noted, delays and failures to order.

use std::collections::VecDeque;
use std::future::Future;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tenderfs_byterange::ByteRange;
use tenderfs_cache::{
    BLOCK_BYTES, Cache, CacheSettings, Class, CoreCache, FillSink, HugePages, Object,
    ObjectVersion, Policy, Source, SourceError, SourceErrorKind, Verify,
};
use tokio::sync::Semaphore;

pub(crate) const MIB: u64 = 1 << 20;

/// One fetch, as the source saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) key: String,
    pub(crate) range: ByteRange,
    pub(crate) class: Class,
}

/// What goes wrong with one fetch.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    /// It fails after this many bytes.
    After(u64),
    /// It ends without an error after this many bytes.
    Short(u64),
    /// It gives one byte more.
    Long,
    /// It panics after this many bytes.
    Panic(u64),
}

/// The seeded source. Clones share everything.
#[derive(Clone)]
pub(crate) struct Seeded {
    inner: Arc<Inner>,
}

struct Inner {
    fetches: Mutex<Vec<Fetch>>,
    /// Faults of the fetches to come; `None` is a fetch that works.
    faults: Mutex<VecDeque<Option<Fault>>>,
    /// Pieces that may be pushed; without a limit if closed.
    pieces: Semaphore,
}

/// Time from a fetch to its first byte.
const FIRST_BYTE: Duration = Duration::from_millis(1);

/// Bytes pushed at once, as a network would give them.
pub(crate) const PIECE_BYTES: u64 = 64 << 10;

impl Seeded {
    /// Gives all bytes at once.
    pub(crate) fn new() -> Self {
        let source = Self::held();
        source.inner.pieces.close();
        source
    }

    /// Gives no byte before [`Seeded::allow`].
    pub(crate) fn held() -> Self {
        Self {
            inner: Arc::new(Inner {
                fetches: Mutex::default(),
                faults: Mutex::default(),
                pieces: Semaphore::new(0),
            }),
        }
    }

    /// Lets `pieces` of 64 KiB go.
    pub(crate) fn allow(&self, pieces: usize) {
        self.inner.pieces.add_permits(pieces);
    }

    /// Lets everything go from now on.
    pub(crate) fn allow_all(&self) {
        self.inner.pieces.close();
    }

    /// The next fetches have these faults.
    pub(crate) fn fail_next(&self, faults: impl IntoIterator<Item = Option<Fault>>) {
        self.inner.faults.lock().unwrap().extend(faults);
    }

    pub(crate) fn fetches(&self) -> Vec<Fetch> {
        self.inner.fetches.lock().unwrap().clone()
    }

    pub(crate) fn fetched_bytes(&self) -> u64 {
        self.fetches().iter().map(|fetch| fetch.range.len_bytes()).sum()
    }

    /// Waits until `count` fetches have begun.
    pub(crate) async fn begun(&self, count: usize) {
        while self.fetches().len() < count {
            tokio::task::yield_now().await;
        }
    }
}

impl Source for Seeded {
    async fn fetch(
        &self,
        object: &Arc<Object>,
        range: ByteRange,
        class: Class,
        sink: &mut FillSink,
    ) -> Result<(), SourceError> {
        let key = object.version().key.to_string();
        self.inner.fetches.lock().unwrap().push(Fetch { key, range, class });
        let fault = self.inner.faults.lock().unwrap().pop_front().flatten();
        assert_eq!(sink.missing_bytes(), range.len_bytes());
        // As a network would, this lets the core park: only then its ring hears of disk writes.
        tokio::time::sleep(FIRST_BYTE).await;
        let mut at = range.start();
        while at < range.end() {
            if let Ok(permit) = self.inner.pieces.acquire().await {
                permit.forget();
            }
            let mut end = (at + PIECE_BYTES).min(range.end());
            let broken = match fault {
                Some(Fault::After(bytes) | Fault::Short(bytes) | Fault::Panic(bytes)) => {
                    end = end.min(range.start() + bytes);
                    end == range.start() + bytes
                }
                Some(Fault::Long) | None => false,
            };
            sink.push(&bytes_of(object.version(), at, end))?;
            at = end;
            match fault {
                Some(Fault::After(_)) if broken => {
                    return Err(SourceError::new(SourceErrorKind::Unavailable, "as ordered"));
                }
                Some(Fault::Short(_)) if broken => return Ok(()),
                Some(Fault::Panic(_)) if broken => panic!("as ordered"),
                _ => (),
            }
        }
        if matches!(fault, Some(Fault::Long)) {
            sink.push(&[0])?;
        }
        Ok(())
    }
}

/// The right bytes `start..end` of an object: a function of its key, ETag and offset.
pub(crate) fn bytes_of(version: &ObjectVersion, start: u64, end: u64) -> Vec<u8> {
    let name = version.key.bytes().chain(version.etag.bytes());
    let seed = name.fold(7_u64, |seed, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)));
    let mut bytes = Vec::with_capacity(usize::try_from(end - start + 16).unwrap());
    let mut word = start / 8;
    while bytes.len() < usize::try_from(end - start / 8 * 8).unwrap() {
        let mixed = (word ^ seed).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        bytes.extend((mixed ^ (mixed >> 29)).to_le_bytes());
        word += 1;
    }
    let skip = usize::try_from(start % 8).unwrap();
    bytes[skip..skip + usize::try_from(end - start).unwrap()].to_vec()
}

pub(crate) fn version(key: &str, size_bytes: u64) -> ObjectVersion {
    ObjectVersion { store: "store".into(), key: key.into(), etag: "\"1\"".into(), size_bytes }
}

pub(crate) fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

/// Settings of a cache with 64 MiB of memory, and with `dir`, 1 GiB of disk.
pub(crate) fn settings(dir: Option<&Path>) -> CacheSettings {
    CacheSettings {
        dir: dir.map(Into::into),
        disk_size_bytes: 1 << 30,
        pack_below_bytes: 0,
        free_space_ratio: 0.0,
        arena_bytes: 64 << 20,
        prefetch_in_flight_bytes: 16 << 20,
        policy: Policy::Lru,
        verify: Verify::FirstUse,
        huge_pages: HugePages::Plain,
        catalogue_cache_bytes: 4 << 20,
    }
}

/// Runs `work` on `cores` cores, each with its own runtime, and returns what they returned. Each
/// core is drained before its runtime ends.
pub(crate) fn on_cores<T, F>(
    cache: &Cache,
    cores: usize,
    work: impl Fn(usize, CoreCache) -> F + Sync,
) -> Vec<T>
where
    T: Send,
    F: Future<Output = T>,
{
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..cores)
            .map(|number| {
                scope.spawn(move || {
                    tokio_uring::start(async move {
                        let core = cache.attach_core();
                        let result = work(number, core.clone()).await;
                        core.drain().await;
                        result
                    })
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// As [`on_cores`], on one.
pub(crate) fn on_core<T: Send, F: Future<Output = T>>(
    cache: &Cache,
    work: impl Fn(CoreCache) -> F + Sync,
) -> T {
    on_cores(cache, 1, |_, core| work(core)).remove(0)
}

/// Reads `range` and compares every byte.
#[track_caller]
pub(crate) fn check_read<'a>(
    core: &'a CoreCache,
    source: &'a Seeded,
    object: &'a Arc<Object>,
    range: ByteRange,
) -> impl Future<Output = tenderfs_cache::Tier> + 'a {
    let caller = std::panic::Location::caller();
    async move {
        let view = core.read(source, object, range).await.unwrap();
        assert_eq!(view.len_bytes() as u64, range.len_bytes(), "{caller}");
        let expected = bytes_of(object.version(), range.start(), range.end());
        assert!(view.to_vec() == expected, "wrong bytes in {range}, {caller}");
        view.tier()
    }
}

/// Reads the whole object in steps of 1 MiB and compares every byte.
pub(crate) async fn check_whole(core: &CoreCache, source: &Seeded, object: &Arc<Object>) {
    let mut at = 0;
    while at < object.size_bytes() {
        let end = (at + MIB).min(object.size_bytes());
        check_read(core, source, object, range(at, end)).await;
        at = end;
    }
}

pub(crate) fn blocks(count: u64) -> u64 {
    count * BLOCK_BYTES
}
