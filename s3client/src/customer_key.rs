//! The key of objects that were written with a key of their owner's (SSE-C), which S3 forgets and must
//! be told with each request ("Using server-side encryption with customer-provided keys" in the
//! Amazon S3 user guide).

use std::fmt;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use md5::{Digest as _, Md5};

use crate::error::ConfigError;
use crate::private_file;
use crate::secret::Secret;

/// Bytes of a key of AES-256.
const KEY_BYTES: usize = 32;
/// Longest file that can hold one: base64 and the end of a line.
const FILE_BYTES_MAX: usize = 64;

/// The only algorithm that S3 has.
const ALGORITHM: &str = "AES256";

/// A customer's key, in the form in which headers carry it.
#[derive(Clone)]
pub struct CustomerKey {
    key: Secret,
    md5: String,
}

impl CustomerKey {
    /// The key in the file at `path`, which only its owner may read: 32 bytes, or their base64.
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let fault = |reason: String| ConfigError::CustomerKey { path: path.to_owned(), reason };
        private_file::check(path).map_err(fault)?;
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let key = Self::parse(&bytes);
        key.ok_or_else(|| fault("it holds neither 32 bytes nor their base64".to_owned()))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let key = if bytes.len() == KEY_BYTES {
            bytes.to_vec()
        } else if bytes.len() <= FILE_BYTES_MAX {
            BASE64.decode(bytes.trim_ascii()).ok().filter(|key| key.len() == KEY_BYTES)?
        } else {
            return None;
        };
        Some(Self { key: Secret::new(BASE64.encode(&key)), md5: BASE64.encode(Md5::digest(&key)) })
    }

    /// The headers that tell S3 the key.
    pub(crate) fn headers(&self) -> [(&'static str, &str); 3] {
        [
            ("x-amz-server-side-encryption-customer-algorithm", ALGORITHM),
            ("x-amz-server-side-encryption-customer-key", self.key.reveal()),
            ("x-amz-server-side-encryption-customer-key-md5", &self.md5),
        ]
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_raw_and_in_base64() {
        let raw = [7; KEY_BYTES];
        let text = format!("{}\n", BASE64.encode(raw));
        let [raw, text] =
            [&raw[..], text.as_bytes()].map(|bytes| CustomerKey::parse(bytes).unwrap());
        assert_eq!(raw.headers(), text.headers());
        // `printf '\007%.0s' $(seq 32) | openssl md5 -binary | base64`
        assert_eq!(raw.headers()[2].1, "y4HAEFCYWuvAXWFTtA1Qpg==");
        assert!(!format!("{raw:?}").contains("Bwc"), "{raw:?}");
    }

    #[test]
    fn what_is_no_key_is_none() {
        for bytes in [
            &b""[..],
            b"short",
            &[7; 31],
            &[7; 33],
            "not base64 at all, but 44 characters in length".as_bytes(),
        ] {
            assert!(CustomerKey::parse(bytes).is_none(), "{bytes:?}");
        }
    }
}
