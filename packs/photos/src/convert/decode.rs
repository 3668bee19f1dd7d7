//! Chooses the decoder and brings what it gives to 8 bits without alpha.
//!
//! Place: first stage of `convert`. JPEG goes to our own scaled decoder, the others to the
//! decoders of the `image` crate, under its allocation limits.
//! Must never: hold two copies of a full picture; depth and alpha are reduced in place.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};

use image::codecs::{bmp, gif, png, tiff, webp};
use image::{ColorType, ImageDecoder, ImageError};

use super::ConvertError;
use super::raster::{Decoded, Model, Raster};
use crate::budget::{Limits, TooLarge};
use crate::jpeg::{Decoder, Scale};
use crate::probe::{Format, Probe};

/// Chunks of a PNG and what they inflate to; profiles of cameras and screens have up to 4 MiB.
const PNG_BESIDE_BYTES_MAX: u64 = 16 << 20;

pub(super) fn decode(
    bytes: &[u8],
    probe: &Probe,
    edge: u32,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Decoded, ConvertError> {
    let reader = || Cursor::new(bytes);
    if probe.format == Format::Jpeg {
        return decode_jpeg(bytes, edge, limits, stop);
    }
    // The decoders of other crates assert on some malformed files (tiff 0.11 on tiled planar
    // ones). They work on borrowed bytes and their own buffers, so nothing half-done survives.
    let raster = catch_unwind(AssertUnwindSafe(|| match probe.format {
        Format::Png => read(
            png::PngDecoder::with_limits(reader(), beside_pixels(probe, limits)),
            limits,
        ),
        Format::WebP => read(webp::WebPDecoder::new(reader()), limits),
        Format::Gif => read(gif::GifDecoder::new(reader()), limits),
        Format::Tiff => match read(tiff::TiffDecoder::new(reader()), limits) {
            Err(ConvertError::Unsupported { .. }) => super::tiff::decode(bytes, limits),
            other => other,
        },
        Format::Bmp => read(bmp::BmpDecoder::new(reader()), limits),
        _ => Err(ConvertError::Unsupported {
            message: "no decoder for this format".to_owned(),
        }),
    }));
    match raster {
        Ok(raster) => raster.map(Decoded::Raster),
        Err(_) => Err(ConvertError::corrupt("the decoder gave up on this file")),
    }
}

/// What a PNG may take beside its pixels: two rows, its chunks, an inflated profile. Limits that are
/// set on a decoder afterwards come too late for a profile that grows a hundredfold.
fn beside_pixels(probe: &Probe, limits: &Limits) -> image::Limits {
    let rows = u64::from(probe.width) * 8 * 2;
    let mut bounds = image::Limits::no_limits();
    bounds.max_alloc = Some(limits.bytes_max.min(PNG_BESIDE_BYTES_MAX + rows));
    bounds
}

fn decode_jpeg(
    bytes: &[u8],
    edge: u32,
    limits: &Limits,
    stop: &dyn Fn() -> bool,
) -> Result<Decoded, ConvertError> {
    let decoder = Decoder::new(bytes)?;
    let size = decoder.size();
    let scale = Scale::covering(size, super::fit(size, edge));
    // The head that was probed and the header that the decoder found may differ in a hostile file.
    let reading = decoder.bytes_needed(scale);
    if reading > limits.bytes_max {
        let (name, what) = ("bytes_max", "bytes of memory");
        return Err(TooLarge {
            name,
            what,
            limit: limits.bytes_max,
            reading,
        }
        .into());
    }
    Ok(Decoded::Planes(decoder.decode(scale, stop)?, size))
}

fn read<D: ImageDecoder>(
    decoder: Result<D, ImageError>,
    limits: &Limits,
) -> Result<Raster, ConvertError> {
    let mut decoder = decoder.map_err(|error| class_of(&error, limits))?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if pixels > limits.decoded_pixels_max {
        let (limit, reading) = (limits.decoded_pixels_max, pixels);
        return Err(TooLarge {
            name: "decoded_pixels_max",
            what: "pixels",
            limit,
            reading,
        }
        .into());
    }
    let bytes = decoder.total_bytes();
    if bytes > limits.bytes_max {
        let (limit, reading) = (limits.bytes_max, bytes);
        return Err(TooLarge {
            name: "bytes_max",
            what: "bytes of memory",
            limit,
            reading,
        }
        .into());
    }
    let mut bounds = image::Limits::default();
    bounds.max_alloc = Some(limits.bytes_max - bytes.min(limits.bytes_max / 2));
    decoder
        .set_limits(bounds)
        .map_err(|error| class_of(&error, limits))?;
    let icc = decoder.icc_profile().ok().flatten();
    let color = decoder.color_type();
    let mut samples = vec![0; bytes as usize];
    decoder
        .read_image(&mut samples)
        .map_err(|error| class_of(&error, limits))?;
    let model = reduce(&mut samples, color)?;
    Ok(Raster {
        width,
        height,
        model,
        samples,
        icc,
    })
}

/// Brings samples to 8 bits without alpha, in place. Transparent parts become white.
fn reduce(samples: &mut Vec<u8>, color: ColorType) -> Result<Model, ConvertError> {
    match color {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => {
            compact(samples, 2, 1, |from, to| {
                to[0] = (u16::from_ne_bytes([from[0], from[1]]) >> 8) as u8;
            });
        }
        ColorType::Rgb32F | ColorType::Rgba32F => {
            compact(samples, 4, 1, |from, to| {
                let value = f32::from_ne_bytes([from[0], from[1], from[2], from[3]]);
                to[0] = (value * 255.0 + 0.5) as u8;
            });
        }
        _ => {}
    }
    let on_white = |value: u8, alpha: u8| {
        let (value, alpha) = (u32::from(value), u32::from(alpha));
        ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8
    };
    match color {
        ColorType::L8 | ColorType::L16 => Ok(Model::Gray),
        ColorType::La8 | ColorType::La16 => {
            compact(samples, 2, 1, |from, to| to[0] = on_white(from[0], from[1]));
            Ok(Model::Gray)
        }
        ColorType::Rgb8 | ColorType::Rgb16 | ColorType::Rgb32F => Ok(Model::Rgb),
        ColorType::Rgba8 | ColorType::Rgba16 | ColorType::Rgba32F => {
            compact(samples, 4, 3, |from, to| {
                for (channel, value) in to.iter_mut().enumerate() {
                    *value = on_white(from[channel], from[3]);
                }
            });
            Ok(Model::Rgb)
        }
        other => Err(ConvertError::Unsupported {
            message: format!("pixels of kind {other:?}"),
        }),
    }
}

/// Turns groups of `from` bytes into groups of `to` bytes, front to back in the same vector.
fn compact(samples: &mut Vec<u8>, from: usize, to: usize, turn: impl Fn(&[u8; 4], &mut [u8])) {
    let groups = samples.len() / from;
    for group in 0..groups {
        let mut taken = [0; 4];
        taken[..from].copy_from_slice(&samples[group * from..(group + 1) * from]);
        turn(&taken, &mut samples[group * to..(group + 1) * to]);
    }
    samples.truncate(groups * to);
}

fn class_of(error: &ImageError, limits: &Limits) -> ConvertError {
    match error {
        ImageError::Unsupported(_) => ConvertError::Unsupported {
            message: brief(error),
        },
        ImageError::Limits(_) => {
            let limit = limits.bytes_max;
            let (name, what) = ("bytes_max", "more bytes of memory than allowed were");
            TooLarge {
                name,
                what,
                limit,
                reading: limit,
            }
            .into()
        }
        _ => ConvertError::corrupt(brief(error)),
    }
}

/// A decoder's message may quote the file; it is capped and kept printable.
fn brief(error: &ImageError) -> String {
    error
        .to_string()
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}
