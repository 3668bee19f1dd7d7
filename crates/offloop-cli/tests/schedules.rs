//! The program with schedules from its configuration: nothing is lost or doubled by a server that is
//! killed more often than they are due, and the commands show it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::collections::BTreeSet;
use std::time::Instant;

use serde_json::Value;

mod support;

use support::{PATIENCE, Running, serve};

const EVERY_MS: i64 = 2_000;

const CONFIG: &str = r#"
[schedules.tick]
task = "offloop.spin"
payload = { cpu_ms = 1 }
every = "2s"

[schedules.yearly]
task = "offloop.spin"
cron = "0 0 1 1 *"
timezone = "Australia/Lord_Howe"
"#;

/// Oldest first.
fn ledger(server: &Running) -> Vec<Value> {
    let answer = server.json(&["schedules", "ledger", "tick", "--limit", "500"], 0);
    let mut rows = answer["ledger"].as_array().unwrap().clone();
    rows.reverse();
    rows
}

fn millis(row: &Value) -> i64 {
    // 2026-11-21T10:00:02.123Z, all within a test's minutes.
    let text = row["due_at"].as_str().unwrap();
    let number = |from: usize, to: usize| text[from..to].parse::<i64>().unwrap();
    let of_day = number(11, 13) * 3_600 + number(14, 16) * 60 + number(17, 19);
    (number(8, 10) * 86_400 + of_day) * 1_000 + number(20, 23)
}

#[test]
fn a_server_that_is_killed_more_often_than_a_schedule_is_due_keeps_every_due_time_once() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("offloop.toml"), CONFIG).unwrap();
    let began = Instant::now();
    let mut lives = 0;
    let (rows, server) = loop {
        let server = serve(folder.path());
        lives += 1;
        let rows = ledger(&server);
        if rows.len() >= 3 {
            break (rows, server);
        }
        assert!(
            began.elapsed() < PATIENCE,
            "nothing fires in {lives} lives: {rows:?}"
        );
    };
    assert!(
        lives > rows.len(),
        "it was killed {lives} times in {} due times",
        rows.len()
    );
    // Each due time is one step after the one before it, or after the last of its stretch.
    let mut due = millis(&rows[0]);
    for row in &rows {
        assert_eq!(millis(row), due, "lost or doubled: {rows:#?}");
        due += row["count"].as_i64().unwrap() * EVERY_MS;
    }
    let fired: BTreeSet<_> = rows
        .iter()
        .filter_map(|row| row["job_id"].as_str())
        .collect();
    let jobs = server.json(&["jobs", "--task", "offloop.spin"], 0);
    let jobs = jobs["jobs"].as_array().unwrap();
    let made: BTreeSet<_> = jobs.iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert!(made.is_superset(&fired), "a row names a job that is there");
    let later = ledger(&server);
    let all: BTreeSet<_> = later
        .iter()
        .filter_map(|row| row["job_id"].as_str())
        .collect();
    assert!(
        all.is_superset(&made),
        "a job has a row: {made:?} {later:#?}"
    );
    let shown = server.json(&["schedules", "show", "tick"], 0);
    assert_eq!(
        (&shown["revision"], &shown["origin"]),
        (&1.into(), &"config".into())
    );
}

#[test]
fn commands_show_what_is_declared_and_refuse_to_change_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("offloop.toml"), CONFIG).unwrap();
    let server = serve(folder.path());
    let list = server.text(&["schedules"], 0);
    assert!(
        list.contains("every 2000 ms") && list.contains("cron 0 0 1 1 *"),
        "{list}"
    );
    let next = server.text(&["schedules", "next", "yearly", "--count", "2"], 0);
    assert_eq!(next.matches("-01-01T00:00:00+11:00").count(), 2, "{next}");
    let spec = r#"{"task": "offloop.spin", "cron": "@hourly"}"#;
    let error = server.text(&["schedules", "put", "tick", spec], 1);
    assert!(error.contains("declared in the configuration"), "{error}");
    server.text(&["schedules", "put", "mine", spec], 0);
    let job = server.text(&["schedules", "trigger", "mine"], 0);
    server.text(&["job", job.trim()], 0);
    let told = server.text(&["schedules", "ledger", "mine"], 0);
    assert!(
        told.contains(&format!("{} (triggered)", job.trim())),
        "{told}"
    );
    drop(server);
    // Taken out of the file, it goes; what somebody asked for stays.
    std::fs::write(folder.path().join("offloop.toml"), "").unwrap();
    let server = serve(folder.path());
    let list = server.json(&["schedules"], 0);
    let names = list["schedules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["mine"]);
    server.text(&["schedules", "delete", "mine"], 0);
    assert_eq!(server.text(&["schedules"], 0), "no schedules yet\n");
}
