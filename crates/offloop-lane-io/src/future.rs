//! Panics of a future stay here: in its making, its polls, its end and its dropping.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::Poll;

use offloop_lane::{TaskError, TaskOutput, drop_quietly, panicked};

use crate::lane::IoFuture;

/// A task's future that never panics outwards.
pub(crate) struct Contained(Option<IoFuture>);

impl Contained {
    pub(crate) fn make(make: impl FnOnce() -> IoFuture) -> Result<Self, TaskError> {
        catch_unwind(AssertUnwindSafe(make))
            .map(|future| Self(Some(future)))
            .map_err(panicked)
    }

    /// Drives it to its answer. Cancel-safe: the future stays where it is.
    pub(crate) async fn answer(&mut self) -> Result<TaskOutput, TaskError> {
        poll_fn(|cx| {
            let Some(future) = self.0.as_mut() else {
                return Poll::Ready(Err(TaskError::stopped()));
            };
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(future).poll(cx)));
            match polled {
                Ok(poll) => poll,
                Err(value) => Poll::Ready(Err(panicked(value))),
            }
        })
        .await
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        drop_quietly(self.0.take());
    }
}
