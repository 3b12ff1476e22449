//! What the mount knows of names: inodes the kernel holds, cached listings, single answers.
//!
//! A pure decider: time is an argument and nothing here asks S3. [`super::Namespace`] does what it
//! says.
//!
//! Invariants:
//! - One inode per object version. A new version of a key is a new inode; the older one is marked
//!   superseded, so that opening it again sends the kernel back to look the name up.
//! - An inode lives as long as the kernel counts lookups on it; the root lives for ever.
//! - Nothing is believed longer than its time-out, counted from when S3 was asked; the kernel is
//!   given only what is left of it.
//! - Inode numbers are hashes of what they name, so that a later daemon can give the same ones.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::listing::{Child, FileFacts, Listing};

/// Inode number of the mount's root directory, fixed by the FUSE protocol.
pub(crate) const ROOT_INO: u64 = 1;

/// A listing with at most this many entries is fetched again when it has expired, rather than
/// asking for one name by HEAD and LIST: it costs no more requests and answers all its siblings.
const RELIST_ENTRIES_MAX: usize = 2_000;

/// Names of a directory asked for one by one before the whole is listed in the background.
const ASKS_BEFORE_LISTING: u32 = 4;

/// How long answers of S3 are believed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timeouts {
    /// A name that exists.
    pub(crate) entry: Duration,
    /// A name that does not exist.
    pub(crate) negative: Duration,
    /// The bucket never changes: everything is believed for ever.
    pub(crate) immutable: bool,
}

/// What the kernel is told of an immutable mount's time-outs.
const FOR_EVER: Duration = Duration::from_hours(365 * 24);

impl Timeouts {
    /// What is left of `timeout` for an answer of this age.
    fn left(self, timeout: Duration, age: Duration) -> Option<Duration> {
        if self.immutable {
            return Some(FOR_EVER);
        }
        timeout.checked_sub(age).filter(|left| !left.is_zero())
    }
}

/// What an inode stands for.
#[derive(Debug, Clone)]
pub(crate) enum Node {
    /// All keys that start with `prefix`, which is empty or ends with `/`.
    Directory {
        /// Bucket prefix of the directory.
        prefix: Arc<str>,
    },
    /// One version of one object.
    File {
        /// The object's key in the bucket.
        key: Arc<str>,
        /// The version.
        facts: Arc<FileFacts>,
    },
}

/// An inode with one lookup more than before.
#[derive(Debug, Clone)]
pub(crate) struct Entered {
    /// Its number.
    pub(crate) ino: u64,
    /// What it stands for.
    pub(crate) node: Node,
    /// How long the kernel may believe that the name leads here.
    pub(crate) entry_ttl: Duration,
}

/// What to do about a LOOKUP.
#[derive(Debug)]
pub(crate) enum LookupPlan {
    /// Answer with this; the lookup is counted.
    Found(Entered),
    /// Answer that the name does not exist, and that this is good for so long.
    Absent(Duration),
    /// List the directory again and look into that.
    Relist(Arc<str>),
    /// Ask S3 for the one name in the directory.
    Ask(Arc<str>),
}

/// Why an inode number led nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BadInode {
    /// The kernel holds no such inode, or it was superseded.
    Stale,
    /// It is a file where a directory is needed.
    NotADirectory,
    /// It is a directory where a file is needed.
    IsADirectory,
}

#[derive(Debug)]
struct Inode {
    node: Node,
    lookups: u64,
    superseded: bool,
}

#[derive(Debug)]
struct CachedListing {
    listing: Arc<Listing>,
    used: u64,
}

/// What is known of one name beside the listings.
#[derive(Debug, Clone)]
enum Answer {
    /// S3 was asked: there is this, or nothing.
    Asked(Option<Child>),
    /// What was known before is wrong.
    Distrusted,
}

#[derive(Debug)]
struct Point {
    answer: Answer,
    at: Instant,
}

/// See the module's text.
#[derive(Debug)]
pub(crate) struct Tree {
    timeouts: Timeouts,
    entries_max: usize,
    inodes: HashMap<u64, Inode>,
    current: HashMap<Arc<str>, u64>,
    listings: HashMap<Arc<str>, CachedListing>,
    listed_entries: usize,
    points: HashMap<Box<str>, Point>,
    asks: HashMap<Arc<str>, u32>,
    /// Directories whose listing took longer than somebody would wait.
    slow: HashSet<Arc<str>>,
    /// Directories with more names than are remembered.
    large: HashSet<Arc<str>>,
    uses: u64,
}

