//! The daemon under measurement: its configuration, its process, its mount, and what it says of itself.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_getcpuclockid};
use nix::unistd::Pid;
use tenderfs_fuse::{Unmount, unmount};

use super::child::{Child, guarded, wait_for};
use super::data::{BUCKET, Set};
use super::error::CompareError;
use super::http;
use super::lab::{KEYS, LabProcess};

/// A daemon that is not ready by then never will be.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long blocks may take to get from memory to disk.
const FLUSH_LIMIT: Duration = Duration::from_mins(2);

/// Whether the daemon has a disk tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskTier {
    /// It has.
    On,
    /// It has none.
    Off,
}

/// How a daemon is to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Setup {
    /// What is mounted.
    pub(crate) set: Set,
    /// With or without a disk tier.
    pub(crate) disk_tier: DiskTier,
    /// `memory.limit` in MiB.
    pub(crate) memory_mib: u64,
    /// `fuse.passthrough = false`, if the daemon knows that.
    pub(crate) without_passthrough: bool,
}

/// Where daemons are started, and from what.
#[derive(Debug)]
pub(crate) struct Ground {
    /// The program.
    pub(crate) program: PathBuf,
    /// Holds mount point, cache, configuration and logs.
    pub(crate) folder: PathBuf,
    /// Whether this daemon knows `fuse.passthrough`.
    knows_passthrough: bool,
}

/// A daemon with its mount.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    folder: PathBuf,
}

impl Ground {
    /// Makes the folders and finds out what the daemon's program knows.
    pub(crate) fn new(program: PathBuf, folder: &Path) -> Result<Ground, CompareError> {
        for name in ["mnt", "cache"] {
            let path = folder.join(name);
            fs::create_dir_all(&path).map_err(CompareError::file(&path))?;
        }
        let mut ground = Ground { program, folder: folder.to_owned(), knows_passthrough: false };
        ground.knows_passthrough = ground.knows("[fuse]\npassthrough = false\n")?;
        Ok(ground)
    }

    /// Whether the daemon takes these lines of configuration.
    fn knows(&self, lines: &str) -> Result<bool, CompareError> {
        let path = self.folder.join("probe.toml");
        fs::write(&path, lines).map_err(CompareError::file(&path))?;
        let output = Command::new(&self.program).arg("--check").arg("--config").arg(&path).output();
        let output = output.map_err(|source| self.not_started(source))?;
        Ok(!String::from_utf8_lossy(&output.stderr).contains("passthrough"))
    }

    fn not_started(&self, source: io::Error) -> CompareError {
        CompareError::Start { program: self.program.display().to_string(), source }
    }

    /// The cache folder.
    pub(crate) fn cache_dir(&self) -> PathBuf {
        self.folder.join("cache")
    }

    /// The mount point.
    pub(crate) fn mountpoint(&self) -> PathBuf {
        self.folder.join("mnt")
    }

    /// Where its daemons are asked.
    pub(crate) fn admin_socket(&self) -> PathBuf {
        self.folder.join("admin.sock")
    }

    /// Empties the cache folder; no daemon may be using it.
    pub(crate) fn clear_cache(&self) -> Result<(), CompareError> {
        let path = self.cache_dir();
        let clear = || fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path));
        clear().map_err(CompareError::file(&path))
    }

    /// Starts a daemon and waits until its mount answers.
    pub(crate) fn start(&self, lab: &LabProcess, setup: &Setup) -> Result<Daemon, CompareError> {
        self.start_configured(&self.config(lab, setup))
    }

    /// Starts a daemon with this configuration, of which the admin socket is [`Ground::admin_socket`].
    pub(crate) fn start_configured(&self, text: &str) -> Result<Daemon, CompareError> {
        let config = self.folder.join("tenderfs.toml");
        fs::write(&config, text).map_err(CompareError::file(&config))?;
        let socket = self.folder.join("notify.sock");
        fs::remove_file(&socket).ok();
        let notify = UnixDatagram::bind(&socket).map_err(CompareError::file(&socket))?;
        notify
            .set_read_timeout(Some(Duration::from_millis(20)))
            .map_err(CompareError::file(&socket))?;
        let mut command = guarded(&self.program)?;
        command
            .arg("--config")
            .arg(&config)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", &self.folder)
            .env("NOTIFY_SOCKET", &socket)
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", KEYS.0)
            .env("AWS_SECRET_ACCESS_KEY", KEYS.1);
        let child = Child::start("tenderfsd", &mut command, &self.folder)?;
        let mut daemon = Daemon { child, folder: self.folder.clone() };
        daemon.wait_ready(&notify)?;
        Ok(daemon)
    }

    /// Everything that is not said here is as the daemon has it by default. Names are believed for an hour, so that no
    /// round depends on when their time is over.
    fn config(&self, lab: &LabProcess, setup: &Setup) -> String {
        let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
        let cache_dir = match setup.disk_tier {
            DiskTier::On => quoted(self.cache_dir()),
            DiskTier::Off => "\"\"".to_owned(),
        };
        let mut text = format!(
            "[daemon]\nadmin_socket = {socket}\n[log]\nlevel = \"warn\"\n[memory]\nlimit = \"{memory}MiB\"\n\
             [cache]\ndir = {cache_dir}\nfree_space_ratio = 0.01\n",
            socket = quoted(self.admin_socket()),
            memory = setup.memory_mib,
        );
        if setup.without_passthrough && self.knows_passthrough {
            text.push_str("[fuse]\npassthrough = false\n");
        }
        let mount = [
            ("bucket", BUCKET.to_owned()),
            ("prefix", format!("{}/", setup.set.prefix())),
            ("mountpoint", self.mountpoint().display().to_string()),
            ("endpoint_url", lab.endpoint().to_owned()),
            ("region", lab.region().to_owned()),
            ("attr_ttl", "1h".to_owned()),
            ("entry_ttl", "1h".to_owned()),
        ];
        text.push_str("[[mount]]\n");
        for (key, value) in mount {
            writeln!(text, "{key} = {value:?}")
                .unwrap_or_else(|error| unreachable!("a string takes any text: {error}"));
        }
        text
    }
}

