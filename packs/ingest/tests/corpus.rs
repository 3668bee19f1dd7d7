//! Every file of a folder of real and broken files, beside the `csv` crate.
//!
//! `bench/rivals/csv-corpus.sh FOLDER` fetches them; OFFLOOP_TEST_CSV names the folder.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::io::Write as _;
use std::path::{Path, PathBuf};

use offloop_ingest::split::Splitter;
use offloop_ingest::{DecodeError, Decoder, RawTarget, Reader};

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().flatten().collect();
    entries.sort_by_key(std::fs::DirEntry::path);
    for entry in entries {
        let path = entry.path();
        if path.is_dir() {
            files(&path, found);
        } else if path
            .extension()
            .is_some_and(|end| end == "csv" || end == "tsv")
        {
            found.push(path);
        }
    }
}

/// Records, fields, and bytes of fields of the oracle.
fn oracle(bytes: &[u8], delimiter: u8) -> (u64, u64, u64) {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .from_reader(bytes);
    let (mut sums, mut record) = ((0, 0, 0), csv::ByteRecord::new());
    while reader.read_byte_record(&mut record).unwrap() {
        sums.0 += 1;
        sums.1 += record.len() as u64;
        sums.2 += record.as_slice().len() as u64;
    }
    sums
}

fn ours(bytes: &[u8], delimiter: u8) -> (u64, u64, u64) {
    let mut splitter = Splitter::new(delimiter, Some(b'"'));
    let mut records = Vec::new();
    for piece in bytes.chunks(777) {
        splitter.push(piece, |record| records.push(record));
    }
    splitter.finish(|record| records.push(record));
    let mut sums = (0, 0, 0);
    for record in records {
        let alone = oracle(
            &bytes[record.start as usize..record.end as usize],
            delimiter,
        );
        assert_eq!(alone.0, 1);
        sums = (sums.0 + 1, sums.1 + alone.1, sums.2 + alone.2);
    }
    sums
}

#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a test that is told where its files are"
)]
fn no_real_or_broken_file_is_read_otherwise_than_the_csv_crate_reads_it() {
    let Some(folder) = std::env::var_os("OFFLOOP_TEST_CSV") else {
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED corpus: set OFFLOOP_TEST_CSV to run it"
        ); // past the capture
        return;
    };
    let mut found = Vec::new();
    files(Path::new(&folder), &mut found);
    assert!(found.len() > 10, "only {} files in {folder:?}", found.len());
    let (mut records, mut inferred, mut refused) = (0, 0, 0);
    for path in &found {
        let bytes = std::fs::read(path).unwrap();
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&bytes);
        for delimiter in [b',', b';', b'\t'] {
            let wanted = oracle(bytes, delimiter);
            assert_eq!(ours(bytes, delimiter), wanted, "{}", path.display());
            records += wanted.0;
        }
        let sample = &bytes[..bytes.len().min(256 << 10)];
        if let Ok(guess) = offloop_ingest::infer(sample, sample.len() == bytes.len()) {
            inferred += 1;
            refused += read_through(&guess.raw, bytes, path);
        }
    }
    println!(
        "{} files, {records} records in three readings, {inferred} declarations, {refused} rows refused",
        found.len()
    );
}

/// Reads a whole file by what was inferred of its beginning: every record is a row or a reject.
fn read_through(raw: &RawTarget, bytes: &[u8], path: &Path) -> u64 {
    let raw = RawTarget {
        sink: "jobs".to_owned(),
        task: Some("x".to_owned()),
        ..raw.clone()
    };
    let target = raw.resolve("t").unwrap();
    let mut decoder = Decoder::new(target.format(), target.limits());
    let mut reader = Reader::new(target);
    let (mut rows, mut refused) = (0, 0);
    let mut count = |batch: offloop_ingest::Batch| {
        rows += batch.len() as u64;
        refused += batch.rejects().len() as u64;
    };
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        let step = decoder.push(rest, &mut text);
        let Ok(step) = step else {
            assert!(
                matches!(step, Err(DecodeError::Utf16)),
                "{}: {step:?}",
                path.display()
            );
            return 0;
        };
        rest = &rest[step.taken..];
        if rest.is_empty() && !step.more {
            break;
        }
    }
    decoder.finish(&mut text).unwrap();
    let mut rest = &text[..];
    while !rest.is_empty() {
        let taken = match reader.push(rest) {
            Ok(taken) => taken,
            Err(error) => panic!("{}: {error}", path.display()),
        };
        rest = &rest[taken..];
        reader.take_batch().map(&mut count);
    }
    while let Some(batch) = reader.finish().unwrap() {
        count(batch);
    }
    assert_eq!(rows + refused, reader.rows(), "{}", path.display());
    assert_eq!(refused, reader.rejects(), "{}", path.display());
    refused
}
