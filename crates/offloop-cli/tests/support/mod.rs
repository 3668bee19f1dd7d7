//! The program as a server of one test: started, asked, killed.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Nothing here takes this long; a test that waits longer has found a bug.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process that does not outlive its test.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub url: String,
}

impl Running {
    pub fn kill(&mut self) {
        let _ = self.child.kill(); // SIGKILL; it may have ended
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The program, serving what `offloop.toml` in the folder says.
pub fn serve(folder: &Path) -> Running {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offloop"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFLOOP_") {
            command.env_remove(name);
        }
    }
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .current_dir(folder)
        .env("OFFLOOP_LOG", "error")
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let url = String::new();
    let mut running = Running { child, lines, url };
    let url = running
        .lines
        .find_map(|line| Some(line.unwrap().strip_prefix("dashboard: ")?.to_owned()))
        .unwrap();
    url.trim_end_matches('/').clone_into(&mut running.url);
    running
}

/// Status and body, whatever the status is.
pub fn post(url: &str, body: &[u8]) -> (u16, Value) {
    let agent = ureq::Agent::new_with_config(
        ureq::Agent::config_builder()
            .http_status_as_error(false)
            .build(),
    );
    let answer = agent
        .post(format!("{url}/v1/jobs"))
        .header("Content-Type", "application/json")
        .send(body);
    let mut answer = answer.unwrap();
    let status = answer.status().as_u16();
    (status, answer.body_mut().read_json().unwrap_or(Value::Null))
}

pub fn job(url: &str, id: &str, wait: &str) -> Value {
    let answer = ureq::get(format!("{url}/v1/jobs/{id}{wait}")).call();
    let mut answer = answer.unwrap();
    let body = answer.body_mut().with_config().limit(64 << 20);
    body.read_json().unwrap()
}

/// The job once it is final.
#[track_caller]
pub fn end_of(url: &str, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let job = job(url, id, "?wait_ms=10000");
        if job["finished_at"].is_string() {
            return job;
        }
        assert!(Instant::now() < deadline, "not ended: {job}");
    }
}
