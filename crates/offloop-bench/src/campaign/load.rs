//! Producers: they enqueue, write down what they were told, and send again what broke off.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::dice::Dice;
use super::http::{Answer, CallError, Client};
use super::journal::{ClientJournal, Outcome, now_ms};

/// Broken calls are sent again for this long after the end of the load.
const RESEND_WITHIN: Duration = Duration::from_secs(20);
/// Lines of one bulk request.
const BULK_LINES: u64 = 20;

/// What producers ask for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    pub(crate) producers: u32,
    /// Of 100 jobs, how many go to Node and to commands; the rest are no-ops.
    pub(crate) node_percent: u64,
    pub(crate) exec_percent: u64,
    /// Longest run of a Node job.
    pub(crate) node_ms: u64,
    /// Pause between two requests of one producer, at most.
    pub(crate) think_ms: u64,
}

impl Mix {
    pub(crate) const ALL: Self = Self {
        producers: 4,
        node_percent: 12,
        exec_percent: 6,
        node_ms: 20,
        think_ms: 40,
    };
}

/// One request as its sender saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    /// 0 when it broke off.
    pub(crate) status: u16,
    pub(crate) is_problem: bool,
}

#[derive(Debug)]
struct Shared {
    to: SocketAddr,
    mix: Mix,
    journal: ClientJournal,
    stop: AtomicBool,
    next_key: AtomicU64,
    seed: u64,
    samples: Mutex<Vec<Sample>>,
}

/// Producers at work.
#[derive(Debug)]
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<anyhow::Result<u64>>>,
}

impl Load {
    pub(crate) fn start(
        to: SocketAddr,
        mix: Mix,
        journal: &Path,
        dice: &mut Dice,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            to,
            mix,
            journal: ClientJournal::create(journal)?,
            stop: AtomicBool::new(false),
            next_key: AtomicU64::new(0),
            seed: dice.roll(),
            samples: Mutex::default(),
        });
        let threads = (0..mix.producers).map(|_| {
            let (shared, dice) = (Arc::clone(&shared), dice.split());
            std::thread::spawn(move || Producer::new(&shared, dice).run())
        });
        let threads = threads.collect();
        Ok(Self { shared, threads })
    }

    pub(crate) fn samples(&self) -> Vec<Sample> {
        self.shared
            .samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// No more new jobs; waits until what broke off is settled. A server must be up. Returns how
    /// many keys stayed unknown.
    pub(crate) fn finish(self) -> anyhow::Result<u64> {
        self.shared.stop.store(true, Ordering::Release);
        let mut unknown = 0;
        for thread in self.threads {
            unknown += thread
                .join()
                .map_err(|_| anyhow::anyhow!("a producer panicked"))??;
        }
        Ok(unknown)
    }
}

struct Producer<'a> {
    shared: &'a Shared,
    client: Client,
    dice: Dice,
    /// Calls that broke off: key and body.
    unknown: Vec<(String, Value)>,
}

impl<'a> Producer<'a> {
    fn new(shared: &'a Shared, dice: Dice) -> Self {
        let client = Client::new(shared.to);
        let unknown = Vec::new();
        Self {
            shared,
            client,
            dice,
            unknown,
        }
    }

    fn run(mut self) -> anyhow::Result<u64> {
        let mut stopped: Option<Instant> = None;
        loop {
            if stopped.is_none() && self.shared.stop.load(Ordering::Acquire) {
                stopped = Some(Instant::now());
            }
            let over = stopped.is_some_and(|at| at.elapsed() > RESEND_WITHIN);
            if over || (stopped.is_some() && self.unknown.is_empty()) {
                return Ok(self.unknown.len() as u64);
            }
            let reached = if let Some((key, body)) = self.unknown.pop() {
                self.one(key, body)?
            } else if self.dice.between(0, 3) == 0 {
                let jobs = self.dice.between(2, BULK_LINES);
                let jobs = (0..jobs).map(|_| self.draw()).collect();
                self.bulk(jobs)?
            } else {
                let (key, body) = self.draw();
                self.one(key, body)?
            };
            // A server that is down is asked again soon: what it does first is what is tested.
            let pause = if reached {
                self.dice.between(0, self.shared.mix.think_ms)
            } else {
                3
            };
            std::thread::sleep(Duration::from_millis(pause));
        }
    }

