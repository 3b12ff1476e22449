//! An epoch: workers that read batches ahead, and the job that takes one after the other and computes.
//!
//! Invariant: every sample is compared with its object's bytes by the worker that read it, on all sides alike.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::work::{Access, Batch, Sample, Work};
use crate::compare::CompareError;
use crate::compare::interrupt::Interrupt;

/// Bytes of one read of a checkpoint that is loaded at once.
const CHECKPOINT_READ_BYTES: usize = 16 << 20;

/// How the job goes.
#[derive(Debug, Clone)]
pub(super) struct Pace {
    /// How long a batch is computed.
    pub(super) compute: Duration,
    /// Batches that a worker has ready or under way.
    pub(super) ahead: usize,
    /// The user's wish to stop.
    pub(super) interrupt: Interrupt,
}

/// A batch as the job saw it; times are since the epoch's beginning.
#[derive(Debug, Clone, Copy)]
pub(super) struct Step {
    /// When it was asked for.
    pub(super) asked: Duration,
    /// When it was there.
    pub(super) ready: Duration,
    /// When it was computed.
    pub(super) done: Duration,
}

/// An epoch as the job saw it.
#[derive(Debug, Clone, Default)]
pub(super) struct Epoch {
    /// Its batches.
    pub(super) steps: Vec<Step>,
    /// How long the checkpoint beside it took to load, if there is one.
    pub(super) checkpoint: Option<Duration>,
}

impl Epoch {
    /// The wait for the first batch.
    pub(super) fn first_wait(&self) -> Duration {
        self.steps.first().map_or(Duration::ZERO, |step| step.ready)
    }

    /// The waits for all other batches.
    pub(super) fn stall(&self) -> Duration {
        self.steps.iter().skip(1).map(|step| step.ready.saturating_sub(step.asked)).sum()
    }

    /// From the first batch on, the percentage of the time in which there was something to compute.
    pub(super) fn utilisation_percent(&self) -> f64 {
        let compute: Duration =
            self.steps.iter().map(|step| step.done.saturating_sub(step.ready)).sum();
        let all = (compute + self.stall()).as_secs_f64();
        if all > 0.0 { 100.0 * compute.as_secs_f64() / all } else { 100.0 }
    }
}

/// Reads the batches below `root` with the workers of the load, and computes them.
pub(super) fn run(
    work: &Work,
    batches: &[Batch],
    root: &Path,
    pace: &Pace,
) -> Result<Epoch, CompareError> {
    let workers = batches.iter().map(|batch| batch.worker + 1).max().unwrap_or(0);
    thread::scope(|scope| {
        let checkpoint = work.checkpoint.as_ref().map(|object| {
            scope.spawn(move || load_checkpoint(&root.join(&object.key), &object.content))
        });
        let start = |number| {
            // One batch more is in the hands of a worker that cannot give it away.
            let (sender, receiver) = sync_channel(pace.ahead - 1);
            scope.spawn(move || worker(Reader::new(work, root), batches, number, &sender));
            receiver
        };
        let ready: Vec<Receiver<_>> = (0..workers).map(start).collect();
        let next = |number: usize| match ready[batches[number].worker].recv() {
            Ok(read) => read,
            Err(_) => unreachable!("a worker sends all its batches, or an error"),
        };
        let epoch = compute(batches.len(), pace, next);
        // Workers that wait to give away a batch end.
        drop(ready);
        let checkpoint = checkpoint.map(thread::ScopedJoinHandle::join);
        let checkpoint =
            checkpoint.map(|ended| ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        Ok(Epoch { checkpoint: checkpoint.transpose()?, ..epoch? })
    })
}

/// Takes `count` batches one after the other, each when `next` has it, and computes each for its time.
pub(super) fn compute(
    count: usize,
    pace: &Pace,
    mut next: impl FnMut(usize) -> Result<(), CompareError>,
) -> Result<Epoch, CompareError> {
    let started = Instant::now();
    let mut steps = Vec::with_capacity(count);
    for number in 0..count {
        pace.interrupt.check()?;
        let asked = started.elapsed();
        next(number)?;
        let ready = started.elapsed();
        pass(pace.compute);
        steps.push(Step { asked, ready, done: started.elapsed() });
    }
    Ok(Epoch { steps, checkpoint: None })
}

#[expect(clippy::disallowed_methods, reason = "an accelerator that computes is time that passes")]
fn pass(time: Duration) {
    thread::sleep(time);
}

/// Reads the batches of one worker until all are given away, one fails, or nobody wants them any more.
fn worker(
    mut reader: Reader<'_>,
    batches: &[Batch],
    number: usize,
    ready: &SyncSender<Result<(), CompareError>>,
) {
    for batch in batches.iter().filter(|batch| batch.worker == number) {
        let read = batch.samples.iter().try_for_each(|sample| reader.read(*sample));
        let failed = read.is_err();
        if ready.send(read).is_err() || failed {
            return;
        }
    }
}

/// A worker's way to its bytes.
#[derive(Debug)]
struct Reader<'a> {
    work: &'a Work,
    root: &'a Path,
    open: VecDeque<(usize, File)>,
    buffer: Vec<u8>,
}