impl Tree {
    /// A tree that knows only its root, the directory `prefix`, and remembers at most
    /// `entries_max` listed names.
    pub(crate) fn new(prefix: Arc<str>, timeouts: Timeouts, entries_max: usize) -> Self {
        let root = Inode { node: Node::Directory { prefix }, lookups: 1, superseded: false };
        Self {
            timeouts,
            entries_max,
            inodes: HashMap::from([(ROOT_INO, root)]),
            current: HashMap::new(),
            listings: HashMap::new(),
            listed_entries: 0,
            points: HashMap::new(),
            asks: HashMap::new(),
            slow: HashSet::new(),
            large: HashSet::new(),
            uses: 0,
        }
    }

    /// What `ino` stands for.
    pub(crate) fn node(&self, ino: u64) -> Result<&Node, BadInode> {
        self.inodes.get(&ino).map(|inode| &inode.node).ok_or(BadInode::Stale)
    }

    /// The bucket prefix of the directory `ino`.
    pub(crate) fn directory(&self, ino: u64) -> Result<Arc<str>, BadInode> {
        match self.node(ino)? {
            Node::Directory { prefix } => Ok(Arc::clone(prefix)),
            Node::File { .. } => Err(BadInode::NotADirectory),
        }
    }

    /// The file to open as `ino`: refused once the name is known to lead to another version.
    pub(crate) fn file_to_open(&self, ino: u64) -> Result<(Arc<str>, Arc<FileFacts>), BadInode> {
        let inode = self.inodes.get(&ino).ok_or(BadInode::Stale)?;
        match &inode.node {
            Node::Directory { .. } => Err(BadInode::IsADirectory),
            Node::File { .. } if inode.superseded => Err(BadInode::Stale),
            Node::File { key, facts } => Ok((Arc::clone(key), Arc::clone(facts))),
        }
    }

    /// How to answer a LOOKUP of `name` in the directory `parent`.
    pub(crate) fn lookup(
        &mut self,
        parent: u64,
        name: &str,
        now: Instant,
    ) -> Result<LookupPlan, BadInode> {
        let prefix = self.directory(parent)?;
        let listed_at = self.listings.get(&prefix).map(|cached| cached.listing.listed_at);
        if let Some(point) = self.points.get(path_of(&prefix, name).as_str())
            && listed_at.is_none_or(|listed_at| listed_at <= point.at)
        {
            let Answer::Asked(child) = point.answer.clone() else {
                return Ok(LookupPlan::Ask(prefix));
            };
            let age = now.saturating_duration_since(point.at);
            let believed = self.believe((&prefix, name), child, age);
            return Ok(believed.unwrap_or(LookupPlan::Ask(prefix)));
        }
        let Some(listing) = self.cached_listing(&prefix) else {
            return Ok(LookupPlan::Ask(prefix));
        };
        let child = listing.get(name).cloned();
        let age = now.saturating_duration_since(listing.listed_at);
        let believed = self.believe((&prefix, name), child, age);
        Ok(believed.unwrap_or(if listing.entries().len() <= RELIST_ENTRIES_MAX {
            LookupPlan::Relist(prefix)
        } else {
            LookupPlan::Ask(prefix)
        }))
    }

    /// The answer made of what S3 said of a name so long ago, unless that is too long.
    fn believe(
        &mut self,
        (prefix, name): (&str, &str),
        child: Option<Child>,
        age: Duration,
    ) -> Option<LookupPlan> {
        let Some(child) = child else {
            return self.timeouts.left(self.timeouts.negative, age).map(LookupPlan::Absent);
        };
        let left = self.timeouts.left(self.timeouts.entry, age)?;
        Some(LookupPlan::Found(self.enter(prefix, name, &child, left)))
    }

    /// Counts that a name in `prefix` has to be asked for; true once, when so many were that a
    /// listing of the whole directory is likely to answer the next ones.
    pub(crate) fn is_worth_listing(&mut self, prefix: &Arc<str>) -> bool {
        let asks = self.asks.entry(Arc::clone(prefix)).or_default();
        *asks = asks.saturating_add(1);
        *asks == ASKS_BEFORE_LISTING && !self.large.contains(prefix)
    }

