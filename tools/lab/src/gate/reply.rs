//! An answer before it is given to hyper: a status, headers, and a body whose every byte is known.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;

use crate::service::Payload;
use crate::wire::Outgoing;

const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");

#[derive(Debug, Default)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) slices: Vec<Bytes>,
}

impl Reply {
    /// What s3s answers; `None` if its body fails.
    pub(super) async fn collect(response: s3s::HttpResponse) -> Option<Self> {
        let (mut parts, body) = response.into_parts();
        let slices = match parts.extensions.remove::<Payload>() {
            Some(Payload(slices)) => slices,
            None => match body.bytes() {
                Some(bytes) => vec![bytes],
                None => vec![body.collect().await.ok()?.to_bytes()],
            },
        };
        Some(Self { status: parts.status, headers: parts.headers, slices })
    }

    /// An error as S3 writes it.
    pub(super) fn error(code: u16, error_code: &str, retry_after: Option<u64>) -> Self {
        let message = format!("<Message>{error_code}, as ordered of the lab</Message>");
        let mut reply = Self::xml(code, error_code, &message);
        if let Some(seconds) = retry_after {
            reply.headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        reply
    }

    /// A redirect to `location`.
    pub(super) fn redirect(code: u16, location: &str) -> Self {
        let error_code = if code == 307 { "TemporaryRedirect" } else { "PermanentRedirect" };
        let mut reply = Self::xml(code, error_code, "");
        reply.headers.extend(HeaderValue::from_str(location).ok().map(|value| (LOCATION, value)));
        reply
    }

    /// The refusal of a request that is signed for another region.
    pub(super) fn wrong_region(signed: &str, region: &str, in_query: bool) -> Self {
        let signed: String =
            signed.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let (error_code, malformed) = if in_query {
            ("AuthorizationQueryParametersError", "Error parsing the X-Amz-Credential parameter")
        } else {
            ("AuthorizationHeaderMalformed", "The authorization header is malformed")
        };
        let details = format!(
            "<Message>{malformed}; the region '{signed}' is wrong; expecting '{region}'</Message>\
             <Region>{region}</Region>"
        );
        let mut reply = Self::xml(400, error_code, &details);
        reply
            .headers
            .extend(HeaderValue::from_str(region).ok().map(|value| (BUCKET_REGION, value)));
        reply
    }

    fn xml(code: u16, error_code: &str, details: &str) -> Self {
        let body = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Error><Code>{error_code}</Code>{details}</Error>"
        );
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, headers, slices: vec![body.into()] }
    }

    /// Length of the body.
    pub(super) fn body_bytes(&self) -> u64 {
        self.slices.iter().map(|slice| slice.len() as u64).sum()
    }

    /// The answer for hyper; tells `outgoing` how long its body is.
    pub(super) fn into_response(
        self,
        head_only: bool,
        outgoing: &mut Outgoing,
    ) -> Response<ReplyBody> {
        let length = self.body_bytes();
        let bodiless = matches!(self.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut response = Response::new(ReplyBody::default());
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        let headers = response.headers_mut();
        headers.remove(TRANSFER_ENCODING);
        if head_only || bodiless {
            if bodiless {
                headers.remove(CONTENT_LENGTH);
            }
            return response;
        }
        if outgoing.until_close {
            headers.remove(CONTENT_LENGTH);
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        } else {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        }
        outgoing.body_bytes = length;
        *response.body_mut() = ReplyBody {
            slices: self.slices.into_iter(),
            left: length,
            unsized_: outgoing.until_close,
        };
        response
    }
}

/// The error code that S3 gives with a status.
pub(super) fn error_code(status: u16) -> &'static str {
    match status {
        400 => "BadRequest",
        401 | 403 => "AccessDenied",
        404 => "NoSuchKey",
        405 => "MethodNotAllowed",
        408 => "RequestTimeout",
        409 => "OperationAborted",
        412 => "PreconditionFailed",
        416 => "InvalidRange",
        429 => "TooManyRequests",
        501 => "NotImplemented",
        503 => "SlowDown",
        _ => "InternalError",
    }
}

/// A body made of shared slices.
#[derive(Debug, Default)]
pub(crate) struct ReplyBody {
    slices: std::vec::IntoIter<Bytes>,
    left: u64,
    /// Whether hyper is not to know the length.
    unsized_: bool,
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        loop {
            match self.slices.next() {
                None => return Poll::Ready(None),
                Some(slice) if slice.is_empty() => {}
                Some(slice) => {
                    self.left -= slice.len() as u64;
                    return Poll::Ready(Some(Ok(Frame::data(slice))));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0 && !self.unsized_
    }

    fn size_hint(&self) -> SizeHint {
        if self.unsized_ { SizeHint::default() } else { SizeHint::with_exact(self.left) }
    }
}
