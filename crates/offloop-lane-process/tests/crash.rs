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
use std::time::Instant;

use common::{Bench, is_alive, probe, processes_with};
use offloop_lane::Lane as _;
use offloop_lane_process::{Host, HostConfig, ProcessLane, ProcessSpec};
use rustix::process::{Pid, Signal, kill_process};
use support::{TestSink, eventually};

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

/// The server's warden, by its command line.
fn warden_of(server: &Child) -> i32 {
    let pid = server.id().to_string();
    let is_warden = |found: &i32| {
        let line = std::fs::read(format!("/proc/{found}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first() == Some(&&b"offloop-warden"[..]) && words.contains(&pid.as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_warden).unwrap()
}

/// `KEY=VALUE` of a child's marker, once its program runs.
fn marker_of(child: i32) -> String {
    let environ = || std::fs::read_to_string(format!("/proc/{child}/environ")).unwrap_or_default();
    eventually("marked", || environ().contains("OFFLOOP_EXECUTOR"));
    let text = environ();
    let marker = text.split('\0').find(|e| e.starts_with("OFFLOOP_EXECUTOR"));
    marker.unwrap().to_owned()
}

/// Five processes: in the group, in a session of their own, and without the marker in both.
const ESCAPE: &str = "env -i sleep 1000 & setsid sleep 1000 & \
                      setsid sh -c 'env -i sleep 1000 & wait' & wait";

fn escaped(child: i32) -> Vec<i32> {
    let mut found = Vec::new();
    let mut open = vec![child];
    while let Some(pid) = open.pop() {
        let list = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"));
        for pid in list.unwrap_or_default().split_whitespace() {
            let pid: i32 = pid.parse().unwrap();
            open.push(pid);
            found.push(pid);
        }
    }
    found
}

fn runs(pid: i32, program: &[u8]) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    line.starts_with(program)
}

/// Waits until all five are what they will be.
fn wait_escaped(child: i32) -> Vec<i32> {
    let settled = |pids: &[i32]| {
        let sleeps = pids.iter().filter(|pid| runs(**pid, b"sleep")).count();
        (sleeps, pids.len()) == (3, 4)
    };
    eventually("escaped", || settled(&escaped(child)));
    escaped(child)
}

#[test]
fn a_killed_server_takes_all_its_trees_along_in_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, child) = server(folder.path(), ESCAPE);
    let escaped = wait_escaped(child);
    let warden = warden_of(&server);
    server.kill().unwrap();
    let begin = Instant::now();
    server.wait().unwrap();
    eventually("gone", || {
        !is_alive(child) && escaped.iter().all(|pid| !is_alive(*pid))
    });
    println!("gone after {:?}", begin.elapsed());
    eventually("the warden left too", || !is_alive(warden));
}

/// Nothing in the environment, a session of its own, and a parent that has left.
#[test]
fn a_daemon_without_an_environment_does_not_outlive_a_killed_server() {
    let folder = tempfile::tempdir().unwrap();
    let named = format!("86400.{:09}", std::process::id());
    let script = format!("(env -i setsid sleep {named} &); sleep 1000");
    let (mut server, child) = server(folder.path(), &script);
    let sleeper = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let ours = |pid: &i32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line == format!("sleep\0{named}\0").into_bytes()
        };
        pids.find(ours)
    };
    eventually("daemonised", || sleeper().is_some());
    let hidden = sleeper().unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("gone", || !is_alive(child) && !is_alive(hidden));
}

#[test]
fn a_warden_does_not_outlive_its_host() {
    let bench = Bench::new();
    let folder = bench.folder.path().to_str().unwrap().to_owned();
    let wardens = || {
        let all = std::fs::read_dir("/proc").unwrap().flatten();
        let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
        let mine = lines.filter(|line| {
            let line = String::from_utf8_lossy(line);
            line.starts_with("offloop-warden") && line.contains(&folder)
        });
        mine.count()
    };
    assert_eq!(wardens(), 0, "a server without process lanes needs none");
    let (lane, _) = bench.shell("true");
    assert_eq!(wardens(), 1);
    drop((lane, bench));
    eventually("left", || wardens() == 0);
}

#[test]
fn a_program_that_is_no_shim_is_refused_and_not_started_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    let config = HostConfig::new(folder.path()).shim("/bin/true", ["x"]);
    let host = Host::open(config).unwrap();
    let spec = ProcessSpec::exec(support::info("task"), ["true"]);
    let lane = ProcessLane::new(spec, host);
    let error = lane.open(TestSink::new()).unwrap_err();
    assert!(error.message.contains("shim_main"), "{error}");
}

#[test]
fn the_next_server_clears_what_is_left_when_the_warden_was_killed_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, child) = server(folder.path(), ESCAPE);
    let marker = marker_of(child);
    let escaped = wait_escaped(child);
    kill_process(Pid::from_raw(warden_of(&server)).unwrap(), Signal::KILL).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("the direct child is gone", || !is_alive(child));
    assert!(
        escaped.iter().all(|pid| is_alive(*pid)),
        "not all had escaped"
    );

    let other = Bench::new();
    let elsewhere = other.host.clear_leftovers();
    assert_eq!(elsewhere, Ok(0), "another data directory's are not ours");
    assert!(escaped.iter().all(|pid| is_alive(*pid)));

    let host = Bench::host_in(folder.path(), offloop_lane_process::Cgroups::Auto);
    assert_eq!(host.clear_leftovers(), Ok(4));
    assert!(escaped.iter().all(|pid| !is_alive(*pid)));
    assert_eq!(processes_with(&marker), Vec::<i32>::new());
    assert_eq!(host.clear_leftovers(), Ok(0));
    let roster = std::fs::read_dir(folder.path().join("run/roster")).unwrap();
    assert_eq!(roster.count(), 0);
}

#[test]
fn a_server_that_lives_keeps_its_children_when_another_looks() {
    let folder = tempfile::tempdir().unwrap();
    let (mut server, child) = server(folder.path(), "exec sleep 1000");
    let second = Bench::host_in(folder.path(), offloop_lane_process::Cgroups::Auto);
    assert_eq!(second.clear_leftovers(), Ok(0));
    assert!(is_alive(child));
    server.kill().unwrap();
    server.wait().unwrap();
    eventually("gone", || !is_alive(child));
}
