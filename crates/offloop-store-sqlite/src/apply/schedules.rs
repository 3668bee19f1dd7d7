//! Schedules: a due time, its row, its job and what is next, in one transaction.

use std::time::Duration;

use offloop_job::limits::{LEDGER_KEEP, LEDGER_ROWS_MAX, SCHEDULES_MAX};
use offloop_job::{JobId, ScheduleName, SkipReason, Timestamp};
use offloop_store::{
    AuditEntry, Entry, Expect, Fired, Firing, LedgerOutcome, LedgerRow, Next, PutOutcome,
    PutSchedule, ScheduleRow, Stretch, What, codec, schedule_text,
};

use super::Desk;
use super::insert::Room;
use crate::errors::Failure;
use crate::index::{Known, Row};
use crate::reader::schedules::find;
use crate::tables::ms;

/// Schedules whose old rows are looked for in one call.
const PRUNED_AT_ONCE: usize = 256;

impl Desk<'_> {
    /// A job that a schedule made is alive.
    pub(super) fn schedule_job_began(
        &mut self,
        job: JobId,
        name: &ScheduleName,
    ) -> Result<(), Failure> {
        let sql = "INSERT INTO schedule_jobs VALUES (?1, ?2, ?3)";
        let row = (job.order() as i64, job.random() as i64, name.as_str());
        self.conn.prepare_cached(sql)?.execute(row)?;
        self.index.schedules.began(job, name.clone());
        Ok(())
    }

    /// A job has ended; most were not made by a schedule.
    pub(super) fn schedule_job_ended(&mut self, row: Row) -> Result<(), Failure> {
        if self.index.schedules.ended(row) {
            let sql = "DELETE FROM schedule_jobs WHERE job = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        Ok(())
    }

    pub(super) fn put_schedule(
        &mut self,
        now: Timestamp,
        put: &PutSchedule,
    ) -> Result<PutOutcome, Failure> {
        let schedules = &mut self.index.schedules;
        let old = schedules.known.get(&put.name).cloned();
        if put.expect != old.as_ref().map(|old| old.revision) {
            return Ok(PutOutcome::Conflict);
        }
        let known = if let Some(mut known) = old {
            known.revision += 1;
            if let Next::Set(next) = put.next {
                known.next_due = next.map(Timestamp::as_millis);
                if let Some(held) = known.held.take() {
                    let held = Timestamp::from_millis(held);
                    let why = SkipReason::Replaced;
                    let row = LedgerRow::skipped(held, now.since(held), &why, None, now);
                    self.keep_row(&mut known, &row, false)?;
                    self.cut_ledger(&mut known)?;
                }
            }
            known
        } else {
            if schedules.known.len() >= SCHEDULES_MAX {
                return Ok(PutOutcome::Full);
            }
            schedules.last_id += 1;
            let next = match put.next {
                Next::Keep => None,
                Next::Set(next) => next,
            };
            Known {
                id: schedules.last_id,
                revision: 1,
                next_due: next.map(Timestamp::as_millis),
                held: None,
                rows: 0,
            }
        };
        let before = match known.revision {
            1 => None,
            _ => find(self.conn, &put.name)?,
        };
        let before = before.as_ref().map(|row| &*row.spec);
        let (actor, after) = (put.actor.clone(), Some(&*put.spec));
        self.note_change(AuditEntry::of_schedule(
            now, actor, &put.name, before, after,
        ))?;
        self.write_spec(now, put, &known)?;
        self.write_times(&known)?;
        self.index.schedules.known.insert(put.name.clone(), known);
        match find(self.conn, &put.name)? {
            Some(row) => Ok(PutOutcome::Put(row)),
            None => Err(Failure::bug("a schedule that was written is not there")),
        }
    }

    fn write_spec(&self, now: Timestamp, put: &PutSchedule, known: &Known) -> Result<(), Failure> {
        let spec = &*put.spec;
        let millis = |span: Duration| span.as_millis() as i64;
        let sql = "INSERT INTO schedules VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?6, ?7, ?8, ?9, ?10, ?11, \
                   ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19) ON CONFLICT (id) DO UPDATE SET \
                   origin = ?3, revision = ?4, updated_at = ?5, paused = ?6, timing = ?7, \
                   timezone = ?8, missed = ?9, overlap = ?10, jitter_ms = ?11, \
                   alert_after_ms = ?12, starts_at = ?13, ends_at = ?14, task = ?15, queue = ?16, \
                   priority = ?17, options = ?18, payload = ?19";
        self.conn.prepare_cached(sql)?.execute(rusqlite::params![
            known.id,
            put.name.as_str(),
            put.origin as i64,
            known.revision as i64,
            ms(now),
            spec.paused,
            schedule_text::timing_text(&spec.timing),
            &*spec.timezone,
            schedule_text::missed_text(spec.missed),
            spec.overlap.as_str(),
            millis(spec.jitter),
            millis(spec.alert_after),
            spec.starts_at.map(ms),
            spec.ends_at.map(ms),
            spec.task.as_str(),
            spec.options.queue.as_str(),
            spec.options.priority,
            codec::encode(&spec.options),
            &*spec.payload,
        ])?;
        Ok(())
    }

    fn write_times(&self, known: &Known) -> Result<(), Failure> {
        let sql = "INSERT OR REPLACE INTO schedule_times VALUES (?1, ?2, ?3, ?4)";
        let at = |at: Option<u64>| at.map(|at| at as i64);
        let row = (known.id, at(known.next_due), at(known.held), known.rows);
        self.conn.prepare_cached(sql)?.execute(row)?;
        Ok(())
    }

    pub(super) fn delete_schedule(
        &mut self,
        now: Timestamp,
        name: &ScheduleName,
        actor: &str,
    ) -> Result<Option<ScheduleRow>, Failure> {
        let row = find(self.conn, name)?;
        let Some(known) = self.index.schedules.known.remove(name) else {
            return Ok(None);
        };
        for sql in [
            "DELETE FROM schedules WHERE id = ?1",
            "DELETE FROM schedule_times WHERE schedule = ?1",
            "DELETE FROM ledger WHERE schedule = ?1",
        ] {
            self.conn.prepare_cached(sql)?.execute([known.id])?;
        }
        let before = row.as_ref().map(|row| &*row.spec);
        self.note_change(AuditEntry::of_schedule(
            now,
            actor.into(),
            name,
            before,
            None,
        ))?;
        Ok(row)
    }

    pub(super) fn fire(&mut self, now: Timestamp, firing: &Firing) -> Result<Fired, Failure> {
        let Some(known) = self.index.schedules.known.get(&firing.name) else {
            return Ok(Fired::Stale(None));
        };
        let mut known = known.clone();
        let at = |at: Option<Timestamp>| at.map(Timestamp::as_millis);
        if let Expect::At {
            revision,
            next_due,
            held,
        } = firing.expect
            && (revision, at(next_due), at(held)) != (known.revision, known.next_due, known.held)
        {
            return Ok(Fired::Stale(find(self.conn, &firing.name)?));
        }
        if firing.unless_live && self.index.schedules.is_live(&firing.name) {
            return Ok(Fired::Live(self.index.schedules.live(&firing.name)));
        }
        let by_hand = firing.expect == Expect::Anything;
        let mut written = Vec::with_capacity(firing.entries.len());
        for entry in &firing.entries {
            written.extend(self.enter(now, &mut known, entry, by_hand)?);
        }
        if !by_hand {
            known.next_due = at(firing.next_due);
            known.held = at(firing.held);
        }
        self.cut_ledger(&mut known)?;
        self.write_times(&known)?;
        self.index
            .schedules
            .known
            .insert(firing.name.clone(), known);
        Ok(Fired::Done(written))
    }

    /// One due time; nothing if it has its row.
    fn enter(
        &mut self,
        now: Timestamp,
        known: &mut Known,
        entry: &Entry,
        by_hand: bool,
    ) -> Result<Option<LedgerRow>, Failure> {
        let sql = "SELECT 1 FROM ledger WHERE schedule = ?1 AND due_at = ?2 AND by_hand = ?3";
        let place = (known.id, ms(entry.due), by_hand);
        if self.conn.prepare_cached(sql)?.exists(place)? {
            return Ok(None);
        }
        let (due, late) = (entry.due, entry.late);
        let row = match &entry.what {
            What::Fire(job) => {
                let outcome = self.insert_one(now, job, &[], Room::Checked)?;
                LedgerRow::asked(due, late, &outcome, by_hand, now)
            }
            What::Skip(reason) => LedgerRow::skipped(due, late, reason, None, now),
            What::SkipUntil {
                reason,
                until,
                count,
            } => {
                let (until, count) = (*until, *count);
                LedgerRow::skipped(due, late, reason, Some(Stretch { until, count }), now)
            }
        };
        self.keep_row(known, &row, by_hand)?;
        Ok(Some(row))
    }

    fn keep_row(&self, known: &mut Known, row: &LedgerRow, by_hand: bool) -> Result<(), Failure> {
        let (job, reason, stretch) = match &row.outcome {
            LedgerOutcome::Fired { job, .. } => (Some(job), None, None),
            LedgerOutcome::Skipped { reason, stretch } => (None, Some(&**reason), *stretch),
        };
        let sql = "INSERT OR REPLACE INTO ledger VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)";
        self.conn.prepare_cached(sql)?.execute((
            known.id,
            ms(row.due_at),
            by_hand,
            ms(row.at),
            row.late.as_millis() as i64,
            job.map(|job| job.order() as i64),
            job.map(|job| job.random() as i64),
            reason,
            stretch.map(|stretch| ms(stretch.until)),
            stretch
                .and_then(|stretch| stretch.count)
                .map(|count| count as i64),
        ))?;
        known.rows += 1;
        Ok(())
    }

    /// The oldest rows over the bound go.
    fn cut_ledger(&self, known: &mut Known) -> Result<(), Failure> {
        let over = known.rows.saturating_sub(LEDGER_ROWS_MAX);
        if over > 0 {
            let sql = "DELETE FROM ledger WHERE schedule = ?1 AND (due_at, by_hand) IN (SELECT \
                       due_at, by_hand FROM ledger WHERE schedule = ?1 ORDER BY due_at, by_hand \
                       LIMIT ?2)";
            self.conn.prepare_cached(sql)?.execute((known.id, over))?;
            known.rows -= over;
        }
        Ok(())
    }

    pub(super) fn prune_ledger(&mut self, now: Timestamp) -> Result<bool, Failure> {
        let after = self.index.schedules.pruned.take();
        let known = &self.index.schedules.known;
        let rest = known
            .iter()
            .filter(|(name, _)| after.as_ref().is_none_or(|after| *name > after));
        let piece: Vec<_> = rest
            .take(PRUNED_AT_ONCE)
            .map(|(name, _)| name.clone())
            .collect();
        let gone = ms(now.minus(LEDGER_KEEP));
        for name in &piece {
            let Some(mut known) = self.index.schedules.known.get(name).cloned() else {
                continue;
            };
            let sql = "DELETE FROM ledger WHERE schedule = ?1 AND due_at <= ?2";
            let deleted = self.conn.prepare_cached(sql)?.execute((known.id, gone))?;
            if deleted > 0 {
                known.rows = known.rows.saturating_sub(deleted as u32);
                self.write_times(&known)?;
                self.index.schedules.known.insert(name.clone(), known);
            }
        }
        let more = piece.len() == PRUNED_AT_ONCE;
        self.index.schedules.pruned = piece.into_iter().next_back().filter(|_| more);
        Ok(more)
    }
}
