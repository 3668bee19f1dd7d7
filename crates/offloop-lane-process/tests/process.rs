//! Warm children: the rules of every lane, and what goes wrong with children.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use common::{Bench, installed, is_alive, kill_9, perl_child, pid_of, processes_with, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof};
use offloop_lane_process::ProcessSpec;
use support::{PATIENCE, Subject, eventually, failed_as, failure, info, result, stopped_by, work};

/// Runs the three tasks of the lane suite, by the task's name in the frame.
const SUITE: &str = r#"
  if ($head =~ /"task":"fail"/) {
    say_("{\"type\":\"error\",\"lease\":$lease,\"class\":\"invalid\",\"message\":\"no good\"}"); next;
  }
  if ($head =~ /"task":"wait"/) {
    say_("{\"type\":\"progress\",\"lease\":$lease}\n\"waiting\"");
    take(unpack "V", take(4));
    say_("{\"type\":\"error\",\"lease\":$lease,\"message\":\"stopped\"}"); next;
  }
"#;

lane_conformance!(|slots| {
    let bench = Bench::new();
    let file = bench.file("suite.pl", &perl_child(SUITE));
    let mut spec = quick(ProcessSpec::process(info("echo"), ["perl".into(), file]));
    spec.processes = slots;
    let (lane, sink) = bench.open(spec);
    std::mem::forget(bench.folder); // children read the file as they start
    Subject {
        lane: Box::new(lane),
        sink,
    }
});

#[test]
fn a_plain_node_function_runs_as_esm_and_as_cjs() {
    if !installed("node", "a_plain_node_function_runs_as_esm_and_as_cjs") {
        return;
    }
    let bench = Bench::new();
    let body = r#"(payload, ctx) => {
        if (payload === "throw") throw new Error("on purpose");
        if (payload === "invalid") throw ctx.invalid("not for me");
        if (payload === "bigint") return 1n;
        if (payload === "function") return () => 1;
        if (payload === "large") return "x".repeat(2000000);
        if (payload === "nothing") return undefined;
        ctx.log("a line", { of: "log" });
        ctx.progress({ half: true });
        return { payload, job: ctx.job, lease: ctx.lease, attempt: ctx.attempt, task: ctx.task };
    }"#;
    let files = [
        ("task.mjs", format!("export default async {body}")),
        ("task.cjs", format!("module.exports = {body}")),
        ("task.js", format!("module.exports = async {body}")),
        ("named.mjs", format!("export const handle = {body}")),
    ];
    for (name, text) in files {
        let file = bench.file(name, &text);
        let (lane, sink) = bench.process(&["node", file.to_str().unwrap()]);
        lane.start(vec![work(7, "task", "{\"a\":[1,\"ü\"]}")]);
        let ended = sink.ended(7);
        let job = ended.job;
        assert_eq!(
            result(&ended),
            format!(
                "{{\"payload\":{{\"a\":[1,\"ü\"]}},\"job\":\"{job}\",\"lease\":7,\"attempt\":1,\"task\":\"task\"}}"
            ),
            "{name}"
        );
        assert_eq!(&ended.log.head[..], b"a line { of: 'log' }\n", "{name}");
        assert_eq!(&sink.note(7)[..], b"{\"half\":true}");
        assert!(matches!(ended.gone.proof(), Proof::ChildAnswered { .. }));
        let pid = ended.executor.clone();
        let rows = [
            ("throw", FailureClass::Error, "on purpose"),
            ("invalid", FailureClass::Invalid, "not for me"),
            ("bigint", FailureClass::Error, "BigInt"),
            ("function", FailureClass::Error, "not JSON"),
            ("large", FailureClass::OutputLimit, "limit is 1048576 bytes"),
        ];
        for (lease, (payload, class, says)) in (10..).zip(rows) {
            lane.start(vec![work(lease, "task", &format!("\"{payload}\""))]);
            let ended = sink.ended(lease);
            failed_as(&ended, class, says);
            assert_eq!(ended.executor, pid, "a failing job must not cost a child");
        }
        lane.start(vec![work(20, "task", "\"nothing\"")]);
        assert_eq!(result(&sink.ended(20)), "");
    }
}

