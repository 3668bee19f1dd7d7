//! The no-op that is posted to a loop, and what became of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, Id};

use crate::slot;

const OUT: u64 = 0;
const GONE: u64 = u64::MAX;

/// Where one no-op leaves word: nanoseconds from its post to its run, plus one.
#[derive(Debug, Default)]
struct Word(AtomicU64);

/// A no-op that was posted.
#[derive(Debug)]
pub(crate) struct Beat {
    pub(crate) posted: Instant,
    word: Arc<Word>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// Not yet.
    Out,
    /// After so long.
    Back(Duration),
    /// Its runtime ended.
    Gone,
}

/// Lies in the runtime's queue. Dropped there unrun, it says that the runtime is gone.
struct Noop {
    posted: Instant,
    home: Id,
    word: Arc<Word>,
}

impl Noop {
    fn run(&self) {
        let took = self.posted.elapsed().as_nanos() as u64;
        self.word
            .0
            .store(took.saturating_add(1).min(GONE - 1), Ordering::Release);
        slot::at_home(self.home);
    }
}

impl Drop for Noop {
    fn drop(&mut self) {
        let word = &self.word.0;
        let _ = word.compare_exchange(OUT, GONE, Ordering::AcqRel, Ordering::Acquire); // it ran
    }
}

impl Beat {
    /// Never waits. A runtime that has ended drops the no-op at once.
    pub(crate) fn post(handle: &Handle) -> Self {
        let word = Arc::new(Word::default());
        let posted = Instant::now();
        let noop = Noop {
            posted,
            home: handle.id(),
            word: Arc::clone(&word),
        };
        handle.spawn(async move { noop.run() });
        Self { posted, word }
    }

    pub(crate) fn came(&self) -> Came {
        match self.word.0.load(Ordering::Acquire) {
            OUT => Came::Out,
            GONE => Came::Gone,
            nanos => Came::Back(Duration::from_nanos(nanos - 1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_out_until_the_loop_runs_and_gone_with_its_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let first = Beat::post(runtime.handle());
        assert_eq!(first.came(), Came::Out, "nobody drives the loop yet");
        runtime.block_on(tokio::task::yield_now());
        assert!(matches!(first.came(), Came::Back(_)));
        let second = Beat::post(runtime.handle());
        let handle = runtime.handle().clone();
        drop(runtime);
        assert_eq!(second.came(), Came::Gone);
        assert_eq!(Beat::post(&handle).came(), Came::Gone);
    }
}
