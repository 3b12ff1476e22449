//! The `tenderfs` binary; called as mount.tenderfs it is the helper of mount(8).

use std::process::ExitCode;

fn main() -> ExitCode {
    tenderfs_tools::main()
}
