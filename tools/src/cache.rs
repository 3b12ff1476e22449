//! `tenderfs cache`: what a daemon has cached, and whether it is what was written.
//!
//! The work is the daemon's; this only asks and shows. Ctrl-C ends a verification that it has asked for.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tenderfs_daemon::admin::model::{
    CachedObject, CachedObjects, EvictReport, EvictRequest, Pin, PinReport, PinRequest,
    VerifyReport, VerifyState,
};
use tenderfs_daemon::cache_files::{self, CacheFiles, StoreFiles};
use tenderfs_daemon::config::format_bytes;

use crate::admin_client::{self, AdminClient, json_text};
use crate::cli::{CacheCommand, CacheVerifyArgs, WhichDaemon};
use crate::error::ToolError;
use crate::interrupt::Interrupt;
use crate::{status, warm};

/// Pause between two questions.
const ASK_AGAIN: Duration = Duration::from_millis(200);

/// `tenderfs cache`.
pub async fn main(command: &CacheCommand) -> Result<(), ToolError> {
    match command {
        CacheCommand::Stats { daemon, json } => {
            let cache = client(daemon).await?.status().await?.cache;
            match json {
                true => println!("{}", json_text(&cache)),
                false => print!("{}", status::cache_lines(&cache)),
            }
            Ok(())
        }
        CacheCommand::Verify(args) => verify(args).await,
        CacheCommand::Ls { path, top, socket, json } => {
            let path = path.as_deref().map(warm::absolute).transpose()?;
            let found = admin_client::find_mount(path.as_deref(), socket.socket.as_deref()).await?;
            let (client, mountpoint) = found;
            let path = path.unwrap_or_else(|| PathBuf::from(&mountpoint));
            let listed = client.cached_objects(&path, *top).await?;
            match json {
                true => println!("{}", json_text(&listed)),
                false => print!("{}", table_of(&listed)),
            }
            Ok(())
        }
        CacheCommand::Evict { path, socket, json } => {
            let path = warm::absolute(path)?;
            let client = admin_client::find(&path, socket.socket.as_deref()).await?;
            let request = EvictRequest { path: path.display().to_string(), ..Default::default() };
            evict(&client, &request, *json).await
        }
        CacheCommand::Pin { path, ttl, socket, json } => {
            let path = warm::absolute(path)?;
            let client = admin_client::find(&path, socket.socket.as_deref()).await?;
            let path = path.display().to_string();
            let ttl_seconds = ttl.map(|ttl| ttl.as_secs());
            let request = PinRequest { path, ttl_seconds, ..Default::default() };
            report(&client.pin(&request).await?, *json);
            Ok(())
        }
        CacheCommand::Unpin { path, socket, json } => {
            let path = warm::absolute(path)?;
            let client = admin_client::find(&path, socket.socket.as_deref()).await?;
            report(&client.unpin(&path).await?, *json);
            Ok(())
        }
        CacheCommand::Pins { daemon, json } => {
            let pins = client(daemon).await?.pins().await?;
            match json {
                true => println!("{}", json_text(&pins)),
                false => print!("{}", list_of(&pins)),
            }
            Ok(())
        }
        CacheCommand::Inspect { dir, json } => {
            let found = cache_files::inspect(dir).map_err(ToolError::CacheDir)?;
            match json {
                true => println!("{}", json_text(&found)),
                false => print!("{}", files_text(&found)),
            }
            Ok(())
        }
        CacheCommand::Clear { daemon, json, .. } => {
            let request = EvictRequest { all: true, ..Default::default() };
            evict(&client(daemon).await?, &request, *json).await
        }
    }
}

/// The daemon that is meant: the one that is named, or the only one there is.
async fn client(which: &WhichDaemon) -> Result<AdminClient, ToolError> {
    let socket = which.socket.socket.as_deref();
    match &which.path {
        Some(path) => Ok(admin_client::find(&warm::absolute(path)?, socket).await?),
        None => Ok(admin_client::only(socket).await?),
    }
}

