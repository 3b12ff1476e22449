//! A disk in memory that knows what of it would survive a power cut.
//!
//! Data: a page of 4 KiB is durable once its file was synced; before that it survives or not, each
//! page for itself. Names and sizes: a journal in order, durable up to the last sync of any file, as
//! a journalling file system has it; of what came after, a part from the front survives. So a file
//! may be there without its bytes, and a name may be back that was removed.

use std::collections::{BTreeMap, BTreeSet};

use crate::chance::Chance;

pub(crate) const PAGE_BYTES: u64 = PAGE as u64;
const PAGE: usize = 4096;
pub(crate) const ROOT: u64 = 1;

/// Numbers of errors, as the system has them.
pub(crate) const ENOENT: i32 = 2;
pub(crate) const EIO: i32 = 5;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENOTDIR: i32 = 20;
pub(crate) const ENOSPC: i32 = 28;
pub(crate) const ENOTEMPTY: i32 = 39;

type Page = Box<[u8; PAGE]>;
type Pages = BTreeMap<u64, Page>;

/// How often something fails: once in so many times, 0 is never.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) read_error: u64,
    pub(crate) write_error: u64,
    pub(crate) no_space: u64,
    pub(crate) short_write: u64,
    pub(crate) sync_error: u64,
}

/// Names and sizes.
#[derive(Clone, Debug)]
struct Names {
    folders: BTreeMap<u64, BTreeMap<String, u64>>,
    sizes: BTreeMap<u64, u64>,
}

/// A change of names or sizes.
#[derive(Clone, Debug)]
enum Change {
    Folder { parent: u64, name: String, ino: u64 },
    File { parent: u64, name: String, ino: u64 },
    Gone { parent: u64, name: String },
    Moved { from: (u64, String), to: (u64, String) },
    Size { ino: u64, bytes: u64 },
}

impl Names {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::Folder { parent, name, ino } => {
                self.folders.insert(*ino, BTreeMap::new());
                self.folder(*parent).insert(name.clone(), *ino);
            }
            Change::File { parent, name, ino } => {
                self.sizes.insert(*ino, 0);
                self.folder(*parent).insert(name.clone(), *ino);
            }
            Change::Gone { parent, name } => drop(self.folder(*parent).remove(name)),
            Change::Moved { from, to } => {
                if let Some(ino) = self.folder(from.0).remove(&from.1) {
                    self.folder(to.0).insert(to.1.clone(), ino);
                }
            }
            Change::Size { ino, bytes } => drop(self.sizes.insert(*ino, *bytes)),
        }
    }

    fn folder(&mut self, ino: u64) -> &mut BTreeMap<String, u64> {
        self.folders.entry(ino).or_default()
    }

    fn named(&self) -> BTreeSet<u64> {
        self.folders.values().flat_map(|folder| folder.values().copied()).collect()
    }
}

/// What stat(2) says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts {
    pub(crate) ino: u64,
    pub(crate) is_folder: bool,
    pub(crate) bytes: u64,
    pub(crate) blocks: u64,
    /// Grows with each change.
    pub(crate) changed: u64,
}

/// The disk.
#[derive(Debug)]
pub(crate) struct Disk {
    names: Names,
    durable_names: Names,
    journal: Vec<Change>,
    durable: BTreeMap<u64, Pages>,
    /// Written and not synced.
    dirty: BTreeMap<u64, Pages>,
    changed: BTreeMap<u64, u64>,
    open: BTreeMap<u64, u64>,
    /// Pages of each file that a name or a descriptor leads to.
    pages: BTreeMap<u64, u64>,
    next_ino: u64,
    clock: u64,
    chance: Chance,
    pub(crate) faults: Faults,
    /// Changes made so far.
    pub(crate) changes: u64,
    /// The change that the power is cut at.
    pub(crate) cut_at: Option<u64>,
    cut: Option<Box<Disk>>,
    /// Most bytes that were allocated at once.
    pub(crate) allocated_max: u64,
}

type Outcome<T> = Result<T, i32>;

impl Disk {
    /// An empty disk.
    pub(crate) fn new(seed: u64) -> Self {
        let names =
            Names { folders: BTreeMap::from([(ROOT, BTreeMap::new())]), sizes: BTreeMap::new() };
        Self::with(names, BTreeMap::new(), Chance::new(seed), 2)
    }

