//! What could be had: a reader that knows the order and fetches it by many connections, without a file system, and
//! keeps whatever the job has not taken yet.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::future::try_join_all;

use super::epoch::{Epoch, Pace, compute};
use super::work::{Batch, Sample, Work};
use crate::compare::CompareError;
use crate::compare::gets::{ROOM_BYTES, client, fetch_range};
use crate::compare::lab::LabProcess;

/// Connections of the oracle.
pub(super) const CONNECTIONS: usize = 64;

/// The store and what is fetched of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Source<'a> {
    /// The store.
    pub(super) lab: &'a LabProcess,
    /// The data set.
    pub(super) work: &'a Work,
    /// In this order.
    pub(super) batches: &'a [Batch],
}

/// An epoch of the job with the oracle's workers.
pub(super) fn run(source: Source<'_>, pace: &Pace) -> Result<Epoch, CompareError> {
    let mut missing: Vec<usize> = pieces_of(source.batches);
    fetching(source, |fetched| {
        compute(missing.len(), pace, |number| {
            while missing[number] > 0 {
                missing[next(fetched)?] -= 1;
            }
            Ok(())
        })
    })
}

/// How long it takes to fetch everything as fast as it goes.
pub(super) fn time(source: Source<'_>) -> Result<Duration, CompareError> {
    let pieces: usize = pieces_of(source.batches).iter().sum();
    fetching(source, |fetched| {
        let started = Instant::now();
        for _ in 0..pieces {
            next(fetched)?;
        }
        Ok(started.elapsed())
    })
}

fn pieces_of(batches: &[Batch]) -> Vec<usize> {
    batches.iter().map(|batch| batch.pieces().len()).collect()
}

/// The batch of which a piece is there now.
fn next(fetched: &Receiver<Result<usize, CompareError>>) -> Result<usize, CompareError> {
    fetched.recv().unwrap_or_else(|_| unreachable!("all pieces are sent, or an error"))
}

/// Fetches all pieces, on as many threads as there are processors, while `take` takes them.
fn fetching<T>(
    source: Source<'_>,
    take: impl FnOnce(&Receiver<Result<usize, CompareError>>) -> Result<T, CompareError>,
) -> Result<T, CompareError> {
    let batches = source.batches.iter().enumerate();
    let pieces: Vec<(usize, Sample)> = batches
        .flat_map(|(number, batch)| batch.pieces().into_iter().map(move |piece| (number, piece)))
        .collect();
    let threads = thread::available_parallelism().map_or(1, usize::from).min(CONNECTIONS);
    let (turn, (sender, receiver)) = (AtomicUsize::new(0), channel());
    thread::scope(|scope| {
        for _ in 0..threads {
            let (sender, turn, pieces) = (sender.clone(), &turn, &pieces);
            scope.spawn(move || {
                let streams = CONNECTIONS / threads;
                if let Err(error) = fetch(source, (pieces, turn), streams, &sender) {
                    // Nobody hears it if the job has ended.
                    sender.send(Err(error)).ok();
                }
            });
        }
        drop(sender);
        let taken = take(&receiver);
        // Whoever still fetches ends with its piece.
        turn.store(pieces.len(), Ordering::Relaxed);
        taken
    })
}

fn fetch(
    source: Source<'_>,
    (pieces, turn): (&[(usize, Sample)], &AtomicUsize),
    streams: usize,
    fetched: &Sender<Result<usize, CompareError>>,
) -> Result<(), CompareError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let failed = |source| CompareError::Start { program: "a runtime".to_owned(), source };
    runtime.map_err(failed)?.block_on(async {
        let client = client(source.lab.plain()).await?;
        let stream = || async {
            let mut room = vec![0; ROOM_BYTES];
            while let Some((batch, piece)) = pieces.get(turn.fetch_add(1, Ordering::Relaxed)) {
                let object = &source.work.objects[piece.file];
                let named = (object.key.as_str(), object.content.len_bytes());
                fetch_range(&client, named, piece.range, &mut room).await?;
                // Nobody wants it if the job has ended.
                fetched.send(Ok(*batch)).ok();
            }
            Ok::<_, CompareError>(())
        };
        try_join_all((0..streams).map(|_| stream())).await.map(drop)
    })
}
