//! From what was written to [`Settings`]: each option is read once, as the type its row promises.

use std::collections::HashSet;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::error::{ConfigError, Origin};
use super::layers::{Layer, Values, Written, WrittenMount};
use super::machine::Machine;
use super::options::{Kind, find};
use super::settings::{
    Access, Addressing, CacheSettings, CoreCount, DaemonSettings, FuseSettings, LogFormat,
    LogSettings, MemorySettings, MountSettings, PlanSettings, Policy, ReadAheadSettings,
    S3Settings, ScrubSettings, Settings, Transport, Verify, WarmSettings,
};
use super::source::{Source, normalise_prefix};
use super::units::{parse_bytes, parse_duration, parse_flag, parse_mode};

/// What a daemon for a mount of the command line adds to the `auto` paths, so that several of them
/// do not meet: the mount point as systemd would escape it (`/mnt/data` is `mnt-data`).
fn own_name(layer: &Layer, describes_a_mount: bool) -> Option<String> {
    let mount = layer.mounts.last().filter(|_| describes_a_mount)?;
    let mountpoint = absolute(Path::new(&mount.values.get("mount.mountpoint")?.text));
    let parts: Vec<_> =
        mountpoint.iter().skip(1).map(|part| part.to_string_lossy().into_owned()).collect();
    Some(if parts.is_empty() { "-".to_owned() } else { parts.join("-") })
}

/// Makes the settings of what was written.
pub(super) fn resolve(
    layer: &Layer,
    machine: &Machine,
    describes_a_mount: bool,
) -> Result<Settings, ConfigError> {
    let reader = Reader { shared: &layer.options, own: None };
    let name = own_name(layer, describes_a_mount);
    let mounts: Result<Vec<_>, _> =
        layer.mounts.iter().map(|mount| resolve_mount(layer, mount, machine)).collect();
    let settings = Settings {
        daemon: daemon(&reader, machine, name.as_deref())?,
        log: log(&reader)?,
        memory: memory(&reader, machine)?,
        cache: cache(&reader, machine, name.as_deref())?,
        read_ahead: read_ahead(&reader)?,
        plans: plans(&reader)?,
        s3: s3(&reader)?,
        fuse: fuse(&reader)?,
        warm: WarmSettings { workers: reader.count("warm.workers")? },
        mounts: mounts?,
    };
    check_unique(layer, &settings.mounts)?;
    Ok(settings)
}

fn daemon(
    reader: &Reader<'_>,
    machine: &Machine,
    name: Option<&str>,
) -> Result<DaemonSettings, ConfigError> {
    let cores = match reader.count_or_auto("daemon.cores")? {
        Some(cores) => CoreCount::Exactly(cores),
        None => CoreCount::Auto,
    };
    let socket = || machine.run_dir.join(format!("{}.sock", name.unwrap_or("admin")));
    Ok(DaemonSettings {
        cores,
        pin_cores: reader.flag("daemon.pin_cores")?,
        admin_socket: reader.path_or_auto("daemon.admin_socket", socket)?.ok_or_else(|| {
            reader.bad("daemon.admin_socket", Some("a path, or auto; it cannot be empty"))
        })?,
        metrics_listen: reader.parsed("daemon.metrics_listen")?,
        mount_timeout: reader.duration("daemon.mount_timeout")?,
        shutdown_timeout: reader.duration("daemon.shutdown_timeout")?,
    })
}

fn log(reader: &Reader<'_>) -> Result<LogSettings, ConfigError> {
    let format =
        reader.choice("log.format", &[("text", LogFormat::Text), ("json", LogFormat::Json)])?;
    Ok(LogSettings {
        level: Some(reader.text("log.level")?)
            .filter(|text| is_filter(text))
            .ok_or_else(|| reader.bad("log.level", Some(LEVEL)))?
            .to_owned(),
        format,
        file: reader.path("log.file"),
    })
}

