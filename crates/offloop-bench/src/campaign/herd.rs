//! L6: many at once. Ten thousand jobs that fail together do not come back together, and five
//! hundred workers whose server is restarted are served again, all of them, without a bad word.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::http::Client;
use super::journal::{ClientJournal, Outcome, now_ms};
use super::oracle::{ask, quiesce};
use super::server::{Server, Setup};
use super::{Run, rounded, spread};

/// Of the restarts.
const CYCLES: u32 = 10;
const JOBS: usize = 10_000;
/// In one request.
const AT_ONCE: usize = 1_000;
const ATTEMPTS: u64 = 3;
/// They fail because what they wait for does not come.
const LIMIT_MS: u64 = 10;
const BACKOFF: Duration = Duration::from_secs(15);
/// The busiest second of a wave of retries, in means.
const BUSIEST_MAX: f64 = 2.0;
const FAILED_WITHIN: Duration = Duration::from_secs(180);
const WORKERS: u64 = 500;
/// Of a claim of theirs. Under the client's patience.
const WAIT_MS: u64 = 5_000;
/// Between two tries of one worker to reach its server: a storm, without jitter.
const PAUSE: Duration = Duration::from_millis(50);
/// From the server's being ready to all workers' waiting again.
const BACK_WITHIN: Duration = Duration::from_secs(5);
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// What 500 connections with a waiting claim each may cost, beyond a server at rest.
const GROWN_MAX: u64 = 64 << 20;
const FILES_BESIDE: usize = 64;
/// Jobs after each restart.
const WAVE: usize = 1_000;

const TASKS: &str =
    "[tasks.pull]\nlane = \"remote\"\nlease = \"5s\"\n[packs.photos]\nenabled = false\n";

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let setup = run.setup(TASKS)?;
    let server = setup.start()?;
    fail_together(run, &setup)?;
    if run.broken {
        return Ok(()); // it is about the jitter alone
    }
    come_back(run, &setup, server)
}

/// All are waiting, then all of them fail, and so on.
fn fail_together(run: &mut Run, setup: &Setup) -> anyhow::Result<()> {
    let mut client = setup.client();
    let paused = client.call("POST", "/v1/queues/fail/pause", &[], b"");
    if !paused.is_ok_and(|answer| answer.status == 200) {
        bail!("the queue could not be paused");
    }
    let journal = ClientJournal::create(&run.journal())?;
    let mut ids = Vec::with_capacity(JOBS);
    while ids.len() < JOBS {
        let more = enqueue(&mut client, &journal, ids.len(), run.broken)?;
        ids.extend(more);
    }
    let _ = client.call("POST", "/v1/queues/fail/resume", &[], b"");
    let left = quiesce(&mut client, FAILED_WITHIN)?;
    if left > 0 {
        run.breach(format!(
            "{left} jobs have not ended within {FAILED_WITHIN:?}"
        ));
    }
    let mut waves: BTreeMap<usize, Vec<(u64, u64)>> = BTreeMap::new();
    for id in &ids {
        let job = ask(&mut client, &format!("/v1/jobs/{id}"))?.json();
        let attempts = job["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        if job["reason"] != "exhausted" || attempts.len() as u64 != ATTEMPTS {
            run.breach(format!("job {id} ended otherwise: {job}"));
            return Ok(());
        }
        for (nth, attempt) in attempts.iter().enumerate() {
            let began = millis(&attempt["started_at"])?;
            let waited = attempt["wait_ms"].as_u64().unwrap_or(0);
            waves
                .entry(nth)
                .or_default()
                .push((began, began.saturating_sub(waited)));
        }
    }
    let mut over = 0;
    for (nth, times) in &waves {
        wave(run, *nth, times, over);
        if *nth == 0 {
            over = times.iter().map(|time| time.0).max().unwrap_or(0);
        }
    }
    Ok(())
}

/// Some of them, in one request. The jitter under test is the program's own, unless it is taken out.
fn enqueue(
    client: &mut Client,
    journal: &ClientJournal,
    from: usize,
    flat: bool,
) -> anyhow::Result<Vec<String>> {
    let mut backoff = json!({ "kind": "exponential", "base_ms": BACKOFF.as_millis() as u64 });
    if flat {
        backoff["jitter"] = 0.into();
    }
    let (mut text, mut acked, mut ids) = (String::new(), Vec::new(), Vec::new());
    for nth in from..from + AT_ONCE {
        let job = json!({
            "task": "offloop.sleep", "payload": { "ms": 60_000 }, "timeout_ms": LIMIT_MS,
            "queue": "fail", "tags": [format!("fail-{nth}")], "max_attempts": ATTEMPTS, "backoff": backoff,
        });
        text += &(job.to_string() + "\n");
    }
    let kind = [("content-type", "application/x-ndjson")];
    let called = now_ms();
    let answer = client.call("POST", "/v1/jobs", &kind, text.as_bytes());
    let answer = answer.map_err(|error| anyhow::anyhow!("jobs were not taken in: {error:?}"))?;
    for line in String::from_utf8_lossy(&answer.body).lines() {
        let line: Value = serde_json::from_str(line)?;
        if let (Some(nth), Some(id)) = (line["line"].as_u64(), line["id"].as_str()) {
            let key = format!("fail-{}", from as u64 + nth - 1);
            acked.push((key, Outcome::Acked { id: id.into() }));
            ids.push(id.to_owned());
        }
    }
    if ids.len() != AT_ONCE {
        bail!(
            "{} of {AT_ONCE} jobs were taken in: {}",
            ids.len(),
            answer.status
        );
    }
    journal.write(called, &acked)?;
    Ok(ids)
}

