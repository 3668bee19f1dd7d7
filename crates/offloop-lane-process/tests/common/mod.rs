//! A host and lanes in a folder of their own, and a look at what runs on the machine.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use offloop_lane::Lane;
use offloop_lane_process::{Cgroups, Host, HostConfig, ProcessLane, ProcessSpec, SHIM_COMMAND};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{TestSink, info};

/// The helper program, built beside the tests.
pub fn probe() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let profile = test.parent().and_then(Path::parent).unwrap();
    let probe = profile.join("examples/probe");
    assert!(
        probe.is_file(),
        "build it first: cargo build --examples -p offloop-lane-process"
    );
    probe
}

/// A folder with a host in it.
pub struct Bench {
    pub folder: TempDir,
    pub host: Arc<Host>,
}

impl Bench {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self::host_in(folder.path(), Cgroups::Auto);
        Self { folder, host }
    }

    /// With control groups wherever some can be made.
    pub fn grouped() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let host = Self::host_in(folder.path(), Cgroups::Always);
        Self { folder, host }
    }

    pub fn host_in(folder: &Path, cgroups: Cgroups) -> Arc<Host> {
        let config = HostConfig::new(folder.join("run"))
            .shim(probe(), [SHIM_COMMAND])
            .environment(std::env::vars_os())
            .cgroups(cgroups);
        Host::open(config).unwrap()
    }

    /// Writes a file of a task.
    pub fn file(&self, name: &str, text: &str) -> OsString {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.into()
    }

    pub fn roster(&self) -> Vec<PathBuf> {
        let roster = std::fs::read_dir(self.folder.path().join("run/roster")).unwrap();
        roster.map(|entry| entry.unwrap().path()).collect()
    }

    pub fn open(&self, spec: ProcessSpec) -> (ProcessLane, Arc<TestSink>) {
        let (lane, sink) = (ProcessLane::new(spec, self.host.clone()), TestSink::new());
        lane.open(sink.clone()).unwrap();
        (lane, sink)
    }

    /// A lane of warm children, with short graces.
    pub fn process(&self, command: &[&str]) -> (ProcessLane, Arc<TestSink>) {
        self.open(quick(ProcessSpec::process(info("task"), command)))
    }

    /// A lane of shell scripts, one for each job.
    pub fn shell(&self, script: &str) -> (ProcessLane, Arc<TestSink>) {
        self.open(quick(ProcessSpec::exec(info("task"), ["sh", "-c", script])))
    }
}

pub fn quick(mut spec: ProcessSpec) -> ProcessSpec {
    spec.grace = Duration::from_millis(150);
    spec.term_grace = Duration::from_millis(150);
    spec
}

pub fn pid_of(executor: &str) -> i32 {
    executor.strip_prefix("pid ").unwrap().parse().unwrap()
}

/// It may be gone already.
pub fn kill_9(pid: i32) {
    let _ = kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL);
}

/// How often children left for this reason.
pub fn exits(lane: &ProcessLane, reason: &str) -> u64 {
    let exits = lane.exits();
    let found = exits.iter().find(|row| row.reason == reason);
    found.map_or(0, |row| row.count)
}

/// Processes whose environment holds this text.
pub fn processes_with(text: &str) -> Vec<i32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
            continue;
        };
        let environ = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environ
            .windows(text.len())
            .any(|part| part == text.as_bytes())
        {
            found.push(pid);
        }
    }
    found
}

/// True unless it is gone, or dead and waits to be reaped.
pub fn is_alive(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat
        .rsplit(')')
        .next()
        .and_then(|after| after.split_whitespace().next());
    state.is_some_and(|state| !matches!(state, "Z" | "X"))
}

/// Says by name that a test was skipped, unless the program is installed and runs.
pub fn installed(program: &str, test: &str) -> bool {
    let path = std::env::vars_os().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, value)| value).unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !found {
        // Past the capture of output: a skip must be seen.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: {program} is not installed"
        );
    }
    found
}

/// A child in Perl that speaks the protocol; `job` is Perl code that sets `$out` from `$data`.
pub fn perl_child(job: &str) -> String {
    perl_child_after("", job)
}

/// One that runs `first` before it is ready.
pub fn perl_child_after(first: &str, job: &str) -> String {
    let head = r#"
use strict; use warnings;
open(my $ch, "+<&=", $ENV{OFFLOOP_FD}) or die; binmode $ch; $| = 1;
sub say_ { my $body = shift; syswrite($ch, pack("V", length $body) . $body); }
sub take { my $n = shift; my $buf = "";
  while (length $buf < $n) { sysread($ch, $buf, $n - length $buf, length $buf) or exit 0; } $buf }
sub note { say_("{\"type\":\"progress\",\"lease\":$_[0]}\n$_[1]"); }
FIRST
say_('{"type":"ready","protocol":1}');
while (1) {
  my ($head, $data) = split /\n/, take(unpack "V", take(4)), 2;
  if ($head =~ /"type":"ping"/) { say_('{"type":"pong"}'); next; }
  next unless $head =~ /"type":"run"/;
  my ($lease) = $head =~ /"lease":(\d+)/; my $out = $data;
"#;
    let tail = r#"
  say_("{\"type\":\"result\",\"lease\":$lease}\n$out");
}
"#;
    format!("{}{job}{tail}", head.replace("FIRST", first))
}

/// Perl that stands still while the file `closed` is there, and marks each start in `starts`.
pub struct Gate(PathBuf);

impl Gate {
    pub fn new(bench: &Bench) -> Self {
        Self(bench.folder.path().to_owned())
    }

    pub fn code(&self) -> String {
        let folder = self.0.to_str().unwrap();
        format!(
            "{{ open(my $f, '>>', '{folder}/starts'); syswrite($f, '+'); }}\n\
             die 'the licence has run out' if -e '{folder}/broken';\n\
             while (-e '{folder}/closed') {{ select undef, undef, undef, 0.002 }}\n\
             {{ open(my $f, '>>', '{folder}/passed'); syswrite($f, '+'); }}\n"
        )
    }

    pub fn set(&self, name: &str, on: bool) {
        let file = self.0.join(name);
        if on {
            std::fs::write(file, "").unwrap();
        } else {
            std::fs::remove_file(file).unwrap();
        }
    }

    pub fn starts(&self) -> usize {
        let marks = std::fs::read(self.0.join("starts"));
        marks.unwrap_or_default().len()
    }

    pub fn passed(&self) -> usize {
        let marks = std::fs::read(self.0.join("passed"));
        marks.unwrap_or_default().len()
    }
}

/// A lane of children in Perl, with short graces.
pub fn spec_of(bench: &Bench, text: &str, processes: u16) -> ProcessSpec {
    let file = bench.file("task.pl", text);
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.processes = processes;
    spec
}
