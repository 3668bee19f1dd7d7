//! The one thread that writes: takes calls, commits them together, answers them after the flush.
//!
//! Path: calls -> **writer** -> apply -> commit -> answers -> (checkpoint).
//!
//! Must never: answer before the commit, or go on with a handle that failed. A failed handle is
//! closed; a new one is opened, its log written again, and the index read anew.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use offloop_store::{StoreError, WakeHook};
use rusqlite::Connection;

use crate::SqliteOptions;
use crate::apply::Desk;
use crate::calls::{Calls, Command};
use crate::disk::Disk;
use crate::errors::Failure;
use crate::index::Index;
use crate::meta;
use crate::open::{Check, Folder, Opened, checkpoint, open};
use crate::reader::Readers;

/// The log is moved into the file when it has this many pages.
const CHECKPOINT_PAGES: u32 = 4_000;
/// Over this a reader has kept the log from starting over for long.
const LOG_PAGES_ALARM: u32 = 16_000;
/// With nothing to do for this long, the log is moved and cut.
const IDLE: Duration = Duration::from_secs(5);
const REOPEN_FIRST: Duration = Duration::from_millis(50);
const REOPEN_LATER: Duration = Duration::from_secs(5);

/// What the writer shares with the handle.
pub(crate) struct Shared {
    pub(crate) calls: Calls,
    pub(crate) hook: Mutex<Option<WakeHook>>,
    pub(crate) readers: Readers,
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
            index,
            wal_pages,
        } = opened;
        let mut unanswered = again;
        let worked = catch_unwind(AssertUnwindSafe(|| {
            self.work(&conn, index, &wal_pages, &mut unanswered)
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
        wal_pages: &AtomicU32,
        batch: &mut Vec<Command>,
    ) -> Result<(), Failure> {
        let mut desk = Desk::new(conn, index)?;
        let mut full_sync = true;
        let mut quiet_cut = false;
        loop {
            if batch.is_empty() {
                *batch = self.shared.calls.take(IDLE);
            }
            if batch.is_empty() {
                if !quiet_cut && wal_pages.load(Ordering::Relaxed) > 0 {
                    checkpoint(conn, "TRUNCATE")?;
                    wal_pages.store(0, Ordering::Relaxed);
                }
                quiet_cut = true;
                continue;
            }
            quiet_cut = false;
            desk.room = self.disk.room();
            let committed = commit(&mut desk, conn, &mut full_sync, batch);
            #[cfg(feature = "sabotage")]
            if committed.is_err() {
                crate::sabotage::carry_on(conn, batch);
                continue;
            }
            committed?;
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
            keep_log_short(conn, wal_pages)?;
        }
    }

    /// The answers of the last batch wait until the file is clean and the lock is free.
    fn close(&self, conn: &Connection, batch: &mut Vec<Command>) -> Result<(), Failure> {
        self.shared.readers.close();
        let (busy, _, _) = checkpoint(conn, "TRUNCATE")?;
        if busy {
            tracing::warn!("another program reads the store's file: its log stays");
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
        let room = self.disk.room();
        let disk = (room.free, room.kept);
        let released = matches!(failure, Failure::DiskFull) && self.disk.release_reserve();
        let waiting = self.shared.calls.break_off();
        for command in failed {
            // With the reserve given up, jobs can end; new ones are not what it is for.
            if released && !command.is_intake() {
                again.push(command);
            } else {
                command.fail(failure.answer(disk));
            }
        }
        let mut close = None;
        for command in waiting {
            match command {
                Command::Close(call) => close = Some(call),
                command => command.fail(failure.answer(disk)),
            }
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
            if close.is_some() {
                // Nothing more can be promised; what was answered is on disk.
                for command in again {
                    command.fail(failure.answer(disk));
                }
                if let Some(call) = close {
                    Command::Close(call).fail(failure.answer(disk));
                }
                return None;
            }
            match open(&self.folder, &self.options, check) {
                Ok(opened) => {
                    let ms = began.elapsed().as_millis() as u64;
                    tracing::info!(ms, "the store is open again");
                    self.shared.readers.reopen();
                    self.shared.calls.resume();
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
            for command in self.shared.calls.take(pause) {
                match command {
                    Command::Close(call) => close = Some(call),
                    command => command.fail(failure.answer(disk)),
                }
            }
            pause = (pause * 2).min(REOPEN_LATER);
        }
    }
}

/// All calls in one transaction. After an error nothing of it counts.
fn commit(
    desk: &mut Desk<'_>,
    conn: &Connection,
    full_sync: &mut bool,
    batch: &mut Vec<Command>,
) -> Result<(), Failure> {
    let reserves = desk.leases_run_low();
    let durable = reserves || batch.iter().any(Command::is_durable);
    if durable != *full_sync {
        // The log is one file: the next full flush takes with it what was not flushed before.
        let level = if durable { "FULL" } else { "NORMAL" };
        conn.execute_batch(&format!("PRAGMA synchronous = {level}"))?;
        *full_sync = durable;
    }
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
    Ok(())
}

/// After the answers, so that nobody waits for it but the next batch.
fn keep_log_short(conn: &Connection, wal_pages: &AtomicU32) -> Result<(), Failure> {
    let pages = wal_pages.load(Ordering::Relaxed);
    if pages < CHECKPOINT_PAGES {
        return Ok(());
    }
    let (_, log, moved) = checkpoint(conn, "PASSIVE")?;
    if moved < log && pages > LOG_PAGES_ALARM {
        tracing::warn!(pages, "a reader keeps the log from starting over");
    }
    wal_pages.store(0, Ordering::Relaxed);
    Ok(())
}
