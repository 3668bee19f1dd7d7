//! What the store holds, and one job as it stands in it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use offloop_job::limits::ATTEMPTS_KEPT_MAX;
use offloop_job::{
    Attempt, Bucket, Collection, Failure, FinalReason, GroupId, History, IdempotencyKey, Job,
    JobId, JobIdSource, JobOptions, JobState, JobSummary, Lease, LimitTable, LimitTarget, LogTail,
    Mode, NewJob, NodeId, OnFailure, Progress, QueueName, RecordKey, ScheduleName, Step, TaskName,
    Timestamp, UniqueKey, UniqueScope, Usage,
};
use offloop_store::{AuditEntry, Claimed, Gate, News, Record, UsageSum};

use crate::MemoryOptions;
use crate::groups::Kept;
use crate::schedules::Scheduled;
use crate::turns::{Flow, Turn};
use crate::usage::Place;

/// Everything, behind one lock.
pub(crate) struct State {
    pub(crate) jobs: BTreeMap<JobId, Row>,
    /// Who holds a unique key, per task.
    pub(crate) unique: BTreeMap<(TaskName, UniqueKey), Hold>,
    /// Independent of the job: a key that is young enough is answered even if the job is gone.
    pub(crate) idempotency: BTreeMap<IdempotencyKey, Request>,
    pub(crate) batch_requests: BTreeMap<IdempotencyKey, BatchRequest>,
    pub(crate) group_requests: BTreeMap<IdempotencyKey, GroupRequest>,
    /// Queues and tasks whose mode was ever set.
    pub(crate) modes: BTreeMap<Gate, Mode>,
    pub(crate) records: BTreeMap<(Collection, RecordKey), Record>,
    /// Independent of the jobs too.
    pub(crate) usage: BTreeMap<Place, UsageSum>,
    pub(crate) limits: LimitTable,
    /// Those of the configuration.
    pub(crate) declared_limits: BTreeSet<LimitTarget>,
    /// What was taken from rates, by concrete target.
    pub(crate) buckets: BTreeMap<LimitTarget, Bucket>,
    pub(crate) turns: BTreeMap<Flow, Turn>,
    pub(crate) turns_ended: u64,
    /// Oldest first, with their numbers.
    pub(crate) audit: VecDeque<(u64, AuditEntry)>,
    pub(crate) audit_number: u64,
    pub(crate) groups: BTreeMap<GroupId, Kept>,
    /// What was not told yet.
    pub(crate) news: Vec<News>,
    /// Ends that nobody was asked about.
    pub(crate) unheard: BTreeSet<JobId>,
    pub(crate) schedules: BTreeMap<ScheduleName, Scheduled>,
    pub(crate) ids: JobIdSource,
    pub(crate) last_lease: u64,
    pub(crate) queue_jobs_max: u64,
    /// Jobs may have become ready in this call: the hook is called after it.
    pub(crate) wake: bool,
    pub(crate) closed: bool,
}

/// Who holds a unique key; until then, whatever becomes of the job, or by the job's state.
pub(crate) struct Hold {
    pub(crate) id: JobId,
    pub(crate) until: Option<Timestamp>,
}

/// What an idempotency key was used for.
pub(crate) struct Request {
    pub(crate) at: Timestamp,
    pub(crate) made: JobId,
    pub(crate) job: NewJob,
}

/// What the key of a whole batch was used for.
pub(crate) struct BatchRequest {
    pub(crate) at: Timestamp,
    pub(crate) fingerprint: [u8; 16],
    /// By their places in the batch.
    pub(crate) jobs: BTreeMap<usize, JobId>,
}

/// What the key of a group was used for.
pub(crate) struct GroupRequest {
    pub(crate) at: Timestamp,
    pub(crate) fingerprint: [u8; 16],
    pub(crate) made: GroupId,
}

/// Order in which ready jobs of one flow are served: priority, due time, id.
pub(crate) type Rank = (u8, Timestamp, JobId);

/// One job.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) id: JobId,
    pub(crate) task: TaskName,
    pub(crate) payload: Bytes,
    pub(crate) options: Arc<JobOptions>,
    pub(crate) state: JobState,
    pub(crate) due_at: Timestamp,
    /// `attempt` counts a running one.
    pub(crate) history: History,
    /// The last one of this life, kept after it was settled: a repeated settlement is known by it.
    pub(crate) lease: Option<Lease>,
    /// Who holds it, or held it last.
    pub(crate) node: Option<NodeId>,
    /// Claim of the attempt that runs, or that ended the job.
    pub(crate) claimed_at: Option<Timestamp>,
    pub(crate) finished_at: Option<Timestamp>,
    pub(crate) cancelling: bool,
    pub(crate) reason: Option<FinalReason>,
    pub(crate) failure: Option<Failure>,
    /// Those that ended.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) progress: Option<Progress>,
    pub(crate) result: Option<Bytes>,
    /// Until it is completed.
    pub(crate) checkpoint: Option<Bytes>,
    /// Parents that have not ended.
    pub(crate) waits: Vec<(JobId, OnFailure)>,
    /// It waits, and can never run, because of this one.
    pub(crate) barred_by: Option<JobId>,
}

impl State {
    pub(crate) fn new(options: MemoryOptions) -> Self {
        Self {
            jobs: BTreeMap::new(),
            unique: BTreeMap::new(),
            idempotency: BTreeMap::new(),
            batch_requests: BTreeMap::new(),
            group_requests: BTreeMap::new(),
            modes: BTreeMap::new(),
            records: BTreeMap::new(),
            usage: BTreeMap::new(),
            limits: LimitTable::default(),
            declared_limits: BTreeSet::new(),
            buckets: BTreeMap::new(),
            turns: BTreeMap::new(),
            turns_ended: 0,
            audit: VecDeque::new(),
            audit_number: 0,
            groups: BTreeMap::new(),
            news: Vec::new(),
            unheard: BTreeSet::new(),
            schedules: BTreeMap::new(),
            ids: JobIdSource::new(0, options.id_seed),
            last_lease: 0,
            queue_jobs_max: options.queue_jobs_max,
            wake: false,
            closed: false,
        }
    }

