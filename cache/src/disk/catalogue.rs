//! The catalogue: what is on disk, in a crash-safe B-tree file.
//!
//! `objects` (id to state, small, so that a start reads little), `names` (id to store, key and
//! ETag), `sums` (id and block to checksums, written once per block), and `pins` (store and key to the
//! end of a pin). Of objects in packs `packed` (place to id and state) and `facts` (place to checksums
//! and name): in the order of their places, so that what is written together is together here too.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition,
    WriteTransaction,
};

use crate::disk::bitmap::Bitmap;
use crate::disk::dir::{CacheDir, FORMAT, Found};
use crate::disk::packed::Place;
use crate::disk::record::{
    ObjectRecord, PackedRecord, decode_facts, decode_name, decode_sums, encode_facts, encode_name,
    encode_sums,
};
use crate::error::CacheError;
use crate::keeping::Pin;
use crate::version::{ObjectId, ObjectVersion};

type Id = [u8; 16];

const META: TableDefinition<&str, u64> = TableDefinition::new("meta");
const OBJECTS: TableDefinition<Id, &[u8]> = TableDefinition::new("objects");
const NAMES: TableDefinition<Id, &[u8]> = TableDefinition::new("names");
const SUMS: TableDefinition<(Id, u32), &[u8]> = TableDefinition::new("sums");

/// Number of a pack and page in it.
type At = (u32, u32);

const PACKED: TableDefinition<At, &[u8]> = TableDefinition::new("packed");
const FACTS: TableDefinition<At, &[u8]> = TableDefinition::new("facts");

const PINS: TableDefinition<(&str, &str), u64> = TableDefinition::new("pins");

/// The end of a pin that has none.
const NO_END: u64 = u64::MAX;

/// Objects that a start makes room for before it reads them.
const LOADED_AT_ONCE: usize = 4 << 20;

/// The open catalogue.
pub(crate) struct Catalogue {
    database: Database,
}

/// One change; a batch of them is applied in order, all or none.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// Block `index` is durable.
    Block { id: ObjectId, version: ObjectVersion, last_use_ms: u64, index: u32, sums: Arc<[u32]> },
    /// Block `index` is of no use.
    NoBlock { id: ObjectId, index: u32 },
    /// The object is gone.
    NoObject { id: ObjectId },
    /// The object was used.
    Used { id: ObjectId, last_use_ms: u64 },
    /// The object of `version` is durable in a pack.
    Packed { place: Place, record: PackedRecord, version: ObjectVersion, sums: Arc<[u32]> },
    /// The object in a pack was used.
    PackedUsed { place: Place, record: PackedRecord },
    /// The object at `place` is gone.
    NotPacked { place: Place },
}

/// What the catalogue names.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    /// Objects with a file of their own.
    pub(crate) objects: Vec<(ObjectId, ObjectRecord)>,
    /// Objects in packs, in the order of their places.
    pub(crate) packed: Vec<(Place, PackedRecord)>,
}

fn at(place: Place) -> At {
    (place.pack, place.page.into())
}

impl Catalogue {
    /// Opens the catalogue of `dir` and reads what it names. One that is damaged, or of an older
    /// format, is moved aside and begun anew: the files it named are then orphans. One of a newer
    /// format is refused and left as it is.
    pub(crate) fn open(
        dir: &CacheDir,
        found: Found,
        cache_bytes: usize,
    ) -> Result<(Self, Loaded), CacheError> {
        let path = dir.catalogue_path();
        if found == Found::Ours {
            match open_and_load(&path, cache_bytes) {
                Ok(opened) => return Ok(opened),
                // Not the catalogue's fault: moving it aside would lose the cache for nothing.
                Err(Unreadable::System(source)) => {
                    return Err(CacheError::Catalogue { path, source });
                }
                Err(Unreadable::Newer(format)) => {
                    return Err(CacheError::NewerFormat {
                        dir: dir.path().to_owned(),
                        format,
                        known: FORMAT,
                    });
                }
                Err(Unreadable::Damaged(why)) => {
                    tracing::warn!(path = %path.display(), why, "catalogue moved aside and begun anew");
                }
            }
        } else {
            tracing::warn!(path = %path.display(), "cache of an older format: begun anew");
        }
        let moved = fs::rename(&path, dir.aside_path());
        if let Err(source) = moved
            && source.kind() != std::io::ErrorKind::NotFound
        {
            return Err(CacheError::Io { doing: "move aside", path, source });
        }
        open_and_load(&path, cache_bytes).map_err(|unreadable| CacheError::Catalogue {
            path,
            source: match unreadable {
                Unreadable::System(source) => source,
                Unreadable::Newer(_) => {
                    Box::new(redb::Error::Corrupted("a new catalogue is of a newer format".into()))
                }
                Unreadable::Damaged(why) => {
                    Box::new(redb::Error::Corrupted(format!("a new catalogue is damaged: {why}")))
                }
            },
        })
    }

