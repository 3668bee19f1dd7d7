//! A worker elsewhere as a process of its own (docs/guides/remote-workers.md): it asks for jobs of
//! one task, works, and writes down what it did and how the server answered.
//!
//! Two journals: marks that the oracle reads (`start` once the lease is confirmed, `end` once the
//! settlement is taken), and every promise and refusal (`held`, `refused`), for whoever asks when
//! a lease was good.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::http::Client;
use super::journal::now_ms;

/// Between two looks at the time.
const STEP: Duration = Duration::from_millis(10);
/// After an answer that did not come.
const PAUSE: Duration = Duration::from_millis(50);
/// Of a claim. Under the client's patience.
const WAIT_MS: u64 = 5_000;

/// How a worker speaks first after its work. All three must meet the fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Asks for more time, then settles.
    Extends,
    /// Asks whether it should stop, then settles.
    Watches,
    /// Settles at once.
    Settles,
}

struct Worker {
    client: Client,
    task: String,
    marks: File,
    answers: File,
}

/// One job in hand.
struct Held<'j> {
    id: &'j str,
    lease: &'j str,
    attempt: u64,
    lease_for: Duration,
}

/// Until it is killed.
pub(crate) fn work(
    server: SocketAddr,
    task: &str,
    marks: &Path,
    answers: &Path,
) -> anyhow::Result<()> {
    let open = |path: &Path| OpenOptions::new().create(true).append(true).open(path);
    let mut worker = Worker {
        client: Client::new(server),
        task: task.to_owned(),
        marks: open(marks)?,
        answers: open(answers)?,
    };
    let ask = json!({
        "worker": format!("pull:{}", std::process::id()), "tasks": [&worker.task], "wait_ms": WAIT_MS,
    });
    loop {
        let (status, claimed) = worker.post("/v1/work/claim", &ask);
        if status != 200 {
            std::thread::sleep(PAUSE);
            continue;
        }
        for job in claimed["jobs"].as_array().into_iter().flatten() {
            worker.run(job)?;
        }
    }
}

impl Worker {
    /// 0: no answer.
    fn post(&mut self, path: &str, body: &Value) -> (u16, Value) {
        match self.client.post(path, body) {
            Ok(answer) => (answer.status, answer.json()),
            Err(_) => (0, Value::Null),
        }
    }

    fn run(&mut self, job: &Value) -> anyhow::Result<()> {
        let held = Held {
            id: job["id"].as_str().context("a job without an id")?,
            lease: job["lease"].as_str().context("a job without a lease")?,
            attempt: job["attempt"].as_u64().unwrap_or(0),
            lease_for: Duration::from_millis(job["lease_ms"].as_u64().unwrap_or(1_000)),
        };
        if !self.extend(&held)? {
            return Ok(());
        }
        line(&mut self.marks, "start", &held, now_ms())?;
        let span = Duration::from_millis(job["payload"]["ms"].as_u64().unwrap_or(0));
        let (began, mut told) = (Instant::now(), Instant::now());
        while began.elapsed() < span {
            std::thread::sleep(STEP);
            if told.elapsed() > held.lease_for / 4 {
                told = Instant::now();
                // It may have stood still just before this: how it goes on is the matter of its manner.
                if began.elapsed() < span && !self.extend(&held)? {
                    return Ok(());
                }
            }
        }
        let goes_on = match manner(&job["payload"]["manner"]) {
            Manner::Settles => true,
            Manner::Extends => self.extend(&held)?,
            Manner::Watches => self.watch(&held)?,
        };
        if goes_on {
            self.settle(&held)?;
        }
        Ok(())
    }

    /// Whether the lease is good.
    fn extend(&mut self, held: &Held<'_>) -> anyhow::Result<bool> {
        let sent = now_ms();
        let path = format!("/v1/work/{}/extend", held.id);
        let (status, _) = self.post(&path, &json!({ "lease": held.lease }));
        self.answered(held, "extend", status, sent)?;
        Ok(status == 200)
    }

    fn watch(&mut self, held: &Held<'_>) -> anyhow::Result<bool> {
        let sent = now_ms();
        let body = json!({ "leases": [{ "id": held.id, "lease": held.lease }], "wait_ms": 1 });
        let (status, told) = self.post("/v1/work/watch", &body);
        let gone = told["gone"].as_array().is_some_and(|gone| !gone.is_empty());
        self.answered(held, "watch", if gone { 409 } else { status }, sent)?;
        Ok(status == 200 && !gone)
    }

    fn settle(&mut self, held: &Held<'_>) -> anyhow::Result<()> {
        let lease: u64 = held.lease.parse().context("a lease that is no number")?;
        let path = format!("/v1/work/{}/settle", held.id);
        let body = json!({ "lease": held.lease, "result": { "lease": lease } });
        loop {
            let (status, _) = self.post(&path, &body);
            match status {
                // Not known; the same again is answered as the first time.
                0 => std::thread::sleep(PAUSE),
                200 => return line(&mut self.marks, "end", held, now_ms()),
                status => return self.answered(held, "settle", status, now_ms()),
            }
        }
    }

    fn answered(
        &mut self,
        held: &Held<'_>,
        what: &str,
        status: u16,
        at: u64,
    ) -> anyhow::Result<()> {
        let what = match status {
            200 => "held".to_owned(),
            409 => format!("refused-{what}"),
            other => format!("odd-{what}-{other}"),
        };
        line(&mut self.answers, &what, held, at)
    }
}

fn manner(said: &Value) -> Manner {
    match said.as_str() {
        Some("settles") => Manner::Settles,
        Some("watches") => Manner::Watches,
        _ => Manner::Extends,
    }
}

/// One write, so that lines of many workers do not mix.
fn line(to: &mut File, what: &str, held: &Held<'_>, at: u64) -> anyhow::Result<()> {
    let (id, attempt, lease) = (held.id, held.attempt, held.lease);
    let me = std::process::id();
    let text = format!("{what} {id} {attempt} {lease} {at} {me}\n");
    to.write_all(text.as_bytes())?;
    Ok(())
}