    /// What S3 said of the version that the name `key` leads to.
    pub(crate) fn facts_of(&self, key: &str) -> Option<&Arc<FileFacts>> {
        match &self.inodes.get(self.current.get(key)?)?.node {
            Node::File { facts, .. } => Some(facts),
            Node::Directory { .. } => None,
        }
    }

    /// The inodes of the files that `is_meant` says yes to, by their key.
    pub(crate) fn inodes_of(&self, is_meant: impl Fn(&str) -> bool) -> Vec<u64> {
        self.current.iter().filter(|(key, _)| is_meant(key)).map(|(_, ino)| *ino).collect()
    }

    /// Somebody has waited long enough for the listing of `prefix`; tells whether it is the first.
    pub(crate) fn note_slow(&mut self, prefix: &Arc<str>) -> bool {
        self.slow.insert(Arc::clone(prefix))
    }

    /// Whether somebody has, and it has not ended since.
    pub(crate) fn is_slow(&self, prefix: &str) -> bool {
        self.slow.contains(prefix)
    }

    /// The directory `prefix` has more names than are remembered.
    pub(crate) fn note_large(&mut self, prefix: &Arc<str>) {
        self.large.insert(Arc::clone(prefix));
    }

    /// Whether it had when it was last listed.
    pub(crate) fn is_large(&self, prefix: &str) -> bool {
        self.large.contains(prefix)
    }

    /// Remembers what S3 said of one name, asked at `asked_at`.
    pub(crate) fn learn(
        &mut self,
        prefix: &str,
        name: &str,
        child: Option<Child>,
        asked_at: Instant,
    ) {
        // A bound, not a policy: single answers are cheap to get again.
        if self.points.len() >= self.entries_max / 4 {
            self.points.clear();
            self.asks.clear();
            self.slow.clear();
            self.large.clear();
        }
        if let Some(CachedListing { listing, .. }) = self.listings.get(prefix)
            && listing.listed_at <= asked_at
            && listing.get(name).is_some() != child.is_some()
        {
            listing.set_outdated();
        }
        let point = Point { answer: Answer::Asked(child), at: asked_at };
        self.points.insert(path_of(prefix, name).into_boxed_str(), point);
    }

    /// The object behind `key` is not what it was: older answers of its name are not believed, and
    /// its inode cannot be opened again.
    pub(crate) fn distrust(&mut self, key: &str, now: Instant) {
        if let Some(inode) = self.current.get(key).and_then(|ino| self.inodes.get_mut(ino)) {
            inode.superseded = true;
        }
        self.points.insert(key.into(), Point { answer: Answer::Distrusted, at: now });
    }

    /// A finished listing of `prefix`, kept for later lookups within the bound.
    pub(crate) fn keep_listing(&mut self, prefix: &Arc<str>, listing: &Arc<Listing>) {
        self.drop_listing(prefix);
        self.slow.remove(prefix);
        self.large.remove(prefix);
        self.uses += 1;
        self.listed_entries += listing.entries().len() + 1;
        let cached = CachedListing { listing: Arc::clone(listing), used: self.uses };
        self.listings.insert(Arc::clone(prefix), cached);
        while self.listed_entries > self.entries_max {
            let oldest = self.listings.iter().min_by_key(|(_, cached)| cached.used);
            let Some(oldest) = oldest.map(|(prefix, _)| Arc::clone(prefix)) else { break };
            self.drop_listing(&oldest);
        }
    }

    /// Forgets the listing of `prefix`; names asked for one by one may bring it back.
    fn drop_listing(&mut self, prefix: &str) {
        self.asks.remove(prefix);
        if let Some(dropped) = self.listings.remove(prefix) {
            self.listed_entries -= dropped.listing.entries().len() + 1;
        }
    }

    /// The listing of `prefix` if it can still be believed.
    pub(crate) fn fresh_listing(&mut self, prefix: &str, now: Instant) -> Option<Arc<Listing>> {
        let listing = self.cached_listing(prefix)?;
        self.entry_ttl(listing.listed_at, now).map(|_| listing)
    }

    /// As [`Tree::fresh_listing`], with the prefix as it is kept.
    pub(crate) fn fresh_listing_at(
        &mut self,
        prefix: &str,
        now: Instant,
    ) -> Option<(Arc<str>, Arc<Listing>)> {
        let listing = self.fresh_listing(prefix, now)?;
        let (prefix, _) = self.listings.get_key_value(prefix)?;
        Some((Arc::clone(prefix), listing))
    }