    fn with(names: Names, durable: BTreeMap<u64, Pages>, chance: Chance, next_ino: u64) -> Self {
        Self {
            durable_names: names.clone(),
            names,
            journal: Vec::new(),
            durable,
            dirty: BTreeMap::new(),
            changed: BTreeMap::new(),
            open: BTreeMap::new(),
            pages: BTreeMap::new(),
            next_ino,
            clock: 1,
            chance,
            faults: Faults::default(),
            changes: 0,
            cut_at: None,
            cut: None,
            allocated_max: 0,
        }
    }

    /// Whether the power was cut: nothing works any more.
    pub(crate) fn is_cut(&self) -> bool {
        self.cut.is_some()
    }

    /// What is on the disk when it is powered again: what the cut left, or all there is.
    pub(crate) fn powered_again(mut self) -> Self {
        if let Some(left) = self.cut.take() {
            return *left;
        }
        for (ino, dirty) in std::mem::take(&mut self.dirty) {
            self.durable.entry(ino).or_default().extend(dirty);
        }
        let next_ino = self.next_ino;
        Self::with(self.names, self.durable, self.chance, next_ino).tidied()
    }

    /// Turns one bit of a page of a file whose name ends in `ending`; tells whether there is one.
    pub(crate) fn flip_a_bit(&mut self, ending: &str) -> bool {
        let files: Vec<u64> = self
            .names
            .folders
            .values()
            .flatten()
            .filter(|(name, ino)| {
                name.ends_with(ending)
                    && self.durable.get(ino).is_some_and(|pages| !pages.is_empty())
            })
            .map(|(_, ino)| *ino)
            .collect();
        let Some(ino) = self.pick(&files) else { return false };
        // Past the end of a file there is nothing to damage.
        let bytes = self.names.sizes[&ino];
        let at = self.chance.below(bytes);
        let bit = self.chance.below(8);
        let pages = self.durable.entry(ino).or_default();
        let Some(page) = pages.get_mut(&(at / PAGE_BYTES)) else { return false };
        page[usize::try_from(at % PAGE_BYTES).unwrap()] ^= 1 << bit;
        true
    }

    fn pick(&mut self, of: &[u64]) -> Option<u64> {
        let index = usize::try_from(self.chance.below(of.len() as u64)).unwrap();
        of.get(index).copied()
    }

    /// Files below the root whose name ends in `ending`.
    pub(crate) fn count(&self, ending: &str) -> usize {
        let names = self.names.folders.values().flat_map(BTreeMap::keys);
        names.filter(|name| name.ends_with(ending)).count()
    }

    /// Bytes that files take, unlinked ones that are open included.
    pub(crate) fn allocated_bytes(&self) -> u64 {
        self.pages.values().sum::<u64>() * PAGE_BYTES
    }

    fn count_pages(&self, ino: u64) -> u64 {
        let none = BTreeMap::new();
        let durable = self.durable.get(&ino).unwrap_or(&none);
        let dirty = self.dirty.get(&ino).unwrap_or(&none);
        let new = dirty.keys().filter(|page| !durable.contains_key(page)).count();
        (durable.len() + new) as u64
    }

    /// A change is about to be made. Cuts the power if it is the one.
    fn change(&mut self) -> Outcome<()> {
        self.works()?;
        self.changes += 1;
        if self.cut_at.is_some_and(|at| self.changes >= at) {
            let left = self.left_by_a_cut();
            self.cut = Some(Box::new(left));
            return Err(EIO);
        }
        self.clock += 1;
        Ok(())
    }

    fn works(&self) -> Outcome<()> {
        if self.is_cut() { Err(EIO) } else { Ok(()) }
    }

    fn left_by_a_cut(&mut self) -> Self {
        let mut names = self.durable_names.clone();
        let survive = self.chance.below(self.journal.len() as u64 + 1);
        for change in self.journal.iter().take(usize::try_from(survive).unwrap()) {
            names.apply(change);
        }
        let mut durable = self.durable.clone();
        for (ino, dirty) in &self.dirty {
            for (page, bytes) in dirty {
                if self.chance.once_in(2) {
                    durable.entry(*ino).or_default().insert(*page, bytes.clone());
                }
            }
        }
        Self::with(names, durable, self.chance.clone(), self.next_ino).tidied()
    }

