//! `io_uring`: asked of the kernel by making a ring.

use std::io;

use io_uring::{IoUring, Probe, opcode};

use super::line::Line;

/// Operations the daemon submits.
const NEEDED: &[(&str, u8)] = &[
    ("READ", opcode::Read::CODE),
    ("WRITE", opcode::Write::CODE),
    ("READ_FIXED", opcode::ReadFixed::CODE),
    ("READV", opcode::Readv::CODE),
    ("WRITEV", opcode::Writev::CODE),
    ("FSYNC", opcode::Fsync::CODE),
    ("FALLOCATE", opcode::Fallocate::CODE),
    ("OPENAT", opcode::OpenAt::CODE),
    ("CLOSE", opcode::Close::CODE),
    ("POLL_ADD", opcode::PollAdd::CODE),
    ("ASYNC_CANCEL", opcode::AsyncCancel::CODE),
];

/// Makes a ring and asks it for its operations.
pub fn io_uring() -> Line {
    let asked = IoUring::new(8).and_then(|ring| {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        Ok(NEEDED
            .iter()
            .filter(|(_, code)| !probe.is_supported(*code))
            .map(|(name, _)| *name)
            .collect())
    });
    judge(asked)
}

/// A line about the names of operations that are missing, or about why no ring could be made.
fn judge(missing: io::Result<Vec<&'static str>>) -> Line {
    const TOPIC: &str = "io_uring";
    match missing {
        Ok(missing) if missing.is_empty() => Line::ok(TOPIC, "a ring with every operation needed"),
        Ok(missing) => Line::missing(
            TOPIC,
            format!("the kernel lacks {}", missing.join(", ")),
            "use Linux 5.15 or newer",
        ),
        Err(error) => {
            let remedy = match error.raw_os_error() {
                Some(nix::libc::ENOSYS) => {
                    "use a kernel with CONFIG_IO_URING (Linux 5.15 or newer), or let the container's seccomp profile allow io_uring_setup"
                }
                Some(nix::libc::EPERM | nix::libc::EACCES) => {
                    "sysctl kernel.io_uring_disabled=0, and let the container's seccomp profile allow io_uring_setup"
                }
                Some(nix::libc::ENOMEM) => {
                    "raise the limit of locked memory: `ulimit -l unlimited`"
                }
                _ => "",
            };
            Line::missing(TOPIC, format!("no ring could be made: {error}"), remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::line::State;
    use super::*;

    #[test]
    fn refusal_names_the_switch_that_refuses() {
        let line = judge(Err(io::Error::from_raw_os_error(nix::libc::EPERM)));
        assert_eq!(line.state, State::Missing);
        assert!(line.remedy.contains("io_uring_disabled"), "{line}");
    }

    #[test]
    fn missing_operations_are_named() {
        assert_eq!(judge(Ok(vec![])).state, State::Ok);
        assert!(judge(Ok(vec!["READ", "FSYNC"])).found.contains("READ, FSYNC"));
    }
}
