//! The loop's delay: a thread posts a no-op to the loop and times it.
//!
//! It sees a block while it lasts, which a timer inside the loop cannot.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::runtime::Handle;

const EVERY: Duration = Duration::from_millis(10);
/// The window is this long at least, and twice this at most.
const HALF_WINDOW: Duration = Duration::from_secs(10);
/// While the loop is blocked: between two looks at whether anybody still reads this.
const LOOK: Duration = Duration::from_secs(1);
const MICROS_MAX: u64 = 600_000_000;

/// What `/pulse` answers, milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Delay {
    /// Of the no-op that is on its way, or else of the last one.
    now_ms: f64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
    /// How many were timed in the window.
    samples: u64,
    window_ms: u64,
}

struct Shared {
    posted: Option<Instant>,
    last: Duration,
    began: Instant,
    windows: [Histogram<u64>; 2],
}

/// Watches a loop until it is dropped.
pub(super) struct Pulse(Arc<Mutex<Shared>>);

impl Pulse {
    pub(super) fn watch(watched: Handle) -> io::Result<Self> {
        let window = || {
            Histogram::new_with_max(MICROS_MAX, 3)
                .map_err(|error| io::Error::other(error.to_string()))
        };
        let shared = Arc::new(Mutex::new(Shared {
            posted: None,
            last: Duration::ZERO,
            began: Instant::now(),
            windows: [window()?, window()?],
        }));
        let weak = Arc::downgrade(&shared);
        thread::Builder::new()
            .name("lab-pulse".into())
            .spawn(move || beat(&watched, &weak))?;
        Ok(Self(shared))
    }

    pub(super) fn read(&self) -> Delay {
        let shared = lock(&self.0);
        let mut both = shared.windows[0].clone();
        let _ = both.add(&shared.windows[1]); // of one range
        let ms = |micros: u64| micros as f64 / 1e3;
        let now = shared.posted.map_or(shared.last, |at| at.elapsed());
        Delay {
            now_ms: now.as_secs_f64() * 1e3,
            p50_ms: ms(both.value_at_quantile(0.5)),
            p99_ms: ms(both.value_at_quantile(0.99)),
            max_ms: ms(both.max()),
            samples: both.len(),
            window_ms: (shared.began.elapsed() + HALF_WINDOW).as_millis() as u64,
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

fn beat(watched: &Handle, shared: &Weak<Mutex<Shared>>) {
    let (answer, answers) = std::sync::mpsc::sync_channel(1);
    loop {
        let Some(strong) = shared.upgrade() else {
            return;
        };
        let posted = Instant::now();
        lock(&strong).posted = Some(posted);
        drop(strong);
        let answer = answer.clone();
        drop(watched.spawn(async move {
            let _ = answer.try_send(Instant::now()); // there is room for one, and one is out
        }));
        let ran = loop {
            if let Ok(ran) = answers.recv_timeout(LOOK) {
                break ran;
            }
            if shared.strong_count() == 0 {
                return; // nobody reads it: the loop has ended, or will
            }
        };
        let Some(strong) = shared.upgrade() else {
            return;
        };
        note(&mut lock(&strong), ran.saturating_duration_since(posted));
        drop(strong);
        thread::sleep(EVERY);
    }
}

fn note(shared: &mut Shared, delay: Duration) {
    shared.posted = None;
    shared.last = delay;
    if shared.began.elapsed() >= HALF_WINDOW {
        shared.windows.swap(0, 1);
        shared.windows[0].reset();
        shared.began = Instant::now();
    }
    let micros = u64::try_from(delay.as_micros()).unwrap_or(MICROS_MAX);
    shared.windows[0].saturating_record(micros);
}
