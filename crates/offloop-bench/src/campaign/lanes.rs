//! The chaos of the lanes: tasks in Node and Python that loop, eat, fork, exit and print without
//! end, each limited or cancelled, while good jobs run beside them and the API is asked all along.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::bail;
use serde_json::{Value, json};

use super::beside::{Probe, send, wait_end};
use super::journal::{ClientJournal, Outcome, effects, now_ms};
use super::oracle::History;
use super::server::{Server, Setup};
use super::{Run, p99, procfs, spread};

const GOOD_JOBS: u64 = 1_000;
/// In which they are sent, and the bad ones with them.
const ROUND: Duration = Duration::from_secs(10);
const BAD_WITHIN_MS: u64 = 7_000;
const TIMEOUT_MS: u64 = 1_000;
/// A bad job that is there so much after its sending was not ended by its limit.
const BAD_ENDED_WITHIN: Duration = Duration::from_secs(40);
const ANSWERS_P99: Duration = Duration::from_millis(5);
const LANGUAGES: [&str; 2] = ["node", "py"];

/// One kind of harm, and how it must end.
struct Harm {
    what: &'static str,
    how: &'static str,
    /// `bad`: 24 processes and 16 MiB of output; `free`: the defaults.
    task: &'static str,
    args: &'static [(&'static str, u64)],
    limits: &'static [(&'static str, u64)],
    ends: &'static str,
}

const fn harm(what: &'static str, how: &'static str, ends: &'static str) -> Harm {
    Harm {
        what,
        how,
        task: "bad",
        args: &[],
        limits: &[],
        ends,
    }
}

const LONG: (&str, u64) = ("timeout_ms", 10_000);

const HARMS: [Harm; 11] = [
    harm("loops for ever", "spin", "timeout"),
    Harm {
        limits: &[LONG, ("cpu_limit_ms", 400)],
        ..harm("loops for ever", "spin", "cpu_limit")
    },
    Harm {
        limits: &[LONG],
        ..harm("loops for ever", "spin", "cancelled")
    },
    Harm {
        limits: &[LONG, ("memory_limit_bytes", 200 << 20)],
        ..harm("eats memory", "eat", "memory_limit")
    },
    Harm {
        args: &[("count", 40)],
        limits: &[LONG],
        ..harm(
            "forks sleepers, over its limit",
            "sleepers",
            "process_limit",
        )
    },
    Harm {
        args: &[("count", 8)],
        ..harm("forks sleepers", "sleepers", "timeout")
    },
    Harm {
        args: &[("count", 8)],
        limits: &[LONG],
        ..harm("forks sleepers", "sleepers", "cancelled")
    },
    harm("calls exit", "exit", "crashed"),
    Harm {
        args: &[("bytes", 1 << 30)],
        limits: &[LONG],
        ..harm("prints 1 GB", "print", "output_limit")
    },
    Harm {
        task: "free",
        args: &[("bytes", 1 << 40)],
        limits: &[LONG],
        ..harm("prints without end", "print", "cancelled")
    },
    Harm {
        limits: &[LONG, ("stall_timeout_ms", 500)],
        ..harm("makes no progress", "stall", "stalled")
    },
];

/// How one bad job ended.
struct BadEnd {
    language: &'static str,
    harm: usize,
    id: String,
    job: Value,
}

impl BadEnd {
    fn ended(&self) -> &str {
        let end = &self.job["attempts"][0]["end"]["class"];
        let state = self.job["state"].as_str().unwrap_or("gone");
        if state == "failed" {
            end.as_str().unwrap_or("?")
        } else {
            state
        }
    }

    fn wall(&self) -> Duration {
        Duration::from_millis(self.job["attempts"][0]["wall_ms"].as_u64().unwrap_or(0))
    }
}

