//! Filling the frames of a run of blocks from the source.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use crate::core::Core;
use crate::core::gather::Unanswered;
use crate::core::write::{WriteOrder, Written};
use crate::memory::NewBlock;
use crate::memory::frame::Filler;
use crate::memory::slot::{Block, Failure, Remedy};
use crate::object::Object;
use crate::source::{Class, SourceError, SourceErrorKind};
use crate::sums::SumsBuilder;

/// One block of a fill.
pub(crate) struct Part {
    pub(crate) block: Arc<Block>,
    pub(crate) filler: Filler,
    pub(crate) sums: SumsBuilder,
    pub(crate) budget: Option<OwnedSemaphorePermit>,
    /// What warming wants of the block's way to disk.
    pub(crate) order: Option<WriteOrder>,
}

impl Part {
    pub(crate) fn new(new: NewBlock, order: Option<WriteOrder>) -> Self {
        let NewBlock { block, filler, budget } = new;
        Self { block, filler, sums: SumsBuilder::default(), budget, order }
    }
}

/// Whether bytes that arrived were waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pushed {
    /// By nobody.
    Unawaited,
    /// By at least one reader, which was woken.
    Awaited,
}

/// Where a [`crate::Source`] puts the bytes of a fetch: the frames of its blocks, in order.
///
/// Whatever happens to the task that holds it, the blocks are settled: full, or failed with every
/// waiting reader told.
pub struct FillSink {
    core: Rc<Core>,
    object: Arc<Object>,
    parts: VecDeque<Part>,
    missing_bytes: u64,
    /// Tells that the first bytes have come, by its drop.
    unanswered: Option<Unanswered>,
}

impl FillSink {
    pub(crate) fn new(core: Rc<Core>, object: Arc<Object>, parts: Vec<Part>) -> Self {
        let missing_bytes = parts.iter().map(|part| part.filler.missing_bytes() as u64).sum();
        Self { core, object, parts: parts.into(), missing_bytes, unanswered: None }
    }

    /// Has `unanswered` dropped when the first bytes come, or the fill ends.
    pub(crate) fn answering(mut self, unanswered: Unanswered) -> Self {
        self.unanswered = Some(unanswered);
        self
    }

    /// Appends `bytes`; readers whose bytes have arrived are woken. An error if there are more
    /// bytes than were asked for: nothing behind the end is taken.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<Pushed, SourceError> {
        let mut pushed = Pushed::Unawaited;
        while !bytes.is_empty() {
            let room = self.room();
            let count = room.len().min(bytes.len());
            if count == 0 {
                let detail = format!("{} bytes more than were asked for", bytes.len());
                return Err(SourceError::new(SourceErrorKind::WrongAnswer, detail));
            }
            room[..count].copy_from_slice(&bytes[..count]);
            pushed = pushed.max(self.filled(count));
            bytes = &bytes[count..];
        }
        Ok(pushed)
    }

    /// Where the next bytes belong; empty once none is missing. [`FillSink::filled`] then tells how many
    /// of them have come.
    pub fn room(&mut self) -> &mut [u8] {
        self.parts.front_mut().map_or(&mut [], |part| part.filler.room())
    }

    /// The first `count` bytes of [`FillSink::room`] have arrived; readers who wait for them are woken.
    ///
    /// # Panics
    ///
    /// If there is not so much room.
    pub fn filled(&mut self, count: usize) -> Pushed {
        if count == 0 {
            return Pushed::Unawaited;
        }
        drop(self.unanswered.take());
        let part = self.parts.front_mut().unwrap_or_else(|| panic!("{count} bytes without room"));
        part.sums.update(&part.filler.room()[..count]);
        part.filler.advance(count);
        self.missing_bytes -= count as u64;
        self.core.counters().fetched_bytes.add(count as u64);
        if part.filler.missing_bytes() > 0 {
            return part.block.announce();
        }
        // The block is complete before its readers hear of it, so that whoever was served finds
        // its checksums.
        self.parts.pop_front().map_or(Pushed::Unawaited, |part| self.complete(part))
    }

    /// Bytes still to come.
    pub fn missing_bytes(&self) -> u64 {
        self.missing_bytes
    }

    /// Ends the fill with what the source said.
    pub(crate) fn settle(mut self, result: Result<(), SourceError>) -> Result<(), SourceError> {
        let result = match result {
            Ok(()) if self.missing_bytes > 0 => Err(SourceError::new(
                SourceErrorKind::WrongAnswer,
                format!("{} bytes less than were asked for", self.missing_bytes),
            )),
            other => other,
        };
        if let Err(error) = &result {
            self.fail(error, Remedy::Report);
        }
        result
    }

    fn complete(&self, part: Part) -> Pushed {
        let Part { block, filler, sums, budget, order } = part;
        filler.seal();
        block.set_sums(sums.finish());
        let pushed = block.announce();
        drop(budget);
        self.core.write_to_disk(block, &self.object, order);
        self.core.memory().frames_released();
        pushed
    }

    fn fail(&mut self, error: &SourceError, remedy: Remedy) {
        for Part { block, filler, budget, order, .. } in self.parts.drain(..) {
            // First out of the directory, so that a reader that is told starts anew.
            self.core.memory().discard(&block);
            let predicted = block.class() != Class::Demand;
            if predicted {
                self.core.counters().prefetch_failed_blocks.inc();
            }
            let remedy = if predicted { Remedy::Refetch } else { remedy };
            block.fail(Failure { error: error.clone(), remedy });
            if let Some(order) = order {
                order.end(Written::Failed(error.clone()));
            }
            drop((block, filler, budget));
        }
        self.core.memory().frames_released();
    }
}

impl Drop for FillSink {
    fn drop(&mut self) {
        if !self.parts.is_empty() {
            let error = SourceError::new(SourceErrorKind::Unavailable, "the fetch was abandoned");
            self.fail(&error, Remedy::Refetch);
        }
    }
}
