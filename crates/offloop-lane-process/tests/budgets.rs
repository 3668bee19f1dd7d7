//! Bounds of an executor beside time and memory: its files and its processes.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use common::{Bench, installed, is_alive, probe, processes_with, quick};
use offloop_job::{FailureClass, Outcome};
use offloop_lane::Lane;
use offloop_lane_process::{Cgroups, Host, HostConfig, ProcessSpec, SHIM_COMMAND};
use support::{failed_as, info, work};

fn bench(groups: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let mut config = HostConfig::new(folder.path().join("run"))
        .shim(probe(), [SHIM_COMMAND])
        .environment(std::env::vars_os());
    config = config.cgroups(if groups {
        Cgroups::Always
    } else {
        Cgroups::Never
    });
    let host = Host::open(config).unwrap();
    Bench { folder, host }
}

/// Doubles nine times and waits: 512 processes if nobody stops it, so that a test that fails
/// does not take the machine along. Half of them leave their session.
const BOMB: &str = r"
use POSIX; $SIG{TERM} = 'IGNORE';
for my $round (1 .. 9) { my $child = fork; POSIX::setsid() if defined $child && !$child && $round % 2; }
sleep 1000 while 1;
";

#[test]
fn a_fork_bomb_ends_in_its_class_with_nothing_left_and_nobody_else_harmed() {
    for (groups, sandbox) in [(true, false), (false, false), (true, true), (false, true)] {
        let bench = bench(groups);
        let (good, good_sink) = bench.shell("exec sleep 1000");
        good.start(vec![work(1, "task", "null")]);
        let neighbour: i32 = good_sink.started(1)[4..].parse().unwrap();
        let tag = format!("offloop-bomb-{}-{groups}-{sandbox}", std::process::id());
        let mut spec = quick(ProcessSpec::exec(info("task"), ["perl", "-e", BOMB]));
        spec.budgets.processes = 32;
        spec.sandbox.no_network = sandbox;
        spec.env.insert("BOMB_TAG".into(), (&tag).into());
        let (lane, sink) = bench.open(spec);
        lane.start(vec![work(1, "task", "null")]);
        failed_as(
            &sink.ended(1),
            FailureClass::ProcessLimit,
            "its limit is 32",
        );
        assert_eq!(processes_with(&tag), Vec::<i32>::new(), "groups: {groups}");
        assert!(is_alive(neighbour));
        assert!(good_sink.peek(|seen| seen.ended.is_empty()));
    }
}

#[test]
fn a_tree_within_its_processes_and_a_program_of_many_threads_complete() {
    let bench = Bench::new();
    let mut spec = quick(ProcessSpec::exec(
        info("task"),
        [
            "sh",
            "-c",
            "for i in 1 2 3 4 5 6 7; do sleep 0.2 & done; wait",
        ],
    ));
    spec.budgets.processes = 8;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "null")]);
    let ended = sink.ended(1);
    assert!(
        matches!(ended.outcome, Outcome::Completed { .. }),
        "{ended:?}"
    );
    if !installed("python3", "a_program_of_many_threads_completes") {
        return;
    }
    let threads = "import threading, time\n\
                   all = [threading.Thread(target=time.sleep, args=(0.2,)) for _ in range(40)]\n\
                   [t.start() for t in all]; [t.join() for t in all]";
    let mut spec = quick(ProcessSpec::exec(info("task"), ["python3", "-c", threads]));
    spec.budgets.processes = 16; // a wrapper of it may be some
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "null")]);
    let ended = sink.ended(1);
    assert!(
        matches!(ended.outcome, Outcome::Completed { .. }),
        "{ended:?}"
    );
}

/// Opens until it is refused, says how many there were, and stands still.
const OPENER: &str =
    r"my @all; while (open my $f, '<', '/dev/null') { push @all, $f } sleep 1000 while 1";

#[test]
fn a_process_that_has_used_up_its_files_ends_in_their_class() {
    let bench = Bench::new();
    for limit in [16, 1_024] {
        let mut spec = quick(ProcessSpec::exec(info("task"), ["perl", "-e", OPENER]));
        spec.budgets.open_files = limit;
        let (lane, sink) = bench.open(spec);
        lane.start(vec![work(1, "task", "null")]);
        let says = format!("has {limit} files open; the limit is {limit}");
        failed_as(&sink.ended(1), FailureClass::FileLimit, &says);
    }
}

#[test]
fn a_process_below_its_files_completes() {
    let bench = Bench::new();
    // Three are open from the start.
    let script = r#"my @all; for (1 .. 60) { open my $f, '<', '/dev/null' or die "$!"; push @all, $f }
                    select undef, undef, undef, 0.3"#;
    let mut spec = quick(ProcessSpec::exec(info("task"), ["perl", "-e", script]));
    spec.budgets.open_files = 64;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "null")]);
    let ended = sink.ended(1);
    assert!(
        matches!(ended.outcome, Outcome::Completed { .. }),
        "{ended:?}"
    );
}

#[test]
fn libraries_do_not_take_every_core_unless_the_task_says_so() {
    let bench = Bench::new();
    let script = "echo \\\"$OMP_NUM_THREADS $MKL_NUM_THREADS\\\"";
    let mut spec = quick(ProcessSpec::exec(info("task"), ["sh", "-c", script]));
    spec.env.insert("MKL_NUM_THREADS".into(), "3".into());
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "null")]);
    assert_eq!(support::result(&sink.ended(1)), "\"1 3\"");
}

/// A warm child is not looked at while it is idle; once it has a job it is.
#[test]
fn a_fork_bomb_in_a_warm_child_ends_in_its_class_and_the_pool_goes_on() {
    let bench = Bench::new();
    let job = "if ($data =~ /bomb/) { for (1 .. 11) { fork } sleep 1000 while 1 }";
    let file = bench.file("child.pl", &common::perl_child(job));
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.budgets.processes = 32;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1")]);
    assert_eq!(support::result(&sink.ended(1)), "1");
    lane.start(vec![work(2, "task", "\"bomb\"")]);
    let ended = sink.ended(2);
    failed_as(&ended, FailureClass::ProcessLimit, "its limit is 32");
    println!(
        "{:?} after {:?}",
        support::failure(&ended).message,
        ended.usage.wall
    );
    lane.start(vec![work(3, "task", "3")]);
    assert_eq!(support::result(&sink.ended(3)), "3");
}

/// Summed by process it would be 480 MB.
#[test]
fn memory_that_forked_processes_share_is_counted_once() {
    let bench = Bench::new();
    let script = "my $x = chr(1) x 60_000_000; for (1 .. 7) { next if fork; sleep 1; exit } \
                  1 while wait > 0";
    let (lane, sink) = bench.open(quick(ProcessSpec::exec(
        info("task"),
        ["perl", "-e", script],
    )));
    let mut job = work(1, "task", "null");
    job.limits.memory_bytes = Some(250 << 20);
    lane.start(vec![job]);
    let ended = sink.ended(1);
    assert!(
        matches!(ended.outcome, Outcome::Completed { .. }),
        "{ended:?}"
    );
}
