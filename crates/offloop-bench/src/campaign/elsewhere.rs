//! R7 for workers elsewhere: processes that hold a lease stand still (SIGSTOP) until it is over, and
//! go on (SIGCONT) while another worker has their job, or after it has ended. Whatever they say
//! then is refused, nobody's end counts twice, and no lease is cut short.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::beside::{send, wait_end};
use super::http::Client;
use super::journal::{ClientJournal, Effects, Outcome, effects, now_ms};
use super::server::Setup;
use super::{Run, spread};

/// Workers that are stopped.
const CYCLES: u32 = 100;
/// Stopped at a time; as many others take over.
const TOGETHER: usize = 8;
const TAKERS: usize = 8;
const LEASE_MS: u64 = 1_000;
/// Those that come back late do so after so many leases.
const LATE_LEASES: u64 = 3;
const JOB_MS: u64 = 300;
/// Short jobs of others beside each round.
const BESIDE: usize = 20;
const PATIENCE: Duration = Duration::from_secs(20);
const MANNERS: [&str; 3] = ["extends", "settles", "watches"];

/// Workers that do not outlive the campaign.
pub(super) struct Pullers(Vec<std::process::Child>);

impl Drop for Pullers {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill(); // it may have ended
            let _ = child.wait();
        }
    }
}

struct Cast {
    client: Client,
    journal: ClientJournal,
    sent: u64,
    answers: PathBuf,
}

/// A job whose worker stands still.
struct Stopped {
    id: String,
    pid: i32,
    lease: u64,
    at: Instant,
}

fn tasks() -> String {
    format!(
        "[tasks.mark-elsewhere]\nlane = \"remote\"\nlease = \"{LEASE_MS}ms\"\ngrace = \"1s\"\n\
         [packs.photos]\nenabled = false\n"
    )
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let cycles = run.cycles.unwrap_or(CYCLES) as usize;
    let setup = run.setup(&tasks())?;
    let _server = setup.start()?;
    let mut cast = Cast {
        client: setup.client(),
        journal: ClientJournal::create(&run.journal())?,
        sent: 0,
        answers: run.folder.join("answers.journal"),
    };
    let _pullers = start_pullers(run, &setup, &cast.answers, TOGETHER + TAKERS)?;
    let (mut stopped, mut again) = (0, Vec::new());
    while stopped < cycles && run.breaches.is_empty() {
        stopped += round(run, &mut cast, &mut again)?;
    }
    run.figure("stopped", stopped);
    run.figure("begun_again_after_stop_ms", spread(&again));
    run.judge(&setup, PATIENCE)?;
    witnesses(run, &cast);
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "workers, not tasks")]
pub(super) fn start_pullers(
    run: &Run,
    setup: &Setup,
    answers: &Path,
    count: usize,
) -> anyhow::Result<Pullers> {
    let me = std::env::current_exe()?;
    let mut pullers = Pullers(Vec::new());
    for _ in 0..count {
        let mut command = std::process::Command::new(&me);
        command
            .args(["child", "pull"])
            .arg(setup.address.to_string())
            .arg("mark-elsewhere")
            .args([run.effects(), answers.to_owned()])
            .stdin(std::process::Stdio::null());
        pullers.0.push(command.spawn().context("a worker")?);
    }
    Ok(pullers)
}

impl Cast {
    fn send(&mut self, ms: u64, manner: &str) -> anyhow::Result<String> {
        let key = format!("elsewhere-{}", self.sent);
        self.sent += 1;
        let body = json!({
            "task": "mark-elsewhere", "payload": { "ms": ms, "manner": manner }, "tags": [key],
            "max_attempts": 5, "backoff": { "kind": "fixed", "base_ms": 1, "jitter": 0 },
        });
        let (called, id) = (now_ms(), send(&mut self.client, &body)?);
        self.journal
            .write(called, &[(key, Outcome::Acked { id: id.clone() })])?;
        Ok(id)
    }
}

fn signal(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal); // it may have ended
    }
}

fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if began.elapsed() > PATIENCE {
            bail!("{what} does not come");
        }
        std::thread::sleep(Duration::from_millis(3));
    }
}

/// How often a job was begun, and by whom last.
fn starts(marks: &Effects, id: &str) -> Vec<(i32, u64)> {
    let of = marks.get(id).map_or(&[][..], Vec::as_slice);
    let starts = of.iter().filter(|mark| mark.what == "start");
    starts.map(|mark| (mark.pid, mark.lease)).collect()
}

