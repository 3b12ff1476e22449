//! Configurations, good and bad, and what they come to.

use super::*;
use std::time::Duration;

const FILE: &str = "/etc/tenderfs/tenderfs.toml";

/// Loads `text` as the file, with `variables` as environment.
fn load_text(text: &str, variables: &[(&str, &str)]) -> Result<Settings, ConfigError> {
    load_with(text, variables, Overrides::new())
}

fn load_with(
    text: &str,
    variables: &[(&str, &str)],
    overrides: Overrides,
) -> Result<Settings, ConfigError> {
    let variables: std::collections::HashMap<&str, &str> = variables.iter().copied().collect();
    let environment = |name: &str| variables.get(name).map(|value| (*value).to_owned());
    let mut layer = layers::defaults()?;
    layer.lay_over(layers::aws_environment(&environment));
    layer.lay_over(layers::parse_file(text, Path::new(FILE))?);
    layer.lay_over(layers::environment(&environment));
    let describes_a_mount = overrides.describes_a_mount();
    layer.lay_over(overrides.into_layer());
    resolve::resolve(&layer, &Machine::example(), describes_a_mount)
}

/// A `[[mount]]` with these further lines.
fn mount(lines: &str) -> String {
    format!("[[mount]]\nsource = \"s3://data/train\"\nmountpoint = \"/mnt/data\"\n{lines}\n")
}

#[test]
fn the_defaults_are_a_complete_configuration() {
    let settings = load_text("", &[]).unwrap();
    assert_eq!(settings.daemon.cores, CoreCount::Auto);
    assert_eq!(settings.daemon.admin_socket, Path::new("/run/tenderfs/admin.sock"));
    assert_eq!(settings.daemon.metrics_listen, None);
    assert_eq!(settings.memory.limit_bytes, 4 << 30);
    assert_eq!(settings.cache.dir.as_deref(), Some(Path::new("/var/cache/tenderfs")));
    assert_eq!(settings.read_ahead.in_flight_bytes, 256 << 20);
    assert_eq!(settings.s3.first_byte_timeout, Duration::from_secs(3));
    assert_eq!((settings.fuse.max_background, settings.fuse.congestion_threshold), (64, 48));
    assert!(settings.mounts.is_empty());
}

#[test]
fn several_mounts_stand_in_one_file() {
    let text = format!(
        "{}[[mount]]\nsource = \"logs\"\nmountpoint = \"/mnt/logs/\"\nname = \"l\"\nattr_ttl = \"1h\"\n\
         file_mode = 0o640\nuid = 1000\n[mount_defaults]\nregion = \"eu-west-1\"\nattr_ttl = 5\n",
        mount("anonymous = true\nregion = \"us-west-2\"")
    );
    let mounts = load_text(&text, &[]).unwrap().mounts;
    assert_eq!((mounts[0].name.as_str(), mounts[0].prefix.as_str()), ("data/train", "train/"));
    assert_eq!(mounts[0].region.as_deref(), Some("us-west-2"));
    assert_eq!(mounts[0].attr_ttl, Duration::from_secs(5));
    assert_eq!((mounts[0].file_mode, mounts[0].dir_mode), (0o444, 0o555));
    assert_eq!(mounts[0].source(), "s3://data/train");
    assert!(mounts[0].anonymous && !mounts[1].anonymous);
    assert_eq!((mounts[1].name.as_str(), mounts[1].prefix.as_str()), ("l", ""));
    assert_eq!(mounts[1].mountpoint, Path::new("/mnt/logs"));
    assert_eq!(mounts[1].region.as_deref(), Some("eu-west-1"));
    assert_eq!(mounts[1].attr_ttl, Duration::from_hours(1));
    assert_eq!((mounts[1].file_mode, mounts[1].uid, mounts[1].gid), (0o440, 1000, 0));
    assert_eq!(mounts[1].source(), "s3://logs");
}

#[test]
fn bucket_and_prefix_may_stand_apart() {
    let text = "[[mount]]\nbucket = \"data\"\nprefix = \"/a/b\"\nmountpoint = \"/mnt\"";
    let settings = load_text(text, &[]).unwrap();
    let parts = (settings.mounts[0].bucket.as_str(), settings.mounts[0].prefix.as_str());
    assert_eq!(parts, ("data", "a/b/"));
    refused(
        &mount("bucket = \"data\""),
        "/etc/tenderfs/tenderfs.toml:2: `mount.source` and `mount.bucket` exclude each other: write one of them",
    );
}