    fn cached_listing(&mut self, prefix: &str) -> Option<Arc<Listing>> {
        self.uses += 1;
        let cached = self.listings.get_mut(prefix)?;
        cached.used = self.uses;
        Some(Arc::clone(&cached.listing))
    }

    /// How long entries that S3 was asked for at `listed_at` can still be believed; `None` if no longer.
    pub(crate) fn entry_ttl(&self, listed_at: Instant, now: Instant) -> Option<Duration> {
        self.timeouts.left(self.timeouts.entry, now.saturating_duration_since(listed_at))
    }

    /// Counts a lookup of the inode that `name` in `prefix` leads to, making it if need be.
    pub(crate) fn enter(
        &mut self,
        prefix: &str,
        name: &str,
        child: &Child,
        entry_ttl: Duration,
    ) -> Entered {
        let ino = self.ino_of(prefix, name, child);
        if let Some(inode) = self.inodes.get_mut(&ino) {
            inode.lookups += 1;
            // The name leads here again: an object was replaced, and then put back.
            inode.superseded = false;
            let node = inode.node.clone();
            self.make_current(&node, ino);
            return Entered { ino, node, entry_ttl };
        }
        let node = match child {
            Child::Directory => Node::Directory { prefix: format!("{prefix}{name}/").into() },
            Child::File(facts) => {
                Node::File { key: format!("{prefix}{name}").into(), facts: Arc::clone(facts) }
            }
        };
        self.make_current(&node, ino);
        self.inodes.insert(ino, Inode { node: node.clone(), lookups: 1, superseded: false });
        Entered { ino, node, entry_ttl }
    }

    fn make_current(&mut self, node: &Node, ino: u64) {
        let Node::File { key, .. } = node else { return };
        let before = self.current.insert(Arc::clone(key), ino);
        if let Some(before) = before.filter(|before| *before != ino)
            && let Some(inode) = self.inodes.get_mut(&before)
        {
            inode.superseded = true;
        }
    }

    /// The number that the child has, or would get.
    pub(crate) fn ino_of(&self, prefix: &str, name: &str, child: &Child) -> u64 {
        let mut ino = hash_of(prefix, name, child);
        // Two names with one hash are told apart by the next free number.
        while ino <= ROOT_INO
            || self.inodes.get(&ino).is_some_and(|inode| !names(&inode.node, prefix, name, child))
        {
            ino = mix(ino.wrapping_add(1));
        }
        ino
    }

    /// The kernel gives back `lookups` lookups of `ino`.
    pub(crate) fn forget(&mut self, ino: u64, lookups: u64) {
        if ino == ROOT_INO {
            return;
        }
        let Some(inode) = self.inodes.get_mut(&ino) else { return };
        inode.lookups = inode.lookups.saturating_sub(lookups);
        if inode.lookups > 0 {
            return;
        }
        if let Some(Inode { node: Node::File { key, .. }, .. }) = self.inodes.remove(&ino)
            && self.current.get(&key) == Some(&ino)
        {
            self.current.remove(&key);
        }
    }

    /// Inodes the kernel holds, and listed names in memory.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.inodes.len(), self.listed_entries)
    }
}

fn path_of(prefix: &str, name: &str) -> String {
    format!("{prefix}{name}")
}

/// Whether `node` is what `name` in `prefix` leads to.
fn names(node: &Node, prefix: &str, name: &str, child: &Child) -> bool {
    match (node, child) {
        (Node::Directory { prefix: own }, Child::Directory) => {
            own.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('/')) == Some(name)
        }
        (Node::File { key, facts }, Child::File(child)) => {
            key.strip_prefix(prefix) == Some(name)
                && facts.etag == child.etag
                && facts.size_bytes == child.size_bytes
                // Without an ETag the time is all that tells versions apart.
                && (!facts.etag.is_empty()
                    || facts.modified_unix_seconds == child.modified_unix_seconds)
        }
        _ => false,
    }
}

