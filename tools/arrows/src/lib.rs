//! Checks that the crates of the workspace depend on each other exactly as the drawing in
//! docs/ARCHITECTURE.md shows.
//!
//! The drawing is a fenced block in the language `arrows`, a line per crate:
//!
//! ```text
//! daemon -> fuse, cache, s3client     # normal dependencies
//! dev daemon -> lab                   # only its tests may use the lab
//! build daemon -> telemetry           # only its build script may
//! byterange ->                        # names none of ours
//! ```
//!
//! Names are package names without the prefix `tenderfs-`. `#` starts a comment.
//!
//! Architecture invariant: the comparison ([`differences`]) does no I/O; cargo itself says what the
//! dependencies are ([`Workspace::from_metadata`]), so renames and targets are understood.

use std::collections::BTreeSet;
use std::fmt;

use serde::Deserialize;

/// What our package names begin with and the drawing leaves out.
const PREFIX: &str = "tenderfs-";

/// Why one crate needs another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// `[dependencies]`.
    Normal,
    /// `[dev-dependencies]`: its tests and benches only.
    Dev,
    /// `[build-dependencies]`: its build script only.
    Build,
}

impl Kind {
    /// The word that stands before such an arrow in the drawing.
    fn word(self) -> &'static str {
        match self {
            Self::Normal => "",
            Self::Dev => "dev ",
            Self::Build => "build ",
        }
    }

    /// The table of Cargo.toml that holds such dependencies.
    fn table(self) -> &'static str {
        match self {
            Self::Normal => "[dependencies]",
            Self::Dev => "[dev-dependencies]",
            Self::Build => "[build-dependencies]",
        }
    }
}

/// One crate of the workspace naming another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Arrow {
    /// The crate whose manifest has the dependency.
    pub from: String,
    /// The crate it depends on.
    pub to: String,
    /// In which table of the manifest.
    pub kind: Kind,
}

impl fmt::Display for Arrow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{} -> {}", self.kind.word(), self.from, self.to)
    }
}

/// A set of crates and the arrows between them.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Workspace {
    /// Every crate, without the prefix.
    pub crates: BTreeSet<String>,
    /// Every dependency of one of them on another.
    pub arrows: BTreeSet<Arrow>,
}

/// Why no comparison could be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The architecture document holds no drawing.
    #[error("no block ```arrows in the document: draw one line per crate, `daemon -> fuse, cache`")]
    NoDrawing,
    /// The drawing is never closed.
    #[error("the block ```arrows that begins in line {line} has no end")]
    Unclosed {
        /// Line of the opening fence, from 1.
        line: usize,
    },
    /// A line of the drawing is not an arrow.
    #[error(
        "line {line}: `{text}` is not an arrow: write `crate -> crate, crate` or `crate ->`, with \
         `dev` or `build` before it where only tests or a build script may use it"
    )]
    NotAnArrow {
        /// Line in the document, from 1.
        line: usize,
        /// What stands there.
        text: String,
    },
    /// What cargo printed is not its metadata.
    #[error("`cargo metadata` printed something else than its JSON")]
    Metadata(#[from] serde_json::Error),
}

/// A place where the drawing and the manifests do not agree.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Difference {
    /// A manifest has a dependency that nobody drew.
    NotDrawn(Arrow),
    /// The drawing shows a dependency that no manifest has.
    NotThere(Arrow),
    /// A member of the workspace does not stand in the drawing.
    CrateNotDrawn(String),
    /// The drawing names a crate that is no member of the workspace.
    CrateNotThere(String),
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotDrawn(arrow) => write!(
                f,
                "crate `{}` has the arrow `{arrow}` ({} of its Cargo.toml), which the drawing does \
                 not have: remove the dependency, or draw and justify the arrow",
                arrow.from,
                arrow.kind.table()
            ),
            Self::NotThere(arrow) => write!(
                f,
                "crate `{}` does not have the drawn arrow `{arrow}`: remove it from the drawing",
                arrow.from
            ),
            Self::CrateNotDrawn(name) => {
                write!(f, "crate `{name}` is not in the drawing: add a line `{name} ->`")
            }
            Self::CrateNotThere(name) => {
                write!(f, "crate `{name}` is drawn but is no member of the workspace")
            }
        }
    }
}

