//! Workers on other machines, with the very worker of docs/guides/remote-workers.md.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

mod support;

use support::{PATIENCE, Running, job, serve};

fn worker(folder: &Path, url: &str) -> Running {
    let guide = include_str!("../../../docs/guides/remote-workers.md");
    let code = guide.split("```python\n").nth(1).unwrap();
    let code = code.split("```").next().unwrap();
    let file = folder.join("worker.py");
    std::fs::write(&file, code).unwrap();
    Running::new(Command::new("python3").arg(file).args([url, "count"]))
}

fn server(folder: &Path) -> (Running, String) {
    with_grace(folder, "30s")
}

fn with_grace(folder: &Path, grace: &str) -> (Running, String) {
    let task = format!("[tasks.count]\nlane = \"remote\"\nlease = \"2s\"\ngrace = {grace:?}\n");
    std::fs::write(folder.join("offloop.toml"), task).unwrap();
    let server = serve(folder);
    let url = server.url.clone();
    (server, url)
}

fn enqueue(url: &str, steps: u32) -> String {
    let body = json!({
        "task": "count",
        "payload": {"steps": steps},
        "backoff": {"kind": "fixed", "base_ms": 1, "jitter": 0},
    });
    let answer = ureq::post(format!("{url}/v1/jobs")).send_json(body);
    let job: Value = answer.unwrap().body_mut().read_json().unwrap();
    job["id"].as_str().unwrap().to_owned()
}

/// Asks until it is so; nothing here takes long.
#[track_caller]
fn until(url: &str, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = job(url, id, "");
        if is(&job) {
            return job;
        }
        assert!(Instant::now() < deadline, "not {what}: {job}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The attempt that runs is with a worker.
fn is_held(job: &Value) -> bool {
    let last = job["attempts"].as_array().and_then(|all| all.last());
    last.is_some_and(|one| {
        one["executor"]
            .as_str()
            .unwrap_or("")
            .starts_with("worker ")
    })
}

#[test]
fn a_worker_that_was_stopped_past_its_lease_is_refused_and_another_one_has_finished_its_job() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, url) = server(folder.path());
    let mut zombie = worker(folder.path(), &url);
    let id = enqueue(&url, 30);
    until(&url, &id, "begun", is_held);
    zombie.signal(Signal::STOP);
    let mut other = worker(folder.path(), &url);
    let end = other.line("settled ");
    assert_eq!(end, format!("{id} completed"));
    let done = job(&url, &id, "");
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.line("refused "), format!("{id} 409"));
    assert_eq!(job(&url, &id, ""), done, "nothing of it was taken");
    assert_eq!(done["attempts"][0]["end"]["class"], "lost", "{done}");
    assert_ne!(
        done["attempts"][0]["executor"],
        done["attempts"][1]["executor"]
    );
    // It goes on to work: the refusal was about that one job.
    drop(other);
    let id = enqueue(&url, 1);
    assert_eq!(zombie.line("settled "), format!("{id} completed"));
}

#[test]
fn a_cancel_stops_the_code_of_a_worker() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, url) = server(folder.path());
    let mut worker = worker(folder.path(), &url);
    let id = enqueue(&url, 600_000);
    until(&url, &id, "begun", is_held);
    ureq::post(format!("{url}/v1/jobs/{id}/cancel"))
        .send_empty()
        .unwrap();
    assert_eq!(worker.line("settled "), format!("{id} cancelled"));
}

#[test]
fn a_killed_server_gives_a_job_to_nobody_else_before_the_old_lease_has_run_out() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, url) = with_grace(folder.path(), "1s");
    let id = {
        let _worker = worker(folder.path(), &url);
        let id = enqueue(&url, 600_000);
        until(&url, &id, "begun", is_held);
        first.kill();
        id
    };
    let (_second, url) = with_grace(folder.path(), "1s");
    let rescued = job(&url, &id, "");
    assert_eq!(rescued["state"], "scheduled", "{rescued}");
    let mut other = worker(folder.path(), &url);
    let begun = until(&url, &id, "begun again", is_held);
    let attempts = begun["attempts"].as_array().unwrap();
    assert_eq!(attempts.len(), 2, "{begun}");
    let at = |value: &Value| offloop::wire::parse_time(value.as_str().unwrap()).unwrap();
    let pause = at(&rescued["due_at"]).since(at(&attempts[0]["ended_at"]));
    assert!(pause >= Duration::from_secs(2), "{begun}");
    assert!(
        at(&attempts[1]["started_at"]) >= at(&rescued["due_at"]),
        "{begun}"
    );
    ureq::post(format!("{url}/v1/jobs/{id}/cancel"))
        .send_empty()
        .unwrap();
    assert_eq!(other.line("settled "), format!("{id} cancelled"));
}

#[test]
fn a_worker_may_deliver_what_it_holds_while_the_server_shuts_down() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, url) = server(folder.path());
    let mut worker = worker(folder.path(), &url);
    let id = enqueue(&url, 10);
    until(&url, &id, "begun", is_held);
    server.signal(Signal::TERM);
    assert_eq!(worker.line("settled "), format!("{id} completed"));
    assert!(server.wait().success());
}
