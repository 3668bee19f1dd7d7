//! Jobs that no executor has: ending, reviving and forgetting them.

use offloop_job::{GroupState, JobId, JobState, Lease, QueueName, Step, Timestamp};
use offloop_store::{
    DeleteOutcome, EndIdle, EndIdleOutcome, FollowOf, IdleEnd, Overdue, ReviveOutcome, codec,
};
use rusqlite::{OptionalExtension, Row as SqlRow};

use super::Desk;
use super::insert::Room;
use super::unique::held_by_state;
use crate::errors::Failure;
use crate::index::{Idle, LineId, ReadyKey, Row, unique_hash};
use crate::meta;
use crate::tables::{LiveRow, node, options, payload_blob, read_blob, result_blob};

impl Desk<'_> {
    pub(super) fn end_idle(
        &mut self,
        now: Timestamp,
        end: &EndIdle,
    ) -> Result<EndIdleOutcome, Failure> {
        let row = end.id.order();
        let running = self.index.running.get_mut(&row);
        if let Some(job) = running.filter(|job| job.rnd == end.id.random()) {
            // It started in time: expiry has no hold on it.
            if end.why == IdleEnd::Cancel && !job.cancelling {
                job.cancelling = true;
                let sql = "UPDATE running SET cancelling = 1 WHERE job = ?1";
                self.conn.prepare_cached(sql)?.execute([row as i64])?;
            }
            return Ok(EndIdleOutcome::Running {
                lease: Lease(job.lease),
                node: node(self.index.words.text(job.node)),
            });
        }
        if let Some((line, state)) = self.end_idle_job(now, end.id, end.why.step())? {
            self.write_records(now, &end.records)?;
            for job in &end.follow {
                self.follow(now, job, FollowOf::Job(end.id), Room::Checked)?;
            }
            let (task, queue) = self.index.task_and_queue(line);
            return Ok(EndIdleOutcome::Ended { task, queue, state });
        }
        Ok(match self.final_state(end.id)? {
            Some(state) => EndIdleOutcome::AlreadyFinal(state),
            None => EndIdleOutcome::Unknown,
        })
    }

    pub(super) fn overdue(&mut self, now: Timestamp, limit: u16) -> Result<Vec<Overdue>, Failure> {
        let rows = self.index.overdue(now.as_millis(), limit.into());
        let mut overdue = Vec::with_capacity(rows.len());
        for row in rows {
            let Some(live) = LiveRow::find(&mut self.hot, row)? else {
                continue;
            };
            let (task, queue) = self.index.task_and_queue(live.line);
            let payload = match live.payload {
                Some(payload) => Some(payload),
                None => read_blob(self.conn, payload_blob(row))?,
            };
            overdue.push(Overdue {
                id: JobId::from_parts(row, live.rnd),
                task,
                queue,
                payload: payload.unwrap_or_default(),
            });
        }
        Ok(overdue)
    }

    pub(super) fn final_state(&self, id: JobId) -> Result<Option<JobState>, Failure> {
        let sql = "SELECT rnd, state FROM history WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let found = query.query_row([id.order() as i64], |row| {
            Ok((row.get::<_, u64>(0)?, row.get::<_, u8>(1)?))
        });
        let found = found.optional()?.filter(|found| found.0 == id.random());
        Ok(found.and_then(|found| JobState::from_code(found.1)))
    }

    pub(super) fn revive(&mut self, now: Timestamp, id: JobId) -> Result<ReviveOutcome, Failure> {
        let row = id.order();
        let Some(state) = self.final_state(id)? else {
            return Ok(match self.find_live(id)? {
                Some(live) => ReviveOutcome::NotRevivable(self.live_state(row, &live)),
                None => ReviveOutcome::Unknown,
            });
        };
        if state.after(Step::Revive).is_err() {
            return Ok(ReviveOutcome::NotRevivable(state));
        }
        let sql = "SELECT line, priority, run_at, options FROM history WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let (line, mut options) = query.query_row([row as i64], |found| {
            let line = LineId(found.get::<_, u32>(0)? - 1);
            let (_, queue) = self.index.task_and_queue(line);
            Ok((line, read_options(found, &queue)?))
        })?;
        // A member of a decided group leaves it.
        if let Some(group) = options.group.take()
            && self.group_state(group)? == Some(GroupState::Open)
        {
            return Ok(ReviveOutcome::Counted { group });
        }
        let (task, queue) = self.index.task_and_queue(line);
        let unique = options.unique.as_ref();
        let unique = unique.map(|unique| unique_hash(&task, unique.key.as_str()));
        let holder = unique.and_then(|unique| self.index.holder(unique, now.as_millis()));
        if let Some(holder) = holder.filter(|holder| *holder != id) {
            return Ok(ReviveOutcome::UniqueConflict { holder });
        }
        if options.expires_at.is_some_and(|at| at < now) {
            options.expires_at = None;
        }
        drop(query);
        self.tell_all(now, id)?;
        self.revive_row(row, now, &options)?;
        if let (Some(unique), Some(_)) = (unique, held_by_state(&options)) {
            self.hold_unique(now, unique, &options, id)?;
        }
        if let Some(by) = &options.schedule {
            self.schedule_job_began(id, &by.name)?;
        }
        let key = ReadyKey::new(options.priority, now.as_millis());
        let expires_at = options.expires_at.map(Timestamp::as_millis);
        let spot = self.index.spot(line, options.group_key.as_ref());
        self.index.add_idle(row, spot, Idle::Ready(key), expires_at);
        self.index.queue_of(line).live += 1;
        self.index.finished_rows -= 1;
        self.wake = true;
        Ok(ReviveOutcome::Revived { task, queue })
    }

    /// The row goes back from history to jobs, its last attempt to those before.
    fn revive_row(
        &self,
        row: Row,
        now: Timestamp,
        options: &offloop_job::JobOptions,
    ) -> Result<(), Failure> {
        let sql = "INSERT INTO jobs (id, rnd, line, state, priority, attempt, streak, \
                   due_at, run_at, expires_at, class, exit_code, signal, unique_key, options, \
                   message, payload) SELECT id, rnd, line, 2, priority, 0, 0, ?2, run_at, ?3, \
                   class, exit_code, signal, ?4, ?5, message, payload FROM history WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute((
            row as i64,
            now.as_millis() as i64,
            options.expires_at.map(|at| at.as_millis() as i64),
            held_by_state(options),
            codec::encode(options),
        ))?;
        let sql = "INSERT OR REPLACE INTO attempts SELECT id, lease, attempt, node, lane, \
                   started_at, ended_at, wait_us, wall_us, cpu_us, max_rss, \
                   iif(attempt_failed, class, NULL), iif(attempt_failed, exit_code, NULL), \
                   iif(attempt_failed, signal, NULL), iif(attempt_failed, message, NULL), \
                   executor, coalesce(log_dropped, 0), coalesce(log_head, x''), \
                   coalesce(log_tail, x''), bytes_in, bytes_out, age_us FROM history WHERE id = ?1 AND started_at IS NOT NULL";
        self.conn.prepare_cached(sql)?.execute([row as i64])?;
        self.trim_attempts(row)?;
        let sql = "DELETE FROM history WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute([row as i64])?;
        Ok(())
    }

    pub(super) fn delete(&mut self, id: JobId) -> Result<DeleteOutcome, Failure> {
        if self.final_state(id)?.is_some() {
            self.forget(id.order())?;
            self.forget_unheard(id)?;
            meta::write(self.conn, meta::LAST_ROW, self.index.last_row)?;
            return Ok(DeleteOutcome::Deleted);
        }
        Ok(match self.find_live(id)? {
            Some(live) => DeleteOutcome::NotFinal(self.live_state(id.order(), &live)),
            None => DeleteOutcome::Unknown,
        })
    }

    /// A finished job and everything that hangs on it.
    pub(super) fn forget(&mut self, row: Row) -> Result<(), Failure> {
        self.forget_tags(row)?;
        let (from, to) = (payload_blob(row) as i64, result_blob(row) as i64);
        for (sql, parameters) in [
            (
                "DELETE FROM history WHERE id BETWEEN ?1 AND ?2",
                (row as i64, row as i64),
            ),
            (
                "DELETE FROM attempts WHERE job BETWEEN ?1 AND ?2",
                (row as i64, row as i64),
            ),
            ("DELETE FROM blobs WHERE id BETWEEN ?1 AND ?2", (from, to)),
        ] {
            self.conn.prepare_cached(sql)?.execute(parameters)?;
        }
        self.forget_checkpoint(row)?;
        self.index.finished_rows -= 1;
        Ok(())
    }
}

/// Columns 1 to 3: priority, run_at, options.
fn read_options(
    found: &SqlRow<'_>,
    queue: &QueueName,
) -> rusqlite::Result<offloop_job::JobOptions> {
    let text = found.get_ref(3)?.as_str_or_null()?;
    options(queue, found.get(1)?, found.get(2)?, text).map_err(|what| {
        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, what.into())
    })
}
