//! What a user may have got wrong, and what the store refuses.

use std::net::TcpListener;

use tenderfs_lab::{Fault, FaultRule, Operation};
use tenderfs_s3client::ConfigError;

use super::*;

async fn probe(lab: &Lab, config: BucketConfig) -> Result<(), Error> {
    client_of(lab, config).await.probe("").await
}

#[test]
fn a_bucket_that_answers_passes_the_probe() {
    let lab = lab();
    run(async {
        probe(&lab, config(&lab.endpoint())).await.unwrap();
        let entries = lab.ledger().entries();
        assert_eq!((entries.len(), entries[0].operation), (1, Operation::List));
    });
}

#[test]
fn a_missing_bucket_is_named() {
    let lab = lab();
    run(async {
        let config = BucketConfig { name: "absent".into(), ..config(&lab.endpoint()) };
        let error = probe(&lab, config).await.unwrap_err();
        assert!(matches!(&error, Error::NoSuchBucket { bucket, .. } if bucket == "absent"));
        assert!(error.to_string().contains(&lab.endpoint()), "{error}");
        assert_eq!(lab.ledger().entries().len(), 1, "it is not asked for again");
    });
}

#[test]
fn a_missing_object_is_not_found() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let error = client.head("absent", Importance::Demand).await.unwrap_err();
        assert!(matches!(&error, Error::NotFound { key, .. } if key == "absent"), "{error}");
        let object = ListedObject { key: "absent".into(), ..described(&client, KEY).await };
        let error = read(&client, &object, (0, 1)).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    });
}

#[test]
fn wrong_keys_are_denied_and_never_shown() {
    let lab = lab();
    run(async {
        for (id, secret) in [(lab.access_key(), "wrong-secret"), ("nobody", "wrong-secret")] {
            let bucket = Bucket::new(config(&lab.endpoint()), keys(id, secret).await).unwrap();
            let error = Client::new(bucket).probe("").await.unwrap_err();
            assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
            let said = format!("{error} {error:?}");
            assert!(!said.contains("wrong-secret") && !said.contains("X-Amz-Signature"), "{said}");
        }
        let nobody = Credentials::resolve(CredentialSource::Anonymous).await.unwrap();
        let client = Client::new(Bucket::new(config(&lab.endpoint()), nobody).unwrap());
        let error = client.head(KEY, Importance::Demand).await.unwrap_err();
        assert!(matches!(error, Error::AccessDenied { .. }), "{error}");
    });
}

#[test]
fn a_wrong_region_names_the_right_one() {
    let lab = Lab::builder().region("eu-west-1").start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    run(async {
        let error = probe(&lab, config(&lab.endpoint())).await.unwrap_err();
        assert!(
            matches!(&error, Error::WrongRegion { actual: Some(region), .. } if region == "eu-west-1"),
            "{error}"
        );
    });
}

#[test]
fn a_region_that_was_not_configured_is_learned() {
    let lab = Lab::builder().region("eu-west-1").start().unwrap();
    lab.create_bucket(BUCKET).unwrap();
    run(async {
        let config = BucketConfig { region: None, ..config(&lab.endpoint()) };
        let client = client_of(&lab, config).await;
        let identity = client.bucket().endpoint();
        client.probe("").await.unwrap();
        assert_eq!(client.bucket().region(), "eu-west-1");
        assert_eq!(client.bucket().endpoint(), identity);
        client.probe("").await.unwrap();
        assert_eq!(lab.ledger().entries().len(), 3, "it is learned once");
    });
}

#[test]
fn a_redirect_to_another_host_is_not_followed() {
    let lab = lab();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    other.set_nonblocking(true).unwrap();
    let location = format!("http://{}/data/{KEY}", other.local_addr().unwrap());
    lab.faults().add(FaultRule::new(Fault::Redirect { code: 307, location }));
    run(async {
        let error = probe(&lab, config(&lab.endpoint())).await.unwrap_err();
        assert!(matches!(error, Error::WrongRegion { actual: None, .. }), "{error}");
    });
    assert!(other.accept().is_err(), "the other host was asked");
}

/// Proves that a clock that is wrong is learned from the store's answers, once for each request in
/// flight and never again.
#[test]
fn a_clock_that_is_wrong_is_learned_from_the_store() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        lab.faults().add(FaultRule::new(Fault::ClockBehind { seconds: 600 }));
        let mark = lab.ledger().mark();
        let reads = (0..4).map(|_| read(&client, &object, (0, 1000)));
        assert!(futures_util::future::join_all(reads).await.iter().all(Result::is_ok));
        assert_eq!(lab.ledger().since(mark).len(), 8, "each was made once more");
        let mark = lab.ledger().mark();
        read(&client, &object, (0, 1000)).await.unwrap();
        assert_eq!(lab.ledger().since(mark).len(), 1, "the clock is known");
    });
}

#[test]
fn an_unreachable_endpoint_is_named() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let lab = lab();
    run(async {
        let endpoint = format!("http://127.0.0.1:{port}");
        let error = probe(&lab, config(&endpoint)).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
        assert!(error.to_string().contains(&endpoint), "{error}");
        let error = probe(&lab, config("http://no-such-host.invalid")).await.unwrap_err();
        assert!(matches!(error, Error::Unreachable { .. }), "{error}");
    });
}

#[test]
fn what_cannot_be_asked_is_refused_before_it_is_asked() {
    let bad = |change: &dyn Fn(&mut BucketConfig)| {
        let mut config = config("http://127.0.0.1:9");
        change(&mut config);
        let error = run(async { Bucket::new(config, keys("k", "s").await) }).unwrap_err();
        match error {
            Error::Config { source } => source,
            other => panic!("{other}"),
        }
    };
    assert!(matches!(bad(&|c| c.name = "a/b".into()), ConfigError::BucketName { .. }));
    assert!(matches!(bad(&|c| c.region = Some("a b".into())), ConfigError::Region { .. }));
    let ftp = |c: &mut BucketConfig| c.endpoint_url = Some("ftp://x".parse().unwrap());
    assert!(matches!(bad(&ftp), ConfigError::Endpoint { .. }));
    assert!(matches!(bad(&|c| c.connections_max = 0), ConfigError::Zero { .. }));
    assert!(matches!(bad(&|c| c.deadlines.whole = Duration::ZERO), ConfigError::Zero { .. }));
}

#[test]
fn refusals_are_told_apart() {
    let lab = lab();
    run(async {
        let client = client(&lab).await;
        let object = described(&client, KEY).await;
        for (code, error_code, expected) in [
            (403, "InvalidObjectState", "Archived"),
            (400, "ExpiredToken", "CredentialsExpired"),
            (403, "RequestTimeTooSkewed", "ClockSkewed"),
            (403, "AccessDenied", "AccessDenied"),
            (412, "PreconditionFailed", "Replaced"),
            (416, "InvalidRange", "RangeNotSatisfiable"),
            (400, "InvalidArgument", "Refused"),
        ] {
            lab.faults().clear();
            let fault = Fault::S3Error { code, error_code: error_code.into() };
            lab.faults().add(FaultRule::new(fault).operation(Operation::Get));
            let mark = lab.ledger().mark();
            let error = read(&client, &object, (0, SIZE)).await.unwrap_err();
            assert!(format!("{error:?}").starts_with(expected), "{error_code}: {error:?}");
            assert_eq!(lab.ledger().since(mark).len(), 1, "{error_code} is final");
        }
    });
}