async fn evict(client: &AdminClient, request: &EvictRequest, json: bool) -> Result<(), ToolError> {
    let EvictReport { objects, bytes } = client.evict(request).await?;
    if json {
        println!("{}", json_text(&EvictReport { objects, bytes }));
    } else {
        println!("{objects} objects of {} are not on disk any more", format_bytes(bytes));
    }
    Ok(())
}

/// A line for each store, and what is odd.
fn files_text(found: &CacheFiles) -> String {
    if found.format == 0 {
        return "a cache of an older format: a daemon begins it anew\n".to_owned();
    }
    let line = |of: &StoreFiles| {
        let StoreFiles { store, objects, complete, bytes, last_use } = of;
        let bytes = format_bytes(*bytes);
        format!(
            "{store}: {objects} objects, {complete} of them complete, {bytes}, last used {last_use}\n"
        )
    };
    let mut lines: Vec<String> = found.stores.iter().map(line).collect();
    if found.packs > 0 {
        lines.push(format!("{} of the objects share {} files\n", found.packed, found.packs));
    }
    lines.push(format!(
        "format {}, catalogue {}, {} pins\n",
        found.format,
        format_bytes(found.catalogue_bytes),
        found.pins
    ));
    if found.orphans > 0 {
        let (files, bytes) = (found.orphans, format_bytes(found.orphan_bytes));
        lines
            .push(format!("{files} files of {bytes} are in no catalogue: a daemon removes them\n"));
    }
    if found.without_file > 0 {
        let objects = found.without_file;
        lines.push(format!("{objects} objects have no file: a daemon fetches them again\n"));
    }
    lines.concat()
}

fn report(report: &PinReport, json: bool) {
    if json {
        println!("{}", json_text(report));
    } else {
        println!("{}", pinned_text(report));
    }
}

fn pinned_text(report: &PinReport) -> String {
    let PinReport { objects, bytes, objects_beyond } = report;
    let bytes = format_bytes(*bytes);
    match objects_beyond {
        0 => format!("{objects} objects on disk are pinned, {bytes}"),
        beyond => format!(
            "{objects} objects on disk are pinned, {bytes}; {beyond} more are not, for they would take \
             more than nine tenths of the cache: raise cache.size or pin less"
        ),
    }
}

/// A line for each pin.
fn list_of(pins: &[Pin]) -> String {
    let line = |pin: &Pin| {
        let ends = pin.ends.as_deref().map_or_else(String::new, |ends| format!("  until {ends}"));
        format!("{}/{}{ends}\n", pin.store, pin.key)
    };
    if pins.is_empty() { "nothing is pinned\n".to_owned() } else { pins.iter().map(line).collect() }
}

/// A line for each object, and one for all.
fn table_of(listed: &CachedObjects) -> String {
    let line = |object: &CachedObject| {
        let CachedObject { path, size_bytes, disk_bytes, last_use } = object;
        let (disk, size) = (format_bytes(*disk_bytes), format_bytes(*size_bytes));
        format!("{disk:>10} of {size:>10}  {last_use}  {path}\n")
    };
    let lines: String = listed.objects.iter().map(line).collect();
    let CachedObjects { objects, total_objects, total_bytes } = listed;
    let total = format!("{total_objects} objects, {} on disk", format_bytes(*total_bytes));
    match total_objects.saturating_sub(objects.len() as u64) {
        0 => format!("{lines}{total}\n"),
        more => format!("{lines}{total}; {more} are not shown\n"),
    }
}

async fn verify(args: &CacheVerifyArgs) -> Result<(), ToolError> {
    let interrupt = Interrupt::watch().map_err(ToolError::Runtime)?;
    let client = client(&args.daemon).await?;
    let begun = client.verify().await?;
    let report = follow(&client, begun, bar(args.json), &interrupt).await?;
    if args.json {
        println!("{}", json_text(&report));
    } else {
        println!("{}", outcome_text(&report));
    }
    verdict(&report)
}

