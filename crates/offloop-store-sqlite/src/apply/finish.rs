//! Moving a job that ended from the live table to the history.

use offloop_job::limits::KEEP_MIN;
use offloop_job::{FailureClass, FinalReason, JobId, JobState, Step, Timestamp};
use offloop_store::{AttemptReport, FollowOf, Heard, barred_message, codec};

use super::Desk;
use super::groups::MemberEnd;
use super::insert::Room;
use crate::errors::Failure;
use crate::index::{LineId, ReadyKey, Row, unique_hash};
use crate::tables::{INLINE_BYTES_MAX, LiveRow, bytes, micros, ms, result_blob, size, write_blob};

/// How a job ended.
pub(super) struct End<'r> {
    pub(super) state: JobState,
    pub(super) at: Timestamp,
    pub(super) reason: Option<FinalReason>,
    pub(super) result: Option<&'r [u8]>,
    pub(super) attempt: Option<LastAttempt<'r>>,
}

/// The attempt that ended it; none if it was ended while nobody ran it.
pub(super) struct LastAttempt<'r> {
    pub(super) lease: u64,
    pub(super) number: u16,
    pub(super) claimed_at: u64,
    pub(super) report: &'r AttemptReport,
}

/// Until when the finished job is kept, if it says so itself.
fn keep_until(live: &LiveRow, at: Timestamp) -> Option<i64> {
    let keep = codec::keep(live.options.as_deref()?)?;
    Some(ms(at.plus(keep.max(KEEP_MIN))))
}

