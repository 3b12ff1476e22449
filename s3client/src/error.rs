//! What can go wrong between a request and its bytes, in words an operator can act on.
//!
//! Invariant: no variant carries a signed address, a secret or a token.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use jiff::Timestamp;
use tenderfs_byterange::ByteRange;

use crate::counters::ErrorKind;

/// Why a request to the store did not give what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store has no object of that key.
    #[error("no object {key:?} in bucket {bucket}")]
    NotFound {
        /// The bucket asked.
        bucket: String,
        /// The key asked for.
        key: String,
    },
    /// The store has no such bucket.
    #[error("no bucket {bucket} at {endpoint}: check the name and the endpoint")]
    NoSuchBucket {
        /// The bucket asked for.
        bucket: String,
        /// The store asked.
        endpoint: String,
    },
    /// The store knows who asks and refuses, or does not know who asks.
    #[error(
        "access to {}bucket {bucket} denied ({code}{}); \
         check the credentials and that they may s3:ListBucket and s3:GetObject",
        if target.is_empty() { String::new() } else { format!("{target} in ") },
        if message.is_empty() { String::new() } else { format!(": {message}") }
    )]
    AccessDenied {
        /// The bucket asked.
        bucket: String,
        /// The key or the prefix asked for.
        target: String,
        /// The store's error code, `403` or `401` where it gave none.
        code: String,
        /// The store's own words; may be empty.
        message: String,
    },
    /// No place that may hold credentials held any.
    #[error(
        "no S3 credentials found; looked at: {}; set AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY, name a profile, or ask without signing if the bucket is public",
        looked_at.join("; ")
    )]
    CredentialsMissing {
        /// Each place looked at, with what was found there.
        looked_at: Vec<String>,
    },
    /// A place holds credentials, but they could not be had from it.
    #[error("credentials from {provider} could not be loaded: {}", causes(source))]
    CredentialsFailed {
        /// The place.
        provider: &'static str,
        /// Why not.
        source: CredentialsError,
    },
    /// The store says that the session token is past its time, or not one of its own.
    #[error("the credentials' session token has expired or is invalid: log in again")]
    CredentialsExpired,
    /// This machine's clock and the store's are too far apart for signatures.
    #[error("the store refuses the signature's time ({message}): set this machine's clock")]
    ClockSkewed {
        /// The store's own words.
        message: String,
        /// The time by the store's clock; `None` where it did not say.
        store_time: Option<Timestamp>,
    },
    /// The bucket lives in another region than the one asked.
    #[error(
        "bucket {bucket} is not in region {asked}: {}",
        actual.as_ref().map_or_else(
            || "set its region".to_owned(),
            |region| format!("set region to {region}")
        )
    )]
    WrongRegion {
        /// The bucket asked for.
        bucket: String,
        /// The region asked.
        asked: String,
        /// The region the store names; `None` where it names none.
        actual: Option<String>,
    },
    /// The object is no longer the version asked for.
    #[error("object {key:?} was replaced: it no longer has ETag {etag}")]
    Replaced {
        /// The key asked for.
        key: String,
        /// The ETag asked for.
        etag: String,
    },
    /// The object has no such bytes.
    #[error("object {key:?} has no bytes {range}")]
    RangeNotSatisfiable {
        /// The key asked for.
        key: String,
        /// The bytes asked for.
        range: ByteRange,
    },
    /// The object is in an archive and must be restored before it can be read.
    #[error("object {key:?} is archived{}: restore it first", class_of(storage_class))]
    Archived {
        /// The key asked for.
        key: String,
        /// Its storage class; empty where the store gave none.
        storage_class: String,
    },
    /// The store asks for fewer requests, or has just asked this of everybody.
    #[error("the store asks to slow down (status {status})")]
    Throttled {
        /// 429 or 503.
        status: u16,
        /// How long the store asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store failed.
    #[error("the store failed with status {status} {code}: {message}")]
    Server {
        /// The status, 500 and above, or 408.
        status: u16,
        /// The store's error code; may be empty.
        code: String,
        /// The store's own words; may be empty.
        message: String,
        /// How long the store asks to wait.
        retry_after: Option<Duration>,
    },
    /// The store refuses the request as such.
    #[error("the store refuses the request with status {status} {code}: {message}")]
    Refused {
        /// The status.
        status: u16,
        /// The store's error code; may be empty.
        code: String,
        /// The store's own words; may be empty.
        message: String,
    },
    /// Something took longer than it may.
    #[error("{deadline} took more than {} ms", after.as_millis())]
    DeadlineExpired {
        /// What took so long.
        deadline: Deadline,
        /// The time it had.
        after: Duration,
    },
    /// The store answered, but not what was asked.
    #[error("the store's answer is wrong: {fault}")]
    WrongAnswer {
        /// What is wrong with it.
        fault: AnswerFault,
    },
    /// No connection to the store.
    #[error("no connection to {endpoint}: {source}; check the endpoint, the network and DNS")]
    Unreachable {
        /// The store.
        endpoint: String,
        /// Why not.
        source: std::io::Error,
    },
    /// A connection to the store ended in the middle of a request.
    #[error("the connection to {endpoint} broke: {}", causes(&**source))]
    ConnectionBroken {
        /// The store.
        endpoint: String,
        /// How it ended.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No trusted encrypted connection to the store.
    #[error("TLS to {endpoint} failed: {source}{}", tls_advice(source))]
    Tls {
        /// The store.
        endpoint: String,
        /// Why not.
        source: std::io::Error,
    },
    /// The bucket cannot be asked as it is configured.
    #[error(transparent)]
    Config {
        /// What is wrong.
        #[from]
        source: ConfigError,
    },
    /// A key that HTTP cannot carry unchanged.
    #[error(
        "object {key:?} cannot be asked for: a part of its key is `.` or `..`, \
         which addresses resolve to another object"
    )]
    KeyUnusable {
        /// The key.
        key: String,
    },
}

