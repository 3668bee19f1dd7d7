//! What a job says while it runs: checkpoints and their answers, pieces of its result, its output for
//! those who listen; and the wish to be run again later. In Node, in Python, and by hand.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use common::{Bench, installed, quick};
use offloop_job::limits::{CHECKPOINT_BYTES_MAX, SNOOZE_MAX};
use offloop_job::{FailureClass, Lease, Outcome};
use offloop_lane::{Ended, Lane, Work};
use offloop_lane_process::{ProcessLane, ProcessSpec, Wire};
use support::{TestSink, failed_as, info, result, work};

struct Task {
    _bench: Bench,
    lane: ProcessLane,
    sink: Arc<TestSink>,
}

impl Task {
    fn new(program: &str, name: &str, text: &str) -> Self {
        Self::speaking(Wire::Frames, program, name, text)
    }

    fn speaking(wire: Wire, program: &str, name: &str, text: &str) -> Self {
        let bench = Bench::new();
        let file = bench.file(name, text);
        let mut spec = quick(ProcessSpec::process(info("task"), [program.into(), file]));
        spec.wire = wire;
        let (lane, sink) = bench.open(spec);
        Self {
            _bench: bench,
            lane,
            sink,
        }
    }

    fn run(&self, lease: u64, payload: &str, checkpoint: Option<&str>) -> Ended {
        let checkpoint = checkpoint.map(|text| Bytes::copy_from_slice(text.as_bytes()));
        self.lane.start(vec![Work {
            checkpoint,
            ..work(lease, "task", payload)
        }]);
        self.sink.ended(lease)
    }

    fn checkpoints(&self, lease: u64) -> Vec<Bytes> {
        self.sink.peek(|seen| {
            let own = seen.checkpoints.iter().filter(|row| row.0 == Lease(lease));
            own.map(|row| row.1.clone()).collect()
        })
    }
}

/// The same task in both languages: goes on from where it was, and leaves each step.
const STEPS: [(&str, &str, &str); 2] = [
    (
        "node",
        "steps.mjs",
        "export default async ({ to }, ctx) => {
           const from = ctx.resumed?.step ?? 0;
           for (let step = from + 1; step <= to; step++) await ctx.checkpoint({ step, 'ž': 'a\\nb' });
           return { from };
         };",
    ),
    (
        "python3",
        "steps.py",
        "def handle(payload, ctx):
    start = ctx.resumed['step'] if ctx.resumed else 0
    for step in range(start + 1, payload['to'] + 1):
        ctx.checkpoint({'step': step, 'ž': 'a\\nb'})
    return {'from': start}
",
    ),
];

#[test]
fn a_task_goes_on_from_its_last_checkpoint() {
    for (program, name, text) in STEPS {
        if !installed(program, "a_task_goes_on_from_its_last_checkpoint") {
            return;
        }
        let task = Task::new(program, name, text);
        assert!(
            result(&task.run(1, "{\"to\":3}", None)).ends_with(":0}")
                || result(&task.run(2, "{\"to\":0}", None)).ends_with(": 0}"),
            "{program}"
        );
        let left = task.checkpoints(1);
        assert_eq!(left.len(), 3, "{program}: {left:?}");
        let last = std::str::from_utf8(&left[2]).unwrap().to_owned();
        // Text that a person has written over several lines is the same value.
        let spread = last.replace(',', ",\n");
        let ended = task.run(3, "{\"to\":5}", Some(&spread));
        assert!(result(&ended).contains('3'), "{program}: {ended:?}");
        assert_eq!(
            task.checkpoints(3).len(),
            2,
            "{program}: only what was left"
        );
    }
}

#[test]
fn a_task_is_handed_what_it_waited_for() {
    use offloop_job::{FailureClass, Input, JobId, JobState};
    for (program, name, text) in [
        (
            "node",
            "inputs.mjs",
            "export default (payload, ctx) => ctx.inputs.map((i) => [i.state, i.class ?? null, i.result ?? null]);",
        ),
        (
            "python3",
            "inputs.py",
            "def handle(payload, ctx):
    return [[i['state'], i.get('class'), i.get('result')] for i in ctx.inputs]
",
        ),
    ] {
        if !installed(program, "a_task_is_handed_what_it_waited_for") {
            return;
        }
        let task = Task::new(program, name, text);
        let input = |state, class, result: Option<&'static [u8]>| Input {
            id: JobId::from_parts(7, 7),
            state: Some(state),
            class,
            result: result.map(Bytes::from_static),
            omitted: false,
        };
        let inputs = [
            input(JobState::Completed, None, Some(b"{\"rows\":\n3}")),
            input(JobState::Failed, Some(FailureClass::Timeout), None),
        ];
        task.lane.start(vec![Work {
            inputs: inputs.into(),
            ..work(1, "task", "{}")
        }]);
        let said = result(&task.sink.ended(1)).replace(' ', "");
        let want = "[[\"completed\",null,{\"rows\":3}],[\"failed\",\"timeout\",null]]";
        assert_eq!(said, want, "{program}");
        let none = task.run(2, "{}", None);
        assert_eq!(
            result(&none),
            "[]",
            "{program}: nothing for who waited for nobody"
        );
    }
}

