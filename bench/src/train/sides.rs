//! The two sides that read files: the mount, and the control on a local disk.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use toml::{Table, Value};

use super::args::{Mode, TrainArgs};
use super::epoch::{self, Epoch, Pace};
use super::oracle::Source;
use super::work::{Batch, FOLDER, Work};
use crate::compare::CompareError;
use crate::compare::caches::drop_pages;
use crate::compare::daemon::{Daemon, Ground};
use crate::compare::data::{BUCKET, Copied, copy};
use crate::compare::lab::LabProcess;

/// The name of the job whose plans are posted, and that of the one that loads the checkpoint.
const JOBS: [&str; 2] = ["bench", "bench-checkpoint"];

/// What the mount gave.
#[derive(Debug)]
pub(super) struct Mounted {
    /// Its epochs.
    pub(super) epochs: Vec<Epoch>,
    /// Bytes of objects that the store sent in each.
    pub(super) s3_bytes: Vec<u64>,
    /// Requests of any kind in each.
    pub(super) requests: Vec<u64>,
    /// Bytes that the daemon handed to readers in each, by the slowest tier they waited for.
    pub(super) tiers: Vec<[f64; 3]>,
    /// Requests that were made a second time because they were late, in all epochs.
    pub(super) hedges: f64,
    /// How long it took to list the names.
    pub(super) listing: Duration,
    /// What the daemon says of the job's plans at the end of each epoch.
    pub(super) plans: Vec<String>,
}

/// Tiers by their names in the daemon's metrics.
pub(super) const TIERS: [&str; 3] = ["memory", "disk", "s3"];

