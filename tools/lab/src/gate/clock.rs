//! A store whose clock is behind the clock of who asks.

use http::header::DATE;
use http::{HeaderValue, Request};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::reply::Reply;
use crate::request::signed_time;

/// How far apart the clocks may be. S3 allows a quarter of an hour; a test has less room, for the
/// signature that it makes with another clock must still be one that S3 takes.
const APART_MAX: SignedDuration = SignedDuration::from_mins(5);

/// The refusal of `request` by a store whose clock is `behind_seconds` behind `now`, unless it is
/// signed for about that time or not signed at all.
pub(super) fn refusal<B>(
    request: &Request<B>,
    now: Timestamp,
    behind_seconds: u32,
) -> Option<Reply> {
    let time = now - SignedDuration::from_secs(behind_seconds.into());
    let signed = DateTime::strptime("%Y%m%dT%H%M%SZ", signed_time(request)?).ok()?;
    let signed = signed.to_zoned(TimeZone::UTC).ok()?.timestamp();
    if time.duration_until(signed).abs() < APART_MAX {
        return None;
    }
    let mut reply = Reply::error(403, "RequestTimeTooSkewed", None);
    let date = time.to_zoned(TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
    reply.headers.extend(HeaderValue::from_str(&date).ok().map(|date| (DATE, date)));
    Some(reply)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(uri: &str, behind_seconds: u32, refused: bool) {
        let now = "2026-01-02T03:10:00Z".parse().unwrap();
        let request = Request::builder().uri(uri).body(()).unwrap();
        let reply = refusal(&request, now, behind_seconds);
        assert_eq!(reply.is_some(), refused, "{uri} {behind_seconds}");
        if let Some(reply) = reply {
            assert_eq!(reply.headers[DATE], "Fri, 02 Jan 2026 03:00:00 GMT");
        }
    }

    #[test]
    fn requests_signed_for_another_time_are_refused() {
        check("/b/k?X-Amz-Date=20260102T031000Z", 600, true);
        check("/b/k?X-Amz-Date=20260102T030000Z", 600, false);
        check("/b/k?X-Amz-Date=20260102T030459Z", 600, false);
        check("/b/k?X-Amz-Date=20260102T031000Z", 0, false);
        check("/b/k", 600, false);
    }
}
