//! Where credentials come from. The environment of a process cannot be changed from within, so
//! each test runs itself again as a child with the environment it is about.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use tenderfs_lab::{Fault, FaultRule, HttpFake};

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

/// The keys that the services of these tests hand out, with which the lab can be read.
const HANDED_OUT: (&str, &str) = ("AKIDHANDED", "handed-secret");

/// A client of `lab` whose keys come from the usual places and are kept fresh; and where they came from.
async fn chain_client(lab: &Lab) -> (Client, &'static str) {
    let source = CredentialSource::Chain { profile: None, region: None };
    let credentials = Credentials::resolve(source).await.unwrap();
    let provider = credentials.provider();
    tokio::spawn(credentials.clone().keep_fresh());
    (Client::new(Bucket::new(config(&lab.endpoint()), credentials).unwrap()), provider)
}

/// Takes keys from the usual places, which is to be `provider`, and reads an object with them.
#[track_caller]
fn check_read_by(provider: &str) {
    let lab = lab();
    lab.add_credentials(HANDED_OUT.0, HANDED_OUT.1);
    run(async {
        let (client, found) = chain_client(&lab).await;
        assert_eq!(found, provider);
        let object = described(&client, KEY).await;
        check_bytes(&lab, KEY, 0, &read(&client, &object, (0, 1000)).await.unwrap());
    });
}

/// Keys as ECS, EKS and the metadata service write them.
fn json_keys(id: &str, expiration: &str) -> String {
    let secret = HANDED_OUT.1;
    format!(
        "{{\"Code\":\"Success\",\"Type\":\"AWS-HMAC\",\"LastUpdated\":\"2026-01-01T00:00:00Z\",\
         \"AccessKeyId\":\"{id}\",\"SecretAccessKey\":\"{secret}\",\"Token\":\"session\",\
         \"Expiration\":\"{expiration}\"}}"
    )
}

const FAR: &str = "2100-01-01T00:00:00Z";

#[test]
fn keys_of_a_container_are_taken_with_its_token() {
    if is_child() {
        return check_read_by("ecs");
    }
    let service = HttpFake::start(|request| match request.header("authorization") {
        Some("Bearer pod") => (200, json_keys(HANDED_OUT.0, FAR)),
        _ => (401, "{}".to_owned()),
    });
    let service = service.unwrap();
    run_as_child(
        "keys_of_a_container_are_taken_with_its_token",
        &[
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", &format!("{}/keys", service.url())),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN", "Bearer pod"),
        ],
    );
}

#[test]
fn keys_of_an_instance_are_taken_by_the_second_version_of_its_service() {
    if is_child() {
        return check_read_by("imds");
    }
    let service = HttpFake::start(|request| {
        let has_token = request.header("x-aws-ec2-metadata-token") == Some("session-token");
        let path = request.path.trim_end_matches('/');
        match (request.method.as_str(), path) {
            ("PUT", "/latest/api/token") => (200, "session-token".to_owned()),
            // Without the token of version 2 nothing is told.
            _ if !has_token => (401, String::new()),
            ("GET", "/latest/meta-data/iam/security-credentials") => (200, "role".to_owned()),
            ("GET", "/latest/meta-data/iam/security-credentials/role") => {
                (200, json_keys(HANDED_OUT.0, FAR))
            }
            _ => (404, String::new()),
        }
    });
    let service = service.unwrap();
    run_as_child(
        "keys_of_an_instance_are_taken_by_the_second_version_of_its_service",
        &[("AWS_EC2_METADATA_SERVICE_ENDPOINT", &service.url())],
    );
}

