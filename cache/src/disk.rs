//! The disk tier: a sparse file per object version, packs of small ones, and a catalogue of what is
//! in them.
//!
//! Under the cache directory: `lock` (held while a daemon uses it), `version`, `catalogue.redb`,
//! `objects/xx/<id>.data` with each block at its own offset, and `packs/<number>.pack`, each with many
//! small objects.
//!
//! Invariant: data, then fdatasync, then catalogue. After any crash, what the catalogue names is
//! on disk; a file or a block that it does not name is as good as absent. Removing goes the other
//! way round: catalogue, then file.

pub(crate) mod bitmap;
pub(crate) mod catalogue;
pub(crate) mod committer;
pub(crate) mod dir;
pub(crate) mod flaw;
pub(crate) mod health;
pub(crate) mod index;
pub(crate) mod inspection;
pub(crate) mod object;
pub(crate) mod orphans;
pub(crate) mod packed;
pub(crate) mod packs;
pub(crate) mod record;
pub(crate) mod space;
pub(crate) mod stored;
pub(crate) mod verification;
pub(crate) mod verified;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::futures::Notified;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit, watch};

use crate::counters::{Counters, Usage};
use crate::disk::catalogue::Catalogue;
use crate::disk::committer::{Committer, Order};
use crate::disk::dir::CacheDir;
use crate::disk::health::Health;
use crate::disk::index::{Index, Newcomer};
use crate::disk::object::DiskObject;
use crate::disk::packed::{Entry, Place, packed_index};
use crate::disk::packs::{PackClaim, Packs};
use crate::disk::space::{FileSpace, Ledger, Verdict};
use crate::disk::stored::{Packed, Stored};
use crate::disk::verified::FileStamp;
use crate::error::CacheError;
use crate::keeping::{self, Guide, Pin, Pins, Regime};
use crate::object::{Object, Objects};
use crate::settings::{CacheSettings, Verify};
use crate::version::{ObjectId, ObjectVersion};

/// Blocks that may wait for a commit; each is a few hundred bytes.
const COMMIT_BACKLOG: usize = 4096;

/// Objects that are checked at once: one keeps a disk busy, and the cores have readers to serve.
const CHECKING: usize = 1;

/// Objects that wait to be checked; others are checked when they are opened again.
const CHECKS_QUEUED_MAX: usize = 4096;

/// Files that are made at once at most.
const CREATING: usize = 16;

/// Share of the disk tier that may be pinned, in percent: the rest has to serve what is not.
const PINNED_PERCENT_MAX: u64 = 90;

/// What is pinned of the objects on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pinned {
    /// Objects that stay.
    pub objects: u64,
    /// Their bytes when they are complete.
    pub bytes: u64,
    /// Objects that should stay and do not, for more may not be pinned.
    pub objects_beyond: u64,
}

/// The disk tier.
pub(crate) struct Disk {
    inner: Arc<Inner>,
    committer: Committer,
    commit_backlog: Arc<Semaphore>,
    /// Held while a file is made; which one depends on the object.
    creating: [tokio::sync::Mutex<()>; CREATING],
    /// Turns to check an object, and places in the queue for one.
    checking: Semaphore,
    check_places: Arc<Semaphore>,
    /// Reads that readers or fills have made of this disk, each a part of a block or a whole one.
    reads_made: AtomicU64,
}

/// What the disk tier's threads share with the cores.
pub(crate) struct Inner {
    pub(crate) dir: CacheDir,
    pub(crate) catalogue: Catalogue,
    pub(crate) index: Index,
    pub(crate) packs: Packs,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) objects: Arc<Objects>,
    pub(crate) counters: Arc<Counters>,
    /// Grows with each eviction: cores then close evicted files.
    pub(crate) evictions: watch::Sender<u64>,
    /// Grows with each block that was written and with each commit.
    progress: watch::Sender<u64>,
    /// Milliseconds since 1970, moved on a few times a second.
    pub(crate) now_ms: AtomicU64,
    reads: Mutex<Health>,
    writes: Mutex<Health>,
    direct: AtomicBool,
    /// Which objects are worth their place.
    guide: Mutex<Guide>,
    /// Which are to stay, whatever they are worth.
    pins: Mutex<Pins>,
    /// Bytes that may be pinned.
    pinned_bytes_max: u64,
}

