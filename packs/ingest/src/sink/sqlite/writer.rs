//! The one connection that writes, on its thread. See [`super`].
//!
//! Must never: leave a transaction open for the next deed but the one that [`Inserted::Open`] says.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{CachedStatement, Connection, ErrorCode, OpenFlags, OptionalExtension as _, params};

use super::place::{check, insert, rows_at_once};
use super::streams;
use crate::load::LoadId;
use crate::rejects::SinkReject;
use crate::rows::{Batch, Row};
use crate::sink::{BatchNote, Note, Resumed, SinkError, Source, Stored, Totals};
use crate::target::{Kind, Target};

/// Another process may hold the write lock for so long.
const BUSY: Duration = Duration::from_secs(30);
/// The same for a look, which somebody waits for.
const LOOK_BUSY: Duration = Duration::from_secs(5);
/// Ended loads that are remembered.
const ENDED_MAX: u32 = 1_000;

const TABLES: &str = "CREATE TABLE IF NOT EXISTS offloop_ingest_loads (
    place TEXT, load TEXT, run INTEGER NOT NULL, ended INTEGER, rows INTEGER, rejects INTEGER, bytes INTEGER,
    PRIMARY KEY (place, load)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS offloop_ingest_batches (
    place TEXT, load TEXT, from_byte INTEGER, to_byte INTEGER, rows INTEGER NOT NULL, rejects INTEGER NOT NULL,
    checkpoint TEXT NOT NULL, PRIMARY KEY (place, load, from_byte, to_byte)) WITHOUT ROWID;";

#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    open: Option<Connection>,
}

#[derive(Debug)]
pub(super) enum Inserted {
    Committed,
    /// The rows are in but for these; [`Writer::commit`] is to follow.
    Open {
        bad: Vec<SinkReject>,
    },
}

