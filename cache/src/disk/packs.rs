//! The files that small objects share, and who writes where in them.
//!
//! A pack is only ever appended to, and no place in it is used twice: a reader that finds an object
//! where it was when its read began has read right bytes. What goes is punched out of the file, so
//! that its space comes back at once; a pack of which nothing is left is removed. A daemon that
//! starts begins a new pack.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FallocateFlags, fallocate};

use crate::block::BLOCK_BYTES;
use crate::disk::dir::{CacheDir, open_own};
use crate::disk::orphans;
use crate::disk::packed::{Entry, PAGE_BYTES, Place};
use crate::disk::record::PackedRecord;
use crate::disk::space::{FileSpace, Ledger, Reservation};
use crate::version::ObjectId;

/// Most pages of a pack (256 MiB), so that a place in it fits in 16 bits.
const PACK_PAGES: u32 = 1 << 16;

/// The packs of a cache directory.
#[derive(Debug)]
pub(crate) struct Packs {
    ledger: Arc<Ledger>,
    /// Objects of fewer bytes are packed; 0: none.
    below_bytes: u64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    packs: BTreeMap<u32, Pack>,
    /// The pack that is appended to, and its next page.
    appended: Option<(u32, u32)>,
    /// Number of the next pack.
    next: u32,
    /// Objects that are being written.
    writing: HashSet<ObjectId>,
    /// Packs of earlier lives that no record leads to, until their files are removed.
    orphans: Vec<(u32, Arc<FileSpace>)>,
    /// Checksums of objects that the catalogue does not have yet.
    fresh: HashMap<Place, Arc<[u32]>>,
}

/// One file.
#[derive(Debug)]
struct Pack {
    space: Arc<FileSpace>,
    /// Objects in it.
    live: u32,
    /// Places that are being written to.
    writing: u32,
    /// Bytes beyond its objects that its file took at the start.
    excess_bytes: u64,
    /// Making it durable has failed: of what is not catalogued nobody knows what is on disk, and a
    /// later success says nothing of it.
    has_failed: bool,
}

/// The right to write one object; given up when dropped.
pub(crate) struct PackClaim<'a> {
    packs: &'a Packs,
    id: ObjectId,
    placed: Option<Place>,
}

impl Packs {
    /// The packs of `dir`, of which the catalogue names `packed`, in the order of their places.
    pub(crate) fn open(
        dir: &CacheDir,
        below_bytes: u64,
        packed: &[(Place, PackedRecord)],
        ledger: &Arc<Ledger>,
    ) -> Self {
        let taken: HashMap<u32, u64> = orphans::packs(dir).collect();
        let last = packed.last().map(|(place, _)| place.pack).max(taken.keys().max().copied());
        // A number is never used again: what a crash has left in a file is not taken for new bytes.
        let next = last.map_or(0, |last| last.saturating_add(1));
        let below_bytes = below_bytes.min(BLOCK_BYTES);
        let below_bytes = if below_bytes == 0 || can_punch(&dir.packs_path()) {
            below_bytes
        } else {
            let path = dir.path().display();
            tracing::info!(%path, "file system gives no holes back: small objects get files of their own");
            0
        };
        let packs = Self::new(ledger, below_bytes, next);
        let is_known =
            |number| packed.binary_search_by_key(number, |(place, _)| place.pack).is_ok();
        for (number, taken) in taken.iter().filter(|(number, _)| !is_known(number)) {
            packs.load_orphan(*number, *taken);
        }
        for of_pack in packed.chunk_by(|(one, _), (other, _)| one.pack == other.pack) {
            let number = of_pack[0].0.pack;
            let stored = |(place, record): &(Place, PackedRecord)| {
                Entry::new(*place, record.bytes, 0).stored_bytes()
            };
            let live = u32::try_from(of_pack.len()).unwrap_or(u32::MAX);
            let live = (live, of_pack.iter().map(stored).sum());
            packs.load(number, live, taken.get(&number).copied().unwrap_or(0));
        }
        packs
    }

    /// Of a directory whose packs all have a lower number than `next`.
    fn new(ledger: &Arc<Ledger>, below_bytes: u64, next: u32) -> Self {
        let inner = Inner {
            packs: BTreeMap::new(),
            appended: None,
            next,
            writing: HashSet::new(),
            orphans: Vec::new(),
            fresh: HashMap::new(),
        };
        Self { ledger: Arc::clone(ledger), below_bytes, inner: Mutex::new(inner) }
    }