impl Disk {
    /// Takes the directory, reads its catalogue and starts the committer.
    pub(crate) fn open(
        path: &Path,
        settings: &CacheSettings,
        counters: Arc<Counters>,
        objects: Arc<Objects>,
    ) -> Result<Self, CacheError> {
        let (dir, found) = CacheDir::open(path)?;
        let (catalogue, loaded) = Catalogue::open(&dir, found, settings.catalogue_cache_bytes)?;
        let ledger =
            Ledger::new(settings.disk_size_bytes, dir.path().to_owned(), settings.free_space_ratio);
        ledger.survey_begins();
        let index = Index::new();
        let packs = Packs::open(&dir, settings.pack_below_bytes, &loaded.packed, &ledger);
        index.load_packed(packed_index(loaded.packed));
        index.load(loaded.objects.into_iter().map(|(id, record)| {
            let space = ledger.file(object::stored_bytes(record.size_bytes, &record.blocks));
            let named = (id, record.size_bytes);
            let object = DiskObject::catalogued(named, record.last_use_ms, record.blocks, space);
            if settings.verify == Verify::Never { object.trust() } else { object }
        }));
        let pins = catalogue
            .pins()
            .map_err(|source| CacheError::Catalogue { path: dir.catalogue_path(), source })?;
        let inner = Arc::new(Inner {
            pins: Mutex::new(Pins::new(pins, committer::unix_ms())),
            pinned_bytes_max: settings.disk_size_bytes / 100 * PINNED_PERCENT_MAX,
            direct: AtomicBool::new(true),
            guide: Mutex::new(Guide::new(settings.policy, settings.disk_size_bytes)),
            dir,
            catalogue,
            index,
            packs,
            ledger,
            objects,
            counters,
            evictions: watch::Sender::new(0),
            progress: watch::Sender::new(0),
            now_ms: AtomicU64::new(committer::unix_ms()),
            reads: Mutex::default(),
            writes: Mutex::default(),
        });
        inner.measure_overhead();
        if !lock(&inner.pins).is_empty() {
            inner.apply_pins().map_err(|source| CacheError::Catalogue {
                path: inner.dir.catalogue_path(),
                source,
            })?;
        }
        let committer = Committer::start(&inner)?;
        Ok(Self {
            inner,
            committer,
            commit_backlog: Arc::new(Semaphore::new(COMMIT_BACKLOG)),
            creating: Default::default(),
            checking: Semaphore::new(CHECKING),
            check_places: Arc::new(Semaphore::new(CHECKS_QUEUED_MAX)),
            reads_made: AtomicU64::new(0),
        })
    }

    /// Milliseconds since 1970, a quarter of a second late at most.
    pub(crate) fn now_ms(&self) -> u64 {
        self.inner.now_ms.load(Ordering::Relaxed)
    }

    /// The object `id` as it is on disk.
    pub(crate) fn find(&self, id: ObjectId) -> Option<Stored> {
        self.inner.index.find(id)
    }

    /// As [`Disk::find`], of objects with a file of their own.
    pub(crate) fn find_file(&self, id: ObjectId) -> Option<Arc<DiskObject>> {
        self.inner.index.find_file(id)
    }

    /// The object on disk, begun if it is not there; `None` while it is being evicted.
    pub(crate) fn object(&self, object: &Object) -> Option<Arc<DiskObject>> {
        let stamp = self.inner.guide().now();
        let mut is_new = false;
        let found = self.inner.index.find_or_insert(object.id(), || {
            is_new = true;
            let space = self.inner.ledger.file(0);
            let (id, size_bytes) = (object.id(), object.size_bytes());
            let made = DiskObject::new(id, size_bytes, self.now_ms(), space);
            made.stamp.store(stamp, Ordering::Relaxed);
            made
        });
        if is_new && self.is_to_stay(object) {
            self.inner.index.set_pinned(object.id(), true, self.inner.pinned_bytes_max);
        }
        found
    }

    /// Whether the user wants `object` to stay.
    pub(crate) fn is_to_stay(&self, object: &Object) -> bool {
        let version = object.version();
        lock(&self.inner.pins).hold(&version.store, &version.key)
    }

