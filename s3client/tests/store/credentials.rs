//! Where credentials come from. The environment of a process cannot be changed from within, so
//! each test runs itself again as a child with the environment it is about.

use std::path::Path;
use std::process::Command;

use tenderfs_lab::{Fault, FaultRule};

use super::*;

/// Says to a test that it is the child.
const CHILD: &str = "TENDERFS_TEST_CHILD";

#[allow(clippy::disallowed_methods, reason = "a child is told what it is by its environment")]
fn is_child() -> bool {
    std::env::var_os(CHILD).is_some()
}

/// Runs `test` of this module with only `environment`, without a metadata service.
#[track_caller]
fn run_as_child(test: &str, environment: &[(&str, &str)]) {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", &format!("credentials::{test}")])
        .env_clear()
        .env(CHILD, "1")
        .env("HOME", "/nonexistent")
        .env("PATH", "/usr/bin:/bin")
        .env("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:9")
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn resolve(profile: Option<&str>) -> Result<Credentials, Error> {
    let profile = profile.map(str::to_owned);
    run(Credentials::resolve(CredentialSource::Chain { profile, region: None }))
}

/// Proves V17.
#[test]
fn absent_credentials_name_every_place_looked_at() {
    if !is_child() {
        return run_as_child("absent_credentials_name_every_place_looked_at", &[]);
    }
    let begun = std::time::Instant::now();
    let error = resolve(None).unwrap_err();
    assert!(begun.elapsed() < ms(8000), "{:?}", begun.elapsed());
    let Error::CredentialsMissing { looked_at } = &error else { panic!("{error:?}") };
    assert_eq!(looked_at.len(), 5, "{looked_at:?}");
    for place in [
        "AWS_ACCESS_KEY_ID",
        "~/.aws/credentials",
        "AWS_WEB_IDENTITY_TOKEN_FILE",
        "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
        "instance metadata",
    ] {
        assert!(error.to_string().contains(place), "{place} in {error}");
    }
    let error = resolve(Some("absent-profile")).unwrap_err();
    assert!(error.to_string().contains("absent-profile"), "{error}");
}

/// Proves that a machine whose network swallows packets is not waited for long: 192.0.2.1 is
/// reserved and answers nobody.
#[test]
fn a_silent_metadata_service_is_not_waited_for_long() {
    if !is_child() {
        let silent = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://192.0.2.1")];
        return run_as_child("a_silent_metadata_service_is_not_waited_for_long", &silent);
    }
    let begun = std::time::Instant::now();
    assert!(matches!(resolve(None), Err(Error::CredentialsMissing { .. })));
    assert!(begun.elapsed() < ms(6000), "{:?}", begun.elapsed());
}

/// Proves V17.
#[test]
fn the_environment_comes_first() {
    if !is_child() {
        let environment = [("AWS_ACCESS_KEY_ID", "AKID"), ("AWS_SECRET_ACCESS_KEY", "secret")];
        return run_as_child("the_environment_comes_first", &environment);
    }
    let credentials = resolve(None).unwrap();
    assert_eq!(credentials.provider(), "environment");
    assert!(!format!("{credentials:?}").contains("secret"));
}

fn write(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
}

/// Proves V17.
#[test]
fn a_profile_that_is_named_is_used_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("credentials");
    write(&file, "[mine]\naws_access_key_id = AKID\naws_secret_access_key = secret\n");
    if !is_child() {
        let environment = [
            ("AWS_SHARED_CREDENTIALS_FILE", file.to_str().unwrap()),
            ("AWS_ACCESS_KEY_ID", "OTHER"),
            ("AWS_SECRET_ACCESS_KEY", "other"),
        ];
        return run_as_child("a_profile_that_is_named_is_used_alone", &environment);
    }
    assert_eq!(resolve(Some("mine")).unwrap().provider(), "profile");
    assert_eq!(resolve(None).unwrap().provider(), "environment");
}

#[test]
fn a_place_that_is_set_up_but_fails_is_not_passed_over() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config");
    write(&file, "[default]\ncredential_process = /bin/false\n");
    if !is_child() {
        let environment = [("AWS_CONFIG_FILE", file.to_str().unwrap())];
        return run_as_child("a_place_that_is_set_up_but_fails_is_not_passed_over", &environment);
    }
    let error = resolve(None).unwrap_err();
    assert!(matches!(error, Error::CredentialsFailed { provider: "profile", .. }), "{error:?}");
}

/// Proves that credentials which the store calls expired are renewed once for all requests in flight,
/// and the reads go on: of the keys that the process hands out, the store knows the first two.
#[test]
fn credentials_that_expire_in_the_middle_are_renewed() {
    const NAME: &str = "credentials_that_expire_in_the_middle_are_renewed";
    if !is_child() {
        let folder = tempfile::tempdir().unwrap();
        let (config, script) = (folder.path().join("config"), folder.path().join("keys.sh"));
        // Every call hands out the next key: AKID1, AKID2 and so on.
        let count = folder.path().join("count");
        write(
            &script,
            &format!(
                "echo x >> {count}\n\
                 echo '{{\"Version\":1,\"AccessKeyId\":\"AKID'$(wc -l < {count})'\",\
                 \"SecretAccessKey\":\"secret\",\"Expiration\":\"2100-01-01T00:00:00Z\"}}'\n",
                count = count.display()
            ),
        );
        write(&config, &format!("[default]\ncredential_process = /bin/sh {}\n", script.display()));
        return run_as_child(NAME, &[("AWS_CONFIG_FILE", config.to_str().unwrap())]);
    }
    let lab = lab();
    lab.add_credentials("AKID1", "secret");
    lab.add_credentials("AKID2", "secret");
    run(async {
        let source = CredentialSource::Chain { profile: None, region: None };
        let credentials = Credentials::resolve(source).await.unwrap();
        assert_eq!(credentials.provider(), "profile");
        let renewal = tokio::spawn(credentials.clone().keep_fresh());
        let client = Client::new(Bucket::new(config(&lab.endpoint()), credentials).unwrap());
        let object = described(&client, KEY).await;
        lab.remove_credentials("AKID1");
        let fault = Fault::S3Error { code: 400, error_code: "ExpiredToken".into() };
        lab.faults().add(FaultRule::new(fault).times(8));
        let reads = (0..8).map(|_| read(&client, &object, (0, SIZE)));
        for bytes in futures_util::future::join_all(reads).await {
            assert_eq!(bytes.unwrap().len() as u64, SIZE);
        }
        assert_eq!(lab.ledger().gets(), 16);
        // A second renewal, for those who asked while the first was under way, would fail these.
        for _ in 0..200 {
            read(&client, &object, (0, 1000)).await.unwrap();
        }
        renewal.abort();
    });
}
