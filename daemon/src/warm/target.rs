//! Which mount a request means, and which path in it. Pure.

use std::path::{Component, Path};

use super::{Place, WarmError};

/// The mount and the path in it, without slashes at its ends; empty is the whole mount.
pub(crate) fn find<'a>(
    mount: Option<&str>,
    written: &str,
    places: &'a [Place],
) -> Result<(&'a Place, String), WarmError> {
    let path = Path::new(written);
    let place = match mount {
        Some(mount) => named(mount, places)?,
        None if path.is_absolute() => covering(path, places)
            .ok_or_else(|| WarmError::NotUnderAMount { path: written.to_owned() })?,
        None => match places {
            [only] => only,
            _ => return Err(WarmError::WhichMount),
        },
    };
    let relative = if path.is_absolute() {
        path.strip_prefix(&place.mountpoint)
            .map_err(|_| WarmError::NotUnderAMount { path: written.to_owned() })?
    } else {
        path
    };
    Ok((place, key_part(relative, written)?))
}

/// The mount of this name or mount point.
fn named<'a>(mount: &str, places: &'a [Place]) -> Result<&'a Place, WarmError> {
    let is_it = |place: &&Place| place.name == mount || place.mountpoint == Path::new(mount);
    places.iter().find(is_it).ok_or_else(|| WarmError::NoSuchMount { mount: mount.to_owned() })
}

/// The mount with the longest mount point above `path`.
fn covering<'a>(path: &Path, places: &'a [Place]) -> Option<&'a Place> {
    let above = places.iter().filter(|place| path.starts_with(&place.mountpoint));
    above.max_by_key(|place| place.mountpoint.as_os_str().len())
}

/// A relative path as part of a key; paths that leave the mount or name nothing in it are refused.
fn key_part(path: &Path, written: &str) -> Result<String, WarmError> {
    let bad = || WarmError::BadPath { path: written.to_owned() };
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(bad)?),
            Component::CurDir => {}
            _ => return Err(bad()),
        }
    }
    let joined = parts.join("/");
    (!joined.contains('\0')).then_some(joined).ok_or_else(bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::warm::tests::place;

    #[track_caller]
    fn check(mount: Option<&str>, path: &str, expected: Result<(&str, &str), WarmError>) {
        let places = [place("data", "/mnt/data", ""), place("sub", "/mnt/data/sub", "p/")];
        let found = find(mount, path, &places).map(|(place, path)| (place.name.clone(), path));
        let expected = expected.map(|(name, path)| (name.to_owned(), path.to_owned()));
        assert_eq!(found, expected, "{mount:?} {path:?}");
    }

    #[test]
    fn a_path_finds_its_mount() {
        check(None, "/mnt/data/a/b", Ok(("data", "a/b")));
        check(None, "/mnt/data/", Ok(("data", "")));
        check(None, "/mnt/data/sub/x", Ok(("sub", "x")));
        check(None, "/mnt/data/subway", Ok(("data", "subway")));
        check(Some("sub"), "x/", Ok(("sub", "x")));
        check(Some("/mnt/data"), "./x", Ok(("data", "x")));
        check(Some("data"), "", Ok(("data", "")));
        check(Some("data"), "/mnt/data/x", Ok(("data", "x")));
    }

    #[test]
    fn what_no_mount_has_is_refused() {
        let under = |path: &str| WarmError::NotUnderAMount { path: path.to_owned() };
        let bad = |path: &str| WarmError::BadPath { path: path.to_owned() };
        check(None, "/mnt/other", Err(under("/mnt/other")));
        check(Some("data"), "/mnt/other", Err(under("/mnt/other")));
        check(None, "a", Err(WarmError::WhichMount));
        check(Some("x"), "a", Err(WarmError::NoSuchMount { mount: "x".to_owned() }));
        check(Some("data"), "../x", Err(bad("../x")));
        check(None, "/mnt/data/../../etc", Err(bad("/mnt/data/../../etc")));
        check(Some("data"), "a\0b", Err(bad("a\0b")));
    }
}