    /// Adds a pack of the catalogue with `live` objects of `live_bytes`, whose file takes
    /// `taken_bytes`.
    fn load(&self, pack: u32, (live, live_bytes): (u32, u64), taken_bytes: u64) {
        let excess_bytes = taken_bytes.saturating_sub(live_bytes);
        let space = self.ledger.file(live_bytes + excess_bytes);
        self.lock()
            .packs
            .insert(pack, Pack { space, live, writing: 0, excess_bytes, has_failed: false });
    }

    /// Adds a pack that the catalogue does not know, whose file takes `taken_bytes`.
    fn load_orphan(&self, pack: u32, taken_bytes: u64) {
        let space = self.ledger.file(taken_bytes);
        self.lock().orphans.push((pack, space));
    }

    /// Takes a pack out that the catalogue does not know: the caller removes its file.
    pub(crate) fn take_orphan(&self) -> Option<(u32, Arc<FileSpace>)> {
        self.lock().orphans.pop()
    }

    /// Bytes beyond its objects that the file of `pack` took at the start.
    pub(crate) fn excess_bytes(&self, pack: u32) -> u64 {
        self.lock().packs.get(&pack).map_or(0, |pack| pack.excess_bytes)
    }

    /// Whether an object of `size_bytes` is to be packed.
    pub(crate) fn take(&self, size_bytes: u64) -> bool {
        size_bytes < self.below_bytes
    }

    /// Asks for the right to write object `id`; `None` if somebody else writes it.
    pub(crate) fn claim(&self, id: ObjectId) -> Option<PackClaim<'_>> {
        let is_free = self.lock().writing.insert(id);
        // Not made for nothing: it gives the right up when it is dropped.
        is_free.then(|| PackClaim { packs: self, id, placed: None })
    }

    /// The space of a pack; `None` once it is gone.
    pub(crate) fn space(&self, pack: u32) -> Option<Arc<FileSpace>> {
        self.lock().packs.get(&pack).map(|pack| Arc::clone(&pack.space))
    }

    /// Checksums of the object at `place`, if the catalogue does not have them yet.
    pub(crate) fn fresh_sums(&self, place: Place) -> Option<Arc<[u32]>> {
        self.lock().fresh.get(&place).cloned()
    }

    /// The catalogue has the checksums of the object at `place` now, or nobody needs them any more.
    pub(crate) fn forget_sums(&self, place: Place) {
        self.lock().fresh.remove(&place);
    }

    /// Nothing more is appended to `pack`.
    pub(crate) fn seal(&self, pack: u32) {
        self.lock().appended.take_if(|(appended, _)| *appended == pack);
    }

    /// Making `pack` durable has failed: nothing more is appended to it, and nothing more of it may be
    /// catalogued.
    pub(crate) fn failed(&self, pack: u32) {
        self.seal(pack);
        if let Some(pack) = self.lock().packs.get_mut(&pack) {
            pack.has_failed = true;
        }
    }

    /// Whether making `pack` durable has failed.
    pub(crate) fn has_failed(&self, pack: u32) -> bool {
        self.lock().packs.get(&pack).is_some_and(|pack| pack.has_failed)
    }

    /// An object in `pack` is gone.
    pub(crate) fn removed(&self, pack: u32) {
        if let Some(pack) = self.lock().packs.get_mut(&pack) {
            pack.live = pack.live.saturating_sub(1);
        }
    }

    /// Bytes of `pack` that no object has were punched out of its file.
    pub(crate) fn punched(&self, pack: u32, bytes: u64) {
        if let Some(space) = self.space(pack) {
            space.give_back(bytes);
        }
    }

    /// Takes out the packs in which nothing is and nothing will be: the caller removes their files.
    pub(crate) fn take_empty(&self) -> Vec<(u32, Arc<FileSpace>)> {
        let mut inner = self.lock();
        let appended = inner.appended.map(|(pack, _)| pack);
        let is_empty = |pack: &u32, held: &mut Pack| {
            held.live == 0 && held.writing == 0 && Some(*pack) != appended
        };
        inner.packs.extract_if(.., is_empty).map(|(pack, held)| (pack, held.space)).collect()
    }

    /// Packs that are there.
    pub(crate) fn len(&self) -> usize {
        self.lock().packs.len()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// A place for `stored_bytes`, at the end of the pack that is appended to.
    fn place(&mut self, stored_bytes: u64, ledger: &Arc<Ledger>) -> Option<Place> {
        let pages = u32::try_from(stored_bytes / PAGE_BYTES).ok()?;
        let (number, first) = match self.appended {
            Some((number, first)) if first + pages <= PACK_PAGES => (number, first),
            _ => {
                let number = self.next;
                self.next = self.next.checked_add(1)?;
                let space = ledger.file(0);
                let pack = Pack { space, live: 0, writing: 0, excess_bytes: 0, has_failed: false };
                self.packs.insert(number, pack);
                (number, 0)
            }
        };
        self.appended = Some((number, first + pages));
        self.packs.get_mut(&number)?.writing += 1;
        Some(Place { pack: number, page: u16::try_from(first).ok()? })
    }
}

