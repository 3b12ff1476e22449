//! A directory's entries, made of the pages of one LIST with delimiter.
//!
//! Invariant: entries are sorted by key and names are unique (a directory shadows a file of the same
//! name). What was given out of a listing that is still under way stays in its place, so that an
//! index means the same entry before and after its end; a finished [`Listing`] never changes.

use std::cmp::Ordering as Cmp;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tenderfs_s3client::{ListPage, ListedObject};

use super::names::{self, Component, Hidden};

/// What S3 said of one object version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileFacts {
    /// As S3 gave it, quotes included; empty if the store lists without ETags.
    pub(crate) etag: Box<str>,
    /// Size of the object.
    pub(crate) size_bytes: u64,
    /// Last change, in seconds since 1970.
    pub(crate) modified_unix_seconds: u64,
    /// `None` is STANDARD.
    pub(crate) storage_class: Option<Box<str>>,
}

impl FileFacts {
    /// Last change as the file system shows it.
    pub(crate) fn modified(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.modified_unix_seconds)
    }
}

impl From<&ListedObject> for FileFacts {
    fn from(listed: &ListedObject) -> Self {
        let since_1970 = listed.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            etag: listed.etag.as_str().into(),
            size_bytes: listed.size_bytes,
            modified_unix_seconds: since_1970.as_secs(),
            storage_class: listed
                .storage_class
                .as_deref()
                .filter(|class| *class != "STANDARD")
                .map(Into::into),
        }
    }
}

/// An entry of a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Child {
    /// Implied by a `/` in some key, or by a marker object.
    Directory,
    /// One object version.
    File(Arc<FileFacts>),
}

/// An entry and its name.
pub(crate) type Named = (Box<str>, Child);

/// All entries of a directory at one moment, in the order of their keys, in which S3 lists them: a
/// directory stands where its key, which ends in a slash, does.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: Vec<Named>,
    /// When the first page was asked for: nothing in here is newer.
    pub(crate) listed_at: Instant,
    /// Set once the kernel was told to read its directory from this listing.
    shown: AtomicBool,
    /// Set once a name was seen to have come or gone since.
    outdated: AtomicBool,
}

impl Listing {
    /// A listing of `entries`, which a [`Collector`] has settled.
    pub(crate) fn new(mut entries: Vec<Named>, listed_at: Instant) -> Self {
        entries.shrink_to_fit();
        Self { entries, listed_at, shown: AtomicBool::default(), outdated: AtomicBool::default() }
    }

    /// Entries in the order of their keys.
    pub(crate) fn entries(&self) -> &[Named] {
        &self.entries
    }

    /// Whether what the kernel remembers of the directory is this listing.
    pub(crate) fn is_shown(&self) -> bool {
        self.shown.load(Ordering::Relaxed)
    }

    /// The kernel has dropped what it remembered of the directory, and reads this listing next.
    pub(crate) fn set_shown(&self) {
        self.shown.store(true, Ordering::Relaxed);
    }

    /// Whether a name is known to have come or gone since, so that the directory is not to be shown by it.
    pub(crate) fn is_outdated(&self) -> bool {
        self.outdated.load(Ordering::Relaxed)
    }

    /// A name has come or gone since.
    pub(crate) fn set_outdated(&self) {
        self.outdated.store(true, Ordering::Relaxed);
    }

    /// The entry called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Child> {
        self.place(name).map(|index| &self.entries[index].1)
    }

    /// Where the entry called `name` stands among the others.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        let find = |kind| place_in(&self.entries, name, kind).ok();
        find(Kind::File).or_else(|| find(Kind::Directory))
    }
}

/// The key of an entry, without the prefix of its directory.
pub(crate) fn key_of(name: &str, child: &Child) -> String {
    match kind(child) {
        Kind::File => name.to_owned(),
        Kind::Directory => format!("{name}/"),
    }
}

/// What a key is of, which decides how it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    File,
    /// Its key ends in a slash that its name has not.
    Directory,
}

