//! L7: a job that prints 1 GiB, and a hundred that print 1 MB/s each. What is kept of it is
//! bounded, what is not is counted to the byte, and neighbours hardly notice.

use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::beside::{Neighbours, send, wait_end};
use super::server::Setup;
use super::{Run, poison};

const ROUNDS: u32 = 4;
const GIB: u64 = 1 << 30;
const TALKERS: u64 = 100;
const TALK_PER_S: u64 = 1_000_000;
const TALK_MS: u64 = 5_000;
const KEPT_MAX: u64 = 1 << 20;
const SLOWER_MAX: f64 = 1.2;
const ENDED_WITHIN: Duration = Duration::from_secs(60);
const GOOD: &[(&str, u64)] = &[("offloop.noop", 0), ("mark", 2)];

fn tasks() -> anyhow::Result<String> {
    let me = std::env::current_exe()?;
    Ok(format!(
        "[tasks.talk]\nlane = \"exec\"\nprocesses = {TALKERS}\nargs_from_payload = true\n\
         command = [{:?}, \"child\", \"talk\"]\ntimeout = \"60s\"\n[packs.photos]\nenabled = false\n",
        me.display().to_string()
    ))
}

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let rounds = run.cycles.unwrap_or(ROUNDS);
    let setup = run.setup(&tasks()?)?;
    let server = setup.start()?;
    let neighbours = Neighbours::start(&setup, 4, Duration::from_millis(40), GOOD);
    std::thread::sleep(Duration::from_secs(2)); // warm
    let rss = server.memory("VmRSS");
    let (mut quiet, mut loud) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        // The same processes in both windows: what differs is what they say.
        quiet.push(window(run, &setup, 0)?);
        loud.push(window(run, &setup, TALK_PER_S)?);
    }
    let told = neighbours.finish();
    poison::compare(run, &told, &quiet, &loud, SLOWER_MAX);
    run.figure("rounds", rounds);
    let grown = server.memory("VmHWM").saturating_sub(rss) >> 20;
    run.figure("server_grown_mib", grown);
    gigabyte(run, &setup)
}

/// A hundred talkers at this rate; the part of it in which all of them run.
fn window(run: &mut Run, setup: &Setup, rate: u64) -> anyhow::Result<(Instant, Duration)> {
    let mut client = setup.client();
    let bytes = rate * TALK_MS / 1_000;
    let args = json!([bytes.to_string(), TALK_MS.to_string()]);
    let body =
        json!({ "task": "talk", "queue": "talk", "max_attempts": 1, "payload": { "args": args } });
    let ids: Result<Vec<_>, _> = (0..TALKERS).map(|_| send(&mut client, &body)).collect();
    std::thread::sleep(Duration::from_millis(500)); // all have started
    let window = (Instant::now(), Duration::from_millis(TALK_MS - 1_000));
    for id in ids? {
        let job = wait_end(&mut client, &id, ENDED_WITHIN)?;
        judge_log(run, &job, bytes, "a talker");
    }
    Ok(window)
}

/// Alone, and at the speed of the pipe: how long, and what is kept.
fn gigabyte(run: &mut Run, setup: &Setup) -> anyhow::Result<()> {
    let mut client = setup.client();
    let body =
        json!({ "task": "talk", "max_attempts": 1, "payload": { "args": [GIB.to_string(), "0"] } });
    let began = Instant::now();
    let id = send(&mut client, &body)?;
    let job = wait_end(&mut client, &id, ENDED_WITHIN)?;
    run.figure("gib_ms", began.elapsed().as_millis() as u64);
    judge_log(run, &job, GIB, "the job that prints 1 GiB");
    Ok(())
}

fn judge_log(run: &mut Run, job: &Value, printed: u64, who: &str) {
    let attempt = &job["attempts"][0];
    let number = |field: &str| attempt[field].as_u64().unwrap_or(u64::MAX);
    let (kept, dropped) = (number("log_bytes"), number("log_dropped_bytes"));
    run.figure("kept_bytes_max", kept.max(run.counted("kept_bytes_max")));
    if job["state"] != "completed" {
        run.breach(format!("{who} is {}: {}", job["state"], attempt["end"]));
    }
    if kept > KEPT_MAX {
        run.breach(format!(
            "{who}: {kept} bytes of its output are kept; {KEPT_MAX} is the bound"
        ));
    }
    if kept.saturating_add(dropped) != printed {
        run.breach(format!(
            "{who} printed {printed} bytes; {kept} kept and {dropped} dropped are not that"
        ));
    }
}

/// The talker itself: so many bytes over so many milliseconds, both outputs in turn; 0 ms: at once.
pub(crate) fn talk(bytes: u64, over_ms: u64) -> anyhow::Result<()> {
    let line = b"the quick brown fox jumps over the lazy dog, and says so again and again\n";
    let chunk: Vec<u8> = line.iter().copied().cycle().take(64 << 10).collect();
    let (began, over) = (Instant::now(), Duration::from_millis(over_ms));
    let (mut said, mut turn) = (0_u64, 0_u64);
    while said < bytes || began.elapsed() < over {
        let share = if over_ms == 0 {
            1.0
        } else {
            (began.elapsed().as_secs_f64() / over.as_secs_f64()).min(1.0)
        };
        let mut due = (bytes as f64 * share) as u64 - said;
        while due > 0 {
            let part = &chunk[..due.min(chunk.len() as u64) as usize];
            if turn.is_multiple_of(2) {
                std::io::stdout().write_all(part)?;
            } else {
                std::io::stderr().write_all(part)?;
            }
            turn += 1;
            said += part.len() as u64;
            due -= part.len() as u64;
        }
        if over_ms > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    std::io::stdout().flush()?;
    Ok(())
}
