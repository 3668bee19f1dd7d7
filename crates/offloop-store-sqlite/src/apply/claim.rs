//! Handing jobs out, and finding those whose holder is dead.

use std::sync::Arc;

use bytes::Bytes;
use offloop_job::{JobId, JobOptions, Lease, NodeId, TaskName, Timestamp, UniqueScope};
use offloop_store::{ClaimRequest, Claimed, Claims, ProgressNote, Promoted, Want};

use super::Desk;
use crate::errors::Failure;
use crate::index::{Picked, Row, Running, UniqueHash, unique_hash};
use crate::meta;
use crate::tables::{LiveRow, Unreadable, ms, node, payload_blob, read_blob};

/// What an executor needs, beside the row itself.
struct Work {
    row: LiveRow,
    options: Arc<JobOptions>,
    payload: Bytes,
    checkpoint: Option<Bytes>,
}

impl Desk<'_> {
    pub(super) fn promote(&mut self, now: Timestamp) -> Result<Promoted, Failure> {
        let (jobs, late) = self.index.promote(now.as_millis());
        if jobs > 0 {
            self.wake = true;
            meta::write(self.conn, meta::PROMOTED, self.index.promoted)?;
        }
        for row in late {
            let sql = "UPDATE jobs SET state = 2 WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
        }
        let next_due = self.index.next_due().map(Timestamp::from_millis);
        Ok(Promoted { jobs, next_due })
    }

    pub(super) fn claim(&mut self, ask: &ClaimRequest) -> Result<Claims, Failure> {
        let mut claims = Claims::default();
        let now = ask.now.as_millis();
        self.index.release_due(now);
        for want in &ask.wants {
            if self.index.is_plain(&want.tasks) {
                for picked in self.index.pick(&want.tasks, want.limit.into(), now) {
                    claims.jobs.extend(self.claim_one(picked, ask)?);
                }
            } else {
                let until = self.claim_under_limits(want, ask, &mut claims.jobs)?;
                claims.blocked_until = claims.blocked_until.into_iter().chain(until).min();
            }
        }
        Ok(claims)
    }

    /// One job after the other: each may hold back the next. When to ask again.
    fn claim_under_limits(
        &mut self,
        want: &Want,
        ask: &ClaimRequest,
        claimed: &mut Vec<Claimed>,
    ) -> Result<Option<Timestamp>, Failure> {
        let mut walk = self.index.begin_walk(&want.tasks, ask.now);
        let mut left = want.limit;
        while left > 0 {
            let Some(picked) = self.index.next_pick(&mut walk) else {
                break;
            };
            let Some(claim) = self.claim_one(picked, ask)? else {
                continue;
            };
            let cost = claim.options.cost;
            self.index.take_cost(picked.spot, cost, ask.now);
            claimed.push(claim);
            left -= 1;
        }
        Ok(self.index.end_walk(walk, left == 0))
    }

    fn claim_one(
        &mut self,
        picked: Picked,
        ask: &ClaimRequest,
    ) -> Result<Option<Claimed>, Failure> {
        let row = picked.row;
        let node = self.word(&ask.node.0)?;
        let mut work = match self.work(row)? {
            Ok(work) => work,
            Err(unreadable) => {
                // Left on file and out of the order: one bad row must not stop its queue.
                tracing::error!(%unreadable, "a job cannot be read and is not run");
                return Ok(None);
            }
        };
        let Work { options, .. } = &work;
        let inputs = if options.after.is_empty() && options.follows.is_none() {
            Arc::default()
        } else {
            let (options, follows) = (Arc::clone(options), options.follows);
            self.inputs(&options.after, follows)?.into()
        };
        self.index.last_lease += 1;
        let lease = self.index.last_lease;
        let history = work.row.history(work.row.attempt + 1);
        let claim = &mut self.hot.claim;
        claim.execute((row as i64, lease as i64, history.attempt, ms(ask.now), node))?;
        let line = work.row.line;
        let task = self.index.lines[line.0 as usize].task.clone();
        let id = JobId::from_parts(row, work.row.rnd);
        let unique = self.release_at_start(id, &task, &mut work)?;
        self.index.forget_expiry(row);
        let due_at = Timestamp::from_millis(work.row.due_at);
        let running = Running {
            rnd: work.row.rnd,
            lease,
            attempt: history.attempt,
            claimed_at: ask.now.as_millis(),
            node,
            line,
            spot: picked.spot,
            unique,
            cancelling: false,
            row: Some(Box::new(work.row)),
        };
        self.index.running.insert(row, running);
        self.index.add_running(picked.spot);
        Ok(Some(Claimed {
            id,
            lease: Lease(lease),
            task,
            payload: work.payload,
            options: work.options,
            due_at,
            claimed_at: ask.now,
            history,
            checkpoint: work.checkpoint,
            cancelling: false,
            inputs,
            node: ask.node.clone(),
        }))
    }

    /// The unique key that the job still holds once it runs.
    fn release_at_start(
        &mut self,
        id: JobId,
        task: &TaskName,
        work: &mut Work,
    ) -> Result<Option<UniqueHash>, Failure> {
        let key = work.row.unique_key.as_deref();
        let unique = key.map(|key| unique_hash(task, key));
        let scope = work.options.unique.as_ref().map(|unique| unique.scope);
        let (Some(hash), Some(UniqueScope::UntilStarted)) = (unique, scope) else {
            return Ok(unique);
        };
        let sql = "UPDATE jobs SET unique_key = NULL WHERE id = ?1";
        let mut update = self.conn.prepare_cached(sql)?;
        update.execute([id.order() as i64])?;
        self.index.release(hash, id);
        work.row.unique_key = None;
        Ok(None)
    }

    /// A live job with its options read. The inner error is about this row alone.
    fn work(&mut self, row: Row) -> Result<Result<Work, Unreadable>, Failure> {
        let unreadable = |what: String| Ok(Err(Unreadable { row, what }));
        let Some(live) = LiveRow::find(&mut self.hot, row)? else {
            return unreadable("its row is gone".into());
        };
        let (_, queue) = self.index.task_and_queue(live.line);
        let options = if live.has_default_options() {
            self.index.line(live.line).default_options(&queue)
        } else {
            match live.options(&queue) {
                Ok(options) => Arc::new(options),
                Err(what) => return unreadable(what),
            }
        };
        let payload = match &live.payload {
            Some(payload) => payload.clone(),
            None => match read_blob(self.conn, payload_blob(row))? {
                Some(payload) => payload,
                None => return unreadable("its payload is gone".into()),
            },
        };
        Ok(Ok(Work {
            row: live,
            options,
            payload,
            checkpoint: self.checkpoint_of(row)?,
        }))
    }

    pub(super) fn orphans(&mut self, alive: &NodeId, limit: u16) -> Result<Vec<Claimed>, Failure> {
        let alive = self.index.words.id(&alive.0);
        let running = self.index.running.iter();
        let dead = running.filter(|(_, job)| Some(job.node) != alive);
        let dead: Vec<Row> = dead.map(|(row, _)| *row).take(limit.into()).collect();
        let mut orphans = Vec::with_capacity(dead.len());
        for row in dead {
            match self.work(row)? {
                Err(unreadable) => {
                    tracing::error!(%unreadable, "an orphaned job cannot be read");
                }
                Ok(work) => orphans.extend(self.orphan(row, work)),
            }
        }
        Ok(orphans)
    }

    fn orphan(&self, row: Row, work: Work) -> Option<Claimed> {
        let job = self.index.running.get(&row)?;
        Some(Claimed {
            id: JobId::from_parts(row, job.rnd),
            lease: Lease(job.lease),
            task: self.index.lines[job.line.0 as usize].task.clone(),
            payload: work.payload,
            options: work.options,
            due_at: Timestamp::from_millis(work.row.due_at),
            claimed_at: Timestamp::from_millis(job.claimed_at),
            history: work.row.history(job.attempt),
            checkpoint: work.checkpoint,
            cancelling: job.cancelling,
            inputs: Arc::default(),
            node: node(self.index.words.text(job.node)),
        })
    }

    pub(super) fn note(&mut self, now: Timestamp, notes: &[ProgressNote]) -> Result<(), Failure> {
        for note in notes {
            let row = note.id.order();
            let held = self.index.running.get(&row);
            let current =
                held.is_some_and(|job| job.rnd == note.id.random() && job.lease == note.lease.0);
            if current {
                let sql = "UPDATE running SET note_at = ?2, note = ?3 WHERE job = ?1";
                let mut write = self.conn.prepare_cached(sql)?;
                write.execute((row as i64, ms(now), &*note.note))?;
            }
        }
        Ok(())
    }
}
