//! Moving a job that ended from the live table to the history.

use offloop_job::{FinalReason, JobId, JobState, Step, Timestamp};
use offloop_store::AttemptReport;
use rusqlite::OptionalExtension;

use super::Desk;
use crate::errors::Failure;
use crate::index::{LineId, ReadyKey, Row, unique_hash};
use crate::tables::{INLINE_BYTES_MAX, micros, result_blob, write_blob};

/// How a job ended.
pub(super) struct End<'r> {
    pub(super) state: JobState,
    pub(super) at: Timestamp,
    pub(super) reason: Option<FinalReason>,
    pub(super) result: Option<&'r [u8]>,
    /// Of its last attempt; `None` if it was ended while nobody ran it.
    pub(super) report: Option<&'r AttemptReport>,
}

impl Desk<'_> {
    /// The row goes from jobs to history. The index is the caller's.
    pub(super) fn finish_row(&mut self, row: Row, end: &End<'_>) -> Result<(), Failure> {
        let report = end.report;
        let (node, lane) = match report {
            Some(report) => (
                Some(self.word(&report.node.0)?),
                Some(self.word(&report.lane)?),
            ),
            None => (None, None),
        };
        let mut result = end.result;
        if let Some(long) = result.filter(|result| result.len() > INLINE_BYTES_MAX) {
            write_blob(self.conn, result_blob(row), long)?;
            result = None;
        }
        let failure = report.and_then(|report| report.failure.as_ref());
        let log = report.map(|report| &report.log);
        let usage = report.map(|report| &report.usage);
        let bind = &mut self.hot.finish;
        bind.raw_bind_parameter(1, row as i64)?;
        bind.raw_bind_parameter(2, end.state as i64)?;
        bind.raw_bind_parameter(3, end.at.as_millis() as i64)?;
        bind.raw_bind_parameter(4, end.reason.map(|reason| reason as i64))?;
        bind.raw_bind_parameter(5, failure.is_some())?;
        bind.raw_bind_parameter(6, failure.map(|failure| failure.class as i64))?;
        bind.raw_bind_parameter(7, failure.and_then(|failure| failure.exit_code))?;
        bind.raw_bind_parameter(8, failure.and_then(|failure| failure.signal))?;
        bind.raw_bind_parameter(9, node)?;
        bind.raw_bind_parameter(10, lane)?;
        bind.raw_bind_parameter(
            11,
            report.map(|report| report.started_at.as_millis() as i64),
        )?;
        bind.raw_bind_parameter(12, report.map(|report| report.ended_at.as_millis() as i64))?;
        bind.raw_bind_parameter(13, report.map(|report| micros(report.wait)))?;
        bind.raw_bind_parameter(14, usage.map(|usage| micros(usage.wall)))?;
        bind.raw_bind_parameter(15, usage.and_then(|usage| usage.cpu).map(micros))?;
        let max_rss = usage.and_then(|usage| usage.max_rss_bytes);
        bind.raw_bind_parameter(16, max_rss.map(|bytes| bytes as i64))?;
        let dropped = log
            .map(|log| log.dropped_bytes as i64)
            .filter(|bytes| *bytes > 0);
        bind.raw_bind_parameter(17, dropped)?;
        bind.raw_bind_parameter(18, failure.map(|failure| &*failure.message))?;
        bind.raw_bind_parameter(19, report.map(|report| &*report.executor))?;
        bind.raw_bind_parameter(20, result)?;
        bind.raw_bind_parameter(21, log.map(|log| &*log.head).filter(|log| !log.is_empty()))?;
        bind.raw_bind_parameter(22, log.map(|log| &*log.tail).filter(|log| !log.is_empty()))?;
        let inserted = bind.raw_execute()?;
        let deleted = self.hot.delete.execute([row as i64])?;
        if (inserted, deleted) != (1, 1) {
            return Err(Failure::bug(format!(
                "job {row:#x} was not where it was known to be"
            )));
        }
        self.index.finished_rows += 1;
        Ok(())
    }

    /// Ends a job that nobody runs. `None` if it is not there, or not idle.
    pub(super) fn end_idle_job(
        &mut self,
        now: Timestamp,
        id: JobId,
        step: Step,
    ) -> Result<Option<(LineId, JobState)>, Failure> {
        let row = id.order();
        let sql = "SELECT rnd, line, state, priority, due_at, unique_key FROM jobs WHERE id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let found = query.query_row([row as i64], |found| {
            let line = LineId(found.get::<_, u32>(1)? - 1);
            let key = ReadyKey::new(found.get(3)?, found.get(4)?);
            let unique: Option<Box<str>> = found.get(5)?;
            Ok((
                found.get::<_, u64>(0)?,
                line,
                found.get::<_, i64>(2)?,
                key,
                unique,
            ))
        });
        let Some((rnd, line, code, key, unique)) = found.optional()? else {
            return Ok(None);
        };
        let state = self.idle_state(code, key.due());
        let Some(state) = state.after(step).ok().filter(|_| rnd == id.random()) else {
            return Ok(None);
        };
        let end = End {
            state,
            at: now,
            reason: None,
            result: None,
            report: None,
        };
        self.finish_row(row, &end)?;
        self.index.remove_idle(row, line, key);
        self.index.queue_of(line).live -= 1;
        if let Some(unique) = unique {
            let task = &self.index.lines[line.0 as usize].task;
            let hash = unique_hash(task, &unique);
            self.index.release(hash);
        }
        Ok(Some((line, state)))
    }

    /// The line of a live job.
    pub(super) fn line_of_row(&self, row: Row) -> Result<Option<LineId>, Failure> {
        let mut query = self
            .conn
            .prepare_cached("SELECT line FROM jobs WHERE id = ?1")?;
        let line = query
            .query_row([row as i64], |row| row.get::<_, u32>(0))
            .optional()?;
        Ok(line.map(|line| LineId(line - 1)))
    }
}
