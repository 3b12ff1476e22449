//! From the store's refusal (a status and perhaps an XML body) to our error.
//!
//! The codes are those of "Error responses" in the Amazon S3 API reference.
//!
//! Invariant: decides only. The body is hostile input and at most 64 KiB long.

use std::time::Duration;

use http::header::{DATE, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use jiff::fmt::rfc2822;
use jiff::{SignedDuration, Timestamp};

use crate::addressing::Place;
use crate::counters::Operation;
use crate::error::Error;
use crate::signing::Ask;
use crate::xml::{self, Piece, Walk};

/// Longest wait that is believed of a `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_hours(1);
/// How far from the store's clock a signature may be.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(15);
/// Characters of the store's own words that are kept.
const MESSAGE_CHARS_MAX: usize = 300;

/// The parts of an S3 error body that matter.
#[derive(Debug, Default, PartialEq, Eq)]
struct Said {
    code: String,
    message: String,
    region: String,
    storage_class: String,
}

/// A request that was refused.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused<'a> {
    pub(crate) ask: &'a Ask<'a>,
    pub(crate) place: &'a Place,
    /// The time by the store's clock that the request was signed for.
    pub(crate) signed_at: Timestamp,
}

/// The error that a refusal with `status`, `headers` and `body` means.
pub(crate) fn error(
    refused: Refused<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
) -> Error {
    let said = read(body);
    let Refused { ask, place, .. } = refused;
    let bucket = || place.bucket().name().to_owned();
    let target = || ask.target().to_owned();
    if let Some(error) = wrong_region(place, status, headers, &said) {
        return error;
    }
    match said.code.as_str() {
        "NoSuchBucket" => {
            return Error::NoSuchBucket { bucket: bucket(), endpoint: place.label() };
        }
        "NoSuchKey" | "NoSuchVersion" | "KeyTooLongError" => {
            return Error::NotFound { bucket: bucket(), key: target() };
        }
        "ExpiredToken" | "ExpiredTokenException" | "InvalidToken" | "TokenRefreshRequired" => {
            return Error::CredentialsExpired;
        }
        "RequestTimeTooSkewed" => {
            return Error::ClockSkewed { message: said.message, store_time: date(headers) };
        }
        "AccessDenied" if said.message.to_ascii_lowercase().contains("request has expired") => {
            return Error::ClockSkewed { message: said.message, store_time: date(headers) };
        }
        "InvalidObjectState" => {
            return Error::Archived { key: target(), storage_class: said.storage_class };
        }
        "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "RequestLimitExceeded"
        | "TooManyRequests" => {
            let retry_after = retry_after(headers);
            return Error::Throttled { status: status.as_u16(), retry_after };
        }
        "RequestTimeout" | "InternalError" => return server(status, headers, said),
        _ => {}
    }
    by_status(refused, status, headers, said)
}

/// What the status alone means.
fn by_status(refused: Refused<'_>, status: StatusCode, headers: &HeaderMap, said: Said) -> Error {
    let Refused { ask, place, signed_at } = refused;
    let bucket = place.bucket().name().to_owned();
    match status.as_u16() {
        // The answer to a HEAD has no body that could say what is wrong.
        403 if ask.operation() == Operation::Head && is_apart(date(headers), signed_at) => {
            Error::ClockSkewed { message: said.message, store_time: date(headers) }
        }
        401 | 403 => {
            let code = if said.code.is_empty() { status.as_str().to_owned() } else { said.code };
            let target = ask.target().to_owned();
            Error::AccessDenied { bucket, target, code, message: said.message }
        }
        404 if ask.operation() == Operation::List => {
            Error::NoSuchBucket { bucket, endpoint: place.label() }
        }
        404 | 410 => Error::NotFound { bucket, key: ask.target().to_owned() },
        412 => match ask {
            Ask::Get { key, etag, .. } => {
                Error::Replaced { key: (*key).to_owned(), etag: (*etag).to_owned() }
            }
            Ask::List(_) | Ask::Head { .. } => refuse(status, said),
        },
        416 => match ask {
            Ask::Get { key, range, .. } => {
                Error::RangeNotSatisfiable { key: (*key).to_owned(), range: *range }
            }
            Ask::List(_) | Ask::Head { .. } => refuse(status, said),
        },
        429 | 503 => {
            Error::Throttled { status: status.as_u16(), retry_after: retry_after(headers) }
        }
        408 | 500.. => server(status, headers, said),
        _ => refuse(status, said),
    }
}

