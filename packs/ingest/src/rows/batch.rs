//! Rows that are stored together, flat: one buffer of text and a table of places in it.
//!
//! Must never: own a field on its own, or be made but by a [`super::Reader`].

use serde::{Deserialize, Serialize};

use super::Reject;

/// Where an input can be taken up again: behind a batch. Store it with the batch's rows.
///
/// A reader that is resumed here makes the same batches, rows and rejects as one that went on,
/// as long as batches are cut by rows and bytes alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Of the decoded text: push what follows it.
    pub offset: u64,
    /// Rows before it, refused ones included.
    pub row: u64,
    /// Refused rows before it.
    pub rejects: u64,
    /// Number of the next batch.
    pub batch: u64,
    /// What the header said, once it was read.
    pub header: Option<Mapping>,
    /// How far, and how often, lines behind a record that was too long were read again.
    pub recovery: Recovery,
}

/// Which field of a record belongs to which column.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mapping {
    /// Fields that every record has.
    pub fields: u32,
    /// For each column its field, from 0; `None` for one that the header does not have.
    pub columns: Vec<Option<u32>>,
}

/// See [`Checkpoint::recovery`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recovery {
    pub until: u64,
    pub tries: u32,
}

/// Place of a field: in `text`, or with the top bit in `made`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) start: u32,
    pub(super) len: u32,
}

impl Slot {
    pub(super) const MADE: u32 = 1 << 31;
    pub(super) const NULL: Self = Self {
        start: 0,
        len: u32::MAX,
    };
}

#[derive(Debug, Clone, Copy)]
pub(super) struct RowPlace {
    pub(super) number: u64,
    pub(super) offset: u64,
}

/// Rows and rejects between two places of an input.
#[derive(Debug, Default)]
pub struct Batch {
    pub(super) number: u64,
    pub(super) first_row: u64,
    pub(super) from: u64,
    pub(super) key: Option<usize>,
    pub(super) columns: usize,
    pub(super) text: Vec<u8>,
    pub(super) made: Vec<u8>,
    pub(super) slots: Vec<Slot>,
    pub(super) places: Vec<RowPlace>,
    pub(super) rejects: Vec<Reject>,
    pub(super) checkpoint: Checkpoint,
}

impl Batch {
    /// 0 for the first of an input, then without gaps.
    pub fn number(&self) -> u64 {
        self.number
    }
    /// Number of the first row that was looked at for this batch, refused or not; from 1.
    pub fn first_row(&self) -> u64 {
        self.first_row
    }
    /// Offset in the decoded text where it begins. Batches leave no gaps.
    pub fn from(&self) -> u64 {
        self.from
    }
    /// Offset behind its last byte.
    pub fn to(&self) -> u64 {
        self.checkpoint.offset
    }
    /// Rows that passed.
    pub fn len(&self) -> usize {
        self.places.len()
    }
    /// No row passed; there may be rejects.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
    pub fn rows(&self) -> Rows<'_> {
        Rows { batch: self, at: 0 }
    }
    /// Row `at` of those that passed, from 0.
    ///
    /// Panics: there are not so many.
    pub fn row(&self, at: usize) -> Row<'_> {
        assert!(at < self.len(), "row {at} of {}", self.len());
        Row { batch: self, at }
    }
    /// Refused rows, in their order, a thousand at most.
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }
    /// Where to go on when this batch is stored.
    pub fn checkpoint(&self) -> &Checkpoint {
        &self.checkpoint
    }
    /// Bytes that it holds in memory.
    pub fn memory(&self) -> usize {
        self.text.capacity()
            + self.made.capacity()
            + self.slots.capacity() * size_of::<Slot>()
            + self.places.capacity() * size_of::<RowPlace>()
            + self
                .rejects
                .iter()
                .map(|reject| reject.raw.capacity())
                .sum::<usize>()
    }

    /// Takes out the rows and rejects whose records begin where `keep` says no: those that an
    /// earlier run has stored. The range stays what it was.
    pub fn retain(&mut self, mut keep: impl FnMut(u64) -> bool) {
        let columns = self.columns;
        let mut stay = 0;
        for at in 0..self.places.len() {
            let place = self.places[at];
            if keep(place.offset) {
                self.places[stay] = place;
                let from = at * columns;
                self.slots.copy_within(from..from + columns, stay * columns);
                stay += 1;
            }
        }
        self.places.truncate(stay);
        self.slots.truncate(stay * columns);
        self.rejects.retain(|reject| keep(reject.offset));
    }

    pub(super) fn clear(&mut self) {
        self.text.clear();
        self.made.clear();
        self.slots.clear();
        self.places.clear();
        self.rejects.clear();
    }
}

/// One row that passed.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    batch: &'a Batch,
    at: usize,
}

impl<'a> Row<'a> {
    /// 1 for the first record behind the header; refused rows have numbers too.
    pub fn number(&self) -> u64 {
        self.batch.places[self.at].number
    }
    /// Of its first byte in the decoded text.
    pub fn offset(&self) -> u64 {
        self.batch.places[self.at].offset
    }
    /// Field of column `i` as [`crate::Kind`] says; UTF-8 without NUL. `None` is null.
    ///
    /// Panics: `i` is no column.
    #[inline]
    pub fn field(&self, i: usize) -> Option<&'a [u8]> {
        let columns = self.batch.columns;
        assert!(i < columns, "column {i} of {columns}");
        self.batch.slot(self.batch.slots[self.at * columns + i])
    }
    /// All fields in the order of the columns.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = Option<&'a [u8]>> + use<'a> {
        let (batch, columns) = (self.batch, self.batch.columns);
        let from = self.at * columns;
        batch.slots[from..from + columns]
            .iter()
            .map(move |slot| batch.slot(*slot))
    }
    /// Field of the target's key column; `None` where the target has none.
    pub fn key(&self) -> Option<&'a [u8]> {
        self.batch.key.and_then(|key| self.field(key))
    }
}

impl Batch {
    #[inline]
    fn slot(&self, slot: Slot) -> Option<&[u8]> {
        if slot.len == u32::MAX {
            return None;
        }
        let (text, start) = if slot.start & Slot::MADE == 0 {
            (&self.text, slot.start)
        } else {
            (&self.made, slot.start & !Slot::MADE)
        };
        Some(&text[start as usize..(start + slot.len) as usize])
    }
}

/// Rows of a batch, in their order.
#[derive(Debug, Clone)]
pub struct Rows<'a> {
    batch: &'a Batch,
    at: usize,
}

impl<'a> Iterator for Rows<'a> {
    type Item = Row<'a>;

    fn next(&mut self) -> Option<Row<'a>> {
        let at = self.at;
        (at < self.batch.len()).then(|| {
            self.at += 1;
            Row {
                batch: self.batch,
                at,
            }
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.batch.len() - self.at;
        (left, Some(left))
    }
}

impl ExactSizeIterator for Rows<'_> {}