    /// As [`Catalogue::open`], for who only looks: nothing is moved aside.
    pub(crate) fn look_at(
        dir: &CacheDir,
        cache_bytes: usize,
    ) -> Result<(Self, Loaded), CacheError> {
        let path = dir.catalogue_path();
        open_and_load(&path, cache_bytes).map_err(|unreadable| match unreadable {
            Unreadable::System(source) => CacheError::Catalogue { path, source },
            Unreadable::Newer(format) => {
                CacheError::NewerFormat { dir: dir.path().to_owned(), format, known: FORMAT }
            }
            Unreadable::Damaged(why) => {
                CacheError::Catalogue { path, source: Box::new(redb::Error::Corrupted(why)) }
            }
        })
    }

    /// Applies `changes` and makes them durable.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), Box<redb::Error>> {
        self.try_commit(changes).map_err(Box::new)
    }

    fn try_commit(&self, changes: &[Change]) -> Result<(), redb::Error> {
        let mut transaction = self.database.begin_write()?;
        // Recovery after a crash then takes as long for a large cache as for a small one.
        transaction.set_quick_repair(true);
        apply(&transaction, changes)?;
        apply_packed(&transaction, changes)?;
        transaction.commit()?;
        Ok(())
    }

    /// Names and keys of the objects that `is_meant` says yes to, by their store and key.
    pub(crate) fn names(
        &self,
        mut is_meant: impl FnMut(&str, &str) -> bool,
    ) -> Result<Vec<(ObjectId, Box<str>)>, Box<redb::Error>> {
        let mut found = Vec::new();
        self.each_name(|id, store, key| {
            if is_meant(store, key) {
                found.push((id, key.into()));
            }
        })?;
        Ok(found)
    }

    /// Tells `take` of every object: its id, store and key.
    pub(crate) fn each_name(
        &self,
        mut take: impl FnMut(ObjectId, &str, &str),
    ) -> Result<(), Box<redb::Error>> {
        let mut read = || -> Result<(), redb::Error> {
            for entry in self.database.begin_read()?.open_table(NAMES)?.iter()? {
                let (id, name) = entry?;
                if let Some((store, key)) = decode_name(name.value()) {
                    take(ObjectId(id.value()), store, key);
                }
            }
            self.each_packed_name(&mut take)
        };
        read().map_err(Box::new)
    }

    fn each_packed_name(
        &self,
        take: &mut impl FnMut(ObjectId, &str, &str),
    ) -> Result<(), redb::Error> {
        let transaction = self.database.begin_read()?;
        let packed = transaction.open_table(PACKED)?;
        let facts = transaction.open_table(FACTS)?;
        // Both have the same keys in the same order.
        for (entry, facts) in packed.iter()?.zip(facts.iter()?) {
            let ((at, record), (facts_at, facts)) = (entry?, facts?);
            if at.value() == facts_at.value()
                && let Some(record) = PackedRecord::decode(record.value())
                && let Some((_, store, key)) = decode_facts(facts.value())
            {
                take(record.id, store, key);
            }
        }
        Ok(())
    }

    /// What is pinned.
    pub(crate) fn pins(&self) -> Result<Vec<Pin>, Box<redb::Error>> {
        let read = || -> Result<_, redb::Error> {
            let table = match self.database.begin_read()?.open_table(PINS) {
                // Nothing was ever pinned.
                Err(redb::TableError::TableDoesNotExist(_)) => return Ok(Vec::new()),
                table => table?,
            };
            let mut pins = Vec::new();
            for entry in table.iter()? {
                let (name, ends_ms) = entry?;
                let ((store, key), ends_ms) = (name.value(), ends_ms.value());
                let ends_ms = (ends_ms != NO_END).then_some(ends_ms);
                pins.push(Pin { store: store.into(), key: key.into(), ends_ms });
            }
            Ok(pins)
        };
        read().map_err(Box::new)
    }

    /// Puts `pins` in the place of those that were, durably.
    pub(crate) fn set_pins(&self, pins: &[Pin]) -> Result<(), Box<redb::Error>> {
        let write = || -> Result<(), redb::Error> {
            let mut transaction = self.database.begin_write()?;
            transaction.set_quick_repair(true);
            {
                let mut table = transaction.open_table(PINS)?;
                table.retain(|_, _| false)?;
                for pin in pins {
                    table.insert((&*pin.store, &*pin.key), pin.ends_ms.unwrap_or(NO_END))?;
                }
            }
            transaction.commit()?;
            Ok(())
        };
        write().map_err(Box::new)
    }

    /// Checksums of block `index` of object `id`; `None` if there are none or they cannot be read.
    pub(crate) fn sums(&self, id: ObjectId, index: u32) -> Option<Arc<[u32]>> {
        let read = || -> Result<Option<Arc<[u32]>>, redb::Error> {
            let table = self.database.begin_read()?.open_table(SUMS)?;
            Ok(table.get((id.0, index))?.and_then(|sums| decode_sums(sums.value())))
        };
        read().unwrap_or_else(|error| {
            tracing::debug!(%error, "checksums cannot be read from the catalogue");
            None
        })
    }
}

