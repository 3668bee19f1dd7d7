//! Thumbnails: right side up, right colours, right size, nothing of the original's metadata.

mod common;

use std::cell::Cell;

use common::{
    JpegKind, PLAIN, cmyk_jpeg, gray_jpeg, jpeg, jpeg_with, orientation_exif, other, psnr, scene,
};
use image::{DynamicImage, ImageFormat, RgbImage, Rgba, RgbaImage, imageops};
use offloop_photos::budget::Limits;
use offloop_photos::convert::{ConvertError, Recipe, Thumbnails, convert, fit};
use offloop_photos::probe::Prober;

fn thumbnails(bytes: &[u8]) -> Result<Thumbnails, ConvertError> {
    let probe = Prober::new().probe(bytes).expect("a known format");
    convert(
        bytes,
        &probe,
        &Recipe::default(),
        &Limits::default(),
        &|| false,
    )
}

fn pixels(jpeg: &[u8]) -> RgbImage {
    let mut decoder = jpeg_decoder::Decoder::new(jpeg);
    let samples = decoder.decode().expect("a thumbnail decodes");
    let info = decoder.info().expect("a header");
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    match info.pixel_format {
        jpeg_decoder::PixelFormat::L8 => DynamicImage::ImageLuma8(
            image::GrayImage::from_raw(width, height, samples).expect("size"),
        )
        .to_rgb8(),
        _ => RgbImage::from_raw(width, height, samples).expect("size"),
    }
}

/// Lanczos3 by the `image` crate from the untouched picture.
fn reference(picture: &RgbImage, edge: u32) -> RgbImage {
    let (width, height) = fit(picture.dimensions(), edge);
    imageops::resize(picture, width, height, imageops::FilterType::Lanczos3)
}

#[track_caller]
fn assert_near(thumbnail: &[u8], wanted: &RgbImage, floor: f64, what: &str) {
    let got = pixels(thumbnail);
    assert_eq!(got.dimensions(), wanted.dimensions(), "{what}");
    let quality = psnr(&got, wanted);
    assert!(
        quality > floor,
        "{what}: {quality:.1} dB, at least {floor} wanted"
    );
}

const MARGIN: f64 = 2.0;

/// The loss that the thumbnail's own encoding causes is allowed; `margin` decibels on top.
#[track_caller]
fn assert_close_to_ideal(thumbnail: &[u8], wanted: &RgbImage, margin: f64, what: &str) {
    let mut ideal = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut ideal, 80);
    encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_2_2);
    let (width, height) = (wanted.width() as u16, wanted.height() as u16);
    encoder
        .encode(wanted, width, height, jpeg_encoder::ColorType::Rgb)
        .expect("encodes");
    let ceiling = psnr(&pixels(&ideal), wanted);
    let got = psnr(&pixels(thumbnail), wanted);
    assert!(
        got > ceiling - margin,
        "{what}: {got:.1} dB, ideal {ceiling:.1} dB"
    );
}

#[test]
fn jpeg_thumbnails_match_a_slow_reference_at_every_scale() {
    for (width, height) in [
        (4100, 800),
        (2400, 900),
        (1300, 900),
        (700, 520),
        (300, 200),
    ] {
        let picture = scene(width, height);
        for progressive in [false, true] {
            let made = thumbnails(&jpeg(
                &picture,
                JpegKind {
                    progressive,
                    ..PLAIN
                },
            ))
            .expect("done");
            let what = format!("{width}x{height} progressive {progressive}");
            assert_close_to_ideal(&made.large.jpeg, &reference(&picture, 500), MARGIN, &what);
            assert_close_to_ideal(&made.small.jpeg, &reference(&picture, 160), MARGIN, &what);
        }
    }
}

