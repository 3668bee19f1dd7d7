//! Writes a thumbnail as baseline JPEG, 4:2:0, without any metadata.
//!
//! Must never: write a profile or EXIF; what leaves here is sRGB and upright.

use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use super::raster::{Model, Raster};
use super::{ConvertError, Thumbnail};

pub(super) fn encode(raster: &Raster, quality: u8) -> Result<Thumbnail, ConvertError> {
    let color = match raster.model {
        Model::Gray => ColorType::Luma,
        Model::Rgb => ColorType::Rgb,
        Model::YCbCr => ColorType::Ycbcr,
        Model::Cmyk => {
            return Err(ConvertError::corrupt(
                "inks were left after colour conversion",
            ));
        }
    };
    let (Ok(width), Ok(height)) = (u16::try_from(raster.width), u16::try_from(raster.height))
    else {
        return Err(ConvertError::corrupt(
            "a thumbnail cannot be wider than 65535 pixels",
        ));
    };
    let mut jpeg = Vec::with_capacity(32 * 1024);
    let mut encoder = Encoder::new(&mut jpeg, quality.clamp(1, 100));
    encoder.set_sampling_factor(SamplingFactor::F_2_2);
    encoder
        .encode(&raster.samples, width, height, color)
        .map_err(|error| ConvertError::corrupt(format!("encoder: {error}")))?;
    Ok(Thumbnail {
        width: raster.width,
        height: raster.height,
        jpeg,
    })
}
