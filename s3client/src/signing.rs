//! From what is asked to a signed request.
//!
//! The signature (SigV4) stands in the query of the address, so the address of a request is a
//! secret: it is never logged. `Range` and `If-Match` are sent as headers and are not signed.
//!
//! Invariant: time is an argument.

use std::time::Duration;

use http::header::{HOST, HeaderName, HeaderValue, IF_MATCH, PROXY_AUTHORIZATION, RANGE};
use http::uri::PathAndQuery;
use http::{Method, Request, Uri};
use http_body_util::Empty;
use jiff::Timestamp;
use rusty_s3::S3Action;
use rusty_s3::actions::{GetObject, HeadObject, ListObjectsV2};
use tenderfs_byterange::ByteRange;

use crate::addressing::Place;
use crate::checksum;
use crate::counters::Operation;
use crate::customer_key::CustomerKey;
use crate::error::{AnswerFault, Error};
use crate::listing::ListRequest;
use crate::proxies::Proxy;

/// How long a signature is good for. A request is sent at once; the rest allows for clocks apart.
const SIGNATURE_VALID: Duration = Duration::from_mins(15);

/// The body of every request so far: none.
pub(crate) type NoBody = Empty<bytes::Bytes>;

/// One request, before it is signed.
#[derive(Debug, Clone)]
pub(crate) enum Ask<'a> {
    /// One page of a listing.
    List(&'a ListRequest),
    /// The facts of one object.
    Head {
        /// The object.
        key: &'a str,
    },
    /// Bytes of one object.
    Get {
        /// The object.
        key: &'a str,
        /// The version; empty for any.
        etag: &'a str,
        /// The bytes.
        range: ByteRange,
        /// Whether they are the whole object, so that its checksum is of use.
        is_whole: bool,
    },
}

impl Ask<'_> {
    /// What it is counted as.
    pub(crate) fn operation(&self) -> Operation {
        match self {
            Self::List(_) => Operation::List,
            Self::Head { .. } => Operation::Head,
            Self::Get { .. } => Operation::Get,
        }
    }

    /// The key or prefix asked for, for messages.
    pub(crate) fn target(&self) -> &str {
        match self {
            Self::List(request) => &request.prefix,
            Self::Head { key } | Self::Get { key, .. } => key,
        }
    }
}

/// Who pays for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Payer {
    /// The bucket's owner.
    Owner,
    /// Whoever asks.
    Requester,
}

/// On which terms requests are made.
#[derive(Debug, Clone)]
pub(crate) struct Terms {
    /// Who pays.
    pub(crate) payer: Payer,
    /// The account that must own the bucket.
    pub(crate) expected_owner: Option<String>,
    /// The key of objects that were written with one.
    pub(crate) customer_key: Option<CustomerKey>,
}

impl Terms {
    /// The headers of S3's own that go with `ask`. S3 refuses those that are not signed.
    fn headers(&self, ask: &Ask<'_>) -> Vec<(&'static str, &str)> {
        let mut headers = Vec::new();
        if let Some(owner) = &self.expected_owner {
            headers.push(("x-amz-expected-bucket-owner", owner.as_str()));
        }
        if let (Some(key), Ask::Head { .. } | Ask::Get { .. }) = (&self.customer_key, ask) {
            headers.extend(key.headers());
        }
        if let Ask::Get { is_whole: true, .. } = ask {
            headers.push((checksum::MODE_HEADER, checksum::MODE_ENABLED));
        }
        headers
    }
}

/// `ask` as a request to `place`, signed with `keys` (`None`: anonymous) at `now`.
pub(crate) fn signed(
    ask: &Ask<'_>,
    place: &Place,
    keys: Option<&rusty_s3::Credentials>,
    terms: &Terms,
    now: Timestamp,
) -> Result<Request<NoBody>, Error> {
    let bucket = place.bucket();
    let headers = terms.headers(ask);
    let signing = Signing { payer: terms.payer, headers: &headers, now };
    let (method, url) = match ask {
        Ask::List(request) => (Method::GET, signing.sign(list(request, bucket, keys))),
        Ask::Head { key } => {
            place.object_url(key)?;
            (Method::HEAD, signing.sign(HeadObject::new(bucket, keys, key)))
        }
        Ask::Get { key, .. } => {
            place.object_url(key)?;
            (Method::GET, signing.sign(GetObject::new(bucket, keys, key)))
        }
    };
    let mut request = Request::new(NoBody::new());
    *request.method_mut() = method;
    *request.uri_mut() = path_and_query(&url, ask)?;
    let mut put = |name: HeaderName, value: &str| match HeaderValue::from_str(value) {
        Ok(value) => {
            request.headers_mut().insert(name, value);
            Ok(())
        }
        Err(_) => Err(Error::wrong(AnswerFault::Header { name: "ETag" })),
    };
    put(HOST, place.authority())?;
    for (name, value) in &headers {
        put(HeaderName::from_static(name), value)?;
    }
    if let Ask::Get { etag, range, .. } = ask {
        put(RANGE, &format!("bytes={}-{}", range.start(), range.last()))?;
        if can_match(etag) {
            put(IF_MATCH, etag)?;
        }
    }
    Ok(request)
}

