//! `offloop ingest` into PostgreSQL, by command and by server, over kills.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

mod support;

use support::{PATIENCE, Running, end_of, program, serve, told};

const ROWS: u64 = 200_000;

/// A schema of the test's own; psql is the witness.
struct Database {
    url: String,
    schema: String,
}

impl Database {
    fn new(test: &str) -> Option<Self> {
        let Ok(url) = std::env::var("OFFLOOP_TEST_POSTGRES") else {
            // Past the capture of the test's output: who reads it is to see it.
            let line = format!("SKIPPED {test}: set OFFLOOP_TEST_POSTGRES to run it");
            let _told = writeln!(std::io::stderr(), "{line}");
            return None;
        };
        let database = Self {
            schema: format!("cli_{}_{test}", std::process::id()),
            url,
        };
        database.ask(&format!("CREATE SCHEMA {}", database.schema));
        Some(database)
    }

    fn ask(&self, sql: &str) -> String {
        let mut command = Command::new("psql");
        command.args([&self.url, "-XAtqc", sql]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn rows(&self) -> u64 {
        let table = format!("{}.people", self.schema);
        let there = self.ask(&format!("SELECT to_regclass('{table}') IS NOT NULL"));
        if there == "f" {
            return 0;
        }
        let count = self.ask(&format!("SELECT count(*) FROM {table}"));
        count.parse().unwrap()
    }

    /// Count, distinct ids, smallest and largest.
    fn sum(&self) -> String {
        let table = format!("{}.people", self.schema);
        self.ask(&format!(
            "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || min(id) || ' ' || max(id) FROM {table}"
        ))
    }

    fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "[ingest]\npostgres_file = \"postgres\"\n[ingest.targets.people]\nsink = \"postgres\"\n\
             table = \"{}.people\"\ncreate = true\nbatch = {{ rows = 500 }}\n\
             columns = [{{ name = \"id\", type = \"int4\" }}, {{ name = \"name\", type = \"text\" }}]\n",
            self.schema
        );
        std::fs::write(folder.path().join("offloop.toml"), config).unwrap();
        std::fs::write(folder.path().join("postgres"), &self.url).unwrap();
        folder
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.ask(&format!(
                "SET client_min_messages = warning; DROP SCHEMA {} CASCADE",
                self.schema
            ));
        }
    }
}

fn people() -> String {
    let mut text = String::from("id,name\n");
    for row in 1..=ROWS {
        writeln!(text, "{row},name {row}").unwrap();
    }
    text
}

#[track_caller]
fn until(mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "in time");
    }
}

fn once() -> String {
    format!("{ROWS} {ROWS} 1 {ROWS}")
}

fn check(folder: &Path, code: i32) -> String {
    let output = program(folder).arg("check").output().unwrap();
    told(&output, &["check"], code)
}

#[test]
fn a_check_finds_what_is_wrong_and_leaves_nothing_in_the_database() {
    let Some(database) = Database::new("check") else {
        return;
    };
    let folder = database.folder();
    check(folder.path(), 0);
    let tables = format!(
        "SELECT count(*) FROM pg_tables WHERE schemaname = '{}'",
        database.schema
    );
    assert_eq!(database.ask(&tables), "0");
    database.ask(&format!(
        "CREATE TABLE {}.people (id text)",
        database.schema
    ));
    let text = check(folder.path(), 1);
    assert!(
        text.contains("problem ingest.targets.people: ") && text.contains("`name`"),
        "{text}"
    );
    assert_eq!(database.ask(&tables), "1");
    std::fs::write(
        folder.path().join("postgres"),
        "postgres://x:hunter2@127.0.0.1:1/x",
    )
    .unwrap();
    let text = check(folder.path(), 1);
    assert!(
        text.contains("127.0.0.1:1") && !text.contains("hunter2"),
        "{text}"
    );
}

#[test]
fn a_command_that_is_killed_goes_on_with_each_row_once() {
    let Some(database) = Database::new("command") else {
        return;
    };
    let folder = database.folder();
    std::fs::write(folder.path().join("people.csv"), people()).unwrap();
    let words = ["ingest", "people.csv", "--target", "people"];
    let mut command = program(folder.path());
    command.args(words);
    let mut running = Running::new(&mut command);
    until(|| database.rows() > 1_000);
    running.kill();
    assert!(database.rows() < ROWS, "killed too late");
    let output = program(folder.path()).args(words).output().unwrap();
    let text = told(&output, &words, 0);
    assert!(text.contains("were stored before"), "{text}");
    assert_eq!(database.sum(), once());
}

#[test]
fn an_acknowledged_body_is_in_the_table_once_although_the_server_is_killed() {
    let Some(database) = Database::new("server") else {
        return;
    };
    let folder = database.folder();
    let mut server = serve(folder.path());
    let mut answer = ureq::post(format!("{}/v1/ingest/people", server.url))
        .header("prefer", "respond-async")
        .send(people().as_bytes())
        .unwrap();
    let view: Value = answer.body_mut().read_json().unwrap();
    until(|| database.rows() > 1_000);
    server.kill();
    assert!(database.rows() < ROWS, "killed too late");
    server = serve(folder.path());
    let job = end_of(&server.url, view["job"].as_str().unwrap());
    assert_eq!(job["result"]["stored"], ROWS, "{job}");
    assert_eq!(database.sum(), once());
}