fn millis(text: &Value) -> anyhow::Result<u64> {
    let at = offloop_wire::parse_time(text.as_str().unwrap_or_default());
    let at = at.map_err(|error| anyhow::anyhow!("{text} is no time: {error}"))?;
    Ok(at.as_millis())
}

/// One wave of retries (the first attempts, wave 0, are only told): when each began and when it was
/// due. `over`: when the last of wave 0 began; who was due until then stood in line
/// behind it, so what begins within a second of that is the line's end and not a choice.
fn wave(run: &mut Run, nth: usize, times: &[(u64, u64)], over: u64) {
    let sorted = |times: &mut dyn Iterator<Item = u64>| {
        let mut times: Vec<_> = times.collect();
        times.sort_unstable();
        times
    };
    let begun = sorted(&mut times.iter().map(|time| time.0));
    let due = sorted(&mut times.iter().map(|time| time.1));
    let free = sorted(
        &mut times
            .iter()
            .map(|time| time.0)
            .filter(|at| *at > over + 1_000),
    );
    let span = begun.last().unwrap_or(&0) - begun.first().unwrap_or(&0);
    // The longest wait of this wave: 1 x base, 2 x base.
    let window = BACKOFF.as_secs_f64() * (1_u64 << (nth.max(1) - 1)) as f64;
    let mean = begun.len() as f64 / window;
    let share = busiest(&due).max(busiest(&free)) as f64 / mean;
    let mut told = json!({
        "span_s": rounded(span as f64 / 1e3), "busiest_second": busiest(&begun),
    });
    if nth > 0 {
        told["busiest_second_due"] = busiest(&due).into();
        told["busiest_second_behind_no_line"] = busiest(&free).into();
        told["mean"] = rounded(mean);
        told["busiest_by_mean"] = rounded(share);
    }
    run.figure(&format!("wave_{nth}"), told);
    if nth > 0 && share > BUSIEST_MAX {
        run.breach(format!(
            "in the busiest second of retry {nth}, {share:.1} times the mean came back"
        ));
    }
}

/// Most in any second, wherever it begins. Sorted times in milliseconds.
fn busiest(times: &[u64]) -> usize {
    let mut first = 0;
    let counts = times.iter().enumerate().map(|(nth, at)| {
        while at - times[first] >= 1_000 {
            first += 1;
        }
        nth + 1 - first
    });
    counts.max().unwrap_or(0)
}

/// What the workers saw, between them.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    done: AtomicU64,
    /// Answers that were neither 200 nor the end of a lease: status and when.
    bad: Mutex<Vec<(u16, Instant)>>,
    cut: AtomicU64,
    unreachable: AtomicU64,
    first_claim: Mutex<Vec<Instant>>,
}

