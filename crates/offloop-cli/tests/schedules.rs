//! The program with schedules from its configuration: nothing is lost or doubled by a server that is
//! killed more often than they are due, and the commands show it.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_offloop");
const EVERY_MS: i64 = 2_000;
/// On a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

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

struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill(); // SIGKILL: no word of goodbye
        let _ = self.child.wait();
    }
}

fn program(folder: &Path) -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFLOOP_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder);
    command
}

impl Server {
    fn start(folder: &Path) -> Self {
        let mut child = program(folder)
            .args(["serve", "--listen", "127.0.0.1:0", "--data", "data"])
            .env("OFFLOOP_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.find_map(|line| {
            let line = line.unwrap();
            let url = line.strip_prefix("dashboard: ")?.trim_end_matches('/');
            Some(url.to_owned())
        });
        std::thread::spawn(move || lines.for_each(drop));
        Self {
            child,
            url: url.expect("the address"),
        }
    }

    fn text(&self, words: &[&str]) -> String {
        let command = &mut program(Path::new("."));
        let output = command
            .args(words)
            .env("OFFLOOP_SERVER", &self.url)
            .output()
            .unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{words:?}: {text}{error}");
        text
    }

    fn json(&self, words: &[&str]) -> Value {
        serde_json::from_str(&self.text(&[words, &["--json"]].concat())).unwrap()
    }

    /// Oldest first.
    fn ledger(&self) -> Vec<Value> {
        let answer = self.json(&["schedules", "ledger", "tick", "--limit", "500"]);
        let mut rows = answer["ledger"].as_array().unwrap().clone();
        rows.reverse();
        rows
    }
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
        let server = Server::start(folder.path());
        lives += 1;
        let rows = server.ledger();
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
    let jobs = server.json(&["jobs", "--task", "offloop.spin"]);
    let jobs = jobs["jobs"].as_array().unwrap();
    let made: BTreeSet<_> = jobs.iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert!(made.is_superset(&fired), "a row names a job that is there");
    let later = server.ledger();
    let all: BTreeSet<_> = later
        .iter()
        .filter_map(|row| row["job_id"].as_str())
        .collect();
    assert!(
        all.is_superset(&made),
        "a job has a row: {made:?} {later:#?}"
    );
    let shown = server.json(&["schedules", "show", "tick"]);
    assert_eq!(
        (&shown["revision"], &shown["origin"]),
        (&1.into(), &"config".into())
    );
}

#[test]
fn commands_show_what_is_declared_and_refuse_to_change_it() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("offloop.toml"), CONFIG).unwrap();
    let server = Server::start(folder.path());
    let list = server.text(&["schedules"]);
    assert!(
        list.contains("every 2000 ms") && list.contains("cron 0 0 1 1 *"),
        "{list}"
    );
    let next = server.text(&["schedules", "next", "yearly", "--count", "2"]);
    assert_eq!(next.matches("-01-01T00:00:00+11:00").count(), 2, "{next}");
    let spec = r#"{"task": "offloop.spin", "cron": "@hourly"}"#;
    let command = &mut program(folder.path());
    let words = ["schedules", "put", "tick", spec];
    let output = command
        .args(words)
        .env("OFFLOOP_SERVER", &server.url)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(error.contains("declared in the configuration"), "{error}");
    server.text(&["schedules", "put", "mine", spec]);
    let job = server.text(&["schedules", "trigger", "mine"]);
    server.text(&["job", job.trim()]);
    let told = server.text(&["schedules", "ledger", "mine"]);
    assert!(
        told.contains(&format!("{} (triggered)", job.trim())),
        "{told}"
    );
    drop(server);
    // Taken out of the file, it goes; what somebody asked for stays.
    std::fs::write(folder.path().join("offloop.toml"), "").unwrap();
    let server = Server::start(folder.path());
    let list = server.json(&["schedules"]);
    let names = list["schedules"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| row["name"].clone());
    assert_eq!(names.collect::<Vec<_>>(), ["mine"]);
    server.text(&["schedules", "delete", "mine"]);
    assert_eq!(server.text(&["schedules"]), "no schedules yet\n");
}
