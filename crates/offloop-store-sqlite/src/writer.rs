//! The one thread that writes: takes calls, commits them together, answers them after the flush.
//!
//! Path: calls -> **writer** -> apply -> commit -> answers -> (checkpoint).
//!
//! Must never: answer before the commit, or go on with a handle that failed. A failed handle is
//! closed; a new one is opened, its log written again, and the index read anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offloop_store::{StoreError, WakeHook};
use rusqlite::Connection;

use crate::SqliteOptions;
use crate::apply::Desk;
use crate::board::Board;
use crate::calls::{Call, Calls, Command};
use crate::disk::{Disk, PAGE_BYTES, Room};
use crate::errors::Failure;
use crate::index::Index;
use crate::meta;
use crate::open::{Check, Folder, Log, Opened, checkpoint, open};
use crate::reader::Readers;

/// Over this a reader has kept the log from starting over for long.
const LOG_PAGES_ALARM: u32 = 16_000;
/// With nothing to do for this long, the log is moved and cut.
const IDLE: Duration = Duration::from_secs(5);
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_LATER: Duration = Duration::from_secs(5);

/// What the writer shares with the handle.
pub(crate) struct Shared {
    pub(crate) calls: Calls,
    pub(crate) board: Board,
    pub(crate) hook: Mutex<Option<WakeHook>>,
    pub(crate) readers: Readers,
    /// See `GroupStore::stirred`.
    pub(crate) stirred: AtomicBool,
    pub(crate) closed: AtomicBool,
}

impl Shared {
    fn call_hook(&self) {
        let hook = self
            .hook
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(hook) = hook {
            hook();
        }
    }
}

/// Why a session ended.
enum Ended {
    Closed,
    /// The calls that failed, and why.
    Failed(Vec<Command>, Failure),
}

pub(crate) struct Writer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) folder: Folder,
    pub(crate) options: SqliteOptions,
    pub(crate) disk: Disk,
    /// The end was tried once and failed: it is not tried a third time.
    pub(crate) end_failed: bool,
}

impl Writer {
    /// The thread's whole life.
    pub(crate) fn run(mut self, opened: Opened) {
        let mut opened = opened;
        let mut again = Vec::new();
        loop {
            match self.session(opened, again) {
                Ended::Closed => break,
                Ended::Failed(calls, failure) => {
                    let Some((next, calls)) = self.recover(calls, &failure) else {
                        break;
                    };
                    opened = next;
                    again = calls;
                }
            }
        }
        self.shared.closed.store(true, Ordering::Release);
        self.shared.board.close();
        self.shared.readers.close();
        self.folder.unlock();
        for command in self.shared.calls.shut() {
            command.fail(StoreError::Closed);
        }
    }

    /// One handle, from its opening to its failure or the end.
    fn session(&mut self, opened: Opened, again: Vec<Command>) -> Ended {
        let Opened {
            conn,
            mut index,
            log,
        } = opened;
        self.shared.board.publish_all(&mut index);
        let mut unanswered = again;
        let worked = catch_unwind(AssertUnwindSafe(|| {
            self.work(&conn, index, &log, &mut unanswered)
        }));
        match worked {
            Ok(Ok(())) => {
                let _ = conn.close();
                Ended::Closed
            }
            Ok(Err(failure)) => Ended::Failed(unanswered, failure),
            Err(_) => {
                let failure = Failure::bug("the writer panicked; see the log above");
                Ended::Failed(unanswered, failure)
            }
        }
    }

    fn work(
        &mut self,
        conn: &Connection,
        index: Index,
        log: &Log,
        batch: &mut Vec<Command>,
    ) -> Result<(), Failure> {
        let mut desk = Desk::new(conn, index)?;
        let mut quiet_cut = false;
        loop {
            if batch.is_empty() {
                *batch = self.shared.calls.take(IDLE);
            }
            if batch.is_empty() {
                if !quiet_cut && log.pages() > 0 {
                    self.move_log(conn, log, "TRUNCATE")?;
                }
                quiet_cut = true;
                continue;
            }
            quiet_cut = false;
            desk.room = self.make_room(conn, log)?;
            let committed = commit(&mut desk, conn, log, batch);
            #[cfg(feature = "sabotage")]
            if committed.is_err() {
                crate::sabotage::carry_on(conn, batch);
                continue;
            }
            committed?;
            self.shared.board.publish(&mut desk.index);
            let stirs = desk.index.groups.stirs();
            desk.wake |= stirs && !self.shared.stirred.load(Ordering::Relaxed);
            self.shared.stirred.store(stirs, Ordering::Release);
            let closes = matches!(batch.last(), Some(Command::Close(_)));
            if closes {
                return self.close(conn, batch);
            }
            for command in batch.drain(..) {
                command.finish();
            }
            if std::mem::take(&mut desk.wake) {
                self.shared.call_hook();
            }
            if u64::from(log.pages()) >= self.disk.log_pages_max() {
                // After the answers, so that nobody waits for it but the next batch.
                self.move_log(conn, log, "PASSIVE")?;
            }
        }
    }

    /// Room for the next transaction. What the log holds is moved first, if that tells.
    fn make_room(&mut self, conn: &Connection, log: &Log) -> Result<Room, Failure> {
        let room = self.disk.room(log.pages());
        if room.short_after_log && !room.short && log.pages() > 0 {
            self.move_log(conn, log, "PASSIVE")?;
            return Ok(self.disk.room(log.pages()));
        }
        Ok(room)
    }