/// Turns `request` into one that `proxy` passes on to `place`.
pub(crate) fn by_proxy(
    request: &mut Request<NoBody>,
    place: &Place,
    proxy: &Proxy,
) -> Result<(), Error> {
    let mut parts = std::mem::take(request.uri_mut()).into_parts();
    parts.scheme = Some(http::uri::Scheme::HTTP);
    parts.authority = place.authority().parse().ok();
    *request.uri_mut() =
        Uri::from_parts(parts).map_err(|_| Error::wrong(AnswerFault::Header { name: "Host" }))?;
    if let Some(authorization) = &proxy.authorization {
        request.headers_mut().insert(PROXY_AUTHORIZATION, authorization.clone());
    }
    Ok(())
}

/// Whether `If-Match` can name `etag`: a weak one never matches (RFC 9110, 13.1.1).
fn can_match(etag: &str) -> bool {
    !etag.is_empty() && !etag.starts_with("W/")
}

fn list<'a>(
    request: &'a ListRequest,
    bucket: &'a rusty_s3::Bucket,
    keys: Option<&'a rusty_s3::Credentials>,
) -> ListObjectsV2<'a> {
    let mut list = ListObjectsV2::new(bucket, keys);
    list.with_prefix(request.prefix.as_str());
    if request.delimiter {
        list.with_delimiter("/");
    }
    if let Some(key) = &request.start_after {
        list.with_start_after(key.as_str());
    }
    if let Some(token) = &request.continuation {
        list.with_continuation_token(token.as_str());
    }
    if let Some(max) = request.keys_max {
        list.with_max_keys(usize::from(max));
    }
    list
}

/// How a request is signed.
struct Signing<'h> {
    payer: Payer,
    headers: &'h [(&'static str, &'h str)],
    now: Timestamp,
}

impl<'h> Signing<'h> {
    fn sign(&self, mut action: impl S3Action<'h>) -> url::Url {
        if self.payer == Payer::Requester {
            action.query_mut().insert("x-amz-request-payer", "requester");
        }
        for (name, value) in self.headers {
            action.headers_mut().insert(*name, *value);
        }
        action.sign_with_time(SIGNATURE_VALID, &self.now)
    }
}

