//! Any bytes, packed or not, through decoder, inference and reader: nothing panics, pieces change
//! nothing, every row is stored or refused. The first byte chooses the pieces.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offloop_ingest::{Decoder, RawTarget, Reader, infer};

/// Rows, rejects and whether the end was reached, or nothing where decoding failed.
fn read(bytes: &[u8], piece: usize, raw: &RawTarget) -> Option<(u64, u64, bool)> {
    let target = raw.resolve("t").expect("an inferred declaration resolves");
    let mut decoder = Decoder::new(target.format(), target.limits());
    let mut text = Vec::new();
    for mut piece in bytes.chunks(piece) {
        loop {
            let step = decoder.push(piece, &mut text).ok()?;
            piece = &piece[step.taken..];
            if piece.is_empty() && !step.more {
                break;
            }
            if text.len() > 1 << 20 {
                return None;
            }
        }
    }
    decoder.finish(&mut text).ok()?;
    let mut reader = Reader::new(target);
    let (mut rows, mut rejects) = (0, 0);
    for mut piece in text.chunks(piece) {
        while !piece.is_empty() {
            let Ok(taken) = reader.push(piece) else {
                return Some((rows, rejects, false));
            };
            piece = &piece[taken..];
            if let Some(batch) = reader.take_batch() {
                rows += batch.len() as u64;
                rejects += batch.rejects().len() as u64;
            }
        }
    }
    loop {
        match reader.finish() {
            Err(_) => return Some((rows, rejects, false)),
            Ok(None) => break,
            Ok(Some(batch)) => {
                rows += batch.len() as u64;
                rejects += batch.rejects().len() as u64;
            }
        }
    }
    assert_eq!((rows + rejects, rejects), (reader.rows(), reader.rejects()));
    Some((rows, rejects, true))
}

fuzz_target!(|data: &[u8]| {
    let Some((piece, bytes)) = data.split_first() else {
        return;
    };
    let Ok(guess) = infer(bytes, true) else {
        return;
    };
    let raw = RawTarget {
        sink: "jobs".to_owned(),
        task: Some("x".to_owned()),
        ..guess.raw
    };
    let (whole, cut) = (read(bytes, usize::MAX, &raw), read(bytes, usize::from(*piece) + 1, &raw));
    assert_eq!(whole, cut);
});
