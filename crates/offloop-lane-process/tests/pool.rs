//! The pool itself: its spare, the replacing of children, starts that fail, and why children leave.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use common::{
    Bench, Gate, exits, is_alive, kill_9, perl_child, perl_child_after, pid_of, processes_with,
    quick, spec_of,
};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof};
use offloop_lane_process::{Pacing, ProcessLane, ProcessSpec, Recycle};
use support::{PATIENCE, TestSink, eventually, failed_as, failure, info, result, stopped_by, work};

/// Runs jobs until so many children were replaced, always as many at once as there are slots;
/// answers how many of them waited at most, seen from another thread all the while.
fn worst_wait(lane: &ProcessLane, sink: &TestSink, slots: usize, replaced: u64) -> u32 {
    let (done, worst) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                worst.fetch_max(lane.status().queued, Ordering::Relaxed);
                std::thread::park_timeout(Duration::from_micros(50));
            }
        });
        let mut jobs = 0;
        while jobs < 100 || exits(lane, "recycled_jobs") < replaced {
            jobs += 1;
            assert!(jobs < 50_000, "no child is replaced: {:?}", lane.exits());
            sink.ended_count((jobs as usize).saturating_sub(slots));
            lane.start(vec![work(1_000 + jobs, "task", "1")]);
        }
        sink.ended_count(jobs as usize);
        done.store(true, Ordering::Relaxed);
    });
    let bad = sink.peek(|seen| {
        let ended = seen.ended.iter();
        ended
            .filter(|e| e.log.dropped_bytes > 0 || result(e) != "1")
            .count()
    });
    assert_eq!(bad, 0);
    worst.load(Ordering::Relaxed)
}

#[test]
fn a_recycle_storm_under_load_never_takes_capacity_away() {
    for (processes, jobs, spare) in [(4, 1, false), (4, 2, true), (8, 2, false), (1, 1, false)] {
        let bench = Bench::new();
        let hold = bench.file("hold", "");
        let short = format!(
            "while ($data eq '0' && -e '{}') {{ select undef, undef, undef, 0.002 }} select undef, undef, undef, 0.004;",
            hold.to_str().unwrap()
        );
        let mut spec = spec_of(&bench, &perl_child(&short), processes);
        spec.recycle.jobs = Some(jobs);
        spec.spare = spare;
        let (lane, sink) = bench.open(spec);
        // Warm: each slot has a child that is at work, all at once.
        for lease in 1..=u64::from(processes) {
            lane.start(vec![work(lease, "task", "0")]);
        }
        eventually("warm", || lane.status().queued == 0);
        std::fs::remove_file(&hold).unwrap();
        (1..=u64::from(processes)).for_each(|lease| drop(sink.ended(lease)));
        let worst = worst_wait(&lane, &sink, usize::from(processes), 8);
        // A job waits only while fewer children than slots are ready or busy.
        let most = u32::from(processes) / 4;
        assert!(
            worst <= most,
            "{worst} of {processes} slots without a child"
        );
        assert_eq!(lane.exits().len(), 1, "{:?}", lane.exits());
        assert_eq!(lane.terminate(PATIENCE), []);
        assert_eq!(bench.roster(), Vec::<PathBuf>::new());
    }
}

#[test]
fn a_replacement_is_ready_before_the_old_child_goes() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    let mut spec = spec_of(&bench, &perl_child_after(&gate.code(), ""), 1);
    spec.recycle.jobs = Some(1);
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1")]);
    let first = sink.ended(1).executor;
    // Whatever came after the first child may be held up: the old one serves on.
    gate.set("closed", true);
    let mut seen = Vec::new();
    for lease in 2..20 {
        lane.start(vec![work(lease, "task", "1")]);
        seen.push(sink.ended(lease).executor);
    }
    let before = gate.starts();
    assert!(
        before <= 4,
        "{before} starts while one replacement is on its way"
    );
    let last = seen.last().unwrap().clone();
    assert!(is_alive(pid_of(&last)));
    gate.set("closed", false);
    eventually("replaced", || !is_alive(pid_of(&last)));
    lane.start(vec![work(30, "task", "1")]);
    assert_ne!(sink.ended(30).executor, last);
    assert_ne!(first, sink.started(30));
}

