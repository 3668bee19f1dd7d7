//! Tasks that ignore every wish to stop and hide their descendants in sessions of their own.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::journal::{Mark, effects};
use super::oracle::{self, ask};
use super::{Run, procfs, spread};

const REPETITIONS: u32 = 20;
const TIMEOUT_MS: u64 = 1_000;
const GRACE_MS: u64 = 1_000;
/// Beyond its timeout, a job and all its descendants may live for the grace and this.
const SLACK_MS: u64 = 1_000;

fn tasks(run: &Run) -> String {
    let (tasks, journal) = (run.tasks.display(), run.effects().display().to_string());
    let rest = format!(
        "processes = 2\ntimeout = \"{TIMEOUT_MS}ms\"\ngrace = \"{GRACE_MS}ms\"\n\
         env = {{ CAMPAIGN_JOURNAL = \"{journal}\" }}"
    );
    format!(
        "[tasks.stubborn-exec]\nlane = \"exec\"\ncommand = [\"/bin/sh\", \"{tasks}/stubborn.sh\"]\n{rest}\n\
         [tasks.stubborn]\nlane = \"process\"\ncommand = [\"node\", \"{tasks}/stubborn.mjs\"]\n{rest}\n"
    )
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let repetitions = run.cycles.unwrap_or(REPETITIONS);
    let setup = run.setup(&tasks(run))?;
    let server = setup.start()?;
    let mut client = setup.client();
    let mut ids = BTreeSet::new();
    for number in 0..repetitions {
        let task = if number.is_multiple_of(2) {
            "stubborn-exec"
        } else {
            "stubborn"
        };
        let backoff = json!({ "kind": "fixed", "base_ms": 1 });
        let job = json!({ "task": task, "payload": {}, "max_attempts": 2, "backoff": backoff });
        let answer = client.post("/v1/jobs", &job);
        let id = answer
            .ok()
            .and_then(|answer| Some(answer.json()["id"].as_str()?.to_owned()));
        ids.extend(id);
    }
    if ids.len() != repetitions as usize {
        run.breach("not every job was taken in");
    }
    let rounds = u64::from(repetitions).div_ceil(4);
    let limit = Duration::from_millis(rounds * 2 * (TIMEOUT_MS + GRACE_MS + SLACK_MS) + 10_000);
    let left = oracle::quiesce(&mut client, limit)?;
    if left > 0 {
        run.breach(format!("{left} jobs still run after {limit:?}"));
    }
    let settled = Instant::now();
    let marks = effects(&run.effects());
    judge(run, &marks, &ids);
    for id in &ids {
        judge_record(run, &ask(&mut client, &format!("/v1/jobs/{id}"))?.json());
    }
    // Warm children wait for their next job; whoever wrote a mark must be gone.
    let writers: BTreeSet<i32> = marks.values().flatten().map(|mark| mark.pid).collect();
    let alive = procfs::executors_of(server.pid());
    let survivors: Vec<_> = alive.iter().filter(|pid| writers.contains(pid)).collect();
    run.survivors += survivors.len() as u64;
    run.figure("repetitions", repetitions);
    run.figure("processes_ended", writers.len());
    run.figure("looked_after_ms", settled.elapsed().as_millis() as u64);
    Ok(())
}

/// By the marks: how long each attempt's processes lived, and that no two attempts overlap.
fn judge(run: &mut Run, marks: &BTreeMap<String, Vec<Mark>>, ids: &BTreeSet<String>) {
    let mut lived = Vec::new();
    let (mut pauses, mut descendants) = (Vec::new(), 0);
    for id in ids {
        let mut attempts: BTreeMap<u64, Vec<&Mark>> = BTreeMap::new();
        let mut newest = 0;
        for mark in marks.get(id).into_iter().flatten() {
            if mark.lease < newest {
                run.counters.live_rerun += 1;
                eprintln!(
                    "live_rerun: job {id}, lease {} after {newest} began",
                    mark.lease
                );
            }
            newest = newest.max(mark.lease);
            attempts.entry(mark.lease).or_default().push(mark);
        }
        if attempts.len() != 2 {
            run.breach(format!("job {id} ran {} times, not twice", attempts.len()));
        }
        let mut ended: Option<u64> = None;
        for (lease, marks) in attempts {
            let first = marks.iter().map(|mark| mark.at).min().unwrap_or(0);
            let last = marks.iter().map(|mark| mark.at).max().unwrap_or(0);
            let pids: BTreeSet<_> = marks.iter().map(|mark| mark.pid).collect();
            descendants += pids.len().saturating_sub(1);
            if pids.len() != 3 {
                run.breach(format!(
                    "job {id} lease {lease}: {} processes, not 3",
                    pids.len()
                ));
            }
            if last - first > TIMEOUT_MS + GRACE_MS + SLACK_MS {
                run.breach(format!(
                    "job {id} lease {lease} lived for {} ms",
                    last - first
                ));
            }
            lived.push(Duration::from_millis(last - first));
            pauses.extend(ended.map(|end| Duration::from_millis(first.saturating_sub(end))));
            ended = Some(last);
        }
    }
    let over = |time: &Duration| time.saturating_sub(Duration::from_millis(TIMEOUT_MS));
    let after_timeout: Vec<_> = lived.iter().map(over).collect();
    run.figure("gone_after_timeout_ms", spread(&after_timeout));
    run.figure("from_last_sign_to_retry_ms", spread(&pauses));
    run.figure("hidden_descendants", descendants);
}

fn judge_record(run: &mut Run, job: &Value) {
    let ends = job["attempts"].as_array().into_iter().flatten();
    let timeouts = ends
        .filter(|attempt| attempt["end"]["class"] == "timeout")
        .count();
    if job["state"] != "failed" || timeouts != 2 {
        run.breach(format!(
            "a stubborn job is {} after {timeouts} timeouts",
            job["state"]
        ));
    }
}