    /// Pins what `pin` names, from now on and after restarts. Reads the whole catalogue.
    pub(crate) fn pin(&self, pin: Pin) -> Result<Pinned, Box<redb::Error>> {
        self.inner.change_pins(|pins| pins.put(pin))
    }

    /// Lets go of the pin of exactly this name; `None` if there is none.
    pub(crate) fn unpin(&self, store: &str, key: &str) -> Result<Option<Pinned>, Box<redb::Error>> {
        let mut was_there = false;
        let pinned = self.inner.change_pins(|pins| was_there = pins.remove(store, key))?;
        Ok(was_there.then_some(pinned))
    }

    /// All pins.
    pub(crate) fn pins(&self) -> Vec<Pin> {
        lock(&self.inner.pins).all().to_vec()
    }

    /// A reader has begun to read object `id` of `bytes`: what is worth its place goes by that.
    pub(crate) fn visited(&self, id: ObjectId, bytes: u64) {
        let index = &self.inner.index;
        let since = index.stamp(id);
        let stamp = self.inner.guide().used((id, bytes), since);
        index.set_stamp(id, stamp);
    }

    /// Whether `bytes` of object `id` would be kept: what would go for them is worth less, or there
    /// is so much room that nothing would go soon.
    pub(crate) fn admits(&self, id: ObjectId, bytes: u64) -> bool {
        let regime = self.inner.regime();
        self.inner.index.has_place_for(id, regime) || self.inner.ledger.has_ample_room(bytes)
    }

    pub(crate) fn has_block(&self, id: ObjectId, index: u32) -> bool {
        self.find(id).is_some_and(|object| object.is_present(index))
    }

    /// Every object that is there, in no order, and their bytes on disk.
    pub(crate) fn on_disk(&self) -> (Vec<ObjectId>, u64) {
        self.inner.index.on_disk()
    }

    pub(crate) fn present_bytes(&self, id: ObjectId) -> u64 {
        self.find(id).map_or(0, |object| object.present_bytes())
    }

    pub(crate) fn is_complete(&self, id: ObjectId) -> bool {
        self.find(id).is_some_and(|object| object.is_complete())
    }

    /// Object `id` was used then, as its handle saw it.
    pub(crate) fn used(&self, id: ObjectId, used_ms: u64) {
        if let Some(stored) = self.find(id)
            && used_ms > stored.last_use_ms()
        {
            self.note_use(&stored, used_ms);
        }
    }

    fn note_use(&self, stored: &Stored, used_ms: u64) {
        match stored {
            Stored::File(object) => {
                object.touch(used_ms);
                if !object.use_noted.swap(true, Ordering::Relaxed) {
                    self.committer.send(Order::Used { object: Arc::clone(object) });
                }
            }
            Stored::Packed(packed) => {
                if let Some(used) = self.inner.index.touch_packed(packed.id, used_ms) {
                    self.committer.send(Order::PackedUsed(used));
                }
            }
        }
    }

    pub(crate) fn object_path(&self, id: ObjectId) -> PathBuf {
        self.inner.dir.object_path(id)
    }

    pub(crate) fn create_folders(&self, id: ObjectId) -> io::Result<()> {
        self.inner.dir.create_folders(id)
    }

    /// What is held while the file of object `id` is made.
    pub(crate) fn creating(&self, id: ObjectId) -> &tokio::sync::Mutex<()> {
        &self.creating[usize::from(id.0[15]) % CREATING]
    }

    /// Whether files are opened for direct I/O.
    pub(crate) fn is_direct(&self) -> bool {
        self.inner.direct.load(Ordering::Relaxed)
    }

    /// The file system refuses direct I/O: the page cache serves instead.
    pub(crate) fn give_up_direct(&self) {
        if self.inner.direct.swap(false, Ordering::Relaxed) {
            let path = self.inner.dir.path().display();
            tracing::info!(%path, "file system refuses direct I/O: going through the page cache");
        }
    }

    pub(crate) fn may_read(&self) -> bool {
        lock(&self.inner.reads).is_on(Instant::now())
    }

    pub(crate) fn may_write(&self) -> bool {
        self.committer.is_running() && lock(&self.inner.writes).is_on(Instant::now())
    }

