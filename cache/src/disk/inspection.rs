//! What a cache directory holds, told without a daemon.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;

use crate::block::block_count;
use crate::disk::catalogue::Catalogue;
use crate::disk::dir::{CacheDir, FORMAT, Found};
use crate::disk::packed::Entry;
use crate::disk::{object, orphans};
use crate::error::CacheError;
use crate::keeping::Pin;
use crate::version::ObjectId;

/// Memory for the catalogue's pages while it is read.
const PAGES_BYTES: usize = 32 << 20;

/// What a cache directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspection {
    /// Number of its disk format.
    pub format: u64,
    /// What it holds of each store, by the store's name.
    pub stores: BTreeMap<String, Held>,
    /// Of the object versions those that share a file with others.
    pub packed: u64,
    /// Files that they share.
    pub packs: u64,
    /// Bytes of the catalogue.
    pub catalogue_bytes: u64,
    /// Files that the catalogue does not name: a daemon removes them.
    pub orphans: u64,
    /// Bytes on disk of those.
    pub orphan_bytes: u64,
    /// Objects that the catalogue names and of which there is no file: they are fetched again.
    pub without_file: u64,
    /// What is pinned.
    pub pins: Vec<Pin>,
}

/// What is held of one store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Object versions.
    pub objects: u64,
    /// Those of which every block is there.
    pub complete: u64,
    /// Bytes of their blocks on disk.
    pub bytes: u64,
    /// When one was used last, in milliseconds since 1970.
    pub last_use_ms: u64,
}

/// Looks into the cache directory at `path`, which no daemon may be using. Nothing in it is changed, but
/// for what a crash has left undone in the catalogue.
pub fn inspect(path: &Path) -> Result<Inspection, CacheError> {
    fs::metadata(path).map_err(|source| CacheError::Io {
        doing: "look into",
        path: path.to_owned(),
        source,
    })?;
    if !path.join("version").is_file() {
        return Err(CacheError::NoCache { dir: path.to_owned() });
    }
    let (dir, found) = CacheDir::open(path)?;
    if found == Found::Older {
        return Ok(Inspection::default());
    }
    let (catalogue, loaded) = Catalogue::look_at(&dir, PAGES_BYTES)?;
    let unreadable = |source| CacheError::Catalogue { path: dir.catalogue_path(), source };
    let mut store_of: HashMap<ObjectId, String> = HashMap::with_capacity(loaded.objects.len());
    let named = catalogue.each_name(|id, store, _| {
        store_of.insert(id, store.to_owned());
    });
    named.map_err(unreadable)?;
    let mut inspection = Inspection {
        format: FORMAT,
        catalogue_bytes: fs::metadata(dir.catalogue_path()).map_or(0, |facts| facts.len()),
        pins: catalogue.pins().map_err(unreadable)?,
        ..Inspection::default()
    };
    let mut known: HashMap<ObjectId, bool> = HashMap::with_capacity(loaded.objects.len());
    let mut store = |id| store_of.remove(&id).unwrap_or_else(|| "unknown".to_owned());
    for (id, record) in loaded.objects {
        known.insert(id, false);
        let held = inspection.stores.entry(store(id)).or_default();
        held.objects += 1;
        held.complete += u64::from(record.blocks.count() == block_count(record.size_bytes));
        held.bytes += object::stored_bytes(record.size_bytes, &record.blocks);
        held.last_use_ms = held.last_use_ms.max(record.last_use_ms);
    }
    let mut packed_in: HashMap<u32, u64> = HashMap::new();
    for (place, record) in loaded.packed {
        *packed_in.entry(place.pack).or_default() += 1;
        let entry = Entry::new(place, record.bytes, u64::from(record.used_s) * 1000);
        let held = inspection.stores.entry(store(record.id)).or_default();
        held.objects += 1;
        held.complete += 1;
        held.bytes += entry.stored_bytes();
        held.last_use_ms = held.last_use_ms.max(entry.used_ms());
        inspection.packed += 1;
    }
    for (pack, bytes) in orphans::packs(&dir) {
        inspection.packs += 1;
        if packed_in.remove(&pack).is_none() {
            inspection.orphans += 1;
            inspection.orphan_bytes += bytes;
        }
    }
    for (id, bytes) in orphans::files(&dir) {
        if let Some(has_file) = known.get_mut(&id) {
            *has_file = true;
        } else {
            inspection.orphans += 1;
            inspection.orphan_bytes += bytes;
        }
    }
    let without_file = known.values().filter(|has_file| !**has_file).count() as u64;
    inspection.without_file = without_file + packed_in.values().sum::<u64>();
    Ok(inspection)
}
