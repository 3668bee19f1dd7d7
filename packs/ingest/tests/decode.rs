//! Packed and encoded inputs: whole ones come out exactly, all others with a precise error.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::io::Write;

use common::{declared, read_all};
use offloop_ingest::{DecodeError, Decoder};
use proptest::prelude::*;

fn decoder(extra: &str) -> Decoder {
    let target = declared(&format!(
        "sink = \"ndjson\"\npath = \"out\"\ncolumns = [{{ name = \"a\", type = \"text\" }}]\n{extra}"
    ));
    Decoder::new(target.format(), target.limits())
}

/// Everything that comes of `bytes`, pushed `piece` bytes at a time; memory is watched.
fn decode(mut decoder: Decoder, bytes: &[u8], piece: usize) -> (Vec<u8>, Option<DecodeError>) {
    let (mut text, mut out) = (Vec::new(), Vec::new());
    for piece in bytes.chunks(piece) {
        let mut rest = piece;
        loop {
            out.clear();
            let step = match decoder.push(rest, &mut out) {
                Ok(step) => step,
                Err(error) => return (text, Some(error)),
            };
            assert!(
                out.len() <= 3 * (64 << 10) + 4,
                "one step made {} bytes",
                out.len()
            );
            text.extend_from_slice(&out);
            rest = &rest[step.taken..];
            assert!(
                step.taken > 0 || step.more || rest.is_empty(),
                "no progress at {} of {}",
                text.len(),
                bytes.len()
            );
            if rest.is_empty() && !step.more {
                break;
            }
        }
    }
    out.clear();
    let error = decoder.finish(&mut out).err();
    text.extend_from_slice(&out);
    (text, error)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    let mut packed = vec![0; zstd_safe::compress_bound(bytes.len())];
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::ChecksumFlag(true))
        .unwrap();
    let len = context.compress2(&mut packed[..], bytes).unwrap();
    packed.truncate(len);
    packed
}

fn rows() -> Vec<u8> {
    (0..20_000)
        .flat_map(|row| format!("{row},name {}\n", row * 7919 % 1_000).into_bytes())
        .collect()
}

#[test]
fn packed_input_in_any_pieces_and_parts_is_what_was_packed() {
    let plain = rows();
    let halves = plain.split_at(plain.len() / 3);
    let two_members = [gzip(halves.0), gzip(halves.1)].concat();
    let padded = [two_members.clone(), vec![0; 700]].concat();
    let two_frames = [zstd(halves.0), zstd(halves.1)].concat();
    let empty_first = [gzip(b""), gzip(&plain)].concat();
    for packed in [
        gzip(&plain),
        two_members,
        padded,
        zstd(&plain),
        two_frames,
        empty_first,
    ] {
        for piece in [1, 3, 4_096, usize::MAX] {
            let (text, error) = decode(decoder(""), &packed, piece);
            assert_eq!(error, None);
            assert!(text == plain);
        }
    }
}

#[test]
fn a_cut_or_damaged_stream_never_passes_for_a_whole_one() {
    let plain = rows();
    for (name, packed) in [("gzip", gzip(&plain)), ("zstd", zstd(&plain))] {
        for cut in [5, packed.len() / 2, packed.len() - 1] {
            let (text, error) = decode(decoder(""), &packed[..cut], 1_000);
            let at = cut as u64;
            assert_eq!(error, Some(DecodeError::Truncated { format: name, at }));
            assert!(plain.starts_with(&text));
        }
        for at in [packed.len() / 2, packed.len() - 3] {
            let mut damaged = packed.clone();
            damaged[at] ^= 0x55;
            let (_, error) = decode(decoder(""), &damaged, 1_000);
            assert!(
                matches!(error, Some(DecodeError::Damaged { format, .. }) if format == name),
                "{name} {at}: {error:?}"
            );
        }
    }
    let garbage = [gzip(&plain), b"garbage".to_vec()].concat();
    let at = gzip(&plain).len() as u64;
    let trailing = Some(DecodeError::TrailingGarbage { at });
    assert_eq!(decode(decoder(""), &garbage, 1_000).1, trailing);
    assert!(
        decode(
            decoder(""),
            &[zstd(&plain), b"garbage".to_vec()].concat(),
            9
        )
        .1
        .is_some()
    );
    let said = |extra, bytes: &[u8]| decode(decoder(extra), bytes, 10).1.unwrap().to_string();
    assert_eq!(
        said("compression = \"gzip\"", b""),
        "gzip data ends early, after 0 bytes: the upload was cut, or is not gzip"
    );
    assert!(said("compression = \"gzip\"", b"id,name\n").starts_with("gzip data is damaged"));
    assert!(said("compression = \"zstd\"", b"id,name\n").starts_with("zstd data is damaged"));
}

#[test]
fn a_bomb_ends_at_its_ratio_or_size_with_what_it_would_have_been() {
    let zeros = vec![b'0'; 64 << 20];
    for packed in [gzip(&zeros), zstd(&zeros)] {
        let (text, error) = decode(decoder(""), &packed, 512);
        let Some(DecodeError::Ratio {
            limit: 200, read, ..
        }) = error
        else {
            panic!("{error:?}");
        };
        assert!(
            text.len() as u64 <= (1 << 20) + 200 * read,
            "{} of {read}",
            text.len()
        );
        let small = "limits = { ratio = 10000, decoded_bytes = \"1MiB\" }";
        let (text, error) = decode(decoder(small), &packed, 512);
        assert_eq!(error, Some(DecodeError::TooLong { limit: 1 << 20 }));
        assert!(text.len() <= 1 << 20);
    }
    // A bomb inside a bomb is only bytes.
    let (text, error) = decode(
        decoder("limits = { ratio = 10000 }"),
        &gzip(&gzip(&zeros)),
        512,
    );
    assert!(error.is_none() && text.starts_with(&[0x1f, 0x8b]));
}

