//! What a fault does to an answer. Pure: the wire carries out what is noted in `Outgoing`.

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_RANGE, ETAG};
use http::{HeaderMap, HeaderValue};

use super::Reply;
use crate::content::mix;
use crate::fault::{Fault, Malformation};
use crate::request::{Facts, Operation};
use crate::wire::{Cut, Ending, Outgoing};

static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
/// Most bytes by which a body is made longer.
const EXTRA_BYTES_MAX: u64 = 1 << 30;
/// Depth of a listing that is nested too deeply.
const NESTING: usize = 100_000;

/// Spoils `reply` as `fault` says. A fault that has nothing to spoil leaves it alone: a listing is not
/// made of a GET, and an error has no range.
pub(super) fn spoil(reply: &mut Reply, outgoing: &mut Outgoing, facts: &Facts, fault: &Fault) {
    let length = reply.body_bytes();
    let cut_body = |after_bytes: u64, ending| Cut { head: None, body: Some(after_bytes), ending };
    match fault {
        Fault::ResetInHeaders { after_bytes } => {
            outgoing.cut = Cut { head: Some(*after_bytes), body: None, ending: Ending::Reset };
        }
        Fault::ResetInBody { after_bytes } => outgoing.cut = cut_body(*after_bytes, Ending::Reset),
        Fault::Truncate { after_bytes } => outgoing.cut = cut_body(*after_bytes, Ending::Close),
        Fault::HangInBody { after_bytes } => {
            if *after_bytes < length {
                outgoing.cut = cut_body(*after_bytes, Ending::Hang);
            }
        }
        Fault::WrongContentLength { by } => {
            if *by > 0 {
                // The promised bytes are there for hyper, and the wire ends before them.
                lengthen(&mut reply.slices, by.unsigned_abs());
                outgoing.cut = cut_body(length, Ending::Close);
            } else {
                shorten(&mut reply.slices, length.saturating_sub(by.unsigned_abs()));
            }
        }
        Fault::TooLong { extra_bytes } => lengthen(&mut reply.slices, *extra_bytes),
        Fault::NoContentLength => outgoing.until_close = true,
        Fault::WrongTotal => change_total(&mut reply.headers),
        Fault::Drip { bytes_per_second } => outgoing.bytes_per_second = Some(*bytes_per_second),
        Fault::FlipBit { offset } => flip(&mut reply.slices, *offset),
        Fault::EtagChanges => {
            let etag = format!("\"{:032x}\"", mix(outgoing.record.seq()));
            if let (true, Ok(etag)) =
                (reply.headers.contains_key(ETAG), HeaderValue::from_str(&etag))
            {
                reply.headers.insert(ETAG, etag);
            }
        }
        Fault::MalformedListing(how) => {
            if facts.operation == Operation::List && reply.status.is_success() {
                let body = reply.slices.concat();
                reply.slices = vec![malform(&body, *how)];
            }
        }
        // Done before the operation, in it, or on the wire.
        Fault::Status { .. }
        | Fault::S3Error { .. }
        | Fault::ClockBehind { .. }
        | Fault::Redirect { .. }
        | Fault::ResetBeforeHeaders
        | Fault::HangBeforeHeaders
        | Fault::WrongRange
        | Fault::FullBodyFor206
        | Fault::Slow { .. }
        | Fault::IgnoreIfMatch
        | Fault::EndlessListing(_) => {}
    }
}

fn lengthen(slices: &mut Vec<Bytes>, by: u64) {
    let mut left = usize::try_from(by.min(EXTRA_BYTES_MAX)).unwrap_or(0);
    while left > 0 {
        let len = left.min(ZEROS.len());
        slices.push(Bytes::from_static(&ZEROS[..len]));
        left -= len;
    }
}

fn shorten(slices: &mut Vec<Bytes>, to: u64) {
    let mut left = usize::try_from(to).unwrap_or(usize::MAX);
    for slice in slices {
        slice.truncate(left);
        left -= slice.len();
    }
}

fn flip(slices: &mut [Bytes], offset: u64) {
    let length: usize = slices.iter().map(Bytes::len).sum();
    let mut at = usize::try_from(offset).unwrap_or(usize::MAX).min(length.saturating_sub(1));
    for slice in slices {
        if at < slice.len() {
            let mut flipped = BytesMut::from(&slice[..]);
            flipped[at] ^= 1;
            *slice = flipped.freeze();
            return;
        }
        at -= slice.len();
    }
}

fn change_total(headers: &mut HeaderMap) {
    let range = headers.get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let changed = range.and_then(|range| {
        let (part, total) = range.split_once('/')?;
        HeaderValue::from_str(&format!("{part}/{}", total.parse::<u64>().ok()? + 1)).ok()
    });
    if let Some(changed) = changed {
        headers.insert(CONTENT_RANGE, changed);
    }
}

