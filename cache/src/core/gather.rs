//! Small reads of absent blocks that come at about the same time, on whatever core, become few
//! requests to the source.
//!
//! The first goes at once. What comes before its answer does is kept back for a moment and leaves as
//! runs of adjacent blocks, as Nagle's algorithm (RFC 896) does with small segments: a reader alone
//! waits for nothing, and a crowd pays a moment for half of its requests.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::block::{BlockRun, run_range};
use crate::core::Core;
use crate::fill::{FillSink, Part};
use crate::memory::NewBlock;
use crate::object::Object;
use crate::runs::coalesce;
use crate::source::{Class, Source};
use crate::version::ObjectId;

/// Longest read that is small: it waits for its part of a block, not for many blocks side by side.
pub(crate) const SMALL_READ_BYTES_MAX: u64 = 256 << 10;

/// How long a small read is kept back for others: little beside the answer of a store that is worth
/// fewer requests.
const KEPT_BACK: Duration = Duration::from_millis(1);

/// Blocks of one request: 8 MiB. More would let the readers of the last wait for all of them.
const GATHERED_BLOCKS_MAX: u32 = 2;

/// Absent blocks that small reads wait for, by object.
#[derive(Default)]
pub(crate) struct Gathering {
    objects: Mutex<HashMap<ObjectId, Gathered<NewBlock>>>,
}

impl Gathering {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectId, Gathered<NewBlock>>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The blocks of one object that are kept back, and how many requests have no answer yet.
#[derive(Debug)]
struct Gathered<T> {
    waiting: BTreeMap<u32, T>,
    unanswered: usize,
    is_timed: bool,
}

impl<T> Default for Gathered<T> {
    fn default() -> Self {
        Self { waiting: BTreeMap::new(), unanswered: 0, is_timed: false }
    }
}

/// What to do about blocks that were added.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Send what waits now.
    Send,
    /// Send what waits after [`KEPT_BACK`].
    SendSoon,
    /// Nothing: somebody will send it.
    Nothing,
}

impl<T> Gathered<T> {
    fn add(&mut self, blocks: impl IntoIterator<Item = (u32, T)>) -> Next {
        self.waiting.extend(blocks);
        if self.unanswered == 0 {
            return Next::Send;
        }
        let is_timed = std::mem::replace(&mut self.is_timed, true);
        if is_timed { Next::Nothing } else { Next::SendSoon }
    }

    /// All that waits, as runs that are to be asked for now.
    fn take(&mut self) -> Vec<Vec<T>> {
        self.is_timed = false;
        let runs = coalesce(self.waiting.keys().copied(), GATHERED_BLOCKS_MAX);
        let mut blocks = std::mem::take(&mut self.waiting).into_values();
        self.unanswered += runs.len();
        runs.iter().map(|run| blocks.by_ref().take(run.len_blocks() as usize).collect()).collect()
    }

    /// A run was answered; whether nothing is left to remember.
    fn answered(&mut self) -> bool {
        self.unanswered -= 1;
        self.unanswered == 0 && self.waiting.is_empty()
    }
}

impl Core {
    /// Has `new` blocks fetched that no tier has, together with those that other small reads of the
    /// object wait for.
    pub(crate) fn gather<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        new: Vec<NewBlock>,
    ) {
        let blocks = new.into_iter().map(|new| (new.block.id().index, new));
        let next = self.gathering().lock().entry(object.id()).or_default().add(blocks);
        match next {
            Next::Send => self.send_gathered(source, object),
            Next::SendSoon => {
                let (core, source, object) = (Rc::clone(self), source.clone(), Arc::clone(object));
                self.spawn(async move {
                    tokio::time::sleep(KEPT_BACK).await;
                    core.send_gathered(&source, &object);
                });
            }
            Next::Nothing => {}
        }
    }

    fn send_gathered<S: Source>(self: &Rc<Self>, source: &S, object: &Arc<Object>) {
        // What was kept back may have left with others meanwhile.
        let runs = self.gathering().lock().get_mut(&object.id()).map(Gathered::take);
        for run in runs.unwrap_or_default() {
            let first = run.first().map_or(0, |new| new.block.id().index);
            let parts: Vec<Part> = run.into_iter().map(|new| Part::new(new, None)).collect();
            let count = u32::try_from(parts.len()).unwrap_or(GATHERED_BLOCKS_MAX);
            let Some(blocks) = BlockRun::new(first..first + count) else { continue };
            let range = run_range(object.size_bytes(), blocks);
            let (core, source, object) = (Rc::clone(self), source.clone(), Arc::clone(object));
            let unanswered = Unanswered { core: Rc::clone(self), object: Arc::clone(&object) };
            let sink = FillSink::new(Rc::clone(self), Arc::clone(&object), parts);
            let sink = sink.answering(unanswered);
            self.spawn(async move {
                core.fetch_run(&source, &object, (range, Class::Demand), sink).await;
            });
        }
    }

    fn gathering(&self) -> &Gathering {
        &self.shared().gathering
    }
}

/// A run that was asked for; its drop tells that it was answered, or will not be.
pub(crate) struct Unanswered {
    core: Rc<Core>,
    object: Arc<Object>,
}

impl Drop for Unanswered {
    fn drop(&mut self) {
        let mut objects = self.core.gathering().lock();
        // Whatever waits is timed, and leaves by itself.
        if objects.get_mut(&self.object.id()).is_some_and(Gathered::answered) {
            objects.remove(&self.object.id());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn blocks(indices: &[u32]) -> Vec<(u32, u32)> {
        indices.iter().map(|index| (*index, *index)).collect()
    }

    #[test]
    fn the_first_goes_at_once_and_those_behind_it_together() {
        let mut gathered = Gathered::default();
        assert_eq!(gathered.add(blocks(&[7])), Next::Send);
        assert_eq!(gathered.take(), [[7]]);
        assert_eq!(gathered.add(blocks(&[3])), Next::SendSoon);
        assert_eq!(gathered.add(blocks(&[9])), Next::Nothing);
        assert_eq!(gathered.add(blocks(&[2, 8, 10])), Next::Nothing);
        assert_eq!(gathered.take(), [vec![2, 3], vec![8, 9], vec![10]]);
        assert_eq!(gathered.add(blocks(&[4])), Next::SendSoon);
        for _ in 0..4 {
            assert!(!gathered.answered());
        }
        assert_eq!(gathered.take(), [[4]]);
        assert!(gathered.answered());
    }

    #[test]
    fn a_reader_alone_is_never_kept_back() {
        let mut gathered = Gathered::default();
        for index in [5, 1, 6] {
            assert_eq!(gathered.add(blocks(&[index])), Next::Send);
            assert_eq!(gathered.take(), [[index]]);
            assert!(gathered.answered());
        }
    }
}
