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
mod requests;
mod schedules;
mod settle;
mod tags;
mod unique;
mod usage;

use offloop_job::{Collection, Mode, QueueName, TaskName};
use offloop_store::{Gate, LabelCount, ModeChange, StoreError};
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

    #[rustfmt::skip] // a table: a call, and who does its work
    fn work_on(&mut self, command: &mut Command) -> Result<(), Failure> {
        match command {
            Command::Insert(call) => call.work(|ask| self.insert(ask)),
            Command::Claim(call) => call.work(|ask| self.claim(ask)),
            Command::Settle(call) => call.work(|(now, ends)| each(ends, |end| self.settle(*now, end))),
            Command::Note(call) => call.work(|(now, notes)| self.note(*now, notes)),
            Command::Checkpoint(call) => call.work(|(now, notes)| each(notes, |note| self.checkpoint(*now, note))),
            Command::Promote(call) => call.work(|now| self.promote(*now)),
            Command::EndIdle(call) => call.work(|(now, ends)| each(ends, |end| self.end_idle(*now, end))),
            Command::Overdue(call) => call.work(|(now, limit)| self.overdue(*now, *limit)),
            Command::Revive(call) => call.work(|(now, jobs)| each(jobs, |id| self.revive(*now, *id))),
            Command::Delete(call) => call.work(|jobs| each(jobs, |id| self.delete(*id))),
            Command::Orphans(call) => call.work(|(alive, limit)| self.orphans(alive, *limit)),
            Command::Prune(call) => call.work(|rule| self.prune(*rule)),
            Command::SetMode(call) => call.work(|change| self.set_mode(change)),
            Command::Records(call) => call.work(|(now, writes)| self.write_records(*now, writes)),
            Command::Labels(call) => call.work(|collection| Ok(self.labels(collection))),

            Command::SetLimit(call) => call.work(|ask| self.set_limit(ask)),
            Command::Limits(call) => call.work(|ask| Ok(self.limits(ask))),

            Command::CreateGroup(call) => call.work(|(now, group, jobs)| self.create_group(*now, group, jobs)),
            Command::SealGroup(call) => call.work(|order| self.seal_group(order)),
            Command::CancelGroup(call) => call.work(|order| self.cancel_group(order)),
            Command::Advance(call) => call.work(|(now, limit)| self.advance(*now, *limit)),
            Command::Doomed(call) => call.work(|limit| self.doomed(*limit)),
            Command::Unheard(call) => call.work(|limit| Ok(self.unheard(*limit))),
            Command::Heard(call) => call.work(|(now, ends)| self.heard(*now, ends)),

            Command::PutSchedule(call) => call.work(|(now, put)| self.put_schedule(*now, put)),
            Command::DeleteSchedule(call) => call.work(|(now, name, actor)| self.delete_schedule(*now, name, actor)),
            Command::Fire(call) => call.work(|(now, firings)| each(firings, |firing| self.fire(*now, firing))),
            Command::LiveJobs(call) => call.work(|names| each(names, |name| Ok(self.index.schedules.live(name)))),
            Command::PruneLedger(call) => call.work(|rule| self.prune_ledger(*rule)),

            Command::Close(call) => call.work(|()| Ok(())),
        }
    }

    fn labels(&self, collection: &Collection) -> Vec<LabelCount> {
        let labels = self.index.labels.of(collection);
        let counts = labels.map(|(label, count)| LabelCount {
            label: label.clone(),
            count,
        });
        counts.collect()
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

    fn set_mode(&mut self, change: &ModeChange) -> Result<(), Failure> {
        let (gate, mode) = (&change.gate, change.mode);
        let sql = match gate {
            Gate::Queue(_) => "INSERT OR REPLACE INTO queues VALUES (?1, ?2)",
            Gate::Task(_) => "INSERT OR REPLACE INTO tasks VALUES (?1, ?2)",
        };
        let mut write = self.conn.prepare_cached(sql)?;
        write.execute((gate.name(), mode as u8))?;
        let before;
        match gate {
            Gate::Queue(queue) => {
                let at = self.index.queue_at(queue);
                before = self.index.queues[at].mode.unwrap_or_default();
                self.index.set_queue_mode(at, mode);
            }
            Gate::Task(task) => {
                before = self.index.task_mode(task);
                self.index.set_task_mode(task, mode);
            }
        }
        if let Some(entry) = change.entry(before) {
            self.note_change(entry)?;
        }
        self.wake |= mode != Mode::Paused;
        Ok(())
    }
}

/// One answer for each, in order; none for all if one fails.
fn each<T, A>(asks: &[T], work: impl FnMut(&T) -> Result<A, Failure>) -> Result<Vec<A>, Failure> {
    asks.iter().map(work).collect()
}
