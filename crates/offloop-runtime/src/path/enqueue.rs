//! Takes jobs in. Path: **enqueue** -> claim -> dispatch -> settle -> publish.
//!
//! Durable before it answers. Must never: wait for a job to run, or take in one that no lane here
//! could ever run.

use offloop_job::limits::{BATCH_JOBS_MAX, PAYLOAD_BYTES_MAX};
use offloop_job::{
    EventKind, JobEvent, JobState, NewJob, OptionProblem, QueueName, RecordWrite, RequestKey,
    TaskName, Timestamp,
};
use offloop_store::{InsertBatch, InsertOutcome, InsertRefusal, SameAs, StoreError, is_sealed};

use crate::ends;
use crate::handle::Shared;
use crate::path::admit::Need;
use crate::{backlog, payload};

/// Why a batch was not taken in at all. One bad job refuses its batch: the door checks each job
/// with [`check`] first when it wants to answer line by line.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    #[error("task: `{task}` is not declared here; declared are {known}")]
    UnknownTask { task: TaskName, known: String },
    #[error(
        "payload: has {len} bytes; the limit is {PAYLOAD_BYTES_MAX}; put larger data in a file or an object store and name it in the payload"
    )]
    PayloadTooLarge { len: usize },
    #[error("{}", problems(.0))]
    Options(Vec<OptionProblem>),
    #[error("jobs: {len} in one batch; the limit is {BATCH_JOBS_MAX}")]
    BatchTooLarge { len: usize },
    /// Of jobs that belong together, this one may not come in now: none of them does.
    #[error("job {place}: {refusal}; the others were not taken in either")]
    Whole {
        place: usize,
        refusal: InsertRefusal,
    },
    #[error("record: {0}")]
    Record(String),
    #[error("the server is shutting down; send it to another one or try again later")]
    ShuttingDown,
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn problems(found: &[OptionProblem]) -> String {
    found
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("; ")
}

/// Whether one job may be asked for here.
pub(crate) fn check(shared: &Shared, job: &NewJob) -> Result<(), EnqueueError> {
    if !shared.routes.contains_key(job.task.as_str()) {
        let known: Vec<_> = shared
            .tasks
            .iter()
            .map(|task| format!("`{}`", task.info.name))
            .collect();
        return Err(EnqueueError::UnknownTask {
            task: job.task.clone(),
            known: known.join(", "),
        });
    }
    if job.payload.len() > PAYLOAD_BYTES_MAX {
        return Err(EnqueueError::PayloadTooLarge {
            len: job.payload.len(),
        });
    }
    let mut found = job.options.problems();
    found.extend(ends::problem(&shared.end_hooks, job));
    found.extend(too_large(shared, job));
    found.extend(is_sealed(&job.payload).then(|| OptionProblem {
        field: "payload",
        message: "begins like sealed content, which only the server makes".into(),
    }));
    if found.is_empty() {
        Ok(())
    } else {
        Err(EnqueueError::Options(found))
    }
}

/// What this node can never give it.
fn too_large(shared: &Shared, job: &NewJob) -> Option<OptionProblem> {
    let lane = shared.routes.get(job.task.as_str())?;
    if shared.lanes[*lane].demand().is_some() {
        return None; // its executors are elsewhere
    }
    let defaults = shared.defaults_of(&job.task);
    let memory = job.options.memory_limit_bytes;
    let memory = memory.or(defaults.memory_limit_bytes);
    Need::new(job.options.cores, memory).problem(&shared.budget)
}

pub(crate) async fn enqueue(
    shared: &Shared,
    jobs: Vec<NewJob>,
    records: Vec<RecordWrite>,
    request: Option<RequestKey>,
) -> Result<Vec<InsertOutcome>, EnqueueError> {
    if shared.is_closing() {
        return Err(EnqueueError::ShuttingDown);
    }
    if jobs.len() > BATCH_JOBS_MAX {
        return Err(EnqueueError::BatchTooLarge { len: jobs.len() });
    }
    for job in &jobs {
        check(shared, job)?;
    }
    if let Some(problem) = records.iter().find_map(RecordWrite::problem) {
        return Err(EnqueueError::Record(problem));
    }
    let unfit = payload::refusals(shared, &jobs).await;
    if unfit.iter().all(Option::is_none) {
        return admit(shared, jobs, records, request).await;
    }
    if request.is_some() || names_places(&jobs) {
        return Err(whole(unfit));
    }
    let outcomes = admit(shared, without(jobs, &unfit), records, None).await?;
    Ok(merged(unfit, outcomes))
}

/// The jobs that were not refused.
fn without(jobs: Vec<NewJob>, refusals: &[Option<InsertRefusal>]) -> Vec<NewJob> {
    let asked = jobs.into_iter().zip(refusals);
    let left = asked.filter_map(|(job, refusal)| refusal.is_none().then_some(job));
    left.collect()
}

