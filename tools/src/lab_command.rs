//! `tenderfs lab`: the S3 server with latency, bandwidth and faults to order, in the foreground.

use tenderfs_lab::{Lab, Latency as LabLatency, Shape, Storage};

use crate::cli::{LabArgs, Latency, ShapeArgs};
use crate::error::ToolError;
use crate::interrupt::Interrupt;

/// `tenderfs lab`.
pub async fn main(args: &LabArgs) -> Result<(), ToolError> {
    let interrupt = Interrupt::watch().map_err(ToolError::Runtime)?;
    let lab = start(args)?;
    print!("{}", greeting(&lab));
    interrupt.wait().await;
    Ok(())
}

fn start(args: &LabArgs) -> Result<Lab, ToolError> {
    let lab_error = |error: &dyn std::error::Error| ToolError::Lab { reason: error.to_string() };
    let (key, secret) = args.credentials.clone();
    let storage = args.folder.clone().map_or(Storage::Memory, Storage::Folder);
    let builder = Lab::builder()
        .address(&args.listen)
        .control_address(&args.control)
        .credentials(key, secret)
        .storage(storage)
        .region(&args.region)
        .threads(usize::from(args.threads));
    let builder = if args.allow_anonymous { builder.allow_anonymous() } else { builder };
    let lab = builder.start().map_err(|error| lab_error(&error))?;
    lab.shape(shape(&args.shape));
    for bucket in &args.buckets {
        lab.create_bucket(bucket).map_err(|error| lab_error(&error))?;
    }
    Ok(lab)
}

fn shape(args: &ShapeArgs) -> Shape {
    let first_byte = match args.first_byte {
        None => LabLatency::Zero,
        Some(Latency { median, p99: None }) => LabLatency::Fixed(median),
        Some(Latency { median, p99: Some(p99) }) => LabLatency::Distribution { median, p99 },
    };
    Shape {
        first_byte,
        connection_bytes_per_second: args.connection_bandwidth,
        total_bytes_per_second: args.total_bandwidth,
        ..Shape::default()
    }
}

/// Everything a user needs to point a client at the lab, ready to paste into a shell.
fn greeting(lab: &Lab) -> String {
    format!(
        "export AWS_ENDPOINT_URL={}\nexport AWS_ACCESS_KEY_ID={}\nexport AWS_SECRET_ACCESS_KEY={}\nexport AWS_REGION={}\n\
         # control (ledger, shape, faults): {}; Ctrl-C ends\n",
        lab.endpoint(),
        lab.access_key(),
        lab.secret_key(),
        lab.region(),
        lab.control_url(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;
    use std::time::Duration;

    #[test]
    fn lab_starts_as_its_flags_say() {
        let line = "tenderfs lab --listen 127.0.0.1:0 --bucket data --credentials k:s --first-byte 20ms,200ms --connection-bandwidth 90MB";
        let Command::Lab(args) = Cli::parse_from(line.split(' ')).command else {
            panic!("not lab")
        };
        let lab = start(&args).unwrap();
        let (median, p99) = (Duration::from_millis(20), Duration::from_millis(200));
        let expected = Shape {
            first_byte: LabLatency::Distribution { median, p99 },
            connection_bytes_per_second: Some(90_000_000),
            ..Shape::default()
        };
        assert_eq!(lab.shape_in_force(), expected);
        let text = greeting(&lab);
        assert!(text.contains("AWS_ACCESS_KEY_ID=k\n") && text.contains(&lab.endpoint()), "{text}");
        assert!(lab.create_bucket("data").is_err(), "it exists already");
    }
}