    fn draw(&mut self) -> (String, Value) {
        let Mix {
            node_percent,
            exec_percent,
            node_ms,
            ..
        } = self.shared.mix;
        let number = self.shared.next_key.fetch_add(1, Ordering::Relaxed);
        let key = format!("{:x}-{number}", self.shared.seed);
        let roll = self.dice.between(0, 100);
        let (task, payload) = if roll < node_percent {
            ("mark", json!({ "ms": self.dice.between(0, node_ms) }))
        } else if roll < node_percent + exec_percent {
            ("mark-exec", json!({}))
        } else {
            ("offloop.noop", json!({}))
        };
        let backoff = json!({ "kind": "fixed", "base_ms": 10 });
        let body = json!({
            "task": task, "payload": payload, "tags": [key], "max_attempts": 500, "backoff": backoff,
        });
        (key, body)
    }

    fn note(&self, sent: Instant, answer: Option<&Answer>) {
        let sample = Sample {
            sent,
            took: sent.elapsed(),
            status: answer.map_or(0, |answer| answer.status),
            is_problem: answer.is_some_and(Answer::is_problem),
        };
        let mut samples = self
            .shared
            .samples
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        samples.push(sample);
    }

    /// One job by its header's key. `false`: no server was reached.
    fn one(&mut self, key: String, body: Value) -> anyhow::Result<bool> {
        let headers = [
            ("content-type", "application/json"),
            ("idempotency-key", key.as_str()),
        ];
        let (called, sent) = (now_ms(), Instant::now());
        let answer = self
            .client
            .call("POST", "/v1/jobs", &headers, body.to_string().as_bytes());
        let outcome = match &answer {
            Err(CallError::NotSent) => {
                self.unknown.push((key, body));
                return Ok(false);
            }
            Err(CallError::Cut { .. }) => Outcome::Unknown,
            Ok(answer) => outcome(answer.status, &answer.json()),
        };
        self.note(sent, answer.as_ref().ok());
        self.shared
            .journal
            .write(called, &[(key.clone(), outcome.clone())])?;
        if outcome == Outcome::Unknown {
            self.unknown.push((key, body));
        }
        Ok(true)
    }

    fn bulk(&mut self, jobs: Vec<(String, Value)>) -> anyhow::Result<bool> {
        let mut text = String::new();
        for (key, body) in &jobs {
            let mut line = body.clone();
            line["idempotency_key"] = key.as_str().into();
            let _ = writeln!(text, "{line}");
        }
        let headers = [("content-type", "application/x-ndjson")];
        let (called, sent) = (now_ms(), Instant::now());
        let answer = self
            .client
            .call("POST", "/v1/jobs", &headers, text.as_bytes());
        let mut outcomes = vec![Outcome::Unknown; jobs.len()];
        match &answer {
            Err(CallError::NotSent) => {
                self.unknown.extend(jobs);
                return Ok(false);
            }
            // Lines that came before it broke off count.
            Err(CallError::Cut { read }) => read_lines(&read.body, &mut outcomes),
            Ok(answer) if answer.status == 200 => read_lines(&answer.body, &mut outcomes),
            Ok(answer) => outcomes.fill(outcome(answer.status, &answer.json())),
        }
        self.note(sent, answer.as_ref().ok());
        let keys = jobs.iter().map(|(key, _)| key.clone());
        let outcomes: Vec<_> = keys.zip(outcomes).collect();
        self.shared.journal.write(called, &outcomes)?;
        let lines = jobs.into_iter().zip(outcomes);
        let broken = lines.filter(|(_, (_, outcome))| *outcome == Outcome::Unknown);
        self.unknown.extend(broken.map(|(job, _)| job));
        Ok(true)
    }
}

fn read_lines(text: &[u8], outcomes: &mut [Outcome]) {
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        if !line.ends_with(b"\n") {
            return; // half a line
        }
        let Ok(line) = serde_json::from_slice::<Value>(line) else {
            continue;
        };
        let number = line["line"].as_u64().unwrap_or(0) as usize;
        let status = line["status"].as_u64().unwrap_or(0) as u16;
        let told = if line["error"].is_null() {
            &line
        } else {
            &line["error"]
        };
        if let Some(place) = number.checked_sub(1).and_then(|at| outcomes.get_mut(at)) {
            *place = outcome(status, told);
        }
    }
}

/// What an answer promises. Where the server itself cannot know, nothing.
fn outcome(status: u16, body: &Value) -> Outcome {
    let id = body["id"].as_str().or(body["existing"].as_str());
    let kind = body["type"].as_str().unwrap_or_default();
    let unsure = [
        "store-failed",
        "timed-out",
        "internal",
        "too-slow",
        "body-cut",
    ];
    match (status, id) {
        (200 | 201, Some(id)) => Outcome::Acked { id: id.to_owned() },
        _ if status < 400 || unsure.iter().any(|name| kind.ends_with(name)) => Outcome::Unknown,
        _ => Outcome::Refused { status },
    }
}