#[test]
fn each_layer_wins_over_the_ones_before() {
    let file =
        format!("[cache]\nsize = \"1G\"\n[mount_defaults]\nregion = \"file\"\n{}", mount(""));
    let size = |settings: &Settings| settings.cache.size_bytes;
    let region = |settings: &Settings| settings.mounts[0].region.clone().unwrap();

    let settings = load_text(&file, &[("AWS_REGION", "aws")]).unwrap();
    assert_eq!((size(&settings), region(&settings)), (1 << 30, "file".to_owned()));

    let variables = [("TENDERFS_CACHE_SIZE", "2G"), ("TENDERFS_REGION", "environment")];
    let settings = load_text(&file, &variables).unwrap();
    assert_eq!((size(&settings), region(&settings)), (2 << 30, "environment".to_owned()));

    let mut overrides = Overrides::new();
    overrides.set("cache.size", "3G", "--cache-size").unwrap();
    overrides.set("mount.region", "line", "--region").unwrap();
    let settings = load_with(&file, &variables, overrides).unwrap();
    assert_eq!((size(&settings), region(&settings)), (3 << 30, "line".to_owned()));

    let settings = load_text(&mount(""), &[("AWS_REGION", "a"), ("AWS_DEFAULT_REGION", "b")]);
    assert_eq!(region(&settings.unwrap()), "a");
}

#[test]
fn a_mount_of_the_command_line_has_paths_of_its_own() {
    let overrides = Overrides::with_mount("data", Path::new("/mnt/a b/c"));
    let settings = load_with("", &[("TENDERFS_LOG", "debug")], overrides).unwrap();
    assert_eq!(settings.daemon.admin_socket, Path::new("/run/tenderfs/mnt-a b-c.sock"));
    assert_eq!(settings.cache.dir.unwrap(), Path::new("/var/cache/tenderfs/mnt-a b-c"));
    assert_eq!(settings.log.level, "debug");
    assert_eq!(settings.mounts[0].mountpoint, Path::new("/mnt/a b/c"));
}

#[test]
fn a_lowered_bound_lowers_the_default_below_it() {
    let settings =
        load_text("[fuse]\nmax_background = 8\n[read_ahead]\nmax_blocks = 2", &[]).unwrap();
    assert_eq!((settings.fuse.max_background, settings.fuse.congestion_threshold), (8, 8));
    assert_eq!((settings.read_ahead.first_blocks, settings.read_ahead.max_blocks), (2, 2));
}

#[test]
fn an_empty_cache_directory_turns_the_disk_tier_off() {
    assert_eq!(load_text("[cache]\ndir = \"\"", &[]).unwrap().cache.dir, None);
}

#[track_caller]
fn refused(text: &str, message: &str) {
    let error = load_text(text, &[]).unwrap_err().to_string();
    assert_eq!(error, message);
    assert!(!error.contains('\n'));
}

#[test]
fn an_unknown_name_is_an_error_with_its_line_and_the_nearest_known_one() {
    refused(
        "[cache]\n# 16 GiB\nszie = \"16G\"",
        "/etc/tenderfs/tenderfs.toml:3: unknown option `cache.szie`; did you mean `cache.size`?",
    );
    refused(
        "[cach]\nsize = \"16G\"",
        "/etc/tenderfs/tenderfs.toml:2: unknown option `[cach]`; did you mean `[cache]`?",
    );
    refused(
        "cache_size = \"16G\"",
        "/etc/tenderfs/tenderfs.toml:1: unknown option `cache_size`; did you mean `cache.size`?",
    );
    refused(
        &mount("regoin = \"x\""),
        "/etc/tenderfs/tenderfs.toml:4: unknown option `mount.regoin`; did you mean `mount.region`?",
    );
    refused(
        "[mount_defaults]\nmountpoint = \"/mnt\"",
        "/etc/tenderfs/tenderfs.toml:2: `mount.mountpoint` differs for every mount: write it in a [[mount]]",
    );
}

