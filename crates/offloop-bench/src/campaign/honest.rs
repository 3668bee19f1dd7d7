//! A client that means well, beside those that do not: one small call after the other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;

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
        let mut client = setup.client();
        Self::start(move || {
            let answer = client.post("/v1/jobs", &job);
            answer.is_ok_and(|answer| answer.status == 201)
        })
    }

    /// Asks for `path`.
    pub(crate) fn reads(setup: &Setup, path: String) -> Self {
        let mut client = setup.client();
        Self::start(move || client.get(&path).is_ok_and(|answer| answer.status == 200))
    }

    /// No client at all: writes a page in `folder` and flushes it, which is what the disk alone takes.
    pub(crate) fn flushes(folder: &Path) -> io::Result<Self> {
        let file = File::create(folder.join("flushes"))?;
        Ok(Self::start(move || {
            file.write_all_at(&[7; 4_096], 0).is_ok() && file.sync_data().is_ok()
        }))
    }

    fn start(mut call: impl FnMut() -> bool + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            // It stands for a client elsewhere, which does not wait for a processor of the server's.
            offloop_lane::slice::answer_first();
            let mut times = Vec::new();
            while !stopped.load(Ordering::Acquire) {
                let began = Instant::now();
                let went = call();
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
