//! Messages as rows: the same verdicts and the same fields as delimited text has.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use common::{declared, read_all};
use offloop_ingest::sink::json::JsonRows;
use offloop_ingest::target::Value;
use offloop_ingest::{Batch, MessageReader, Reader, Target};
use proptest::prelude::*;

fn every_kind(more: &str) -> Target {
    declared(&format!(
        r#"sink = "ndjson"
        path = "out"
        columns = [
            {{ name = "text", type = "text" }}, {{ name = "int", type = "int4", min = -5 }},
            {{ name = "big", type = "int8" }}, {{ name = "float", type = "float" }},
            {{ name = "decimal", type = "decimal(9,2)" }}, {{ name = "bool", type = "bool" }},
            {{ name = "date", type = "date" }}, {{ name = "time", type = "timestamp" }},
            {{ name = "uuid", type = "uuid" }}, {{ name = "json", type = "json" }},
            {{ name = "bytes", type = "bytes" }},
        ]
        {more}"#
    ))
}

fn table(batch: &Batch) -> Vec<Vec<Option<String>>> {
    let text = |field: Option<&[u8]>| field.map(|field| String::from_utf8(field.to_vec()).unwrap());
    let row = |row: offloop_ingest::Row<'_>| row.fields().map(text).collect();
    batch.rows().map(row).collect()
}

/// A message, and its fields or the code of its refusal.
type Case<'c> = (&'c str, Result<[Option<&'c str>; 2], &'c str>);

#[test]
fn a_message_that_is_no_row_leaves_nothing_in_the_batch_and_says_why() {
    let target = declared(
        r#"sink = "ndjson"
        path = "out"
        columns = [{ name = "id", type = "int4", null = false }, { name = "note", type = "text", required = false }]
        limits = { record_bytes = "1KiB" }"#,
    );
    let long = format!("{{\"id\": 1, \"note\": \"{}\"}}", "x".repeat(1_024));
    let deep = format!(
        "{{\"id\": 1, \"note\": {}1{}}}",
        "[".repeat(400),
        "]".repeat(400)
    );
    #[rustfmt::skip]
    let json: &[Case<'_>] = &[
        ("{\"id\": 7, \"note\": \"a\"}", Ok([Some("7"), Some("a")])),
        ("{\"id\": 7}", Ok([Some("7"), None])),
        ("{\"note\": null, \"id\": \"007\"}", Ok([Some("7"), None])),
        ("{\"id\": 7, \"note\": \"\"}", Ok([Some("7"), Some("")])),
        ("{\"id\": 7, \"note\": \"\\u00e4\\n\\\"\\ud83d\\ude00\"}", Ok([Some("7"), Some("ä\n\"😀")])),
        ("{\"i\\u0064\": 7, \"note\": 1.50}", Ok([Some("7"), Some("1.50")])),
        ("{\"id\": 7, \"note\": true}", Ok([Some("7"), Some("true")])),
        (" {\"id\": 7} \n", Ok([Some("7"), None])),
        ("{\"id\": 7}{\"id\": 8}", Err("not_object")),
        ("7", Err("not_object")),
        ("", Err("not_object")),
        ("{\"id\": 7,}", Err("not_object")),
        ("{\"id\": 07}", Err("not_object")),
        ("{\"id\": NaN}", Err("not_object")),
        ("{\"id\": 7.5}", Err("type")),
        ("{\"id\": 1e2}", Err("type")),
        ("{\"id\": 2147483648}", Err("range")),
        ("{\"id\": 99999999999999999999999999999}", Err("range")),
        ("{\"id\": true}", Err("type")),
        ("{\"id\": null}", Err("null")),
        ("{}", Err("missing_field")),
        ("{\"ID\": 7}", Err("unknown_field")),
        ("{\"id\": 7, \"note\": \"a\", \"note\": \"b\"}", Err("field_twice")),
        ("{\"id\": 7, \"note\": []}", Err("type")),
        ("{\"id\": 7, \"note\": \"\\u0000\"}", Err("nul")),
        ("{\"id\": 7, \"note\": \"\\udc00\"}", Err("encoding")),
        (&long, Err("message_too_long")),
        (&deep, Err("type")),
    ];
    #[rustfmt::skip]
    let csv: &[Case<'_>] = &[
        ("7,a", Ok([Some("7"), Some("a")])),
        ("7,\r\n", Ok([Some("7"), None])),
        ("7,\"a\nb\"\n", Ok([Some("7"), Some("a\nb")])),
        ("7", Err("columns")),
        ("7,a,b", Err("columns")),
        ("7,a\n8,b", Err("many_records")),
        ("7,\"a", Err("unclosed_quote")),
        ("", Err("columns")),
        ("x,a", Err("type")),
        ("id,note", Err("repeated_header")),
    ];
    for (value, cases) in [(Value::Json, json), (Value::Csv, csv)] {
        let mut reader = MessageReader::new(target.clone(), value, 0);
        let mut good = Vec::new();
        for (offset, (text, want)) in (0..).zip(cases) {
            let taken = reader.push(offset, Some(text.as_bytes()));
            match want {
                Ok(fields) => {
                    taken.unwrap_or_else(|reject| panic!("{text}: {reject}"));
                    let fields = fields.iter().copied();
                    good.push(
                        fields
                            .map(|field| field.map(str::to_owned))
                            .collect::<Vec<_>>(),
                    );
                }
                Err(code) => {
                    let reject = taken.expect_err(text);
                    assert_eq!(reject.reason.code(), *code, "{text}: {reject}");
                    assert_eq!((reject.row, reject.offset), (offset, offset));
                    reader.refuse(*reject);
                }
            }
        }
        assert_eq!(
            reader.push(1_000, None).unwrap_err().reason.code(),
            "no_value"
        );
        let batch = reader.cut(500);
        assert_eq!((batch.from(), batch.to()), (0, 500));
        assert_eq!(table(&batch), good);
        assert_eq!(batch.rejects().len(), cases.len() - good.len());
        reader.push(500, Some(cases[0].0.as_bytes())).unwrap();
        let batch = reader.cut(501);
        assert_eq!(
            (batch.from(), batch.to(), table(&batch).len()),
            (500, 501, 1)
        );
        assert_eq!(batch.row(0).offset(), 500);
    }
}

