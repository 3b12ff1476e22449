//! `tenderfs demo`: everything in one process, on a data set made for it, measured and verified.
//!
//! What is set up is owned by values whose drop takes it down, in the order daemon and mount, store, directories. So an
//! error and Ctrl-C clean up alike: work sees the signal between its steps and returns.

pub mod data_set;
pub mod direct;
pub mod epochs;
pub mod report;
pub mod source;

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tenderfs_daemon::config::{self, Overrides, Settings, format_bytes, process_environment};
use tenderfs_daemon::{Daemon, DaemonError, Running, logging, start};

use self::data_set::Scale;
use self::direct::Plan;
use self::epochs::{Expected, Verified, drop_page_cache};
use self::report::{Epoch, Report};
use self::source::{Address, LAB_KEYS, Source, Tally};
use crate::cli::DemoArgs;
use crate::doctor::mounting::Means;
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// Connections that direct parallel reading tries; the best one counts.
const PARALLEL_CONNECTIONS: [usize; 3] = [16, 32, 64];
/// How long disk writes may take to be through after the cold epochs.
const WRITE_PATIENCE: Duration = Duration::from_mins(2);

/// `tenderfs demo`.
pub fn main(args: &DemoArgs) -> Result<(), ToolError> {
    let path = process_environment("PATH").unwrap_or_default();
    if let Some(obstacle) = Means::look(&path).obstacle() {
        return Err(ToolError::CannotMount { obstacle });
    }
    if args.endpoint_url.is_none() {
        with_keys_of_the_lab()?;
    }
    let interrupt = Interrupt::watch().map_err(ToolError::Runtime)?;
    let (report, tally_source) = play(args, &interrupt)?;
    print!("\n{}", report.table(tally_source));
    if let Some(file) = &args.json {
        write_json(file, &report)?;
    }
    match report.mismatches {
        0 => Ok(()),
        wrong => Err(ToolError::Demo {
            what: "bytes were wrong",
            reason: format!("{wrong} files differ"),
        }),
    }
}

/// Starts this program again with the lab's keys in its environment, unless they are there: the mount finds its
/// credentials as every mount does, and none of the user's own are sent to the lab.
fn with_keys_of_the_lab() -> Result<(), ToolError> {
    if process_environment("AWS_ACCESS_KEY_ID").as_deref() == Some(LAB_KEYS.0) {
        return Ok(());
    }
    let program = std::env::current_exe().map_err(ToolError::Runtime)?;
    let mut command = Command::new(program);
    command
        .args(std::env::args_os().skip(1))
        .env("AWS_ACCESS_KEY_ID", LAB_KEYS.0)
        .env("AWS_SECRET_ACCESS_KEY", LAB_KEYS.1)
        .env_remove("AWS_SESSION_TOKEN")
        .env_remove("AWS_PROFILE");
    // Returns only if it did not work.
    Err(ToolError::Runtime(command.exec()))
}

fn play(args: &DemoArgs, interrupt: &Interrupt) -> Result<(Report, &'static str), ToolError> {
    let scale = Scale::of_factor(args.size);
    let mut source = Source::open(args, &process_environment)?;
    say(&format!(
        "data set of seed {}: one object of {}, {} tar shards of {}, {} files of about 100 KiB",
        args.seed,
        format_bytes(scale.large_bytes),
        scale.shards,
        format_bytes(data_set::SHARD_BYTES),
        scale.small_files,
    ));
    let files = source.fill(data_set::objects(scale, args.seed), interrupt)?;
    let data_bytes: usize = files.iter().map(|file| file.len_bytes).sum();
    let place = Place::make(args.dir.as_deref(), data_bytes)?;
    let tally_source = source.tally_source();
    // Declared after the source and the place, so that it is taken down before them.
    let mounted = Mounted::start(&source.address, &place, data_bytes)?;
    say(&format!("{} is mounted on {}", source.address.source, place.mountpoint().display()));
    let stage = Stage { args, source: &source, mounted: &mounted, place: &place, interrupt };
    let mut epochs = stage.direct(&files)?;
    epochs.extend(stage.cold(&files)?);
    epochs.extend(stage.warm(&files)?);
    say("cleaning up");
    drop(mounted);
    drop(source);
    let mismatches = epochs.iter().map(|epoch| epoch.mismatches).sum();
    Ok((Report { files: files.len(), mismatches, epochs }, tally_source))
}

fn say(line: &str) {
    eprintln!("{line}");
}

fn write_json(file: &Path, report: &Report) -> Result<(), ToolError> {
    let json = serde_json::to_string_pretty(report)
        .unwrap_or_else(|error| unreachable!("a report has string keys only: {error}"));
    fs::write(file, json + "\n")
        .map_err(|source| ToolError::Write { path: file.to_path_buf(), source })
}

