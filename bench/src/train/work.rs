//! What a job reads: its data set, and for each epoch the batches of its workers. All of it follows from the settings.
//!
//! Invariant: an epoch reads every byte of the data set once.

use std::collections::HashSet;
use std::fmt::Write as _;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tenderfs_byterange::ByteRange;
use tenderfs_lab::Content;

use super::args::{Load, Settings};
use crate::compare::data::Object;

/// The folder of the files.
pub(super) const FOLDER: &str = "train";
/// The checkpoint beside the images of [`Load::Mixed`].
const CHECKPOINT_KEY: &str = "model.ckpt";
const CHECKPOINT_BYTES: u64 = 512 << 20;
/// The least sample of a shard.
const SHARD_SAMPLE_BYTES_MIN: u64 = 4 << 10;

/// A read of a part of a file, or of all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Index of the object.
    pub(super) file: usize,
    /// Which bytes.
    pub(super) range: ByteRange,
}

/// Samples that one worker reads for one step of the job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    /// Who reads it.
    pub(super) worker: usize,
    /// In this order.
    pub(super) samples: Vec<Sample>,
}

/// How a worker comes to its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Open, read to the end, close.
    Whole,
    /// Open, seek, read, close for each sample.
    Reopened,
    /// The last so many files stay open.
    Kept(usize),
}

/// The data set of a job.
#[derive(Debug)]
pub(super) struct Work {
    settings: Settings,
    /// Its objects, the key of each the path of its file.
    pub(super) objects: Vec<Object>,
    /// A file that is loaded at once while an epoch begins; it is none of `objects`.
    pub(super) checkpoint: Option<Object>,
    samples: Vec<Sample>,
}

impl Work {
    /// The data set of these settings.
    pub(super) fn new(settings: Settings) -> Work {
        let mut rng = StdRng::seed_from_u64(settings.seed);
        let objects: Vec<Object> = (0..settings.files).map(|n| object(&settings, n)).collect();
        let mut samples = Vec::new();
        for (file, object) in objects.iter().enumerate() {
            let end = object.content.len_bytes();
            let mut start = 0;
            while let Some(range) = ByteRange::at(start, length(&settings, &mut rng, end - start)) {
                samples.push(Sample { file, range });
                start = range.end();
            }
        }
        let checkpoint = (settings.load == Load::Mixed).then(|| Object {
            key: CHECKPOINT_KEY.to_owned(),
            content: Content::seeded(settings.seed << 32 | u64::from(u32::MAX), CHECKPOINT_BYTES),
        });
        Work { settings, objects, checkpoint, samples }
    }

    /// How its files are read.
    pub(super) fn access(&self) -> Access {
        match self.settings.load {
            Load::Images | Load::Mixed => Access::Whole,
            Load::Mds => Access::Reopened,
            Load::Records => Access::Kept(usize::MAX),
            Load::Shards | Load::Checkpoint => Access::Kept(1),
        }
    }

    /// Every object, the checkpoint too.
    pub(super) fn every_object(&self) -> Vec<Object> {
        self.objects.iter().chain(&self.checkpoint).cloned().collect()
    }

    /// Bytes that an epoch reads.
    pub(super) fn len_bytes(&self) -> u64 {
        self.objects.iter().chain(&self.checkpoint).map(|object| object.content.len_bytes()).sum()
    }

    /// The batches of an epoch, in the order in which the job takes them.
    pub(super) fn epoch(&self, epoch: u32) -> Vec<Batch> {
        match self.settings.load {
            Load::Shards | Load::Checkpoint => self.by_shards(),
            Load::Images | Load::Mixed | Load::Mds | Load::Records => self.shuffled(epoch),
        }
    }

    /// Batch `k` is worker `k mod workers`'s, as in torch's `DataLoader` with a sampler.
    fn shuffled(&self, epoch: u32) -> Vec<Batch> {
        let Settings { seed, workers, batch, .. } = self.settings;
        let mut samples = self.samples.clone();
        samples.shuffle(&mut StdRng::seed_from_u64(seed << 32 | (u64::from(epoch) + 1)));
        let batches = samples.chunks(batch).enumerate();
        batches
            .map(|(k, samples)| Batch { worker: k % workers, samples: samples.to_vec() })
            .collect()
    }

    /// Each worker has its own files; the job takes from one after the other who has a batch left, as torch's
    /// `DataLoader` does with an iterable data set.
    fn by_shards(&self) -> Vec<Batch> {
        let Settings { workers, batch, .. } = self.settings;
        let of = |worker| {
            let mine = self.samples.iter().filter(move |sample| sample.file % workers == worker);
            mine.copied().collect::<Vec<Sample>>()
        };
        let streams: Vec<Vec<Sample>> = (0..workers).map(of).collect();
        let mut streams: Vec<_> = streams.iter().map(|stream| stream.chunks(batch)).collect();
        let mut batches = Vec::new();
        loop {
            let before = batches.len();
            for (worker, stream) in streams.iter_mut().enumerate() {
                let samples = stream.next().map(<[Sample]>::to_vec);
                batches.extend(samples.map(|samples| Batch { worker, samples }));
            }
            if batches.len() == before {
                return batches;
            }
        }
    }

    /// What is read in this order, as lines of a plan (`separator` a tab) or a manifest (a comma): parts of files where
    /// they are read in no order of their own, whole files otherwise.
    pub(super) fn lines(&self, batches: &[Batch], separator: char) -> String {
        let by_parts = matches!(self.settings.load, Load::Mds | Load::Records);
        let mut named = HashSet::new();
        let mut text = String::new();
        for Sample { file, range } in batches.iter().flat_map(|batch| &batch.samples) {
            let key = &self.objects[*file].key;
            let written = if by_parts {
                let (start, length) = (range.start(), range.len_bytes());
                writeln!(text, "{key}{separator}{start}{separator}{length}")
            } else if named.insert(*file) {
                writeln!(text, "{key}")
            } else {
                continue;
            };
            written.unwrap_or_else(|error| unreachable!("a string takes any text: {error}"));
        }
        text
    }
}

