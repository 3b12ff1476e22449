//! Where a bucket is and what the address of an object in it is.
//!
//! Invariant: two keys never share an address, and an address never leaves its bucket. Keys that
//! break this under the rules of addresses (`.` and `..` are resolved, even when encoded) are
//! refused.

use std::borrow::Cow;
use std::net::IpAddr;

use rusty_s3::UrlStyle;
use url::{Host, Url};

use crate::error::{ConfigError, Error};
use crate::proxies::Proxy;

/// The region asked where none is configured.
pub const REGION_DEFAULT: &str = "us-east-1";

/// What the names of directory buckets end with; see docs/decisions/0009-s3-express.md.
const DIRECTORY_BUCKET: &str = "--x-s3";

/// How the bucket's name goes into an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing {
    /// `Path` for endpoints of one's own and for names with dots over TLS (no certificate covers
    /// those), else `VirtualHost`.
    Auto,
    /// `https://endpoint/bucket/key`.
    Path,
    /// `https://bucket.endpoint/key`.
    VirtualHost,
}

/// Which of AWS's endpoints is asked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct AwsEndpoint {
    /// The one that has addresses of IPv6 too.
    pub dual_stack: bool,
    /// The one that leads into AWS's own network nearby (transfer acceleration).
    pub accelerated: bool,
}

/// Where a bucket is.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    bucket: rusty_s3::Bucket,
    host: Host<String>,
    port: u16,
    encrypted: bool,
    /// What the `Host` header says, and what the signature covers.
    authority: String,
    /// The proxy that leads there.
    proxy: Option<Proxy>,
}

impl Place {
    /// The place of bucket `name` in `region`, at `endpoint` or else at AWS.
    pub(crate) fn new(
        name: &str,
        region: &str,
        endpoint: Option<&Url>,
        addressing: Addressing,
        aws: AwsEndpoint,
    ) -> Result<Self, ConfigError> {
        check_bucket_name(name)?;
        check_region(region)?;
        let url = match endpoint {
            Some(url) if aws == AwsEndpoint::default() => url.clone(),
            Some(url) => {
                let reason =
                    "dual_stack and transfer_acceleration are AWS's: leave endpoint_url empty";
                return Err(bad_endpoint(url, reason));
            }
            None => aws_endpoint(region, aws)?,
        };
        if aws.accelerated && (name.contains('.') || addressing == Addressing::Path) {
            let reason = "transfer acceleration wants the name before the host, without dots in it";
            return Err(ConfigError::BucketName { name: name.to_owned(), reason });
        }
        let style = style(name, &url, endpoint.is_some(), addressing);
        let bucket = rusty_s3::Bucket::new(url.clone(), style, name.to_owned(), region.to_owned())
            .map_err(|error| bad_endpoint(&url, reason(error)))?;
        let base = bucket.base_url();
        let host = base.host().map(|host| host.to_owned());
        let (Some(host), Some(port)) = (host, base.port_or_known_default()) else {
            return Err(bad_endpoint(&url, "it names no host"));
        };
        let authority = match base.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_string(),
        };
        let encrypted = base.scheme() == "https";
        Ok(Self { bucket, host, port, encrypted, authority, proxy: None })
    }

    /// The same place, reached by `proxy` if there is one.
    pub(crate) fn by(self, proxy: Option<Proxy>) -> Self {
        Self { proxy, ..self }
    }

    /// The proxy that leads there, if there is one.
    pub(crate) fn proxy(&self) -> Option<&Proxy> {
        self.proxy.as_ref()
    }

    /// What signs for this place.
    pub(crate) fn bucket(&self) -> &rusty_s3::Bucket {
        &self.bucket
    }

    /// The region signed for.
    pub(crate) fn region(&self) -> &str {
        self.bucket.region()
    }

    /// Whether connections are by TLS.
    pub(crate) fn encrypted(&self) -> bool {
        self.encrypted
    }

    /// What the `Host` header says.
    pub(crate) fn authority(&self) -> &str {
        &self.authority
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The host.
    pub(crate) fn host_or_address(&self) -> &Host<String> {
        &self.host
    }

    /// The host's name, `Err` with its address if it is one.
    pub(crate) fn host(&self) -> Result<&str, IpAddr> {
        match &self.host {
            Host::Domain(name) => Ok(name),
            Host::Ipv4(address) => Err(IpAddr::V4(*address)),
            Host::Ipv6(address) => Err(IpAddr::V6(*address)),
        }
    }

    /// `scheme://host[:port]`, for messages.
    pub(crate) fn label(&self) -> String {
        format!("{}://{}", self.bucket.base_url().scheme(), self.authority)
    }

    /// The address of the object `key`, not signed yet.
    pub(crate) fn object_url(&self, key: &str) -> Result<Url, Error> {
        let unusable = || Error::KeyUnusable { key: key.to_owned() };
        if key.is_empty() || key.split('/').any(|part| part == "." || part == "..") {
            return Err(unusable());
        }
        let url = self.bucket.object_url(key);
        // The check above should make this one superfluous; it is what must hold.
        let base_path = self.bucket.base_url().path();
        match url.path().strip_prefix(base_path).map(decode) {
            Some(Some(decoded)) if decoded == key => Ok(url),
            _ => Err(unusable()),
        }
    }
}

