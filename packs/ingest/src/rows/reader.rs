//! The state machine from pieces of text to batches. See [`Reader`].
//!
//! Text is appended to the batch under way and split there, so a field is copied once and a record
//! that spans pieces needs no special case. What follows a full batch is not taken, the caller
//! pushes it again.
//!
//! Must never: hold more than a batch, one record of `limits.record_bytes` and a slice; work
//! longer than one slice (64 KiB, or 256 KiB of text read again) in one call.

use std::sync::Arc;

use super::batch::{Batch, Checkpoint, Mapping, Recovery, RowPlace};
use super::fields::unescape;
use super::header::{self, HeaderError};
use super::recover::Skip;
use super::reject::{RAW_BYTES_MAX, Reject};
use crate::check::Checker;
use crate::split::{Marks, Splitter};
use crate::target::{Header, OnBadRow, Target};

/// Bytes taken by one push.
const SLICE: usize = 64 << 10;
/// Bytes scanned between two looks at what was found.
const SCAN: usize = 16 << 10;
/// Bytes scanned in one call.
const CALL_SCAN_MAX: usize = 256 << 10;
/// Refused rows of one batch.
pub(super) const BATCH_REJECTS_MAX: usize = 1_000;
/// Text that one batch may hold before it is cut: marks and slots point into it.
pub(super) const BATCH_TEXT_MAX: usize = 512 << 20;

/// Why reading ended early. Rows before that are still handed out by [`Reader::flush`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// The row is not among the batches' rejects: a resumed reader meets it again.
    #[error("stopped by on_bad_row at {reject}")]
    BadRow { reject: Box<Reject> },
}

/// What a slice of the end brought.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "there is one, and it is taken apart at once"
)]
pub enum Finish {
    /// Store it, and go on.
    Batch(Batch),
    /// Go on.
    More,
    /// All batches were handed out.
    Done,
}

/// Reads one input of one target.
///
/// ```text
/// while !piece.is_empty() {
///     let taken = reader.push(piece)?;          // 0 when a batch is full, or while it looks back
///     piece = &piece[taken..];
///     if let Some(batch) = reader.take_batch() { store(batch).await? }
/// }
/// while let Some(batch) = reader.finish()? { store(batch).await? }
/// ```
///
/// A batch also ends by [`Reader::flush`], when its time is over.
#[derive(Debug)]
pub struct Reader {
    pub(super) target: Target,
    pub(super) checker: Checker,
    pub(super) splitter: Splitter,
    pub(super) marks: Marks,
    pub(super) batch: Batch,
    /// A batch given back by its sink, for its memory.
    spare: Option<Batch>,
    pub(super) mapping: Option<Mapping>,
    /// Offset of the first byte of `batch.text` in the input.
    pub(super) base: u64,
    /// Positions in `batch.text`: of the record under way, and behind what was scanned.
    pub(super) record_start: usize,
    pub(super) scanned: usize,
    /// Positions in `marks`: of the record under way, and of the next one that is complete.
    pub(super) first_field: usize,
    pub(super) next_record: usize,
    /// Fields of the record under way that were counted and forgotten: too many anyway.
    pub(super) forgotten: usize,
    pub(super) row: u64,
    pub(super) rejected: u64,
    pub(super) recovery: Recovery,
    pub(super) skip: Option<Skip>,
    full: bool,
    ended: bool,
    error: Option<ReadError>,
    pub(super) scratch: Vec<u8>,
}

impl Reader {
    pub fn new(target: Target) -> Self {
        Self::resume_at(target, Checkpoint::default())
    }

    /// Goes on behind a batch that was stored: push what follows `checkpoint.offset`.
    pub fn resume_at(target: Target, checkpoint: Checkpoint) -> Self {
        let mapping = checkpoint.header.or_else(|| {
            (target.format().header == Header::Absent).then(|| header::by_position(&target))
        });
        let format = target.format();
        let mut reader = Self {
            checker: Checker::new(target.columns(), format),
            splitter: Splitter::new(format.delimiter, format.quote),
            marks: Marks::default(),
            batch: Batch::default(),
            spare: None,
            mapping,
            base: checkpoint.offset,
            record_start: 0,
            scanned: 0,
            first_field: 0,
            next_record: 0,
            forgotten: 0,
            row: checkpoint.row,
            rejected: checkpoint.rejects,
            recovery: checkpoint.recovery,
            skip: None,
            full: false,
            ended: false,
            error: None,
            scratch: Vec::new(),
            target,
        };
        reader.begin(checkpoint.batch);
        reader
    }

