//! One transaction: calls become rows, and the index follows.
//!
//! Path: calls -> writer -> **apply** -> commit -> answers.
//!
//! Must never: answer a caller, commit, or go on after an error of SQLite. One thread, no waiting.

mod checkpoint;
mod claim;
mod finish;
mod flows;
mod groups;
mod idle;
mod insert;
mod limits;
mod prune;
mod records;
mod schedules;
mod settle;
mod tags;
mod unique;
mod usage;

use offloop_job::{Mode, QueueName, TaskName};
use offloop_store::{Gate, LabelCount, StoreError};
use rusqlite::Connection;

use crate::calls::Command;
use crate::disk::Room;
use crate::errors::Failure;
use crate::index::{Index, LineId};
use crate::meta;
use crate::tables::Hot;

/// Leases that are reserved at a time: one small write in a million claims, and no lease returns
/// after a kill.
const LEASE_BLOCK: u64 = 1 << 20;

/// What a transaction works on.
pub(crate) struct Desk<'c> {
    pub(crate) conn: &'c Connection,
    pub(crate) hot: Hot<'c>,
    pub(crate) index: Index,
    pub(crate) room: Room,
    /// Jobs may have become ready: the hook is called after the commit.
    pub(crate) wake: bool,
    /// Where the prune before this one stopped.
    pruned: prune::Walk,
    pruned_keys: Box<str>,
    finished_rows_written: u64,
    tally: usage::Tally,
}

impl<'c> Desk<'c> {
    pub(crate) fn new(conn: &'c Connection, index: Index) -> Result<Self, Failure> {
        let finished_rows_written = index.finished_rows;
        Ok(Self {
            conn,
            hot: Hot::prepare(conn)?,
            index,
            room: Room::default(),
            wake: false,
            pruned: prune::Walk::default(),
            pruned_keys: Box::default(),
            finished_rows_written,
            tally: usage::Tally::default(),
        })
    }

    /// Does one call's work. Its caller is answered only after the commit.
    pub(crate) fn apply(&mut self, command: &mut Command) -> Result<(), Failure> {
        if self.room.short && command.is_intake() {
            command.refuse(StoreError::DiskFull {
                free_bytes: self.room.free,
                needed_bytes: self.room.kept,
            });
            return Ok(());
        }
        self.work_on(command)?;
        self.index.forget_emptied();
        Ok(())
    }

    fn work_on(&mut self, command: &mut Command) -> Result<(), Failure> {
        match command {
            Command::Insert(call) => call.answer = Some(Ok(self.insert(&call.ask)?)),
            Command::Claim(call) => call.answer = Some(Ok(self.claim(&call.ask)?)),
            Command::Settle(call) => {
                let (now, ends) = &call.ask;
                let settled = ends.iter().map(|end| self.settle(*now, end));
                call.answer = Some(Ok(settled.collect::<Result<_, _>>()?));
            }
            Command::Note(call) => call.answer = Some(Ok(self.note(call.ask.0, &call.ask.1)?)),
            Command::Checkpoint(call) => {
                let (now, notes) = &call.ask;
                let kept = notes.iter().map(|note| self.checkpoint(*now, note));
                call.answer = Some(Ok(kept.collect::<Result<_, _>>()?));
            }
            Command::Promote(call) => call.answer = Some(Ok(self.promote(call.ask)?)),
            Command::EndIdle(call) => {
                let (now, ends) = &call.ask;
                let ended = ends.iter().map(|end| self.end_idle(*now, end));
                call.answer = Some(Ok(ended.collect::<Result<_, _>>()?));
            }
            Command::Overdue(call) => {
                call.answer = Some(Ok(self.overdue(call.ask.0, call.ask.1)?));
            }
            Command::Revive(call) => {
                let (now, jobs) = &call.ask;
                let revived = jobs.iter().map(|id| self.revive(*now, *id));
                call.answer = Some(Ok(revived.collect::<Result<_, _>>()?));
            }
            Command::Delete(call) => {
                let deleted = call.ask.iter().map(|id| self.delete(*id));
                call.answer = Some(Ok(deleted.collect::<Result<_, _>>()?));
            }
            Command::Orphans(call) => {
                call.answer = Some(Ok(self.orphans(&call.ask.0, call.ask.1)?));
            }
            Command::Prune(call) => call.answer = Some(Ok(self.prune(call.ask)?)),
            Command::SetMode(call) => {
                call.answer = Some(Ok(self.set_mode(&call.ask.0, call.ask.1)?));
            }
            Command::Records(call) => {
                call.answer = Some(Ok(self.write_records(call.ask.0, &call.ask.1)?));
            }
            Command::Labels(call) => {
                let labels = self.index.labels.of(&call.ask);
                let counts = labels.map(|(label, count)| LabelCount {
                    label: label.clone(),
                    count,
                });
                call.answer = Some(Ok(counts.collect()));
            }
            Command::SetLimit(call) => call.answer = Some(Ok(self.set_limit(&call.ask)?)),
            Command::Limits(call) => call.answer = Some(Ok(self.limits(&call.ask))),
            Command::CreateGroup(call) => {
                let (now, group, jobs) = &call.ask;
                call.answer = Some(Ok(self.create_group(*now, group, jobs)?));
            }
            Command::SealGroup(call) => {
                call.answer = Some(Ok(self.seal_group(call.ask.0, call.ask.1)?));
            }
            Command::CancelGroup(call) => {
                call.answer = Some(Ok(self.cancel_group(call.ask.0, call.ask.1)?));
            }
            Command::Advance(call) => {
                call.answer = Some(Ok(self.advance(call.ask.0, call.ask.1)?));
            }
            Command::Doomed(call) => call.answer = Some(Ok(self.doomed(call.ask)?)),
            Command::PutSchedule(call) => {
                call.answer = Some(Ok(self.put_schedule(call.ask.0, &call.ask.1)?));
            }
            Command::DeleteSchedule(call) => {
                let (now, name, actor) = &call.ask;
                call.answer = Some(Ok(self.delete_schedule(*now, name, actor)?));
            }
            Command::Fire(call) => {
                let (now, firings) = &call.ask;
                let fired = firings.iter().map(|firing| self.fire(*now, firing));
                call.answer = Some(Ok(fired.collect::<Result<_, _>>()?));
            }
            Command::LiveJobs(call) => {
                let names = call.ask.iter();
                let live = names.map(|name| self.index.schedules.live(name));
                call.answer = Some(Ok(live.collect()));
            }
            Command::PruneLedger(call) => call.answer = Some(Ok(self.prune_ledger(call.ask)?)),
            Command::Close(call) => call.answer = Some(Ok(())),
        }
        Ok(())
    }

