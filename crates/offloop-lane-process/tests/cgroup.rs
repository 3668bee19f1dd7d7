//! Control groups: a tree is whole whatever its members do to their sessions and environments.
//!
//! Each test that only groups can pass says so by its twin without them, or by what it looks at.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use common::{Bench, is_alive, probe, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::Lane;
use offloop_lane_process::{Host, ProcessSpec};
use rustix::process::{Pid, Signal, kill_process};
use support::{eventually, failed_as, info, stopped_by, work};

/// What a killed server left is adopted by this process, and any burial here would end it: the
/// test that looks at it must be alone.
static ALONE: RwLock<()> = RwLock::new(());

fn beside_others() -> RwLockReadGuard<'static, ()> {
    ALONE.read().unwrap_or_else(PoisonError::into_inner)
}

/// Says by name that a test was skipped, unless groups can be had here.
fn groups(host: &Host, test: &str) -> Option<PathBuf> {
    match host.means().cgroup {
        Ok(folder) => Some(folder),
        Err(why) => {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED {test}: no control groups: {why}"
            );
            None
        }
    }
}

/// A script that leaves a daemon behind: no marker, no parent, a session of its own. It writes its
/// pid to `$1`; `then` is what it does.
fn daemon(file: &Path, then: &str) -> String {
    let file = file.display();
    format!(
        "(setsid env -i /bin/sh -c 'echo $$ > {file}.new; mv {file}.new {file}; {then}' &); \
         while [ ! -f {file} ]; do sleep 0.01; done; "
    )
}

fn pid_in(file: &Path) -> i32 {
    let mut pid = None;
    eventually("the daemon runs", || {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        pid = text.trim().parse().ok();
        pid.is_some()
    });
    pid.unwrap()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test starts a server of its own"
)]
fn server(command: &str, folder: &Path, script: &str) -> Server {
    let mut server = Command::new(probe())
        .arg(command)
        .arg(folder.join("run"))
        .args(["sh", "-c", script])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = server.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert!(line.starts_with("started pid"), "{line}");
    Server(server)
}

/// Killed with the test, also with one that fails.
struct Server(Child);

