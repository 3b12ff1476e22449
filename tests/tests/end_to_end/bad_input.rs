//! Everything a user can get wrong: one line that says what to do, exit code 1 or 2, and nothing
//! left mounted.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use tenderfs_lab::{Fault, FaultRule, HttpFake};
use tenderfs_tests::{Outcome, Stage, is_mounted, run};

use super::LIMIT;

/// Runs a daemon that must refuse to start, and checks how it does.
#[track_caller]
fn check_refused(stage: &Stage, command: &mut Command, expected: &[&str]) -> Outcome {
    let outcome = run(command, LIMIT);
    let code = outcome.code();
    assert!(matches!(code, 1 | 2), "exit code {code}:\n{}{}", outcome.stdout, outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(lines.len(), 1, "one line, not {}:\n{}", lines.len(), outcome.stderr);
    for part in expected {
        assert!(lines[0].contains(part), "{:?} does not say {part:?}", lines[0]);
    }
    assert!(!is_mounted(&stage.mountpoint()), "left mounted");
    outcome
}

/// A stage whose daemon logs errors only, so that what it prints is what it refuses.
fn quiet_stage() -> Option<Stage> {
    let mut stage = Stage::new()?;
    stage.set("log.level", "error");
    stage.fill([("a", 10)]);
    Some(stage)
}

#[test]
fn a_missing_bucket_is_named() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.set_mount("bucket", "no-such-bucket");
    check_refused(
        &stage,
        &mut stage.daemon_command(),
        &["no bucket no-such-bucket", "check the name"],
    );
}

#[test]
fn a_wrong_region_is_answered_with_the_right_one() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.set_mount("region", "eu-central-1");
    check_refused(&stage, &mut stage.daemon_command(), &["eu-central-1", "us-east-1"]);
}

#[test]
fn wrong_keys_fail_the_mount() {
    let Some(stage) = quiet_stage() else { return };
    let mut command = stage.daemon_command();
    command.env("AWS_SECRET_ACCESS_KEY", "wrong");
    let outcome = check_refused(&stage, &mut command, &[stage.bucket(), "denied"]);
    assert!(!outcome.stderr.contains("AWS4-HMAC"), "{}", outcome.stderr);
    assert_eq!(stage.lab().ledger().gets(), 0);
}

#[test]
fn without_credentials_every_place_looked_at_is_named() {
    let Some(stage) = quiet_stage() else { return };
    let mut command = stage.daemon_command();
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    check_refused(&stage, &mut command, &["AWS_ACCESS_KEY_ID", ".aws/credentials"]);
}

#[test]
fn a_missing_mount_point_is_named() {
    let Some(stage) = quiet_stage() else { return };
    fs::remove_dir(stage.mountpoint()).unwrap();
    let mountpoint = stage.mountpoint().to_string_lossy().into_owned();
    check_refused(&stage, &mut stage.daemon_command(), &[&mountpoint, "mkdir"]);
}

#[test]
fn a_mount_point_that_is_a_file_is_refused() {
    let Some(stage) = quiet_stage() else { return };
    fs::remove_dir(stage.mountpoint()).unwrap();
    fs::write(stage.mountpoint(), "").unwrap();
    let mountpoint = stage.mountpoint().to_string_lossy().into_owned();
    check_refused(&stage, &mut stage.daemon_command(), &[&mountpoint, "directory"]);
}

#[test]
fn a_mount_point_that_is_not_empty_is_refused() {
    let Some(stage) = quiet_stage() else { return };
    fs::write(stage.mountpoint().join("precious"), "data").unwrap();
    let mountpoint = stage.mountpoint().to_string_lossy().into_owned();
    check_refused(&stage, &mut stage.daemon_command(), &[&mountpoint, "not empty"]);
    assert_eq!(fs::read(stage.mountpoint().join("precious")).unwrap(), b"data");
}

#[test]
fn mounting_twice_on_one_point_is_refused() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.start();
    let cache = stage.folder().join("cache2").to_string_lossy().into_owned();
    let socket = stage.folder().join("admin2.sock").to_string_lossy().into_owned();
    stage.set("cache.dir", cache).set("daemon.admin_socket", socket);
    let outcome = run(&mut stage.daemon_command(), LIMIT);
    assert!(matches!(outcome.code(), 1 | 2), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("mounted there already"), "{}", outcome.stderr);
    assert!(is_mounted(&stage.mountpoint()), "the first mount stays");
    assert!(stage.path("a").exists());
}

#[test]
fn a_cache_directory_that_cannot_be_made_is_named() {
    let Some(mut stage) = quiet_stage() else { return };
    // Not even root makes a directory there.
    stage.set("cache.dir", "/sys/tenderfs-cache");
    check_refused(&stage, &mut stage.daemon_command(), &["/sys/tenderfs-cache"]);
}

#[test]
fn a_cache_directory_in_use_names_the_daemon_that_has_it() {
    let Some(mut first) = quiet_stage() else { return };
    first.start();
    let Some(mut second) = quiet_stage() else { return };
    second.set("cache.dir", first.cache_dir().to_string_lossy().into_owned());
    let pid = first.daemon().pid().to_string();
    let cache = first.cache_dir().to_string_lossy().into_owned();
    check_refused(&second, &mut second.daemon_command(), &[&cache, &pid]);
    assert!(first.path("a").exists());
}

