//! Taking jobs in: idempotency key, group and parents, unique key, room in the queue.

use std::collections::BTreeMap;
use std::sync::Arc;

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{
    History, JobId, JobOptions, JobState, Mode, NewJob, OnConflict, QueueName, RequestKey, Step,
    Timestamp,
};
use offloop_store::{Gate, InsertBatch, InsertOutcome, InsertRefusal, SameAs};

use crate::state::{BatchRequest, Request, Row, State};

/// Whether the queue's limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Room {
    Checked,
    Past,
}

impl State {
    pub(crate) fn insert(&mut self, batch: InsertBatch) -> Vec<InsertOutcome> {
        let outcomes = match batch.request {
            Some(request) => self.insert_request(batch.now, &request, batch.jobs),
            None => self.insert_jobs(batch.now, batch.jobs),
        };
        self.write_records(batch.now, &batch.records);
        outcomes
    }

    /// A batch with a key of its own: what an earlier one of that key made is its answer.
    fn insert_request(
        &mut self,
        now: Timestamp,
        asked: &RequestKey,
        jobs: Vec<NewJob>,
    ) -> Vec<InsertOutcome> {
        let young = |seen: &&BatchRequest| now.since(seen.at) < IDEMPOTENCY_KEEP;
        let seen = self.batch_requests.get(&asked.key).filter(young);
        let Some(seen) = seen else {
            let outcomes = self.insert_jobs(now, jobs);
            self.remember_batch(now, asked, &outcomes);
            return outcomes;
        };
        let (at, made) = (seen.at, seen.jobs.clone());
        if seen.fingerprint != asked.fingerprint {
            let first = made.values().next().copied();
            let refusal = first.map(|holder| InsertRefusal::IdempotencyMismatch { holder });
            let refused = refusal.into_iter().map(InsertOutcome::Refused);
            return refused.cycle().take(jobs.len()).collect();
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for (place, job) in jobs.into_iter().enumerate() {
            let outcome = match made.get(&place) {
                Some(id) => InsertOutcome::Existing {
                    id: *id,
                    same: SameAs::IdempotencyKey,
                },
                None => self.insert_one(now, job, &outcomes, Room::Checked),
            };
            outcomes.push(outcome);
        }
        self.remember_batch(at, asked, &outcomes);
        outcomes
    }

    fn remember_batch(&mut self, at: Timestamp, asked: &RequestKey, outcomes: &[InsertOutcome]) {
        let named = outcomes.iter().enumerate();
        let jobs: BTreeMap<_, _> = named
            .filter_map(|(place, outcome)| Some((place, outcome.job()?)))
            .collect();
        if jobs.is_empty() {
            return;
        }
        let request = BatchRequest {
            at,
            fingerprint: asked.fingerprint,
            jobs,
        };
        self.batch_requests.insert(asked.key.clone(), request);
    }

    pub(crate) fn insert_jobs(&mut self, now: Timestamp, jobs: Vec<NewJob>) -> Vec<InsertOutcome> {
        let mut outcomes = Vec::with_capacity(jobs.len());
        if let Some(refusal) = self.no_room_for_all(&jobs) {
            return vec![InsertOutcome::Refused(refusal); jobs.len()];
        }
        for job in jobs {
            outcomes.push(self.insert_one(now, job, &outcomes, Room::Checked));
        }
        outcomes
    }

    /// Jobs that name each other are taken in together or not at all.
    fn no_room_for_all(&self, jobs: &[NewJob]) -> Option<InsertRefusal> {
        if !jobs.iter().any(|job| job.options.names_its_batch()) {
            return None;
        }
        let limit = self.queue_jobs_max;
        let queues = jobs.iter().map(|job| &job.options.queue);
        queues.clone().find_map(|queue| {
            let rows = self.jobs.values();
            let held = rows.filter(|row| row.options.queue == *queue && !row.state.is_final());
            let coming = queues.clone().filter(|other| *other == queue);
            let over = (held.count() + coming.count()) as u64 > limit;
            over.then(|| InsertRefusal::QueueFull {
                queue: queue.clone(),
                limit,
            })
        })
    }

    /// `earlier`: what became of those before it in its batch.
    pub(crate) fn insert_one(
        &mut self,
        now: Timestamp,
        job: NewJob,
        earlier: &[InsertOutcome],
        room: Room,
    ) -> InsertOutcome {
        if let Some(outcome) = self.known_request(now, &job) {
            return outcome;
        }
        let asked = job;
        let mut job = asked.clone();
        job.options.after = match self.resolve(&asked.options.after, earlier) {
            Ok(after) => after,
            Err(refusal) => return InsertOutcome::Refused(refusal),
        };
        if let Err(refusal) = self.may_join(job.options.group) {
            return InsertOutcome::Refused(refusal);
        }
        let holder = self.holder(now, &job.task, &job.options);
        let replaced = match self.make_way(holder, &job) {
            Way::Free => None,
            Way::Replace(holder) => Some(holder),
            Way::TakeOver(holder) => return self.take_over(now, holder, asked),
            Way::No(outcome) => return outcome,
        };
        let no_room = || {
            let drained = self.drained(&job);
            drained.or_else(|| self.queue_full(&job.options.queue, replaced))
        };
        if room == Room::Checked
            && let Some(refusal) = no_room()
        {
            return InsertOutcome::Refused(refusal);
        }
        if let Some(replaced) = replaced {
            self.end(replaced, Step::Cancel, now);
            self.unheard.insert(replaced);
        }
        self.create(now, job, &asked, replaced)
    }

    /// The answer to an idempotency key that was used not long ago.
    fn known_request(&self, now: Timestamp, job: &NewJob) -> Option<InsertOutcome> {
        let seen = self.idempotency.get(job.idempotency.as_ref()?)?;
        if now.since(seen.at) >= IDEMPOTENCY_KEEP {
            return None;
        }
        if is_same_request(&seen.job, job) {
            return Some(InsertOutcome::Existing {
                id: seen.made,
                same: SameAs::IdempotencyKey,
            });
        }
        let holder = seen.made;
        let refusal = InsertRefusal::IdempotencyMismatch { holder };
        Some(InsertOutcome::Refused(refusal))
    }

    /// What the holder of the unique key means for a new job.
    fn make_way(&self, holder: Option<JobId>, job: &NewJob) -> Way {
        let (Some(holder), Some(unique)) = (holder, &job.options.unique) else {
            return Way::Free;
        };
        let existing = Way::No(InsertOutcome::Existing {
            id: holder,
            same: SameAs::UniqueKey,
        });
        let state = self.jobs.get(&holder).map(|row| row.state);
        let idle = state.filter(|state| !state.is_final() && *state != JobState::Running);
        match unique.on_conflict {
            OnConflict::Replace if idle.is_some() => Way::Replace(holder),
            OnConflict::Keep | OnConflict::Throttle | OnConflict::Replace => existing,
            OnConflict::Reject => {
                let refusal = InsertRefusal::UniqueConflict { holder };
                Way::No(InsertOutcome::Refused(refusal))
            }
            OnConflict::Debounce(_) => match idle {
                Some(JobState::Waiting) => existing,
                Some(_) => Way::TakeOver(holder),
                None => Way::Free,
            },
        }
    }

    /// A debounced request takes the place of the one before, in the same job.
    fn take_over(&mut self, now: Timestamp, id: JobId, job: NewJob) -> InsertOutcome {
        if let Some(refusal) = self.queue_full(&job.options.queue, Some(id)) {
            return InsertOutcome::Refused(refusal);
        }
        self.hold_unique(now, &job.task, &job.options, id);
        self.remember(now, &job, id);
        if let Some(row) = self.jobs.get_mut(&id)
            && let Ok(state) = row.state.after(Step::Debounce)
        {
            row.state = state;
            // Whom it waited for and settles with is the job's own.
            let options = job.options.with_ties_of(&row.options);
            row.due_at = options.due(now);
            row.payload = job.payload;
            row.options = Arc::new(options);
        }
        let same = SameAs::Debounced;
        InsertOutcome::Existing { id, same }
    }

    fn remember(&mut self, now: Timestamp, job: &NewJob, made: JobId) {
        if let Some(key) = job.idempotency.clone() {
            let request = Request {
                at: now,
                made,
                job: job.clone(),
            };
            self.idempotency.insert(key, request);
        }
    }

    fn drained(&self, job: &NewJob) -> Option<InsertRefusal> {
        let gates = [
            Gate::Queue(job.options.queue.clone()),
            Gate::Task(job.task.clone()),
        ];
        let mut draining = gates
            .into_iter()
            .filter(|gate| self.mode(gate) == Mode::Draining);
        draining.next().map(|gate| InsertRefusal::Draining { gate })
    }

    /// Counts every unfinished job but the one that is about to be replaced.
    fn queue_full(&self, queue: &QueueName, replaced: Option<JobId>) -> Option<InsertRefusal> {
        let rows = self.jobs.values();
        let held = rows.filter(|row| {
            row.options.queue == *queue && !row.state.is_final() && Some(row.id) != replaced
        });
        let limit = self.queue_jobs_max;
        (held.count() as u64 >= limit).then(|| InsertRefusal::QueueFull {
            queue: queue.clone(),
            limit,
        })
    }

    fn create(
        &mut self,
        now: Timestamp,
        job: NewJob,
        asked: &NewJob,
        replaced: Option<JobId>,
    ) -> InsertOutcome {
        let id = self.ids.next_id(now);
        // Asked only now: the job that it replaced may have been one that it waits for.
        let begin = self.begin(&job.options.after);
        let due_at = job.options.due(now);
        let state = if begin.barred_by.is_some() || !begin.waits.is_empty() {
            JobState::Waiting
        } else if due_at > now {
            JobState::Scheduled
        } else {
            self.wake = true;
            JobState::Ready
        };
        self.hold_unique(now, &job.task, &job.options, id);
        self.remember(now, asked, id);
        self.join(job.options.group, id);
        let row = Row {
            id,
            task: job.task,
            payload: job.payload,
            options: Arc::new(job.options),
            state,
            due_at,
            history: History::default(),
            lease: None,
            node: None,
            claimed_at: None,
            finished_at: None,
            cancelling: false,
            reason: None,
            failure: None,
            attempts: Vec::new(),
            progress: None,
            result: None,
            checkpoint: None,
            waits: begin.waits,
            barred_by: begin.barred_by,
        };
        self.jobs.insert(id, row);
        InsertOutcome::Created {
            id,
            state,
            replaced,
        }
    }
}

/// What becomes of a job whose unique key is free or held.
enum Way {
    Free,
    /// This holder is cancelled.
    Replace(JobId),
    /// This holder takes the request over.
    TakeOver(JobId),
    /// There is no new job.
    No(InsertOutcome),
}

/// A repeated request differs in its trace, in what is kept of it, and in a `run_at` that was reckoned from a delay.
fn is_same_request(one: &NewJob, other: &NewJob) -> bool {
    let comparable = |options: &JobOptions| JobOptions {
        run_at: None,
        trace: None,
        keep: None,
        ..options.clone()
    };
    one.task == other.task
        && one.payload == other.payload
        && comparable(&one.options) == comparable(&other.options)
}
