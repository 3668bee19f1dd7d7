//! Shrinks what was decoded to the size of a thumbnail (Lanczos3, in the file's colour model).
//!
//! Place: between decoder and colour. JPEG planes are shrunk one by one, chroma from its own
//! smaller plane, so nothing is upsampled or converted at full size.
//! Must never: enlarge a picture (a chroma plane may grow: it was stored smaller).

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};

use super::ConvertError;
use super::raster::{Decoded, Model, Raster};
use crate::jpeg::{ColorModel, Picture, Plane};

pub(super) fn shrink(decoded: Decoded, size: (u32, u32)) -> Result<Raster, ConvertError> {
    match decoded {
        Decoded::Raster(raster) => shrink_raster(raster, size),
        Decoded::Planes(picture, _) => shrink_planes(picture, size),
    }
}

/// The small thumbnail from the large one.
pub(super) fn shrink_again(raster: &Raster, size: (u32, u32)) -> Result<Raster, ConvertError> {
    shrink_raster(raster.clone(), size)
}

fn shrink_raster(raster: Raster, size: (u32, u32)) -> Result<Raster, ConvertError> {
    if (raster.width, raster.height) == size {
        return Ok(raster);
    }
    let kind = match raster.model {
        Model::Gray => PixelType::U8,
        Model::Rgb | Model::YCbCr => PixelType::U8x3,
        Model::Cmyk => PixelType::U8x4,
    };
    let whole = (f64::from(raster.width), f64::from(raster.height));
    let from = (raster.width, raster.height);
    let samples = run(&raster.samples, from, whole, kind, size)?;
    Ok(Raster {
        width: size.0,
        height: size.1,
        samples,
        ..raster
    })
}

fn shrink_planes(picture: Picture, size: (u32, u32)) -> Result<Raster, ConvertError> {
    let (model, inverted) = match picture.model {
        ColorModel::Gray => (Model::Gray, false),
        ColorModel::YCbCr => (Model::YCbCr, false),
        ColorModel::Rgb => (Model::Rgb, false),
        ColorModel::Cmyk { inverted } | ColorModel::Ycck { inverted } => (Model::Cmyk, inverted),
    };
    let channels = model.channels();
    let pixels = size.0 as usize * size.1 as usize;
    let mut samples = vec![0; pixels * channels];
    for (channel, plane) in picture.planes.iter().enumerate().take(channels) {
        let shrunk = shrink_plane(plane, size)?;
        for (pixel, value) in samples.chunks_exact_mut(channels).zip(shrunk) {
            pixel[channel] = value;
        }
    }
    if matches!(picture.model, ColorModel::Ycck { .. }) {
        super::color::ycck_to_cmyk(&mut samples);
    }
    if inverted {
        for sample in &mut samples {
            *sample = 255 - *sample;
        }
    }
    Ok(Raster {
        width: size.0,
        height: size.1,
        model,
        samples,
        icc: picture.icc,
    })
}

fn shrink_plane(plane: &Plane, size: (u32, u32)) -> Result<Vec<u8>, ConvertError> {
    let from = (plane.stride as u32, plane.lines as u32);
    run(
        &plane.samples,
        from,
        (plane.width, plane.height),
        PixelType::U8,
        size,
    )
}

/// `part` is the upper left part of the source that is picture.
fn run(
    samples: &[u8],
    from: (u32, u32),
    part: (f64, f64),
    kind: PixelType,
    to: (u32, u32),
) -> Result<Vec<u8>, ConvertError> {
    let source = ImageRef::new(from.0, from.1, samples, kind).map_err(ConvertError::corrupt)?;
    let mut target = Image::new(to.0, to.1, kind);
    let options = ResizeOptions::new()
        .resize_alg(ResizeAlg::Convolution(FilterType::Lanczos3))
        .use_alpha(false)
        .crop(0.0, 0.0, part.0, part.1);
    let mut resizer = Resizer::new();
    resizer
        .resize(&source, &mut target, &options)
        .map_err(ConvertError::corrupt)?;
    Ok(target.into_vec())
}
