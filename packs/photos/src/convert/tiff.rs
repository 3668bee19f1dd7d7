//! TIFF files that the `image` crate leaves out: palettes, 2 and 4 bit gray, YCbCr.
//!
//! Place: asked by `decode` when `image` answers "unsupported". Uses the same `tiff` crate below.
//! A palette's indices are stored exactly like gray samples, but the crate refuses the palette's
//! photometric code. So the reader shows it the code for gray, and the palette is applied here.
//! Must never: copy the file; the two bytes are replaced while they are read.

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits as TiffLimits};
use tiff::tags::Tag;

use super::ConvertError;
use super::raster::{Model, Raster};
use crate::budget::{Limits, TooLarge};

const PALETTE: u16 = 3;

pub(super) fn decode(bytes: &[u8], limits: &Limits) -> Result<Raster, ConvertError> {
    let place = photometric(bytes);
    let palette = place.as_ref().is_some_and(|place| place.code == PALETTE);
    let patch = place
        .filter(|_| palette)
        .map(|place| (place.at, place.gray));
    let reader = Patched {
        inner: Cursor::new(bytes),
        patch,
    };
    let mut decoder = Decoder::new(reader).map_err(ConvertError::corrupt)?;
    let mut bounds = TiffLimits::default();
    bounds.decoding_buffer_size = usize::try_from(limits.bytes_max / 2).unwrap_or(usize::MAX);
    bounds.intermediate_buffer_size = bounds.decoding_buffer_size;
    decoder = decoder.with_limits(bounds);
    let (width, height) = decoder.dimensions().map_err(ConvertError::corrupt)?;
    let kind = decoder.colortype().map_err(unsupported)?;
    let pixels = width as usize * height as usize;
    if pixels as u64 > limits.decoded_pixels_max {
        let (limit, reading) = (limits.decoded_pixels_max, pixels as u64);
        return Err(TooLarge {
            name: "decoded_pixels_max",
            what: "pixels",
            limit,
            reading,
        }
        .into());
    }
    let colors = if palette {
        decoder
            .get_tag_u16_vec(Tag::ColorMap)
            .map_err(ConvertError::corrupt)?
    } else {
        Vec::new()
    };
    let DecodingResult::U8(samples) = decoder.read_image().map_err(unsupported)? else {
        return Err(ConvertError::Unsupported {
            message: format!("TIFF pixels of kind {kind:?}"),
        });
    };
    let samples = in_order(samples, &mut decoder, kind)?;
    let (model, samples) = match kind {
        ColorType::Gray(bits @ (1 | 2 | 4 | 8)) => {
            let indices = unpack(samples, width as usize, height as usize, u32::from(bits))?;
            if palette {
                (Model::Rgb, apply(&indices, &colors, u32::from(bits))?)
            } else {
                let top = (1_u16 << bits) - 1;
                let gray = indices
                    .iter()
                    .map(|&value| (u16::from(value) * 255 / top) as u8);
                (Model::Gray, gray.collect())
            }
        }
        ColorType::YCbCr(8) if samples.len() == pixels * 3 => (Model::YCbCr, samples),
        other => {
            let message = format!("TIFF pixels of kind {other:?}");
            return Err(ConvertError::Unsupported { message });
        }
    };
    Ok(Raster {
        width,
        height,
        model,
        samples,
        icc: None,
    })
}

fn unsupported(error: tiff::TiffError) -> ConvertError {
    match error {
        tiff::TiffError::UnsupportedError(_) => ConvertError::Unsupported {
            message: error.to_string(),
        },
        other => ConvertError::corrupt(other),
    }
}

