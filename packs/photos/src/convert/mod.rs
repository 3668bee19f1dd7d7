//! From a photo's bytes to two thumbnails: one decode, many results.
//!
//! Place: phase 2, on the CPU lane. Path: predict -> decode (as small as possible) -> resize ->
//! colour to sRGB -> turn upright -> encode. Everything after the decoder works on a few hundred
//! thousand pixels, so order and exactness are cheap there.
//! Results carry no metadata: no EXIF, no GPS, no profile (the pixels *are* sRGB).
//! Must never: start decoding what the limits refuse, keep state between two photos, or answer a
//! broken file with anything but its class and a message.

mod color;
mod decode;
mod encode;
mod orient;
mod raster;
mod resize;
mod tiff;

use crate::budget::{Limits, TooLarge, predict};
use crate::jpeg::JpegError;
use crate::probe::Probe;

/// Sizes and quality of the results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Long edge in pixels, 1..=4096. Smaller pictures keep their size.
    pub large_edge: u32,
    pub small_edge: u32,
    /// JPEG quality, 1..=100.
    pub quality: u8,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            large_edge: 500,
            small_edge: 160,
            quality: 80,
        }
    }
}

/// An encoded JPEG, sRGB or gray, upright.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnail {
    pub width: u32,
    pub height: u32,
    pub jpeg: Vec<u8>,
}

/// What one photo became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thumbnails {
    pub large: Thumbnail,
    pub small: Thumbnail,
}

/// Why a photo has no thumbnails. `class` is what the row and the statistics say.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    #[error("{message}")]
    Corrupt { message: String },
    #[error("{message}")]
    Unsupported { message: String },
    #[error(transparent)]
    TooLarge(#[from] TooLarge),
    #[error("stopped on request")]
    Cancelled,
}

impl ConvertError {
    /// The failure class of the row: `corrupt`, `unsupported`, `too_large` or `cancelled`.
    pub const fn class(&self) -> &'static str {
        match self {
            Self::Corrupt { .. } => "corrupt",
            Self::Unsupported { .. } => "unsupported",
            Self::TooLarge(_) => "too_large",
            Self::Cancelled => "cancelled",
        }
    }

    fn corrupt(message: impl std::fmt::Display) -> Self {
        Self::Corrupt {
            message: format!("{message}"),
        }
    }
}

impl From<JpegError> for ConvertError {
    fn from(error: JpegError) -> Self {
        match error {
            JpegError::Cancelled => Self::Cancelled,
            JpegError::Unsupported(message) => Self::Unsupported {
                message: message.to_owned(),
            },
            other => Self::corrupt(other),
        }
    }
}

/// Makes the thumbnails of `bytes`, whose head said `probe`.
///
/// `should_stop` is asked between stages, and per row of blocks while a JPEG is decoded.
pub fn convert(
    bytes: &[u8],
    probe: &Probe,
    recipe: &Recipe,
    limits: &Limits,
    should_stop: &dyn Fn() -> bool,
) -> Result<Thumbnails, ConvertError> {
    if !probe.format.convertible() {
        let name = probe.format.name();
        return Err(ConvertError::Unsupported {
            message: format!("no decoder for {name} files"),
        });
    }
    if let Some(defect) = probe.defect {
        return Err(ConvertError::corrupt(defect));
    }
    let edges = (
        recipe.large_edge.clamp(1, 4096),
        recipe.small_edge.clamp(1, 4096),
    );
    predict(probe, bytes.len() as u64, edges.0, limits)?;
    let check = || {
        if should_stop() {
            Err(ConvertError::Cancelled)
        } else {
            Ok(())
        }
    };
    check()?;
    let picture = decode::decode(bytes, probe, edges.0, limits, should_stop)?;
    check()?;
    let size = fit(picture.size(), edges.0);
    let large = resize::shrink(picture, size)?;
    check()?;
    let large = orient::upright(color::to_srgb(large), probe.exif.orientation);
    let small = resize::shrink_again(&large, fit((large.width, large.height), edges.1))?;
    check()?;
    Ok(Thumbnails {
        large: encode::encode(&large, recipe.quality)?,
        small: encode::encode(&small, recipe.quality)?,
    })
}

/// The size of a `from` picture that fits an `edge` x `edge` square; never enlarged, never zero.
pub fn fit(from: (u32, u32), edge: u32) -> (u32, u32) {
    let long = from.0.max(from.1);
    if long <= edge {
        return (from.0.max(1), from.1.max(1));
    }
    let side = |pixels: u32| {
        let scaled =
            (u64::from(pixels) * u64::from(edge) * 2 + u64::from(long)) / (2 * u64::from(long));
        (scaled as u32).max(1)
    };
    (side(from.0), side(from.1))
}
