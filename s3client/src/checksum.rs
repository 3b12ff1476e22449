//! The checksum that S3 keeps of an object, and whether bytes have it.
//!
//! S3 sends it with an answer that holds the whole object, if it was asked to and the writer had one
//! made ("Checking object integrity" in the Amazon S3 user guide). The checksum of an object that was
//! written in parts may be one of the parts' checksums, which says nothing about its bytes.
//!
//! Invariant: decides only.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use crc_fast::CrcAlgorithm;
use http::HeaderMap;

/// Asks for the checksum.
pub(crate) const MODE_HEADER: &str = "x-amz-checksum-mode";
/// The value of [`MODE_HEADER`].
pub(crate) const MODE_ENABLED: &str = "ENABLED";

/// How a checksum is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Crc64Nvme,
    Crc32c,
    Crc32,
    Sha256,
    Sha1,
}

impl Algorithm {
    /// All that S3 has, the cheapest first.
    const ALL: [Self; 5] = [Self::Crc64Nvme, Self::Crc32c, Self::Crc32, Self::Sha256, Self::Sha1];

    fn header(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "x-amz-checksum-crc64nvme",
            Self::Crc32c => "x-amz-checksum-crc32c",
            Self::Crc32 => "x-amz-checksum-crc32",
            Self::Sha256 => "x-amz-checksum-sha256",
            Self::Sha1 => "x-amz-checksum-sha1",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Crc64Nvme => "CRC64NVME",
            Self::Crc32c => "CRC32C",
            Self::Crc32 => "CRC32",
            Self::Sha256 => "SHA-256",
            Self::Sha1 => "SHA-1",
        }
    }

    fn digest_bytes(self) -> usize {
        match self {
            Self::Crc64Nvme => 8,
            Self::Crc32c | Self::Crc32 => 4,
            Self::Sha256 => 32,
            Self::Sha1 => 20,
        }
    }

    fn is_of(self, bytes: &[u8], digest: &[u8]) -> bool {
        let crc = |algorithm| crc_fast::checksum(algorithm, bytes).to_be_bytes();
        let sha = |algorithm| aws_lc_rs::digest::digest(algorithm, bytes);
        match self {
            Self::Crc64Nvme => crc(CrcAlgorithm::Crc64Nvme) == digest,
            Self::Crc32c => crc(CrcAlgorithm::Crc32Iscsi)[4..] == *digest,
            Self::Crc32 => crc(CrcAlgorithm::Crc32IsoHdlc)[4..] == *digest,
            Self::Sha256 => sha(&aws_lc_rs::digest::SHA256).as_ref() == digest,
            Self::Sha1 => sha(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY).as_ref() == digest,
        }
    }
}

/// The checksum that an answer's bytes must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checksum {
    algorithm: Algorithm,
    digest: Vec<u8>,
}

impl Checksum {
    /// The checksum of the whole object that `headers` carry; `None` if there is none, or it is one of
    /// parts, or cannot be read.
    pub(crate) fn of_whole(headers: &HeaderMap) -> Option<Self> {
        let text = |name| headers.get(name)?.to_str().ok().map(str::trim);
        if text("x-amz-checksum-type").is_some_and(|kind| kind.eq_ignore_ascii_case("COMPOSITE")) {
            return None;
        }
        Algorithm::ALL.into_iter().find_map(|algorithm| {
            // That of parts ends in their number (`-3`), which is no base64.
            let digest = BASE64.decode(text(algorithm.header())?).ok()?;
            (digest.len() == algorithm.digest_bytes()).then_some(Self { algorithm, digest })
        })
    }

    /// Whether it is that of `bytes`.
    pub(crate) fn is_of(&self, bytes: &[u8]) -> bool {
        self.algorithm.is_of(bytes, &self.digest)
    }

    /// How it is made, for messages.
    pub(crate) fn name(&self) -> &'static str {
        self.algorithm.name()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    /// The check values of the CRC catalogue (reveng) and of FIPS 180-4, in base64.
    #[test]
    fn every_algorithm_of_s3_gives_its_published_value() {
        for (name, value) in [
            ("x-amz-checksum-crc64nvme", "rosUhgp5mIg="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-crc32", "y/Q5Jg=="),
            ("x-amz-checksum-sha256", "FeKw09qaoCnDuwKjjtpowQpNlyuLVZdLLjdTRjdu9NU="),
            ("x-amz-checksum-sha1", "98OpBSDvHRhZjfLdzctAtTQBIQ4="),
        ] {
            let checksum = Checksum::of_whole(&headers(&[(name, value)]));
            let checksum = checksum.unwrap_or_else(|| panic!("{name}"));
            assert_eq!(checksum.algorithm.header(), name);
            if name.contains("crc") {
                assert!(checksum.is_of(b"123456789"), "{name}");
            }
            assert!(!checksum.is_of(b"123456788"), "{name}");
        }
        let abc = [("x-amz-checksum-sha256", "ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=")];
        assert!(Checksum::of_whole(&headers(&abc)).unwrap().is_of(b"abc"));
        let abc = [("x-amz-checksum-sha1", "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=")];
        assert!(Checksum::of_whole(&headers(&abc)).unwrap().is_of(b"abc"));
    }

    #[test]
    fn what_is_no_checksum_of_the_bytes_is_not_taken_for_one() {
        for pairs in [
            &[][..],
            &[("x-amz-checksum-crc32c", "4waSgw==-3")],
            &[("x-amz-checksum-crc32c", "4waSgw=="), ("x-amz-checksum-type", "COMPOSITE")],
            &[("x-amz-checksum-crc32c", "rosUhgp5mIg=")],
            &[("x-amz-checksum-crc32c", "?")],
            &[("x-amz-checksum-md5", "4waSgw==")],
        ] {
            assert_eq!(Checksum::of_whole(&headers(pairs)), None, "{pairs:?}");
        }
    }

    #[test]
    fn the_cheapest_is_compared() {
        let both = headers(&[
            ("x-amz-checksum-sha1", "98OpBSDvHRhZjfLdzctAtTQBIQ4="),
            ("x-amz-checksum-crc32c", "4waSgw=="),
            ("x-amz-checksum-type", "FULL_OBJECT"),
        ]);
        assert_eq!(Checksum::of_whole(&both).unwrap().name(), "CRC32C");
    }
}