/// The directories of the demo: mount point, cache, socket. Removed on drop.
#[derive(Debug)]
struct Place(tempfile::TempDir);

impl Place {
    fn make(dir: Option<&Path>, data_bytes: usize) -> Result<Place, ToolError> {
        // /var/tmp is on disk by convention, /tmp often is memory.
        let default =
            || Some(Path::new("/var/tmp")).filter(|dir| dir.is_dir()).map(Path::to_path_buf);
        let dir = dir.map(Path::to_path_buf).or_else(default).unwrap_or_else(std::env::temp_dir);
        let write = |path: &Path, source| ToolError::Write { path: path.to_path_buf(), source };
        let volume = nix::sys::statvfs::statvfs(&dir).map_err(|errno| write(&dir, errno.into()))?;
        let free_bytes = volume.blocks_available() * volume.fragment_size();
        let wanted_bytes = u64::try_from(data_bytes).unwrap_or(u64::MAX).saturating_mul(3) / 2;
        if free_bytes < wanted_bytes {
            return Err(ToolError::Demo {
                what: "there is no room for the cache",
                reason: format!(
                    "{} has {} free, {} are needed; name another directory with --dir or use a smaller --size",
                    dir.display(),
                    format_bytes(free_bytes),
                    format_bytes(wanted_bytes),
                ),
            });
        }
        let made = tempfile::Builder::new().prefix("tenderfs-demo").tempdir_in(&dir);
        let place = Place(made.map_err(|source| write(&dir, source))?);
        fs::create_dir(place.mountpoint()).map_err(|source| write(&place.mountpoint(), source))?;
        Ok(place)
    }

    fn mountpoint(&self) -> PathBuf {
        self.0.path().join("mnt")
    }

    /// The daemon's settings: the embedded defaults, not the user's, in these directories.
    fn settings(&self, address: &Address, data_bytes: usize) -> Result<Settings, ToolError> {
        let mut overrides = Overrides::with_mount(&address.source, &self.mountpoint());
        let cache_bytes = (data_bytes.saturating_mul(2)).max(1 << 30).to_string();
        let dir = |name: &str| self.0.path().join(name).display().to_string();
        for (name, value) in [
            ("mount.endpoint_url", address.endpoint.as_str()),
            ("mount.region", &address.region),
            ("mount.addressing", "path"),
            ("daemon.admin_socket", &dir("admin.sock")),
            ("cache.dir", &dir("cache")),
            ("cache.size", &cache_bytes),
            ("cache.free_space_ratio", "0"),
            ("log.level", "warn"),
        ] {
            overrides.set(name, value, "tenderfs demo")?;
        }
        Ok(config::load(None, overrides, &|_| None)?)
    }
}

/// A daemon in this process; stopped and unmounted on drop.
struct Mounted(Option<Running>);

impl Mounted {
    fn start(address: &Address, place: &Place, data_bytes: usize) -> Result<Mounted, ToolError> {
        let settings = place.settings(address, data_bytes)?;
        logging::init(&settings.log)
            .map_err(|error| ToolError::Daemon(DaemonError::from(error)))?;
        start(settings).map(|running| Mounted(Some(running))).map_err(ToolError::Daemon)
    }

    fn daemon(&self) -> Option<&Daemon> {
        self.0.as_ref().map(|running| &**running.daemon())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(running) = self.0.take() {
            running.stop();
        }
    }
}

/// Everything the epochs need.
struct Stage<'a> {
    args: &'a DemoArgs,
    source: &'a Source,
    mounted: &'a Mounted,
    place: &'a Place,
    interrupt: &'a Interrupt,
}