    /// Checksums of block `index`.
    pub(crate) fn sums(&self, stored: &Stored, index: u32) -> Option<Arc<[u32]>> {
        match stored {
            Stored::File(object) => {
                object.fresh_sums(index).or_else(|| self.inner.catalogue.sums(object.id(), index))
            }
            Stored::Packed(packed) => {
                let (inner, place) = (&self.inner, packed.entry.place());
                inner.packs.fresh_sums(place).or_else(|| inner.catalogue.packed_sums(place))
            }
        }
    }

    /// Whether what was read of `stored` is of it: bytes of a pack may have been punched out before
    /// they were read. A file of its own is there as long as it is open.
    pub(crate) fn is_current(&self, stored: &Stored) -> bool {
        match stored {
            Stored::File(_) => true,
            Stored::Packed(packed) => {
                self.inner.index.place_of(packed.id) == Some(packed.entry.place())
            }
        }
    }

    /// A part of a block was read and is right, which says nothing of the rest of the block.
    pub(crate) fn part_read_succeeded(&self, stored: &Stored) {
        self.reads_made.fetch_add(1, Ordering::Relaxed);
        self.note_use(stored, self.now_ms());
        succeeded(&self.inner.reads, "reading");
    }

    /// Reads made so far of parts of blocks and of whole ones, but for those of checks.
    pub(crate) fn reads_made(&self) -> u64 {
        self.reads_made.load(Ordering::Relaxed)
    }

    /// Block `index` was read from the file of `stamp` and is right.
    pub(crate) fn read_succeeded(&self, stored: &Stored, index: u32, stamp: FileStamp) {
        if let Stored::File(object) = stored {
            object.found_right(index, stamp);
        }
        self.reads_made.fetch_add(1, Ordering::Relaxed);
        self.note_use(stored, self.now_ms());
        succeeded(&self.inner.reads, "reading");
    }

    /// The disk has failed to read a block: it is dropped.
    pub(crate) fn read_failed(&self, stored: &Stored, index: u32, error: &io::Error) {
        self.drop_block(stored, index);
        self.inner.failed(&self.inner.reads, "reading", error);
    }

    pub(crate) fn write_succeeded(&self) {
        succeeded(&self.inner.writes, "writing");
    }

    pub(crate) fn write_failed(&self, error: &io::Error) {
        self.inner.write_failed(error);
    }

    /// Block `index` is of no use: it is fetched and written anew. If others read the file by
    /// themselves, it is not written to under them: the whole object is forgotten.
    pub(crate) fn drop_block(&self, stored: &Stored, index: u32) {
        let Stored::File(object) = stored else { return self.drop_object(stored) };
        if object.is_lent() {
            return self.drop_object(stored);
        }
        if object.drop_block(index) {
            self.committer.send(Order::DropBlock { object: Arc::clone(object), index });
        }
    }

    /// The file of `object` is not what the catalogue says: the object is forgotten.
    pub(crate) fn drop_object(&self, stored: &Stored) {
        self.drop_objects(vec![stored.clone()]);
    }

    /// As [`Disk::drop_object`], for many at once.
    pub(crate) fn drop_objects(&self, objects: Vec<Stored>) {
        // One in a pack is gone from here on; who takes it out has it removed.
        let index = &self.inner.index;
        let objects = objects.into_iter().filter_map(|stored| match stored {
            Stored::File(_) => Some(stored),
            Stored::Packed(Packed { id, entry }) => {
                index.take_packed(id, entry.place()).map(Stored::Packed)
            }
        });
        self.committer.send(Order::DropObjects { objects: objects.collect() });
    }

    /// Whether an object of `size_bytes` that is not on disk yet is to be put into a pack.
    pub(crate) fn packs(&self, size_bytes: u64) -> bool {
        self.inner.packs.take(size_bytes)
    }

