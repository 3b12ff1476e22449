//! Which keys a page of a listing holds. A pure function over a sorted map.
//!
//! Invariant: a group of keys behind one common prefix is passed by one seek, however many keys it has.

use std::borrow::Borrow;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use crate::content::hex;

/// A key in a sorted map. S3 sorts keys by their UTF-8 bytes, as `str` does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) Arc<str>);

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

/// Where a page begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At the first key.
    First,
    /// Behind this key, or behind all keys of the group if it is a common prefix.
    After(String),
    /// Where the page before ended.
    Resume(Resume),
}

/// The place behind the last entry of a page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Resume {
    /// Behind this key.
    Behind(Vec<u8>),
    /// At the first key that is not less than these bytes.
    At(Vec<u8>),
}

impl Resume {
    /// The place as an opaque token.
    pub(crate) fn token(&self) -> String {
        let (kind, bytes) = match self {
            Self::Behind(bytes) => ('b', bytes),
            Self::At(bytes) => ('a', bytes),
        };
        format!("1{kind}{}", hex(bytes))
    }

    /// The place that [`Self::token`] wrote; `None` if it wrote no such token.
    pub(crate) fn parse(token: &str) -> Option<Self> {
        let digits = token.get(2..)?.as_bytes();
        let bytes = digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
            .collect::<Option<Vec<u8>>>()?;
        match (&token[..2], digits.len() % 2) {
            ("1b", 0) => Some(Self::Behind(bytes)),
            ("1a", 0) => Some(Self::At(bytes)),
            _ => None,
        }
    }
}

/// What is asked of a listing.
#[derive(Clone, Debug)]
pub(crate) struct ListQuery<'a> {
    /// Only keys that begin so.
    pub(crate) prefix: &'a str,
    /// Keys that have it behind the prefix are grouped up to it.
    pub(crate) delimiter: Option<&'a str>,
    /// Where to begin.
    pub(crate) start: Start,
    /// Keys and common prefixes in the page at most.
    pub(crate) entries_max: usize,
}

/// One page of a listing.
#[derive(Debug)]
pub(crate) struct Page<'a, V> {
    /// Keys that are in no group.
    pub(crate) objects: Vec<(&'a Arc<str>, &'a V)>,
    /// Common prefixes, each with the delimiter at its end.
    pub(crate) prefixes: Vec<String>,
    /// Where the next page begins; `None` on the last page.
    pub(crate) next: Option<Resume>,
}

/// The page of `map` that `query` asks for.
pub(crate) fn list<'a, V>(map: &'a BTreeMap<Key, V>, query: &ListQuery<'_>) -> Page<'a, V> {
    let mut page = Page { objects: Vec::new(), prefixes: Vec::new(), next: None };
    let mut last = None;
    let mut rest = map.range::<[u8], _>((first_bound(query), Bound::Unbounded));
    while let Some((Key(key), value)) = rest.next() {
        if !key.starts_with(query.prefix) || query.entries_max == 0 {
            break;
        }
        let group = group_of(key, query);
        let passed =
            matches!((&query.start, group), (Start::After(after), Some(group)) if after == group);
        if page.objects.len() + page.prefixes.len() == query.entries_max {
            page.next = last;
            break;
        }
        if let Some(group) = group {
            let behind = successor(group);
            rest = map.range::<[u8], _>((Bound::Included(&behind[..]), Bound::Unbounded));
            if !passed {
                page.prefixes.push(group.to_owned());
                last = Some(Resume::At(behind));
            }
        } else {
            page.objects.push((key, value));
            last = Some(Resume::Behind(key.as_bytes().to_vec()));
        }
    }
    page
}

/// The later of the prefix and the place where the page begins.
fn first_bound<'a>(query: &'a ListQuery<'_>) -> Bound<&'a [u8]> {
    let prefix = query.prefix.as_bytes();
    let (place, bound) = match &query.start {
        Start::First => return Bound::Included(prefix),
        Start::After(key) => (key.as_bytes(), Bound::Excluded(key.as_bytes())),
        Start::Resume(Resume::Behind(key)) => (&key[..], Bound::Excluded(&key[..])),
        Start::Resume(Resume::At(key)) => (&key[..], Bound::Included(&key[..])),
    };
    if place < prefix { Bound::Included(prefix) } else { bound }
}

/// The common prefix that stands for `key`, if the query groups it.
fn group_of<'k>(key: &'k str, query: &ListQuery<'_>) -> Option<&'k str> {
    let delimiter = query.delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let at = key[query.prefix.len()..].find(delimiter)?;
    Some(&key[..query.prefix.len() + at + delimiter.len()])
}