#[test]
fn a_coroutine_waits_for_its_checkpoint_without_holding_its_loop() {
    if !installed("python3", "a_coroutine_waits_for_its_checkpoint") {
        return;
    }
    let text = "import asyncio
async def handle(payload, ctx):
    ticks = 0
    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)
    other = asyncio.create_task(tick())
    for step in range(20):
        await ctx.checkpoint_async(step)
    other.cancel()
    return ticks > 20
";
    let task = Task::new("python3", "loop.py", text);
    assert_eq!(result(&task.run(1, "null", None)), "true");
    assert_eq!(task.checkpoints(1).len(), 20);
}

#[test]
fn a_checkpoint_over_its_limit_is_an_error_of_the_task_by_name() {
    let rows = [
        (
            "node",
            "big.mjs",
            "export default async (n, ctx) => { await ctx.checkpoint('x'.repeat(n)); };",
        ),
        (
            "python3",
            "big.py",
            "def handle(n, ctx):\n    ctx.checkpoint('x' * n)\n",
        ),
    ];
    for (program, name, text) in rows {
        if !installed(program, "a_checkpoint_over_its_limit") {
            return;
        }
        let task = Task::new(program, name, text);
        let longest = CHECKPOINT_BYTES_MAX - 2; // the quotes
        result(&task.run(1, &longest.to_string(), None));
        assert_eq!(task.checkpoints(1)[0].len(), CHECKPOINT_BYTES_MAX);
        let ended = task.run(2, &(longest + 1).to_string(), None);
        failed_as(&ended, FailureClass::Error, "65536 bytes");
        result(&task.run(3, "1", None));
    }
}

#[test]
fn a_snooze_is_an_answer_and_the_child_stays() {
    let rows = [
        (
            "node",
            "later.mjs",
            "export default ({ ms, throws }, ctx) => {
               if (throws) throw ctx.snooze(ms);
               return ctx.snooze(ms);
             };",
        ),
        (
            "python3",
            "later.py",
            "def handle(payload, ctx):
    try:
        if payload['throws']:
            raise ctx.snooze(payload['ms'])
    except Exception:
        return 'swallowed'
    return ctx.snooze(payload['ms'])
",
        ),
    ];
    for (program, name, text) in rows {
        if !installed(program, "a_snooze_is_an_answer") {
            return;
        }
        let task = Task::new(program, name, text);
        let mut executors = vec![];
        for (lease, throws) in [(1, false), (2, true)] {
            let payload = format!("{{\"ms\":61000,\"throws\":{throws}}}");
            let ended = task.run(lease, &payload, None);
            let after = Duration::from_secs(61);
            assert_eq!(ended.outcome, Outcome::Snoozed { after }, "{program}");
            executors.push(ended.executor);
        }
        assert_eq!(executors[0], executors[1], "{program}");
        let over = SNOOZE_MAX.as_millis() + 1;
        for ms in ["999", &over.to_string()] {
            let payload = format!("{{\"ms\":{ms},\"throws\":false}}");
            let ended = task.run(9, &payload, None);
            failed_as(&ended, FailureClass::Error, "30 days");
        }
    }
}