fn kind(child: &Child) -> Kind {
    match child {
        Child::Directory => Kind::Directory,
        Child::File(_) => Kind::File,
    }
}

/// Where the key of `name` is in `entries`, or would be.
fn place_in(entries: &[Named], name: &str, of: Kind) -> Result<usize, usize> {
    entries.binary_search_by(|(known, child)| compare((known, kind(child)), (name, of)))
}

/// Compares the keys of two names, byte by byte.
fn compare((a, a_kind): (&str, Kind), (b, b_kind): (&str, Kind)) -> Cmp {
    let common = a.len().min(b.len());
    let next = |name: &str, kind| match name.as_bytes().get(common) {
        None if kind == Kind::Directory => Some(b'/'),
        byte => byte.copied(),
    };
    let (a_bytes, b_bytes) = (a.as_bytes(), b.as_bytes());
    a_bytes[..common].cmp(&b_bytes[..common]).then(next(a, a_kind).cmp(&next(b, b_kind)))
}

/// Turns pages into entries, each as soon as no later page can change what stands before it.
///
/// A directory shadows a file of the same name, and its key comes later than the file's, behind
/// those of `name.txt` and the like; so a file waits until the keys have passed that of a directory.
#[derive(Debug)]
pub(crate) struct Collector {
    prefix: Arc<str>,
    /// Entries that may still change, in order.
    held: Vec<Named>,
    /// The last entry that was given out.
    last: Option<(Box<str>, Kind)>,
    /// The last key of all pages, without the prefix.
    frontier: Box<str>,
    settled: usize,
    hidden: Vec<(Hidden, String)>,
    hidden_total: u64,
}

/// How many hidden keys are remembered by name, for the log.
const HIDDEN_NAMED_MAX: usize = 4;

/// A page holds keys before those that were given out: the store does not list in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct OutOfOrder;

impl Collector {
    /// An empty collection for the directory `prefix`.
    pub(crate) fn new(prefix: Arc<str>) -> Self {
        Self {
            prefix,
            held: Vec::new(),
            last: None,
            frontier: Box::default(),
            settled: 0,
            hidden: Vec::new(),
            hidden_total: 0,
        }
    }

    /// As [`Self::new`], where all entries up to that with the key `behind`, without the prefix, are
    /// known already.
    pub(crate) fn behind(prefix: Arc<str>, behind: Option<&str>) -> Self {
        let last = behind.map(|key| match key.strip_suffix('/') {
            Some(name) => (name.into(), Kind::Directory),
            None => (key.into(), Kind::File),
        });
        Self { last, ..Self::new(prefix) }
    }

    /// Adds one page; gives the entries that are settled by it.
    pub(crate) fn add(&mut self, page: &ListPage) -> Result<Vec<Named>, OutOfOrder> {
        let keys = page.objects.iter().map(|object| object.key.as_str());
        let keys = keys.chain(page.common_prefixes.iter().map(String::as_str));
        if let Some(rest) = keys.max().and_then(|key| key.strip_prefix(&*self.prefix))
            && *rest > *self.frontier
        {
            self.frontier = rest.into();
        }
        for object in &page.objects {
            // A key that ends in a slash is a directory's marker, whatever bytes it holds.
            let child = if object.key.ends_with('/') {
                Child::Directory
            } else {
                Child::File(Arc::new(FileFacts::from(object)))
            };
            self.add_key(&object.key, child);
        }
        for prefix in &page.common_prefixes {
            self.add_key(prefix, Child::Directory);
        }
        self.held
            .sort_by(|(a, a_child), (b, b_child)| compare((a, kind(a_child)), (b, kind(b_child))));
        self.held.dedup_by(|(a, a_child), (b, b_child)| a == b && kind(a_child) == kind(b_child));
        self.check_order()?;
        let frontier = &*self.frontier;
        let is_open = |name: &str| match frontier.strip_prefix(name) {
            // Behind the file, but before its directory.
            Some(rest) => rest.is_empty() || *rest < *"/",
            None => *frontier < *name,
        };
        let open =
            self.held.iter().position(|(name, child)| kind(child) == Kind::File && is_open(name));
        Ok(self.settle(open.unwrap_or(self.held.len())))
    }

