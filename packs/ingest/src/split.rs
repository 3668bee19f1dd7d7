//! Finds where records and fields end, in pieces of any size. Path: decode -> **split** -> rows.
//!
//! The rules are those of the `csv` crate (flexible, no escape byte, doubled quotes on), which is
//! the oracle of the tests, piece by piece and byte by byte:
//!
//! - `\n`, `\r` and `\r\n` each end a record; an empty line is no record.
//! - A quote opens a quoted field as the first byte of a field alone; elsewhere it is text.
//! - Inside quotes everything is text but the quote: two of them are one, a single one closes.
//!   What stands between it and the next delimiter is text of the same field, quotes included.
//! - A last record needs no line end, and none is needed after a quote that never closes.
//!
//! How: 64 bytes at a time become bit masks (one bit per byte), the exclusive-or of all quotes
//! before a byte tells whether it is inside, and what lies outside is walked bit by bit. A quote
//! where none may open falls back to one byte at a time for those 64 bytes.
//! Source of the idea: G. Langdale, D. Lemire, "Parsing Gigabytes of JSON per Second" (2019).
//!
//! Must never: keep bytes, allocate per record, or know what a field means.

use wide::u8x16;

/// Bytes that become one set of masks.
const BLOCK: usize = 64;

/// Position of a mark, relative to what its owner counts from.
const AT_MASK: u32 = (1 << 30) - 1;
/// The field that ends here holds doubled quotes, or quotes where they are text.
const RAGGED: u32 = 1 << 31;
/// The field that ends here may hold bytes above 0x7f or NUL (told by blocks, so never too few).
const ODD: u32 = 1 << 30;

/// Largest position a mark can hold, in bytes: buffers stay below it.
pub(crate) const POSITIONS_MAX: usize = AT_MASK as usize;

/// Where one field ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark(u32);

impl Mark {
    /// Place of the delimiter or line end behind the field.
    pub(crate) const fn at(self) -> usize {
        (self.0 & AT_MASK) as usize
    }
    pub(crate) const fn is_ragged(self) -> bool {
        self.0 & RAGGED != 0
    }
    pub(crate) const fn is_odd(self) -> bool {
        self.0 & ODD != 0
    }
}

/// Ends of fields, and which of them end a record too.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// One for each field, in order. An empty line makes one, too.
    pub(crate) fields: Vec<Mark>,
    /// Positions in `fields` whose mark is a line end.
    pub(crate) records: Vec<u32>,
}

impl Marks {
    pub(crate) fn clear(&mut self) {
        self.fields.clear();
        self.records.clear();
    }
}

/// What the byte before was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A delimiter or line end, or nothing yet: a quote would open here.
    FieldStart,
    /// Text outside quotes.
    Text,
    /// Inside quotes.
    Quoted,
    /// A quote that closes, unless another one follows.
    Closed,
}

/// A record of [`Splitter::push`]: offsets in everything pushed since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Of its first byte.
    pub start: u64,
    /// Behind its last byte: its line end, or the end of everything.
    pub end: u64,
    /// A quote stands somewhere in it.
    pub has_quotes: bool,
    /// It ends because everything does, inside quotes.
    pub is_unclosed: bool,
}

/// The splitter. Constant size: a state of a few bytes and one block's marks.
#[derive(Debug)]
pub struct Splitter {
    delimiter: u8,
    quote: Option<u8>,
    place: Place,
    /// Flags of the field that is under way.
    flags: u32,
    /// For [`Splitter::push`] alone.
    seen: u64,
    record_start: u64,
    record_quotes: bool,
    marks: Marks,
}

struct Masks {
    quotes: u64,
    delimiters: u64,
    line_ends: u64,
    odd: u64,
}

impl Splitter {
    /// `delimiter` and `quote`: different bytes below 0x80, neither of them `\r`, `\n` or NUL
    /// ([`crate::RawTarget::resolve`] holds them to that). No `quote`: quotes are text.
    pub fn new(delimiter: u8, quote: Option<u8>) -> Self {
        Self {
            delimiter,
            quote,
            place: Place::FieldStart,
            flags: 0,
            seen: 0,
            record_start: 0,
            record_quotes: false,
            marks: Marks::default(),
        }
    }