#[test]
fn a_node_task_hears_the_cancel_and_one_that_exits_or_spins_takes_only_its_own_child() {
    let name = "a_node_task_hears_the_cancel_and_one_that_exits_or_spins_takes_only_its_own_child";
    if !installed("node", name) {
        return;
    }
    let bench = Bench::new();
    let file = bench.file(
        "task.mjs",
        r#"export default async (payload, ctx) => {
            if (payload === "exit") process.exit(3);
            ctx.progress(1);
            if (payload === "spin") for (;;) {}
            await new Promise((_, reject) => ctx.signal.addEventListener("abort", () => reject(ctx.signal.reason)));
        }"#,
    );
    let (lane, sink) = bench.process(&["node", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "\"wait\"")]);
    sink.note(1);
    lane.stop(Lease(1), StopReason::Cancel);
    let heard = sink.ended(1);
    stopped_by(&heard, StopReason::Cancel);
    assert!(matches!(heard.gone.proof(), Proof::ChildAnswered { .. }));

    let mut spin = work(2, "task", "\"spin\"");
    spin.limits.timeout = Duration::from_millis(200);
    lane.start(vec![spin]);
    let spun = sink.ended(2);
    failed_as(&spun, FailureClass::Timeout, "limit is 200ms");
    assert!(matches!(spun.gone.proof(), Proof::Reaped { .. }));
    assert_eq!(spun.executor, heard.executor);
    assert!(
        spun.usage.cpu.unwrap() > Duration::from_millis(1),
        "{spun:?}"
    );

    lane.start(vec![work(3, "task", "\"exit\"")]);
    let exited = sink.ended(3);
    failed_as(&exited, FailureClass::Crashed, "exit code 3");
    assert_eq!(failure(&exited).exit_code, Some(3));
    assert_ne!(exited.executor, spun.executor);
}

#[test]
fn a_plain_python_function_runs_sync_and_async() {
    if !installed("python3", "a_plain_python_function_runs_sync_and_async") {
        return;
    }
    let bench = Bench::new();
    let file = bench.file(
        "task.py",
        r#"
import asyncio
async def slow(payload):
    await asyncio.sleep(0)
    return {"slow": payload}
def handle(payload, ctx):
    if payload == "throw": raise ValueError("on purpose")
    if payload == "invalid": raise ctx.Invalid("not for me")
    if payload == "set": return {1, 2}
    if payload == "async": return slow(payload)
    ctx.progress({"half": True})
    if payload == "wait":
        ctx.cancelled.wait(30)
        raise RuntimeError("was asked")
    print("a line")
    return [payload, ctx.job, ctx.lease, ctx.attempt, ctx.task]
"#,
    );
    let (lane, sink) = bench.process(&["python3", file.to_str().unwrap()]);
    lane.start(vec![work(7, "task", "{\"a\": 1.5}")]);
    let ended = sink.ended(7);
    let want = format!("[{{\"a\": 1.5}}, \"{}\", 7, 1, \"task\"]", ended.job);
    assert_eq!(result(&ended), want);
    assert_eq!(&ended.log.head[..], b"a line\n");
    let rows = [
        ("throw", FailureClass::Error, "on purpose"),
        ("invalid", FailureClass::Invalid, "not for me"),
        ("set", FailureClass::Error, "not JSON serializable"),
    ];
    for (lease, (payload, class, says)) in (10..).zip(rows) {
        lane.start(vec![work(lease, "task", &format!("\"{payload}\""))]);
        failed_as(&sink.ended(lease), class, says);
    }
    lane.start(vec![work(20, "task", "\"async\"")]);
    assert_eq!(result(&sink.ended(20)), "{\"slow\": \"async\"}");
    lane.start(vec![work(21, "task", "\"wait\"")]);
    sink.note(21);
    lane.stop(Lease(21), StopReason::Cancel);
    let ended = sink.ended(21);
    stopped_by(&ended, StopReason::Cancel);
    assert!(
        matches!(ended.gone.proof(), Proof::ChildAnswered { .. }),
        "{ended:?}"
    );
}

#[test]
fn a_child_killed_between_jobs_is_replaced_and_costs_no_job() {
    let bench = Bench::new();
    let file = bench.file("task.pl", &perl_child(""));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "1")]);
    let first = sink.ended(1);
    kill_9(pid_of(&first.executor));
    eventually("buried", || {
        bench.roster().len() <= 1 && !is_alive(pid_of(&first.executor))
    });
    eventually("replaced", || lane.status().executors == 1);
    lane.start(vec![work(2, "task", "2")]);
    let second = sink.ended(2);
    assert_eq!(result(&second), "2");
    assert_ne!(first.executor, second.executor);
}

