//! Checks the JSON that `tenderfs demo --json FILE` writes: `check-demo FILE`.
//!
//! It holds the demo to what does not depend on the machine's speed: every file right, no S3
//! request in the warm epochs, and no more bytes from S3 than the data has.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

use std::process::ExitCode;

use serde_json::Value;

/// How much of the data may be sent once more: retries and overlapping requests.
const BYTES_RATIO_MAX: f64 = 1.02;
/// The epochs of a demo, in their order.
const EPOCHS: [&str; 6] =
    ["direct_one", "direct_parallel", "cold_one", "cold", "warm_disk", "warm_page_cache"];

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: check-demo FILE");
        return ExitCode::from(2);
    };
    let read = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    let parsed = read.and_then(|text| serde_json::from_str(&text).map_err(|e| e.to_string()));
    match parsed {
        Ok(report) => {
            let wrong = faults(&report);
            for fault in &wrong {
                eprintln!("check-demo: {path}: {fault}");
            }
            if wrong.is_empty() {
                println!("check-demo: {path} is as it must be");
                return ExitCode::SUCCESS;
            }
        }
        Err(error) => eprintln!("check-demo: {path}: {error}"),
    }
    ExitCode::FAILURE
}

/// Everything that is wrong with a report.
fn faults(report: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    if report["mismatches"] != 0 {
        faults.push(format!("mismatches is {}, not 0", report["mismatches"]));
    }
    if report["files"].as_u64().is_none_or(|files| files == 0) {
        faults.push(format!("files is {}", report["files"]));
    }
    for name in EPOCHS {
        match report["epochs"].as_array().and_then(|all| all.iter().find(|e| e["name"] == name)) {
            Some(epoch) => faults.extend(epoch_fault(name, epoch)),
            None => faults.push(format!("there is no epoch {name}")),
        }
    }
    faults
}

/// What is wrong with one epoch, if anything.
fn epoch_fault(name: &str, epoch: &Value) -> Option<String> {
    let bytes = epoch["bytes"].as_f64().filter(|bytes| *bytes > 0.0);
    let Some(bytes) = bytes else { return Some(format!("{name} read {} bytes", epoch["bytes"])) };
    let (Some(gets), Some(sent)) = (epoch["s3_gets"].as_u64(), epoch["s3_bytes"].as_f64()) else {
        return Some(format!("{name} lacks s3_gets or s3_bytes"));
    };
    match name {
        "warm_disk" | "warm_page_cache" if gets > 0 => {
            Some(format!("{name} sent {gets} GETs to S3, not 0"))
        }
        "cold_one" | "cold" if sent > bytes * BYTES_RATIO_MAX || sent < bytes => {
            Some(format!("{name} moved {sent} bytes from S3 for {bytes} bytes of data"))
        }
        _ => None,
    }
}
