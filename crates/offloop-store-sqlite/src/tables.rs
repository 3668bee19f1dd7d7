//! The statements of the hot path, prepared once, and how rows become jobs.
//!
//! Must never: decide anything. `apply` decides.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::{Failure, FailureClass, History, JobOptions, NodeId, QueueName, Tag, Timestamp};
use rusqlite::{Connection, OptionalExtension, Row, Statement};

use crate::index::{LineId, Row as RowNumber};

/// A payload or result longer than this is kept apart, so that a row stays within its page.
pub(crate) const INLINE_BYTES_MAX: usize = 2 << 10;

pub(crate) struct Hot<'c> {
    pub(crate) begin: Statement<'c>,
    pub(crate) commit: Statement<'c>,
    pub(crate) insert: Statement<'c>,
    pub(crate) read: Statement<'c>,
    pub(crate) claim: Statement<'c>,
    pub(crate) unclaim: Statement<'c>,
    pub(crate) finish: Statement<'c>,
    pub(crate) delete: Statement<'c>,
}

impl<'c> Hot<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            insert: conn.prepare(
                "INSERT INTO jobs (id, rnd, line, state, priority, attempt, streak, due_at, \
                 run_at, expires_at, unique_key, options, payload) \
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            read: conn.prepare(
                "SELECT rnd, line, state, priority, attempt, streak, due_at, run_at, expires_at, \
                 lease, class, exit_code, signal, unique_key, options, message, payload, \
                 memory_ends, snoozes FROM jobs WHERE id = ?1",
            )?,
            claim: conn
                .prepare("INSERT INTO running VALUES (?1, ?2, ?3, ?4, ?5, 0, NULL, NULL)")?,
            unclaim: conn.prepare("DELETE FROM running WHERE job = ?1")?,
            finish: conn.prepare(
                "INSERT INTO history VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
                 ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25, ?26, ?27, ?28, \
                 ?29, ?30, ?31, ?32, ?33, ?34, ?35, ?36, ?37)",
            )?,
            delete: conn.prepare("DELETE FROM jobs WHERE id = ?1")?,
        })
    }
}

/// A row of the table jobs.
#[derive(Clone, Debug)]
pub(crate) struct LiveRow {
    pub(crate) rnd: u64,
    pub(crate) line: LineId,
    pub(crate) code: i64,
    pub(crate) priority: u8,
    pub(crate) attempt: u16,
    pub(crate) streak: u16,
    pub(crate) memory_ends: u16,
    pub(crate) snoozes: u16,
    pub(crate) due_at: u64,
    pub(crate) run_at: Option<u64>,
    pub(crate) expires_at: Option<u64>,
    pub(crate) lease: Option<u64>,
    /// Of the last attempt that failed.
    pub(crate) failure: Option<Box<Failure>>,
    /// The unique key that it holds.
    pub(crate) unique_key: Option<Box<str>>,
    pub(crate) options: Option<Box<str>>,
    /// `None` if it is in the table blobs.
    pub(crate) payload: Option<Bytes>,
}

impl LiveRow {
    /// The row of a live job, if there is one.
    pub(crate) fn find(hot: &mut Hot<'_>, row: RowNumber) -> rusqlite::Result<Option<Self>> {
        let mut rows = hot.read.query([row as i64])?;
        rows.next()?.map(Self::read).transpose()
    }

    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        let message = row.get_ref(15)?.as_str_or_null()?;
        let failure = failure(row.get(10)?, message, row.get(11)?, row.get(12)?);
        let payload = row.get_ref(16)?.as_blob_or_null()?;
        Ok(Self {
            rnd: row.get(0)?,
            line: LineId(row.get::<_, u32>(1)?.wrapping_sub(1)),
            code: row.get(2)?,
            priority: row.get(3)?,
            attempt: row.get(4)?,
            streak: row.get(5)?,
            memory_ends: row.get::<_, Option<u16>>(17)?.unwrap_or(0),
            snoozes: row.get::<_, Option<u16>>(18)?.unwrap_or(0),
            due_at: row.get(6)?,
            run_at: row.get(7)?,
            expires_at: row.get(8)?,
            lease: row.get(9)?,
            failure: failure.map(Box::new),
            unique_key: row.get(13)?,
            options: row.get(14)?,
            payload: payload.map(Bytes::copy_from_slice),
        })
    }

    /// As its next attempt finds it.
    pub(crate) const fn history(&self, attempt: u16) -> History {
        History {
            attempt,
            crash_streak: self.streak,
            memory_ends: self.memory_ends,
            snoozes: self.snoozes,
        }
    }

    /// Nothing was asked for but the queue.
    pub(crate) const fn has_default_options(&self) -> bool {
        self.priority == offloop_job::limits::PRIORITY_DEFAULT
            && self.run_at.is_none()
            && self.options.is_none()
    }

    pub(crate) fn group_key(&self) -> Option<Tag> {
        offloop_store::codec::group_key(self.options.as_deref()?)
    }

    pub(crate) fn options(&self, queue: &QueueName) -> Result<JobOptions, String> {
        options(queue, self.priority, self.run_at, self.options.as_deref())
    }
}

