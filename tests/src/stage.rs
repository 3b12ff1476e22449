//! A store, a configuration, a daemon and a mount for one test.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use tempfile::TempDir;
use tenderfs_lab::{Attributes, Content, Lab};
use toml::{Table, Value};

use crate::admin::Admin;
use crate::content::File;
use crate::process::{Daemon, Program, program};
use crate::store::{External, Store};
use crate::wait::eventually;

/// The lab's bucket.
const BUCKET: &str = "training";
/// A daemon that is not ready by then never will be.
const START_LIMIT: Duration = Duration::from_secs(30);
/// A stopping daemon flushes at most a few hundred MiB.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// Numbers the stages of a run, so that seeds and prefixes differ.
static STAGES: AtomicU32 = AtomicU32::new(0);

/// One test's store, folders, configuration and daemon.
pub struct Stage {
    // Fields are dropped in this order: the daemon before the store and the folders it uses.
    daemon: Option<Daemon>,
    config: Table,
    store: Store,
    prefix: String,
    number: u32,
    /// Keys in an external store, to be deleted at the end.
    put: Mutex<Vec<String>>,
    folder: TempDir,
}

impl Stage {
    /// An empty lab and a configuration for it, nothing started; `None`, and one line that says
    /// why, where nothing can be mounted.
    pub fn new() -> Option<Self> {
        let lab = Lab::builder().start().expect("a lab on a free port");
        lab.create_bucket(BUCKET).expect("a name that S3 allows");
        Self::on(Store::Lab(lab))
    }

    /// As [`Stage::new`], with a daemon that is asked by FUSE over io_uring; `None`, and one line
    /// that says why, where the kernel does not offer that.
    pub fn by_ring() -> Option<Self> {
        if let Some(obstacle) = ring_obstacle() {
            skip(&obstacle);
            return None;
        }
        let mut stage = Self::new()?;
        stage.set("fuse.transport", "ring");
        Some(stage)
    }

    /// The store that the environment names, or a lab if it names none.
    pub fn on_any_store() -> Option<Self> {
        match External::from_environment() {
            Some(external) => Self::on(Store::External(external)),
            None => Self::new(),
        }
    }

    fn on(store: Store) -> Option<Self> {
        if let Some(obstacle) = mount_obstacle() {
            skip(&obstacle);
            return None;
        }
        let folder = tempfile::Builder::new().prefix("tenderfs-").tempdir().expect("a folder");
        fs::create_dir(folder.path().join("mnt")).expect("a mount point");
        let number = STAGES.fetch_add(1, Ordering::Relaxed);
        let prefix = match &store {
            Store::Lab(_) => String::new(),
            Store::External(_) => format!("stage-{}-{number}/", std::process::id()),
        };
        let mut config = first_config(folder.path(), &store, &prefix);
        if let Some(transport) = transport_asked_for() {
            set(&mut config, "fuse.transport", Value::from(transport));
        }
        Some(Self { daemon: None, config, store, prefix, number, put: Vec::new().into(), folder })
    }

    /// Sets a key of the configuration, such as `memory.limit`.
    pub fn set(&mut self, path: &str, value: impl Into<Value>) -> &mut Self {
        set(&mut self.config, path, value.into());
        self
    }

    /// Sets a key of the one `[[mount]]`.
    pub fn set_mount(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let mount = self.config["mount"].as_array_mut().and_then(|all| all[0].as_table_mut());
        mount.expect("the first configuration has a mount").insert(key.to_owned(), value.into());
        self
    }

    /// Whether the daemon is to be asked by FUSE over io_uring.
    pub fn is_by_ring(&self) -> bool {
        let transport = self.config.get("fuse").and_then(|fuse| fuse.get("transport"));
        transport.and_then(Value::as_str) == Some("ring")
    }

    /// The configuration as it stands, to be changed in ways that the setters do not offer.
    pub fn config_mut(&mut self) -> &mut Table {
        &mut self.config
    }

    /// Puts an object at `key`, below the mount's prefix.
    pub fn put(&self, key: &str, content: impl Into<Content>) -> File {
        let content = content.into();
        let full = format!("{}{key}", self.prefix);
        match &self.store {
            Store::Lab(lab) => {
                lab.put(BUCKET, &full, content.clone()).expect("the lab takes any key");
            }
            Store::External(store) => {
                store.put(&full, &content.read(0, u64::MAX));
                self.put.lock().expect("no test panics while it puts").push(full);
            }
        }
        File { key: key.to_owned(), content }
    }

    /// Puts the lab's object of `file` again, with these attributes.
    pub fn put_with(&self, file: &File, attributes: Attributes) {
        let full = format!("{}{}", self.prefix, file.key);
        self.lab()
            .put_with(BUCKET, &full, file.content.clone(), attributes)
            .expect("the lab takes any key");
    }

    /// Puts an object of seeded bytes for each (key, size), every one with a seed of its own.
    pub fn fill<K: AsRef<str>>(&self, files: impl IntoIterator<Item = (K, u64)>) -> Vec<File> {
        let seeded = |(index, (key, size_bytes)): (usize, (K, u64))| {
            let seed = (u64::from(self.number) << 32) + index as u64;
            self.put(key.as_ref(), Content::seeded(seed, size_bytes))
        };
        files.into_iter().enumerate().map(seeded).collect()
    }

