//! `offloop ingest` into PostgreSQL, by command and by server, over kills.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::path::Path;

use serde_json::Value;

mod support;

use support::imports::{self, COLUMNS, Schema, people, until};
use support::{Running, end_of, program, serve, told};

const ROWS: u64 = 200_000;

/// Count, distinct ids, smallest and largest.
fn sum(schema: &Schema) -> String {
    let table = format!("{}.people", schema.name);
    schema.ask(&format!(
        "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || min(id) || ' ' || max(id) FROM {table}"
    ))
}

fn folder(schema: &Schema) -> tempfile::TempDir {
    let folder = imports::folder(&format!(
        "[ingest]\npostgres_file = \"postgres\"\n[ingest.targets.people]\nsink = \"postgres\"\n\
         table = \"{}.people\"\ncreate = true\nbatch = {{ rows = 500 }}\n{COLUMNS}\n",
        schema.name
    ));
    std::fs::write(folder.path().join("postgres"), &schema.url).unwrap();
    folder
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
    let Some(schema) = Schema::new("check") else {
        return;
    };
    let folder = folder(&schema);
    check(folder.path(), 0);
    let tables = format!(
        "SELECT count(*) FROM pg_tables WHERE schemaname = '{}'",
        schema.name
    );
    assert_eq!(schema.ask(&tables), "0");
    schema.ask(&format!("CREATE TABLE {}.people (id text)", schema.name));
    let text = check(folder.path(), 1);
    assert!(
        text.contains("problem ingest.targets.people: ") && text.contains("`name`"),
        "{text}"
    );
    assert_eq!(schema.ask(&tables), "1");
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
    let Some(schema) = Schema::new("command") else {
        return;
    };
    let folder = folder(&schema);
    std::fs::write(folder.path().join("people.csv"), people(ROWS)).unwrap();
    let words = ["ingest", "people.csv", "--target", "people"];
    let mut command = program(folder.path());
    command.args(words);
    let mut running = Running::new(&mut command);
    until("rows are there", || schema.rows() > 1_000);
    running.kill();
    assert!(schema.rows() < ROWS, "killed too late");
    let output = program(folder.path()).args(words).output().unwrap();
    let text = told(&output, &words, 0);
    assert!(text.contains("were stored before"), "{text}");
    assert_eq!(sum(&schema), once());
}

#[test]
fn an_acknowledged_body_is_in_the_table_once_although_the_server_is_killed() {
    let Some(schema) = Schema::new("server") else {
        return;
    };
    let folder = folder(&schema);
    let mut server = serve(folder.path());
    let mut answer = ureq::post(format!("{}/v1/ingest/people", server.url))
        .header("prefer", "respond-async")
        .send(people(ROWS).as_bytes())
        .unwrap();
    let view: Value = answer.body_mut().read_json().unwrap();
    until("rows are there", || schema.rows() > 1_000);
    server.kill();
    assert!(schema.rows() < ROWS, "killed too late");
    server = serve(folder.path());
    let job = end_of(&server.url, view["job"].as_str().unwrap());
    assert_eq!(job["result"]["stored"], ROWS, "{job}");
    assert_eq!(sum(&schema), once());
}
