//! A Rust task of a thousand steps in a server that is killed twice: nothing that was acknowledged is
//! done again.
//!
//! The server is this very test, started again by itself, so that it can be killed.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "a server of its own is under test, which is told where by its environment"
)]

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use offloop::job::{Backoff, BackoffKind, JobOptions, NewJob, RetryPolicy};
use offloop::{Builder, TaskContext, TaskError, TaskName, TaskOutput};

const STEPS: usize = 1_000;
const PATIENCE: Duration = Duration::from_secs(120);
const FOLDER: &str = "OFFLOOP_TEST_FOLDER";

fn say(mut log: &File, what: &str, step: usize) {
    log.write_all(format!("{what} {step}\n").as_bytes())
        .unwrap();
}

fn steps(ctx: &TaskContext, log: &File) -> Result<TaskOutput, TaskError> {
    let left = ctx.resumed().map(|data| std::str::from_utf8(data).unwrap());
    let from: usize = left.map_or(0, |step| step.parse().unwrap());
    for step in from + 1..=STEPS {
        say(log, "run", step);
        ctx.checkpoint(step.to_string()).wait()?;
        say(log, "acked", step);
    }
    Ok(TaskOutput::json(ctx.work().attempt.to_string()))
}

fn appended(folder: &Path) -> File {
    let file = folder.join("steps.log");
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)
        .unwrap()
}

/// Not a test of its own: the server of the one below.
#[test]
#[ignore = "a server that the test below starts and kills"]
fn serve_until_killed() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        return;
    };
    let log = appended(&folder);
    let server = Builder::embedded(folder.join("data"))
        .cpu_task("steps", move |ctx| steps(ctx, &log))
        .unwrap()
        .start()
        .unwrap();
    let wait = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let job = NewJob {
        task: TaskName::parse("steps").unwrap(),
        payload: "{}".into(),
        options: JobOptions {
            retry: RetryPolicy {
                backoff: Backoff {
                    kind: BackoffKind::Fixed,
                    base: Duration::from_millis(1),
                    jitter_percent: 0,
                    ..Backoff::default()
                },
                ..RetryPolicy::default()
            },
            ..JobOptions::default()
        },
        idempotency: offloop::job::IdempotencyKey::parse("the one").ok(),
    };
    wait.block_on(async {
        let made = server.handle().enqueue(vec![job]).await.unwrap().remove(0);
        let id = match made {
            offloop::store::InsertOutcome::Created { id, .. }
            | offloop::store::InsertOutcome::Existing { id, .. } => id,
            refused @ offloop::store::InsertOutcome::Refused(_) => panic!("{refused:?}"),
        };
        let job = server
            .handle()
            .wait_final(id, PATIENCE)
            .await
            .unwrap()
            .unwrap();
        say(
            &appended(&folder),
            "ended",
            usize::from(job.summary.attempt),
        );
        assert_eq!(job.checkpoint, None);
    });
}

/// A server that does not outlive its test.
struct Served(Child);

impl Served {
    fn start(folder: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", "serve_until_killed", "--ignored"])
            .env(FOLDER, folder)
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        Self(command.spawn().unwrap())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended
        let _ = self.0.wait();
    }
}

fn lines(folder: &Path) -> Vec<(String, usize)> {
    let text = std::fs::read_to_string(folder.join("steps.log")).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let line = |line: &str| {
        let (what, step) = line.split_once(' ').unwrap();
        (what.to_owned(), step.parse().unwrap())
    };
    whole.lines().map(line).collect()
}

#[track_caller]
fn until(folder: &Path, what: &str, is: impl Fn(&(String, usize)) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !lines(folder).iter().any(&is) {
        assert!(Instant::now() < deadline, "not {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_rust_task_of_a_thousand_steps_survives_two_kills_without_doing_one_again() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut server = Served::start(at);
    for stop_after in [STEPS / 4, STEPS / 2] {
        until(at, "so far", |(what, step)| {
            what == "acked" && *step >= stop_after
        });
        drop(server); // SIGKILL
        server = Served::start(at);
    }
    until(at, "ended", |(what, attempt)| {
        what == "ended" && *attempt == 3
    });
    drop(server);
    let mut acked = BTreeSet::new();
    let (mut runs, mut done_once) = (0, BTreeSet::new());
    for (what, step) in lines(at) {
        match what.as_str() {
            "run" => {
                runs += 1;
                done_once.insert(step);
                assert!(
                    !acked.contains(&step),
                    "step {step} was acknowledged and ran again"
                );
            }
            "acked" => drop(acked.insert(step)),
            _ => {}
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
