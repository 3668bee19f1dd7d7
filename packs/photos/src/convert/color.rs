//! Brings a thumbnail's pixels to sRGB.
//!
//! Place: after resizing, so a profile costs 0.2 megapixels, not 20. Converted rather than kept:
//! an embedded profile is up to 500 KB beside a 30 KB thumbnail, and a viewer that ignores it
//! shows wrong colours (ADR-0010).
//! Must never: fail. A profile that cannot be used is ignored, as viewers do.

use moxcms::{ColorProfile, DataColorSpace, Layout, RenderingIntent, TransformOptions};

use super::raster::{Model, Raster};

/// sRGB pixels as RGB, YCbCr or gray.
pub(super) fn to_srgb(mut raster: Raster) -> Raster {
    let profile = raster
        .icc
        .take()
        .and_then(|raw| ColorProfile::new_from_slice(&raw).ok());
    match (profile, raster.model) {
        (Some(profile), _) if !is_srgb(&profile) => apply(&profile, raster),
        (_, Model::Cmyk) => cmyk_to_rgb(raster),
        _ => raster,
    }
}

/// Most photos carry sRGB itself. The name is a hint that spares work, nothing more.
fn is_srgb(profile: &ColorProfile) -> bool {
    let srgb = ColorProfile::new_srgb();
    profile.color_space == DataColorSpace::Rgb
        && profile.lut_a_to_b_perceptual.is_none()
        && near(profile.red_colorant, srgb.red_colorant)
        && near(profile.green_colorant, srgb.green_colorant)
        && near(profile.blue_colorant, srgb.blue_colorant)
        && curve_is_srgb(profile)
}

fn near(a: moxcms::Xyzd, b: moxcms::Xyzd) -> bool {
    (a.x - b.x).abs() < 0.002 && (a.y - b.y).abs() < 0.002 && (a.z - b.z).abs() < 0.002
}

/// Compares the red curve in its middle; the three are equal in every such profile.
fn curve_is_srgb(profile: &ColorProfile) -> bool {
    match &profile.red_trc {
        Some(moxcms::ToneReprCurve::Lut(table)) if table.len() > 16 => {
            let middle = f64::from(table[table.len() / 2]) / 65535.0;
            let at = (table.len() / 2) as f64 / (table.len() - 1) as f64;
            let wanted = ((at + 0.055) / 1.055).powf(2.4);
            (middle - wanted).abs() < 0.004
        }
        Some(moxcms::ToneReprCurve::Parametric(values)) => {
            values.len() == 5
                && (values[0] - 2.4).abs() < 0.01
                && (values[2] - 0.0521).abs() < 0.005
        }
        _ => false,
    }
}

fn apply(profile: &ColorProfile, raster: Raster) -> Raster {
    let raster = if raster.model == Model::YCbCr {
        ycbcr_to_rgb(raster)
    } else {
        raster
    };
    let layout = match (profile.color_space, raster.model) {
        (DataColorSpace::Rgb, Model::Rgb) => Layout::Rgb,
        (DataColorSpace::Gray, Model::Gray) => Layout::Gray,
        (DataColorSpace::Cmyk, Model::Cmyk) => Layout::Rgba,
        _ => return without_profile(raster),
    };
    let options = TransformOptions {
        rendering_intent: RenderingIntent::RelativeColorimetric,
        ..TransformOptions::default()
    };
    let srgb = ColorProfile::new_srgb();
    let Ok(transform) = profile.create_transform_8bit(layout, &srgb, Layout::Rgb, options) else {
        return without_profile(raster);
    };
    let mut samples = vec![0; raster.width as usize * raster.height as usize * 3];
    match transform.transform(&raster.samples, &mut samples) {
        Ok(()) => Raster {
            model: Model::Rgb,
            samples,
            ..raster
        },
        Err(_) => without_profile(raster),
    }
}

fn without_profile(raster: Raster) -> Raster {
    if raster.model == Model::Cmyk {
        cmyk_to_rgb(raster)
    } else {
        raster
    }
}

/// Inks without a profile: what is left of the light after each ink and black.
fn cmyk_to_rgb(raster: Raster) -> Raster {
    let samples = raster.samples.chunks_exact(4).flat_map(|pixel| {
        let light = 255 - u32::from(pixel[3]);
        let through = move |ink: u8| (((255 - u32::from(ink)) * light + 127) / 255) as u8;
        [through(pixel[0]), through(pixel[1]), through(pixel[2])]
    });
    Raster {
        model: Model::Rgb,
        samples: samples.collect(),
        ..raster
    }
}

/// JFIF (BT.601, full range).
fn ycbcr_to_rgb(mut raster: Raster) -> Raster {
    for pixel in raster.samples.chunks_exact_mut(3) {
        let rgb = rgb_of([pixel[0], pixel[1], pixel[2]]);
        pixel.copy_from_slice(&rgb);
    }
    Raster {
        model: Model::Rgb,
        ..raster
    }
}

/// YCCK is RGB = 255 - CMY as YCbCr, beside an untouched K; an inverted file has all four
/// channels inverted on top of that.
pub(super) fn ycck_to_cmyk(samples: &mut [u8]) {
    for pixel in samples.chunks_exact_mut(4) {
        let inks = rgb_of([pixel[0], pixel[1], pixel[2]]);
        pixel[..3].copy_from_slice(&inks.map(|light| 255 - light));
    }
}

fn rgb_of([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    let channel = |value: f32| (value + 0.5) as u8;
    [
        channel(y + 1.402 * cr),
        channel(y - 0.344_136 * cb - 0.714_136 * cr),
        channel(y + 1.772 * cb),
    ]
}
