//! A long job whose server is killed: it goes on from its last checkpoint, and nothing that was
//! acknowledged is done again.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use support::{PATIENCE, end_of, job, post, serve};

const STEPS: usize = 1_000;

/// Each step is on record before it is done and after its checkpoint is acknowledged.
const NODE: &str = r"import { appendFileSync } from 'node:fs';
export default async ({ steps }, ctx) => {
  for (let step = (ctx.resumed?.step ?? 0) + 1; step <= steps; step++) {
    appendFileSync('steps.log', `run ${step}\n`);
    await ctx.checkpoint({ step });
    appendFileSync('steps.log', `acked ${step}\n`);
  }
  return { attempt: ctx.attempt };
};
";

const PYTHON: &str = "def handle(payload, ctx):
    step = ctx.resumed['step'] if ctx.resumed else 0
    while step < payload['steps']:
        step += 1
        with open('steps.log', 'a') as log:
            log.write(f'run {step}\\n')
        ctx.checkpoint({'step': step})
        with open('steps.log', 'a') as log:
            log.write(f'acked {step}\\n')
    return {'attempt': ctx.attempt}
";

fn lines(folder: &Path) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(folder.join("steps.log")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| {
            let (what, step) = line.split_once(' ').unwrap();
            (what.to_owned(), step.parse().unwrap())
        })
        .collect()
}

/// Kills the server twice in the middle of a thousand steps.
fn a_thousand_steps_over_two_kills(program: &str, file: &str, code: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let task = format!("[tasks.steps]\nlane = \"process\"\ncommand = [{program:?}, {file:?}]\n");
    std::fs::write(at.join("offloop.toml"), task).unwrap();
    std::fs::write(at.join(file), code).unwrap();
    let mut server = serve(at);
    let body = format!(
        "{{\"task\":\"steps\",\"payload\":{{\"steps\":{STEPS}}},\
         \"backoff\":{{\"kind\":\"fixed\",\"base_ms\":1,\"jitter\":0}}}}"
    );
    let (status, made) = post(&server.url, body.as_bytes());
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    for stop_after in [STEPS / 4, STEPS / 2] {
        let deadline = Instant::now() + PATIENCE;
        while !lines(at)
            .iter()
            .any(|(what, step)| what == "acked" && *step >= stop_after)
        {
            assert!(
                Instant::now() < deadline,
                "step {stop_after} was never reached"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
        server.kill();
        server = serve(at);
    }
    let done = end_of(&server.url, &id);
    assert_eq!(done["state"], "completed", "{done}");
    assert_eq!(done["attempt"], 3, "two attempts were lost: {done}");
    assert!(done["checkpoint"].is_null(), "{done}");
    let mut acked = BTreeSet::new();
    let (mut runs, mut done_once) = (0, BTreeSet::new());
    for (what, step) in lines(at) {
        if what == "run" {
            runs += 1;
            done_once.insert(step);
            assert!(
                !acked.contains(&step),
                "step {step} was acknowledged and ran again"
            );
        } else {
            acked.insert(step);
        }
    }
    assert_eq!(done_once.len(), STEPS, "every step was done");
    // One may be on disk although its server was killed before it said so.
    assert!(acked.len() + 2 >= STEPS, "{} acknowledged", acked.len());
    assert!(
        runs <= STEPS + 2,
        "{runs} runs: a kill costs one step at most"
    );
}

#[test]
fn a_node_task_of_a_thousand_steps_survives_two_kills_without_doing_one_again() {
    a_thousand_steps_over_two_kills("node", "steps.mjs", NODE);
}

#[test]
fn a_python_task_of_a_thousand_steps_survives_two_kills_without_doing_one_again() {
    a_thousand_steps_over_two_kills("python3", "steps.py", PYTHON);
}

/// It is asleep while its server is killed; its checkpoint and its count are there afterwards.
#[test]
fn a_job_that_sleeps_while_its_server_is_killed_comes_back_at_its_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let code = "export default async (payload, ctx) => {
      if (ctx.resumed) return { resumed: ctx.resumed };
      await ctx.checkpoint({ looked: 1 });
      return ctx.snooze(1500);
    };";
    std::fs::write(at.join("look.mjs"), code).unwrap();
    let task = "[tasks.look]\nlane = \"process\"\ncommand = [\"node\", \"look.mjs\"]\n";
    std::fs::write(at.join("offloop.toml"), task).unwrap();
    let mut server = serve(at);
    let (_, made) = post(&server.url, br#"{"task":"look","max_attempts":1}"#);
    let id = made["id"].as_str().unwrap().to_owned();
    let deadline = Instant::now() + PATIENCE;
    while job(&server.url, &id, "")["snoozes"] != 1 {
        assert!(Instant::now() < deadline, "it never slept");
        std::thread::sleep(Duration::from_millis(5));
    }
    server.kill();
    let server = serve(at);
    let done = end_of(&server.url, &id);
    assert_eq!(done["state"], "completed", "{done}");
    assert_eq!(done["result"]["resumed"]["looked"], 1, "{done}");
    assert_eq!(
        (&done["attempt"], &done["snoozes"]),
        (&1.into(), &1.into()),
        "{done}"
    );
    assert_eq!(done["attempts"].as_array().unwrap().len(), 1, "{done}");
}