#[test]
fn a_spare_takes_the_place_of_a_child_that_dies_and_adds_no_slot() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    let job = "sleep 100 if $data eq '1';";
    let mut spec = spec_of(&bench, &perl_child_after(&gate.code(), job), 2);
    spec.spare = true;
    let (lane, sink) = bench.open(spec);
    assert_eq!(lane.slots().running, 2);
    eventually("all three started", || gate.passed() == 3);
    lane.start(vec![
        work(1, "task", "1"),
        work(2, "task", "1"),
        work(3, "task", "3"),
    ]);
    stopped_by(&sink.ended(3), StopReason::Shutdown);
    let dies = pid_of(&sink.started(1));
    let _ = sink.started(2);
    assert_eq!(lane.status().running, 2);
    gate.set("closed", true); // no other child will be ready
    kill_9(dies);
    failed_as(&sink.ended(1), FailureClass::Crashed, "signal 9");
    lane.start(vec![work(4, "task", "4")]);
    assert_eq!(result(&sink.ended(4)), "4");
    eventually("a new spare is on its way", || gate.starts() == 4);
    assert_eq!(exits(&lane, "crashed_signal"), 1);
    gate.set("closed", false);
    lane.stop(Lease(2), StopReason::Cancel);
    stopped_by(&sink.ended(2), StopReason::Cancel);
}

#[test]
fn an_old_child_and_one_that_asks_for_it_are_replaced() {
    let bench = Bench::new();
    let ask = "say_('{\"type\":\"recycle\"}') if $data eq '2';";
    let mut spec = spec_of(&bench, &perl_child(ask), 1);
    let (lane, sink) = bench.open(spec.clone());
    lane.start(vec![work(1, "task", "1")]);
    let first = sink.ended(1).executor;
    lane.start(vec![work(2, "task", "2")]);
    let second = sink.ended(2);
    assert_eq!(
        (result(&second), &second.executor),
        ("2".to_owned(), &first)
    );
    eventually("replaced as it wished", || {
        exits(&lane, "recycled_by_request") == 1
    });
    lane.start(vec![work(3, "task", "3")]);
    assert_ne!(sink.ended(3).executor, first);
    drop(lane);

    spec.recycle.age = Some(Duration::from_millis(200));
    let (lane, _) = bench.open(spec);
    eventually("replaced by its age", || exits(&lane, "recycled_age") >= 2);
    eventually("and the pool is whole", || lane.status().executors >= 1);
}

#[test]
fn a_child_whose_tree_holds_too_much_between_two_jobs_is_replaced_and_costs_no_job() {
    let bench = Bench::new();
    // What it holds is in a grandchild that stays.
    let leak = r"if ($data eq '2') { pipe my $r, my $w;
        if (!fork) { close $ch; my $x = 'x' x 80000000; syswrite $w, '1'; sleep 1000; exit; } sysread $r, my $b, 1; }";
    let mut spec = spec_of(&bench, &perl_child(leak), 1);
    spec.recycle.memory_bytes = Some(50_000_000);
    let (lane, sink) = bench.open(spec);
    for lease in 1..=3 {
        lane.start(vec![work(lease, "task", &lease.to_string())]);
        assert_eq!(result(&sink.ended(lease)), lease.to_string());
        if lease == 1 {
            assert_eq!(lane.exits(), [], "a small child was replaced");
            // It is weighed ten times a second at most: let the next answer be looked at.
            std::thread::sleep(Duration::from_millis(120));
        }
    }
    eventually("replaced", || exits(&lane, "recycled_memory") >= 1);
    lane.start(vec![work(9, "task", "9")]);
    assert_eq!(result(&sink.ended(9)), "9");
    assert_eq!(lane.exits().len(), 1, "{:?}", lane.exits());
}

