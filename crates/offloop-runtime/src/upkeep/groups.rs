//! What ends mean for other jobs: dependents are let go, members of decided groups are ended, and
//! stopped where they run. The engine keeps the list; a killed server finds it again.

use offloop_job::{EventKind, FailureClass, JobEvent, JobState, StopReason, Timestamp};
use offloop_store::{Doomed, DoomedWhy, EndIdleOutcome, Heard, IdleEnd, News, StoreError};
use std::sync::atomic::Ordering;

use crate::ends;
use crate::handle::Shared;
use crate::keeper::Input;

/// Dependents that one commit lets go.
const ADVANCE_BATCH: u16 = 512;
/// Jobs that one commit ends.
const DOOMED_BATCH: u16 = 256;
/// Pieces in one go; the rest follows at once, after whatever else waits for the keeper.
const PIECES_MAX: usize = 32;

/// How far one go came.
#[derive(Debug, Default)]
pub(crate) struct Others {
    /// When the next group runs out of time.
    pub(crate) next_deadline: Option<Timestamp>,
    /// Nothing moved although there was something to do: to be tried again, not at once.
    pub(crate) stuck: bool,
}

impl Others {
    pub(crate) const STUCK: Self = Self {
        next_deadline: None,
        stuck: true,
    };
}

/// Works off what is there.
pub(crate) async fn settle_others(shared: &Shared) -> Result<Others, StoreError> {
    let mut others = Others::default();
    for _ in 0..PIECES_MAX {
        let now = shared.clock.now();
        let advanced = shared.engine.advance(now, ADVANCE_BATCH).await?;
        others.next_deadline = advanced.next_deadline;
        tell(shared, now, advanced.news);
        let heard = hear(shared, now).await?;
        let doomed = shared.engine.doomed(now, DOOMED_BATCH).await?;
        let idle = doomed.is_empty() && !heard;
        others.stuck = !end(shared, now, doomed).await?;
        if others.stuck || (idle && !advanced.more && !shared.engine.stirred()) {
            break;
        }
    }
    Ok(others)
}

fn tell(shared: &Shared, now: Timestamp, news: Vec<News>) {
    let mut events = Vec::new();
    let mut due = None::<Timestamp>;
    for news in news {
        match news {
            News::Created {
                id,
                task,
                queue,
                state,
                due_at,
            } => {
                if state == JobState::Scheduled {
                    due = Some(due.map_or(due_at, |due| due.min(due_at)));
                }
                events.push(JobEvent {
                    at: now,
                    job: id,
                    task,
                    queue,
                    kind: EventKind::Enqueued,
                });
            }
            News::Unblocked { due_at, .. } if due_at > now => {
                due = Some(due.map_or(due_at, |due| due.min(due_at)));
            }
            News::Unblocked { .. } => {}
            News::FollowRefused { of, task, refusal } => {
                shared.follows_refused.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(?of, %task, %refusal, "a job that should follow an end was not taken in");
            }
            News::Decided { group, state } => {
                tracing::debug!(%group, %state, "a group is decided");
            }
        }
    }
    shared.hub.publish(events);
    if let Some(due) = due {
        shared.due_at(due);
    }
}

/// Asks what follows from ends of which nobody was asked; whether there were any.
async fn hear(shared: &Shared, now: Timestamp) -> Result<bool, StoreError> {
    let unheard = shared.engine.unheard(DOOMED_BATCH).await?;
    if unheard.is_empty() {
        return Ok(false);
    }
    let mut ends = Vec::with_capacity(unheard.len());
    for id in unheard {
        let job = shared.engine.job(id).await?;
        let mut end = Heard {
            id,
            records: Vec::new(),
            follow: Vec::new(),
        };
        // One that was deleted or given another life meanwhile has no end any more.
        if let Some(job) = job.filter(|job| job.summary.state.is_final()) {
            let (task, state) = (&job.summary.task, job.summary.state);
            let at = job.summary.finished_at.unwrap_or(now);
            (end.records, end.follow) =
                ends::added(shared, id, task, &job.payload, state, at).await?;
        }
        ends.push(end);
    }
    shared.engine.heard(now, ends).await?;
    Ok(true)
}

/// Whether it did anything, if there was anything to do.
async fn end(shared: &Shared, now: Timestamp, doomed: Vec<Doomed>) -> Result<bool, StoreError> {
    if doomed.is_empty() {
        return Ok(true);
    }
    let mut moved = false;
    let mut idle = Vec::with_capacity(doomed.len());
    for job in &doomed {
        let why = match job.why {
            DoomedWhy::Group(_) => IdleEnd::Cancel,
            DoomedWhy::Dependency => IdleEnd::Dependency,
        };
        idle.push(ends::end_idle(shared, job.id, &job.task, &job.payload, why, now).await?);
    }
    let outcomes = shared.engine.end_idle(now, idle).await?;
    let mut events = Vec::new();
    for (job, outcome) in doomed.into_iter().zip(outcomes) {
        moved |= !matches!(outcome, EndIdleOutcome::Unknown);
        match outcome {
            EndIdleOutcome::Ended { state, .. } => events.push(JobEvent {
                at: now,
                job: job.id,
                task: job.task,
                queue: job.queue,
                kind: if state == JobState::Failed {
                    let class = FailureClass::Error;
                    EventKind::Failed { class }
                } else {
                    EventKind::Cancelled
                },
            }),
            EndIdleOutcome::Running { lease, .. } => {
                // The keeper's own thread: it is there.
                let reason = StopReason::Cancel;
                let _ = shared.inbox.send(Input::Stop { lease, reason });
            }
            // It ended meanwhile.
            EndIdleOutcome::AlreadyFinal(_) | EndIdleOutcome::Unknown => {}
        }
    }
    shared.hub.publish(events);
    Ok(moved)
}
