//! The way of a checkpoint: from a task to the store, and the answer back.
//!
//! The lane only carries it. Whoever keeps it answers once, when it is on disk; a reply that is
//! dropped answers that nobody keeps it, so that no task waits for ever.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use offloop_job::limits::CHECKPOINT_BYTES_MAX;

use crate::TaskError;

/// How long [`Saving::wait`] holds its thread: a store that is being reopened answers late, one that
/// does not come back must not keep a processor.
pub const CHECKPOINT_WAIT_MAX: Duration = Duration::from_secs(30);

/// Why a checkpoint is not on disk.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    #[error(
        "the checkpoint has {len} bytes; the limit is {CHECKPOINT_BYTES_MAX}: keep a place in the work, not the work"
    )]
    TooLarge { len: usize },
    #[error("the checkpoint is not JSON: {why}")]
    NotJson { why: String },
    #[error(
        "the checkpoint was not kept: this attempt is over, or no longer the job's current one"
    )]
    Stale,
    #[error("the checkpoint was not kept: nothing keeps one here (a call has none)")]
    Nobody,
    #[error("the checkpoint was not kept: {0}")]
    Store(String),
    #[error("the checkpoint was not on disk within {CHECKPOINT_WAIT_MAX:?}")]
    Late,
}

impl From<CheckpointError> for TaskError {
    fn from(error: CheckpointError) -> Self {
        Self::error(error.to_string())
    }
}

type Answer = Box<dyn FnOnce(Result<(), CheckpointError>) + Send>;

/// Where the answer to one checkpoint goes.
pub struct CheckpointReply(Option<Answer>);

impl CheckpointReply {
    /// `answer` is called once, on the keeper's thread: it must return at once.
    pub fn new(answer: impl FnOnce(Result<(), CheckpointError>) + Send + 'static) -> Self {
        Self(Some(Box::new(answer)))
    }

    pub fn answer(mut self, kept: Result<(), CheckpointError>) {
        if let Some(answer) = self.0.take() {
            answer(kept);
        }
    }
}

impl Drop for CheckpointReply {
    fn drop(&mut self) {
        if let Some(answer) = self.0.take() {
            answer(Err(CheckpointError::Nobody));
        }
    }
}

impl fmt::Debug for CheckpointReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckpointReply")
    }
}

#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    bell: Condvar,
}

#[derive(Debug, Default)]
struct State {
    answer: Option<Result<(), CheckpointError>>,
    waker: Option<Waker>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, answer: Result<(), CheckpointError>) {
        let mut state = self.lock();
        state.answer.get_or_insert(answer);
        let waker = state.waker.take();
        drop(state);
        self.bell.notify_all();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// A checkpoint on its way to the disk. `.await` it on the `io` lane, [`Saving::wait`] for it on the
/// `cpu` lane; dropped, it is written all the same, and nobody knows when.
#[derive(Debug)]
#[must_use = "it is on disk only once this has answered"]
pub struct Saving(Arc<Slot>);

impl Saving {
    /// With where its answer goes.
    pub(crate) fn new() -> (Self, CheckpointReply) {
        let slot = Arc::<Slot>::default();
        let told = Arc::clone(&slot);
        (Self(slot), CheckpointReply::new(move |kept| told.put(kept)))
    }

    pub(crate) fn refused(error: CheckpointError) -> Self {
        let (saving, reply) = Self::new();
        reply.answer(Err(error));
        saving
    }

    /// Holds the thread until it is on disk, at most [`CHECKPOINT_WAIT_MAX`].
    pub fn wait(self) -> Result<(), TaskError> {
        let until = Instant::now() + CHECKPOINT_WAIT_MAX;
        let mut state = self.0.lock();
        loop {
            if let Some(answer) = state.answer.take() {
                return answer.map_err(TaskError::from);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(CheckpointError::Late.into());
            }
            let waited = self.0.bell.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Future for Saving {
    type Output = Result<(), TaskError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.0.lock();
        if let Some(answer) = state.answer.take() {
            return Poll::Ready(answer.map_err(TaskError::from));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_task_never_waits_for_a_reply_that_was_dropped() {
        let (saving, reply) = Saving::new();
        drop(reply);
        let error = saving.wait().unwrap_err();
        assert!(error.message.contains("a call has none"), "{error}");
    }

    #[test]
    fn an_answer_from_another_thread_ends_the_wait() {
        let (saving, reply) = Saving::new();
        let thread = std::thread::spawn(move || saving.wait());
        reply.answer(Ok(()));
        assert_eq!(thread.join().unwrap(), Ok(()));
    }
}