#[test]
fn a_bad_value_is_an_error_with_its_line_and_what_is_expected() {
    let at = |line: usize, rest: &str| format!("{FILE}:{line}: {rest}");
    for (text, line, message) in [
        (
            "[cache]\nsize = \"big\"",
            2,
            "`cache.size` cannot be `big`: it is a size such as 512M or 16G",
        ),
        (
            "[cache]\nsize = [1]",
            2,
            "`cache.size` cannot be `[1]`: it is a size such as 512M or 16G",
        ),
        (
            "[cache]\nfree_space_ratio = 1.0",
            2,
            "`cache.free_space_ratio` cannot be `1.0`: it is a share from 0 to below 1",
        ),
        (
            "[cache]\nverify = \"sometimes\"",
            2,
            "`cache.verify` cannot be `sometimes`: it is one of first-use, always, never",
        ),
        (
            "[log]\nlevel = \"inof\"",
            2,
            "`log.level` cannot be `inof`: it is a level (error, warn, info, debug, trace, off) or a filter such as info,tenderfs_s3client=debug",
        ),
        (
            "\n[daemon]\ncores = 0",
            3,
            "`daemon.cores` cannot be `0`: it is a whole number from 1 to 256, or auto",
        ),
        (
            "[daemon]\npin_cores = \"perhaps\"",
            2,
            "`daemon.pin_cores` cannot be `perhaps`: it is true or false",
        ),
        (
            "[daemon]\nmetrics_listen = \"9464\"",
            2,
            "`daemon.metrics_listen` cannot be `9464`: it is an address and port such as 127.0.0.1:9464",
        ),
        (
            "[daemon]\nadmin_socket = \"\"",
            2,
            "`daemon.admin_socket` cannot be ``: it is a path, or auto; it cannot be empty",
        ),
        (
            "[read_ahead]\nfirst_blocks = 9",
            2,
            "`read_ahead.first_blocks` cannot be `9`: it is at most read_ahead.max_blocks",
        ),
        (
            "[s3]\nstall_timeout = \"0s\"",
            2,
            "`s3.stall_timeout` cannot be `0s`: it is a duration above zero",
        ),
        (
            "[fuse]\ncongestion_threshold = 65",
            2,
            "`fuse.congestion_threshold` cannot be `65`: it is at most fuse.max_background",
        ),
        (
            "[fuse]\nrequest_max = \"1K\"",
            2,
            "`fuse.request_max` cannot be `1K`: it is a size from 4K to 64M",
        ),
    ] {
        refused(text, &at(line, message));
    }
}

#[test]
fn a_bad_mount_is_an_error_with_its_line() {
    let at = |line: usize, rest: &str| format!("{FILE}:{line}: {rest}");
    for (text, line, message) in [
        (
            "[[mount]]\nsource = \"data\"".to_owned(),
            1,
            "this mount has no `mountpoint`: every [[mount]] needs source and mountpoint",
        ),
        (
            "[[mount]]\nmountpoint = \"/mnt\"".to_owned(),
            1,
            "this mount has no `source`: every [[mount]] needs source and mountpoint",
        ),
        (
            "[[mount]]\nsource = \"gs://data\"\nmountpoint = \"/mnt\"".to_owned(),
            2,
            "gs: is not supported; write s3://BUCKET or s3://BUCKET/PREFIX",
        ),
        (
            mount("read_only = false"),
            4,
            "`mount.read_only` cannot be `false`: it is always true: writing is not supported yet",
        ),
        (
            mount("endpoint_url = \"localhost:9000\""),
            4,
            "`mount.endpoint_url` cannot be `localhost:9000`: it is a URL such as https://s3.example.com",
        ),
        (
            mount("anonymous = true\nprofile = \"p\""),
            4,
            "`mount.anonymous` and `mount.profile` exclude each other: write one of them",
        ),
        (
            mount("prefix = \"other\""),
            4,
            "`mount.prefix` and `the prefix in mount.source` exclude each other: write one of them",
        ),
        (
            mount("file_mode = 0x1ff"),
            4,
            "`mount.file_mode` cannot be `0x1ff`: it is permission bits such as 0644",
        ),
        (
            mount("uid = -1"),
            4,
            "`mount.uid` cannot be `-1`: it is a whole number from 0 to 4294967295, or auto",
        ),
        (mount("") + &mount(""), 5, "two mounts have the name `data/train`: give each its own"),
        (
            mount("") + &mount("name = \"b\""),
            5,
            "two mounts have the mountpoint `/mnt/data`: give each its own",
        ),
    ] {
        refused(&text, &at(line, message));
    }
}

