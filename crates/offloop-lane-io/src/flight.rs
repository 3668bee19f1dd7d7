//! One attempt on the lane, from its first poll to its end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{Failure, FailureClass, JobId, Lease, Outcome, StopReason, Usage};
use offloop_lane::{
    Ended, Gone, LaneEvent, LaneSink, Overrun, Proof, Stopped, TaskContext, TaskError, TaskOutput,
    outcome_of,
};
use tokio::time::{sleep_until, timeout};

use crate::future::Contained;
use crate::lane::{EXECUTOR, Entry, Shared};

/// Sees to it that an attempt ends exactly once: by its answer, or, when the runtime is thrown away
/// with the future in it, by being dropped.
pub(crate) struct Flight {
    shared: Arc<Shared>,
    ctx: TaskContext,
    entry: Arc<Entry>,
    submitted: Instant,
    started: Option<Instant>,
    outcome: Option<Outcome>,
}

impl Flight {
    pub(crate) fn new(
        shared: Arc<Shared>,
        ctx: TaskContext,
        entry: Arc<Entry>,
        submitted: Instant,
    ) -> Self {
        Self {
            shared,
            ctx,
            entry,
            submitted,
            started: None,
            outcome: None,
        }
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let work = self.ctx.work();
        let outcome = self.outcome.take().unwrap_or_else(|| Outcome::Stopped {
            reason: StopReason::Shutdown,
            failure: Failure::new(FailureClass::Cancelled, "dropped as the lane ended"),
        });
        let started = self.started.unwrap_or(self.submitted);
        let wall = started.elapsed();
        let mut result_bytes = 0;
        if let Outcome::Completed { result, .. } = &outcome {
            self.shared.ran(&work.task, wall);
            result_bytes = result.as_ref().map_or(0, |result| result.len() as u64);
        }
        let late = work.deadline.is_some_and(|at| Instant::now() > at);
        let log = self.ctx.take_log();
        let ended = Ended {
            job: work.job,
            lease: work.lease,
            outcome,
            executor: EXECUTOR.into(),
            queued: started.saturating_duration_since(self.submitted),
            usage: Usage {
                wall,
                bytes_in: work.payload.len() as u64,
                bytes_out: result_bytes + self.entry.note_bytes() + log.written_bytes(),
                ..Usage::default()
            },
            log,
            gone: Gone::proven(Proof::FutureDropped),
        };
        self.shared.free_and_answer(ended, late);
    }
}

/// Drives one attempt. `flight` is declared first, so it ends after the task's future is dropped.
pub(crate) async fn fly(mut flight: Flight) {
    let entry = flight.entry.clone();
    let started = Instant::now();
    flight.started = Some(started);
    let ctx = flight.ctx.clone();
    let (job, lease) = (ctx.work().job, ctx.work().lease);
    flight.shared.send(LaneEvent::Started {
        job,
        lease,
        executor: EXECUTOR.into(),
    });
    let handler = flight.shared.tasks.get(&ctx.work().task);
    let handler = handler.map(|task| task.handler.clone());
    let made = match handler {
        Some(handler) => Contained::make(|| handler(ctx.clone())),
        None => Err(TaskError::error(format!(
            "lane `{}` does not run task `{}`",
            flight.shared.name,
            ctx.work().task
        ))),
    };
    let mut overrun = None;
    let answer = match made {
        Ok(future) => drive(future, &ctx, &entry, started, &mut overrun).await,
        Err(error) => Err(error),
    };
    let most = ctx.work().limits.result_bytes;
    let outcome = outcome_of(answer, most, ctx.token().reason(), overrun.as_ref());
    flight.outcome = Some(outcome);
}

/// Polls the task until it answers; after a stop only for the grace. Drops it in any case.
async fn drive(
    mut future: Contained,
    ctx: &TaskContext,
    entry: &Entry,
    started: Instant,
    overrun: &mut Option<Overrun>,
) -> Result<TaskOutput, TaskError> {
    let limit = tokio::select! {
        biased;
        answer = future.answer() => return answer,
        () = entry.called.notified() => None,
        limit = first_limit(ctx, entry, started) => Some(limit),
    };
    if let Some(limit) = limit {
        ctx.token().stop(Stopped::Limit(limit.class));
        *overrun = Some(limit);
        entry.asked_now();
    }
    match timeout(entry.grace(), future.answer()).await {
        Ok(answer) => answer,
        Err(_) => Err(TaskError::error("dropped after its grace")),
    }
}

/// Waits for the first limit that is passed.
async fn first_limit(ctx: &TaskContext, entry: &Entry, started: Instant) -> Overrun {
    let limits = &ctx.work().limits;
    let far = started + Duration::from_secs(365 * 24 * 3600);
    let by_timeout = started.checked_add(limits.timeout).unwrap_or(far);
    loop {
        let since = entry.last_progress().max(started);
        let by_stall = limits.stall.and_then(|stall| since.checked_add(stall));
        let due = by_stall.map_or(by_timeout, |at| at.min(by_timeout));
        sleep_until(due.into()).await;
        let now = Instant::now();
        if now >= by_timeout {
            return Overrun::timeout(limits.timeout, now - started);
        }
        let silent = now.saturating_duration_since(entry.last_progress().max(started));
        if let Some(stall) = limits.stall
            && silent >= stall
        {
            return Overrun::stalled(stall, silent);
        }
    }
}

/// The sink that a task's context sees: it passes news on and notes the signs of life.
#[derive(Debug)]
pub(crate) struct NotingSink {
    pub(crate) inner: Arc<dyn LaneSink>,
    pub(crate) entry: Arc<Entry>,
    pub(crate) lease: Lease,
}

impl LaneSink for NotingSink {
    fn send(&self, event: LaneEvent) {
        if let LaneEvent::Progress {
            lease, note: data, ..
        }
        | LaneEvent::Checkpoint { lease, data, .. } = &event
            && *lease == self.lease
        {
            self.entry.progress_now(data.len());
        }
        self.inner.send(event);
    }

    fn listens(&self, job: JobId) -> bool {
        self.inner.listens(job)
    }
}
