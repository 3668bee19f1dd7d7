//! Handing jobs out, and finding those whose holder is dead.

use std::sync::Arc;

use offloop_job::{History, JobId, JobState, Lease, NodeId, Timestamp, UniqueScope};
use offloop_store::{ClaimRequest, Claimed, ProgressNote, Promoted};

use super::Desk;
use crate::errors::Failure;
use crate::index::{Picked, Row, Running, unique_hash};
use crate::meta;
use crate::tables::{OptionColumns, Unreadable, node, payload_blob, read_bytes};

/// A job as its row has it, for one who will run it.
struct Read {
    id: JobId,
    due_at: Timestamp,
    options: Arc<offloop_job::JobOptions>,
    payload: bytes::Bytes,
    unique_key: Option<Box<str>>,
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

    pub(super) fn claim(&mut self, ask: &ClaimRequest) -> Result<Vec<Claimed>, Failure> {
        let mut claimed = Vec::new();
        let mut node = None;
        for want in &ask.wants {
            let now = ask.now.as_millis();
            let picked = self.index.pick(&want.tasks, want.limit.into(), now);
            for picked in picked {
                let node = match node {
                    Some(id) => id,
                    None => *node.insert(self.word(&ask.node.0)?),
                };
                claimed.extend(self.claim_one(picked, ask, node)?);
            }
        }
        Ok(claimed)
    }

    fn claim_one(
        &mut self,
        picked: Picked,
        ask: &ClaimRequest,
        node: u32,
    ) -> Result<Option<Claimed>, Failure> {
        let Picked { row, line, key } = picked;
        let (read, before) = match self.read_job(row, line)? {
            Ok(read) => read,
            Err(unreadable) => {
                // Left on file and out of the order: one bad row must not stop its queue.
                tracing::error!(%unreadable, "a job cannot be read and is not run");
                return Ok(None);
            }
        };
        self.index.last_lease += 1;
        let lease = self.index.last_lease;
        let attempt = before.attempt + 1;
        let claimed_at = ask.now.as_millis() as i64;
        self.hot
            .claim
            .execute((row as i64, attempt, lease as i64, claimed_at, node))?;
        let mut unique = read.unique_key.as_deref().map(|text| {
            let task = &self.index.lines[line.0 as usize].task;
            unique_hash(task, text)
        });
        let scope = read.options.unique.as_ref().map(|unique| unique.scope);
        if let (Some(hash), Some(UniqueScope::UntilStarted)) = (unique, scope) {
            let sql = "UPDATE jobs SET unique_key = NULL WHERE id = ?1";
            self.conn.prepare_cached(sql)?.execute([row as i64])?;
            self.index.release(hash);
            unique = None;
        }
        let expires_at = self.index.forget_expiry(row);
        let running = Running {
            rnd: read.id.random(),
            lease,
            node,
            line,
            attempt,
            streak: before.crash_streak,
            ready: key,
            expires_at,
            unique,
            cancelling: false,
            noted: false,
        };
        self.index.running.insert(row, running);
        self.index.line(line).running += 1;
        Ok(Some(Claimed {
            id: read.id,
            lease: Lease(lease),
            task: self.index.lines[line.0 as usize].task.clone(),
            payload: read.payload,
            options: read.options,
            due_at: read.due_at,
            claimed_at: ask.now,
            history: History {
                attempt,
                crash_streak: before.crash_streak,
            },
            cancelling: false,
            node: ask.node.clone(),
        }))
    }

    /// A live job and what it has behind it. The inner error is about this row alone.
    fn read_job(
        &mut self,
        row: Row,
        line: crate::index::LineId,
    ) -> Result<Result<(Read, History), Unreadable>, Failure> {
        let unreadable = |what: String| Unreadable { row, what };
        let at = self.index.lines[line.0 as usize].queue;
        let queue = self.index.queues[at].name.clone();
        let default = self.index.line(line).default_options(&queue);
        let mut rows = self.hot.read.query([row as i64])?;
        let Some(found) = rows.next()? else {
            return Ok(Err(unreadable("its row is gone".into())));
        };
        let columns = OptionColumns {
            priority: found.get(1)?,
            run_at: found.get(3)?,
            text: found
                .get_ref(5)?
                .as_str_or_null()
                .map_err(rusqlite::Error::from)?,
        };
        let options = if columns.is_default() {
            default
        } else {
            match columns.options(&queue) {
                Ok(options) => Arc::new(options),
                Err(what) => return Ok(Err(unreadable(what))),
            }
        };
        let inline = found
            .get_ref(6)?
            .as_blob_or_null()
            .map_err(rusqlite::Error::from)?;
        let Some(payload) = read_bytes(self.conn, inline, payload_blob(row))? else {
            return Ok(Err(unreadable("its payload is gone".into())));
        };
        let history = History {
            attempt: found.get(7)?,
            crash_streak: found.get(8)?,
        };
        let read = Read {
            id: JobId::from_parts(row, found.get(0)?),
            due_at: Timestamp::from_millis(found.get(2)?),
            options,
            payload,
            unique_key: found.get(4)?,
        };
        Ok(Ok((read, history)))
    }

    pub(super) fn orphans(&mut self, alive: &NodeId, limit: u16) -> Result<Vec<Claimed>, Failure> {
        let alive = self.index.words.id(&alive.0);
        let running = self.index.running.iter();
        let dead = running.filter(|(_, job)| Some(job.node) != alive);
        let dead: Vec<_> = dead
            .map(|(row, job)| (*row, *job))
            .take(limit.into())
            .collect();
        let mut orphans = Vec::with_capacity(dead.len());
        for (row, job) in dead {
            let sql = "SELECT claimed_at FROM jobs WHERE id = ?1";
            let mut query = self.conn.prepare_cached(sql)?;
            let claimed_at: u64 = query.query_row([row as i64], |row| row.get(0))?;
            match self.read_job(row, job.line)? {
                Err(unreadable) => {
                    tracing::error!(%unreadable, "an orphaned job cannot be read");
                }
                Ok((read, history)) => orphans.push(Claimed {
                    id: read.id,
                    lease: Lease(job.lease),
                    task: self.index.lines[job.line.0 as usize].task.clone(),
                    payload: read.payload,
                    options: read.options,
                    due_at: read.due_at,
                    claimed_at: Timestamp::from_millis(claimed_at),
                    history,
                    cancelling: job.cancelling,
                    node: node(self.index.words.text(job.node)),
                }),
            }
        }
        Ok(orphans)
    }

    pub(super) fn note(&mut self, now: Timestamp, notes: &[ProgressNote]) -> Result<(), Failure> {
        for note in notes {
            let row = note.id.order();
            let Some(running) = self.index.running.get_mut(&row) else {
                continue;
            };
            if running.rnd != note.id.random() || running.lease != note.lease.0 {
                continue;
            }
            running.noted = true;
            let sql = "INSERT OR REPLACE INTO progress VALUES (?1, ?2, ?3)";
            let mut write = self.conn.prepare_cached(sql)?;
            write.execute((row as i64, now.as_millis() as i64, &*note.note))?;
        }
        Ok(())
    }

    /// What a job that is alive but not running is, with the promoted mark heeded.
    pub(super) fn idle_state(&self, code: i64, due: u64) -> JobState {
        match code {
            1 if due <= self.index.promoted => JobState::Ready,
            -1 | 1 => JobState::Scheduled,
            3 => JobState::Running,
            _ => JobState::Ready,
        }
    }
}
