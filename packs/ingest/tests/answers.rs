//! What the authors of two collections of files say is in them: csv-spectrum's answers field by field, and
//! Papa Parse's tables of cases, each beside the `csv` crate.
//!
//! `bench/rivals/csv-corpus.sh FOLDER corner` fetches both; OFFLOOP_TEST_CSV names the folder, or `corner` in it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use common::{declared, read_all};
use offloop_ingest::infer;
use offloop_ingest::split::Splitter;
use serde_json::Value;

#[expect(
    clippy::disallowed_methods,
    reason = "a test that is told where its files are"
)]
fn corner(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("OFFLOOP_TEST_CSV") else {
        let told = format!("SKIPPED {name}: set OFFLOOP_TEST_CSV to run it");
        let _ = writeln!(std::io::stderr(), "{told}"); // past the capture
        return None;
    };
    // The folder of all sets, or that of this one.
    let places = [Path::new(&folder).join("corner"), folder.into()];
    let mut places = places.into_iter().map(|place| place.join(name));
    places.find(|place| place.is_dir())
}

fn find(folder: &Path, wanted: &dyn Fn(&Path) -> bool, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            find(&path, wanted, found);
        } else if wanted(&path) {
            found.push(path);
        }
    }
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// A cell of theirs, whatever its kind, as the text that it is in the file.
fn text(cell: &Value) -> String {
    cell.as_str()
        .map_or_else(|| cell.to_string(), str::to_owned)
}

/// The one answer that is of another file than the one that it came with: its number is not in it.
const OTHER_FILE: (&str, &str, &str) =
    ("location_coordinates", "Contact Phone Number", "1234567890");

fn text_has(text: &[u8], part: &str) -> bool {
    text.windows(part.len())
        .any(|window| window == part.as_bytes())
}

#[test]
fn no_field_differs_from_what_csv_spectrum_says_it_is() {
    let Some(folder) = corner("csv-spectrum") else {
        return;
    };
    let mut answers = Vec::new();
    let is_answer = |path: &Path| {
        let parent = path.parent().and_then(Path::file_name);
        parent.is_some_and(|parent| parent == "json")
    };
    find(&folder, &is_answer, &mut answers);
    assert_eq!(answers.len(), 12, "{answers:?}");
    let mut fields = 0;
    for path in answers {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let file = path.parent().unwrap().join(format!("../csvs/{name}.csv"));
        let bytes = std::fs::read(&file).unwrap();
        let wanted = match read_json(&path) {
            Value::Array(rows) => rows,
            row => vec![row],
        };
        let columns: Vec<_> = wanted[0].as_object().unwrap().keys().cloned().collect();
        let list: Vec<_> = columns
            .iter()
            .map(|column| format!("{{ name = {column:?}, type = \"text\" }}"))
            .collect();
        let target = declared(&format!(
            "sink = \"ndjson\"\npath = \"out\"\nnull = []\ncolumns = [{}]",
            list.join(", ")
        ));
        for cuts in [vec![], (0..bytes.len()).collect()] {
            let read = read_all(&target, &bytes, &cuts);
            assert!(
                read.error.is_none() && read.rejects.is_empty(),
                "{name}: {read:?}"
            );
            assert_eq!(read.rows.len(), wanted.len(), "{name}");
            for (row, wanted) in read.table().iter().zip(&wanted) {
                assert_eq!(wanted.as_object().unwrap().len(), columns.len(), "{name}");
                for (column, field) in columns.iter().zip(row) {
                    let wanted = text(&wanted[column]);
                    if OTHER_FILE == (name, column, &*wanted) {
                        assert!(!text_has(&bytes, &wanted), "the answer is of this file now");
                        continue;
                    }
                    assert_eq!(*field, wanted, "{name}: {column}");
                    fields += 1;
                }
            }
        }
    }
    println!("12 files, {} fields", fields / 2);
}

/// Settings that are another format than the one that is read here, and why they are left out.
const OTHER_FORMATS: [(&str, &str); 8] = [
    ("comments", "a target's file has no comments"),
    (
        "newline",
        "\\n, \\r and \\r\\n all end a record, as with the csv crate's default",
    ),
    (
        "escapeChar",
        "quotes are escaped by doubling alone (RFC 4180)",
    ),
    ("fastMode", "reads quotes as text"),
    ("preview", "a load reads all of its input"),
    ("skipFirstNLines", "a file begins with its header"),
    ("dynamicTyping", "columns have declared types"),
    (
        "header",
        "keys of objects are another shape of the same rows",
    ),
];

/// Cases that are read as the `csv` crate reads them, and not as they are said to be.
const EXPLAINED: [(&str, &str); 8] = [
    ("Quoted fields with spaces after closing quote", AFTER_QUOTE),
    (
        "Quoted fields with spaces between closing quote and next delimiter",
        AFTER_QUOTE,
    ),
    (
        "Quoted fields with spaces between closing quote and next new line",
        AFTER_QUOTE,
    ),
    (
        "Quoted fields with spaces between closing quote and next delimiter and contains delimiter",
        AFTER_QUOTE,
    ),
    (
        "Quoted fields with spaces between closing quote and newline and contains newline",
        AFTER_QUOTE,
    ),
    (
        "Mixed slash n and slash r should choose first as precident",
        ANY_END,
    ),
    ("Parsing with skipEmptyLines set to 'greedy'", EMPTY_FIELDS),
    (
        "Parsing with skipEmptyLines set to 'greedy' with quotes and delimiters as content",
        EMPTY_FIELDS,
    ),
];
const ANY_END: &str = "\\n, \\r and \\r\\n all end a record, in one file too";
const EMPTY_FIELDS: &str = "a line of empty fields is a record";
const AFTER_QUOTE: &str =
    "what stands between a closing quote and the field's end is a part of the field";