    /// Takes the next piece and tells the records that end in it. Empty lines are told to nobody.
    pub fn push(&mut self, piece: &[u8], mut each: impl FnMut(Record)) {
        let mut marks = std::mem::take(&mut self.marks);
        for block in piece.chunks(BLOCK) {
            self.scan(block, 0, &mut marks);
            let mut from = 0;
            for record in marks.records.drain(..) {
                let at = marks.fields[record as usize].at();
                self.note_quotes(&block[from..at]);
                let end = self.seen + at as u64;
                self.tell(end, false, &mut each);
                self.record_start = end + 1;
                from = at + 1;
            }
            self.note_quotes(&block[from..]);
            self.seen += block.len() as u64;
            marks.clear();
        }
        self.marks = marks;
    }

    /// Nothing follows: tells the last record, if it has no line end.
    pub fn finish(mut self, mut each: impl FnMut(Record)) {
        let unclosed = self.is_quoted();
        self.tell(self.seen, unclosed, &mut each);
    }

    fn note_quotes(&mut self, bytes: &[u8]) {
        if let Some(quote) = self.quote {
            self.record_quotes |= memchr::memchr(quote, bytes).is_some();
        }
    }

    fn tell(&mut self, end: u64, is_unclosed: bool, each: &mut impl FnMut(Record)) {
        let has_quotes = std::mem::take(&mut self.record_quotes);
        if end > self.record_start {
            each(Record {
                start: self.record_start,
                end,
                has_quotes,
                is_unclosed,
            });
        }
    }

    /// A record starts with the next byte, whatever was before.
    pub(crate) fn restart(&mut self) {
        self.place = Place::FieldStart;
        self.flags = 0;
    }

    /// The next byte is inside quotes that are still open.
    pub(crate) fn is_quoted(&self) -> bool {
        self.place == Place::Quoted
    }

    /// A mark for the end of everything, at `at`.
    pub(crate) fn last_mark(&self, at: usize) -> Mark {
        Mark(at as u32 | self.flags)
    }

    /// Scans `bytes`, whose first has the position `base`, and appends to `marks`.
    pub(crate) fn scan(&mut self, bytes: &[u8], base: usize, marks: &mut Marks) {
        debug_assert!(base + bytes.len() <= POSITIONS_MAX);
        let mut at = base as u32;
        let mut blocks = bytes.chunks_exact(BLOCK);
        for block in &mut blocks {
            if let Ok(block) = block.try_into() {
                self.scan_block(block, BLOCK, at, marks);
            }
            at += BLOCK as u32;
        }
        let rest = blocks.remainder();
        if !rest.is_empty() {
            let mut block = [0x20; BLOCK];
            block[..rest.len()].copy_from_slice(rest);
            self.scan_block(&block, rest.len(), at, marks);
        }
    }

    #[inline]
    fn scan_block(&mut self, block: &[u8; BLOCK], len: usize, at: u32, marks: &mut Marks) {
        let valid = u64::MAX >> (BLOCK - len);
        let masks = self.masks(block, valid);
        let borders = masks.delimiters | masks.line_ends;
        let (after_border, after_close, quoted) = match self.place {
            Place::FieldStart => (1, 0, 0),
            Place::Text => (0, 0, 0),
            Place::Closed => (0, 1, 0),
            Place::Quoted => (0, 0, u64::MAX),
        };
        let inside = xor_of_all_before(masks.quotes) ^ quoted;
        let opening = masks.quotes & inside;
        let behind_quote = (masks.quotes << 1) | after_close;
        if opening & !(behind_quote | (borders << 1) | after_border) != 0 {
            self.walk_block(&block[..len], at, masks.odd, marks);
            return;
        }
        let doubled = opening & behind_quote;
        let ends = borders & !inside;
        if doubled | masks.odd == 0 {
            put_plain(ends, at, self.flags, marks);
            if ends != 0 {
                self.flags = 0;
            }
        } else {
            self.flags = put_flagged(ends, doubled, masks.odd, at, self.flags, marks);
        }
        put_records(masks.line_ends & !inside, ends, marks);
        let last = 1_u64 << (len - 1);
        self.place = if inside & last != 0 {
            Place::Quoted
        } else if masks.quotes & last != 0 {
            Place::Closed
        } else if borders & last != 0 {
            Place::FieldStart
        } else {
            Place::Text
        };
    }