    /// The lab.
    ///
    /// # Panics
    ///
    /// On a stage with an external store, which has neither faults nor a ledger.
    pub fn lab(&self) -> &Lab {
        match &self.store {
            Store::Lab(lab) => lab,
            Store::External(_) => panic!("this test needs the lab"),
        }
    }

    /// Stops the lab, as a store that cannot be reached any more.
    pub fn stop_lab(&mut self) {
        let gone = External {
            endpoint: String::new(),
            region: String::new(),
            bucket: String::new(),
            access_key: String::new(),
            secret_key: String::new(),
        };
        drop(std::mem::replace(&mut self.store, Store::External(gone)));
    }

    /// The bucket's name.
    pub fn bucket(&self) -> &str {
        match &self.store {
            Store::Lab(_) => BUCKET,
            Store::External(store) => &store.bucket,
        }
    }

    /// A file or folder of the stage's own, outside the mount.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the bucket is mounted.
    pub fn mountpoint(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    /// The path of `key` under the mount.
    pub fn path(&self, key: &str) -> PathBuf {
        self.mountpoint().join(key)
    }

    /// The daemon's cache folder.
    pub fn cache_dir(&self) -> PathBuf {
        self.folder.path().join("cache")
    }

    /// Writes the configuration and returns its path.
    pub fn write_config(&self) -> PathBuf {
        let path = self.folder.path().join("tenderfs.toml");
        fs::write(&path, toml::to_string(&self.config).expect("a table of plain values"))
            .expect("a file in a temporary folder");
        path
    }

    /// A program of the project with nothing in its environment but what this stage needs.
    pub fn command(&self, which: Program) -> Command {
        let mut command = Command::new(program(which));
        let (access_key, secret_key) = match &self.store {
            Store::Lab(lab) => (lab.access_key().to_owned(), lab.secret_key().to_owned()),
            Store::External(store) => (store.access_key.clone(), store.secret_key.clone()),
        };
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", self.folder.path())
            .env("RUST_BACKTRACE", "1")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("AWS_ACCESS_KEY_ID", access_key)
            .env("AWS_SECRET_ACCESS_KEY", secret_key);
        command
    }

    /// The daemon's command with the configuration as it stands now.
    pub fn daemon_command(&self) -> Command {
        let mut command = self.command(Program::Tenderfsd);
        command.arg("--config").arg(self.write_config());
        command
    }

    /// Starts the daemon and waits until it says that it is ready.
    #[track_caller]
    pub fn start(&mut self) -> &mut Self {
        if let Err(status) = self.try_start() {
            panic!("the daemon ended before it was ready: {status}");
        }
        self
    }

    /// Starts the daemon and waits until it is ready, or has ended with the status returned.
    pub fn try_start(&mut self) -> Result<(), ExitStatus> {
        self.try_start_by(&mut self.daemon_command())
    }

    /// As [`Stage::try_start`], by a command that becomes the daemon.
    pub fn try_start_by(&mut self, command: &mut Command) -> Result<(), ExitStatus> {
        assert!(self.daemon.is_none(), "one daemon at a time");
        let mut daemon = Daemon::spawn(command, self.folder.path());
        let ready = daemon.wait_ready(START_LIMIT);
        self.daemon = Some(daemon);
        ready
    }

    /// The daemon that was started.
    #[track_caller]
    pub fn daemon(&self) -> &Daemon {
        self.daemon.as_ref().expect("the daemon was started")
    }

    /// Stops the daemon as systemd does and returns its exit status.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.signal(Signal::SIGTERM);
        daemon.wait(STOP_LIMIT).expect("a daemon stops when it is told to")
    }

    /// Waits until the daemon ends by itself; `None` if it has not after `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let status = self.daemon.as_mut().expect("the daemon was started").wait(limit)?;
        self.daemon = None;
        Some(status)
    }

    /// Starts a daemon where a dead one's mount is in the way: either the new one takes the place,
    /// or it must name the command that clears it, which is then done.
    #[track_caller]
    pub fn start_over_dead_mount(&mut self) {
        if self.try_start().is_err() {
            let mountpoint = self.mountpoint();
            let command = format!("umount -l {}", mountpoint.display());
            let said = self.daemon().log();
            assert!(said.contains(&command), "`{command}` is not named in:\n{said}");
            self.daemon = None;
            unmount_lazily(&mountpoint);
            self.start();
        }
    }

    /// Whether the daemon has logged a line with `part` in it.
    pub fn log_line(&self, part: &str) -> bool {
        self.daemon().log().lines().any(|line| line.contains(part))
    }

    /// Kills the daemon; the mount stays behind, dead.
    pub fn kill(&mut self) {
        let mut daemon = self.daemon.take().expect("the daemon was started");
        daemon.signal(Signal::SIGKILL);
        daemon.wait(STOP_LIMIT).expect("SIGKILL ends a process");
    }

    /// Stops the daemon and starts another on the same folders.
    #[track_caller]
    pub fn restart(&mut self) -> &mut Self {
        assert!(self.stop().success(), "the daemon did not stop cleanly");
        self.start()
    }

    /// A client of the daemon's admin API.
    pub fn admin(&self) -> Admin {
        Admin::new(&self.admin_socket())
    }

    /// The path of the admin socket.
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        drop(self.daemon.take());
        if is_mounted(&self.mountpoint()) {
            eprintln!("{} was still mounted: unmounting it lazily", self.mountpoint().display());
            unmount_lazily(&self.mountpoint());
        }
        if let (Store::External(store), Ok(keys)) = (&self.store, self.put.lock()) {
            keys.iter().for_each(|key| store.delete(key));
        }
    }
}

