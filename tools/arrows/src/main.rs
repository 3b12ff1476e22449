//! Fails if a crate of this workspace depends on another in a way that docs/ARCHITECTURE.md does
//! not draw: `cargo run -p tenderfs-arrows`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool prints")]

use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};

use tenderfs_arrows::{Workspace, differences};

/// The root of the checkout that this tool was built from.
const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
/// Where the arrows are drawn.
const DRAWING: &str = "docs/ARCHITECTURE.md";

fn main() -> ExitCode {
    match check() {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("arrows: cannot compare the crates with {DRAWING}: {error}");
            ExitCode::from(2)
        }
    }
}

/// Prints every difference and returns how many there are.
fn check() -> Result<usize, Box<dyn Error>> {
    let drawn = Workspace::from_drawing(&std::fs::read_to_string(Path::new(ROOT).join(DRAWING))?)?;
    let real = Workspace::from_metadata(&metadata()?)?;
    let found = differences(&drawn, &real);
    for difference in &found {
        eprintln!("arrows: {difference}");
    }
    println!(
        "arrows: {} crates, {} arrows, {} not as drawn in {DRAWING}",
        real.crates.len(),
        real.arrows.len(),
        found.len()
    );
    Ok(found.len())
}

/// What cargo says of the workspace's members; needs no network.
fn metadata() -> Result<String, Box<dyn Error>> {
    let output = Command::new("cargo")
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(ROOT)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).trim().into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

#[cfg(test)]
mod tests {
    /// The workspace has exactly the arrows that docs/ARCHITECTURE.md draws.
    #[test]
    fn the_crates_of_this_checkout_are_as_drawn() {
        assert_eq!(super::check().unwrap(), 0, "see the lines above");
    }
}