    /// Asks for the right to write object `id` into a pack; `None` if somebody else does.
    pub(crate) fn claim_packed(&self, id: ObjectId) -> Option<PackClaim<'_>> {
        self.inner.packs.claim(id)
    }

    /// An object is written to `place`: it can be read from now on.
    pub(crate) fn enter_packed(&self, object: &Object, place: Place) -> Option<Packed> {
        let bytes = u32::try_from(object.size_bytes()).ok()?;
        let mut entry = Entry::new(place, bytes, self.now_ms());
        entry.set_stamp(self.inner.guide().now());
        let packed = Packed { id: object.id(), entry };
        self.inner.index.insert_packed(packed);
        if self.is_to_stay(object) {
            self.inner.index.set_pinned(packed.id, true, self.inner.pinned_bytes_max);
        }
        Some(packed)
    }

    /// The space of the pack `number`, and the path of its file; `None` once it is gone.
    pub(crate) fn pack(&self, number: u32) -> Option<(Arc<FileSpace>, PathBuf)> {
        Some((self.inner.packs.space(number)?, self.inner.dir.pack_path(number)))
    }

    /// Nothing more is written to the pack `number`.
    pub(crate) fn seal_pack(&self, number: u32) {
        self.inner.packs.seal(number);
    }

    /// See [`Catalogue::names`].
    pub(crate) fn names(
        &self,
        is_meant: impl FnMut(&str, &str) -> bool,
    ) -> Result<Vec<(ObjectId, Box<str>)>, Box<redb::Error>> {
        self.inner.catalogue.names(is_meant)
    }

    /// Has a written block made durable and catalogued. Waits while too many are ahead of it.
    pub(crate) async fn catalogue(
        &self,
        object: &Arc<DiskObject>,
        version: &ObjectVersion,
        index: u32,
        sums: &Arc<[u32]>,
    ) {
        let Ok(permit) = Arc::clone(&self.commit_backlog).acquire_owned().await else { return };
        self.inner.told_progress();
        self.committer.send(Order::Block(committer::Written {
            object: Arc::clone(object),
            version: version.clone(),
            index,
            sums: Arc::clone(sums),
            _permit: permit,
        }));
    }

    /// As [`Disk::catalogue`], of an object in a pack.
    pub(crate) async fn catalogue_packed(
        &self,
        packed: Packed,
        version: &ObjectVersion,
        sums: &Arc<[u32]>,
    ) {
        let Ok(permit) = Arc::clone(&self.commit_backlog).acquire_owned().await else { return };
        self.committer.send(Order::Packed(committer::WrittenPacked {
            packed,
            version: version.clone(),
            sums: Arc::clone(sums),
            _permit: permit,
        }));
    }

    /// A place in the queue for checking an object; `None` if it is full.
    pub(crate) fn queue_check(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.check_places).try_acquire_owned().ok()
    }

    /// Waits for the turn to check an object.
    pub(crate) async fn check_turn(&self) -> Option<SemaphorePermit<'_>> {
        self.checking.acquire().await.ok()
    }

    pub(crate) fn reserve(&self, bytes: u64) -> Verdict {
        self.inner.ledger.reserve(bytes)
    }

    /// Evicts objects that take `bytes` for `newcomer`; returns when they are unlinked, whether
    /// there were any.
    pub(crate) async fn evict(&self, bytes: u64, newcomer: Newcomer) -> bool {
        let (done, end) = tokio::sync::oneshot::channel();
        self.committer.send(Order::Evict { bytes, newcomer, done });
        // An error means that the committer has stopped: then nothing was evicted.
        end.await.unwrap_or(false)
    }

    /// Ends when bytes come back; to be made before asking for them.
    pub(crate) fn freed(&self) -> Notified<'_> {
        self.inner.ledger.freed.notified()
    }

    /// News of written blocks and of commits.
    pub(crate) fn progress(&self) -> watch::Receiver<u64> {
        self.inner.progress.subscribe()
    }

    /// Has what was written committed without waiting for more.
    pub(crate) fn hurry(&self) {
        self.committer.send(Order::Hurry);
    }

    /// News of evictions, for closing files.
    pub(crate) fn evictions(&self) -> watch::Receiver<u64> {
        self.inner.evictions.subscribe()
    }

    /// Commits what was written so far.
    pub(crate) fn commit(&self) {
        self.committer.commit();
    }

    /// Commits what was written and stops.
    pub(crate) fn shutdown(&self) {
        self.committer.stop();
    }

    /// Fills in what the disk tier holds.
    pub(crate) fn usage(&self, usage: &mut Usage) {
        usage.disk_limit_bytes = self.inner.ledger.limit_bytes();
        usage.disk_bytes = self.inner.ledger.total_bytes();
        (usage.disk_objects, usage.disk_packed_objects) = self.inner.index.len_objects();
        usage.disk_packs = self.inner.packs.len() as u64;
        (usage.disk_pinned_objects, usage.disk_pinned_bytes) = self.inner.index.pinned();
        usage.disk_writable = self.may_write();
        usage.disk_pins = self.inner.regime().order == keeping::Order::LowestIds;
    }
}

