//! From the bytes of an upload to UTF-8 text, piece by piece. Path: body -> **decode** -> split.
//!
//! Decompression ([`unpack`]), then encoding ([`text`]). One call hands on about 16 KiB at most,
//! however much a piece would unfold to, so memory and time per call are bounded; what all of it
//! may unfold to is bounded by a ratio and a total.
//!
//! Must never: hold more than a window and a slice, replace what it cannot decode by something
//! that looks like data (what is malformed becomes the byte 0xff, which no UTF-8 holds, so the row
//! around it is refused), or take a cut stream for a whole one.

pub mod form;
mod text;
mod unpack;

use serde::{Deserialize, Serialize};

use crate::target::{Format, Limits};
use text::Text;
use unpack::{Kind, Unpack};

/// Bytes that one step reads or unfolds.
const SLICE: usize = 16 << 10;
/// Decompressed bytes that are not held to the ratio: short inputs unfold well.
const RATIO_FREE: u64 = 1 << 20;

/// How the bytes are packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// By the first four bytes. No text starts like gzip or zstd.
    #[default]
    Auto,
    None,
    /// RFC 1952, any number of members, zero padding behind the last.
    Gzip,
    /// RFC 8878, any number of frames, windows of 8 MiB at most.
    Zstd,
}

/// How characters are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Encoding {
    /// With or without a byte order mark.
    #[default]
    #[serde(rename = "utf-8", alias = "utf8")]
    Utf8,
    /// ISO-8859-1: each byte is the code point of the same number.
    #[serde(rename = "latin1")]
    Latin1,
    /// What Windows calls Latin-1, with the euro sign at 0x80.
    #[serde(rename = "windows-1252")]
    Windows1252,
    /// The byte order mark tells the order; without one it is refused.
    #[serde(rename = "utf-16", alias = "utf16")]
    Utf16,
    #[serde(rename = "utf-16le", alias = "utf16le")]
    Utf16Le,
    #[serde(rename = "utf-16be", alias = "utf16be")]
    Utf16Be,
}

/// Why the rest of an input cannot be read. What was decoded before stays good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    #[error("{format} data is damaged near byte {at}: {cause}")]
    Damaged {
        format: &'static str,
        at: u64,
        cause: String,
    },
    #[error("{format} data ends early, after {at} bytes: the upload was cut, or is not {format}")]
    Truncated { format: &'static str, at: u64 },
    #[error("bytes that are no gzip member follow the last one, at byte {at}")]
    TrailingGarbage { at: u64 },
    #[error(
        "{read} compressed bytes unfold to more than {decoded}; limits.ratio is {limit} (a bomb, \
         or raise limits.ratio)"
    )]
    Ratio { limit: u32, read: u64, decoded: u64 },
    #[error("more than {limit} bytes after decompression; limits.decoded_bytes ends it here")]
    TooLong { limit: u64 },
    #[error(
        "utf-16 needs a byte order mark; without one say encoding = \"utf-16le\" or \"utf-16be\""
    )]
    NoByteOrderMark,
    #[error("the text starts with the byte order mark of UTF-16; say encoding = \"utf-16\"")]
    Utf16,
}

/// What one [`Decoder::push`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Bytes of the piece that are done with; push the rest again.
    pub taken: usize,
    /// Text was made: there may be more of it, even without further input.
    pub more: bool,
}

/// The decoder of one input.
#[derive(Debug)]
pub struct Decoder {
    unpack: Option<Unpack>,
    wanted: Compression,
    /// First bytes while they do not yet tell what they are, then until they are worked off.
    lead: Vec<u8>,
    text: Text,
    limits: Limits,
    read: u64,
    unpacked: u64,
    /// Bytes of text still to be thrown away: a resumed input.
    skip: u64,
}

impl Decoder {
    pub fn new(format: &Format, limits: Limits) -> Self {
        Self::of(format.compression, format.encoding, limits)
    }

    pub(crate) fn of(compression: Compression, encoding: Encoding, limits: Limits) -> Self {
        Self {
            unpack: None,
            wanted: compression,
            lead: Vec::new(),
            text: Text::new(encoding),
            limits,
            read: 0,
            unpacked: 0,
            skip: 0,
        }
    }

    /// Of an input that is read again from its first byte: hands on what follows the first
    /// `offset` bytes of text ([`crate::Checkpoint::offset`]).
    #[must_use]
    pub fn skipping(mut self, offset: u64) -> Self {
        self.skip = offset;
        self
    }

