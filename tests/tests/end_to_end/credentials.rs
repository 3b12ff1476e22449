//! Keys that lapse and come back, keys in a file, and that no secret is ever shown.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use tenderfs_lab::{Fault, HttpFake};
use tenderfs_tests::{Program, Stage, eventually, run};

use super::{LIMIT, MIB, check_all, on_get};

fn errno_of_read(stage: &Stage, key: &str) -> Errno {
    let error = fs::read(stage.path(key)).expect_err("a read without keys");
    Errno::from_raw(error.raw_os_error().unwrap())
}

/// Proves V17 and W21: without keys what is cached goes on, the rest is EACCES and the log names who has
/// none; and all is well again once they are there.
#[test]
fn while_keys_have_lapsed_cached_files_go_on_and_others_are_eacces() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("cached", 2 * MIB), ("cold", 2 * MIB)]);
    stage.lab().add_credentials("AKIDFIRST", "first-secret");
    let is_down = Arc::new(AtomicBool::new(false));
    let (down, handed_out) = (Arc::clone(&is_down), std::sync::Mutex::new(0));
    let provider = HttpFake::start(move |_| {
        if down.load(Ordering::SeqCst) {
            return (500, "{}".to_owned());
        }
        let mut handed_out = handed_out.lock().unwrap();
        *handed_out += 1;
        let id = if *handed_out == 1 { "FIRST" } else { "SECOND" };
        let secret = id.to_lowercase();
        let keys = format!(
            "{{\"AccessKeyId\":\"AKID{id}\",\"SecretAccessKey\":\"{secret}-secret\",\"Token\":\"t\",\
             \"Expiration\":\"2100-01-01T00:00:00Z\"}}"
        );
        (200, keys)
    });
    let provider = provider.unwrap();
    let mut command = stage.daemon_command();
    command
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY")
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", provider.url());
    stage.try_start_by(&mut command).unwrap();
    assert_eq!(fs::read_dir(stage.mountpoint()).unwrap().count(), 2);
    check_all(&stage, &files[..1]);

    is_down.store(true, Ordering::SeqCst);
    stage.lab().remove_credentials("AKIDFIRST");
    for _ in 0..3 {
        assert_eq!(errno_of_read(&stage, "cold"), Errno::EACCES);
    }
    check_all(&stage, &files[..1]);
    let line = stage.daemon().log();
    let line = line.lines().find(|line| line.contains("credentials could not be renewed")).unwrap();
    assert!(line.contains("provider=\"ecs\""), "{line}");

    stage.lab().add_credentials("AKIDSECOND", "second-secret");
    is_down.store(false, Ordering::SeqCst);
    eventually(LIMIT, "the keys to be renewed", || fs::read(stage.path("cold")).ok());
    check_all(&stage, &files);
}

#[test]
fn keys_in_a_file_of_the_mount_are_used_and_one_that_others_can_read_is_refused() {
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("file", MIB)]);
    let keys = stage.folder().join("keys");
    let (id, secret) = (stage.lab().access_key(), stage.lab().secret_key());
    let text = format!("[default]\naws_access_key_id={id}\naws_secret_access_key={secret}\n");
    fs::write(&keys, text).unwrap();
    stage.set_mount("credentials_file", keys.to_str().unwrap());
    let without_keys = |stage: &Stage| {
        let mut command = stage.daemon_command();
        command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
        command
    };
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o644)).unwrap();
    let refused = run(&mut without_keys(&stage), LIMIT);
    assert_ne!(refused.code(), 0);
    let advice = format!("chmod 600 {}", keys.display());
    assert!(refused.stderr.contains(&advice), "{}", refused.stderr);
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = without_keys(&stage);
    stage.try_start_by(&mut command).unwrap();
    check_all(&stage, &files);
}

/// Proves promise 9: with everything logged and everything asked, no secret is seen.
#[test]
fn no_secret_is_ever_shown() {
    const TOKEN: &str = "hush-session-token-4711";
    // All libraries too.
    const EVERYTHING: &str = "trace,hyper=trace";
    let Some(mut stage) = Stage::new() else { return };
    let files = stage.fill([("file", 2 * MIB), ("denied", MIB), ("folder/file", 10)]);
    let secret = stage.lab().secret_key().to_owned();
    assert!(secret.len() >= 8, "a secret that is no word");
    let mut command = stage.daemon_command();
    command.env("AWS_SESSION_TOKEN", TOKEN).env("TENDERFS_LOG", EVERYTHING);
    stage.try_start_by(&mut command).unwrap();
    check_all(&stage, &files[..1]);
    let denied = Fault::S3Error { code: 403, error_code: "AccessDenied".to_owned() };
    stage.lab().faults().add(on_get("denied", denied));
    assert_eq!(errno_of_read(&stage, "denied"), Errno::EACCES);
    let broken =
        stage.lab().faults().add(on_get("folder/file", Fault::ResetBeforeHeaders).times(2));
    check_all(&stage, &files[2..]);
    stage.lab().faults().remove(broken);
    assert!(!stage.path("absent").exists());

    let admin = stage.admin();
    let mut shown = vec![("log", stage.daemon().log())];
    let document = admin.get("/v1/openapi.json").json();
    let routes = document["paths"].as_object().unwrap();
    for (route, methods) in routes {
        if methods.get("get").is_some() && !route.contains('{') {
            shown.push(("admin API", admin.get(route).text));
        }
    }
    assert!(shown.len() > 6, "{} routes", shown.len());
    for arguments in
        [&["status"][..], &["status", "--json"], &["status", "--requests"], &["doctor"]]
    {
        let mut command = stage.command(Program::Tenderfs);
        command.args(arguments).env("AWS_SESSION_TOKEN", TOKEN).env("TENDERFS_LOG", EVERYTHING);
        if arguments[0] == "status" {
            command.arg("--socket").arg(stage.admin_socket());
        }
        let outcome = run(&mut command, LIMIT);
        shown.push(("tool", outcome.stdout + &outcome.stderr));
    }
    let pid = stage.daemon().pid();
    shown.push(("arguments", fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap()));
    stage.stop();
    shown.push(("log at the end", stage_log(&stage)));
    for (what, text) in &shown {
        for hidden in [secret.as_str(), TOKEN, "X-Amz-Signature="] {
            let found = text.lines().find(|line| line.contains(hidden));
            assert_eq!(found, None, "{what} shows {hidden}");
        }
    }
    assert!(shown[0].1.contains("TRACE"), "nothing was traced");
}

fn stage_log(stage: &Stage) -> String {
    fs::read_to_string(stage.folder().join("daemon.log")).unwrap()
}
