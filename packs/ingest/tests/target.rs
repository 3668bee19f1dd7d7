//! Declarations: what is refused, by which field, with which remedy; every problem at once.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use common::declared;
use offloop_ingest::{Kind, RawTarget, Sink};

fn problems(toml: &str) -> Vec<(String, String)> {
    let raw: RawTarget = toml::from_str(toml).unwrap();
    let problems = raw.resolve("people").unwrap_err();
    let cut = |field: String| {
        field
            .strip_prefix("ingest.targets.people.")
            .unwrap()
            .to_owned()
    };
    problems
        .into_iter()
        .map(|problem| (cut(problem.field), problem.problem))
        .collect()
}

const COLUMN: &str = "columns = [{ name = \"a\", type = \"int\" }]\n";
const SINK: &str = "sink = \"ndjson\"\npath = \"out\"\n";

#[test]
fn a_wrong_declaration_is_refused_by_the_name_of_its_field() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str)] = &[
        ("sink = \"mysql\"", "sink", "`mysql` is no sink; sqlite, postgres, kafka, ndjson or jobs"),
        ("sink = \"kafka\"", "topic", "sink `kafka` needs it"),
        ("sink = \"kafka\"\ntopic = \"t\"\ntable = \"x\"", "table", "sink `kafka` has none; leave it out"),
        ("sink = \"postgres\"\ntable = \"a; drop table b\"", "table", "a table is a name"),
        ("sink = \"postgres\"\ntable = \"a.b.c\"", "table", "a table is a name"),
        ("sink = \"sqlite\"\npath = \"a\\u0000b\"\ntable = \"t\"", "path", "1 to 1,024 bytes without control"),
    ];
    for (sink, field, problem) in cases {
        let found = problems(&format!("{sink}\n{COLUMN}"));
        assert_eq!(found[0].0, *field, "{sink}");
        assert!(found[0].1.starts_with(problem), "{sink}: {found:?}");
    }
    #[rustfmt::skip]
    let cases: &[(&str, &str, &str)] = &[
        ("columns = []", "columns", "at least one"),
        ("columns = [{ name = \"a\", type = \"varchar\" }]", "columns[0].type", "`varchar`; text, int"),
        ("columns = [{ name = \"a\", type = \"decimal(39,2)\" }]", "columns[0].type", "`decimal(39,2)`"),
        ("columns = [{ name = \"a\", type = \"decimal(2,3)\" }]", "columns[0].type", "`decimal(2,3)`"),
        ("columns = [{ name = \"a\", type = \"int\", bits = 8 }]", "columns[0].bits", "8; 16, 32 or 64"),
        ("columns = [{ name = \"a\", type = \"text\", bits = 16 }]", "columns[0].bits", "only type `int`"),
        ("columns = [{ name = \"a\", type = \"text\", min = 1 }]", "columns[0].min", "only numbers have it"),
        ("columns = [{ name = \"a\", type = \"int\", max = 1.5 }]", "columns[0].max", "a whole number"),
        ("columns = [{ name = \"a\", type = \"int\", min = 2, max = 1 }]", "columns[0].min", "above max"),
        ("columns = [{ name = \"a\", type = \"float\", max = nan }]", "columns[0].max", "a finite number"),
        ("columns = [{ name = \"\", type = \"int\" }]", "columns[0].name", "1 to 63 bytes"),
        ("columns = [{ name = \"a\", type = \"int\", required = false, null = false }]", "columns[0].required", "a column that may be missing"),
        ("columns = [{ name = \"a\", type = \"int\", max_bytes = 0 }]", "columns[0].max_bytes", "out of range"),
        ("columns = [{ name = \"a\", type = \"int\", max_bytes = \"2MiB\" }]", "columns[0].max_bytes", "out of range; 1 to limits.field_bytes, 1048576"),
        ("columns = [{ name = \"a\", type = \"int\" }, { name = \"A\", type = \"int\" }]", "columns[1].name", "`A` is declared twice"),
        ("columns = [{ name = \"a\", type = \"int\" }, { name = \"b\", from = \"a\", type = \"int\" }]", "columns[1].from", "two columns take `a`"),
    ];
    for (columns, field, problem) in cases {
        let found = problems(&format!("{SINK}{columns}"));
        assert_eq!(found[0].0, *field, "{columns}: {found:?}");
        assert!(found[0].1.starts_with(problem), "{columns}: {found:?}");
    }
    #[rustfmt::skip]
    let cases: &[(&str, &str)] = &[
        ("key = \"b\"", "key"), ("delimiter = \"::\"", "delimiter"), ("delimiter = \"\\u00e9\"", "delimiter"),
        ("delimiter = \"a\"", "delimiter"), ("delimiter = \"\\n\"", "delimiter"), ("quote = \"\"", "quote"),
        ("quote = \",\"", "quote"), ("header = \"maybe\"", "header"), ("extra_columns = \"drop\"", "extra_columns"),
        ("header = \"none\"\nextra_columns = \"ignore\"", "extra_columns"), ("on_bad_row = \"skip\"", "on_bad_row"),
        ("batch = { rows = 0 }", "batch.rows"), ("batch = { bytes = 10 }", "batch.bytes"), ("batch = { time = \"2h\" }", "batch.time"),
        ("limits = { record_bytes = \"1GiB\" }", "limits.record_bytes"), ("limits = { field_bytes = \"2MiB\" }", "limits.field_bytes"),
        ("limits = { columns = 0 }", "limits.columns"), ("limits = { ratio = 0 }", "limits.ratio"),
        ("null = [\"0123456789012345678901234567890123456789012345678901234567890123\"]", "null"),
    ];
    for (line, field) in cases {
        let found = problems(&format!("{SINK}{COLUMN}{line}"));
        assert_eq!(found[0].0, *field, "{line}: {found:?}");
        assert_eq!(found.len(), 1, "{line}: {found:?}");
    }
}

