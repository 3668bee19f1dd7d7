//! Positions of topics beside the rows: one row for each partition that a group reads. See the
//! same for PostgreSQL.
//!
//! Must never: move a position but with the rows before it; forget one.

use rusqlite::{Connection, OptionalExtension as _, params};

use crate::rows::{Batch, Checkpoint};
use crate::sink::{Note, Resumed, Stored, Stream};

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS offloop_ingest_streams (
    place TEXT, consumer_group TEXT, topic TEXT, partition INTEGER, run INTEGER NOT NULL,
    next_offset INTEGER NOT NULL, rows INTEGER NOT NULL DEFAULT 0, rejects INTEGER NOT NULL DEFAULT 0,
    stored_at TEXT, PRIMARY KEY (place, consumer_group, topic, partition)) WITHOUT ROWID;";

/// Shuts out whoever had the partition before, and tells where to go on.
pub(super) fn take_over(
    at: &Connection,
    table: &str,
    stream: &Stream,
) -> rusqlite::Result<(i64, Resumed)> {
    at.execute_batch(TABLE)?;
    let taken = at.query_row(
        "INSERT INTO offloop_ingest_streams (place, consumer_group, topic, partition, run, next_offset)
         VALUES (?1, ?2, ?3, ?4, 1, ?5)
         ON CONFLICT DO UPDATE SET run = run + 1 RETURNING run, next_offset, rows, rejects",
        params![
            table,
            &*stream.group,
            &*stream.topic,
            stream.partition,
            stream.begin as i64
        ],
        |row| {
            let number = |at: usize| row.get::<_, i64>(at).map(|number| number as u64);
            let note = Note {
                from: 0,
                to: number(1)?,
                rows: number(2)?,
                rejects: number(3)?,
                checkpoint: Checkpoint {
                    offset: number(1)?,
                    ..Checkpoint::default()
                },
            };
            Ok((row.get(0)?, note))
        },
    );
    let (run, note) = taken?;
    let resumed = Resumed {
        notes: vec![note],
        finished: None,
    };
    Ok((run, resumed))
}

/// `run` is the last one, and `batch` begins where the stored ones end.
pub(super) fn is_next(
    at: &Connection,
    table: &str,
    stream: &Stream,
    run: i64,
    batch: &Batch,
) -> rusqlite::Result<bool> {
    let found: Option<bool> = at
        .prepare_cached(
            "SELECT run = ?5 AND next_offset = ?6 FROM offloop_ingest_streams
             WHERE place = ?1 AND consumer_group = ?2 AND topic = ?3 AND partition = ?4",
        )?
        .query_row(
            params![
                table,
                &*stream.group,
                &*stream.topic,
                stream.partition,
                run,
                batch.from() as i64
            ],
            |row| row.get(0),
        )
        .optional()?;
    Ok(found == Some(true))
}

/// Behind [`is_next`], in the same transaction.
pub(super) fn advance(
    at: &Connection,
    table: &str,
    stream: &Stream,
    batch: &Batch,
    stored: Stored,
) -> rusqlite::Result<()> {
    at.prepare_cached(
        "UPDATE offloop_ingest_streams SET next_offset = ?5, rows = rows + ?6, rejects = rejects + ?7,
         stored_at = datetime('now')
         WHERE place = ?1 AND consumer_group = ?2 AND topic = ?3 AND partition = ?4",
    )?
    .execute(params![
        table,
        &*stream.group,
        &*stream.topic,
        stream.partition,
        batch.to() as i64,
        stored.rows as i64,
        stored.rejects as i64
    ])?;
    Ok(())
}
