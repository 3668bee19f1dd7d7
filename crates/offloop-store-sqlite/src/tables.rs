//! The statements of the hot path, prepared once, and how a row becomes a job.
//!
//! Must never: decide anything. `apply` decides.

use bytes::Bytes;
use offloop_job::{Failure, FailureClass, JobOptions, NodeId, QueueName, Timestamp};
use rusqlite::{Connection, Row, Statement};

use crate::index::Row as RowNumber;

/// A payload or result longer than this is kept apart from its row, which is rewritten by a claim.
pub(crate) const INLINE_BYTES_MAX: usize = 4 << 10;

const READ_JOB: &str = "SELECT rnd, priority, due_at, run_at, unique_key, options, payload, \
    attempt, streak FROM jobs WHERE id = ?1";

pub(crate) struct Hot<'c> {
    pub(crate) begin: Statement<'c>,
    pub(crate) commit: Statement<'c>,
    pub(crate) insert: Statement<'c>,
    pub(crate) read: Statement<'c>,
    pub(crate) claim: Statement<'c>,
    pub(crate) finish: Statement<'c>,
    pub(crate) delete: Statement<'c>,
}

impl<'c> Hot<'c> {
    pub(crate) fn prepare(conn: &'c Connection) -> rusqlite::Result<Self> {
        Ok(Self {
            begin: conn.prepare("BEGIN IMMEDIATE")?,
            commit: conn.prepare("COMMIT")?,
            insert: conn.prepare(
                "INSERT INTO jobs (id, rnd, line, state, priority, attempt, streak, cancelling, \
                 due_at, run_at, expires_at, unique_key, options, payload) \
                 VALUES (?1, ?2, ?3, ?4, ?5, 0, 0, 0, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?,
            read: conn.prepare(READ_JOB)?,
            claim: conn.prepare(
                "UPDATE jobs SET state = 3, attempt = ?2, lease = ?3, claimed_at = ?4, node = ?5 \
                 WHERE id = ?1",
            )?,
            finish: conn.prepare(
                "INSERT INTO history (id, rnd, line, state, priority, attempt, due_at, run_at, \
                 finished_at, lease, claimed_at, node, reason, class, exit_code, signal, \
                 attempt_failed, attempt_node, lane, started_at, ended_at, wait_us, wall_us, \
                 cpu_us, max_rss, log_dropped, options, message, executor, payload, result, \
                 log_head, log_tail) \
                 SELECT id, rnd, line, ?2, priority, attempt, due_at, run_at, \
                 ?3, lease, claimed_at, node, ?4, iif(?5, ?6, class), iif(?5, ?7, exit_code), \
                 iif(?5, ?8, signal), ?5, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, options, \
                 iif(?5, ?18, message), ?19, payload, ?20, ?21, ?22 FROM jobs WHERE id = ?1",
            )?,
            delete: conn.prepare("DELETE FROM jobs WHERE id = ?1")?,
        })
    }
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

/// The bytes of a column, or of the blob that stands for it.
pub(crate) fn read_bytes(
    conn: &Connection,
    inline: Option<&[u8]>,
    blob: u64,
) -> rusqlite::Result<Option<Bytes>> {
    use rusqlite::OptionalExtension;
    if let Some(inline) = inline {
        return Ok(Some(Bytes::copy_from_slice(inline)));
    }
    let mut read = conn.prepare_cached("SELECT data FROM blobs WHERE id = ?1")?;
    let found = read.query_row([blob as i64], |row| {
        Ok(Bytes::copy_from_slice(row.get_ref(0)?.as_blob()?))
    });
    found.optional()
}

/// A row that this program cannot read: damaged, or written by a newer one.
#[derive(Debug, thiserror::Error)]
#[error("job {row:#x}: {what}")]
pub(crate) struct Unreadable {
    pub(crate) row: RowNumber,
    pub(crate) what: String,
}

/// What of a job's options is in columns.
pub(crate) struct OptionColumns<'r> {
    pub(crate) priority: u8,
    pub(crate) run_at: Option<u64>,
    pub(crate) text: Option<&'r str>,
}

impl OptionColumns<'_> {
    /// Nothing was asked for but the queue.
    pub(crate) const fn is_default(&self) -> bool {
        self.priority == offloop_job::limits::PRIORITY_DEFAULT
            && self.run_at.is_none()
            && self.text.is_none()
    }

    pub(crate) fn options(&self, queue: &QueueName) -> Result<JobOptions, String> {
        let mut options = JobOptions {
            queue: queue.clone(),
            priority: self.priority,
            run_at: self.run_at.map(Timestamp::from_millis),
            ..JobOptions::default()
        };
        if let Some(text) = self.text {
            offloop_store::codec::decode_into(text, &mut options).map_err(|e| e.to_string())?;
        }
        Ok(options)
    }
}

/// A failure from four columns that stand side by side.
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

pub(crate) fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
