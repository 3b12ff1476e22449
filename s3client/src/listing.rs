//! Pages of `ListObjectsV2`: what is asked, and what is understood of the answer.
//!
//! Invariant: an entry that cannot be understood is left out and counted and never hides the
//! others; a page that is not XML, or a listing that cannot be continued, is an error.

use std::time::SystemTime;

use crate::answer;
use crate::error::{AnswerFault, Error};
use crate::xml::{self, Piece, Walk};

/// Which page of a listing to ask for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListRequest {
    /// What keys begin with.
    pub prefix: String,
    /// Whether keys with a `/` after the prefix are folded into common prefixes.
    pub delimiter: bool,
    /// The key behind which to begin.
    pub start_after: Option<String>,
    /// [`ListPage::next`] of the page before.
    pub continuation: Option<String>,
    /// Entries on a page at most; the store's own limit (1000) where `None`.
    pub keys_max: Option<u16>,
}

/// One page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListPage {
    /// Objects, in the order of the store.
    pub objects: Vec<ListedObject>,
    /// Folded keys as the store gave them, with the `/` at their end.
    pub common_prefixes: Vec<String>,
    /// What to ask for the next page with; `None` on the last page.
    pub next: Option<String>,
}

/// What a listing or a HEAD says of one object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedObject {
    /// The key.
    pub key: String,
    /// The ETag, always in its quotes; empty where the store gave none.
    pub etag: String,
    /// Size of the object.
    pub size_bytes: u64,
    /// When it was last written; the epoch where the store did not say.
    pub modified: SystemTime,
    /// The storage class where the store names one.
    pub storage_class: Option<String>,
}

/// A page, and how many of its entries were left out.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Parsed {
    pub(crate) page: ListPage,
    pub(crate) skipped: u64,
}

/// Text of the fields of one entry; `None` until it was read.
#[derive(Default)]
struct Fields {
    key: Text,
    prefix: Text,
    etag: Text,
    size: Text,
    modified: Text,
    storage_class: Text,
}

/// Text put together from pieces.
#[derive(Default)]
enum Text {
    #[default]
    Absent,
    Read(String),
    Undecodable,
}

impl Text {
    fn push(&mut self, piece: Option<&str>) {
        match (std::mem::take(self), piece) {
            (Self::Absent, Some(piece)) => *self = Self::Read(piece.to_owned()),
            (Self::Read(mut text), Some(piece)) => {
                text.push_str(piece);
                *self = Self::Read(text);
            }
            (Self::Undecodable, _) | (_, None) => *self = Self::Undecodable,
        }
    }

    /// The text; `None` if it is absent or cannot be told.
    fn read(self) -> Option<String> {
        match self {
            Self::Read(text) => Some(text),
            Self::Absent | Self::Undecodable => None,
        }
    }
}

/// Everything on the page that is not an entry.
#[derive(Default)]
struct Page {
    truncated: Text,
    next: Text,
    encoding: Text,
}

const ROOT: &str = "ListBucketResult";

/// Understands the answer `body` to `request`.
pub(crate) fn parse(request: &ListRequest, body: &[u8]) -> Result<Parsed, Error> {
    let document = xml::document(body);
    let (page, contents, prefixes) =
        read(&document).map_err(|reason| Error::wrong(AnswerFault::Listing { reason }))?;
    let encoded = page.encoding.read().is_some_and(|text| text.trim() == "url");
    let mut parsed = Parsed::default();
    for fields in contents {
        match object(fields, encoded, &request.prefix) {
            Some(object) => parsed.page.objects.push(object),
            None => parsed.skipped += 1,
        }
    }
    for fields in prefixes {
        match name(fields.prefix, encoded, &request.prefix) {
            Some(prefix) => parsed.page.common_prefixes.push(prefix),
            None => parsed.skipped += 1,
        }
    }
    parsed.page.next = next(page.truncated, page.next, request.continuation.as_deref())
        .map_err(|reason| Error::wrong(AnswerFault::Continuation { reason }))?;
    Ok(parsed)
}

/// The page and its two kinds of entries, or why this is not a listing.
fn read(document: &str) -> Result<(Page, Vec<Fields>, Vec<Fields>), String> {
    let (mut contents, mut prefixes) = (Vec::new(), Vec::new());
    let (mut page, mut entry) = (Page::default(), Fields::default());
    let mut walk = Walk::new(document);
    let mut rooted = false;
    loop {
        match walk.next()? {
            Piece::Open if walk.at(&[ROOT]) => rooted = true,
            Piece::Open if walk.path().next() != Some(ROOT) => {
                let root = walk.path().next().unwrap_or_default();
                return Err(if root.eq_ignore_ascii_case("html") {
                    "it is a web page; is endpoint_url that of an S3 store?".to_owned()
                } else {
                    format!("its root is {:?}", clip(root))
                });
            }
            Piece::Text(text) => {
                if let Some(field) = field(&walk, &mut page, &mut entry) {
                    field.push(text.as_deref());
                }
            }
            Piece::Close if walk.at(&[ROOT, "Contents"]) => {
                contents.push(std::mem::take(&mut entry));
            }
            Piece::Close if walk.at(&[ROOT, "CommonPrefixes"]) => {
                prefixes.push(std::mem::take(&mut entry));
            }
            Piece::Open | Piece::Close => {}
            Piece::End if rooted => return Ok((page, contents, prefixes)),
            Piece::End => return Err("it is empty".to_owned()),
        }
    }
}

