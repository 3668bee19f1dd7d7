//! Jobs that wait for others. An edge is a row; an end takes its edges' rows away in the commit in
//! which it tells the dependents, so that nobody is told twice whatever is killed when.

use offloop_job::{
    After, GroupId, Input, JobId, JobState, OnFailure, Parent, Passage, Timestamp,
    limits::{INPUT_BYTES_MAX, INPUTS_MAX},
};
use offloop_store::{FAN_OUT_AT_ONCE, InsertOutcome, InsertRefusal, News, codec};
use rusqlite::OptionalExtension;

use super::Desk;
use crate::errors::Failure;
use crate::index::{FanOut, Idle, ReadyKey, Row};
use crate::tables::{LiveRow, Unreadable, read_blob, result_blob};

/// How a new job with parents begins.
#[derive(Default)]
pub(super) struct Begin {
    /// Those that have not ended.
    pub(super) waits: Vec<(JobId, OnFailure)>,
    pub(super) barred_by: Option<JobId>,
}

impl Begin {
    pub(super) const fn is_waiting(&self) -> bool {
        self.barred_by.is_some() || !self.waits.is_empty()
    }
}

impl Desk<'_> {
    /// Parents by id. Places of the batch are those of `earlier`.
    pub(super) fn resolve(
        &mut self,
        after: &[After],
        earlier: &[InsertOutcome],
    ) -> Result<Result<Vec<After>, InsertRefusal>, Failure> {
        let mut resolved: Vec<After> = Vec::with_capacity(after.len());
        for (place, one) in after.iter().enumerate() {
            let place = place as u16;
            let parent = match one.parent {
                Parent::Job(id) => id,
                Parent::Earlier(at) => match earlier.get(usize::from(at)) {
                    Some(
                        InsertOutcome::Created { id, .. } | InsertOutcome::Existing { id, .. },
                    ) => *id,
                    Some(InsertOutcome::Refused(_)) => {
                        return Ok(Err(InsertRefusal::ParentRefused { place }));
                    }
                    None => return Ok(Err(InsertRefusal::NotEarlier { earlier: at, place })),
                },
            };
            if self.state_of(parent)?.is_none() {
                return Ok(Err(InsertRefusal::UnknownParent { parent, place }));
            }
            let parent = Parent::Job(parent);
            if resolved.iter().all(|other| other.parent != parent) {
                let on_failure = one.on_failure;
                resolved.push(After { parent, on_failure });
            }
        }
        Ok(Ok(resolved))
    }

    /// Where a job stands, alive or not.
    fn state_of(&mut self, id: JobId) -> Result<Option<JobState>, Failure> {
        if let Some(live) = self.find_live(id)? {
            return Ok(Some(self.live_state(id.order(), &live)));
        }
        self.final_state(id)
    }

    /// Parents that are final count at once. One that bars it comes before one that lets it go.
    pub(super) fn begin(&mut self, after: &[After]) -> Result<Begin, Failure> {
        let mut begin = Begin::default();
        let mut free = false;
        for one in after {
            let Parent::Job(parent) = one.parent else {
                continue;
            };
            match self.state_of(parent)? {
                Some(state) if state.is_final() => match one.on_failure.on_end(state) {
                    Passage::Counted => {}
                    Passage::Free => free = true,
                    Passage::Barred => begin.barred_by = begin.barred_by.or(Some(parent)),
                },
                _ => begin.waits.push((parent, one.on_failure)),
            }
        }
        if free || begin.barred_by.is_some() {
            begin.waits.clear();
        }
        Ok(begin)
    }

    /// The rows of a job that begins by waiting.
    pub(super) fn begin_waiting(&mut self, row: Row, begin: &Begin) -> Result<(), Failure> {
        let sql = "INSERT INTO edges VALUES (?1, ?2, ?3)";
        let mut insert = self.conn.prepare_cached(sql)?;
        for (parent, rule) in &begin.waits {
            insert.execute((parent.order() as i64, row as i64, *rule as u8))?;
            *self.index.groups.parents.entry(parent.order()).or_default() += 1;
        }
        drop(insert);
        let edges = begin.waits.len() as u32;
        self.index.groups.waiting.insert(row, edges);
        if let Some(parent) = begin.barred_by {
            self.bar(row, parent)?;
        }
        Ok(())
    }

    fn bar(&mut self, row: Row, parent: JobId) -> Result<(), Failure> {
        let sql = "INSERT INTO barred VALUES (?1, ?2, ?3)";
        let (order, rnd) = (parent.order() as i64, parent.random() as i64);
        let mut insert = self.conn.prepare_cached(sql)?;
        insert.execute((row as i64, order, rnd))?;
        self.index.groups.barred.insert(row, parent);
        Ok(())
    }

    /// A waiting job is waiting no more: its own rows go.
    pub(super) fn end_waiting(&mut self, row: Row, live: &LiveRow) -> Result<(), Failure> {
        let Some(edges) = self.index.groups.waiting.remove(&row) else {
            return Ok(());
        };
        self.index.line(live.line).waiting -= 1;
        if edges > 0 {
            self.drop_edges(row, live)?;
        }
        if self.index.groups.barred.remove(&row).is_some() {
            let sql = "DELETE FROM barred WHERE job = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        Ok(())
    }

    fn drop_edges(&mut self, child: Row, live: &LiveRow) -> Result<(), Failure> {
        let sql = "DELETE FROM edges WHERE parent = ?1 AND child = ?2";
        let mut delete = self.conn.prepare_cached(sql)?;
        for one in live
            .options
            .as_deref()
            .map(codec::after)
            .unwrap_or_default()
        {
            let Parent::Job(parent) = one.parent else {
                continue;
            };
            let parent = parent.order();
            if delete.execute((parent as i64, child as i64))? > 0 {
                self.index.groups.forget_edge(parent);
            }
        }
        Ok(())
    }

    /// A job ended: tells those that wait for it, at once if they are few.
    pub(super) fn pass_on(
        &mut self,
        now: Timestamp,
        id: JobId,
        end: JobState,
    ) -> Result<(), Failure> {
        let Some(edges) = self.index.groups.parents.get(&id.order()) else {
            return Ok(());
        };
        if self.index.groups.is_fanning_out(id) {
            return Ok(()); // its first end is still being told
        }
        if *edges as usize <= FAN_OUT_AT_ONCE {
            return self.fan_out(now, id, end, FAN_OUT_AT_ONCE).map(|_| ());
        }
        let sql = "INSERT INTO fan_outs VALUES (?1, ?2, ?3)";
        let row = (id.order() as i64, id.random() as i64, end as u8);
        self.conn.prepare_cached(sql)?.execute(row)?;
        self.index.groups.fan_outs.push_back(FanOut { id, end });
        Ok(())
    }

    /// Everybody hears of an end before the job has another life.
    pub(super) fn tell_all(&mut self, now: Timestamp, id: JobId) -> Result<(), Failure> {
        while self.index.groups.is_fanning_out(id) {
            self.work_off(now, FAN_OUT_AT_ONCE)?;
        }
        Ok(())
    }

    /// A piece of what many-headed ends have left; at most `limit` edges.
    pub(super) fn work_off(&mut self, now: Timestamp, limit: usize) -> Result<(), Failure> {
        let mut left = limit;
        while left > 0 {
            let Some(FanOut { id, end }) = self.index.groups.fan_outs.front().copied() else {
                break;
            };
            let told = self.fan_out(now, id, end, left)?;
            if told < left {
                self.index.groups.fan_outs.pop_front();
                let sql = "DELETE FROM fan_outs WHERE job = ?1";
                self.conn
                    .prepare_cached(sql)?
                    .execute([id.order() as i64])?;
            }
            left -= told;
        }
        Ok(())
    }

    /// Tells at most `limit` dependents; how many were told.
    fn fan_out(
        &mut self,
        now: Timestamp,
        id: JobId,
        end: JobState,
        limit: usize,
    ) -> Result<usize, Failure> {
        let parent = id.order();
        let sql = "SELECT child, rule FROM edges WHERE parent = ?1 ORDER BY child LIMIT ?2";
        let mut query = self.conn.prepare_cached(sql)?;
        let edges = query.query_map((parent as i64, limit as i64), |row| {
            Ok((row.get::<_, Row>(0)?, row.get::<_, u8>(1)?))
        })?;
        let edges: Vec<_> = edges.collect::<Result<_, _>>()?;
        drop(query);
        for (child, rule) in &edges {
            let sql = "DELETE FROM edges WHERE parent = ?1 AND child = ?2";
            let mut delete = self.conn.prepare_cached(sql)?;
            delete.execute((parent as i64, *child as i64))?;
            drop(delete);
            self.index.groups.forget_edge(parent);
            let rule = OnFailure::from_code(*rule).unwrap_or_default();
            self.passed(now, *child, id, rule.on_end(end))?;
        }
        Ok(edges.len())
    }

    fn passed(
        &mut self,
        now: Timestamp,
        child: Row,
        parent: JobId,
        passage: Passage,
    ) -> Result<(), Failure> {
        let Some(left) = self.index.groups.waiting.get_mut(&child) else {
            return Ok(());
        };
        *left = left.saturating_sub(1);
        if passage == Passage::Counted && *left > 0 {
            return Ok(());
        }
        let Some(live) = LiveRow::find(&mut self.hot, child)? else {
            return Err(Failure::bug(format!("waiting job {child:#x} has no row")));
        };
        if passage == Passage::Barred {
            self.drop_edges(child, &live)?;
            self.index.groups.waiting.insert(child, 0);
            return self.bar(child, parent);
        }
        self.unblock(now, child, &live)
    }

    fn unblock(&mut self, now: Timestamp, row: Row, live: &LiveRow) -> Result<(), Failure> {
        self.end_waiting(row, live)?;
        let (task, queue) = self.index.task_and_queue(live.line);
        let options = match live.options(&queue) {
            Ok(options) => options,
            Err(what) => {
                // Left on file as waiting: one bad row must not stop the others.
                tracing::error!(unreadable = %Unreadable { row, what }, "a waiting job cannot be read");
                return Ok(());
            }
        };
        let due = options.due(now);
        let key = ReadyKey::new(live.priority, due.as_millis());
        let idle = if due <= now {
            self.wake = true;
            Idle::Ready(key)
        } else {
            self.index.scheduled(key)
        };
        let sql = "UPDATE jobs SET state = ?2, due_at = ?3 WHERE id = ?1";
        let mut update = self.conn.prepare_cached(sql)?;
        update.execute((row as i64, idle.code(), due.as_millis() as i64))?;
        let spot = self.index.spot(live.line, options.group_key.as_ref());
        self.index.add_idle(row, spot, idle, live.expires_at);
        self.index.groups.tell(News::Unblocked {
            id: JobId::from_parts(row, live.rnd),
            task,
            queue,
            due_at: due,
        });
        Ok(())
    }

    /// What a job is handed of those that it waited for, or of the group that it follows.
    pub(super) fn inputs(
        &mut self,
        after: &[After],
        follows: Option<GroupId>,
    ) -> Result<Vec<Input>, Failure> {
        let mut ids: Vec<JobId> = Vec::new();
        for one in after {
            if let Parent::Job(id) = one.parent {
                ids.push(id);
            }
        }
        if let Some(group) = follows {
            let sql = "SELECT job, rnd FROM group_members WHERE grp = ?1 ORDER BY job LIMIT ?2";
            let mut query = self.conn.prepare_cached(sql)?;
            let members = query.query_map((group.order() as i64, INPUTS_MAX as i64), |row| {
                Ok(JobId::from_parts(row.get(0)?, row.get(1)?))
            })?;
            for member in members {
                ids.push(member?);
            }
        }
        let mut room = INPUT_BYTES_MAX;
        let mut inputs = Vec::with_capacity(ids.len());
        for id in ids {
            inputs.push(self.input(id, &mut room)?);
        }
        Ok(inputs)
    }

    fn input(&mut self, id: JobId, room: &mut usize) -> Result<Input, Failure> {
        let mut input = Input {
            id,
            state: None,
            class: None,
            result: None,
            omitted: false,
        };
        if let Some(live) = self.find_live(id)? {
            input.state = Some(self.live_state(id.order(), &live));
            input.class = live.failure.as_ref().map(|failure| failure.class);
            return Ok(input);
        }
        let sql = "SELECT h.rnd, h.state, h.class, h.result, coalesce(length(h.result), \
                   (SELECT length(data) FROM blobs WHERE id = ?2)) FROM history h WHERE h.id = ?1";
        let mut query = self.conn.prepare_cached(sql)?;
        let blob = result_blob(id.order());
        let found = query.query_row((id.order() as i64, blob as i64), |row| {
            if row.get::<_, u64>(0)? != id.random() {
                return Ok(None);
            }
            let state = JobState::from_code(row.get(1)?);
            let class: Option<u8> = row.get(2)?;
            let inline = row.get_ref(3)?.as_blob_or_null()?;
            let len: Option<usize> = row.get(4)?;
            Ok(Some((
                state,
                class,
                inline.map(bytes::Bytes::copy_from_slice),
                len,
            )))
        });
        let Some((state, class, inline, len)) = found.optional()?.flatten() else {
            return Ok(input);
        };
        input.state = state;
        if state != Some(JobState::Completed) {
            input.class = class.and_then(offloop_job::FailureClass::from_code);
            return Ok(input);
        }
        match len {
            None => {}
            Some(len) if len > *room => input.omitted = true,
            Some(len) => {
                *room -= len;
                input.result = match inline {
                    Some(inline) => Some(inline),
                    None => read_blob(self.conn, blob)?,
                };
            }
        }
        Ok(input)
    }
}
