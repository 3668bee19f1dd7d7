//! R7: SIGSTOP. A child that stands still in the middle of its job is ended by its limit and never
//! speaks again; a server that stood still for three limits goes on as if nothing had been, and
//! meanwhile nobody else takes its data.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::beside::{send, wait_end};
use super::http::Client;
use super::journal::{ClientJournal, Outcome, effects, now_ms};
use super::procfs::Known;
use super::server::{Server, Setup};
use super::{Run, procfs, spread};

/// Stops of the server, and of as many children.
const CYCLES: u32 = 100;
const TIMEOUT: Duration = Duration::from_millis(400);
const GRACE: Duration = Duration::from_millis(100);
/// From SIGTERM to SIGKILL: the lane's own.
const TERM_GRACE: Duration = Duration::from_millis(500);
const STOPPED_FOR: Duration = Duration::from_millis(1_200); // three limits
/// From the server's resume to the end of what is over its limit.
const ENDED_WITHIN: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_secs(1);
const JOB_MS: u64 = 100;
/// Breaches after which no more is learnt.
const ENOUGH: usize = 4;
/// Children that are stopped at a time.
const TOGETHER: u32 = 4;

/// A job of ours: how it is called in messages, its id, and the process that began it.
struct Begun {
    what: &'static str,
    id: String,
    child: Option<Known>,
}

fn tasks(run: &Run) -> String {
    let (folder, journal) = (run.tasks.display(), run.effects().display().to_string());
    let rest = format!(
        "timeout = \"{}ms\"\ngrace = \"{}ms\"\nenv = {{ CAMPAIGN_JOURNAL = \"{journal}\", CAMPAIGN_TOKEN = \"-\" }}",
        TIMEOUT.as_millis(),
        GRACE.as_millis()
    );
    let node =
        |file: &str| format!("lane = \"process\"\ncommand = [\"node\", \"{folder}/{file}\"]");
    format!(
        "[tasks.mark-beat]\n{}\nprocesses = {TOGETHER}\n{rest}\n[tasks.loop]\n{}\n{rest}\n\
         [packs.photos]\nenabled = false\n",
        node("beat.mjs"),
        node("bad.mjs")
    )
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let setup = run.setup(&tasks(run))?;
    let server = setup.start()?;
    let mut cast = Cast {
        client: setup.client(),
        journal: ClientJournal::create(&run.journal())?,
        sent: 0,
    };
    cast.warm_up()?;
    let (mut after_limit, mut after_resume, mut late) = (Vec::new(), Vec::new(), BTreeMap::new());
    for _ in 0..cycles.div_ceil(TOGETHER) {
        children_stop(run, &mut cast, &mut after_limit)?;
        if run.breaches.len() >= ENOUGH {
            return Ok(()); // what cannot end makes the rest wait for ever
        }
    }
    for _ in 0..cycles {
        server_stops(
            run,
            &setup,
            &server,
            &mut cast,
            &mut after_resume,
            &mut late,
        )?;
    }
    run.figure("cycles", cycles);
    run.figure("child_gone_after_limit_ms", spread(&after_limit));
    run.figure("gone_after_resume_ms", spread(&after_resume));
    run.figure("ends_of_answered_jobs", json!(late));
    let history = run.judge(&setup, Duration::from_secs(30))?;
    let twice = history
        .values()
        .filter(|job| job.task == "mark-beat" && job.attempt > 2);
    run.figure("third_attempts", twice.count());
    Ok(())
}

struct Cast {
    client: Client,
    journal: ClientJournal,
    sent: u64,
}

impl Cast {
    fn send(&mut self, task: &str, ms: u64, attempts: u64) -> anyhow::Result<String> {
        let key = format!("frozen-{}", self.sent);
        self.sent += 1;
        let body = json!({
            "task": task, "payload": { "ms": ms, "how": "spin" }, "tags": [key],
            "max_attempts": attempts, "backoff": { "kind": "fixed", "base_ms": 1 },
        });
        let (called, id) = (now_ms(), send(&mut self.client, &body)?);
        self.journal
            .write(called, &[(key, Outcome::Acked { id: id.clone() })])?;
        Ok(id)
    }

    fn warm_up(&mut self) -> anyhow::Result<()> {
        let ids: Result<Vec<_>, _> = (0..8).map(|_| self.send("mark-beat", 20, 5)).collect();
        for id in ids? {
            wait_end(&mut self.client, &id, Duration::from_secs(20))?;
        }
        Ok(())
    }

    fn end(&mut self, id: &str) -> anyhow::Result<Value> {
        wait_end(&mut self.client, id, Duration::from_secs(8))
    }
}

/// Waits until each has left its first mark.
fn wait_begun(run: &Run, jobs: &mut [Begun]) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let marks = effects(&run.effects());
        for job in jobs.iter_mut().filter(|job| job.child.is_none()) {
            let first = marks.get(&job.id).and_then(|marks| marks.first());
            job.child = first.and_then(|mark| procfs::known(mark.pid));
        }
        if jobs.iter().all(|job| job.child.is_some()) {
            return Ok(());
        }
        if began.elapsed() > Duration::from_secs(20) {
            bail!("a job does not begin");
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // it may have ended
    }
}

