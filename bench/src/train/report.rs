//! The result of `train`: text, or JSON whose fields stay as they are.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use tenderfs_lab::{Latency, Shape};

use super::args::{Load, Mode};
use super::epoch::Epoch;
use super::sides::{Mounted, TIERS};
use crate::report::Machine;

/// What a run found, with the conditions under which it holds.
#[derive(Debug)]
pub struct TrainReport {
    pub(super) load: Load,
    pub(super) mode: Mode,
    pub(super) seed: u64,
    pub(super) machine: Machine,
    pub(super) shape: Shape,
    pub(super) compute: Duration,
    pub(super) workers: usize,
    pub(super) batch: usize,
    pub(super) prefetch_factor: usize,
    pub(super) files: usize,
    pub(super) data_bytes: u64,
    pub(super) options: String,
    pub(super) mounted: Mounted,
    pub(super) control: Vec<Epoch>,
    pub(super) oracle: Vec<Epoch>,
}

/// The JSON; lists have an entry for each epoch.
#[derive(Debug, Serialize)]
struct Json<'a> {
    load: Load,
    mode: Mode,
    utilisation_percent: Vec<f64>,
    control_percent: Vec<f64>,
    oracle_percent: Vec<f64>,
    s3_bytes: &'a [u64],
    data_bytes: u64,
    /// Without the wait for each epoch's first batch.
    stall_seconds: Vec<f64>,
    listing_seconds: f64,
    /// The wait for the first batch of the first epoch.
    first_batch_seconds: f64,
    first_batch_seconds_by_epoch: Vec<f64>,
    checkpoint_seconds: Vec<f64>,
    compute_seconds: f64,
    workers: usize,
    batch: usize,
    batches: usize,
    seed: u64,
}

impl TrainReport {
    /// As JSON.
    pub fn json(&self) -> String {
        let epochs = &self.mounted.epochs;
        let first: Vec<f64> = epochs.iter().map(|epoch| epoch.first_wait().as_secs_f64()).collect();
        let checkpoints = epochs.iter().filter_map(|epoch| epoch.checkpoint);
        let json = Json {
            load: self.load,
            mode: self.mode,
            utilisation_percent: percents(epochs),
            control_percent: percents(&self.control),
            oracle_percent: percents(&self.oracle),
            s3_bytes: &self.mounted.s3_bytes,
            data_bytes: self.data_bytes,
            stall_seconds: epochs.iter().map(|epoch| epoch.stall().as_secs_f64()).collect(),
            listing_seconds: self.mounted.listing.as_secs_f64(),
            first_batch_seconds: first.first().copied().unwrap_or_default(),
            first_batch_seconds_by_epoch: first,
            checkpoint_seconds: checkpoints.map(|time| time.as_secs_f64()).collect(),
            compute_seconds: self.compute.as_secs_f64(),
            workers: self.workers,
            batch: self.batch,
            batches: epochs.first().map_or(0, |epoch| epoch.steps.len()),
            seed: self.seed,
        };
        serde_json::to_string_pretty(&json)
            .unwrap_or_else(|error| unreachable!("a report is plain values: {error}"))
    }

    /// The run in a line.
    pub(super) fn title(&self) -> String {
        format!("{}, {}, seed {}", word(self.load), word(self.mode), self.seed)
    }

    fn conditions(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let batches = self.mounted.epochs.first().map_or(0, |epoch| epoch.steps.len());
        let Machine { kernel, processors, processor } = &self.machine;
        writeln!(f, "machine   {processors} x {processor}, Linux {kernel}")?;
        writeln!(f, "run       {}", self.title())?;
        let (files, bytes) = (self.files, mega(self.data_bytes));
        writeln!(
            f,
            "data      {files} files, {bytes:.0} MB; the page cache dropped before each epoch"
        )?;
        writeln!(
            f,
            "job       {} workers, {} batches each ready or under way, {batches} batches of {} samples, {:.1} ms compute a batch",
            self.workers,
            self.prefetch_factor,
            self.batch,
            1e3 * self.compute.as_secs_f64()
        )?;
        let rate = |rate: Option<u64>| {
            rate.map_or_else(|| "any".to_owned(), |rate| format!("{:.0} MB/s", mega(rate)))
        };
        let Shape { first_byte, connection_bytes_per_second, total_bytes_per_second, .. } =
            self.shape;
        writeln!(
            f,
            "link      first byte {}, {} a connection, {} in all",
            words(first_byte),
            rate(connection_bytes_per_second),
            rate(total_bytes_per_second)
        )?;
        writeln!(f, "daemon    {}", self.options)?;
        let listing = self.mounted.listing.as_secs_f64();
        writeln!(f, "listing   {listing:.3} s; {:.0} requests made twice", self.mounted.hedges)
    }
}

impl fmt::Display for TrainReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.conditions(f)?;
        writeln!(
            f,
            "epoch  utilisation  control  oracle  of control  first batch s  stall s    S3 MB  requests  by tier"
        )?;
        let side = &self.mounted;
        for (number, epoch) in side.epochs.iter().enumerate() {
            let percent = epoch.utilisation_percent();
            let control = self.control[number].utilisation_percent();
            writeln!(
                f,
                "{:5}  {percent:9.1} %  {control:5.1} %  {:4.1} %  {:8.1} %  {:13.3}  {:7.2}  {:7.1}  {:8}  {}",
                number + 1,
                self.oracle[number].utilisation_percent(),
                100.0 * percent / control,
                epoch.first_wait().as_secs_f64(),
                epoch.stall().as_secs_f64(),
                mega(side.s3_bytes[number]),
                side.requests[number],
                shares(side.tiers[number]),
            )?;
        }
        for (number, epoch) in side.epochs.iter().enumerate() {
            if let Some(time) = epoch.checkpoint {
                writeln!(f, "checkpoint of epoch {}: {:.2} s", number + 1, time.as_secs_f64())?;
            }
        }
        for (number, plan) in side.plans.iter().enumerate() {
            writeln!(f, "plans after epoch {}: {plan}", number + 1)?;
        }
        Ok(())
    }
}

/// Parts of what the daemon handed out; what the kernel read alone from the disk tier is not seen by it.
fn shares(bytes: [f64; 3]) -> String {
    let all: f64 = bytes.iter().sum();
    if all <= 0.0 {
        return "none by the daemon".to_owned();
    }
    let share = |(tier, bytes): (&str, f64)| format!("{tier} {:.0} %", 100.0 * bytes / all);
    TIERS.into_iter().zip(bytes).map(share).collect::<Vec<_>>().join(", ")
}

fn percents(epochs: &[Epoch]) -> Vec<f64> {
    epochs.iter().map(Epoch::utilisation_percent).collect()
}

fn words(latency: Latency) -> String {
    let text = |time: Duration| humantime::format_duration(time).to_string();
    match latency {
        Latency::Zero => "at once".to_owned(),
        Latency::Fixed(time) => format!("after {}", text(time)),
        Latency::Uniform { min, max } => format!("after {} to {}", text(min), text(max)),
        Latency::Distribution { median, p99 } => {
            format!("after {} (median), {} (p99)", text(median), text(p99))
        }
    }
}

/// The word of a choice, as the command line has it.
fn word(choice: impl Serialize) -> String {
    match serde_json::to_value(choice) {
        Ok(serde_json::Value::String(word)) => word,
        _ => unreachable!("choices are words"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn mega(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
