//! Tasks that are plain functions, in Node and in Python: what they may be, and what goes wrong.

#![allow(clippy::unwrap_used, reason = "in a test an unwrap is an assertion")]

mod common;
#[path = "../../offloop-lane-cpu/tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Duration;

use common::{Bench, exits, installed, pid_of, quick};
use offloop_job::{FailureClass, Lease, StopReason};
use offloop_lane::{Ended, Lane, Proof};
use offloop_lane_process::{ProcessLane, ProcessSpec};
use support::{TestSink, eventually, failed_as, failure, info, result, stopped_by, work};

struct Task {
    _bench: Bench,
    lane: ProcessLane,
    sink: Arc<TestSink>,
}

impl Task {
    fn new(program: &str, name: &str, text: &str) -> Self {
        Self::named(program, name, text, "")
    }

    /// `export`: what follows the file's name.
    fn named(program: &str, name: &str, text: &str, export: &str) -> Self {
        let bench = Bench::new();
        let mut file = bench.file(name, text);
        file.push(export);
        let spec = quick(ProcessSpec::process(info("task"), [program.into(), file]));
        let (lane, sink) = bench.open(spec);
        Self {
            _bench: bench,
            lane,
            sink,
        }
    }

    fn run(&self, lease: u64, payload: &str) -> Ended {
        self.lane.start(vec![work(lease, "task", payload)]);
        self.sink.ended(lease)
    }
}

/// Has the version at least these numbers?
fn node_strips_types() -> bool {
    let task = Task::new(
        "node",
        "version.mjs",
        "export default () => process.features.typescript === 'strip';",
    );
    result(&task.run(1, "null")) == "true"
}

/// Files in the shapes of the README and the examples of Piscina (plain, async, ESM, loaded by a
/// promise, several functions in one file): they know nothing of offloop and run as they are.
#[test]
fn worker_files_of_piscina_s_shapes_run_unchanged() {
    if !installed("node", "worker_files_of_piscina_s_shapes_run_unchanged") {
        return;
    }
    let sum = "{\"a\":4,\"b\":6}";
    let several = "'use strict';\n\
        function add({ a, b }) { return a + b; }\n\
        function multiply({ a, b }) { return a * b; }\n\
        add.add = add; add.multiply = multiply; module.exports = add;";
    let several_esm = "export function add({ a, b }) { return a + b; }\n\
        export function multiply({ a, b }) { return a * b; }\n\
        export default add;";
    let rows = [
        (
            "worker.js",
            "module.exports = ({ a, b }) => {\n  return a + b;\n};",
            "",
            "10",
        ),
        (
            "worker.js",
            "const { setTimeout } = require('timers/promises');\n\
             module.exports = async ({ a, b }) => { await setTimeout(10); return a + b; };",
            "",
            "10",
        ),
        (
            "worker.mjs",
            "export default ({ a, b }) => a + b;",
            "",
            "10",
        ),
        (
            "worker.js",
            "async function ready() { await null; return ({ a, b }) => a + b; }\n\
             module.exports = ready();",
            "",
            "10",
        ),
        (
            "worker.mjs",
            "import util from 'util';\nconst sleep = util.promisify(setTimeout);\n\
             async function load() { await sleep(5); return ({ a, b }) => a + b; }\n\
             export default load();",
            "",
            "10",
        ),
        ("worker.js", several, "", "10"),
        ("worker.js", several, "#multiply", "24"),
        ("worker.mjs", several_esm, "", "10"),
        ("worker.mjs", several_esm, "#multiply", "24"),
        (
            "worker.js",
            "Object.defineProperty(exports, '__esModule', { value: true });\n\
             exports.default = ({ a, b }) => a + b; exports.twice = ({ a }) => 2 * a;",
            "",
            "10",
        ),
        (
            "worker.js",
            "exports.default = () => 0; exports.twice = ({ a }) => 2 * a;",
            "#twice",
            "8",
        ),
        ("a#b.js", "module.exports = ({ a, b }) => a + b;", "", "10"),
    ];
    for (name, text, export, want) in rows {
        let task = Task::named("node", name, text, export);
        assert_eq!(result(&task.run(1, sum)), want, "{text}{export}");
    }
}

