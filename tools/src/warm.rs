//! `tenderfs warm`: asks the daemon of a path to bring it into the cache, and shows how far it is.
//!
//! The work is the daemon's; it never opens the cache itself. Ctrl-C cancels the job and says what was done: what is
//! cached by then stays cached, so running it again goes on where it stopped.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use tenderfs_daemon::admin::model::{WarmJob, WarmProgress, WarmRequest, WarmState};
use tenderfs_daemon::config::format_bytes;

use crate::admin_client::{self, AdminClient, json_text};
use crate::cli::WarmArgs;
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// Pause between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Pause between two lines where there is no terminal.
const SAY_AGAIN: Duration = Duration::from_secs(5);

/// `tenderfs warm`.
pub async fn main(args: &WarmArgs) -> Result<(), ToolError> {
    let interrupt = Interrupt::watch().map_err(ToolError::Runtime)?;
    let path = absolute(&args.path)?;
    let client = admin_client::find(&path, args.socket.socket.as_deref()).await?;
    let request = WarmRequest {
        mount: None,
        path: path.display().to_string(),
        recursive: args.recursive,
        max_bytes: args.max_size,
        workers: args.workers.map(usize::from),
        check: args.check,
    };
    let id = client.warm(&request).await?.id;
    let display = Display::choose(args.json);
    let followed = follow(&client, id, display, &interrupt).await;
    let job = match followed {
        Ok(job) => job,
        Err(error) => {
            // The daemon may be gone with its job; then there is nothing to cancel either.
            drop(client.cancel_warm_job(id).await);
            return Err(error);
        }
    };
    if args.json {
        println!("{}", json_text(&job));
    } else {
        print!("{}", outcome_text(&job));
    }
    verdict(&job)
}

/// An absolute path, symbolic links resolved as far as the file exists.
pub fn absolute(path: &Path) -> Result<PathBuf, ToolError> {
    if path.as_os_str().is_empty() {
        return Ok(PathBuf::new());
    }
    path.canonicalize()
        .or_else(|_| std::path::absolute(path))
        .map_err(|source| ToolError::Path { path: path.to_path_buf(), source })
}

/// Watches a job to its end, or cancels it when the user wants to stop.
async fn follow(
    client: &AdminClient,
    id: u64,
    mut display: Display,
    interrupt: &Interrupt,
) -> Result<WarmJob, ToolError> {
    loop {
        let job = client.warm_job(id).await?;
        display.show(&job.progress);
        if job.state.is_final() {
            display.end();
            return Ok(job);
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = interrupt.wait() => {
                let job = client.cancel_warm_job(id).await?;
                display.end();
                return Ok(job);
            }
        }
    }
}

/// Where progress goes.
enum Display {
    Bar(ProgressBar),
    Lines { last: Instant },
    Nothing,
}