/// A configuration for a small daemon on `folder`, with one mount of the store's bucket.
fn first_config(folder: &Path, store: &Store, prefix: &str) -> Table {
    let (endpoint, region, bucket) = match store {
        Store::Lab(lab) => (lab.endpoint(), "us-east-1".to_owned(), BUCKET.to_owned()),
        Store::External(it) => (it.endpoint.clone(), it.region.clone(), it.bucket.clone()),
    };
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut mount = Table::new();
    for (key, value) in [
        ("bucket", bucket),
        ("prefix", prefix.to_owned()),
        ("mountpoint", path("mnt")),
        ("endpoint_url", endpoint),
        ("region", region),
    ] {
        mount.insert(key.to_owned(), Value::from(value));
    }
    let mut config = Table::new();
    set(&mut config, "daemon.cores", Value::from(2));
    set(&mut config, "daemon.pin_cores", Value::from(false));
    set(&mut config, "daemon.admin_socket", Value::from(path("admin.sock")));
    set(&mut config, "memory.limit", Value::from("256MiB"));
    set(&mut config, "cache.dir", Value::from(path("cache")));
    set(&mut config, "cache.size", Value::from("2GiB"));
    config.insert("mount".to_owned(), Value::Array(vec![Value::Table(mount)]));
    config
}

/// Sets `a.b.c` in nested tables, making the tables that are not there.
fn set(table: &mut Table, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(table.insert(path.to_owned(), value)),
        Some((first, rest)) => {
            let inner = table.entry(first).or_insert_with(|| Value::Table(Table::new()));
            set(inner.as_table_mut().expect("a table on the way"), rest, value);
        }
    }
}

/// Says in one line why tests are skipped, once for each reason: around the test runner, which
/// keeps to itself what a passing test prints.
pub fn skip(reason: &str) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock().expect("no test panics while it says this");
    if !said.iter().any(|one| one == reason) {
        writeln!(std::io::stderr(), "skipped: {reason}").expect("standard error takes a line");
        said.push(reason.to_owned());
    }
}

/// How the daemons of all stages are to be asked, if `TENDERFS_TEST_TRANSPORT` says so.
#[allow(clippy::disallowed_methods, reason = "how a person chooses the transport of these tests")]
fn transport_asked_for() -> Option<String> {
    std::env::var("TENDERFS_TEST_TRANSPORT").ok()
}

/// Why the kernel offers no FUSE over io_uring, in one sentence; `None` if it does.
pub fn ring_obstacle() -> Option<String> {
    const SWITCH: &str = "/sys/module/fuse/parameters/enable_uring";
    match fs::read_to_string(SWITCH) {
        Ok(switch) if switch.trim() == "Y" => None,
        Ok(_) => Some(format!("FUSE over io_uring is off: `echo Y > {SWITCH}` switches it on")),
        Err(_) => Some("this kernel has no FUSE over io_uring".into()),
    }
}

/// Whether this process may do what only root may.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Why nothing can be mounted on this machine, in one sentence; `None` if it can.
pub fn mount_obstacle() -> Option<String> {
    let device = fs::File::options().read(true).write(true).open("/dev/fuse");
    if let Err(error) = device {
        return Some(format!("/dev/fuse cannot be opened ({error}), so nothing can be mounted"));
    }
    let helper = ["/bin/fusermount3", "/usr/bin/fusermount3", "/usr/local/bin/fusermount3"];
    if !is_root() && !helper.iter().any(|path| Path::new(path).exists()) {
        return Some(
            "neither root nor fusermount3 (package fuse3), so nothing can be mounted".into(),
        );
    }
    None
}

/// Whether something is mounted on `path`, dead or alive. Asks no file system.
pub fn is_mounted(path: &Path) -> bool {
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("procfs");
    let path = path.to_string_lossy();
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path))
}

/// Takes `path` out of the tree whatever uses it, and waits until it is gone.
pub fn unmount_lazily(path: &Path) {
    let status = if is_root() {
        Command::new("umount").arg("-l").arg(path).status()
    } else {
        Command::new("fusermount3").arg("-uz").arg(path).status()
    };
    assert!(status.is_ok_and(|status| status.success()), "{} stays mounted", path.display());
    eventually(STOP_LIMIT, "the mount to go", || (!is_mounted(path)).then_some(()));
}
