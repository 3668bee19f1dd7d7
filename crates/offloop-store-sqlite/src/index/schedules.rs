//! What the writer knows of schedules without asking the file: what is next, and which jobs are alive.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use offloop_job::{JobId, ScheduleName};
use rusqlite::Connection;

use super::Row;
use super::load::damaged;
use crate::open::OpenError;

/// One schedule, without its spec.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    pub(crate) id: i64,
    pub(crate) revision: u64,
    pub(crate) next_due: Option<u64>,
    pub(crate) held: Option<u64>,
    /// In the ledger.
    pub(crate) rows: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Schedules {
    pub(crate) known: BTreeMap<ScheduleName, Known>,
    pub(crate) last_id: i64,
    /// Unfinished jobs, and who made them.
    made_by: HashMap<Row, (JobId, ScheduleName)>,
    live: HashMap<ScheduleName, BTreeSet<JobId>>,
    /// Where the last piece of pruning stopped.
    pub(crate) pruned: Option<ScheduleName>,
}

impl Schedules {
    pub(super) fn load(conn: &Connection) -> Result<Self, OpenError> {
        let mut found = Self::default();
        let sql = "SELECT s.id, s.name, s.revision, t.next_due, t.held, t.ledger_rows \
                   FROM schedules s JOIN schedule_times t ON t.schedule = s.id";
        let mut query = conn.prepare(sql)?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = ScheduleName::parse(row.get_ref(1)?.as_str().map_err(damaged)?);
            let known = Known {
                id: row.get(0)?,
                revision: row.get(2)?,
                next_due: row.get(3)?,
                held: row.get(4)?,
                rows: row.get(5)?,
            };
            found.last_id = found.last_id.max(known.id);
            found.known.insert(name.map_err(damaged)?, known);
        }
        let mut query = conn.prepare("SELECT job, rnd, name FROM schedule_jobs")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = ScheduleName::parse(row.get_ref(2)?.as_str().map_err(damaged)?);
            let id = JobId::from_parts(row.get(0)?, row.get(1)?);
            found.began(id, name.map_err(damaged)?);
        }
        Ok(found)
    }

    /// A job of this schedule is alive now.
    pub(crate) fn began(&mut self, job: JobId, name: ScheduleName) {
        self.live.entry(name.clone()).or_default().insert(job);
        self.made_by.insert(job.order(), (job, name));
    }

    /// A job has ended; whether a schedule had made it.
    pub(crate) fn ended(&mut self, row: Row) -> bool {
        let Some((job, name)) = self.made_by.remove(&row) else {
            return false;
        };
        if let Some(jobs) = self.live.get_mut(&name) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.live.remove(&name);
            }
        }
        true
    }

    /// Oldest first.
    pub(crate) fn live(&self, name: &ScheduleName) -> Vec<JobId> {
        let jobs = self.live.get(name);
        jobs.map(|jobs| jobs.iter().copied().collect())
            .unwrap_or_default()
    }

    pub(crate) fn is_live(&self, name: &ScheduleName) -> bool {
        self.live.contains_key(name)
    }
}
