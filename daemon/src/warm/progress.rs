//! How far a job is: counts, speed and time to go. Decides only: time is an argument.

use std::collections::VecDeque;
use std::time::Duration;

use crate::admin::model::WarmProgress;

/// Over which the speed is taken: long enough to be calm, short enough to follow a change.
const WINDOW: Duration = Duration::from_secs(5);

/// Keys that a check names.
const MISSING_MAX: usize = 100;

/// The counts of a job, and what its speed is made from.
#[derive(Debug, Default)]
pub(super) struct Progress {
    counts: WarmProgress,
    /// Bytes brought in by time since the start, within the window and one before it.
    samples: VecDeque<(Duration, u64)>,
}

impl Progress {
    /// A file was listed.
    pub(super) fn listed(&mut self, size_bytes: u64) {
        self.counts.files_total += 1;
        self.counts.bytes_total += size_bytes;
    }

    /// Bytes of the files listed.
    pub(super) fn bytes_total(&self) -> u64 {
        self.counts.bytes_total
    }

    /// All is listed.
    pub(super) fn listing_ended(&mut self) {
        self.counts.listing_done = true;
    }

    /// The listing was ended by the bound on bytes.
    pub(super) fn stopped_at_max(&mut self) {
        self.counts.stopped_at_max_bytes = true;
        self.counts.listing_done = true;
    }

    /// A file is in; what was fetched for it, what was there, what is in memory only.
    pub(super) fn warmed(&mut self, warmed: tenderfs_cache::Warmed) {
        match warmed.fetched_bytes {
            0 => self.counts.files_skipped += 1,
            _ => self.counts.files_warmed += 1,
        }
        self.counts.bytes_warmed += warmed.fetched_bytes;
        self.counts.bytes_skipped += warmed.skipped_bytes;
        self.counts.bytes_memory_only += warmed.memory_only_bytes;
    }

    /// A file was there already.
    pub(super) fn skipped(&mut self, size_bytes: u64) {
        self.counts.files_skipped += 1;
        self.counts.bytes_skipped += size_bytes;
    }

    /// A file could not be brought in.
    pub(super) fn failed(&mut self) {
        self.counts.files_failed += 1;
    }

    /// A check found a file that is not there whole, but `cached_bytes` of it.
    pub(super) fn missing(&mut self, key: &str, cached_bytes: u64) {
        self.counts.files_missing += 1;
        self.counts.bytes_skipped += cached_bytes;
        if self.counts.missing.len() < MISSING_MAX {
            self.counts.missing.push(key.to_owned());
        }
    }

    /// Where it stands at `now` since the start, with `partial_bytes` brought in of files that are
    /// under way.
    pub(super) fn report(&mut self, now: Duration, partial_bytes: u64) -> WarmProgress {
        let brought_bytes = self.counts.bytes_warmed + partial_bytes;
        self.sample(now, brought_bytes);
        let bytes_per_second = self.bytes_per_second(now, brought_bytes);
        let mut report = self.counts.clone();
        report.elapsed_seconds = now.as_secs_f64();
        report.bytes_warmed = brought_bytes;
        report.mb_per_s = bytes_per_second / 1e6;
        let rest = report.bytes_remaining();
        report.eta_seconds = (report.listing_done && bytes_per_second > 0.0)
            .then(|| as_f64(rest) / bytes_per_second);
        report
    }

    /// Keeps what the window needs: its samples and the last one before it.
    fn sample(&mut self, now: Duration, brought_bytes: u64) {
        self.samples.push_back((now, brought_bytes));
        let start = now.saturating_sub(WINDOW);
        while self.samples.get(1).is_some_and(|(time, _)| *time <= start) {
            self.samples.pop_front();
        }
    }

    fn bytes_per_second(&self, now: Duration, brought_bytes: u64) -> f64 {
        let Some((time, bytes)) = self.samples.front() else { return 0.0 };
        let seconds = now.saturating_sub(*time).as_secs_f64();
        // A file that failed takes its partial bytes back, which is no negative speed.
        let bytes = as_f64(brought_bytes.saturating_sub(*bytes));
        if seconds > 0.0 { bytes / seconds } else { 0.0 }
    }
}

#[allow(clippy::cast_precision_loss, reason = "a number for people; bytes beyond 2^53 are rounded")]
fn as_f64(bytes: u64) -> f64 {
    bytes as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenderfs_cache::Warmed;

    fn fetched(fetched_bytes: u64) -> Warmed {
        Warmed { fetched_bytes, ..Warmed::default() }
    }

    /// Proves W13.
    #[test]
    fn speed_and_time_to_go_follow_the_last_seconds() {
        let seconds = Duration::from_secs;
        let mut progress = Progress::default();
        for _ in 0..10 {
            progress.listed(100_000_000);
        }
        let report = progress.report(seconds(0), 0);
        assert!(report.mb_per_s == 0.0 && report.eta_seconds.is_none());
        progress.warmed(fetched(100_000_000));
        let report = progress.report(seconds(1), 50_000_000);
        assert!((report.mb_per_s - 150.0).abs() < 1e-9, "{report:?}");
        assert_eq!((report.bytes_warmed, report.eta_seconds), (150_000_000, None));
        progress.listing_ended();
        progress.skipped(100_000_000);
        progress.warmed(fetched(100_000_000));
        let report = progress.report(seconds(2), 0);
        assert!((report.mb_per_s - 100.0).abs() < 1e-9, "{report:?}");
        assert!((report.eta_seconds.unwrap() - 7.0).abs() < 1e-9, "{report:?}");
        // Nothing moves for longer than the window: no speed, no end in sight.
        progress.report(seconds(3), 0);
        let report = progress.report(seconds(20), 0);
        assert!(report.mb_per_s == 0.0 && report.eta_seconds.is_none(), "{report:?}");
    }

    #[test]
    fn a_file_with_nothing_to_fetch_is_skipped() {
        let mut progress = Progress::default();
        progress.warmed(Warmed { skipped_bytes: 7, ..Warmed::default() });
        progress.warmed(fetched(5));
        progress.failed();
        let report = progress.report(Duration::ZERO, 0);
        assert_eq!((report.files_skipped, report.files_warmed, report.files_failed), (1, 1, 1));
        assert_eq!((report.bytes_skipped, report.bytes_warmed), (7, 5));
    }

    #[test]
    fn a_check_names_the_first_hundred_missing_files() {
        let mut progress = Progress::default();
        for index in 0..150 {
            progress.missing(&index.to_string(), 1);
        }
        let report = progress.report(Duration::ZERO, 0);
        assert_eq!((report.files_missing, report.missing.len()), (150, 100));
        assert_eq!(report.bytes_skipped, 150);
    }

    #[test]
    fn the_window_keeps_few_samples() {
        let mut progress = Progress::default();
        for step in 0..10_000 {
            progress.report(Duration::from_millis(200 * step), 0);
        }
        assert!(progress.samples.len() <= 27, "{}", progress.samples.len());
    }
}