impl PackClaim<'_> {
    /// A place for the object, which `reservation` has the bytes for; `None` if there are no more
    /// numbers.
    pub(crate) fn place(&mut self, reservation: Reservation) -> Option<Place> {
        let mut inner = self.packs.lock();
        let place = inner.place(reservation.bytes(), &self.packs.ledger)?;
        let space = inner.packs.get(&place.pack).map(|pack| Arc::clone(&pack.space))?;
        drop(inner);
        // Part of it may be allocated from now on, whatever happens.
        reservation.belongs_to(&space);
        self.placed = Some(place);
        Some(place)
    }

    /// The object is written: `enter` makes it known to readers.
    pub(crate) fn written(mut self, sums: &Arc<[u32]>, enter: impl FnOnce()) {
        let Some(place) = self.placed.take() else { return };
        let mut inner = self.packs.lock();
        inner.fresh.insert(place, Arc::clone(sums));
        if let Some(pack) = inner.packs.get_mut(&place.pack) {
            pack.writing -= 1;
            pack.live += 1;
        }
        drop(inner);
        enter();
    }
}

impl Drop for PackClaim<'_> {
    fn drop(&mut self) {
        let mut inner = self.packs.lock();
        inner.writing.remove(&self.id);
        // Nobody knows what is in its place: its bytes count until the pack goes.
        if let Some(place) = self.placed
            && let Some(pack) = inner.packs.get_mut(&place.pack)
        {
            pack.writing -= 1;
        }
    }
}

/// Gives the bytes of a place back to the file system. Reading them gives zeros from then on.
pub(crate) fn punch(file: &File, offset: u64, bytes: u64) -> io::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    let signed = |number: u64| i64::try_from(number).map_err(io::Error::other);
    Ok(fallocate(file, flags, signed(offset)?, signed(bytes)?)?)
}

/// Whether the file system of `folder` gives punched pages back, so that packs can be in it.
pub(crate) fn can_punch(folder: &Path) -> bool {
    let path = folder.join("probe");
    let probe = || -> io::Result<bool> {
        let mut options = OpenOptions::new();
        let file = open_own(&path, options.read(true).write(true).create(true).truncate(true))?;
        file.write_all_at(&[1; 4 * 4096], 0)?;
        file.sync_data()?;
        let before = file.metadata()?.blocks();
        punch(&file, PAGE_BYTES, 2 * PAGE_BYTES)?;
        file.sync_data()?;
        Ok(file.metadata()?.blocks() + 2 * PAGE_BYTES / 512 <= before)
    };
    let can = probe();
    drop(std::fs::remove_file(&path));
    if let Err(error) = &can {
        tracing::debug!(%error, path = %folder.display(), "no holes can be punched");
    }
    can.unwrap_or(false)
}

