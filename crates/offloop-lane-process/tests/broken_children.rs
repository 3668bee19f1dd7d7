//! Children that die, hang or lie at the worst moment: each costs its own job at most.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Bench, exits, is_alive, kill_9, perl_child, pid_of, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Lane, Proof};
use offloop_lane_process::{ProcessLane, ProcessSpec};
use support::{PATIENCE, TestSink, eventually, failed_as, info, result, stopped_by, work};

fn open(bench: &Bench, text: &str) -> (ProcessLane, Arc<TestSink>) {
    let file = bench.file("task.pl", text);
    bench.process(&["perl", file.to_str().unwrap()])
}

fn large(lease: u64) -> offloop_lane::Work {
    let mut large = work(lease, "task", "");
    large.payload = Bytes::from(vec![b'1'; 1 << 20]);
    large
}

#[track_caller]
fn next_is_served(lane: &ProcessLane, sink: &TestSink) {
    lane.start(vec![work(99, "task", "99")]);
    assert_eq!(result(&sink.ended(99)), "99");
}

#[test]
fn a_child_killed_while_it_reads_a_large_payload_fails_that_job_alone() {
    let bench = Bench::new();
    // It takes the head of the frame and no more; what is written fills the socket.
    let text = perl_child("").replace(
        "my ($head, $data) = split /\\n/, take(unpack \"V\", take(4)), 2;",
        "my $n = unpack \"V\", take(4); if ($n > 100000) { take(10); print 'half'; $| = 1; sleep 1000; }\n\
         my ($head, $data) = split /\\n/, take($n), 2;",
    );
    assert!(text.contains("sleep 1000"));
    let (lane, sink) = open(&bench, &text);
    for (lease, kill) in [(1, true), (2, false)] {
        lane.start(vec![large(lease)]);
        let pid = pid_of(&sink.started(lease));
        if kill {
            kill_9(pid);
            failed_as(&sink.ended(lease), FailureClass::Crashed, "signal 9");
        } else {
            lane.stop(Lease(lease), StopReason::Cancel); // the cancel stands behind the payload
            stopped_by(&sink.ended(lease), StopReason::Cancel);
        }
        assert!(!is_alive(pid));
    }
    next_is_served(&lane, &sink);
}

#[test]
fn payloads_larger_than_the_socket_arrive_whole_at_a_slow_reader() {
    let bench = Bench::new();
    let slow = "my $x = length $data; $out = \"[$x]\";";
    let (lane, sink) = open(
        &bench,
        &perl_child(slow).replace(
            "$n - length $buf,",
            "($n - length $buf > 5000 ? 5000 : $n - length $buf),",
        ),
    );
    for lease in 1..=3 {
        let mut one = large(lease);
        one.payload = Bytes::from(vec![b'1'; 5 << 20]);
        lane.start(vec![one]);
        assert_eq!(result(&sink.ended(lease)), format!("[{}]", 5 << 20));
    }
}

#[test]
fn a_child_killed_in_the_middle_of_a_large_result_fails_that_job_alone() {
    let bench = Bench::new();
    for part in [3, 4, 20, 100_000, 1_000_000] {
        let half = format!(
            "if ($data eq '1') {{ my $body = \"{{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}}\\n\" . '7' x 1000000;\
             my $all = pack('V', length $body) . $body; my $n = 0;\
             while ($n < {part}) {{ $n += syswrite($ch, $all, {part} - $n, $n); }} kill 9, $$; }}"
        );
        let (lane, sink) = open(&bench, &perl_child(&half));
        lane.start(vec![work(1, "task", "1")]);
        let ended = sink.ended(1);
        failed_as(&ended, FailureClass::Crashed, "signal 9");
        assert!(matches!(ended.gone.proof(), Proof::Reaped { .. }));
        next_is_served(&lane, &sink);
    }
}

#[test]
fn a_child_killed_right_after_its_whole_result_keeps_the_result() {
    let bench = Bench::new();
    let last = "if ($data eq '1') { say_(\"{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}\\n7\"); kill 9, $$; }";
    let (lane, sink) = open(&bench, &perl_child(last));
    for lease in 1..=10 {
        lane.start(vec![work(lease, "task", "1")]);
        let ended = sink.ended(lease);
        assert_eq!(result(&ended), "7");
        // The next job would be given to it while it dies.
        eventually("dead", || !is_alive(pid_of(&ended.executor)));
    }
    next_is_served(&lane, &sink);
}

#[test]
fn a_child_that_stops_in_the_middle_of_a_frame_is_ended_at_the_limit() {
    let bench = Bench::new();
    let half =
        "if ($data eq '1') { syswrite($ch, pack('V', 100) . '{\"type\":\"res'); sleep 1000; }";
    let (lane, sink) = open(&bench, &perl_child(half));
    let mut one = work(1, "task", "1");
    one.limits.timeout = Duration::from_millis(100);
    lane.start(vec![one]);
    failed_as(&sink.ended(1), FailureClass::Timeout, "limit is 100ms");
    next_is_served(&lane, &sink);
}

#[test]
fn an_answer_that_comes_after_the_cancel_counts_and_one_after_the_end_hurts_nobody() {
    let bench = Bench::new();
    // The first waits for the cancel and answers well; then it answers the same job again.
    let late = "if ($data eq '1') { note($lease, 1); take(unpack 'V', take(4));\
                say_(\"{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}\\n7\");\
                say_(\"{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}\\n8\"); next; }";
    let (lane, sink) = open(&bench, &perl_child(late));
    lane.start(vec![work(1, "task", "1")]);
    sink.note(1);
    lane.stop(Lease(1), StopReason::Cancel);
    let ended = sink.ended(1);
    assert_eq!(result(&ended), "7");
    eventually("the one that said it twice is ended", || {
        exits(&lane, "protocol") == 1
    });
    next_is_served(&lane, &sink);
    sink.peek(|seen| assert!(seen.ended.is_empty(), "{:?}", seen.ended));
}

