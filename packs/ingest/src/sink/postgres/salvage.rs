//! A batch with rows that the table refuses: the others in, those out, each with the server's words.
//!
//! The rows go as text into a temporary table, and the server itself tries them: 64 at once, and
//! one by one where that fails. So a batch costs one more way to the server, however many of its
//! rows are bad, where halving over the wire would cost several ways for each.
//!
//! Must never: let one bad row cost a good one; run for a batch that has none.

use std::sync::Arc;

use super::copy::{CopyRows, literal, names, quoted};
use super::place::{Table, insert, texts};
use super::pool::Trouble;
use super::store::zoned;
use super::{Begun, PostgresSink};
use crate::rejects::SinkReject;
use crate::rows::Batch;
use crate::sink::{BatchNote, Stored};
use crate::target::Target;

/// Of one subtransaction that is expected to pass.
const ROWS_AT_ONCE: usize = 64;
const MESSAGE_CHARS_MAX: usize = 500;

impl PostgresSink {
    pub(super) async fn salvage(
        &self,
        begun: &Begun,
        batch: &Arc<Batch>,
        note: &BatchNote,
    ) -> Result<Stored, Trouble> {
        let pool = &self.shared.pool;
        let target = &self.shared.target;
        let failed = |error| pool.trouble(error);
        let (mut bad, skip) = zoned(batch, &begun.table);
        let mut lent = self.lend().await?;
        let connection = lent.get()?;
        self.open(connection, begun, batch).await?;
        let client = &connection.client;
        client.batch_execute(&make(target)).await.map_err(failed)?;
        let into = format!(
            "COPY pg_temp.offloop_text (offloop_n, {}) FROM STDIN",
            names(target.columns())
        );
        let copy = client.prepare(&into).await.map_err(failed)?;
        let rows = CopyRows::new(target.columns());
        rows.send(client, &copy, batch, &skip, true)
            .await
            .map_err(failed)?;
        let block = try_rows(target, &begun.table, batch.len());
        client.batch_execute(&block).await.map_err(failed)?;
        let told = client
            .simple_query("SELECT n, state, message, col FROM pg_temp.offloop_bad ORDER BY n")
            .await
            .map_err(failed)?;
        for row in texts(&told) {
            let [Some(at), Some(state), Some(message), column] = &row[..] else {
                continue;
            };
            let Some(at) = at.parse().ok().filter(|at| *at < batch.len()) else {
                continue;
            };
            let column = column.clone().filter(|column| !column.is_empty());
            let message = format!("{message} (SQLSTATE {state})");
            bad.push(SinkReject::of(batch.row(at), column, message));
        }
        bad.sort_by_key(|reject| reject.row);
        let rows = (batch.len() - bad.len()) as u64;
        let rejects = note.put_aside(batch, bad).await?;
        let stored = Stored { rows, rejects };
        self.commit(connection, begun, batch, stored).await?;
        lent.done();
        Ok(stored)
    }
}

/// Text columns, so that a value that the column's type refuses is found row by row too.
fn make(target: &Target) -> String {
    let columns: Vec<_> = (target.columns().iter())
        .map(|column| format!("{} text", quoted(&column.name)))
        .collect();
    format!(
        "SET CONSTRAINTS ALL IMMEDIATE; \
         CREATE TEMP TABLE offloop_text (offloop_n int PRIMARY KEY, {}) ON COMMIT DROP; \
         CREATE TEMP TABLE offloop_bad (n int, state text, message text, col text) ON COMMIT DROP",
        columns.join(", ")
    )
}

fn try_rows(target: &Target, table: &Table, rows: usize) -> String {
    // The names are no column's that anybody has, and columns win over variables anyway.
    const PART: &str = "(SELECT * FROM pg_temp.offloop_text \
                        WHERE offloop_n >= offloop_lo AND offloop_n < offloop_hi) AS part";
    let part = insert(target, table, PART, true);
    let refused = "data_exception OR integrity_constraint_violation OR program_limit_exceeded \
                   OR raise_exception";
    let block = format!(
        "#variable_conflict use_column\n\
         DECLARE first int := 0; offloop_lo int; offloop_hi int; st text; msg text; col text; \
         BEGIN \
           WHILE first < {rows} LOOP \
             offloop_lo := first; offloop_hi := first + {ROWS_AT_ONCE}; \
             BEGIN {part}; \
             EXCEPTION WHEN {refused} THEN \
               FOR at IN first .. first + {ROWS_AT_ONCE} - 1 LOOP \
                 offloop_lo := at; offloop_hi := at + 1; \
                 BEGIN {part}; \
                 EXCEPTION WHEN {refused} THEN \
                   GET STACKED DIAGNOSTICS st = RETURNED_SQLSTATE, msg = MESSAGE_TEXT, col = COLUMN_NAME; \
                   INSERT INTO pg_temp.offloop_bad VALUES (at, st, left(msg, {MESSAGE_CHARS_MAX}), col); \
                 END; \
               END LOOP; \
             END; \
             first := first + {ROWS_AT_ONCE}; \
           END LOOP; \
         END"
    );
    format!("DO {}", literal(&block))
}
