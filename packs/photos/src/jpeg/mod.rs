//! A JPEG decoder for small copies of large pictures.
//!
//! Place: under `convert`. Decodes at 1/8, 1/4, 1/2 or full size into one plane per component,
//! in the file's own colour model; colour conversion happens later, on the few pixels of the
//! thumbnail. Why an own decoder: ADR-0010 (three times libjpeg-turbo's speed for this purpose,
//! no C, no `unsafe`).
//! Covers baseline, extended sequential and progressive Huffman files of 8 bits and 1, 3 or 4
//! components. Arithmetic, lossless, hierarchical and 12-bit files are `Unsupported`.
//! Must never: allocate planes before [`Decoder::bytes_needed`] could be asked.

#![allow(
    clippy::inline_always,
    reason = "a call per symbol costs more than the symbol; measured"
)]
#![allow(
    clippy::many_single_char_names,
    reason = "x, y, c, k, n are the names of the standard"
)]

mod bits;
mod frame;
mod huffman;
mod idct;
mod markers;
mod progressive;
mod sequential;

use bits::Bits;
use frame::Frame;
use huffman::{Huffman, SkipTable};
use markers::{IccParts, adobe, end_of_scan, read_tables, segment};

/// Scans in one file; real progressive files have 3 to 20.
const SCANS_MAX: usize = 128;

/// Size of the decoded copy relative to the picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    Eighth,
    Quarter,
    Half,
    Full,
}

impl Scale {
    /// Samples along the edge of one 8 x 8 block.
    pub const fn samples(self) -> usize {
        match self {
            Self::Eighth => 1,
            Self::Quarter => 2,
            Self::Half => 4,
            Self::Full => 8,
        }
    }

    /// The smallest scale at which a side of `from` pixels still has `wanted` of them.
    pub fn covering(from: (u32, u32), wanted: (u32, u32)) -> Self {
        for scale in [Self::Eighth, Self::Quarter, Self::Half] {
            let n = scale.samples() as u64;
            let side = |pixels: u32| (u64::from(pixels) * n).div_ceil(8);
            if side(from.0) >= u64::from(wanted.0) && side(from.1) >= u64::from(wanted.1) {
                return scale;
            }
        }
        Self::Full
    }
}

/// Why a JPEG gave no picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum JpegError {
    #[error("{0}")]
    Corrupt(&'static str),
    #[error("the picture data ends in row {row} of {rows} (rows of blocks)")]
    Truncated { row: usize, rows: usize },
    #[error("{0}")]
    Unsupported(&'static str),
    #[error("stopped on request")]
    Cancelled,
}

/// How the components are to be read as colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ColorModel {
    Gray,
    YCbCr,
    Rgb,
    /// `inverted`: 255 is no ink (what Adobe programs write).
    Cmyk {
        inverted: bool,
    },
    Ycck {
        inverted: bool,
    },
}

/// One component's samples.
#[derive(Debug)]
pub struct Plane {
    pub samples: Vec<u8>,
    pub stride: usize,
    /// Lines in `samples`.
    pub lines: usize,
    /// The part that is picture, in samples; fractional, because subsampling rounds.
    pub width: f64,
    pub height: f64,
}

/// A decoded copy.
#[derive(Debug)]
pub struct Picture {
    pub planes: Vec<Plane>,
    pub model: ColorModel,
    pub icc: Option<Vec<u8>>,
}

/// Quantisation and Huffman tables as they stand at a scan.
#[derive(Debug, Default)]
struct Tables {
    quant: [Option<[f32; 64]>; 4],
    dc: [Option<Huffman>; 4],
    ac: [Option<Huffman>; 4],
    skip: [Option<SkipTable>; 4],
}

impl Tables {
    fn dc(&self, slot: usize) -> Result<&Huffman, JpegError> {
        let table = self.dc.get(slot).and_then(Option::as_ref);
        table.ok_or(JpegError::Corrupt("a DC Huffman table is missing"))
    }

    fn ac(&self, slot: usize) -> Result<&Huffman, JpegError> {
        let table = self.ac.get(slot).and_then(Option::as_ref);
        table.ok_or(JpegError::Corrupt("an AC Huffman table is missing"))
    }

    fn skip(&self, slot: usize) -> Result<&SkipTable, JpegError> {
        let table = self.skip.get(slot).and_then(Option::as_ref);
        table.ok_or(JpegError::Corrupt("an AC Huffman table is missing"))
    }
}

/// One component of a scan: its index in the frame and its table slots.
#[derive(Debug, Clone, Copy)]
struct ScanComponent {
    index: usize,
    dc: usize,
    ac: usize,
}

/// What a SOS segment says.
#[derive(Debug)]
struct Scan {
    components: Vec<ScanComponent>,
    /// Spectral selection and successive approximation (progressive).
    first: usize,
    last: usize,
    high_bit: u32,
    low_bit: u32,
    restart_interval: u32,
    /// First byte of the entropy-coded data.
    data_at: usize,
}

