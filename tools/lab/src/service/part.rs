//! Which part of an object a request is for.

use http::header::{CONTENT_RANGE, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue};
use s3s::dto::Range;
use s3s::{S3Result, s3_error};

use super::Directive;
use crate::storage::Object;

/// Bytes `start..end` of an object.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) start: u64,
    pub(super) end: u64,
    /// The `Content-Range` header, if a range was asked for.
    pub(super) header: Option<String>,
}

impl Part {
    pub(super) fn of(
        object: &Object,
        range: Option<Range>,
        directive: Directive,
    ) -> S3Result<Self> {
        let size = object.content.len_bytes();
        let Some(range) = range.filter(|_| !directive.ignore_range) else {
            return Ok(Self { start: 0, end: size, header: None });
        };
        let Some(range) = range.check(size).ok().filter(|range| !range.is_empty()) else {
            let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
            let header = HeaderValue::from_str(&format!("bytes */{size}"));
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
            headers.extend(header.ok().map(|header| (CONTENT_RANGE, header)));
            error.set_headers(headers);
            return Err(error);
        };
        let (mut start, mut end) = (range.start, range.end);
        if directive.shift_range {
            (start, end) = if end < size {
                (start + 1, end + 1)
            } else {
                (start.saturating_sub(1), (end - 1).max(1))
            };
        }
        let header = Some(format!("bytes {start}-{}/{size}", end - 1));
        Ok(Self { start, end, header })
    }
}
