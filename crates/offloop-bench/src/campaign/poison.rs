//! R6: jobs that kill what runs them. Each is set aside after exactly three deaths, and others
//! hardly notice: windows with and without poison take turns, one kind after the other.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::beside::{Neighbours, Told, send, wait_end};
use super::journal::effects;
use super::server::{Server, Setup};
use super::{Run, p99, procfs, spread};

const ROUNDS: u32 = 8;
/// As long as a kind of poison takes to be set aside.
const QUIET: Duration = Duration::from_secs(2);
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const DEATHS: usize = 3;
const SLOWER_MAX: f64 = 1.5;
const GROWN_MAX: u64 = 16 << 20;
/// What good jobs are, and how long they take by themselves.
const GOOD: &[(&str, u64)] = &[("offloop.noop", 0), ("mark", 2)];

/// A kind of poison: its task, its payload, its limits, and how each of its attempts must end.
struct Poison {
    how: &'static str,
    payload: &'static [(&'static str, u64)],
    limits: &'static [(&'static str, u64)],
    class: &'static str,
    reason: &'static str,
}

const POISONS: [Poison; 4] = [
    Poison {
        how: "crash",
        payload: &[],
        limits: &[],
        class: "crashed",
        reason: "poison",
    },
    Poison {
        how: "eat",
        payload: &[],
        limits: &[("memory_limit_bytes", 200 << 20)],
        class: "memory_limit",
        reason: "poison",
    },
    Poison {
        how: "bomb",
        payload: &[("depth", 8)],
        limits: &[],
        class: "process_limit",
        reason: "poison",
    },
    Poison {
        how: "spin",
        payload: &[],
        limits: &[("timeout_ms", 1_000), ("max_attempts", DEATHS as u64)],
        class: "timeout",
        reason: "exhausted",
    },
];

fn tasks(run: &Run, token: &str) -> String {
    let (folder, journal) = (run.tasks.display(), run.effects().display().to_string());
    let mut text = String::from("[packs.photos]\nenabled = false\n");
    for poison in &POISONS {
        let _ = write!(
            text,
            "[tasks.poison-{}]\nlane = \"process\"\ncommand = [\"node\", \"{folder}/bad.mjs\"]\n\
             processes = 1\ntimeout = \"10s\"\ngrace = \"100ms\"\nprocess_limit = 64\n\
             env = {{ CAMPAIGN_JOURNAL = \"{journal}\", CAMPAIGN_TOKEN = \"{token}\" }}\n",
            poison.how
        );
    }
    text
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let rounds = run.cycles.unwrap_or(ROUNDS);
    let token = run.token();
    let setup = run.setup(&tasks(run, &token))?;
    let server = setup.start()?;
    let neighbours = Neighbours::start(&setup, 4, Duration::from_millis(40), GOOD);
    std::thread::sleep(Duration::from_secs(2)); // warm
    let (mut quiet, mut loud, mut deaths) = (Vec::new(), Vec::new(), Vec::new());
    let rss = server.memory("VmRSS");
    let mut peak = rss;
    let mut by_kind: [Vec<_>; POISONS.len()] = Default::default();
    for _ in 0..rounds {
        for (kind, windows) in by_kind.iter_mut().enumerate() {
            fine(&setup, kind)?;
            quiet.push((Instant::now(), QUIET));
            std::thread::sleep(QUIET);
            let began = Instant::now();
            deaths.push((kind, poisoned(&setup, &server, kind, &mut peak)?));
            windows.push((began, began.elapsed()));
        }
    }
    let told = neighbours.finish();
    loud.extend(by_kind.iter().flatten().copied());
    compare(run, &told, &quiet, &loud, SLOWER_MAX);
    for (poison, windows) in POISONS.iter().zip(&by_kind) {
        let times = within(&told, windows);
        run.figure(&format!("good_beside_{}_ms", poison.how), spread(&times));
    }
    run.figure("rounds", rounds);
    run.figure(
        "rss_mib",
        json!({ "before": rss >> 20, "peak": peak >> 20 }),
    );
    if peak.saturating_sub(rss) > GROWN_MAX {
        run.breach(format!(
            "the server grew from {rss} to {peak} bytes; {GROWN_MAX} more are allowed"
        ));
    }
    judge_deaths(run, &deaths);
    run.survivors += procfs::named(&token).len() as u64;
    Ok(())
}

