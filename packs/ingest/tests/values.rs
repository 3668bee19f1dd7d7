//! Each type: what passes and in which form, what does not and why.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::{declared, read_all};
use proptest::prelude::*;

/// The form in which `text` is handed on inside quotes, or the code of its reject.
fn one(kind: &str, text: &str) -> Result<String, &'static str> {
    read_one(kind, &format!("\"{}\"\n", text.replace('"', "\"\"")))
}

fn read_one(kind: &str, field: &str) -> Result<String, &'static str> {
    let target = declared(&format!(
        "sink = \"ndjson\"\npath = \"out\"\nheader = \"none\"\nnull = [\"~\"]\n\
         columns = [{{ name = \"x\", {kind} }}]"
    ));
    let read = read_all(&target, field.as_bytes(), &[]);
    match read.rejects.first() {
        Some(reject) => Err(reject.reason.code()),
        None => Ok(read.table()[0][0].clone()),
    }
}

#[test]
fn no_value_is_changed_and_none_passes_that_the_type_cannot_keep() {
    let (int2, int4, int) = (
        "type = \"int2\"",
        "type = \"int\", bits = 32",
        "type = \"int\"",
    );
    let (float, decimal) = ("type = \"float\"", "type = \"decimal(5,2)\"");
    let (boolean, date, uuid) = ("type = \"bool\"", "type = \"date\"", "type = \"uuid\"");
    let (json, bytes, time) = (
        "type = \"json\"",
        "type = \"bytes\"",
        "type = \"timestamp\"",
    );
    let id = "0190163d-8694-739b-aea5-966c26f8ad91";
    let long = "1".repeat(400);
    #[rustfmt::skip]
    let cases: &[(&str, &str, Result<&str, &str>)] = &[
        (int2, "32767", Ok("32767")), (int2, "32768", Err("range")), (int2, "-32768", Ok("-32768")),
        (int4, "2147483647", Ok("2147483647")), (int4, "4294967294", Err("range")),
        (int, "9223372036854775807", Ok("9223372036854775807")), (int, "9223372036854775808", Err("range")),
        (int, "-9223372036854775808", Ok("-9223372036854775808")), (int, "-9223372036854775809", Err("range")),
        (int, "99999999999999999999999", Err("range")), (int, &long, Err("range")),
        (int, "+5", Ok("5")), (int, "007", Ok("7")), (int, "-0", Ok("0")), (int, "0", Ok("0")),
        (int, "", Err("type")), (int, "-", Err("type")), (int, "1.0", Err("type")), (int, "1e3", Err("type")),
        (int, "٣", Err("type")), (int, "1 ", Err("type")), (int, "0x10", Err("type")), (int, "1,000", Err("type")),
        (float, "1.5", Ok("1.5")), (float, ".5", Ok("0.5")), (float, "5.", Ok("5")), (float, "+1E+3", Ok("1E+3")),
        (float, "-00.50", Ok("-0.50")), (float, "1e308", Ok("1e308")), (float, "1e309", Err("range")),
        (float, "nan", Err("type")), (float, "inf", Err("type")), (float, ".", Err("type")), (float, "1e", Err("type")),
        (float, "1e+", Err("type")), (float, &long, Err("range")),
        (decimal, "123.45", Ok("123.45")), (decimal, "1234", Err("range")), (decimal, "1.234", Err("range")),
        (decimal, "1.2300", Ok("1.23")), (decimal, "-.5", Ok("-0.5")), (decimal, "000123.4", Ok("123.4")),
        (decimal, "1e2", Err("type")), (decimal, "", Err("type")),
        ("type = \"decimal(38,0)\"", "99999999999999999999999999999999999999", Ok("99999999999999999999999999999999999999")),
        ("type = \"decimal(5,2)\", max = 100.5", "100.50", Ok("100.50")), ("type = \"decimal(5,2)\", max = 100.5", "100.51", Err("range")),
        ("type = \"int\", min = 1, max = 3", "0", Err("range")), ("type = \"int\", min = 1, max = 3", "3", Ok("3")),
        ("type = \"float\", min = 0", "-0.001", Err("range")), ("type = \"float\", max = 1.5", "1.5", Ok("1.5")),
        (boolean, "TRUE", Ok("true")), (boolean, "n", Ok("false")), (boolean, "0", Ok("false")), (boolean, "maybe", Err("type")),
        (date, "2024-02-29", Ok("2024-02-29")), (date, "2023-02-29", Err("type")), (date, "1900-02-29", Err("type")),
        (date, "2000-02-29", Ok("2000-02-29")), (date, "2024-13-01", Err("type")), (date, "2024-00-10", Err("type")),
        (date, "01/02/2024", Err("type")), (date, "0000-01-01", Err("type")), (date, "2024-2-9", Err("type")),
        (time, "2024-02-29T23:59:59.123456Z", Ok("2024-02-29T23:59:59.123456Z")), (time, "2024-02-29 23:59", Ok("2024-02-29 23:59")),
        (time, "2024-02-29T24:00:00", Err("type")), (time, "2024-02-29T23:59:60Z", Err("type")), (time, "2024-02-29", Err("type")),
        (time, "2024-02-29T23:59:59+02:00", Ok("2024-02-29T23:59:59+02:00")), (time, "2024-02-29T23:59:59+0260", Err("type")),
        (time, "2024-02-29T23:59:59.", Err("type")), (time, "2024-02-29T23:59:59 ", Err("type")),
        (uuid, id, Ok(id)), (uuid, "0190163D8694739BAEA5966C26F8AD91", Ok(id)), (uuid, "0190163d-8694-739b-aea5-966c26f8ad9", Err("type")),
        (uuid, "0190163d8-694-739b-aea5-966c26f8ad91", Err("type")), (uuid, "------------------------------------", Err("type")),
        (json, "{\"a\": [1, null]}", Ok("{\"a\": [1, null]}")), (json, "{a: 1}", Err("type")), (json, "{} {}", Err("type")), (json, "", Err("type")),
        (json, "[\"\\u0000\"]", Err("type")), (json, "\"\\ud800\"", Err("type")), (json, "{\"a\":1,\"a\":2}", Ok("{\"a\":1,\"a\":2}")), (json, "1e999", Err("type")),
        (bytes, "\\xdeadBEEF", Ok("deadBEEF")), (bytes, "00ff", Ok("00ff")), (bytes, "0", Err("type")), (bytes, "zz", Err("type")),
        ("type = \"text\", max_bytes = 3", "abc", Ok("abc")), ("type = \"text\", max_bytes = 3", "ab\u{e9}", Err("field_too_long")),
        ("type = \"text\"", "a\"b", Ok("a\"b")), ("type = \"text\"", "", Ok("")), ("type = \"text\"", " a ", Ok(" a ")),
    ];
    for (kind, text, wanted) in cases {
        assert_eq!(
            one(kind, text).as_deref(),
            wanted.as_deref(),
            "{kind} {text:?}"
        );
    }
    let deep = format!("{}1{}", "[".repeat(10_000), "]".repeat(10_000));
    assert_eq!(
        one(json, &deep),
        Err("type"),
        "readers behind the sink would not hold it"
    );
}