fn malform(xml: &[u8], how: Malformation) -> Bytes {
    let text = String::from_utf8_lossy(xml);
    match how {
        Malformation::CutOff => xml[..xml.len() * 2 / 3].to_vec().into(),
        Malformation::NotXml => Bytes::from_static(b"{\"Contents\": [}"),
        Malformation::OtherRoot => text.replace("ListBucketResult", "ListBacketResult").into(),
        Malformation::NoEtags => without_elements(&text, "ETag").into(),
        Malformation::BadSizes => text.replace("<Size>", "<Size>x").into(),
        Malformation::DeeplyNested => {
            let (open, close) = ("<Contents>".repeat(NESTING), "</Contents>".repeat(NESTING));
            format!("<ListBucketResult>{open}{close}</ListBucketResult>").into()
        }
        Malformation::EntityBomb => entity_bomb().into(),
        Malformation::NotUtf8 => {
            let mut bytes = text.replacen("<Key>", "<Key>\u{1}", 1).into_bytes();
            if let Some(at) = bytes.iter().position(|byte| *byte == 1) {
                bytes[at] = 0xff;
            }
            bytes.into()
        }
    }
}

fn without_elements(text: &str, name: &str) -> String {
    let (open, close) = (format!("<{name}>"), format!("</{name}>"));
    let mut rest = text;
    let mut kept = String::with_capacity(text.len());
    while let Some((before, inside)) = rest.split_once(&open) {
        kept.push_str(before);
        rest = inside.split_once(&close).map_or("", |(_, after)| after);
    }
    kept + rest
}

fn entity_bomb() -> String {
    let entity = |level: usize| {
        let inner = if level == 0 { "lol".into() } else { format!("&e{};", level - 1).repeat(10) };
        format!("<!ENTITY e{level} \"{inner}\">")
    };
    let entities: String = (0..10).map(entity).collect();
    format!(
        "<?xml version=\"1.0\"?><!DOCTYPE ListBucketResult [{entities}]><ListBucketResult>\
         <IsTruncated>false</IsTruncated><Contents><Key>&e9;</Key><Size>1</Size></Contents>\
         </ListBucketResult>"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::Ledger;

    fn spoilt(fault: &Fault) -> (Reply, Outgoing) {
        let mut reply = Reply { slices: vec!["abc".into(), "defg".into()], ..Reply::default() };
        reply.headers.insert(CONTENT_RANGE, HeaderValue::from_static("bytes 0-6/10"));
        reply.headers.insert(ETAG, HeaderValue::from_static("\"e\""));
        let mut outgoing = Outgoing::new(Ledger::new(1).enter(&Facts::default(), 0), 0);
        spoil(&mut reply, &mut outgoing, &Facts::default(), fault);
        (reply, outgoing)
    }

    #[track_caller]
    fn check(fault: &Fault, body: &[u8], cut: Option<u64>, ending: Ending) {
        let (reply, outgoing) = spoilt(fault);
        assert_eq!(reply.slices.concat(), body, "{fault:?}");
        assert_eq!((outgoing.cut.body, outgoing.cut.ending), (cut, ending), "{fault:?}");
    }

    #[test]
    fn faults_change_bytes_or_cut_them() {
        let body = b"abcdefg";
        check(&Fault::ResetInBody { after_bytes: 5 }, body, Some(5), Ending::Reset);
        check(&Fault::Truncate { after_bytes: 5 }, body, Some(5), Ending::Close);
        check(&Fault::HangInBody { after_bytes: 0 }, body, Some(0), Ending::Hang);
        check(&Fault::HangInBody { after_bytes: 7 }, body, None, Ending::Close);
        check(&Fault::WrongContentLength { by: 2 }, b"abcdefg\0\0", Some(7), Ending::Close);
        check(&Fault::WrongContentLength { by: -5 }, b"ab", None, Ending::Close);
        check(&Fault::WrongContentLength { by: -50 }, b"", None, Ending::Close);
        check(&Fault::TooLong { extra_bytes: 1 }, b"abcdefg\0", None, Ending::Close);
        check(&Fault::FlipBit { offset: 3 }, b"abceefg", None, Ending::Close);
        check(&Fault::FlipBit { offset: 99 }, b"abcdeff", None, Ending::Close);
        check(&Fault::WrongTotal, body, None, Ending::Close);
        check(&Fault::MalformedListing(Malformation::NotXml), body, None, Ending::Close);
    }

    #[test]
    fn headers_are_made_to_lie() {
        let (reply, _) = spoilt(&Fault::WrongTotal);
        assert_eq!(reply.headers[CONTENT_RANGE], "bytes 0-6/11");
        let (reply, _) = spoilt(&Fault::EtagChanges);
        assert_ne!(reply.headers[ETAG], "\"e\"");
    }

    #[test]
    fn listings_are_malformed() {
        let xml = b"<ListBucketResult><Contents><Key>a</Key><ETag>\"x\"</ETag><Size>1</Size></Contents></ListBucketResult>";
        let text = |how| String::from_utf8_lossy(&malform(xml, how)).into_owned();
        assert_eq!(
            text(Malformation::NoEtags),
            "<ListBucketResult><Contents><Key>a</Key><Size>1</Size></Contents></ListBucketResult>"
        );
        assert!(text(Malformation::BadSizes).contains("<Size>x1</Size>"));
        assert!(text(Malformation::CutOff).len() < xml.len());
        assert!(std::str::from_utf8(&malform(xml, Malformation::NotUtf8)).is_err());
        assert!(text(Malformation::EntityBomb).contains("&e9;"));
        assert!(text(Malformation::DeeplyNested).len() > NESTING);
        assert!(!text(Malformation::OtherRoot).contains("ListBucketResult"));
    }
}
