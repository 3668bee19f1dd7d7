//! How an engine is opened for a case, and how its answers are waited for.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use offloop_store::Engine;

use crate::Store;

/// No answer takes longer on a machine that works.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// What an engine is to be opened with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// For `JobIdSource::new(_, id_seed)`. Another one after each restart, as in life.
    pub id_seed: u64,
    pub queue_jobs_max: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            id_seed: 1,
            queue_jobs_max: 1_000_000,
        }
    }
}

/// One engine under test. Each case makes a harness of its own.
pub trait Harness: fmt::Debug {
    /// An empty engine. May be called several times; each engine stands alone.
    fn open(&self, setup: Setup) -> Box<dyn Engine>;

    /// Ends the process of `engine`, which is the last one opened, and opens what it left. Not
    /// called before it was closed if it is to end in order: just dropping it is the crash.
    ///
    /// `None`, the default, is for an engine that does not survive its process.
    fn reopen(&self, engine: Box<dyn Engine>, setup: Setup) -> Option<Box<dyn Engine>> {
        drop(engine);
        let _ = setup;
        None
    }
}

/// What a case gets.
#[derive(Debug)]
pub struct Kit {
    harness: Box<dyn Harness>,
}

impl Kit {
    pub fn new(harness: impl Harness + 'static) -> Self {
        Self {
            harness: Box::new(harness),
        }
    }

    /// An empty engine.
    pub fn open(&self) -> Store<'_> {
        self.open_with(Setup::default())
    }

    /// An empty engine whose queues hold `queue_jobs_max` jobs.
    pub fn open_small(&self, queue_jobs_max: u64) -> Store<'_> {
        self.open_with(Setup {
            queue_jobs_max,
            ..Setup::default()
        })
    }

    pub fn open_with(&self, setup: Setup) -> Store<'_> {
        Store::new(self, self.harness.open(setup), setup)
    }

    pub(crate) fn harness(&self) -> &dyn Harness {
        &*self.harness
    }
}

/// Waits for an engine's answer, on this thread.
///
/// # Panics
/// If there is none within a minute.
pub fn block_on<T>(answer: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut answer = pin!(answer);
    let started = Instant::now();
    loop {
        if let Poll::Ready(value) = answer.as_mut().poll(&mut context) {
            return value;
        }
        let waited = started.elapsed();
        assert!(waited < ANSWER_WITHIN, "no answer within {ANSWER_WITHIN:?}");
        thread::park_timeout(ANSWER_WITHIN.saturating_sub(waited));
    }
}
