//! Pictures made by code, so that the suite needs no files.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part")]

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, Rgb, RgbImage};
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

/// A photo-like picture without symmetry: gradients, edges and texture; red top-left, green
/// top-right, blue bottom-left, white bottom-right corner.
pub fn scene(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (u, v) = (
            f64::from(x) / f64::from(width),
            f64::from(y) / f64::from(height),
        );
        let wave = |f: f64, p: f64| 20.0 * ((u * f).sin() * (v * f * 0.7 + p).cos());
        let corner = |cu: f64, cv: f64| (u - cu).abs() < 0.25 && (v - cv).abs() < 0.25;
        let base = if corner(0.0, 0.0) {
            [200.0, 20.0, 20.0]
        } else if corner(1.0, 0.0) {
            [20.0, 180.0, 30.0]
        } else if corner(0.0, 1.0) {
            [30.0, 30.0, 200.0]
        } else if corner(1.0, 1.0) {
            [235.0, 235.0, 235.0]
        } else {
            [60.0 + 150.0 * u, 60.0 + 150.0 * v, 120.0 + 80.0 * (u - v)]
        };
        let texture = wave(37.0, 0.3) + wave(11.0, 1.0);
        Rgb(base.map(|c| (c + texture).clamp(0.0, 255.0) as u8))
    })
}

#[derive(Clone, Copy, Debug)]
pub struct JpegKind {
    pub sampling: SamplingFactor,
    pub progressive: bool,
    pub restart: u16,
    pub optimized: bool,
}

pub const PLAIN: JpegKind = JpegKind {
    sampling: SamplingFactor::F_2_2,
    progressive: false,
    restart: 0,
    optimized: false,
};

pub fn jpeg(picture: &RgbImage, kind: JpegKind) -> Vec<u8> {
    jpeg_with(picture, kind, None, None)
}

pub fn jpeg_with(
    picture: &RgbImage,
    kind: JpegKind,
    exif: Option<&[u8]>,
    icc: Option<&[u8]>,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, 92);
    encoder.set_sampling_factor(kind.sampling);
    encoder.set_progressive(kind.progressive);
    encoder.set_optimized_huffman_tables(kind.optimized);
    if kind.restart > 0 {
        encoder.set_restart_interval(kind.restart);
    }
    if let Some(exif) = exif {
        encoder.add_exif_metadata(exif).expect("EXIF fits");
    }
    if let Some(icc) = icc {
        encoder.add_icc_profile(icc).expect("profile fits");
    }
    let (width, height) = (picture.width() as u16, picture.height() as u16);
    encoder
        .encode(picture, width, height, ColorType::Rgb)
        .expect("encodes");
    bytes
}

pub fn gray_jpeg(width: u16, height: u16) -> Vec<u8> {
    let picture = DynamicImage::ImageRgb8(scene(u32::from(width), u32::from(height))).to_luma8();
    let mut bytes = Vec::new();
    let encoder = Encoder::new(&mut bytes, 92);
    encoder
        .encode(&picture, width, height, ColorType::Luma)
        .expect("encodes");
    bytes
}

/// CMYK as the inks of `picture` without black; `ycck` stores them the way Adobe programs do.
pub fn cmyk_jpeg(picture: &RgbImage, ycck: bool) -> Vec<u8> {
    let inks: Vec<u8> = picture
        .pixels()
        .flat_map(|p| [255 - p[0], 255 - p[1], 255 - p[2], 0])
        .collect();
    let mut bytes = Vec::new();
    let encoder = Encoder::new(&mut bytes, 95);
    let kind = if ycck {
        ColorType::CmykAsYcck
    } else {
        ColorType::Cmyk
    };
    let (width, height) = (picture.width() as u16, picture.height() as u16);
    encoder.encode(&inks, width, height, kind).expect("encodes");
    bytes
}

pub fn other(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture
        .into()
        .write_to(&mut bytes, format)
        .expect("encodes");
    bytes.into_inner()
}

/// One value of a TIFF directory.
pub enum Value {
    Short(u16),
    Long(u32),
    Text(&'static str),
    Rationals(Vec<(u32, u32)>),
}

/// Builds an EXIF block (from its TIFF header on) with a main, an EXIF and a GPS directory.
pub fn exif(
    big_endian: bool,
    main: Vec<(u16, Value)>,
    child: Vec<(u16, Value)>,
    gps: Vec<(u16, Value)>,
) -> Vec<u8> {
    let u16b = |v: u16| {
        if big_endian {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        }
    };
    let u32b = |v: u32| {
        if big_endian {
            v.to_be_bytes()
        } else {
            v.to_le_bytes()
        }
    };
    let mut out = if big_endian {
        b"MM\0*".to_vec()
    } else {
        b"II*\0".to_vec()
    };
    out.extend(u32b(8));
    let mut main = main;
    main.push((0x8769, Value::Long(0)));
    main.push((0x8825, Value::Long(0)));
    let mut child_slots = Vec::new();
    for (position, entries) in [main, child, gps].into_iter().enumerate() {
        let start = out.len() as u32;
        if position > 0 {
            let slot: usize = child_slots[position - 1];
            out[slot..slot + 4].copy_from_slice(&u32b(start));
        }
        let mut heap = Vec::new();
        let heap_at = start + 2 + entries.len() as u32 * 12 + 4;
        out.extend(u16b(entries.len() as u16));
        for (tag, value) in entries {
            out.extend(u16b(tag));
            let (kind, count, bytes) = match value {
                Value::Short(v) => (3_u16, 1_u32, u16b(v).to_vec()),
                Value::Long(v) => (4, 1, u32b(v).to_vec()),
                Value::Text(v) => (2, v.len() as u32 + 1, [v.as_bytes(), b"\0"].concat()),
                Value::Rationals(list) => {
                    let bytes = list.iter().flat_map(|(a, b)| [u32b(*a), u32b(*b)].concat());
                    (5, list.len() as u32, bytes.collect())
                }
            };
            out.extend(u16b(kind));
            out.extend(u32b(count));
            if position == 0 && matches!(tag, 0x8769 | 0x8825) {
                child_slots.push(out.len());
            }
            if bytes.len() <= 4 {
                let mut inline = bytes;
                inline.resize(4, 0);
                out.extend(inline);
            } else {
                out.extend(u32b(heap_at + heap.len() as u32));
                heap.extend(bytes);
                heap.resize(heap.len().div_ceil(2) * 2, 0);
            }
        }
        out.extend(u32b(0));
        out.extend(heap);
    }
    out
}

pub fn orientation_exif(value: u16) -> Vec<u8> {
    exif(
        value.is_multiple_of(2),
        vec![(0x0112, Value::Short(value))],
        vec![],
        vec![],
    )
}

/// Peak signal-to-noise ratio in decibels.
pub fn psnr(a: &[u8], b: &[u8]) -> f64 {
    assert_eq!(a.len(), b.len());
    let sum: f64 = a
        .iter()
        .zip(b)
        .map(|(a, b)| f64::from(a.abs_diff(*b)).powi(2))
        .sum();
    let mean = sum / a.len() as f64;
    if mean == 0.0 {
        99.0
    } else {
        10.0 * (255.0 * 255.0 / mean).log10()
    }
}
