//! A client that means well, beside those that do not: one small call after the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

use super::http::Client;
use super::server::Setup;

const PAUSE: Duration = Duration::from_millis(5);
/// What a call counts for that was not answered as it should be.
const FAILED: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Honest {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Duration>>,
}

impl Honest {
    /// Enqueues small jobs.
    pub(crate) fn jobs(setup: &Setup) -> Self {
        let job = json!({ "task": "offloop.noop" });
        Self::start(setup, move |client| {
            let answer = client.post("/v1/jobs", &job);
            answer.is_ok_and(|answer| answer.status == 201)
        })
    }

    /// Asks for `path`.
    pub(crate) fn reads(setup: &Setup, path: String) -> Self {
        Self::start(setup, move |client| {
            client.get(&path).is_ok_and(|answer| answer.status == 200)
        })
    }

    fn start(setup: &Setup, mut call: impl FnMut(&mut Client) -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, mut client) = (Arc::clone(&stop), setup.client());
        let thread = std::thread::spawn(move || {
            // It stands for a client elsewhere, which does not wait for a processor of the server's.
            offloop_lane::slice::answer_first();
            let mut times = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                let began = Instant::now();
                let went = call(&mut client);
                times.push(if went { began.elapsed() } else { FAILED });
                std::thread::sleep(PAUSE);
            }
            times
        });
        Self { stop, thread }
    }

    pub(crate) fn finish(self) -> Vec<Duration> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap_or_default()
    }
}
