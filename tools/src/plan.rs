//! `tenderfs plan`: tells the daemon what a job will read, so that it is fetched before.

use std::io::Read;
use std::path::Path;

use tenderfs_daemon::admin::model::{PlanEpoch, PlanJob};
use tenderfs_daemon::config::format_bytes;

use crate::admin_client::{self, AdminClient, json_text};
use crate::cli::{PlanCommand, PlanPostArgs, WhichMount};
use crate::error::ToolError;
use crate::warm;

/// `tenderfs plan`.
pub async fn main(command: &PlanCommand) -> Result<(), ToolError> {
    match command {
        PlanCommand::Post(args) => post(args).await,
        PlanCommand::Status { job, mount, json } => {
            let (client, mountpoint) = find(mount).await?;
            let jobs = match job {
                Some(job) => vec![client.plan_job(job, &mountpoint).await?],
                None => client.plan_jobs(&mountpoint).await?,
            };
            if *json {
                println!("{}", json_text(&jobs));
            } else if jobs.is_empty() {
                println!("no job has plans on {mountpoint}");
            } else {
                for job in &jobs {
                    print!("{}", lines_of(job));
                }
            }
            Ok(())
        }
        PlanCommand::Cancel { job, mount } => {
            let (client, mountpoint) = find(mount).await?;
            print!("{}", lines_of(&client.cancel_plans(job, &mountpoint).await?));
            Ok(())
        }
    }
}

async fn find(which: &WhichMount) -> Result<(AdminClient, String), ToolError> {
    let path = which.mount.as_deref().map(warm::absolute).transpose()?;
    Ok(admin_client::find_mount(path.as_deref(), which.socket.socket.as_deref()).await?)
}

async fn post(args: &PlanPostArgs) -> Result<(), ToolError> {
    let text = text_in(&args.file)?;
    let (client, mountpoint) = find(&args.mount).await?;
    let query = [("epoch", args.epoch), ("rank", args.rank.into()), ("world", args.world.into())];
    let accepted = client.post_plan((&args.job, &mountpoint), &query, text).await?;
    if args.json {
        println!("{}", json_text(&accepted));
    } else {
        println!(
            "{}: epoch {}, rank {}: {} reads of {} files{}",
            accepted.job,
            accepted.epoch,
            accepted.rank,
            accepted.entries,
            accepted.files,
            if accepted.replaced { ", in place of the plan before" } else { "" }
        );
    }
    Ok(())
}

fn text_in(file: &Path) -> Result<Vec<u8>, ToolError> {
    let read = if file == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().lock().read_to_end(&mut text).map(|_| text)
    } else {
        std::fs::read(file)
    };
    read.map_err(|source| ToolError::Plan { path: file.to_path_buf(), source })
}

/// A line for the job, and one for each of its plans.
fn lines_of(job: &PlanJob) -> String {
    let first = format!(
        "{}: {} reads waited, {:.1} s in all; forgotten in {:.0} s if nothing is heard of it\n",
        job.job, job.stalls, job.stalled_seconds, job.lease_left_seconds
    );
    job.epochs.iter().fold(first, |lines, plan| lines + &line_of(plan))
}

fn line_of(plan: &PlanEpoch) -> String {
    let PlanEpoch { epoch, rank, entries, used, .. } = plan;
    let missing = match plan.missing {
        0 => String::new(),
        missing => format!(", {missing} do not exist"),
    };
    format!(
        "  epoch {epoch}, rank {rank}: {used} of {entries} read, {} ready of {} ahead{missing}\n",
        format_bytes(plan.ready_bytes),
        format_bytes(plan.held_bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_a_line_and_one_for_each_plan() {
        let plan = PlanEpoch {
            epoch: 2,
            rank: 0,
            entries: 100,
            used: 40,
            taken: 60,
            missing: 1,
            over: false,
            held_bytes: 20 << 20,
            ready_bytes: 16 << 20,
        };
        let job = PlanJob {
            job: "train".into(),
            world: 1,
            epochs: vec![plan],
            stalls: 3,
            stalled_seconds: 0.25,
            lease_left_seconds: 599.6,
        };
        assert_eq!(
            lines_of(&job),
            "train: 3 reads waited, 0.2 s in all; forgotten in 600 s if nothing is heard of it\n  \
             epoch 2, rank 0: 40 of 100 read, 16 MiB ready of 20 MiB ahead, 1 do not exist\n"
        );
    }
}
