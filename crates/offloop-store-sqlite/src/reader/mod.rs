//! Screens: two threads with connections of their own that only read.
//!
//! Each question sees one moment of the file, and has five seconds: an old snapshot would keep the
//! log from starting over.
//!
//! Must never: write, or be asked by the hot path.

pub(crate) mod audit;
pub(crate) mod groups;
pub(crate) mod jobs;
pub(crate) mod records;
pub(crate) mod schedules;
pub(crate) mod usage;

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use offloop_store::{BackendError, Reply, StoreError};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};
use tokio::sync::oneshot;

pub(crate) const READERS: usize = 2;
const READ_MAX: Duration = Duration::from_secs(5);
/// Steps of SQLite's machine between two looks at the time: well under a millisecond.
const STEPS_BETWEEN_LOOKS: i32 = 10_000;
const WAITING_MAX: usize = 1_024;
const READER_CACHE_KIB: u32 = 4 << 10;

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error("reading took longer than {} s; narrow the filter", READ_MAX.as_secs())]
    TooSlow,
    #[error("{0}")]
    Unreadable(#[from] crate::tables::Unreadable),
    #[error("SQLite could not read")]
    Sqlite(#[source] rusqlite::Error),
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        if error.sqlite_error_code() == Some(rusqlite::ErrorCode::OperationInterrupted) {
            Self::TooSlow
        } else {
            Self::Sqlite(error)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Door {
    Open,
    /// The file is being reopened: nobody may hold it.
    Away,
    Closed,
}

type Question = Box<dyn FnOnce(Result<&Connection, StoreError>) + Send>;

struct Waiting {
    questions: VecDeque<Question>,
    door: Door,
}

/// One reader's connection, and until when it may read.
struct Slot {
    conn: Mutex<Option<Connection>>,
    /// Milliseconds after `Readers::began`.
    until: Arc<AtomicU64>,
}

pub(crate) struct Readers {
    path: PathBuf,
    waiting: Mutex<Waiting>,
    bell: Condvar,
    slots: [Slot; READERS],
    began: Instant,
    /// Whoever reads stops at its next look.
    hurry: Arc<AtomicBool>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        let slot = || Slot {
            conn: Mutex::new(None),
            until: Arc::default(),
        };
        Self {
            path,
            waiting: Mutex::new(Waiting {
                questions: VecDeque::new(),
                door: Door::Open,
            }),
            bell: Condvar::new(),
            slots: std::array::from_fn(|_| slot()),
            began: Instant::now(),
            hurry: Arc::default(),
        }
    }

    /// Asks one question. `operation` completes "the store could not ...".
    pub(crate) fn ask<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, ReadError> + Send + 'static,
    ) -> Reply<T> {
        let (reply, answer) = oneshot::channel();
        let question: Question = Box::new(move |conn| {
            let answer = conn.and_then(|conn| {
                read_at_one_moment(conn, read).map_err(|error| StoreError::Backend {
                    operation,
                    cause: BackendError::new(error),
                })
            });
            // A caller that has gone away is no failure.
            let _ = reply.send(answer);
        });
        self.push(question);
        let lost = StoreError::Broken { cause: None };
        Box::pin(async move { answer.await.unwrap_or(Err(lost)) })
    }

    fn push(&self, question: Question) {
        let mut waiting = lock(&self.waiting);
        let refusal = match waiting.door {
            Door::Closed => Some(StoreError::Closed),
            Door::Away => Some(StoreError::Broken { cause: None }),
            Door::Open if waiting.questions.len() >= WAITING_MAX => Some(StoreError::Busy {
                waiting: WAITING_MAX,
            }),
            Door::Open => None,
        };
        if let Some(refusal) = refusal {
            drop(waiting);
            question(Err(refusal));
            return;
        }
        waiting.questions.push_back(question);
        drop(waiting);
        self.bell.notify_one();
    }

    /// A reader thread's whole life.
    pub(crate) fn run(&self, nth: usize) {
        let slot = &self.slots[nth];
        loop {
            let mut waiting = lock(&self.waiting);
            let question = loop {
                if waiting.door == Door::Closed {
                    return;
                }
                if let Some(question) = waiting.questions.pop_front() {
                    break question;
                }
                waiting = self
                    .bell
                    .wait(waiting)
                    .unwrap_or_else(PoisonError::into_inner);
            };
            // Held before the line is let go: who turns readers away then waits for this one.
            let mut conn = lock(&slot.conn);
            drop(waiting);
            if conn.is_none() {
                match self.open(slot) {
                    Ok(opened) => *conn = Some(opened),
                    Err(error) => {
                        question(Err(StoreError::Backend {
                            operation: "open its file for reading",
                            cause: BackendError::new(error),
                        }));
                        continue;
                    }
                }
            }
            let until = self.began.elapsed() + READ_MAX;
            slot.until
                .store(until.as_millis() as u64, Ordering::Relaxed);
            let answered = catch_unwind(AssertUnwindSafe(|| {
                if let Some(conn) = conn.as_ref() {
                    question(Ok(conn));
                }
            }));
            if answered.is_err() {
                // Reported where it happened; the next question gets a connection of its own.
                *conn = None;
            }
        }
    }

    fn open(&self, slot: &Slot) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let mut conn = Connection::open_with_flags(&self.path, flags)?;
        conn.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        conn.execute_batch(&format!(
            "PRAGMA query_only = ON; PRAGMA cache_size = -{READER_CACHE_KIB}; \
             PRAGMA trusted_schema = OFF;"
        ))?;
        let (until, hurry) = (Arc::clone(&slot.until), Arc::clone(&self.hurry));
        let began = self.began;
        let too_late = move || {
            let now = began.elapsed().as_millis() as u64;
            hurry.load(Ordering::Relaxed) || now > until.load(Ordering::Relaxed)
        };
        conn.progress_handler(STEPS_BETWEEN_LOOKS, Some(too_late))?;
        Ok(conn)
    }

    fn turn_away(&self, door: Door) {
        let mut waiting = lock(&self.waiting);
        if waiting.door != Door::Closed {
            waiting.door = door;
        }
        let questions = std::mem::take(&mut waiting.questions);
        drop(waiting);
        self.bell.notify_all();
        for question in questions {
            question(Err(match door {
                Door::Closed => StoreError::Closed,
                _ => StoreError::Broken { cause: None },
            }));
        }
        self.hurry.store(true, Ordering::Relaxed);
        for slot in &self.slots {
            *lock(&slot.conn) = None;
        }
        self.hurry.store(false, Ordering::Relaxed);
    }

    /// Nobody holds the file when this returns.
    pub(crate) fn send_away(&self) {
        self.turn_away(Door::Away);
    }

    pub(crate) fn close(&self) {
        self.turn_away(Door::Closed);
    }

    pub(crate) fn reopen(&self) {
        let mut waiting = lock(&self.waiting);
        if waiting.door == Door::Away {
            waiting.door = Door::Open;
        }
    }
}

fn read_at_one_moment<T>(
    conn: &Connection,
    read: impl FnOnce(&Connection) -> Result<T, ReadError>,
) -> Result<T, ReadError> {
    let moment = Transaction::new_unchecked(conn, TransactionBehavior::Deferred)?;
    read(&moment)
}
