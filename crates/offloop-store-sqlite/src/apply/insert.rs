//! Taking jobs in: idempotency key, group and parents, unique key, room in the queue.

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{
    IdempotencyKey, JobId, JobOptions, JobState, Mode, NewJob, QueueName, Step, Timestamp,
};
use offloop_store::{Gate, InsertBatch, InsertOutcome, InsertRefusal, SameAs, codec};
use rusqlite::OptionalExtension;
use sha2::{Digest, Sha256};

use super::Desk;
use super::unique::{Way, held_by_state};
use crate::errors::Failure;
use crate::index::{Idle, ReadyKey, UniqueHash, unique_hash};
use crate::tables::{INLINE_BYTES_MAX, ms, payload_blob, write_blob};

/// 16 bytes of SHA-256 over everything that makes two requests the same.
type Fingerprint = [u8; 16];

/// Whether the queue's limit applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    Checked,
    Past,
}

impl Desk<'_> {
    pub(super) fn insert(&mut self, batch: &InsertBatch) -> Result<Vec<InsertOutcome>, Failure> {
        let outcomes = match &batch.request {
            Some(request) => self.insert_request(batch, request)?,
            None => self.insert_jobs(batch.now, &batch.jobs)?,
        };
        self.write_records(batch.now, &batch.records)?;
        Ok(outcomes)
    }

    pub(super) fn insert_jobs(
        &mut self,
        now: Timestamp,
        jobs: &[NewJob],
    ) -> Result<Vec<InsertOutcome>, Failure> {
        if let Some(refusal) = self.no_room_for_all(jobs) {
            return Ok(vec![InsertOutcome::Refused(refusal); jobs.len()]);
        }
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            let outcome = self.insert_one(now, job, &outcomes, Room::Checked)?;
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    /// Jobs that name each other are taken in together or not at all.
    pub(super) fn no_room_for_all(&mut self, jobs: &[NewJob]) -> Option<InsertRefusal> {
        if !jobs.iter().any(|job| job.options.names_its_batch()) {
            return None;
        }
        let limit = self.index.queue_jobs_max;
        let mut coming: Vec<(&QueueName, u64)> = Vec::new();
        for job in jobs {
            let queue = &job.options.queue;
            match coming.iter_mut().find(|known| known.0 == queue) {
                Some(known) => known.1 += 1,
                None => coming.push((queue, 1)),
            }
        }
        coming.into_iter().find_map(|(queue, count)| {
            let at = self.index.queue_at(queue);
            let over = self.index.queues[at].live + count > limit;
            over.then(|| InsertRefusal::QueueFull {
                queue: queue.clone(),
                limit,
            })
        })
    }

    /// `earlier`: what became of those before it in its batch.
    pub(super) fn insert_one(
        &mut self,
        now: Timestamp,
        job: &NewJob,
        earlier: &[InsertOutcome],
        room: Room,
    ) -> Result<InsertOutcome, Failure> {
        if let Some(key) = &job.idempotency
            && let Some(outcome) = self.known_request(now, key, job)?
        {
            return Ok(outcome);
        }
        let mut after = Vec::new();
        if !job.options.after.is_empty() {
            match self.resolve(&job.options.after, earlier)? {
                Ok(resolved) => after = resolved,
                Err(refusal) => return Ok(InsertOutcome::Refused(refusal)),
            }
        }
        if let Some(refusal) = self.may_join(job.options.group)? {
            return Ok(InsertOutcome::Refused(refusal));
        }
        let unique = job.options.unique.as_ref();
        let unique = unique.map(|unique| unique_hash(&job.task, unique.key.as_str()));
        let replaced = match (self.make_way(now, unique, job)?, unique) {
            (Way::No(outcome), _) => return Ok(outcome),
            (Way::TakeOver(holder), Some(unique)) => {
                return self.take_over(now, holder, job, unique);
            }
            (Way::Replace(holder), _) => Some(holder),
            (Way::Free | Way::TakeOver(_), _) => None,
        };
        if room == Room::Checked
            && let Some(refusal) = self.drained(job)
        {
            return Ok(InsertOutcome::Refused(refusal));
        }
        if room == Room::Checked
            && let Some(refusal) = self.queue_full(job, replaced)?
        {
            return Ok(InsertOutcome::Refused(refusal));
        }
        if let Some(replaced) = replaced {
            self.end_idle_job(now, replaced, Step::Cancel)?;
            self.note_unheard(replaced)?;
        }
        if after.is_empty() {
            return self.create(now, job, &job.options, unique, replaced);
        }
        let options = JobOptions {
            after,
            ..job.options.clone()
        };
        self.create(now, job, &options, unique, replaced)
    }

    /// The answer to an idempotency key that was used not long ago.
    fn known_request(
        &mut self,
        now: Timestamp,
        key: &IdempotencyKey,
        job: &NewJob,
    ) -> Result<Option<InsertOutcome>, Failure> {
        let sql = "SELECT job, rnd, fingerprint, at FROM idempotency WHERE key = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let seen = query.query_row([key.as_str()], |row| {
            let id = JobId::from_parts(row.get(0)?, row.get(1)?);
            let fingerprint: Fingerprint = row.get(2)?;
            Ok((id, fingerprint, Timestamp::from_millis(row.get(3)?)))
        });
        let Some((id, fingerprint, at)) = seen.optional()? else {
            return Ok(None);
        };
        if now.since(at) >= IDEMPOTENCY_KEEP {
            return Ok(None);
        }
        if fingerprint == fingerprint_of(job) {
            let same = SameAs::IdempotencyKey;
            return Ok(Some(InsertOutcome::Existing { id, same }));
        }
        let refusal = InsertRefusal::IdempotencyMismatch { holder: id };
        Ok(Some(InsertOutcome::Refused(refusal)))
    }

    fn drained(&mut self, job: &NewJob) -> Option<InsertRefusal> {
        let at = self.queue_of(job);
        let gate = if self.index.queues[at].mode == Some(Mode::Draining) {
            Gate::Queue(job.options.queue.clone())
        } else if self.index.task_mode(&job.task) == Mode::Draining {
            Gate::Task(job.task.clone())
        } else {
            return None;
        };
        Some(InsertRefusal::Draining { gate })
    }

    /// Position of the queue that the job is for.
    fn queue_of(&mut self, job: &NewJob) -> usize {
        let queue = &job.options.queue;
        match self.index.line_of(queue, &job.task) {
            Some(line) => self.index.lines[line.0 as usize].queue,
            None => self.index.queue_at(queue),
        }
    }

    /// Counts every unfinished job but the one that is about to be replaced.
    pub(super) fn queue_full(
        &mut self,
        job: &NewJob,
        replaced: Option<JobId>,
    ) -> Result<Option<InsertRefusal>, Failure> {
        let queue = &job.options.queue;
        let at = self.queue_of(job);
        let limit = self.index.queue_jobs_max;
        let mut live = self.index.queues[at].live;
        if live < limit {
            return Ok(None);
        }
        if let Some(replaced) = replaced {
            let holder = self.find_live(replaced)?;
            let line = holder.map(|holder| holder.line);
            if line.is_some_and(|line| self.index.lines[line.0 as usize].queue == at) {
                live -= 1;
            }
        }
        Ok((live >= limit).then(|| InsertRefusal::QueueFull {
            queue: queue.clone(),
            limit,
        }))
    }

    fn create(
        &mut self,
        now: Timestamp,
        job: &NewJob,
        options: &JobOptions,
        unique: Option<UniqueHash>,
        replaced: Option<JobId>,
    ) -> Result<InsertOutcome, Failure> {
        // Asked only now: the job that it replaced may have been one that it waits for.
        let begin = self.begin(&options.after)?;
        let line = self.line(&options.queue, &job.task)?;
        let id = self.index.ids.next_id(now);
        let row = id.order();
        self.index.last_row = row;
        let due = options.due(now);
        let key = ReadyKey::new(options.priority, due.as_millis());
        let (idle, state) = if begin.is_waiting() {
            (None, JobState::Waiting)
        } else if due > now {
            (Some(self.index.scheduled(key)), JobState::Scheduled)
        } else {
            (Some(Idle::Ready(key)), JobState::Ready)
        };
        let inline = job.payload.len() <= INLINE_BYTES_MAX;
        if !inline {
            write_blob(self.conn, payload_blob(row), &job.payload)?;
        }
        let expires_at = options.expires_at.map(Timestamp::as_millis);
        self.hot.insert.execute((
            row as i64,
            id.random() as i64,
            line.0 + 1,
            idle.map_or(0, Idle::code),
            options.priority,
            due.as_millis() as i64,
            options.run_at.map(|at| at.as_millis() as i64),
            expires_at.map(|at| at as i64),
            held_by_state(options),
            codec::encode(options),
            inline.then_some(&*job.payload),
        ))?;
        if let Some(unique) = unique {
            self.hold_unique(now, unique, options, id)?;
        }
        if let Some(by) = &options.schedule {
            self.schedule_job_began(id, &by.name)?;
        }
        self.remember(now, job, id)?;
        self.note_tags(row, &options.tags)?;
        let queue = self.index.queue_of(line);
        queue.live += 1;
        // A paused queue gives nothing out until it is resumed, which hints too.
        self.wake |= state == JobState::Ready && queue.mode != Some(Mode::Paused);
        let spot = self.index.spot(line, options.group_key.as_ref());
        if let Some(idle) = idle {
            self.index.add_idle(row, spot, idle, expires_at);
        } else {
            self.index.add_waiting(row, line, expires_at);
            self.begin_waiting(row, &begin)?;
        }
        if let Some(group) = options.group {
            self.join(group, id)?;
        }
        Ok(InsertOutcome::Created {
            id,
            state,
            replaced,
        })
    }

    /// What an idempotency key was used for.
    pub(super) fn remember(
        &self,
        now: Timestamp,
        job: &NewJob,
        made: JobId,
    ) -> Result<(), Failure> {
        let Some(key) = &job.idempotency else {
            return Ok(());
        };
        let sql = "INSERT OR REPLACE INTO idempotency VALUES (?1, ?2, ?3, ?4, ?5)";
        let (row, rnd) = (made.order() as i64, made.random() as i64);
        let row = (key.as_str(), row, rnd, fingerprint_of(job), ms(now));
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }
}

/// A repeated request differs in its trace, in how long it is kept, and in a `run_at` that was reckoned
/// from a delay.
fn fingerprint_of(job: &NewJob) -> Fingerprint {
    let options = JobOptions {
        trace: None,
        keep: None,
        ..job.options.clone()
    };
    let rare = codec::encode(&options).unwrap_or_default();
    let mut hash = Sha256::new();
    for part in [job.task.as_str(), options.queue.as_str(), &rare] {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    hash.update([options.priority]);
    hash.update(&job.payload);
    let mut short = Fingerprint::default();
    short.copy_from_slice(&hash.finalize()[..16]);
    short
}