#[test]
fn all_problems_are_told_at_once_and_unknown_keys_by_name() {
    let found =
        problems("sink = \"x\"\ncolumns = []\nkey = \"k\"\nheader = \"h\"\nbatch = { rows = 0 }");
    let fields: Vec<_> = found.iter().map(|(field, _)| field.as_str()).collect();
    assert_eq!(fields, ["sink", "columns", "key", "header", "batch.rows"]);
    let unknown = toml::from_str::<RawTarget>(&format!("{SINK}{COLUMN}delimeter = \";\""));
    assert!(
        unknown
            .unwrap_err()
            .to_string()
            .contains("unknown field `delimeter`")
    );
    let nested = "columns = [{ name = \"a\", typ = \"int\" }]";
    let unknown = toml::from_str::<RawTarget>(&format!("{SINK}{nested}"));
    assert!(
        unknown
            .unwrap_err()
            .to_string()
            .contains("unknown field `typ`")
    );
}

#[test]
fn a_declaration_means_what_it_says() {
    let target = declared(
        "sink = \"postgres\"\ntable = \"public.people\"\nkey = \"id\"\ndelimiter = \"tab\"\nquote = \"none\"\n\
         columns = [{ name = \"id\", type = \"int4\" }, { name = \"sum\", from = \"Sum\", type = \"decimal( 10 , 2 )\" }]",
    );
    assert_eq!(
        target.sink(),
        &Sink::Postgres {
            table: "public.people".into()
        }
    );
    assert_eq!(target.key(), Some(0));
    assert!(!target.columns()[0].null && target.columns()[1].null);
    assert_eq!(
        target.columns()[1].kind,
        Kind::Decimal {
            precision: 10,
            scale: 2
        }
    );
    assert_eq!(
        (target.format().delimiter, target.format().quote),
        (b'\t', None)
    );
    assert_eq!(target.batch().rows, 5_000);
    assert_eq!(target.limits().record_bytes, 1 << 20);
}
