//! Declarations from samples, and that what is printed is read back as what was meant.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use offloop_ingest::{InferError, Inferred, RawTarget, infer};
use proptest::prelude::*;

fn kinds(guess: &Inferred) -> Vec<(&str, &str)> {
    let columns = guess.raw.columns.iter();
    columns
        .map(|column| (column.name.as_str(), column.kind.as_str()))
        .collect()
}

#[test]
fn types_are_those_that_hold_for_every_value_and_codes_stay_text() {
    let sample = "id,Zip Code,price,big,active,born,at,uid,extra,note,mostly\n\
        1,01067,9.5,4294967294,true,1990-01-31,2024-01-31T10:00:00Z,0190163d-8694-739b-aea5-966c26f8ad91,{\"a\":1},x,1\n\
        2,99999,10,1,false,NULL,2024-01-31 10:00,0190163d-8694-739b-aea5-966c26f8ad92,[],,2\n\
        3,12345,,-7,false,2001-12-01,2024-02-01T10:00:00+01:00,0190163d-8694-739b-aea5-966c26f8ad93,\"{}\",y,three\n";
    let guess = infer(sample.as_bytes(), true).unwrap();
    assert_eq!(
        kinds(&guess),
        [
            ("id", "int"),
            ("Zip_Code", "text"),
            ("price", "float"),
            ("big", "int"),
            ("active", "bool"),
            ("born", "date"),
            ("at", "timestamp"),
            ("uid", "uuid"),
            ("extra", "json"),
            ("note", "text"),
            ("mostly", "text"),
        ]
    );
    assert_eq!(guess.raw.columns[1].from.as_deref(), Some("Zip Code"));
    assert_eq!(
        guess.raw.null.as_deref(),
        Some(&[String::new(), "NULL".to_owned()][..])
    );
    assert_eq!(guess.raw.header.as_deref(), Some("present"));
}

#[test]
fn the_delimiter_is_the_one_that_makes_the_same_columns_of_most_lines() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, usize)] = &[
        ("a;b\n1,5;2\n3,5;4\n", ";", 2), ("a\tb\tc\n1\t2\t3\n", "tab", 3), ("a|b\n1|2\n", "|", 2),
        ("a,b\n\"x;y;z\",2\n\"x;y;z\",4\n", ",", 2), ("one\ntwo\n", ",", 1), ("a,b\n1,2\n3\n4,5\n", ",", 2),
        ("\"a\nb\",2\n\"c\n;d\",4\n", ",", 2),
    ];
    for (sample, delimiter, columns) in cases {
        let guess = infer(sample.as_bytes(), true).unwrap();
        assert_eq!(
            guess.raw.delimiter.as_deref(),
            Some(*delimiter),
            "{sample:?}"
        );
        assert_eq!(guess.raw.columns.len(), *columns, "{sample:?}");
    }
    let single = infer(b"'a,1','b'\n'c','d,2'\n'e','f'\n", true).unwrap();
    assert_eq!(
        (single.raw.quote.as_deref(), single.raw.columns.len()),
        (Some("'"), 2)
    );
}

#[test]
fn a_first_row_of_values_is_no_header() {
    let header = |sample: &str| infer(sample.as_bytes(), true).unwrap().raw.header.unwrap();
    assert_eq!(header("1,ann\n2,ben\n"), "none");
    assert_eq!(header("id,name\n1,ann\n"), "present");
    assert_eq!(header("ann,leeds\nben,york\nann,hull\n"), "none");
    assert_eq!(header("name,town\nann,leeds\n"), "present");
    // Something above the table.
    assert_eq!(header("# our people!\nid,name\n1,ann\n2,ben\n"), "skip");
    // Names that no column could be found by: positions then.
    assert_eq!(header("id,id\n1,2\n"), "skip");
    assert_eq!(header("id,\n1,2\n"), "skip");
}

#[test]
fn encodings_and_packing_are_seen_and_a_cut_sample_is_not_taken_for_its_end() {
    let guess = infer(b"name,n\nK\xe4se,1\n", true).unwrap();
    assert_eq!(guess.raw.encoding, Some(offloop_ingest::Encoding::Latin1));
    let guess = infer(b"name,n\nK\xe4se \x80,1\n", true).unwrap();
    assert_eq!(
        guess.raw.encoding,
        Some(offloop_ingest::Encoding::Windows1252)
    );
    let utf16: Vec<u8> = "\u{feff}name,n\nx,1\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let guess = infer(&utf16, true).unwrap();
    assert_eq!(guess.raw.encoding, Some(offloop_ingest::Encoding::Utf16));
    assert_eq!(kinds(&guess), [("name", "text"), ("n", "int")]);
    // Cut in the middle of a character, a number and a record.
    let guess = infer(
        "name,n\n\u{e4},1\n\u{e4}"
            .as_bytes()
            .split_last()
            .unwrap()
            .1,
        false,
    )
    .unwrap();
    assert_eq!(guess.raw.encoding, Some(offloop_ingest::Encoding::Utf8));
    assert_eq!(
        infer(b"id\n12\n3x", false).unwrap().raw.columns[0].kind,
        "int"
    );
    assert_eq!(
        infer(b"id\n12\n3x", true).unwrap().raw.columns[0].kind,
        "text"
    );
    assert_eq!(infer(b"", true).unwrap_err(), InferError::Empty);
    assert_eq!(infer(b"no end", false).unwrap_err(), InferError::NoRecord);
    assert_eq!(infer(b"a\0b\n", true).unwrap_err(), InferError::Binary);
}

#[test]
fn a_printed_declaration_says_what_to_look_at() {
    let guess = infer(b"code,\"say \"\"x\"\"\"\n1,NULL\n2,5\n2,3,4\n", true).unwrap();
    let toml = guess.into_toml("my-codes").unwrap();
    assert_eq!(
        toml,
        "# Look at this: 1 of 4 records have another number of fields and will be refused\n\
         # Look at this: `NULL` in column 2 is taken for null, in every column\n\
         [ingest.targets.my-codes]\nsink = \"sqlite\"\npath = \"my-codes.db\"\ntable = \"my_codes\"\ncreate = true\n\
         header = \"present\"\ndelimiter = \",\"\nquote = \"\\\"\"\nencoding = \"utf-8\"\n\
         null = [\"\", \"NULL\"]\ncolumns = [\n  { name = \"code\", type = \"int\" },\n  \
         { name = \"say_x\", from = \"say \\\"x\\\"\", type = \"int\" },\n]\n"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..Default::default() })]

    #[test]
    fn no_sample_makes_a_declaration_that_reads_back_otherwise(
        sample in prop_oneof![
            "([a-z\"'\\\\,;\t|\u{e4}\r 0-9.-]{0,12}[,;\t|\n]){0,30}",
            prop::collection::vec(any::<u8>(), 0..200).prop_map(|bytes| String::from_utf8_lossy(&bytes).into_owned()),
        ],
        is_whole in any::<bool>(),
    ) {
        let Ok(guess) = infer(sample.as_bytes(), is_whole) else { return Ok(()); };
        let target = guess.target("t").unwrap();
        let printed = guess.into_toml("t").unwrap();
        let read: toml::Value = toml::from_str(&printed).unwrap();
        let raw: RawTarget = read["ingest"]["targets"]["t"].clone().try_into().unwrap();
        prop_assert_eq!(raw.resolve("t").unwrap(), target);
    }
}