fn tasks(run: &Run, token: &str) -> String {
    let (folder, journal) = (run.tasks.display(), run.effects().display().to_string());
    let env = format!(
        "env = {{ CAMPAIGN_JOURNAL = \"{journal}\", CAMPAIGN_TOKEN = \"{token}\", \
         PYTHONDONTWRITEBYTECODE = \"1\" }}"
    );
    let mut text = format!(
        "[tasks.mark-py]\nlane = \"process\"\ncommand = [\"python3\", \"{folder}/mark.py\"]\n\
         processes = 2\ntimeout = \"30s\"\n{env}\n"
    );
    for (language, command) in [
        ("node", "\"node\", \"bad.mjs\""),
        ("py", "\"python3\", \"bad.py\""),
    ] {
        let command = command.replace("bad.", &format!("{folder}/bad."));
        let common = format!(
            "lane = \"process\"\ncommand = [{command}]\nprocesses = 2\n\
             timeout = \"{TIMEOUT_MS}ms\"\ngrace = \"300ms\"\n{env}\n"
        );
        let _ = write!(
            text,
            "[tasks.bad-{language}]\n{common}output_limit = \"16MiB\"\nprocess_limit = 24\n\
             [tasks.free-{language}]\n{common}"
        );
    }
    text
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let token = run.token();
    let setup = run.setup(&tasks(run, &token))?;
    let mut server = setup.start()?;
    let fine = warm_up(&setup)?;
    let probe = Probe::start(&setup, &fine[0]);
    let journal = ClientJournal::create(&run.journal())?;
    let (began, mut bad, mut rounds) = (Instant::now(), Vec::new(), 0);
    while rounds < LANGUAGES.len() || began.elapsed() + ROUND < run.span {
        let language = LANGUAGES[rounds % LANGUAGES.len()];
        let ends = round(run, &setup, &journal, language, rounds);
        let ends = ends.inspect_err(|_| eprintln!("{}", procfs::threads(server.pid())));
        bad.extend(ends?);
        rounds += 1;
    }
    let (health, jobs) = probe.finish();
    let history = run.judge(&setup, Duration::from_secs(60))?;
    judge_good(run, &history, rounds as u64 * GOOD_JOBS);
    judge_bad(run, &bad);
    judge_answers(run, "healthz_ms", &health);
    judge_answers(run, "job_ms", &jobs);
    run.figure("rounds", rounds);
    run.figure("bad_jobs", bad.len());
    let ids: BTreeSet<_> = bad.iter().map(|one| one.id.as_str()).collect();
    look_for_strays(run, &server, &ids, &token);
    end(run, &mut server, &token);
    table(&bad);
    Ok(())
}

/// Every child has started and served.
fn warm_up(setup: &Setup) -> anyhow::Result<Vec<String>> {
    let mut client = setup.client();
    let mut ids = Vec::new();
    for task in ["mark", "mark-py", "mark-exec"] {
        ids.push(send(
            &mut client,
            &json!({ "task": task, "payload": { "ms": 0 } }),
        )?);
    }
    for language in LANGUAGES {
        for task in ["bad", "free"] {
            let body =
                json!({ "task": format!("{task}-{language}"), "payload": { "how": "fine" } });
            ids.push(send(&mut client, &body)?);
        }
    }
    for id in &ids {
        let job = wait_end(&mut client, id, Duration::from_secs(20))?;
        if job["state"] != "completed" {
            bail!("a job without harm did not complete: {job}");
        }
    }
    Ok(ids)
}

/// 1,000 good jobs, and every harm twice, at moments that the dice choose.
fn round(
    run: &mut Run,
    setup: &Setup,
    journal: &ClientJournal,
    language: &'static str,
    number: usize,
) -> anyhow::Result<Vec<BadEnd>> {
    let mut threads: Vec<JoinHandle<anyhow::Result<BadEnd>>> = Vec::new();
    for harm in 0..HARMS.len() * 2 {
        let delay = Duration::from_millis(run.dice.between(0, BAD_WITHIN_MS));
        let patience = Duration::from_millis(run.dice.between(50, 500));
        let (setup, marks) = (setup.clone(), run.effects());
        let harm = harm % HARMS.len();
        threads.push(std::thread::spawn(move || {
            std::thread::sleep(delay);
            one_bad(&setup, &marks, language, harm, patience)
        }));
    }
    let (mut client, began) = (setup.client(), Instant::now());
    let mark = if language == "node" {
        "mark"
    } else {
        "mark-py"
    };
    for good in 0..GOOD_JOBS {
        let (task, ms) = match run.dice.between(0, 100) {
            0..50 => (mark, run.dice.between(0, 10)),
            50..55 => ("mark-exec", 0),
            _ => ("offloop.noop", 0),
        };
        let key = format!("good-{number}-{good}");
        let body = json!({ "task": task, "payload": { "ms": ms }, "tags": [key] });
        let due = began + ROUND * good as u32 / GOOD_JOBS as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let (called, id) = (now_ms(), send(&mut client, &body)?);
        journal.write(called, &[(key, Outcome::Acked { id })])?;
    }
    let ends = threads.into_iter().map(|thread| {
        let end = thread.join();
        end.map_err(|_| anyhow::anyhow!("the sender of a bad job panicked"))?
    });
    ends.collect()
}

fn one_bad(
    setup: &Setup,
    marks: &Path,
    language: &'static str,
    number: usize,
    patience: Duration,
) -> anyhow::Result<BadEnd> {
    let (harm, mut client) = (&HARMS[number], setup.client());
    let mut payload = json!({ "how": harm.how });
    for (name, value) in harm.args {
        payload[*name] = (*value).into();
    }
    let task = format!("{}-{language}", harm.task);
    let mut body = json!({ "task": task, "queue": "bad", "payload": payload, "max_attempts": 1 });
    for (name, value) in harm.limits {
        body[*name] = (*value).into();
    }
    let id = send(&mut client, &body)?;
    if harm.ends == "cancelled" {
        let began = Instant::now();
        // By its own mark: a job may be given to the lane and still wait for a child.
        while !effects(marks).contains_key(&id) {
            if began.elapsed() > BAD_ENDED_WITHIN {
                bail!("a job that was to be cancelled never began");
            }
            std::thread::sleep(Duration::from_millis(25));
        }
        std::thread::sleep(patience);
        let answer = client.call("POST", &format!("/v1/jobs/{id}/cancel"), &[], b"");
        if !answer.is_ok_and(|answer| answer.status < 300) {
            bail!("a job could not be cancelled");
        }
    }
    let job = wait_end(&mut client, &id, BAD_ENDED_WITHIN)?;
    Ok(BadEnd {
        language,
        harm: number,
        id,
        job,
    })
}

