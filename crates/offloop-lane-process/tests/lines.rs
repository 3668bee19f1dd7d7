//! Children that speak JSON lines over their standard streams.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::time::Duration;

use common::{Bench, exits, kill_9, pid_of, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof};
use offloop_lane_process::{Harness, ProcessLane, ProcessSpec, Wire};
use support::{PATIENCE, Subject, failed_as, failure, info, result, stopped_by, work};

/// Runs the three tasks of the lane suite, in the shell: `$lease` is the job's, `$data` its payload.
const SUITE: &str = r#"
      case $line in
        *'"task":"fail"'*) echo "{\"type\":\"error\",\"lease\":$lease,\"class\":\"invalid\",\"message\":\"no good\"}"; continue ;;
        *'"task":"wait"'*)
          echo "{\"type\":\"progress\",\"lease\":$lease,\"note\":\"waiting\"}"; read -r _
          echo "{\"type\":\"error\",\"lease\":$lease,\"message\":\"stopped\"}"; continue ;;
      esac
"#;

fn child(job: &str) -> String {
    let head = r#"
echo '{"type":"ready","protocol":1}'
while read -r line; do
  case $line in
    *'"type":"ping"'*) echo '{"type":"pong"}' ;;
    *'"type":"run"'*)
      lease=${line#*'"lease":'}; lease=${lease%%[!0-9]*}
      data=${line#*'"payload":'}; data=${data%?}
"#;
    let tail = r#"
      echo "{\"type\":\"result\",\"lease\":$lease,\"result\":$data}" ;;
  esac
done
"#;
    format!("{head}{job}{tail}")
}

fn spec_of(bench: &Bench, text: &str) -> ProcessSpec {
    let file = bench.file("task.sh", text);
    let mut spec = quick(ProcessSpec::process(info("echo"), ["sh".into(), file]));
    spec.wire = Wire::Lines;
    spec
}

lane_conformance!(|slots| {
    let bench = Bench::new();
    let mut spec = spec_of(&bench, &child(SUITE));
    spec.processes = slots;
    let (lane, sink) = bench.open(spec);
    std::mem::forget(bench.folder); // children read the file as they start
    Subject {
        lane: Box::new(lane),
        sink,
    }
});

#[test]
fn the_guide_s_example_of_lines_really_runs() {
    let guide = include_str!("../../../docs/guides/process-protocol.md");
    let code = guide.split("```sh\n").nth(1);
    let code = code.and_then(|rest| rest.split("```").next()).unwrap();
    let lines = code.lines().count();
    assert!(lines <= 30, "{lines} lines");
    let bench = Bench::new();
    let mut spec = spec_of(&bench, code);
    spec.pacing.ping_every = Duration::from_millis(20);
    let (lane, sink) = bench.open(spec);
    for lease in 1..=3 {
        lane.start(vec![work(lease, "echo", "{\"name\": \"Ada\"}")]);
        let ended = sink.ended(lease);
        assert_eq!(result(&ended), "{\"bytes\":15}");
        let log = String::from_utf8_lossy(&ended.log.head).into_owned();
        assert!(log.contains("counting"), "{log}");
        assert_eq!(&sink.note(lease)[..], b"\"half way\"");
    }
    assert_eq!(lane.exits(), []);
}

#[test]
fn a_payload_of_a_megabyte_over_many_lines_arrives_as_one_line() {
    let bench = Bench::new();
    // Counts what it was given; a shell's `read` would take a second for a megabyte.
    let perl = r#"$| = 1; print "{\"type\":\"ready\"}\n";
        while (<STDIN>) { next unless /"type":"run"/; my ($lease) = /"lease":(\d+)/;
          my ($data) = /"payload":(.*)\}$/; my $x = 'y' x 900000;
          print "{\"type\":\"result\",\"lease\":$lease,\"result\":[", length $data, ",\"$x\"]}\n"; }"#;
    let mut spec = spec_of(&bench, "");
    spec.command = vec!["perl".into(), bench.file("task.pl", perl)];
    let (lane, sink) = bench.open(spec);
    let large = format!("[\n\"{}\",\r\n1]", "x".repeat(1_000_000));
    lane.start(vec![work(1, "echo", &large)]);
    let answer = result(&sink.ended(1));
    assert_eq!(answer.len(), 900_000 + 12);
    assert!(
        answer.starts_with(&format!("[{},\"yyy", large.len())),
        "{:?}",
        &answer[..20]
    );
}

