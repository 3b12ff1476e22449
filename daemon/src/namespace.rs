//! Names to objects: what LOOKUP, READDIR and GETATTR know, and the LIST and HEAD requests that
//! teach it.
//!
//! One LIST answers every later lookup and stat of its entries until their time-out. A name that
//! no listing covers is asked for by HEAD (is it an object?) and LIST of `name/` (is it a
//! directory?) side by side.
//!
//! Invariant: no lock is held while S3 is asked, and one listing of a directory runs at a time,
//! whoever waits for it; a waiter that goes away cancels nobody.

mod entries;
mod listing;
mod names;
mod tree;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tenderfs_s3client::{Client, Error as S3Error, Importance, ListRequest, ListWalk};
use tenderfs_telemetry::{Counter, Gauge};
use tokio::sync::watch;
use tracing::warn;

use crate::config::MountSettings;

pub(crate) use entries::Entries;
use entries::{Flight, News, lock_entries};
pub(crate) use listing::{Child, FileFacts, Listing};
use listing::{Collector, Named, key_of};
pub(crate) use names::is_reachable;
pub(crate) use tree::{BadInode, Entered, Node, ROOT_INO};
use tree::{LookupPlan, Timeouts, Tree};

/// Memory one listed name is reckoned to take, for the bound on listed names: an entry of a
/// directory with its name, version and allocations.
const LISTED_NAME_BYTES: usize = 200;

/// Pages of a listing that nobody waits for: it was started because names of the directory were
/// asked for one by one, and a larger directory is not worth listing on that guess.
const UNASKED_PAGES_MAX: usize = 32;

/// What a namespace counts.
#[derive(Debug, Default)]
pub struct Counters {
    /// LOOKUPs answered from memory.
    pub lookups_known: Counter,
    /// LOOKUPs that asked S3.
    pub lookups_asked: Counter,
    /// Directories listed, whole.
    pub listings: Counter,
    /// Keys hidden because they cannot be names, counted each time they are listed.
    pub keys_hidden: Counter,
    /// Inodes the kernel holds.
    pub inodes: Gauge,
    /// Listed names in memory.
    pub listed_names: Gauge,
}

/// Why a name could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NamespaceError {
    /// The inode is gone, superseded or of the wrong kind.
    #[error("inode: {0:?}")]
    Inode(BadInode),
    /// S3 did not answer the question.
    #[error("{0}")]
    S3(Arc<S3Error>),
    /// A directory holds more names than memory is set aside for, so that they are not remembered.
    #[error("directory {prefix:?} has more than {entries_max} entries; raise memory.limit")]
    TooManyEntries {
        /// Prefix of the directory.
        prefix: Arc<str>,
        /// The bound.
        entries_max: usize,
    },
    /// The store lists keys in no order, so that a listing cannot be read while it comes.
    #[error("the store did not list keys in their order")]
    OutOfOrder,
    /// The task that listed ended early: nobody waited for it, or the daemon stops.
    #[error("listing was abandoned")]
    Abandoned,
}

impl From<BadInode> for NamespaceError {
    fn from(bad: BadInode) -> Self {
        Self::Inode(bad)
    }
}

impl From<S3Error> for NamespaceError {
    fn from(error: S3Error) -> Self {
        Self::S3(Arc::new(error))
    }
}

/// Answer to a LOOKUP.
#[derive(Debug)]
pub(crate) enum Lookup {
    /// The name leads to this inode; the lookup is counted.
    Found(Entered),
    /// The name does not exist, good for so long.
    Absent(Duration),
}

