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

/// Kills the server five times in the middle of a thousand steps: more often than a job without progress
/// is taken up again.
fn a_thousand_steps_over_five_kills(program: &str, file: &str, code: &str) {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let task = format!("[tasks.steps]\nlane = \"process\"\ncommand = [{program:?}, {file:?}]\n");
    std::fs::write(at.join("offloop.toml"), task).unwrap();
    std::fs::write(at.join(file), code).unwrap();
    let mut server = serve(at);
    let body = format!(
        "{{\"task\":\"steps\",\"payload\":{{\"steps\":{STEPS}}},\
         \"max_attempts\":10,\"backoff\":{{\"kind\":\"fixed\",\"base_ms\":1,\"jitter\":0}}}}"
    );
    let (status, made) = post(&server.url, body.as_bytes());
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    for stop_after in (1..=5).map(|kill| STEPS * kill / 8) {
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
    assert_eq!(done["attempt"], 6, "five attempts were lost: {done}");
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
    assert!(acked.len() + 5 >= STEPS, "{} acknowledged", acked.len());
    assert!(
        runs <= STEPS + 5,
        "{runs} runs: a kill costs one step at most"
    );
}

#[test]
fn a_node_task_of_a_thousand_steps_survives_five_kills_without_doing_one_again() {
    a_thousand_steps_over_five_kills("node", "steps.mjs", NODE);
}

#[test]
fn a_python_task_of_a_thousand_steps_survives_five_kills_without_doing_one_again() {
    a_thousand_steps_over_five_kills("python3", "steps.py", PYTHON);
}

/// Its place is written again and again and is no other one: the job that takes its server down there is
/// set aside, or the server would go down for ever.
#[test]
fn a_job_whose_server_dies_three_times_in_the_same_place_is_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let code = "import { appendFileSync } from 'node:fs';
    export default async (payload, ctx) => {
      await ctx.checkpoint({ step: 1 });
      appendFileSync('steps.log', 'acked 1\\n');
      await new Promise(() => setInterval(() => {}, 1000));
    };";
    std::fs::write(at.join("stuck.mjs"), code).unwrap();
    let task = "[tasks.stuck]\nlane = \"process\"\ncommand = [\"node\", \"stuck.mjs\"]\n";
    std::fs::write(at.join("offloop.toml"), task).unwrap();
    let mut server = serve(at);
    let body =
        br#"{"task":"stuck","max_attempts":10,"backoff":{"kind":"fixed","base_ms":1,"jitter":0}}"#;
    let (status, made) = post(&server.url, body);
    assert_eq!(status, 201, "{made}");
    let id = made["id"].as_str().unwrap().to_owned();
    for attempt in 1..=3 {
        let deadline = Instant::now() + PATIENCE;
        while lines(at).len() < attempt {
            assert!(Instant::now() < deadline, "attempt {attempt} never came");
            std::thread::sleep(Duration::from_millis(2));
        }
        server.kill();
        server = serve(at);
    }
    let done = end_of(&server.url, &id);
    assert_eq!(
        (&done["state"], &done["reason"], &done["attempt"]),
        (&"failed".into(), &"poison".into(), &3.into()),
        "{done}"
    );
}

/// Ends of a child are counted as the deaths of its server are.
#[test]
fn a_child_that_crashes_after_each_step_is_no_poison_and_one_that_crashes_at_the_same_one_is() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let code = "export default async ({ last }, ctx) => {
      const step = ctx.resumed?.step ?? 0;
      if (step === 6) return { step };
      await ctx.checkpoint({ step: Math.min(step + 1, last) });
      process.exit(3);
    };";
    std::fs::write(at.join("steps.mjs"), code).unwrap();
    let task = "[tasks.steps]\nlane = \"process\"\ncommand = [\"node\", \"steps.mjs\"]\n";
    std::fs::write(at.join("offloop.toml"), task).unwrap();
    let server = serve(at);
    let ended = |last: u32| {
        let body = format!(
            "{{\"task\":\"steps\",\"payload\":{{\"last\":{last}}},\"max_attempts\":20,\
             \"backoff\":{{\"kind\":\"fixed\",\"base_ms\":1,\"jitter\":0}}}}"
        );
        let (status, made) = post(&server.url, body.as_bytes());
        assert_eq!(status, 201, "{made}");
        end_of(&server.url, made["id"].as_str().unwrap())
    };
    let done = ended(6);
    assert_eq!(
        (&done["state"], &done["attempt"]),
        (&"completed".into(), &7.into()),
        "{done}"
    );
    // The first crash at the second step is the first of three there.
    let done = ended(2);
    assert_eq!(
        (&done["reason"], &done["attempt"]),
        (&"poison".into(), &4.into()),
        "{done}"
    );
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
