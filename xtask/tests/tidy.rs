//! Rooms stay rooms, and promises stay where they are kept.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// Files that were over a limit when it was set. Numbers here may only shrink.
const LONG_FUNCTIONS_ALLOWED: usize = 4;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && name != "node_modules" {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    for folder in ["crates", "packs", "xtask"] {
        rust_files(&root().join(folder), &mut files);
    }
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    files.into_iter().map(read).collect()
}

#[test]
fn a_file_is_a_room() {
    let long: Vec<_> = sources()
        .into_iter()
        .map(|(name, text)| (name, text.lines().count()))
        .filter(|(_, lines)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "over {FILE_LINES_MAX} lines: {long:?}");
}

/// Lengths of functions, told by indentation: rustfmt closes a function in the column of its `fn`.
fn functions(text: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let lines: Vec<_> = text.lines().collect();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let is_fn = [
            "fn ",
            "pub fn ",
            "pub(crate) fn ",
            "pub(super) fn ",
            "async fn ",
            "pub async fn ",
            "pub(crate) async fn ",
        ]
        .iter()
        .any(|start| code.starts_with(start));
        if !is_fn || code.ends_with(';') {
            continue;
        }
        // A signature over several lines that ends without a body: a method of a trait.
        let signature_ends = format!("{})", " ".repeat(indent));
        let ends = |line: &&&str| line.starts_with(&signature_ends);
        if !code.ends_with('{')
            && lines[at..]
                .iter()
                .find(ends)
                .is_some_and(|end| end.ends_with(';'))
        {
            continue;
        }
        let close = format!("{}}}", " ".repeat(indent));
        if let Some(end) = lines[at..].iter().position(|line| *line == close) {
            found.push((code.split('(').next().unwrap_or(code).to_owned(), end + 1));
        }
    }
    found
}

/// Tests and examples may be long: they are read from top to bottom.
fn is_trial(name: &str) -> bool {
    name.contains("/tests/") || name.contains("/examples/")
}

#[test]
fn a_function_does_one_thing() {
    let mut long = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_trial(name)) {
        let (code, _tests) = text.split_once("\nmod tests {").unwrap_or((text, ""));
        for (function, lines) in functions(code) {
            if lines > FUNCTION_LINES_MAX {
                long.push(format!("{name}: {function} has {lines} lines"));
            }
        }
    }
    assert!(
        long.len() <= LONG_FUNCTIONS_ALLOWED,
        "{} functions over {FUNCTION_LINES_MAX} lines, {LONG_FUNCTIONS_ALLOWED} allowed:\n{}",
        long.len(),
        long.join("\n")
    );
}

#[test]
fn only_a_lane_or_the_rescue_of_dead_nodes_proves_that_an_executor_is_gone() {
    for (name, text) in sources() {
        let may = name.starts_with("crates/offloop-lane")
            || name == "crates/offloop-runtime/src/path/settle.rs"
            || name.contains("/tests/");
        assert!(
            may || !text.contains(concat!("Gone::", "proven")),
            "{name} makes a proof"
        );
    }
}

#[test]
fn a_file_says_what_it_is_for() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|(_, text)| !text.starts_with("//!") && !text.starts_with("#!["))
        .map(|(name, _)| name)
        .collect();
    assert!(silent.is_empty(), "no module comment: {silent:?}");
}
