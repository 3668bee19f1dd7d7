//! Pixels on their way from decoder to encoder.

use crate::jpeg::Picture;

/// What the samples of a raster mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Model {
    Gray,
    Rgb,
    YCbCr,
    /// 0 is no ink.
    Cmyk,
}

impl Model {
    pub(super) const fn channels(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb | Self::YCbCr => 3,
            Self::Cmyk => 4,
        }
    }
}

/// Interleaved 8-bit samples, no padding.
#[derive(Debug, Clone)]
pub(super) struct Raster {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) model: Model,
    pub(super) samples: Vec<u8>,
    pub(super) icc: Option<Vec<u8>>,
}

/// What a decoder gives.
#[derive(Debug)]
pub(super) enum Decoded {
    Raster(Raster),
    /// JPEG: planes of different sizes, and the size of the full picture.
    Planes(Picture, (u32, u32)),
}

impl Decoded {
    /// The size that thumbnails are measured by: the full picture's.
    pub(super) fn size(&self) -> (u32, u32) {
        match self {
            Self::Raster(raster) => (raster.width, raster.height),
            Self::Planes(_, size) => *size,
        }
    }
}