/// The part of `url` that an HTTP/1 request line carries.
fn path_and_query(url: &url::Url, ask: &Ask<'_>) -> Result<Uri, Error> {
    let text = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    // Only a continuation token, which the store chose, can be so long (64 KiB) that this fails.
    PathAndQuery::try_from(text).map(Uri::from).map_err(|_| match ask {
        Ask::List(_) => Error::wrong(AnswerFault::Continuation { reason: "its token is too long" }),
        Ask::Head { key } | Ask::Get { key, .. } => Error::KeyUnusable { key: (*key).to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use url::Url;

    use super::*;
    use crate::addressing::{Addressing, AwsEndpoint};

    fn place() -> Place {
        let endpoint = Url::parse("http://127.0.0.1:9000").unwrap();
        Place::new("data", "us-east-1", Some(&endpoint), Addressing::Auto, AwsEndpoint::default())
            .unwrap()
    }

    fn keys() -> rusty_s3::Credentials {
        rusty_s3::Credentials::new_with_token("key", "secret", "session")
    }

    fn terms(payer: Payer) -> Terms {
        Terms { payer, expected_owner: None, customer_key: None }
    }

    fn range() -> ByteRange {
        ByteRange::new(10, 20).unwrap()
    }

    fn now() -> Timestamp {
        Timestamp::from_second(1_369_353_600).unwrap()
    }

    #[test]
    fn a_get_names_its_version_and_its_bytes() {
        let ask = Ask::Get { key: "a b", etag: "\"e\"", range: range(), is_whole: false };
        let request =
            signed(&ask, &place(), Some(&keys()), &terms(Payer::Requester), now()).unwrap();
        assert_eq!(request.method(), Method::GET);
        assert_eq!(request.uri().path(), "/data/a%20b");
        assert_eq!(request.headers()[HOST], "127.0.0.1:9000");
        assert_eq!(request.headers()[RANGE], "bytes=10-19");
        assert_eq!(request.headers()[IF_MATCH], "\"e\"");
        let query = request.uri().query().unwrap();
        for part in [
            "X-Amz-Date=20130524T000000Z",
            "X-Amz-Security-Token=session",
            "X-Amz-SignedHeaders=host",
            "x-amz-request-payer=requester",
            "X-Amz-Signature=",
        ] {
            assert!(query.contains(part), "{part} in {query}");
        }
        assert!(!query.contains("secret"));
    }

    #[test]
    fn with_the_whole_object_its_checksum_is_asked_for() {
        let ask = Ask::Get { key: "a", etag: "", range: range(), is_whole: true };
        let request = signed(&ask, &place(), Some(&keys()), &terms(Payer::Owner), now()).unwrap();
        assert_eq!(request.headers()["x-amz-checksum-mode"], "ENABLED");
        let query = request.uri().query().unwrap();
        assert!(query.contains("X-Amz-SignedHeaders=host%3Bx-amz-checksum-mode"), "{query}");
    }

    #[test]
    fn the_owner_that_is_expected_is_named_and_signed_with_every_request() {
        let owner = Some("123456789012".to_owned());
        let terms = Terms { expected_owner: owner, ..terms(Payer::Owner) };
        let list = ListRequest::default();
        let range = range();
        for ask in [
            Ask::List(&list),
            Ask::Head { key: "a" },
            Ask::Get { key: "a", etag: "", range, is_whole: false },
        ] {
            let request = signed(&ask, &place(), Some(&keys()), &terms, now()).unwrap();
            assert_eq!(request.headers()["x-amz-expected-bucket-owner"], "123456789012");
            let query = request.uri().query().unwrap();
            assert!(query.contains("SignedHeaders=host%3Bx-amz-expected-bucket-owner"), "{query}");
        }
    }

    #[test]
    fn an_anonymous_request_is_not_signed() {
        let ask = Ask::Get { key: "a", etag: "", range: range(), is_whole: false };
        let request = signed(&ask, &place(), None, &terms(Payer::Owner), now()).unwrap();
        assert_eq!(request.uri(), "/data/a");
        assert!(!request.headers().contains_key(IF_MATCH));
    }

    #[test]
    fn a_weak_etag_is_not_asked_for_as_it_would_never_match() {
        let ask = Ask::Get { key: "a", etag: "W/\"e\"", range: range(), is_whole: false };
        let request = signed(&ask, &place(), None, &terms(Payer::Owner), now()).unwrap();
        assert!(!request.headers().contains_key(IF_MATCH));
    }

    #[test]
    fn a_listing_carries_all_that_was_asked() {
        let list = ListRequest {
            prefix: "a b/".into(),
            delimiter: true,
            start_after: Some("a b/+".into()),
            continuation: Some("t/k=".into()),
            keys_max: Some(7),
        };
        let request =
            signed(&Ask::List(&list), &place(), None, &terms(Payer::Owner), now()).unwrap();
        assert_eq!(
            request.uri(),
            "/data/?continuation-token=t%2Fk%3D&delimiter=%2F&encoding-type=url&list-type=2\
             &max-keys=7&prefix=a%20b%2F&start-after=a%20b%2F%2B"
        );
    }

    #[test]
    fn a_token_that_no_request_can_carry_is_the_stores_fault() {
        let list = ListRequest { continuation: Some("x".repeat(70_000)), ..Default::default() };
        let error =
            signed(&Ask::List(&list), &place(), None, &terms(Payer::Owner), now()).unwrap_err();
        assert!(matches!(error, Error::WrongAnswer { .. }), "{error}");
    }

    #[test]
    fn a_key_that_would_reach_another_object_is_not_signed() {
        let ask = Ask::Head { key: "../x" };
        let error = signed(&ask, &place(), None, &terms(Payer::Owner), now()).unwrap_err();
        assert!(matches!(error, Error::KeyUnusable { .. }), "{error}");
    }
}
