//! One batch, one transaction, until it is known to be committed.
//!
//! Must never: count a batch twice whose commit was answered by silence.

use std::sync::Arc;

use tokio_postgres::Statement;

use super::copy::{CopyRows, names};
use super::notes::{self, NOTES_TABLE};
use super::place::{Table, insert, texts};
use super::pool::{Connection, Trouble, patiently};
use super::{Begun, PostgresSink, streams};
use crate::rejects::SinkReject;
use crate::rows::Batch;
use crate::sink::{BatchNote, SinkError, Source, Stored};
use crate::target::OnConflict;

/// Name of the temporary table that rows go through where COPY cannot put them into the table.
pub(super) const STAGE: &str = "pg_temp.offloop_stage";

impl PostgresSink {
    pub(super) async fn store_batch(
        &self,
        batch: Arc<Batch>,
        note: BatchNote,
    ) -> Result<Stored, SinkError> {
        let begun = self.begun()?;
        let tries = std::sync::atomic::AtomicU32::new(0);
        patiently(&self.shared.pool, || async {
            let is_again = tries.fetch_add(1, std::sync::atomic::Ordering::Relaxed) > 0;
            match self.transaction(begun, &batch, &note, is_again).await {
                Err(Trouble::Row) => self.salvage(begun, &batch, &note).await,
                other => other,
            }
        })
        .await
    }

    /// All rows at once. [`Trouble::Row`] if one of them is refused.
    async fn transaction(
        &self,
        begun: &Begun,
        batch: &Arc<Batch>,
        note: &BatchNote,
        is_again: bool,
    ) -> Result<Stored, Trouble> {
        let mut lent = self.lend().await?;
        let connection = lent.get()?;
        let done = self.try_all(connection, begun, batch, note, is_again).await;
        // A refusal leaves the connection as good as it was; anything else closes it.
        let is_usable = match &done {
            Ok(_) => true,
            Err(Trouble::Row) => connection.client.batch_execute("ROLLBACK").await.is_ok(),
            Err(_) => false,
        };
        if is_usable {
            lent.done();
        }
        done
    }

    async fn try_all(
        &self,
        connection: &mut Connection,
        begun: &Begun,
        batch: &Arc<Batch>,
        note: &BatchNote,
        is_again: bool,
    ) -> Result<Stored, Trouble> {
        self.open(connection, begun, batch).await?;
        if is_again && let Some(stored) = self.noted(connection, begun, batch).await? {
            let ended = connection.client.batch_execute("ROLLBACK").await;
            ended.map_err(|error| self.shared.pool.trouble(error))?;
            return Ok(stored);
        }
        let (bad, skip) = zoned(batch, &begun.table);
        let copy = self.put(connection, &begun.table, batch, &skip).await?;
        let stored = Stored {
            rows: (batch.len() - skip.len()) as u64,
            rejects: note.put_aside(batch, bad).await?,
        };
        self.commit(connection, begun, batch, stored).await?;
        // The stage was made in this transaction, so it stands from here on.
        connection.copy = Some(copy);
        connection.has_stage = self.is_staged();
        Ok(stored)
    }

    fn is_staged(&self) -> bool {
        self.shared.target.place().on_conflict != OnConflict::Reject
    }

    /// Begins a transaction that only the load's last run can commit.
    pub(super) async fn open(
        &self,
        connection: &Connection,
        begun: &Begun,
        batch: &Batch,
    ) -> Result<(), Trouble> {
        let fence = match &self.source {
            Source::Load(load) => notes::fence(&begun.table, load, begun.run),
            Source::Stream(stream) => streams::fence(&begun.table, stream, begun.run, batch),
        };
        let rows = connection
            .client
            .simple_query(&format!("BEGIN; {fence}"))
            .await
            .map_err(|error| self.shared.pool.trouble(error))?;
        if texts(&rows).is_empty() {
            return Err(SinkError::TakenOver.into());
        }
        Ok(())
    }