/// What is wrong with a bucket's configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not a name that a bucket can have.
    #[error("{name:?} cannot be the name of a bucket: {reason}")]
    BucketName {
        /// The name given.
        name: String,
        /// What it breaks.
        reason: &'static str,
    },
    /// Not a name that a region can have.
    #[error("{region:?} cannot be a region: letters, digits and `-` only")]
    Region {
        /// The name given.
        region: String,
    },
    /// Not an address that a store can have.
    #[error("{endpoint} cannot be an endpoint: {reason}")]
    Endpoint {
        /// The address given, without user and password.
        endpoint: String,
        /// What it breaks.
        reason: &'static str,
    },
    /// A file without a customer's key that can be used.
    #[error("sse_customer_key_file {}: {reason}", path.display())]
    CustomerKey {
        /// The file.
        path: PathBuf,
        /// What it breaks.
        reason: String,
    },
    /// Not a proxy that can be asked.
    #[error("{proxy} cannot be the proxy: {reason}; it comes from HTTP_PROXY or HTTPS_PROXY")]
    Proxy {
        /// The address given, without user and password.
        proxy: String,
        /// What it breaks.
        reason: &'static str,
    },
    /// Not an account's id.
    #[error("{owner:?} cannot be the owner of a bucket: an account has 12 digits")]
    Owner {
        /// What was given.
        owner: String,
    },
    /// A file of certificate authorities that cannot be read.
    #[error("ca_bundle {}: {source}", path.display())]
    CaBundle {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: rustls::pki_types::pem::Error,
    },
    /// A file of certificate authorities without any.
    #[error("ca_bundle {} holds no usable certificate in PEM form", path.display())]
    CaBundleEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The system has no certificate authorities to trust.
    #[error("the system has no certificate authorities: install ca-certificates or set ca_bundle")]
    NoSystemAuthorities,
    /// The TLS library cannot be set up.
    #[error("TLS cannot be set up: {source}")]
    Tls {
        /// Why not.
        source: rustls::Error,
    },
    /// A number that must not be zero is.
    #[error("{setting} must not be 0")]
    Zero {
        /// The setting.
        setting: &'static str,
    },
}

