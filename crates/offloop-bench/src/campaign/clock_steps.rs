//! R8: the wall clock of the machine steps under the program (libfaketime, its file changed while
//! the server runs), forward and back, by a second to ten years. Every due time has one row and
//! every fired row one job, and nothing that is timed by spans notices: no attempt ends early, no
//! lease is lost.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::{Value, json};

use super::beside::{send, wait_end};
use super::elsewhere::{Pullers, start_pullers};
use super::http::Client;
use super::journal::{ClientJournal, Outcome, now_ms};
use super::oracle::ask;
use super::{Run, spread};

const YEAR_S: i64 = 365 * 86_400;
/// Name, and where the clock stands then, in seconds beside the real one.
const STEPS: [(&str, i64); 9] = [
    ("+1 s", 1),
    ("-1 s", 0),
    ("+1 h", 3_600),
    ("-1 h", 0),
    ("+1 d", 86_400),
    ("-1 d", 0),
    ("-10 y", -10 * YEAR_S),
    ("+10 y", 0),
    ("+1 d 10 s", 86_410),
];
/// Rounds of all steps; each begins a day and some seconds further on.
const CYCLES: u32 = 2;
/// How long the clock stays as it is.
const STAY: Duration = Duration::from_secs(5);
/// Jobs that run over each step are that long.
const JOB_MS: u64 = 2_500;
/// Before a step, so that they have begun.
const WARM: Duration = Duration::from_millis(700);
/// After a step forward: two looks at the clock, and the second in which something is due.
const NOTICED_WITHIN: Duration = Duration::from_secs(3);
const WORKERS: usize = 4;
const PATIENCE: Duration = Duration::from_secs(30);

