//! Reading the index from the rows: one scan of the live jobs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Duration;

use offloop_job::{
    Bucket, JobId, JobIdSource, JobState, Limit, LimitTarget, Mode, QueueName, Rate, TaskName,
    Timestamp,
};
use offloop_store::codec;
use rusqlite::Connection;

use super::{
    FanOut, Flows, Gates, Groups, Hold, Idle, Index, Labels, LineId, ReadyKey, Row, Running,
    Schedules, Spot, Touched, UniqueHash, Words, unique_hash,
};
use crate::open::OpenError;
use crate::reader::groups::{GROUP, read_group};
use crate::{SqliteOptions, meta};

impl Index {
    pub(crate) fn load(conn: &Connection, options: &SqliteOptions) -> Result<Self, OpenError> {
        let last_row = largest_row(conn)?;
        let reserved = meta::read(conn, meta::LEASES_RESERVED)?;
        let mut index = Self {
            lines: Vec::new(),
            touched: Touched::default(),
            line_ids: HashMap::new(),
            tasks: Vec::new(),
            task_ids: HashMap::new(),
            flows: Flows::default(),
            gates: Gates::default(),
            queues: Vec::new(),
            task_modes: BTreeMap::new(),
            words: Words::default(),
            labels: Labels::default(),
            timers: BTreeSet::new(),
            late: BTreeSet::new(),
            expiries: BTreeSet::new(),
            expires_at: HashMap::new(),
            running: BTreeMap::new(),
            checkpoints: HashSet::new(),
            unique: HashMap::new(),
            groups: load_groups(conn)?,
            schedules: Schedules::load(conn)?,
            ids: JobIdSource::new(last_row, options.id_seed),
            last_lease: reserved,
            leases_reserved: reserved,
            promoted: meta::read(conn, meta::PROMOTED)?,
            finished_rows: meta::read(conn, meta::FINISHED_ROWS)?,
            last_row,
            queue_jobs_max: options.queue_jobs_max,
        };
        index.load_names(conn)?;
        index.load_limits(conn)?;
        index.load_periods(conn)?;
        index.load_jobs(conn)?;
        index.load_checkpoints(conn)?;
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
        let mut query = conn.prepare("SELECT name, mode FROM queues")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = QueueName::parse(row.get_ref(0)?.as_str().map_err(damaged)?);
            let at = self.queue_at(&name.map_err(damaged)?);
            self.queues[at].mode = Some(mode(row.get(1)?)?);
        }
        let mut query = conn.prepare("SELECT name, mode FROM tasks")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let name = TaskName::parse(row.get_ref(0)?.as_str().map_err(damaged)?);
            let name = name.map_err(damaged)?;
            self.task_modes.insert(name, mode(row.get(1)?)?);
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

    fn load_checkpoints(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut query = conn.prepare("SELECT job FROM checkpoints")?;
        let rows = query.query_map([], |row| row.get(0))?;
        self.checkpoints = rows.collect::<Result<_, _>>()?;
        Ok(())
    }

    fn load_periods(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut query = conn.prepare("SELECT hash, job, rnd, until FROM unique_periods")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let hash = UniqueHash::from_be_bytes(row.get(0)?);
            let id = JobId::from_parts(row.get(1)?, row.get(2)?);
            let until = row.get(3)?;
            self.hold(hash, Hold { id, until });
        }
        Ok(())
    }

    fn load_limits(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut query = conn.prepare(
            "SELECT target, concurrency, units, per_ms, burst, weight, declared FROM limits",
        )?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let target = row.get_ref(0)?.as_str().map_err(damaged)?;
            let target = LimitTarget::parse(target).map_err(damaged)?;
            let (units, per_ms): (Option<u32>, Option<u64>) = (row.get(2)?, row.get(3)?);
            let rate = match (units, per_ms, row.get(4)?) {
                (Some(units), Some(per_ms), Some(burst)) => Some(Rate {
                    units,
                    per: Duration::from_millis(per_ms),
                    burst,
                }),
                _ => None,
            };
            let limit = Limit {
                concurrency: row.get(1)?,
                rate,
                weight: row.get(5)?,
            };
            if row.get(6)? {
                self.gates.declared.insert(target.clone());
            }
            self.gates.load(target, limit);
        }
        let mut query = conn.prepare("SELECT target, at, level FROM buckets")?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let target = row.get_ref(0)?.as_str().map_err(damaged)?;
            let target = LimitTarget::parse(target).map_err(damaged)?;
            let bucket = Bucket {
                at: Timestamp::from_millis(row.get(1)?),
                level: row.get(2)?,
            };
            self.gates.load_bucket(target, bucket);
        }
        self.refresh_gates();
        Ok(())
    }

    fn load_jobs(&mut self, conn: &Connection) -> Result<(), OpenError> {
        let mut claims = claims(conn)?;
        let mut query = conn.prepare(
            "SELECT id, line, state, priority, due_at, expires_at, unique_key, rnd, options \
             FROM jobs ORDER BY id",
        )?;
        let mut ready: Vec<Vec<(ReadyKey, Row)>> = Vec::new();
        ready.resize_with(self.lines.len(), Vec::new);
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            let id: Row = row.get(0)?;
            let line = LineId(row.get::<_, u32>(1)?.wrapping_sub(1));
            let Some(ready) = ready.get_mut(line.0 as usize) else {
                return Err(damaged("a job names a line that is not there"));
            };
            let key = ReadyKey::new(row.get(3)?, row.get(4)?);
            let expires_at: Option<u64> = row.get(5)?;
            let mut unique = None;
            if let Some(text) = row.get_ref(6)?.as_str_or_null().map_err(damaged)? {
                let hash = unique_hash(&self.lines[line.0 as usize].task, text);
                let id = JobId::from_parts(id, row.get(7)?);
                self.hold(hash, Hold { id, until: 0 });
                unique = Some(hash);
            }
            let options = row.get_ref(8)?.as_str_or_null().map_err(damaged)?;
            let group_key = options.and_then(codec::group_key);
            if let Some(group) = options.and_then(codec::group) {
                self.groups.add_member(group, id);
            }
            let spot = self.spot(line, group_key.as_ref());
            self.queue_of(line).live += 1;
            if let Some(mut running) = claims.remove(&id) {
                running.rnd = row.get(7)?;
                running.line = line;
                running.spot = spot;
                running.unique = unique;
                self.last_lease = self.last_lease.max(running.lease);
                self.add_running(spot);
                self.running.insert(id, running);
                continue;
            }
            match row.get(2)? {
                // Ready: put in order all at once, which also packs the tree tightly.
                1 | 2 if group_key.is_none() && self.is_ready(row.get(2)?, key) => {
                    ready.push((key, id));
                    self.add_expiry(id, expires_at);
                }
                code => self.load_idle(id, spot, code, key, expires_at)?,
            }
        }
        for (line, ready) in self.lines.iter_mut().zip(ready) {
            line.ready = ready.into_iter().collect();
            line.rests = line.has_no_plain_jobs();
        }
        self.forget_emptied();
        if claims.is_empty() {
            Ok(())
        } else {
            Err(damaged("a claim names a job that is not there"))
        }
    }

    fn is_ready(&self, code: i64, key: ReadyKey) -> bool {
        code == 2 || (code == 1 && key.due() <= self.promoted)
    }

    fn load_idle(
        &mut self,
        row: Row,
        spot: Spot,
        code: i64,
        key: ReadyKey,
        expires_at: Option<u64>,
    ) -> Result<(), OpenError> {
        let idle = match code {
            -1 => Idle::ScheduledLate(key),
            1 | 2 if self.is_ready(code, key) => Idle::Ready(key),
            1 => Idle::Scheduled(key),
            0 => {
                let line = self.line_of_spot(spot);
                self.line(line).waiting += 1;
                self.groups.waiting.entry(row).or_default();
                self.add_expiry(row, expires_at);
                return Ok(());
            }
            _ => return Err(damaged("a live job has a state that is none")),
        };
        self.add_idle(row, spot, idle, expires_at);
        Ok(())
    }
}

