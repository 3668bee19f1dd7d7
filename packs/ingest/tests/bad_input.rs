//! What a bad row, a bad header or a hostile file costs: one reject each, told exactly.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{declared, read_all, target};
use offloop_ingest::{Finish, HeaderError, ReadError, Reader};

/// What it is, the file, and the rows and codes of its rejects.
type Case = (&'static str, &'static [u8], &'static [(u64, &'static str)]);

/// Columns `id int4`, `name text`, with a header.
fn people(extra: &str) -> offloop_ingest::Target {
    declared(&format!(
        "sink = \"ndjson\"\npath = \"out\"\ncolumns = [\n\
         {{ name = \"id\", type = \"int4\", null = false }},\n\
         {{ name = \"name\", type = \"text\" }},\n]\n{extra}"
    ))
}

#[test]
fn one_bad_row_never_takes_its_neighbours_along() {
    #[rustfmt::skip]
    let cases: &[Case] = &[
        ("out of int4 range",      b"id,name\n1,a\n4294967294,b\n3,c\n",      &[(2, "range")]),
        ("not a number",           b"id,name\n1,a\nx,b\n3,c\n",               &[(2, "type")]),
        ("null key",               b"id,name\n1,a\n,b\n3,c\n",                &[(2, "null")]),
        ("too few fields",         b"id,name\n1,a\n2\n3,c\n",                 &[(2, "columns")]),
        ("too many fields",        b"id,name\n1,a\n2,b,b\n3,c\n",             &[(2, "columns")]),
        ("invalid UTF-8",          b"id,name\n1,a\n2,\xff\xfe\n3,c\n",        &[(2, "encoding")]),
        ("Latin-1 in UTF-8",       b"id,name\n1,a\n2,caf\xe9\n3,c\n",         &[(2, "encoding")]),
        ("NUL",                    b"id,name\n1,a\n2,b\0c\n3,c\n",            &[(2, "nul")]),
        ("header once more",       b"id,name\n1,a\nid,name\n3,c\n",           &[(2, "repeated_header")]),
        ("header, quoted",         b"id,name\n1,a\n\"id\",\"name\"\n3,c\n",   &[(2, "repeated_header")]),
        ("open quote at the end",  b"id,name\n1,a\n2,\"b\n3,c\n",             &[(2, "unclosed_quote")]),
        ("empty lines",            b"id,name\r\n\r\n1,a\n\n\n3,c\r\n\r\n",    &[]),
        ("carriage returns",       b"id,name\r1,a\r3,c",                      &[]),
        ("text after a quote",     b"id,name\n1,\"a\"\n3,\"c\"c\n",           &[]),
        ("quote inside text",      b"id,name\n1,a\n3,5\"c\n",                 &[]),
    ];
    for (what, bytes, refused) in cases {
        let read = read_all(&people(""), bytes, &[]);
        assert!(read.error.is_none(), "{what}: {:?}", read.error);
        assert_eq!(&read.refused(), refused, "{what}");
        let ids: Vec<_> = read.table().iter().map(|row| row[0].clone()).collect();
        assert_eq!(ids, ["1", "3"], "{what}");
    }
}

#[test]
fn a_reject_says_where_it_stood_and_what_was_written() {
    let bytes = b"id,name\r\n1,\"multi\nline\"\r\nfour,\"x\"\"y\"\r\n5,z\r\n";
    let read = read_all(&people(""), bytes, &[3, 20, 31]);
    let [reject] = &read.rejects[..] else {
        panic!("{:?}", read.rejects);
    };
    assert_eq!(&bytes[reject.offset as usize..][..4], b"four");
    assert_eq!(reject.to_string(), "row 2 (byte 25), column `id`: not int4");
    let line: serde_json::Value = serde_json::to_value(reject).unwrap();
    assert_eq!(
        line,
        serde_json::json!({
            "row": 2, "offset": 25, "column": "id", "reason": "type", "message": "not int4",
            "raw": "four,\"x\"\"y\"", "raw_bytes": 11,
        })
    );
}

#[test]
fn a_raw_row_in_a_reject_is_capped() {
    let mut bytes = b"id,name\nx,".to_vec();
    bytes.extend(std::iter::repeat_n(b'y', 100_000));
    let read = read_all(&people(""), &bytes, &[]);
    assert_eq!(read.rejects[0].raw.len(), offloop_ingest::RAW_BYTES_MAX);
    assert_eq!(read.rejects[0].raw_bytes, 100_002);
}

