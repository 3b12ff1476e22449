//! The entries of an open directory, as far as they are known when they are read.
//!
//! A directory is read from a listing at hand, or from one whose pages still come: what has come is
//! given to readers at once. A directory with more names than there is memory for is listed anew by
//! each handle, page by page, and only what was read last is kept.
//!
//! Invariant: an index means the same entry for as long as the directory is open.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use tenderfs_s3client::{Client, ListRequest, ListWalk};
use tokio::sync::watch;

use super::listing::{Collector, Listing, Named};
use super::{Child, NamespaceError};

/// What is told of a listing under way.
#[derive(Debug, Clone)]
pub(super) enum News {
    /// Nothing has come yet.
    None,
    /// Entries have come, and others will.
    Entries,
    /// It has ended.
    Ended(Result<Arc<Listing>, NamespaceError>),
}

impl News {
    pub(super) fn is_some(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended(_))
    }
}

/// A listing under way, as its readers see it.
#[derive(Debug, Clone)]
pub(super) struct Flight {
    /// What has come so far; moved into the listing at its end.
    pub(super) arrived: Arc<Mutex<Vec<Named>>>,
    pub(super) news: watch::Receiver<News>,
    /// When its first page was asked for.
    pub(super) started_at: Instant,
}

pub(super) fn lock_entries(arrived: &Mutex<Vec<Named>>) -> MutexGuard<'_, Vec<Named>> {
    arrived.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The entries of an open directory.
#[derive(Debug)]
pub(crate) struct Entries {
    prefix: Arc<str>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Listing(Arc<Listing>),
    Flight { flight: Flight, rest: OnceLock<tokio::sync::Mutex<Stream>> },
    Stream(tokio::sync::Mutex<Stream>),
}

impl Entries {
    /// Those of a listing at hand.
    pub(super) fn of_listing(prefix: Arc<str>, listing: Arc<Listing>) -> Self {
        Self { prefix, kind: Kind::Listing(listing) }
    }

    /// Those that a listing brings which is under way.
    pub(super) fn of_flight(prefix: Arc<str>, flight: Flight) -> Self {
        Self { prefix, kind: Kind::Flight { flight, rest: OnceLock::new() } }
    }

    /// Those of a directory that is too large to be remembered.
    pub(super) fn of_stream(prefix: Arc<str>) -> Self {
        let stream = Stream::new(Arc::clone(&prefix), 0, None);
        Self { prefix, kind: Kind::Stream(tokio::sync::Mutex::new(stream)) }
    }

    /// Bucket prefix of the directory.
    pub(crate) fn prefix(&self) -> &Arc<str> {
        &self.prefix
    }

    /// The listing, if the directory was opened with one that had ended.
    pub(crate) fn listing(&self) -> Option<&Arc<Listing>> {
        match &self.kind {
            Kind::Listing(listing) => Some(listing),
            Kind::Flight { .. } | Kind::Stream(_) => None,
        }
    }

    /// When S3 was asked for the entries; `None`: they are not remembered, nor should the kernel
    /// remember what they stand for.
    pub(crate) fn listed_at(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Listing(listing) => Some(listing.listed_at),
            Kind::Flight { flight, rest } => rest.get().is_none().then_some(flight.started_at),
            Kind::Stream(_) => None,
        }
    }

    /// Gives `take` the entries from `first` on that are known, at least one unless `first` is behind
    /// the last, until it returns false. Waits for S3 if it must.
    pub(crate) async fn read(
        &self,
        client: &Client,
        first: usize,
        mut take: impl FnMut(usize, &str, &Child) -> bool,
    ) -> Result<(), NamespaceError> {
        let (flight, rest) = match &self.kind {
            Kind::Listing(listing) => {
                give(listing.entries(), 0, first, take);
                return Ok(());
            }
            Kind::Stream(stream) => return stream.lock().await.read(client, first, take).await,
            Kind::Flight { flight, rest } => (flight, rest),
        };
        let mut news = flight.news.clone();
        loop {
            let last = news.borrow_and_update().clone();
            let error = match last {
                News::Ended(Ok(listing)) => {
                    give(listing.entries(), 0, first, take);
                    return Ok(());
                }
                News::Ended(Err(error)) => Some(error),
                News::None | News::Entries => None,
            };
            let known = {
                let arrived = lock_entries(&flight.arrived);
                give(&arrived, 0, first, &mut take);
                arrived.len()
            };
            if known > first {
                return Ok(());
            }
            match error {
                Some(NamespaceError::TooManyEntries { .. }) => {
                    let behind = || {
                        let arrived = lock_entries(&flight.arrived);
                        let last = arrived.last().map(|(name, child)| super::key_of(name, child));
                        let stream = Stream::new(Arc::clone(&self.prefix), arrived.len(), last);
                        tokio::sync::Mutex::new(stream)
                    };
                    let mut stream = rest.get_or_init(behind).lock().await;
                    return stream.read(client, first, take).await;
                }
                Some(error) => return Err(error),
                None if news.changed().await.is_err() => return Err(NamespaceError::Abandoned),
                None => {}
            }
        }
    }
}

/// Gives `take` those of `entries`, the first of which has the index `base`, from `first` on.
fn give(
    entries: &[Named],
    base: usize,
    first: usize,
    mut take: impl FnMut(usize, &str, &Child) -> bool,
) {
    for (place, (name, child)) in entries.iter().enumerate().skip(first.saturating_sub(base)) {
        if !take(base + place, name, child) {
            return;
        }
    }
}

/// The entries of a directory from some index on, listed as they are read.
#[derive(Debug)]
struct Stream {
    prefix: Arc<str>,
    /// Where it begins: the index, and the key that lies before it.
    base: usize,
    behind: Option<String>,
    walk: ListWalk,
    collector: Collector,
    /// Entries that may be asked for again, from the index `window_first` on.
    window: Vec<Named>,
    window_first: usize,
    has_ended: bool,
}

impl Stream {
    /// The entries of `prefix` behind the key `behind`, of which the first has the index `base`.
    fn new(prefix: Arc<str>, base: usize, behind: Option<String>) -> Self {
        let walk = ListWalk::new(ListRequest {
            prefix: prefix.to_string(),
            delimiter: true,
            start_after: behind.as_ref().map(|name| format!("{prefix}{name}")),
            ..ListRequest::default()
        });
        let collector = Collector::behind(Arc::clone(&prefix), behind.as_deref());
        Self {
            prefix,
            base,
            behind,
            walk,
            collector,
            window: Vec::new(),
            window_first: base,
            has_ended: false,
        }
    }

    async fn read(
        &mut self,
        client: &Client,
        first: usize,
        take: impl FnMut(usize, &str, &Child) -> bool,
    ) -> Result<(), NamespaceError> {
        if first < self.window_first {
            *self = Self::new(Arc::clone(&self.prefix), self.base, self.behind.take());
        }
        // The kernel asks again at most for what the last answer held.
        let read = (first - self.window_first).min(self.window.len());
        self.window.drain(..read);
        self.window_first += read;
        while self.window_first + self.window.len() <= first && !self.has_ended {
            let passed = self.window.len();
            self.window.clear();
            self.window_first += passed;
            let page = client.list(self.walk.request()).await?;
            let settled = self.collector.add(&page).map_err(|_| NamespaceError::OutOfOrder)?;
            self.window.extend(settled);
            if !self.walk.advance(&page)? {
                self.window.extend(self.collector.finish());
                self.has_ended = true;
            }
        }
        give(&self.window, self.window_first, first, take);
        Ok(())
    }
}
