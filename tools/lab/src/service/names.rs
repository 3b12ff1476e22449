//! How names and hashes are written in headers and listings.

use std::borrow::Cow;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_encode};

/// What `encoding-type=url` leaves as it is; S3 leaves the slash too, and writes a space as `+`.
const ENCODED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'/').remove(b'*').remove(b' ');

/// A key as listings with `encoding-type=url` write it.
pub(super) fn url_encoded(key: &str) -> String {
    match Cow::from(percent_encode(key.as_bytes(), ENCODED)) {
        text if text.contains(' ') => text.replace(' ', "+"),
        text => text.into_owned(),
    }
}

/// Standard base64 with padding.
pub(super) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let index = (bits >> (18 - 6 * digit)) & 63;
            let padding = digit > chunk.len();
            text.push(if padding { '=' } else { char::from(DIGITS[index as usize]) });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_encoded_as_s3_does() {
        let cases = [
            ("test_file(3).png", "test_file%283%29.png"),
            ("a b/c+d", "a+b/c%2Bd"),
            ("é\u{1}\n\0", "%C3%A9%01%0A%00"),
            ("-_.*~", "-_.*%7E"),
            ("plain/key", "plain/key"),
        ];
        for (key, expected) in cases {
            assert_eq!(url_encoded(key), expected);
        }
    }

    #[test]
    fn base64_is_padded() {
        let cases =
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")];
        for (text, expected) in cases {
            assert_eq!(base64(text.as_bytes()), expected);
        }
        assert_eq!(base64(&[0xff, 0xef]), "/+8=");
    }
}
