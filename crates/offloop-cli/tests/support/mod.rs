//! The program as a server of one test: started, asked, signalled, killed; and as a command.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]

pub mod imports;

use std::io::{BufRead, BufReader, Lines};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Nothing here takes this long; a test that waits longer has found a bug.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A process that does not outlive its test.
pub struct Running {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Of a server; empty for any other process.
    pub url: String,
}

impl Running {
    /// Any process. What it prints is read as it is asked for, so it may not print much.
    pub fn new(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = String::new();
        Self { child, lines, url }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().cast_signed()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// The rest of the first line that starts so.
    pub fn line(&mut self, start: &str) -> String {
        self.lines
            .find_map(|line| Some(line.unwrap().strip_prefix(start)?.to_owned()))
            .unwrap()
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill(); // SIGKILL; it may have ended
        let _ = self.child.wait();
    }

    pub fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// A command that asks this server.
    pub fn run(&self, words: &[&str]) -> Output {
        let mut command = program(Path::new("."));
        command.args(words).env("OFFLOOP_SERVER", &self.url);
        command.output().unwrap()
    }

    /// What such a command prints; it ends with `code`.
    #[track_caller]
    pub fn text(&self, words: &[&str], code: i32) -> String {
        told(&self.run(words), words, code)
    }

    #[track_caller]
    pub fn json(&self, words: &[&str], code: i32) -> Value {
        let text = self.text(&[words, &["--json"]].concat(), code);
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Both outputs of a command that has ended with `code`.
#[track_caller]
pub fn told(output: &Output, words: &[&str], code: i32) -> String {
    let text = [&*output.stdout, &*output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert_eq!(output.status.code(), Some(code), "{words:?}: {text}");
    text
}

/// The program in a folder, without what the environment of the test says to it.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_offloop"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OFFLOOP_") {
            command.env_remove(name);
        }
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// The program, serving what `offloop.toml` in the folder says.
pub fn serve(folder: &Path) -> Running {
    serve_logging(folder, "error")
}

/// `level`: what it logs.
pub fn serve_logging(folder: &Path, level: &str) -> Running {
    let mut command = program(folder);
    command
        .args(["serve", "--listen", "127.0.0.1:0"])
        .env("OFFLOOP_LOG", level);
    let mut running = Running::new(&mut command);
    let url = running.line("dashboard: ");
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