#[test]
fn a_child_that_does_not_leave_when_it_is_replaced_climbs_the_ladder() {
    let bench = Bench::new();
    let deaf = perl_child("").replace(
        "or exit 0; }",
        "or do { $SIG{TERM} = 'IGNORE'; sleep 1000; } }",
    );
    let mut spec = spec_of(&bench, &deaf, 1);
    spec.recycle.jobs = Some(1);
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1")]);
    let old = pid_of(&sink.ended(1).executor);
    eventually("counted once it is gone", || {
        exits(&lane, "recycled_jobs") == 1
    });
    assert!(!is_alive(old));
    assert_eq!(exits(&lane, "protocol"), 0);
}

#[test]
fn starts_that_fail_in_a_row_stop_the_starting_and_one_child_finds_the_way_back() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    gate.set("broken", true);
    let mut spec = spec_of(&bench, &perl_child_after(&gate.code(), ""), 4);
    spec.pacing = Pacing {
        backoff_first: Duration::from_millis(5),
        failed_starts: 1,
        pause: Duration::from_millis(700),
        ..Pacing::default()
    };
    let (lane, sink) = bench.open(spec);
    eventually("trouble", || lane.trouble().is_some());
    // Those that were on their way fail, too; none is started in their place.
    eventually("all four failed", || exits(&lane, "not_ready") == 4);
    let trouble = lane.trouble().unwrap();
    for says in [
        "task `task`",
        "4 starts in a row failed",
        "tried again in",
        "licence has run out",
    ] {
        assert!(trouble.contains(says), "{says:?} not in {trouble:?}");
    }
    lane.start(vec![work(1, "task", "1")]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::Error, "licence has run out");
    assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    // After the pause a single one is tried, and the pause begins anew.
    assert_eq!(gate.starts(), 4);
    eventually("two more were tried", || {
        assert!(lane.status().executors <= 1, "more than one child is tried");
        exits(&lane, "not_ready") >= 6
    });
    assert!(gate.starts() as u64 <= exits(&lane, "not_ready") + 1);
    gate.set("broken", false);
    eventually("well again", || {
        lane.trouble().is_none() && lane.status().executors == 4
    });
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn a_job_that_waits_while_one_child_is_tried_is_served_when_that_is_well() {
    let bench = Bench::new();
    let gate = Gate::new(&bench);
    gate.set("broken", true);
    let mut spec = spec_of(&bench, &perl_child_after(&gate.code(), ""), 1);
    spec.pacing = Pacing {
        backoff_first: Duration::from_millis(1),
        failed_starts: 2,
        pause: Duration::from_millis(200),
        ..Pacing::default()
    };
    let (lane, sink) = bench.open(spec);
    eventually("trouble", || lane.trouble().is_some());
    assert_eq!(gate.starts(), 2, "a start after the second that failed");
    gate.set("closed", true);
    gate.set("broken", false);
    let tried = || {
        lane.trouble()
            .is_some_and(|why| why.contains("being tried now"))
    };
    eventually("a trial", tried);
    lane.start(vec![work(1, "task", "1")]);
    eventually("it waits", || lane.status().head_age.is_some());
    gate.set("closed", false);
    assert_eq!(result(&sink.ended(1)), "1");
}

#[test]
fn jobs_that_crash_their_children_do_not_close_the_lane_for_the_others() {
    let bench = Bench::new();
    let (lane, sink) = bench.open(spec_of(&bench, &perl_child("exit 3 if $data eq '1';"), 1));
    for lease in 1..=8 {
        lane.start(vec![work(lease, "task", "1")]);
        failed_as(&sink.ended(lease), FailureClass::Crashed, "exit code 3");
    }
    assert_eq!(lane.trouble(), None);
    lane.start(vec![work(9, "task", "9")]);
    assert_eq!(result(&sink.ended(9)), "9");
    assert_eq!(exits(&lane, "crashed_exit"), 8);
}

