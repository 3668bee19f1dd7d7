//! R2: SIGKILL for a job's child, for the warden and for the server, at random, over and over.
//!
//! Beside the jobs of the load, one job after the other starts sleepers that hide in sessions of
//! their own: whatever is killed, nothing of it may be there two seconds later, and what ran must
//! run again soon.

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::journal::{Effects, effects, now_ms};
use super::load::{Load, Mix};
use super::procfs::Known;
use super::server::{Server, Setup};
use super::{Run, p99, procfs, spread};

/// Of each kind.
const CYCLES: u32 = 100;
const GRACE_MS: u64 = 300;
const GONE_WITHIN: Duration = Duration::from_secs(2);
/// From the kill to the next start of what ran.
const AGAIN_P99: Duration = Duration::from_millis(GRACE_MS + 1_000);
const HIDDEN: u64 = 4;
/// A child that can be killed is waited for so long.
const CHILD_WITHIN: Duration = Duration::from_secs(2);
const NEST_EVERY: usize = 4;
/// The job that hides sleepers is ended by this, if nobody kills it.
const NEST_TIMEOUT_MS: u64 = 700;

const MIX: Mix = Mix {
    // About half of what the two children can do: what was killed must not wait in line.
    producers: 1,
    node_percent: 14,
    exec_percent: 3,
    node_ms: 150,
    think_ms: 80,
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Child,
    Warden,
    Server,
}

/// A kill, and whom it met.
#[derive(Debug)]
struct Kill {
    victim: Victim,
    at_ms: u64,
    /// Jobs with their leases that ran.
    running: Vec<(String, u64)>,
}

fn tasks(run: &Run, token: &str) -> String {
    let (folder, journal) = (run.tasks.display(), run.effects().display().to_string());
    format!(
        "[tasks.nest]\nlane = \"process\"\ncommand = [\"node\", \"{folder}/bad.mjs\"]\n\
         timeout = \"{NEST_TIMEOUT_MS}ms\"\ngrace = \"{GRACE_MS}ms\"\n\
         env = {{ CAMPAIGN_JOURNAL = \"{journal}\", CAMPAIGN_TOKEN = \"{token}\" }}\n\
         [packs.photos]\nenabled = false\n"
    )
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES);
    let token = run.token();
    let setup = run.setup(&tasks(run, &token))?;
    let mut server = setup.start()?;
    let load = Load::start(setup.address, MIX, &run.journal(), &mut run.dice)?;
    let (mut kills, mut watch) = (Vec::new(), Watch::default());
    for (number, victim) in shuffled(run, cycles).into_iter().enumerate() {
        let mut client = setup.client();
        let body = json!({ "task": "nest", "queue": "nests", "max_attempts": 3,
            "backoff": { "kind": "fixed", "base_ms": 10 }, "retry_by_class": { "timeout": 1 },
            "payload": { "how": "sleepers", "count": HIDDEN } });
        // Not faster than they end: what waits in line cannot begin again soon.
        if number.is_multiple_of(NEST_EVERY) {
            let _ = client.post("/v1/jobs", &body); // one that fails is one fewer
        }
        std::thread::sleep(Duration::from_millis(run.dice.between(60, 350)));
        if !one(
            run,
            &setup,
            &mut server,
            victim,
            &token,
            &mut kills,
            &mut watch,
        ) {
            server = setup
                .start()
                .with_context(|| format!("after kill {}", kills.len()))?;
            run.recovery.push(server.ready_after);
        }
    }
    load.finish()?;
    run.figure("kills_each", cycles);
    let history = run.judge(&setup, Duration::from_secs(60))?;
    watch.tell(run);
    judge_restarts(run, &kills, &effects(&run.effects()));
    let lost = history.values().filter(|job| job.task == "nest");
    run.figure("nests", lost.count());
    server.terminate();
    let _ = server.wait(Duration::from_secs(30)); // what is left is counted next
    for left in procfs::named(&token) {
        run.survivors += 1;
        kill(left.pid); // it would sleep for a day
    }
    Ok(())
}

/// Every kind so often, in an order that the dice choose.
fn shuffled(run: &mut Run, cycles: u32) -> Vec<Victim> {
    let each = [Victim::Child, Victim::Warden, Victim::Server];
    let mut all: Vec<_> = each
        .into_iter()
        .flat_map(|one| (0..cycles).map(move |_| one))
        .collect();
    for at in (1..all.len()).rev() {
        all.swap(at, run.dice.between(0, at as u64 + 1) as usize);
    }
    all
}

/// Whether the server still lives afterwards.
fn one(
    run: &mut Run,
    setup: &Setup,
    server: &mut Server,
    victim: Victim,
    token: &str,
    kills: &mut Vec<Kill>,
    watch: &mut Watch,
) -> bool {
    if victim == Victim::Child {
        one_child(run, server, token, kills, watch);
        return true;
    }
    if victim == Victim::Warden {
        let wardens = procfs::children(server.pid(), "offloop-warden");
        if wardens.is_empty() {
            run.breach("the server has no warden");
        }
        for warden in &wardens {
            kill(warden.pid);
        }
        std::thread::sleep(Duration::from_millis(run.dice.between(0, 100)));
        if server.has_ended() {
            run.breach("the server ended with its warden");
        }
    }
    let running = open_attempts(&effects(&run.effects()));
    let executors = procfs::executors_of(server.pid()).into_iter();
    let all = executors.filter_map(procfs::known);
    let all: BTreeSet<_> = all.chain(procfs::named(token)).collect();
    server.kill();
    let running = running.into_iter().map(|one| (one.job, one.lease));
    kills.push(Kill {
        victim,
        at_ms: now_ms(),
        running: running.collect(),
    });
    setup.wait_address(Duration::from_secs(1));
    watch.follow(all.into_iter().collect());
    false
}