fn mode(code: u8) -> Result<Mode, OpenError> {
    Mode::from_code(code).ok_or_else(|| damaged("a queue or a task has a mode that is none"))
}

/// Groups that are not over, edges, and what is not worked off.
fn load_groups(conn: &Connection) -> Result<Groups, OpenError> {
    let mut groups = Groups::default();
    let mut query = conn.prepare("SELECT job, rnd FROM unheard")?;
    let rows = query.query_map([], |row| Ok(JobId::from_parts(row.get(0)?, row.get(1)?)))?;
    groups.unheard = rows.collect::<Result<_, _>>()?;
    let left = "completed + failed + cancelled + expired < total";
    let mut query = conn.prepare(&format!("{GROUP} WHERE state = 0 OR {left}"))?;
    for group in query.query_map([], read_group)? {
        groups.add(group?);
    }
    for (sql, edges) in [
        (
            "SELECT child, count(*) FROM edges GROUP BY child",
            &mut groups.waiting,
        ),
        (
            "SELECT parent, count(*) FROM edges GROUP BY parent",
            &mut groups.parents,
        ),
    ] {
        let mut query = conn.prepare(sql)?;
        for row in query.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))? {
            let (job, count): (Row, u32) = row?;
            edges.insert(job, count);
        }
    }
    let mut query = conn.prepare("SELECT job, rnd, state FROM fan_outs ORDER BY job")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let end = JobState::from_code(row.get(2)?).ok_or_else(|| damaged("an end that is none"))?;
        let id = JobId::from_parts(row.get(0)?, row.get(1)?);
        groups.fan_outs.push_back(FanOut { id, end });
    }
    let mut query = conn.prepare("SELECT job, parent, parent_rnd FROM barred")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let parent = JobId::from_parts(row.get(1)?, row.get(2)?);
        groups.barred.insert(row.get(0)?, parent);
    }
    Ok(groups)
}

/// What is known of the running jobs before their own rows are read.
fn claims(conn: &Connection) -> Result<HashMap<Row, Running>, OpenError> {
    let mut query =
        conn.prepare("SELECT job, lease, attempt, claimed_at, node, cancelling FROM running")?;
    let claims = query.query_map([], |row| {
        let running = Running {
            rnd: 0,
            lease: row.get(1)?,
            attempt: row.get(2)?,
            claimed_at: row.get(3)?,
            node: row.get(4)?,
            line: LineId(0),
            spot: Spot::line(LineId(0)),
            unique: None,
            cancelling: row.get(5)?,
            row: None,
        };
        Ok((row.get(0)?, running))
    })?;
    Ok(claims.collect::<Result<_, _>>()?)
}

fn largest_row(conn: &Connection) -> Result<Row, OpenError> {
    let mut largest = meta::read(conn, meta::LAST_ROW)?;
    for table in ["jobs", "history", "groups"] {
        let found: Option<Row> =
            conn.query_row(&format!("SELECT max(id) FROM {table}"), [], |row| {
                row.get(0)
            })?;
        largest = largest.max(found.unwrap_or(0));
    }
    Ok(largest)
}

#[allow(clippy::needless_pass_by_value)] // so that `map_err` can name it
pub(super) fn damaged(what: impl ToString) -> OpenError {
    OpenError::Corrupt {
        path: "offloop.db".into(),
        detail: what.to_string(),
    }
}
