//! Warming: bringing a whole object to disk.
//!
//! What is waited for, and in which order: first the backlog of the disk for a whole run, then its
//! frames, holding no pin meanwhile; then fills and writes, which wait for neither.

use std::rc::Rc;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::block::{BLOCK_BYTES, BlockRun, RUN_BLOCKS_MAX, block_range, in_memory};
use crate::core::read::Pins;
use crate::core::write::{WriteOrder, Written, backlog_granules};
use crate::core::{Core, Warmed};
use crate::error::ReadError;
use crate::fill::Part;
use crate::memory::gate::{Again, Line};
use crate::memory::zones::Zone;
use crate::memory::{NewBlock, buddy::GRANULE_BYTES};
use crate::object::Object;
use crate::source::{Class, Source};

/// Runs of one object that are warmed at once.
const RUNS_IN_FLIGHT: usize = 2;

/// How often a run is looked at anew because somebody else's fill of a block has failed, or
/// memory let go of it.
const ATTEMPTS_MAX: u32 = 4;

/// What is left to do for a run, and what was done.
struct RunState {
    /// Blocks that are neither where they belong nor given up.
    lacking: Vec<u32>,
    warmed: Warmed,
}

impl Core {
    /// See [`crate::CoreCache::warm`].
    pub(crate) async fn warm<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
    ) -> Result<Warmed, ReadError> {
        // Half the backlog at most, so that two runs are under way in the smallest arena too.
        let half_bytes = self.shared().write_backlog_bytes() / 2;
        let blocks = u32::try_from(half_bytes / BLOCK_BYTES).unwrap_or(u32::MAX);
        let blocks = blocks.clamp(1, RUN_BLOCKS_MAX);
        let count = object.block_count();
        let runs = (0..count)
            .step_by(blocks as usize)
            .filter_map(|first| BlockRun::new(first..first.saturating_add(blocks).min(count)));
        let mut results = stream::iter(runs)
            .map(|run| self.warm_run(source, object, run))
            .buffer_unordered(RUNS_IN_FLIGHT);
        let mut warmed = Warmed::default();
        while let Some(result) = results.next().await {
            let run = result?;
            warmed.fetched_bytes += run.fetched_bytes;
            warmed.skipped_bytes += run.skipped_bytes;
            warmed.memory_only_bytes += run.memory_only_bytes;
        }
        Ok(warmed)
    }

    async fn warm_run<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        run: BlockRun,
    ) -> Result<Warmed, ReadError> {
        let mut state = RunState { lacking: run.indices().collect(), warmed: Warmed::default() };
        for _ in 0..ATTEMPTS_MAX {
            self.skip_present(object, &mut state);
            if state.lacking.is_empty() {
                return Ok(state.warmed);
            }
            let granules = state.lacking.iter().map(|index| granules_of(object, *index)).sum();
            let backlog = Arc::clone(&self.shared().write_backlog);
            let permit = backlog.acquire_many_owned(granules).await.ok();
            let new = self.warm_frames(object, &state.lacking).await?;
            self.warm_absent(source, object, new, (permit, &mut state)).await?;
            self.warm_present(object, &mut state).await;
        }
        if state.lacking.is_empty() {
            return Ok(state.warmed);
        }
        Err(ReadError::Unstable { attempts: ATTEMPTS_MAX })
    }

    /// Crosses out what is on disk already, or without a disk tier, in memory.
    fn skip_present(&self, object: &Arc<Object>, state: &mut RunState) {
        let is_there = |index: u32| match self.disk() {
            Some(disk) => disk.has_block(object.id(), index),
            None => self.memory().is_full(object.block(index)),
        };
        let skipped = &mut state.warmed.skipped_bytes;
        state.lacking.retain(|index| {
            let there = is_there(*index);
            if there {
                *skipped += block_range(object.size_bytes(), *index).len_bytes();
            }
            !there
        });
    }

    /// Frames for those of `indices` that memory lacks; all or nothing, behind all readers.
    async fn warm_frames(
        &self,
        object: &Arc<Object>,
        indices: &[u32],
    ) -> Result<Vec<NewBlock>, ReadError> {
        if !self.memory().gate().is_closed_for(Line::Warm)
            && let Some(new) = self.try_warm_frames(object, indices)
        {
            return Ok(new);
        }
        self.memory().frames_released();
        let waiting = self.memory().gate().waiters();
        let Some(mut turn) = self.memory().gate().queue(Line::Warm) else {
            return Err(ReadError::Overloaded { waiting });
        };
        let mut again = Again::No;
        loop {
            turn.first(again).await;
            if let Some(new) = self.try_warm_frames(object, indices) {
                return Ok(new);
            }
            turn.gave_back();
            again = Again::AfterRelease;
        }
    }

    fn try_warm_frames(&self, object: &Arc<Object>, indices: &[u32]) -> Option<Vec<NewBlock>> {
        let mut frames = Vec::new();
        for index in indices {
            if !self.memory().has(object.block(*index)) {
                let len_bytes = in_memory(block_range(object.size_bytes(), *index).len_bytes());
                frames.push((*index, self.memory().take_frame(len_bytes, Zone::Prefetch)?));
            }
        }
        let enter = |(index, frame)| {
            self.memory().enter(object.block(index), frame, Class::Background).ok()
        };
        Some(frames.into_iter().filter_map(enter).collect())
    }

    /// Fetches `new` and waits until they are on disk. The first error is reported when all ended.
    async fn warm_absent<S: Source>(
        self: &Rc<Self>,
        source: &S,
        object: &Arc<Object>,
        new: Vec<NewBlock>,
        (mut permit, state): (Option<OwnedSemaphorePermit>, &mut RunState),
    ) -> Result<(), ReadError> {
        let mut waiting = Vec::new();
        let mut parts = Vec::new();
        for new in new {
            let index = new.block.id().index;
            let (done, end) = oneshot::channel();
            let granules = granules_of(object, index) as usize;
            let permit = permit.as_mut().and_then(|permit| permit.split(granules));
            parts.push(Part::new(new, Some(WriteOrder { permit, done })));
            waiting.push((index, end));
        }
        // What is left belongs to blocks that are here already and have another way.
        drop(permit);
        self.bring_parts(source, object, parts, Class::Background);
        let mut result = Ok(());
        for (index, end) in waiting {
            match end.await {
                Ok(Written::Failed(error)) => result = result.and(Err(error.into())),
                Ok(written) => state.settle(object, index, &written, Brought::Now),
                // The task was dropped: the block is lacking still.
                Err(_) => (),
            }
        }
        result
    }

    /// Waits for blocks that are in memory or on their way by somebody else, and has them written.
    async fn warm_present(self: &Rc<Self>, object: &Arc<Object>, state: &mut RunState) {
        for index in state.lacking.clone() {
            let mut pins = Pins::new(self);
            let Some(block) = self.memory().get(object.block(index)) else { continue };
            pins.push(Arc::clone(&block));
            if block.filled_to(block.frame().len_bytes()).await.is_err() {
                continue;
            }
            let (done, end) = oneshot::channel();
            self.write_to_disk(block, object, Some(WriteOrder { permit: None, done }));
            if let Ok(written) = end.await {
                state.settle(object, index, &written, Brought::Before);
            }
        }
    }
}

/// Whether warming itself brought a block.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Brought {
    Now,
    Before,
}

impl RunState {
    fn settle(&mut self, object: &Object, index: u32, written: &Written, brought: Brought) {
        let len_bytes = block_range(object.size_bytes(), index).len_bytes();
        match brought {
            Brought::Now => self.warmed.fetched_bytes += len_bytes,
            Brought::Before => self.warmed.skipped_bytes += len_bytes,
        }
        if matches!(written, Written::MemoryOnly) {
            self.warmed.memory_only_bytes += len_bytes;
        }
        self.lacking.retain(|lacking| *lacking != index);
    }
}

fn granules_of(object: &Object, index: u32) -> u32 {
    let len_bytes = in_memory(block_range(object.size_bytes(), index).len_bytes());
    debug_assert!(len_bytes.div_ceil(GRANULE_BYTES) <= backlog_granules(len_bytes) as usize);
    backlog_granules(len_bytes)
}