/// Options from their columns.
pub(crate) fn options(
    queue: &QueueName,
    priority: u8,
    run_at: Option<u64>,
    text: Option<&str>,
) -> Result<JobOptions, String> {
    let mut options = JobOptions {
        queue: queue.clone(),
        priority,
        run_at: run_at.map(Timestamp::from_millis),
        ..JobOptions::default()
    };
    if let Some(text) = text {
        offloop_store::codec::decode_into(text, &mut options).map_err(|e| e.to_string())?;
    }
    Ok(options)
}

/// Number of a job's payload in the table blobs; its result has the next one.
pub(crate) const fn payload_blob(row: RowNumber) -> u64 {
    row * 2
}

pub(crate) const fn result_blob(row: RowNumber) -> u64 {
    row * 2 + 1
}

pub(crate) fn write_blob(conn: &Connection, id: u64, data: &[u8]) -> rusqlite::Result<()> {
    let mut write = conn.prepare_cached("INSERT OR REPLACE INTO blobs VALUES (?1, ?2)")?;
    write.execute((id as i64, data)).map(|_| ())
}

pub(crate) fn read_blob(conn: &Connection, id: u64) -> rusqlite::Result<Option<Bytes>> {
    let mut read = conn.prepare_cached("SELECT data FROM blobs WHERE id = ?1")?;
    let found = read.query_row([id as i64], |row| {
        Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
    });
    found.optional()
}

/// The bytes of a column, or of the blob that stands for it.
pub(crate) fn read_bytes(
    conn: &Connection,
    row: &Row<'_>,
    column: usize,
    blob: u64,
) -> rusqlite::Result<Option<Bytes>> {
    match row.get_ref(column)?.as_blob_or_null()? {
        Some(inline) => Ok(Some(Bytes::copy_from_slice(inline))),
        None => read_blob(conn, blob),
    }
}

/// A row that this program cannot read: damaged, or written by a newer one.
#[derive(Debug, thiserror::Error)]
#[error("job {row:#x}: {what}")]
pub(crate) struct Unreadable {
    pub(crate) row: RowNumber,
    pub(crate) what: String,
}

/// A failure from four columns.
pub(crate) fn failure(
    class: Option<u8>,
    message: Option<&str>,
    exit_code: Option<i32>,
    signal: Option<i32>,
) -> Option<Failure> {
    let class = FailureClass::from_code(class?)?;
    let failure = Failure::new(class, message.unwrap_or(""));
    Some(failure.with_exit(exit_code, signal))
}

pub(crate) fn timestamp(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Timestamp>> {
    let ms: Option<u64> = row.get(at)?;
    Ok(ms.map(Timestamp::from_millis))
}

pub(crate) fn node(text: &str) -> NodeId {
    NodeId(text.into())
}

pub(crate) fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// A number of bytes that is mostly none: NULL then.
pub(crate) fn bytes(count: u64) -> Option<i64> {
    (count > 0).then(|| size(count))
}

pub(crate) fn size(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

pub(crate) const fn ms(at: Timestamp) -> i64 {
    at.as_millis() as i64
}
