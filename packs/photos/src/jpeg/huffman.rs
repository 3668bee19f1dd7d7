//! Huffman tables: one symbol at a time, and many AC symbols at a time when only their length
//! matters.
//!
//! Place: built from DHT segments, used by the scan decoders.
//! A thumbnail needs 1, 4 or 16 of a block's 64 coefficients. The rest must be *passed*, not
//! *decoded*: [`SkipTable`] answers for the next 12 bits how many whole symbols they hold, how far
//! those move in the block and whether the block ends there. That is where the speed comes from
//! (ADR-0010).
//! Must never: trust a table; the lengths are checked when it is built.

use super::bits::Bits;

const LOOK_BITS: u32 = 10;
const SKIP_BITS: u32 = 12;
/// A symbol that no code stands for.
const NONE: u16 = 0;

/// One DHT table.
pub(super) struct Huffman {
    /// `length << 8 | symbol` for codes of up to [`LOOK_BITS`] bits, else [`NONE`].
    look: Box<[u16; 1 << LOOK_BITS]>,
    /// First code after the last one of each length, aligned to 16 bits; ascending.
    limit: [u32; 17],
    /// `symbols` index of a length's first code, minus that code.
    offset: [i32; 17],
    symbols: Box<[u8; 256]>,
}

impl std::fmt::Debug for Huffman {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Huffman")
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

impl Huffman {
    /// Builds the table from the 16 counts and the symbols (T.81 annex C). `None` when the counts
    /// do not describe a prefix code.
    pub(super) fn build(counts: &[u8; 16], listed: &[u8]) -> Option<Self> {
        let mut table = Self {
            look: Box::new([NONE; 1 << LOOK_BITS]),
            limit: [0; 17],
            offset: [0; 17],
            symbols: Box::new([0; 256]),
        };
        table
            .symbols
            .get_mut(..listed.len())?
            .copy_from_slice(listed);
        let mut code = 0_u32;
        let mut index = 0_usize;
        for length in 1..=16_u32 {
            let count = u32::from(counts[length as usize - 1]);
            table.offset[length as usize] = index as i32 - code as i32;
            for _ in 0..count {
                let symbol = *listed.get(index)?;
                if code >= 1 << length {
                    return None;
                }
                if length <= LOOK_BITS {
                    let first = (code << (LOOK_BITS - length)) as usize;
                    let span = 1_usize << (LOOK_BITS - length);
                    table.look[first..first + span].fill((length as u16) << 8 | u16::from(symbol));
                }
                code += 1;
                index += 1;
            }
            table.limit[length as usize] = code << (16 - length);
            code <<= 1;
        }
        Some(table)
    }

    /// Length and symbol of the code that `bits16` begins with; length 0 when there is none.
    #[inline(always)]
    fn find(&self, bits16: u32) -> (u32, u8) {
        let entry = self.look[(bits16 >> (16 - LOOK_BITS)) as usize & ((1 << LOOK_BITS) - 1)];
        if entry != NONE {
            return (u32::from(entry >> 8), entry as u8);
        }
        self.find_slowly(bits16)
    }

    #[cold]
    fn find_slowly(&self, bits16: u32) -> (u32, u8) {
        for length in 1..=16_usize {
            if bits16 < self.limit[length] {
                let index = (bits16 >> (16 - length)) as i32 + self.offset[length];
                let symbol = usize::try_from(index)
                    .ok()
                    .and_then(|i| self.symbols.get(i));
                return symbol.map_or((0, 0), |&symbol| (length as u32, symbol));
            }
        }
        (0, 0)
    }