#[test]
fn an_answer_for_the_job_before_does_not_end_the_one_that_runs() {
    let bench = Bench::new();
    let old = "if ($data eq '2') { my $l = $lease - 1; say_(\"{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$l}\\n1\"); sleep 1000; }";
    let (lane, sink) = open(&bench, &perl_child(old));
    lane.start(vec![work(1, "task", "1")]);
    assert_eq!(result(&sink.ended(1)), "1");
    lane.start(vec![work(2, "task", "2")]);
    failed_as(
        &sink.ended(2),
        FailureClass::Crashed,
        "answered for lease 1, and runs lease 2",
    );
    next_is_served(&lane, &sink);
}

#[test]
fn a_descriptor_that_a_child_sends_along_does_not_stay_with_the_server() {
    if !common::installed("python3", "a_descriptor_that_a_child_sends_along") {
        return;
    }
    let bench = Bench::new();
    let text = r#"
import json, os, socket, struct
ch = socket.socket(fileno=int(os.environ["OFFLOOP_FD"]))
def put(body):
    frame = struct.pack("<I", len(body)) + body
    fds = [os.open("/dev/null", os.O_RDONLY) for _ in range(20)]
    socket.send_fds(ch, [frame], fds)
    for fd in fds: os.close(fd)
def take(n):
    out = b""
    while len(out) < n:
        part = ch.recv(n - len(out))
        if not part: os._exit(0)
        out += part
    return out
put(b'{"type":"ready"}')
while True:
    head, _, data = take(struct.unpack("<I", take(4))[0]).partition(b"\n")
    head = json.loads(head)
    if head["type"] == "run":
        put(b'{"type":"result","lease":%d}\n%s' % (head["lease"], data))
"#;
    let file = bench.file("task.py", text);
    let (lane, sink) = bench.process(&["python3", file.to_str().unwrap()]);
    let nulls = || {
        let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
        let targets = open.filter_map(|fd| std::fs::read_link(fd.path()).ok());
        targets.filter(|to| to.as_os_str() == "/dev/null").count()
    };
    lane.start(vec![work(1, "task", "1")]);
    assert_eq!(result(&sink.ended(1)), "1");
    let before = nulls();
    for lease in 2..40 {
        lane.start(vec![work(lease, "task", "1")]);
        assert_eq!(result(&sink.ended(lease)), "1");
    }
    // Other tests of this program open it too, a few at a time.
    assert!(nulls() < before + 40, "{before} became {}", nulls());
}

#[test]
fn a_warm_child_s_grandchild_that_holds_the_pipes_does_not_delay_the_end() {
    let bench = Bench::new();
    let fork = "if ($data eq '1') { use POSIX (); if (!fork) { POSIX::setsid(); sleep 1000; exit; } exit 5; }";
    let (lane, sink) = open(&bench, &perl_child(fork));
    let begin = Instant::now();
    lane.start(vec![work(1, "task", "1")]);
    let ended = sink.ended(1);
    failed_as(&ended, FailureClass::Crashed, "exit code 5");
    assert!(begin.elapsed() < Duration::from_secs(5));
    next_is_served(&lane, &sink);
}

#[test]
fn a_flood_on_standard_output_beside_good_jobs_slows_nobody_to_a_halt() {
    let bench = Bench::new();
    let file = bench.file(
        "task.pl",
        &perl_child("if ($data eq '1') { $| = 0; my $x = 'x' x 65536; print $x for 1..1600; }"),
    );
    let mut spec = quick(ProcessSpec::process(info("task"), ["perl".into(), file]));
    spec.processes = 2;
    let (lane, sink) = bench.open(spec);
    lane.start(vec![work(1, "task", "1")]);
    let mut good = 0;
    while sink.peek(|seen| seen.ended.is_empty()) || good < 100 {
        good += 1;
        lane.start(vec![work(1_000 + good, "task", "2")]);
        let me = Lease(1_000 + good);
        sink.wait("good job", |seen| {
            let at = seen.ended.iter().position(|e| e.lease == me)?;
            assert_eq!(result(&seen.ended.remove(at)), "2");
            Some(())
        });
    }
    let flood = sink.ended(1);
    assert_eq!(result(&flood), "1");
    assert_eq!(flood.usage.bytes_out, 1600 * 65_536 + 1);
    assert_eq!(lane.terminate(PATIENCE), []);
}

#[test]
fn a_message_nobody_asked_for_between_two_jobs_ends_the_child_and_costs_no_job() {
    let bench = Bench::new();
    for (says, message) in [("progress", false), ("error", true), ("pong", false)] {
        let stray = format!(
            "if ($data eq '1') {{ say_(\"{{\\\"type\\\":\\\"result\\\",\\\"lease\\\":$lease}}\\n7\");\
             say_(\"{{\\\"type\\\":\\\"{says}\\\",\\\"lease\\\":$lease}}\\n7\"); next; }}"
        );
        let (lane, sink) = open(&bench, &perl_child(&stray));
        lane.start(vec![work(1, "task", "1")]);
        let first = sink.ended(1);
        assert_eq!(result(&first), "7");
        if message {
            eventually("ended for it", || exits(&lane, "protocol") == 1);
        }
        next_is_served(&lane, &sink);
        assert_eq!(exits(&lane, "protocol"), u64::from(message), "{says}");
    }
}