/// FNV-1a over what an inode stands for (Fowler, Noll, Vo; 64-bit parameters of RFC 9923), mixed.
fn hash_of(prefix: &str, name: &str, child: &Child) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut add = |bytes: &[u8]| {
        for byte in bytes {
            hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    add(prefix.as_bytes());
    add(name.as_bytes());
    match child {
        Child::Directory => add(b"/"),
        Child::File(facts) => {
            add(b"\0");
            add(facts.etag.as_bytes());
            add(&facts.size_bytes.to_le_bytes());
            if facts.etag.is_empty() {
                add(&facts.modified_unix_seconds.to_le_bytes());
            }
        }
    }
    mix(hash)
}

/// The finaliser of `SplitMix64` (Steele, Lea, Flood 2014).
fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use super::super::listing::Collector;
    use super::*;
    use tenderfs_s3client::{ListPage, ListedObject};

    const ENTRY: Duration = Duration::from_mins(1);
    const NEGATIVE: Duration = Duration::from_secs(5);

    fn tree() -> Tree {
        let timeouts = Timeouts { entry: ENTRY, negative: NEGATIVE, immutable: false };
        Tree::new("data/".into(), timeouts, 1_000)
    }

    fn file(etag: &str) -> Child {
        Child::File(Arc::new(FileFacts {
            etag: etag.into(),
            size_bytes: 5,
            modified_unix_seconds: 0,
            storage_class: None,
        }))
    }

    fn listing(prefix: &str, names: &[&str], now: Instant) -> Arc<Listing> {
        let mut collector = Collector::new(prefix.into());
        let object = |name: &&str| ListedObject {
            key: format!("{prefix}{name}"),
            etag: "\"1\"".to_owned(),
            size_bytes: 5,
            modified: std::time::UNIX_EPOCH,
            storage_class: None,
        };
        let objects = names.iter().map(object).collect();
        let mut entries = collector.add(&ListPage { objects, ..ListPage::default() }).unwrap();
        entries.extend(collector.finish());
        Arc::new(Listing::new(entries, now))
    }

    #[track_caller]
    fn found(plan: Result<LookupPlan, BadInode>) -> Entered {
        match plan {
            Ok(LookupPlan::Found(entered)) => entered,
            other => panic!("expected a find, got {other:?}"),
        }
    }

    #[test]
    fn a_listing_is_outdated_once_a_name_is_known_to_have_come_or_gone() {
        let (mut tree, start) = (tree(), Instant::now());
        let (root, later): (Arc<str>, _) = ("data/".into(), start + Duration::from_secs(1));
        for (name, child, is_outdated) in [
            ("a", Some(file("2")), false),
            ("none", None, false),
            ("a", None, true),
            ("new", Some(file("1")), true),
        ] {
            tree.keep_listing(&root, &listing("data/", &["a", "b"], start));
            tree.learn("data/", name, child, later);
            let listing = tree.fresh_listing("data/", later).unwrap();
            assert_eq!(listing.is_outdated(), is_outdated, "{name}");
        }
    }

    #[test]
    fn a_listing_answers_lookups_until_its_timeout() {
        let (mut tree, start) = (tree(), Instant::now());
        let root: Arc<str> = "data/".into();
        assert!(matches!(tree.lookup(ROOT_INO, "a", start), Ok(LookupPlan::Ask(_))));
        tree.keep_listing(&root, &listing("data/", &["a", "b"], start));
        let later = start + Duration::from_secs(20);
        let entered = found(tree.lookup(ROOT_INO, "a", later));
        assert_eq!(entered.entry_ttl, Duration::from_secs(40));
        let soon = start + Duration::from_secs(2);
        assert!(
            matches!(tree.lookup(ROOT_INO, "zz", soon), Ok(LookupPlan::Absent(left)) if left == Duration::from_secs(3))
        );
        assert!(matches!(tree.lookup(ROOT_INO, "zz", later), Ok(LookupPlan::Relist(_))));
        assert!(matches!(tree.lookup(ROOT_INO, "a", start + ENTRY), Ok(LookupPlan::Relist(_))));
    }

    #[test]
    fn an_immutable_mount_never_asks_again() {
        let (mut tree, start) = (tree(), Instant::now());
        tree.timeouts.immutable = true;
        tree.keep_listing(&"data/".into(), &listing("data/", &["a"], start));
        let next_year = start + Duration::from_hours(400 * 24);
        found(tree.lookup(ROOT_INO, "a", next_year));
        assert!(matches!(tree.lookup(ROOT_INO, "b", next_year), Ok(LookupPlan::Absent(_))));
    }

    #[test]
    fn a_new_version_is_a_new_inode_and_the_old_one_cannot_be_opened() {
        let (mut tree, now) = (tree(), Instant::now());
        tree.learn("data/", "a", Some(file("\"1\"")), now);
        let old = found(tree.lookup(ROOT_INO, "a", now));
        tree.learn("data/", "a", Some(file("\"2\"")), now);
        let new = found(tree.lookup(ROOT_INO, "a", now));
        assert_ne!(old.ino, new.ino);
        assert_eq!(tree.file_to_open(old.ino).map(|_| ()), Err(BadInode::Stale));
        assert!(tree.file_to_open(new.ino).is_ok());
        tree.learn("data/", "a", Some(file("\"1\"")), now);
        assert_eq!(found(tree.lookup(ROOT_INO, "a", now)).ino, old.ino);
        assert!(tree.file_to_open(old.ino).is_ok());
    }

    #[test]
    fn a_distrusted_name_is_asked_for_although_it_was_listed() {
        let (mut tree, now) = (tree(), Instant::now());
        tree.keep_listing(&"data/".into(), &listing("data/", &["a", "b"], now));
        let entered = found(tree.lookup(ROOT_INO, "a", now));
        tree.distrust("data/a", now);
        assert_eq!(tree.file_to_open(entered.ino).map(|_| ()), Err(BadInode::Stale));
        assert!(matches!(tree.lookup(ROOT_INO, "a", now), Ok(LookupPlan::Ask(_))));
        found(tree.lookup(ROOT_INO, "b", now));
        let later = now + Duration::from_secs(1);
        tree.keep_listing(&"data/".into(), &listing("data/", &["a", "b"], later));
        found(tree.lookup(ROOT_INO, "a", later));
    }

    #[test]
    fn forgetting_every_lookup_leaves_only_the_root() {
        let (mut tree, now) = (tree(), Instant::now());
        let names: Vec<String> = (0..500).map(|index| format!("f{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        tree.keep_listing(&"data/".into(), &listing("data/", &names, now));
        let mut inos = Vec::new();
        for name in &names {
            inos.push(found(tree.lookup(ROOT_INO, name, now)).ino);
            inos.push(found(tree.lookup(ROOT_INO, name, now)).ino);
        }
        assert_eq!(tree.sizes().0, 501);
        for ino in inos {
            tree.forget(ino, 1);
        }
        tree.forget(ROOT_INO, 10);
        assert_eq!(tree.sizes().0, 1);
        assert!(tree.current.is_empty());
    }

    #[test]
    fn listings_beyond_the_bound_push_out_those_not_used() {
        let (mut tree, now) = (tree(), Instant::now());
        let names: Vec<String> = (0..400).map(|index| format!("f{index}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        for prefix in ["data/x/", "data/y/"] {
            tree.keep_listing(&prefix.into(), &listing(prefix, &names, now));
        }
        assert!(tree.fresh_listing("data/x/", now).is_some());
        tree.keep_listing(&"data/z/".into(), &listing("data/z/", &names, now));
        assert!(tree.fresh_listing("data/y/", now).is_none());
        assert!(tree.fresh_listing("data/x/", now).is_some());
        assert!(tree.sizes().1 <= 1_000);
    }

    #[test]
    fn a_directory_whose_names_are_asked_for_one_by_one_is_listed_once() {
        let mut tree = tree();
        let prefix: Arc<str> = "data/".into();
        let asks: Vec<bool> = (0..20).map(|_| tree.is_worth_listing(&prefix)).collect();
        assert_eq!(asks.iter().position(|worth| *worth), Some(3));
        assert_eq!(asks.iter().filter(|worth| **worth).count(), 1);
    }

    #[test]
    fn a_number_taken_by_another_name_is_not_given_twice() {
        let mut tree = tree();
        let ino = tree.ino_of("data/", "a", &Child::Directory);
        let node = Node::Directory { prefix: "data/other/".into() };
        tree.inodes.insert(ino, Inode { node, lookups: 1, superseded: false });
        let entered = tree.enter("data/", "a", &Child::Directory, ENTRY);
        assert_ne!(entered.ino, ino);
        assert_eq!(tree.enter("data/", "a", &Child::Directory, ENTRY).ino, entered.ino);
    }
}