    /// Bytes taken so far, as they came.
    pub fn bytes_read(&self) -> u64 {
        self.read
    }

    /// Works on one slice of `input` and appends text to `out`, about 16 KiB at most (UTF-8 of
    /// other encodings takes up to three times that). Call again with the rest until all is taken
    /// and nothing `more` comes.
    pub fn push(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Step, DecodeError> {
        let from = out.len();
        let mut taken = 0;
        if self.unpack.is_none() {
            taken = self.detect(input);
            self.read += taken as u64;
        }
        if self.unpack.is_some() {
            if self.lead.is_empty() {
                let used = self.step(&input[taken..], out)?;
                self.read += used as u64;
                taken += used;
            } else {
                let lead = std::mem::take(&mut self.lead);
                let used = self.step(&lead, out)?;
                self.lead = lead[used..].to_vec();
            }
        }
        // First bytes that do not tell yet what they are wait for input, not for a call.
        let more = out.len() > from || (self.unpack.is_some() && !self.lead.is_empty());
        self.discard(from, out);
        Ok(Step { taken, more })
    }

    /// Nothing follows. Appends what was held back (some bytes).
    pub fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let from = out.len();
        if self.unpack.is_none() {
            self.unpack = Some(Unpack::new(match self.wanted {
                Compression::Gzip => Kind::Gzip,
                Compression::Zstd => Kind::Zstd,
                Compression::Auto | Compression::None => Kind::Plain,
            }));
        }
        while !self.lead.is_empty() {
            let lead = std::mem::take(&mut self.lead);
            let used = self.step(&lead, out)?;
            self.lead = lead[used..].to_vec();
        }
        if let Some(unpack) = &self.unpack {
            unpack.finish(self.read)?;
        }
        self.text.finish(out)?;
        self.discard(from, out);
        Ok(())
    }

    /// Decides how the bytes are packed; returns how many it put into `lead`.
    fn detect(&mut self, input: &[u8]) -> usize {
        const GZIP: [u8; 3] = [0x1f, 0x8b, 8];
        const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
        let kind = match self.wanted {
            Compression::None => Some(Kind::Plain),
            Compression::Gzip => Some(Kind::Gzip),
            Compression::Zstd => Some(Kind::Zstd),
            Compression::Auto => None,
        };
        let mut taken = 0;
        let kind = loop {
            if let Some(kind) = kind {
                break kind;
            }
            if self.lead.starts_with(&GZIP) {
                break Kind::Gzip;
            }
            if self.lead.starts_with(&ZSTD) {
                break Kind::Zstd;
            }
            if !GZIP.starts_with(&self.lead) && !ZSTD.starts_with(&self.lead) {
                break Kind::Plain;
            }
            let Some(byte) = input.get(taken) else {
                return taken;
            };
            self.lead.push(*byte);
            taken += 1;
        };
        self.unpack = Some(Unpack::new(kind));
        taken
    }

    /// Unpacks and decodes at most one slice; returns the bytes of `input` that it used.
    fn step(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, DecodeError> {
        let Some(unpack) = &mut self.unpack else {
            return Ok(0);
        };
        let input = &input[..input.len().min(SLICE)];
        let is_packed = unpack.is_packed();
        let (used, unpacked) = unpack.step(input, self.read)?;
        let count = unpacked.map_or(used, <[u8]>::len) as u64;
        self.unpacked += count;
        if self.unpacked > self.limits.decoded_bytes {
            return Err(DecodeError::TooLong {
                limit: self.limits.decoded_bytes,
            });
        }
        let read = self.read + used as u64;
        let fair = RATIO_FREE.saturating_add(read.saturating_mul(u64::from(self.limits.ratio)));
        if is_packed && self.unpacked > fair {
            return Err(DecodeError::Ratio {
                limit: self.limits.ratio,
                read,
                decoded: fair,
            });
        }
        self.text.step(unpacked.unwrap_or(&input[..used]), out)?;
        Ok(used)
    }

    fn discard(&mut self, from: usize, out: &mut Vec<u8>) {
        if self.skip > 0 {
            let made = out.len() - from;
            let gone = usize::try_from(self.skip).map_or(made, |skip| skip.min(made));
            out.drain(from..from + gone);
            self.skip -= gone as u64;
        }
    }
}