impl Inner {
    /// Changes the pins, durably, and what is pinned by them.
    fn change_pins(&self, change: impl FnOnce(&mut Pins)) -> Result<Pinned, Box<redb::Error>> {
        {
            let mut pins = lock(&self.pins);
            let mut changed = pins.clone();
            change(&mut changed);
            if changed != *pins {
                self.catalogue.set_pins(changed.all())?;
                *pins = changed;
            }
        }
        self.apply_pins()
    }

    /// Lets go of what was pinned until now.
    pub(crate) fn end_pins(&self, now_ms: u64) {
        if !lock(&self.pins).clone().drop_those_over(now_ms) {
            return;
        }
        let ended = self.change_pins(|pins| {
            pins.drop_those_over(now_ms);
        });
        if let Err(error) = ended {
            tracing::warn!(%error, "pins that have ended are still kept");
        }
    }

    /// Pins the objects on disk that the pins name, and no others.
    fn apply_pins(&self) -> Result<Pinned, Box<redb::Error>> {
        let pins = lock(&self.pins).clone();
        let mut beyond = 0;
        let mut to_stay = Vec::new();
        self.catalogue.each_name(|id, store, key| {
            if pins.hold(store, key) {
                to_stay.push(id);
            } else {
                self.index.set_pinned(id, false, self.pinned_bytes_max);
            }
        })?;
        for id in to_stay {
            let is_there = self.index.find(id).is_some();
            if is_there && !self.index.set_pinned(id, true, self.pinned_bytes_max) {
                beyond += 1;
            }
        }
        let (objects, bytes) = self.index.pinned();
        Ok(Pinned { objects, bytes, objects_beyond: beyond })
    }

    pub(crate) fn write_failed(&self, error: &io::Error) {
        self.failed(&self.writes, "writing", error);
    }

    /// In which order objects go now.
    pub(crate) fn regime(&self) -> Regime {
        self.guide().regime()
    }

    fn guide(&self) -> MutexGuard<'_, Guide> {
        self.guide.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn told_progress(&self) {
        self.progress.send_modify(|progress| *progress += 1);
    }

    fn failed(&self, health: &Mutex<Health>, doing: &str, error: &io::Error) {
        tracing::debug!(%error, doing, "disk tier error");
        if lock(health).failed(Instant::now()) == health::Turned::Off {
            self.counters.disk_turned_off.inc();
            let path = self.dir.path().display();
            tracing::warn!(%error, doing, %path, "disk tier turned off after repeated errors, tried again later");
        }
    }

    /// Counts what the catalogue and the directory's own files take on disk, and what the next commit
    /// may add.
    pub(crate) fn measure_overhead(&self) {
        use std::os::unix::fs::MetadataExt;
        let paths = self.dir.overhead_paths();
        let bytes = |path: &PathBuf| std::fs::metadata(path).map_or(0, |file| file.blocks() * 512);
        let bytes: u64 = paths.iter().map(bytes).sum();
        self.ledger.set_overhead(bytes + catalogue_growth(self.ledger.limit_bytes()));
    }
}

/// Bytes that a commit may add to the catalogue before it is measured again: a commit writes anew
/// what it changes, up to four pages of 4 KiB for each of its blocks, before it frees what was there.
fn catalogue_growth(limit_bytes: u64) -> u64 {
    let most = (committer::BATCH_BLOCKS * 4 * 4096) as u64;
    (limit_bytes / 32 + (64 << 10)).min(most)
}

fn succeeded(health: &Mutex<Health>, doing: &str) {
    let mut health = lock(health);
    if health.is_on_trial() && health.succeeded(Instant::now()) {
        tracing::info!(doing, "disk tier is back");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