/// The names of one mount.
#[derive(Debug)]
pub struct Namespace {
    tree: Mutex<Tree>,
    flights: Mutex<HashMap<Arc<str>, Flight>>,
    entries_max: usize,
    negative_ttl: Duration,
    entry_ttl: Duration,
    /// What it counts.
    pub counters: Counters,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while the lock was held is caught per request; the maps stay usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Namespace {
    /// The names under the mount's prefix, within `metadata_bytes` of memory for listed names.
    pub(crate) fn new(settings: &MountSettings, metadata_bytes: u64) -> Self {
        let entries_max = usize::try_from(metadata_bytes).unwrap_or(usize::MAX) / LISTED_NAME_BYTES;
        let timeouts = Timeouts {
            entry: settings.entry_ttl,
            negative: settings.negative_ttl,
            immutable: settings.immutable,
        };
        Self {
            tree: Mutex::new(Tree::new(settings.prefix.as_str().into(), timeouts, entries_max)),
            flights: Mutex::default(),
            entries_max,
            negative_ttl: settings.negative_ttl,
            entry_ttl: settings.entry_ttl,
            counters: Counters::default(),
        }
    }

    /// What `ino` stands for.
    pub(crate) fn node(&self, ino: u64) -> Result<Node, BadInode> {
        lock(&self.tree).node(ino).cloned()
    }

    /// The file to open as `ino`.
    pub(crate) fn file_to_open(&self, ino: u64) -> Result<(Arc<str>, Arc<FileFacts>), BadInode> {
        lock(&self.tree).file_to_open(ino)
    }

    /// The bucket prefix of the directory `ino`.
    pub(crate) fn directory(&self, ino: u64) -> Result<Arc<str>, BadInode> {
        lock(&self.tree).directory(ino)
    }

    /// See [`Tree::forget`].
    pub(crate) fn forget(&self, forgotten: impl IntoIterator<Item = (u64, u64)>) {
        let mut tree = lock(&self.tree);
        for (ino, lookups) in forgotten {
            tree.forget(ino, lookups);
        }
        self.count_sizes(&tree);
    }

    /// See [`Tree::distrust`].
    pub(crate) fn distrust(&self, key: &str) {
        lock(&self.tree).distrust(key, Instant::now());
    }

    /// Counts a lookup of a listed child; for READDIRPLUS.
    pub(crate) fn enter(&self, prefix: &str, name: &str, child: &Child, ttl: Duration) -> Entered {
        let mut tree = lock(&self.tree);
        let entered = tree.enter(prefix, name, child, ttl);
        self.count_sizes(&tree);
        entered
    }

    /// Where the file `key` stands in the listing of its directory, if one that can be believed is
    /// at hand: the directory's bucket prefix, the listing, and the place in it.
    pub(crate) fn place_of(&self, key: &str) -> Option<(Arc<str>, Arc<Listing>, usize)> {
        let (prefix, name) = key.split_at(key.rfind('/').map_or(0, |slash| slash + 1));
        let (prefix, listing) = lock(&self.tree).fresh_listing_at(prefix, Instant::now())?;
        let index = listing.place(name)?;
        Some((prefix, listing, index))
    }

    /// What S3 has as file `key`, for somebody who asks for many: a listing of its directory answers
    /// for all of them. Where it takes longer than `patience`, the name is asked for alone. `None`
    /// if there is no such file.
    pub(crate) async fn file(
        self: &Arc<Self>,
        client: &Client,
        key: &str,
        patience: Duration,
    ) -> Result<Option<Arc<FileFacts>>, NamespaceError> {
        let (prefix, name) = key.split_at(key.rfind('/').map_or(0, |slash| slash + 1));
        let prefix: Arc<str> = prefix.into();
        let (known, is_slow) = {
            let mut tree = lock(&self.tree);
            (tree.fresh_listing(&prefix, Instant::now()), tree.is_slow(&prefix))
        };
        let listing = match known {
            Some(listing) => listing,
            // Somebody has waited long enough, and the listing goes on.
            None if is_slow => return file_alone(client, key).await,
            None => {
                let listed = self.list_anew(client, &prefix);
                match tokio::time::timeout(patience, listed).await {
                    Ok(Ok(listing)) => listing,
                    Ok(Err(NamespaceError::S3(error))) => return Err(NamespaceError::S3(error)),
                    not_yet => {
                        let is_first = lock(&self.tree).note_slow(&prefix);
                        if is_first && not_yet.is_err() {
                            self.list_to_the_end(client, &prefix);
                        }
                        return file_alone(client, key).await;
                    }
                }
            }
        };
        Ok(match listing.get(name) {
            Some(Child::File(facts)) => Some(Arc::clone(facts)),
            Some(Child::Directory) | None => None,
        })
    }

    /// Has the directory `prefix` listed however large it is, for those who come later.
    fn list_to_the_end(self: &Arc<Self>, client: &Client, prefix: &Arc<str>) {
        let mut flight = self.join_flight(client, prefix);
        // As long as this waits, somebody does.
        drop(tokio_uring::spawn(async move {
            drop(flight.news.wait_for(News::is_end).await);
        }));
    }

    /// The storage class of the file `key`, if it is known and not STANDARD.
    pub(crate) fn storage_class(&self, key: &str) -> Option<Box<str>> {
        lock(&self.tree).facts_of(key)?.storage_class.clone()
    }

    /// See [`Tree::inodes_of`].
    pub(crate) fn inodes_of(&self, is_meant: impl Fn(&str) -> bool) -> Vec<u64> {
        lock(&self.tree).inodes_of(is_meant)
    }

    /// The inode number a listed child has or would get; for READDIR.
    pub(crate) fn ino_of(&self, prefix: &str, name: &str, child: &Child) -> u64 {
        lock(&self.tree).ino_of(prefix, name, child)
    }

    /// How long entries that S3 was asked for at `listed_at` can still be believed (zero: no longer).
    pub(crate) fn entry_ttl(&self, listed_at: Instant) -> Duration {
        lock(&self.tree).entry_ttl(listed_at, Instant::now()).unwrap_or_default()
    }

    fn count_sizes(&self, tree: &Tree) {
        let (inodes, listed) = tree.sizes();
        self.counters.inodes.set(i64::try_from(inodes).unwrap_or(i64::MAX));
        self.counters.listed_names.set(i64::try_from(listed).unwrap_or(i64::MAX));
    }

    /// Answers a LOOKUP of `name` in the directory `parent`, asking S3 if nothing fresh is known.
    pub(crate) async fn lookup(
        self: &Arc<Self>,
        client: &Client,
        parent: u64,
        name: &[u8],
    ) -> Result<Lookup, NamespaceError> {
        let Ok(name) = std::str::from_utf8(name) else {
            return Ok(Lookup::Absent(self.negative_ttl));
        };
        if names::check_component(name).is_err() {
            return Ok(Lookup::Absent(self.negative_ttl));
        }
        let plan = lock(&self.tree).lookup(parent, name, Instant::now())?;
        let prefix = match plan {
            LookupPlan::Found(entered) => {
                self.counters.lookups_known.inc();
                return Ok(Lookup::Found(entered));
            }
            LookupPlan::Absent(ttl) => {
                self.counters.lookups_known.inc();
                return Ok(Lookup::Absent(ttl));
            }
            LookupPlan::Relist(prefix) => {
                self.counters.lookups_asked.inc();
                match Box::pin(self.list_anew(client, &prefix)).await {
                    Ok(listing) => return Ok(self.look_into(&listing, &prefix, name)),
                    // It has grown beyond what is remembered.
                    Err(NamespaceError::TooManyEntries { .. }) => prefix,
                    Err(error) => return Err(error),
                }
            }
            LookupPlan::Ask(prefix) => prefix,
        };
        self.counters.lookups_asked.inc();
        if lock(&self.tree).is_worth_listing(&prefix) {
            drop(self.join_flight(client, &prefix));
        }
        let asked_at = Instant::now();
        // Boxed, as most lookups never get here and their tasks should stay small.
        let child = Box::pin(ask(client, &format!("{prefix}{name}"))).await?;
        let mut tree = lock(&self.tree);
        tree.learn(&prefix, name, child.clone(), asked_at);
        let answer = match child {
            Some(child) => Lookup::Found(tree.enter(&prefix, name, &child, self.entry_ttl)),
            None => Lookup::Absent(self.negative_ttl),
        };
        self.count_sizes(&tree);
        Ok(answer)
    }

    fn look_into(&self, listing: &Listing, prefix: &str, name: &str) -> Lookup {
        match listing.get(name) {
            Some(child) => {
                Lookup::Found(self.enter(prefix, name, child, self.entry_ttl(listing.listed_at)))
            }
            None => Lookup::Absent(self.negative_ttl),
        }
    }

    /// The entries of the directory `prefix`, to be read from the first to the last: those of a listing
    /// that can still be believed, or of a new one, once its first page has come.
    pub(crate) async fn entries(
        self: &Arc<Self>,
        client: &Client,
        prefix: &Arc<str>,
    ) -> Result<Entries, NamespaceError> {
        let is_large = {
            let mut tree = lock(&self.tree);
            let listing = tree.fresh_listing(prefix, Instant::now());
            if let Some(listing) = listing.filter(|listing| !listing.is_outdated()) {
                return Ok(Entries::of_listing(Arc::clone(prefix), listing));
            }
            tree.is_large(prefix)
        };
        if is_large {
            return Ok(Entries::of_stream(Arc::clone(prefix)));
        }
        // A listing that nobody waited for may be given up at the moment it is joined.
        for _ in 0..2 {
            let mut flight = self.join_flight(client, prefix);
            let Ok(news) = flight.news.wait_for(News::is_some).await.map(|news| news.clone())
            else {
                break;
            };
            match news {
                News::Ended(Err(NamespaceError::Abandoned)) => {}
                News::Ended(Ok(listing)) => {
                    return Ok(Entries::of_listing(Arc::clone(prefix), listing));
                }
                // The first entries are there all the same.
                News::Ended(Err(NamespaceError::TooManyEntries { .. }))
                | News::None
                | News::Entries => return Ok(Entries::of_flight(Arc::clone(prefix), flight)),
                News::Ended(Err(error)) => return Err(error),
            }
        }
        Err(NamespaceError::Abandoned)
    }

    /// All entries of the directory `prefix` by a listing that is under way or starts now, whatever
    /// is known: that a name exists is believed longer than that it does not.
    async fn list_anew(
        self: &Arc<Self>,
        client: &Client,
        prefix: &Arc<str>,
    ) -> Result<Arc<Listing>, NamespaceError> {
        // A listing that nobody waited for may be given up at the moment it is joined.
        for _ in 0..2 {
            let mut flight = self.join_flight(client, prefix);
            let news = flight.news.wait_for(News::is_end).await.map(|news| news.clone());
            match news {
                Ok(News::Ended(Err(NamespaceError::Abandoned))) => {}
                Ok(News::Ended(result)) => return result,
                _ => break,
            }
        }
        Err(NamespaceError::Abandoned)
    }

    /// The listing of `prefix` that is under way, started if there is none.
    fn join_flight(self: &Arc<Self>, client: &Client, prefix: &Arc<str>) -> Flight {
        let mut flights = lock(&self.flights);
        if let Some(flight) = flights.get(prefix) {
            return flight.clone();
        }
        let (sender, news) = watch::channel(News::None);
        let flight = Flight { arrived: Arc::default(), news, started_at: Instant::now() };
        flights.insert(Arc::clone(prefix), flight.clone());
        let landing = Landing { namespace: Arc::clone(self), prefix: Arc::clone(prefix) };
        let client = client.clone();
        let listing =
            Listed { arrived: Arc::clone(&flight.arrived), sender, started_at: flight.started_at };
        tokio_uring::spawn(async move {
            let result = landing.namespace.list_all(&client, &landing.prefix, &listing).await;
            // Off the board before the outcome is told, so that who comes later starts anew.
            drop(landing);
            listing.sender.send_replace(News::Ended(result));
        });
        flight
    }

    async fn list_all(
        &self,
        client: &Client,
        prefix: &Arc<str>,
        listed: &Listed,
    ) -> Result<Arc<Listing>, NamespaceError> {
        let mut pages = 0;
        let mut collector = Collector::new(Arc::clone(prefix));
        let mut walk = ListWalk::new(ListRequest {
            prefix: prefix.to_string(),
            delimiter: true,
            ..ListRequest::default()
        });
        loop {
            let page = client.list(walk.request()).await?;
            let settled = collector.add(&page).map_err(|_| NamespaceError::OutOfOrder)?;
            let goes_on = walk.advance(&page)?;
            listed.arrived(settled, goes_on);
            if collector.len() > self.entries_max {
                lock(&self.tree).note_large(prefix);
                let (prefix, entries_max) = (Arc::clone(prefix), self.entries_max);
                return Err(NamespaceError::TooManyEntries { prefix, entries_max });
            }
            if !goes_on {
                break;
            }
            pages += 1;
            if pages >= UNASKED_PAGES_MAX && !listed.is_awaited() {
                return Err(NamespaceError::Abandoned);
            }
        }
        let listing = Arc::new(listed.finish(collector.finish()));
        let (hidden, samples) = collector.hidden();
        if hidden > 0 {
            self.report_hidden(prefix, hidden, samples);
        }
        self.counters.listings.inc();
        let mut tree = lock(&self.tree);
        tree.keep_listing(prefix, &listing);
        self.count_sizes(&tree);
        Ok(listing)
    }

    fn report_hidden(&self, prefix: &str, hidden: u64, samples: &[(names::Hidden, String)]) {
        let first_time = self.counters.keys_hidden.get() == 0;
        self.counters.keys_hidden.add(hidden);
        if first_time {
            let samples: Vec<String> =
                samples.iter().map(|(why, key)| format!("{key:?} has {}", why.reason())).collect();
            warn!(
                prefix,
                hidden,
                examples = samples.join("; "),
                "keys cannot be file names and are hidden"
            );
        }
    }
}

/// A listing under way, as the task that lists sees it.
struct Listed {
    arrived: Arc<Mutex<Vec<Named>>>,
    sender: watch::Sender<News>,
    started_at: Instant,
}

impl Listed {
    /// One receiver is the board's own.
    fn is_awaited(&self) -> bool {
        self.sender.receiver_count() > 1
    }