impl Writer {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path, open: None }
    }

    fn connection(&mut self) -> Result<&Connection, SinkError> {
        if self.open.is_none() {
            let open = Connection::open(&self.path).and_then(|open| {
                open.busy_timeout(BUSY)?;
                open.pragma_update(None, "journal_mode", "WAL")?;
                // A commit that is answered for is on the disk.
                open.pragma_update(None, "synchronous", "FULL")?;
                open.execute_batch(TABLES)?;
                Ok(open)
            });
            self.open = Some(open.map_err(|error| failed(&self.path, &error))?);
        }
        self.open.as_ref().ok_or(SinkError::Ended)
    }

    /// Does `deed` in a transaction; left open if it says so.
    fn within<T>(
        &mut self,
        deed: impl FnOnce(&Connection) -> Result<(T, bool), Fault>,
    ) -> Result<T, SinkError> {
        let path = self.path.clone();
        let at = self.connection()?;
        let done = (|| {
            if !at.is_autocommit() {
                // Its asker left in the middle.
                at.execute_batch("ROLLBACK")?;
            }
            at.execute_batch("BEGIN IMMEDIATE")?;
            let (done, commits) = deed(at)?;
            if commits {
                at.execute_batch("COMMIT")?;
            }
            Ok(done)
        })();
        done.map_err(|fault| {
            if !at.is_autocommit() {
                let _gone = at.execute_batch("ROLLBACK");
            }
            match fault {
                Fault::Sink(error) => error,
                Fault::Sqlite(error) => failed(&path, &error),
            }
        })
    }

    /// Holds the table against the declaration, without a trace: on a connection of its own, in a
    /// transaction that is undone.
    pub(super) fn look(&self, target: &Target) -> Result<(), SinkError> {
        let failed = |error: rusqlite::Error| failed(&self.path, &error);
        let at = if self.path.exists() {
            let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            Connection::open_with_flags(&self.path, flags)
        } else {
            crate::sink::may_make(&self.path).map_err(|cause| SinkError::File {
                place: self.path.display().to_string(),
                cause,
            })?;
            // What would be made: an empty one.
            Connection::open_in_memory()
        };
        let at = at.map_err(failed)?;
        at.busy_timeout(LOOK_BUSY).map_err(failed)?;
        at.execute_batch("BEGIN IMMEDIATE").map_err(failed)?;
        let looked = at
            .execute_batch(TABLES)
            .map_err(failed)
            .and_then(|()| check(&at, target));
        let _undone = at.execute_batch("ROLLBACK"); // closing does it too
        looked
    }

    pub(super) fn take_over(
        &mut self,
        target: &Target,
        source: &Source,
    ) -> Result<(i64, Resumed), SinkError> {
        let table = target.sink().table();
        self.within(|at| {
            check(at, target)?;
            let load = match source {
                Source::Load(load) => load,
                Source::Stream(stream) => {
                    return Ok((streams::take_over(at, &table, stream)?, true));
                }
            };
            let (run, finished) = at.query_row(
                "INSERT INTO offloop_ingest_loads (place, load, run) VALUES (?1, ?2, 1)
                 ON CONFLICT DO UPDATE SET run = run + 1
                 RETURNING run, ended IS NOT NULL, rows, rejects, bytes",
                params![&*table, load.as_str()],
                |row| {
                    let is_finished: bool = row.get(1)?;
                    let totals = |row: &rusqlite::Row<'_>| {
                        Ok::<_, rusqlite::Error>(Totals {
                            rows: row.get::<_, i64>(2)? as u64,
                            rejects: row.get::<_, i64>(3)? as u64,
                            bytes: row.get::<_, i64>(4)? as u64,
                        })
                    };
                    let finished = if is_finished {
                        Some(totals(row)?)
                    } else {
                        None
                    };
                    Ok((row.get(0)?, finished))
                },
            )?;
            let notes = notes(at, &table, load)?;
            Ok(((run, Resumed { notes, finished }), true))
        })
    }

    pub(super) fn insert(
        &mut self,
        target: &Target,
        source: &Source,
        run: i64,
        batch: &Batch,
        stored: Stored,
    ) -> Result<Inserted, SinkError> {
        let table = target.sink().table();
        self.within(|at| {
            match source {
                Source::Load(load) => fence(at, &table, load, run)?,
                Source::Stream(stream) => {
                    if !streams::is_next(at, &table, stream, run, batch)? {
                        return Err(SinkError::TakenOver.into());
                    }
                }
            }
            let bad = put(at, target, batch)?;
            if !bad.is_empty() {
                return Ok((Inserted::Open { bad }, false));
            }
            note(at, &table, source, batch, stored)?;
            Ok((Inserted::Committed, true))
        })
    }

    /// Of what [`Writer::insert`] left open.
    pub(super) fn commit(
        &mut self,
        table: &str,
        source: &Source,
        batch: &Batch,
        stored: Stored,
    ) -> Result<(), SinkError> {
        let at = self.connection()?;
        if at.is_autocommit() {
            return Err(SinkError::Ended);
        }
        let done = note(at, table, source, batch, stored).and_then(|()| at.execute_batch("COMMIT"));
        done.map_err(|error| failed(&self.path, &error))
    }

    pub(super) fn finish(
        &mut self,
        table: &str,
        load: &LoadId,
        run: i64,
        totals: Totals,
    ) -> Result<(), SinkError> {
        self.within(|at| {
            fence(at, table, load, run)?;
            at.execute(
                "UPDATE offloop_ingest_loads SET rows = ?3, rejects = ?4, bytes = ?5,
                 ended = (SELECT coalesce(max(ended), 0) + 1 FROM offloop_ingest_loads)
                 WHERE place = ?1 AND load = ?2",
                params![
                    table,
                    load.as_str(),
                    totals.rows as i64,
                    totals.rejects as i64,
                    totals.bytes as i64
                ],
            )?;
            at.execute(
                "DELETE FROM offloop_ingest_batches WHERE place = ?1 AND load = ?2",
                params![table, load.as_str()],
            )?;
            at.execute(
                "DELETE FROM offloop_ingest_loads WHERE ended <=
                 (SELECT max(ended) FROM offloop_ingest_loads) - ?1",
                [ENDED_MAX],
            )?;
            Ok(((), true))
        })
    }
}

fn failed(path: &Path, error: &rusqlite::Error) -> SinkError {
    let place = path.display().to_string();
    match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::CannotOpen,
        ) => SinkError::Unreachable {
            place,
            cause: error.to_string().into(),
        },
        _ => SinkError::Refused {
            place,
            message: error.to_string(),
        },
    }
}