/// The least bytes above every key that begins with `prefix`, which is UTF-8 and so has no byte 0xFF.
fn successor(prefix: &str) -> Vec<u8> {
    let mut bytes = prefix.as_bytes().to_vec();
    if let Some(last) = bytes.last_mut() {
        *last += 1;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All pages, as (keys, common prefixes) of each.
    fn pages(map: &BTreeMap<Key, u8>, mut query: ListQuery<'_>) -> Vec<(Vec<String>, Vec<String>)> {
        let mut pages = Vec::new();
        loop {
            let page = list(map, &query);
            let keys = page.objects.iter().map(|(key, _)| key.to_string()).collect();
            pages.push((keys, page.prefixes));
            let Some(next) = page.next else { return pages };
            let token = next.token();
            assert_eq!(Resume::parse(&token), Some(next.clone()));
            query.start = Start::Resume(next);
        }
    }

    fn map_of<'a>(keys: impl IntoIterator<Item = &'a str>) -> BTreeMap<Key, u8> {
        keys.into_iter().map(|key| (Key(key.into()), 0)).collect()
    }

    #[track_caller]
    fn check(query: &ListQuery<'_>, keys: &[&str], prefixes: &[&str]) {
        let map =
            map_of(["a", "a/", "a/b", "a/b/c", "a/d", "b", "c/x", "c/y", "é/ü", "c//z", "/r"]);
        for entries_max in [1, 2, 3, 1000] {
            let query = ListQuery { entries_max, ..query.clone() };
            let pages = pages(&map, query);
            let got: (Vec<_>, Vec<_>) = pages.into_iter().unzip();
            assert_eq!(got.0.concat(), keys, "keys, {entries_max} a page");
            assert_eq!(got.1.concat(), prefixes, "prefixes, {entries_max} a page");
        }
    }

    fn query<'a>(prefix: &'a str, delimiter: Option<&'a str>, after: &str) -> ListQuery<'a> {
        let start = if after.is_empty() { Start::First } else { Start::After(after.into()) };
        ListQuery { prefix, delimiter, start, entries_max: 1000 }
    }

    #[test]
    fn keys_are_grouped_paged_and_started_after() {
        let all = ["/r", "a", "a/", "a/b", "a/b/c", "a/d", "b", "c//z", "c/x", "c/y", "é/ü"];
        check(&query("", None, ""), &all, &[]);
        check(&query("", None, "a/b"), &all[4..], &[]);
        check(&query("", Some("/"), ""), &["a", "b"], &["/", "a/", "c/", "é/"]);
        check(&query("a/", Some("/"), ""), &["a/", "a/b", "a/d"], &["a/b/"]);
        check(&query("a/", Some("/"), "a/b"), &["a/d"], &["a/b/"]);
        check(&query("c/", Some("/"), ""), &["c/x", "c/y"], &["c//"]);
        check(&query("c", Some("x"), ""), &["c//z", "c/y"], &["c/x"]);
        check(&query("é", Some("/"), ""), &[], &["é/"]);
        check(&query("", Some(""), ""), &all, &[]);
        check(&query("zz", None, ""), &[], &[]);
        check(&query("a/", None, "0"), &["a/", "a/b", "a/b/c", "a/d"], &[]);
        check(&query("a/", None, "b"), &[], &[]);
    }

    #[test]
    fn start_after_a_common_prefix_passes_its_group() {
        check(&query("", Some("/"), "a/"), &["b"], &["c/", "é/"]);
        check(&query("", Some("/"), "a/b"), &["b"], &["a/", "c/", "é/"]);
    }

    #[test]
    fn a_page_of_no_entries_is_the_last() {
        let map = map_of(["a", "b"]);
        let page = list(&map, &ListQuery { entries_max: 0, ..query("", None, "") });
        assert!(page.objects.is_empty() && page.next.is_none());
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for token in ["", "1", "1b", "1bzz", "1b6", "2b61", "é", "1é61", "again"] {
            let parsed = Resume::parse(token);
            assert!(parsed.is_none() || token == "1b", "{token}");
        }
    }

    /// Definition of right: filter, group, sort.
    fn naive(keys: &BTreeMap<Key, u8>, query: &ListQuery<'_>) -> Vec<String> {
        let after = match &query.start {
            Start::After(after) => after.as_str(),
            _ => "",
        };
        let mut entries: Vec<String> = keys
            .keys()
            .map(|Key(key)| &**key)
            .filter(|key| key.starts_with(query.prefix) && (after.is_empty() || *key > after))
            .map(|key| {
                let rest = &key[query.prefix.len()..];
                match query.delimiter.and_then(|delimiter| rest.split_once(delimiter)) {
                    Some((head, _)) => format!("{}{head}/", query.prefix),
                    None => key.to_owned(),
                }
            })
            .filter(|entry| !(entry == after && query.delimiter.is_some()))
            .collect();
        entries.sort();
        entries.dedup();
        entries
    }

    proptest! {
        #[test]
        fn pages_equal_the_naive_listing(
            keys in prop::collection::btree_set("[a-c/]{1,6}", 0..60),
            prefix in "[a-c/]{0,3}",
            after in "[a-c/]{0,4}",
            delimited in any::<bool>(),
            entries_max in 1usize..8,
        ) {
            let map = map_of(keys.iter().map(String::as_str));
            let delimiter = delimited.then_some("/");
            let query = ListQuery { entries_max, ..query(&prefix, delimiter, &after) };
            let expected = naive(&map, &query);
            let pages = pages(&map, query);
            for (keys, prefixes) in &pages {
                prop_assert!(keys.len() + prefixes.len() <= entries_max);
            }
            let mut got: Vec<String> =
                pages.into_iter().flat_map(|(keys, prefixes)| [keys, prefixes].concat()).collect();
            got.sort();
            prop_assert_eq!(got, expected);
        }
    }
}