    fn check_order(&mut self) -> Result<(), OutOfOrder> {
        let (Some((last, last_kind)), Some((first, child))) = (&self.last, self.held.first())
        else {
            return Ok(());
        };
        match compare((last, *last_kind), (first, kind(child))) {
            Cmp::Less => Ok(()),
            // Some stores begin a page with the prefix that the page before has ended with.
            Cmp::Equal => {
                self.held.remove(0);
                Ok(())
            }
            Cmp::Greater => Err(OutOfOrder),
        }
    }

    fn add_key(&mut self, key: &str, child: Child) {
        match names::component(&self.prefix, key) {
            Ok(Component::Itself) => {}
            Ok(Component::Name(name)) => self.held.push((name.into(), child)),
            Err(reason) => {
                self.hidden_total += 1;
                if self.hidden.len() < HIDDEN_NAMED_MAX {
                    self.hidden.push((reason, key.to_owned()));
                }
            }
        }
    }

    /// Gives out the first `count` of those held, without the files that a directory shadows.
    fn settle(&mut self, count: usize) -> Vec<Named> {
        let shadowed: Vec<bool> = self.held[..count]
            .iter()
            .map(|(name, child)| {
                kind(child) == Kind::File && place_in(&self.held, name, Kind::Directory).is_ok()
            })
            .collect();
        let mut shadowed = shadowed.into_iter();
        let mut settled: Vec<Named> = self.held.drain(..count).collect();
        settled.retain(|_| !shadowed.next().unwrap_or_default());
        if let Some((name, child)) = settled.last() {
            self.last = Some((name.clone(), kind(child)));
        }
        self.settled += settled.len();
        settled
    }

    /// Number of entries so far.
    pub(crate) fn len(&self) -> usize {
        self.settled + self.held.len()
    }

    /// Gives the rest of the entries after the last page.
    pub(crate) fn finish(&mut self) -> Vec<Named> {
        self.settle(self.held.len())
    }

