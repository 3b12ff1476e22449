//! Elements and their text, read one after another from XML that nobody vouches for.
//!
//! Invariant: no document type, no entity but the five of XML, no recursion, a depth limit.

use std::borrow::Cow;

use quick_xml::Reader;
use quick_xml::escape::resolve_xml_entity;
use quick_xml::events::Event;

/// Deepest nesting read; S3's answers have four levels.
const DEPTH_MAX: usize = 16;

/// What comes next in a document.
pub(crate) enum Piece<'a> {
    /// An element begins; its path from the root is in [`Walk::path`].
    Open,
    /// Text of the element at [`Walk::path`]; `None` where a character cannot be told.
    Text(Option<Cow<'a, str>>),
    /// The element at [`Walk::path`] ends.
    Close,
    /// The document ends.
    End,
}

/// Walks over a document.
pub(crate) struct Walk<'a> {
    reader: Reader<&'a [u8]>,
    path: Vec<String>,
    closing: bool,
}

impl<'a> Walk<'a> {
    /// A walk from the beginning of `document`.
    pub(crate) fn new(document: &'a str) -> Self {
        let mut reader = Reader::from_str(document);
        reader.config_mut().expand_empty_elements = true;
        Self { reader, path: Vec::new(), closing: false }
    }

    /// Names of the elements around the current piece, outermost first, without name spaces.
    pub(crate) fn path(&self) -> impl Iterator<Item = &str> {
        self.path.iter().map(String::as_str)
    }

    /// Whether the current piece is in the elements `names`, outermost first, and no others.
    pub(crate) fn at(&self, names: &[&str]) -> bool {
        self.path.len() == names.len() && self.path().zip(names).all(|(a, b)| a == *b)
    }

    /// The next piece, or why there is none.
    pub(crate) fn next(&mut self) -> Result<Piece<'a>, String> {
        if std::mem::take(&mut self.closing) {
            self.path.pop();
        }
        loop {
            let event = self.reader.read_event().map_err(|error| error.to_string())?;
            return Ok(match event {
                Event::Start(start) | Event::Empty(start) => {
                    if self.path.len() == DEPTH_MAX {
                        return Err(format!("more than {DEPTH_MAX} levels deep"));
                    }
                    self.path.push(start.local_name().as_ref().to_owned());
                    Piece::Open
                }
                Event::End(_) => {
                    self.closing = true;
                    Piece::Close
                }
                Event::Text(text) => Piece::Text(Some(text.xml10_content())),
                Event::CData(data) => Piece::Text(Some(data.xml10_content())),
                Event::GeneralRef(name) => Piece::Text(character(&name)),
                Event::DocType(_) => return Err("it has a document type".to_owned()),
                Event::Eof if self.path.is_empty() => Piece::End,
                Event::Eof => return Err("it ends early".to_owned()),
                Event::Comment(_) | Event::Decl(_) | Event::PI(_) => continue,
            });
        }
    }
}

/// The character that the reference `name` stands for.
fn character<'a>(name: &quick_xml::events::BytesRef<'_>) -> Option<Cow<'a, str>> {
    if name.is_char_ref() {
        let character = name.resolve_char_ref().ok()??;
        return Some(Cow::Owned(character.to_string()));
    }
    resolve_xml_entity(name).map(Cow::Borrowed)
}

/// The document in `body`. Bytes that are not UTF-8 become U+FFFD, so that what is readable can be
/// read; whoever reads must not take text with U+FFFD for a name.
pub(crate) fn document(body: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body))
}