/// One that holds a job now, in its first attempt: not on its way into quarantine.
fn one_child(
    run: &mut Run,
    server: &Server,
    token: &str,
    kills: &mut Vec<Kill>,
    watch: &mut Watch,
) {
    let began = Instant::now();
    let running = loop {
        let mut running = open_attempts(&effects(&run.effects()));
        let alive = procfs::executors_of(server.pid());
        running.retain(|one| one.first && alive.contains(&one.pid));
        if !running.is_empty() || began.elapsed() > CHILD_WITHIN {
            break running;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    // What hides is the better test.
    let nest = running.iter().position(|one| one.is_nest);
    let at = nest.unwrap_or_else(|| run.dice.between(0, running.len() as u64) as usize);
    let Some(chosen) = running.get(at) else {
        run.figure("no_child_to_kill", run.counted("no_child_to_kill") + 1);
        return;
    };
    let mut all = Vec::from_iter(procfs::known(chosen.pid));
    if chosen.is_nest {
        all.extend(procfs::named(token));
    }
    kill(chosen.pid);
    kills.push(Kill {
        victim: Victim::Child,
        at_ms: now_ms(),
        running: vec![(chosen.job.clone(), chosen.lease)],
    });
    watch.follow(all);
}

fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL); // it may have ended
    }
}

struct OpenAttempt {
    job: String,
    lease: u64,
    pid: i32,
    first: bool,
    is_nest: bool,
}

/// Attempts that have begun and not ended, by their own marks.
fn open_attempts(effects: &Effects) -> Vec<OpenAttempt> {
    let mut open = Vec::new();
    for (job, marks) in effects {
        let starts: Vec<_> = marks.iter().filter(|mark| mark.what == "start").collect();
        let Some(last) = starts.last() else { continue };
        if marks
            .iter()
            .any(|mark| mark.what == "end" && mark.lease == last.lease)
        {
            continue;
        }
        let is_nest = marks
            .iter()
            .any(|mark| mark.what == "beat" && mark.pid != last.pid);
        let (lease, pid, first) = (last.lease, last.pid, starts.len() == 1);
        let job = job.clone();
        open.push(OpenAttempt {
            job,
            lease,
            pid,
            first,
            is_nest,
        });
    }
    open
}

/// From the kill to the next start of each job that ran, by the jobs' own clock.
fn judge_restarts(run: &mut Run, kills: &[Kill], effects: &Effects) {
    for victim in [Victim::Child, Victim::Warden, Victim::Server] {
        let mut times = Vec::new();
        let of_kind = kills.iter().filter(|kill| kill.victim == victim);
        let count = of_kind.clone().count();
        for kill in of_kind {
            for (job, lease) in &kill.running {
                let marks = effects.get(job).into_iter().flatten();
                let mut later = marks.filter(|mark| mark.what == "start" && mark.lease > *lease);
                let next = later.find(|mark| mark.at >= kill.at_ms);
                times.extend(next.map(|mark| Duration::from_millis(mark.at - kill.at_ms)));
            }
        }
        let name = format!("{victim:?}").to_lowercase();
        run.figure(&format!("{name}_kills"), count);
        run.figure(&format!("{name}_restart_ms"), spread(&times));
        if times.is_empty() {
            run.breach(format!("{name}: nothing that was killed began again"));
        } else if p99(&times) > AGAIN_P99 {
            run.breach(format!(
                "{name}: what ran began again after {:?} (p99); the goal is {AGAIN_P99:?}",
                p99(&times)
            ));
        }
    }
}

/// Looks after each kill, beside the next one, for what is left.
#[derive(Debug, Default)]
struct Watch {
    looking: Vec<JoinHandle<Result<Duration, Vec<Known>>>>,
}

impl Watch {
    fn follow(&mut self, all: Vec<Known>) {
        self.looking.push(std::thread::spawn(move || {
            let began = Instant::now();
            loop {
                let left = procfs::still(&all);
                if left.is_empty() {
                    return Ok(began.elapsed());
                }
                if began.elapsed() > GONE_WITHIN {
                    return Err(left);
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }));
    }

    fn tell(self, run: &mut Run) {
        let (mut gone, mut left_over) = (Vec::new(), BTreeSet::new());
        for look in self.looking {
            match look.join() {
                Ok(Ok(after)) => gone.push(after),
                Ok(Err(left)) => {
                    eprintln!("processes {left:?} outlived a kill by {GONE_WITHIN:?}");
                    left_over.extend(left);
                }
                Err(_) => run.breach("the watch for survivors panicked"),
            }
        }
        run.survivors += left_over.len() as u64;
        run.figure("gone_ms", spread(&gone));
    }
}
