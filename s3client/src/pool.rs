//! One core's connections to the store: how many at once, which are kept, where they lead.
//!
//! Invariant: never more requests in flight than slots; never more connections kept than slots.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use url::Host;

use crate::addressing::Place;
use crate::bucket::Bucket;
use crate::connection::Connection;
use crate::error::{Deadline, Error};
use crate::gate::{Gate, Pass};
use crate::retry::Importance;

/// How long an idle connection is kept: less than the 5 s after which the most impatient servers
/// close one, so that a request rarely meets a dying connection.
const IDLE_MAX: Duration = Duration::from_secs(4);
/// How long an address found by name is used before the name is looked up again.
const ADDRESSES_MAX_AGE: Duration = Duration::from_secs(30);
/// Addresses of one name that are tried for one connection.
const ADDRESSES_TRIED: usize = 3;
/// Bytes of an unread body that are worth reading to keep its connection.
pub(crate) const LEFTOVER_BYTES_MAX: u64 = 64 << 10;
/// How long that reading may take.
const LEFTOVER_DEADLINE: Duration = Duration::from_millis(100);

/// One core's connections.
pub(crate) struct Pool {
    bucket: Arc<Bucket>,
    slots: Arc<Semaphore>,
    /// Slots that prefetches may take; the rest are always free for demand.
    prefetch_slots: Arc<Semaphore>,
    /// The longest idle first.
    idle: RefCell<Vec<Idle>>,
    known: RefCell<Option<Known>>,
    /// Spreads connections over the addresses of a name.
    turn: Cell<usize>,
}

struct Idle {
    connection: Connection,
    since: Instant,
    authority: String,
    leftover: Option<Leftover>,
}

/// What is still to be read of the last answer.
pub(crate) enum Leftover {
    /// A body in the hands of hyper.
    Body(Incoming),
    /// Bytes on the socket.
    Bare {
        /// How many.
        left_bytes: u64,
    },
}

/// The addresses of a name.
struct Known {
    name: String,
    addresses: Vec<SocketAddr>,
    since: Instant,
}

/// The right to have one request in flight.
pub(crate) struct Slot {
    _prefetch: Option<OwnedSemaphorePermit>,
    _connection: Option<OwnedSemaphorePermit>,
    _pass: Pass,
}

/// Which connection will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// A kept one, or a new one.
    Any,
    /// Only a new one.
    New,
}

impl Pool {
    pub(crate) fn new(bucket: Arc<Bucket>) -> Self {
        let slots = bucket.config().connections_max.min(Semaphore::MAX_PERMITS);
        let prefetch_slots = (slots - (slots / 4).max(1)).max(1);
        Self {
            bucket,
            slots: Arc::new(Semaphore::new(slots)),
            prefetch_slots: Arc::new(Semaphore::new(prefetch_slots)),
            idle: RefCell::new(Vec::new()),
            known: RefCell::new(None),
            turn: Cell::new(0),
        }
    }

    /// Waits for the right to make a request: a connection of this core, then the bucket's pace.
    pub(crate) async fn slot(&self, importance: Importance) -> Result<Slot, Error> {
        let waiting = Waiting::new(&self.bucket);
        // The semaphores are never closed, so both permits are always given.
        let prefetch = match importance {
            Importance::Prefetch => Arc::clone(&self.prefetch_slots).acquire_owned().await.ok(),
            Importance::Demand => None,
        };
        let connection = Arc::clone(&self.slots).acquire_owned().await.ok();
        let pass = Gate::pass(&self.bucket, importance).await?;
        drop(waiting);
        Ok(Slot { _prefetch: prefetch, _connection: connection, _pass: pass })
    }

    /// The right to make a request beside another one, if it can be had at once.
    pub(crate) fn spare_slot(&self) -> Option<Slot> {
        let connection = Arc::clone(&self.slots).try_acquire_owned().ok()?;
        let pass = Gate::spare_pass(&self.bucket)?;
        Some(Slot { _prefetch: None, _connection: Some(connection), _pass: pass })
    }

    /// A connection to `place`.
    pub(crate) async fn connection(
        &self,
        place: &Place,
        wanted: Wanted,
    ) -> Result<Connection, Error> {
        if wanted == Wanted::Any {
            while let Some(idle) = self.kept(place.authority()) {
                if let Some(connection) = revive(idle).await {
                    return Ok(connection);
                }
            }
        }
        let after = self.bucket.config().deadlines.connect;
        let opening = async {
            let addresses = match place.proxy() {
                Some(proxy) => self.addresses(proxy.host(), proxy.port(), &proxy.label()).await?,
                None => {
                    self.addresses(place.host_or_address(), place.port(), &place.label()).await?
                }
            };
            Connection::open(&self.bucket, place, &addresses).await
        };
        timeout(after, opening)
            .await
            .unwrap_or_else(|_| Err(Error::DeadlineExpired { deadline: Deadline::Connect, after }))
    }