/// The poisoned task serves one good job first, as it would in life.
fn fine(setup: &Setup, kind: usize) -> anyhow::Result<()> {
    let mut client = setup.client();
    let task = format!("poison-{}", POISONS[kind].how);
    let id = send(
        &mut client,
        &json!({ "task": task, "payload": { "how": "fine" } }),
    )?;
    wait_end(&mut client, &id, ENDED_WITHIN).map(drop)
}

/// A job of this kind, at its end.
fn poisoned(setup: &Setup, server: &Server, kind: usize, peak: &mut u64) -> anyhow::Result<Value> {
    let (mut client, poison) = (setup.client(), &POISONS[kind]);
    let mut payload = json!({ "how": poison.how });
    for (name, value) in poison.payload {
        payload[*name] = (*value).into();
    }
    let mut body = json!({
        "task": format!("poison-{}", poison.how), "queue": "poison", "payload": payload,
        "max_attempts": 10, "backoff": { "kind": "fixed", "base_ms": 10 },
    });
    for (name, value) in poison.limits {
        body[*name] = (*value).into();
    }
    let (id, began) = (send(&mut client, &body)?, Instant::now());
    loop {
        *peak = (*peak).max(server.memory("VmRSS"));
        let job = wait_end(&mut client, &id, Duration::from_millis(100))?;
        if job["finished_at"].is_string() || began.elapsed() > ENDED_WITHIN {
            return Ok(job);
        }
    }
}

fn judge_deaths(run: &mut Run, deaths: &[(usize, Value)]) {
    let marks = effects(&run.effects());
    let mut rows = serde_json::Map::new();
    for (kind, job) in deaths {
        let poison = &POISONS[*kind];
        let attempts = job["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        let right = attempts
            .iter()
            .filter(|one| one["end"]["class"] == poison.class)
            .count();
        let id = job["id"].as_str().unwrap_or_default();
        let started = marks.get(id).into_iter().flatten();
        let started = started.filter(|mark| mark.what == "start").count();
        if (attempts.len(), right, started) != (DEATHS, DEATHS, DEATHS)
            || job["reason"] != poison.reason
        {
            let ends: Vec<_> = attempts.iter().map(|one| &one["end"]["class"]).collect();
            run.breach(format!(
                "{}: {} ({}) after {started} starts that ended as {ends:?}; {DEATHS} of {} and \
                 {} are wanted",
                poison.how, job["state"], job["reason"], poison.class, poison.reason
            ));
        } else {
            let count = rows.get(poison.how).and_then(Value::as_u64).unwrap_or(0);
            rows.insert(poison.how.into(), (count + 1).into());
        }
    }
    run.figure("set_aside_after_3", rows);
}

/// What good jobs took that were sent in these windows.
fn within(told: &[Told], windows: &[(Instant, Duration)]) -> Vec<Duration> {
    let inside = |at: Instant| {
        let mut windows = windows.iter();
        windows.any(|(from, span)| at >= *from && at < *from + *span)
    };
    let those = told.iter().filter(|one| inside(one.sent));
    those.map(|one| one.took).collect()
}

/// Good jobs in windows of the two kinds: their p99, and that all of them completed.
pub(super) fn compare(
    run: &mut Run,
    told: &[Told],
    quiet: &[(Instant, Duration)],
    loud: &[(Instant, Duration)],
    most: f64,
) {
    let (quiet, loud) = (within(told, quiet), within(told, loud));
    let ratio = p99(&loud).as_secs_f64() / p99(&quiet).as_secs_f64().max(1e-9);
    run.figure("good_quiet_ms", spread(&quiet));
    run.figure("good_beside_ms", spread(&loud));
    run.figure("p99_ratio", (ratio * 100.0).round() / 100.0);
    if quiet.len() < 100 || loud.len() < 100 {
        run.breach("fewer than 100 good jobs in a kind of window: nothing can be said");
    }
    if ratio > most {
        run.breach(format!(
            "good jobs take {ratio:.2} times as long (p99); {most} is the goal"
        ));
    }
    let failed = told.iter().filter(|one| !one.completed).count();
    run.figure("good_jobs", told.len());
    if failed > 0 {
        run.breach(format!(
            "{failed} of {} good jobs did not complete",
            told.len()
        ));
    }
}
