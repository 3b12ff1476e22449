//! Encrypted connections: whom the client trusts, and whom it does not.

use std::path::PathBuf;

use tenderfs_lab::TlsFront;
use tenderfs_s3client::ConfigError;

use super::*;

/// The lab behind a certificate for `names` that nobody vouches for, and the certificate's file.
pub(crate) fn front(lab: &Lab, names: &[&str]) -> (TlsFront, tempfile::TempDir, PathBuf) {
    let front = TlsFront::start(lab, names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, front.certificate()).unwrap();
    (front, folder, path)
}

/// A client of `lab` by the front at `host:port`.
async fn over_tls(lab: &Lab, host: &str, port: u16, ca_bundle: Option<PathBuf>) -> Client {
    let config = BucketConfig { ca_bundle, ..config(&format!("https://{host}:{port}")) };
    client_of(lab, config).await
}

#[test]
fn a_bundle_of_ones_own_is_trusted() {
    let lab = lab();
    let (front, _folder, path) = front(&lab, &["localhost", "127.0.0.1"]);
    run(async {
        let port = front.port();
        for host in ["127.0.0.1", "localhost"] {
            let client = over_tls(&lab, host, port, Some(path.clone())).await;
            let object = described(&client, KEY).await;
            let bytes = read(&client, &object, (0, SIZE)).await.unwrap();
            assert_eq!(bytes.len() as u64, SIZE);
            check_bytes(&lab, KEY, 0, &bytes);
        }
    });
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused_with_advice() {
    let lab = lab();
    let (_other_front, _other_folder, other) = front(&lab, &["localhost", "127.0.0.1"]);
    let (front, _folder, _) = front(&lab, &["localhost", "127.0.0.1"]);
    run(async {
        let client = over_tls(&lab, "127.0.0.1", front.port(), Some(other)).await;
        let error = client.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(error.to_string().contains("ca_bundle"), "{error}");
        assert_eq!(lab.ledger().entries().len(), 0, "nothing was asked, least of all in plain");
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let lab = lab();
    let (front, _folder, path) = front(&lab, &["s3.example.com"]);
    run(async {
        let client = over_tls(&lab, "127.0.0.1", front.port(), Some(path)).await;
        let error = client.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(error.to_string().contains("name"), "{error}");
    });
}

#[test]
fn an_endpoint_that_does_not_encrypt_is_never_spoken_to_in_plain() {
    let lab = lab();
    let (_front, _folder, path) = front(&lab, &["127.0.0.1"]);
    run(async {
        let port = lab.address().port();
        let client = over_tls(&lab, "127.0.0.1", port, Some(path)).await;
        let error = client.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. } | Error::Unreachable { .. }), "{error}");
        assert!(!error.to_string().contains("ca_bundle"), "{error}");
    });
}

#[test]
fn a_bundle_that_is_none_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = folder.path().join("text.pem");
    std::fs::write(&text, "no certificate").unwrap();
    for path in [text, folder.path().join("absent.pem")] {
        let config =
            BucketConfig { ca_bundle: Some(path.clone()), ..config("https://127.0.0.1:9") };
        let error = run(async { Bucket::new(config, keys("k", "s").await) }).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        assert!(
            matches!(
                error,
                Error::Config {
                    source: ConfigError::CaBundle { .. } | ConfigError::CaBundleEmpty { .. }
                }
            ),
            "{error}"
        );
    }
}