    /// Without what no name leads to, and without pages behind the end of a file.
    fn tidied(mut self) -> Self {
        let named = self.names.named();
        self.durable.retain(|ino, _| named.contains(ino));
        for (ino, pages) in &mut self.durable {
            let end = self.names.sizes.get(ino).map_or(0, |bytes| bytes.div_ceil(PAGE_BYTES));
            pages.split_off(&end);
        }
        self.durable_names = self.names.clone();
        self.pages = self.durable.iter().map(|(ino, pages)| (*ino, pages.len() as u64)).collect();
        self
    }

    fn note(&mut self, ino: u64) {
        self.changed.insert(ino, self.clock);
        self.pages.insert(ino, self.count_pages(ino));
        self.allocated_max = self.allocated_max.max(self.allocated_bytes());
    }

    fn rename_or_resize(&mut self, change: Change) {
        self.names.apply(&change);
        self.journal.push(change);
    }

    pub(crate) fn facts(&self, ino: u64) -> Outcome<Facts> {
        self.works()?;
        let is_folder = self.names.folders.contains_key(&ino);
        let bytes = self.names.sizes.get(&ino).copied();
        if !is_folder && bytes.is_none() {
            return Err(ENOENT);
        }
        let changed = self.changed.get(&ino).copied().unwrap_or(0);
        let blocks = self.pages.get(&ino).copied().unwrap_or(0);
        Ok(Facts { ino, is_folder, bytes: bytes.unwrap_or(0), blocks, changed })
    }

    pub(crate) fn look_up(&self, parent: u64, name: &str) -> Outcome<Facts> {
        self.works()?;
        let folder = self.names.folders.get(&parent).ok_or(ENOTDIR)?;
        self.facts(*folder.get(name).ok_or(ENOENT)?)
    }

    pub(crate) fn list(&self, ino: u64) -> Outcome<Vec<(String, Facts)>> {
        let folder = self.names.folders.get(&ino).ok_or(ENOTDIR)?;
        folder.iter().map(|(name, ino)| Ok((name.clone(), self.facts(*ino)?))).collect()
    }

    pub(crate) fn make(&mut self, parent: u64, name: &str, is_folder: bool) -> Outcome<Facts> {
        self.change()?;
        if self.names.folder(parent).contains_key(name) {
            return Err(EEXIST);
        }
        if self.chance.once_in(self.faults.no_space) {
            return Err(ENOSPC);
        }
        let ino = self.next_ino;
        self.next_ino += 1;
        let name = name.to_owned();
        self.rename_or_resize(if is_folder {
            Change::Folder { parent, name, ino }
        } else {
            Change::File { parent, name, ino }
        });
        self.note(ino);
        self.facts(ino)
    }

    pub(crate) fn remove(&mut self, parent: u64, name: &str) -> Outcome<()> {
        self.change()?;
        let ino = *self.names.folder(parent).get(name).ok_or(ENOENT)?;
        if self.names.folders.get(&ino).is_some_and(|folder| !folder.is_empty()) {
            return Err(ENOTEMPTY);
        }
        self.rename_or_resize(Change::Gone { parent, name: name.to_owned() });
        self.forget_unreachable(ino);
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: (u64, &str), to: (u64, &str)) -> Outcome<()> {
        self.change()?;
        if !self.names.folder(from.0).contains_key(from.1) {
            return Err(ENOENT);
        }
        let (from, to) = ((from.0, from.1.to_owned()), (to.0, to.1.to_owned()));
        self.rename_or_resize(Change::Moved { from, to });
        Ok(())
    }

    fn forget_unreachable(&mut self, ino: u64) {
        if !self.open.contains_key(&ino) && !self.names.named().contains(&ino) {
            self.pages.remove(&ino);
        }
    }

    pub(crate) fn opened(&mut self, ino: u64) -> Outcome<()> {
        self.works()?;
        *self.open.entry(ino).or_default() += 1;
        Ok(())
    }