impl Server {
    fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn warden_of(server: &Server) -> i32 {
    let pid = server.0.id().to_string();
    let is_warden = |found: &i32| {
        let line = std::fs::read(format!("/proc/{found}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|byte| *byte == 0).collect();
        words.first() == Some(&&b"offloop-warden"[..]) && words.contains(&pid.as_bytes())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(is_warden).unwrap()
}

fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
}

#[test]
fn a_daemon_without_marker_or_parent_dies_with_its_killed_server_within_100_ms() {
    let _guard = beside_others();
    let bench = Bench::grouped();
    let test = "a_daemon_without_marker_or_parent_dies_with_its_killed_server";
    if groups(&bench.host, test).is_none() {
        return;
    }
    let file = bench.folder.path().join("pid");
    let script = daemon(&file, "exec sleep 1000") + "exec sleep 1000";
    let mut server = server("server", bench.folder.path(), &script);
    let daemon = pid_in(&file);
    let note = notes(bench.folder.path());
    let [(note, group)] = &note[..] else {
        panic!("{note:?}");
    };
    assert!(group.is_dir());
    let warden = warden_of(&server);
    let begin = Instant::now();
    server.kill();
    eventually("gone", || !is_alive(daemon));
    println!("gone after {:?}", begin.elapsed());
    eventually("the warden left", || !is_alive(warden));
    assert!(
        !group.exists() && !note.exists(),
        "the group was left behind"
    );
}

/// What servers of this folder have noted of their groups.
fn notes(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let Ok(notes) = std::fs::read_dir(folder.join("run/groups")) else {
        return Vec::new(); // a server without groups
    };
    let read = |note: std::fs::DirEntry| {
        let group = std::fs::read_to_string(note.path()).unwrap();
        (note.path(), PathBuf::from(group))
    };
    notes.map(|note| read(note.unwrap())).collect()
}

#[test]
fn the_next_server_finds_the_daemon_with_groups_and_without() {
    let _alone = ALONE.write().unwrap_or_else(PoisonError::into_inner);
    let bench = Bench::grouped();
    let test = "the_next_server_finds_the_daemon_with_groups_and_without";
    if groups(&bench.host, test).is_none() {
        return;
    }
    for command in ["server", "server-without-groups"] {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("pid");
        let script = daemon(&file, "exec sleep 1000") + "exec sleep 1000";
        let mut server = server(command, folder.path(), &script);
        let daemon = pid_in(&file);
        kill(warden_of(&server));
        server.kill();
        let other = Bench::grouped();
        assert_eq!(other.host.clear_leftovers(), Ok(0), "another place's");
        assert!(is_alive(daemon));
        let next = Bench::host_in(folder.path(), offloop_lane_process::Cgroups::Always);
        next.clear_leftovers().unwrap();
        assert!(!is_alive(daemon), "{command}");
        assert!(notes(folder.path()).is_empty());
    }
}

#[test]
fn the_burial_of_one_tree_spares_the_daemon_of_another_that_lives() {
    let _guard = beside_others();
    for bench in [Bench::grouped(), Bench::new()] {
        let file = bench.folder.path().join("pid");
        let script = daemon(&file, "exec sleep 1000") + "exec sleep 1000";
        let (lane, sink) = bench.shell(&script);
        lane.start(vec![work(1, "task", "null")]);
        let daemon = pid_in(&file);
        // Of the same host, and of another one in this process.
        for other in [&bench, &Bench::new()] {
            let (other, other_sink) = other.shell("setsid sleep 1000 & exit 0");
            for lease in 1..=5 {
                other.start(vec![work(lease, "task", "null")]);
                other_sink.ended(lease);
            }
            assert!(is_alive(daemon), "killed for another's end");
        }
        lane.stop(Lease(1), StopReason::Cancel);
        stopped_by(&sink.ended(1), StopReason::Cancel);
        assert!(!is_alive(daemon), "the job ended before its tree");
    }
}

#[test]
fn processor_time_and_memory_of_a_daemon_count_for_its_task() {
    let _guard = beside_others();
    let table = [
        ("while :; do :; done", FailureClass::CpuLimit),
        (
            "exec perl -e \"my \\$x = chr(1) x 200000000; sleep 1000\"",
            FailureClass::MemoryLimit,
        ),
    ];
    for bench in [Bench::grouped(), Bench::new()] {
        for (number, (then, class)) in table.into_iter().enumerate() {
            let file = bench.folder.path().join(format!("pid{number}"));
            let script = daemon(&file, then) + "exec sleep 1000";
            let (lane, sink) = bench.shell(&script);
            let mut job = work(1, "task", "null");
            job.limits.cpu =
                (class == FailureClass::CpuLimit).then_some(Duration::from_millis(300));
            let memory = class == FailureClass::MemoryLimit;
            job.limits.memory_bytes = memory.then_some(100 << 20);
            lane.start(vec![job]);
            failed_as(&sink.ended(1), class, "its limit is");
            assert!(!is_alive(pid_in(&file)));
        }
    }
}

#[test]
fn groups_that_a_task_made_in_its_own_go_with_it() {
    let _guard = beside_others();
    let bench = Bench::grouped();
    let Some(run) = groups(&bench.host, "groups_that_a_task_made_in_its_own_go_with_it") else {
        return;
    };
    let inner = run.join("$(basename $(sed -n s/^0:://p /proc/self/cgroup))/a/b");
    let script = format!(
        "mkdir -p {0} && (echo 0 > {0}/cgroup.procs; setsid sleep 1000 & exec sleep 1000) & sleep 0.05",
        inner.display()
    );
    let (lane, sink) = bench.shell(&script);
    lane.start(vec![work(1, "task", "null")]);
    let ended = sink.ended(1);
    assert!(
        matches!(ended.outcome, offloop_job::Outcome::Completed { .. }),
        "{ended:?}"
    );
    let left = std::fs::read_dir(&run).unwrap();
    let left = left.flatten().filter(|e| e.file_type().unwrap().is_dir());
    assert_eq!(left.count(), 0, "an executor's group was left");
}

#[test]
fn a_host_leaves_no_group_behind() {
    let _guard = beside_others();
    let bench = Bench::grouped();
    let Some(run) = groups(&bench.host, "a_host_leaves_no_group_behind") else {
        return;
    };
    let (lane, sink) = bench.shell("exit 0");
    lane.start(vec![work(1, "task", "null")]);
    sink.ended(1);
    assert!(run.is_dir());
    drop(lane);
    let Bench { folder, host } = bench;
    drop(host);
    eventually("removed", || !run.exists());
    eventually("its note too", || notes(folder.path()).is_empty());
}

#[test]
fn without_groups_the_older_ways_carry_alone() {
    let _guard = beside_others();
    let folder = tempfile::tempdir().unwrap();
    let config = offloop_lane_process::HostConfig::new(folder.path().join("run"))
        .shim(probe(), [offloop_lane_process::SHIM_COMMAND])
        .environment(std::env::vars_os())
        .cgroups(offloop_lane_process::Cgroups::Never);
    let host = Host::open(config).unwrap();
    let means = host.means();
    assert!(means.cgroup.is_err());
    assert!(
        means.to_string().contains("by process group and marker"),
        "{means}"
    );
    let bench = Bench { folder, host };
    let file = bench.folder.path().join("pid");
    let script = daemon(&file, "exec sleep 1000") + "trap '' TERM; while :; do :; done";
    let spec = quick(ProcessSpec::exec(info("task"), ["sh", "-c", &script]));
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "null")]);
    let daemon = pid_in(&file);
    lane.stop(Lease(1), StopReason::Cancel);
    stopped_by(&sink.ended(1), StopReason::Cancel);
    assert!(!is_alive(daemon));
}