/// One of Papa Parse's cases as it is read here.
enum Verdict {
    Same,
    /// Otherwise than they say, for a reason that is written down.
    Explained(&'static str),
    LeftOut(&'static str),
    Unexplained(String),
}

fn oracle(bytes: &[u8], delimiter: u8, quote: u8) -> Vec<Vec<String>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .quote(quote)
        .from_reader(bytes)
        .records()
        .map(|record| record.unwrap().iter().map(str::to_owned).collect())
        .collect()
}

/// Rows of `columns` fields as they are stored, and how many records are refused.
fn stored(input: &str, delimiter: u8, quote: u8, columns: usize) -> (Vec<Vec<String>>, usize) {
    let own = |byte: u8| format!("\"\\u{byte:04x}\"");
    let extra = format!(
        "header = \"none\"\nnull = [\"\\u0001\"]\ndelimiter = {}\nquote = {}\n",
        own(delimiter),
        own(quote)
    );
    let target = common::target(columns, &extra);
    let read = read_all(&target, input.as_bytes(), &[]);
    assert!(read.error.is_none(), "{input:?}: {:?}", read.error);
    (read.table(), read.rejects.len())
}

fn verdict(case: &Value) -> Verdict {
    let (config, input) = (&case["config"], case["input"].as_str().unwrap());
    // The decoder takes a mark off before a record is looked for.
    let input = input.strip_prefix('\u{feff}').unwrap_or(input);
    for (setting, reason) in OTHER_FORMATS {
        if config
            .get(setting)
            .is_some_and(|value| *value != Value::Bool(false))
        {
            return Verdict::LeftOut(reason);
        }
    }
    let one = |name: &str, usual: &str| {
        let text = config.get(name).and_then(Value::as_str).unwrap_or(usual);
        <[u8; 1]>::try_from(text.as_bytes()).ok().map(|[byte]| byte)
    };
    let is_guess = case["description"]
        .as_str()
        .is_some_and(|about| about.contains("guessed"));
    let guess = is_guess.then(|| infer(input.as_bytes(), true).ok()?.raw.delimiter);
    let usual = guess.flatten().unwrap_or_else(|| ",".to_owned());
    let (Some(delimiter), Some(quote)) = (one("delimiter", &usual), one("quoteChar", "\"")) else {
        return Verdict::LeftOut("a delimiter and a quote are one byte each");
    };
    if matches!(delimiter, b'\n' | b'\r') {
        return Verdict::LeftOut("the end of a line is no delimiter");
    }
    let wanted: Vec<Vec<String>> = case["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row.as_array().unwrap().iter().map(text).collect())
        .collect();
    let found = oracle(input.as_bytes(), delimiter, quote);
    let mut splitter = Splitter::new(delimiter, Some(quote));
    let mut is_open = false;
    splitter.push(input.as_bytes(), |_| {});
    splitter.finish(|record| is_open |= record.is_unclosed);
    if is_open {
        return Verdict::Explained(
            "a quote that is never closed costs its line, not the rest of the file",
        );
    }
    // As the oracle reads it, each record is a row or a reject: those of the usual width are stored.
    let columns = found.first().map_or(1, Vec::len);
    let (rows, refused) = stored(input, delimiter, quote, columns);
    assert_eq!(rows.len() + refused, found.len(), "{case}");
    let mut fitting = found.iter().filter(|row| row.len() == columns);
    assert!(
        rows.iter().all(|row| fitting.any(|other| other == row)),
        "{case}: {rows:?}"
    );
    let is_blank = |row: &[String]| matches!(row, [only] if only.is_empty());
    let without: Vec<_> = wanted
        .iter()
        .filter(|row| !is_blank(row))
        .cloned()
        .collect();
    if found == wanted {
        Verdict::Same
    } else if found.iter().filter(|row| !is_blank(row)).eq(without.iter()) {
        Verdict::Explained("a line without a byte is no record")
    } else if case["errors"].as_u64() > Some(0) {
        Verdict::Explained(
            "quotes where none may be: both find a fault, each mends it in its own way",
        )
    } else if let Some((_, reason)) = EXPLAINED
        .iter()
        .find(|(about, _)| case["description"] == *about)
    {
        Verdict::Explained(reason)
    } else {
        Verdict::Unexplained(format!("{case}\nis read as {found:?}"))
    }
}

#[test]
fn no_case_of_papa_parse_is_read_otherwise_without_a_written_reason() {
    let Some(folder) = corner("papaparse") else {
        return;
    };
    let mut found = Vec::new();
    find(&folder, &|path| path.ends_with("cases.json"), &mut found);
    let cases = read_json(
        found
            .first()
            .expect("cases.json, which needs node to be made"),
    );
    let cases = cases.as_array().unwrap();
    assert!(cases.len() > 100, "{}", cases.len());
    let (mut same, mut others) = (0, BTreeMap::<_, usize>::new());
    let mut unexplained = Vec::new();
    for case in cases {
        match verdict(case) {
            Verdict::Same => same += 1,
            Verdict::Explained(reason) => *others.entry(("explained", reason)).or_default() += 1,
            Verdict::LeftOut(reason) => *others.entry(("left out", reason)).or_default() += 1,
            Verdict::Unexplained(what) => unexplained.push(what),
        }
    }
    println!("{} cases: {same} the same", cases.len());
    for ((kind, reason), count) in others {
        println!("{count:4} {kind}: {reason}");
    }
    assert!(unexplained.is_empty(), "{}", unexplained.join("\n"));
    assert!(same * 3 > cases.len(), "only {same} are the same");
}
