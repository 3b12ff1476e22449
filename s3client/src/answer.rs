//! Whether an answer is the one to what was asked.
//!
//! A store, or something between it and us, may send other bytes than those asked for. Whatever
//! the head of an answer says is held against the request before a byte of the body is believed.
//!
//! Invariant: decides only.

use std::time::SystemTime;

use http::header::{CONTENT_LENGTH, CONTENT_RANGE, ETAG, LAST_MODIFIED};
use http::{HeaderMap, StatusCode};
use tenderfs_byterange::ByteRange;

use crate::error::{AnswerFault, Error};
use crate::listing::ListedObject;

/// Bytes that are thrown away at most when a store sends the whole object instead of a part of it.
const SKIP_BYTES_MAX: u64 = 16 << 20;

/// A GET, as its answer is checked.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) key: &'a str,
    /// The version; empty for any.
    pub(crate) etag: &'a str,
    pub(crate) range: ByteRange,
    pub(crate) object_size_bytes: u64,
}

/// What to make of the body of a GET.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Accepted {
    /// Bytes to throw away before those asked for.
    pub(crate) skip_bytes: u64,
    /// How the body ends.
    pub(crate) ending: Ending,
    /// The version sent; empty if the store did not say.
    pub(crate) etag: String,
}

/// How a body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the last byte asked for, as its head announces.
    Announced,
    /// With the last byte asked for, which only its end proves.
    Unannounced,
    /// Some time behind the last byte asked for.
    Beyond,
}

/// Checks the head of a successful answer to a GET.
pub(crate) fn check_get(
    asked: &Asked<'_>,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<Accepted, Error> {
    let etag = version(asked, headers)?;
    let announced_bytes = content_length(headers)?;
    match status {
        StatusCode::PARTIAL_CONTENT => check_range(asked, headers)?,
        StatusCode::OK => return whole(asked, announced_bytes, etag),
        _ => return Err(Error::wrong(AnswerFault::Status { status: status.as_u16() })),
    }
    let expected_bytes = asked.range.len_bytes();
    let ending = match announced_bytes {
        None => Ending::Unannounced,
        Some(got_bytes) if got_bytes == expected_bytes => Ending::Announced,
        Some(got_bytes) => {
            return Err(Error::wrong(AnswerFault::Length { expected_bytes, got_bytes }));
        }
    };
    Ok(Accepted { skip_bytes: 0, ending, etag })
}

/// The version sent, which must be the one asked for.
fn version(asked: &Asked<'_>, headers: &HeaderMap) -> Result<String, Error> {
    let etag = headers.get(ETAG).map(|value| value.to_str().unwrap_or("")).map(quoted);
    match etag {
        Some(etag) if asked.etag.is_empty() || etag == quoted(asked.etag) => Ok(etag),
        None if asked.etag.is_empty() => Ok(String::new()),
        None => Err(Error::wrong(AnswerFault::Header { name: "ETag" })),
        Some(_) => Err(Error::Replaced { key: asked.key.to_owned(), etag: asked.etag.to_owned() }),
    }
}

/// Checks that `Content-Range` names the bytes asked for, of an object of the known size.
fn check_range(asked: &Asked<'_>, headers: &HeaderMap) -> Result<(), Error> {
    let value = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let (got, total) = value
        .and_then(content_range)
        .ok_or_else(|| Error::wrong(AnswerFault::Header { name: "Content-Range" }))?;
    if total != asked.object_size_bytes {
        let expected = asked.object_size_bytes;
        return Err(Error::wrong(AnswerFault::ObjectSize { expected, got: total }));
    }
    if got != asked.range {
        return Err(Error::wrong(AnswerFault::Range { asked: asked.range, got }));
    }
    Ok(())
}

/// The whole object came: the part asked for can be cut out if all of it was announced and little
/// has to be thrown away.
fn whole(asked: &Asked<'_>, announced: Option<u64>, etag: String) -> Result<Accepted, Error> {
    let expected_bytes = asked.object_size_bytes;
    match announced {
        Some(got_bytes) if got_bytes == expected_bytes => {}
        Some(got_bytes) => {
            return Err(Error::wrong(AnswerFault::Length { expected_bytes, got_bytes }));
        }
        None => return Err(Error::wrong(AnswerFault::Header { name: "Content-Length" })),
    }
    let skip_bytes = asked.range.start();
    if skip_bytes > SKIP_BYTES_MAX {
        return Err(Error::wrong(AnswerFault::NotPartial { skip_bytes }));
    }
    let to_the_end = asked.range.end() == asked.object_size_bytes;
    let ending = if to_the_end { Ending::Announced } else { Ending::Beyond };
    Ok(Accepted { skip_bytes, ending, etag })
}

