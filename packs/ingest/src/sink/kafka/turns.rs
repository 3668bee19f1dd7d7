//! The order in which the batches of one load are sent, and sent again.
//!
//! Several are under way at once, and a wire may break under all of them. So a batch is sent on a
//! wire when each one before it is done or was sent on the same wire; and it is done when each one
//! before it is. What a partition gets is the input's order, whatever is sent how often.
//!
//! Must never: let a batch pass one that failed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::super::SinkError;

/// Of one run of a load.
#[derive(Debug, Default)]
pub(super) struct Turns {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// All before it are done.
    first: u64,
    /// On which wire those from `first` on were sent last.
    sent: BTreeMap<u64, u64>,
    /// The first that failed, by its number, and why.
    failed: Option<(u64, SinkError)>,
}

impl State {
    fn fail(&mut self, order: u64, error: impl FnOnce() -> SinkError) {
        if self.failed.as_ref().is_none_or(|failed| order < failed.0) {
            self.failed = Some((order, error()));
        }
    }
}

/// What a batch may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Go {
    Now,
    /// The one before it went to a newer wire: take that.
    Elsewhere,
    /// One before it failed.
    Never,
}

/// A batch's place. Dropped without [`Turn::done`], those behind it fail.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    turns: &'a Turns,
    order: u64,
    is_done: bool,
}

impl Turns {
    pub(super) fn enter(&self, order: u64) -> Turn<'_> {
        Turn {
            turns: self,
            order,
            is_done: false,
        }
    }

    /// Why it may never go.
    pub(super) fn failure(&self) -> SinkError {
        let state = self.lock();
        (state.failed.as_ref()).map_or(SinkError::Ended, |failed| echo(&failed.1))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// Waits until all before it are done or were sent on `wire`.
    pub(super) async fn to_send(&self, wire: u64) -> Go {
        self.wait(|state| {
            for before in state.first..self.order {
                match state.sent.get(&before) {
                    Some(sent) if *sent == wire => {}
                    Some(sent) if *sent > wire => return Some(Go::Elsewhere),
                    _ => return None,
                }
            }
            Some(Go::Now)
        })
        .await
    }

    /// Waits until all before it are done.
    pub(super) async fn to_end(&self) -> Go {
        self.wait(|state| (state.first >= self.order).then_some(Go::Now))
            .await
    }

    pub(super) fn sent(&self, wire: u64) {
        self.turns.lock().sent.insert(self.order, wire);
        self.turns.changed.notify_waiters();
    }

    /// Call when all before it are done.
    pub(super) fn done(mut self) {
        self.is_done = true;
        let mut state = self.turns.lock();
        state.first = self.order + 1;
        state.sent.remove(&self.order);
        drop(state);
        self.turns.changed.notify_waiters();
    }

    /// Those behind it fail for the same reason.
    pub(super) fn fail(self, error: &SinkError) {
        self.turns.lock().fail(self.order, || echo(error));
    }

    async fn wait(&self, look: impl Fn(&State) -> Option<Go>) -> Go {
        loop {
            let changed = self.turns.changed.notified();
            tokio::pin!(changed);
            // In line before the look, so that no change is missed.
            changed.as_mut().enable();
            {
                let state = self.turns.lock();
                let failed = state.failed.as_ref();
                if failed.is_some_and(|failed| failed.0 < self.order) {
                    return Go::Never;
                }
                if let Some(go) = look(&state) {
                    return go;
                }
            }
            changed.await;
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            let order = self.order;
            self.turns.lock().fail(order, || SinkError::Ended);
            self.turns.changed.notify_waiters();
        }
    }
}

/// The same once more, for those that fail with it.
fn echo(error: &SinkError) -> SinkError {
    let again = |cause: &io::Error| io::Error::new(cause.kind(), cause.to_string());
    match error {
        SinkError::Place { problem } => SinkError::Place {
            problem: problem.clone(),
        },
        SinkError::Unreachable { place, cause } => SinkError::Unreachable {
            place: place.clone(),
            cause: cause.to_string().into(),
        },
        SinkError::Refused { place, message } => SinkError::Refused {
            place: place.clone(),
            message: message.clone(),
        },
        SinkError::BadRow { reject } => SinkError::BadRow {
            reject: reject.clone(),
        },
        SinkError::TakenOver => SinkError::TakenOver,
        SinkError::RejectFile { cause } => SinkError::RejectFile {
            cause: again(cause),
        },
        SinkError::File { place, cause } => SinkError::File {
            place: place.clone(),
            cause: again(cause),
        },
        SinkError::Ended => SinkError::Ended,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::{Go, SinkError, Turns};

    #[tokio::test]
    async fn no_batch_passes_one_that_has_to_be_sent_again() {
        let turns = Turns::default();
        let (first, second) = (turns.enter(0), turns.enter(1));
        assert_eq!(first.to_send(1).await, Go::Now);
        first.sent(1);
        assert_eq!(second.to_send(1).await, Go::Now);
        second.sent(1);
        // The wire breaks; the second finds out first.
        let early = second.to_send(2);
        tokio::pin!(early);
        assert!(futures_now(early.as_mut()).await.is_none());
        first.sent(2);
        assert_eq!(early.await, Go::Now);
        // A wire that is older than the one before it took is no place to go.
        first.sent(3);
        assert_eq!(second.to_send(2).await, Go::Elsewhere);
        let end = second.to_end();
        tokio::pin!(end);
        assert!(futures_now(end.as_mut()).await.is_none());
        first.done();
        assert_eq!(end.await, Go::Now);
    }

    #[tokio::test]
    async fn no_batch_passes_one_that_failed() {
        let turns = Turns::default();
        let (first, second) = (turns.enter(0), turns.enter(1));
        let go = second.to_send(1);
        tokio::pin!(go);
        assert!(futures_now(go.as_mut()).await.is_none());
        drop(first);
        assert_eq!(go.await, Go::Never);
        // Those before a failed one are not its matter.
        let turns = Turns::default();
        let (first, second) = (turns.enter(0), turns.enter(1));
        second.fail(&SinkError::TakenOver);
        assert_eq!(first.to_end().await, Go::Now);
        first.done();
        assert!(matches!(turns.failure(), SinkError::TakenOver));
    }

    async fn futures_now<T>(wait: std::pin::Pin<&mut impl Future<Output = T>>) -> Option<T> {
        let mut wait = wait;
        std::future::poll_fn(|context| match wait.as_mut().poll(context) {
            std::task::Poll::Ready(value) => std::task::Poll::Ready(Some(value)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
    }
}