#[test]
fn every_format_gives_the_same_picture() {
    let picture = scene(640, 400);
    let wanted = reference(&picture, 500);
    let deep: image::ImageBuffer<image::Rgb<u16>, Vec<u16>> =
        DynamicImage::ImageRgb8(picture.clone()).to_rgb16();
    let inputs = [
        ("jpeg", jpeg(&picture, PLAIN)),
        ("png", other(picture.clone(), ImageFormat::Png)),
        ("png16", other(deep.clone(), ImageFormat::Png)),
        ("webp", other(picture.clone(), ImageFormat::WebP)),
        ("tiff", other(picture.clone(), ImageFormat::Tiff)),
        ("tiff16", other(deep, ImageFormat::Tiff)),
        ("bmp", other(picture.clone(), ImageFormat::Bmp)),
        ("cmyk", cmyk_jpeg(&picture, false)),
        ("ycck", cmyk_jpeg(&picture, true)),
    ];
    for (what, bytes) in inputs {
        let made = thumbnails(&bytes).expect(what);
        assert_near(&made.large.jpeg, &wanted, 29.0, what);
    }
    let gif = DynamicImage::ImageRgb8(picture.clone()).to_rgba8();
    let made = thumbnails(&other(gif, ImageFormat::Gif)).expect("gif");
    assert_near(&made.large.jpeg, &wanted, 24.0, "gif");
    let gray = DynamicImage::ImageRgb8(picture).to_luma8();
    let wanted = reference(&DynamicImage::ImageLuma8(gray).to_rgb8(), 500);
    assert_near(
        &thumbnails(&gray_jpeg(640, 400)).expect("gray").large.jpeg,
        &wanted,
        30.0,
        "gray",
    );
}

#[test]
fn all_eight_orientations_end_upright() {
    let upright = scene(400, 300);
    for value in 1..=8_u16 {
        // What a camera stores when `value` is the way back.
        let stored: RgbImage = match value {
            2 => imageops::flip_horizontal(&upright),
            3 => imageops::rotate180(&upright),
            4 => imageops::flip_vertical(&upright),
            5 => imageops::flip_horizontal(&imageops::rotate90(&upright)),
            6 => imageops::rotate270(&upright),
            7 => imageops::flip_horizontal(&imageops::rotate270(&upright)),
            8 => imageops::rotate90(&upright),
            _ => upright.clone(),
        };
        let block = orientation_exif(value);
        let made = thumbnails(&jpeg_with(&stored, PLAIN, Some(&block), None)).expect("done");
        assert_near(
            &made.large.jpeg,
            &upright,
            28.0,
            &format!("orientation {value}"),
        );
    }
}

#[test]
fn transparent_parts_become_white_not_black() {
    let picture = RgbaImage::from_fn(100, 80, |x, _| {
        if x < 50 {
            Rgba([10, 20, 30, 0])
        } else {
            Rgba([10, 20, 200, 255])
        }
    });
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif] {
        let made = thumbnails(&other(picture.clone(), format)).expect("done");
        let got = pixels(&made.large.jpeg);
        assert!(
            got.get_pixel(10, 40).0.iter().all(|&c| c > 250),
            "{format:?}"
        );
        assert!(got.get_pixel(90, 40).0[0] < 40, "{format:?}");
    }
}

#[test]
fn a_wide_gamut_profile_is_converted_not_dropped() {
    let profile = moxcms::ColorProfile::new_display_p3()
        .encode()
        .expect("encodes");
    let green = RgbImage::from_pixel(64, 64, image::Rgb([60, 200, 60]));
    let made = thumbnails(&jpeg_with(&green, PLAIN, None, Some(&profile))).expect("done");
    let pixel = pixels(&made.large.jpeg).get_pixel(32, 32).0;
    // Display P3 (60, 200, 60) is about sRGB (0, 203, 38): more saturated.
    assert!(pixel[0] < 30 && pixel[1].abs_diff(203) < 6, "{pixel:?}");
    assert!(!contains(&made.large.jpeg, b"ICC_PROFILE"));
    let broken = thumbnails(&jpeg_with(&green, PLAIN, None, Some(&profile[..100]))).expect("done");
    let pixel = pixels(&broken.large.jpeg).get_pixel(32, 32).0;
    assert!(
        pixel[0].abs_diff(60) < 6,
        "a broken profile is ignored: {pixel:?}"
    );
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle)
}

