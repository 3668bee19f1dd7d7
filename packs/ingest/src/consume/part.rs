//! One partition that this process has: the batch being filled, and the one that is being stored.
//!
//! Must never: have two batches with the sink; take a message twice.

use std::sync::Arc;

use tokio::time::Instant;

use super::letters::Originals;
use crate::rows::{Batch, MessageReader, Reject};
use crate::sink::{Resumed, RowSink, Stored};
use crate::target::{OnBadRow, Target, Value};

/// See the module's words.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) number: i32,
    /// Which of the assignments of this process it is: a batch of an earlier one counts no more.
    pub(super) turn: u64,
    pub(super) sink: Arc<dyn RowSink>,
    reader: MessageReader,
    originals: Originals,
    /// Behind the last message that was taken.
    next: u64,
    /// Everything before it is in the table.
    pub(super) stored_to: u64,
    pub(super) rows: u64,
    pub(super) rejects: u64,
    /// Refused so far, those included that are not stored yet.
    refused: u64,
    /// Since the first message of the batch being filled.
    pub(super) since: Option<Instant>,
    /// Bytes of the batch that is being stored.
    pub(super) under_way: Option<u64>,
    on_bad_row: OnBadRow,
    /// Told to the group.
    pub(super) told: u64,
}

/// What became of a message.
#[derive(Debug)]
pub(super) enum Taken {
    Yes,
    /// It was taken before.
    Again,
    /// The target bears no more like it.
    Unbearable(Box<Reject>),
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Cut {
    pub(super) batch: Batch,
    pub(super) originals: Originals,
    /// Rows that the table may refuse.
    pub(super) bearable: Option<u64>,
    pub(super) bytes: u64,
}

impl Part {
    pub(super) fn new(
        number: i32,
        turn: u64,
        sink: Arc<dyn RowSink>,
        resumed: &Resumed,
        target: &Target,
        value: Value,
    ) -> Self {
        let note = resumed.notes.first();
        let next = note.map_or(0, |note| note.to);
        let rejects = note.map_or(0, |note| note.rejects);
        Self {
            number,
            turn,
            sink,
            reader: MessageReader::new(target.clone(), value, next),
            originals: Originals::default(),
            next,
            stored_to: next,
            rows: note.map_or(0, |note| note.rows),
            rejects,
            refused: rejects,
            since: None,
            under_way: None,
            on_bad_row: target.on_bad_row(),
            told: 0,
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.reader.is_full()
    }

    /// Bytes of the batch being filled.
    pub(super) fn bytes(&self) -> u64 {
        self.originals.bytes()
    }

    pub(super) fn take(&mut self, offset: u64, key: Option<&[u8]>, value: Option<&[u8]>) -> Taken {
        if offset < self.next {
            return Taken::Again;
        }
        if let Err(reject) = self.reader.push(offset, value) {
            if let OnBadRow::StopAfter(bearable) = self.on_bad_row
                && self.refused >= bearable
            {
                return Taken::Unbearable(reject);
            }
            self.refused += 1;
            self.reader.refuse(*reject);
        }
        self.originals.push(offset, key, value.unwrap_or_default());
        self.next = offset + 1;
        self.since.get_or_insert_with(Instant::now);
        Taken::Yes
    }

    /// The batch being filled, if there is anything in it and none is being stored.
    pub(super) fn cut(&mut self) -> Option<Cut> {
        if self.under_way.is_some() || self.reader.is_empty() {
            return None;
        }
        let originals = std::mem::take(&mut self.originals);
        let bytes = originals.bytes();
        self.under_way = Some(bytes);
        self.since = None;
        let bearable = match self.on_bad_row {
            OnBadRow::Reject => None,
            OnBadRow::StopAfter(most) => Some(most.saturating_sub(self.refused)),
        };
        Some(Cut {
            batch: self.reader.cut(self.next),
            originals,
            bearable,
            bytes,
        })
    }

    /// The batch is in the table.
    pub(super) fn landed(&mut self, batch: Arc<Batch>, stored: Stored) {
        self.under_way = None;
        self.stored_to = batch.to();
        self.rows += stored.rows;
        self.rejects += stored.rejects;
        self.refused += stored.rejects - batch.rejects().len() as u64;
        if let Some(batch) = Arc::into_inner(batch) {
            self.reader.recycle(batch);
        }
    }
}