impl Stage<'_> {
    /// Direct GETs: the large object in one stream, then everything in parallel.
    fn direct(&self, files: &[Expected]) -> Result<Vec<Epoch>, ToolError> {
        let large = &files[..1];
        let one = self.direct_pass(large, Plan::ONE_STREAM)?;
        let one = one.into_epoch("direct_one", "the large object, one GET".to_owned());
        let mut best: Option<(usize, Pass)> = None;
        for connections in PARALLEL_CONNECTIONS {
            let pass = self.direct_pass(files, Plan::parallel(connections))?;
            let faster =
                |(_, best): &(usize, Pass)| pass.verified.gb_per_s() > best.verified.gb_per_s();
            if best.as_ref().is_none_or(faster) {
                best = Some((connections, pass));
            }
        }
        let parallel = best.map(|(connections, pass)| {
            pass.into_epoch(
                "direct_parallel",
                format!("everything, best of 16, 32, 64 connections: {connections}"),
            )
        });
        Ok(std::iter::once(one).chain(parallel).collect())
    }

    fn direct_pass(&self, files: &[Expected], plan: Plan) -> Result<Pass, ToolError> {
        say(&format!("direct GETs, {} connections", plan.connections));
        let before = self.tally();
        let verified = Verified::run(files, |files, buffers| {
            direct::read(self.source.store(), plan, (files, buffers), self.interrupt)
        })?;
        let mut seen = self.tally().since(before);
        if !self.source.sees_direct_gets() {
            seen = (u64::try_from(verified.gets()).unwrap_or(u64::MAX), verified.bytes());
        }
        Ok(Pass { verified, seen })
    }

    /// Through the mount, for the first time.
    fn cold(&self, files: &[Expected]) -> Result<Vec<Epoch>, ToolError> {
        let (large, rest) = files.split_at(1);
        let one = self.mount_pass("cold, one reader", large, 1)?;
        let one = one.into_epoch("cold_one", "the large object, one reader".to_owned());
        let readers = usize::from(self.args.readers);
        let cold = self.mount_pass("cold, all the rest", rest, readers)?;
        let cold = cold.into_epoch("cold", format!("all the rest, {readers} readers"));
        Ok(vec![one, cold])
    }

    /// Through the mount again, from disk and then from the page cache.
    fn warm(&self, files: &[Expected]) -> Result<Vec<Epoch>, ToolError> {
        self.wait_for_disk_writes()?;
        if let Some(daemon) = self.mounted.daemon() {
            daemon.cache.forget_memory();
        }
        let dropped = drop_page_cache(&self.place.mountpoint(), files)?;
        let readers = usize::from(self.args.readers);
        let disk = self.mount_pass("warm, from disk", files, readers)?;
        let disk =
            disk.into_epoch("warm_disk", format!("everything, {readers} readers, {dropped}"));
        let pages = self.mount_pass("warm, from the page cache", files, readers)?;
        let pages = pages.into_epoch("warm_page_cache", format!("everything, {readers} readers"));
        Ok(vec![disk, pages])
    }

    fn mount_pass(
        &self,
        what: &str,
        files: &[Expected],
        readers: usize,
    ) -> Result<Pass, ToolError> {
        say(what);
        let root = self.place.mountpoint();
        let before = self.tally();
        let verified = Verified::run(files, |files, buffers| {
            epochs::read(&root, readers, (files, buffers), self.interrupt)
        })?;
        Ok(Pass { verified, seen: self.tally().since(before) })
    }

    fn tally(&self) -> Tally {
        self.source.tally(self.mounted.daemon())
    }

    /// Returns when everything that was read is on disk, so that the next epoch can be served from there.
    fn wait_for_disk_writes(&self) -> Result<(), ToolError> {
        let started = Instant::now();
        while self
            .mounted
            .daemon()
            .is_some_and(|daemon| daemon.cache.usage().pending_write_bytes > 0)
        {
            if self.interrupt.raised() {
                return Err(ToolError::Interrupted);
            }
            if started.elapsed() > WRITE_PATIENCE {
                return Err(ToolError::Demo {
                    what: "the disk does not keep up",
                    reason: format!("writes were pending after {} s", WRITE_PATIENCE.as_secs()),
                });
            }
            std::thread::park_timeout(Duration::from_millis(20));
        }
        Ok(())
    }
}

/// One verified pass and what the store saw of it.
struct Pass {
    verified: Verified,
    seen: (u64, u64),
}

impl Pass {
    fn into_epoch(self, name: &'static str, note: String) -> Epoch {
        let epoch = self.verified.into_epoch(name, self.seen, note);
        say(&format!("  {} {:.3} s, {:.3} GB/s", epoch.name, epoch.seconds, epoch.gb_per_s));
        epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_the_demo_stay_in_its_own_directories() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::make(Some(dir.path()), 1000).unwrap();
        let address = Address {
            source: "s3://demo".to_owned(),
            endpoint: "http://127.0.0.1:1".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let settings = place.settings(&address, 1000).unwrap();
        let inside = |path: &Path| path.starts_with(dir.path());
        assert!(inside(&settings.daemon.admin_socket));
        assert!(settings.cache.dir.as_deref().is_some_and(inside));
        assert!(inside(&settings.mounts[0].mountpoint));
        drop(place);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn place_without_room_is_refused() {
        let error = Place::make(None, usize::MAX / 4).unwrap_err().to_string();
        assert!(error.contains("--dir") && error.contains("free"), "{error}");
    }
}
