//! The loop of one load: pieces in, batches out, waiting only where nothing can be done.
//!
//! Must never: work longer than a slice without giving way; take a piece while a batch waits for
//! the sink; leave with batches under way whose end it does not know.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::error::{LoadError, LoadFailed};
use super::feed::{Intake, Piece};
use super::flight::Flight;
use super::loader::{Load, Running};
use super::status::{Phase, Summary};
use crate::decode::Decoder;
use crate::rejects::RejectLog;
use crate::rows::{Batch, Checkpoint, Finish, Reader};
use crate::sink::{Note, Ranges, RowSink, SinkError, Totals};
use crate::target::{OnBadRow, Target};

/// A batch that grows slowly gives its memory up after this long, if others wait for it.
const PATIENCE: Duration = Duration::from_millis(250);

pub(super) struct Pipeline {
    target: Target,
    running: Running,
    flight: Flight,
    reader: Reader,
    decoder: Decoder,
    /// Decoded, and from where on it is not read yet.
    text: Vec<u8>,
    text_at: usize,
    /// Not decoded yet.
    piece: Bytes,
    /// The decoder may have more without a further piece.
    more: bool,
    /// Of the batch that is being filled.
    memory: Option<OwnedSemaphorePermit>,
    /// When the batch that is being filled has to go.
    due: Option<Instant>,
}

impl Pipeline {
    pub(super) async fn run(load: Load, intake: Intake) -> Result<Summary, LoadFailed> {
        let Load {
            sink,
            target,
            running,
        } = load;
        let begun = Self::begin(&*sink, &running).await;
        let (notes, finished, log) = match begun {
            Ok(begun) => begun,
            Err(error) => return Err(failed_early(&running, &target, error)),
        };
        let checkpoint = checkpoint(&notes);
        let resumed_at = notes.iter().map(|note| note.to - note.from).sum();
        let path = log.path().to_owned();
        let flight = Flight::new(sink.clone(), running.load.clone(), log.clone(), &notes);
        let mut pipeline = Self {
            decoder: Decoder::new(target.format(), target.limits()).skipping(checkpoint.offset),
            reader: Reader::resume_at(target.clone(), checkpoint),
            target,
            running,
            flight,
            text: Vec::new(),
            text_at: 0,
            piece: Bytes::new(),
            more: false,
            memory: None,
            due: None,
        };
        pipeline.running.tell.send_modify(|status| {
            status.phase = Phase::Running;
            status.resumed_at = resumed_at;
        });
        let mut end = Ok(());
        if let Some(totals) = finished {
            pipeline.flight.rows = totals.rows;
            pipeline.flight.rejects = totals.rejects;
            pipeline.flight.stored.insert(0, totals.bytes);
        }
        pipeline.running.tell.send_modify(|status| {
            status.rows_before = pipeline.flight.rows;
            status.rows_stored = pipeline.flight.rows;
            status.rows_rejected = pipeline.flight.rejects;
        });
        if finished.is_none() {
            end = pipeline.work(intake).await;
            end = pipeline.settle(&*sink, &log, end).await;
        }
        let mut summary = pipeline.summary(resumed_at, finished.is_some());
        summary.rejects = path.exists().then_some(path);
        pipeline.tell(&end);
        match end {
            Ok(()) => Ok(summary),
            Err(error) => Err(LoadFailed {
                error,
                summary: Box::new(summary),
            }),
        }
    }

    /// What is stored, and the reject file in step with it.
    async fn begin(
        sink: &dyn RowSink,
        running: &Running,
    ) -> Result<(Vec<Note>, Option<Totals>, RejectLog), LoadError> {
        let mut resumed = sink.resume().await?;
        resumed.notes.sort_by_key(|note| (note.from, note.to));
        let mut stored: Ranges = (resumed.notes.iter())
            .map(|note| (note.from, note.to))
            .collect();
        if resumed.finished.is_some() {
            stored.insert(0, u64::MAX);
        }
        let hand = running.shared.reject_hand.clone();
        let log = RejectLog::open(running.reject_path(), stored, hand).await;
        let log = log.map_err(|cause| SinkError::RejectFile { cause })?;
        Ok((resumed.notes, resumed.finished, log))
    }