#[test]
fn a_file_that_cannot_be_loaded_says_why_in_the_job_and_in_the_lane_s_trouble() {
    let node = "a_file_that_cannot_be_loaded_says_why_in_the_job_and_in_the_lane_s_trouble";
    let rows: [(&str, &str, &str, &str, &str); 11] = [
        (
            "node",
            "t.mjs",
            "throw new Error('no licence');",
            "",
            "no licence",
        ),
        (
            "node",
            "t.cjs",
            "require('no-such-module')",
            "",
            "no-such-module",
        ),
        (
            "node",
            "t.mjs",
            "export default 7;",
            "",
            "exports no function",
        ),
        (
            "node",
            "t.mjs",
            "export default () => 1;",
            "#other",
            "no function named other",
        ),
        ("node", "t.mjs", "export default (", "", "SyntaxError"),
        (
            "node",
            "t.mjs",
            "export default Promise.reject(new Error('not today'));",
            "",
            "not today",
        ),
        (
            "python3",
            "t.py",
            "raise ValueError('no licence')",
            "",
            "no licence",
        ),
        (
            "python3",
            "t.py",
            "import no_such_module",
            "",
            "no_such_module",
        ),
        (
            "python3",
            "t.py",
            "def other(): pass",
            "",
            "no function `handle",
        ),
        ("python3", "t.py", "def handle(:", "", "SyntaxError"),
        (
            "python3",
            "t.py",
            "import sys; sys.exit('x')",
            "",
            "it called sys.exit('x')",
        ),
    ];
    for (program, name, text, export, says) in rows {
        if !installed(program, node) {
            continue;
        }
        let task = Task::named(program, name, text, export);
        let ended = task.run(1, "null");
        failed_as(&ended, FailureClass::Error, says);
        failed_as(&ended, FailureClass::Error, name);
        assert_eq!(ended.gone.proof(), Proof::NeverStarted);
    }
    if installed("node", node) {
        let bench = Bench::new();
        let file = bench.file("t.mjs", "throw new Error('no licence');");
        let mut spec = quick(ProcessSpec::process(info("task"), ["node".into(), file]));
        spec.pacing.failed_starts = 2;
        spec.pacing.backoff_first = Duration::from_millis(1);
        let (lane, _) = bench.open(spec);
        eventually("trouble", || lane.trouble().is_some());
        let trouble = lane.trouble().unwrap();
        assert!(trouble.contains("Error: no licence"), "{trouble}");
    }
}

#[test]
fn typescript_runs_where_node_strips_types_and_is_refused_by_name_where_not() {
    let name = "typescript_runs_where_node_strips_types_and_is_refused_by_name_where_not";
    if !installed("node", name) {
        return;
    }
    let strips = node_strips_types();
    for file in ["task.ts", "task.mts"] {
        let text = "export default ({ a }: { a: number }): number => a + 1;";
        let ended = Task::new("node", file, text).run(1, "{\"a\":1}");
        if strips {
            assert_eq!(result(&ended), "2");
        } else {
            failed_as(&ended, FailureClass::Error, "is TypeScript, which Node v");
            failed_as(&ended, FailureClass::Error, "22.18");
        }
    }
}

