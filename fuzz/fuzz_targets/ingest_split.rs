//! Any bytes, cut anywhere: the splitter's records are those of the `csv` crate, and the reader
//! makes a row or a reject of each, whatever the pieces. The first two bytes choose cuts and quote.
#![no_main]

use libfuzzer_sys::fuzz_target;
use offloop_ingest::split::{Record, Splitter};

const MARK: &[u8] = b"\xef\xbb\xbf";

fn oracle(bytes: &[u8], quote: Option<u8>) -> Vec<csv::ByteRecord> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .quote(quote.unwrap_or(b'"'))
        .quoting(quote.is_some())
        .from_reader(bytes)
        .byte_records()
        .map(|record| record.expect("bytes have no bad records"))
        .collect()
}

fn split(bytes: &[u8], quote: Option<u8>, piece: usize) -> Vec<Record> {
    let mut splitter = Splitter::new(b',', quote);
    let mut records = Vec::new();
    for piece in bytes.chunks(piece) {
        splitter.push(piece, |record| records.push(record));
    }
    splitter.finish(|record| records.push(record));
    records
}

fuzz_target!(|data: &[u8]| {
    let [piece, quoting, bytes @ ..] = data else {
        return;
    };
    if bytes.starts_with(MARK) {
        return; // the oracle drops it, here the decoder does
    }
    let quote = (quoting & 1 == 0).then_some(b'"');
    let records = split(bytes, quote, usize::from(*piece) + 1);
    assert_eq!(records, split(bytes, quote, usize::MAX));
    let wanted = oracle(bytes, quote);
    assert_eq!(records.len(), wanted.len());
    for (record, wanted) in records.iter().zip(&wanted) {
        // The oracle drops a mark where it begins, and here that is within the input.
        let record = &bytes[record.start as usize..record.end as usize];
        let alone = oracle(&[MARK, record].concat(), quote);
        assert_eq!(alone.len(), 1);
        assert_eq!(&alone[0], wanted);
    }
});
