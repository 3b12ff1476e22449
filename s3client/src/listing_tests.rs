use std::fmt::Write as _;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

fn page(inside: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <ListBucketResult xmlns=\"{NAMESPACE}\">{inside}</ListBucketResult>"
    )
}

fn entry(key: &str) -> String {
    format!(
        "<Contents><Key>{key}</Key><LastModified>2020-12-01T20:43:11.794Z</LastModified>\
         <ETag>&quot;e&quot;</ETag><Size>7</Size><StorageClass>STANDARD</StorageClass></Contents>"
    )
}

fn listed(inside: &str) -> Parsed {
    parse(&ListRequest::default(), page(inside).as_bytes()).unwrap()
}

fn keys(parsed: &Parsed) -> Vec<&str> {
    parsed.page.objects.iter().map(|object| object.key.as_str()).collect()
}

fn fault(body: &[u8]) -> AnswerFault {
    let request = ListRequest { continuation: Some("old".into()), ..ListRequest::default() };
    match parse(&request, body) {
        Err(Error::WrongAnswer { fault }) => fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_is_read_whole() {
    let parsed = listed(&entry("a/b"));
    assert_eq!(parsed.skipped, 0);
    let object = &parsed.page.objects[0];
    assert_eq!((object.key.as_str(), object.etag.as_str()), ("a/b", "\"e\""));
    assert_eq!(object.size_bytes, 7);
    assert_eq!(object.storage_class.as_deref(), Some("STANDARD"));
    let modified = SystemTime::UNIX_EPOCH + Duration::from_millis(1_606_855_391_794);
    assert_eq!(object.modified, modified);
    assert_eq!(parsed.page.next, None);
}

#[test]
fn keys_are_decoded_only_if_the_page_says_that_they_are_encoded() {
    let inside = "<Contents><Key>a%2Bb+c%2Fgr%C3%BCn</Key><Size>1</Size></Contents>\
                  <CommonPrefixes><Prefix>d+e/</Prefix></CommonPrefixes>";
    let parsed = listed(&format!("{inside}<EncodingType>url</EncodingType>"));
    assert_eq!(keys(&parsed), ["a+b c/grün"]);
    assert_eq!(parsed.page.common_prefixes, ["d e/"]);
    let parsed = listed(inside);
    assert_eq!(keys(&parsed), ["a%2Bb+c%2Fgr%C3%BCn"]);
    assert_eq!(parsed.page.common_prefixes, ["d+e/"]);
}

#[test]
fn entities_are_understood() {
    let parsed = listed(&entry("a&amp;b&lt;&#x41;&#66;"));
    assert_eq!(keys(&parsed), ["a&b<AB"]);
}

#[test]
fn one_bad_entry_never_hides_its_siblings() {
    for bad in [
        "<Contents><Key>bad</Key></Contents>",
        "<Contents><Key>bad</Key><Size>many</Size></Contents>",
        "<Contents><Key>bad</Key><Size>-1</Size></Contents>",
        "<Contents><Size>1</Size></Contents>",
        "<Contents><Key/><Size>1</Size></Contents>",
        "<Contents/>",
        "<Contents><Key>&#0;</Key><Size>1</Size></Contents>",
        "<Contents><Key>&unknown;</Key><Size>1</Size></Contents>",
        "<Contents><Key>%FF%FE</Key><Size>1</Size></Contents>",
        "<CommonPrefixes><Prefix>%FF/</Prefix></CommonPrefixes>",
        "<CommonPrefixes/>",
    ] {
        let encoding = "<EncodingType>url</EncodingType>";
        let parsed = listed(&format!("{encoding}{}{bad}{}", entry("a"), entry("b")));
        assert_eq!(keys(&parsed), ["a", "b"], "{bad}");
        assert_eq!(parsed.skipped, 1, "{bad}");
    }
}

#[test]
fn bytes_that_are_not_text_hide_only_their_own_entry() {
    let mut body = page(&format!("{}{}{}", entry("a"), entry("@"), entry("b"))).into_bytes();
    let at = body.iter().position(|byte| *byte == b'@').unwrap();
    body[at] = 0xff;
    let parsed = parse(&ListRequest::default(), &body).unwrap();
    assert_eq!(keys(&parsed), ["a", "b"]);
    assert_eq!(parsed.skipped, 1);
}

#[test]
fn control_characters_in_a_key_are_kept() {
    let parsed = listed(&format!("{}<EncodingType>url</EncodingType>", entry("a%01%0Ab")));
    assert_eq!(keys(&parsed), ["a\u{1}\nb"]);
}

#[test]
fn what_a_store_leaves_out_is_borne() {
    let parsed = listed("<Contents><Key>a</Key><Size>0</Size></Contents>");
    let object = &parsed.page.objects[0];
    assert_eq!((object.etag.as_str(), object.size_bytes), ("", 0));
    assert_eq!(object.modified, SystemTime::UNIX_EPOCH);
    assert_eq!(object.storage_class, None);
}

#[test]
fn entries_that_were_not_asked_for_are_left_out() {
    let request = ListRequest { prefix: "mine/".into(), ..ListRequest::default() };
    let body = page(&format!("{}{}", entry("mine/a"), entry("other/b")));
    let parsed = parse(&request, body.as_bytes()).unwrap();
    assert_eq!(keys(&parsed), ["mine/a"]);
    assert_eq!(parsed.skipped, 1);
}

#[test]
fn a_page_that_goes_on_says_how() {
    let token = "<NextContinuationToken>new</NextContinuationToken>";
    let truncated = "<IsTruncated>true</IsTruncated>";
    assert_eq!(listed(&format!("{truncated}{token}")).page.next.as_deref(), Some("new"));
    assert_eq!(listed(token).page.next, None, "it does not go on");
    assert_eq!(listed(&format!("<IsTruncated>false</IsTruncated>{token}")).page.next, None);
    for inside in [
        truncated.to_owned(),
        format!("{truncated}<NextContinuationToken/>"),
        format!("{truncated}<NextContinuationToken>old</NextContinuationToken>"),
        format!("<IsTruncated>perhaps</IsTruncated>{token}"),
    ] {
        let fault = fault(page(&inside).as_bytes());
        assert!(matches!(fault, AnswerFault::Continuation { .. }), "{inside}: {fault}");
    }
}

#[test]
fn what_is_no_listing_is_refused() {
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    let bodies = [
        String::new(),
        "not XML".to_owned(),
        "<html><body>Welcome</body></html>".to_owned(),
        "<ListBucketResult>".to_owned(),
        "<ListBucketResult><Contents></ListBucketResult>".to_owned(),
        page(&entry("a")).replace("</ListBucketResult>", ""),
        "<!DOCTYPE x [<!ENTITY a \"b\">]><ListBucketResult/>".to_owned(),
        page(&deep),
        format!("<Error><Code>InternalError</Code></Error>{}", page("")),
    ];
    for body in bodies {
        let fault = fault(body.as_bytes());
        assert!(matches!(fault, AnswerFault::Listing { .. }), "{fault}");
    }
}

#[test]
fn a_listing_that_goes_round_in_a_circle_is_noticed() {
    let page = |key: &str, token: &str| {
        let mut page = listed(&entry(key)).page;
        page.next = Some(token.into());
        page
    };
    let mut walk = ListWalk::new(ListRequest::default());
    assert!(walk.advance(&page("a", "1")).unwrap());
    assert_eq!(walk.request().continuation.as_deref(), Some("1"));
    assert!(walk.advance(&page("b", "2")).unwrap());
    assert!(walk.advance(&page("b", "3")).is_err());

    let mut walk = ListWalk::new(ListRequest::default());
    let empty = |token: u32| ListPage { next: Some(token.to_string()), ..ListPage::default() };
    assert!((0..1000).any(|token| walk.advance(&empty(token)).is_err()));

    let mut walk = ListWalk::new(ListRequest::default());
    assert!(!walk.advance(&listed(&entry("a")).page).unwrap());
}

proptest! {
    #[test]
    fn any_key_survives_the_listing(keys in proptest::collection::vec("\\PC{1,20}|[\\x00-\\x20]{1,3}", 0..20)) {
        let mut inside = "<EncodingType>url</EncodingType>".to_owned();
        for key in &keys {
            let encoded = percent_encoding::utf8_percent_encode(key, percent_encoding::NON_ALPHANUMERIC);
            write!(inside, "{}", entry(&encoded.to_string().replace("%20", "+"))).unwrap();
        }
        let parsed = listed(&inside);
        prop_assert_eq!(super::tests::keys(&parsed), keys.iter().map(String::as_str).collect::<Vec<_>>());
        prop_assert_eq!(parsed.skipped, 0);
    }

    #[test]
    fn no_body_can_break_the_parser(body in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _answer = parse(&ListRequest::default(), &body);
    }

    #[test]
    fn no_markup_can_break_the_parser(inside in "(</?Contents>|</?Key>|</?Size>|</?Owner>|<a/>|&#?[a-z0-9]{0,4};|7|]]>|<!\\[CDATA\\[|<!--|-->){0,40}") {
        let _answer = parse(&ListRequest::default(), page(&inside).as_bytes());
    }
}
