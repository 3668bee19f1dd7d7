//! Starts that the system refuses, and what a start costs the server.
//!
//! The refusals are real: descriptors and processes are used up in a server of its own, which runs
//! as another user because limits of processes do not bind root.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]
#![allow(
    clippy::disallowed_methods,
    reason = "the test starts a server of its own"
)]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use common::{installed, probe};
use rustix::process::{Pid, Signal, kill_process};
use support::eventually;

/// Users that run nothing else here: limits of processes count all of a user's.
const USER: u32 = 64_123;
const OTHER_USER: u32 = 64_124;

struct Server {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// The executor of the last job.
    last: i32,
    _folder: tempfile::TempDir,
}

impl Server {
    /// A server that runs `true` for each line it gets, as a user without privilege.
    fn start(test: &str, mode: &str) -> Option<Self> {
        if !rustix::process::geteuid().is_root() || !installed("setpriv", test) {
            return None;
        }
        let user = if mode == "warm" { OTHER_USER } else { USER };
        let (mut command, folder) = command(user, "--core=0");
        let mut child = command.arg(mode).spawn().unwrap();
        Some(Self {
            input: child.stdin.take().unwrap(),
            output: BufReader::new(child.stdout.take().unwrap()),
            child,
            last: 0,
            _folder: folder,
        })
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// How the next job ends.
    fn run(&mut self) -> String {
        writeln!(self.input, "go").unwrap();
        loop {
            let line = self.line();
            assert!(!line.is_empty(), "the server is gone");
            match line.strip_prefix("started pid ") {
                Some(pid) => self.last = pid.parse().unwrap(),
                None => return line,
            }
        }
    }

    /// Has the server lower or raise its own limit.
    fn limit(&mut self, which: &str, most: u64) {
        writeln!(self.input, "limit {which} {most}").unwrap();
        assert_eq!(self.line(), "limited");
    }

    fn open_files(&self) -> u64 {
        let folder = std::fs::read_dir(format!("/proc/{}/fd", self.child.id()));
        folder.unwrap().count() as u64
    }

    fn threads(&self) -> u64 {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", self.child.id()));
        tasks.unwrap().count() as u64
    }
}

fn command(user: u32, limit: &str) -> (Command, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(folder.path(), open.clone()).unwrap();
    // Where the tests are built, another user may have no way to.
    let program = folder.path().join("probe");
    std::fs::copy(probe(), &program).unwrap();
    std::fs::set_permissions(&program, open).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args([
            format!("--reuid={user}"),
            format!("--regid={user}"),
            "--clear-groups".into(),
        ])
        .args(["prlimit", limit])
        .arg(program)
        .arg("jobs")
        .arg(folder.path().join("run"))
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    (command, folder)
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One after the other: the limit of processes counts all of the user's.
#[test]
fn a_start_that_the_system_refuses_fails_one_job_with_a_sentence_and_the_next_completes() {
    let test = "a_start_that_the_system_refuses_fails_one_job";
    let Some(mut server) = Server::start(test, "commands") else {
        return;
    };
    assert_eq!(server.line(), "open");
    assert_eq!(server.run(), "completed");
    for (resource, used, says) in [
        ("nofile", server.open_files(), "Too many open files"),
        // The server's threads and its warden.
        (
            "nproc",
            server.threads() + 1,
            "Resource temporarily unavailable",
        ),
    ] {
        server.limit(resource, used);
        for _ in 0..3 {
            let end = server.run();
            assert!(
                end.starts_with("error: the child could not be started"),
                "{end}"
            );
            assert!(end.contains(says), "{end}");
        }
        server.limit(resource, 1_000);
        assert_eq!(server.run(), "completed", "after {says}");
    }
    drop(server);
    a_host_that_gets_no_thread_is_loud();
}

fn a_host_that_gets_no_thread_is_loud() {
    let (mut command, _folder) = command(USER, "--nproc=1");
    let mut child = command.spawn().unwrap();
    let mut said = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut said)
        .unwrap();
    assert!(!child.wait().unwrap().success());
    assert!(said.contains("the spawner thread"), "{said}");
}

#[test]
fn a_pool_whose_children_cannot_be_replaced_says_why_and_recovers() {
    let test = "a_pool_whose_children_cannot_be_replaced_says_why_and_recovers";
    let Some(mut server) = Server::start(test, "warm") else {
        return;
    };
    assert_eq!(server.line(), "open");
    assert_eq!(server.run(), "completed");
    server.limit("nofile", 4); // no number below is free
    let child = Pid::from_raw(server.last).unwrap();
    kill_process(child, Signal::KILL).unwrap();
    eventually("buried", || {
        !Path::new(&format!("/proc/{}", server.last)).exists()
    });
    let end = server.run();
    assert!(
        end.contains("the child could not be started: Too many open files"),
        "{end}"
    );
    server.limit("nofile", 1_000);
    assert_eq!(server.run(), "completed");
}

/// A fork copies page tables: 16 ms at 256 MB, 350 ms at 8 GB. The spawn path must not.
#[test]
fn the_server_is_never_forked() {
    if !installed("strace", "the_server_is_never_forked") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let trace = folder.path().join("trace");
    let mut server = Command::new("strace")
        .args(["-f", "-e", "trace=clone,clone3,fork,vfork", "-o"])
        .arg(&trace)
        .arg(probe())
        .arg("jobs")
        .arg(folder.path().join("run"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let Some(Ok(first)) = lines.next() else {
        eprintln!("SKIPPED: strace may not trace here");
        let _ = server.wait();
        return;
    };
    assert_eq!(first, "open");
    let mut input = server.stdin.take().unwrap();
    for _ in 0..3 {
        writeln!(input, "go").unwrap();
        let ended = lines.find(|line| !line.as_ref().unwrap().starts_with("started"));
        assert_eq!(ended.unwrap().unwrap(), "completed");
    }
    drop(input);
    let _ = server.wait();
    let births = births(&trace);
    let spawns = births.iter().filter(|line| line.contains("CLONE_VFORK"));
    assert!(
        spawns.count() >= 4,
        "warden and three commands: {births:#?}"
    );
    let harmless = |line: &&String| line.contains("CLONE_VM");
    let forks: Vec<_> = births.iter().filter(|line| !harmless(line)).collect();
    assert!(forks.is_empty(), "{forks:#?}");
}

/// Calls that make a process or a thread, each on its first line.
fn births(trace: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(trace).unwrap();
    let lines = text.lines().filter(|line| {
        !line.contains("resumed>")
            && ["clone(", "clone3(", "fork("]
                .iter()
                .any(|c| line.contains(c))
    });
    lines.map(str::to_owned).collect()
}
