//! The loop that keeps due times, on the keeper's thread beside its own.
//!
//! It sleeps until the next timer, at most one tick, so that a clock that steps is noticed within that.
//! Many schedules that are due at once are a few commits.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::limits::PAGE_ROWS_MAX;
use offloop_job::{EventKind, JobEvent, JobId, ScheduleName, Timestamp};
use offloop_schedule::Turn;
use offloop_store::{Fired, LedgerOutcome, LedgerRow, ScheduleRow, StoreError};

use crate::RuntimeHandle;
use crate::handle::Shared;

/// Schedules in one commit, and rows after which no more are added to it.
const TURNS_AT_ONCE: usize = 512;
const ROWS_AT_ONCE: usize = 2_000;
/// How often the schedules of a store that others change too are read again.
const READ_AGAIN: Duration = Duration::from_secs(30);
/// After a failed store call.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_LAST: Duration = Duration::from_secs(5);
/// A clock that reads less than before by this has stepped.
const STEP_BACK: Duration = Duration::from_millis(500);

/// Reads every schedule; those that are not there any more are forgotten.
pub(crate) async fn load(shared: &Shared) -> Result<(), StoreError> {
    let mut gone: HashSet<_> = shared.schedules.table().names().into_iter().collect();
    let mut after: Option<ScheduleName> = None;
    loop {
        let page = shared.engine.schedules(after, PAGE_ROWS_MAX).await?;
        after = page.last().map(|row| row.name.clone());
        let full = page.len() == usize::from(PAGE_ROWS_MAX);
        let now = shared.clock.now();
        let mut table = shared.schedules.table();
        for row in page {
            gone.remove(&row.name);
            table.set(row, now);
        }
        if !full {
            // Those that were made since this began are not among them.
            for name in &gone {
                table.remove(name);
            }
            return Ok(());
        }
    }
}

/// Until the server ends.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut pause = PAUSE_FIRST;
    let mut high = shared.clock.now();
    let mut read_at = Instant::now();
    while !shared.is_closing() {
        let now = shared.clock.now();
        if now.plus(STEP_BACK) < high {
            shared.schedules.table().clock_went_back(now);
            high = now;
        }
        high = high.max(now);
        let done = if shared.engine.capability().shared && read_at.elapsed() > READ_AGAIN {
            read_at = Instant::now();
            load(&shared).await.map(|()| true)
        } else {
            turns(&shared, now).await
        };
        match done {
            Ok(true) => pause = PAUSE_FIRST,
            Ok(false) => wait(&shared).await,
            Err(StoreError::Closed) => return,
            Err(error) => {
                tracing::warn!(error = %error, ?pause, "the store could not keep due times of schedules");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
    }
}

/// Until the next timer, a change, or one tick has passed.
async fn wait(shared: &Shared) {
    let tick = shared.config.tick;
    let next = shared.schedules.table().next();
    let until = next.map_or(tick, |next| next.since(shared.clock.now()).min(tick));
    // A wait that has run out is the usual way out.
    let _ = tokio::time::timeout(until, shared.schedules.bell.notified()).await;
}

/// Does what is due, one commit of it; whether there was anything.
async fn turns(shared: &Arc<Shared>, now: Timestamp) -> Result<bool, StoreError> {
    let due = shared.schedules.table().due(now, TURNS_AT_ONCE);
    if due.is_empty() {
        return Ok(false);
    }
    let asked = due
        .iter()
        .filter(|(_, asks)| *asks)
        .map(|(name, _)| name.clone());
    let asked: Vec<_> = asked.collect();
    let mut live = Vec::new();
    if !asked.is_empty() {
        live = shared.engine.live_jobs(asked).await?;
    }
    let mut live = live.into_iter();
    let mut taken: Vec<(ScheduleRow, Turn, Vec<JobId>)> = Vec::with_capacity(due.len());
    let mut rows = 0;
    for (name, asks) in due {
        let live = asks.then(|| live.next()).flatten().unwrap_or_default();
        let refusal = |row: &ScheduleRow| refusal(shared, row);
        let mut table = shared.schedules.table();
        if let Some((row, turn)) = table.turn(&name, now, !live.is_empty(), refusal) {
            rows += turn.firing.entries.len();
            taken.push((row, turn, live));
        }
        if rows >= ROWS_AT_ONCE {
            break;
        }
    }
    if taken.is_empty() {
        return Ok(true);
    }
    let firings = taken
        .iter()
        .map(|(_, turn, _)| turn.firing.clone())
        .collect();
    let fired = shared.engine.fire(now, firings).await?;
    let mut events = Vec::new();
    for ((row, turn, live), fired) in taken.into_iter().zip(fired) {
        took(shared, &row, &turn, fired, now, &mut events).await?;
        if turn.cancel {
            cancel(shared, &row.name, live);
        }
    }
    shared.hub.publish(events);
    Ok(true)
}

/// Why a job of this schedule could not be taken in here.
pub(super) fn refusal(shared: &Shared, row: &ScheduleRow) -> Option<String> {
    let task = &row.spec.task;
    if !shared.routes.contains_key(task.as_str()) {
        return Some(format!("task `{task}` is not declared here"));
    }
    let rule = shared.checks.get(task.as_str())?;
    shared.schedules.unfit(row, || {
        let problem = rule.problems(&row.spec.payload).into_iter().next()?;
        Some(format!("payload{}: {}", problem.pointer, problem.message))
    })
}

async fn took(
    shared: &Arc<Shared>,
    row: &ScheduleRow,
    turn: &Turn,
    fired: Fired,
    now: Timestamp,
    events: &mut Vec<JobEvent>,
) -> Result<(), StoreError> {
    match fired {
        Fired::Done(rows) => {
            events.extend(rows.iter().filter_map(|done| enqueued(row, done)));
            shared.schedules.table().took(row, &turn.firing, now);
        }
        Fired::Stale(Some(newer)) => shared.schedules.table().set(newer, now),
        // It is gone; or there is another one of its name by now.
        Fired::Stale(None) => match shared.engine.schedule(row.name.clone()).await? {
            Some(newer) => shared.schedules.table().set(newer, now),
            None => shared.schedules.table().remove(&row.name),
        },
        // A job began meanwhile: the next turn sees it.
        Fired::Live(_) => {}
    }
    Ok(())
}

/// The event of a row that made a job.
pub(super) fn enqueued(row: &ScheduleRow, done: &LedgerRow) -> Option<JobEvent> {
    let LedgerOutcome::Fired { job, .. } = done.outcome else {
        return None;
    };
    Some(JobEvent {
        at: done.at,
        job,
        task: row.spec.task.clone(),
        queue: row.spec.options.queue.clone(),
        kind: EventKind::Enqueued,
    })
}

/// Stops the jobs that a due time waits for, beside the loop: some end at once, others by the ladder.
fn cancel(shared: &Arc<Shared>, name: &ScheduleName, jobs: Vec<JobId>) {
    let handle = RuntimeHandle(Arc::clone(shared));
    let name = name.clone();
    tokio::task::spawn_local(async move {
        for job in jobs {
            let mut pause = PAUSE_FIRST;
            while let Err(error) = handle.cancel(job).await {
                tracing::warn!(error = %error, schedule = %name, %job, "could not cancel an overlapping job");
                if matches!(error, StoreError::Closed) {
                    return;
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE_LAST);
            }
        }
        handle.0.schedules.job_ended(&name);
    });
}
