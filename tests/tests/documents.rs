//! The documents say what the code does: every promise has its test, and the README's table of
//! options is the code's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "this is how a test fails")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

/// The root of the checkout.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn document(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// One promise of docs/SEMANTICS.md.
struct Promise {
    id: String,
    /// Name and file of each test that proves it.
    tests: Vec<(String, String)>,
}

/// Reads the promises: items that begin with `- **S-…**` and name tests as `` `name` (file) ``.
fn promises(text: &str) -> Vec<Promise> {
    let mut promises: Vec<Promise> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("- **S-") {
            let id = format!("S-{}", rest.split("**").next().unwrap_or_default());
            promises.push(Promise { id, tests: Vec::new() });
            inside = true;
        } else if !line.starts_with("  ") {
            inside = false;
        }
        if inside {
            let promise = promises.last_mut().expect("a promise was begun");
            promise.tests.extend(tests_in(line));
        }
    }
    promises
}

/// The tests that a line names.
fn tests_in(line: &str) -> impl Iterator<Item = (String, String)> {
    let named = line.match_indices("` (").filter_map(|(end, _)| {
        let name = line[..end].rsplit('`').next()?;
        let file = line[end + 3..].split(')').next()?;
        let source = Path::new(file).extension().is_some_and(|extension| extension == "rs");
        source.then(|| (name.to_owned(), file.to_owned()))
    });
    named.collect::<Vec<_>>().into_iter()
}

/// Why a promise is not kept by tests, if so.
fn broken(promise: &Promise, read: impl Fn(&str) -> Option<String>) -> Option<String> {
    if promise.tests.is_empty() {
        return Some(format!("{} names no test", promise.id));
    }
    promise.tests.iter().find_map(|(name, file)| {
        let source = read(file);
        let Some(source) = source else { return Some(format!("{}: no file {file}", promise.id)) };
        let found = source.contains(&format!("#[test]\nfn {name}()"))
            || source.contains(&format!("#[test]\n    fn {name}()"))
            || source.contains(&format!("#[test]\n        fn {name}("));
        (!found).then(|| format!("{}: no test `{name}` in {file}", promise.id))
    })
}

#[test]
fn every_promise_names_tests_that_are_there() {
    let promises = promises(&document("docs/SEMANTICS.md"));
    assert!(promises.len() > 20, "only {} promises were found", promises.len());
    let ids: BTreeSet<&str> = promises.iter().map(|promise| promise.id.as_str()).collect();
    assert_eq!(ids.len(), promises.len(), "an id stands for one promise");
    let read = |file: &str| fs::read_to_string(root().join(file)).ok();
    let broken: Vec<String> = promises.iter().filter_map(|one| broken(one, read)).collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn a_promise_without_its_test_is_noticed() {
    let text = "- **S-A-1** One. — `there` (tests/x.rs)\n- **S-A-2** Two\n  lines. — `gone` \
                (tests/x.rs)\n- **S-A-3** None.\n\n- no promise\n- **S-A-4** — `there` (y.rs)\n";
    let promises = promises(text);
    let read = |file: &str| (file == "tests/x.rs").then(|| "#[test]\nfn there() {}".to_owned());
    let said: Vec<String> = promises.iter().filter_map(|one| broken(one, read)).collect();
    assert_eq!(
        said,
        ["S-A-2: no test `gone` in tests/x.rs", "S-A-3 names no test", "S-A-4: no file y.rs"]
    );
}

/// Every file that a document names in backquotes with a folder before it is there.
#[test]
fn the_architecture_names_only_files_that_are_there() {
    let text = document("docs/ARCHITECTURE.md");
    let missing: BTreeSet<&str> = text
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|name| name.contains('/') && !name.contains([' ', '<', '*', ':', '\n']))
        .filter(|name| !name.starts_with(['/', '~', '$']))
        .filter(|name| !root().join(name).exists())
        .collect();
    assert!(missing.is_empty(), "docs/ARCHITECTURE.md names {missing:?}");
}

/// Stands before the README's table of options.
const BEGIN: &str = "<!-- options: begin -->\n";
/// Stands behind it.
const END: &str = "<!-- options: end -->";

/// What stands between the markers of the README's table of options.
fn between_markers(text: &str) -> &str {
    let start = text.find(BEGIN).expect("the README has the begin marker") + BEGIN.len();
    let stop = text.find(END).expect("the README has the end marker");
    &text[start..stop]
}

/// A row for every option of the code.
fn options_table() -> String {
    let mut table = "| option | default | meaning |\n|---|---|---|\n".to_owned();
    for option in tenderfs_daemon::config::options() {
        let default = match option.default.as_deref() {
            None => String::new(),
            Some("") => "none".to_owned(),
            Some(value) => format!("`{value}`"),
        };
        writeln!(table, "| `{}` | {default} | {} |", option.name, option.meaning).unwrap();
    }
    table
}

/// Run with `TENDERFS_BLESS=1` to write the table anew.
#[test]
fn the_readmes_table_of_options_is_the_codes() {
    let readme = document("README.md");
    let (written, real) = (between_markers(&readme), options_table());
    #[allow(clippy::disallowed_methods, reason = "how a person asks for the table to be written")]
    let bless = std::env::var_os("TENDERFS_BLESS").is_some();
    if bless {
        let (before, after) = readme.split_once(&format!("{BEGIN}{written}")).unwrap();
        fs::write(root().join("README.md"), format!("{before}{BEGIN}{real}{after}")).unwrap();
        return;
    }
    assert!(
        written == real,
        "the table is out of date: TENDERFS_BLESS=1 cargo test -p tenderfs-tests --test documents"
    );
}