/// What the head of a successful answer to a HEAD says of the object `key`.
pub(crate) fn read_head(
    key: &str,
    status: StatusCode,
    headers: &HeaderMap,
) -> Result<ListedObject, Error> {
    if status != StatusCode::OK {
        return Err(Error::wrong(AnswerFault::Status { status: status.as_u16() }));
    }
    let text = |name| headers.get(name).and_then(|value: &http::HeaderValue| value.to_str().ok());
    let size_bytes = content_length(headers)?
        .ok_or_else(|| Error::wrong(AnswerFault::Header { name: "Content-Length" }))?;
    Ok(ListedObject {
        key: key.to_owned(),
        etag: text(ETAG.as_str()).map(quoted).unwrap_or_default(),
        size_bytes,
        modified: text(LAST_MODIFIED.as_str())
            .and_then(http_date)
            .unwrap_or(SystemTime::UNIX_EPOCH),
        storage_class: text("x-amz-storage-class").map(str::to_owned),
    })
}

/// The announced length; an error if it is announced but unreadable.
fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    match value.to_str().ok().and_then(|text| text.trim().parse().ok()) {
        Some(length) => Ok(Some(length)),
        None => Err(Error::wrong(AnswerFault::Header { name: "Content-Length" })),
    }
}

/// `bytes first-last/total` as a range and a total.
fn content_range(text: &str) -> Option<(ByteRange, u64)> {
    let (range, total) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.trim().split_once('-')?;
    let end = last.trim().parse::<u64>().ok()?.checked_add(1)?;
    let range = ByteRange::new(first.trim().parse().ok()?, end)?;
    Some((range, total.trim().parse().ok()?))
}

/// A date as HTTP writes it.
fn http_date(text: &str) -> Option<SystemTime> {
    jiff::fmt::rfc2822::parse(text).ok().map(|at| at.timestamp().into())
}