#[derive(Debug)]
enum Fault {
    Sqlite(rusqlite::Error),
    Sink(SinkError),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<SinkError> for Fault {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

/// Fails unless `run` is the load's last.
fn fence(at: &Connection, table: &str, load: &LoadId, run: i64) -> Result<(), Fault> {
    let now: Option<i64> = at
        .prepare_cached("SELECT run FROM offloop_ingest_loads WHERE place = ?1 AND load = ?2")?
        .query_row(params![table, load.as_str()], |row| row.get(0))
        .optional()?;
    if now == Some(run) {
        Ok(())
    } else {
        Err(SinkError::TakenOver.into())
    }
}

fn note(
    at: &Connection,
    table: &str,
    source: &Source,
    batch: &Batch,
    stored: Stored,
) -> rusqlite::Result<()> {
    let load = match source {
        Source::Load(load) => load,
        Source::Stream(stream) => return streams::advance(at, table, stream, batch, stored),
    };
    let note = BatchNote::of(batch, stored);
    // Numbers and field places alone; cannot fail.
    let checkpoint = serde_json::to_string(&note.checkpoint).unwrap_or_default();
    at.prepare_cached("INSERT INTO offloop_ingest_batches VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)")?
        .execute(params![
            table,
            load.as_str(),
            note.from as i64,
            note.to as i64,
            note.rows as i64,
            note.rejects as i64,
            checkpoint
        ])?;
    Ok(())
}

fn notes(at: &Connection, table: &str, load: &LoadId) -> Result<Vec<Note>, Fault> {
    let mut ask = at.prepare(
        "SELECT from_byte, to_byte, rows, rejects, checkpoint FROM offloop_ingest_batches
         WHERE place = ?1 AND load = ?2 ORDER BY 1, 2",
    )?;
    let mut rows = ask.query(params![table, load.as_str()])?;
    let mut notes = Vec::new();
    while let Some(row) = rows.next()? {
        let number = |at: usize| row.get::<_, i64>(at).map(|number| number as u64);
        let text: String = row.get(4)?;
        let checkpoint = serde_json::from_str(&text).map_err(|error| SinkError::Place {
            problem: format!(
                "a note of load `{load}` in offloop_ingest_batches is not readable ({error}); delete the load's notes to begin anew"
            ),
        })?;
        notes.push(Note {
            from: number(0)?,
            to: number(1)?,
            rows: number(2)?,
            rejects: number(3)?,
            checkpoint,
        });
    }
    Ok(notes)
}

/// Inserts all rows that the table takes; hands back the others.
fn put(at: &Connection, target: &Target, batch: &Batch) -> Result<Vec<SinkReject>, Fault> {
    let many = rows_at_once(target);
    let mut bad = Vec::new();
    let mut from = 0;
    while from < batch.len() {
        let count = many.min(batch.len() - from);
        // A statement that fails leaves nothing of itself: its rows are tried one by one.
        if count > 1 {
            let mut statement = at.prepare_cached(&insert(target, count))?;
            match execute(&mut statement, target, batch, from, count) {
                Ok(()) => {
                    from += count;
                    continue;
                }
                Err(error) if is_of_a_row(&error) && !at.is_autocommit() => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut statement = at.prepare_cached(&insert(target, 1))?;
        for place in from..from + count {
            match execute(&mut statement, target, batch, place, 1) {
                Ok(()) => {}
                Err(error) if is_of_a_row(&error) && !at.is_autocommit() => {
                    let message = error.to_string();
                    bad.push(SinkReject::of(batch.row(place), None, message));
                }
                Err(error) => return Err(error.into()),
            }
        }
        from += count;
    }
    Ok(bad)
}

fn is_of_a_row(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch | ErrorCode::TooBig)
    )
}

fn execute(
    statement: &mut CachedStatement<'_>,
    target: &Target,
    batch: &Batch,
    from: usize,
    count: usize,
) -> rusqlite::Result<()> {
    let mut parameter = 1;
    for place in from..from + count {
        let row = batch.row(place);
        for at in 0..target.columns().len() {
            bind(statement, parameter, target.columns()[at].kind, row, at)?;
            parameter += 1;
        }
    }
    statement.raw_execute()?;
    Ok(())
}

fn bind(
    to: &mut CachedStatement<'_>,
    parameter: usize,
    kind: Kind,
    row: Row<'_>,
    at: usize,
) -> rusqlite::Result<()> {
    let Some(field) = row.field(at) else {
        return to.raw_bind_parameter(parameter, rusqlite::types::Null);
    };
    // Fields are valid UTF-8; this is the check's second look, and cheap.
    let text = std::str::from_utf8(field).unwrap_or_default();
    match kind {
        Kind::Int { .. } => match text.parse::<i64>() {
            Ok(number) => to.raw_bind_parameter(parameter, number),
            Err(_) => to.raw_bind_parameter(parameter, text),
        },
        Kind::Float => match text.parse::<f64>() {
            Ok(number) => to.raw_bind_parameter(parameter, number),
            Err(_) => to.raw_bind_parameter(parameter, text),
        },
        Kind::Bool => to.raw_bind_parameter(parameter, field == b"true"),
        Kind::Bytes => to.raw_bind_parameter(parameter, bytes(field)),
        _ => to.raw_bind_parameter(parameter, text),
    }
}

/// Of an even number of hexadecimal digits.
fn bytes(digits: &[u8]) -> Vec<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).unwrap_or(0) as u8;
    let pair = |pair: &[u8]| value(pair[0]) << 4 | value(pair[1]);
    digits.chunks_exact(2).map(pair).collect()
}