/// Name, its rule, and the span between its due times.
const SCHEDULES: [(&str, &str, u64); 5] = [
    ("tick", r#""every_ms": 1000"#, 1_000),
    (
        "catch",
        r#""every_ms": 1000, "missed": "catch_up", "catch_up_max": 5"#,
        1_000,
    ),
    ("skip", r#""every_ms": 2000, "missed": "skip""#, 2_000),
    (
        "cron",
        r#""cron": "* * * * * *", "timezone": "Europe/Berlin""#,
        1_000,
    ),
    (
        "alone",
        r#""cron": "*/2 * * * * *", "overlap": "skip""#,
        2_000,
    ),
];

/// One row of a ledger.
#[derive(Clone, Debug)]
struct Kept {
    due: u64,
    /// Due times that it stands for; `None`: too many to count.
    count: Option<u64>,
    until: Option<u64>,
    job: Option<String>,
}

struct Cast {
    client: Client,
    journal: ClientJournal,
    sent: u64,
    file: PathBuf,
    /// Jobs that run over steps.
    long: Vec<String>,
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let Some(library) = library() else {
        run.skip("r8: libfaketime is not installed (package faketime)");
        return Ok(());
    };
    // Jobs of ten years ago are looked at in the end.
    let tasks = "[tasks.mark-elsewhere]\nlane = \"remote\"\nlease = \"1s\"\n\
                 [retention]\ncompleted = \"20000d\"\nothers = \"20000d\"\n\
                 [packs.photos]\nenabled = false\n";
    let setup = run.setup(tasks)?;
    let file = run.folder.join("clock");
    set_clock(&file, 0)?;
    let spared = u8::from(!run.broken); // the broken run steps the clock of spans as well
    let before = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_NO_CACHE=1".to_owned(),
        format!("FAKETIME_DONT_FAKE_MONOTONIC={spared}"),
    ];
    let _server = setup.start_under(&before)?;
    let answers = run.folder.join("answers.journal");
    let _workers: Pullers = start_pullers(run, &setup, &answers, WORKERS)?;
    let mut cast = Cast {
        client: setup.client(),
        journal: ClientJournal::create(&run.journal())?,
        sent: 0,
        file,
        long: Vec::new(),
    };
    for (name, rule, _) in SCHEDULES {
        put(&mut cast.client, name, rule)?;
    }
    std::thread::sleep(STAY);
    let mut noticed = Vec::new();
    for cycle in 0..run.cycles.unwrap_or(CYCLES) {
        let base = i64::from(cycle) * (STEPS[STEPS.len() - 1].1 + 60);
        for (name, at) in STEPS {
            let stepped = step(run, &mut cast, name, base + at, &mut noticed);
            if let Err(error) = stepped {
                run.breach(format!("{name}: {error:#}"));
                return Ok(()); // it does not answer any more
            }
        }
    }
    run.figure("steps", cast.long.len() / 3);
    run.figure("fires_after_step_forward_ms", spread(&noticed));
    judge_long(run, &mut cast)?;
    for (name, _, period) in SCHEDULES {
        judge_ledger(run, &mut cast.client, name, period)?;
    }
    run.judge(&setup, PATIENCE)?;
    Ok(())
}

/// Of Debian and its kin.
fn library() -> Option<PathBuf> {
    let all = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let of = |folder: &Path| folder.join("faketime/libfaketimeMT.so.1");
    all.map(|entry| of(&entry.path()))
        .find(|file| file.exists())
}

/// Seconds beside the real clock. The server sees it with its next look.
fn set_clock(file: &Path, seconds: i64) -> anyhow::Result<()> {
    let draft = file.with_extension("draft");
    std::fs::write(&draft, format!("{seconds:+}\n"))?;
    std::fs::rename(&draft, file).context("the clock cannot be set")
}

fn put(client: &mut Client, name: &str, rule: &str) -> anyhow::Result<()> {
    let body = format!(r#"{{"task": "offloop.noop", "tags": ["{name}"], {rule}}}"#);
    let json = [("content-type", "application/json")];
    let path = format!("/v1/schedules/{name}");
    let answer = client.call("PUT", &path, &json, body.as_bytes());
    match answer {
        Ok(answer) if matches!(answer.status, 200 | 201) => Ok(()),
        other => bail!("schedule {name} was not taken: {other:?}"),
    }
}

/// The clock is set while a job runs on each kind of lane that is timed.
fn step(
    run: &mut Run,
    cast: &mut Cast,
    name: &str,
    to: i64,
    noticed: &mut Vec<Duration>,
) -> anyhow::Result<()> {
    for task in ["mark", "mark-elsewhere", "offloop.sleep"] {
        let key = format!("steps-{}", cast.sent);
        cast.sent += 1;
        let body = json!({
            "task": task, "payload": { "ms": JOB_MS }, "tags": [key], "timeout_ms": 20_000,
            "max_attempts": 3, "backoff": { "kind": "fixed", "base_ms": 1, "jitter": 0 },
        });
        let (called, id) = (now_ms(), send(&mut cast.client, &body)?);
        let acked = Outcome::Acked { id: id.clone() };
        cast.journal.write(called, &[(key, acked)])?;
        cast.long.push(id);
    }
    std::thread::sleep(WARM);
    let before = newest(&mut cast.client)?;
    set_clock(&cast.file, to)?;
    let set = Instant::now();
    // Only what is later than any time before is due.
    let ahead = now_ms().saturating_add_signed(to * 1_000) > before + 1_000;
    while ahead && newest(&mut cast.client)? <= before {
        if set.elapsed() > NOTICED_WITHIN {
            run.breach(format!(
                "{name}: nothing fires {NOTICED_WITHIN:?} after the step"
            ));
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    if ahead {
        noticed.push(set.elapsed());
    }
    let resting = newest(&mut cast.client)?;
    std::thread::sleep(STAY.saturating_sub(set.elapsed()));
    let back = now_ms().saturating_add_signed(to * 1_000);
    if back + 1_000 < resting {
        still(run, cast, name, resting)?;
    }
    Ok(())
}

/// The times come again: nothing is fired, and the schedule says why it is silent.
fn still(run: &mut Run, cast: &mut Cast, name: &str, before: u64) -> anyhow::Result<()> {
    if newest(&mut cast.client)? != before {
        run.breach(format!("{name}: a due time was kept again"));
    }
    let shown = ask(&mut cast.client, "/v1/schedules/tick")?.json();
    if !shown["silent"].is_string() {
        run.breach(format!(
            "{name}: a schedule without times does not say so: {shown}"
        ));
    }
    Ok(())
}

/// Due time of the newest row.
fn newest(client: &mut Client) -> anyhow::Result<u64> {
    let page = ask(client, "/v1/schedules/tick/ledger?limit=1")?.json();
    match page["ledger"][0]["until"].as_str() {
        Some(until) => time(until),
        None => time(page["ledger"][0]["due_at"].as_str().unwrap_or_default()),
    }
}

fn time(text: &str) -> anyhow::Result<u64> {
    let at = offloop_wire::parse_time(text);
    let at = at.map_err(|error| anyhow::anyhow!("{text:?} is no time: {error}"))?;
    Ok(at.as_millis())
}

/// What ran over a step has ended well, on its first attempt.
fn judge_long(run: &mut Run, cast: &mut Cast) -> anyhow::Result<()> {
    for id in std::mem::take(&mut cast.long) {
        let job = wait_end(&mut cast.client, &id, PATIENCE)?;
        let attempts = job["attempts"].as_array().map_or(&[][..], Vec::as_slice);
        if job["state"] != "completed" || attempts.len() != 1 {
            let ends: Vec<_> = attempts.iter().map(|one| one["end"].to_string()).collect();
            run.breach(format!(
                "{} did not bear a step: {}",
                job["task"],
                ends.join(", ")
            ));
        }
    }
    Ok(())
}

fn judge_ledger(run: &mut Run, client: &mut Client, name: &str, period: u64) -> anyhow::Result<()> {
    let (mut rows, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/schedules/{name}/ledger?limit=500{cursor}");
        let page = ask(client, &path)?.json();
        for row in page["ledger"].as_array().into_iter().flatten() {
            rows.push(kept(row)?);
        }
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    rows.reverse();
    if let Some(wrong) = broken_chain(&rows, period) {
        run.breach(format!("schedule {name}: {wrong}"));
    }
    let made = jobs_of(client, name)?;
    let fired: Vec<_> = rows.iter().filter_map(|row| row.job.clone()).collect();
    let once: BTreeSet<_> = fired.iter().cloned().collect();
    if once.len() != fired.len() || once != made {
        let (rows, jobs) = (fired.len(), made.len());
        run.breach(format!("schedule {name}: {rows} fired rows, {jobs} jobs"));
    }
    let dues: u64 = rows.iter().map(|row| row.count.unwrap_or(0)).sum();
    run.figure(
        &format!("schedule_{name}"),
        json!({ "due": dues, "rows": rows.len(), "fired": fired.len() }),
    );
    Ok(())
}

fn kept(row: &Value) -> anyhow::Result<Kept> {
    let until = row["until"].as_str().map(time).transpose()?;
    Ok(Kept {
        due: time(row["due_at"].as_str().unwrap_or_default())?,
        count: if until.is_some() {
            row["count"].as_u64()
        } else {
            Some(1)
        },
        until,
        job: row["job_id"].as_str().map(ToOwned::to_owned),
    })
}

/// Each due time is one span after the one before it: none is missing and none is there twice.
fn broken_chain(rows: &[Kept], period: u64) -> Option<String> {
    let mut due = rows.first()?.due;
    for row in rows {
        if row.due != due {
            return Some(format!("{} comes where {due} is due", row.due));
        }
        let last = row.until.unwrap_or(row.due);
        if row
            .count
            .is_some_and(|count| last - row.due != (count - 1) * period)
        {
            return Some(format!("a stretch does not add up: {row:?}"));
        }
        due = last + period;
    }
    None
}

fn jobs_of(client: &mut Client, tag: &str) -> anyhow::Result<BTreeSet<String>> {
    let (mut found, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = ask(client, &format!("/v1/jobs?tag={tag}&limit=500{cursor}"))?.json();
        let rows = page["jobs"].as_array().into_iter().flatten();
        found.extend(rows.filter_map(|row| Some(row["id"].as_str()?.to_owned())));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return Ok(found),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(due: u64, until: Option<u64>, count: Option<u64>) -> Kept {
        Kept {
            due,
            count,
            until,
            job: None,
        }
    }

    #[test]
    fn a_due_time_that_is_missing_or_there_twice_breaks_the_chain() {
        let one = |due| row(due, None, Some(1));
        #[rustfmt::skip]
        let table = [
            (vec![one(10), one(20), one(30)], true),
            (vec![one(10), row(20, Some(40), Some(3)), one(50)], true),
            (vec![one(10), row(20, Some(40), None), one(50)], true),
            (vec![one(10), one(30)], false),
            (vec![one(10), one(10), one(20)], false),
            (vec![one(10), row(20, Some(40), Some(2)), one(50)], false),
            (vec![row(10, Some(40), Some(4)), one(40), one(50)], false),
        ];
        for (rows, whole) in table {
            assert_eq!(broken_chain(&rows, 10).is_none(), whole, "{rows:?}");
        }
    }
}