    /// Until the input has ended and every batch is with the sink.
    async fn work(&mut self, mut intake: Intake) -> Result<(), LoadError> {
        loop {
            self.read_all().await?;
            match self.next(&mut intake).await? {
                Some(Piece::Bytes(bytes)) => self.piece = bytes,
                Some(Piece::End) => break,
                Some(Piece::Cut(reason)) => return Err(LoadError::Cut { reason }),
                None => {}
            }
        }
        // The sender may go; what is left is here.
        drop(intake);
        self.decoder.finish(&mut self.text)?;
        self.read_all().await?;
        loop {
            match self.reader.finish_slice()? {
                Finish::Batch(batch) => self.send(batch).await?,
                Finish::More => tokio::task::yield_now().await,
                Finish::Done => return Ok(()),
            }
        }
    }

    /// Waits for a piece, for a batch to land, or for the batch being filled to be due.
    async fn next(&mut self, intake: &mut Intake) -> Result<Option<Piece>, LoadError> {
        let now = Instant::now();
        if self.due.is_none() && self.reader.has_rows() {
            self.due = Some(now + self.target.batch().time);
        }
        let holds_memory = self.memory.is_some();
        let look = now + PATIENCE;
        let wake = self.due.map_or(look, |due| due.min(look));
        tokio::select! {
            piece = intake.next() => return Ok(Some(piece)),
            spare = self.flight.land(), if self.flight.len() > 0 => {
                self.landed(spare)?;
            }
            () = tokio::time::sleep_until(wake), if holds_memory => {
                let is_due = self.due.is_some_and(|due| due <= Instant::now());
                if is_due || self.running.shared.governor.is_short() {
                    match self.reader.flush() {
                        Some(batch) => self.send(batch).await?,
                        // A record under way, of limits.record_bytes at most.
                        None => self.memory = None,
                    }
                }
            }
        }
        Ok(None)
    }

    fn has_unread(&self) -> bool {
        self.text_at < self.text.len() || self.more || !self.piece.is_empty()
    }

    /// Reads what was taken, until nothing of it is left.
    async fn read_all(&mut self) -> Result<(), LoadError> {
        loop {
            if let Some(batch) = self.reader.take_batch() {
                self.send(batch).await?;
            } else if !self.has_unread() {
                self.report();
                return Ok(());
            } else if self.memory.is_none() {
                // Before it is decoded: hundreds of loads wait here.
                self.take_memory().await?;
            } else if self.text_at < self.text.len() {
                self.text_at += self.reader.push(&self.text[self.text_at..])?;
                tokio::task::yield_now().await;
            } else {
                self.text.clear();
                self.text_at = 0;
                let step = self.decoder.push(&self.piece, &mut self.text)?;
                self.more = step.more;
                let _taken = self.piece.split_to(step.taken);
            }
        }
    }

    /// For the batch that begins. Batches under way land meanwhile, and give theirs back.
    async fn take_memory(&mut self) -> Result<(), LoadError> {
        let bytes = self.batch_bytes();
        let shared = Arc::clone(&self.running.shared);
        let mut memory = pin!(shared.governor.memory(bytes));
        loop {
            tokio::select! {
                biased;
                memory = &mut memory => {
                    self.memory = memory;
                    break;
                }
                spare = self.flight.land(), if self.flight.len() > 0 => self.landed(spare)?,
            }
        }
        match self.memory {
            Some(_) => Ok(()),
            None => Err(SinkError::Ended.into()),
        }
    }

    /// Text, and about as much for places, nulls and what was written anew.
    fn batch_bytes(&self) -> u64 {
        2 * u64::from(self.target.batch().bytes)
    }

    async fn send(&mut self, batch: Batch) -> Result<(), LoadError> {
        self.due = None;
        let bearable = match self.target.on_bad_row() {
            OnBadRow::Reject => None,
            OnBadRow::StopAfter(most) => Some(most.saturating_sub(self.reader.rejects())),
        };
        let memory = self.memory.take();
        let spare = self.flight.send(batch, memory, bearable).await;
        self.report();
        self.landed(spare)
    }