const LEVEL: &str = "a level (error, warn, info, debug, trace, off) or a filter such as info,tenderfs_s3client=debug";

/// Whether `tracing` understands the filter as it was meant: it takes a misspelt level for the name
/// of a module.
fn is_filter(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];
    let is_level = |part: &str| LEVELS.contains(&part.trim().to_ascii_lowercase().as_str());
    text.split(',').all(|part| part.contains(['=', '[', ']']) || is_level(part))
        && EnvFilter::try_new(text).is_ok()
}

fn memory(reader: &Reader<'_>, machine: &Machine) -> Result<MemorySettings, ConfigError> {
    let limit_bytes = match reader.text("memory.limit")? {
        "auto" => machine.memory_bytes / 4,
        _ => reader.bytes("memory.limit")?,
    };
    Ok(MemorySettings { limit_bytes })
}

fn cache(
    reader: &Reader<'_>,
    machine: &Machine,
    name: Option<&str>,
) -> Result<CacheSettings, ConfigError> {
    let dir =
        || name.map_or_else(|| machine.cache_dir.clone(), |name| machine.cache_dir.join(name));
    let free_space_ratio = reader.parsed::<f64>("cache.free_space_ratio")?.unwrap_or(-1.0);
    if !(0.0..1.0).contains(&free_space_ratio) {
        return Err(reader.bad("cache.free_space_ratio", None));
    }
    let verify =
        [("first-use", Verify::FirstUse), ("always", Verify::Always), ("never", Verify::Never)];
    let policy = [("auto", Policy::Auto), ("lru", Policy::Lru), ("pin", Policy::Pin)];
    let pack_below_bytes = reader.bytes("cache.pack_below")?;
    if pack_below_bytes > tenderfs_cache::BLOCK_BYTES {
        return Err(reader.bad("cache.pack_below", Some("at most 4MiB")));
    }
    Ok(CacheSettings {
        dir: reader.path_or_auto("cache.dir", dir)?,
        size_bytes: reader.bytes("cache.size")?,
        pack_below_bytes,
        free_space_ratio,
        policy: reader.choice("cache.policy", &policy)?,
        verify: reader.choice("cache.verify", &verify)?,
        scrub: scrub(reader)?,
    })
}

/// `None` if either is 0.
fn scrub(reader: &Reader<'_>) -> Result<Option<ScrubSettings>, ConfigError> {
    let period = reader.duration("cache.scrub_period")?;
    let rate = NonZeroU64::new(reader.bytes("cache.scrub_rate")?);
    let is_on = |_: &NonZeroU64| !period.is_zero();
    let rate = rate.filter(is_on);
    Ok(rate.map(|rate_bytes_per_s| ScrubSettings { period, rate_bytes_per_s }))
}

fn read_ahead(reader: &Reader<'_>) -> Result<ReadAheadSettings, ConfigError> {
    let max_blocks = reader.count("read_ahead.max_blocks")?;
    Ok(ReadAheadSettings {
        enabled: reader.flag("read_ahead.enabled")?,
        first_blocks: reader.at_most(
            "read_ahead.first_blocks",
            max_blocks,
            "read_ahead.max_blocks",
        )?,
        max_blocks,
        lookahead_files: reader.count("read_ahead.lookahead")?,
        in_flight_bytes: reader.bytes("read_ahead.in_flight")?,
    })
}

fn plans(reader: &Reader<'_>) -> Result<PlanSettings, ConfigError> {
    let window_bytes = match reader.text("plans.window")? {
        "auto" => None,
        _ => Some(reader.bytes("plans.window")?),
    };
    Ok(PlanSettings { window_bytes, lease: reader.duration("plans.lease")? })
}

