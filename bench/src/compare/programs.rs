//! Programs of others that stand beside ours: fio, curl, ls, find. Each runs to its end.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::data::{Object, Set};
use super::error::CompareError;
use super::lab::{Door, LabProcess};
use super::reads::Took;

/// The first line of what `program --version` prints; `None` if it is not installed.
pub(super) fn version(program: &str) -> Option<String> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let words: Vec<&str> = text.lines().next()?.split(' ').take(2).collect();
    Some(words.join(" "))
}

/// Random reads by fio, with io_uring and `O_DIRECT`, one in flight for each of `readers`.
pub(super) fn fio(
    file: &Path,
    (file_bytes, block_bytes): (u64, u64),
    readers: usize,
    (limit, seed): (Duration, u64),
) -> Result<Took, CompareError> {
    let mut command = Command::new("fio");
    command
        .args(["--name=compare", "--rw=randread", "--direct=1", "--ioengine=io_uring"])
        .args(["--thread", "--iodepth=1", "--time_based", "--group_reporting"])
        .args(["--output-format=json", "--readonly"])
        .arg(format!("--filename={}", file.display()))
        .arg(format!("--size={file_bytes}"))
        .arg(format!("--bs={block_bytes}"))
        .arg(format!("--numjobs={readers}"))
        .arg(format!("--runtime={}ms", limit.as_millis()))
        .arg(format!("--randseed={seed}"));
    let output = run("fio", &mut command)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    parse_fio(&text).ok_or_else(|| wrong("fio", &text))
}

fn parse_fio(text: &str) -> Option<Took> {
    // Warnings may stand before the JSON.
    let json: Value = serde_json::from_str(&text[text.find('{')?..]).ok()?;
    let read = &json["jobs"][0]["read"];
    let elapsed = Duration::from_millis(read["runtime"].as_u64()?);
    Some(Took {
        bytes: read["io_bytes"].as_u64()?,
        operations: read["total_ios"].as_u64()?,
        elapsed,
    })
}

/// GETs of whole objects by curl, `parallel` at a time, in as many processes as there are processors, so that the
/// reference is not the limit of one thread. Each object's length is checked.
pub(super) fn curl(
    lab: Door<'_>,
    (set, objects): (Set, &[Object]),
    parallel: usize,
    folder: &Path,
) -> Result<Took, CompareError> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let processes = processors.min(parallel).min(objects.len()).max(1);
    let mut commands = Vec::new();
    for process in 0..processes {
        let config = folder.join(format!("curl-{process}.config"));
        let mine = objects.iter().skip(process).step_by(processes);
        let mut text = String::new();
        for object in mine {
            let url = format!("{}{}", lab.endpoint, LabProcess::path(set, &object.key));
            writeln!(text, "url = \"{url}\"\noutput = \"/dev/null\"")
                .unwrap_or_else(|error| unreachable!("a string takes any text: {error}"));
        }
        fs::write(&config, text).map_err(CompareError::file(&config))?;
        let mut command = Command::new("curl");
        command
            .args([
                "--silent",
                "--no-progress-meter",
                "--fail",
                "--parallel",
                "--parallel-immediate",
                "--parallel-max",
            ])
            .arg((parallel / processes).max(1).to_string())
            .args(["--write-out", "%{size_download}\\n", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(path) = lab.ca_bundle {
            command.arg("--cacert").arg(path);
        }
        commands.push(command);
    }
    let started = Instant::now();
    let children = commands.iter_mut().map(Command::spawn).collect::<io::Result<Vec<_>>>();
    let children = children.map_err(not_started("curl"))?;
    let mut took = Took::default();
    for child in children {
        let output = child.wait_with_output().map_err(not_started("curl"))?;
        let text = checked("curl", &output)?;
        let sizes = text.lines().filter_map(|line| line.parse::<u64>().ok());
        sizes.for_each(|bytes| {
            took.bytes += bytes;
            took.operations += 1;
        });
    }
    took.elapsed = started.elapsed();
    if took.operations != objects.len() as u64 || took.bytes != super::data::len_bytes(objects) {
        return Err(wrong("curl", &format!("{} bytes in {} objects", took.bytes, took.operations)));
    }
    Ok(took)
}

/// Runs a command with its output thrown away and returns how long it took.
pub(super) fn timed(program: &'static str, arguments: &[&str]) -> Result<Duration, CompareError> {
    let mut command = Command::new(program);
    command.args(arguments).stdout(Stdio::null()).stdin(Stdio::null()).env("LC_ALL", "C");
    let started = Instant::now();
    run(program, &mut command)?;
    Ok(started.elapsed())
}

fn run(program: &'static str, command: &mut Command) -> Result<Output, CompareError> {
    let output = command.stderr(Stdio::piped()).output();
    let output = output.map_err(not_started(program))?;
    if output.status.success() { Ok(output) } else { Err(failed(program, &output)) }
}

fn checked(program: &'static str, output: &Output) -> Result<String, CompareError> {
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(failed(program, output))
    }
}

fn failed(program: &'static str, output: &Output) -> CompareError {
    let log = format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    CompareError::Child { program, what: "failed", log }
}

fn not_started(program: &str) -> impl FnOnce(io::Error) -> CompareError {
    let program = program.to_owned();
    move |source| CompareError::Start { program, source }
}

fn wrong(whom: &'static str, answer: &str) -> CompareError {
    CompareError::Answer { whom, answer: answer.chars().take(500).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fio_is_understood_with_a_warning_before_its_json() {
        let text = "fio: a note\n{\"jobs\": [{\"read\": {\"io_bytes\": 5000, \"total_ios\": 5, \"runtime\": 1000}}]}";
        let took = parse_fio(text).unwrap();
        assert_eq!((took.bytes, took.operations, took.elapsed.as_secs()), (5000, 5, 1));
        assert!(parse_fio("no json").is_none() && parse_fio("{}").is_none());
    }

    #[test]
    fn program_that_is_not_installed_has_no_version() {
        assert_eq!(version("no-such-program"), None);
        assert!(timed("no-such-program", &[]).is_err());
    }
}