/// The number of the pack whose file is called `name`.
pub(crate) fn pack_number(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".pack")?;
    let plain =
        digits.len() == 8 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u32::from_str_radix(digits, 16).ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::space::Verdict;

    fn packs() -> (Packs, Arc<Ledger>) {
        let ledger = Ledger::new(1 << 40, "/".into(), 0.0);
        (Packs::new(&ledger, 1 << 20, 5), ledger)
    }

    fn id(number: u8) -> ObjectId {
        ObjectId([number; 16])
    }

    fn place(claim: &mut PackClaim<'_>, bytes: u64) -> Place {
        let Verdict::Granted(reservation) = claim.packs.ledger.reserve(bytes) else {
            panic!("no space")
        };
        claim.place(reservation).unwrap()
    }

    fn write(packs: &Packs, number: u8, bytes: u64) -> Place {
        let mut claim = packs.claim(id(number)).unwrap();
        let place = place(&mut claim, bytes);
        claim.written(&[7].into(), || ());
        place
    }

    #[test]
    fn objects_follow_one_another_and_a_full_pack_is_followed_by_the_next() {
        let (packs, ledger) = packs();
        assert_eq!(write(&packs, 1, 8192), Place { pack: 5, page: 0 });
        assert_eq!(write(&packs, 2, 4096), Place { pack: 5, page: 2 });
        let rest = u64::from(PACK_PAGES - 3) * PAGE_BYTES;
        assert_eq!(write(&packs, 3, rest + 4096), Place { pack: 6, page: 0 });
        packs.seal(6);
        assert_eq!(write(&packs, 4, 4096), Place { pack: 7, page: 0 });
        assert_eq!((packs.len(), ledger.total_bytes()), (3, 20_480 + rest));
    }

    #[test]
    fn an_object_is_written_by_one_at_a_time() {
        let (packs, ledger) = packs();
        let mut first = packs.claim(id(1)).unwrap();
        assert!(packs.claim(id(1)).is_none());
        place(&mut first, 8192);
        drop(first);
        assert_eq!(ledger.total_bytes(), 8192, "part of it may be allocated");
        let place = write(&packs, 1, 4096);
        assert_eq!(place, Place { pack: 5, page: 2 });
        // Of an earlier place of the same object.
        packs.forget_sums(Place { pack: 5, page: 0 });
        assert_eq!(packs.fresh_sums(place).as_deref(), Some(&[7][..]));
        packs.forget_sums(place);
        assert_eq!(packs.fresh_sums(place), None);
    }

    #[test]
    fn a_pack_goes_when_nothing_is_in_it_and_nothing_will_be() {
        let (packs, ledger) = packs();
        write(&packs, 1, 8192);
        write(&packs, 2, 4096);
        packs.removed(5);
        packs.punched(5, 8192);
        assert_eq!(ledger.total_bytes(), 4096);
        packs.removed(5);
        assert!(packs.take_empty().is_empty(), "it is appended to");
        let mut claim = packs.claim(id(3)).unwrap();
        place(&mut claim, 4096);
        packs.seal(5);
        assert!(packs.take_empty().is_empty(), "it is written to");
        drop(claim);
        packs.load(4, (1, 4096), 12_288);
        assert_eq!(packs.excess_bytes(4), 8192);
        packs.punched(4, 8192);
        let gone = packs.take_empty();
        assert_eq!(gone.iter().map(|(pack, _)| *pack).collect::<Vec<_>>(), [5]);
        assert_eq!(
            ledger.total_bytes(),
            3 * 4096,
            "what was not punched counts until the file is gone"
        );
        drop(gone);
        assert_eq!(ledger.total_bytes(), 4096);
        assert_eq!(packs.len(), 1);
    }

    #[test]
    fn only_our_own_names_are_packs() {
        assert_eq!(pack_number("0000002a.pack"), Some(42));
        for name in ["2a.pack", "0000002A.pack", "+000002a.pack", "0000002a", "probe", ""] {
            assert_eq!(pack_number(name), None, "{name}");
        }
    }

    #[test]
    fn punched_bytes_come_back_and_the_rest_stays() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        assert!(can_punch(folder.path()));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "the probe is gone");
        let path = folder.path().join("file");
        let mut options = OpenOptions::new();
        let file = open_own(&path, options.read(true).write(true).create(true)).unwrap();
        file.write_all_at(&[7; 3 * 4096], 0).unwrap();
        punch(&file, PAGE_BYTES, PAGE_BYTES).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (first, rest) = bytes.split_at(4096);
        let (second, third) = rest.split_at(4096);
        assert!(first.iter().chain(third).all(|byte| *byte == 7));
        assert!(second.iter().all(|byte| *byte == 0));
    }
}
