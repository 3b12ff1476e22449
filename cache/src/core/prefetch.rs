//! Predictions: started if there is room, never waited for.

use std::rc::Rc;
use std::sync::Arc;

use crate::block::{BlockRun, block_range, in_memory};
use crate::core::{Core, PrefetchOutcome};
use crate::memory::NewBlock;
use crate::memory::zones::Zone;
use crate::object::Object;
use crate::source::{Class, Source};

/// What became of one predicted block.
enum Predicted {
    Started(NewBlock),
    Known,
    Refused,
}

impl Core {
    /// See [`crate::CoreCache::prefetch`].
    pub(crate) fn prefetch<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        blocks: BlockRun,
        class: Class,
    ) -> PrefetchOutcome {
        // A prediction is one, whatever its caller calls it.
        let class = class.max(Class::InFile);
        let indices = blocks.below(object.block_count()).map(BlockRun::indices).unwrap_or_default();
        let mut started = Vec::new();
        let mut bytes = 0;
        let mut refused: u64 = 0;
        for index in indices {
            match self.predict(object, index, class) {
                Predicted::Started(new) => {
                    bytes += new.block.frame().len_bytes() as u64;
                    started.push(new);
                }
                Predicted::Known => self.counters().prefetch_duplicate_blocks.inc(),
                // The blocks behind it are further away: they would only take its place.
                Predicted::Refused => {
                    refused = u64::from(blocks.end().min(object.block_count()) - index);
                    break;
                }
            }
        }
        if refused > 0 {
            // Looking for a frame may have evicted blocks without making enough room.
            self.memory().frames_released();
        }
        self.counters().prefetch_refused_blocks.add(refused);
        self.counters().prefetch_issued_blocks.add(started.len() as u64);
        self.counters().prefetch_issued_bytes.add(bytes);
        match (bytes, refused) {
            (0, 0) => PrefetchOutcome::Known,
            (0, _) => PrefetchOutcome::Refused,
            _ => {
                self.bring(source, object, started, class);
                PrefetchOutcome::Started { bytes }
            }
        }
    }

    fn predict(&self, object: &Arc<Object>, index: u32, class: Class) -> Predicted {
        let id = object.block(index);
        if self.memory().has(id) {
            return Predicted::Known;
        }
        let len_bytes = in_memory(block_range(object.size_bytes(), index).len_bytes());
        let Some(budget) = self.memory().try_budget(len_bytes) else { return Predicted::Refused };
        let Some(frame) = self.memory().take_frame(len_bytes, Zone::Prefetch) else {
            return Predicted::Refused;
        };
        match self.memory().enter(id, frame, class) {
            Ok(new) => Predicted::Started(NewBlock { budget: Some(budget), ..new }),
            Err(_) => Predicted::Known,
        }
    }
}