#[test]
fn what_a_node_task_may_do_wrong_costs_its_own_job_and_says_so() {
    if !installed(
        "node",
        "what_a_node_task_may_do_wrong_costs_its_own_job_and_says_so",
    ) {
        return;
    }
    let task = Task::new(
        "node",
        "task.mjs",
        r#"export default async (payload, ctx) => {
            switch (payload) {
                case "cycle": { const x = {}; x.x = x; return x; }
                case "symbol": return Symbol("s");
                case "toJSON": return { toJSON() { throw new Error("from toJSON"); } };
                case "string": throw "a plain string";
                case "null": throw null;
                case "note": ctx.progress("x".repeat(5000)); return 1;
                case "console": console.log("one"); console.error("two"); process.stdout.write("three"); return 3;
                case "ascii": return "plain";
                case "umlaut": return "grün 𝄞";
                case "rejects": Promise.reject(new Error("nobody waits")); await new Promise((r) => setTimeout(r, 1000)); return 1;
                case "throws later": setTimeout(() => { throw new Error("much later"); }, 1); return 2;
                case "exit": process.exit(0);
                case "abort": process.abort();
                case "recycle": ctx.recycle(); return process.pid;
                default: return payload;
            }
        };"#,
    );
    let rows = [
        ("cycle", "circular"),
        ("symbol", "symbol"),
        ("toJSON", "from toJSON"),
        ("string", "a plain string"),
        ("null", "null"),
        ("note", "more than 4096 bytes"),
    ];
    let first = task.run(1, "\"x\"").executor;
    for (lease, (payload, says)) in (10..).zip(rows) {
        let ended = task.run(lease, &format!("{payload:?}"));
        failed_as(&ended, FailureClass::Error, says);
        assert_eq!(ended.executor, first, "{payload} cost a child");
    }
    let said = task.run(20, "\"console\"");
    assert_eq!(&said.log.head[..], b"one\ntwo\nthree");
    assert_eq!(result(&task.run(21, "\"ascii\"")), "\"plain\"");
    assert_eq!(result(&task.run(22, "\"umlaut\"")), "\"grün 𝄞\"");
    let large = format!("\"{}ü\"", "x".repeat(900_000));
    assert_eq!(result(&task.run(23, &large)), large);

    failed_as(
        &task.run(30, "\"rejects\""),
        FailureClass::Crashed,
        "nobody waits",
    );
    let exited = task.run(31, "\"exit\"");
    failed_as(
        &exited,
        FailureClass::Crashed,
        "exit code 0 without an answer",
    );
    failed_as(&task.run(32, "\"abort\""), FailureClass::Crashed, "SIGABRT");
    // What blows up after the answer takes no job along.
    let later = task.run(33, "\"throws later\"");
    assert_eq!(result(&later), "2");
    eventually("seen", || exits(&task.lane, "idle_death") == 1);
    let pid = result(&task.run(34, "\"recycle\""));
    eventually("replaced", || exits(&task.lane, "recycled_by_request") == 1);
    assert_ne!(result(&task.run(35, "\"recycle\"")), pid);
}

#[test]
fn a_node_task_that_hears_the_cancel_keeps_its_child_and_one_that_does_not_loses_it() {
    let name = "a_node_task_that_hears_the_cancel_keeps_its_child_and_one_that_does_not_loses_it";
    if !installed("node", name) {
        return;
    }
    let task = Task::new(
        "node",
        "task.mjs",
        r#"import { setTimeout } from "node:timers/promises";
        export default async (payload, ctx) => {
            ctx.progress(ctx.signal.aborted);
            await setTimeout(100_000, null, payload === "hears" ? { signal: ctx.signal } : {});
        };"#,
    );
    let mut pids = Vec::new();
    for (lease, payload) in [(1, "hears"), (2, "deaf")] {
        let mut one = work(lease, "task", &format!("{payload:?}"));
        one.limits.stall = Some(Duration::from_millis(300));
        task.lane.start(vec![one]);
        assert_eq!(&task.sink.note(lease)[..], b"false");
        if payload == "hears" {
            task.lane.stop(Lease(lease), StopReason::Cancel);
        }
        let ended = task.sink.ended(lease);
        pids.push(ended.executor.clone());
        if payload == "hears" {
            stopped_by(&ended, StopReason::Cancel);
            assert!(failure(&ended).message.contains("abort"), "{ended:?}");
            assert!(matches!(ended.gone.proof(), Proof::ChildAnswered { .. }));
        } else {
            failed_as(&ended, FailureClass::Stalled, "no progress");
            let pid = pid_of(&ended.executor);
            assert_eq!(ended.gone.proof(), Proof::Reaped { pid });
        }
    }
    assert_eq!(pids[0], pids[1]);
}

