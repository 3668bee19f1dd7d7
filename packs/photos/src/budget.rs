//! Predicts what a conversion will cost in memory, before a single pixel is decoded.
//!
//! Place: after `probe`, before admission (the governor counts `bytes`) and again inside `convert`
//! (a file may have changed since). Size on disk says nothing: 35 MB can hold 560 megapixels.
//! Must never: allocate, or round down.

use crate::jpeg::Scale;
use crate::probe::{Format, Probe};

/// What one conversion may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Pixels that are decoded at once, in units of 1; after scaled decoding for JPEG.
    pub decoded_pixels_max: u64,
    /// Pixels that a header may claim, whatever the scale.
    pub source_pixels_max: u64,
    /// Bytes of one conversion, the compressed file included.
    pub bytes_max: u64,
    /// Bytes of one file.
    pub file_bytes_max: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            decoded_pixels_max: 100_000_000,
            source_pixels_max: 1_000_000_000,
            bytes_max: 512 << 20,
            file_bytes_max: 256 << 20,
        }
    }
}

/// The predicted cost of one conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prediction {
    /// Upper bound of what the conversion allocates, the file's own bytes included.
    pub bytes: u64,
    /// Pixels that will be decoded.
    pub pixels: u64,
}

/// A refusal: which limit, its value, and what the file asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reading} {what} asked for, limit {limit} ({name})")]
pub struct TooLarge {
    pub name: &'static str,
    pub what: &'static str,
    pub limit: u64,
    pub reading: u64,
}

/// Bytes for thumbnails, encoder, tables and profile conversion, whatever the picture.
const FIXED_BYTES: u64 = 8 << 20;

/// Predicts the cost of `probe`'s picture for thumbnails whose long edge is `edge` pixels.
pub fn predict(
    probe: &Probe,
    file_bytes: u64,
    edge: u32,
    limits: &Limits,
) -> Result<Prediction, TooLarge> {
    let (width, height) = (u64::from(probe.width), u64::from(probe.height));
    let source = width * height;
    refuse(
        "file_bytes_max",
        "bytes of file",
        file_bytes,
        limits.file_bytes_max,
    )?;
    refuse(
        "source_pixels_max",
        "pixels",
        source,
        limits.source_pixels_max,
    )?;
    let (pixels, per_pixel) = match probe.format {
        Format::Jpeg => {
            let target = crate::convert::fit((probe.width, probe.height), edge);
            let n = Scale::covering((probe.width, probe.height), target).samples() as u64;
            // Sides are rounded up to whole MCUs of at most 32 x 32 pixels.
            let side = |pixels: u64| pixels.div_ceil(32) * 32 * n / 8;
            let kept = crate::jpeg::coefficients_kept(n as usize);
            // Coefficients of progressive files: 2 bytes each and 8 per block of n x n samples.
            let progressive = if probe.progressive {
                (kept * 2 + 8).div_ceil(n * n)
            } else {
                0
            };
            let components = u64::from(probe.components.max(1));
            (side(width) * side(height), components * (1 + progressive))
        }
        // Decoded pixels plus a second copy while depth or alpha are reduced.
        _ => (source, bytes_per_pixel(probe) + 3),
    };
    refuse(
        "decoded_pixels_max",
        "pixels",
        pixels,
        limits.decoded_pixels_max,
    )?;
    let bytes = pixels
        .saturating_mul(per_pixel)
        .saturating_add(file_bytes)
        .saturating_add(FIXED_BYTES);
    refuse("bytes_max", "bytes of memory", bytes, limits.bytes_max)?;
    Ok(Prediction { bytes, pixels })
}

fn bytes_per_pixel(probe: &Probe) -> u64 {
    // Palettes are expanded, so a one-byte pixel may become three or four.
    let components = u64::from(probe.components.max(4));
    components * u64::from(probe.bits_per_sample.max(8).div_ceil(8))
}

fn refuse(
    name: &'static str,
    what: &'static str,
    reading: u64,
    limit: u64,
) -> Result<(), TooLarge> {
    if reading > limit {
        Err(TooLarge {
            name,
            what,
            limit,
            reading,
        })
    } else {
        Ok(())
    }
}