impl Display {
    fn choose(json: bool) -> Display {
        if json {
            return Display::Nothing;
        }
        if !std::io::stderr().is_terminal() {
            return Display::Lines { last: Instant::now() };
        }
        let bar = ProgressBar::new(0);
        // The template is a constant; should it ever be wrong, the bar's own style is good enough.
        if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {percent:>3} % {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        Display::Bar(bar)
    }

    fn show(&mut self, progress: &WarmProgress) {
        match self {
            Display::Bar(bar) => {
                bar.set_length(progress.bytes_total);
                bar.set_position(progress.bytes_total - progress.bytes_remaining());
                bar.set_message(progress_text(progress));
            }
            Display::Lines { last } if last.elapsed() >= SAY_AGAIN => {
                *last = Instant::now();
                eprintln!("{}", progress_text(progress));
            }
            Display::Lines { .. } | Display::Nothing => {}
        }
    }

    fn end(&self) {
        if let Display::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

/// One line: files, bytes, MB/s, time left.
fn progress_text(progress: &WarmProgress) -> String {
    let done = progress.files_warmed
        + progress.files_skipped
        + progress.files_failed
        + progress.files_missing;
    let more = if progress.listing_done { "" } else { "+" };
    let left = progress.eta_seconds.map(|seconds| format!(", {seconds:.0} s left"));
    format!(
        "{done}/{}{more} files, {} of {}{more}, {:.0} MB/s{}",
        progress.files_total,
        format_bytes(progress.bytes_warmed + progress.bytes_skipped),
        format_bytes(progress.bytes_total),
        progress.mb_per_s,
        left.unwrap_or_default(),
    )
}

/// What was done, in some lines.
fn outcome_text(job: &WarmJob) -> String {
    let progress = &job.progress;
    let mut lines: Vec<String> =
        progress.missing.iter().map(|key| format!("not cached: {key}")).collect();
    let named = u64::try_from(progress.missing.len()).unwrap_or(u64::MAX);
    if progress.files_missing > named {
        lines.push(format!("and {} more", progress.files_missing - named));
    }
    lines.push(if job.check { checked_text(progress) } else { warmed_text(job.state, progress) });
    if !job.check && progress.bytes_memory_only > 0 {
        let bytes = format_bytes(progress.bytes_memory_only);
        lines.push(format!("{bytes} of it is in memory only: the disk tier has no room"));
    }
    if progress.stopped_at_max_bytes {
        lines.push("stopped at --max-size".to_owned());
    }
    lines.join("\n") + "\n"
}

fn checked_text(progress: &WarmProgress) -> String {
    format!(
        "{} of {} files are cached whole ({} of {})",
        progress.files_skipped,
        progress.files_total,
        format_bytes(progress.bytes_skipped),
        format_bytes(progress.bytes_total),
    )
}

fn warmed_text(state: WarmState, progress: &WarmProgress) -> String {
    format!(
        "{}{} files ({}) warmed, {} ({}) cached before, {} failed, in {:.1} s",
        if state == WarmState::Cancelled { "cancelled: " } else { "" },
        progress.files_warmed,
        format_bytes(progress.bytes_warmed),
        progress.files_skipped,
        format_bytes(progress.bytes_skipped),
        progress.files_failed,
        progress.elapsed_seconds,
    )
}

fn verdict(job: &WarmJob) -> Result<(), ToolError> {
    let WarmProgress { files_missing, files_failed, files_total, .. } = job.progress;
    match job.state {
        WarmState::Cancelled => Err(ToolError::Interrupted),
        WarmState::Failed => {
            let why = job.error.as_deref().unwrap_or("the daemon does not say why");
            Err(ToolError::Warm { reason: format!("cannot warm {}: {why}", job.path) })
        }
        WarmState::Running | WarmState::Done if files_missing > 0 => {
            Err(ToolError::NotCached { files: files_missing, files_total })
        }
        WarmState::Running | WarmState::Done if files_failed > 0 => {
            let reason = format!(
                "{files_failed} files failed; the daemon's log says why; run it again to retry them"
            );
            Err(ToolError::Warm { reason })
        }
        WarmState::Running | WarmState::Done => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOT_CACHED};

    fn job(state: WarmState, progress: WarmProgress) -> WarmJob {
        let check = progress.files_missing > 0;
        WarmJob {
            id: 1,
            mount: "a".to_owned(),
            path: "b".to_owned(),
            check,
            state,
            error: None,
            progress,
        }
    }

    /// Proves W13.
    #[test]
    fn progress_names_files_bytes_speed_and_time_left() {
        let mut progress = WarmProgress {
            files_total: 320,
            files_warmed: 10,
            files_skipped: 2,
            bytes_total: 1 << 30,
            bytes_warmed: 1 << 20,
            bytes_skipped: 1 << 20,
            mb_per_s: 812.4,
            eta_seconds: Some(3.6),
            listing_done: true,
            ..WarmProgress::default()
        };
        assert_eq!(progress_text(&progress), "12/320 files, 2 MiB of 1 GiB, 812 MB/s, 4 s left");
        progress.listing_done = false;
        progress.eta_seconds = None;
        assert_eq!(progress_text(&progress), "12/320+ files, 2 MiB of 1 GiB+, 812 MB/s");
    }

    #[test]
    fn exit_code_tells_what_became_of_the_job() {
        let failed = WarmProgress { files_failed: 1, ..WarmProgress::default() };
        let missing = WarmProgress { files_missing: 1, files_total: 2, ..WarmProgress::default() };
        let code = |state, progress: &WarmProgress| {
            verdict(&job(state, progress.clone())).map_err(|error| error.exit_code())
        };
        let none = WarmProgress::default();
        assert_eq!(code(WarmState::Done, &none), Ok(()));
        assert_eq!(code(WarmState::Done, &failed), Err(EXIT_FAILED));
        assert_eq!(code(WarmState::Done, &missing), Err(EXIT_NOT_CACHED));
        assert_eq!(code(WarmState::Cancelled, &none), Err(EXIT_INTERRUPTED));
        assert_eq!(code(WarmState::Failed, &none), Err(EXIT_FAILED));
    }

    #[test]
    fn check_names_what_is_not_cached() {
        let missing = (0..100).map(|index| format!("key{index}")).collect();
        let progress = WarmProgress {
            files_missing: 103,
            files_total: 200,
            files_skipped: 97,
            missing,
            ..WarmProgress::default()
        };
        let text = outcome_text(&job(WarmState::Done, progress));
        assert!(
            text.contains("not cached: key99\nand 3 more\n97 of 200 files are cached whole"),
            "{text}"
        );
    }
}