    pub(crate) fn closed(&mut self, ino: u64) {
        if let Some(count) = self.open.get_mut(&ino) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(&ino);
                self.forget_unreachable(ino);
            }
        }
    }

    pub(crate) fn resize(&mut self, ino: u64, bytes: u64) -> Outcome<Facts> {
        self.change()?;
        let end = bytes.div_ceil(PAGE_BYTES);
        for pages in [self.durable.get_mut(&ino), self.dirty.get_mut(&ino)].into_iter().flatten() {
            pages.split_off(&end);
            // What comes back by growing again is zeros.
            if let Some(last) = pages.get_mut(&(bytes / PAGE_BYTES)) {
                last[usize::try_from(bytes % PAGE_BYTES).unwrap()..].fill(0);
            }
        }
        self.rename_or_resize(Change::Size { ino, bytes });
        self.note(ino);
        self.facts(ino)
    }

    pub(crate) fn read(&mut self, ino: u64, offset: u64, bytes: u64) -> Outcome<Vec<u8>> {
        self.works()?;
        if self.chance.once_in(self.faults.read_error) {
            return Err(EIO);
        }
        let end = (offset + bytes).min(self.facts(ino)?.bytes);
        let mut read = Vec::new();
        let mut at = offset;
        while at < end {
            let (page, start) = (at / PAGE_BYTES, usize::try_from(at % PAGE_BYTES).unwrap());
            let stop = (PAGE_BYTES - at % PAGE_BYTES).min(end - at);
            let stop = start + usize::try_from(stop).unwrap();
            match self.page(ino, page) {
                Some(page) => read.extend(&page[start..stop]),
                None => read.resize(read.len() + stop - start, 0),
            }
            at += (stop - start) as u64;
        }
        Ok(read)
    }

    fn page(&self, ino: u64, page: u64) -> Option<&Page> {
        let dirty = self.dirty.get(&ino).and_then(|pages| pages.get(&page));
        let durable = self.durable.get(&ino).and_then(|pages| pages.get(&page));
        dirty.or(durable)
    }

    /// Writes, and returns how many bytes were.
    pub(crate) fn write(&mut self, ino: u64, offset: u64, data: &[u8]) -> Outcome<u32> {
        self.change()?;
        if self.chance.once_in(self.faults.write_error) {
            return Err(EIO);
        }
        if self.chance.once_in(self.faults.no_space) {
            return Err(ENOSPC);
        }
        let mut data = data;
        if data.len() > 1 && self.chance.once_in(self.faults.short_write) {
            // A part in whole pages, as direct I/O has it, or any part of less.
            let pages = data.len() as u64 / PAGE_BYTES;
            let most = self.chance.below(pages) * PAGE_BYTES;
            let bytes = if most == 0 { data.len() as u64 } else { most };
            data = &data[..usize::try_from(bytes).unwrap()];
        }
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (page, place) = (at / PAGE_BYTES, usize::try_from(at % PAGE_BYTES).unwrap());
            let (part, after) = rest.split_at(rest.len().min(PAGE - place));
            let before = self.page(ino, page).cloned();
            let mut bytes = before.unwrap_or_else(|| Box::new([0; PAGE]));
            bytes[place..place + part.len()].copy_from_slice(part);
            self.dirty.entry(ino).or_default().insert(page, bytes);
            at += part.len() as u64;
            rest = after;
        }
        let end = offset + data.len() as u64;
        if end > self.facts(ino)?.bytes {
            self.rename_or_resize(Change::Size { ino, bytes: end });
        }
        self.note(ino);
        Ok(u32::try_from(data.len()).unwrap())
    }

    /// Gives the pages that are wholly in the range back: reading them gives zeros.
    pub(crate) fn punch(&mut self, ino: u64, offset: u64, bytes: u64) -> Outcome<()> {
        self.change()?;
        let whole = offset.div_ceil(PAGE_BYTES)..(offset + bytes) / PAGE_BYTES;
        for pages in [self.durable.get_mut(&ino), self.dirty.get_mut(&ino)].into_iter().flatten() {
            pages.retain(|page, _| !whole.contains(page));
        }
        self.note(ino);
        Ok(())
    }

    /// Makes the file and all names durable. If it fails, each page that waited is written or lost.
    pub(crate) fn sync(&mut self, ino: u64) -> Outcome<()> {
        self.change()?;
        let fails = self.chance.once_in(self.faults.sync_error);
        for (page, bytes) in self.dirty.remove(&ino).unwrap_or_default() {
            if !fails || self.chance.once_in(2) {
                self.durable.entry(ino).or_default().insert(page, bytes);
            }
        }
        if fails {
            return Err(EIO);
        }
        for change in self.journal.drain(..) {
            self.durable_names.apply(&change);
        }
        Ok(())
    }
}
