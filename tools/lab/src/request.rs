//! What a request asks for, read from its line and headers without trusting either.
//!
//! s3s reads the request too, and decides what is done; what is found here serves the ledger and the
//! faults, which also see requests that s3s refuses.

use std::sync::Arc;

use http::header::{HOST, RANGE};
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};

/// An operation of S3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// GET of an object.
    Get,
    /// HEAD of an object.
    Head,
    /// PUT of an object.
    Put,
    /// PUT of an object from another one.
    Copy,
    /// DELETE of an object.
    Delete,
    /// DELETE of many objects by POST.
    DeleteMany,
    /// Listing of a bucket's objects, of either version.
    List,
    /// Listing of all buckets.
    ListBuckets,
    /// HEAD of a bucket.
    HeadBucket,
    /// PUT of a bucket.
    CreateBucket,
    /// DELETE of a bucket.
    DeleteBucket,
    /// Start of a multipart upload.
    CreateUpload,
    /// PUT of one part, or copy into one.
    UploadPart,
    /// End of a multipart upload.
    CompleteUpload,
    /// Abandonment of a multipart upload.
    AbortUpload,
    /// Listing of an upload's parts.
    ListParts,
    /// Any other request.
    #[default]
    Other,
}

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Facts {
    pub(crate) operation: Operation,
    pub(crate) bucket: Arc<str>,
    pub(crate) key: Arc<str>,
    pub(crate) range: Option<(u64, u64)>,
}

impl Facts {
    /// Reads them; `domain` is what a host that carries a bucket's name ends with.
    pub(crate) fn of<B>(request: &http::Request<B>, domain: Option<&str>) -> Self {
        let path = request.uri().path();
        let path = path.strip_prefix('/').unwrap_or(path);
        let hosted = domain.and_then(|domain| bucket_of_host(request.headers(), domain));
        let (bucket, key) = match hosted {
            Some(bucket) => (bucket, path),
            None => path.split_once('/').unwrap_or((path, "")),
        };
        let query = Query(request.uri().query().unwrap_or(""));
        let operation = operation(request, &query, bucket, key);
        let key = match operation {
            Operation::List => query.value("prefix").map_or_else(|| "".into(), decode),
            _ => decode(key),
        };
        let range = range_of(request.headers());
        Self { operation, bucket: decode(bucket), key, range }
    }
}

/// The bucket in `bucket.domain[:port]`.
pub(crate) fn bucket_of_host<'a>(headers: &'a HeaderMap, domain: &str) -> Option<&'a str> {
    let host = headers.get(HOST)?.to_str().ok()?;
    strip_domain(host, domain)
}

/// What stands before `.domain` in `host`, whatever its port.
pub(crate) fn strip_domain<'a>(host: &'a str, domain: &str) -> Option<&'a str> {
    let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
    name.strip_suffix(domain)?.strip_suffix('.').filter(|bucket| !bucket.is_empty())
}

/// The region that the request's signature names, if it is signed.
pub(crate) fn signed_region<B>(request: &http::Request<B>) -> Option<String> {
    let header = request.headers().get(http::header::AUTHORIZATION);
    let credential = if let Some(header) = header.and_then(|value| value.to_str().ok()) {
        header.split_once("Credential=")?.1.split(',').next()?.to_owned()
    } else {
        let credential = Query(request.uri().query()?).value("X-Amz-Credential")?;
        percent_decode_str(credential).decode_utf8().ok()?.into_owned()
    };
    // key/date/region/service/aws4_request, where only the key may hold a slash.
    credential.rsplit('/').nth(2).map(str::to_owned)
}

/// The time that a request is signed for, as it says it: `20260102T030405Z`.
pub(crate) fn signed_time<B>(request: &http::Request<B>) -> Option<&str> {
    let header = request.headers().get("x-amz-date").and_then(|value| value.to_str().ok());
    header.or_else(|| Query(request.uri().query()?).value("X-Amz-Date"))
}

fn operation<B>(
    request: &http::Request<B>,
    query: &Query<'_>,
    bucket: &str,
    key: &str,
) -> Operation {
    use Operation as O;
    let headers = request.headers();
    let has = |name| query.value(name).is_some();
    let target = (bucket.is_empty(), key.is_empty());
    match (request.method(), target) {
        (&Method::GET, (true, _)) => O::ListBuckets,
        (&Method::GET, (_, true)) if query.is_listing() => O::List,
        (&Method::GET, (_, false)) if has("uploadId") => O::ListParts,
        (&Method::GET, (_, false)) if query.is_plain() => O::Get,
        (&Method::HEAD, (false, true)) => O::HeadBucket,
        (&Method::HEAD, (_, false)) => O::Head,
        (&Method::PUT, (false, true)) => O::CreateBucket,
        (&Method::PUT, (_, false)) if has("partNumber") => O::UploadPart,
        (&Method::PUT, (_, false)) if headers.contains_key("x-amz-copy-source") => O::Copy,
        (&Method::PUT, (_, false)) if query.is_plain() => O::Put,
        (&Method::DELETE, (false, true)) => O::DeleteBucket,
        (&Method::DELETE, (_, false)) if has("uploadId") => O::AbortUpload,
        (&Method::DELETE, (_, false)) => O::Delete,
        (&Method::POST, (_, true)) if has("delete") => O::DeleteMany,
        (&Method::POST, (_, false)) if has("uploads") => O::CreateUpload,
        (&Method::POST, (_, false)) if has("uploadId") => O::CompleteUpload,
        _ => O::Other,
    }
}