impl Workspace {
    /// The workspace as `cargo metadata --format-version 1 --no-deps` describes it.
    pub fn from_metadata(json: &str) -> Result<Self, Error> {
        let metadata: Metadata = serde_json::from_str(json)?;
        let members: BTreeSet<&str> =
            metadata.packages.iter().map(|package| package.name.as_str()).collect();
        let mut workspace = Self::default();
        for package in &metadata.packages {
            workspace.crates.insert(short(&package.name));
            for dependency in &package.dependencies {
                if dependency.path.is_some() && members.contains(dependency.name.as_str()) {
                    workspace.arrows.insert(Arrow {
                        from: short(&package.name),
                        to: short(&dependency.name),
                        kind: dependency.kind(),
                    });
                }
            }
        }
        Ok(workspace)
    }

    /// The workspace as the first `arrows` block of a Markdown document draws it.
    pub fn from_drawing(document: &str) -> Result<Self, Error> {
        let mut lines = document.lines().enumerate().map(|(index, line)| (index + 1, line.trim()));
        let (opened, _) =
            lines.by_ref().find(|(_, line)| *line == "```arrows").ok_or(Error::NoDrawing)?;
        let mut workspace = Self::default();
        for (line, text) in lines {
            if text == "```" {
                return Ok(workspace);
            }
            let drawn = text.split('#').next().unwrap_or_default().trim();
            if !drawn.is_empty() {
                workspace
                    .draw(drawn)
                    .ok_or_else(|| Error::NotAnArrow { line, text: text.to_owned() })?;
            }
        }
        Err(Error::Unclosed { line: opened })
    }

    /// Adds one line of the drawing; `None` if it is not an arrow.
    fn draw(&mut self, line: &str) -> Option<()> {
        let (left, right) = line.split_once("->")?;
        let (kind, from) = match left.split_whitespace().collect::<Vec<_>>()[..] {
            [from] => (Kind::Normal, from),
            ["dev", from] => (Kind::Dev, from),
            ["build", from] => (Kind::Build, from),
            _ => return None,
        };
        self.crates.insert(from.to_owned());
        if right.trim().is_empty() {
            return Some(());
        }
        for to in right.split(',').map(str::trim) {
            if to.is_empty() || to.contains(char::is_whitespace) {
                return None;
            }
            self.crates.insert(to.to_owned());
            self.arrows.insert(Arrow { from: from.to_owned(), to: to.to_owned(), kind });
        }
        Some(())
    }
}

/// Every place where the manifests are not as drawn; empty if they agree.
pub fn differences(drawn: &Workspace, real: &Workspace) -> Vec<Difference> {
    let extra = real.arrows.difference(&drawn.arrows).cloned().map(Difference::NotDrawn);
    let stale = drawn.arrows.difference(&real.arrows).cloned().map(Difference::NotThere);
    let undrawn = real.crates.difference(&drawn.crates).cloned().map(Difference::CrateNotDrawn);
    let unknown = drawn.crates.difference(&real.crates).cloned().map(Difference::CrateNotThere);
    extra.chain(stale).chain(undrawn).chain(unknown).collect()
}

/// A crate's name as the drawing has it.
fn short(package: &str) -> String {
    package.strip_prefix(PREFIX).unwrap_or(package).to_owned()
}

/// The part of cargo's metadata that is read here.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    /// The package's own name, whatever the manifest renames it to.
    name: String,
    kind: Option<String>,
    /// Present for a dependency by path, as all of ours on each other are.
    path: Option<String>,
}

