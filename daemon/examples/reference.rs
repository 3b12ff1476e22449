//! Writes the reference pages that are made from tables in the code: `docs/OPTIONS.md` and
//! `docs/METRICS.md`. Tests hold the pages to the tables.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::write(docs.join("OPTIONS.md"), tenderfs_daemon::config::options_markdown())?;
    std::fs::write(docs.join("METRICS.md"), tenderfs_daemon::metrics::metrics_markdown())
}