    pub fn target(&self) -> &Target {
        &self.target
    }
    /// Bytes of text that were taken, from the input's first.
    pub fn offset(&self) -> u64 {
        match &self.skip {
            Some(skip) => skip.at,
            None => self.base + self.batch.text.len() as u64,
        }
    }
    /// Rows looked at so far, refused ones included.
    pub fn rows(&self) -> u64 {
        self.row
    }
    /// Rows refused so far.
    pub fn rejects(&self) -> u64 {
        self.rejected
    }
    /// Rows or rejects wait for [`Reader::flush`]: the batch's time runs.
    pub fn has_rows(&self) -> bool {
        !self.batch.is_empty() || !self.batch.rejects.is_empty()
    }

    /// Takes bytes of `piece`, 64 KiB at most, and returns how many; less while a batch is full.
    pub fn push(&mut self, piece: &[u8]) -> Result<usize, ReadError> {
        self.advance()?;
        if self.full || self.scanned < self.batch.text.len() {
            return Ok(0);
        }
        if self.skip.is_some() {
            return self.skip_on(piece);
        }
        let before = self.batch.text.len();
        let slice = &piece[..piece.len().min(self.slice())];
        self.make_room(slice.len());
        self.batch.text.extend_from_slice(slice);
        self.advance()?;
        if self.full && self.record_start >= before {
            // The next batch begins here; what follows is taken by the next call.
            let taken = self.record_start - before;
            self.batch.text.truncate(self.record_start);
            self.scan_again();
            return Ok(taken);
        }
        Ok(slice.len())
    }

    /// A full batch, if there is one.
    pub fn take_batch(&mut self) -> Option<Batch> {
        if self.full { Some(self.cut()) } else { None }
    }

    /// Whatever complete rows and rejects there are: a batch's time is over, or reading failed.
    pub fn flush(&mut self) -> Option<Batch> {
        self.has_rows().then(|| self.cut())
    }

    /// Nothing follows: call until `None` comes, storing each batch. Not for a thread that others
    /// need: what is left may be as long as a record; [`Reader::finish_slice`] is.
    pub fn finish(&mut self) -> Result<Option<Batch>, ReadError> {
        loop {
            match self.finish_slice()? {
                Finish::Batch(batch) => return Ok(Some(batch)),
                Finish::More => {}
                Finish::Done => return Ok(None),
            }
        }
    }

    /// The same, a slice a call.
    pub fn finish_slice(&mut self) -> Result<Finish, ReadError> {
        self.advance()?;
        if self.full {
            return Ok(Finish::Batch(self.cut()));
        }
        if self.scanned < self.batch.text.len() {
            return Ok(Finish::More);
        }
        if self.ended {
            return Ok(self.flush().map_or(Finish::Done, Finish::Batch));
        }
        if let Some(skip) = self.skip.take() {
            self.end_skip(skip, 0)?;
        } else if !self.is_between_records() {
            self.last_record()?;
            return Ok(Finish::More);
        }
        if self.mapping.is_none() && matches!(self.target.format().header, Header::Present { .. }) {
            return self.fail(HeaderError::Missing.into());
        }
        self.ended = true;
        Ok(Finish::More)
    }

    /// Hands memory back: the next batch uses it.
    pub fn recycle(&mut self, mut batch: Batch) {
        batch.clear();
        self.spare = Some(batch);
    }

    /// Bytes that a push takes: not much more than the batch has room for, because what follows
    /// a full batch is scanned again.
    fn slice(&self) -> usize {
        let rows = self.batch.len();
        if rows == 0 {
            let few = self.target.batch().rows as usize;
            return few.saturating_mul(128).clamp(1 << 10, SLICE);
        }
        let left = self.target.batch().rows as usize - rows;
        let each = self.batch.text.len() / rows + 1;
        left.saturating_mul(each).clamp(1 << 10, SLICE)
    }

