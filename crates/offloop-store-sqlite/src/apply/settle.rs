//! Ending attempts, under the fence of their lease.

use offloop_job::limits::ATTEMPTS_KEPT_MAX;
use offloop_job::{FailureClass, FinalReason, JobId, JobState, Timestamp};
use offloop_store::{AttemptReport, FollowOf, Settled, Settlement, Verdict};
use rusqlite::OptionalExtension;

use super::Desk;
use super::finish::{End, LastAttempt};
use super::insert::Room;
use crate::errors::Failure;
use crate::index::{Idle, ReadyKey, Row, Running};
use crate::tables::{LiveRow, bytes, micros, ms, size};

/// How a job ends for good: state, reason, result.
type Final<'r> = (JobState, Option<FinalReason>, Option<&'r [u8]>);

impl Desk<'_> {
    pub(super) fn settle(&mut self, now: Timestamp, end: &Settlement) -> Result<Settled, Failure> {
        let row = end.id.order();
        let held = self.index.running.get(&row);
        if !held.is_some_and(|held| held.rnd == end.id.random() && held.lease == end.lease.0) {
            return self.settled_before(end);
        }
        let Some(mut held) = self.index.running.remove(&row) else {
            return Ok(Settled::Stale);
        };
        // A job that ran before the last start has its row on file only.
        let live = match held.row.take() {
            Some(live) => *live,
            None => match LiveRow::find(&mut self.hot, row)? {
                Some(live) => live,
                None => return Err(Failure::bug(format!("running job {row:#x} has no row"))),
            },
        };
        let state = match &end.verdict {
            Verdict::Completed { result } => {
                let last = (JobState::Completed, None, result.as_deref());
                self.end_job(now, row, &held, &live, last, &end.report)?
            }
            Verdict::GiveUp { reason } => {
                let last = (JobState::Failed, Some(*reason), None);
                self.end_job(now, row, &held, &live, last, &end.report)?
            }
            // A job whose cancel was answered must not run again.
            Verdict::Retry { due } if !held.cancelling => {
                self.retry(row, &held, &live, *due, &end.report)?
            }
            Verdict::Snooze { due } if !held.cancelling => {
                self.snooze(row, &held, &live, *due, &end.report)?
            }
            Verdict::HandBack if !held.cancelling => self.hand_back(row, &held, &live)?,
            Verdict::Abort | Verdict::Retry { .. } | Verdict::Snooze { .. } | Verdict::HandBack => {
                let last = (JobState::Cancelled, None, None);
                self.end_job(now, row, &held, &live, last, &end.report)?
            }
        };
        if state.is_final() && !end.verdict.step().edge().1.is_final() {
            self.note_unheard(end.id)?;
        }
        self.hot.unclaim.execute([row as i64])?;
        self.wake |= self.index.end_frees(held.spot);
        self.index.remove_running(held.spot);
        self.write_records(now, &end.records)?;
        for job in &end.follow {
            self.follow(now, job, FollowOf::Job(end.id), Room::Checked)?;
        }
        Ok(Settled::Done(state))
    }

    fn end_job(
        &mut self,
        at: Timestamp,
        row: Row,
        held: &Running,
        live: &LiveRow,
        (state, reason, result): Final<'_>,
        report: &AttemptReport,
    ) -> Result<JobState, Failure> {
        let end = End {
            state,
            at,
            reason,
            result,
            attempt: Some(LastAttempt {
                lease: held.lease,
                number: held.attempt,
                claimed_at: held.claimed_at,
                report,
            }),
        };
        self.finish_row(row, live, &end)?;
        self.spend(held.line, live, report)?;
        self.index.queue_of(held.line).live -= 1;
        if let Some(unique) = held.unique {
            self.index.release(unique, JobId::from_parts(row, held.rnd));
        }
        self.ended(row, live, &end)?;
        Ok(state)
    }

    fn retry(
        &mut self,
        row: Row,
        held: &Running,
        live: &LiveRow,
        due: Timestamp,
        report: &AttemptReport,
    ) -> Result<JobState, Failure> {
        self.put_on_record(row, held, report)?;
        self.spend(held.line, live, report)?;
        let own_failure = report.failure.as_ref();
        let crash_like = own_failure.is_some_and(|failure| failure.class.is_crash_like());
        let streak = if crash_like { live.streak + 1 } else { 0 };
        let over_memory = own_failure.is_some_and(|f| f.class == FailureClass::MemoryLimit);
        let memory_ends = live.memory_ends.saturating_add(over_memory.into());
        let key = ReadyKey::new(live.priority, due.as_millis());
        let idle = self.index.scheduled(key);
        let failure = own_failure.or(live.failure.as_deref());
        let sql = "UPDATE jobs SET state = ?2, due_at = ?3, attempt = ?4, streak = ?5, \
                   lease = ?6, class = ?7, message = ?8, exit_code = ?9, signal = ?10, \
                   memory_ends = ?11, snoozes = NULL WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute((
            row as i64,
            idle.code(),
            ms(due),
            held.attempt,
            streak,
            held.lease as i64,
            failure.map(|failure| failure.class as FailureClass as i64),
            failure.map(|failure| &*failure.message),
            failure.and_then(|failure| failure.exit_code),
            failure.and_then(|failure| failure.signal),
            (memory_ends > 0).then_some(memory_ends),
        ))?;
        self.index.add_idle(row, held.spot, idle, live.expires_at);
        Ok(JobState::Scheduled)
    }

    /// Scheduled as a retry is, and nothing of the attempt is on record but its cost.
    fn snooze(
        &mut self,
        row: Row,
        held: &Running,
        live: &LiveRow,
        due: Timestamp,
        report: &AttemptReport,
    ) -> Result<JobState, Failure> {
        self.spend(held.line, live, report)?;
        let key = ReadyKey::new(live.priority, due.as_millis());
        let idle = self.index.scheduled(key);
        let sql = "UPDATE jobs SET state = ?2, due_at = ?3, lease = ?4, snoozes = ?5 WHERE id = ?1";
        self.conn.prepare_cached(sql)?.execute((
            row as i64,
            idle.code(),
            ms(due),
            held.lease as i64,
            live.snoozes.saturating_add(1),
        ))?;
        self.index.add_idle(row, held.spot, idle, live.expires_at);
        Ok(JobState::Scheduled)
    }

    /// The row has still what it had before the claim, but for the lease.
    fn hand_back(&mut self, row: Row, held: &Running, live: &LiveRow) -> Result<JobState, Failure> {
        let sql = "UPDATE jobs SET state = 2, lease = ?2 WHERE id = ?1";
        let mut update = self.conn.prepare_cached(sql)?;
        update.execute((row as i64, held.lease as i64))?;
        let key = ReadyKey::new(live.priority, live.due_at);
        self.index
            .add_idle(row, held.spot, Idle::Ready(key), live.expires_at);
        self.wake = true;
        Ok(JobState::Ready)
    }

    /// An attempt that is not the job's last.
    fn put_on_record(
        &mut self,
        row: Row,
        held: &Running,
        report: &AttemptReport,
    ) -> Result<(), Failure> {
        let (node, lane) = (self.word(&report.node.0)?, self.word(&report.lane)?);
        let failure = report.failure.as_ref();
        let sql = "INSERT OR REPLACE INTO attempts VALUES \
                   (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, \
                   ?18, ?19, ?20, ?21, ?22)";
        self.conn.prepare_cached(sql)?.execute(rusqlite::params![
            row as i64,
            held.lease as i64,
            held.attempt,
            node,
            lane,
            ms(report.started_at),
            ms(report.ended_at),
            micros(report.wait),
            micros(report.usage.wall),
            report.usage.cpu.map(micros),
            report.usage.max_rss_bytes.map(size),
            failure.map(|failure| failure.class as i64),
            failure.and_then(|failure| failure.exit_code),
            failure.and_then(|failure| failure.signal),
            failure.map(|failure| &*failure.message),
            &*report.executor,
            report.log.dropped_bytes as i64,
            &*report.log.head,
            &*report.log.tail,
            bytes(report.usage.bytes_in),
            bytes(report.usage.bytes_out),
            report.usage.executor_age.map(micros),
        ])?;
        self.trim_attempts(row)
    }

    pub(super) fn trim_attempts(&self, row: Row) -> Result<(), Failure> {
        let sql = "DELETE FROM attempts WHERE job = ?1 AND lease <= (SELECT lease FROM attempts \
                   WHERE job = ?1 ORDER BY lease DESC LIMIT 1 OFFSET ?2)";
        let mut trim = self.conn.prepare_cached(sql)?;
        trim.execute((row as i64, ATTEMPTS_KEPT_MAX as i64))?;
        Ok(())
    }

    /// A settlement whose lease is not running: applied before, or stale.
    fn settled_before(&mut self, end: &Settlement) -> Result<Settled, Failure> {
        let row = end.id.order();
        if let Some(live) = self.find_live(end.id)? {
            let state = self.live_state(row, &live);
            let known = live.lease == Some(end.lease.0) && state != JobState::Running;
            return Ok(if known {
                Settled::Already(state)
            } else {
                Settled::Stale
            });
        }
        let sql = "SELECT rnd, lease, state FROM history WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let found = query.query_row([row as i64], |row| {
            let lease: Option<u64> = row.get(1)?;
            Ok((row.get::<_, u64>(0)?, lease, row.get::<_, u8>(2)?))
        });
        let found = found
            .optional()?
            .filter(|(rnd, lease, _)| *rnd == end.id.random() && *lease == Some(end.lease.0));
        let state = found.and_then(|found| JobState::from_code(found.2));
        Ok(state.map_or(Settled::Stale, Settled::Already))
    }
}
