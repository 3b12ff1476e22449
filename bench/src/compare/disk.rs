//! The disk tier: blocks that are on disk and not in memory, of an object that is not complete, so that the daemon has
//! to serve it. And the first byte of objects that are.
//!
//! Each round starts a new daemon: its memory is empty and nothing is verified yet, which is the hardest case.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::bars::DISK_FIRST_BYTE_MS;
use super::bench::Bench;
use super::caches;
use super::daemon::{Daemon, DiskTier, Setup};
use super::data::{Copied, Object, Set, Source, sources};
use super::error::CompareError;
use super::files;
use super::programs;
use super::reads::{self, Order, Reading, Span, read};
use super::rounds::{Series, figure};
use crate::load::Caching;

const MIB: u64 = 1 << 20;
/// A block of the cache.
const BLOCK_BYTES: u64 = 4 * MIB;
/// The part of the object at its end that is left out: one in so many, which is more than is ever read ahead of a reader, so
/// that it stays incomplete.
const MISSING_PART: u64 = 4;
/// Passes until every block is on disk.
pub(super) const FILLS_MAX: usize = 5;
/// A granule: the least that is read from disk and verified.
const GRANULE_BYTES: u64 = 64 << 10;
/// A small read.
const SMALL_BYTES: u64 = 16 << 10;
/// Readers, and reads in flight of fio.
const READERS: usize = 8;
/// Longest measurement.
const READ_FOR: Duration = Duration::from_secs(2);
/// The least memory that serves two cores well.
const MEMORY_MIB: u64 = 512;

/// One incomplete object in the cache.
struct Scene {
    setup: Setup,
    /// The object on the mount, without the part that is missing.
    present: Vec<Source>,
    /// Its file in the cache.
    file: PathBuf,
    /// Bytes that the daemon read from disk for each byte that readers got, in the rounds of one row.
    from_disk: Series,
    requests: f64,
}

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    if bench.wants_some("disk.random") || bench.wants_some("disk.requests") {
        random(bench)?;
    }
    if bench.wants_some("disk.first-byte") {
        first_byte(bench)?;
    }
    Ok(())
}

fn setup(set: Set) -> Setup {
    Setup { set, disk_tier: DiskTier::On, memory_mib: MEMORY_MIB, without_passthrough: false }
}

fn random(bench: &mut Bench) -> Result<(), CompareError> {
    let rows = ["disk.random-4m.8", "disk.random-16k.8"];
    let mut scene = prepare(bench)?;
    if programs::version("fio").is_none() {
        bench.not_measured(&rows, "fio is not installed: apt-get install fio");
        return Ok(());
    }
    let (mut round, seed) = (0, bench.wanted.seed);
    bench.compare(
        rows[0],
        &mut scene,
        |bench, scene| {
            round += 1;
            scene.round(bench, (4 * MIB, 4 * MIB), seed << 8 | round).map(|took| took.0)
        },
        |_, scene| scene.fio(4 * MIB, seed).map(|took| took.gb_per_s()),
    )?;
    bench.record("disk.random-4m.from-disk", scene.from_disk.take_median(), 1.0);
    bench.compare(
        rows[1],
        &mut scene,
        |bench, scene| {
            round += 1;
            scene.round(bench, (SMALL_BYTES, GRANULE_BYTES), seed << 8 | round).map(|took| took.1)
        },
        |_, scene| scene.fio(GRANULE_BYTES, seed).map(|took| took.operations_per_s()),
    )?;
    let granule = figure(GRANULE_BYTES / SMALL_BYTES);
    bench.record("disk.random-16k.from-disk", scene.from_disk.take_median(), granule);
    bench.record("disk.requests", scene.requests, 0.0);
    let daemon = scene.start(bench)?;
    reads::verify(&scene.present)?;
    daemon.stop();
    Ok(())
}

/// Brings the object into the cache but for its end, and finds its file there.
fn prepare(bench: &Bench) -> Result<Scene, CompareError> {
    let objects = bench.objects(Set::Huge);
    bench.ground.clear_cache()?;
    let setup = setup(Set::Huge);
    let mut present = bench.mounted(&objects);
    for source in &mut present {
        let blocks = source.len_bytes / BLOCK_BYTES;
        source.len_bytes = (blocks - blocks / MISSING_PART) * BLOCK_BYTES;
    }
    fill(bench, &setup, &present)?;
    let cache = bench.ground.cache_dir();
    let found = largest_below(&cache).map_err(CompareError::file(&cache))?;
    let file = found.map(|(_, path)| path).ok_or(CompareError::Waited {
        seconds: 0,
        what: "a file of the object in the cache folder",
    })?;
    Ok(Scene { setup, present, file, from_disk: Series::default(), requests: 0.0 })
}