/// The job on the mount of a daemon that has nothing yet.
pub(super) fn mounted(
    args: &TrainArgs,
    (ground, source): (&Ground, Source<'_>),
    pace: &Pace,
) -> Result<Mounted, CompareError> {
    let Source { lab, work, batches } = source;
    let manifest = ground.folder.join("manifest");
    fs::write(&manifest, work.lines(batches, ',')).map_err(CompareError::file(&manifest))?;
    lab.clear_ledger()?;
    let daemon = ground.start_configured(&config(args, (ground, lab), &manifest))?;
    let listing = listed(&ground.mountpoint().join(FOLDER), work.objects.len())?;
    let mut side = Mounted {
        epochs: Vec::new(),
        s3_bytes: Vec::new(),
        requests: Vec::new(),
        tiers: Vec::new(),
        hedges: 0.0,
        listing,
        plans: Vec::new(),
    };
    if args.mode == Mode::Plan {
        post(&daemon, work, (0, batches))?;
    }
    let mut before = tiers(&daemon)?;
    for number in 0..args.epochs {
        let next = number + 1;
        if args.mode == Mode::Plan && next < args.epochs {
            post(&daemon, work, (next, &work.epoch(next)))?;
        }
        drop_pages(&[&ground.mountpoint(), &ground.cache_dir()])?;
        let batches = work.epoch(number);
        side.epochs.push(epoch::run(work, &batches, &ground.mountpoint(), pace)?);
        // From here on requests count for the next epoch, those that were made ahead of it too.
        let stats = lab.stats()?;
        side.s3_bytes.push(stats.body_bytes - side.s3_bytes.iter().sum::<u64>());
        side.requests.push(stats.requests - side.requests.iter().sum::<u64>());
        let now = tiers(&daemon)?;
        side.tiers.push([0, 1, 2].map(|tier| now[tier] - before[tier]));
        before = now;
        if args.mode == Mode::Plan {
            side.plans.push(status(&daemon)?);
        }
    }
    side.hedges = daemon.metric("tenderfs_s3_hedges_total", "")?;
    daemon.stop();
    Ok(side)
}

/// The job on the same files on the disk of the cache.
pub(super) fn control(
    args: &TrainArgs,
    (work, folder): (&Work, &Path),
    pace: &Pace,
) -> Result<Vec<Epoch>, CompareError> {
    let root = folder.join("control");
    fs::create_dir(&root).map_err(CompareError::file(&root))?;
    copy(&root, &work.every_object(), Copied::Bytes).map_err(CompareError::file(&root))?;
    let epoch = |number| {
        drop_pages(&[&root])?;
        epoch::run(work, &work.epoch(number), &root, pace)
    };
    (0..args.epochs).map(epoch).collect()
}

/// Lists a folder as loaders of images do, and returns how long that took.
fn listed(folder: &Path, count: usize) -> Result<Duration, CompareError> {
    let started = Instant::now();
    let names = fs::read_dir(folder)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(CompareError::file(folder))?;
    if names.len() == count {
        return Ok(started.elapsed());
    }
    let answer = format!("{} names in a folder of {count}", names.len());
    Err(CompareError::Answer { whom: "the mount", answer })
}

/// Posts the order of an epoch; a checkpoint is loaded by a job of its own.
fn post(
    daemon: &Daemon,
    work: &Work,
    (number, batches): (u32, &[Batch]),
) -> Result<(), CompareError> {
    let checkpoint = work.checkpoint.iter().map(|object| (JOBS[1], object.key.clone() + "\n"));
    for (job, lines) in [(JOBS[0], work.lines(batches, '\t'))].into_iter().chain(checkpoint) {
        daemon.ask(("POST", &format!("/v1/jobs/{job}/plans?epoch={number}")), &lines)?;
    }
    Ok(())
}

/// What the daemon says of the job, in a few words.
fn status(daemon: &Daemon) -> Result<String, CompareError> {
    let answer = daemon.ask(("GET", &format!("/v1/jobs/{}/status", JOBS[0])), "")?;
    let status: serde_json::Value = serde_json::from_str(&answer)
        .map_err(|_| CompareError::Answer { whom: "the daemon", answer: answer.clone() })?;
    let stalled = status["stalled_seconds"].as_f64().unwrap_or(f64::NAN);
    Ok(format!("{} reads waited, {stalled:.2} s over all workers", status["stalls"]))
}

fn tiers(daemon: &Daemon) -> Result<[f64; 3], CompareError> {
    let mut bytes = [0.0; 3];
    for (sum, tier) in bytes.iter_mut().zip(TIERS) {
        *sum = daemon.metric("tenderfs_read_bytes_total", &format!("tier=\"{tier}\""))?;
    }
    Ok(bytes)
}

/// The daemon's configuration: its defaults but for what the mode and the command line say.
fn config(args: &TrainArgs, (ground, lab): (&Ground, &LabProcess), manifest: &Path) -> String {
    let mut config = Table::new();
    let mut set = |section: &str, option: &str, value: Value| {
        let section = config.entry(section).or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(section) = section {
            section.insert(option.to_owned(), value);
        }
    };
    let text = |path: &Path| Value::String(path.display().to_string());
    set("daemon", "admin_socket", text(&ground.admin_socket()));
    set("log", "level", Value::String("warn".to_owned()));
    set("cache", "dir", text(&ground.cache_dir()));
    set("cache", "free_space_ratio", Value::Float(0.01));
    if args.mode == Mode::Off {
        set("read_ahead", "enabled", Value::Boolean(false));
        set("read_ahead", "lookahead", Value::Integer(0));
    }
    let sizes =
        [("cache", "size", &args.daemon.cache_size), ("memory", "limit", &args.daemon.memory)];
    for (section, option, value) in sizes {
        if let Some(value) = value {
            set(section, option, Value::String(value.clone()));
        }
    }
    for (name, value) in &args.daemon.options {
        let (section, option) = name.split_once('.').unwrap_or((name, ""));
        set(section, option, parsed(value));
    }
    let mut mount = Table::new();
    let mountpoint = text(&ground.mountpoint());
    let said = [("bucket", BUCKET), ("endpoint_url", lab.endpoint()), ("region", lab.region())];
    mount.extend(said.map(|(key, value)| (key.to_owned(), Value::String(value.to_owned()))));
    mount.insert("mountpoint".to_owned(), mountpoint);
    if args.mode == Mode::Manifest {
        mount.insert("manifest".to_owned(), text(manifest));
    }
    config.insert("mount".to_owned(), Value::Array(vec![Value::Table(mount)]));
    config.to_string()
}

/// A value as TOML writes it, or else a text.
fn parsed(value: &str) -> Value {
    let table = format!("value = {value}").parse::<Table>();
    table
        .ok()
        .and_then(|mut table| table.remove("value"))
        .unwrap_or_else(|| Value::String(value.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_toml_or_text() {
        assert_eq!(parsed("false"), Value::Boolean(false));
        assert_eq!(parsed("32"), Value::Integer(32));
        assert_eq!(parsed("\"32\""), Value::String("32".to_owned()));
        assert_eq!(parsed("64M"), Value::String("64M".to_owned()));
        assert_eq!(parsed("pin"), Value::String("pin".to_owned()));
    }

    #[test]
    fn names_that_are_missing_from_a_listing_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a"), "").unwrap();
        listed(dir.path(), 1).unwrap();
        assert!(matches!(listed(dir.path(), 2), Err(CompareError::Answer { .. })));
    }
}
