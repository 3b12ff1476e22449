//! Complete objects: everything is on disk and verified in this life, so the kernel can serve it by itself.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::bars::{HITS_GB_S, IDLE_CPU_PERCENT};
use super::bench::Bench;
use super::caches;
use super::daemon::{Daemon, DiskTier, Setup};
use super::data::{Copied, Set, Source, sources};
use super::error::CompareError;
use super::mapped;
use super::reads::{self, Order, Reading, Span, read};
use crate::load::Caching;

/// How each measurement reads.
const CHUNK_BYTES: u64 = 4 << 20;
/// Passes until everything is on disk and was opened again.
const SETTLING_PASSES: usize = 2;
/// Longest measurement with dropped caches.
const DROPPED_FOR: Duration = Duration::from_secs(1);

/// Both sides, and what the daemon spent.
struct Scene {
    daemon: Daemon,
    mounted: Vec<Source>,
    native: Vec<Source>,
    folders: [PathBuf; 3],
    spent: Spent,
}

#[derive(Debug, Default)]
struct Spent {
    cpu: Duration,
    wall: Duration,
}

impl Scene {
    fn prepare(bench: &Bench) -> Result<Scene, CompareError> {
        let objects = bench.objects(Set::Large);
        let root = bench.native(Set::Large, Copied::Bytes)?;
        bench.ground.clear_cache()?;
        let setup = Setup {
            set: Set::Large,
            disk_tier: DiskTier::On,
            memory_mib: 1024,
            without_passthrough: false,
        };
        let daemon = bench.ground.start(&bench.lab, &setup)?;
        let mounted = bench.mounted(&objects);
        for _ in 0..SETTLING_PASSES {
            bench.check_interrupt()?;
            reads::verify(&mounted)?;
            daemon.wait_flushed()?;
        }
        let native = sources(&root, &objects);
        let folders = [bench.ground.mountpoint(), bench.ground.cache_dir(), root];
        let scene = Scene { daemon, mounted, native, folders, spent: Spent::default() };
        // Both sides' pages come by reading: those left by writing a file lie in larger folios,
        // which a memory map touches at less cost.
        scene.drop_pages()?;
        reads::verify(&scene.mounted)?;
        reads::verify(&scene.native)?;
        Ok(scene)
    }

    fn drop_pages(&self) -> Result<(), CompareError> {
        let [mount, cache, native] = &self.folders;
        caches::drop_pages(&[mount, cache, native])
    }

    /// Measures on the mount, and what the daemon spends meanwhile.
    fn subject(
        &mut self,
        measure: impl FnOnce(&[Source]) -> Result<f64, CompareError>,
    ) -> Result<f64, CompareError> {
        let (cpu, started) = (self.daemon.cpu(), Instant::now());
        let figure = measure(&self.mounted)?;
        self.spent.wall += started.elapsed();
        self.spent.cpu += self.daemon.cpu().saturating_sub(cpu);
        Ok(figure)
    }
}

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    if !bench.wants_some("warm.") {
        return Ok(());
    }
    let mut scene = Scene::prepare(bench)?;
    for (name, readers) in [("warm.cached.1", 1), ("warm.cached.8", 8), ("warm.cached.32", 32)] {
        let span = Span::Repeat(bench.hits_for());
        let figure = move |sources: &[Source]| throughput(sources, readers, span);
        bench.compare(
            name,
            &mut scene,
            |_, scene| scene.subject(figure),
            |_, scene| figure(&scene.native),
        )?;
    }
    mapped_rows(bench, &mut scene)?;
    for (name, readers) in [("warm.dropped.1", 1), ("warm.dropped.8", 8), ("warm.dropped.32", 32)] {
        let span = Span::PassAtMost(DROPPED_FOR);
        let figure = move |sources: &[Source]| throughput(sources, readers, span);
        bench.compare(
            name,
            &mut scene,
            |_, scene| {
                scene.drop_pages()?;
                scene.subject(figure)
            },
            |_, scene| {
                scene.drop_pages()?;
                figure(&scene.native)
            },
        )?;
    }
    reads::verify(&scene.mounted)?;
    if !scene.spent.wall.is_zero() {
        let share = scene.spent.cpu.as_secs_f64() / scene.spent.wall.as_secs_f64() * 100.0;
        bench.record("warm.daemon-cpu", share, IDLE_CPU_PERCENT);
    }
    let absolute = [
        ("warm.absolute.1", "warm.cached.1", HITS_GB_S[0]),
        ("warm.absolute.32", "warm.cached.32", HITS_GB_S[1]),
    ];
    for (name, of, least) in absolute {
        if let Some(value) = bench.value(of) {
            bench.record(name, value, least);
        }
    }
    Ok(())
}

fn mapped_rows(bench: &mut Bench, scene: &mut Scene) -> Result<(), CompareError> {
    let rows = [
        ("warm.mmap.sequential", Order::Sequential),
        ("warm.mmap.random", Order::Random(bench.wanted.seed)),
    ];
    let limit = bench.hits_for();
    for (name, order) in rows {
        let figure = move |sources: &[Source]| {
            mapped::touch(sources, order, limit).map(|took| took.gb_per_s())
        };
        bench.compare(
            name,
            scene,
            |_, scene| scene.subject(figure),
            |_, scene| figure(&scene.native),
        )?;
    }
    Ok(())
}

fn throughput(sources: &[Source], readers: usize, span: Span) -> Result<f64, CompareError> {
    let reading = Reading {
        sources,
        readers,
        chunk_bytes: CHUNK_BYTES,
        stride_bytes: CHUNK_BYTES,
        caching: Caching::Kernel,
        order: Order::Sequential,
        span,
    };
    read(&reading).map(|took| took.gb_per_s())
}