/// `etag` in its quotes: some stores leave them out in listings or in headers, and one version must
/// have one name. Empty stays empty.
pub(crate) fn quoted(etag: &str) -> String {
    let etag = etag.trim();
    if etag.is_empty() || etag.ends_with('"') && (etag.starts_with('"') || etag.starts_with("W/")) {
        etag.to_owned()
    } else {
        format!("\"{etag}\"")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderName;
    use proptest::prelude::*;

    use super::*;

    fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (HeaderName::try_from(*name).unwrap(), value.parse::<http::HeaderValue>().unwrap())
            })
            .collect()
    }

    fn asked() -> Asked<'static> {
        let range = ByteRange::new(10, 20).unwrap();
        Asked { key: "k", etag: "\"e\"", range, object_size_bytes: 100 }
    }

    fn get(status: u16, pairs: &[(&str, &str)]) -> Result<Accepted, Error> {
        check_get(&asked(), StatusCode::from_u16(status).unwrap(), &headers(pairs))
    }

    #[track_caller]
    fn check_fault(status: u16, pairs: &[(&str, &str)], expected: &AnswerFault) {
        match get(status, pairs) {
            Err(Error::WrongAnswer { fault }) => assert_eq!(&fault, expected),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn exactly_what_was_asked_is_accepted() {
        let head =
            [("etag", "\"e\""), ("content-range", "bytes 10-19/100"), ("content-length", "10")];
        let accepted = get(206, &head).unwrap();
        assert_eq!((accepted.skip_bytes, accepted.ending), (0, Ending::Announced));
        assert_eq!(get(206, &head[..2]).unwrap().ending, Ending::Unannounced);
    }

    #[test]
    fn another_version_is_another_object() {
        let range = ("content-range", "bytes 10-19/100");
        assert!(matches!(get(206, &[("etag", "\"f\""), range]), Err(Error::Replaced { .. })));
        assert!(get(206, &[("etag", "e"), range]).is_ok(), "only the quotes are missing");
        check_fault(206, &[range], &AnswerFault::Header { name: "ETag" });
    }

    #[test]
    fn other_bytes_are_refused() {
        let etag = ("etag", "\"e\"");
        for (value, got) in [
            ("bytes 0-9/100", (0, 10)),
            ("bytes 10-18/100", (10, 19)),
            ("bytes 10-20/100", (10, 21)),
        ] {
            let got = ByteRange::new(got.0, got.1).unwrap();
            let fault = AnswerFault::Range { asked: asked().range, got };
            check_fault(206, &[etag, ("content-range", value)], &fault);
        }
        let fault = AnswerFault::ObjectSize { expected: 100, got: 101 };
        check_fault(206, &[etag, ("content-range", "bytes 10-19/101")], &fault);
        let fault = AnswerFault::Header { name: "Content-Range" };
        for value in ["", "bytes */100", "bytes 10-19/*", "bytes 19-10/100", "10-19/100", "bytes a"]
        {
            check_fault(206, &[etag, ("content-range", value)], &fault);
        }
        check_fault(206, &[etag], &fault);
    }

    #[test]
    fn another_length_is_refused() {
        let head =
            [("etag", "\"e\""), ("content-range", "bytes 10-19/100"), ("content-length", "9")];
        let fault = AnswerFault::Length { expected_bytes: 10, got_bytes: 9 };
        check_fault(206, &head, &fault);
    }

    #[test]
    fn the_part_is_cut_out_of_the_whole_object() {
        let accepted = get(200, &[("etag", "\"e\""), ("content-length", "100")]).unwrap();
        assert_eq!((accepted.skip_bytes, accepted.ending), (10, Ending::Beyond));
        let fault = AnswerFault::Length { expected_bytes: 100, got_bytes: 10 };
        check_fault(200, &[("etag", "\"e\""), ("content-length", "10")], &fault);
        check_fault(200, &[("etag", "\"e\"")], &AnswerFault::Header { name: "Content-Length" });
    }

    #[test]
    fn a_part_far_into_the_whole_object_is_not_waited_for() {
        let size = 1 << 40;
        let range = ByteRange::new(size - 1, size).unwrap();
        let asked = Asked { key: "k", etag: "", range, object_size_bytes: size };
        let head = headers(&[("content-length", "1099511627776")]);
        assert!(matches!(
            check_get(&asked, StatusCode::OK, &head),
            Err(Error::WrongAnswer { fault: AnswerFault::NotPartial { .. } })
        ));
    }

    #[test]
    fn another_status_is_no_answer() {
        check_fault(204, &[("etag", "\"e\"")], &AnswerFault::Status { status: 204 });
    }

    #[test]
    fn a_head_says_what_the_object_is() {
        let head = headers(&[
            ("content-length", "7"),
            ("etag", "abc"),
            ("last-modified", "Wed, 21 Oct 2015 07:28:00 GMT"),
            ("x-amz-storage-class", "GLACIER"),
        ]);
        let object = read_head("k", StatusCode::OK, &head).unwrap();
        assert_eq!(object.size_bytes, 7);
        assert_eq!(object.etag, "\"abc\"");
        assert_eq!(object.modified, SystemTime::UNIX_EPOCH + Duration::from_mins(24_090_208));
        assert_eq!(object.storage_class.as_deref(), Some("GLACIER"));
    }

    #[test]
    fn a_head_without_a_size_is_wrong() {
        let head = headers(&[("etag", "\"abc\"")]);
        assert!(matches!(
            read_head("k", StatusCode::OK, &head),
            Err(Error::WrongAnswer { fault: AnswerFault::Header { name: "Content-Length" } })
        ));
    }

    proptest! {
        #[test]
        fn no_content_range_is_accepted_but_the_one_asked_for(text in "bytes [0-9]{1,3}-[0-9]{1,3}/[0-9*]{1,4}") {
            let head = [("etag", "\"e\""), ("content-range", text.as_str())];
            prop_assert_eq!(get(206, &head).is_ok(), text == "bytes 10-19/100"
                || content_range(&text) == Some((asked().range, 100)));
        }
    }
}
