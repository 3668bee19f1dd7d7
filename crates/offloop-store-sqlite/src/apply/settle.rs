//! Ending attempts, under the fence of their lease.

use offloop_job::limits::ATTEMPTS_KEPT_MAX;
use offloop_job::{FailureClass, FinalReason, JobState, Timestamp};
use offloop_store::{AttemptReport, Settled, Settlement, Verdict};
use rusqlite::OptionalExtension;

use super::Desk;
use super::finish::End;
use crate::errors::Failure;
use crate::index::{Idle, ReadyKey, Row, Running};
use crate::tables::micros;

impl Desk<'_> {
    pub(super) fn settle(&mut self, now: Timestamp, end: &Settlement) -> Result<Settled, Failure> {
        let row = end.id.order();
        let held = self.index.running.get(&row).copied();
        let held = held.filter(|held| held.rnd == end.id.random() && held.lease == end.lease.0);
        let Some(held) = held else {
            return self.settled_before(end);
        };
        let state = match &end.verdict {
            // A job whose cancel was answered must not run again.
            Verdict::Retry { .. } | Verdict::HandBack if held.cancelling => {
                self.end_job(now, row, JobState::Cancelled, None, None, &end.report)?
            }
            Verdict::Completed { result } => {
                let result = result.as_deref();
                self.end_job(now, row, JobState::Completed, None, result, &end.report)?
            }
            Verdict::GiveUp { reason } => {
                let reason = Some(*reason);
                self.end_job(now, row, JobState::Failed, reason, None, &end.report)?
            }
            Verdict::Abort => {
                self.end_job(now, row, JobState::Cancelled, None, None, &end.report)?
            }
            Verdict::Retry { due } => self.retry(row, held, *due, &end.report)?,
            Verdict::HandBack => self.hand_back(row, held)?,
        };
        self.index.running.remove(&row);
        self.index.line(held.line).running -= 1;
        if held.noted {
            let sql = "DELETE FROM progress WHERE job = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        if state.is_final() {
            self.index.queue_of(held.line).live -= 1;
            if let Some(unique) = held.unique {
                self.index.release(unique);
            }
        }
        self.write_records(now, &end.records)?;
        Ok(Settled::Done(state))
    }

    fn end_job(
        &mut self,
        at: Timestamp,
        row: Row,
        state: JobState,
        reason: Option<FinalReason>,
        result: Option<&[u8]>,
        report: &AttemptReport,
    ) -> Result<JobState, Failure> {
        let end = End {
            state,
            at,
            reason,
            result,
            report: Some(report),
        };
        self.finish_row(row, &end)?;
        Ok(state)
    }

    fn retry(
        &mut self,
        row: Row,
        held: Running,
        due: Timestamp,
        report: &AttemptReport,
    ) -> Result<JobState, Failure> {
        self.put_on_record(row, &held, report)?;
        let class = report.failure.as_ref().map(|failure| failure.class);
        let crash_like = class.is_some_and(FailureClass::is_crash_like);
        let streak = if crash_like { held.streak + 1 } else { 0 };
        let key = ReadyKey::new(held.ready.priority(), due.as_millis());
        let idle = self.index.scheduled(key);
        let sql = "UPDATE jobs SET state = ?2, due_at = ?3, streak = ?4, claimed_at = NULL, \
                   cancelling = 0 WHERE id = ?1";
        let mut update = self.conn.prepare_cached(sql)?;
        update.execute((row as i64, idle.code(), due.as_millis() as i64, streak))?;
        if let Some(failure) = &report.failure {
            let sql = "UPDATE jobs SET class = ?2, message = ?3, exit_code = ?4, signal = ?5 \
                       WHERE id = ?1";
            let class = failure.class as i64;
            let (code, signal) = (failure.exit_code, failure.signal);
            let mut update = self.conn.prepare_cached(sql)?;
            update.execute((row as i64, class, &*failure.message, code, signal))?;
        }
        self.index.add_idle(row, held.line, idle, held.expires_at);
        Ok(JobState::Scheduled)
    }

    fn hand_back(&mut self, row: Row, held: Running) -> Result<JobState, Failure> {
        let idle = Idle::Ready(held.ready);
        let sql = "UPDATE jobs SET state = ?2, attempt = ?3, claimed_at = NULL, cancelling = 0 \
                   WHERE id = ?1";
        let mut update = self.conn.prepare_cached(sql)?;
        update.execute((row as i64, idle.code(), held.attempt - 1))?;
        self.index.add_idle(row, held.line, idle, held.expires_at);
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
                   ?18, ?19)";
        self.conn.prepare_cached(sql)?.execute(rusqlite::params![
            row as i64,
            held.lease as i64,
            held.attempt,
            node,
            lane,
            report.started_at.as_millis() as i64,
            report.ended_at.as_millis() as i64,
            micros(report.wait),
            micros(report.usage.wall),
            report.usage.cpu.map(micros),
            report.usage.max_rss_bytes.map(|bytes| bytes as i64),
            failure.map(|failure| failure.class as i64),
            failure.and_then(|failure| failure.exit_code),
            failure.and_then(|failure| failure.signal),
            failure.map(|failure| &*failure.message),
            &*report.executor,
            report.log.dropped_bytes as i64,
            &*report.log.head,
            &*report.log.tail,
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
    fn settled_before(&self, end: &Settlement) -> Result<Settled, Failure> {
        let row = end.id.order() as i64;
        let sql = "SELECT rnd, lease, state, due_at FROM jobs WHERE id = ?1 \
                   UNION ALL SELECT rnd, lease, state, due_at FROM history WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let found = query.query_row([row], |row| {
            let lease: Option<u64> = row.get(1)?;
            Ok((
                row.get::<_, u64>(0)?,
                lease,
                row.get::<_, i64>(2)?,
                row.get::<_, u64>(3)?,
            ))
        });
        let Some((rnd, lease, code, due)) = found.optional()? else {
            return Ok(Settled::Stale);
        };
        if rnd != end.id.random() || lease != Some(end.lease.0) {
            return Ok(Settled::Stale);
        }
        let last = u8::try_from(code).ok().and_then(JobState::from_code);
        let ended = last.filter(|state| state.is_final());
        Ok(Settled::Already(
            ended.unwrap_or_else(|| self.idle_state(code, due)),
        ))
    }
}