    /// Moves the log into the file, so that it can start over.
    fn move_log(&mut self, conn: &Connection, log: &Log, mode: &str) -> Result<(), Failure> {
        let pages = log.pages();
        let room = self.disk.room(pages);
        if room.free < u64::from(pages) * PAGE_BYTES {
            // It might stop half-way, with the last bytes that running jobs need to end.
            return Ok(());
        }
        match checkpoint(conn, mode).map_err(Failure::from) {
            Ok((_, found, moved)) => {
                if moved < found && pages > LOG_PAGES_ALARM {
                    tracing::warn!(pages, "a reader keeps the log from starting over");
                }
            }
            // What is in the log is safe there; jobs can end while it grows.
            Err(Failure::DiskFull) => {
                self.disk.release_reserve();
            }
            Err(failure) => return Err(failure),
        }
        // The next commit counts anew.
        log.start_over();
        Ok(())
    }

    /// The answers of the last batch wait until the file is clean and the lock is free.
    fn close(&self, conn: &Connection, batch: &mut Vec<Command>) -> Result<(), Failure> {
        self.shared.board.close();
        self.shared.readers.close();
        match checkpoint(conn, "TRUNCATE").map_err(Failure::from) {
            Ok((false, _, _)) => {}
            Ok((true, _, _)) => tracing::warn!("another program reads the store: its log stays"),
            Err(Failure::DiskFull) => tracing::warn!("the disk is full: the log stays"),
            Err(failure) => return Err(failure),
        }
        self.folder.unlock();
        for command in batch.drain(..) {
            command.finish();
        }
        Ok(())
    }

    /// Answers what failed, then opens the file anew, however long it takes. `None` when the end
    /// was asked for meanwhile. Calls that may be tried once more come back.
    fn recover(
        &mut self,
        failed: Vec<Command>,
        failure: &Failure,
    ) -> Option<(Opened, Vec<Command>)> {
        tracing::error!(%failure, "the store failed and is reopened");
        let mut again = Vec::new();
        let room = self.disk.room(0);
        let disk = (room.free, room.kept);
        let released = matches!(failure, Failure::DiskFull) && self.disk.release_reserve();
        let waiting = self.shared.calls.break_off();
        let mut close = None;
        let mut give_up = false;
        for command in failed {
            match command {
                Command::Close(call) => {
                    give_up = std::mem::replace(&mut self.end_failed, true);
                    close = Some(call);
                }
                // With the reserve given up, jobs can end; new ones are not what it is for.
                command if released && !command.is_intake() => again.push(command),
                command => command.fail(failure.answer(disk)),
            }
        }
        for command in waiting {
            refuse(command, &mut close, failure, disk);
        }
        self.shared.readers.send_away();
        let began = Instant::now();
        let check = if failure.is_corrupt() {
            Check::All
        } else {
            Check::Quick
        };
        let mut pause = REOPEN_FIRST;
        let mut logged = false;
        loop {
            match open(&self.folder, &self.options, check) {
                Ok(_) if give_up => {}
                Ok(opened) => {
                    let ms = began.elapsed().as_millis() as u64;
                    tracing::info!(ms, "the store is open again");
                    self.shared.readers.reopen();
                    self.shared.calls.resume();
                    again.extend(close.map(Command::Close));
                    return Some((opened, again));
                }
                Err(error) if !logged => {
                    logged = true;
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "cannot reopen yet"
                    );
                }
                Err(_) => {}
            }
            if let Some(call) = close {
                // The end cannot wait for the disk. What was answered is in the log.
                again.push(Command::Close(call));
                for command in again {
                    command.fail(failure.answer(disk));
                }
                return None;
            }
            for command in self.shared.calls.take(pause) {
                refuse(command, &mut close, failure, disk);
            }
            pause = (pause * 2).min(REOPEN_LATER);
        }
    }
}

/// Answers a call that came while the store is down; the end is kept for later.
fn refuse(command: Command, close: &mut Option<Call<(), ()>>, failure: &Failure, disk: (u64, u64)) {
    match command {
        Command::Close(call) => *close = Some(call),
        command => command.fail(failure.answer(disk)),
    }
}

/// All calls in one transaction, on disk if one of them needs it. After an error nothing of it counts.
#[cfg_attr(not(feature = "sabotage"), expect(clippy::ptr_arg))] // the broken build takes calls out
fn commit(
    desk: &mut Desk<'_>,
    conn: &Connection,
    log: &Log,
    batch: &mut Vec<Command>,
) -> Result<(), Failure> {
    let reserves = desk.leases_run_low();
    let durable = reserves || batch.iter().any(Command::is_durable);
    desk.hot.begin.execute([])?;
    if reserves {
        desk.reserve_leases()?;
    }
    for command in batch.iter_mut() {
        desk.apply(command)?;
    }
    desk.flush_counts()?;
    if matches!(batch.last(), Some(Command::Close(_))) {
        meta::write(conn, meta::LAST_ROW, desk.index.last_row)?;
    }
    #[cfg(feature = "sabotage")]
    crate::sabotage::answer_early(batch);
    desk.hot.commit.execute([])?;
    if durable {
        // One log: this takes with it what was committed before and not flushed.
        log.flush()?;
    }
    Ok(())
}
