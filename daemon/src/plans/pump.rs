//! Fetches what the plans of a mount name, on one core; several of these share the work.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tenderfs_cache::{BLOCK_BYTES, BlockRun, Class, Object, PrefetchOutcome};
use tracing::debug;

use super::entries::Span;
use super::{Plans, Ticket};
use crate::cores::Core;
use crate::engine::FILE_BLOCKS;
use crate::mount::Mount;
use crate::origin::Origin;

/// Entries that one core looks up at once: names that no listing covers take a request each.
const LOOKING_UP: usize = 16;

/// Blocks that one core fetches at once for plans; by 64 connections of 90 MB/s it would have 6 GB/s.
const UNDER_WAY_MAX: usize = 64;

/// How often an entry that found no room is tried again.
const ROOM_WAIT: Duration = Duration::from_millis(1);

/// How long one of those that look names up pauses after a name that could not be.
const STORE_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether a lease is over.
const LEASE_WAIT: Duration = Duration::from_secs(1);

/// How long an entry waits for the listing of its directory before its name is asked for alone.
const LISTING_WAIT: Duration = Duration::from_millis(50);

/// Fetches until it is dropped.
pub(crate) async fn run(core: Rc<Core>, mount: Arc<Mount>) {
    let pump = Pump {
        origin: core.origin(&mount),
        core,
        mount,
        under_way: RefCell::default(),
        turn: tokio::sync::Mutex::default(),
    };
    futures_util::future::join_all((0..LOOKING_UP).map(|_| pump.take_in_turn())).await;
}

struct Pump {
    core: Rc<Core>,
    mount: Arc<Mount>,
    origin: Origin,
    under_way: RefCell<UnderWay>,
    /// Held while an entry waits for room: who came first has it first.
    turn: tokio::sync::Mutex<()>,
}

impl Pump {
    fn plans(&self) -> &Plans {
        &self.mount.plans
    }

    async fn take_in_turn(&self) {
        loop {
            let changed = self.plans().changed.notified();
            if let Some(ticket) = self.plans().take() {
                self.fetch(&ticket).await;
                // What is known is fetched without waiting; others have taken earlier entries, and go first.
                tokio::task::yield_now().await;
                continue;
            }
            if self.plans().is_active() {
                if tokio::time::timeout(LEASE_WAIT, changed).await.is_err() {
                    self.plans().expire(Instant::now());
                }
            } else {
                changed.await;
            }
        }
    }

    async fn fetch(&self, ticket: &Ticket) {
        let namespace = &self.mount.namespace;
        let found = namespace.file(self.origin.client(), &ticket.key, LISTING_WAIT).await;
        let facts = match found {
            Ok(Some(facts)) => facts,
            Ok(None) => return self.plans().is_missing(ticket),
            Err(error) => {
                // Its reader will ask again, and hear of it.
                debug!(key = %ticket.key, %error, "a planned file could not be looked up");
                // A store that does not answer must not use up the plan.
                tokio::time::sleep(STORE_WAIT).await;
                return self.plans().give_up(ticket);
            }
        };
        let key = Arc::clone(&ticket.key);
        let object = self.core.version(&self.mount, key, &facts.etag, facts.size_bytes);
        let lacking: Vec<u32> =
            blocks_of(ticket.span, &object).filter(|block| !object.has_block(*block)).collect();
        let bytes = lacking.iter().map(|block| block_bytes(&object, *block)).sum();
        self.plans().hold(ticket, bytes, &object);
        let _turn = self.turn.lock().await;
        for block in lacking {
            while !self.start(&object, block) {
                tokio::time::sleep(ROOM_WAIT).await;
                if !self.plans().is_wanted(ticket) {
                    return;
                }
            }
        }
    }
}

impl Pump {
    /// Starts a fetch, if few enough are under way and it has room without taking the place of what
    /// nobody has read yet.
    fn start(&self, object: &Arc<Object>, block: u32) -> bool {
        let Some(run) = BlockRun::new(block..block + 1) else { return true };
        let cache = &self.core.cache;
        if !self.under_way.borrow_mut().has_room() || cache.prefetch_room_blocks() == 0 {
            return false;
        }
        match cache.prefetch(&self.origin, object, run, Class::Directory) {
            PrefetchOutcome::Refused => false,
            PrefetchOutcome::Known => true,
            PrefetchOutcome::Started { .. } => {
                self.under_way.borrow_mut().0.push((Arc::clone(object), block));
                true
            }
        }
    }
}

/// Blocks whose fetch was started. They are few: an entry that comes late, because its name took
/// long, or that a reader waits for already, has no long queue before it.
#[derive(Default)]
struct UnderWay(Vec<(Arc<Object>, u32)>);

impl UnderWay {
    fn has_room(&mut self) -> bool {
        if self.0.len() >= UNDER_WAY_MAX {
            // What is known and not ready is on its way; what has failed is not known.
            self.0.retain(|(object, block)| object.has_block(*block) && !object.is_ready(*block));
        }
        self.0.len() < UNDER_WAY_MAX
    }
}

/// The blocks to fetch for an entry.
fn blocks_of(span: Span, object: &Object) -> std::ops::Range<u32> {
    let wanted = match span {
        Span::Whole => 0..object.size_bytes(),
        Span::Part(range) => range.start()..range.end().min(object.size_bytes()),
    };
    if wanted.is_empty() {
        return 0..0;
    }
    let first = u32::try_from(wanted.start / BLOCK_BYTES).unwrap_or(u32::MAX);
    let end = u32::try_from(wanted.end.div_ceil(BLOCK_BYTES)).unwrap_or(u32::MAX);
    first..end.min(first.saturating_add(FILE_BLOCKS))
}

fn block_bytes(object: &Object, block: u32) -> u64 {
    BLOCK_BYTES.min(object.size_bytes() - u64::from(block) * BLOCK_BYTES)
}