/// The query string.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn pairs(&self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let pairs = self.0.split('&').filter(|pair| !pair.is_empty());
        pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
    }

    fn value(&self, name: &str) -> Option<&'a str> {
        self.pairs().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// Whether it asks for no subresource, so that a GET of an object is one of its bytes.
    fn is_plain(&self) -> bool {
        const SUBRESOURCES: [&str; 7] =
            ["acl", "attributes", "legal-hold", "retention", "tagging", "torrent", "uploads"];
        self.pairs().all(|(name, _)| !SUBRESOURCES.contains(&name))
    }

    /// Whether a GET of a bucket with it lists objects.
    fn is_listing(&self) -> bool {
        const PARAMETERS: [&str; 9] = [
            "list-type",
            "prefix",
            "delimiter",
            "marker",
            "max-keys",
            "start-after",
            "continuation-token",
            "encoding-type",
            "fetch-owner",
        ];
        let mut pairs = self.pairs().filter(|(name, _)| {
            let name = name.to_ascii_lowercase();
            !name.starts_with("x-amz-") && name != "x-id"
        });
        pairs.all(|(name, _)| PARAMETERS.contains(&name))
    }
}

fn decode(text: &str) -> Arc<str> {
    percent_decode_str(text).decode_utf8_lossy().into()
}

fn range_of(headers: &HeaderMap) -> Option<(u64, u64)> {
    let range = headers.get(RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let (first, last) = range.split_once('-')?;
    let first = first.parse().ok()?;
    let end = if last.is_empty() { u64::MAX } else { last.parse::<u64>().ok()?.saturating_add(1) };
    Some((first, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, headers: &[(&str, &str)], expected: (Operation, &str, &str)) {
        let (method, uri) = line.split_once(' ').unwrap();
        let mut request = http::Request::builder().method(method).uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let facts = Facts::of(&request.body(()).unwrap(), Some("localhost"));
        assert_eq!((facts.operation, &*facts.bucket, &*facts.key), expected, "{line}");
    }

    #[test]
    fn requests_are_told_apart() {
        use Operation as O;
        check("GET /", &[], (O::ListBuckets, "", ""));
        check("GET /b", &[], (O::List, "b", ""));
        check("GET /b/?list-type=2&prefix=a%2Fb&X-Amz-Date=x", &[], (O::List, "b", "a/b"));
        check("GET /b?location", &[], (O::Other, "b", ""));
        check("GET /b/k%20%2F%00", &[], (O::Get, "b", "k /\0"));
        check("GET /b//k", &[], (O::Get, "b", "/k"));
        check("GET /b/k?partNumber=2&versionId=1", &[], (O::Get, "b", "k"));
        check("GET /b/k?tagging", &[], (O::Other, "b", "k"));
        check("GET /b/k?uploadId=1", &[], (O::ListParts, "b", "k"));
        check("HEAD /b", &[], (O::HeadBucket, "b", ""));
        check("HEAD /b/k", &[], (O::Head, "b", "k"));
        check("PUT /b", &[], (O::CreateBucket, "b", ""));
        check("PUT /b/k", &[], (O::Put, "b", "k"));
        check("PUT /b/k", &[("x-amz-copy-source", "/b/j")], (O::Copy, "b", "k"));
        check("PUT /b/k?partNumber=1&uploadId=1", &[], (O::UploadPart, "b", "k"));
        check("POST /b/k?uploads", &[], (O::CreateUpload, "b", "k"));
        check("POST /b/k?uploadId=1", &[], (O::CompleteUpload, "b", "k"));
        check("DELETE /b/k?uploadId=1", &[], (O::AbortUpload, "b", "k"));
        check("DELETE /b/k", &[], (O::Delete, "b", "k"));
        check("DELETE /b", &[], (O::DeleteBucket, "b", ""));
        check("POST /b?delete", &[], (O::DeleteMany, "b", ""));
        check("GET /k/l", &[("host", "b.localhost:99")], (O::Get, "b", "k/l"));
        check("GET /?list-type=2", &[("host", "b.localhost")], (O::List, "b", ""));
        check("GET /b/k", &[("host", "localhost:99")], (O::Get, "b", "k"));
    }

    #[test]
    fn ranges_are_half_open() {
        let range = |text: &str| {
            let request = http::Request::builder().uri("/b/k").header("range", text);
            Facts::of(&request.body(()).unwrap(), None).range
        };
        assert_eq!(range("bytes=0-0"), Some((0, 1)));
        assert_eq!(range("bytes=5-"), Some((5, u64::MAX)));
        assert_eq!(range("bytes=-5"), None);
        assert_eq!(range("lines=1-2"), None);
        assert_eq!(range("bytes=a-b"), None);
    }

    #[test]
    fn the_signed_region_is_found_in_either_place() {
        let request = http::Request::builder()
            .uri("/b/k?X-Amz-Credential=k%2Fy%2F20200101%2Feu-west-1%2Fs3%2Faws4_request");
        assert_eq!(signed_region(&request.body(()).unwrap()).as_deref(), Some("eu-west-1"));
        let header = "AWS4-HMAC-SHA256 Credential=key/20200101/eu-west-2/s3/aws4_request, SignedHeaders=host, Signature=x";
        let request = http::Request::builder().uri("/b/k").header("authorization", header);
        assert_eq!(signed_region(&request.body(()).unwrap()).as_deref(), Some("eu-west-2"));
        assert_eq!(signed_region(&http::Request::builder().uri("/b/k").body(()).unwrap()), None);
    }
}