/// Watches a pass to its end, or ends it when the user wants to stop.
async fn follow(
    client: &AdminClient,
    mut report: VerifyReport,
    bar: Option<ProgressBar>,
    interrupt: &Interrupt,
) -> Result<VerifyReport, ToolError> {
    let pass = report.pass;
    while report.pass == pass && report.state == VerifyState::Running {
        if let Some(bar) = &bar {
            bar.set_length(report.bytes_total);
            bar.set_position(report.bytes_checked);
        }
        report = tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => client.verification().await?,
            () = interrupt.wait() => client.cancel_verification().await?,
        };
    }
    if let Some(bar) = &bar {
        bar.finish_and_clear();
    }
    // Another pass can only have begun after somebody ended this one.
    if report.pass == pass { Ok(report) } else { Err(ToolError::Interrupted) }
}

/// A bar, if somebody is there to look at it.
fn bar(json: bool) -> Option<ProgressBar> {
    if json || !std::io::stderr().is_terminal() {
        return None;
    }
    let bar = ProgressBar::new(0);
    // The template is a constant; should it ever be wrong, the bar's own style is good enough.
    let template = "[{bar:30}] {percent:>3} % {bytes} of {total_bytes}, {bytes_per_sec}";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style.progress_chars("=> "));
    }
    Some(bar)
}

fn outcome_text(report: &VerifyReport) -> String {
    let VerifyReport { blocks_checked, mismatches, blocks_unreadable, objects_dropped, .. } =
        report;
    format!(
        "{} in {blocks_checked} blocks read in {:.1} s: {mismatches} blocks wrong, {blocks_unreadable} not readable, {objects_dropped} files missing or short",
        format_bytes(report.bytes_checked),
        report.elapsed_seconds,
    )
}

/// What the exit code says.
fn verdict(report: &VerifyReport) -> Result<(), ToolError> {
    if report.state == VerifyState::Cancelled {
        return Err(ToolError::Interrupted);
    }
    if report.found_damage() {
        return Err(ToolError::CacheDamaged);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{EXIT_CACHE_DAMAGED, EXIT_INTERRUPTED};

    fn report(state: VerifyState, mismatches: u64, objects_dropped: u64) -> VerifyReport {
        VerifyReport {
            pass: 1,
            requested: true,
            state,
            elapsed_seconds: 1.25,
            bytes_total: 8 << 20,
            bytes_checked: 8 << 20,
            blocks_checked: 2,
            mismatches,
            blocks_unreadable: 0,
            objects_dropped,
        }
    }

    #[test]
    fn exit_code_tells_what_was_found() {
        let code = |report| verdict(&report).map_err(|error| error.exit_code());
        assert_eq!(code(report(VerifyState::Done, 0, 0)), Ok(()));
        assert_eq!(code(report(VerifyState::Done, 1, 0)), Err(EXIT_CACHE_DAMAGED));
        assert_eq!(code(report(VerifyState::Done, 0, 1)), Err(EXIT_CACHE_DAMAGED));
        assert_eq!(code(report(VerifyState::Cancelled, 0, 0)), Err(EXIT_INTERRUPTED));
    }

    #[test]
    fn what_is_on_disk_is_a_line_each_and_one_for_all() {
        let object = CachedObject {
            path: "train/a.tar".into(),
            size_bytes: 8 << 20,
            disk_bytes: 4 << 20,
            last_use: "2026-01-01T00:00:00Z".into(),
        };
        let listed =
            CachedObjects { objects: vec![object], total_objects: 3, total_bytes: 9 << 20 };
        let text = table_of(&listed);
        assert_eq!(
            text,
            "     4 MiB of      8 MiB  2026-01-01T00:00:00Z  train/a.tar\n3 objects, 9 MiB on disk; 2 are not shown\n"
        );
    }

    #[test]
    fn the_outcome_is_one_line() {
        assert_eq!(
            outcome_text(&report(VerifyState::Done, 1, 3)),
            "8 MiB in 2 blocks read in 1.2 s: 1 blocks wrong, 0 not readable, 3 files missing or short"
        );
    }
}