/// Refusals and the outcomes of the others, in the order of the jobs.
fn merged(
    refusals: Vec<Option<InsertRefusal>>,
    outcomes: Vec<InsertOutcome>,
) -> Vec<InsertOutcome> {
    let mut outcomes = outcomes.into_iter();
    let merged = refusals.into_iter().filter_map(|refusal| match refusal {
        Some(refusal) => Some(InsertOutcome::Refused(refusal)),
        None => outcomes.next(),
    });
    merged.collect()
}

/// Left out of a batch, the others would have other places.
fn names_places(jobs: &[NewJob]) -> bool {
    jobs.iter().any(|job| job.options.names_its_batch())
}

async fn admit(
    shared: &Shared,
    jobs: Vec<NewJob>,
    records: Vec<RecordWrite>,
    request: Option<RequestKey>,
) -> Result<Vec<InsertOutcome>, EnqueueError> {
    let now = shared.clock.now();
    if jobs
        .iter()
        .any(|job| backlog::is_limited(shared, &job.task))
    {
        shared.backlog.refresh(shared, true).await?;
    } else if jobs.iter().any(|job| job.options.deadline.is_some()) {
        shared.backlog.refresh(shared, false).await?;
    }
    let (coming, refusals) = shared.backlog.admit(shared, &jobs, now);
    if refusals.iter().all(Option::is_none) {
        let outcomes = insert(shared, jobs, records, request, now).await;
        drop(coming);
        return outcomes;
    }
    if request.is_some() || names_places(&jobs) {
        return Err(whole(refusals));
    }
    let outcomes = insert(shared, without(jobs, &refusals), records, None, now).await?;
    drop(coming);
    Ok(merged(refusals, outcomes))
}

/// The first refusal speaks for all.
pub(crate) fn whole(refusals: Vec<Option<InsertRefusal>>) -> EnqueueError {
    let mut refused = refusals.into_iter().enumerate();
    let first = refused.find_map(|(place, refusal)| Some((place, refusal?)));
    match first {
        Some((place, refusal)) => EnqueueError::Whole { place, refusal },
        None => EnqueueError::BatchTooLarge { len: 0 }, // only asked where one was refused
    }
}

/// What the task says about its finished jobs, where the job says nothing: an engine decides by the row
/// alone.
fn fill_in(shared: &Shared, jobs: &mut [NewJob]) {
    for job in jobs {
        if job.options.keep.is_none() {
            job.options.keep = shared.defaults_of(&job.task).keep;
        }
    }
}

/// What its events and its timer need of a job that is about to be given away.
fn name_of(job: &NewJob, now: Timestamp) -> (TaskName, QueueName, Timestamp) {
    let options = &job.options;
    (job.task.clone(), options.queue.clone(), options.due(now))
}

async fn insert(
    shared: &Shared,
    mut jobs: Vec<NewJob>,
    records: Vec<RecordWrite>,
    request: Option<RequestKey>,
    now: Timestamp,
) -> Result<Vec<InsertOutcome>, EnqueueError> {
    fill_in(shared, &mut jobs);
    let names: Vec<_> = jobs.iter().map(|job| name_of(job, now)).collect();
    let coming = shared.hub.coming(now);
    let outcomes = shared
        .engine
        .insert(InsertBatch {
            now,
            jobs,
            records,
            request,
        })
        .await?;

    let mut events = Vec::with_capacity(outcomes.len());
    let mut due = None::<Timestamp>;
    let mut is_due = |at: Timestamp| due = Some(due.map_or(at, |due| due.min(at)));
    for (outcome, (task, queue, due_at)) in outcomes.iter().zip(names) {
        let same = SameAs::Debounced;
        if matches!(outcome, InsertOutcome::Existing { same: how, .. } if *how == same) {
            is_due(due_at); // later than before, and perhaps nobody waits for its time any more
        }
        let InsertOutcome::Created {
            id,
            state,
            replaced,
        } = outcome
        else {
            continue;
        };
        if let Some(replaced) = replaced {
            let (task, queue) = (task.clone(), queue.clone());
            events.push(JobEvent {
                at: now,
                job: *replaced,
                task,
                queue,
                kind: EventKind::Cancelled,
            });
        }
        events.push(JobEvent {
            at: now,
            job: *id,
            task,
            queue,
            kind: EventKind::Enqueued,
        });
        // Ready ones are the engine's to hint at, once for all that it committed together: a hint
        // from here as well would make the keeper ask twice.
        if *state == JobState::Scheduled {
            is_due(due_at);
        }
    }
    // First: the keeper may be quick.
    coming.publish(events);
    if let Some(due) = due {
        shared.due_at(due);
    }
    Ok(outcomes)
}