/// Some workers stop in the middle of a job each; half of them come back while it runs again, half
/// of them three leases later. How many were stopped.
fn round(run: &mut Run, cast: &mut Cast, again: &mut Vec<Duration>) -> anyhow::Result<usize> {
    let path = run.effects();
    let mut held: Vec<Stopped> = Vec::new();
    for nth in 0..TOGETHER {
        let id = cast.send(JOB_MS, MANNERS[nth % MANNERS.len()])?;
        let (pid, lease) = until("a job's begin", || {
            starts(&effects(&path), &id).first().copied()
        })?;
        signal(pid, Signal::STOP);
        let at = Instant::now();
        held.push(Stopped { id, pid, lease, at });
    }
    let others: anyhow::Result<Vec<_>> = (0..BESIDE).map(|_| cast.send(5, "extends")).collect();
    let others = others?;
    let (early, late) = held.split_at(TOGETHER / 2);
    for one in early {
        until("the second begin", || {
            (starts(&effects(&path), &one.id).len() > 1).then_some(())
        })?;
        again.push(one.at.elapsed());
        signal(one.pid, Signal::CONT);
    }
    for one in late {
        let lived = Duration::from_millis(LEASE_MS * LATE_LEASES);
        std::thread::sleep(lived.saturating_sub(one.at.elapsed()));
        signal(one.pid, Signal::CONT);
    }
    let answers = cast.answers.clone();
    for one in &held {
        let told = until("the answer to one who came back", || told(&answers, one));
        if told.is_err() {
            run.breach(format!(
                "the old worker of job {} was not refused by its lease {}",
                one.id, one.lease
            ));
        }
    }
    for id in held.iter().map(|one| &one.id).chain(&others) {
        judge_end(run, cast, id, held.iter().any(|one| one.id == *id))?;
    }
    Ok(held.len())
}

/// Its worker was refused.
fn told(answers: &Path, one: &Stopped) -> Option<()> {
    let all = effects(answers);
    let mut lines = all.get(&one.id)?.iter();
    let refused = |what: &str| what.starts_with("refused-");
    lines
        .any(|line| line.lease == one.lease && refused(&line.what))
        .then_some(())
}

fn judge_end(run: &mut Run, cast: &mut Cast, id: &str, stopped: bool) -> anyhow::Result<()> {
    let end = wait_end(&mut cast.client, id, PATIENCE)?;
    let attempts = end["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let classes: Vec<_> = attempts
        .iter()
        .map(|one| one["end"]["class"].as_str().unwrap_or("?"))
        .collect();
    let (told, wanted) = (
        classes.join(", "),
        if stopped {
            "lost, completed"
        } else {
            "completed"
        },
    );
    if end["state"] != "completed" || told != wanted {
        run.breach(format!(
            "job {id} is {} after {told}, not after {wanted}",
            end["state"]
        ));
    }
    Ok(())
}

/// What workers wrote down, beside what the server says.
fn witnesses(run: &mut Run, cast: &Cast) {
    let (marks, answers) = (effects(&run.effects()), effects(&cast.answers));
    let mut refused: BTreeMap<String, u64> = BTreeMap::new();
    for line in answers.values().flatten() {
        if line.what != "held" {
            *refused.entry(line.what.clone()).or_default() += 1;
        }
    }
    for (id, marks) in &marks {
        let ends = marks.iter().filter(|mark| mark.what == "end").count();
        if ends > 1 {
            run.counters.dup_accept += 1;
            run.breach(format!("job {id}: {ends} ends of workers were taken"));
        }
        // A promise made at least until then: the lease from the moment in which it was asked for.
        for (mark, next) in marks.iter().zip(marks.iter().skip(1)) {
            let promised = answers.get(id).into_iter().flatten();
            let promised = promised.filter(|line| line.what == "held" && line.lease == mark.lease);
            let until = promised.map(|line| line.at + LEASE_MS).max();
            if next.what == "start" && until.is_some_and(|until| next.at < until) {
                run.counters.live_rerun += 1;
                run.breach(format!(
                    "job {id} began again within the lease {}",
                    mark.lease
                ));
            }
        }
    }
    for name in refused.keys().filter(|name| name.starts_with("odd")) {
        run.breaches.push(format!("a worker was answered {name}"));
    }
    run.figure("answers", json!(refused));
}