impl Batch {
    /// Its bytes, samples that lie one behind the other as one.
    pub(super) fn pieces(&self) -> Vec<Sample> {
        let mut pieces: Vec<Sample> = Vec::new();
        for sample in &self.samples {
            let joined = pieces.last_mut().filter(|last| {
                last.file == sample.file && last.range.end() == sample.range.start()
            });
            match joined {
                Some(last) => {
                    let both = ByteRange::new(last.range.start(), sample.range.end());
                    last.range = both.unwrap_or(last.range);
                }
                None => pieces.push(*sample),
            }
        }
        pieces
    }
}

fn object(settings: &Settings, number: u32) -> Object {
    let Settings { load, seed, file_bytes, .. } = *settings;
    let bytes = match load {
        // From three quarters to five quarters, so that no two follow each other in size.
        Load::Images | Load::Mixed => {
            let spread = (file_bytes / 2).max(1);
            file_bytes - file_bytes / 4 + u64::from(number) * 7919 % spread
        }
        Load::Shards | Load::Mds | Load::Records | Load::Checkpoint => file_bytes,
    };
    let content = Content::seeded(seed << 32 | u64::from(number), bytes);
    Object { key: format!("{FOLDER}/{number:06}"), content }
}

/// Bytes of the next sample of a file of which so many are left.
fn length(settings: &Settings, rng: &mut StdRng, left: u64) -> u64 {
    match settings.load {
        Load::Images | Load::Mixed => left,
        Load::Mds | Load::Records | Load::Checkpoint => settings.sample_bytes.min(left),
        Load::Shards => {
            let most = settings.sample_bytes.max(SHARD_SAMPLE_BYTES_MIN);
            rng.random_range(SHARD_SAMPLE_BYTES_MIN..=most).min(left)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn work(load: Load) -> Work {
        Work::new(Settings {
            load,
            seed: 3,
            files: 10,
            file_bytes: 100_000,
            sample_bytes: 7000,
            batch: 4,
            workers: 3,
            compute: None,
            link_rate: None,
        })
    }

    const LOADS: [Load; 6] =
        [Load::Shards, Load::Images, Load::Mds, Load::Records, Load::Checkpoint, Load::Mixed];

    #[test]
    fn an_epoch_reads_every_byte_once() {
        for load in LOADS {
            let work = work(load);
            let mut read: BTreeMap<(usize, u64), u64> = BTreeMap::new();
            for batch in work.epoch(1) {
                for Sample { file, range } in batch.samples {
                    assert_eq!(read.insert((file, range.start()), range.end()), None, "{load:?}");
                }
            }
            for (file, object) in work.objects.iter().enumerate() {
                let mut at = 0;
                while at < object.content.len_bytes() {
                    at = read.remove(&(file, at)).unwrap_or_else(|| panic!("{load:?} {file} {at}"));
                }
            }
            assert!(read.is_empty(), "{load:?}");
        }
    }

    #[test]
    fn shuffled_loads_have_another_order_each_epoch_and_shards_the_same() {
        for load in LOADS {
            let work = work(load);
            let ordered = matches!(load, Load::Shards | Load::Checkpoint);
            assert_eq!(work.epoch(0) == work.epoch(1), ordered, "{load:?}");
            assert_eq!(work.epoch(1), work.epoch(1));
        }
    }

    #[test]
    fn each_worker_reads_its_own_shards_in_order() {
        let batches = work(Load::Shards).epoch(0);
        for worker in 0..3 {
            let mine = batches.iter().filter(|batch| batch.worker == worker);
            let samples: Vec<_> = mine.flat_map(|batch| &batch.samples).collect();
            assert!(samples.iter().all(|sample| sample.file % 3 == worker));
            assert!(samples.is_sorted_by_key(|sample| (sample.file, sample.range.start())));
        }
        let workers: Vec<_> = batches.iter().take(4).map(|batch| batch.worker).collect();
        assert_eq!(workers, [0, 1, 2, 0]);
    }

    #[test]
    fn lines_name_parts_only_where_parts_are_read_out_of_order() {
        let images = work(Load::Images);
        let lines = images.lines(&images.epoch(0), '\t');
        assert_eq!(lines.lines().count(), 10);
        assert!(lines.lines().all(|line| line.starts_with("train/00000") && line.len() == 12));
        let mds = work(Load::Mds);
        let batches = mds.epoch(0);
        let Sample { file, range } = batches[0].samples[0];
        let first = format!("train/{file:06},{},{}", range.start(), range.len_bytes());
        assert_eq!(mds.lines(&batches, ',').lines().next(), Some(first.as_str()));
        assert_eq!(
            work(Load::Shards).lines(&work(Load::Shards).epoch(0), '\t').lines().count(),
            10
        );
    }

    #[test]
    fn pieces_of_a_batch_have_its_bytes() {
        for load in LOADS {
            for batch in work(load).epoch(0) {
                let bytes: u64 = batch.pieces().iter().map(|piece| piece.range.len_bytes()).sum();
                let read = batch.samples.iter().map(|sample| sample.range.len_bytes()).sum::<u64>();
                assert_eq!(bytes, read, "{load:?}");
            }
        }
        let shards = work(Load::Shards);
        assert!(shards.epoch(0)[0].pieces().len() == 1, "one behind the other");
    }
}