    /// The note of the batch, if an earlier try was committed after all.
    async fn noted(
        &self,
        connection: &Connection,
        begun: &Begun,
        batch: &Batch,
    ) -> Result<Option<Stored>, Trouble> {
        let noted = match &self.source {
            Source::Load(load) => notes::noted(&begun.table, load, batch),
            Source::Stream(stream) => streams::noted(&begun.table, stream, batch),
        };
        let rows = connection
            .client
            .simple_query(&noted)
            .await
            .map_err(|error| self.shared.pool.trouble(error))?;
        let rows = texts(&rows);
        let number = |at: usize| rows.first()?.get(at)?.as_deref()?.parse().ok();
        Ok(number(0)
            .zip(number(1))
            .map(|(rows, rejects)| Stored { rows, rejects }))
    }

    async fn put(
        &self,
        connection: &Connection,
        table: &Table,
        batch: &Batch,
        skip: &[usize],
    ) -> Result<Statement, Trouble> {
        let target = &self.shared.target;
        let failed = |error| self.shared.pool.trouble(error);
        let staged = self.is_staged();
        let columns = names(target.columns());
        if staged && !connection.has_stage {
            let make = format!(
                "CREATE TEMP TABLE offloop_stage ON COMMIT DELETE ROWS AS \
                 SELECT 0::int AS offloop_n, {columns} FROM {} WITH NO DATA",
                table.name
            );
            connection
                .client
                .batch_execute(&make)
                .await
                .map_err(failed)?;
        }
        let copy = if let Some(copy) = &connection.copy {
            copy.clone()
        } else {
            let into = if staged {
                format!("COPY {STAGE} (offloop_n, {columns}) FROM STDIN")
            } else {
                format!("COPY {} ({columns}) FROM STDIN", table.name)
            };
            connection.client.prepare(&into).await.map_err(failed)?
        };
        let rows = CopyRows::new(target.columns());
        rows.send(&connection.client, &copy, batch, skip, staged)
            .await
            .map_err(failed)?;
        if staged {
            let insert = insert(target, table, STAGE, false);
            connection
                .client
                .batch_execute(&insert)
                .await
                .map_err(failed)?;
        }
        Ok(copy)
    }

    pub(super) async fn commit(
        &self,
        connection: &Connection,
        begun: &Begun,
        batch: &Batch,
        stored: Stored,
    ) -> Result<(), Trouble> {
        let insert = match &self.source {
            Source::Load(load) => notes::insert(&begun.table, load, batch, stored),
            Source::Stream(stream) => streams::advance(&begun.table, stream, batch, stored),
        };
        let done = connection
            .client
            .batch_execute(&format!("{insert}; COMMIT"))
            .await;
        done.map_err(|error| {
            let table = error.as_db_error().and_then(|refusal| refusal.table());
            if table == Some(NOTES_TABLE) {
                // An earlier try whose answer was lost is there after all.
                return Trouble::Again;
            }
            self.shared.pool.trouble(error)
        })
    }
}

/// Timestamps with an offset for columns that would drop it without a word.
pub(super) fn zoned(batch: &Batch, table: &Table) -> (Vec<SinkReject>, Vec<usize>) {
    let (mut bad, mut skip) = (Vec::new(), Vec::new());
    if table.zoneless.is_empty() {
        return (bad, skip);
    }
    for (at, row) in batch.rows().enumerate() {
        let has_offset = |at: &&usize| {
            let time = row.field(**at).and_then(|field| field.get(11..));
            time.is_some_and(|time| time.iter().any(|byte| matches!(byte, b'+' | b'-')))
        };
        if table.zoneless.iter().find(has_offset).is_some() {
            let message = "has an offset from UTC, and the column is timestamp without time zone";
            bad.push(SinkReject::of(row, None, message));
            skip.push(at);
        }
    }
    (bad, skip)
}