#[test]
fn a_harness_that_would_speak_frames_into_lines_is_refused_before_any_job() {
    let bench = Bench::new();
    let mut spec = spec_of(&bench, "");
    let check = |spec: &ProcessSpec| ProcessLane::new(spec.clone(), bench.host.clone()).check();
    assert_eq!(check(&spec), Ok(()));
    spec.harness = Harness::Node;
    assert!(check(&spec).unwrap_err().contains("speaks frames"));
}

#[test]
fn what_is_printed_to_the_channel_by_mistake_is_told_as_that() {
    let bench = Bench::new();
    let (lane, sink) = bench.open(spec_of(
        &bench,
        &child("[ \"$data\" = 1 ] && echo 'now working'"),
    ));
    lane.start(vec![work(1, "echo", "1")]);
    let ended = sink.ended(1);
    failed_as(
        &ended,
        FailureClass::Crashed,
        "printed \"now working\" to standard output",
    );
    failed_as(&ended, FailureClass::Crashed, "print to standard error");
    assert_eq!(exits(&lane, "protocol"), 1);
    lane.start(vec![work(2, "echo", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn standard_error_is_the_log_and_a_line_without_end_is_no_way_to_fill_the_server() {
    let bench = Bench::new();
    let job = "echo to the log >&2; [ \"$data\" = 2 ] && { head -c 9000000 /dev/zero | tr '\\0' x; sleep 100; }";
    let (lane, sink) = bench.open(spec_of(&bench, &child(job)));
    lane.start(vec![work(1, "echo", "1")]);
    assert_eq!(&sink.ended(1).log.head[..], b"to the log\n");
    lane.start(vec![work(2, "echo", "2")]);
    failed_as(
        &sink.ended(2),
        FailureClass::Crashed,
        "the limit is 2097152",
    );
}

#[test]
fn a_child_of_lines_that_is_killed_in_the_middle_of_an_answer_fails_only_its_job() {
    let bench = Bench::new();
    let half = "[ \"$data\" = 1 ] && { printf '{\"type\":\"res'; kill -9 $$; }";
    let (lane, sink) = bench.open(spec_of(&bench, &child(half)));
    lane.start(vec![work(1, "echo", "1")]);
    let ended = sink.ended(1);
    assert_eq!(failure(&ended).signal, Some(9));
    assert!(matches!(ended.gone.proof(), Proof::Reaped { .. }));
    lane.start(vec![work(2, "echo", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn children_of_lines_are_recycled_and_stopped_like_others() {
    let bench = Bench::new();
    let job = "[ \"$data\" = 1 ] && { trap '' TERM; while :; do sleep 1; done; }";
    let mut spec = spec_of(&bench, &child(job));
    spec.recycle.jobs = Some(2);
    let (lane, sink) = bench.open(spec);
    for lease in 2..=3 {
        lane.start(vec![work(lease, "echo", "2")]);
        assert_eq!(result(&sink.ended(lease)), "2");
    }
    support::eventually("recycled", || exits(&lane, "recycled_jobs") == 1);
    lane.start(vec![work(1, "echo", "1")]);
    let pid = pid_of(&sink.started(1));
    lane.stop(Lease(1), StopReason::Cancel);
    let ended = sink.ended(1);
    stopped_by(&ended, StopReason::Cancel);
    assert_eq!(ended.gone.proof(), Proof::Reaped { pid });
    lane.start(vec![work(9, "echo", "2")]);
    kill_9(pid_of(&sink.ended(9).executor));
    support::eventually("seen", || exits(&lane, "idle_death") == 1);
    assert_eq!(lane.terminate(PATIENCE), []);
}