#[test]
fn blanks_around_numbers_go_and_those_around_text_stay_unless_trim_says_otherwise() {
    let columns = "columns = [{ name = \"a\", type = \"int\" }, { name = \"b\", type = \"text\" }]";
    let base = format!("sink = \"ndjson\"\npath = \"out\"\nheader = \"none\"\n{columns}\n");
    let bytes = b" 7\t,  x \n  ,  \n1,\" y \"\n";
    let as_is = read_all(&declared(&base), bytes, &[]).table();
    assert_eq!(as_is, [["7", "  x "], ["~", "  "], ["1", " y "]]);
    let trim = read_all(&declared(&format!("{base}trim = true\n")), bytes, &[]).table();
    assert_eq!(trim, [["7", "x"], ["~", "~"], ["1", " y "]]);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..Default::default() })]

    /// What passes is a JSON number with the value that Rust reads in the text as it was written.
    #[test]
    fn a_number_keeps_its_value_and_can_be_written_as_json(
        text in "[-+]?0{0,2}[0-9]{0,20}(\\.[0-9]{0,8})?([eE][-+]?[0-9]{1,3})?"
    ) {
        if let Ok(form) = one("type = \"float\"", &text) {
            let bits = |text: &str| text.parse::<f64>().map(f64::to_bits);
            prop_assert_eq!(bits(&form), bits(&text));
            prop_assert!(serde_json::from_str::<serde_json::Value>(&form).is_ok(), "{}", form);
        } else {
            prop_assert!(text.parse::<f64>().map_or(true, |value| !value.is_finite()));
        }
        match one("type = \"int\"", &text) {
            Ok(form) => prop_assert_eq!(form.parse::<i64>().ok(), text.parse::<i64>().ok()),
            Err(_) => prop_assert!(text.parse::<i64>().is_err()),
        }
    }

    /// Most numbers outside quotes are told by a shorter way: it must tell the same.
    #[test]
    fn a_number_means_the_same_inside_and_outside_quotes(
        text in "[-+]?0?[0-9]{1,20}[.]?[0-9]{0,30}|[-+.0-9e/:]{1,24}",
        kind in "type = \"float\"|type = \"int\"|type = \"int2\"|type = \"int\", max_bytes = 3|type = \"int\", min = -5, max = 70"
    ) {
        prop_assert_eq!(read_one(&kind, &format!("{text}\n")), one(&kind, &text));
    }
}
