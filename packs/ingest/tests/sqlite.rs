//! Loads into real SQLite files.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use loads::{begin, loader, people, rejects, run, runtime, target};
use offloop_ingest::load::{LoadError, Loader, feed};
use offloop_ingest::sink::SinkError;
use offloop_ingest::sink::sqlite::{SqliteFile, SqliteOutlet};
use rusqlite::Connection;

const COLUMNS: &str =
    r#"columns = [{ name = "id", type = "int4", null = false }, { name = "name", type = "text" }]"#;

fn open(folder: &Path, more: &str) -> Loader {
    let target = target(&format!(
        "sink = \"sqlite\"\npath = \"people.db\"\ntable = \"people\"\n{more}\n\
         batch = {{ rows = 100, bytes = \"64KiB\", time = \"10s\" }}\n"
    ));
    let file = SqliteFile::new(folder.join("people.db")).unwrap();
    let outlet = SqliteOutlet::new(&target, &file).unwrap();
    loader(folder, &target, Arc::new(outlet))
}

fn number(folder: &Path, sql: &str) -> i64 {
    let at = Connection::open(folder.join("people.db")).unwrap();
    at.query_row(sql, [], |row| row.get(0)).unwrap()
}

fn make(folder: &Path, sql: &str) {
    Connection::open(folder.join("people.db"))
        .unwrap()
        .execute_batch(sql)
        .unwrap();
}

#[test]
fn values_keep_their_types_and_nulls() {
    let folder = tempfile::tempdir().unwrap();
    let columns = r#"
        create = true
        columns = [{ name = "i", type = "int8" }, { name = "f", type = "float" }, { name = "b", type = "bool" },
          { name = "d", type = "decimal(20,4)" }, { name = "x", type = "bytes" }, { name = "t", type = "text" }]"#;
    let text = "i,f,b,d,x,t\n9223372036854775807,1.5,yes,1234567890123456.7891,00ff,\"\"\n,,,,,\n";
    runtime()
        .block_on(run(&open(folder.path(), columns), "one", text))
        .unwrap();
    let kinds = "SELECT count(*) FROM people WHERE i = 9223372036854775807 AND f = 1.5 AND b = 1 \
                 AND d = '1234567890123456.7891' AND x = x'00ff' AND t = ''";
    assert_eq!(number(folder.path(), kinds), 1);
    let nulls = "SELECT count(*) FROM people WHERE coalesce(i, f, b, d, x, t) IS NULL";
    assert_eq!(number(folder.path(), nulls), 1);
}

#[test]
fn a_row_that_the_table_refuses_does_not_sink_its_batch() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT CHECK (length(name) < 20))",
    );
    let mut text = people(1_000, |row| row == 400);
    text.push_str("17,again\n2000,a name that is too long\n2001,fine\n");
    let loader = open(folder.path(), COLUMNS);
    let summary = runtime().block_on(run(&loader, "one", &text)).unwrap();
    assert_eq!((summary.rows_stored, summary.rows_rejected), (1_000, 3));
    assert_eq!(number(folder.path(), "SELECT count(*) FROM people"), 1_000);
    let refused = rejects(folder.path(), "one");
    let rows: Vec<_> = refused
        .iter()
        .map(|line| line["row"].as_u64().unwrap())
        .collect();
    assert_eq!(rows, [400, 1_001, 1_002]);
    assert!(
        refused[1]["message"].as_str().unwrap().contains("UNIQUE"),
        "{refused:?}"
    );
    assert_eq!(refused[2]["raw"], "2000,a name that is too long");
}

#[test]
fn the_last_of_rows_with_one_key_stays_and_cuts_double_none() {
    let folder = tempfile::tempdir().unwrap();
    let more = format!("{COLUMNS}\ncreate = true\nkey = \"id\"");
    let mut text = String::from("id,name\n");
    for row in 0..2_000 {
        use std::fmt::Write as _;
        writeln!(text, "{},v{row}", row % 300).unwrap();
    }
    for cut in [3_000, 9_000, text.len()] {
        let loader = open(folder.path(), &more);
        let part = Bytes::copy_from_slice(&text.as_bytes()[..cut]);
        let ended = runtime().block_on(async {
            let (to, from) = feed();
            let feeding = async {
                to.send(part).await.unwrap();
                if cut == text.len() {
                    to.end().await.unwrap();
                } else {
                    to.cut("the test").await;
                }
            };
            tokio::join!(begin(&loader, "one").run(from), feeding).0
        });
        assert_eq!(ended.is_ok(), cut == text.len());
    }
    assert_eq!(number(folder.path(), "SELECT count(*) FROM people"), 300);
    let wrong = "SELECT count(*) FROM people WHERE name <> 'v' || (id + 300 * ((1999 - id) / 300))";
    assert_eq!(number(folder.path(), wrong), 0);
    assert_eq!(
        number(folder.path(), "SELECT rows FROM offloop_ingest_loads"),
        2_000
    );
    assert_eq!(
        number(folder.path(), "SELECT count(*) FROM offloop_ingest_batches"),
        0
    );
}

#[test]
fn a_stop_by_the_table_says_what_is_stored_and_stores_no_more() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        "CREATE TABLE people (id INTEGER PRIMARY KEY, name TEXT)",
    );
    let mut text = people(350, |_| false);
    text.push_str("17,again\n");
    text.push_str(&people(900, |_| false)["id,name\n".len()..]);
    let more = format!("{COLUMNS}\non_bad_row = \"stop\"");
    let loader = open(folder.path(), &more);
    let failed = runtime().block_on(run(&loader, "one", &text)).unwrap_err();
    assert!(
        matches!(failed.error, LoadError::Sink(SinkError::BadRow { .. })),
        "{failed}"
    );
    assert!(failed.to_string().contains("row 351"), "{failed}");
    assert_eq!(failed.summary.stored_to_row, 300);
    assert_eq!(number(folder.path(), "SELECT count(*) FROM people"), 300);
    assert!(rejects(folder.path(), "one").is_empty());
}

#[test]
fn a_table_that_does_not_fit_is_told_by_its_columns() {
    let folder = tempfile::tempdir().unwrap();
    make(
        folder.path(),
        "CREATE TABLE people (id INTEGER NOT NULL, other TEXT NOT NULL)",
    );
    let more = r#"columns = [{ name = "id", type = "int4" }, { name = "name", type = "text" }]"#;
    let failed = runtime().block_on(run(&open(folder.path(), more), "one", "id,name\n"));
    let told = failed.unwrap_err().to_string();
    for words in [
        "`id`: it is NOT NULL",
        "`name`: table `people` has none",
        "id, other",
        "`other`: table",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
}