    pub(crate) fn mode(&self, gate: &Gate) -> Mode {
        self.modes.get(gate).copied().unwrap_or_default()
    }

    pub(crate) fn is_paused(&self, queue: &QueueName, task: &TaskName) -> bool {
        let gates = [Gate::Queue(queue.clone()), Gate::Task(task.clone())];
        gates.iter().any(|gate| self.mode(gate) == Mode::Paused)
    }

    /// Who holds the unique key that such a job would take.
    pub(crate) fn holder(
        &self,
        now: Timestamp,
        task: &TaskName,
        options: &JobOptions,
    ) -> Option<JobId> {
        let unique = options.unique.as_ref()?;
        let name = (task.clone(), unique.key.clone());
        let hold = self.unique.get(&name);
        hold.filter(|hold| hold.until.is_none_or(|until| until > now))
            .map(|hold| hold.id)
    }

    pub(crate) fn hold_unique(
        &mut self,
        now: Timestamp,
        task: &TaskName,
        options: &JobOptions,
        id: JobId,
    ) {
        if let Some(unique) = &options.unique {
            let name = (task.clone(), unique.key.clone());
            let until = match unique.scope {
                UniqueScope::For(period) => Some(now.plus(period)),
                UniqueScope::UntilStarted | UniqueScope::UntilFinished => None,
            };
            self.unique.insert(name, Hold { id, until });
        }
    }

    pub(crate) fn release_unique(&mut self, id: JobId) {
        self.unique
            .retain(|_, hold| hold.id != id || hold.until.is_some());
    }

    pub(crate) fn forget_periods(&mut self, now: Timestamp) {
        self.unique
            .retain(|_, hold| hold.until.is_none_or(|until| until > now));
    }

    /// Ends an idle job. Only for one whose state allows the step.
    pub(crate) fn end(&mut self, id: JobId, step: Step, now: Timestamp) -> Option<JobState> {
        let row = self.jobs.get_mut(&id)?;
        let state = row.state.after(step).ok()?;
        row.state = state;
        row.finished_at = Some(now);
        row.waits.clear();
        if step == Step::Bar {
            self.say_why_barred(id);
        }
        self.ended(id, now);
        Some(state)
    }

    /// What every end brings with it, whichever way it came.
    pub(crate) fn ended(&mut self, id: JobId, now: Timestamp) {
        if let Some(row) = self.jobs.get_mut(&id) {
            row.barred_by = None;
        }
        self.release_unique(id);
        self.count_member(id, now);
        self.pass_on(id, now);
    }
}

impl Row {
    pub(crate) fn rank(&self) -> Rank {
        (self.options.priority, self.due_at, self.id)
    }

    /// `expires_at` itself is the last millisecond in which it may start.
    pub(crate) fn is_too_late(&self, now: Timestamp) -> bool {
        self.options.expires_at.is_some_and(|at| at < now)
    }

    /// The job under its lease; `None` if it does not run.
    pub(crate) fn claimed(&self) -> Option<Claimed> {
        Some(Claimed {
            id: self.id,
            lease: self.running_lease()?,
            task: self.task.clone(),
            payload: self.payload.clone(),
            options: Arc::clone(&self.options),
            due_at: self.due_at,
            claimed_at: self.claimed_at?,
            history: self.history,
            checkpoint: self.checkpoint.clone(),
            cancelling: self.cancelling,
            inputs: Arc::default(),
            node: self.node.clone()?,
        })
    }

    pub(crate) fn running_lease(&self) -> Option<Lease> {
        self.lease.filter(|_| self.state == JobState::Running)
    }

    pub(crate) fn summary(&self) -> JobSummary {
        JobSummary {
            id: self.id,
            task: self.task.clone(),
            queue: self.options.queue.clone(),
            state: self.state,
            priority: self.options.priority,
            tags: self.options.tags.clone(),
            created_at: self.id.created(),
            due_at: self.due_at,
            started_at: self.claimed_at,
            finished_at: self.finished_at,
            attempt: self.history.attempt,
            max_attempts: self.options.retry.max_attempts,
            snoozes: self.history.snoozes,
            reason: self.reason,
            failure: self.failure.clone(),
            cancelling: self.cancelling,
        }
    }

    pub(crate) fn job(&self) -> Job {
        let mut attempts = self.attempts.clone();
        attempts.extend(self.running_attempt());
        let dropped = attempts.len().saturating_sub(ATTEMPTS_KEPT_MAX);
        attempts.drain(..dropped);
        Job {
            summary: self.summary(),
            payload: self.payload.clone(),
            options: JobOptions::clone(&self.options),
            attempts,
            progress: self.progress.clone(),
            result: self.result.clone(),
            checkpoint: self.checkpoint.clone(),
        }
    }

    /// The attempt that has not ended: its lane and executor are not known to a store.
    fn running_attempt(&self) -> Option<Attempt> {
        let claimed = self.claimed()?;
        Some(Attempt {
            number: claimed.history.attempt,
            lease: claimed.lease,
            node: claimed.node,
            lane: "".into(),
            executor: "".into(),
            started_at: claimed.claimed_at,
            ended_at: None,
            wait: claimed.claimed_at.since(claimed.due_at),
            usage: Usage::default(),
            failure: None,
            log: LogTail::default(),
        })
    }
}
