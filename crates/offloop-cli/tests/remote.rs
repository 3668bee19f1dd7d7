//! Workers on other machines, with the very worker of docs/guides/remote-workers.md.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(60);

/// A process that does not outlive its test.
struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn new(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The rest of the first line that starts so.
    fn line(&mut self, start: &str) -> String {
        self.lines
            .find_map(|line| Some(line.unwrap().strip_prefix(start)?.to_owned()))
            .unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill(); // it may have ended
        let _ = self.child.wait();
    }
}

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
    let mut command = Command::new(env!("CARGO_BIN_EXE_offloop"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFLOOP_") {
            command.env_remove(name);
        }
    }
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(folder)
        .env("OFFLOOP_LOG", "error");
    let mut server = Running::new(&mut command);
    let url = server.line("dashboard: ");
    (server, url.trim_end_matches('/').to_owned())
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

fn job(url: &str, id: &str) -> Value {
    let answer = ureq::get(format!("{url}/v1/jobs/{id}")).call();
    answer.unwrap().body_mut().read_json().unwrap()
}

/// Asks until it is so; nothing here takes a minute.
#[track_caller]
fn until(url: &str, id: &str, what: &str, is: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = job(url, id);
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
    let done = job(&url, &id);
    zombie.signal(Signal::CONT);
    assert_eq!(zombie.line("refused "), format!("{id} 409"));
    assert_eq!(job(&url, &id), done, "nothing of it was taken");
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
        first.child.kill().unwrap();
        first.child.wait().unwrap();
        id
    };
    let (_second, url) = with_grace(folder.path(), "1s");
    let rescued = job(&url, &id);
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
    assert!(server.child.wait().unwrap().success());
}
