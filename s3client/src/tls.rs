//! Whom to trust: the system's certificate authorities, or a bundle of one's own instead.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::error::ConfigError;

/// TLS as every connection of a bucket speaks it.
pub(crate) fn config(ca_bundle: Option<&Path>) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = match ca_bundle {
        Some(path) => bundle(path)?,
        None => system()?,
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|source| ConfigError::Tls { source })?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// The authorities in the PEM file at `path`.
fn bundle(path: &Path) -> Result<RootCertStore, ConfigError> {
    let unreadable = |source| ConfigError::CaBundle { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<Vec<_>, _>>()
        .map_err(unreadable)?;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(ConfigError::CaBundleEmpty { path: path.to_owned() });
    }
    Ok(roots)
}

/// The system's authorities. Some of them may be unusable; one must not be.
fn system() -> Result<RootCertStore, ConfigError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (usable, unusable) = roots.add_parsable_certificates(found.certs);
    if unusable > 0 || !found.errors.is_empty() {
        tracing::debug!(usable, unusable, errors = found.errors.len(), "certificate authorities");
    }
    if usable == 0 {
        return Err(ConfigError::NoSystemAuthorities);
    }
    Ok(roots)
}
