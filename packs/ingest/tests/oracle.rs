//! The splitter and the reader beside the `csv` crate: any bytes, cut anywhere.
//!
//! Mode of the oracle: flexible, no header, doubled quotes, no escape byte, `\r`, `\n` and `\r\n`.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{read_all, target};
use offloop_ingest::split::{Record, Splitter};
use proptest::prelude::*;

/// Records as the `csv` crate sees them.
fn oracle(bytes: &[u8], delimiter: u8, quote: Option<u8>) -> Vec<Vec<Vec<u8>>> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .quote(quote.unwrap_or(b'"'))
        .quoting(quote.is_some())
        .from_reader(bytes)
        .byte_records()
        .map(|record| record.unwrap().iter().map(<[u8]>::to_vec).collect())
        .collect()
}

/// Records of the splitter, cut at `cuts`, each read on its own by the oracle.
fn split(bytes: &[u8], delimiter: u8, quote: Option<u8>, cuts: &[usize]) -> Vec<Record> {
    let mut splitter = Splitter::new(delimiter, quote);
    let mut records = Vec::new();
    let mut from = 0;
    for cut in cuts.iter().copied().chain([bytes.len()]) {
        splitter.push(&bytes[from..cut], |record| records.push(record));
        from = cut;
    }
    splitter.finish(|record| records.push(record));
    records
}

/// Bytes that mean something, and some that do not.
fn hostile() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        6 => Just(b'"'), 4 => Just(b','), 3 => Just(b'\n'), 2 => Just(b'\r'),
        4 => Just(b'a'), 1 => Just(b' '), 1 => Just(0), 1 => Just(0xc3), 1 => any::<u8>(),
    ];
    let short = prop::collection::vec(byte.clone(), 0..40);
    // Long runs of plain text put the interesting bytes at every place of a block.
    let padded = prop::collection::vec((0_usize..70, byte), 0..20).prop_map(|parts| {
        let mut bytes = Vec::new();
        for (run, byte) in parts {
            bytes.extend(std::iter::repeat_n(b'x', run));
            bytes.push(byte);
        }
        bytes
    });
    prop_oneof![short, padded]
}

fn cuts(len: usize, seeds: &[usize]) -> Vec<usize> {
    let mut cuts: Vec<_> = seeds.iter().map(|seed| seed % (len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

const MARK: &[u8] = b"\xef\xbb\xbf";

/// The oracle drops a byte order mark by itself; here that is the decoder's business. Where a record alone is
/// read by it, it is given one to drop.
fn has_mark(bytes: &[u8]) -> bool {
    bytes.starts_with(MARK)
}

/// Found by fuzzing: the first byte of a record is not the first one of its file.
#[test]
fn a_mark_within_a_file_is_a_part_of_its_field() {
    let bytes = [b"a,b\n", MARK, b"c,d\n"].concat();
    let whole = oracle(&bytes, b',', Some(b'"'));
    assert_eq!(whole[1], [[MARK, b"c"].concat(), b"d".to_vec()]);
    let target = target(2, "header = \"none\"\n");
    let read = read_all(&target, &bytes, &[]);
    let found = read.rows[1].fields[0].as_deref();
    assert_eq!(found, Some(&whole[1][0][..]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_record_is_split_otherwise_than_the_csv_crate_does(
        bytes in hostile(),
        seeds in prop::collection::vec(any::<usize>(), 0..12),
        quoting in any::<bool>(),
    ) {
        prop_assume!(!has_mark(&bytes));
        let quote = quoting.then_some(b'"');
        let records = split(&bytes, b',', quote, &cuts(bytes.len(), &seeds));
        let wanted = oracle(&bytes, b',', quote);
        prop_assert_eq!(records.len(), wanted.len());
        for (record, wanted) in records.iter().zip(&wanted) {
            let raw = &bytes[record.start as usize..record.end as usize];
            let alone = oracle(&[MARK, raw].concat(), b',', quote);
            prop_assert_eq!(alone.first(), Some(wanted), "record {:?}", record);
            prop_assert_eq!(alone.len(), 1);
            prop_assert_eq!(record.has_quotes, quoting && raw.contains(&b'"'));
        }
    }

    #[test]
    fn one_byte_at_a_time_gives_the_same_records_as_one_piece(bytes in hostile()) {
        let all: Vec<_> = (0..bytes.len()).collect();
        prop_assert_eq!(split(&bytes, b',', Some(b'"'), &all), split(&bytes, b',', Some(b'"'), &[]));
    }

    #[test]
    fn every_row_of_the_csv_crate_is_a_row_or_a_reject_with_its_reason(
        bytes in hostile(),
        seeds in prop::collection::vec(any::<usize>(), 0..12),
        columns in 1_usize..4,
    ) {
        prop_assume!(!has_mark(&bytes));
        // The oracle takes what is open at the end for a record; here its line is refused.
        let whole = split(&bytes, b',', Some(b'"'), &[]);
        prop_assume!(!whole.last().is_some_and(|record| record.is_unclosed));
        let target = target(columns, "header = \"none\"\nnull = [\"\\u0001\"]\n");
        let cuts = cuts(bytes.len(), &seeds);
        let read = read_all(&target, &bytes, &cuts);
        prop_assert!(read.error.is_none());
        let wanted = oracle(&bytes, b',', Some(b'"'));
        let (mut rows, mut rejects) = (read.rows.iter(), read.rejects.iter());
        for (at, record) in wanted.iter().enumerate() {
            let well = record.len() == columns
                && record.iter().all(|field| std::str::from_utf8(field).is_ok() && !field.contains(&0));
            if well && !record.iter().any(|field| field == b"\x01") {
                let row = rows.next().unwrap();
                prop_assert_eq!(row.number, at as u64 + 1);
                let fields: Vec<_> = row.fields.iter().map(|field| field.clone().unwrap()).collect();
                prop_assert_eq!(&fields, record);
            } else if well {
                rows.next();
            } else {
                let reject = rejects.next().unwrap();
                prop_assert_eq!(reject.row, at as u64 + 1);
                let code = if record.len() == columns { ["encoding", "nul"] } else { ["columns"; 2] };
                prop_assert!(code.contains(&reject.reason.code()));
            }
        }
        prop_assert!(rows.next().is_none() && rejects.next().is_none());
    }

    #[test]
    fn where_the_input_was_cut_changes_neither_batch_nor_row_nor_reject(
        bytes in hostile(),
        seeds in prop::collection::vec(any::<usize>(), 0..12),
        rows in 1_u32..5,
    ) {
        let extra = format!("header = \"none\"\nbatch = {{ rows = {rows} }}\n");
        let target = target(2, &extra);
        let whole = read_all(&target, &bytes, &[]);
        let cut = read_all(&target, &bytes, &cuts(bytes.len(), &seeds));
        prop_assert_eq!(whole, cut);
    }
}
