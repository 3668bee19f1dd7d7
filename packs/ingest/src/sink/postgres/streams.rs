//! The pack's table of positions beside the target's: one row for each partition that a group reads.
//!
//! The row is fence and note in one: a batch's transaction locks it, and so sees to it that `run` is
//! still its own and that the batch begins where the stored ones end; who takes the partition over
//! waits for that lock. A table of its own, because loads' notes grow by a row for each batch and
//! go when the load has ended or is old, and a topic does neither (docs/adr/0029).
//!
//! Must never: move a position but with the rows before it; forget one.

use tokio_postgres::Client;

use super::Begun;
use super::copy::literal;
use super::place::{Table, texts, twice};
use super::pool::{Pool, Trouble};
use crate::rows::{Batch, Checkpoint};
use crate::sink::{Note, Resumed, Stored, Stream};

fn name(table: &Table) -> String {
    format!("{}.offloop_ingest_streams", table.schema)
}

fn key(table: &Table, stream: &Stream) -> String {
    format!(
        "place = {} AND consumer_group = {} AND topic = {} AND partition = {}",
        literal(&table.name),
        literal(&stream.group),
        literal(&stream.topic),
        stream.partition
    )
}

fn make(table: &Table) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {} (place text, consumer_group text, topic text, partition int, \
         run bigint NOT NULL, next_offset bigint NOT NULL, \
         rows bigint NOT NULL DEFAULT 0, rejects bigint NOT NULL DEFAULT 0, \
         batch_rows bigint NOT NULL DEFAULT 0, batch_rejects bigint NOT NULL DEFAULT 0, \
         taken_at timestamptz NOT NULL DEFAULT now(), stored_at timestamptz, \
         PRIMARY KEY (place, consumer_group, topic, partition))",
        name(table)
    )
}

/// Finds a row if `run` may still write, and locks it until the transaction ends. Behind `to` the
/// position stands only where an earlier try of the same batch was committed after all.
pub(super) fn fence(table: &Table, stream: &Stream, run: i64, batch: &Batch) -> String {
    format!(
        "SELECT 1 FROM {} WHERE {} AND run = {run} AND next_offset IN ({}, {}) FOR UPDATE",
        name(table),
        key(table, stream),
        batch.from(),
        batch.to()
    )
}

/// Finds the counts of `batch` if it is stored.
pub(super) fn noted(table: &Table, stream: &Stream, batch: &Batch) -> String {
    format!(
        "SELECT batch_rows, batch_rejects FROM {} WHERE {} AND next_offset = {}",
        name(table),
        key(table, stream),
        batch.to()
    )
}

/// Behind [`fence`], in the same transaction.
pub(super) fn advance(table: &Table, stream: &Stream, batch: &Batch, stored: Stored) -> String {
    let Stored { rows, rejects } = stored;
    format!(
        "UPDATE {} SET next_offset = {}, rows = rows + {rows}, rejects = rejects + {rejects}, \
         batch_rows = {rows}, batch_rejects = {rejects}, stored_at = now() \
         WHERE {} AND next_offset = {}",
        name(table),
        batch.to(),
        key(table, stream),
        batch.from()
    )
}

/// Shuts out whoever had the partition before, and tells where to go on.
pub(super) async fn take_over(
    client: &Client,
    pool: &Pool,
    table: Table,
    stream: &Stream,
) -> Result<(Begun, Resumed), Trouble> {
    if let Err(error) = client.batch_execute(&make(&table)).await {
        return Err(twice(pool, error));
    }
    let taken = client
        .simple_query(&format!(
            "INSERT INTO {name} (place, consumer_group, topic, partition, run, next_offset) \
             VALUES ({}, {}, {}, {}, 1, {}) \
             ON CONFLICT (place, consumer_group, topic, partition) \
             DO UPDATE SET run = {name}.run + 1, taken_at = now() \
             RETURNING run, next_offset, rows, rejects",
            literal(&table.name),
            literal(&stream.group),
            literal(&stream.topic),
            stream.partition,
            stream.begin,
            name = name(&table)
        ))
        .await
        .map_err(|error| pool.trouble(error))?;
    let row = texts(&taken).into_iter().next().unwrap_or_default();
    let number = |at: usize| -> u64 {
        let text = row.get(at).and_then(Option::as_deref);
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let note = Note {
        from: 0,
        to: number(1),
        rows: number(2),
        rejects: number(3),
        checkpoint: Checkpoint {
            offset: number(1),
            ..Checkpoint::default()
        },
    };
    let begun = Begun {
        run: number(0) as i64,
        table: std::sync::Arc::new(table),
    };
    let resumed = Resumed {
        notes: vec![note],
        finished: None,
    };
    Ok((begun, resumed))
}
