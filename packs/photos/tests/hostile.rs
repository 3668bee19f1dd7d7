//! Arbitrary and damaged bytes: an answer always, a panic never, memory within the prediction.

mod common;

use std::sync::LazyLock;

use common::{JpegKind, PLAIN, cmyk_jpeg, exif, gray_jpeg, jpeg, jpeg_with, other, scene};
use image::ImageFormat;
use jpeg_encoder::SamplingFactor;
use offloop_photos::budget::Limits;
use offloop_photos::convert::{Recipe, convert};
use offloop_photos::jpeg::{Decoder, Scale};
use offloop_photos::probe::Prober;
use proptest::prelude::*;

/// Small limits keep a header that grew in a mutation from slowing the suite.
const LIMITS: Limits = Limits {
    decoded_pixels_max: 4_000_000,
    source_pixels_max: 100_000_000,
    bytes_max: 64 << 20,
    file_bytes_max: 1 << 20,
};

static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let picture = scene(96, 72);
    let kinds = [
        PLAIN,
        JpegKind {
            progressive: true,
            ..PLAIN
        },
        JpegKind {
            restart: 2,
            sampling: SamplingFactor::F_1_1,
            ..PLAIN
        },
        JpegKind {
            optimized: true,
            sampling: SamplingFactor::F_2_1,
            ..PLAIN
        },
        JpegKind {
            progressive: true,
            restart: 3,
            ..PLAIN
        },
    ];
    let mut seeds: Vec<Vec<u8>> = kinds.iter().map(|kind| jpeg(&picture, *kind)).collect();
    let gps = vec![
        (1, common::Value::Text("N")),
        (2, common::Value::Rationals(vec![(1, 1), (2, 1), (3, 1)])),
    ];
    let taken = vec![(0x9003, common::Value::Text("2023:07:14 18:05:59"))];
    let block = exif(true, vec![(0x0112, common::Value::Short(6))], taken, gps);
    seeds.push(jpeg_with(&picture, PLAIN, Some(&block), None));
    let profile = moxcms::ColorProfile::new_display_p3()
        .encode()
        .expect("encodes");
    seeds.push(jpeg_with(&picture, PLAIN, None, Some(&profile)));
    seeds.push(gray_jpeg(90, 70));
    seeds.push(cmyk_jpeg(&picture, true));
    for format in [
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
        ImageFormat::Tiff,
        ImageFormat::Bmp,
    ] {
        seeds.push(other(picture.clone(), format));
    }
    seeds
});

fn run(bytes: &[u8]) {
    let Ok(probe) = Prober::new().probe(bytes) else {
        return;
    };
    let _ = convert(bytes, &probe, &Recipe::default(), &LIMITS, &|| false);
    // The decoder must hold even when the probe would have refused.
    for scale in [Scale::Eighth, Scale::Half] {
        if let Ok(decoder) = Decoder::new(bytes)
            && decoder.bytes_needed(scale) < 8 << 20
        {
            let _ = decoder.decode(scale, &|| false);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_pictures_never_panic(
        seed in 0..14_usize,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..24),
        cut in prop::option::of(any::<prop::sample::Index>()),
        in_header in any::<bool>(),
    ) {
        let mut bytes = SEEDS[seed].clone();
        let reach = if in_header { bytes.len().min(700) } else { bytes.len() };
        for (at, value) in damage {
            let at = at.index(reach);
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()) + 1);
        }
        run(&bytes);
    }

    #[test]
    fn arbitrary_bytes_behind_any_magic_never_panic(
        magic in 0..14_usize,
        keep in 2..32_usize,
        tail in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        let mut bytes = SEEDS[magic][..keep].to_vec();
        bytes.extend(tail);
        run(&bytes);
    }

    #[test]
    fn arbitrary_exif_blocks_never_panic(
        little in any::<bool>(),
        tail in prop::collection::vec(any::<u8>(), 0..200),
        entries in prop::collection::vec((0x00fe..0x9012_u16, 0..14_u16, any::<u32>(), any::<u32>()), 0..8),
    ) {
        let mut block = if little { b"II*\0\x08\0\0\0".to_vec() } else { b"MM\0*\0\0\0\x08".to_vec() };
        let u16b = |v: u16| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        let u32b = |v: u32| if little { v.to_le_bytes() } else { v.to_be_bytes() };
        block.extend(u16b(entries.len() as u16));
        for (tag, kind, count, value) in entries {
            block.extend(u16b(tag));
            block.extend(u16b(kind));
            block.extend(u32b(count));
            block.extend(u32b(value));
        }
        block.extend(tail);
        run(&block);
    }
}
