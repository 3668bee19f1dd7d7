//! Reads the bits of an entropy-coded segment, most significant first.
//!
//! Place: under every scan decoder. Removes byte stuffing (`FF 00`), stops at a marker and then
//! feeds zeros; `overrun` tells that zeros were *used*, so a truncated file is seen, not guessed.
//! Must never: read past the slice, or fail in the middle of a block (the check is per row).

/// Bits of one entropy-coded segment.
#[derive(Debug)]
pub(super) struct Bits<'a> {
    data: &'a [u8],
    /// Next byte to load. At a marker it stays on its `FF`.
    pos: usize,
    /// Bits not yet used, left-aligned.
    acc: u64,
    /// How many bits of `acc` are valid.
    valid: u32,
    /// How many of the valid bits, counted from the end, are invented zeros.
    padding: u32,
    /// Invented zeros were used at some time.
    starved: bool,
}

const LOW: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

impl<'a> Bits<'a> {
    pub(super) fn new(data: &'a [u8], pos: usize) -> Self {
        Self {
            data,
            pos,
            acc: 0,
            valid: 0,
            padding: 0,
            starved: false,
        }
    }

    /// After this at least 56 bits are valid (perhaps invented).
    #[inline(always)]
    pub(super) fn refill(&mut self) {
        if let Some(chunk) = self.data.get(self.pos..).and_then(<[u8]>::first_chunk::<8>) {
            let word = u64::from_be_bytes(*chunk);
            let inverse = !word;
            // No byte is FF, so nothing is stuffed and no marker is near. Bits beyond `valid` are
            // ORed again with the same bytes by the next refill, which changes nothing.
            if inverse.wrapping_sub(LOW) & word & HIGH == 0 {
                self.acc |= word >> self.valid;
                self.pos += ((63 - self.valid) >> 3) as usize;
                self.valid |= 0x38; // 56..=63, as many as whole bytes were loaded
                return;
            }
        }
        self.refill_slowly();
    }

    #[cold]
    #[inline(never)]
    fn refill_slowly(&mut self) {
        // Drop look-ahead bits: the bytes they come from are read again one by one.
        if self.valid < 64 {
            self.acc &= !(u64::MAX >> self.valid);
        }
        while self.valid <= 56 {
            let byte = match self.data.get(self.pos) {
                Some(0xff) if self.data.get(self.pos + 1) == Some(&0x00) => {
                    self.pos += 2;
                    0xff
                }
                Some(&byte) if byte != 0xff => {
                    self.pos += 1;
                    byte
                }
                // A marker, or the end of the file.
                _ => {
                    self.pad();
                    return;
                }
            };
            self.acc |= u64::from(byte) << (56 - self.valid);
            self.valid += 8;
        }
    }

    fn pad(&mut self) {
        self.starved |= self.padding > self.valid;
        self.padding = self.padding.min(self.valid) + (64 - self.valid);
        self.valid = 64;
    }

    /// Refills when fewer than 32 bits are left: enough for one symbol with its extra bits.
    #[inline(always)]
    pub(super) fn need32(&mut self) {
        if self.valid < 32 {
            self.refill();
        }
    }

    /// The next `count` bits (1..=32), not consumed.
    #[inline(always)]
    pub(super) fn peek(&self, count: u32) -> u32 {
        (self.acc >> (64 - count)) as u32
    }

    /// Consumes `count` bits (0..=32); the caller has refilled.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.acc <<= count;
        self.valid -= count;
    }

    /// Takes `count` bits (0..=16); the caller has refilled.
    #[inline(always)]
    pub(super) fn take(&mut self, count: u32) -> u32 {
        if count == 0 {
            return 0;
        }
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// Takes one bit, refilling as needed.
    #[inline(always)]
    pub(super) fn bit(&mut self) -> bool {
        self.need32();
        self.take(1) == 1
    }

    /// Takes a signed value of `size` bits in JPEG's form (T.81 F.2.2.1 EXTEND).
    #[inline(always)]
    pub(super) fn take_signed(&mut self, size: u32) -> i32 {
        if size == 0 {
            return 0;
        }
        let raw = self.take(size) as i32;
        if raw < 1 << (size - 1) {
            raw - (1 << size) + 1
        } else {
            raw
        }
    }

    /// Whether bits were used that the file does not hold.
    pub(super) fn overrun(&self) -> bool {
        self.starved || self.padding > self.valid
    }

    /// Jumps behind the next restart marker. `false` when another marker or the end comes first.
    pub(super) fn restart(&mut self) -> bool {
        let Some(marker) = next_marker(self.data, self.pos) else {
            return false;
        };
        if !matches!(self.data[marker + 1], 0xd0..=0xd7) {
            return false;
        }
        *self = Self::new(self.data, marker + 2);
        true
    }

    /// Where the search for the next marker may begin.
    pub(super) fn position(&self) -> usize {
        self.pos
    }
}

/// Position of the `FF` of the next marker at or after `from`: not stuffing, not a fill byte.
pub(super) fn next_marker(data: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr::memchr(0xff, data.get(at..)?)?;
        match data.get(at + 1)? {
            0x00 => at += 2,
            0xff => at += 1,
            _ => return Some(at),
        }
    }
}