    /// A small batch grows by doubling; another one takes at once what a full one needs, and no
    /// more: many loads share the memory.
    fn make_room(&mut self, more: usize) {
        let (len, has) = (self.batch.text.len(), self.batch.text.capacity());
        if len + more > has && len >= SLICE {
            let full = self.target.batch().bytes as usize + SLICE;
            self.batch
                .text
                .reserve_exact(full.saturating_sub(len).max(more));
        }
    }

    fn is_between_records(&self) -> bool {
        self.record_start == self.batch.text.len() && self.first_field == self.marks.fields.len()
    }

    /// Scans and works off what was taken, up to a full batch or this call's share.
    fn advance(&mut self) -> Result<(), ReadError> {
        if let Some(error) = &self.error {
            return Err(error.clone());
        }
        let mut budget = CALL_SCAN_MAX;
        while !self.full {
            while self.next_record < self.marks.records.len() && !self.full {
                self.complete_record()?;
            }
            if self.full || self.look_back()? {
                continue;
            }
            self.forget_marks();
            let left = self.batch.text.len() - self.scanned;
            if left == 0 || budget == 0 {
                break;
            }
            let count = left.min(SCAN).min(budget);
            let bytes = &self.batch.text[self.scanned..self.scanned + count];
            self.splitter.scan(bytes, self.scanned, &mut self.marks);
            self.scanned += count;
            budget -= count;
        }
        Ok(())
    }

    /// Drops the marks of records that are done, and those of one that has far too many.
    fn forget_marks(&mut self) {
        if self.next_record < self.marks.records.len() {
            return;
        }
        self.marks.fields.drain(..self.first_field);
        self.marks.records.clear();
        self.first_field = 0;
        self.next_record = 0;
        let expected = self
            .mapping
            .as_ref()
            .map_or(0, |mapping| mapping.fields as usize);
        let keep = expected.max(self.target.limits().columns as usize) + 1;
        if self.marks.fields.len() > 2 * keep {
            self.forgotten += self.marks.fields.len() - keep;
            self.marks.fields.truncate(keep);
        }
    }

    /// The marks of text that is to be scanned again from the record under way.
    pub(super) fn scan_again(&mut self) {
        self.marks.clear();
        self.first_field = 0;
        self.next_record = 0;
        self.forgotten = 0;
        self.scanned = self.record_start;
        self.splitter.restart();
    }

    /// A record whose end was found.
    fn complete_record(&mut self) -> Result<(), ReadError> {
        let last = self.marks.records[self.next_record] as usize;
        let (start, end) = (self.record_start, self.marks.fields[last].at());
        if end - start > self.target.limits().record_bytes as usize {
            return self.too_long();
        }
        let fields = self.first_field..last + 1;
        self.next_record += 1;
        self.first_field = last + 1;
        self.record_start = end + 1;
        // An empty line; two quotes and a line end are one empty field.
        if end > start {
            self.record(start, end, fields)?;
        }
        self.forgotten = 0;
        self.check_full();
        Ok(())
    }

    /// The last record, which no line end follows.
    fn last_record(&mut self) -> Result<(), ReadError> {
        let (start, end) = (self.record_start, self.batch.text.len());
        if self.splitter.is_quoted() {
            return self.never_closed();
        }
        self.marks.fields.push(self.splitter.last_mark(end));
        let fields = self.first_field..self.marks.fields.len();
        self.first_field = fields.end;
        self.record_start = end;
        self.record(start, end, fields)?;
        self.forgotten = 0;
        self.splitter.restart();
        self.check_full();
        Ok(())
    }

    pub(super) fn check_full(&mut self) {
        let rule = self.target.batch();
        let bytes = self.base + self.record_start as u64 - self.batch.from;
        self.full = self.batch.len() >= rule.rows as usize
            || bytes >= u64::from(rule.bytes)
            || self.batch.rejects.len() >= BATCH_REJECTS_MAX
            || self.batch.made.len() >= BATCH_TEXT_MAX;
    }