/// `scheme://host[:port]` that names the store whatever region it is asked by, so that what is
/// known of its objects stays known when a region is learned. AWS has one name for each partition.
pub(crate) fn identity(region: &str, endpoint: Option<&Url>) -> String {
    match endpoint {
        Some(url) => url.origin().ascii_serialization(),
        None if region.starts_with("cn-") => "https://s3.amazonaws.com.cn".to_owned(),
        None if region.starts_with("us-gov-") => "https://s3.us-gov.amazonaws.com".to_owned(),
        None => "https://s3.amazonaws.com".to_owned(),
    }
}

/// The percent-encoded `text` as it was before; `None` if it is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    percent_encoding::percent_decode_str(text).decode_utf8().ok()
}

/// The endpoint of AWS in `region`.
fn aws_endpoint(region: &str, aws: AwsEndpoint) -> Result<Url, ConfigError> {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    let AwsEndpoint { dual_stack, accelerated } = aws;
    let stack = if dual_stack { ".dualstack" } else { "" };
    let host = if accelerated {
        format!("s3-accelerate{stack}.{domain}")
    } else {
        format!("s3{stack}.{region}.{domain}")
    };
    Url::parse(&format!("https://{host}"))
        .map_err(|_| ConfigError::Region { region: region.to_owned() })
}

/// How `name` goes into addresses at `url`.
fn style(name: &str, url: &Url, custom: bool, addressing: Addressing) -> UrlStyle {
    match addressing {
        Addressing::Path => UrlStyle::Path,
        Addressing::VirtualHost => UrlStyle::VirtualHost,
        Addressing::Auto => {
            let dots_in_certificate = name.contains('.') && url.scheme() == "https";
            let legacy = name.chars().any(|c| c.is_ascii_uppercase() || c == '_');
            let own = custom && !is_aws(url);
            if own || dots_in_certificate || legacy {
                UrlStyle::Path
            } else {
                UrlStyle::VirtualHost
            }
        }
    }
}

/// Whether `url` is one of AWS's own endpoints, given by hand.
fn is_aws(url: &Url) -> bool {
    url.domain().is_some_and(|domain| {
        domain.ends_with(".amazonaws.com") || domain.ends_with(".amazonaws.com.cn")
    })
}

/// Refuses what cannot be in an address or a host's name unchanged. S3's full rules are stricter,
/// but other stores and older buckets do not follow them; the store decides.
fn check_bucket_name(name: &str) -> Result<(), ConfigError> {
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let reason = if name.len() < 3 || name.len() > 255 {
        "it must have 3 to 63 characters"
    } else if !name.chars().all(usable) {
        "only letters, digits, `-`, `.` and `_` may be in it"
    } else if name.contains("..") || name.starts_with('.') || name.ends_with('.') {
        "it may not begin or end with a dot nor have two in a row"
    } else if name.ends_with(DIRECTORY_BUCKET) {
        "directory buckets (S3 Express One Zone) are not supported: copy the data to a general bucket"
    } else {
        return Ok(());
    };
    Err(ConfigError::BucketName { name: name.to_owned(), reason })
}