#[test]
fn a_child_killed_in_the_middle_of_a_job_fails_that_job_as_crashed_and_is_replaced() {
    let bench = Bench::new();
    let file = bench.file(
        "task.pl",
        &perl_child("if ($data eq '1') { say_(\"{\\\"type\\\":\\\"progress\\\",\\\"lease\\\":$lease}\\n1\"); sleep 100; }"),
    );
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "1")]);
    sink.note(1);
    kill_9(pid_of(&sink.started(1)));
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::Crashed, "ended by signal 9");
    assert_eq!(failure(&ended).signal, Some(9));
    assert!(matches!(ended.gone.proof(), Proof::Reaped { .. }));
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn a_child_that_breaks_the_protocol_is_ended_and_fails_only_its_own_job() {
    let bench = Bench::new();
    let rows = [
        ("garbage", "syswrite($ch, 'x' x 64);", "frame"),
        (
            "a frame of 4 GB",
            "syswrite($ch, \"\\xff\\xff\\xff\\xff\");",
            "4294967295",
        ),
        ("no JSON", "say_('hello');", "header"),
        (
            "another job's answer",
            "say_('{\"type\":\"result\",\"lease\":999}');",
            "lease 999",
        ),
        ("ready twice", "say_('{\"type\":\"ready\"}');", "`ready`"),
        (
            "half a frame, then death",
            "syswrite($ch, pack('V', 100) . '{\"ty'); exit 4;",
            "exit code 4",
        ),
        (
            "closes the channel",
            "close $ch; sleep 100;",
            "closed its side",
        ),
        ("a result that is no JSON", "$out = '{';", "not JSON"),
    ];
    for (what, code, says) in rows {
        let file = bench.file(
            "task.pl",
            &perl_child(&format!("if ($data eq '1') {{ {code} }}")),
        );
        let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
        lane.start(vec![work(1, "task", "1")]);
        let ended = sink.ended(1);
        let failure = failure(&ended);
        assert!(failure.message.contains(says), "{what}: {ended:?}");
        lane.start(vec![work(2, "task", "2")]);
        assert_eq!(result(&sink.ended(2)), "2", "{what}");
    }
}

#[test]
fn an_answer_given_twice_ends_the_child_and_not_the_next_job() {
    let bench = Bench::new();
    let twice =
        "if ($data eq '1') { say_(\"{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}\\n7\"); }";
    let file = bench.file("task.pl", &perl_child(twice));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "1")]);
    let first = sink.ended(1);
    assert_eq!(result(&first), "7");
    eventually("ended", || !is_alive(pid_of(&first.executor)));
    lane.start(vec![work(2, "task", "2")]);
    let second = sink.ended(2);
    assert_eq!(result(&second), "2");
    assert_ne!(first.executor, second.executor);
}