/// Where the text at the walk's place belongs.
fn field<'f>(walk: &Walk<'_>, page: &'f mut Page, entry: &'f mut Fields) -> Option<&'f mut Text> {
    let mut path = walk.path().skip(1);
    Some(match (path.next()?, path.next(), path.next()) {
        ("IsTruncated", None, None) => &mut page.truncated,
        ("NextContinuationToken", None, None) => &mut page.next,
        ("EncodingType", None, None) => &mut page.encoding,
        ("Contents", Some("Key"), None) => &mut entry.key,
        ("Contents", Some("ETag"), None) => &mut entry.etag,
        ("Contents", Some("Size"), None) => &mut entry.size,
        ("Contents", Some("LastModified"), None) => &mut entry.modified,
        ("Contents", Some("StorageClass"), None) => &mut entry.storage_class,
        ("CommonPrefixes", Some("Prefix"), None) => &mut entry.prefix,
        _ => return None,
    })
}

/// The object that `fields` describe; `None` if key or size cannot be told or the key is not one
/// that was asked for.
fn object(fields: Fields, encoded: bool, prefix: &str) -> Option<ListedObject> {
    let modified = fields.modified.read().and_then(|text| text.trim().parse().ok());
    Some(ListedObject {
        key: name(fields.key, encoded, prefix)?,
        etag: answer::quoted(&fields.etag.read().unwrap_or_default()),
        size_bytes: fields.size.read()?.trim().parse().ok()?,
        modified: modified.map_or(SystemTime::UNIX_EPOCH, |at: jiff::Timestamp| at.into()),
        storage_class: fields.storage_class.read().filter(|class| !class.is_empty()),
    })
}

/// The key or prefix that `text` stands for.
fn name(text: Text, encoded: bool, prefix: &str) -> Option<String> {
    let text = text.read().filter(|text| !text.contains('\u{fffd}'))?;
    let name = if encoded { decode(&text)? } else { text };
    (!name.is_empty() && name.starts_with(prefix)).then_some(name)
}

/// Undoes `encoding-type=url`: S3 encodes a space as `+` and a plus as `%2B`, others a space as
/// `%20`.
fn decode(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_encoding::percent_decode_str(&spaced).decode_utf8().ok().map(Into::into)
}

/// The token of the next page, or why there is none though there should be.
fn next(truncated: Text, token: Text, last: Option<&str>) -> Result<Option<String>, &'static str> {
    let truncated = match truncated.read().as_deref().map(str::trim) {
        Some("true") => true,
        Some("false") | None => false,
        Some(_) => return Err("whether it goes on cannot be told"),
    };
    if !truncated {
        return Ok(None);
    }
    let token = token.read().filter(|token| !token.is_empty() && !token.contains('\u{fffd}'));
    match token {
        None => Err("it goes on but has no token"),
        Some(token) if Some(token.as_str()) == last => Err("its token repeats"),
        Some(token) => Ok(Some(token)),
    }
}

/// The beginning of `text`, for messages.
fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

/// Follows a listing page by page and notices when it goes round in a circle.
///
/// A store whose tokens change for ever but whose keys do not advance would keep a caller busy for
/// ever; each page must therefore bring a key behind those of the pages before it.
#[derive(Debug)]
pub struct ListWalk {
    request: ListRequest,
    last: Option<String>,
    empty_pages: u32,
}

/// Pages in a row without an entry that are borne; stores that filter may send a few.
const EMPTY_PAGES_MAX: u32 = 64;

impl ListWalk {
    /// A walk that begins with `request`.
    pub fn new(request: ListRequest) -> Self {
        Self { request, last: None, empty_pages: 0 }
    }

    /// The page to ask for now.
    pub fn request(&self) -> &ListRequest {
        &self.request
    }

    /// Notes the answer to [`Self::request`]; whether there is another page to ask for.
    pub fn advance(&mut self, page: &ListPage) -> Result<bool, Error> {
        let Some(next) = &page.next else { return Ok(false) };
        let keys = page.objects.iter().map(|object| object.key.as_str());
        let end = keys.chain(page.common_prefixes.iter().map(String::as_str)).max();
        let reason = match (end, &self.last) {
            (Some(end), Some(last)) if end <= last.as_str() => Some("its keys do not advance"),
            (None, _) if self.empty_pages == EMPTY_PAGES_MAX => Some("its pages stay empty"),
            _ => None,
        };
        if let Some(reason) = reason {
            return Err(Error::wrong(AnswerFault::Continuation { reason }));
        }
        self.empty_pages = if end.is_none() { self.empty_pages + 1 } else { 0 };
        self.last = end.map(str::to_owned).or(self.last.take());
        self.request.continuation = Some(next.clone());
        Ok(true)
    }
}

#[cfg(test)]
#[path = "listing_tests.rs"]
mod tests;