fn s3(reader: &Reader<'_>) -> Result<S3Settings, ConfigError> {
    let timeout = |name| match reader.duration(name)? {
        Duration::ZERO => Err(reader.bad(name, Some("a duration above zero"))),
        timeout => Ok(timeout),
    };
    Ok(S3Settings {
        connect_timeout: timeout("s3.connect_timeout")?,
        first_byte_timeout: timeout("s3.first_byte_timeout")?,
        stall_timeout: timeout("s3.stall_timeout")?,
        request_timeout: timeout("s3.request_timeout")?,
        attempts_max: reader.count("s3.attempts_max")?,
        backoff_first: reader.duration("s3.backoff_first")?,
        backoff_max: reader.duration("s3.backoff_max")?,
        connections_per_core: reader.count("s3.connections_per_core")?,
        hedging: reader.flag("s3.hedging")?,
    })
}

fn fuse(reader: &Reader<'_>) -> Result<FuseSettings, ConfigError> {
    const REQUEST_BYTES: std::ops::RangeInclusive<u64> = 4096..=64 << 20;
    let max_background = reader.count("fuse.max_background")?;
    let threshold =
        reader.at_most("fuse.congestion_threshold", max_background, "fuse.max_background")?;
    let transports = [("device", Transport::Device), ("ring", Transport::Ring)];
    Ok(FuseSettings {
        transport: reader.choice("fuse.transport", &transports)?,
        max_background,
        congestion_threshold: threshold,
        read_ahead_bytes: reader.bytes("fuse.read_ahead")?,
        request_bytes_max: Some(reader.bytes("fuse.request_max")?)
            .filter(|bytes| REQUEST_BYTES.contains(bytes))
            .and_then(|bytes| u32::try_from(bytes).ok())
            .ok_or_else(|| reader.bad("fuse.request_max", Some("a size from 4K to 64M")))?,
        passthrough: reader.flag("fuse.passthrough")?,
    })
}

fn resolve_mount(
    layer: &Layer,
    mount: &WrittenMount,
    machine: &Machine,
) -> Result<MountSettings, ConfigError> {
    let reader = Reader { shared: &layer.options, own: Some(mount) };
    let source = mount_source(&reader)?;
    let label = format!("{}/{}", source.bucket, source.prefix).trim_end_matches('/').to_owned();
    let read_only = reader.flag("mount.read_only")?;
    if !read_only {
        return Err(
            reader.bad("mount.read_only", Some("always true: writing is not supported yet"))
        );
    }
    let profile = reader.optional_text("mount.profile")?;
    let anonymous = reader.flag("mount.anonymous")?;
    let credentials_file = reader.path("mount.credentials_file");
    for (other, is_set) in [
        ("mount.profile", profile.is_some()),
        ("mount.credentials_file", credentials_file.is_some()),
    ] {
        if anonymous && is_set {
            let origin = reader.get("mount.anonymous")?.origin.clone();
            return Err(ConfigError::Exclusive { origin, name: "mount.anonymous", other });
        }
    }
    Ok(MountSettings {
        name: reader.find("mount.name").map_or(label, |written| written.text.clone()),
        bucket: source.bucket,
        prefix: source.prefix,
        mountpoint: reader
            .path("mount.mountpoint")
            .ok_or_else(|| reader.incomplete("mountpoint"))?,
        region: reader.optional_text("mount.region")?,
        endpoint_url: reader.parsed::<HttpUrl>("mount.endpoint_url")?.map(|url| url.0),
        addressing: reader.choice("mount.addressing", ADDRESSING)?,
        profile,
        credentials_file,
        anonymous,
        requester_pays: reader.flag("mount.requester_pays")?,
        expected_bucket_owner: reader.optional_text("mount.expected_bucket_owner")?,
        dual_stack: reader.flag("mount.dual_stack")?,
        transfer_acceleration: reader.flag("mount.transfer_acceleration")?,
        sse_customer_key_file: reader.path("mount.sse_customer_key_file"),
        ca_bundle: reader.path("mount.ca_bundle"),
        read_only,
        access: reader.choice("mount.access", ACCESS)?,
        uid: reader.count_or_auto("mount.uid")?.unwrap_or(machine.uid),
        gid: reader.count_or_auto("mount.gid")?.unwrap_or(machine.gid),
        file_mode: reader.mode("mount.file_mode")?,
        dir_mode: reader.mode("mount.dir_mode")?,
        attr_ttl: reader.duration("mount.attr_ttl")?,
        entry_ttl: reader.duration("mount.entry_ttl")?,
        negative_ttl: reader.duration("mount.negative_ttl")?,
        immutable: reader.flag("mount.immutable")?,
        manifest: Some(reader.text("mount.manifest")?.to_owned()).filter(|text| !text.is_empty()),
    })
}