    #[inline]
    fn masks(&self, block: &[u8; BLOCK], valid: u64) -> Masks {
        let delimiter = u8x16::splat(self.delimiter);
        // Without a quote the mask is emptied below; any byte will do here.
        let quote = u8x16::splat(self.quote.unwrap_or(0));
        let (cr, lf, nul) = (u8x16::splat(b'\r'), u8x16::splat(b'\n'), u8x16::splat(0));
        let mut masks = Masks {
            quotes: 0,
            delimiters: 0,
            line_ends: 0,
            odd: 0,
        };
        for (at, part) in block.as_chunks::<16>().0.iter().enumerate() {
            let bytes = u8x16::new(*part);
            let bits = |mask: u8x16| u64::from(mask.to_bitmask() & 0xffff) << (at * 16);
            masks.quotes |= bits(bytes.simd_eq(quote));
            masks.delimiters |= bits(bytes.simd_eq(delimiter));
            masks.line_ends |= bits(bytes.simd_eq(cr) | bytes.simd_eq(lf));
            masks.odd |= bits(bytes | bytes.simd_eq(nul));
        }
        masks.quotes &= if self.quote.is_some() { valid } else { 0 };
        masks.delimiters &= valid;
        masks.line_ends &= valid;
        masks.odd &= valid;
        masks
    }

    /// One byte at a time: the rules of this module as they are written.
    #[cold]
    fn walk_block(&mut self, bytes: &[u8], at: u32, odd: u64, marks: &mut Marks) {
        for (i, &byte) in bytes.iter().enumerate() {
            if odd >> i & 1 != 0 {
                self.flags |= ODD;
            }
            let is_quote = Some(byte) == self.quote;
            self.place = match self.place {
                Place::Quoted if is_quote => Place::Closed,
                Place::Quoted => Place::Quoted,
                Place::FieldStart if is_quote => Place::Quoted,
                Place::Closed if is_quote => {
                    self.flags |= RAGGED;
                    Place::Quoted
                }
                _ if byte == self.delimiter || byte == b'\r' || byte == b'\n' => {
                    if byte != self.delimiter {
                        marks.records.push(marks.fields.len() as u32);
                    }
                    marks.fields.push(Mark((at + i as u32) | self.flags));
                    self.flags = 0;
                    Place::FieldStart
                }
                _ => {
                    if is_quote {
                        self.flags |= RAGGED;
                    }
                    Place::Text
                }
            };
        }
    }
}

/// Bit `i` of the result: exclusive-or of the bits `0..=i`.
const fn xor_of_all_before(mut bits: u64) -> u64 {
    bits ^= bits << 1;
    bits ^= bits << 2;
    bits ^= bits << 4;
    bits ^= bits << 8;
    bits ^= bits << 16;
    bits ^ (bits << 32)
}

/// Marks whose fields have no flags but the first.
#[inline]
fn put_plain(mut ends: u64, at: u32, flags: u32, marks: &mut Marks) {
    let count = ends.count_ones() as usize;
    if count == 0 {
        return;
    }
    let from = marks.fields.len();
    marks.fields.resize(from + count, Mark(0));
    for mark in &mut marks.fields[from..] {
        *mark = Mark(at + ends.trailing_zeros());
        ends &= ends - 1;
    }
    marks.fields[from].0 |= flags;
}

/// Marks with the flags of what lies before each; the rest's flags are handed back.
fn put_flagged(
    mut ends: u64,
    doubled: u64,
    odd: u64,
    at: u32,
    mut flags: u32,
    marks: &mut Marks,
) -> u32 {
    let mut open = u64::MAX;
    loop {
        let before = if ends == 0 {
            open
        } else {
            open & ((ends & ends.wrapping_neg()) - 1)
        };
        if doubled & before != 0 {
            flags |= RAGGED;
        }
        if odd & before != 0 {
            flags |= ODD;
        }
        if ends == 0 {
            return flags;
        }
        let bit = ends.trailing_zeros();
        marks.fields.push(Mark((at + bit) | flags));
        flags = 0;
        open = (u64::MAX << bit) << 1;
        ends &= ends - 1;
    }
}

/// Notes which of the `ends` just put end a record.
#[inline]
fn put_records(mut line_ends: u64, ends: u64, marks: &mut Marks) {
    let before = marks.fields.len() as u32 - ends.count_ones();
    while line_ends != 0 {
        let below = (line_ends & line_ends.wrapping_neg()) - 1;
        marks.records.push(before + (ends & below).count_ones());
        line_ends &= line_ends - 1;
    }
}