/// What took longer than it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// Opening a connection, TLS included.
    Connect,
    /// From the request to the answer's head.
    FirstByte,
    /// The body, at less than 1 KiB/s.
    Stall,
    /// The request with all its retries.
    Whole,
}

impl fmt::Display for Deadline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connect => "opening a connection",
            Self::FirstByte => "the first byte of the answer",
            Self::Stall => "1 KiB/s of the body",
            Self::Whole => "the whole request",
        })
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerFault {
    /// A status that does not answer this request.
    #[error("status {status}")]
    Status {
        /// The status.
        status: u16,
    },
    /// A header that must be there is missing or unreadable.
    #[error("header {name} is missing or unreadable")]
    Header {
        /// The header.
        name: &'static str,
    },
    /// Other bytes than those asked for.
    #[error("asked for bytes {asked}, got {got}")]
    Range {
        /// The bytes asked for.
        asked: ByteRange,
        /// The bytes given.
        got: ByteRange,
    },
    /// The object has another size, under the same ETag.
    #[error("the object has {got} bytes, expected {expected}")]
    ObjectSize {
        /// The size known.
        expected: u64,
        /// The size given.
        got: u64,
    },
    /// The body's announced length does not fit the bytes asked for.
    #[error("announces a body of {got_bytes} bytes, expected {expected_bytes}")]
    Length {
        /// The bytes asked for.
        expected_bytes: u64,
        /// The bytes announced.
        got_bytes: u64,
    },
    /// The body ended early.
    #[error("the body ended {missing_bytes} bytes early")]
    Truncated {
        /// Bytes that did not come.
        missing_bytes: u64,
    },
    /// The body went on after its end.
    #[error("the body goes on after its end")]
    TooLong,
    /// Other bytes than those that were written.
    #[error("the bytes do not have the object's {algorithm} checksum")]
    Checksum {
        /// How the checksum is made.
        algorithm: &'static str,
    },
    /// The whole object came where a small part of it was asked for.
    #[error("the whole object came, {skip_bytes} bytes before those asked for")]
    NotPartial {
        /// Bytes before those asked for.
        skip_bytes: u64,
    },
    /// The body is larger than such a body may be.
    #[error("the body is larger than {limit_bytes} bytes")]
    BodyTooLarge {
        /// The limit.
        limit_bytes: usize,
    },
    /// Not the XML of a listing.
    #[error("not a listing: {reason}")]
    Listing {
        /// What is wrong with it.
        reason: String,
    },
    /// A listing that says it goes on but not how, or goes round in a circle.
    #[error("the listing cannot be continued: {reason}")]
    Continuation {
        /// What is wrong with it.
        reason: &'static str,
    },
}

impl Error {
    /// An answer with `fault`.
    pub(crate) fn wrong(fault: AnswerFault) -> Self {
        Self::WrongAnswer { fault }
    }