/// Undoes fill order 2 (the first pixel of a byte in its lowest bits), which the crate ignores.
fn in_order<R: Read + Seek>(
    mut samples: Vec<u8>,
    decoder: &mut Decoder<R>,
    kind: ColorType,
) -> Result<Vec<u8>, ConvertError> {
    let tag = |decoder: &mut Decoder<R>, tag| decoder.find_tag_unsigned::<u16>(tag).ok().flatten();
    if kind.bit_depth() >= 8 || tag(decoder, Tag::FillOrder) != Some(2) {
        return Ok(samples);
    }
    if tag(decoder, Tag::Compression).is_some_and(|method| method != 1) {
        let message = "compressed TIFF with reversed bits".to_owned();
        return Err(ConvertError::Unsupported { message });
    }
    for byte in &mut samples {
        *byte = byte.reverse_bits();
    }
    Ok(samples)
}

/// One sample per byte.
fn unpack(
    packed: Vec<u8>,
    width: usize,
    height: usize,
    bits: u32,
) -> Result<Vec<u8>, ConvertError> {
    if packed.len() == width * height {
        return Ok(packed);
    }
    let row = (width * bits as usize).div_ceil(8);
    if packed.len() != row * height {
        return Err(ConvertError::corrupt(
            "the picture data has the wrong length",
        ));
    }
    let per_byte = 8 / bits as usize;
    let mut indices = Vec::with_capacity(width * height);
    for line in packed.chunks_exact(row.max(1)) {
        indices.extend((0..width).map(|x| {
            let shift = 8 - bits * (x % per_byte + 1) as u32;
            line[x / per_byte] >> shift & ((1_u16 << bits) - 1) as u8
        }));
    }
    Ok(indices)
}

/// A TIFF palette: all reds, then all greens, then all blues, 16 bits each.
fn apply(indices: &[u8], colors: &[u16], bits: u32) -> Result<Vec<u8>, ConvertError> {
    let entries = 1_usize << bits;
    if colors.len() < entries * 3 {
        return Err(ConvertError::corrupt("the palette is too short"));
    }
    let channel =
        |index: u8, plane: usize| (colors[plane * entries + usize::from(index)] >> 8) as u8;
    Ok(indices
        .iter()
        .flat_map(|&i| [channel(i, 0), channel(i, 1), channel(i, 2)])
        .collect())
}

/// Where the first directory keeps the photometric code.
struct Photometric {
    at: u64,
    code: u16,
    /// The code for gray in the file's byte order.
    gray: [u8; 2],
}

fn photometric(bytes: &[u8]) -> Option<Photometric> {
    let little = bytes.starts_with(b"II*\0");
    if !little && !bytes.starts_with(b"MM\0*") {
        return None;
    }
    let u16_at = |at: usize| -> Option<u16> {
        let raw = *bytes.get(at..)?.first_chunk()?;
        Some(if little {
            u16::from_le_bytes(raw)
        } else {
            u16::from_be_bytes(raw)
        })
    };
    let raw = *bytes.get(4..)?.first_chunk()?;
    let first = if little {
        u32::from_le_bytes(raw)
    } else {
        u32::from_be_bytes(raw)
    } as usize;
    for entry in 0..usize::from(u16_at(first)?) {
        let at = first + 2 + entry * 12;
        if u16_at(at)? == 0x0106 {
            let gray = if little { [1, 0] } else { [0, 1] };
            return Some(Photometric {
                at: at as u64 + 8,
                code: u16_at(at + 8)?,
                gray,
            });
        }
    }
    None
}

/// Reads a file as if two of its bytes were others.
#[derive(Debug)]
struct Patched<'a> {
    inner: Cursor<&'a [u8]>,
    patch: Option<(u64, [u8; 2])>,
}

impl Read for Patched<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let from = self.inner.position();
        let count = self.inner.read(buffer)?;
        if let Some((at, new)) = self.patch {
            for (offset, value) in new.iter().enumerate() {
                let place = (at + offset as u64)
                    .checked_sub(from)
                    .map(|place| place as usize);
                if let Some(byte) = place.and_then(|place| buffer[..count].get_mut(place)) {
                    *byte = *value;
                }
            }
        }
        Ok(count)
    }
}

impl Seek for Patched<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}