/// Refuses a region that would change the host's name or the signature's scope.
fn check_region(region: &str) -> Result<(), ConfigError> {
    let usable = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if region.is_empty() || region.len() > 64 || !region.chars().all(usable) {
        return Err(ConfigError::Region { region: region.to_owned() });
    }
    Ok(())
}

/// `url` is not an endpoint, by `reason`. What is shown has no user, password or query.
fn bad_endpoint(url: &Url, reason: &'static str) -> ConfigError {
    let endpoint = match url.host() {
        Some(host) => format!("{}://{host}", url.scheme()),
        None => format!("{}:", url.scheme()),
    };
    ConfigError::Endpoint { endpoint, reason }
}

fn reason(error: rusty_s3::BucketError) -> &'static str {
    match error {
        rusty_s3::BucketError::UnsupportedScheme => "only http:// and https:// are spoken",
        rusty_s3::BucketError::MissingHost => "it names no host",
        rusty_s3::BucketError::ParseError(_) => {
            "the bucket's name cannot be put before its host: use path style"
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(name: &str, endpoint: Option<&str>, addressing: Addressing) -> Place {
        let endpoint = endpoint.map(|url| Url::parse(url).unwrap());
        Place::new(name, "eu-west-1", endpoint.as_ref(), addressing, AwsEndpoint::default())
            .unwrap()
    }

    #[track_caller]
    fn check(name: &str, endpoint: Option<&str>, addressing: Addressing, expected: &str) {
        let place = place(name, endpoint, addressing);
        assert_eq!(place.object_url("a/b").unwrap().as_str(), expected);
    }

    #[test]
    fn the_bucket_goes_where_the_endpoint_can_take_it() {
        use Addressing::{Auto, Path, VirtualHost};
        let own = Some("http://127.0.0.1:9000");
        let named = Some("https://minio.example.com/s3");
        let aws = Some("https://s3.eu-west-1.amazonaws.com");
        check("data", None, Auto, "https://data.s3.eu-west-1.amazonaws.com/a/b");
        check("data", None, Path, "https://s3.eu-west-1.amazonaws.com/data/a/b");
        check("my.data", None, Auto, "https://s3.eu-west-1.amazonaws.com/my.data/a/b");
        check("OldData", None, Auto, "https://s3.eu-west-1.amazonaws.com/OldData/a/b");
        check("data", aws, Auto, "https://data.s3.eu-west-1.amazonaws.com/a/b");
        check("data", own, Auto, "http://127.0.0.1:9000/data/a/b");
        check("data", named, Auto, "https://minio.example.com/s3/data/a/b");
        check("data", named, VirtualHost, "https://data.minio.example.com/s3/a/b");
        check("data", Some("http://[::1]:9000"), Auto, "http://[::1]:9000/data/a/b");
    }

    #[test]
    fn aws_has_endpoints_for_ipv6_and_for_acceleration() {
        let host = |dual_stack, accelerated| {
            let aws = AwsEndpoint { dual_stack, accelerated };
            let place = Place::new("data", "eu-west-1", None, Addressing::Auto, aws).unwrap();
            place.authority().to_owned()
        };
        assert_eq!(host(true, false), "data.s3.dualstack.eu-west-1.amazonaws.com");
        assert_eq!(host(false, true), "data.s3-accelerate.amazonaws.com");
        assert_eq!(host(true, true), "data.s3-accelerate.dualstack.amazonaws.com");
        let accelerated = AwsEndpoint { dual_stack: false, accelerated: true };
        let own = Url::parse("http://127.0.0.1:9000").unwrap();
        for (name, endpoint, addressing) in [
            ("my.data", None, Addressing::Auto),
            ("data", None, Addressing::Path),
            ("data", Some(&own), Addressing::Auto),
        ] {
            assert!(Place::new(name, "r", endpoint, addressing, accelerated).is_err(), "{name}");
        }
    }

    #[test]
    fn odd_keys_reach_their_own_address() {
        let place = place("data", Some("http://127.0.0.1:9000"), Addressing::Path);
        for (key, path) in [
            ("a//b", "/data/a//b"),
            ("/a", "/data//a"),
            ("//", "/data///"),
            ("a/", "/data/a/"),
            ("a b+c%", "/data/a%20b%2Bc%25"),
            ("a%2Fb", "/data/a%252Fb"),
            ("%2e%2e/x", "/data/%252e%252e/x"),
            ("x?y#z", "/data/x%3Fy%23z"),
            ("a\\b", "/data/a%5Cb"),
            ("a\nb\0", "/data/a%0Ab%00"),
            ("grün/日", "/data/gr%C3%BCn/%E6%97%A5"),
            ("...", "/data/..."),
            (".a", "/data/.a"),
            ("a:b@c", "/data/a%3Ab%40c"),
        ] {
            assert_eq!(place.object_url(key).unwrap().path(), path, "{key:?}");
        }
    }

    #[test]
    fn keys_that_would_reach_another_object_are_refused() {
        let place = place("data", Some("http://127.0.0.1:9000"), Addressing::Path);
        for key in ["", ".", "..", "../other/x", "a/../b", "a/./b", "a/..", "a/."] {
            assert!(matches!(place.object_url(key), Err(Error::KeyUnusable { .. })), "{key:?}");
        }
    }

    #[test]
    fn names_that_would_change_the_host_are_refused() {
        for name in [
            "",
            "ab",
            "a/b",
            "evil.com/x",
            "a b",
            "a@b",
            "a?b",
            "..",
            "abc.",
            "a..b",
            "data--use1-az4--x-s3",
        ] {
            assert!(matches!(
                Place::new(name, "us-east-1", None, Addressing::Auto, AwsEndpoint::default()),
                Err(ConfigError::BucketName { .. })
            ));
        }
        for region in ["", "evil.com/", "a b", "x@y"] {
            assert!(matches!(
                Place::new("data", region, None, Addressing::Auto, AwsEndpoint::default()),
                Err(ConfigError::Region { .. })
            ));
        }
    }

    #[test]
    fn endpoints_that_cannot_be_are_refused_without_showing_a_password() {
        for (endpoint, addressing) in [
            ("ftp://user:secret@host/", Addressing::Auto),
            ("http://user:secret@127.0.0.1", Addressing::VirtualHost),
        ] {
            let url = Url::parse(endpoint).unwrap();
            let error = Place::new("data", "r", Some(&url), addressing, AwsEndpoint::default())
                .unwrap_err();
            assert!(matches!(error, ConfigError::Endpoint { .. }), "{error}");
            assert!(!error.to_string().contains("secret"), "{error}");
        }
    }

    #[test]
    fn one_store_has_one_identity() {
        let own = Url::parse("http://user:pw@127.0.0.1:9000/s3").unwrap();
        assert_eq!(identity("x", Some(&own)), "http://127.0.0.1:9000");
        assert_eq!(identity("us-east-1", None), identity("eu-west-1", None));
        assert_ne!(identity("us-east-1", None), identity("cn-north-1", None));
        assert_ne!(identity("us-east-1", None), identity("us-gov-west-1", None));
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_address(key in "\\PC{1,40}|[a-c./%+ ]{1,12}") {
            let place = place("data", Some("http://127.0.0.1:9000"), Addressing::Path);
            if let Ok(url) = place.object_url(&key) {
                prop_assert_eq!(url.host_str(), Some("127.0.0.1"));
                prop_assert_eq!(url.query(), None);
                prop_assert_eq!(decode(url.path()).unwrap(), format!("/data/{key}"));
            } else {
                prop_assert!(key.split('/').any(|part| part == "." || part == ".."));
            }
        }
    }
}
