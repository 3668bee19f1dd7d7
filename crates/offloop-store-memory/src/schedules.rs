//! Schedules and their ledger: maps by name and by due time.

use std::collections::BTreeMap;

use offloop_job::limits::{LEDGER_KEEP, LEDGER_ROWS_MAX, SCHEDULES_MAX};
use offloop_job::{JobId, ScheduleName, SkipReason, Timestamp};
use offloop_store::{
    AuditEntry, Entry, Expect, Fired, Firing, LedgerAsk, LedgerPage, LedgerPlace, LedgerRow, Next,
    PutOutcome, PutSchedule, Reply, ScheduleRow, ScheduleStore, Stretch, What,
};

use crate::MemoryStore;
use crate::insert::Room;
use crate::state::State;

impl ScheduleStore for MemoryStore {
    fn put_schedule(&self, now: Timestamp, put: PutSchedule) -> Reply<PutOutcome> {
        self.answer(|state| state.put_schedule(now, put))
    }

    fn delete_schedule(
        &self,
        now: Timestamp,
        name: ScheduleName,
        actor: Box<str>,
    ) -> Reply<Option<ScheduleRow>> {
        self.answer(|state| state.delete_schedule(now, &name, actor))
    }

    fn schedule(&self, name: ScheduleName) -> Reply<Option<ScheduleRow>> {
        self.answer(|state| state.schedule(&name))
    }

    fn schedules(&self, after: Option<ScheduleName>, limit: u16) -> Reply<Vec<ScheduleRow>> {
        self.answer(|state| state.list_schedules(after.as_ref(), limit))
    }

    fn fire(&self, now: Timestamp, firings: Vec<Firing>) -> Reply<Vec<Fired>> {
        self.answer(|state| {
            firings
                .into_iter()
                .map(|firing| state.fire(now, firing))
                .collect()
        })
    }

    fn ledger(&self, ask: LedgerAsk) -> Reply<LedgerPage> {
        self.answer(|state| state.ledger(&ask))
    }

    fn live_jobs(&self, names: Vec<ScheduleName>) -> Reply<Vec<Vec<JobId>>> {
        self.answer(|state| names.iter().map(|name| state.live_jobs(name)).collect())
    }

    fn prune_ledger(&self, now: Timestamp) -> Reply<bool> {
        self.answer(|state| state.prune_ledger(now))
    }
}

/// One schedule and its ledger.
pub(crate) struct Scheduled {
    row: ScheduleRow,
    ledger: BTreeMap<LedgerPlace, LedgerRow>,
}

impl Scheduled {
    /// A due time that has a row keeps it.
    fn write(&mut self, place: LedgerPlace, row: LedgerRow) -> LedgerRow {
        self.ledger.insert(place, row.clone());
        while self.ledger.len() > LEDGER_ROWS_MAX as usize {
            self.ledger.pop_first();
        }
        row
    }
}

impl State {
    pub(crate) fn put_schedule(&mut self, now: Timestamp, put: PutSchedule) -> PutOutcome {
        let (name, actor) = (put.name.clone(), put.actor.clone());
        let before = self.schedule(&name).map(|row| row.spec);
        let outcome = self.change_schedule(now, put);
        if let PutOutcome::Put(row) = &outcome {
            let (before, after) = (before.as_deref(), Some(&*row.spec));
            self.note_change(AuditEntry::of_schedule(now, actor, &name, before, after));
        }
        outcome
    }

    fn change_schedule(&mut self, now: Timestamp, put: PutSchedule) -> PutOutcome {
        let full = self.schedules.len() >= SCHEDULES_MAX;
        let Some(old) = self.schedules.get_mut(&put.name) else {
            if put.expect.is_some() {
                return PutOutcome::Conflict;
            }
            if full {
                return PutOutcome::Full;
            }
            let row = ScheduleRow {
                name: put.name.clone(),
                spec: put.spec,
                origin: put.origin,
                revision: 1,
                created_at: now,
                updated_at: now,
                next_due: match put.next {
                    Next::Keep => None,
                    Next::Set(next) => next,
                },
                held: None,
            };
            let new = Scheduled {
                row: row.clone(),
                ledger: BTreeMap::new(),
            };
            self.schedules.insert(put.name, new);
            return PutOutcome::Put(row);
        };
        if put.expect != Some(old.row.revision) {
            return PutOutcome::Conflict;
        }
        old.row.spec = put.spec;
        old.row.origin = put.origin;
        old.row.revision += 1;
        old.row.updated_at = now;
        if let Next::Set(next) = put.next {
            old.row.next_due = next;
            if let Some(held) = old.row.held.take() {
                let why = SkipReason::Replaced;
                let row = LedgerRow::skipped(held, now.since(held), &why, None, now);
                old.write(row.place(), row);
            }
        }
        PutOutcome::Put(old.row.clone())
    }

