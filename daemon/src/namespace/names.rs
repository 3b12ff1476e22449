//! Which S3 keys can be file names, and which are hidden.
//!
//! Keys are arbitrary UTF-8; a path component is not empty, not `.` or `..`, holds no `/` and no
//! NUL and has at most 255 bytes. Keys that break a rule are hidden: left out of every directory,
//! counted, and logged once per mount. Everything else in the bucket keeps working.

/// The longest path component Linux knows, in bytes (`NAME_MAX`).
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// Why a key cannot be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hidden {
    /// Two slashes in a row, or one at the start: a component would be empty.
    EmptyComponent,
    /// A component is `.` or `..`.
    DotComponent,
    /// A component holds a NUL byte.
    Nul,
    /// A component has more than 255 bytes.
    TooLong,
}

impl Hidden {
    /// The reason in words, for the log.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::EmptyComponent => "an empty path component (\"//\" or a leading \"/\")",
            Self::DotComponent => "a path component \".\" or \"..\"",
            Self::Nul => "a NUL byte",
            Self::TooLong => "a path component of more than 255 bytes",
        }
    }
}

/// Checks one path component.
pub(crate) fn check_component(name: &str) -> Result<(), Hidden> {
    if name.is_empty() {
        Err(Hidden::EmptyComponent)
    } else if name == "." || name == ".." {
        Err(Hidden::DotComponent)
    } else if name.contains('\0') {
        Err(Hidden::Nul)
    } else if name.len() > NAME_BYTES_MAX {
        Err(Hidden::TooLong)
    } else {
        Ok(())
    }
}

/// What an entry of a listing with delimiter is, seen from the directory that was listed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Component<'a> {
    /// The marker of the directory itself (`dir/` listed under `dir/`): not an entry.
    Itself,
    /// A name directly in the directory.
    Name(&'a str),
}

/// The name that `key` (an object key, or a common prefix with its trailing slash) has in the
/// directory `prefix`.
///
/// A key outside `prefix` is treated as hidden: the store answered something it was not asked.
pub(crate) fn component<'a>(prefix: &str, key: &'a str) -> Result<Component<'a>, Hidden> {
    let Some(rest) = key.strip_prefix(prefix) else { return Err(Hidden::EmptyComponent) };
    if rest.is_empty() {
        return Ok(Component::Itself);
    }
    let name = rest.strip_suffix('/').unwrap_or(rest);
    check_component(name)?;
    if name.contains('/') {
        return Err(Hidden::EmptyComponent);
    }
    Ok(Component::Name(name))
}

/// Whether every component of `path` (relative to the mount's prefix) can be shown, so that the
/// file is reachable through the mount.
pub(crate) fn is_reachable(path: &str) -> bool {
    !path.is_empty() && path.split('/').all(|name| check_component(name).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(prefix: &str, key: &str, expected: &Result<Component<'_>, Hidden>) {
        assert_eq!(&component(prefix, key), expected, "{key:?} under {prefix:?}");
    }

    #[test]
    fn keys_that_cannot_be_names_are_hidden() {
        check("", "a", &Ok(Component::Name("a")));
        check("", "a/", &Ok(Component::Name("a")));
        check("d/", "d/", &Ok(Component::Itself));
        check("d/", "d/x.tar", &Ok(Component::Name("x.tar")));
        check("d/", "d//", &Err(Hidden::EmptyComponent));
        check("", "/", &Err(Hidden::EmptyComponent));
        check("", "../", &Err(Hidden::DotComponent));
        check("d/", "d/.", &Err(Hidden::DotComponent));
        check("", "a\0b", &Err(Hidden::Nul));
        check("", "line\nfeed", &Ok(Component::Name("line\nfeed")));
        check("", &"x".repeat(256), &Err(Hidden::TooLong));
        check("d/", "elsewhere/x", &Err(Hidden::EmptyComponent));
        let longest = "x".repeat(255);
        check("", &longest, &Ok(Component::Name(&longest)));
    }

    #[test]
    fn a_path_is_reachable_when_each_component_is() {
        for (path, reachable) in
            [("a/b", true), ("", false), ("a//b", false), ("a/../b", false), ("a/", false)]
        {
            assert_eq!(is_reachable(path), reachable, "{path:?}");
        }
    }
}