#[test]
fn a_header_that_does_not_fit_is_told_by_its_names() {
    let header = |bytes: &[u8]| match read_all(&people(""), bytes, &[]).error {
        Some(ReadError::Header(error)) => error,
        other => panic!("{other:?}"),
    };
    assert_eq!(header(b""), HeaderError::Missing);
    assert_eq!(header(b"\n\r\n"), HeaderError::Missing);
    assert_eq!(header(b"id,\"name\n1,a\n"), HeaderError::UnclosedQuote);
    assert_eq!(header(b"id,n\xff\n"), HeaderError::NotText { field: 2 });
    assert!(matches!(
        header(b"id,name,id\n"),
        HeaderError::Duplicate {
            first: 1,
            second: 3,
            ..
        }
    ));
    assert_eq!(
        header(b"id,nom,extra\n1,a,b\n").to_string(),
        "the header does not fit the target: missing: name; of no column: nom, extra; \
         its fields are: id, nom, extra"
    );
    // A file without a header, where one is wanted.
    assert!(matches!(
        header(b"1,ann\n2,ben\n"),
        HeaderError::Mismatch { .. }
    ));
}

#[test]
fn columns_are_found_by_name_in_any_order_and_extra_ones_go_unread() {
    let mixed = people("extra_columns = \"ignore\"\n");
    let read = read_all(&mixed, b"x,name,\"id\",x\nq,ann,1,\xff\n", &[]);
    assert_eq!(read.table(), [["1", "ann"]]);
    let skip = people("header = \"skip\"\n");
    assert_eq!(
        read_all(&skip, b"what,ever,else\n1,ann\n", &[]).table(),
        [["1", "ann"]]
    );
    let optional = declared(
        "sink = \"ndjson\"\npath = \"out\"\ncolumns = [{ name = \"id\", type = \"int\", from = \"No.\" }, \
         { name = \"note\", type = \"text\", required = false }]",
    );
    assert_eq!(
        read_all(&optional, b"No.\n007\n", &[]).table(),
        [["7", "~"]]
    );
}

#[test]
fn stop_ends_at_the_bad_row_and_keeps_what_was_before() {
    let bytes = b"id,name\n1,a\nx,b\ny,c\n4,d\n";
    let stop = read_all(&people("on_bad_row = \"stop\"\n"), bytes, &[]);
    assert_eq!(stop.table(), [["1", "a"]]);
    let Some(ReadError::BadRow { reject }) = &stop.error else {
        panic!("{:?}", stop.error);
    };
    assert_eq!((reject.row, reject.offset), (2, 12));
    // Whoever resumes meets the same row again.
    let (_, checkpoint) = stop.batches.last().unwrap();
    assert_eq!(
        (checkpoint.offset, checkpoint.row, checkpoint.rejects),
        (12, 1, 0)
    );

    let bear = read_all(&people("on_bad_row = { stop_after = 1 }\n"), bytes, &[]);
    assert_eq!(bear.refused(), [(2, "type")]);
    assert!(matches!(&bear.error, Some(ReadError::BadRow { reject }) if reject.row == 3));
}

/// Record limit 1,024 bytes.
fn small(extra: &str) -> offloop_ingest::Target {
    target(
        2,
        &format!("header = \"none\"\nlimits = {{ record_bytes = 1024 }}\n{extra}"),
    )
}

#[test]
fn a_quote_that_never_closes_costs_its_line_and_not_the_file() {
    let mut bytes = b"a,b\n1,\"open\n".to_vec();
    for row in 0..500 {
        bytes.extend(format!("{row},fine row\n").bytes());
    }
    let read = read_all(&small(""), &bytes, &[]);
    assert_eq!(read.refused(), [(2, "record_too_long")]);
    assert_eq!(read.rejects[0].raw, b"1,\"open");
    assert_eq!(read.rows.len(), 501);
    assert_eq!(read.rows.last().unwrap().number, 502);
    let cuts: Vec<_> = (0..bytes.len()).collect();
    assert_eq!(read_all(&small(""), &bytes, &cuts), read);
}

#[test]
fn a_line_without_end_is_one_reject_and_the_next_line_is_well() {
    for quote in ["", "\""] {
        let mut bytes = format!("a,b\n{quote}").into_bytes();
        bytes.extend(std::iter::repeat_n(b'x', 300_000));
        bytes.extend(b"\r\nc,d\n");
        let read = read_all(&small(""), &bytes, &[]);
        assert_eq!(read.refused(), [(2, "record_too_long")]);
        assert_eq!(read.rejects[0].raw_bytes, 300_000 + quote.len() as u64);
        assert_eq!(read.table(), [["a", "b"], ["c", "d"]]);
        let cuts: Vec<_> = (0..bytes.len()).step_by(997).collect();
        assert_eq!(read_all(&small(""), &bytes, &cuts), read);
        // At the end of everything, too.
        let cut = read_all(&small(""), &bytes[..200_000], &[]);
        assert_eq!(cut.refused(), [(2, "record_too_long")]);
        assert_eq!(cut.rejects[0].raw_bytes, 200_000 - 4);
    }
}