    pub(crate) fn delete_schedule(
        &mut self,
        now: Timestamp,
        name: &ScheduleName,
        actor: Box<str>,
    ) -> Option<ScheduleRow> {
        let old = self.schedules.remove(name)?.row;
        let entry = AuditEntry::of_schedule(now, actor, name, Some(&old.spec), None);
        self.note_change(entry);
        Some(old)
    }

    pub(crate) fn schedule(&self, name: &ScheduleName) -> Option<ScheduleRow> {
        self.schedules.get(name).map(|found| found.row.clone())
    }

    pub(crate) fn list_schedules(
        &self,
        after: Option<&ScheduleName>,
        limit: u16,
    ) -> Vec<ScheduleRow> {
        let all = self.schedules.iter();
        let rest = all.filter(|(name, _)| after.is_none_or(|after| *name > after));
        let rows = rest.map(|(_, found)| found.row.clone());
        rows.take(limit.into()).collect()
    }

    pub(crate) fn fire(&mut self, now: Timestamp, firing: Firing) -> Fired {
        let Some(found) = self.schedules.get(&firing.name) else {
            return Fired::Stale(None);
        };
        let row = found.row.clone();
        if let Expect::At {
            revision,
            next_due,
            held,
        } = firing.expect
            && (revision, next_due, held) != (row.revision, row.next_due, row.held)
        {
            return Fired::Stale(Some(row));
        }
        let live = self.live_jobs(&firing.name);
        if firing.unless_live && !live.is_empty() {
            return Fired::Live(live);
        }
        let by_hand = firing.expect == Expect::Anything;
        let mut written = Vec::new();
        for entry in firing.entries {
            written.extend(self.enter(now, &firing.name, entry, by_hand));
        }
        if let Some(found) = self.schedules.get_mut(&firing.name)
            && !by_hand
        {
            found.row.next_due = firing.next_due;
            found.row.held = firing.held;
        }
        Fired::Done(written)
    }

    fn enter(
        &mut self,
        now: Timestamp,
        name: &ScheduleName,
        entry: Entry,
        by_hand: bool,
    ) -> Option<LedgerRow> {
        let Entry { due, late, what } = entry;
        let place = LedgerPlace {
            due_at: due,
            by_hand,
        };
        if self.schedules.get(name)?.ledger.contains_key(&place) {
            return None;
        }
        let row = match what {
            What::Fire(job) => {
                let outcome = self.insert_one(now, *job, &[], Room::Checked);
                LedgerRow::asked(due, late, &outcome, by_hand, now)
            }
            What::Skip(reason) => LedgerRow::skipped(due, late, &reason, None, now),
            What::SkipUntil {
                reason,
                until,
                count,
            } => LedgerRow::skipped(due, late, &reason, Some(Stretch { until, count }), now),
        };
        // Its own word for it would put a trigger that was refused in the place of a due time.
        Some(self.schedules.get_mut(name)?.write(place, row))
    }

    pub(crate) fn ledger(&self, ask: &LedgerAsk) -> LedgerPage {
        let Some(found) = self.schedules.get(&ask.name) else {
            return LedgerPage {
                rows: None,
                next: None,
            };
        };
        let newest = found.ledger.values().rev();
        let mut rest = newest.filter(|row| ask.before.is_none_or(|before| row.place() < before));
        let rows: Vec<_> = rest.by_ref().take(ask.limit.into()).cloned().collect();
        let more = rest.next().is_some();
        let next = rows.last().filter(|_| more).map(LedgerRow::place);
        LedgerPage {
            rows: Some(rows),
            next,
        }
    }

    pub(crate) fn live_jobs(&self, name: &ScheduleName) -> Vec<JobId> {
        let rows = self.jobs.values().filter(|row| !row.state.is_final());
        let own = rows.filter(|row| {
            let by = row.options.schedule.as_ref();
            by.is_some_and(|by| by.name == *name)
        });
        own.map(|row| row.id).collect()
    }

    pub(crate) fn prune_ledger(&mut self, now: Timestamp) -> bool {
        for found in self.schedules.values_mut() {
            found
                .ledger
                .retain(|place, _| now.since(place.due_at) < LEDGER_KEEP);
        }
        false
    }
}
