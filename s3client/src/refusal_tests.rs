use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use tenderfs_byterange::ByteRange;
use url::Url;

use super::*;
use crate::addressing::Addressing;
use crate::listing::ListRequest;

/// When the requests of these tests are signed for: one minute before what [`ON_TIME`] says.
const SIGNED_AT: jiff::Timestamp = jiff::Timestamp::constant(1_445_412_420, 0);
const ON_TIME: &str = "Wed, 21 Oct 2015 07:28:00 GMT";

fn refused(ask: &Ask<'_>, status: u16, headers: &[(&str, &str)], body: &str) -> Error {
    let endpoint = Url::parse("http://127.0.0.1:9000").unwrap();
    let place = Place::new(
        "data",
        "us-east-1",
        Some(&endpoint),
        Addressing::Auto,
        crate::AwsEndpoint::default(),
    );
    let place = place.unwrap();
    let headers = headers
        .iter()
        .map(|(name, value)| {
            (HeaderName::try_from(*name).unwrap(), HeaderValue::from_str(value).unwrap())
        })
        .collect();
    let status = StatusCode::from_u16(status).unwrap();
    error(Refused { ask, place: &place, signed_at: SIGNED_AT }, status, &headers, body.as_bytes())
}

fn get() -> Ask<'static> {
    Ask::Get { key: "k", etag: "\"e\"", range: ByteRange::new(0, 10).unwrap(), is_whole: false }
}

fn xml(code: &str, more: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>so &amp; so</Message>{more}</Error>"
    )
}

#[track_caller]
fn check(status: u16, headers: &[(&str, &str)], body: &str, expected: &str) {
    let error = format!("{:?}", refused(&get(), status, headers, body));
    assert!(error.starts_with(expected), "{status} {body}: {error}");
}

#[test]
fn each_refusal_is_what_the_store_means() {
    check(404, &[], &xml("NoSuchKey", ""), "NotFound { bucket: \"data\", key: \"k\" }");
    check(404, &[], &xml("NoSuchBucket", ""), "NoSuchBucket");
    check(404, &[], "", "NotFound");
    check(403, &[], &xml("AccessDenied", ""), "AccessDenied");
    check(403, &[], &xml("InvalidAccessKeyId", ""), "AccessDenied");
    check(403, &[], &xml("SignatureDoesNotMatch", ""), "AccessDenied");
    check(401, &[], "", "AccessDenied");
    check(400, &[], &xml("ExpiredToken", ""), "CredentialsExpired");
    check(403, &[], &xml("RequestTimeTooSkewed", ""), "ClockSkewed");
    check(412, &[], &xml("PreconditionFailed", ""), "Replaced { key: \"k\", etag: \"\\\"e\\\"\" }");
    check(416, &[], &xml("InvalidRange", ""), "RangeNotSatisfiable");
    check(429, &[], "", "Throttled { status: 429, retry_after: None }");
    check(503, &[], &xml("SlowDown", ""), "Throttled { status: 503");
    check(500, &[], &xml("InternalError", ""), "Server { status: 500");
    check(400, &[], &xml("RequestTimeout", ""), "Server { status: 400");
    check(502, &[], "<html>Bad Gateway</html>", "Server { status: 502, code: \"\"");
    check(405, &[], &xml("MethodNotAllowed", ""), "Refused { status: 405");
    check(400, &[], &xml("InvalidArgument", ""), "Refused { status: 400");
}

#[test]
fn an_expired_request_is_a_wrong_clock() {
    let body = "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>";
    check(403, &[], body, "ClockSkewed");
}

#[test]
fn an_archived_object_names_its_class() {
    let body = xml("InvalidObjectState", "<StorageClass>GLACIER</StorageClass>");
    check(403, &[], &body, "Archived { key: \"k\", storage_class: \"GLACIER\" }");
}

#[test]
fn retry_after_is_read_and_bounded() {
    for (value, expected) in [
        ("7", "retry_after: Some(7s)"),
        ("99999999", "retry_after: Some(3600s)"),
        ("soon", "retry_after: None"),
        ("-1", "retry_after: None"),
    ] {
        let error = format!("{:?}", refused(&get(), 503, &[("retry-after", value)], ""));
        assert!(error.contains(expected), "{value}: {error}");
    }
}

#[test]
fn the_right_region_is_named() {
    let header = [("x-amz-bucket-region", "eu-west-1")];
    let expected =
        "WrongRegion { bucket: \"data\", asked: \"us-east-1\", actual: Some(\"eu-west-1\") }";
    check(301, &header, "", expected);
    check(301, &header, &xml("PermanentRedirect", ""), expected);
    check(400, &header, "", expected);
    let body = xml("AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>");
    check(400, &[], &body, expected);
    check(307, &[], "", "WrongRegion { bucket: \"data\", asked: \"us-east-1\", actual: None }");
}

#[test]
fn a_region_header_alone_blames_nobody() {
    check(403, &[("x-amz-bucket-region", "eu-west-1")], &xml("AccessDenied", ""), "AccessDenied");
    check(400, &[("x-amz-bucket-region", "us-east-1")], &xml("InvalidArgument", ""), "Refused");
}

#[test]
fn a_listing_of_a_missing_bucket_says_so_without_a_body() {
    let request = ListRequest::default();
    let error = refused(&Ask::List(&request), 404, &[], "");
    assert!(matches!(error, Error::NoSuchBucket { .. }), "{error}");
}

#[test]
fn the_stores_words_are_kept_to_one_short_line() {
    let long = "x\n".repeat(1000);
    let body = format!("<Error><Code>Odd</Code><Message>{long}</Message></Error>");
    match refused(&get(), 400, &[], &body) {
        Error::Refused { message, .. } => {
            assert!(message.len() <= MESSAGE_CHARS_MAX && !message.contains('\n'));
        }
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn no_body_can_break_the_reader(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _said = read(&body);
    }

    #[test]
    fn no_markup_can_break_the_reader(body in "(<[/!?]?[A-Ca-c]{0,3}>|&[#a-z0-9]{0,4};|<Error>|<Code>|x){0,30}") {
        let _said = read(body.as_bytes());
    }
}

/// S3 sends no body with the answer to a HEAD, which is all that a lookup of a name may be.
#[test]
fn a_head_that_is_refused_at_another_time_is_a_wrong_clock() {
    let head = Ask::Head { key: "k" };
    let place = crate::addressing::Place::new(
        "data",
        "us-east-1",
        None,
        crate::Addressing::Auto,
        crate::AwsEndpoint::default(),
    );
    let place = place.unwrap();
    let refused = Refused { ask: &head, place: &place, signed_at: SIGNED_AT };
    let said = |date: &str| {
        let headers = HeaderMap::from_iter([(DATE, date.parse().unwrap())]);
        error(refused, StatusCode::FORBIDDEN, &headers, b"")
    };
    assert!(matches!(said(ON_TIME), Error::AccessDenied { .. }));
    assert!(matches!(
        said("Wed, 21 Oct 2015 07:43:00 GMT"),
        Error::ClockSkewed { store_time: Some(_), .. }
    ));
    assert!(matches!(said("Wed, 21 Oct 2015 05:28:00 GMT"), Error::ClockSkewed { .. }));
}