#[test]
fn the_limit_of_a_record_is_exact() {
    for (len, refused) in [(1_024, 0), (1_025, 1)] {
        for end in ["", "\n", "\r\n"] {
            let mut bytes = b"a,".to_vec();
            bytes.resize(len, b'x');
            bytes.extend(end.bytes());
            for cuts in [vec![], (0..bytes.len()).collect()] {
                let read = read_all(&small(""), &bytes, &cuts);
                assert_eq!(read.rejects.len(), refused, "{len} {end:?}");
                assert_eq!(read.rows.len(), 1 - refused, "{len} {end:?}");
            }
        }
    }
}

/// Each line ends inside quotes wherever one begins to read: without a bound every line would
/// cost a second reading of everything up to the limit.
#[test]
fn lines_made_to_be_read_again_cost_a_bounded_time() {
    let line = b"a\",\"\n";
    let lines = 400_000;
    let bytes = line.repeat(lines);
    let limits = "header = \"none\"\nlimits = { record_bytes = \"256KiB\" }\n";
    let mut reader = Reader::new(target(2, limits));
    let (mut at, mut calls, mut rejects) = (0, 0, 0);
    while at < bytes.len() {
        at += reader.push(&bytes[at..]).unwrap();
        rejects += reader.take_batch().map_or(0, |batch| batch.rejects().len());
        calls += 1;
    }
    while let Some(batch) = reader.finish().unwrap() {
        rejects += batch.rejects().len();
    }
    // A call scans 256 KiB at most: sixteen readings of everything, and each slice's own call.
    let most = 17 * bytes.len() / (256 << 10) + 2 * bytes.len() / (64 << 10) + rejects;
    assert!(calls <= most, "{calls} calls, at most {most}");
    assert!(rejects >= bytes.len() / (256 << 10), "{rejects}");
}

#[test]
fn a_record_of_nothing_but_delimiters_keeps_no_more_than_it_may() {
    let mut bytes = b",".repeat(1 << 20);
    bytes.extend(b"\na,b\n");
    let read = read_all(&target(2, "header = \"none\"\n"), &bytes, &[]);
    assert_eq!(read.refused(), [(1, "columns")]);
    assert_eq!(
        read.rejects[0].reason.to_string(),
        "1048577 fields, 2 expected"
    );
    assert_eq!(read.table(), [["a", "b"]]);
}

#[test]
fn null_is_what_was_declared_and_quotes_keep_text_from_it() {
    let target = declared(
        "sink = \"ndjson\"\npath = \"out\"\nheader = \"none\"\nnull = [\"\", \"NULL\"]\n\
         columns = [{ name = \"a\", type = \"text\" }, { name = \"b\", type = \"int\" }]",
    );
    let bytes = b"NULL,NULL\n\"NULL\",\"NULL\"\n,\n\"\",\"\"\nnull,1\n";
    let read = read_all(&target, bytes, &[]);
    assert_eq!(
        read.table(),
        [
            ["~", "~"],
            ["NULL", "~"],
            ["~", "~"],
            ["", "~"],
            ["null", "1"]
        ]
    );
    assert!(read.rejects.is_empty());
}

/// The end of an input may hold as much as a record that is to be read again: in slices, like the rest.
#[test]
fn the_end_of_an_input_holds_no_thread_up() {
    let target = target(
        1,
        "header = \"none\"\nlimits = { record_bytes = \"16MiB\" }",
    );
    let mut text = b"\"never closed\n".to_vec();
    while text.len() < 8 << 20 {
        text.extend_from_slice(b"a line of some length as lines are\n");
    }
    let mut reader = Reader::new(target.clone());
    let mut at = 0;
    while at < text.len() {
        at += reader.push(&text[at..]).unwrap();
        assert!(
            reader.take_batch().is_none(),
            "all of it is one record so far"
        );
    }
    let (mut calls, mut rows, mut rejects) = (0, 0, 0);
    loop {
        calls += 1;
        match reader.finish_slice().unwrap() {
            Finish::Batch(batch) => {
                rows += batch.len();
                rejects += batch.rejects().len();
            }
            Finish::More => {}
            Finish::Done => break,
        }
    }
    assert_eq!(
        (rows, rejects),
        (text.split(|byte| *byte == b'\n').count() - 2, 1)
    );
    assert!(calls >= 32, "8 MiB in slices of 256 KiB: {calls}");
}