#[test]
fn a_child_that_dies_or_hangs_between_two_jobs_is_found() {
    let bench = Bench::new();
    let mut spec = spec_of(&bench, &perl_child(""), 1);
    spec.pacing.ping_every = Duration::from_millis(20);
    let counts = perl_child("").replace(
        "if ($head =~ /\"type\":\"ping\"/) {",
        "if ($head =~ /\"type\":\"ping\"/) { print '.';",
    );
    let (lane, sink) = bench.open(ProcessSpec {
        command: vec!["perl".into(), bench.file("pong.pl", &counts)],
        ..spec.clone()
    });
    lane.start(vec![work(1, "task", "1")]);
    let pid = pid_of(&sink.ended(1).executor);
    spec.pacing.pong_within = Duration::from_millis(100);
    let deaf = perl_child("").replace("say_('{\"type\":\"pong\"}'); next;", "sleep 1000;");
    spec.command = vec!["perl".into(), bench.file("deaf.pl", &deaf)];
    let (deaf, _) = bench.open(spec);
    eventually("silent ones are ended", || exits(&deaf, "silent") >= 2);
    // All the while the other one was asked again and again, and answered.
    assert_eq!(lane.exits(), []);
    assert!(is_alive(pid));
    kill_9(pid);
    eventually("seen", || exits(&lane, "idle_death") == 1);
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn every_exit_has_the_reason_that_it_was_ended_for() {
    let spin = "if ($data eq '1') { note($lease, 1); 1 while 1; }";
    let eat =
        "my @held; for (1..400) { push @held, 'x' x 1000000; select undef, undef, undef, 0.005 }";
    let rows: [(&str, &str, &str); 8] = [
        ("timeout", spin, "timeout"),
        ("cpu", spin, "cpu_limit"),
        ("stall", spin, "stalled"),
        ("cancel", spin, "cancelled"),
        ("memory", eat, "memory_limit"),
        ("", "kill 9, $$;", "crashed_signal"),
        ("", "exit 1;", "crashed_exit"),
        ("", "say_('x');", "protocol"),
    ];
    for (limit, job, reason) in rows {
        let bench = Bench::new();
        let mut spec = spec_of(&bench, &perl_child(job), 1);
        (spec.grace, spec.term_grace) = (Duration::from_millis(20), Duration::from_millis(20));
        let (lane, sink) = bench.open(spec);
        let mut one = work(1, "task", "1");
        match limit {
            "timeout" => one.limits.timeout = Duration::from_millis(50),
            "cpu" => one.limits.cpu = Some(Duration::from_millis(50)),
            "stall" => one.limits.stall = Some(Duration::from_millis(50)),
            "memory" => one.limits.memory_bytes = Some(50_000_000),
            _ => {}
        }
        lane.start(vec![one]);
        if limit == "cancel" {
            sink.note(1);
            lane.stop(Lease(1), StopReason::Cancel);
        }
        let _ = failure(&sink.ended(1));
        assert_eq!(exits(&lane, reason), 1, "{reason}: {:?}", lane.exits());
        assert_eq!(lane.exits().len(), 1, "{reason}: {:?}", lane.exits());
        assert_eq!(lane.terminate(PATIENCE), []);
        assert!(exits(&lane, "shutdown") >= 1, "{:?}", lane.exits());
    }
    let bench = Bench::new();
    let (lane, sink) = bench.shell("exit 3");
    lane.start(vec![work(1, "task", "1")]);
    drop(sink.ended(1));
    assert_eq!(exits(&lane, "ended"), 1);
}

#[test]
fn a_lane_that_could_not_serve_is_found_before_any_job_and_leaves_nothing_behind() {
    let bench = Bench::new();
    let rows = [
        (perl_child(""), Ok(())),
        ("die 'no such module';".to_owned(), Err("no such module")),
        ("sleep 1000;".to_owned(), Err("start timeout")),
    ];
    for (text, want) in rows {
        let mut spec = spec_of(&bench, &text, 4);
        spec.start_timeout = Duration::from_millis(300);
        let lane = ProcessLane::new(spec, bench.host.clone());
        match (lane.try_out(), want) {
            (Ok(()), Ok(())) => {}
            (Err(error), Err(says)) if error.contains(says) => {}
            (other, _) => panic!("{text}: {other:?}"),
        }
        assert_eq!(bench.roster(), Vec::<PathBuf>::new());
    }
    let run = bench.folder.path().join("was_run");
    let command = ["touch".into(), run.clone().into_os_string()];
    let exec = ProcessSpec::exec(info("task"), command);
    assert_eq!(ProcessLane::new(exec, bench.host.clone()).try_out(), Ok(()));
    assert!(!run.exists(), "a command was run for a look");
    let missing = ProcessSpec::exec(info("task"), ["no-such-command-here"]);
    assert!(
        ProcessLane::new(missing, bench.host.clone())
            .try_out()
            .is_err()
    );
}

#[test]
fn a_child_that_the_system_does_not_start_is_told_as_that_and_tried_again() {
    let bench = Bench::new();
    let folder = bench.folder.path().join("work");
    std::fs::create_dir(&folder).unwrap();
    let mut warm = spec_of(&bench, &perl_child("exit 1 if $data eq '1';"), 1);
    let mut exec = quick(ProcessSpec::exec(info("task"), ["true"]));
    (warm.cwd, exec.cwd) = (Some(folder.clone()), Some(folder.clone()));
    let (warm, warm_sink) = bench.open(warm);
    let (exec, exec_sink) = bench.open(exec);
    warm.start(vec![work(1, "task", "0")]);
    assert_eq!(result(&warm_sink.ended(1)), "0");
    std::fs::remove_dir(&folder).unwrap();
    warm.start(vec![work(2, "task", "1")]);
    failed_as(&warm_sink.ended(2), FailureClass::Crashed, "exit code 1");
    for (lane, sink) in [(&warm, &warm_sink), (&exec, &exec_sink)] {
        lane.start(vec![work(3, "task", "0")]);
        let ended = sink.ended(3);
        failed_as(&ended, FailureClass::Error, "could not be started");
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
        assert!(exits(lane, "not_started") >= 1, "{:?}", lane.exits());
    }
    std::fs::create_dir(&folder).unwrap();
    eventually("back", || warm.status().executors == 1);
    warm.start(vec![work(4, "task", "0")]);
    assert_eq!(result(&warm_sink.ended(4)), "0");
}

#[test]
fn nothing_is_lost_when_children_are_replaced_killed_and_cancelled_all_at_once() {
    const JOBS: u64 = 400;
    let bench = Bench::new();
    let mut spec = spec_of(
        &bench,
        &perl_child("select undef, undef, undef, rand 0.005;"),
        4,
    );
    spec.spare = true;
    spec.recycle = Recycle {
        jobs: Some(3),
        age: Some(Duration::from_millis(80)),
        memory_bytes: Some(1),
    };
    let (lane, sink): (ProcessLane, Arc<TestSink>) = bench.open(spec);
    // A seeded generator, so that a failure can be run again (SplitMix64).
    let mut seed: u64 = 0x5eed_0003;
    let mut dice = move |sides: u64| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % sides
    };
    for lease in 1..=JOBS {
        sink.ended_count((lease as usize).saturating_sub(4));
        lane.start(vec![work(lease, "task", "1")]);
        match dice(8) {
            0 => {
                let last = sink.peek(|seen| seen.started.last().map(|row| pid_of(&row.1)));
                last.filter(|pid| is_alive(*pid))
                    .into_iter()
                    .for_each(kill_9);
            }
            1 => lane.stop(Lease(lease), StopReason::Cancel),
            _ => {}
        }
    }
    sink.ended_count(JOBS as usize);
    assert_eq!(lane.terminate(PATIENCE), []);
    let mut leases: Vec<u64> = sink.peek(|s| s.ended.iter().map(|e| e.lease.0).collect());
    leases.sort_unstable();
    assert_eq!(leases, (1..=JOBS).collect::<Vec<_>>());
    assert_eq!(bench.roster(), Vec::<PathBuf>::new());
    let place = format!("OFFLOOP_EXECUTOR={}", bench.folder.path().display());
    assert_eq!(processes_with(&place), Vec::<i32>::new());
}
