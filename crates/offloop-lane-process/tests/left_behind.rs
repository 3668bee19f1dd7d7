//! Processes that a job of a warm child started and left.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use common::{Bench, exits, is_alive, perl_child, pid_of};
use offloop_job::FailureClass;
use offloop_lane::{Lane, Proof};
use support::{failed_as, result, work};

/// `spawn`: answers the pid of a sleeper that it leaves. `fail`: leaves one, and fails with its pid.
/// `refuse`: fails and leaves nothing.
const CODE: &str = r#"
    if ($data eq '"spawn"' || $data eq '"fail"') {
        my $pid = fork;
        if (!$pid) { exec 'sleep', '1000'; }
        select undef, undef, undef, 0.02;
        $out = $pid;
        if ($data eq '"fail"') {
            say_("{\"type\":\"error\",\"lease\":$lease,\"message\":\"left $pid\"}");
            next;
        }
    }
    if ($data eq '"refuse"') {
        say_("{\"type\":\"error\",\"lease\":$lease,\"message\":\"no\"}");
        next;
    }
"#;

#[test]
fn what_a_failed_job_left_running_is_gone_before_the_job_ends() {
    let bench = Bench::new();
    let file = bench.file("task.pl", &perl_child(CODE));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "\"fail\"")]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::Error, "left ");
    let text = format!("{:?}", ended.outcome);
    let left = text.split("left ").nth(1).unwrap();
    let left: i32 = left
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!(!is_alive(left), "the next attempt would meet it");
    assert!(
        matches!(ended.gone.proof(), Proof::Reaped { .. }),
        "{ended:?}"
    );
    assert_eq!(exits(&lane, "left_processes"), 1);
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn a_helper_that_a_good_job_keeps_warm_is_left_alone_also_by_a_failure_later() {
    let bench = Bench::new();
    let file = bench.file("task.pl", &perl_child(CODE));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "\"spawn\"")]);
    let first = sink.ended(1);
    let helper: i32 = result(&first).parse().unwrap();
    lane.start(vec![work(2, "task", "\"refuse\"")]);
    let second = sink.ended(2);
    failed_as(&second, FailureClass::Error, "no");
    assert!(is_alive(helper) && is_alive(pid_of(&first.executor)));
    assert_eq!(first.executor, second.executor);
    assert_eq!(exits(&lane, "left_processes"), 0);
}
