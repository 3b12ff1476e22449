//! Files without a catalogue record: what a crash left behind. They are removed in the background,
//! and files that take more than their record says are accounted for in full.

use std::fs::{self, DirEntry, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::Inner;
use crate::disk::dir::CacheDir;
use crate::disk::object::DiskObject;
use crate::version::ObjectId;

/// Every object file of `dir`, and the bytes it takes.
pub(super) fn files(dir: &CacheDir) -> impl Iterator<Item = (ObjectId, u64)> {
    let folders = fs::read_dir(dir.objects_path()).into_iter().flatten().flatten();
    let files = folders.flat_map(|folder| fs::read_dir(folder.path()).into_iter().flatten());
    files.flatten().filter_map(|file| {
        let id = object_id(file.file_name().to_str()?)?;
        Some((id, taken_bytes(&file.metadata().ok()?)))
    })
}

/// Looks at every object file once. Ends early when `running` turns false.
pub(super) fn collect(inner: &Inner, running: &AtomicBool) {
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

fn look_at(inner: &Inner, file: &DirEntry, id: ObjectId) {
    if let Some(object) = inner.index.find(id) {
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