const ADDRESSING: &[(&str, Addressing)] = &[
    ("auto", Addressing::Auto),
    ("path", Addressing::Path),
    ("virtual-host", Addressing::VirtualHost),
];

const ACCESS: &[(&str, Access)] =
    &[("owner", Access::Owner), ("root", Access::Root), ("all", Access::All)];

/// Bucket and prefix of a mount; the prefix may stand in `source` or in `prefix`.
fn mount_source(reader: &Reader<'_>) -> Result<Source, ConfigError> {
    let written = reader.find("mount.source").ok_or_else(|| reader.incomplete("source"))?;
    let bad = |written: &Written, reason| ConfigError::BadSource {
        origin: written.origin.clone(),
        reason,
    };
    let mut source = Source::parse(&written.text).map_err(|reason| bad(written, reason))?;
    if let Some(written) = reader.find("mount.prefix") {
        let prefix = normalise_prefix(&written.text).map_err(|reason| bad(written, reason))?;
        if !source.prefix.is_empty() && source.prefix != prefix {
            let (name, other) = ("mount.prefix", "the prefix in mount.source");
            return Err(ConfigError::Exclusive { origin: written.origin.clone(), name, other });
        }
        source.prefix = prefix;
    }
    Ok(source)
}

/// Refuses what two mounts cannot share.
fn check_unique(layer: &Layer, mounts: &[MountSettings]) -> Result<(), ConfigError> {
    let (mut names, mut mountpoints) = (HashSet::new(), HashSet::new());
    for (mount, written) in mounts.iter().zip(&layer.mounts) {
        let twice = |name, value: String| {
            Err(ConfigError::Twice { origin: written.origin.clone(), name, value })
        };
        if !names.insert(&mount.name) {
            return twice("name", mount.name.clone());
        }
        if !mountpoints.insert(&mount.mountpoint) {
            return twice("mountpoint", mount.mountpoint.display().to_string());
        }
    }
    Ok(())
}

/// A path as the daemon keeps it: absolute, without `.` and trailing slashes, symbolic links kept.
fn absolute(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.components().collect()
}

/// An `http` or `https` URL with a host.
struct HttpUrl(url::Url);

impl FromStr for HttpUrl {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let url = url::Url::parse(text).map_err(|_| ())?;
        let fits = matches!(url.scheme(), "http" | "https") && url.host_str().is_some();
        fits.then_some(Self(url)).ok_or(())
    }
}

/// Reads options by name: what a mount says itself first, then what all share.
struct Reader<'a> {
    shared: &'a Values,
    own: Option<&'a WrittenMount>,
}

