//! The pack's own two tables beside the target's: loads, and notes of their batches.
//!
//! Must never: read notes before every earlier run of the load is shut out.

use tokio_postgres::Client;

use super::copy::literal;
use super::place::{Table, texts, twice};
use super::pool::{Pool, Trouble};
use super::{Begun, PostgresSettings, PostgresSink, Shared, streams};
use crate::load::LoadId;
use crate::rows::Batch;
use crate::sink::{BatchNote, Note, Resumed, SinkError, Source, Stored, Totals};

/// Notes of loads that never ended go after so many days.
const ABANDONED_DAYS: u32 = 30;

pub(super) const NOTES_TABLE: &str = "offloop_ingest_batches";

/// Which load of which table: first columns of both tables' keys.
fn key(table: &Table, load: &LoadId) -> String {
    format!("place = {} AND load = '{load}'", literal(&table.name))
}

fn loads(table: &Table) -> String {
    format!("{}.offloop_ingest_loads", table.schema)
}

fn batches(table: &Table) -> String {
    format!("{}.{NOTES_TABLE}", table.schema)
}

fn make(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (place text, load text, run bigint NOT NULL, \
         begun_at timestamptz NOT NULL DEFAULT now(), finished_at timestamptz, \
         rows bigint, rejects bigint, bytes bigint, PRIMARY KEY (place, load)); \
         CREATE TABLE IF NOT EXISTS {} (place text, load text, from_byte bigint, to_byte bigint, \
         rows bigint NOT NULL, rejects bigint NOT NULL, checkpoint text NOT NULL, \
         PRIMARY KEY (place, load, from_byte, to_byte))",
        loads(table),
        batches(table)
    )
}

/// Fails the transaction's purpose unless `run` is the load's: see [`super`].
pub(super) fn fence(table: &Table, load: &LoadId, run: i64) -> String {
    format!(
        "SELECT 1 FROM {} WHERE {} AND run = {run} FOR SHARE",
        loads(table),
        key(table, load)
    )
}

/// Finds the counts of `batch` if it is stored.
pub(super) fn noted(table: &Table, load: &LoadId, batch: &Batch) -> String {
    format!(
        "SELECT rows, rejects FROM {} WHERE {} AND from_byte = {} AND to_byte = {}",
        batches(table),
        key(table, load),
        batch.from(),
        batch.to()
    )
}

pub(super) fn insert(table: &Table, load: &LoadId, batch: &Batch, stored: Stored) -> String {
    let note = BatchNote::of(batch, stored);
    // Numbers and field names of ours alone; cannot fail.
    let checkpoint = serde_json::to_string(&note.checkpoint).unwrap_or_default();
    format!(
        "INSERT INTO {} VALUES ({}, '{load}', {}, {}, {}, {}, {})",
        batches(table),
        literal(&table.name),
        note.from,
        note.to,
        note.rows,
        note.rejects,
        literal(&checkpoint)
    )
}

/// Holds the table and the right to keep notes beside it against the declaration, in a transaction
/// that is undone.
pub(super) async fn look(shared: &Shared) -> Result<(), Trouble> {
    let pool = &shared.pool;
    let mut lent = pool.lend().await?;
    let client = &lent.get()?.client;
    let failed = |error| pool.trouble(error);
    client.batch_execute("BEGIN").await.map_err(failed)?;
    let table = Table::look(client, pool, &shared.target).await?;
    client
        .batch_execute(&make(&table))
        .await
        .map_err(|error| twice(pool, error))?;
    client.batch_execute("ROLLBACK").await.map_err(failed)?;
    lent.done();
    Ok(())
}