impl Catalogue {
    /// Checksums of the object at `place`; `None` if there are none or they cannot be read.
    pub(crate) fn packed_sums(&self, place: Place) -> Option<Arc<[u32]>> {
        let read = || -> Result<Option<Arc<[u32]>>, redb::Error> {
            let facts = self.database.begin_read()?.open_table(FACTS)?;
            let found = facts.get(at(place))?;
            Ok(found.and_then(|facts| decode_facts(facts.value()).map(|(sums, ..)| sums)))
        };
        read().unwrap_or_else(|error| {
            tracing::debug!(%error, "checksums cannot be read from the catalogue");
            None
        })
    }
}

/// Applies the changes of objects in packs.
fn apply_packed(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut packed = transaction.open_table(PACKED)?;
    let mut facts = transaction.open_table(FACTS)?;
    for change in changes {
        match change {
            Change::Packed { place, record, version, sums } => {
                packed.insert(at(*place), record.encode().as_slice())?;
                facts.insert(at(*place), encode_facts(version, sums).as_slice())?;
            }
            Change::PackedUsed { place, record } => {
                // Only what is there was used.
                if packed.get(at(*place))?.is_some() {
                    packed.insert(at(*place), record.encode().as_slice())?;
                }
            }
            Change::NotPacked { place } => {
                packed.remove(at(*place))?;
                facts.remove(at(*place))?;
            }
            Change::Block { .. }
            | Change::NoBlock { .. }
            | Change::NoObject { .. }
            | Change::Used { .. } => {}
        }
    }
    Ok(())
}

fn apply(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut objects = transaction.open_table(OBJECTS)?;
    let mut names = transaction.open_table(NAMES)?;
    let mut sums_table = transaction.open_table(SUMS)?;
    let record_of = |objects: &redb::Table<'_, Id, &[u8]>, id: &ObjectId| {
        let found = objects.get(id.0)?;
        Ok::<_, redb::Error>(found.and_then(|found| ObjectRecord::decode(found.value())))
    };
    for change in changes {
        match change {
            Change::Block { id, version, last_use_ms, index, sums } => {
                let mut record = if let Some(record) = record_of(&objects, id)? {
                    record
                } else {
                    names.insert(id.0, encode_name(version).as_slice())?;
                    let size_bytes = version.size_bytes;
                    ObjectRecord { size_bytes, last_use_ms: 0, blocks: Bitmap::default() }
                };
                record.last_use_ms = record.last_use_ms.max(*last_use_ms);
                record.blocks.insert(*index);
                objects.insert(id.0, record.encode().as_slice())?;
                sums_table.insert((id.0, *index), encode_sums(sums).as_slice())?;
            }
            Change::NoBlock { id, index } => {
                if let Some(mut record) = record_of(&objects, id)? {
                    record.blocks.remove(*index);
                    objects.insert(id.0, record.encode().as_slice())?;
                }
                sums_table.remove((id.0, *index))?;
            }
            Change::NoObject { id } => {
                objects.remove(id.0)?;
                names.remove(id.0)?;
                sums_table.retain_in((id.0, 0)..=(id.0, u32::MAX), |_, _| false)?;
            }
            Change::Used { id, last_use_ms } => {
                if let Some(mut record) = record_of(&objects, id)? {
                    record.last_use_ms = record.last_use_ms.max(*last_use_ms);
                    objects.insert(id.0, record.encode().as_slice())?;
                }
            }
            Change::Packed { .. } | Change::PackedUsed { .. } | Change::NotPacked { .. } => {}
        }
    }
    Ok(())
}

