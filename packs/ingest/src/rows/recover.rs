//! What a record that is too long, or a quote that never closes, costs.
//!
//! The rule, for both: **the first line of the record is refused, and reading goes on behind its
//! first line end**, as if that line had been well. So an open quote costs the line that it stands
//! in, not the rest of the file. A record without a line end inside the limit is refused whole:
//! what follows is dropped up to its next line end, unkept.
//!
//! What was read as one record is then read again, once for each line that does not end well; an
//! input made for it could have every byte read as often as it has lines. So the sixteenth time
//! within the same stretch, the whole stretch is refused as one row, up to the first line end
//! behind it. All of this is counted from offsets, so it does not depend on pieces or resumes.

use super::reader::{ReadError, Reader};
use super::reject::{RAW_BYTES_MAX, Reason, Reject};
use super::{HeaderError, batch::Recovery};

/// Lines within one stretch of the record limit that may cost a second reading of it.
const TRIES_MAX: u32 = 16;

/// A record without end: dropped until its line ends.
#[derive(Debug)]
pub(super) struct Skip {
    reject: Reject,
    /// Offset in the input behind what was dropped.
    pub(super) at: u64,
}

impl Reader {
    /// The record under way may already be longer than the limit: then true, something was done.
    pub(super) fn look_back(&mut self) -> Result<bool, ReadError> {
        let limit = self.target.limits().record_bytes as usize;
        if self.skip.is_some() || self.scanned - self.record_start <= limit {
            return Ok(false);
        }
        self.too_long()?;
        Ok(self.skip.is_none())
    }

    /// The record at `record_start` has more bytes than the limit.
    pub(super) fn too_long(&mut self) -> Result<(), ReadError> {
        let limit = self.target.limits().record_bytes as usize;
        let window = self.record_start..self.record_start + limit + 1;
        if self.mapping.is_none() {
            return self.fail(HeaderError::TooLong { limit }.into());
        }
        let reason = Reason::RecordTooLong { limit };
        let again = self.may_look_back(window.end);
        let line = memchr::memchr2(b'\r', b'\n', &self.batch.text[window.clone()]);
        if let (true, Some(line)) = (again, line) {
            return self.refuse_line(window.start + line, reason);
        }
        // Everything up to the first line end behind the limit.
        let behind = window.end - 1;
        if let Some(line) = memchr::memchr2(b'\r', b'\n', &self.batch.text[behind..]) {
            return self.refuse_line(behind + line, reason);
        }
        let offset = self.base + window.start as u64;
        let raw = &self.batch.text[window.start..];
        let skip = Skip {
            reject: Reject {
                row: self.row + 1,
                offset,
                column: None,
                reason,
                raw: raw[..raw.len().min(RAW_BYTES_MAX)].to_vec(),
                raw_bytes: 0,
            },
            at: offset + raw.len() as u64,
        };
        self.batch.text.truncate(window.start);
        self.scan_again();
        self.skip = Some(skip);
        Ok(())
    }

    /// The input ends inside quotes.
    pub(super) fn never_closed(&mut self) -> Result<(), ReadError> {
        let (start, end) = (self.record_start, self.batch.text.len());
        let again = self.may_look_back(end);
        let line = memchr::memchr2(b'\r', b'\n', &self.batch.text[start..end]);
        if self.mapping.is_none() {
            return self.fail(HeaderError::UnclosedQuote.into());
        }
        match line {
            Some(line) if again => self.refuse_line(start + line, Reason::UnclosedQuote),
            _ => self.refuse_line(end, Reason::UnclosedQuote),
        }
    }

    /// Takes the bytes of a record without end; returns how many.
    pub(super) fn skip_on(&mut self, piece: &[u8]) -> Result<usize, ReadError> {
        let piece = &piece[..piece.len().min(64 << 10)];
        let Some(mut skip) = self.skip.take() else {
            return Ok(0);
        };
        let line = memchr::memchr2(b'\r', b'\n', piece);
        skip.at += line.unwrap_or(piece.len()) as u64;
        let Some(line) = line else {
            self.skip = Some(skip);
            return Ok(piece.len());
        };
        self.end_skip(skip, 1)?;
        Ok(line + 1)
    }

    /// The record without end has ended, by a line end of so many bytes.
    pub(super) fn end_skip(&mut self, mut skip: Skip, line_end: u64) -> Result<(), ReadError> {
        skip.reject.raw_bytes = skip.at - skip.reject.offset;
        self.row += 1;
        self.refuse(skip.reject)?;
        // What was dropped is part of this batch, though not of its text.
        self.base = skip.at + line_end - self.record_start as u64;
        self.check_full();
        Ok(())
    }

    /// Counts the attempt; false when this stretch was looked at often enough.
    fn may_look_back(&mut self, end: usize) -> bool {
        let (start, end) = (self.base + self.record_start as u64, self.base + end as u64);
        let tries = if start < self.recovery.until {
            self.recovery.tries + 1
        } else {
            1
        };
        let may = tries < TRIES_MAX;
        let until = if start < self.recovery.until && may {
            // The stretch grows with each line; its tries are counted until one is clean.
            self.recovery.until.max(end)
        } else {
            end
        };
        self.recovery = Recovery { until, tries };
        may
    }

    /// Refuses what stands before `end` and goes on behind it.
    fn refuse_line(&mut self, end: usize, reason: Reason) -> Result<(), ReadError> {
        let start = self.record_start;
        let raw = &self.batch.text[start..end];
        let reject = Reject {
            row: self.row + 1,
            offset: self.base + start as u64,
            column: None,
            reason,
            raw: raw[..raw.len().min(RAW_BYTES_MAX)].to_vec(),
            raw_bytes: raw.len() as u64,
        };
        self.row += 1;
        self.record_start = self.batch.text.len().min(end + 1);
        self.refuse(reject)?;
        self.scan_again();
        self.check_full();
        Ok(())
    }
}
