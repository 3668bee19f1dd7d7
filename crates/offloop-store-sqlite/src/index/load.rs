//! Reading the index from the rows: one scan of the live jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use offloop_job::{JobId, JobIdSource, QueueName, TaskName};
use rusqlite::Connection;

use super::{Idle, Index, Labels, LineId, ReadyKey, Row, Running, Words, unique_hash};
use crate::open::OpenError;
use crate::{SqliteOptions, meta};

impl Index {
    pub(crate) fn load(conn: &Connection, options: &SqliteOptions) -> Result<Self, OpenError> {
        let last_row = largest_row(conn)?;
        let reserved = meta::read(conn, meta::LEASES_RESERVED)?;
        let mut index = Self {
            lines: Vec::new(),
            line_ids: HashMap::new(),
            lines_of_task: HashMap::new(),
            queues: Vec::new(),
            words: Words::default(),
            labels: Labels::default(),
            timers: BTreeSet::new(),
            late: BTreeSet::new(),
            expiries: BTreeSet::new(),
            expires_at: HashMap::new(),
            running: BTreeMap::new(),
            unique: HashMap::new(),
            ids: JobIdSource::new(last_row, options.id_seed),
            last_lease: reserved,
            leases_reserved: reserved,
            promoted: meta::read(conn, meta::PROMOTED)?,
            finished_rows: meta::read(conn, meta::FINISHED_ROWS)?,
            last_row,
            queue_jobs_max: options.queue_jobs_max,
        };
        index.load_names(conn)?;
        index.load_jobs(conn)?;
        Ok(index)
    }

    fn load_names(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut query = conn.prepare("SELECT id, queue, task FROM lines ORDER BY id")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let (queue, task): (String, String) = (row.get(1)?, row.get(2)?);
            let queue = QueueName::parse(&queue).map_err(damaged)?;
            let task = TaskName::parse(&task).map_err(damaged)?;
            let id = self.add_line(&queue, &task);
            if row.get::<_, u32>(0)? != id.0 + 1 {
                return Err(damaged("the numbers of the table lines have a gap"));
            }
        }
        let mut query = conn.prepare("SELECT name, paused FROM queues")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = QueueName::parse(row.get_ref(0)?.as_str().map_err(damaged)?);
            let at = self.queue_at(&name.map_err(damaged)?);
            self.queues[at].paused = Some(row.get(1)?);
        }
        let mut query = conn.prepare("SELECT id, text FROM words")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let text = row.get_ref(1)?.as_str().map_err(damaged)?;
            self.words.add(row.get(0)?, text);
        }
        let mut query = conn.prepare("SELECT collection, label, count FROM record_counts")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let collection = TaskName::parse(row.get_ref(0)?.as_str().map_err(damaged)?);
            let label = TaskName::parse(row.get_ref(1)?.as_str().map_err(damaged)?);
            let (collection, label) = (collection.map_err(damaged)?, label.map_err(damaged)?);
            self.labels.set(collection, label, row.get::<_, u64>(2)?);
        }
        Ok(())
    }

    fn load_jobs(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut query = conn.prepare(
            "SELECT id, line, state, priority, due_at, expires_at, unique_key, rnd, lease, node, \
             attempt, streak, cancelling FROM jobs ORDER BY id",
        )?;
        let mut ready: Vec<Vec<(ReadyKey, Row)>> = Vec::new();
        ready.resize_with(self.lines.len(), Vec::new);
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let id: Row = row.get(0)?;
            let line = LineId(row.get::<_, u32>(1)?.wrapping_sub(1));
            let Some(of_line) = ready.get_mut(line.0 as usize) else {
                return Err(damaged("a job names a line that is not there"));
            };
            let state: i64 = row.get(2)?;
            let key = ReadyKey::new(row.get(3)?, row.get(4)?);
            let expires_at: Option<u64> = row.get(5)?;
            let mut unique = None;
            if let Some(text) = row.get_ref(6)?.as_str_or_null().map_err(damaged)? {
                let hash = unique_hash(&self.lines[line.0 as usize].task, text);
                self.hold(hash, JobId::from_parts(id, row.get(7)?));
                unique = Some(hash);
            }
            self.queue_of(line).live += 1;
            match state {
                3 => {
                    self.line(line).running += 1;
                    let running = Running {
                        rnd: row.get(7)?,
                        lease: row.get(8)?,
                        node: row.get(9)?,
                        line,
                        attempt: row.get(10)?,
                        streak: row.get(11)?,
                        ready: key,
                        expires_at,
                        unique,
                        cancelling: row.get(12)?,
                        noted: true,
                    };
                    self.last_lease = self.last_lease.max(running.lease);
                    self.running.insert(id, running);
                    continue;
                }
                -1 => self.add_idle(id, line, Idle::ScheduledLate(key), expires_at),
                1 if key.due() > self.promoted => {
                    self.add_idle(id, line, Idle::Scheduled(key), expires_at);
                }
                // Ready: put in order all at once, which also packs the tree tightly.
                1 | 2 => {
                    of_line.push((key, id));
                    if let Some(at) = expires_at {
                        self.expiries.insert((at, id));
                        self.expires_at.insert(id, at);
                    }
                }
                _ => return Err(damaged("a live job has a state that is none")),
            }
        }
        for (line, ready) in self.lines.iter_mut().zip(ready) {
            line.ready = ready.into_iter().collect();
        }
        Ok(())
    }
}

fn largest_row(conn: &Connection) -> Result<Row, OpenError> {
    let mut largest = meta::read(conn, meta::LAST_ROW)?;
    for table in ["jobs", "history"] {
        let found: Option<Row> =
            conn.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| {
                row.get(0)
            })?;
        largest = largest.max(found.unwrap_or(0));
    }
    Ok(largest)
}

fn damaged(what: impl ToString) -> OpenError {
    OpenError::Corrupt {
        path: "offloop.db".into(),
        detail: what.to_string(),
    }
}
