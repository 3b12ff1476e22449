//! What is mounted: the bucket and prefix a source names.
//!
//! Accepted are `bucket`, `bucket/prefix`, `s3://bucket`, `s3://bucket/prefix`, each with or without
//! a trailing slash, and `s3:/bucket/prefix`, because systemd collapses slashes when it makes a
//! mount unit of an fstab line.

use std::fmt;

/// The part of S3 that a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Name of the bucket.
    pub bucket: String,
    /// Keys outside this prefix do not exist for the mount; empty, or ends with `/`.
    pub prefix: String,
}

/// Why a text is no source.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// The text is empty or names no bucket.
    #[error("no bucket is named; write s3://BUCKET or s3://BUCKET/PREFIX")]
    NoBucket,
    /// The scheme is not S3's.
    #[error("{scheme}: is not supported; write s3://BUCKET or s3://BUCKET/PREFIX")]
    Scheme {
        /// What stood before `://`.
        scheme: String,
    },
    /// S3 allows no bucket of this name.
    #[error(
        "`{bucket}` cannot be a bucket: names have 3 to 255 characters of a-z, A-Z, 0-9, `.`, `-`, `_`, and begin and end with a letter or digit"
    )]
    BadBucket {
        /// The name as written.
        bucket: String,
    },
    /// The prefix could never be a folder path.
    #[error(
        "`{prefix}` cannot be a prefix: its folders must not be empty, `.` or `..`, nor hold a NUL"
    )]
    BadPrefix {
        /// The prefix as written.
        prefix: String,
    },
}

impl Source {
    /// Parses a source. A leading slash of the prefix and a missing trailing one are mended.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let path = without_scheme(text)?;
        let (bucket, prefix) = path.split_once('/').unwrap_or((path, ""));
        if bucket.is_empty() {
            return Err(SourceError::NoBucket);
        }
        if !is_bucket_name(bucket) {
            return Err(SourceError::BadBucket { bucket: bucket.to_owned() });
        }
        Ok(Self { bucket: bucket.to_owned(), prefix: normalise_prefix(prefix)? })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

/// The prefix as keys have it: no leading slash, and a trailing one unless it is empty.
pub fn normalise_prefix(prefix: &str) -> Result<String, SourceError> {
    let trimmed = prefix.trim_matches('/');
    if trimmed.is_empty() {
        return Ok(String::new());
    }
    let is_folder = |part: &str| !matches!(part, "" | "." | "..") && !part.contains('\0');
    if !trimmed.split('/').all(is_folder) {
        return Err(SourceError::BadPrefix { prefix: prefix.to_owned() });
    }
    Ok(format!("{trimmed}/"))
}

/// What follows `s3://` (or `s3:/`), or the whole text if it has no scheme.
fn without_scheme(text: &str) -> Result<&str, SourceError> {
    if let Some(rest) = text.strip_prefix("s3://").or_else(|| text.strip_prefix("s3:/")) {
        return Ok(rest);
    }
    match text.split_once(':') {
        Some((scheme, rest)) if rest.starts_with('/') => {
            Err(SourceError::Scheme { scheme: scheme.to_owned() })
        }
        _ => Ok(text),
    }
}

/// Whether S3 or a compatible store could have such a bucket. Wider than today's rule of AWS (3 to
/// 63 characters, lower case) because buckets older than 2018 and other stores are.
fn is_bucket_name(name: &str) -> bool {
    let inner = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    (3..=255).contains(&bytes.len())
        && bytes.iter().all(|c| inner(*c))
        && edge(bytes.first())
        && edge(bytes.last())
        && !name.contains("..")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, bucket: &str, prefix: &str) {
        let source = Source::parse(text).unwrap();
        assert_eq!((source.bucket.as_str(), source.prefix.as_str()), (bucket, prefix), "{text:?}");
    }

    #[test]
    fn every_way_of_writing_a_source_names_the_same_bucket_and_prefix() {
        for text in ["data", "data/", "s3://data", "s3://data/", "s3:/data", "s3:/data/"] {
            check(text, "data", "");
        }
        for text in
            ["data/a/b", "s3://data/a/b", "s3://data/a/b/", "s3:/data/a/b", "s3://data//a/b"]
        {
            check(text, "data", "a/b/");
        }
        check("s3://my.bucket-1/übung/x y", "my.bucket-1", "übung/x y/");
    }

    #[test]
    fn a_source_is_printed_so_that_it_parses_to_itself() {
        for text in ["s3://data/", "s3://data/a/b/"] {
            let source = Source::parse(text).unwrap();
            assert_eq!(source.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_source_says_why() {
        let bad = |bucket: &str| SourceError::BadBucket { bucket: bucket.to_owned() };
        for (text, error) in [
            ("", SourceError::NoBucket),
            ("s3://", SourceError::NoBucket),
            ("s3:///prefix", SourceError::NoBucket),
            ("gs://data", SourceError::Scheme { scheme: "gs".to_owned() }),
            ("https://data.s3.amazonaws.com", SourceError::Scheme { scheme: "https".to_owned() }),
            ("ab", bad("ab")),
            ("s3://-data", bad("-data")),
            ("s3://da..ta", bad("da..ta")),
            ("s3://da ta", bad("da ta")),
            ("host:bucket", bad("host:bucket")),
            ("data/a/../b", SourceError::BadPrefix { prefix: "a/../b".to_owned() }),
            ("data/a//b", SourceError::BadPrefix { prefix: "a//b".to_owned() }),
        ] {
            assert_eq!(Source::parse(text), Err(error), "{text:?}");
        }
    }
}