#[test]
fn output_and_partial_results_are_told_only_while_somebody_listens() {
    let rows = [
        (
            "node",
            "talk.mjs",
            "export default (n, ctx) => { ctx.log('line', n); ctx.partial({ n }); return n; };",
        ),
        (
            "python3",
            "talk.py",
            "def handle(n, ctx):\n    ctx.log('line', n)\n    ctx.partial({'n': n})\n    return n\n",
        ),
    ];
    for (program, name, text) in rows {
        if !installed(program, "output_and_partial_results") {
            return;
        }
        let task = Task::new(program, name, text);
        let log = task.run(1, "1", None).log;
        assert_eq!(&*log.head, b"line 1\n", "{program}");
        task.sink.listening.store(true, Ordering::Relaxed);
        let log = task.run(2, "2", None).log;
        assert_eq!(&*log.head, b"line 2\n", "{program}: kept as ever");
        task.sink.listening.store(false, Ordering::Relaxed);
        task.run(3, "3", None);
        task.sink.peek(|seen| {
            let own = |rows: &[(Lease, Bytes)]| rows.iter().map(|row| row.0.0).collect::<Vec<_>>();
            assert_eq!(own(&seen.partials), [2], "{program}");
            assert_eq!(own(&seen.printed), [2], "{program}");
            assert_eq!(seen.printed[0].1, "line 2\n", "{program}");
        });
    }
}

/// A child that nobody has touched since protocol 1 came out, and one that uses all of it, in the form
/// for languages that cannot open a descriptor.
#[test]
fn json_lines_carry_checkpoints_both_ways_and_an_old_child_still_works() {
    let old = r#"import sys, json
print(json.dumps({"type": "ready", "protocol": 1}), flush=True)
for line in sys.stdin:
    message = json.loads(line)
    if message["type"] == "run":
        print(json.dumps({"type": "result", "lease": message["lease"], "result": 1}), flush=True)
"#;
    let new = r#"import sys, json
def say(**message): print(json.dumps(message), flush=True)
say(type="ready", protocol=1)
features = json.loads(sys.stdin.readline())["features"]
for line in sys.stdin:
    run = json.loads(line)
    if run["type"] != "run": continue
    lease = run["lease"]
    say(type="checkpoint", lease=lease, number=5, checkpoint={"was": run.get("checkpoint")})
    ack = json.loads(sys.stdin.readline())
    say(type="partial", lease=lease, partial="half")
    if run["payload"] == "later":
        say(type="snooze", lease=lease, after_ms=2000)
    else:
        say(type="result", lease=lease, result=[ack["type"], ack["number"], ack["kept"], features])
"#;
    if !installed("python3", "json_lines_carry_checkpoints") {
        return;
    }
    let child = Task::speaking(Wire::Lines, "python3", "old.py", old);
    assert_eq!(result(&child.run(1, "null", Some("{\"step\":\n1}"))), "1");
    let child = Task::speaking(Wire::Lines, "python3", "new.py", new);
    let ended = child.run(1, "null", Some("{\"step\":\n1}"));
    let want = "[\"checkpoint_ack\", 5, true, [\"checkpoint\", \"partial\", \"snooze\"]]";
    assert_eq!(result(&ended), want);
    assert_eq!(child.checkpoints(1), ["{\"was\": {\"step\": 1}}"]);
    let ended = child.run(2, "\"later\"", None);
    let after = Duration::from_secs(2);
    assert_eq!(ended.outcome, Outcome::Snoozed { after });
    assert_eq!(child.checkpoints(2), ["{\"was\": null}"]);
}

#[test]
fn a_checkpoint_that_is_no_json_or_of_another_attempt_is_refused_and_the_child_stays() {
    let text = r#"import os, socket, struct, json
channel = socket.socket(fileno=int(os.environ["OFFLOOP_FD"]))
def put(header, data=None):
    body = json.dumps(header).encode() + (b"\n" + data if data is not None else b"")
    channel.sendall(struct.pack("<I", len(body)) + body)
def take():
    def exactly(n):
        whole = b""
        while len(whole) < n:
            got = channel.recv(n - len(whole))
            if not got: os._exit(0)
            whole += got
        return whole
    head, _, data = exactly(struct.unpack("<I", exactly(4))[0]).partition(b"\n")
    return json.loads(head)
put({"type": "ready", "protocol": 1})
while True:
    run = take()
    if run["type"] != "run": continue
    said = []
    for lease, data in [(run["lease"], b"{nope"), (run["lease"] + 7, b"1")]:
        put({"type": "checkpoint", "lease": lease, "number": 1}, data)
        ack = take()
        said.append([ack["kept"], ack["message"]])
    put({"type": "result", "lease": run["lease"]}, json.dumps(said).encode())
"#;
    if !installed("python3", "a_checkpoint_that_is_no_json") {
        return;
    }
    let child = Task::new("python3", "wrong.py", text);
    let first = child.run(1, "null", None);
    let said = result(&first);
    assert!(
        said.contains("not JSON") && said.contains("this attempt is over"),
        "{said}"
    );
    assert!(child.checkpoints(1).is_empty());
    assert_eq!(child.run(2, "null", None).executor, first.executor);
}