impl Desk<'_> {
    /// The row goes from jobs to history. The index is the caller's.
    pub(super) fn finish_row(
        &mut self,
        row: Row,
        live: &LiveRow,
        end: &End<'_>,
    ) -> Result<(), Failure> {
        let attempt = end.attempt.as_ref();
        let report = attempt.map(|attempt| attempt.report);
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
        let usage = report.map(|report| &report.usage);
        let own_failure = report.and_then(|report| report.failure.as_ref());
        let failure = own_failure.or(live.failure.as_deref());
        let log = report
            .map(|report| &report.log)
            .filter(|log| !log.is_empty());
        let number = attempt.map_or(live.attempt, |attempt| attempt.number);
        let max_rss = usage.and_then(|usage| usage.max_rss_bytes);
        let bind = &mut self.hot.finish;
        bind.raw_bind_parameter(1, row as i64)?;
        bind.raw_bind_parameter(2, live.rnd as i64)?;
        bind.raw_bind_parameter(3, live.line.0 + 1)?;
        bind.raw_bind_parameter(4, end.state as i64)?;
        bind.raw_bind_parameter(5, live.priority)?;
        bind.raw_bind_parameter(6, number)?;
        bind.raw_bind_parameter(7, live.due_at as i64)?;
        bind.raw_bind_parameter(8, ms(end.at))?;
        let lease = attempt.map(|attempt| attempt.lease).or(live.lease);
        bind.raw_bind_parameter(9, lease.map(|lease| lease as i64))?;
        bind.raw_bind_parameter(10, attempt.map(|attempt| attempt.claimed_at as i64))?;
        bind.raw_bind_parameter(11, node)?;
        bind.raw_bind_parameter(12, lane)?;
        bind.raw_bind_parameter(13, report.map(|report| ms(report.started_at)))?;
        bind.raw_bind_parameter(14, report.map(|report| ms(report.ended_at)))?;
        bind.raw_bind_parameter(15, report.map(|report| micros(report.wait)))?;
        bind.raw_bind_parameter(16, usage.map(|usage| micros(usage.wall)))?;
        bind.raw_bind_parameter(17, usage.and_then(|usage| usage.cpu).map(micros))?;
        bind.raw_bind_parameter(18, max_rss.map(size))?;
        bind.raw_bind_parameter(19, own_failure.is_some())?;
        bind.raw_bind_parameter(20, live.run_at.map(|at| at as i64))?;
        bind.raw_bind_parameter(21, end.reason.map(|reason| reason as i64))?;
        bind.raw_bind_parameter(22, failure.map(|failure| failure.class as i64))?;
        bind.raw_bind_parameter(23, failure.and_then(|failure| failure.exit_code))?;
        bind.raw_bind_parameter(24, failure.and_then(|failure| failure.signal))?;
        bind.raw_bind_parameter(25, log.map(|log| log.dropped_bytes as i64))?;
        bind.raw_bind_parameter(26, live.options.as_deref())?;
        bind.raw_bind_parameter(27, report.map(|report| &*report.executor))?;
        bind.raw_bind_parameter(28, failure.map(|failure| &*failure.message))?;
        bind.raw_bind_parameter(29, live.payload.as_deref())?;
        bind.raw_bind_parameter(30, result)?;
        bind.raw_bind_parameter(31, log.map(|log| &*log.head))?;
        bind.raw_bind_parameter(32, log.map(|log| &*log.tail))?;
        bind.raw_bind_parameter(33, usage.and_then(|usage| bytes(usage.bytes_in)))?;
        bind.raw_bind_parameter(34, usage.and_then(|usage| bytes(usage.bytes_out)))?;
        let age = usage.and_then(|usage| usage.executor_age);
        bind.raw_bind_parameter(35, age.map(micros))?;
        bind.raw_bind_parameter(36, (live.snoozes > 0).then_some(live.snoozes))?;
        bind.raw_bind_parameter(37, keep_until(live, end.at))?;
        bind.raw_execute()?;
        if self.hot.delete.execute([row as i64])? != 1 {
            return Err(Failure::bug(format!(
                "job {row:#x} was not where it was known to be"
            )));
        }
        if end.state == JobState::Completed {
            self.forget_checkpoint(row)?;
        }
        self.index.finished_rows += 1;
        self.schedule_job_ended(row)
    }

    /// Ends a job that nobody runs. `None` if it is not there, or runs.
    pub(super) fn end_idle_job(
        &mut self,
        now: Timestamp,
        id: JobId,
        step: Step,
    ) -> Result<Option<(LineId, JobState)>, Failure> {
        let row = id.order();
        let Some(mut live) = self.find_live(id)? else {
            return Ok(None);
        };
        let Ok(state) = self.live_state(row, &live).after(step) else {
            return Ok(None);
        };
        let barred = step == Step::Bar;
        if barred {
            let parent = self.index.groups.barred.get(&row).copied();
            let why = barred_message(parent);
            live.failure = Some(Box::new(offloop_job::Failure::new(
                FailureClass::Error,
                why,
            )));
        }
        let end = End {
            state,
            at: now,
            reason: barred.then_some(FinalReason::Dependency),
            result: None,
            attempt: None,
        };
        self.finish_row(row, &live, &end)?;
        let key = ReadyKey::new(live.priority, live.due_at);
        let spot = self.index.spot(live.line, live.group_key().as_ref());
        self.index.remove_idle(row, spot, key);
        self.end_waiting(row, &live)?;
        self.index.queue_of(live.line).live -= 1;
        if let Some(unique) = &live.unique_key {
            let task = &self.index.lines[live.line.0 as usize].task;
            let hash = unique_hash(task, unique);
            self.index.release(hash, id);
        }
        self.ended(row, &live, &end)?;
        Ok(Some((live.line, state)))
    }

    /// What every end brings with it, whichever way it came.
    pub(super) fn ended(&mut self, row: Row, live: &LiveRow, end: &End<'_>) -> Result<(), Failure> {
        let id = JobId::from_parts(row, live.rnd);
        if let Some(group) = live.options.as_deref().and_then(codec::group) {
            let own = end.attempt.as_ref();
            let own = own.and_then(|attempt| attempt.report.failure.as_ref());
            let member = MemberEnd {
                id,
                state: end.state,
                reason: end.reason,
                failure: own.or(live.failure.as_deref()),
            };
            self.count_member(end.at, group, &member)?;
        }
        self.pass_on(end.at, id, end.state)
    }

    /// An end that nobody was asked about: somebody will be.
    pub(super) fn note_unheard(&mut self, id: JobId) -> Result<(), Failure> {
        let sql = "INSERT OR REPLACE INTO unheard VALUES (?1, ?2)";
        let row = (id.order() as i64, id.random() as i64);
        self.conn.prepare_cached(sql)?.execute(row)?;
        self.index.groups.unheard.insert(id);
        Ok(())
    }

    pub(super) fn unheard(&self, limit: u16) -> Vec<JobId> {
        let unheard = self.index.groups.unheard.iter().copied();
        unheard.take(usize::from(limit)).collect()
    }

    /// Whether it was among them.
    pub(super) fn forget_unheard(&mut self, id: JobId) -> Result<bool, Failure> {
        if !self.index.groups.unheard.remove(&id) {
            return Ok(false);
        }
        let sql = "DELETE FROM unheard WHERE job = ?1";
        self.conn
            .prepare_cached(sql)?
            .execute([id.order() as i64])?;
        Ok(true)
    }

    pub(super) fn heard(&mut self, now: Timestamp, ends: &[Heard]) -> Result<(), Failure> {
        for end in ends {
            if self.forget_unheard(end.id)? {
                self.write_records(now, &end.records)?;
                for job in &end.follow {
                    self.follow(now, job, FollowOf::Job(end.id), Room::Checked)?;
                }
            }
        }
        Ok(())
    }

    /// A live job's row, if it is this very job's.
    pub(super) fn find_live(&mut self, id: JobId) -> Result<Option<LiveRow>, Failure> {
        let live = LiveRow::find(&mut self.hot, id.order())?;
        Ok(live.filter(|live| live.rnd == id.random()))
    }

    /// Where a live job stands.
    pub(super) fn live_state(&self, row: Row, live: &LiveRow) -> JobState {
        if self.index.running.contains_key(&row) {
            return JobState::Running;
        }
        match live.code {
            1 if live.due_at > self.index.promoted => JobState::Scheduled,
            -1 => JobState::Scheduled,
            0 => JobState::Waiting,
            _ => JobState::Ready,
        }
    }
}