fn lock<T>(of: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A worker with one connection, until it is told to stop.
fn pull(to: SocketAddr, number: u64, seen: &Seen) {
    let mut client = Client::new(to);
    let ask = json!({ "worker": format!("herd:{number}"), "tasks": ["pull"], "wait_ms": WAIT_MS });
    while !seen.stop.load(Ordering::Acquire) {
        let Some(claimed) = post(&mut client, "/v1/work/claim", &ask, seen) else {
            std::thread::sleep(PAUSE);
            continue;
        };
        for job in claimed["jobs"].as_array().into_iter().flatten() {
            lock(&seen.first_claim).push(Instant::now());
            let id = job["id"].as_str().unwrap_or_default();
            let path = |what: &str| format!("/v1/work/{id}/{what}");
            let held = post(
                &mut client,
                &path("extend"),
                &json!({ "lease": job["lease"] }),
                seen,
            );
            let end = json!({ "lease": job["lease"], "result": null });
            if held.is_some() && post(&mut client, &path("settle"), &end, seen).is_some() {
                seen.done.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
}

fn post(client: &mut Client, path: &str, body: &Value, seen: &Seen) -> Option<Value> {
    match client.post(path, body) {
        Ok(answer) if answer.status == 200 => return Some(answer.json()),
        // Its lease was of the server before.
        Ok(answer) if answer.status == 409 => {}
        Ok(answer) => lock(&seen.bad).push((answer.status, Instant::now())),
        Err(super::http::CallError::NotSent) => {
            seen.unreachable.fetch_add(1, Ordering::AcqRel);
        }
        Err(super::http::CallError::Cut { .. }) => {
            seen.cut.fetch_add(1, Ordering::AcqRel);
        }
    }
    None
}

fn herd(to: SocketAddr, seen: &Arc<Seen>) -> anyhow::Result<Vec<JoinHandle<()>>> {
    let mut workers = Vec::new();
    for number in 0..WORKERS {
        let seen = Arc::clone(seen);
        let thread = std::thread::Builder::new().stack_size(256 << 10);
        workers.push(thread.spawn(move || pull(to, number, &seen))?);
    }
    Ok(workers)
}

/// Waits until all of them wait for work.
fn all_wait(client: &mut Client, since: Instant) -> anyhow::Result<Option<Duration>> {
    loop {
        let work = ask(client, "/v1/work")?.json();
        let waiting = work["workers"].as_array().into_iter().flatten();
        let waiting: u64 = waiting
            .filter_map(|worker| worker["waiting"].as_u64())
            .sum();
        if waiting >= WORKERS {
            return Ok(Some(since.elapsed()));
        }
        if since.elapsed() > BACK_WITHIN * 4 {
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// The server is killed, or ended in order, by turns, while five hundred workers wait.
fn come_back(run: &mut Run, setup: &Setup, server: Server) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let seen = Arc::new(Seen::default());
    drop(server);
    let server = setup.start()?; // one that has not seen ten thousand jobs yet
    let rest = (server.memory("VmRSS"), files(server.pid()));
    let workers = herd(setup.address, &seen)?;
    let mut server = server;
    all_wait(&mut setup.client(), Instant::now())?;
    let (mut back, mut claims, mut waves) = (Vec::new(), Vec::new(), Vec::new());
    let (mut grown, mut most_files) = (0, 0);
    for cycle in 0..cycles {
        if cycle % 2 == 0 {
            server.kill();
        } else {
            server.terminate();
            if server.wait(STOPPED_WITHIN).is_none() {
                run.breach("a server with waiting workers does not end");
                server.kill();
            }
        }
        server = setup.start()?;
        let ready = Instant::now();
        run.recovery.push(server.ready_after);
        lock(&seen.bad).retain(|bad| bad.1 > ready);
        lock(&seen.first_claim).clear();
        let mut client = setup.client();
        match all_wait(&mut client, ready)? {
            Some(after) if after <= BACK_WITHIN => back.push(after),
            after => run.breach(format!("not all workers wait again: {after:?}")),
        }
        wave_of_jobs(run, &mut client, &seen, (&mut claims, &mut waves))?;
        grown = grown.max(server.memory("VmHWM").saturating_sub(rest.0));
        most_files = most_files.max(files(server.pid()));
        let bad = std::mem::take(&mut *lock(&seen.bad));
        for (status, at) in bad.iter().take(3) {
            let after = at.saturating_duration_since(ready);
            run.breach(format!(
                "a worker was answered {status} {after:?} after the restart"
            ));
        }
    }
    seen.stop.store(true, Ordering::Release);
    for worker in workers {
        let _ = worker.join();
    }
    bounded(run, grown, most_files, rest.1);
    run.figure("restarts", cycles);
    run.figure("workers", WORKERS);
    run.figure("all_wait_again_ms", spread(&back));
    run.figure("first_claim_ms", spread(&claims));
    run.figure("a_thousand_jobs_ms", spread(&waves));
    run.figure("cut_calls", seen.cut.load(Ordering::Acquire));
    run.figure("tries_while_down", seen.unreachable.load(Ordering::Acquire));
    run.judge(setup, Duration::from_secs(30))?;
    drop(server);
    Ok(())
}

fn bounded(run: &mut Run, grown: u64, most: usize, at_rest: usize) {
    run.figure("server_grown_mib", grown >> 20);
    run.figure("files_at_most", most);
    if grown > GROWN_MAX {
        run.breach(format!("the server grew by {} MiB", grown >> 20));
    }
    if most > at_rest + WORKERS as usize + FILES_BESIDE {
        run.breach(format!("{most} open files, {at_rest} at rest"));
    }
}

fn files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Claims go on: so many jobs are done by the workers that came back.
fn wave_of_jobs(
    run: &mut Run,
    client: &mut Client,
    seen: &Seen,
    (claims, waves): (&mut Vec<Duration>, &mut Vec<Duration>),
) -> anyhow::Result<()> {
    let began = Instant::now();
    let kind = [("content-type", "application/x-ndjson")];
    let text = "{\"task\":\"pull\"}\n".repeat(WAVE);
    let answer = client.call("POST", "/v1/jobs?answer=summary", &kind, text.as_bytes());
    let taken = answer.map(|answer| answer.json()["accepted"].as_u64());
    if !matches!(taken, Ok(Some(taken)) if taken == WAVE as u64) {
        bail!("the jobs after a restart were not taken in: {taken:?}");
    }
    let left = quiesce(client, Duration::from_secs(30))?;
    if left > 0 {
        run.breach(format!("{left} jobs after a restart are not done"));
    }
    waves.push(began.elapsed());
    let first = lock(&seen.first_claim).iter().min().copied();
    claims.extend(first.map(|first| first.saturating_duration_since(began)));
    Ok(())
}
