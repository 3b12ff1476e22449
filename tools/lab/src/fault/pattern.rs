//! Which keys a rule is for.

use serde::{Deserialize, Serialize};

/// A set of keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyPattern {
    /// Every key.
    #[default]
    Any,
    /// This key.
    Exact(String),
    /// Keys that begin so.
    Prefix(String),
    /// `*` stands for any characters, `/` among them, `?` for one, `[a-c]` and `[!a-c]` for one of a set.
    Glob(String),
}

impl KeyPattern {
    /// Whether `key` is in the set.
    pub fn matches(&self, key: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => exact == key,
            Self::Prefix(prefix) => key.starts_with(prefix),
            Self::Glob(pattern) => {
                let pattern: Vec<char> = pattern.chars().collect();
                let key: Vec<char> = key.chars().collect();
                glob(&pattern, &key)
            }
        }
    }
}

/// Matches by going back to the last `*` only, so in time of pattern times key.
fn glob(pattern: &[char], key: &[char]) -> bool {
    let (mut at, mut seen) = (0, 0);
    let mut star = None;
    while seen < key.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, seen));
            at += 1;
        } else if let Some(width) = one(&pattern[at..], key[seen]) {
            at += width;
            seen += 1;
        } else if let Some((behind, from)) = star {
            star = Some((behind, from + 1));
            at = behind;
            seen = from + 1;
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|token| *token == '*')
}

/// Characters of the pattern that match the one `letter`.
fn one(pattern: &[char], letter: char) -> Option<usize> {
    match pattern.first()? {
        '?' => Some(1),
        '[' => match set(&pattern[1..], letter) {
            Some((true, width)) => Some(width + 1),
            Some((false, _)) => None,
            None => (letter == '[').then_some(1),
        },
        token => (*token == letter).then_some(1),
    }
}

/// Whether the set, whose `[` has been read, holds `letter`, and how long it is; `None` if no `]` ends it.
fn set(pattern: &[char], letter: char) -> Option<(bool, usize)> {
    let negated = pattern.first() == Some(&'!');
    let from = usize::from(negated);
    let end = from + 1 + pattern.get(from + 1..)?.iter().position(|token| *token == ']')?;
    let mut rest = &pattern[from..end];
    let mut found = false;
    while let [first, tail @ ..] = rest {
        if let ['-', last, behind @ ..] = tail {
            found |= (*first..=*last).contains(&letter);
            rest = behind;
        } else {
            found |= *first == letter;
            rest = tail;
        }
    }
    Some((found != negated, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_keys() {
        let cases = [
            ("*", "", true),
            ("*", "a/b", true),
            ("a*", "ab", true),
            ("a*", "ba", false),
            ("*.tar", "x/y.tar", true),
            ("*.tar", "x.tar.gz", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("a?c", "aéc", true),
            ("a*b*c", "axxbyybzc", true),
            ("a*b*c", "axxbyybz", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[!a-c]x", "dx", true),
            ("[]x", "[]x", true),
            ("[ab", "[ab", true),
            ("[-]", "-", true),
            ("", "", true),
            ("", "a", false),
            ("**a", "ba", true),
        ];
        for (pattern, key, expected) in cases {
            assert_eq!(KeyPattern::Glob(pattern.into()).matches(key), expected, "{pattern} {key}");
        }
    }
}