#[test]
fn invalid_utf_8_is_refused_and_not_mended() {
    let target = every_kind("extra_columns = \"ignore\"");
    let mut reader = MessageReader::new(target, Value::Json, 0);
    let taken = reader.push(0, Some(b"{\"text\": \"\xff\"}"));
    assert_eq!(taken.unwrap_err().reason.code(), "not_object");
}

fn field() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~äß\u{1f600}\t\n\"\\\\,]{0,12}",
        Just(String::new()),
        any::<i64>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        Just("2024-02-29".to_owned()),
        Just("2024-02-29T10:00:00Z".to_owned()),
        Just("yes".to_owned()),
        Just("00112233445566778899aabbccddeeff".to_owned()),
        Just("{\"a\": [1, null]}".to_owned()),
        Just("-3.50".to_owned()),
    ]
}

proptest! {
    /// What the sink for topics writes of a row, the consumer reads as the same row.
    #[test]
    fn a_row_that_went_through_a_topic_is_the_same_row(
        records in prop::collection::vec(prop::collection::vec(field(), 11), 1..20)
    ) {
        let target = every_kind("header = \"none\"");
        let mut out = csv::Writer::from_writer(Vec::new());
        for record in &records {
            out.write_record(record).unwrap();
        }
        let text = out.into_inner().unwrap();
        let mut reader = Reader::new(target.clone());
        let mut at = 0;
        while at < text.len() {
            at += reader.push(&text[at..]).unwrap();
        }
        let Some(batch) = reader.finish().unwrap() else { return Ok(()) };
        let json = JsonRows::new(target.columns());
        let mut back = MessageReader::new(target.clone(), Value::Json, 0);
        for (offset, row) in (0..).zip(batch.rows()) {
            let mut value = Vec::new();
            json.write(row, &mut value);
            let taken = back.push(offset, Some(&value));
            prop_assert!(taken.is_ok(), "{}: {}", String::from_utf8_lossy(&value), taken.unwrap_err());
        }
        prop_assert_eq!(table(&back.cut(1_000)), table(&batch));
    }

    /// One record a message is the same record as in a file.
    #[test]
    fn a_record_in_a_message_is_the_record_in_a_file(
        records in prop::collection::vec(prop::collection::vec(field(), 11), 1..10)
    ) {
        let target = every_kind("header = \"none\"");
        let mut back = MessageReader::new(target.clone(), Value::Csv, 0);
        for (offset, record) in (0..).zip(&records) {
            let mut out = csv::Writer::from_writer(Vec::new());
            out.write_record(record).unwrap();
            let text = out.into_inner().unwrap();
            let file = read_all(&target, &text, &[]);
            let taken = back.push(offset, Some(&text));
            match file.rejects.first() {
                None => prop_assert!(taken.is_ok()),
                Some(reject) => prop_assert_eq!(taken.unwrap_err().reason, reject.reason),
            }
            let rows: Vec<_> = file.rows.iter().map(|row| {
                row.fields.iter().map(|field| field.clone().map(|field| String::from_utf8(field).unwrap())).collect::<Vec<_>>()
            }).collect();
            prop_assert_eq!(table(&back.cut(offset + 1)), rows);
        }
    }
}