    /// Tells readers of the entries of a page, unless it is the last, which is told as the end.
    fn arrived(&self, settled: Vec<Named>, goes_on: bool) {
        lock_entries(&self.arrived).extend(settled);
        if goes_on {
            self.sender.send_replace(News::Entries);
        }
    }

    /// What has arrived and `rest`, as a listing.
    fn finish(&self, rest: Vec<Named>) -> Listing {
        let mut entries = std::mem::take(&mut *lock_entries(&self.arrived));
        entries.extend(rest);
        Listing::new(entries, self.started_at)
    }
}

/// Takes a listing off the board of those under way, however its task ends.
struct Landing {
    namespace: Arc<Namespace>,
    prefix: Arc<str>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        lock(&self.namespace.flights).remove(&self.prefix);
    }
}

/// Asks S3 for the file `key` and nothing else.
async fn file_alone(client: &Client, key: &str) -> Result<Option<Arc<FileFacts>>, NamespaceError> {
    match client.head(key, Importance::Prefetch).await {
        Ok(object) => Ok(Some(Arc::new(FileFacts::from(&object)))),
        Err(S3Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Asks S3 what `key` is: an object, a directory, or nothing.
async fn ask(client: &Client, key: &str) -> Result<Option<Child>, S3Error> {
    let below =
        ListRequest { prefix: format!("{key}/"), keys_max: Some(1), ..ListRequest::default() };
    let (object, directory) =
        futures_util::join!(client.head(key, Importance::Demand), client.list(&below));
    let directory = directory?;
    if !directory.objects.is_empty() || !directory.common_prefixes.is_empty() {
        return Ok(Some(Child::Directory));
    }
    match object {
        Ok(object) => Ok(Some(Child::File(Arc::new(FileFacts::from(&object))))),
        Err(S3Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}