#[test]
fn thumbnails_carry_nothing_of_the_original() {
    let block = common::exif(
        true,
        vec![(0x010f, common::Value::Text("SECRETCAM"))],
        vec![],
        vec![(1, common::Value::Text("N"))],
    );
    let made = thumbnails(&jpeg_with(&scene(800, 600), PLAIN, Some(&block), None)).expect("done");
    for jpeg in [&made.large.jpeg, &made.small.jpeg] {
        assert!(!contains(jpeg, b"Exif") && !contains(jpeg, b"SECRETCAM"));
    }
}

#[test]
fn sizes_fit_and_never_grow() {
    #[rustfmt::skip]
    let table = [
        ((4000, 3000), 500, (500, 375)), ((3000, 4000), 500, (375, 500)),
        ((500, 500), 500, (500, 500)),   ((120, 80), 160, (120, 80)),
        ((65535, 1), 500, (500, 1)),     ((1, 65535), 160, (1, 160)),
        ((1001, 667), 500, (500, 333)),  ((0, 5), 500, (1, 5)),
    ];
    for (from, edge, wanted) in table {
        assert_eq!(fit(from, edge), wanted, "{from:?} in {edge}");
    }
    let made = thumbnails(&jpeg(&scene(120, 80), PLAIN)).expect("done");
    assert_eq!((made.large.width, made.large.height), (120, 80));
    assert_eq!((made.small.width, made.small.height), (120, 80));
}

/// The header of a baseline JPEG of any claimed size, with a little picture data.
fn claiming(width: u16, height: u16) -> Vec<u8> {
    let mut bytes = jpeg(&scene(64, 64), PLAIN);
    let at = bytes
        .windows(2)
        .position(|w| w == [0xff, 0xc0])
        .expect("a frame header");
    bytes[at + 5..at + 7].copy_from_slice(&height.to_be_bytes());
    bytes[at + 7..at + 9].copy_from_slice(&width.to_be_bytes());
    bytes
}

#[test]
fn a_giant_header_is_refused_and_a_panorama_is_decoded_small() {
    let error = thumbnails(&claiming(65535, 65535)).expect_err("refused");
    assert_eq!(error.class(), "too_large");
    let text = error.to_string();
    assert!(
        text.contains("4294836225") && text.contains("source_pixels_max"),
        "{text}"
    );
    // 560 megapixels fit in memory at 1/8; this one then proves to be cut off.
    let error = thumbnails(&claiming(40000, 14000)).expect_err("cut off");
    assert_eq!(error.class(), "corrupt", "{error}");
    let mut png = other(scene(8, 8), ImageFormat::Png);
    png[16..24].copy_from_slice(&[0, 0, 0x80, 0, 0, 0, 0x70, 0]);
    assert_eq!(thumbnails(&png).expect_err("refused").class(), "too_large");
}

#[test]
fn failures_have_their_class() {
    let whole = jpeg(&scene(640, 480), PLAIN);
    let png = other(scene(64, 64), ImageFormat::Png);
    let table: [(&str, &[u8], &str); 4] = [
        ("cut in the picture", &whole[..whole.len() / 2], "corrupt"),
        ("cut in the header", &whole[..30], "corrupt"),
        ("cut png", &png[..png.len() / 2], "corrupt"),
        ("heic", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "unsupported"),
    ];
    for (what, bytes, class) in table {
        assert_eq!(thumbnails(bytes).expect_err(what).class(), class, "{what}");
    }
}

#[test]
fn a_stop_request_is_obeyed_between_rows() {
    let bytes = jpeg(&scene(1600, 1200), PLAIN);
    let probe = Prober::new().probe(&bytes[..]).expect("probe");
    let asked = Cell::new(0);
    let stop = || {
        asked.set(asked.get() + 1);
        asked.get() == 5
    };
    let end = convert(
        &bytes,
        &probe,
        &Recipe::default(),
        &Limits::default(),
        &stop,
    );
    assert!(matches!(end, Err(ConvertError::Cancelled)), "{end:?}");
}
