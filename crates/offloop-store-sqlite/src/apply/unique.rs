//! Unique keys: who holds one, and what a request does that finds one held.
//!
//! A key that is held by its job's state is in the job's row; one that is held for a period has a row
//! of its own, since the job may be gone before.

use offloop_job::{JobId, JobOptions, JobState, NewJob, OnConflict, Timestamp, UniqueScope};
use offloop_store::{InsertOutcome, InsertRefusal, SameAs, codec};

use super::Desk;
use crate::errors::Failure;
use crate::index::{Hold, ReadyKey, UniqueHash};
use crate::tables::{INLINE_BYTES_MAX, ms, payload_blob, write_blob};

/// What becomes of a job whose unique key is free or held.
pub(super) enum Way {
    Free,
    /// This holder is cancelled.
    Replace(JobId),
    /// This holder takes the request over.
    TakeOver(JobId),
    /// There is no new job.
    No(InsertOutcome),
}

/// The key that a job's own row holds.
pub(super) fn held_by_state(options: &JobOptions) -> Option<&str> {
    let unique = options.unique.as_ref()?;
    (!matches!(unique.scope, UniqueScope::For(_))).then(|| unique.key.as_str())
}

impl Desk<'_> {
    pub(super) fn make_way(
        &mut self,
        now: Timestamp,
        unique: Option<UniqueHash>,
        job: &NewJob,
    ) -> Result<Way, Failure> {
        let holder = unique.and_then(|unique| self.index.holder(unique, now.as_millis()));
        let (Some(holder), Some(unique)) = (holder, &job.options.unique) else {
            return Ok(Way::Free);
        };
        let existing = Way::No(InsertOutcome::Existing {
            id: holder,
            same: SameAs::UniqueKey,
        });
        let (replaces, debounces) = match unique.on_conflict {
            OnConflict::Keep | OnConflict::Throttle => return Ok(existing),
            OnConflict::Reject => {
                let refusal = InsertRefusal::UniqueConflict { holder };
                return Ok(Way::No(InsertOutcome::Refused(refusal)));
            }
            OnConflict::Replace => (true, false),
            OnConflict::Debounce(_) => (false, true),
        };
        let live = self.find_live(holder)?;
        let state = live.map(|live| self.live_state(holder.order(), &live));
        Ok(match state {
            None | Some(JobState::Running) if debounces => Way::Free,
            Some(JobState::Scheduled | JobState::Ready) if debounces => Way::TakeOver(holder),
            Some(JobState::Scheduled | JobState::Ready | JobState::Waiting) if replaces => {
                Way::Replace(holder)
            }
            _ => existing,
        })
    }

    /// The job takes the key, from whoever had it.
    pub(super) fn hold_unique(
        &mut self,
        now: Timestamp,
        unique: UniqueHash,
        options: &JobOptions,
        id: JobId,
    ) -> Result<(), Failure> {
        let scope = options.unique.as_ref().map(|unique| unique.scope);
        let until = match scope {
            Some(UniqueScope::For(period)) => now.plus(period).as_millis(),
            _ => 0,
        };
        let before = self.index.hold(unique, Hold { id, until });
        let hash = unique.to_be_bytes();
        if until != 0 {
            let sql = "INSERT OR REPLACE INTO unique_periods VALUES (?1, ?2, ?3, ?4)";
            let row = (hash, id.order() as i64, id.random() as i64, until as i64);
            self.conn.prepare_cached(sql)?.execute(row)?;
        } else if before.is_some_and(|before| before.until != 0) {
            let sql = "DELETE FROM unique_periods WHERE hash = ?1";
            self.conn.prepare_cached(sql)?.execute([hash])?;
        }
        // A debounced request took it from a job that runs: the next start must find one holder.
        if let Some(before) = before.filter(|before| before.until == 0 && before.id != id) {
            let row = before.id.order();
            let sql = "UPDATE jobs SET unique_key = NULL WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
            if let Some(running) = self.index.running.get_mut(&row) {
                running.unique = None;
                if let Some(live) = &mut running.row {
                    live.unique_key = None;
                }
            }
        }
        Ok(())
    }

    /// A debounced request takes the place of the one before, in the same job.
    pub(super) fn take_over(
        &mut self,
        now: Timestamp,
        id: JobId,
        job: &NewJob,
        unique: UniqueHash,
    ) -> Result<InsertOutcome, Failure> {
        if let Some(refusal) = self.queue_full(job, Some(id))? {
            return Ok(InsertOutcome::Refused(refusal));
        }
        let row = id.order();
        let Some(live) = self.find_live(id)? else {
            return Err(Failure::bug(format!("holder {row:#x} has no row")));
        };
        let before = self.index.spot(live.line, live.group_key().as_ref());
        let key = ReadyKey::new(live.priority, live.due_at);
        self.index.remove_idle(row, before, key);
        self.index.queue_of(live.line).live -= 1;

        // Whom it waited for and settles with is the job's own.
        let (_, queue) = self.index.task_and_queue(live.line);
        let own = match live.options(&queue) {
            Ok(own) => own,
            Err(what) => return Err(Failure::bug(what)),
        };
        let options = &job.options.clone().with_ties_of(&own);
        let line = self.line(&options.queue, &job.task)?;
        let due = options.due(now);
        let key = ReadyKey::new(options.priority, due.as_millis());
        let idle = self.index.scheduled(key);
        let inline = job.payload.len() <= INLINE_BYTES_MAX;
        if !inline {
            write_blob(self.conn, payload_blob(row), &job.payload)?;
        } else if live.payload.is_none() {
            let sql = "DELETE FROM blobs WHERE id = ?1";
            self.conn
                .prepare_cached(sql)?
                .execute([payload_blob(row) as i64])?;
        }
        let expires_at = options.expires_at.map(Timestamp::as_millis);
        let sql = "UPDATE jobs SET line = ?2, state = ?3, priority = ?4, due_at = ?5, \
                   run_at = ?6, expires_at = ?7, unique_key = ?8, options = ?9, payload = ?10 \
                   WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute((
            row as i64,
            line.0 + 1,
            idle.code(),
            options.priority,
            ms(due),
            options.run_at.map(ms),
            expires_at.map(|at| at as i64),
            held_by_state(options),
            codec::encode(options),
            inline.then_some(&*job.payload),
        ))?;
        self.move_schedule(id, &own, options)?;
        self.forget_tags_of(row, &own.tags)?;
        self.note_tags(row, &options.tags)?;
        self.hold_unique(now, unique, options, id)?;
        self.remember(now, job, id)?;
        self.index.queue_of(line).live += 1;
        let spot = self.index.spot(line, options.group_key.as_ref());
        self.index.add_idle(row, spot, idle, expires_at);
        let same = SameAs::Debounced;
        Ok(InsertOutcome::Existing { id, same })
    }

    /// The job is of the schedule that asked last.
    fn move_schedule(
        &mut self,
        id: JobId,
        before: &JobOptions,
        after: &JobOptions,
    ) -> Result<(), Failure> {
        let made_by = |options: &JobOptions| options.schedule.as_ref().map(|by| by.name.clone());
        if made_by(before) == made_by(after) {
            return Ok(());
        }
        self.schedule_job_ended(id.order())?;
        match made_by(after) {
            Some(name) => self.schedule_job_began(id, &name),
            None => Ok(()),
        }
    }

    /// Periods that are over.
    pub(super) fn prune_periods(&mut self, now: Timestamp) -> Result<(), Failure> {
        self.index.forget_periods(now.as_millis());
        let sql = "DELETE FROM unique_periods WHERE until <= ?1";
        self.conn.prepare_cached(sql)?.execute([ms(now)])?;
        Ok(())
    }
}