impl PostgresSink {
    /// Looks at the table, shuts earlier runs out and reads their notes.
    pub(super) async fn take_over(&self) -> Result<(Begun, Resumed), Trouble> {
        let shared = &*self.shared;
        let pool = &shared.pool;
        let mut lent = self.lend().await?;
        let client = &lent.get()?.client;
        let table = Table::look(client, pool, &shared.target).await?;
        let load = match &self.source {
            Source::Load(load) => load,
            Source::Stream(stream) => {
                let taken = streams::take_over(client, pool, table, stream).await?;
                lent.done();
                return Ok(taken);
            }
        };
        let failed = |error| pool.trouble(error);
        if let Err(error) = client.batch_execute(&make(&table)).await {
            return Err(twice(pool, error));
        }
        let taken = client
            .simple_query(&format!(
                "INSERT INTO {loads} (place, load, run) VALUES ({}, '{}', 1) \
                 ON CONFLICT (place, load) DO UPDATE SET run = {loads}.run + 1, begun_at = now() \
                 RETURNING run, finished_at IS NOT NULL, rows, rejects, bytes",
                literal(&table.name),
                load,
                loads = loads(&table)
            ))
            .await
            .map_err(failed)?;
        let row = texts(&taken).into_iter().next().unwrap_or_default();
        let number = |at: usize| -> u64 {
            let text = row.get(at).and_then(Option::as_deref);
            text.and_then(|text| text.parse().ok()).unwrap_or(0)
        };
        let is_finished = row.get(1).and_then(Option::as_deref) == Some("t");
        let finished = is_finished.then(|| Totals {
            rows: number(2),
            rejects: number(3),
            bytes: number(4),
        });
        let notes = read(client, pool, &table, load).await?;
        let run = number(0) as i64;
        lent.done();
        let table = std::sync::Arc::new(table);
        Ok((Begun { run, table }, Resumed { notes, finished }))
    }

    pub(super) async fn end(
        &self,
        begun: &Begun,
        load: &LoadId,
        totals: Totals,
    ) -> Result<(), Trouble> {
        let pool = &self.shared.pool;
        let table = &begun.table;
        let mut lent = self.lend().await?;
        let client = &lent.get()?.client;
        let (loads, batches, key) = (loads(table), batches(table), key(table, load));
        let failed = |error| pool.trouble(error);
        // Only the last run may say that its load ended; the second time finds it so.
        let ended = client
            .simple_query(&format!(
                "BEGIN; UPDATE {loads} SET finished_at = now(), rows = {}, rejects = {}, bytes = {} \
                 WHERE {key} AND run = {} RETURNING 1",
                totals.rows, totals.rejects, totals.bytes, begun.run
            ))
            .await
            .map_err(failed)?;
        if texts(&ended).is_empty() {
            return Err(SinkError::TakenOver.into());
        }
        let prune = prune(table, &self.shared.settings);
        client
            .batch_execute(&format!(
                "DELETE FROM {batches} WHERE {key}; {prune}; COMMIT"
            ))
            .await
            .map_err(failed)?;
        lent.done();
        Ok(())
    }
}

async fn read(
    client: &Client,
    pool: &Pool,
    table: &Table,
    load: &LoadId,
) -> Result<Vec<Note>, Trouble> {
    let rows = client
        .simple_query(&format!(
            "SELECT from_byte, to_byte, rows, rejects, checkpoint FROM {} WHERE {} ORDER BY 1, 2",
            batches(table),
            key(table, load)
        ))
        .await
        .map_err(|error| pool.trouble(error))?;
    let mut notes = Vec::new();
    for row in texts(&rows) {
        let note = note(&row).ok_or_else(|| SinkError::Place {
            problem: format!(
                "a note of load `{load}` in {} is not readable; delete the load's notes to begin anew",
                batches(table)
            ),
        })?;
        notes.push(note);
    }
    Ok(notes)
}

fn note(row: &[Option<String>]) -> Option<Note> {
    let text = |at: usize| row.get(at)?.as_deref();
    Some(Note {
        from: text(0)?.parse().ok()?,
        to: text(1)?.parse().ok()?,
        rows: text(2)?.parse().ok()?,
        rejects: text(3)?.parse().ok()?,
        checkpoint: serde_json::from_str(text(4)?).ok()?,
    })
}

/// Forgets loads that ended, or began, long ago.
fn prune(table: &Table, settings: &PostgresSettings) -> String {
    format!(
        "WITH gone AS (DELETE FROM {} WHERE finished_at < now() - interval '{} days' \
         OR finished_at IS NULL AND begun_at < now() - interval '{ABANDONED_DAYS} days' \
         RETURNING place, load) \
         DELETE FROM {} b USING gone g WHERE b.place = g.place AND b.load = g.load",
        loads(table),
        settings.keep_days,
        batches(table)
    )
}