    fn landed(&mut self, spare: Option<Batch>) -> Result<(), LoadError> {
        // Memory of batches is not kept where others may want it.
        if let Some(spare) = spare
            && self.running.shared.governor.may_keep(self.batch_bytes())
        {
            self.reader.recycle(spare);
        }
        match self.flight.error.take() {
            Some(error) => Err(error.into()),
            None => Ok(()),
        }
    }

    /// After the input's end, good or bad: stores what is complete, waits for all that is under
    /// way, and brings notes and rejects to their end.
    async fn settle(
        &mut self,
        sink: &dyn RowSink,
        log: &RejectLog,
        end: Result<(), LoadError>,
    ) -> Result<(), LoadError> {
        let mut end = end;
        if !matches!(end, Err(LoadError::Sink(_)))
            && let Some(batch) = self.reader.flush()
        {
            let sent = self.send(batch).await;
            end = end.and(sent);
        }
        self.flight.land_all().await;
        if let Some(error) = self.flight.error.take() {
            end = end.and(Err(error.into()));
        }
        let closed = log.close(self.flight.stored.clone()).await;
        end = end.and(closed.map_err(|cause| SinkError::RejectFile { cause }.into()));
        if end.is_ok() {
            let totals = Totals {
                rows: self.flight.rows,
                rejects: self.flight.rejects,
                bytes: self.reader.offset(),
            };
            sink.finish(totals).await?;
        }
        end
    }

    fn report(&self) {
        self.running.tell.send_modify(|status| {
            status.bytes_in = self.decoder.bytes_read();
            status.rows_in = self.reader.rows();
            status.rows_stored = self.flight.rows;
            status.rows_rejected = self.flight.rejects;
            status.in_flight = self.flight.len();
        });
    }

    fn tell(&self, end: &Result<(), LoadError>) {
        self.report();
        self.running.tell.send_modify(|status| {
            status.phase = match end {
                Ok(()) => Phase::Stored,
                Err(_) => Phase::Failed,
            };
            status.error = end.as_ref().err().map(ToString::to_string);
            status.ended = Some(Instant::now());
        });
    }

    fn summary(&self, resumed_at: u64, was_stored: bool) -> Summary {
        let stored = &self.flight.stored;
        let prefix = stored.prefix();
        Summary {
            load: self.running.load.clone(),
            target: self.target.name().to_owned(),
            rows_stored: self.flight.rows,
            rows_rejected: self.flight.rejects,
            bytes_in: self.decoder.bytes_read(),
            stored_to: prefix,
            stored_to_row: self.flight.prefix_row(),
            stored_beyond: stored.iter().filter(|range| range.0 > prefix).collect(),
            resumed_at,
            was_stored,
            rejects: None,
            elapsed: self.running.tell.borrow().elapsed(),
        }
    }
}

/// Where what is stored without a gap ends.
fn checkpoint(notes: &[Note]) -> Checkpoint {
    let stored: Ranges = notes.iter().map(|note| (note.from, note.to)).collect();
    let prefix = stored.prefix();
    let last = notes.iter().find(|note| note.to == prefix);
    last.map(|note| note.checkpoint.clone()).unwrap_or_default()
}

fn failed_early(running: &Running, target: &Target, error: LoadError) -> LoadFailed {
    let message = error.to_string();
    running.tell.send_modify(|status| {
        status.phase = Phase::Failed;
        status.error = Some(message);
    });
    LoadFailed {
        error,
        summary: Box::new(Summary {
            load: running.load.clone(),
            target: target.name().to_owned(),
            rows_stored: 0,
            rows_rejected: 0,
            bytes_in: 0,
            stored_to: 0,
            stored_to_row: 0,
            stored_beyond: Vec::new(),
            resumed_at: 0,
            was_stored: false,
            rejects: None,
            elapsed: running.tell.borrow().elapsed(),
        }),
    }
}