#[test]
fn a_hundred_megabytes_on_stderr_block_nobody_and_keep_their_ends() {
    let bench = Bench::new();
    let spam = "if ($data eq '1') { print STDERR 'first'; \
                my $x = 'x' x 1000000; print STDERR $x for 1..100; print STDERR 'last'; }";
    let file = bench.file("task.pl", &perl_child(spam));
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.processes = 2;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1"), work(2, "task", "2")]);
    let ended = sink.ended(1);
    assert_eq!(result(&ended), "1");
    assert!(ended.log.head.starts_with(b"first"));
    assert!(ended.log.tail.ends_with(b"last"));
    let kept = ended.log.head.len() + ended.log.tail.len();
    assert_eq!(kept as u64 + ended.log.dropped_bytes, 100_000_009);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn a_child_that_cannot_start_fails_jobs_with_the_reason_and_does_not_spin() {
    let bench = Bench::new();
    let file = bench.file("task.pl", "die 'no such module';");
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    for lease in 1..=3 {
        lane.start(vec![work(lease, "task", "1")]);
        let ended = sink.ended(lease);
        failed_as(&ended, FailureClass::Error, "no such module");
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    }
}

#[test]
fn a_child_that_never_gets_ready_is_ended_at_its_start_timeout() {
    let bench = Bench::new();
    let mut spec = quick(ProcessSpec::process(info("task"), ["sleep", "100"]));
    spec.start_timeout = Duration::from_millis(100);
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1")]);
    failed_as(&sink.ended(1), FailureClass::Error, "start timeout");
}

#[test]
fn a_missing_command_is_told_before_any_job() {
    let bench = Bench::new();
    let plain = bench.file("plain.txt", "no program");
    let plain = plain.to_str().unwrap();
    let rows = [
        (vec!["no-such-command-here"], "no-such-command-here"),
        (vec!["/no/such/file"], "/no/such/file"),
        (vec![plain], "not executable"),
        (vec!["perl", "x", "y"], ""),
        (vec!["node", "/no/such/task.mjs"], "/no/such/task.mjs"),
        (vec![], "empty"),
    ];
    for (command, says) in rows {
        let spec = ProcessSpec::process(info("task"), command.clone());
        let lane = offloop_lane_process::ProcessLane::new(spec, bench.host.clone());
        match lane.check() {
            Ok(()) => assert_eq!(says, "", "{command:?}"),
            Err(error) if command.first() == Some(&"node") && error.contains("PATH") => {}
            Err(error) => assert!(error.contains(says) && !says.is_empty(), "{error}"),
        }
    }
}

#[test]
fn memory_over_the_limit_ends_the_tree_in_its_class_with_limit_and_reading() {
    let bench = Bench::new();
    let eat =
        "my @held; for (1..400) { push @held, 'x' x 1000000; select undef, undef, undef, 0.005 }";
    let file = bench.file("task.pl", &perl_child(eat));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    let mut hungry = work(1, "task", "1");
    hungry.limits.memory_bytes = Some(50_000_000);
    lane.start(vec![hungry]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::MemoryLimit, "limit is 50000000 bytes");
    assert!(ended.usage.max_rss_bytes.unwrap() > 50_000_000);
    assert!(matches!(ended.gone.proof(), Proof::Reaped { .. }));
}

#[test]
fn processor_time_over_the_limit_ends_the_job_also_when_a_grandchild_uses_it() {
    let bench = Bench::new();
    let spin = "if ($data eq '1') { my $p = fork; if (!$p) { 1 while 1; } waitpid $p, 0; }";
    let file = bench.file("task.pl", &perl_child(spin));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    let mut busy = work(1, "task", "1");
    busy.limits.cpu = Some(Duration::from_millis(200));
    lane.start(vec![busy]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::CpuLimit, "limit is 200ms");
    assert!(
        ended.usage.cpu.unwrap() >= Duration::from_millis(190),
        "{ended:?}"
    );
    // The next job of the next child starts at zero.
    let mut quiet = work(2, "task", "2");
    quiet.limits.cpu = Some(Duration::from_millis(200));
    lane.start(vec![quiet]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn a_task_that_ignores_everything_and_forks_sessions_is_gone_before_its_job_ends() {
    let bench = Bench::new();
    let deaf = r#"if ($data eq '1') {
        $SIG{TERM} = $SIG{INT} = $SIG{HUP} = 'IGNORE';
        use POSIX ();
        for my $n (1..3) {
            if (!fork) { POSIX::setsid(); if (!fork) { POSIX::setsid(); exec 'sleep', '1000'; } sleep 1000; exit; }
        }
        if (!fork) { POSIX::setsid(); exec 'env', '-i', 'sleep', '1000'; }
        select undef, undef, undef, 0.1;
        say_("{\"type\":\"progress\",\"lease\":$lease}\n1");
        1 while sleep 1000;
    }"#;
    let file = bench.file("task.pl", &perl_child(deaf));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    let mut deaf = work(1, "task", "1");
    deaf.limits.timeout = Duration::from_millis(500);
    let marker = format!("{}", std::process::id());
    let begin = Instant::now();
    lane.start(vec![deaf]);
    sink.note(1);
    let leader = pid_of(&sink.started(1));
    let environ = std::fs::read(format!("/proc/{leader}/environ")).unwrap();
    let own = environ
        .split(|byte| *byte == 0)
        .find(|entry| entry.starts_with(b"OFFLOOP_EXECUTOR="))
        .map(|entry| String::from_utf8(entry.to_vec()).unwrap())
        .unwrap();
    assert!(own.contains(&marker));
    assert_eq!(processes_with(&own).len(), 7);
    let ended = sink.ended(1);
    let took = begin.elapsed();
    assert_eq!(
        processes_with(&own),
        Vec::<i32>::new(),
        "survivors after the end"
    );
    failed_as(&ended, FailureClass::Timeout, "limit is 500ms");
    assert_eq!(ended.gone.proof(), Proof::Reaped { pid: leader });
    assert!(
        took < Duration::from_millis(500 + 150 + 1_000),
        "took {took:?}"
    );
    let sleepers = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let ours = stat
                .rsplit(')')
                .next()
                .is_some_and(|s| s.split_whitespace().nth(1) == Some(&marker));
            ours && line == b"sleep\x001000\x00"
        });
    assert_eq!(sleepers.count(), 0, "one without a marker is left");
    lane.start(vec![work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
}

#[test]
fn terminate_leaves_no_child_and_no_entry_on_the_roster() {
    let bench = Bench::new();
    let file = bench.file("task.pl", &perl_child("sleep 100 if $data eq '1';"));
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.processes = 3;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1"), work(2, "task", "2")]);
    assert_eq!(result(&sink.ended(2)), "2");
    let busy = pid_of(&sink.started(1));
    assert_eq!(lane.terminate(PATIENCE), []);
    stopped_by(&sink.ended(1), StopReason::Shutdown);
    assert!(!is_alive(busy));
    assert_eq!(bench.roster(), Vec::<std::path::PathBuf>::new());
}

#[test]
fn a_payload_and_a_result_of_a_megabyte_pass_whole() {
    let bench = Bench::new();
    let file = bench.file("task.pl", &perl_child(""));
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    let large = format!("\"{}\"", "y".repeat((1 << 20) - 2));
    lane.start(vec![work(1, "task", &large)]);
    assert_eq!(result(&sink.ended(1)), large);
}

#[test]
fn the_guide_s_example_really_runs() {
    let guide = include_str!("../../../docs/guides/process-protocol.md");
    let code = guide
        .split("```perl\n")
        .nth(1)
        .and_then(|rest| rest.split("```").next());
    let bench = Bench::new();
    let file = bench.file("echo.pl", code.unwrap());
    let (lane, sink) = bench.process(&["perl", file.to_str().unwrap()]);
    for lease in 1..=3 {
        lane.start(vec![work(lease, "task", "{\"a\": 1}")]);
        assert_eq!(result(&sink.ended(lease)), "{\"a\": 1}");
    }
}

#[test]
fn no_job_is_lost_or_ended_twice_while_children_are_killed_and_jobs_cancelled_at_random() {
    const JOBS: u64 = 300;
    let bench = Bench::new();
    let file = bench.file(
        "task.pl",
        &perl_child("select undef, undef, undef, rand 0.01;"),
    );
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.processes = 4;
    let (lane, sink) = bench.open(spec);
    // A seeded generator, so that a failure can be run again (SplitMix64).
    let mut seed: u64 = 0x0ff1_00b5;
    let mut dice = move |sides: u64| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (z ^ (z >> 27)) % sides
    };
    for lease in 1..=JOBS {
        // Four at a time, as the runtime keeps within the slots.
        sink.ended_count((lease as usize).saturating_sub(4));
        lane.start(vec![work(lease, "task", "1")]);
        match dice(10) {
            0 => {
                let executors = sink.peek(|seen| seen.started.last().map(|row| row.1.clone()));
                if let Some(pid) = executors.map(|executor| pid_of(&executor))
                    && is_alive(pid)
                {
                    kill_9(pid);
                }
            }
            1 => lane.stop(Lease(lease), StopReason::Cancel),
            _ => {}
        }
    }
    sink.ended_count(JOBS as usize);
    assert_eq!(lane.terminate(PATIENCE), []);
    let mut leases: Vec<u64> = sink.peek(|s| s.ended.iter().map(|e| e.lease.0).collect());
    assert_eq!(leases.len() as u64, JOBS);
    leases.sort_unstable();
    leases.dedup();
    assert_eq!(leases.len() as u64, JOBS);
    assert_eq!(bench.roster(), Vec::<std::path::PathBuf>::new());
}