    /// What a counter calls this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound { .. } | Self::NoSuchBucket { .. } => ErrorKind::NotFound,
            Self::AccessDenied { .. } => ErrorKind::AccessDenied,
            Self::CredentialsMissing { .. }
            | Self::CredentialsFailed { .. }
            | Self::CredentialsExpired
            | Self::ClockSkewed { .. } => ErrorKind::Credentials,
            Self::WrongRegion { .. } => ErrorKind::WrongRegion,
            Self::Replaced { .. } => ErrorKind::Replaced,
            Self::RangeNotSatisfiable { .. } => ErrorKind::Range,
            Self::Archived { .. } => ErrorKind::Archived,
            Self::Throttled { .. } => ErrorKind::Throttled,
            Self::Server { .. } => ErrorKind::Server,
            Self::Refused { .. } | Self::Config { .. } | Self::KeyUnusable { .. } => {
                ErrorKind::Refused
            }
            Self::DeadlineExpired { deadline, .. } => match deadline {
                Deadline::Connect => ErrorKind::ConnectDeadline,
                Deadline::FirstByte => ErrorKind::FirstByteDeadline,
                Deadline::Stall => ErrorKind::Stall,
                Deadline::Whole => ErrorKind::WholeDeadline,
            },
            Self::WrongAnswer { .. } => ErrorKind::WrongAnswer,
            Self::Unreachable { .. } => ErrorKind::Unreachable,
            Self::ConnectionBroken { .. } => ErrorKind::ConnectionBroken,
            Self::Tls { .. } => ErrorKind::Tls,
        }
    }

    /// Whether the same request may succeed when made again.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Throttled { .. }
            | Self::Server { .. }
            | Self::WrongAnswer { .. }
            | Self::Unreachable { .. }
            | Self::ConnectionBroken { .. } => true,
            Self::DeadlineExpired { deadline, .. } => *deadline != Deadline::Whole,
            Self::NotFound { .. }
            | Self::NoSuchBucket { .. }
            | Self::AccessDenied { .. }
            | Self::CredentialsMissing { .. }
            | Self::CredentialsFailed { .. }
            | Self::CredentialsExpired
            | Self::ClockSkewed { .. }
            | Self::WrongRegion { .. }
            | Self::Replaced { .. }
            | Self::RangeNotSatisfiable { .. }
            | Self::Archived { .. }
            | Self::Refused { .. }
            | Self::Tls { .. }
            | Self::Config { .. }
            | Self::KeyUnusable { .. } => false,
        }
    }

    /// Whether other keys may help: these have expired, or were replaced since they were looked up.
    pub(crate) fn is_of_keys(&self) -> bool {
        match self {
            Self::CredentialsExpired => true,
            Self::AccessDenied { code, .. } => {
                matches!(code.as_str(), "InvalidAccessKeyId" | "SignatureDoesNotMatch")
            }
            _ => false,
        }
    }

    /// Whether the store is in trouble, or asks for fewer requests.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Throttled { .. } | Self::Server { .. })
    }

    /// How long the store asked to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Throttled { retry_after, .. } | Self::Server { retry_after, .. } => *retry_after,
            _ => None,
        }
    }
}

/// The storage class in words, if it is known.
fn class_of(storage_class: &str) -> String {
    if storage_class.is_empty() {
        String::new()
    } else {
        format!(" (storage class {storage_class})")
    }
}

/// What to do about a handshake that failed by `error`.
fn tls_advice(error: &std::io::Error) -> &'static str {
    use rustls::{CertificateError as Certificate, Error as Tls};
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<Tls>());
    match cause {
        Some(Tls::InvalidCertificate(Certificate::UnknownIssuer | Certificate::BadSignature)) => {
            "; if the store has a certificate authority of its own, name its file as ca_bundle"
        }
        Some(Tls::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        )) => "; renew the store's certificate, or set this machine's clock",
        Some(Tls::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => "; ask the store by a name that its certificate is for",
        Some(Tls::InvalidMessage(_)) => "; the endpoint may be one for http:// instead",
        _ => "",
    }
}

/// An error and all its causes in one line.
pub(crate) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_denial_says_no_more_than_is_known() {
        let denied = |target: &str, message: &str| {
            let error = Error::AccessDenied {
                bucket: "data".to_owned(),
                target: target.to_owned(),
                code: "403".to_owned(),
                message: message.to_owned(),
            };
            error.to_string().split(';').next().unwrap_or_default().to_owned()
        };
        assert_eq!(denied("", ""), "access to bucket data denied (403)");
        assert_eq!(denied("a/b", "No."), "access to a/b in bucket data denied (403: No.)");
    }
}