#[test]
fn what_is_not_toml_is_an_error_with_its_line() {
    let error = load_text("[cache]\nsize = 16G", &[]).unwrap_err().to_string();
    assert!(error.starts_with("/etc/tenderfs/tenderfs.toml:2: not valid TOML: "), "{error}");
    let error = load_text("[cache]\nsize = 1\nsize = 2", &[]).unwrap_err().to_string();
    assert!(
        error.starts_with("/etc/tenderfs/tenderfs.toml:3: not valid TOML: duplicate"),
        "{error}"
    );
}

#[test]
fn a_bad_value_outside_the_file_names_its_place() {
    let error = load_text("", &[("TENDERFS_WARM_WORKERS", "many")]).unwrap_err().to_string();
    assert_eq!(
        error,
        "environment variable TENDERFS_WARM_WORKERS: `warm.workers` cannot be `many`: it is a whole number from 1 to 1024"
    );
    let mut overrides = Overrides::new();
    assert!(overrides.set("cache.sise", "1", "--cache-sise").is_err());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let environment = |_: &str| None;
    let path = Path::new("/nonexistent/tenderfs.toml");
    let error = load(Some(path), Overrides::new(), &environment).unwrap_err().to_string();
    assert!(
        error.starts_with("cannot read the configuration /nonexistent/tenderfs.toml: "),
        "{error}"
    );
}

#[test]
fn a_reload_takes_what_can_change_and_names_what_cannot() {
    let old = load_text("", &[]).unwrap();
    let new =
        load_text("[log]\nlevel = \"debug\"\n[cache]\nsize = \"1G\"\n[warm]\nworkers = 4", &[]);
    let (merged, reload) = old.reload(&new.unwrap());
    assert_eq!(merged.log.level, "debug");
    assert_eq!(merged.warm.workers, 4);
    assert_eq!(merged.cache, old.cache);
    assert_eq!(reload.applied, ["log", "warm"]);
    assert_eq!(reload.needs_restart, ["cache"]);
    assert_eq!(old.reload(&old).1, Reload::default());
}

#[test]
fn what_shares_a_file_is_one_block_at_most() {
    let error = load_text("[cache]\npack_below = \"5M\"", &[]).unwrap_err();
    let expected = format!("{FILE}:2: `cache.pack_below` cannot be `5M`: it is at most 4MiB");
    assert_eq!(error.to_string(), expected);
}

/// An option that is documented but never read would be a lie.
#[test]
fn every_option_changes_the_settings() {
    let base = load_text(&mount(""), &[]).unwrap();
    for option in options() {
        let value = match (option.name, option.kind) {
            ("mount.read_only", _) => continue, // has one value only, tested above
            ("mount.prefix", _) => "train/",
            ("daemon.admin_socket" | "cache.dir", _) => "/elsewhere",
            ("log.level", _) => "debug",
            ("cache.pack_below", _) => "2M",
            ("mount.source", _) => "s3://other",
            (_, Kind::Flag) if option.default.as_deref() == Some("true") => "false",
            (_, Kind::Flag) => "true",
            ("read_ahead.first_blocks" | "fuse.congestion_threshold", _) => "2",
            (_, Kind::Count { .. } | Kind::CountOrAuto { .. }) => "3",
            (_, Kind::Ratio) => "0.5",
            (_, Kind::Bytes | Kind::BytesOrAuto) => "12M",
            (_, Kind::Duration) => "77s",
            (_, Kind::Text) => "other",
            (_, Kind::Path | Kind::PathOrAuto) => "/elsewhere",
            (_, Kind::SocketAddress) => "[::1]:1",
            (_, Kind::Url) => "http://store:9000",
            (_, Kind::Mode) => "0111",
            (_, Kind::Choice(words)) => words[1],
        };
        let (section, key) = option.name.split_once('.').unwrap();
        let text = match section {
            "mount" if matches!(key, "source" | "mountpoint") => mount("")
                .replace(if key == "source" { "s3://data/train" } else { "/mnt/data" }, value),
            "mount" => mount(&format!("{key} = \"{value}\"")),
            _ => format!("[{section}]\n{key} = \"{value}\"\n{}", mount("")),
        };
        let changed =
            load_text(&text, &[]).unwrap_or_else(|error| panic!("{}: {error}", option.name));
        assert_eq!(changed == base, option.name == "mount.prefix", "{}", option.name);
        let reloaded = base.reload(&changed).1;
        assert_eq!(option.reloads, !reloaded.applied.is_empty(), "{}: {reloaded:?}", option.name);
    }
}
