//! One command per job: classes of ends, what is passed in and out, and what it leaves behind.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Bench, is_alive, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof, TaskError, TaskOutput};
use offloop_lane_process::{ExecCommand, ExecExit, ExecPlan, ProcessSpec};
use support::{PATIENCE, Subject, eventually, failed_as, failure, info, result, stopped_by, work};

/// Runs the three tasks of the lane suite. Progress has no way out of a command, so `wait` notes
/// nothing; see `progress_is_not_for_commands`.
fn suite(slots: u16) -> Subject {
    let bench = Bench::new();
    let hooks = ExecCommand::new(|work| {
        let script = match work.task.as_str() {
            "echo" => "cat",
            "fail" => "echo no good >&2; exit 65",
            _ => "exec sleep 100",
        };
        Ok(ExecPlan {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            stdin: work.payload.clone(),
            ..ExecPlan::default()
        })
    });
    let mut spec = quick(ProcessSpec::hooked(info("echo"), hooks));
    spec.processes = slots;
    let (lane, sink) = bench.open(spec);
    std::mem::forget(bench.folder); // commands write to it as long as the lane lives
    Subject {
        lane: Box::new(lane),
        sink,
    }
}

#[test]
fn each_work_has_exactly_one_end() {
    support::cases::each_work_has_exactly_one_end(suite);
}

#[test]
fn work_over_the_slots_is_handed_back_unstarted() {
    support::cases::work_over_the_slots_is_handed_back_unstarted(suite);
}