impl Scan {
    /// MCUs across and down.
    fn grid(&self, frame: &Frame) -> (usize, usize) {
        match self.components[..] {
            [only] => {
                let c = &frame.components[only.index];
                (c.blocks_wide, c.blocks_high)
            }
            _ => (frame.mcus_wide, frame.mcus_high),
        }
    }
}

/// A JPEG whose header has been read.
#[derive(Debug)]
pub struct Decoder<'a> {
    data: &'a [u8],
    /// Position of the segment after the frame header.
    after_frame: usize,
    frame: Frame,
    tables: Tables,
    restart_interval: u32,
    adobe_transform: Option<u8>,
    icc: IccParts,
}

impl<'a> Decoder<'a> {
    /// Reads up to and with the frame header.
    pub fn new(data: &'a [u8]) -> Result<Self, JpegError> {
        if !data.starts_with(&[0xff, 0xd8]) {
            return Err(JpegError::Corrupt("no JPEG: the first marker is missing"));
        }
        let mut tables = Tables::default();
        let mut icc = IccParts::default();
        let mut restart_interval = 0;
        let mut adobe_transform = None;
        let mut at = 2;
        loop {
            let (marker, segment, next) = segment(data, at)?;
            at = next;
            match marker {
                0xc0..=0xc2 => {
                    let frame = Frame::parse(segment, marker == 0xc2)?;
                    return Ok(Self {
                        data,
                        after_frame: at,
                        frame,
                        tables,
                        restart_interval,
                        adobe_transform,
                        icc,
                    });
                }
                0xc3 | 0xc5..=0xc7 | 0xcd..=0xcf => {
                    return Err(JpegError::Unsupported("lossless or hierarchical JPEG"));
                }
                0xc9..=0xcb => return Err(JpegError::Unsupported("JPEG with arithmetic coding")),
                0xd9 | 0xda => return Err(JpegError::Corrupt("picture data before its header")),
                0xe2 => icc.add(segment),
                0xee => adobe_transform = adobe_transform.or(adobe(segment)),
                _ => read_tables(marker, segment, &mut tables, &mut restart_interval)?,
            }
        }
    }

    /// Width and height of the full picture.
    pub fn size(&self) -> (u32, u32) {
        (self.frame.width as u32, self.frame.height as u32)
    }

    /// Bytes that decoding at `scale` allocates.
    pub fn bytes_needed(&self, scale: Scale) -> u64 {
        self.frame.bytes_needed(scale)
    }

    /// Decodes the picture. `stop` is asked once per row of blocks.
    pub fn decode(mut self, scale: Scale, stop: &dyn Fn() -> bool) -> Result<Picture, JpegError> {
        self.frame.allocate(scale);
        match scale {
            Scale::Eighth => self.decode_at::<1>(stop)?,
            Scale::Quarter => self.decode_at::<2>(stop)?,
            Scale::Half => self.decode_at::<4>(stop)?,
            Scale::Full => self.decode_at::<8>(stop)?,
        }
        Ok(self.into_picture(scale.samples()))
    }

    fn decode_at<const N: usize>(&mut self, stop: &dyn Fn() -> bool) -> Result<(), JpegError> {
        let mut at = self.after_frame;
        let mut scans = 0;
        // The end of the file is judged by what is complete, not by whether its marker is there.
        while let Ok((marker, segment, next)) = segment(self.data, at) {
            at = next;
            match marker {
                0xd9 => break,
                0xda => {
                    scans += 1;
                    if scans > SCANS_MAX {
                        return Err(JpegError::Corrupt("too many scans"));
                    }
                    at = self.scan::<N>(segment, next, stop)?;
                    if self.complete::<N>() {
                        break;
                    }
                }
                0xe2 => self.icc.add(segment),
                0xee => {
                    self.adobe_transform = self.adobe_transform.or(adobe(segment));
                }
                0xc0..=0xc2 => return Err(JpegError::Corrupt("a second frame header")),
                _ => {
                    read_tables(
                        marker,
                        segment,
                        &mut self.tables,
                        &mut self.restart_interval,
                    )?;
                }
            }
        }
        if self.frame.components.iter().any(|c| c.quant.is_none()) {
            return Err(JpegError::Corrupt("the picture data is missing"));
        }
        if self.frame.progressive {
            progressive::finish::<N>(&mut self.frame, stop)?;
        }
        Ok(())
    }

    /// Whether nothing that may follow can change the samples.
    fn complete<const N: usize>(&self) -> bool {
        let components = &self.frame.components;
        if self.frame.progressive {
            N == 1 && components.iter().all(|c| c.dc_complete)
        } else {
            components.iter().all(|c| c.quant.is_some())
        }
    }