#[test]
fn an_unknown_key_is_answered_with_the_nearest_known_one() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.set("cache.sise", "1GiB");
    check_refused(&stage, &mut stage.daemon_command(), &["tenderfs.toml", "sise", "size"]);
    stage.config_mut().remove("cache");
    stage.set_mount("prefx", "a/");
    check_refused(&stage, &mut stage.daemon_command(), &["tenderfs.toml", "prefx", "prefix"]);
}

#[test]
fn a_value_that_makes_no_sense_is_named_with_its_key() {
    for (key, value) in [("cache.size", "many"), ("s3.first_byte_timeout", "-3s")] {
        let Some(mut stage) = quiet_stage() else { return };
        stage.set(key, value);
        let last = key.split('.').next_back().unwrap();
        check_refused(&stage, &mut stage.daemon_command(), &[last, value]);
    }
}

#[test]
fn a_memory_limit_below_what_the_cores_need_names_the_least_that_works() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.set("memory.limit", "2MiB");
    check_refused(&stage, &mut stage.daemon_command(), &["memory.limit", "at least"]);
}

#[test]
fn a_configuration_file_that_is_not_there_is_named() {
    let Some(stage) = quiet_stage() else { return };
    let mut command = stage.command(tenderfs_tests::Program::Tenderfsd);
    command.arg("--config").arg("/nonexistent/tenderfs.toml");
    check_refused(&stage, &mut command, &["/nonexistent/tenderfs.toml"]);
}

/// One mount that fails at start is an error before any of them is given to users.
#[test]
fn a_second_mount_that_fails_leaves_the_first_not_mounted() {
    let Some(mut stage) = quiet_stage() else { return };
    let mut second = stage.config_mut()["mount"][0].clone();
    let table = second.as_table_mut().unwrap();
    table.insert("bucket".to_owned(), "no-such-bucket".into());
    let mountpoint = stage.folder().join("mnt2");
    fs::create_dir(&mountpoint).unwrap();
    table.insert("mountpoint".to_owned(), mountpoint.to_string_lossy().into_owned().into());
    stage.config_mut()["mount"].as_array_mut().unwrap().push(second);
    check_refused(&stage, &mut stage.daemon_command(), &["no-such-bucket"]);
    assert!(!is_mounted(&mountpoint));
}

/// Two buckets, one daemon.
#[test]
fn one_daemon_serves_several_mounts() {
    let Some(mut stage) = quiet_stage() else { return };
    stage.lab().create_bucket("second").unwrap();
    stage.lab().put("second", "b", "bytes of b").unwrap();
    let mut second = stage.config_mut()["mount"][0].clone();
    let table = second.as_table_mut().unwrap();
    let mountpoint = stage.folder().join("mnt2");
    fs::create_dir(&mountpoint).unwrap();
    table.insert("bucket".to_owned(), "second".into());
    table.insert("mountpoint".to_owned(), mountpoint.to_string_lossy().into_owned().into());
    stage.config_mut()["mount"].as_array_mut().unwrap().push(second);
    stage.start();
    assert!(stage.path("a").exists());
    assert_eq!(fs::read(mountpoint.join("b")).unwrap(), b"bytes of b");
    stage.daemon().signal(Signal::SIGTERM);
    assert!(stage.wait(LIMIT).unwrap().success());
    assert!(!is_mounted(&stage.mountpoint()) && !is_mounted(&mountpoint));
}

#[test]
fn an_endpoint_that_speaks_html_is_told_from_a_store() {
    let Some(mut stage) = quiet_stage() else { return };
    let page = HttpFake::start(|_| (200, "<html><body>Welcome</body></html>".to_owned())).unwrap();
    stage.set_mount("endpoint_url", page.url());
    check_refused(&stage, &mut stage.daemon_command(), &["web page", "endpoint_url"]);
}

#[test]
fn a_store_without_tls_is_told_from_one_that_is_not_there() {
    let Some(mut stage) = quiet_stage() else { return };
    let endpoint = stage.lab().endpoint().replace("http://", "https://");
    stage.set_mount("endpoint_url", endpoint);
    check_refused(&stage, &mut stage.daemon_command(), &["TLS", "may be one for http://"]);
}

#[test]
fn a_token_that_has_expired_fails_the_mount_at_once() {
    let Some(stage) = quiet_stage() else { return };
    let expired = Fault::S3Error { code: 400, error_code: "ExpiredToken".to_owned() };
    stage.lab().faults().add(FaultRule::new(expired));
    let begun = Instant::now();
    check_refused(&stage, &mut stage.daemon_command(), &["expired"]);
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn a_bundle_that_is_no_pem_is_named() {
    let Some(mut stage) = quiet_stage() else { return };
    let file = stage.folder().join("bundle");
    fs::write(&file, "no certificate").unwrap();
    let named = file.to_str().unwrap().to_owned();
    stage.set_mount("ca_bundle", named.as_str()).set_mount("endpoint_url", "https://127.0.0.1:9");
    check_refused(&stage, &mut stage.daemon_command(), &[&named, "PEM"]);
}