#[test]
fn a_stop_ends_the_command_and_frees_its_slot() {
    let Subject { lane, sink } = suite(1);
    lane.start(vec![work(1, "wait", "null")]);
    let pid: i32 = sink.started(1)[4..].parse().unwrap();
    lane.stop(Lease(1), StopReason::Cancel);
    lane.stop(Lease(1), StopReason::Shutdown);
    let ended = sink.ended(1);
    stopped_by(&ended, StopReason::Cancel);
    assert_eq!(ended.gone.proof(), Proof::Reaped { pid });
    assert!(!is_alive(pid));
    lane.start(vec![work(2, "echo", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn close_and_terminate_answer_for_every_job() {
    let Subject { lane, sink } = suite(2);
    lane.start(vec![work(1, "wait", "null")]);
    sink.started(1);
    lane.close();
    lane.start(vec![work(2, "echo", "2")]);
    stopped_by(&sink.ended(2), StopReason::Shutdown);
    assert_eq!(lane.status().running, 1);
    assert_eq!(lane.terminate(PATIENCE), []);
    stopped_by(&sink.ended(1), StopReason::Shutdown);
    assert_eq!(lane.status().executors, 0);
}

#[test]
fn the_end_of_a_command_is_told_by_its_class() {
    let bench = Bench::new();
    let rows = [
        ("echo '{\"a\": 1}'", Ok("{\"a\": 1}")),
        ("echo not json", Ok("")),
        ("true", Ok("")),
        ("cat", Ok("{\"in\":1}")),
        ("echo $OFFLOOP_LEASE$OFFLOOP_ATTEMPT", Ok("11")),
        (
            "echo \\\"$OFFLOOP_JOB_ID\\\"",
            Ok("\"00000000-0001-7000-8000-000000000001\""),
        ),
        ("echo [${SECRET-0}]", Ok("[0]")),
        ("head -c 1100000 /dev/zero | tr '\\0' 7", Ok("")),
        (
            "echo why >&2; exit 3",
            Err((FailureClass::Error, "exit code 3; it said: why")),
        ),
        ("echo bad >&2; exit 65", Err((FailureClass::Invalid, "bad"))),
        ("kill -SEGV $$", Err((FailureClass::Crashed, "signal 11"))),
        ("kill -KILL $$", Err((FailureClass::Crashed, "signal 9"))),
    ];
    for (script, want) in rows {
        let (lane, sink) = bench.shell(script);
        lane.start(vec![work(1, "task", "{\"in\":1}")]);
        let ended = sink.ended(1);
        match want {
            Ok(text) => assert_eq!(result(&ended), text, "{script}"),
            Err((class, says)) => failed_as(&ended, class, says),
        }
        assert!(matches!(ended.gone.proof(), Proof::Reaped { .. }));
        assert!(ended.usage.cpu.is_some());
    }
    let (lane, sink) = bench.shell("exit 7");
    lane.start(vec![work(1, "task", "null")]);
    assert_eq!(failure(&sink.ended(1)).exit_code, Some(7));
}

#[test]
fn a_payload_can_add_arguments_and_never_a_command() {
    let bench = Bench::new();
    let mut spec = quick(ProcessSpec::exec(
        info("task"),
        ["printf", "[\"%s\",\"%s\"]"],
    ));
    spec.args_from_payload = true;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(
        1,
        "task",
        "{\"args\":[\"a b\",\"; rm -rf $HOME\"]}",
    )]);
    assert_eq!(result(&sink.ended(1)), "[\"a b\",\"; rm -rf $HOME\"]");
    for (lease, payload) in (2..).zip([
        "{\"args\":\"x\"}",
        "{\"args\":[1]}",
        "{\"args\":[\"\\u0000\"]}",
    ]) {
        lane.start(vec![work(lease, "task", payload)]);
        let ended = sink.ended(lease);
        failed_as(&ended, FailureClass::Invalid, "arg");
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    }
}

#[test]
fn rust_code_makes_the_command_and_reads_its_end() {
    let bench = Bench::new();
    let folder = bench.folder.path().to_owned();
    let hooks = ExecCommand::new(move |work| {
        if work.payload == "0" {
            return Err(TaskError::invalid("zero is not for me"));
        }
        assert_ne!(work.payload, "9", "in plan");
        let script = format!("pwd; exit {}", String::from_utf8_lossy(&work.payload));
        Ok(ExecPlan {
            argv: vec!["sh".into(), "-c".into(), script.into()],
            cwd: Some(folder.clone()),
            ..ExecPlan::default()
        })
    })
    .on_exit(|_, end| match end.exit {
        ExecExit::Code(4) => Ok(TaskOutput::json(format!(
            "{:?}",
            String::from_utf8_lossy(&end.stdout).trim()
        ))),
        ExecExit::Code(8) => panic!("in on_exit"),
        other => Err(TaskError::error(format!("read {other:?}"))),
    });
    let (lane, sink) = bench.open(quick(ProcessSpec::hooked(info("task"), hooks)));
    let run = |lease, payload| {
        lane.start(vec![work(lease, "task", payload)]);
        sink.ended(lease)
    };
    let folder = bench.folder.path().canonicalize().unwrap();
    assert_eq!(result(&run(1, "4")), format!("{folder:?}"));
    failed_as(&run(2, "5"), FailureClass::Error, "read Code(5)");
    let refused = run(3, "0");
    failed_as(&refused, FailureClass::Invalid, "zero");
    assert_eq!(refused.gone.proof(), Proof::NeverStarted);
    failed_as(&run(4, "9"), FailureClass::Error, "in plan");
    failed_as(&run(5, "8"), FailureClass::Error, "in on_exit");
    assert_eq!(result(&run(6, "4")), format!("{folder:?}"));
}

#[test]
fn a_grandchild_that_holds_the_pipes_neither_delays_the_end_nor_outlives_it() {
    let bench = Bench::new();
    let (lane, sink) = bench.shell("sleep 1000 & setsid sleep 1000 & echo $!; sleep 0.05");
    let begin = Instant::now();
    lane.start(vec![work(1, "task", "null")]);
    let ended = sink.ended(1);
    let pid: i32 = result(&ended).parse().unwrap();
    assert!(!is_alive(pid), "a background process survived its job");
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_command_that_ignores_sigterm_is_gone_within_its_grace_and_a_second() {
    let bench = Bench::new();
    let script = "trap '' TERM; (trap '' TERM; setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & sleep 1000) & while :; do sleep 1000; done";
    let (lane, sink) = bench.shell(script);
    let mut deaf = work(1, "task", "null");
    deaf.limits.timeout = Duration::from_millis(200);
    let begin = Instant::now();
    lane.start(vec![deaf]);
    let ended = sink.ended(1);
    let took = begin.elapsed();
    failed_as(&ended, FailureClass::Timeout, "limit is 200ms");
    assert!(
        took < Duration::from_millis(200 + 150 + 1_000),
        "took {took:?}"
    );
    assert_eq!(
        common::processes_with(&format!("OFFLOOP_TASK=task\0OFFLOOP_JOB_ID={}", ended.job)),
        Vec::<i32>::new()
    );
}

#[test]
fn a_command_that_does_not_read_its_input_or_prints_without_end_blocks_nobody() {
    let bench = Bench::new();
    let (lane, sink) =
        bench.shell("head -c 30000000 /dev/zero >&2; head -c 3000000 /dev/zero; echo end >&2");
    let mut large = work(1, "task", "");
    large.payload = Bytes::from(vec![b'1'; 1 << 20]);
    lane.start(vec![large]);
    let ended = sink.ended(1);
    assert_eq!(result(&ended), "");
    assert!(ended.log.tail.len() >= 48 << 10);
    let total = ended.log.head.len() + ended.log.tail.len();
    assert_eq!(total as u64 + ended.log.dropped_bytes, 33_000_004);
}

#[test]
fn children_get_no_privileges_no_core_files_and_no_foreign_descriptors() {
    let bench = Bench::new();
    let leak = std::fs::File::open("/dev/null").unwrap();
    rustix::io::fcntl_setfd(&leak, rustix::io::FdFlags::empty()).unwrap();
    let (lane, sink) = bench.shell(
        "a=$(grep NoNewPrivs /proc/$$/status | tr -dc 0-9); b=$(ulimit -c); c=$(ls /proc/$$/fd | tr -dc 0-9); \
         d=$(grep SigIgn /proc/$$/status | cut -f2); echo \"[$a,$b,\\\"$c\\\",\\\"$d\\\"]\"",
    );
    lane.start(vec![work(1, "task", "null")]);
    let said = result(&sink.ended(1));
    assert!(said.starts_with("[1,0,\"012"), "{said}");
    // SIGPIPE above all, which the Rust runtime ignores. 32 and 33 are the C library's own, which
    // its posix_spawn leaves ignored.
    let ignored = said.rsplit('"').nth(1).unwrap();
    let ignored = u64::from_str_radix(ignored, 16).unwrap();
    assert_eq!(ignored & 0x7fff_ffff, 0, "signals ignored: {said}");
    drop(leak);
}

#[test]
fn daemons_that_end_by_themselves_do_not_pile_up_as_zombies() {
    let bench = Bench::new();
    let (lane, sink) =
        bench.shell("for n in 1 2 3 4 5; do setsid sleep 0.01 & done; sleep 0.1; echo 1");
    lane.start(vec![work(1, "task", "null")]);
    assert_eq!(result(&sink.ended(1)), "1");
    let me = std::process::id();
    let zombies = || {
        let children = std::fs::read_to_string(format!("/proc/{me}/task/{me}/children")).unwrap();
        let pids = children
            .split_whitespace()
            .map(|pid| pid.parse::<i32>().unwrap());
        pids.filter(|pid| !is_alive(*pid)).count()
    };
    eventually("reaped", || zombies() == 0);
}
