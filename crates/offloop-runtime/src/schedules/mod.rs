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

use offloop_job::{ScheduleName, Timestamp};
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
    /// Told of already.
    warned: Mutex<HashSet<ScheduleName>>,
    /// Payloads that were looked at, by revision, and what was wrong: rules change with a restart alone.
    looked_at: Mutex<HashMap<ScheduleName, (u64, Option<String>)>>,
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

    /// Says of each silent schedule once that it is, and of the others again when they are.
    pub(crate) fn warn_silent(&self, now: Timestamp) {
        let silent = self.silent(now);
        let mut warned = self.warned.lock().unwrap_or_else(PoisonError::into_inner);
        warned.retain(|name| silent.iter().any(|silent| silent.name == *name));
        for silent in silent {
            if warned.insert(silent.name.clone()) {
                let SilentSchedule { name, why } = silent;
                tracing::warn!(schedule = %name, "a schedule is silent: {why}");
            }
        }
    }
}
