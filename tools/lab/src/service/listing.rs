//! Listings, from the page that the storage gives to the answer that s3s writes.

use bytes::Bytes;
use s3s::dto::{
    CommonPrefix, ETag, EncodingType, ListObjectsInput, ListObjectsOutput, ListObjectsV2Input,
    ListObjectsV2Output, Object, ObjectStorageClass, Timestamp,
};
use s3s::{S3Result, s3_error};

use super::{length, names};
use crate::fault::Endless;
use crate::storage::listing::{ListQuery, Resume, Start};
use crate::storage::{Listed, ListedPage, Store};

/// Most entries in a page, and how many there are unless fewer are asked for.
const ENTRIES_MAX: i32 = 1000;

pub(super) fn version_2(
    store: &Store,
    input: ListObjectsV2Input,
    endless: Option<Endless>,
) -> S3Result<ListObjectsV2Output> {
    let encode = encoder(input.encoding_type.as_ref())?;
    let entries_max = entries_max(input.max_keys)?;
    let start = match (&input.continuation_token, &input.start_after) {
        (Some(token), _) if endless.is_none() => {
            let resume = Resume::parse(token);
            Start::Resume(resume.ok_or_else(|| {
                s3_error!(InvalidArgument, "The continuation token provided is incorrect")
            })?)
        }
        (_, Some(key)) if !key.is_empty() => Start::After(key.clone()),
        _ => Start::First,
    };
    let query = ListQuery {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input.delimiter.as_deref(),
        start,
        entries_max: usize::try_from(entries_max).unwrap_or(0),
    };
    let mut page = store.list(&input.bucket, &query)?;
    let mut next = page.next.as_ref().map(Resume::token);
    if let Some(endless) = endless {
        next = Some(endless_token(endless, input.continuation_token.as_deref()));
        if endless == Endless::EmptyPages {
            page = ListedPage::default();
        }
    }
    let key_count = page.objects.len() + page.prefixes.len();
    let (contents, common_prefixes) = entries(page, encode);
    Ok(ListObjectsV2Output {
        prefix: Some(encode(input.prefix.as_deref().unwrap_or(""))),
        delimiter: input.delimiter.as_deref().map(encode),
        start_after: input.start_after.as_deref().map(encode),
        continuation_token: input.continuation_token,
        encoding_type: input.encoding_type,
        max_keys: Some(entries_max),
        key_count: i32::try_from(key_count).ok(),
        is_truncated: Some(next.is_some()),
        next_continuation_token: next,
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        name: Some(input.bucket),
        request_charged: None,
    })
}

pub(super) fn version_1(
    store: &Store,
    input: ListObjectsInput,
    endless: Option<Endless>,
) -> S3Result<ListObjectsOutput> {
    let encode = encoder(input.encoding_type.as_ref())?;
    let entries_max = entries_max(input.max_keys)?;
    let marker = input.marker.clone().filter(|marker| !marker.is_empty() && endless.is_none());
    let query = ListQuery {
        prefix: input.prefix.as_deref().unwrap_or(""),
        delimiter: input.delimiter.as_deref(),
        start: marker.map_or(Start::First, Start::After),
        entries_max: usize::try_from(entries_max).unwrap_or(0),
    };
    let mut page = store.list(&input.bucket, &query)?;
    let last_key = page.objects.last().map(|listed| listed.key.to_string());
    let last = last_key.max(page.prefixes.last().cloned());
    let mut next = last.filter(|_| page.next.is_some());
    if let Some(endless) = endless {
        next = Some(endless_token(endless, input.marker.as_deref()));
        if endless == Endless::EmptyPages {
            page = ListedPage::default();
        }
    }
    let (contents, common_prefixes) = entries(page, encode);
    Ok(ListObjectsOutput {
        prefix: Some(encode(input.prefix.as_deref().unwrap_or(""))),
        delimiter: input.delimiter.as_deref().map(encode),
        marker: Some(encode(input.marker.as_deref().unwrap_or(""))),
        encoding_type: input.encoding_type,
        max_keys: Some(entries_max),
        is_truncated: Some(next.is_some()),
        next_marker: next.as_deref().map(encode),
        contents: Some(contents),
        common_prefixes: Some(common_prefixes),
        name: Some(input.bucket),
        request_charged: None,
    })
}

/// Writes bytes that XML 1.0 has no place for as references (`&#x1;`), as S3 does when it is not asked
/// to URL-encode keys. s3s writes none itself, so all of them are in keys.
pub(crate) fn escape_controls(xml: Bytes) -> Bytes {
    let is_control = |byte: &u8| *byte < 0x20;
    if !xml.iter().any(is_control) {
        return xml;
    }
    let mut escaped = Vec::with_capacity(xml.len() + 64);
    for byte in &xml {
        if is_control(byte) {
            escaped.extend_from_slice(format!("&#x{byte:X};").as_bytes());
        } else {
            escaped.push(*byte);
        }
    }
    escaped.into()
}

type Encode = fn(&str) -> String;

fn encoder(encoding: Option<&EncodingType>) -> S3Result<Encode> {
    match encoding.map(EncodingType::as_str) {
        None => Ok(str::to_owned),
        Some(EncodingType::URL) => Ok(names::url_encoded),
        Some(_) => Err(s3_error!(InvalidArgument, "Invalid Encoding Method specified in Request")),
    }
}

fn entries_max(asked: Option<i32>) -> S3Result<i32> {
    match asked {
        Some(asked) if asked < 0 => {
            Err(s3_error!(InvalidArgument, "max-keys must not be negative"))
        }
        asked => Ok(asked.unwrap_or(ENTRIES_MAX).min(ENTRIES_MAX)),
    }
}

fn entries(page: ListedPage, encode: Encode) -> (Vec<Object>, Vec<CommonPrefix>) {
    let object = |listed: Listed| Object {
        e_tag: Some(ETag::Strong(listed.etag)),
        key: Some(encode(&listed.key)),
        last_modified: Some(Timestamp::from(listed.modified)),
        size: Some(length(listed.size_bytes)),
        storage_class: Some(ObjectStorageClass::from(
            listed.storage_class.unwrap_or_else(|| ObjectStorageClass::STANDARD.to_owned()),
        )),
        ..Object::default()
    };
    let prefix = |prefix: String| CommonPrefix { prefix: Some(encode(&prefix)) };
    (
        page.objects.into_iter().map(object).collect(),
        page.prefixes.into_iter().map(prefix).collect(),
    )
}

fn endless_token(endless: Endless, present: Option<&str>) -> String {
    let turn = present.and_then(|token| token.strip_prefix("again-")?.parse::<u64>().ok());
    match endless {
        Endless::SameToken => "again".to_owned(),
        Endless::SamePage | Endless::EmptyPages => format!("again-{}", turn.unwrap_or(0) + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controls_in_keys_become_references() {
        let escaped = escape_controls(Bytes::from_static(b"<Key>a\x01\n\xc3\xa9</Key>"));
        assert_eq!(&escaped[..], b"<Key>a&#x1;&#xA;\xc3\xa9</Key>");
    }
}