/// Each completed, in its first attempt, and ran once by its own marks.
fn judge_good(run: &mut Run, history: &History, want: u64) {
    let marks = effects(&run.effects());
    let (mut completed, mut told) = (0, Vec::new());
    for (id, job) in history {
        if !job.key.as_ref().is_some_and(|key| key.starts_with("good-")) {
            continue;
        }
        let count = |what| {
            let its = marks.get(id).into_iter().flatten();
            its.filter(|mark| mark.what == what).count()
        };
        let runs = usize::from(job.task.starts_with("mark"));
        if job.state == "completed"
            && job.attempt == 1
            && (count("start"), count("end")) == (runs, runs)
        {
            completed += 1;
        } else {
            told.push(format!(
                "good job {id}: {job:?}, {} starts, {} ends",
                count("start"),
                count("end")
            ));
        }
    }
    run.figure("good_jobs", completed);
    for line in told.into_iter().take(5) {
        run.breach(line);
    }
    if completed != want {
        run.breach(format!("{completed} of {want} good jobs completed once"));
    }
}

fn judge_bad(run: &mut Run, bad: &[BadEnd]) {
    for one in bad {
        let harm = &HARMS[one.harm];
        if one.ended() != harm.ends {
            let attempt = &one.job["attempts"][0];
            run.breach(format!(
                "{} {}: {} instead of {}: {}",
                one.language,
                harm.what,
                one.ended(),
                harm.ends,
                attempt["end"]
            ));
        }
    }
}

fn judge_answers(run: &mut Run, name: &str, took: &[Duration]) {
    run.figure(name, spread(took));
    if took.is_empty() || p99(took) > ANSWERS_P99 {
        run.breach(format!(
            "{name}: p99 of the API's answers is {:?}",
            p99(took)
        ));
    }
}

/// Of all that bad jobs have started nothing lives, be it marked, named or hidden.
fn look_for_strays(run: &mut Run, server: &Server, bad: &BTreeSet<&str>, token: &str) {
    let marks = effects(&run.effects());
    let of_bad = marks.iter().filter(|(id, _)| bad.contains(id.as_str()));
    let writers: BTreeSet<i32> = of_bad
        .flat_map(|(_, marks)| marks)
        .map(|mark| mark.pid)
        .collect();
    let alive = procfs::executors_of(server.pid());
    let strays = alive.iter().filter(|pid| writers.contains(pid)).count();
    let hidden = procfs::named(token).len();
    run.figure("processes_of_bad_jobs", writers.len());
    if strays + hidden > 0 {
        run.survivors += (strays + hidden) as u64;
        eprintln!("{strays} processes of bad jobs and {hidden} sleepers are still there");
    }
}

fn end(run: &mut Run, server: &mut Server, token: &str) {
    server.terminate();
    if server.wait(Duration::from_secs(60)).is_none() {
        run.breach("the server does not end on SIGTERM");
    }
    let left = procfs::wait_gone(server.pid(), Duration::from_secs(2));
    run.survivors += left.err().map_or(0, |left| left.len()) as u64;
    run.survivors += procfs::named(token).len() as u64;
}

/// What a person reads: every kind of harm, and how it ended.
fn table(bad: &[BadEnd]) {
    println!(
        "\n| task | in | jobs | ended as | wall p50 / max ms | says |\n|---|---|---|---|---|---|"
    );
    let mut rows: BTreeMap<(usize, &str), Vec<&BadEnd>> = BTreeMap::new();
    for one in bad {
        rows.entry((one.harm, one.language)).or_default().push(one);
    }
    for ((harm, language), ends) in rows {
        let walls: Vec<_> = ends.iter().map(|end| end.wall()).collect();
        let walls = spread(&walls);
        let classes: BTreeSet<_> = ends.iter().map(|end| end.ended()).collect();
        let classes: Vec<_> = classes.into_iter().collect();
        let says = ends[0].job["attempts"][0]["end"]["message"]
            .as_str()
            .unwrap_or("-");
        let says: String = says
            .chars()
            .take(70)
            .filter(|c| !"|\n".contains(*c))
            .collect();
        println!(
            "| {} | {language} | {} | {} | {} / {} | {says} |",
            HARMS[harm].what,
            ends.len(),
            classes.join(", "),
            walls["p50"],
            walls["max"]
        );
    }
    println!();
}