    /// Numbers that changed in this transaction, written once. Before the commit.
    pub(crate) fn flush_counts(&mut self) -> Result<(), Failure> {
        if self.index.finished_rows != self.finished_rows_written {
            meta::write(self.conn, meta::FINISHED_ROWS, self.index.finished_rows)?;
            self.finished_rows_written = self.index.finished_rows;
        }
        self.flush_usage()?;
        self.flush_buckets()?;
        self.flush_groups()?;
        self.flush_labels()
    }

    /// Whether the next transaction should reserve more leases. It must then reach the disk.
    pub(crate) const fn leases_run_low(&self) -> bool {
        self.index.leases_reserved - self.index.last_lease < LEASE_BLOCK / 2
    }

    pub(crate) fn reserve_leases(&mut self) -> Result<(), Failure> {
        let reserved = self.index.leases_reserved + LEASE_BLOCK;
        meta::write(self.conn, meta::LEASES_RESERVED, reserved)?;
        self.index.leases_reserved = reserved;
        Ok(())
    }

    /// The number of a queue and a task, written down if they are new.
    fn line(&mut self, queue: &QueueName, task: &TaskName) -> Result<LineId, Failure> {
        if let Some(id) = self.index.line_of(queue, task) {
            return Ok(id);
        }
        let id = self.index.add_line(queue, task);
        let sql = "INSERT INTO lines (id, queue, task) VALUES (?1, ?2, ?3)";
        let mut insert = self.conn.prepare_cached(sql)?;
        insert.execute((id.0 + 1, queue.as_str(), task.as_str()))?;
        Ok(id)
    }

    /// The number of a node or a lane, written down if it is new.
    fn word(&mut self, text: &str) -> Result<u32, Failure> {
        if let Some(id) = self.index.words.id(text) {
            return Ok(id);
        }
        let id = self.index.words.next_id();
        let mut insert = self
            .conn
            .prepare_cached("INSERT INTO words VALUES (?1, ?2)")?;
        insert.execute((id, text))?;
        self.index.words.add(id, text);
        Ok(id)
    }

    fn set_mode(&mut self, gate: &Gate, mode: Mode) -> Result<(), Failure> {
        let sql = match gate {
            Gate::Queue(_) => "INSERT OR REPLACE INTO queues VALUES (?1, ?2)",
            Gate::Task(_) => "INSERT OR REPLACE INTO tasks VALUES (?1, ?2)",
        };
        let mut write = self.conn.prepare_cached(sql)?;
        write.execute((gate.name(), mode as u8))?;
        match gate {
            Gate::Queue(queue) => {
                let at = self.index.queue_at(queue);
                self.index.set_queue_mode(at, mode);
            }
            Gate::Task(task) => self.index.set_task_mode(task, mode),
        }
        self.wake |= mode != Mode::Paused;
        Ok(())
    }
}