#[test]
fn what_a_python_task_may_do_wrong_costs_its_own_job_and_says_so() {
    if !installed(
        "python3",
        "what_a_python_task_may_do_wrong_costs_its_own_job_and_says_so",
    ) {
        return;
    }
    let task = Task::new(
        "python3",
        "task.py",
        r#"
import asyncio, os, sys, threading, time
def handle(payload, ctx):
    if payload == "cycle":
        x = []; x.append(x); return x
    if payload == "nan": return float("nan")
    if payload == "bytes": return b"x"
    if payload == "interrupt": raise KeyboardInterrupt
    if payload == "large": return "x" * 2000000
    if payload == "note": ctx.progress("x" * 5000)
    if payload == "exit": sys.exit(3)
    if payload == "exit text": sys.exit("gave up")
    if payload == "hard exit": os._exit(4)
    if payload == "thread":
        threading.Thread(target=time.sleep, args=(1000,)).start()
        return os.getpid()
    if payload == "thread exit":
        threading.Thread(target=time.sleep, args=(1000,)).start()
        sys.exit(5)
    if payload == "print": print("one"); print("two", file=sys.stderr); return 2
    if payload == "recycle": ctx.recycle(); return os.getpid()
    if payload == "sleep":
        async def long():
            ctx.progress(1)
            await asyncio.sleep(1000)
        return long()
    return payload
"#,
    );
    let first = task.run(1, "\"x\"").executor;
    let rows = [
        ("cycle", FailureClass::Error, "Circular"),
        ("nan", FailureClass::Error, "not JSON compliant"),
        ("bytes", FailureClass::Error, "not JSON serializable"),
        ("interrupt", FailureClass::Error, "KeyboardInterrupt"),
        ("large", FailureClass::OutputLimit, "limit is 1048576 bytes"),
        ("note", FailureClass::Error, "more than 4096 bytes"),
    ];
    for (lease, (payload, class, says)) in (10..).zip(rows) {
        let ended = task.run(lease, &format!("{payload:?}"));
        failed_as(&ended, class, says);
        assert_eq!(ended.executor, first, "{payload} cost a child");
    }
    task.lane.start(vec![work(20, "task", "\"sleep\"")]);
    task.sink.note(20);
    task.lane.stop(Lease(20), StopReason::Cancel);
    let ended = task.sink.ended(20);
    stopped_by(&ended, StopReason::Cancel);
    assert_eq!(
        ended.executor, first,
        "a coroutine that was cancelled cost a child"
    );
    let log = task.run(21, "\"print\"").log.head;
    let log = String::from_utf8_lossy(&log).into_owned();
    assert!(log.contains("one\n") && log.contains("two\n"), "{log}");
    let rows = [
        ("exit", "exit code 3"),
        ("exit text", "gave up"),
        ("hard exit", "exit code 4"),
        ("thread exit", "exit code 5"),
    ];
    for (lease, (payload, says)) in (30..).zip(rows) {
        failed_as(
            &task.run(lease, &format!("{payload:?}")),
            FailureClass::Crashed,
            says,
        );
    }
    // A thread that is left behind neither holds the answer nor the replacement up.
    let pid = result(&task.run(40, "\"thread\""));
    assert_eq!(result(&task.run(41, "\"recycle\"")), pid);
    eventually("replaced", || exits(&task.lane, "recycled_by_request") == 1);
    assert_ne!(result(&task.run(42, "\"recycle\"")), pid);
}

#[test]
fn a_python_function_may_leave_the_context_out_and_one_of_several_can_be_named() {
    let name = "a_python_function_may_leave_the_context_out_and_one_of_several_can_be_named";
    if !installed("python3", name) {
        return;
    }
    let text = "def handle(payload): return payload + 1\nasync def twice(n, ctx): return 2 * n\n";
    let rows = [("", "5"), ("#twice", "8")];
    for (export, want) in rows {
        let task = Task::named("python3", "task.py", text, export);
        assert_eq!(result(&task.run(1, "4")), want);
    }
}

#[test]
fn a_python_of_a_virtual_environment_gets_the_harness_too() {
    let name = "a_python_of_a_virtual_environment_gets_the_harness_too";
    if !installed("python3", name) {
        return;
    }
    let bench = Bench::new();
    // What `python3 -m venv` makes: a link to the interpreter, and the file that says so.
    let venv = bench.folder.path().join("venv");
    std::fs::create_dir_all(venv.join("bin")).unwrap();
    let asks = "import sys\ndef handle(payload): return sys._base_executable\n";
    let real = result(&Task::new("python3", "task.py", asks).run(1, "1"));
    let real = std::path::PathBuf::from(real.trim_matches('"'));
    std::os::unix::fs::symlink(&real, venv.join("bin/python")).unwrap();
    let home = real.parent().unwrap().display().to_string();
    std::fs::write(venv.join("pyvenv.cfg"), format!("home = {home}\n")).unwrap();
    let file = bench.file(
        "task.py",
        "import sys\ndef handle(payload): return sys.prefix\n",
    );
    let python = venv.join("bin/python");
    let (lane, sink) = bench.process(&[python.to_str().unwrap(), file.to_str().unwrap()]);
    lane.start(vec![work(1, "task", "1")]);
    assert_eq!(
        result(&sink.ended(1)),
        format!("{:?}", venv.to_str().unwrap())
    );
}