impl<'a> Reader<'a> {
    fn new(work: &'a Work, root: &'a Path) -> Reader<'a> {
        Reader { work, root, open: VecDeque::new(), buffer: Vec::new() }
    }

    fn read(&mut self, sample: Sample) -> Result<(), CompareError> {
        let path = self.path(sample.file);
        let length = usize::try_from(sample.range.len_bytes()).unwrap_or(usize::MAX);
        self.buffer.resize(length, 0);
        self.fill(sample, &path).map_err(CompareError::file(&path))?;
        let content = &self.work.objects[sample.file].content;
        // A file that is longer than its object is wrong too.
        if self.buffer.len() == length && content.matches(sample.range.start(), &self.buffer) {
            return Ok(());
        }
        let (offset, len_bytes) = (sample.range.start(), sample.range.len_bytes());
        Err(CompareError::WrongBytes { path, offset, len_bytes })
    }

    fn fill(&mut self, sample: Sample, path: &Path) -> io::Result<()> {
        match self.work.access() {
            Access::Whole => {
                self.buffer.clear();
                File::open(path)?.read_to_end(&mut self.buffer).map(drop)
            }
            Access::Reopened => {
                let mut file = File::open(path)?;
                file.seek(SeekFrom::Start(sample.range.start()))?;
                file.read_exact(&mut self.buffer)
            }
            Access::Kept(most) => {
                let at = match self.open.iter().position(|(file, _)| *file == sample.file) {
                    Some(at) => at,
                    None => self.open(sample.file, path, most)?,
                };
                self.open[at].1.read_exact_at(&mut self.buffer, sample.range.start())
            }
        }
    }

    /// Opens a file that stays open, in place of the first one if there are too many; returns where it stands.
    fn open(&mut self, file: usize, path: &Path, most: usize) -> io::Result<usize> {
        if self.open.len() >= most {
            self.open.pop_front();
        }
        self.open.push_back((file, File::open(path)?));
        Ok(self.open.len() - 1)
    }

    fn path(&self, file: usize) -> PathBuf {
        self.root.join(&self.work.objects[file].key)
    }
}

/// Reads a file from its beginning to its end, compares it, and returns how long that took.
fn load_checkpoint(path: &Path, content: &tenderfs_lab::Content) -> Result<Duration, CompareError> {
    let started = Instant::now();
    let mut file = File::open(path).map_err(CompareError::file(path))?;
    let mut buffer = vec![0; CHECKPOINT_READ_BYTES];
    let mut offset = 0;
    loop {
        let count = file.read(&mut buffer).map_err(CompareError::file(path))?;
        let len_bytes = count as u64;
        let right = content.matches(offset, &buffer[..count]);
        if !right || (count == 0 && offset != content.len_bytes()) {
            return Err(CompareError::WrongBytes { path: path.to_owned(), offset, len_bytes });
        }
        if count == 0 {
            return Ok(started.elapsed());
        }
        offset += len_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::data::{Copied, copy};
    use crate::train::args::{Load, Settings};

    fn step(asked: u64, ready: u64, done: u64) -> Step {
        let [asked, ready, done] = [asked, ready, done].map(Duration::from_millis);
        Step { asked, ready, done }
    }

    #[test]
    fn utilisation_leaves_out_the_wait_for_the_first_batch_and_no_other() {
        let steps = vec![step(0, 500, 600), step(600, 600, 700), step(700, 900, 1000)];
        let epoch = Epoch { steps, checkpoint: None };
        assert_eq!(epoch.first_wait(), Duration::from_millis(500));
        assert_eq!(epoch.stall(), Duration::from_millis(200));
        assert!((epoch.utilisation_percent() - 60.0).abs() < 1e-9);
    }

    fn work(load: Load) -> Work {
        Work::new(Settings {
            load,
            seed: 3,
            files: 7,
            file_bytes: 50_000,
            sample_bytes: 7000,
            batch: 2,
            workers: 3,
            compute: None,
            link_rate: None,
        })
    }

    fn pace() -> Pace {
        let interrupt = Interrupt::watch().unwrap();
        Pace { compute: Duration::ZERO, ahead: 2, interrupt }
    }

    #[test]
    fn every_load_reads_its_files_and_notices_a_wrong_byte_and_a_longer_file() {
        for load in [Load::Shards, Load::Images, Load::Mds, Load::Records, Load::Checkpoint] {
            let (dir, work) = (tempfile::tempdir().unwrap(), work(load));
            copy(dir.path(), &work.objects, Copied::Bytes).unwrap();
            let batches = work.epoch(0);
            let run = || run(&work, &batches, dir.path(), &pace());
            assert_eq!(run().unwrap().steps.len(), batches.len());
            let path = dir.path().join(&work.objects[4].key);
            let file = File::options().read(true).write(true).open(&path).unwrap();
            if work.access() == Access::Whole {
                let end = file.metadata().unwrap().len();
                file.set_len(end + 1).unwrap();
                assert!(matches!(run(), Err(CompareError::WrongBytes { .. })), "{load:?}");
                file.set_len(end).unwrap();
            }
            let mut byte = [0];
            file.read_exact_at(&mut byte, 30_000).unwrap();
            file.write_all_at(&[!byte[0]], 30_000).unwrap();
            assert!(matches!(run(), Err(CompareError::WrongBytes { .. })), "{load:?}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_ends_the_epoch() {
        let (dir, work) = (tempfile::tempdir().unwrap(), work(Load::Images));
        let batches = work.epoch(0);
        let ended = run(&work, &batches, dir.path(), &pace());
        assert!(matches!(ended, Err(CompareError::File { .. })));
    }

    #[test]
    fn a_checkpoint_is_read_to_its_end_and_compared() {
        let dir = tempfile::tempdir().unwrap();
        let objects = &work(Load::Images).objects[..1];
        copy(dir.path(), objects, Copied::Bytes).unwrap();
        let path = dir.path().join(&objects[0].key);
        load_checkpoint(&path, &objects[0].content).unwrap();
        File::options().write(true).open(&path).unwrap().set_len(10_000).unwrap();
        let short = load_checkpoint(&path, &objects[0].content);
        assert!(matches!(short, Err(CompareError::WrongBytes { .. })));
    }
}
