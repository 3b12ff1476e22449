//! Which stores are reached by a proxy, by the rules of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`.
//!
//! A store on this machine never is: what stands for it elsewhere is not what was meant.

use std::fmt;
use std::sync::Arc;

use http::{HeaderValue, Uri};
use hyper_util::client::proxy::matcher::Matcher;
use url::Url;

use crate::addressing::Place;
use crate::error::ConfigError;

/// Rules that say which proxy leads to a store.
#[derive(Clone)]
pub struct Proxies {
    matcher: Arc<Matcher>,
}

impl Proxies {
    /// No store is reached by a proxy.
    pub fn none() -> Self {
        Self::new("", "", "")
    }

    /// The rules of the process's environment.
    pub fn from_environment() -> Self {
        Self { matcher: Arc::new(Matcher::from_env()) }
    }

    /// The rules that these values of `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` would make.
    pub fn new(http: &str, https: &str, except: &str) -> Self {
        let matcher = Matcher::builder()
            .http(http.to_owned())
            .https(https.to_owned())
            .no(except.to_owned())
            .build();
        Self { matcher: Arc::new(matcher) }
    }

    /// The proxy that leads to `place`, if there is one.
    pub(crate) fn of(&self, place: &Place) -> Result<Option<Proxy>, ConfigError> {
        let is_here = match place.host() {
            Ok(name) => name == "localhost" || name.ends_with(".localhost"),
            Err(address) => address.is_loopback(),
        };
        if is_here {
            return Ok(None);
        }
        let Ok(uri) = place.label().parse::<Uri>() else { return Ok(None) };
        let Some(found) = self.matcher.intercept(&uri) else { return Ok(None) };
        let unusable = |reason| ConfigError::Proxy { proxy: shown(found.uri()), reason };
        if found.uri().scheme_str() != Some("http") {
            return Err(unusable("only proxies of http:// are spoken to"));
        }
        let url = Url::parse(&found.uri().to_string()).ok();
        let host = url.as_ref().and_then(|url| Some(url.host()?.to_owned()));
        let Some(host) = host else { return Err(unusable("it names no host")) };
        Ok(Some(Proxy {
            host,
            port: found.uri().port_u16().unwrap_or(80),
            authorization: found.basic_auth().cloned(),
        }))
    }
}

impl Default for Proxies {
    fn default() -> Self {
        Self::none()
    }
}

impl fmt::Debug for Proxies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A proxy's address may hold a password.
        f.write_str("Proxies(***)")
    }
}

/// `uri` without user and password.
fn shown(uri: &Uri) -> String {
    let host = uri.host().unwrap_or_default();
    format!("{}://{host}", uri.scheme_str().unwrap_or_default())
}

/// A proxy on the way to a store.
#[derive(Clone)]
pub(crate) struct Proxy {
    host: url::Host<String>,
    port: u16,
    /// What proves who asks.
    pub(crate) authorization: Option<HeaderValue>,
}

impl Proxy {
    /// The proxy's host.
    pub(crate) fn host(&self) -> &url::Host<String> {
        &self.host
    }

    /// The port to connect to.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// `http://host:port`, for messages.
    pub(crate) fn label(&self) -> String {
        format!("http://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addressing::{Addressing, AwsEndpoint};

    const HTTP: &str = "http://user:hush@plain.example:3128";
    const HTTPS: &str = "http://secure.example";

    fn of(endpoint: &str, except: &str) -> Option<String> {
        let endpoint = Url::parse(endpoint).unwrap();
        let (aws, path) = (AwsEndpoint::default(), Addressing::Path);
        let place = Place::new("data", "us-east-1", Some(&endpoint), path, aws).unwrap();
        let proxy = Proxies::new(HTTP, HTTPS, except).of(&place).unwrap();
        proxy.map(|proxy| proxy.label())
    }

    #[test]
    fn a_store_is_reached_by_the_proxy_of_its_scheme_unless_it_is_excepted() {
        let (plain, secure) = ("http://plain.example:3128", "http://secure.example:80");
        for (endpoint, except, expected) in [
            ("http://store.corp:9000", "", Some(plain)),
            ("https://store.corp", "", Some(secure)),
            ("https://s3.eu-west-1.amazonaws.com", "", Some(secure)),
            ("http://store.corp", "store.corp", None),
            ("http://store.corp", "other.corp, .corp", None),
            ("http://store.corp", "corp", None),
            ("http://store.corp", "tore.corp", Some(plain)),
            ("http://store.corp", "*", None),
            ("http://10.1.2.3", "10.0.0.0/8", None),
            ("http://11.1.2.3", "10.0.0.0/8", Some(plain)),
            ("http://10.1.2.3", "10.1.2.3", None),
            ("http://127.0.0.1:9000", "", None),
            ("http://[::1]:9000", "", None),
            ("https://localhost", "", None),
        ] {
            assert_eq!(of(endpoint, except).as_deref(), expected, "{endpoint} except {except:?}");
        }
    }

    #[test]
    fn no_password_of_a_proxy_is_printed() {
        let proxies = Proxies::new(HTTP, HTTPS, "");
        assert!(!format!("{proxies:?}").contains("hush"));
        let endpoint = Url::parse("http://store.corp").unwrap();
        let aws = AwsEndpoint::default();
        let place = Place::new("data", "r", Some(&endpoint), Addressing::Path, aws).unwrap();
        let proxy = proxies.of(&place).unwrap().unwrap();
        assert!(!format!("{proxy:?}").contains("hush"));
        assert_eq!(proxy.authorization.unwrap(), "Basic dXNlcjpodXNo");
        let socks = Proxies::new("socks5://user:hush@socks.example", "", "");
        let error = socks.of(&place).unwrap_err().to_string();
        assert!(error.contains("socks5://socks.example") && !error.contains("hush"), "{error}");
    }
}