    /// Takes one symbol; the caller has at least 32 bits. An unknown code is passed as a 16-bit
    /// zero symbol (end of block): the row's overrun check or the picture shows the damage.
    #[inline(always)]
    pub(super) fn symbol(&self, bits: &mut Bits<'_>) -> u8 {
        let (length, symbol) = self.find(bits.peek(16));
        bits.skip(if length == 0 { 16 } else { length });
        symbol
    }
}

/// AC symbols by the window of the next [`SKIP_BITS`] bits.
pub(super) struct SkipTable {
    /// `ends_block << 15 | coefficients << 8 | bits`; 0 when the first symbol is not whole.
    entries: Box<[u16; 1 << SKIP_BITS]>,
    /// One whole symbol with its value: `value << 16 | run << 8 | bits`; 0 when it is none.
    values: Box<[u32; 1 << LOOK_BITS]>,
}

const ENDS_BLOCK: u16 = 1 << 15;

impl std::fmt::Debug for SkipTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SkipTable").finish_non_exhaustive()
    }
}

impl SkipTable {
    pub(super) fn build(ac: &Huffman) -> Self {
        let mut entries = Box::new([0_u16; 1 << SKIP_BITS]);
        for (window, entry) in entries.iter_mut().enumerate() {
            let mut used = 0_u32;
            let mut coefficients = 0_u32;
            let mut ends = 0_u16;
            while used < SKIP_BITS {
                let rest = (window as u32) << (16 - SKIP_BITS + used) & 0xffff;
                let (length, symbol) = ac.find(rest);
                let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
                let moved = if symbol == 0xf0 { 16 } else { run + 1 };
                if length == 0 || used + length + size > SKIP_BITS || coefficients + moved > 63 {
                    break;
                }
                used += length + size;
                if size == 0 && symbol != 0xf0 {
                    ends = ENDS_BLOCK;
                    break;
                }
                coefficients += moved;
            }
            *entry = ends | (coefficients << 8) as u16 | used as u16;
        }
        Self {
            entries,
            values: values(ac),
        }
    }

    /// Takes a symbol with its value in one step: `(zeros before it, value)`. `None`, and nothing
    /// taken, when it is too long for the table or ends the block.
    #[inline(always)]
    pub(super) fn value(&self, bits: &mut Bits<'_>) -> Option<(usize, i32)> {
        let entry = self.values[bits.peek(LOOK_BITS) as usize & ((1 << LOOK_BITS) - 1)];
        if entry == 0 {
            return None;
        }
        bits.skip(entry & 0xff);
        Some(((entry >> 8 & 0xff) as usize, entry as i32 >> 16))
    }

    /// Passes over the rest of a block whose next coefficient is `next` (1..=63).
    #[inline(always)]
    pub(super) fn pass_block(&self, ac: &Huffman, bits: &mut Bits<'_>, next: u32) {
        let mut next = next;
        while next < 64 {
            bits.need32();
            let entry = self.entries[bits.peek(SKIP_BITS) as usize & ((1 << SKIP_BITS) - 1)];
            let after = next + u32::from(entry >> 8 & 0x7f);
            // A window that reaches the block's last coefficient may hold symbols of the next
            // block as well; those blocks take the careful way.
            if entry != 0 && after < 64 {
                bits.skip(u32::from(entry & 0xff));
                next = after;
                if entry & ENDS_BLOCK != 0 {
                    return;
                }
            } else {
                let symbol = ac.symbol(bits);
                let size = u32::from(symbol & 15);
                if size == 0 && symbol != 0xf0 {
                    return;
                }
                bits.skip(size);
                next += u32::from(symbol >> 4) + 1;
            }
        }
    }
}

fn values(ac: &Huffman) -> Box<[u32; 1 << LOOK_BITS]> {
    let mut values = Box::new([0_u32; 1 << LOOK_BITS]);
    for (window, entry) in values.iter_mut().enumerate() {
        let window = (window as u32) << (16 - LOOK_BITS);
        let (length, symbol) = ac.find(window);
        let (run, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if length == 0 || size == 0 || length + size > LOOK_BITS {
            continue;
        }
        let raw = (window >> (16 - length - size)) as i32 & ((1 << size) - 1);
        let value = if raw < 1 << (size - 1) {
            raw - (1 << size) + 1
        } else {
            raw
        };
        *entry = (value << 16) as u32 | run << 8 | (length + size);
    }
    values
}
