//! What goes on beside the harm: questions to the API at a steady pace, and good jobs whose callers
//! wait for their end. Both are the measure of what the harm costs others.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::http::Client;
use super::server::Setup;

/// Between two questions of the probe.
const ASK_EVERY: Duration = Duration::from_millis(5);
/// What is written down for a question without an answer.
const NO_ANSWER: Duration = Duration::from_secs(60);
/// The one who measures goes first, so that its own wait for a processor is not in the figure.
const NICE: i32 = -10;

/// For the calling thread alone. Without the right to it the figures are a little worse.
pub(crate) fn go_first() {
    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE);
}

/// Sleeps until `at`; answers at once if that is over.
fn sleep_until(at: Instant) {
    if let Some(left) = at.checked_duration_since(Instant::now()) {
        std::thread::sleep(left);
    }
}

/// `GET /healthz` and `GET /v1/jobs/{id}` in turn, 200 a second together.
#[derive(Debug)]
pub(crate) struct Probe {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<(Vec<Duration>, Vec<Duration>)>,
}

impl Probe {
    pub(crate) fn start(setup: &Setup, job: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut client) = (Arc::clone(&stop), setup.client());
        let path = format!("/v1/jobs/{job}");
        let thread = std::thread::spawn(move || {
            go_first();
            let (mut health, mut jobs) = (Vec::new(), Vec::new());
            let mut due = Instant::now();
            while !stopped.load(Ordering::Acquire) {
                health.push(asked(&mut client, "/healthz"));
                due += ASK_EVERY;
                sleep_until(due);
                jobs.push(asked(&mut client, &path));
                due = (due + ASK_EVERY).max(Instant::now());
                sleep_until(due);
            }
            (health, jobs)
        });
        Self { stop, thread }
    }

    /// How long the two kinds of answers took.
    pub(crate) fn finish(self) -> (Vec<Duration>, Vec<Duration>) {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}

fn asked(client: &mut Client, path: &str) -> Duration {
    let began = Instant::now();
    let good = client.get(path).is_ok_and(|answer| answer.status == 200);
    if good { began.elapsed() } else { NO_ANSWER }
}

/// Jobs of these tasks in turn, each with a caller that waits for its end.
#[derive(Debug)]
pub(crate) struct Neighbours {
    stop: Arc<AtomicBool>,
    callers: Vec<JoinHandle<()>>,
    told: Arc<Mutex<Vec<Told>>>,
}

/// One job as its caller saw it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    pub(crate) sent: Instant,
    pub(crate) took: Duration,
    pub(crate) completed: bool,
}

impl Neighbours {
    /// `callers`: each sends a job every `every`, by the clock and not by the answers.
    pub(crate) fn start(
        setup: &Setup,
        callers: u32,
        every: Duration,
        tasks: &'static [(&'static str, u64)],
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let began = Instant::now();
        let callers = (0..callers).map(|number| {
            let mut client = setup.client();
            let (stop, told) = (Arc::clone(&stop), Arc::clone(&told));
            // Spread over the interval, so that they do not come as one.
            let mut due = began + every * number / callers;
            std::thread::spawn(move || {
                go_first();
                for (task, ms) in tasks.iter().cycle() {
                    sleep_until(due);
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    let one = run_one(&mut client, task, *ms);
                    told.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(one);
                    due = (due + every).max(Instant::now());
                }
            })
        });
        let callers = callers.collect();
        Self {
            stop,
            callers,
            told,
        }
    }

    pub(crate) fn finish(self) -> Vec<Told> {
        self.stop.store(true, Ordering::Release);
        for caller in self.callers {
            let _ = caller.join(); // what it told counts
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *told)
    }
}

fn run_one(client: &mut Client, task: &str, ms: u64) -> Told {
    let body = json!({ "task": task, "queue": "good", "payload": { "ms": ms } }).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=10")];
    let sent = Instant::now();
    let answer = client.call("POST", "/v1/jobs", &headers, body.as_bytes());
    let took = sent.elapsed();
    let state = answer.map(|answer| answer.json()["state"].clone());
    Told {
        sent,
        took,
        completed: state.is_ok_and(|state| state == "completed"),
    }
}

/// Sends one job and answers its id.
pub(crate) fn send(client: &mut Client, body: &Value) -> anyhow::Result<String> {
    let answer = client.post("/v1/jobs", body);
    let answer = answer.map_err(|error| anyhow::anyhow!("a job was not taken in: {error:?}"))?;
    let id = answer.json()["id"].as_str().map(ToOwned::to_owned);
    id.ok_or_else(|| anyhow::anyhow!("a job was refused: {}", answer.json()))
}

/// The job in full once it has ended, or as it is after `limit`.
pub(crate) fn wait_end(client: &mut Client, id: &str, limit: Duration) -> anyhow::Result<Value> {
    let began = Instant::now();
    loop {
        let job = super::oracle::ask(client, &format!("/v1/jobs/{id}"))?.json();
        let ended = job["finished_at"].is_string();
        if ended || began.elapsed() > limit {
            return Ok(job);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
