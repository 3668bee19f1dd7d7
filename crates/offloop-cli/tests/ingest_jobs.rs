//! `offloop ingest` into jobs: rows that run as jobs of the server, over its kills.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

mod support;

use support::imports::{until, until_some};
use support::{Running, end_of, program, serve, told};

const CONFIG: &str = r#"
[tasks.take]
lane = "process"
command = ["python3", "take.py"]
processes = 2

[ingest.targets.orders]
sink = "jobs"
task = "take"
columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]
batch = { rows = 50, time = "10s" }
"#;

/// Says which row it had, in one write.
const TAKE: &str = r#"
import os
def handle(payload, ctx):
    fd = os.open("taken", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(fd, b"%d\n" % payload["id"])
    os.close(fd)
    return payload["name"]
"#;

fn folder(config: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("offloop.toml"), config).unwrap();
    std::fs::write(folder.path().join("take.py"), TAKE).unwrap();
    folder
}

fn orders(rows: u64) -> String {
    let mut text = String::from("id,name\n");
    for row in 1..=rows {
        writeln!(text, "{row},\"name, {row}\"").unwrap();
    }
    text
}

fn get(server: &Running, path: &str) -> Value {
    let mut answer = ureq::get(format!("{}{path}", server.url)).call().unwrap();
    answer.body_mut().read_json().unwrap()
}

/// Jobs of the task by the row that they carry, once all of them are over.
fn jobs_by_row(server: &Running) -> BTreeMap<u64, u32> {
    until("all jobs are over", || {
        let open = ["ready", "running", "scheduled"];
        let path = |state| format!("/v1/jobs?task=take&limit=1&state={state}");
        let is_over = |state| get(server, &path(state))["jobs"] == Value::Array(Vec::new());
        open.into_iter().all(is_over)
    });
    let words = [
        "export",
        "--task",
        "take",
        "--state",
        "completed",
        "--as-jobs",
    ];
    let mut found = BTreeMap::new();
    for line in server.text(&words, 0).lines() {
        let job: Value = serde_json::from_str(line).unwrap();
        *found
            .entry(job["payload"]["id"].as_u64().unwrap())
            .or_default() += 1;
    }
    found
}

#[test]
fn each_row_is_one_job_that_runs_although_the_server_is_killed_in_between() {
    let rows = 6_000;
    let folder = folder(CONFIG);
    let mut server = serve(folder.path());
    let mut answer = ureq::post(format!("{}/v1/ingest/orders?load=night", server.url))
        .header("prefer", "respond-async")
        .send(orders(rows).as_bytes())
        .unwrap();
    assert_eq!(answer.status().as_u16(), 202);
    let view: Value = answer.body_mut().read_json().unwrap();
    let load = view["job"].as_str().unwrap().to_owned();
    let mut before = 0;
    for _ in 0..2 {
        let stored = until_some("rows are stored", || {
            let stored = get(&server, "/v1/ingest/loads/night")["stored"].as_u64()?;
            (stored >= before + 500).then_some(stored)
        });
        server.kill();
        assert!(stored < rows, "killed too late");
        before = stored;
        server = serve(folder.path());
    }
    let ended = end_of(&server.url, &load);
    assert_eq!(
        (&ended["state"], &ended["result"]["stored"]),
        (&"completed".into(), &rows.into()),
        "{ended}"
    );
    let once: BTreeMap<u64, u32> = (1..=rows).map(|row| (row, 1)).collect();
    assert!(jobs_by_row(&server) == once, "a row has no job, or two");
    let taken = std::fs::read_to_string(folder.path().join("taken")).unwrap();
    let mut taken: Vec<u64> = taken.lines().map(|line| line.parse().unwrap()).collect();
    taken.sort_unstable();
    taken.dedup();
    assert!(taken == (1..=rows).collect::<Vec<_>>(), "a job did not run");
}

#[test]
fn the_command_line_makes_jobs_through_a_server_and_says_so_without_one() {
    let folder = folder(CONFIG);
    std::fs::write(folder.path().join("orders.csv"), orders(200)).unwrap();
    let words = ["ingest", "orders.csv", "--target", "orders"];
    let output = program(folder.path()).args(words).output().unwrap();
    let text = told(&output, &words, 1);
    assert!(
        text.contains("--server") && text.contains("`take`"),
        "{text}"
    );
    let server = serve(folder.path());
    let output = program(folder.path())
        .args(words)
        .args(["--server", &server.url])
        .output()
        .unwrap();
    let text = told(&output, &words, 0);
    assert!(text.starts_with("200 rows stored"), "{text}");
    assert_eq!(jobs_by_row(&server).len(), 200);
}

#[test]
fn a_task_that_nobody_declared_is_told_before_the_server_serves() {
    let folder = folder(&CONFIG.replace("task = \"take\"", "task = \"tkae\""));
    let run = |folder: &Path, words: &[&str]| program(folder).args(words).output().unwrap();
    let text = told(&run(folder.path(), &["check"]), &["check"], 1);
    assert!(
        text.contains("problem ingest.targets.orders: no task `tkae`"),
        "{text}"
    );
    let words = ["serve", "--listen", "127.0.0.1:0"];
    let text = told(&run(folder.path(), &words), &words, 1);
    assert!(
        text.contains("ingest.targets.orders: no task `tkae`"),
        "{text}"
    );
}
