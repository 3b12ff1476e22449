//! A directory's entries, made of the pages of one LIST with delimiter.
//!
//! Invariant: a finished [`Listing`] is sorted by name, names are unique (a directory shadows a
//! file of the same name), and it never changes; directory handles keep the one they opened.

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

/// All entries of a directory at one moment.
#[derive(Debug)]
pub(crate) struct Listing {
    entries: Vec<(Box<str>, Child)>,
    /// When the first page was asked for: nothing in here is newer.
    pub(crate) listed_at: Instant,
    /// Set once the kernel was told to read its directory from this listing.
    shown: AtomicBool,
}

impl Listing {
    /// Entries in the order of their names.
    pub(crate) fn entries(&self) -> &[(Box<str>, Child)] {
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

    /// The entry called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&Child> {
        self.place(name).map(|index| &self.entries[index].1)
    }

    /// Where the entry called `name` stands among the others.
    pub(crate) fn place(&self, name: &str) -> Option<usize> {
        self.entries.binary_search_by(|(known, _)| known.as_ref().cmp(name)).ok()
    }
}

/// Collects pages into a [`Listing`].
#[derive(Debug)]
pub(crate) struct ListingBuilder {
    prefix: Arc<str>,
    entries: Vec<(Box<str>, Child)>,
    hidden: Vec<(Hidden, String)>,
    hidden_total: u64,
    started_at: Instant,
}

/// How many hidden keys a builder remembers by name, for the log.
const HIDDEN_NAMED_MAX: usize = 4;

impl ListingBuilder {
    /// An empty collection for the directory `prefix`, whose first page is asked for `now`.
    pub(crate) fn new(prefix: Arc<str>, now: Instant) -> Self {
        Self { prefix, entries: Vec::new(), hidden: Vec::new(), hidden_total: 0, started_at: now }
    }

    /// Adds one page.
    pub(crate) fn add(&mut self, page: &ListPage) {
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
    }

    fn add_key(&mut self, key: &str, child: Child) {
        match names::component(&self.prefix, key) {
            Ok(Component::Itself) => {}
            Ok(Component::Name(name)) => self.entries.push((name.into(), child)),
            Err(reason) => {
                self.hidden_total += 1;
                if self.hidden.len() < HIDDEN_NAMED_MAX {
                    self.hidden.push((reason, key.to_owned()));
                }
            }
        }
    }

    /// Number of entries so far.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The finished listing, and what had to be hidden: the number of keys and a few of them.
    pub(crate) fn finish(mut self) -> (Listing, u64, Vec<(Hidden, String)>) {
        // Directories first among equal names, so that the first of a name is the one to keep.
        self.entries.sort_by(|(a, a_child), (b, b_child)| {
            let is_file = |child: &Child| matches!(child, Child::File(_));
            a.cmp(b).then(is_file(a_child).cmp(&is_file(b_child)))
        });
        self.entries.dedup_by(|later, earlier| later.0 == earlier.0);
        self.entries.shrink_to_fit();
        let listing = Listing {
            entries: self.entries,
            listed_at: self.started_at,
            shown: AtomicBool::new(false),
        };
        (listing, self.hidden_total, self.hidden)
    }
}

#[cfg(test)]
mod tests {
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

    fn listing_of(prefix: &str, keys: &[&str], common: &[&str]) -> (Listing, u64) {
        let mut builder = ListingBuilder::new(prefix.into(), Instant::now());
        builder.add(&ListPage {
            objects: keys.iter().map(|key| object(key, 7)).collect(),
            common_prefixes: common.iter().map(|&prefix| prefix.to_owned()).collect(),
            ..ListPage::default()
        });
        let (listing, hidden, _) = builder.finish();
        (listing, hidden)
    }

    #[test]
    fn a_directory_shadows_a_file_of_the_same_name() {
        let (listing, hidden) = listing_of("d/", &["d/", "d/a", "d/a.txt", "d/b"], &["d/a/"]);
        let names: Vec<&str> = listing.entries().iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["a", "a.txt", "b"]);
        assert_eq!(listing.get("a"), Some(&Child::Directory));
        assert!(matches!(listing.get("b"), Some(Child::File(file)) if file.size_bytes == 7));
        assert_eq!(listing.get("c"), None);
        assert_eq!(hidden, 0);
    }

    #[test]
    fn hidden_keys_leave_their_siblings_alone() {
        let (listing, hidden) = listing_of("", &["ok", "..", "nul\0"], &["/", "../", "fine/"]);
        let names: Vec<&str> = listing.entries().iter().map(|(name, _)| name.as_ref()).collect();
        assert_eq!(names, ["fine", "ok"]);
        assert_eq!(hidden, 4);
    }

    #[test]
    fn a_marker_with_bytes_is_a_directory() {
        let (listing, _) = listing_of("", &["dm/"], &[]);
        assert_eq!(listing.get("dm"), Some(&Child::Directory));
    }
}