impl<'a> Reader<'a> {
    fn find(&self, name: &str) -> Option<&'a Written> {
        self.own.and_then(|mount| mount.values.get(name)).or_else(|| self.shared.get(name))
    }

    fn get(&self, name: &'static str) -> Result<&'a Written, ConfigError> {
        self.find(name).ok_or_else(|| self.bad(name, None))
    }

    /// The error for the value of `name`; what is expected is the row's kind, or said here.
    fn bad(&self, name: &'static str, expected: Option<&str>) -> ConfigError {
        let (value, origin) = match self.find(name) {
            Some(written) => (written.text.clone(), written.origin.clone()),
            None => (String::new(), Origin::Default),
        };
        let kind = || find(name).map(|spec| spec.kind.to_string()).unwrap_or_default();
        let expected = expected.map_or_else(kind, str::to_owned);
        ConfigError::BadValue { origin, name, value, expected }
    }

    fn incomplete(&self, name: &'static str) -> ConfigError {
        let origin = self.own.map_or(Origin::Default, |mount| mount.origin.clone());
        ConfigError::Incomplete { origin, name }
    }

    fn text(&self, name: &'static str) -> Result<&'a str, ConfigError> {
        Ok(self.get(name)?.text.as_str())
    }

    fn optional_text(&self, name: &'static str) -> Result<Option<String>, ConfigError> {
        Ok(Some(self.text(name)?.to_owned()).filter(|text| !text.is_empty()))
    }

    /// A value by a parser that answers `None` for what is not one.
    fn by<T>(
        &self,
        name: &'static str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        parse(self.text(name)?).ok_or_else(|| self.bad(name, None))
    }

    /// A value by its type's own parser; empty is `None`.
    fn parsed<T: FromStr>(&self, name: &'static str) -> Result<Option<T>, ConfigError> {
        match self.text(name)? {
            "" => Ok(None),
            _ => self.by(name, |text| text.parse().ok()).map(Some),
        }
    }

    fn flag(&self, name: &'static str) -> Result<bool, ConfigError> {
        self.by(name, parse_flag)
    }

    fn bytes(&self, name: &'static str) -> Result<u64, ConfigError> {
        self.by(name, parse_bytes)
    }

    fn duration(&self, name: &'static str) -> Result<Duration, ConfigError> {
        self.by(name, parse_duration)
    }

    /// Permission bits without those for writing, as all mounts are read only.
    fn mode(&self, name: &'static str) -> Result<u32, ConfigError> {
        self.by(name, parse_mode).map(|mode| mode & 0o777 & !0o222)
    }

    /// A whole number within the bounds of its row.
    fn count<T: TryFrom<u64>>(&self, name: &'static str) -> Result<T, ConfigError> {
        let bounds = match find(name).map(|spec| spec.kind) {
            Some(Kind::Count { min, max } | Kind::CountOrAuto { min, max }) => min..=max,
            _ => 0..=u64::MAX,
        };
        let within = |text: &str| text.parse().ok().filter(|count| bounds.contains(count));
        self.by(name, |text| within(text).and_then(|count| T::try_from(count).ok()))
    }

    /// A count that must not exceed `limit`, the value of `of`. A default above it is lowered, for
    /// whoever lowers a bound need not know what is bound by it.
    fn at_most<T: TryFrom<u64> + PartialOrd>(
        &self,
        name: &'static str,
        limit: T,
        of: &str,
    ) -> Result<T, ConfigError> {
        let count = self.count(name)?;
        match count <= limit {
            true => Ok(count),
            false if self.get(name)?.origin == Origin::Default => Ok(limit),
            false => Err(self.bad(name, Some(&format!("at most {of}")))),
        }
    }

    fn count_or_auto<T: TryFrom<u64>>(&self, name: &'static str) -> Result<Option<T>, ConfigError> {
        match self.text(name)? {
            "auto" => Ok(None),
            _ => self.count(name).map(Some),
        }
    }

    fn path(&self, name: &str) -> Option<PathBuf> {
        match self.find(name).map(|written| written.text.as_str()) {
            None | Some("") => None,
            Some(path) => Some(absolute(Path::new(path))),
        }
    }

    fn path_or_auto(
        &self,
        name: &'static str,
        auto: impl Fn() -> PathBuf,
    ) -> Result<Option<PathBuf>, ConfigError> {
        match self.text(name)? {
            "auto" => Ok(Some(auto())),
            _ => Ok(self.path(name)),
        }
    }

    fn choice<T: Copy>(&self, name: &'static str, words: &[(&str, T)]) -> Result<T, ConfigError> {
        let of = |text: &str| words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        self.by(name, of)
    }
}
