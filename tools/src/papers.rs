//! What is generated from the definition of the command line: completion scripts and man pages.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use clap::{Command, CommandFactory};
use clap_complete::Shell;

use crate::cli::{Cli, HelperArgs};
use crate::error::ToolError;

/// Prints a completion script.
pub fn completions(shell: Shell) -> Result<(), ToolError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "tenderfs", &mut script);
    print(&script)
}

/// Prints the page of `tenderfs`, or writes every page into `dir`.
pub fn man(dir: Option<&Path>) -> Result<(), ToolError> {
    let pages = pages();
    let Some(dir) = dir else {
        return print(pages.first().map(|(_, page)| page.as_slice()).unwrap_or_default());
    };
    for (name, page) in pages {
        let path = dir.join(name);
        fs::create_dir_all(dir)
            .and_then(|()| fs::write(&path, page))
            .map_err(|source| ToolError::Write { path, source })?;
    }
    Ok(())
}

/// File names and pages: `tenderfs.1` first, then one for each command, `mount.tenderfs.8` last.
fn pages() -> Vec<(String, Vec<u8>)> {
    let mut command = Cli::command();
    command.build();
    let of_command = |sub: &Command| {
        let name = format!("tenderfs-{}", sub.get_name());
        let renamed = sub.clone().name(name.clone());
        (format!("{name}.1"), page(&clap_mangen::Man::new(renamed)))
    };
    let visible = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    let commands: Vec<_> = visible.map(of_command).collect();
    let main = ("tenderfs.1".to_owned(), page(&clap_mangen::Man::new(command)));
    let helper = clap_mangen::Man::new(HelperArgs::command()).section("8");
    let helper = ("mount.tenderfs.8".to_owned(), page(&helper));
    std::iter::once(main).chain(commands).chain([helper]).collect()
}

fn page(man: &clap_mangen::Man) -> Vec<u8> {
    let mut page = Vec::new();
    let rendered = man.render(&mut page);
    debug_assert!(rendered.is_ok(), "writing to memory does not fail");
    page
}

/// Prints everything, and is content if the reader stops early, as `head` does.
fn print(bytes: &[u8]) -> Result<(), ToolError> {
    match io::stdout().write_all(bytes) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(ToolError::Write { path: "/dev/stdout".into(), source: error })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_mount_names_its_flags() {
        let pages = pages();
        let names: Vec<_> = pages.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.first(), Some(&"tenderfs.1"));
        assert_eq!(names.last(), Some(&"mount.tenderfs.8"));
        for name in ["tenderfs-mount.1", "tenderfs-warm.1", "tenderfs-doctor.1"] {
            assert!(names.contains(&name), "{name}");
        }
        let (_, mount) = pages.iter().find(|(name, _)| name == "tenderfs-mount.1").unwrap();
        let mount = String::from_utf8_lossy(mount);
        assert!(mount.contains("cache\\-size") && mount.contains("Exit codes"), "{mount}");
    }

    #[test]
    fn completions_know_the_commands() {
        let mut script = Vec::new();
        clap_complete::generate(Shell::Bash, &mut Cli::command(), "tenderfs", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("doctor") && script.contains("--cache-size"));
    }
}
