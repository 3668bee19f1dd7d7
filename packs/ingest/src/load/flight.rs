//! Batches that are with the sink, and what is known to be stored.
//!
//! Must never: have more under way than the sink wants.

use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinSet;

use super::id::LoadId;
use crate::rejects::RejectLog;
use crate::rows::Batch;
use crate::sink::{Aside, BatchNote, Note, Ranges, RowSink, SinkError, Stored};

/// A batch that the sink is done with, its memory, and what became of it.
type Landed = (
    Arc<Batch>,
    Option<OwnedSemaphorePermit>,
    Result<Stored, SinkError>,
);

pub(super) struct Flight {
    sink: Arc<dyn RowSink>,
    load: LoadId,
    log: RejectLog,
    width: usize,
    under_way: JoinSet<Landed>,
    /// Batches that were handed to the sink.
    sent: u64,
    /// What is stored, by earlier runs too.
    pub(super) stored: Ranges,
    /// What earlier runs had stored: rows of it are passed over.
    before: Ranges,
    pub(super) rows: u64,
    pub(super) rejects: u64,
    /// Rejects of rows that passed the reader.
    sink_rejects: u64,
    /// End and last row of batches that are stored behind a gap, and of the prefix.
    ends: Vec<(u64, u64)>,
    prefix_row: u64,
    /// The first that failed.
    pub(super) error: Option<SinkError>,
}

impl Flight {
    pub(super) fn new(
        sink: Arc<dyn RowSink>,
        load: LoadId,
        log: RejectLog,
        notes: &[Note],
    ) -> Self {
        let before: Ranges = notes.iter().map(|note| (note.from, note.to)).collect();
        let mut flight = Self {
            width: sink.width().max(1),
            sink,
            load,
            log,
            under_way: JoinSet::new(),
            sent: 0,
            stored: before.clone(),
            before,
            rows: notes.iter().map(|note| note.rows).sum(),
            rejects: notes.iter().map(|note| note.rejects).sum(),
            sink_rejects: 0,
            ends: notes
                .iter()
                .map(|note| (note.to, note.checkpoint.row))
                .collect(),
            prefix_row: 0,
            error: None,
        };
        flight.move_prefix();
        flight
    }

    pub(super) fn len(&self) -> usize {
        self.under_way.len()
    }

    /// Number of the last row of what is stored without a gap.
    pub(super) const fn prefix_row(&self) -> u64 {
        self.prefix_row
    }

    /// Hands a batch to the sink, behind as many others as it wants; gives back a batch that
    /// landed meanwhile, for its memory.
    ///
    /// `bearable`: rows that may still be refused, the reader's counted already.
    pub(super) async fn send(
        &mut self,
        mut batch: Batch,
        memory: Option<OwnedSemaphorePermit>,
        bearable: Option<u64>,
    ) -> Option<Batch> {
        if batch.from() < self.before.end() {
            if self.before.covers(batch.from(), batch.to()) {
                return Some(batch);
            }
            let before = &self.before;
            batch.retain(|offset| !before.contains(offset));
        }
        if batch.is_empty() && batch.rejects().is_empty() {
            // Empty lines, or the header alone. Nothing to commit, nothing to read again.
            self.landed(&batch, Stored::default());
            return Some(batch);
        }
        let mut spare = None;
        while self.error.is_none() && self.under_way.len() >= self.width {
            spare = self.land().await;
        }
        if self.error.is_some() {
            return Some(batch);
        }
        let (sink, batch) = (Arc::clone(&self.sink), Arc::new(batch));
        let note = BatchNote {
            load: self.load.clone(),
            bearable: bearable.map(|bearable| bearable.saturating_sub(self.sink_rejects)),
            order: self.sent,
            aside: Aside::File(self.log.clone()),
        };
        self.sent += 1;
        self.under_way.spawn(async move {
            let stored = sink.store(Arc::clone(&batch), note).await;
            (batch, memory, stored)
        });
        spare
    }

    /// Waits for the next batch to land; `None` if none is under way or it failed. Cancel-safe.
    ///
    /// Its memory is given back here: whoever waits for memory has to let its own batches land.
    pub(super) async fn land(&mut self) -> Option<Batch> {
        match self.under_way.join_next().await? {
            Ok((batch, _memory, Ok(stored))) => {
                self.log.committed(batch.from(), batch.to());
                self.sink_rejects += stored.rejects - batch.rejects().len() as u64;
                self.landed(&batch, stored);
                Arc::into_inner(batch)
            }
            Ok((_, _, Err(error))) => {
                self.error.get_or_insert(error);
                None
            }
            Err(_panic) => {
                // It was printed by the panic's hook; it ends this load, not the others.
                self.error.get_or_insert(SinkError::Ended);
                None
            }
        }
    }

    /// Waits for all that is under way.
    pub(super) async fn land_all(&mut self) {
        while !self.under_way.is_empty() {
            self.land().await;
        }
    }

    fn landed(&mut self, batch: &Batch, stored: Stored) {
        self.stored.insert(batch.from(), batch.to());
        self.rows += stored.rows;
        self.rejects += stored.rejects;
        self.ends.push((batch.to(), batch.checkpoint().row));
        self.move_prefix();
    }

    fn move_prefix(&mut self) {
        let prefix = self.stored.prefix();
        let within = self.ends.iter().filter(|end| end.0 <= prefix);
        let row = within.map(|end| end.1).max();
        self.prefix_row = self.prefix_row.max(row.unwrap_or(0));
        self.ends.retain(|end| end.0 > prefix);
    }
}