/// Four children stop in the middle of their jobs.
fn children_stop(
    run: &mut Run,
    cast: &mut Cast,
    after_limit: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    let mut jobs = Vec::new();
    for _ in 0..TOGETHER {
        // One at a time: it must be stopped before its 100 ms are over.
        let id = cast.send("mark-beat", JOB_MS, 5)?;
        let mut one = [Begun {
            what: "stopped",
            id,
            child: None,
        }];
        wait_begun(run, &mut one)?;
        let [one] = one;
        one.child
            .iter()
            .for_each(|child| signal(child.pid, Signal::STOP));
        jobs.push(one);
    }
    for job in &jobs {
        let end = cast.end(&job.id)?;
        judge_stopped(run, job, &end, after_limit);
    }
    Ok(())
}

fn judge_stopped(run: &mut Run, job: &Begun, end: &Value, after_limit: &mut Vec<Duration>) {
    let attempts = end["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let first = &attempts.first().map_or(&Value::Null, |first| first);
    let ended = first["end"]["class"].as_str().unwrap_or("?");
    if end["state"] != "completed" || attempts.len() != 2 || ended != "timeout" {
        run.breach(format!(
            "a stopped child: the job is {} after {} attempts, the first {ended}: {}",
            end["state"],
            attempts.len(),
            first["end"]
        ));
    }
    let wall = Duration::from_millis(first["wall_ms"].as_u64().unwrap_or(u64::MAX));
    after_limit.push(wall.saturating_sub(TIMEOUT));
    if wall > TIMEOUT + GRACE + TERM_GRACE + SLACK {
        run.breach(format!(
            "a stopped child was there {wall:?} after its start"
        ));
    }
    // Its zombie would write a mark now: the oracle looks for marks of old leases.
    let left = procfs::still(job.child.as_slice());
    run.survivors += left.len() as u64;
    for child in &left {
        signal(child.pid, Signal::CONT);
    }
}

/// The server stops while jobs run: two that end meanwhile, one that is stopped too, one that never
/// ends, and one that waits for a child.
fn server_stops(
    run: &mut Run,
    setup: &Setup,
    server: &Server,
    cast: &mut Cast,
    after_resume: &mut Vec<Duration>,
    late: &mut BTreeMap<String, u64>,
) -> anyhow::Result<()> {
    let mut jobs = Vec::new();
    for (what, task, attempts) in [
        ("endless", "loop", 1),
        ("stopped", "mark-beat", 5),
        ("answered", "mark-beat", 5),
        ("answered", "mark-beat", 5),
    ] {
        let id = cast.send(task, JOB_MS, attempts)?;
        jobs.push(Begun {
            what,
            id,
            child: None,
        });
    }
    wait_begun(run, &mut jobs)?;
    let stopped = &jobs[1];
    stopped
        .child
        .iter()
        .for_each(|child| signal(child.pid, Signal::STOP));
    let waiting = cast.send("mark-beat", JOB_MS, 5)?;
    signal(server.pid() as i32, Signal::STOP);
    let began = Instant::now();
    refused(run, setup)?;
    std::thread::sleep(STOPPED_FOR.saturating_sub(began.elapsed()));
    signal(server.pid() as i32, Signal::CONT);
    let resumed = Instant::now();
    let over: Vec<_> = jobs[..2].iter().filter_map(|job| job.child).collect();
    while !procfs::still(&over).is_empty() && resumed.elapsed() < ENDED_WITHIN * 5 {
        std::thread::sleep(Duration::from_millis(2));
    }
    after_resume.push(resumed.elapsed());
    if resumed.elapsed() > ENDED_WITHIN {
        run.breach(format!(
            "children over their limit are there {:?} after the resume",
            resumed.elapsed()
        ));
    }
    jobs.push(Begun {
        what: "waiting",
        id: waiting,
        child: None,
    });
    for job in &jobs {
        let end = cast.end(&job.id)?;
        judge_end(run, job, &end, late);
    }
    Ok(())
}

fn judge_end(run: &mut Run, job: &Begun, end: &Value, late: &mut BTreeMap<String, u64>) {
    let attempts = end["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let classes: Vec<_> = attempts
        .iter()
        .map(|one| one["end"]["class"].as_str().unwrap_or("?"))
        .collect();
    let told = classes.join(", ");
    let wanted = match job.what {
        "endless" => "timeout",
        "stopped" => "timeout, completed",
        _ => "completed",
    };
    if matches!(job.what, "answered" | "waiting") {
        *late.entry(format!("{}: {told}", job.what)).or_default() += 1;
    }
    if told != wanted {
        run.breach(format!(
            "a job ({}) over which the server stood still ended as {told}, not as {wanted}",
            job.what
        ));
    }
}

/// A second server on the same data does not start.
fn refused(run: &mut Run, setup: &Setup) -> anyhow::Result<()> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
    let mut second = setup.clone();
    second.address = listener.local_addr()?;
    drop(listener);
    let mut server = second.spawn(&[]).context("a second server")?;
    match server.wait(Duration::from_secs(5)) {
        Some((status, _)) if status.code().is_some_and(|code| code != 0) => {}
        Some((status, _)) => run.breach(format!("a second server ended with {status}")),
        None => run.breach("a second server runs on the data of one that stands still"),
    }
    Ok(())
}
