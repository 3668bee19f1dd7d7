//! Schedules: what is next of each, and the loop that keeps their due times.
//!
//! Path: timetable -> `offloop_schedule::decide` -> `ScheduleStore::fire` -> publish. The jobs are
//! ordinary ones from there on. `table` holds what is known, `run` is the loop on the keeper's thread,
//! `desk` is what doors ask.
//!
//! Must never: fire without the store's word. What is in memory only says when to ask.

mod desk;
mod run;
mod table;

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use offloop_job::{ScheduleEvent, ScheduleEventKind, ScheduleName, Timestamp};
use offloop_store::ScheduleRow;
use tokio::sync::Notify;

pub use desk::{DeclaredSchedules, NextDue, ScheduleError, SchedulePut};
pub(crate) use run::{load, run};
use table::Timetable;
pub use table::{Silence, SilentSchedule};

/// What the loop and the doors share.
#[derive(Debug, Default)]
pub(crate) struct Schedules {
    table: Mutex<Timetable>,
    /// Something changed: look again.
    bell: Notify,
    told: Mutex<Told>,
    /// Payloads that were looked at, by revision, and what was wrong: rules change with a restart alone.
    looked_at: Mutex<HashMap<ScheduleName, (u64, Option<String>)>>,
}

/// Silent schedules.
#[derive(Debug, Default)]
struct Told {
    /// By the last look.
    seen: HashSet<ScheduleName>,
    /// Told of already.
    told: HashSet<ScheduleName>,
}

impl Schedules {
    fn table(&self) -> MutexGuard<'_, Timetable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A job of this schedule has ended: another may have waited for that.
    pub(crate) fn job_ended(&self, name: &ScheduleName) {
        if self.table().look_at_held(name) {
            self.bell.notify_one();
        }
    }

    /// Why a task does not take a schedule's payload; looked at once per revision.
    fn unfit(&self, row: &ScheduleRow, look: impl FnOnce() -> Option<String>) -> Option<String> {
        let looked_at = || {
            self.looked_at
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
        };
        if let Some((revision, found)) = looked_at().get(&row.name)
            && *revision == row.revision
        {
            return found.clone();
        }
        let found = look();
        looked_at().insert(row.name.clone(), (row.revision, found.clone()));
        found
    }

    pub(crate) fn silent(&self, now: Timestamp) -> Vec<SilentSchedule> {
        self.table().silent(now)
    }

    /// Says of each silent schedule once that it is, and once that it is not any more. What it logs
    /// is what subscribers are to hear. Told is what two looks have seen, so that a machine that was
    /// suspended does not raise an alert before its loop has had its turn. Of a schedule that was
    /// deleted nothing is said.
    pub(crate) fn warn_silent(&self, now: Timestamp) -> Vec<ScheduleEvent> {
        let table = self.table();
        let silent = table.silent(now);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let Told { seen, told } = &mut *told;
        let names: HashSet<_> = silent.iter().map(|silent| silent.name.clone()).collect();
        let mut news = Vec::new();
        told.retain(|name| {
            let still = names.contains(name);
            if !still && table.has(name) {
                tracing::info!(schedule = %name, "a schedule is not silent any more");
                news.push((name.clone(), ScheduleEventKind::Back));
            }
            still
        });
        for SilentSchedule { name, why } in silent {
            if seen.contains(&name) && told.insert(name.clone()) {
                tracing::warn!(schedule = %name, "a schedule is silent: {why}");
                news.push((name, why.event()));
            }
        }
        *seen = names;
        let event = |(schedule, kind)| ScheduleEvent {
            at: now,
            schedule,
            kind,
        };
        news.into_iter().map(event).collect()
    }
}