#[test]
fn a_zstd_frame_may_not_claim_memory_by_its_window() {
    let mut context = zstd_safe::CCtx::create();
    context
        .set_parameter(zstd_safe::CParameter::WindowLog(27))
        .unwrap();
    context
        .set_parameter(zstd_safe::CParameter::ContentSizeFlag(false))
        .unwrap();
    let mut packed = vec![0; 1 << 20];
    let mut out = zstd_safe::OutBuffer::around(&mut packed[..]);
    let mut input = zstd_safe::InBuffer::around(b"a,b\n");
    context.compress_stream(&mut out, &mut input).unwrap();
    while context.end_stream(&mut out).unwrap() > 0 {}
    let len = out.pos();
    let (_, error) = decode(decoder(""), &packed[..len], 10);
    assert!(
        error
            .as_ref()
            .is_some_and(|error| error.to_string().contains("too much memory")),
        "{error:?}"
    );
}

#[test]
fn encodings_come_out_as_utf8_and_their_damage_costs_one_row() {
    let utf16 = |text: &str, mark: bool, big: bool| -> Vec<u8> {
        let units = mark
            .then_some(0xfeff)
            .into_iter()
            .chain(text.encode_utf16());
        units
            .flat_map(|unit| {
                if big {
                    unit.to_be_bytes()
                } else {
                    unit.to_le_bytes()
                }
            })
            .collect()
    };
    let text = "a\nK\u{e4}se \u{20ac}\u{1f600}\n";
    #[rustfmt::skip]
    let cases: &[(&str, Vec<u8>, &str)] = &[
        ("utf-8", text.as_bytes().to_vec(), text),
        ("utf-8", [b"\xef\xbb\xbf", text.as_bytes()].concat(), text),
        ("utf-8", b"\xef\xbb".to_vec(), "\u{fffd}"),
        ("utf-16", utf16(text, true, false), text), ("utf-16", utf16(text, true, true), text),
        ("utf-16le", utf16(text, false, false), text), ("utf-16be", utf16(text, true, true), text),
        ("latin1", b"K\xe4se \x80".to_vec(), "K\u{e4}se \u{80}"),
        ("windows-1252", b"K\xe4se \x80".to_vec(), "K\u{e4}se \u{20ac}"),
        ("utf-16", vec![], ""),
    ];
    for (encoding, bytes, wanted) in cases {
        for piece in [1, 2, 1_000] {
            let (text, error) =
                decode(decoder(&format!("encoding = \"{encoding}\"")), bytes, piece);
            assert_eq!(error, None, "{encoding}");
            assert_eq!(String::from_utf8_lossy(&text), *wanted, "{encoding}");
        }
    }
    let utf8 = decode(decoder(""), &utf16(text, true, false), 1);
    assert_eq!(utf8.1, Some(DecodeError::Utf16));
    assert_eq!(
        decode(decoder(""), b"\xff\xfe", 1).1,
        Some(DecodeError::Utf16)
    );
    let unmarked = decode(
        decoder("encoding = \"utf-16\""),
        &utf16(text, false, false),
        1,
    );
    assert_eq!(unmarked.1, Some(DecodeError::NoByteOrderMark));

    // Half a surrogate pair in the second row: that row alone is refused.
    let mut lone = utf16("a\nb\nx", true, false);
    lone.extend([0x00, 0xd8]);
    lone.extend(utf16("y\nc\n", false, false));
    let (text, error) = decode(decoder("encoding = \"utf-16\""), &lone, 3);
    assert_eq!(error, None);
    let target =
        declared("sink = \"ndjson\"\npath = \"o\"\ncolumns = [{ name = \"a\", type = \"text\" }]");
    let read = read_all(&target, &text, &[]);
    assert_eq!(read.table(), [["b"], ["c"]]);
    assert_eq!(read.refused(), [(2, "encoding")]);
}

#[test]
fn a_resumed_input_goes_on_at_the_same_byte_of_text() {
    let plain = rows();
    for skip in [0, 1, 65_536, 100_000, plain.len(), plain.len() + 5] {
        let (text, error) = decode(decoder("").skipping(skip as u64), &gzip(&plain), 999);
        assert_eq!(error, None);
        assert!(text == plain[skip.min(plain.len())..]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_bytes_make_the_decoder_panic_or_depend_on_pieces(
        start in prop_oneof![Just(&b""[..]), Just(&b"\x1f\x8b\x08"[..]), Just(&b"\x28\xb5\x2f\xfd"[..]), Just(&b"\xff"[..])],
        tail in prop::collection::vec(any::<u8>(), 0..200),
        piece in 1_usize..20,
        encoding in prop_oneof![Just("utf-8"), Just("latin1"), Just("windows-1252"), Just("utf-16le")],
    ) {
        let bytes = [start, &tail].concat();
        let extra = format!("encoding = \"{encoding}\"");
        let (whole, failed) = decode(decoder(&extra), &bytes, usize::MAX);
        let (cut, cut_failed) = decode(decoder(&extra), &bytes, piece);
        prop_assert_eq!(failed.is_some(), cut_failed.is_some());
        if failed.is_none() {
            prop_assert_eq!(whole, cut);
        }
    }
}
