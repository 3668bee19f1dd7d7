//! Groups and dependencies, as doors and packs ask for them. Path: a member goes the way of any job
//! (`path/enqueue`); its group comes with it.
//!
//! Must never: decide a group. The engine does, in the commit of the end that brings it.

use offloop_job::limits::{BATCH_JOBS_MAX, INPUTS_MAX};
use offloop_job::{
    EventKind, Group, GroupId, Input, JobEvent, JobId, JobState, NewGroup, NewJob, Parent,
    RequestKey,
};
use offloop_store::{
    GroupChange, GroupCreated, GroupListRequest, GroupOrder, GroupPage, InsertOutcome, MemberPage,
    MemberRequest, StoreError,
};

use crate::backlog;
use crate::handle::{QueryError, RuntimeHandle, Shared};
use crate::keeper::Input as News;
use crate::path::enqueue::{self, EnqueueError};
use crate::upkeep::Done;

fn stir(shared: &Shared) {
    let _ = shared.inbox.send(News::Upkeep(Done::Stirred)); // the keeper has ended
}

impl RuntimeHandle {
    /// Makes a group with its first members in one commit, at most 1,024 of them. Durable when
    /// answered. If one of them may not come in now (`max_queued`, `max_wait`), nothing is made; one
    /// that the store refuses (its queue is full, its key is held) is no member.
    ///
    /// With a request key that was there before nothing is made: see [`offloop_store::Asked`].
    pub async fn create_group(
        &self,
        group: NewGroup,
        jobs: Vec<NewJob>,
    ) -> Result<GroupCreated, EnqueueError> {
        let shared = &self.0;
        if shared.is_closing() {
            return Err(EnqueueError::ShuttingDown);
        }
        if jobs.len() > BATCH_JOBS_MAX {
            return Err(EnqueueError::BatchTooLarge { len: jobs.len() });
        }
        for job in jobs.iter().chain(group.then.as_ref().map(|then| &then.job)) {
            enqueue::check(shared, job)?;
        }
        let now = shared.clock.now();
        let asked: Vec<_> = jobs
            .iter()
            .map(|job| (job.task.clone(), job.options.queue.clone()))
            .collect();
        if jobs
            .iter()
            .any(|job| backlog::is_limited(shared, &job.task) || job.options.deadline.is_some())
        {
            shared.backlog.refresh(shared, true).await?;
        }
        let (coming, refusals) = shared.backlog.admit(shared, &jobs, now);
        if refusals.iter().any(Option::is_some) {
            return Err(enqueue::whole(refusals));
        }
        let due = jobs.iter().filter_map(|job| job.options.run_at).min();
        let made = shared.engine.create_group(now, group, jobs).await?;
        drop(coming);
        let mut events = Vec::with_capacity(asked.len());
        for (outcome, (task, queue)) in made.members.iter().zip(asked) {
            if let InsertOutcome::Created { id, .. } = outcome {
                events.push(JobEvent {
                    at: now,
                    job: *id,
                    task,
                    queue,
                    kind: EventKind::Enqueued,
                });
            }
        }
        shared.hub.publish(events);
        if let Some(due) = due {
            shared.due_at(due);
        }
        stir(shared);
        Ok(made)
    }

    /// Takes jobs in as one request with a key: if it was there before, it is answered with the jobs that
    /// it made then.
    pub async fn enqueue_once(
        &self,
        jobs: Vec<NewJob>,
        request: RequestKey,
    ) -> Result<Vec<InsertOutcome>, EnqueueError> {
        enqueue::enqueue(&self.0, jobs, Vec::new(), Some(request)).await
    }

    /// No more members are promised. `actor`: who asks, for the audit log; nobody where it is a part of
    /// making the group.
    pub async fn seal_group(
        &self,
        id: GroupId,
        actor: Option<&str>,
    ) -> Result<GroupChange, StoreError> {
        let change = self.0.engine.seal_group(self.order(id, actor)).await?;
        stir(&self.0);
        Ok(change)
    }

    /// Decides an open group as cancelled; its unfinished members are ended, and stopped where they
    /// run. `actor`: as for a seal.
    pub async fn cancel_group(
        &self,
        id: GroupId,
        actor: Option<&str>,
    ) -> Result<GroupChange, StoreError> {
        let change = self.0.engine.cancel_group(self.order(id, actor)).await?;
        stir(&self.0);
        Ok(change)
    }

    fn order(&self, id: GroupId, actor: Option<&str>) -> GroupOrder {
        GroupOrder {
            now: self.0.clock.now(),
            id,
            actor: actor.map(Into::into),
        }
    }

    pub async fn group(&self, id: GroupId) -> Result<Option<Group>, QueryError> {
        self.0.engine.group(id).await
    }

    /// Newest first.
    pub async fn groups(&self, ask: GroupListRequest) -> Result<GroupPage, QueryError> {
        self.0.engine.groups(ask).await
    }

    /// In the order in which they were added.
    pub async fn members(&self, ask: MemberRequest) -> Result<MemberPage, QueryError> {
        self.0.engine.members(ask).await
    }

    /// What the job is handed, or was, of those that it waited for; for a group's follow-up, of the
    /// first 1,000 members. As it stands now, and without what is not to be shown. `None`: there is
    /// no such job.
    pub async fn inputs(&self, id: JobId) -> Result<Option<Vec<Input>>, QueryError> {
        let Some(job) = self.0.engine.job(id).await? else {
            return Ok(None);
        };
        let mut ids: Vec<JobId> = Vec::new();
        for after in &job.options.after {
            if let Parent::Job(id) = after.parent {
                ids.push(id);
            }
        }
        if let Some(group) = job.options.follows {
            let ask = MemberRequest {
                group,
                limit: INPUTS_MAX as u16,
                cursor: None,
            };
            let page = self.0.engine.members(ask).await?;
            ids.extend(page.members.into_iter().map(|member| member.0));
        }
        let mut room = offloop_job::limits::INPUT_BYTES_MAX;
        let mut inputs = Vec::with_capacity(ids.len());
        for id in ids {
            let parent = self.job(id).await?;
            let state = parent.as_ref().map(|job| job.summary.state);
            let summary = parent.as_ref().map(|job| &job.summary);
            let failure = summary.and_then(|summary| summary.failure.as_ref());
            let failure = failure.filter(|_| state != Some(JobState::Completed));
            let class = failure.map(|failure| failure.class);
            let whole = parent.and_then(|job| job.result);
            let result = whole.clone().filter(|result| result.len() <= room);
            room -= result.as_ref().map_or(0, bytes::Bytes::len);
            inputs.push(Input {
                id,
                state,
                class,
                omitted: whole.is_some() && result.is_none(),
                result,
            });
        }
        Ok(Some(inputs))
    }

    /// Jobs that should have come with an end, and were not taken in, since this process started.
    pub fn follows_refused(&self) -> u64 {
        use std::sync::atomic::Ordering;
        self.0.follows_refused.load(Ordering::Relaxed)
    }
}