    /// The connection to `authority` that was used last, if it is not too old.
    fn kept(&self, authority: &str) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let old = |kept: &Idle| kept.since.elapsed() >= IDLE_MAX || kept.authority != authority;
        idle.retain(|kept| !old(kept));
        idle.pop()
    }

    /// Keeps `connection` for the next request to `place`, after what is left of its last answer.
    pub(crate) fn keep(&self, connection: Connection, place: &Place, leftover: Option<Leftover>) {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|kept| kept.since.elapsed() < IDLE_MAX);
        if idle.len() < self.bucket.config().connections_max {
            let authority = place.authority().to_owned();
            idle.push(Idle { connection, since: Instant::now(), authority, leftover });
        }
    }

    /// The connection for a request that duplicates another one: if the store has several addresses, a
    /// new one, which leads to the next of them.
    pub(crate) fn for_duplicate(&self) -> Wanted {
        let has_others = |known: &Known| known.addresses.len() > 1;
        if self.known.borrow().as_ref().is_some_and(has_others) { Wanted::New } else { Wanted::Any }
    }

    /// Where `host` is, which `label` names. While its name cannot be looked up, the addresses known
    /// stay in use.
    async fn addresses(
        &self,
        host: &Host<String>,
        port: u16,
        label: &str,
    ) -> Result<Vec<SocketAddr>, Error> {
        let name = match host {
            Host::Ipv4(address) => return Ok(vec![SocketAddr::new((*address).into(), port)]),
            Host::Ipv6(address) => return Ok(vec![SocketAddr::new((*address).into(), port)]),
            Host::Domain(name) => name.as_str(),
        };
        if let Some(addresses) = self.known(name, |known| known.since.elapsed() < ADDRESSES_MAX_AGE)
        {
            return Ok(addresses);
        }
        let found = tokio::net::lookup_host((name, port)).await;
        match found.map(Iterator::collect::<Vec<_>>) {
            Ok(addresses) if !addresses.is_empty() => {
                let name = name.to_owned();
                *self.known.borrow_mut() = Some(Known { name, addresses, since: Instant::now() });
            }
            Ok(_) => {}
            Err(source) => {
                if self.known(name, |_| true).is_none() {
                    return Err(Error::Unreachable { endpoint: label.to_owned(), source });
                }
            }
        }
        Ok(self.known(name, |_| true).unwrap_or_default())
    }

    /// The addresses known of `name` if they are `good`, another one first each time.
    fn known(&self, name: &str, good: impl Fn(&Known) -> bool) -> Option<Vec<SocketAddr>> {
        let known = self.known.borrow();
        let known = known.as_ref().filter(|known| known.name == name && good(known))?;
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let first = turn % known.addresses.len().max(1);
        let around = known.addresses[first..].iter().chain(&known.addresses[..first]);
        Some(around.take(ADDRESSES_TRIED).copied().collect())
    }
}

/// The kept connection, if it still lives.
async fn revive(idle: Idle) -> Option<Connection> {
    let Idle { mut connection, leftover, .. } = idle;
    if let Some(leftover) = leftover {
        timeout(LEFTOVER_DEADLINE, read_away(&mut connection, leftover)).await.ok()??;
    }
    connection.is_alive().await.then_some(connection)
}

/// Reads what is left of the last answer; `None` if the connection breaks.
async fn read_away(connection: &mut Connection, leftover: Leftover) -> Option<()> {
    match leftover {
        Leftover::Body(mut body) => {
            while let Some(frame) = connection.frame(&mut body).await {
                frame.ok()?;
            }
        }
        Leftover::Bare { mut left_bytes } => {
            let mut room = vec![0; usize::try_from(left_bytes).ok()?];
            while left_bytes > 0 {
                let most = usize::try_from(left_bytes).ok()?;
                match connection.read(&mut room[..most]).await {
                    Ok(count) if count > 0 => left_bytes -= count as u64,
                    _ => return None,
                }
            }
        }
    }
    Some(())
}

/// Counts one waiter for as long as it waits, however it stops.
struct Waiting<'a>(&'a Bucket);

impl<'a> Waiting<'a> {
    fn new(bucket: &'a Bucket) -> Self {
        bucket.counters().waiting_for_connection.add(1);
        Self(bucket)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.counters().waiting_for_connection.add(-1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketConfig, CredentialSource, Credentials};

    async fn pool() -> Pool {
        let endpoint_url = Some("http://store.invalid".parse().unwrap());
        let config = BucketConfig { endpoint_url, ..BucketConfig::new("data") };
        let credentials = Credentials::resolve(CredentialSource::Anonymous).await.unwrap();
        Pool::new(Bucket::new(config, credentials).unwrap())
    }

    async fn addresses(pool: &Pool) -> Result<Vec<SocketAddr>, Error> {
        // RFC 6761 keeps the name from ever having an address.
        pool.addresses(&Host::Domain("store.invalid".to_owned()), 80, "the store").await
    }

    #[tokio::test]
    async fn while_a_name_cannot_be_looked_up_its_known_addresses_are_used_in_turn() {
        let pool = pool().await;
        let error = addresses(&pool).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        let known: Vec<SocketAddr> =
            (1..=3).map(|n| SocketAddr::from(([192, 0, 2, n], 80))).collect();
        let since = Instant::now().checked_sub(2 * ADDRESSES_MAX_AGE).unwrap();
        *pool.known.borrow_mut() =
            Some(Known { name: "store.invalid".to_owned(), addresses: known.clone(), since });
        let mut first = Vec::new();
        for _ in 0..known.len() {
            let found = addresses(&pool).await.unwrap();
            assert_eq!(found.len(), known.len());
            first.push(found[0]);
        }
        first.sort_unstable();
        assert_eq!(first, known, "connections are spread over all of them");
        assert_eq!(pool.for_duplicate(), Wanted::New);
    }

    #[tokio::test]
    async fn a_duplicate_for_a_store_of_one_address_may_take_a_kept_connection() {
        assert_eq!(pool().await.for_duplicate(), Wanted::Any);
    }
}
