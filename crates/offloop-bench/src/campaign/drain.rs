//! SIGTERM under load: nothing lost, nothing spent, in time; and what a second one does.

use std::io::Read as _;
use std::net::{SocketAddr, TcpStream};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::load::{Load, Mix};
use super::oracle::ask;
use super::server::{Server, Setup, told};
use super::{Run, procfs, spread};

const ROUNDS: u32 = 3;
const DRAIN: Duration = Duration::from_secs(2);
const STOP: Duration = Duration::from_secs(2);
/// For the last settlements and the closing of the store.
const SLACK: Duration = Duration::from_secs(1);
/// From the second signal to the end.
const FORCED_WITHIN: Duration = Duration::from_secs(2);
/// Longer than any deadline here: must be handed back.
const LONG_MS: u64 = 600_000;

pub(crate) fn run(run: &mut Run) -> anyhow::Result<()> {
    let rounds = run.cycles.unwrap_or(ROUNDS);
    let more = "[shutdown]\ndrain = \"2s\"\nstop = \"2s\"\n[packs.photos]\nenabled = false";
    let setup = run.setup(more)?;
    let mut server = setup.start()?;
    let load = Load::start(setup.address, Mix::ALL, &run.journal(), &mut run.dice)?;
    let long = start_long(&setup)?;
    let (mut drained, mut forced) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for twice in [false, true] {
            std::thread::sleep(Duration::from_millis(run.dice.between(500, 1_200)));
            let events = listen(setup.address)?;
            std::thread::sleep(Duration::from_millis(100));
            server.terminate();
            if twice {
                std::thread::sleep(Duration::from_millis(300));
                server.terminate();
            }
            let limit = if twice {
                FORCED_WITHIN
            } else {
                DRAIN + STOP + SLACK
            };
            let took = end(run, &mut server, limit, twice, round)?;
            if twice { &mut forced } else { &mut drained }.push(took);
            heard(run, events, twice);
            if let Err(left) = procfs::wait_gone(server.pid(), Duration::from_secs(2)) {
                run.survivors += left.len() as u64;
            }
            server = setup.start()?;
            run.recovery.push(server.ready_after);
        }
    }
    load.finish()?;
    run.figure("rounds", rounds);
    run.figure("drained_ms", spread(&drained));
    run.figure("forced_ms", spread(&forced));
    end_long(run, &setup, &long)?;
    let history = run.judge(&setup, Duration::from_secs(60))?;
    let retried = history.values().filter(|job| job.attempt > 1);
    run.figure("jobs_with_a_spent_attempt", retried.count());
    Ok(())
}

/// How long it took to end, as it should have ended.
fn end(
    run: &mut Run,
    server: &mut Server,
    limit: Duration,
    twice: bool,
    round: u32,
) -> anyhow::Result<Duration> {
    let Some((status, took)) = server.wait(limit + Duration::from_secs(10)) else {
        bail!("round {round}: still running {limit:?} and 10 s after its signal");
    };
    if took > limit {
        run.breach(format!(
            "round {round}: ended after {took:?}; the limit is {limit:?}"
        ));
    }
    if status.code() != Some(i32::from(twice)) {
        run.breach(format!(
            "round {round}: {} after {} signals",
            told(status),
            1 + i32::from(twice)
        ));
    }
    Ok(took)
}

/// A reader of events: everything that came until the connection ended.
fn listen(to: SocketAddr) -> anyhow::Result<JoinHandle<String>> {
    let mut stream = TcpStream::connect(to)?;
    std::io::Write::write_all(
        &mut stream,
        format!("GET /v1/events HTTP/1.1\r\nhost: {to}\r\n\r\n").as_bytes(),
    )?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text); // cut or not, what came counts
        String::from_utf8_lossy(&text).into_owned()
    }))
}

fn heard(run: &mut Run, events: JoinHandle<String>, twice: bool) {
    let text = events.join().unwrap_or_default();
    if !text.contains("event: hello") {
        run.breach("the reader of events heard nothing");
    }
    // Told at the first signal; the second may cut the connection.
    if !text.contains("event: shutdown") {
        run.breach(format!(
            "the reader of events was not told of the shutdown (twice: {twice})"
        ));
    }
}

/// One job on a future, one on a thread, one in a child: each far longer than the drain.
fn start_long(setup: &Setup) -> anyhow::Result<Vec<String>> {
    let jobs = [
        json!({ "task": "offloop.sleep", "payload": { "ms": LONG_MS } }),
        json!({ "task": "offloop.spin", "payload": { "cpu_ms": LONG_MS } }),
        json!({ "task": "mark", "payload": { "ms": LONG_MS }, "timeout_ms": LONG_MS * 2 }),
    ];
    let mut ids = Vec::new();
    let mut client = setup.client();
    for job in jobs {
        let answer = client.post("/v1/jobs", &job);
        let id = answer
            .ok()
            .and_then(|answer| Some(answer.json()["id"].as_str()?.to_owned()));
        ids.push(id.ok_or_else(|| anyhow::anyhow!("a long job was not taken in"))?);
    }
    Ok(ids)
}

/// Handed back each time, they have spent nothing.
fn end_long(run: &mut Run, setup: &Setup, long: &[String]) -> anyhow::Result<()> {
    let mut client = setup.client();
    for id in long {
        let job = ask(&mut client, &format!("/v1/jobs/{id}"))?.json();
        let (state, attempt) = (
            job["state"].as_str().unwrap_or("gone"),
            job["attempt"].as_u64(),
        );
        if !matches!(state, "ready" | "running") || attempt > Some(1) {
            let task = job["task"].as_str().unwrap_or_default();
            run.breach(format!(
                "a long {task} job is {state}, attempt {attempt:?}, after hand-backs"
            ));
        }
        let cancelled = client.call("POST", &format!("/v1/jobs/{id}/cancel"), &[], b"");
        if !cancelled.is_ok_and(|answer| answer.status < 300) {
            run.breach("a long job could not be cancelled");
        }
    }
    Ok(())
}
