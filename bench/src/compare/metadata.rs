//! Names and attributes, as people and scripts ask for them: `ls -l` and `find`.

use std::path::Path;

use super::bench::Bench;
use super::daemon::{DiskTier, Setup};
use super::data::{Copied, Set};
use super::error::CompareError;
use super::programs::timed;

/// One row: a program, its arguments before the folder, and what it walks.
struct Walk {
    name: &'static str,
    program: &'static str,
    arguments: &'static [&'static str],
    set: Set,
}

const WALKS: [Walk; 2] = [
    Walk { name: "metadata.ls", program: "ls", arguments: &["-l"], set: Set::Small },
    Walk { name: "metadata.find", program: "find", arguments: &[], set: Set::Keys },
];

/// Measures the suite.
pub(super) fn run(bench: &mut Bench) -> Result<(), CompareError> {
    for walk in WALKS {
        if bench.wants(&[walk.name]) {
            walk.run(bench)?;
        }
    }
    Ok(())
}

impl Walk {
    fn run(&self, bench: &mut Bench) -> Result<(), CompareError> {
        let native = bench.native(self.set, Copied::Sizes)?;
        let setup = Setup {
            set: self.set,
            disk_tier: DiskTier::Off,
            memory_mib: 1024,
            without_passthrough: false,
        };
        let daemon = bench.ground.start(&bench.lab, &setup)?;
        let mounted = bench.ground.mountpoint();
        // Once before, so that both sides are warm.
        self.measure(&mounted)?;
        self.measure(&native)?;
        bench.compare(
            self.name,
            &mut (),
            |_, ()| self.measure(&mounted),
            |_, ()| self.measure(&native),
        )?;
        daemon.stop();
        Ok(())
    }

    fn measure(&self, folder: &Path) -> Result<f64, CompareError> {
        let folder = folder.to_string_lossy().into_owned();
        let arguments: Vec<&str> =
            self.arguments.iter().copied().chain([folder.as_str()]).collect();
        timed(self.program, &arguments).map(|time| time.as_secs_f64() * 1e3)
    }
}