    /// What had to be hidden: the number of keys and a few of them.
    pub(crate) fn hidden(&self) -> (u64, &[(Hidden, String)]) {
        (self.hidden_total, &self.hidden)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn object(key: &str, size_bytes: u64) -> ListedObject {
        ListedObject {
            key: key.to_owned(),
            etag: format!("\"{key}\""),
            size_bytes,
            modified: UNIX_EPOCH + Duration::from_secs(1_000_000_000),
            storage_class: Some("STANDARD".to_owned()),
        }
    }

    fn page(keys: &[&str], common: &[&str]) -> ListPage {
        ListPage {
            objects: keys.iter().map(|key| object(key, 7)).collect(),
            common_prefixes: common.iter().map(|&prefix| prefix.to_owned()).collect(),
            ..ListPage::default()
        }
    }

    fn listing_of(prefix: &str, keys: &[&str], common: &[&str]) -> (Listing, u64) {
        let mut collector = Collector::new(prefix.into());
        let mut entries = collector.add(&page(keys, common)).unwrap();
        entries.extend(collector.finish());
        (Listing::new(entries, Instant::now()), collector.hidden().0)
    }

    fn names(entries: &[Named]) -> Vec<&str> {
        entries.iter().map(|(name, _)| name.as_ref()).collect()
    }

    #[test]
    fn a_directory_shadows_a_file_of_the_same_name() {
        let (listing, hidden) = listing_of("d/", &["d/", "d/a", "d/a.txt", "d/b"], &["d/a/"]);
        assert_eq!(names(listing.entries()), ["a.txt", "a", "b"]);
        assert_eq!(listing.get("a"), Some(&Child::Directory));
        assert!(matches!(listing.get("b"), Some(Child::File(file)) if file.size_bytes == 7));
        assert!(matches!(listing.get("a.txt"), Some(Child::File(_))));
        assert_eq!(listing.get("c"), None);
        assert_eq!(hidden, 0);
    }

    #[test]
    fn a_file_is_given_out_once_no_directory_can_shadow_it() {
        let mut collector = Collector::new("d/".into());
        assert_eq!(names(&collector.add(&page(&["d/a", "d/a-1"], &[])).unwrap()), [""; 0]);
        assert_eq!(names(&collector.add(&page(&["d/a.txt"], &[])).unwrap()), [""; 0]);
        let third = collector.add(&page(&["d/b"], &["d/a/"])).unwrap();
        assert_eq!(names(&third), ["a-1", "a.txt", "a"]);
        assert_eq!(names(&collector.add(&page(&["d/c"], &[])).unwrap()), ["b"]);
        assert_eq!(names(&collector.finish()), ["c"]);
        assert_eq!(collector.len(), 5);
    }

    #[test]
    fn pages_that_go_back_behind_what_was_given_out_are_refused() {
        let mut collector = Collector::new("".into());
        assert_eq!(names(&collector.add(&page(&["b", "c"], &[])).unwrap()), ["b"]);
        assert_eq!(collector.add(&page(&["a"], &[])), Err(OutOfOrder));
    }

    #[test]
    fn a_page_may_begin_with_the_prefix_that_the_last_one_ended_with() {
        let mut collector = Collector::new("".into());
        assert_eq!(names(&collector.add(&page(&[], &["a/"])).unwrap()), ["a"]);
        assert_eq!(names(&collector.add(&page(&["c"], &["a/", "b/"])).unwrap()), ["b"]);
    }

    #[test]
    fn hidden_keys_leave_their_siblings_alone() {
        let (listing, hidden) = listing_of("", &["ok", "..", "nul\0"], &["/", "../", "fine/"]);
        assert_eq!(names(listing.entries()), ["fine", "ok"]);
        assert_eq!(hidden, 4);
    }

    #[test]
    fn a_marker_with_bytes_is_a_directory() {
        let (listing, _) = listing_of("", &["dm/"], &[]);
        assert_eq!(listing.get("dm"), Some(&Child::Directory));
    }

    proptest! {
        /// However the keys fall into pages, the listing is the same, and what was given out early
        /// is its beginning.
        #[test]
        fn pages_do_not_change_a_listing(
            keys in prop::collection::btree_set("[ab./]{0,3}[ab]", 0..40),
            pages in prop::collection::vec(1..6_usize, 40),
        ) {
            // As S3 folds them: keys and common prefixes in one order.
            let folded: Vec<&str> = keys
                .iter()
                .map(|key| key.find('/').map_or(key.as_str(), |slash| &key[..=slash]))
                .collect();
            let mut folded: Vec<&str> = folded;
            folded.sort_unstable();
            folded.dedup();
            let page_of = |keys: &[&str]| {
                let (common, files): (Vec<&str>, Vec<&str>) =
                    keys.iter().partition(|key| key.ends_with('/'));
                page(&files, &common)
            };
            let mut whole = Collector::new("".into());
            let mut expected = whole.add(&page_of(&folded)).unwrap();
            expected.extend(whole.finish());
            let (mut rest, mut entries) = (&folded[..], Vec::new());
            let mut collector = Collector::new("".into());
            for count in pages {
                let (now, later) = rest.split_at(count.min(rest.len()));
                entries.extend(collector.add(&page_of(now)).unwrap());
                prop_assert_eq!(&entries[..], &expected[..entries.len()]);
                rest = later;
            }
            entries.extend(collector.finish());
            prop_assert_eq!(&entries, &expected);
            let listing = Listing::new(entries, Instant::now());
            for (index, (name, child)) in expected.iter().enumerate() {
                prop_assert_eq!(listing.place(name), Some(index));
                prop_assert_eq!(listing.get(name), Some(child));
            }
        }
    }
}