#[test]
fn a_web_identity_is_exchanged_for_keys() {
    if is_child() {
        return check_read_by("web-identity");
    }
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    write(&token, "web-token");
    let service = HttpFake::start(|request| {
        let asks = ["Action=AssumeRoleWithWebIdentity", "WebIdentityToken=web-token", "reader"];
        if !asks.iter().all(|part| request.body.contains(part)) {
            return (400, String::new());
        }
        let (id, secret) = HANDED_OUT;
        let xml = format!(
            "<AssumeRoleWithWebIdentityResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\">\
             <AssumeRoleWithWebIdentityResult><AssumedRoleUser>\
             <Arn>arn:aws:sts::123456789012:assumed-role/reader/s</Arn>\
             <AssumedRoleId>A:s</AssumedRoleId></AssumedRoleUser><Credentials>\
             <AccessKeyId>{id}</AccessKeyId><SecretAccessKey>{secret}</SecretAccessKey>\
             <SessionToken>session</SessionToken><Expiration>{FAR}</Expiration></Credentials>\
             </AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        );
        (200, xml)
    });
    let service = service.unwrap();
    run_as_child(
        "a_web_identity_is_exchanged_for_keys",
        &[
            ("AWS_WEB_IDENTITY_TOKEN_FILE", token.to_str().unwrap()),
            ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/reader"),
            ("AWS_REGION", "eu-west-1"),
            ("AWS_ENDPOINT_URL_STS", &service.url()),
        ],
    );
}

#[test]
fn whoever_is_signed_in_by_sso_needs_no_keys() {
    if is_child() {
        return check_read_by("profile");
    }
    let home = tempfile::tempdir().unwrap();
    let cache = home.path().join(".aws/sso/cache");
    std::fs::create_dir_all(&cache).unwrap();
    // What `aws sso login` leaves, named by the SHA-1 of the session's name.
    let name = Command::new("sh")
        .args(["-c", "printf %s work | sha1sum | cut -d' ' -f1"])
        .output()
        .unwrap();
    let token = cache.join(format!("{}.json", String::from_utf8(name.stdout).unwrap().trim()));
    write(
        &token,
        &format!(
            "{{\"accessToken\":\"sso-token\",\"expiresAt\":\"{FAR}\",\"region\":\"eu-west-1\",\
             \"startUrl\":\"https://work.awsapps.com/start\"}}"
        ),
    );
    let config = home.path().join("config");
    write(
        &config,
        "[default]\nsso_session = work\nsso_account_id = 123456789012\nsso_role_name = reader\n\
         region = eu-west-1\n[sso-session work]\nsso_region = eu-west-1\n\
         sso_start_url = https://work.awsapps.com/start\n",
    );
    let service = HttpFake::start(|request| {
        let is_signed_in = request.header("x-amz-sso_bearer_token") == Some("sso-token");
        if !is_signed_in || !request.path.contains("role_name=reader") {
            return (401, "{}".to_owned());
        }
        let (id, secret) = HANDED_OUT;
        let json = format!(
            "{{\"roleCredentials\":{{\"accessKeyId\":\"{id}\",\"secretAccessKey\":\"{secret}\",\
             \"sessionToken\":\"session\",\"expiration\":4102444800000}}}}"
        );
        (200, json)
    });
    let service = service.unwrap();
    run_as_child(
        "whoever_is_signed_in_by_sso_needs_no_keys",
        &[
            ("HOME", home.path().to_str().unwrap()),
            ("AWS_CONFIG_FILE", config.to_str().unwrap()),
            ("AWS_ENDPOINT_URL_SSO", &service.url()),
        ],
    );
}

/// Proves W21: keys are replaced before they expire, and no read fails or is made twice for it.
#[test]
fn keys_that_are_about_to_expire_are_replaced_without_a_failed_read() {
    const NAME: &str = "keys_that_are_about_to_expire_are_replaced_without_a_failed_read";
    if !is_child() {
        // Every key is good for 15 s. The shortest time between two renewals is 10 s.
        let count = std::sync::atomic::AtomicU32::new(0);
        let service = HttpFake::start(move |_| {
            let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            let expires = jiff::Timestamp::try_from(SystemTime::now() + ms(15_000)).unwrap();
            (200, json_keys(&format!("AKID{number}"), &expires.to_string()))
        });
        let url = format!("{}/keys", service.as_ref().unwrap().url());
        return run_as_child(NAME, &[("AWS_CONTAINER_CREDENTIALS_FULL_URI", &url)]);
    }
    let lab = lab();
    for number in 0..4 {
        lab.add_credentials(&format!("AKID{number}"), HANDED_OUT.1);
    }
    run(async {
        let (client, _) = chain_client(&lab).await;
        let object = described(&client, KEY).await;
        let (begun, mut reads) = (std::time::Instant::now(), 0);
        while begun.elapsed() < ms(16_500) {
            // The store forgets each key when it expires.
            if begun.elapsed() > ms(15_000) {
                lab.remove_credentials("AKID0");
            }
            read(&client, &object, (0, 1000)).await.unwrap();
            reads += 1;
            tokio::time::sleep(ms(50)).await;
        }
        assert_eq!(lab.ledger().gets(), reads, "a read was made twice");
    });
}

fn keys_file(folder: &Path, id: &str, secret: &str) -> std::path::PathBuf {
    let file = folder.join("keys");
    let other = "[other]\naws_access_key_id = OTHER\naws_secret_access_key = other\n";
    write(
        &file,
        &format!("{other}[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n"),
    );
    set_mode(&file, 0o600);
    file
}

fn set_mode(file: &Path, mode: u32) {
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
}

async fn of_file(path: &Path, profile: Option<&str>) -> Result<Credentials, Error> {
    let (path, profile) = (path.to_owned(), profile.map(str::to_owned));
    Credentials::resolve(CredentialSource::File { path, profile }).await
}

#[test]
fn a_file_of_keys_must_be_readable_by_its_owner_alone() {
    let folder = tempfile::tempdir().unwrap();
    let file = keys_file(folder.path(), "AKID", "secret");
    run(async {
        assert_eq!(of_file(&file, None).await.unwrap().provider(), "credentials-file");
        assert!(of_file(&file, Some("other")).await.is_ok());
        let error = of_file(&file, Some("absent")).await.unwrap_err().to_string();
        assert!(error.contains("absent"), "{error}");
        for mode in [0o640, 0o604, 0o660] {
            set_mode(&file, mode);
            let error = of_file(&file, None).await.unwrap_err();
            let said = format!("{error}: {:?}", std::error::Error::source(&error));
            assert!(said.contains("chmod 600"), "{said}");
            assert!(!said.contains("secret"), "{said}");
        }
        let error = of_file(folder.path(), None).await.unwrap_err();
        let said = format!("{:?}", std::error::Error::source(&error));
        assert!(said.contains("is not a file"), "{said}");
        assert!(of_file(&folder.path().join("none"), None).await.is_err());
    });
}

#[test]
fn keys_that_are_replaced_in_their_file_are_used_without_a_failed_read() {
    let folder = tempfile::tempdir().unwrap();
    let file = keys_file(folder.path(), "AKID1", "first");
    let lab = lab();
    lab.add_credentials("AKID1", "first");
    run(async {
        let credentials = of_file(&file, None).await.unwrap();
        tokio::spawn(credentials.clone().keep_fresh());
        let client = Client::new(Bucket::new(config(&lab.endpoint()), credentials).unwrap());
        let object = described(&client, KEY).await;
        keys_file(folder.path(), "AKID2", "second");
        lab.add_credentials("AKID2", "second");
        lab.remove_credentials("AKID1");
        let reads = (0..8).map(|_| read(&client, &object, (0, SIZE)));
        for bytes in futures_util::future::join_all(reads).await {
            assert_eq!(bytes.unwrap().len() as u64, SIZE);
        }
        // Where the file brings no others, that is told at once, and not waited for each time.
        lab.remove_credentials("AKID2");
        for turn in 0..5 {
            let begun = std::time::Instant::now();
            let error = read(&client, &object, (0, 1000)).await.unwrap_err();
            assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
            assert!(begun.elapsed() < ms(5000), "turn {turn} took {:?}", begun.elapsed());
        }
        lab.add_credentials("AKID2", "second");
        assert!(read(&client, &object, (0, 1000)).await.is_ok());
    });
}
