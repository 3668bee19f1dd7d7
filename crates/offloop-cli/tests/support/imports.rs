//! What the tests of imports share: files of people, targets, and the databases that hold them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::PATIENCE;

/// Columns of [`people`].
pub const COLUMNS: &str =
    r#"columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]"#;

/// A target whose rows [`ids`] reads. `more`: further lines of it.
pub fn people_target(more: &str) -> String {
    format!(
        "[ingest.targets.people]\nsink = \"ndjson\"\npath = \"people.ndjson\"\n{COLUMNS}\n{more}\n"
    )
}

/// A folder of the test's own with this configuration.
pub fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("offloop.toml"), config).unwrap();
    folder
}

/// `id,name` and so many rows.
pub fn people(rows: u64) -> String {
    people_but(rows, |_| false)
}

/// The same, but the ids that `bad` picks are words.
pub fn people_but(rows: u64, bad: impl Fn(u64) -> bool) -> String {
    let mut text = String::from("id,name\n");
    for row in 1..=rows {
        let word = if bad(row) { "word" } else { "" };
        writeln!(text, "{word}{row},name {row}").unwrap();
    }
    text
}

/// Of the rows in `people.ndjson`, in their order.
pub fn ids(folder: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(folder.join("people.ndjson")).unwrap_or_default();
    // A line that is being written has no end yet.
    let whole = text.rfind('\n').map_or("", |at| &text[..at]);
    let id = |line: &str| {
        serde_json::from_str::<Value>(line).unwrap()["id"]
            .as_u64()
            .unwrap()
    };
    whole.lines().map(id).collect()
}

/// Looks again and again.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    until_some(what, || is_so().then_some(()));
}

/// The same, for what is found at last.
#[track_caller]
pub fn until_some<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::yield_now();
    }
}

/// Where a server is that the test needs; otherwise it says that the test is skipped.
pub fn address(test: &str, variable: &str) -> Option<String> {
    let said = std::env::var(variable).ok();
    if said.is_none() {
        // Past the capture of the test's output: who reads it is to see it.
        let line = format!("SKIPPED {test}: set {variable} to run it");
        let _told = writeln!(std::io::stderr(), "{line}");
    }
    said
}

/// A schema of the test's own in a real PostgreSQL; psql is the witness.
pub struct Schema {
    pub url: String,
    pub name: String,
}

impl Schema {
    pub fn new(test: &str) -> Option<Self> {
        let schema = Self {
            url: address(test, "OFFLOOP_TEST_POSTGRES")?,
            name: format!("cli_{}_{test}", std::process::id()),
        };
        schema.ask(&format!("CREATE SCHEMA {}", schema.name));
        Some(schema)
    }

    pub fn ask(&self, sql: &str) -> String {
        let mut command = Command::new("psql");
        command.args([&self.url, "-XAtqc", sql]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Of the table `people`; 0 while there is none.
    pub fn rows(&self) -> u64 {
        let table = format!("{}.people", self.name);
        let there = self.ask(&format!("SELECT to_regclass('{table}') IS NOT NULL"));
        if there == "f" {
            return 0;
        }
        let count = self.ask(&format!("SELECT count(*) FROM {table}"));
        count.parse().unwrap()
    }
}

impl Drop for Schema {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask(&format!(
                "SET client_min_messages = warning; DROP SCHEMA {} CASCADE",
                self.name
            ));
        }
    }
}