/// Why a catalogue could not be opened.
enum Unreadable {
    /// Its content is not what was written, or of an older format.
    Damaged(String),
    /// A newer version has written it, in this format.
    Newer(u64),
    /// The system refused: no space, no permission, a failing disk.
    System(Box<redb::Error>),
}

impl From<redb::Error> for Unreadable {
    fn from(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(ref io) if io.raw_os_error().is_some() => Self::System(Box::new(error)),
            other => Self::Damaged(other.to_string()),
        }
    }
}

fn open_and_load(path: &Path, cache_bytes: usize) -> Result<(Catalogue, Loaded), Unreadable> {
    // A damaged file must not take the daemon down with it, wherever the library notices it.
    let attempt = AssertUnwindSafe(|| try_open_and_load(path, cache_bytes));
    match catch_unwind(attempt) {
        Ok(result) => result,
        Err(_) => Err(Unreadable::Damaged("reading it panicked".to_owned())),
    }
}

fn try_open_and_load(path: &Path, cache_bytes: usize) -> Result<(Catalogue, Loaded), Unreadable> {
    let mut options = fs::OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false);
    let file = crate::disk::dir::open_own(path, &mut options).map_err(redb::Error::Io)?;
    let database = redb::Builder::new()
        .set_cache_size(cache_bytes)
        .create_file(file)
        .map_err(redb::Error::from)?;
    prepare(&database)?;
    let objects = load(&database)?;
    Ok((Catalogue { database }, objects))
}

/// Makes the tables of a new catalogue; refuses one of another format.
fn prepare(database: &Database) -> Result<(), Unreadable> {
    let format = || -> Result<Option<u64>, redb::Error> {
        let mut transaction = database.begin_write()?;
        transaction.set_quick_repair(true);
        let is_new = transaction.list_tables()?.next().is_none();
        let mut meta = transaction.open_table(META)?;
        if is_new {
            meta.insert("format", FORMAT)?;
            transaction.open_table(OBJECTS)?;
            transaction.open_table(NAMES)?;
            transaction.open_table(SUMS)?;
            transaction.open_table(PACKED)?;
            transaction.open_table(FACTS)?;
        }
        let format = meta.get("format")?.map(|format| format.value());
        drop(meta);
        if is_new {
            transaction.commit()?;
        } else {
            transaction.abort()?;
        }
        Ok(format)
    };
    match format()? {
        Some(FORMAT) => Ok(()),
        Some(newer) if newer > FORMAT => Err(Unreadable::Newer(newer)),
        Some(other) => Err(Unreadable::Damaged(format!("its format is {other}, not {FORMAT}"))),
        None => Err(Unreadable::Damaged("it is not a catalogue of TenderFS".to_owned())),
    }
}

fn load(database: &Database) -> Result<Loaded, redb::Error> {
    let transaction = database.begin_read()?;
    let mut refused: u64 = 0;
    let objects = transaction.open_table(OBJECTS)?;
    let mut loaded = Loaded::default();
    loaded.objects.reserve(expected(objects.len()?));
    for entry in objects.iter()? {
        let (id, value) = entry?;
        match ObjectRecord::decode(value.value()) {
            Some(record) => loaded.objects.push((ObjectId(id.value()), record)),
            None => refused += 1,
        }
    }
    let packed = transaction.open_table(PACKED)?;
    loaded.packed.reserve(expected(packed.len()?));
    for entry in packed.iter()? {
        let (at, value) = entry?;
        let (pack, page) = at.value();
        match (u16::try_from(page), PackedRecord::decode(value.value())) {
            (Ok(page), Some(record)) => loaded.packed.push((Place { pack, page }, record)),
            _ => refused += 1,
        }
    }
    if refused > 0 {
        tracing::warn!(refused, "catalogue records that make no sense were left out");
    }
    Ok(loaded)
}