/// Reads until a daemon with empty memory needs no request any more: blocks that were not written because too many
/// waited are fetched again by the next one.
fn fill(bench: &Bench, setup: &Setup, present: &[Source]) -> Result<(), CompareError> {
    for _ in 0..FILLS_MAX {
        bench.check_interrupt()?;
        let daemon = bench.ground.start(&bench.lab, setup)?;
        list(&bench.ground.mountpoint())?;
        bench.lab.clear_ledger()?;
        read(&Reading {
            sources: present,
            readers: 1,
            chunk_bytes: BLOCK_BYTES,
            stride_bytes: BLOCK_BYTES,
            caching: Caching::Direct,
            order: Order::Sequential,
            span: Span::Pass,
        })?;
        let bytes = bench.lab.stats()?.body_bytes;
        daemon.wait_flushed()?;
        daemon.stop();
        if bytes == 0 {
            return Ok(());
        }
    }
    Err(CompareError::Waited { seconds: 0, what: "every block read to be on disk" })
}

impl Scene {
    /// A new daemon, with the object's name known to the kernel.
    fn start(&self, bench: &Bench) -> Result<Daemon, CompareError> {
        let daemon = bench.ground.start(&bench.lab, &self.setup)?;
        list(&bench.ground.mountpoint())?;
        Ok(daemon)
    }

    /// One round: bytes and reads a second of random reads.
    fn round(
        &mut self,
        bench: &Bench,
        (chunk_bytes, stride_bytes): (u64, u64),
        seed: u64,
    ) -> Result<(f64, f64), CompareError> {
        let daemon = self.start(bench)?;
        bench.lab.clear_ledger()?;
        let took = read(&Reading {
            sources: &self.present,
            readers: READERS,
            chunk_bytes,
            stride_bytes,
            caching: Caching::Direct,
            order: Order::Random(seed),
            span: Span::PassAtMost(READ_FOR),
        })?;
        self.requests += figure(bench.lab.stats()?.requests);
        let from_disk = daemon.metric("tenderfs_cache_disk_read_bytes_total", "")?;
        self.from_disk.push(from_disk / figure(took.bytes.max(1)));
        daemon.stop();
        Ok((took.gb_per_s(), took.operations_per_s()))
    }

    fn fio(&self, block_bytes: u64, seed: u64) -> Result<reads::Took, CompareError> {
        let file_bytes = self.present.iter().map(|source| source.len_bytes).sum();
        programs::fio(&self.file, (file_bytes, block_bytes), READERS, (READ_FOR, seed))
    }
}

/// The first bytes of objects that are on disk, of a daemon that has not seen them in its life.
fn first_byte(bench: &mut Bench) -> Result<(), CompareError> {
    let objects = bench.objects(Set::First);
    let mounted = bench.mounted(&objects);
    bench.ground.clear_cache()?;
    let setup = setup(Set::First);
    let daemon = bench.ground.start(&bench.lab, &setup)?;
    reads::verify(&mounted)?;
    daemon.wait_flushed()?;
    daemon.stop();
    let native = native(bench, &objects)?;
    let mut values = Series::default();
    bench.compare(
        "disk.first-byte.native",
        &mut values,
        |bench, values| {
            let figure = first_round(bench, &setup, &mounted)?;
            values.push(figure);
            Ok(figure)
        },
        |bench, _| {
            caches::drop_pages(&[bench.folder()])?;
            median_ms(&native)
        },
    )?;
    bench.against(("disk.first-byte", DISK_FIRST_BYTE_MS), &mut (), |bench, ()| {
        first_round(bench, &setup, &mounted)
    })
}

fn native(bench: &Bench, objects: &[Object]) -> Result<Vec<Source>, CompareError> {
    Ok(sources(&bench.native(Set::First, Copied::Bytes)?, objects))
}

fn first_round(bench: &Bench, setup: &Setup, mounted: &[Source]) -> Result<f64, CompareError> {
    let daemon = bench.ground.start(&bench.lab, setup)?;
    list(&bench.ground.mountpoint())?;
    caches::drop_pages(&[&bench.ground.cache_dir()])?;
    let figure = median_ms(mounted);
    daemon.stop();
    figure
}

/// The median time to the first bytes of a file.
fn median_ms(sources: &[Source]) -> Result<f64, CompareError> {
    let mut series = Series::default();
    for time in files::first_bytes(sources)? {
        series.push(time.as_secs_f64() * 1e3);
    }
    Ok(series.median())
}

/// Lists a folder of the mount, so that its names are known to daemon and kernel.
pub(super) fn list(folder: &Path) -> Result<usize, CompareError> {
    let mut count = 0;
    for entry in fs::read_dir(folder).map_err(CompareError::file(folder))? {
        let entry = entry.map_err(CompareError::file(folder))?;
        entry.metadata().map_err(CompareError::file(entry.path()))?;
        count += 1;
    }
    Ok(count)
}

/// The largest file below a folder.
fn largest_below(folder: &Path) -> std::io::Result<Option<(u64, PathBuf)>> {
    let mut largest = None;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            largest_below(&entry.path())?
        } else {
            Some((entry.metadata()?.len(), entry.path()))
        };
        largest = largest.max(found);
    }
    Ok(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_file_is_found_at_any_depth() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/b")).unwrap();
        assert_eq!(largest_below(dir.path()).unwrap(), None);
        for (name, len) in [("x", 3), ("a/y", 5), ("a/b/z", 4)] {
            fs::write(dir.path().join(name), vec![0; len]).unwrap();
        }
        let (len, path) = largest_below(dir.path()).unwrap().unwrap();
        assert_eq!((len, path), (5, dir.path().join("a/y")));
    }
}
