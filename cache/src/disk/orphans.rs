//! Files without a catalogue record: what a crash left behind. They are removed in the background,
//! and files that take more than their record says are accounted for in full.

use std::collections::HashMap;
use std::fs::{self, DirEntry, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Inner;
use crate::disk::dir::{CacheDir, open_own};
use crate::disk::object::DiskObject;
use crate::disk::packed::PAGE_BYTES;
use crate::disk::packs::{pack_number, punch};
use crate::version::ObjectId;

/// Bytes that a pack may take beyond its objects: what file systems keep of extents is no orphan.
const EXCESS_BYTES_MIN: u64 = 256 << 10;

/// Every object file of `dir`, and the bytes it takes.
pub(super) fn files(dir: &CacheDir) -> impl Iterator<Item = (ObjectId, u64)> {
    let folders = fs::read_dir(dir.objects_path()).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
    files.flatten().filter_map(|file| {
        let id = object_id(file.file_name().to_str()?)?;
        Some((id, taken_bytes(&file.metadata().ok()?)))
    })
}

/// Every pack of `dir`, and the bytes it takes.
pub(super) fn packs(dir: &CacheDir) -> impl Iterator<Item = (u32, u64)> {
    let files = fs::read_dir(dir.packs_path()).into_iter().flatten().flatten();
    files.filter_map(|file| {
        let pack = pack_number(file.file_name().to_str()?)?;
        Some((pack, taken_bytes(&file.metadata().ok()?)))
    })
}

/// Looks at every file of an earlier life once, and only then lets others be written: a file that no
/// record leads to takes bytes that nobody has counted. Ends early when `running` turns false.
pub(super) fn collect(inner: &Inner, running: &AtomicBool) {
    look_at_files(inner, running);
    inner.ledger.survey_ends();
    tidy_packs(inner, running);
}

fn look_at_files(inner: &Inner, running: &AtomicBool) {
    let Ok(folders) = fs::read_dir(inner.dir.objects_path()) else { return };
    for folder in folders.flatten() {
        let Ok(files) = fs::read_dir(folder.path()) else { continue };
        for file in files.flatten() {
            if !running.load(Ordering::Relaxed) {
                return;
            }
            // What has another name is not ours to remove.
            if let Some(id) = file.file_name().to_str().and_then(object_id) {
                look_at(inner, &file, id);
            }
        }
    }
}

/// Removes packs that nothing is in, and punches out of others what was written and not catalogued
/// before a crash.
fn tidy_packs(inner: &Inner, running: &AtomicBool) {
    while running.load(Ordering::Relaxed)
        && let Some((pack, space)) = inner.packs.take_orphan()
    {
        match fs::remove_file(inner.dir.pack_path(pack)) {
            Ok(()) => inner.counters.orphans_removed.inc(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(%error, pack, "cannot remove orphaned pack");
                // It takes its space still.
                std::mem::forget(space);
            }
        }
    }
    let excess = |pack: &u32| inner.packs.excess_bytes(*pack) >= EXCESS_BYTES_MIN;
    let left = packs(&inner.dir).map(|(pack, _)| pack).filter(excess);
    let mut live: HashMap<u32, Vec<(u64, u64)>> = left.map(|pack| (pack, Vec::new())).collect();
    inner.index.each_packed(|packed| {
        if let Some(live) = live.get_mut(&packed.entry.place().pack) {
            live.push((packed.entry.place().offset(), packed.entry.stored_bytes()));
        }
    });
    for (pack, mut live) in live {
        if !running.load(Ordering::Relaxed) {
            return;
        }
        let excess = inner.packs.excess_bytes(pack);
        live.sort_unstable();
        match punch_gaps(&inner.dir.pack_path(pack), &live) {
            Ok(()) => inner.packs.punched(pack, excess),
            Err(error) => {
                tracing::warn!(%error, pack, "cannot give back what a crash has left in a pack");
            }
        }
    }
}

/// Punches all out of the file at `path` but the `live` ranges, offsets and bytes in rising order.
/// What goes meanwhile is punched twice, and nothing comes: no place is used again.
fn punch_gaps(path: &Path, live: &[(u64, u64)]) -> io::Result<()> {
    let file = open_own(path, OpenOptions::new().read(true).write(true))?;
    let end = file.metadata()?.len().next_multiple_of(PAGE_BYTES);
    let mut from = 0;
    for (offset, bytes) in live.iter().copied().chain([(end, 0)]) {
        if offset > from {
            punch(&file, from, offset - from)?;
        }
        from = from.max(offset + bytes);
    }
    Ok(())
}

fn look_at(inner: &Inner, file: &DirEntry, id: ObjectId) {
    if let Some(object) = inner.index.find_file(id) {
        account_for(&object, file);
        return;
    }
    // Taken as an evicted object, so that nobody makes a file of this name meanwhile.
    let space = inner.ledger.file(0);
    let Some(placeholder) = inner.index.insert_evicted(DiskObject::new(id, 0, 0, space)) else {
        return;
    };
    match fs::remove_file(file.path()) {
        Ok(()) => inner.counters.orphans_removed.inc(),
        Err(error) => tracing::warn!(%error, path = %file.path().display(), "cannot remove orphan"),
    }
    inner.index.forget(&placeholder);
}

/// Blocks that were written and not catalogued before a crash take space all the same.
fn account_for(object: &DiskObject, file: &DirEntry) {
    let before = object.blocks_at_rest();
    let Ok(metadata) = file.metadata() else { return };
    if before.is_some()
        && before == object.blocks_at_rest()
        && let Some(space) = object.space()
    {
        space.found(taken_bytes(&metadata));
    }
}

/// Bytes that a file takes on disk.
fn taken_bytes(facts: &Metadata) -> u64 {
    facts.blocks() * 512
}

/// The object whose file is called `name`.
fn object_id(name: &str) -> Option<ObjectId> {
    let digits = name.strip_suffix(".data")?;
    let plain = digits.len() == 32
        && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| plain)?;
    Some(ObjectId(number.to_be_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_ours() {
        let id = ObjectId(*b"0123456789abcdef");
        assert_eq!(object_id(&format!("{id}.data")), Some(id));
        for name in [
            "x.data",
            "",
            ".data",
            "+3031323334353637383961626364656.data",
            "30313233343536373839616263646566",
        ] {
            assert_eq!(object_id(name), None, "{name}");
        }
    }
}