    fn record(
        &mut self,
        start: usize,
        end: usize,
        fields: std::ops::Range<usize>,
    ) -> Result<(), ReadError> {
        if self.mapping.is_none() {
            return self.header(start, &fields);
        }
        self.row += 1;
        let (slots, made) = (self.batch.slots.len(), self.batch.made.len());
        match self.fill(start, fields) {
            Ok(()) => {
                self.batch.places.push(RowPlace {
                    number: self.row,
                    offset: self.base + start as u64,
                });
                Ok(())
            }
            Err((column, reason)) => {
                self.batch.slots.truncate(slots);
                self.batch.made.truncate(made);
                let column = column.map(|column| Arc::clone(&self.target.columns()[column].name));
                let raw = &self.batch.text[start..end];
                let reject = Reject {
                    row: self.row,
                    offset: self.base + start as u64,
                    column,
                    reason,
                    raw: raw[..raw.len().min(RAW_BYTES_MAX)].to_vec(),
                    raw_bytes: raw.len() as u64,
                };
                self.refuse(reject)
            }
        }
    }

    /// Puts a reject aside, or ends reading by it.
    pub(super) fn refuse(&mut self, reject: Reject) -> Result<(), ReadError> {
        if let OnBadRow::StopAfter(bearable) = self.target.on_bad_row()
            && self.rejected >= bearable
        {
            // As if it had not been read: the next reader is to meet it.
            self.row -= 1;
            self.record_start = (reject.offset - self.base) as usize;
            return self.fail(ReadError::BadRow {
                reject: Box::new(reject),
            });
        }
        self.rejected += 1;
        self.batch.rejects.push(reject);
        Ok(())
    }

    pub(super) fn fail<T>(&mut self, error: ReadError) -> Result<T, ReadError> {
        self.full = false;
        self.error = Some(error.clone());
        Err(error)
    }

    fn header(&mut self, start: usize, fields: &std::ops::Range<usize>) -> Result<(), ReadError> {
        let limit = self.target.limits().columns as usize;
        let found = fields.len() + self.forgotten;
        let is_read = matches!(self.target.format().header, Header::Present { .. });
        if is_read && found > limit {
            return self.fail(HeaderError::TooMany { found, limit }.into());
        }
        let mut names = Vec::new();
        if is_read {
            let mut from = start;
            for mark in &self.marks.fields[fields.clone()] {
                let mut name = Vec::new();
                unescape(
                    &self.batch.text[from..mark.at()],
                    self.target.format().quote,
                    &mut name,
                );
                names.push(name);
                from = mark.at() + 1;
            }
        }
        match header::read(&self.target, &names) {
            Ok(mapping) => {
                self.mapping = Some(mapping);
                Ok(())
            }
            Err(error) => self.fail(error.into()),
        }
    }

    /// Ends the batch under way behind its last record and begins the next.
    fn cut(&mut self) -> Batch {
        let next = self.spare.take().unwrap_or_default();
        let mut done = std::mem::replace(&mut self.batch, next);
        self.batch.clear();
        self.batch
            .text
            .extend_from_slice(&done.text[self.record_start..]);
        done.text.truncate(self.record_start);
        self.base += self.record_start as u64;
        self.record_start = 0;
        self.scan_again();
        done.checkpoint = Checkpoint {
            offset: self.base,
            row: self.row,
            rejects: self.rejected,
            batch: done.number + 1,
            header: self.mapping.clone(),
            recovery: self.recovery,
        };
        self.full = false;
        self.begin(done.number + 1);
        done
    }

    /// The same for [`super::MessageReader`], whose messages end where `to` says.
    pub(super) fn cut_messages(&mut self, to: u64) -> Batch {
        let next = self.spare.take().unwrap_or_default();
        let mut done = std::mem::replace(&mut self.batch, next);
        self.batch.clear();
        self.base = to;
        done.checkpoint = Checkpoint {
            offset: to,
            batch: done.number + 1,
            ..Checkpoint::default()
        };
        self.begin(done.number + 1);
        done
    }

    fn begin(&mut self, number: u64) {
        self.batch.number = number;
        self.batch.first_row = self.row + 1;
        self.batch.from = self.base;
        self.batch.key = self.target.key();
        self.batch.columns = self.target.columns().len();
    }
}