    /// Decodes or skips one scan; the position to go on from.
    fn scan<const N: usize>(
        &mut self,
        segment: &[u8],
        data_at: usize,
        stop: &dyn Fn() -> bool,
    ) -> Result<usize, JpegError> {
        let scan = self.parse_scan(segment, data_at)?;
        let progressive = self.frame.progressive;
        let from = if progressive && scan.first >= idct::kept(N) && N == 1 {
            data_at
        } else {
            for selected in &scan.components {
                let c = &mut self.frame.components[selected.index];
                c.prediction = 0;
                if c.quant.is_none() {
                    c.quant = self.tables.quant[c.quant_slot];
                }
                if !progressive && let Some(ac) = &self.tables.ac[selected.ac] {
                    self.tables.skip[selected.ac].get_or_insert_with(|| SkipTable::build(ac));
                }
            }
            let (data, frame, tables) = (self.data, &mut self.frame, &self.tables);
            let bits: Bits<'_> = if progressive {
                progressive::decode_scan::<N>(data, frame, tables, &scan, stop)?
            } else {
                sequential::decode_scan::<N>(data, frame, tables, &scan, stop)?
            };
            bits.position()
        };
        Ok(end_of_scan(self.data, from))
    }

    fn parse_scan(&self, segment: &[u8], data_at: usize) -> Result<Scan, JpegError> {
        const SHORT: JpegError = JpegError::Corrupt("a scan header is too short");
        let (&count, rest) = segment.split_first().ok_or(SHORT)?;
        let count = usize::from(count);
        let tail = rest.get(count * 2..count * 2 + 3).ok_or(SHORT)?;
        let mut components: Vec<ScanComponent> = Vec::with_capacity(count.min(4));
        for entry in rest.chunks_exact(2).take(count) {
            let index = self.frame.components.iter().position(|c| c.id == entry[0]);
            let index = index.ok_or(JpegError::Corrupt("a scan names an unknown component"))?;
            let (dc, ac) = (usize::from(entry[1] >> 4), usize::from(entry[1] & 15));
            if components.iter().any(|c| c.index == index) || dc > 3 || ac > 3 {
                return Err(JpegError::Corrupt("a scan's components are out of range"));
            }
            components.push(ScanComponent { index, dc, ac });
        }
        if components.is_empty() {
            return Err(SHORT);
        }
        let scan = Scan {
            components,
            first: usize::from(tail[0]),
            last: usize::from(tail[1]),
            high_bit: u32::from(tail[2] >> 4),
            low_bit: u32::from(tail[2] & 15),
            restart_interval: self.restart_interval,
            data_at,
        };
        if self.frame.progressive {
            let ac = scan.first > 0;
            let band_is_wrong = scan.last > 63
                || scan.first > scan.last
                || (!ac && scan.last > 0)
                || (ac && scan.components.len() > 1)
                || scan.low_bit > 13;
            if band_is_wrong {
                return Err(JpegError::Corrupt("a scan's band is out of range"));
            }
        }
        Ok(scan)
    }

    fn into_picture(self, n: usize) -> Picture {
        let frame = self.frame;
        let model = color_model(&frame, self.adobe_transform);
        let shrink = n as f64 / 8.0;
        let part = |full: usize, factor: usize, max: usize, limit: usize| {
            ((full * factor) as f64 / max as f64 * shrink)
                .min(limit as f64)
                .max(1.0)
        };
        let (w, h, h_max, v_max) = (frame.width, frame.height, frame.h_max, frame.v_max);
        let planes = frame.components.into_iter().map(|c| {
            let (stride, lines) = (c.stride_blocks * n, c.rows_blocks * n);
            Plane {
                samples: c.plane,
                stride,
                lines,
                width: part(w, c.h, h_max, stride),
                height: part(h, c.v, v_max, lines),
            }
        });
        Picture {
            planes: planes.collect(),
            model,
            icc: self.icc.join(),
        }
    }
}

/// The usual guesses: Adobe's marker first, then the component names, then the count.
fn color_model(frame: &Frame, adobe_transform: Option<u8>) -> ColorModel {
    let ids: Vec<u8> = frame.components.iter().map(|c| c.id).collect();
    let inverted = adobe_transform.is_some();
    match (ids.len(), adobe_transform) {
        (1, _) => ColorModel::Gray,
        (3, Some(0)) => ColorModel::Rgb,
        (3, None) if ids == *b"RGB" => ColorModel::Rgb,
        (3, _) => ColorModel::YCbCr,
        (_, Some(2)) => ColorModel::Ycck { inverted },
        _ => ColorModel::Cmyk { inverted },
    }
}

/// Coefficients that a progressive file keeps per block at `n` samples per edge.
pub const fn coefficients_kept(n: usize) -> u64 {
    idct::kept(n) as u64
}
