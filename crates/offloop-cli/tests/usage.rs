//! The program as an operator meets it: what ran is on record, and a running job is stopped.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::ops::Deref;
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

mod support;

use support::{Running, serve};

/// What `enqueue --wait` waits for at most, in seconds.
const WITHIN: &str = "30";
const STATE_MAX: Duration = Duration::from_secs(30);

/// `greedy` grows until it is stopped; `talk` speaks and fails.
const TASKS: &str = r#"
[tasks.greedy]
lane = "exec"
command = ["tail", "/dev/zero"]
memory_limit = "64MiB"

[tasks.talk]
lane = "exec"
command = ["sh", "-c", "for n in $(seq 1 20); do echo line $n >&2; done; exit 3"]
"#;

struct Server {
    running: Running,
    _folder: TempDir,
}

impl Deref for Server {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

impl Server {
    /// The program on a free port, with a folder of its own.
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("offloop.toml"), TASKS).unwrap();
        Self {
            running: serve(folder.path()),
            _folder: folder,
        }
    }

    /// Asks until the job's state is as it should be; each question is a process of its own.
    fn until(&self, job: &Value, fits: impl Fn(&str) -> bool) {
        let began = Instant::now();
        while !fits(self.json(&["job", id(job)], 0)["state"].as_str().unwrap()) {
            assert!(began.elapsed() < STATE_MAX, "its state does not change");
        }
    }

    /// Runs a job of `task` to its bad end, once.
    fn fail(&self, task: &str) -> Value {
        let once = ["--max-attempts", "1", "--tag", "bad", "--wait", WITHIN];
        self.json(&[&["enqueue", task, "7"], &once[..]].concat(), 1)
    }
}

fn id(job: &Value) -> &str {
    job["id"].as_str().unwrap()
}

#[test]
fn a_job_that_ate_memory_is_found_with_what_it_cost() {
    let server = Server::start();
    let greedy = server.fail("greedy");
    let talk = server.fail("talk");
    let found = server.json(&["jobs", "--class", "memory_limit"], 0);
    assert_eq!(found["jobs"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(id(&found["jobs"][0]), id(&greedy));

    let shown = server.text(&["job", id(&greedy)], 0);
    assert!(shown.contains("greedy  failed\n"), "{shown}");
    assert!(
        shown.contains("attempt 1: memory_limit, signal 9\n  held "),
        "{shown}"
    );
    assert!(shown.contains("its limit is 67108864 bytes"), "{shown}");
    let cost = shown
        .lines()
        .find(|line| line.starts_with("  wait "))
        .unwrap();
    let peak = cost.split("peak memory ").nth(1).unwrap();
    let peak: f64 = peak.split(" MiB").next().unwrap().parse().unwrap();
    assert!(peak >= 64.0, "{cost}");
    assert!(shown.contains("  by exec:greedy / pid "), "{shown}");

    let shown = server.text(&["job", id(&talk)], 0);
    assert!(shown.contains("attempt 1: error, exit code 3\n"), "{shown}");
    assert!(shown.ends_with("  | line 19\n  | line 20\n"), "{shown}");
    assert!(
        !shown.contains("  | line 10\n"),
        "only the last lines: {shown}"
    );
    let log = server.text(&["job", id(&talk), "--logs"], 0);
    assert!(log.starts_with("line 1\nline 2\n"), "{log}");

    let sums = server.json(&["usage", "--by", "tag", "--since", "1h"], 0);
    let bad = &sums["rows"][0];
    assert_eq!((&bad["name"], &bad["attempts"]), (&"bad".into(), &2.into()));
    let failed = serde_json::json!({"error": 1, "memory_limit": 1});
    assert_eq!(bad["failed"], failed);
    let table = server.text(&["usage"], 0);
    let greedy = table
        .lines()
        .find(|line| line.starts_with("greedy "))
        .unwrap();
    assert!(greedy.ends_with("memory_limit 1"), "{table}");
}

#[test]
fn a_running_job_is_cancelled_from_the_command_line() {
    let server = Server::start();
    let job = server.json(&["enqueue", "offloop.spin", r#"{"cpu_ms":3600000}"#], 0);
    server.until(&job, |state| state == "running");
    let said = server.text(&["cancel", id(&job)], 0);
    let stopping = [
        format!("{}  stopping\n", id(&job)),
        format!("{}  cancelled\n", id(&job)),
    ];
    assert!(stopping.contains(&said), "{said}");
    server.until(&job, |state| state != "running");
    let shown = server.text(&["job", id(&job)], 0);
    assert!(shown.contains("offloop.spin  cancelled\n"), "{shown}");
    assert!(shown.contains("attempt 1: cancelled\n"), "{shown}");
    let usage = server.json(&["usage", "--by", "queue"], 0);
    assert_eq!(
        usage["rows"][0]["failed"],
        serde_json::json!({"cancelled": 1})
    );
}

#[test]
fn a_wrong_question_is_answered_with_the_right_ones() {
    let server = Server::start();
    let wrong = server.text(&["jobs", "--class", "oom"], 2);
    assert!(wrong.contains("memory_limit, stalled"), "{wrong}");
    assert!(
        server
            .text(&["usage", "--by", "node"], 2)
            .contains("task, queue, tag")
    );
    assert!(
        server
            .text(&["usage", "--limit", "0"], 2)
            .contains("1..=1000")
    );
    let since = server.text(&["usage", "--since", "yesterday"], 1);
    assert!(since.contains("24h, 90min or 7d"), "{since}");
    assert!(
        server
            .text(&["usage", "--help"], 0)
            .contains("offloop usage --by tag --since 7d")
    );
    let none = server.text(&["usage"], 0);
    assert!(none.starts_with("no attempt has ended since "), "{none}");
}

#[test]
fn the_pulse_shows_every_loop_and_lane_of_a_server_that_just_started() {
    let server = Server::start();
    let began = Instant::now();
    // The first figures come within a second.
    let page = loop {
        let page = server.text(&["pulse"], 0);
        if ["doors", "keeper", "io:calls"]
            .iter()
            .all(|on| page.contains(on))
        {
            break page;
        }
        assert!(began.elapsed() < STATE_MAX, "{page}");
    };
    assert!(
        page.contains("delay of the loop, ms") && page.contains("memory "),
        "{page}"
    );
    let pulse = server.json(&["pulse"], 0);
    let lanes = pulse["lanes"].as_array().unwrap();
    for lane in ["cpu", "io", "cpu:calls", "io:calls", "exec:talk"] {
        assert!(
            lanes.iter().any(|row| row["name"] == lane),
            "{lane}: {pulse}"
        );
    }
    assert!(pulse["own"]["cpu"].is_number());
}
