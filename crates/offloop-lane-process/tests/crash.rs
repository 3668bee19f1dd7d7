//! The server is killed: nothing of its children may outlive it for long, and the next server
//! clears what does.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(
    clippy::disallowed_methods,
    reason = "the test starts a server of its own"
)]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::{Bench, is_alive, probe, processes_with};
use support::eventually;

/// A server with one running command, and the command's pid.
fn server(folder: &Path, script: &str) -> (Child, i32) {
    let mut server = Command::new(probe())
        .arg("server")
        .arg(folder.join("run"))
        .args(["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = server.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let pid = line.trim().strip_prefix("started pid ").unwrap();
    (server, pid.parse().unwrap())
}

#[test]
fn a_killed_server_takes_its_children_along() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, child) = server(folder.path(), "sleep 1000");
    eventually("the program runs", || {
        let line = std::fs::read(format!("/proc/{child}/cmdline")).unwrap_or_default();
        line.starts_with(b"sh") || line.starts_with(b"sleep")
    });
    server.kill().unwrap();
    let begin = Instant::now();
    server.wait().unwrap();
    eventually("gone", || !is_alive(child));
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn the_next_server_clears_what_had_escaped_before_it_gives_a_job_out() {
    let folder = tempfile::tempdir().unwrap();
    let script = "setsid sleep 1000 & setsid sh -c 'env -i sleep 1000 & wait' & wait";
    let (mut server, child) = server(folder.path(), script);
    let environ = || std::fs::read_to_string(format!("/proc/{child}/environ")).unwrap_or_default();
    eventually("marked", || environ().contains("OFFLOOP_EXECUTOR"));
    let text = environ();
    let marker = text
        .split('\0')
        .find(|e| e.starts_with("OFFLOOP_EXECUTOR"))
        .unwrap()
        .to_owned();
    eventually("escaped", || processes_with(&marker).len() >= 3);
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("the direct child is gone", || !is_alive(child));
    let escaped = processes_with(&marker);
    assert!(escaped.len() >= 2, "nothing had escaped: {escaped:?}");

    let other = Bench::new();
    assert_eq!(
        other.host.clear_leftovers(),
        Ok(0),
        "another data directory's are not ours"
    );
    assert_eq!(processes_with(&marker), escaped);

    let host = Bench::host_in(folder.path());
    let cleared = host.clear_leftovers().unwrap();
    assert!(cleared >= 2, "{cleared}");
    assert_eq!(processes_with(&marker), Vec::<i32>::new());
    assert_eq!(host.clear_leftovers(), Ok(0));
    let roster = std::fs::read_dir(folder.path().join("run/roster")).unwrap();
    assert_eq!(roster.count(), 0);
}

#[test]
fn a_server_that_lives_keeps_its_children_when_another_looks() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, child) = server(folder.path(), "sleep 1000");
    let second = Bench::host_in(folder.path());
    assert_eq!(second.clear_leftovers(), Ok(0));
    assert!(is_alive(child));
    server.kill().unwrap();
    server.wait().unwrap();
}
