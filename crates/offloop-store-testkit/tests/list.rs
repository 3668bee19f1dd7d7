//! The table of cases against the cases that are written: one that is forgotten tests nothing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn written() -> BTreeSet<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/cases");
    let mut found = BTreeSet::new();
    for file in fs::read_dir(folder).expect("the folder of cases") {
        let path = file.expect("a file").path();
        let module = path
            .file_stem()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let text = fs::read_to_string(&path).expect("a readable file");
        for line in text.lines() {
            let Some(rest) = line.strip_prefix("pub fn ") else {
                continue;
            };
            let (case, _) = rest.split_once('(').expect("arguments");
            found.insert(format!("{module}::{case}"));
        }
    }
    found
}

fn listed() -> BTreeSet<String> {
    let text = include_str!("../src/list.rs");
    let (table, _) = text.split_once("macro_rules! cases_of").expect("the table");
    let mut found = BTreeSet::new();
    let mut module = "";
    for line in table.lines().map(str::trim) {
        if let Some(name) = line.strip_suffix(": [") {
            module = name;
        } else if line == "]" {
            module = "";
        } else if !module.is_empty() {
            found.insert(format!("{module}::{line}"));
        }
    }
    found
}

#[test]
fn every_case_that_is_written_is_run() {
    assert_eq!(written(), listed());
    assert!(listed().len() > 200);
}