impl Dependency {
    fn kind(&self) -> Kind {
        match self.kind.as_deref() {
            Some("dev") => Kind::Dev,
            Some("build") => Kind::Build,
            _ => Kind::Normal,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWING: &str = "# Doc\n```arrows\n# below all\nbyterange ->\ncache -> byterange # why\n\
                           daemon -> cache, byterange\ndev daemon -> lab\nlab ->\n```\nend\n";

    /// Metadata with the given (from, to, kind) dependencies by path.
    fn metadata(dependencies: &[(&str, &str, &str)]) -> String {
        let packages: Vec<_> = ["byterange", "cache", "daemon", "lab"]
            .iter()
            .map(|name| {
                let dependencies: Vec<_> = dependencies
                    .iter()
                    .filter(|(from, ..)| from == name)
                    .map(|(_, to, kind)| {
                        let kind = (!kind.is_empty()).then_some(*kind);
                        serde_json::json!({
                            "name": format!("{PREFIX}{to}"), "kind": kind, "path": "/x"
                        })
                    })
                    .chain([serde_json::json!({"name": "serde", "kind": null})])
                    .collect();
                serde_json::json!({"name": format!("{PREFIX}{name}"), "dependencies": dependencies})
            })
            .collect();
        serde_json::json!({ "packages": packages }).to_string()
    }

    const AS_DRAWN: [(&str, &str, &str); 4] = [
        ("cache", "byterange", ""),
        ("daemon", "cache", ""),
        ("daemon", "byterange", ""),
        ("daemon", "lab", "dev"),
    ];

    #[track_caller]
    fn check(dependencies: &[(&str, &str, &str)], expected: &[&str]) {
        let drawn = Workspace::from_drawing(DRAWING).unwrap();
        let real = Workspace::from_metadata(&metadata(dependencies)).unwrap();
        let said: Vec<_> = differences(&drawn, &real).iter().map(ToString::to_string).collect();
        assert_eq!(said.len(), expected.len(), "{said:#?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said} does not say {expected}");
        }
    }

    #[test]
    fn manifests_as_drawn_differ_nowhere() {
        check(&AS_DRAWN, &[]);
    }

    #[test]
    fn an_arrow_that_nobody_drew_is_named_with_its_crate() {
        let mut planted = AS_DRAWN.to_vec();
        planted.push(("cache", "lab", ""));
        check(&planted, &["crate `cache` has the arrow `cache -> lab` ([dependencies]"]);
    }

    #[test]
    fn a_dev_arrow_does_not_allow_a_normal_one() {
        let mut planted = AS_DRAWN.to_vec();
        planted[3].2 = "";
        check(&planted, &["`daemon -> lab` ([dependencies]", "drawn arrow `dev daemon -> lab`"]);
        planted[3].2 = "build";
        check(&planted, &["`build daemon -> lab` ([build-dep", "drawn arrow `dev daemon -> lab`"]);
    }

    #[test]
    fn a_drawn_arrow_that_no_manifest_has_is_stale() {
        check(&AS_DRAWN[1..], &["does not have the drawn arrow `cache -> byterange`"]);
    }

    #[test]
    fn every_crate_stands_in_the_drawing_and_no_other() {
        let drawn = Workspace::from_drawing("```arrows\na ->\nb ->\n```").unwrap();
        let real = Workspace { crates: ["b", "c"].map(str::to_owned).into(), ..drawn.clone() };
        assert_eq!(
            differences(&drawn, &real),
            [Difference::CrateNotDrawn("c".to_owned()), Difference::CrateNotThere("a".to_owned())]
        );
    }

    #[test]
    fn what_is_not_an_arrow_is_an_error_with_its_line() {
        for (drawing, said) in [
            ("text", "no block"),
            ("```arrows\na -> b\n", "begins in line 1 has no end"),
            ("x\n```arrows\na => b\n```", "line 3: `a => b`"),
            ("```arrows\na -> b c\n```", "line 2"),
            ("```arrows\na -> b,\n```", "line 2"),
            ("```arrows\nmaybe a -> b\n```", "line 2"),
            ("```arrows\n-> b\n```", "line 2"),
        ] {
            let error = Workspace::from_drawing(drawing).unwrap_err().to_string();
            assert!(error.contains(said), "{drawing:?}: {error}");
        }
        assert!(Workspace::from_metadata("[]").is_err());
    }
}
