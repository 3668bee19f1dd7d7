//! Ends jobs that are too late to start.

use offloop_job::{EventKind, JobEvent};
use offloop_store::{EndIdleOutcome, IdleEnd, StoreError};

use crate::ends;
use crate::handle::Shared;

const OVERDUE_BATCH: u16 = 256;

pub(crate) async fn expire(shared: &Shared) -> Result<(), StoreError> {
    loop {
        let now = shared.clock.now();
        let overdue = shared.engine.overdue(now, OVERDUE_BATCH).await?;
        let full = overdue.len() == usize::from(OVERDUE_BATCH);
        if overdue.is_empty() {
            return Ok(());
        }
        let mut idle = Vec::with_capacity(overdue.len());
        for job in &overdue {
            let why = IdleEnd::Expire;
            idle.push(ends::end_idle(shared, job.id, &job.task, &job.payload, why, now).await?);
        }
        let outcomes = shared.engine.end_idle(now, idle).await?;
        let ended = overdue.into_iter().zip(outcomes);
        let events = ended
            .filter(|(_, outcome)| matches!(outcome, EndIdleOutcome::Ended { .. }))
            .map(|(job, _)| JobEvent {
                at: now,
                job: job.id,
                task: job.task,
                queue: job.queue,
                kind: EventKind::Expired,
            });
        shared.hub.publish(events.collect());
        if !full {
            return Ok(());
        }
    }
}