/// A damaged count must not take all memory; the list grows if there are more.
fn expected(count: u64) -> usize {
    usize::try_from(count).unwrap_or_default().min(LOADED_AT_ONCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reopened_as(format: u64) -> (CacheDir, Result<Loaded, CacheError>) {
        let parent = tempfile::tempdir().unwrap();
        let (dir, found) = CacheDir::open(parent.path()).unwrap();
        let (catalogue, _) = Catalogue::open(&dir, found, 1 << 20).unwrap();
        let version =
            ObjectVersion { store: "s".into(), key: "k".into(), etag: "e".into(), size_bytes: 5 };
        let block =
            Change::Block { id: version.id(), version, last_use_ms: 1, index: 0, sums: [7].into() };
        catalogue.commit(&[block]).unwrap();
        let transaction = catalogue.database.begin_write().unwrap();
        transaction.open_table(META).unwrap().insert("format", format).unwrap();
        transaction.commit().unwrap();
        drop(catalogue);
        let again = Catalogue::open(&dir, Found::Ours, 1 << 20).map(|(_, loaded)| loaded);
        (dir, again)
    }

    #[test]
    fn a_newer_catalogue_is_refused_and_an_older_one_begun_anew() {
        assert_eq!(reopened_as(FORMAT).1.unwrap().objects.len(), 1);
        assert_eq!(reopened_as(FORMAT - 1).1.unwrap().objects.len(), 0);
        let (_dir, newer) = reopened_as(FORMAT + 1);
        let Err(CacheError::NewerFormat { format, .. }) = newer else { panic!("not refused") };
        assert_eq!(format, FORMAT + 1);
    }

    /// Of a million objects: with a file each, and in packs.
    ///
    /// `cargo test --release -p tenderfs-cache --lib -- --ignored --nocapture a_million`
    #[test]
    #[ignore = "a measurement: some minutes and 1 GiB of disk"]
    fn a_million_objects_are_known_soon_after_the_start() {
        let sums: Arc<[u32]> = [7, 8].into();
        a_million("with files of their own", |number, version| {
            let (id, last_use_ms) = (version.id(), number);
            Change::Block { id, version, last_use_ms, index: 0, sums: Arc::clone(&sums) }
        });
        a_million("in packs", |number, version| {
            // 27 pages each, 2427 of them in a pack.
            let (pack, nth) = (number / 2427, number % 2427);
            let place =
                Place { pack: pack.try_into().unwrap(), page: (nth * 27).try_into().unwrap() };
            let record = PackedRecord { id: version.id(), bytes: 110_000, used_s: 7 };
            Change::Packed { place, record, version, sums: Arc::clone(&sums) }
        });
    }

    fn a_million(kind: &str, change: impl Fn(u64, ObjectVersion) -> Change) {
        const OBJECTS: u64 = 1_000_000;
        let parent = tempfile::tempdir_in("/var/tmp").unwrap();
        let (dir, found) = CacheDir::open(parent.path()).unwrap();
        let (catalogue, _) = Catalogue::open(&dir, found, 64 << 20).unwrap();
        let block = |number: u64| {
            let version = ObjectVersion {
                store: "https://s3.amazonaws.com/training".into(),
                key: format!("imagenet/train/n{:04}/image_{number:08}.jpg", number / 1000).into(),
                etag: format!("\"{number:032x}\"").into(),
                size_bytes: 110_000,
            };
            change(number, version)
        };
        for batch in 0..OBJECTS / 10_000 {
            let changes: Vec<_> = (batch * 10_000..(batch + 1) * 10_000).map(block).collect();
            catalogue.commit(&changes).unwrap();
        }
        let bytes = fs::metadata(dir.catalogue_path()).unwrap().len();
        // As a kill leaves it: nothing of redb's own closing is done.
        std::mem::forget(catalogue);
        let copy = parent.path().join("copy");
        fs::create_dir(&copy).unwrap();
        fs::set_permissions(&copy, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        for name in ["catalogue.redb", "version"] {
            fs::copy(parent.path().join(name), copy.join(name)).unwrap();
        }
        let resident = || -> u64 {
            let statm = fs::read_to_string("/proc/self/statm").unwrap();
            statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4096
        };
        let settings = crate::CacheSettings {
            dir: Some(copy),
            disk_size_bytes: 1 << 40,
            pack_below_bytes: 1 << 20,
            free_space_ratio: 0.0,
            policy: crate::Policy::Auto,
            arena_bytes: crate::ARENA_BYTES_MIN,
            prefetch_in_flight_bytes: 1 << 20,
            verify: crate::Verify::FirstUse,
            huge_pages: crate::HugePages::Plain,
            catalogue_cache_bytes: 16 << 20,
        };
        let (before, begun) = (resident(), std::time::Instant::now());
        let cache = crate::Cache::open(settings).unwrap();
        let took = begun.elapsed();
        let grown = resident().saturating_sub(before);
        assert_eq!(cache.usage().disk_objects, OBJECTS);
        eprintln!(
            "{OBJECTS} objects {kind} after a kill: open in {took:?}; {} bytes of memory an object, catalogue \
             of {} MiB, its pages of at most 16 MiB included",
            grown / OBJECTS,
            bytes >> 20
        );
    }
}
