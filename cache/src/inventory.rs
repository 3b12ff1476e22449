//! What is on disk by name, and letting go of it.

use std::io;

use crate::cache::Cache;
use crate::disk::stored::Stored;
use crate::disk::{Disk, Pinned};
use crate::keeping::Pin;

/// An object version of which something is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedObject {
    /// Its key.
    pub key: Box<str>,
    /// Bytes of the object.
    pub size_bytes: u64,
    /// Bytes of it on disk.
    pub disk_bytes: u64,
    /// When it was used last, in milliseconds since 1970.
    pub last_use_ms: u64,
}

/// What was let go of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Objects that were on disk.
    pub objects: u64,
    /// Their bytes there.
    pub bytes: u64,
}

impl Cache {
    /// What is on disk of the objects that `is_meant` says yes to, by their store and key. Reads the
    /// whole catalogue, and commits before, so not for the path of a read. None without a disk tier.
    pub fn cached_objects(
        &self,
        is_meant: impl FnMut(&str, &str) -> bool,
    ) -> io::Result<Vec<CachedObject>> {
        let Some(disk) = self.shared().disk() else { return Ok(Vec::new()) };
        let named = named(disk, is_meant)?;
        let describe = |(id, key): (_, Box<str>)| {
            let object = disk.find(id)?;
            Some(CachedObject {
                key,
                size_bytes: object.size_bytes(),
                disk_bytes: object.present_bytes(),
                last_use_ms: object.last_use_ms(),
            })
        };
        Ok(named.into_iter().filter_map(describe).collect())
    }

    /// Lets go of the objects that `is_meant` says yes to, by their store and key: returns once they
    /// are neither in the catalogue nor have a file. Who reads one goes on reading it. Memory, which
    /// knows no names, is emptied as a whole, but for what is pinned.
    pub fn evict(&self, is_meant: impl FnMut(&str, &str) -> bool) -> io::Result<Evicted> {
        let mut evicted = Evicted::default();
        if let Some(disk) = self.shared().disk() {
            let named = named(disk, is_meant)?;
            let objects: Vec<_> = named.iter().filter_map(|(id, _)| disk.find(*id)).collect();
            evicted.objects = objects.len() as u64;
            evicted.bytes = objects.iter().map(Stored::present_bytes).sum();
            self.counters().disk_evicted_objects.add(evicted.objects);
            self.counters().disk_evicted_bytes.add(evicted.bytes);
            disk.drop_objects(objects);
            disk.commit();
        }
        self.forget_memory();
        Ok(evicted)
    }
}

impl Cache {
    /// Has what `pin` names stay on disk from now on, after restarts too, whatever the policy would
    /// keep: at most nine tenths of the disk tier. Reads the whole catalogue, and commits before.
    /// `None` without a disk tier.
    pub fn pin(&self, pin: Pin) -> io::Result<Option<Pinned>> {
        let Some(disk) = self.shared().disk() else { return Ok(None) };
        disk.commit();
        disk.pin(pin).map(Some).map_err(io::Error::other)
    }

    /// Lets go of the pin of exactly this name; `None` if there is none.
    pub fn unpin(&self, store: &str, key: &str) -> io::Result<Option<Pinned>> {
        let Some(disk) = self.shared().disk() else { return Ok(None) };
        disk.commit();
        disk.unpin(store, key).map_err(io::Error::other)
    }

    /// What is to stay.
    pub fn pins(&self) -> Vec<Pin> {
        self.shared().disk().map(Disk::pins).unwrap_or_default()
    }
}

fn named(
    disk: &Disk,
    is_meant: impl FnMut(&str, &str) -> bool,
) -> io::Result<Vec<(crate::version::ObjectId, Box<str>)>> {
    disk.commit();
    disk.names(is_meant).map_err(io::Error::other)
}
