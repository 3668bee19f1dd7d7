//! What the head says, from files made by code.

mod common;

use common::{JpegKind, PLAIN, Value, exif, jpeg, jpeg_with, other, scene};
use image::ImageFormat;
use offloop_photos::probe::{Format, Probe, ProbeError, Prober};

type Tags = Vec<(u16, Value)>;

fn probe(bytes: &[u8]) -> Probe {
    Prober::new().probe(bytes).expect("a known format")
}

fn full_exif(big_endian: bool) -> Vec<u8> {
    exif(
        big_endian,
        vec![
            (0x010f, Value::Text("Cam\u{7}era \u{1b}[31mWorks ")),
            (0x0110, Value::Text("Model X")),
            (0x0112, Value::Short(6)),
            (0x0132, Value::Text("2024:01:01 00:00:00")),
        ],
        vec![
            (0x9003, Value::Text("2023:07:14 18:05:59")),
            (0x9011, Value::Text("+05:30")),
        ],
        vec![
            (1, Value::Text("S")),
            (2, Value::Rationals(vec![(33, 1), (51, 1), (3540, 100)])),
            (3, Value::Text("E")),
            (4, Value::Rationals(vec![(151, 1), (12, 1), (4050, 100)])),
        ],
    )
}

#[test]
fn formats_are_told_by_content_with_size_and_depth() {
    let picture = scene(61, 43);
    let table = [
        (Format::Jpeg, jpeg(&picture, PLAIN)),
        (Format::Png, other(picture.clone(), ImageFormat::Png)),
        (Format::WebP, other(picture.clone(), ImageFormat::WebP)),
        (Format::Gif, other(picture.clone(), ImageFormat::Gif)),
        (Format::Tiff, other(picture.clone(), ImageFormat::Tiff)),
        (Format::Bmp, other(picture, ImageFormat::Bmp)),
    ];
    for (format, bytes) in table {
        let said = probe(&bytes);
        assert_eq!((said.format, said.width, said.height), (format, 61, 43));
        assert_eq!(said.defect, None, "{format:?}");
        assert!(
            said.components >= 3 && said.bits_per_sample == 8,
            "{said:?}"
        );
    }
    assert!(
        probe(&jpeg(
            &scene(61, 43),
            JpegKind {
                progressive: true,
                ..PLAIN
            }
        ))
        .progressive
    );
}

#[test]
fn exif_is_read_and_made_safe() {
    for big_endian in [false, true] {
        let block = full_exif(big_endian);
        let said = probe(&jpeg_with(&scene(40, 30), PLAIN, Some(&block), None)).exif;
        assert_eq!(said.orientation.exif_value(), 6);
        assert_eq!(said.make.as_deref(), Some("Camera [31mWorks"));
        assert_eq!(said.model.as_deref(), Some("Model X"));
        let taken = said.taken.expect("a time");
        assert_eq!(taken.local, "2023-07-14T18:05:59");
        assert_eq!(taken.offset_minutes, Some(330));
        let (lat, lon) = said.position.expect("a position");
        assert!((lat + 33.859_83).abs() < 1e-4 && (lon - 151.211_25).abs() < 1e-4);
    }
}

#[test]
fn nonsense_in_exif_loses_the_field_only() {
    #[rustfmt::skip]
    let table: [(&str, Tags, Tags); 5] = [
        ("a month 13", vec![], vec![]),
        ("latitude 95", vec![(2, Value::Rationals(vec![(95, 1), (0, 1), (0, 1)])), (4, Value::Rationals(vec![(1, 1), (0, 1), (0, 1)]))], vec![]),
        ("0/0 degrees", vec![(2, Value::Rationals(vec![(0, 0), (0, 1), (0, 1)])), (4, Value::Rationals(vec![(1, 1), (0, 1), (0, 1)]))], vec![]),
        ("orientation 9", vec![], vec![(0x0112, Value::Short(9))]),
        ("two rationals", vec![(2, Value::Rationals(vec![(1, 1), (0, 1)])), (4, Value::Rationals(vec![(1, 1), (0, 1)]))], vec![]),
    ];
    for (what, gps, main) in table {
        let child = vec![(0x9003, Value::Text("2023:13:14 18:05:59"))];
        let mut main = main;
        main.push((0x0110, Value::Text("Model X")));
        let said = probe(&jpeg_with(
            &scene(40, 30),
            PLAIN,
            Some(&exif(true, main, child, gps)),
            None,
        ));
        assert_eq!(said.exif.position, None, "{what}");
        assert_eq!(said.exif.taken, None, "{what}");
        assert_eq!(said.exif.orientation.exif_value(), 1, "{what}");
        assert_eq!(said.exif.model.as_deref(), Some("Model X"), "{what}");
        assert_eq!((said.width, said.height), (40, 30), "{what}");
    }
}

#[test]
fn directories_that_point_at_themselves_are_left_alone() {
    // The EXIF and GPS pointers, and the "next directory", all lead back to the first directory.
    let mut block = exif(
        false,
        vec![(0x0110, Value::Text("Model X"))],
        vec![],
        vec![],
    );
    for tag in [0x8769_u16, 0x8825] {
        let at = block
            .windows(2)
            .position(|w| w == tag.to_le_bytes())
            .expect("the pointer");
        block[at + 8..at + 12].copy_from_slice(&8_u32.to_le_bytes());
    }
    let said = probe(&jpeg_with(&scene(40, 30), PLAIN, Some(&block), None));
    assert_eq!(said.exif.model.as_deref(), Some("Model X"));
}

#[test]
fn a_directory_behind_the_head_is_found_with_small_reads() {
    // TIFF writers put the directory after the pixels.
    let bytes = other(scene(400, 300), ImageFormat::Tiff);
    assert!(bytes.len() > 5 * offloop_photos::probe::HEAD_BYTES);
    let said = probe(&bytes);
    assert_eq!((said.width, said.height, said.defect), (400, 300, None));
}

#[test]
fn a_frame_header_behind_large_segments_is_found() {
    let plain = jpeg(&scene(40, 30), PLAIN);
    let mut bytes = plain[..2].to_vec();
    for _ in 0..20 {
        bytes.extend([0xff, 0xe2, 0xff, 0xff]);
        bytes.extend(vec![7; 65533]);
    }
    bytes.extend(&plain[2..]);
    assert_eq!((probe(&bytes).width, probe(&bytes).height), (40, 30));
}

#[test]
fn what_is_no_photo_says_so() {
    let error = |bytes: &[u8]| Prober::new().probe(bytes).expect_err("no photo");
    assert!(matches!(error(b""), ProbeError::Empty));
    assert!(matches!(
        error(b"hello, world; this is text"),
        ProbeError::UnknownFormat
    ));
    assert!(matches!(error(&[0; 4096]), ProbeError::UnknownFormat));
    assert!(probe(b"\xff\xd8\xff").defect.is_some());
    assert!(probe(b"\x89PNG\r\n\x1a\n").defect.is_some());
}
