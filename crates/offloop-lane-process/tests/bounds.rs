//! Bounds in the pool beside those of the tree: deadlines, output, results, notes; and what is on record.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{Bench, Gate, exits, kill_9, perl_child, perl_child_after, pid_of, spec_of};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof};
use offloop_lane_process::ProcessSpec;
use support::{PATIENCE, eventually, failed_as, info, result, stopped_by, work};

#[test]
fn work_that_is_late_is_not_begun_and_late_work_is_counted() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    let job = "select undef, undef, undef, 0.3 if $data ne '0';";
    let (lane, sink) = bench.open(spec_of(&bench, &perl_child_after(&gate.code(), job), 1));
    let run = |lease, payload: &str, deadline: Duration| {
        let mut one = work(lease, "task", payload);
        one.deadline = Some(Instant::now() + deadline);
        lane.start(vec![one]);
        sink.ended(lease)
    };
    let refused = |ended: &offloop_lane::Ended, says: &str| {
        failed_as(ended, FailureClass::Timeout, says);
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    };
    eventually("a child is about to be ready", || gate.passed() == 1);
    refused(&run(1, "1", Duration::ZERO), "its deadline passed");
    assert_eq!(result(&run(2, "1", Duration::from_millis(100))), "1");
    assert_eq!(lane.status().late, 1, "done for nobody, and not counted");
    // It is known now what a run takes.
    refused(
        &run(3, "1", Duration::from_millis(200)),
        "its deadline cannot be met",
    );
    assert_eq!(result(&run(4, "1", Duration::from_secs(30))), "1");
    // One that is always turned away would never learn that runs are short now.
    let turned_away = (10..200).take_while(|lease| {
        let ended = run(*lease, "0", Duration::from_millis(100));
        ended.gone.proof() == Proof::NeverStarted
    });
    assert!(turned_away.count() < 100, "the door stayed shut");
    // While no child is ready, the deadline passes in the line.
    let late = lane.status().late;
    gate.set("closed", true);
    kill_9(pid_of(&sink.started(2)));
    eventually("no child", || {
        lane.status().executors == 0 || gate.starts() == 2
    });
    refused(
        &run(300, "1", Duration::from_millis(400)),
        "its deadline passed",
    );
    assert_eq!(
        lane.status().late,
        late,
        "work that was not begun is not late"
    );
    gate.set("closed", false);

    let (lane, sink) = bench.shell("sleep 0.2");
    let mut one = work(1, "task", "1");
    one.deadline = Some(Instant::now());
    lane.start(vec![one.clone()]);
    refused(&sink.ended(1), "its deadline passed");
    one.deadline = Some(Instant::now() + Duration::from_millis(50));
    lane.start(vec![one]);
    let _ = result(&sink.ended(1));
    assert_eq!(lane.status().late, 1);
}

#[test]
fn what_went_in_and_out_and_how_old_the_child_was_is_on_record() {
    let bench = Bench::new();
    let job = "note($lease, '\"12345\"'); print 'x' x 100000; $out = '\"ten bytes\"';";
    let (lane, sink) = bench.open(spec_of(&bench, &perl_child(job), 1));
    let mut ages = Vec::new();
    for lease in 1..=2 {
        lane.start(vec![work(lease, "task", "{\"a\":1}")]);
        let usage = sink.ended(lease).usage;
        assert_eq!(usage.bytes_in, 7);
        assert_eq!(usage.bytes_out, 7 + 100_000 + 11);
        ages.push(usage.executor_age.unwrap());
    }
    assert!(ages[1] > ages[0], "{ages:?}");
    let (lane, sink) = bench.shell("cat >/dev/null; echo 12345; echo 67 >&2");
    lane.start(vec![work(1, "task", "{\"a\":1}")]);
    let usage = sink.ended(1).usage;
    assert_eq!((usage.bytes_in, usage.bytes_out), (7, 9));
    assert_eq!(usage.executor_age, None);
}

#[test]
fn a_job_that_prints_without_end_is_ended_in_its_class_and_at_once() {
    let bench = Bench::new();
    let mut spec = spec_of(
        &bench,
        &perl_child("if ($data eq '1') { $SIG{TERM} = 'IGNORE'; 1 while print 'x' x 1000; }"),
        1,
    );
    spec.budgets.output_bytes = Some(300_000);
    (spec.grace, spec.term_grace) = (PATIENCE, PATIENCE);
    let (lane, sink) = bench.open(spec.clone());
    lane.start(vec![work(1, "task", "1")]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::OutputLimit, "printed ");
    failed_as(&ended, FailureClass::OutputLimit, "limit is 300000 bytes");
    assert!(ended.usage.bytes_out > 300_000);
    assert_eq!(exits(&lane, "output_limit"), 1);
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");

    let mut exec = ProcessSpec::exec(info("task"), ["yes"]);
    exec.budgets = spec.budgets;
    let (lane, sink) = bench.open(exec);
    lane.start(vec![work(1, "task", "1")]);
    failed_as(
        &sink.ended(1),
        FailureClass::OutputLimit,
        "limit is 300000 bytes",
    );
    assert_eq!(exits(&lane, "output_limit"), 1);
}

#[test]
fn a_result_over_its_limit_fails_in_its_class_and_keeps_the_child() {
    let bench = Bench::new();
    let (lane, sink) = bench.open(spec_of(
        &bench,
        &perl_child("$out = '\"' . 'x' x 1048576 . '\"' if $data eq '1';"),
        1,
    ));
    lane.start(vec![work(1, "task", "1")]);
    let ended = sink.ended(1);
    failed_as(
        &ended,
        FailureClass::OutputLimit,
        "the result has 1048578 bytes",
    );
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(sink.ended(2).executor, ended.executor);
}

#[test]
fn a_flood_of_progress_notes_keeps_the_newest_and_counts_the_rest() {
    let bench = Bench::new();
    let flood = "note($lease, $_) for 1..20000; $out = '1';";
    let (lane, sink) = bench.open(spec_of(&bench, &perl_child(flood), 1));
    let begin = Instant::now();
    lane.start(vec![work(1, "task", "1")]);
    let ended = sink.ended(1);
    let told = sink.peek(|seen| seen.notes.clone());
    let most = begin.elapsed().as_millis() / 20 + 2;
    assert!(
        told.len() as u128 <= most,
        "{} notes, {most} in that time",
        told.len()
    );
    assert_eq!(told.last().unwrap().1, "20000", "the newest was left out");
    let said = String::from_utf8_lossy(&ended.log.head).into_owned();
    let count = 20_000 - told.len();
    assert!(
        said.contains(&format!("{count} progress notes")),
        "{said} {}",
        told.len()
    );
}

#[test]
fn a_note_that_waits_for_its_turn_is_told_while_the_job_runs_on() {
    let bench = Bench::new();
    let two = "note($lease, 1); note($lease, 2); sleep 100;";
    let (lane, sink) = bench.open(spec_of(&bench, &perl_child(two), 1));
    lane.start(vec![work(1, "task", "1")]);
    sink.wait("second note", |seen| {
        seen.notes.iter().any(|n| n.1 == "2").then_some(())
    });
    lane.stop(Lease(1), StopReason::Cancel);
    stopped_by(&sink.ended(1), StopReason::Cancel);
}