/// Whether the store's clock is further from the time signed for than S3 allows.
fn is_apart(store_time: Option<Timestamp>, signed_at: Timestamp) -> bool {
    store_time.is_some_and(|time| time.duration_since(signed_at).abs() > SKEW_MAX)
}

/// Whether the store says that the bucket is in another region, and in which.
fn wrong_region(
    place: &Place,
    status: StatusCode,
    headers: &HeaderMap,
    said: &Said,
) -> Option<Error> {
    let header = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok());
    let named = header
        .map(str::to_owned)
        .or_else(|| (!said.region.is_empty()).then(|| said.region.clone()));
    let elsewhere = named.as_deref().is_some_and(|region| region != place.region());
    let redirected = matches!(status.as_u16(), 301 | 302 | 307 | 308)
        || matches!(said.code.as_str(), "PermanentRedirect" | "TemporaryRedirect");
    let scope = matches!(
        said.code.as_str(),
        "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException"
    );
    // Any refusal of AWS carries the header; it is to blame only where it names another region.
    let blamed = redirected || (elsewhere && (scope || status.as_u16() == 400));
    blamed.then(|| Error::WrongRegion {
        bucket: place.bucket().name().to_owned(),
        asked: place.region().to_owned(),
        actual: named.filter(|_| elsewhere),
    })
}

fn server(status: StatusCode, headers: &HeaderMap, said: Said) -> Error {
    Error::Server {
        status: status.as_u16(),
        code: said.code,
        message: said.message,
        retry_after: retry_after(headers),
    }
}

fn refuse(status: StatusCode, said: Said) -> Error {
    Error::Refused { status: status.as_u16(), code: said.code, message: said.message }
}

/// `Retry-After` in seconds. Its other form, a date, needs a clock, and no S3 store sends it.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds).min(RETRY_AFTER_MAX))
}

/// The time by the store's clock.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    let date = headers.get(DATE)?.to_str().ok()?;
    rfc2822::DateTimeParser::new().parse_timestamp(date).ok()
}

/// What `body` says; empty where it says nothing readable.
fn read(body: &[u8]) -> Said {
    let document = xml::document(body);
    let mut said = Said::default();
    let mut walk = Walk::new(&document);
    // What was read before a fault in the XML still counts: it names the error.
    while let Ok(piece) = walk.next() {
        let field = match piece {
            Piece::End => break,
            Piece::Text(Some(text)) if walk.at(&["Error", "Code"]) => (&mut said.code, text),
            Piece::Text(Some(text)) if walk.at(&["Error", "Message"]) => (&mut said.message, text),
            Piece::Text(Some(text)) if walk.at(&["Error", "Region"]) => (&mut said.region, text),
            Piece::Text(Some(text)) if walk.at(&["Error", "StorageClass"]) => {
                (&mut said.storage_class, text)
            }
            Piece::Open | Piece::Close | Piece::Text(_) => continue,
        };
        field.0.push_str(&field.1);
    }
    said.message = plain(&said.message);
    said.code = plain(&said.code);
    said.region = plain(&said.region);
    said
}

/// `text` in one line of bounded length without control characters.
fn plain(text: &str) -> String {
    let visible = text.trim().chars().map(|c| if c.is_control() { ' ' } else { c });
    visible.take(MESSAGE_CHARS_MAX).collect()
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
