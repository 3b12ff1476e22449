//! Encrypted connections: whom the client trusts, and whom it does not.

use std::path::PathBuf;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tenderfs_s3client::ConfigError;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate for `names` that nobody vouches for, and its file.
pub(crate) fn certificate(names: &[&str]) -> (Arc<ServerConfig>, tempfile::TempDir, PathBuf) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(names).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    std::fs::write(&path, cert.pem()).unwrap();
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), folder, path)
}

/// Encrypts for `lab` on a port of its own, for as long as the runtime lives.
pub(crate) async fn front(lab: &Lab, config: Arc<ServerConfig>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (acceptor, inside) = (TlsAcceptor::from(config), lab.address());
    tokio::spawn(async move {
        while let Ok((outer, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut outer) = acceptor.accept(outer).await else { return };
                let mut inner = TcpStream::connect(inside).await.unwrap();
                inner.set_nodelay(true).unwrap();
                // How a test ends a connection is no concern of the front's.
                let _ended = tokio::io::copy_bidirectional(&mut outer, &mut inner).await;
            });
        }
    });
    port
}

/// A client of `lab` by the front at `host:port`.
async fn over_tls(lab: &Lab, host: &str, port: u16, ca_bundle: Option<PathBuf>) -> Client {
    let config = BucketConfig { ca_bundle, ..config(&format!("https://{host}:{port}")) };
    client_of(lab, config).await
}

#[test]
fn a_bundle_of_ones_own_is_trusted() {
    let lab = lab();
    let (server, _folder, path) = certificate(&["localhost", "127.0.0.1"]);
    run(async {
        let port = front(&lab, server).await;
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
    let (server, _folder, _) = certificate(&["localhost", "127.0.0.1"]);
    let (_, _other_folder, other) = certificate(&["localhost", "127.0.0.1"]);
    run(async {
        let port = front(&lab, server).await;
        let client = over_tls(&lab, "127.0.0.1", port, Some(other)).await;
        let error = client.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(error.to_string().contains("ca_bundle"), "{error}");
        assert_eq!(lab.ledger().entries().len(), 0, "nothing was asked, least of all in plain");
    });
}

#[test]
fn a_certificate_for_another_name_is_refused() {
    let lab = lab();
    let (server, _folder, path) = certificate(&["s3.example.com"]);
    run(async {
        let port = front(&lab, server).await;
        let client = over_tls(&lab, "127.0.0.1", port, Some(path)).await;
        let error = client.probe("").await.unwrap_err();
        assert!(matches!(error, Error::Tls { .. }), "{error}");
        assert!(error.to_string().contains("name"), "{error}");
    });
}

#[test]
fn an_endpoint_that_does_not_encrypt_is_never_spoken_to_in_plain() {
    let lab = lab();
    let (_, _folder, path) = certificate(&["127.0.0.1"]);
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