impl Daemon {
    fn wait_ready(&mut self, notify: &UnixDatagram) -> Result<(), CompareError> {
        let mut message = [0; 4096];
        let started = Instant::now();
        loop {
            // A time-out is a look at the child.
            let count = notify.recv(&mut message).unwrap_or(0);
            if String::from_utf8_lossy(&message[..count]).lines().any(|line| line == "READY=1") {
                return Ok(());
            }
            if self.child.ended().is_some() {
                return Err(self.child.failed("ended before its mount was ready"));
            }
            if started.elapsed() > START_LIMIT {
                return Err(self.child.failed("did not become ready"));
            }
        }
    }

    /// Processor time it has taken, user and system.
    pub(crate) fn cpu(&self) -> Duration {
        cpu_of(self.child.pid())
    }

    /// The most memory it ever had resident, in bytes (`VmHWM`).
    pub(crate) fn resident_bytes_max(&self) -> Result<u64, CompareError> {
        let path = PathBuf::from(format!("/proc/{}/status", self.child.pid()));
        let text = fs::read_to_string(&path).map_err(CompareError::file(&path))?;
        let kib = text
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        kib.map(|kib| kib << 10)
            .ok_or_else(|| CompareError::Answer { whom: "/proc", answer: text.clone() })
    }

    /// The sum of a metric's samples whose labels contain `label`, 0 if there are none.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<f64, CompareError> {
        Ok(sum_of(&self.ask(("GET", "/metrics"), "")?, name, label))
    }

    /// Asks its admin API, and returns the body of the answer.
    pub(crate) fn ask(
        &self,
        (method, path): (&str, &str),
        body: &str,
    ) -> Result<String, CompareError> {
        let failed =
            |source| CompareError::Ask { whom: "the daemon", what: path.to_owned(), source };
        let stream = UnixStream::connect(self.folder.join("admin.sock")).map_err(failed)?;
        http::ask(stream, (method, path), body).map_err(failed)
    }

    /// Waits until nothing is left to be written to disk.
    pub(crate) fn wait_flushed(&self) -> Result<(), CompareError> {
        wait_for("the disk tier to take what is in memory", FLUSH_LIMIT, || {
            let pending = self.metric("tenderfs_cache_disk_pending_bytes", "")?;
            Ok((pending == 0.0).then_some(()))
        })
    }

    /// Stops it as systemd does; what was to be written to disk is there when this returns.
    pub(crate) fn stop(self) {
        drop(self);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.child.stop();
        // It unmounts by itself unless it was killed.
        unmount(&self.folder.join("mnt"), Unmount::Lazy).ok();
    }
}

/// Processor time that a process has taken; zero once it is gone.
pub(crate) fn cpu_of(pid: Pid) -> Duration {
    let time = clock_getcpuclockid(pid).and_then(ClockId::now);
    time.map_or(Duration::ZERO, Duration::from)
}

/// The sum of the samples of a metric in the text that Prometheus reads.
fn sum_of(text: &str, name: &str, label: &str) -> f64 {
    text.lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| line.contains(label))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metric_is_the_sum_of_its_samples_with_the_label() {
        let text = "# HELP a_total x\na_total{op=\"read\"} 3\na_total{op=\"open\"} 4\na_total_more 9\nb 1\n";
        let sum = |name, label| sum_of(text, name, label);
        assert!((sum("a_total", "") - 7.0).abs() < 1e-9);
        assert!((sum("a_total", "op=\"open\"") - 4.0).abs() < 1e-9);
        assert!(sum("c", "").abs() < 1e-9);
    }

    #[test]
    fn processor_time_of_a_process_grows() {
        let before = cpu_of(Pid::this());
        let mut sum = 0_u64;
        while cpu_of(Pid::this()) < before + Duration::from_millis(1) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
    }
}
