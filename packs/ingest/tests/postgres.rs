//! Loads into a real PostgreSQL: each row once, whatever is killed, and bad rows alone are left out.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use bytes::Bytes;
use loads::{begin, loader, people, pour, rejects, run, runtime, target};
use offloop_ingest::Target;
use offloop_ingest::load::{LoadError, Loader, feed};
use offloop_ingest::sink::SinkError;
use offloop_ingest::sink::postgres::{PostgresOutlet, PostgresSettings};
use tokio_postgres::{Client, NoTls};

#[expect(clippy::disallowed_methods, reason = "where tests find their server")]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn server(test: &str) -> Option<String> {
    let url = variable("OFFLOOP_TEST_POSTGRES");
    if url.is_none() {
        // Past the capture of the test's output.
        let _ = writeln!(
            std::io::stderr(),
            "SKIPPED {test}: set OFFLOOP_TEST_POSTGRES to run it"
        );
    }
    url
}

async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A schema of the test's own, empty but for what `make` makes in it.
async fn schema(url: &str, name: &str, make: &str) -> Client {
    let client = client(url).await;
    let fresh = format!(
        "SET client_min_messages = error; DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}; SET search_path = {name}; {make}"
    );
    client.batch_execute(&fresh).await.unwrap();
    client
}

fn declaration(table: &str, more: &str) -> String {
    format!(
        "sink = \"postgres\"\ntable = \"{table}\"\n{more}\n\
         batch = {{ rows = 500, bytes = \"64KiB\", time = \"10s\" }}\n"
    )
}

const COLUMNS: &str =
    r#"columns = [{ name = "id", type = "int4", null = false }, { name = "name", type = "text" }]"#;

fn open(folder: &Path, url: &str, declaration: &str) -> (Target, Loader) {
    let target = target(declaration);
    let outlet = PostgresOutlet::new(&target, url, PostgresSettings::default()).unwrap();
    let loader = loader(folder, &target, Arc::new(outlet));
    (target, loader)
}

async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

/// dimitri/pgloader#855, citusdata/citus#35, cockroachdb/cockroach#53177: COPY is all or nothing.
#[test]
fn a_row_that_the_table_refuses_does_not_sink_the_file() {
    let Some(url) = server("a_row_that_the_table_refuses_does_not_sink_the_file") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let client = schema(
            &url,
            "refuses",
            "CREATE TABLE people (id int4 PRIMARY KEY, name varchar(40) CHECK (name <> 'no'), at timestamp)",
        )
        .await;
        let columns = r#"columns = [{ name = "id", type = "int4", null = false }, { name = "name", type = "text" }, { name = "at", type = "timestamp" }]"#;
        let (_, loader) = open(folder.path(), &url, &declaration("refuses.people", columns));
        let mut text = String::from("id,name,at\n");
        for row in 1..=2_000 {
            let line = match row {
                700 => "699,twice,\n".to_owned(),
                900 => "900,no,\n".to_owned(),
                901 => format!("901,{},\n", "long".repeat(20)),
                1_300 => "1300,zone,2024-01-01 10:00:00+02:00\n".to_owned(),
                1_301 => "1301,utc,2024-01-01T10:00:00Z\n".to_owned(),
                1_900 => "x,word,\n".to_owned(),
                _ => format!("{row},\"tab\there \\N \\. \"\"{row}\"\"\nline\",\n"),
            };
            text.push_str(&line);
        }
        let summary = run(&loader, "one", &text).await.unwrap();
        assert_eq!((summary.rows_stored, summary.rows_rejected), (1_995, 5));
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 1_995);
        let odd = "SELECT count(*) FROM people WHERE id NOT IN (1301) AND name <> E'tab\\there \\\\N \\\\. \"' || id || E'\"\\nline'";
        assert_eq!(number(&client, odd).await, 0);
        let refused = rejects(folder.path(), "one");
        let mut told: Vec<_> = refused
            .iter()
            .map(|line| (line["row"].as_u64().unwrap(), line["message"].as_str().unwrap()))
            .collect();
        told.sort_unstable();
        let rows: Vec<_> = told.iter().map(|(row, _)| *row).collect();
        assert_eq!(rows, [700, 900, 901, 1_300, 1_900]);
        for (at, word) in [(0, "23505"), (1, "23514"), (2, "22001"), (3, "time zone"), (4, "not int4")] {
            assert!(told[at].1.contains(word), "{told:?}");
        }
        let raw = refused.iter().find(|line| line["row"] == 900).unwrap();
        assert_eq!((raw["raw"].as_str(), raw["reason"].as_str()), (Some("900,no,"), Some("sink")));
        // The connections are handed back as they were: nothing waits in a transaction.
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'offloop-ingest' AND state LIKE 'idle in%' AND query LIKE '%refuses%'";
        assert_eq!(number(&client, idle).await, 0);
    });
}

/// A whole file of rows that are there already: bounded work, and none of them twice.
#[test]
fn a_file_of_nothing_but_duplicates_ends_with_as_many_rejects() {
    let Some(url) = server("a_file_of_nothing_but_duplicates_ends_with_as_many_rejects") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let make = "CREATE TABLE people (id int4 PRIMARY KEY, name text)";
        let client = schema(&url, "twice", make).await;
        let (_, loader) = open(folder.path(), &url, &declaration("twice.people", COLUMNS));
        let text = people(3_000, |_| false);
        run(&loader, "one", &text).await.unwrap();
        let summary = run(&loader, "two", &text).await.unwrap();
        assert_eq!((summary.rows_stored, summary.rows_rejected), (0, 3_000));
        assert_eq!(rejects(folder.path(), "two").len(), 3_000);
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 3_000);
    });
}

#[test]
fn a_table_that_does_not_fit_is_told_before_a_byte_is_taken() {
    let Some(url) = server("a_table_that_does_not_fit_is_told_before_a_byte_is_taken") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        schema(
            &url,
            "misfit",
            "CREATE TABLE people (id int4 NOT NULL, named text, must text NOT NULL)",
        )
        .await;
        let columns =
            r#"columns = [{ name = "id", type = "int8" }, { name = "name", type = "text" }]"#;
        for (table, wanted) in [
            (
                "misfit.people",
                &[
                    "`id`: it is integer",
                    "declare int4",
                    "null = false",
                    "`name`: table",
                    "id, named, must",
                    "`must`: table",
                ][..],
            ),
            ("misfit.nobody", &["there is no table `misfit.nobody`"][..]),
        ] {
            let (_, loader) = open(folder.path(), &url, &declaration(table, columns));
            let (to, from) = feed();
            let failed = begin(&loader, "one").run(from).await.unwrap_err();
            for words in wanted {
                assert!(failed.to_string().contains(words), "{words}: {failed}");
            }
            assert!(!failed.error.retry_helps());
            assert!(
                to.send(Bytes::from_static(b"id")).await.is_err(),
                "nothing is taken"
            );
        }
    });
}

#[test]
fn of_rows_with_the_same_key_the_last_one_stays() {
    let Some(url) = server("of_rows_with_the_same_key_the_last_one_stays") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let client = schema(&url, "upsert", "").await;
        let columns = r#"
            columns = [{ name = "id", type = "int8" }, { name = "name", type = "text", max_bytes = 9 }]
            key = "id"
            create = true"#;
        let (_, loader) = open(folder.path(), &url, &declaration("upsert.people", columns));
        let mut text = String::from("id,name\n");
        for row in 0..3_000 {
            use std::fmt::Write as _;
            writeln!(text, "{},v{row}", row % 700).unwrap();
        }
        let summary = run(&loader, "one", &text).await.unwrap();
        assert_eq!(summary.rows_stored, 3_000);
        let wrong = "SELECT count(*) FROM people WHERE name <> 'v' || (id + 700 * ((2999 - id) / 700))";
        assert_eq!(number(&client, wrong).await, 0);
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 700);
    });
}

/// The server ends our connections, again and again, also in the middle of commits.
#[test]
fn connections_that_break_cost_no_row_and_double_none() {
    let Some(url) = server("connections_that_break_cost_no_row_and_double_none") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let make = "CREATE TABLE people (id int4, name text)";
        let client = schema(&url, "broken", make).await;
        let (_, loader) = open(folder.path(), &url, &declaration("broken.people", COLUMNS));
        let text = people(20_000, |row| row % 1_000 == 1);
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let (to, from) = feed();
        let pouring = tokio::spawn(pour(to, Bytes::from(text), 10_000));
        let running = tokio::spawn(load.run(from));
        let mut broken = 0;
        for stored in (1_000..16_000).step_by(1_000) {
            if watch.wait_for(|status| status.rows_stored >= stored).await.is_err() {
                break;
            }
            broken += number(
                &client,
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'offloop-ingest' AND query LIKE '%broken%'",
            )
            .await;
        }
        assert!(broken > 5, "{broken}");
        let summary = running.await.unwrap().unwrap();
        pouring.await.unwrap();
        assert_eq!((summary.rows_stored, summary.rows_rejected), (19_980, 20));
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 19_980);
        assert_eq!(number(&client, "SELECT count(DISTINCT id) FROM people").await, 19_980);
        assert_eq!(rejects(folder.path(), "one").len(), 20);
    });
}

/// A process that is believed dead and is not.
#[test]
fn an_earlier_run_of_a_load_cannot_commit_behind_a_later_one() {
    let Some(url) = server("an_earlier_run_of_a_load_cannot_commit_behind_a_later_one") else {
        return;
    };
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    runtime().block_on(async {
        let make = "CREATE TABLE people (id int4, name text)";
        let client = schema(&url, "fence", make).await;
        let text = people(3_000, |_| false);
        let (_, old) = open(first.path(), &url, &declaration("fence.people", COLUMNS));
        let (to, from) = feed();
        let load = begin(&old, "one");
        let mut watch = load.watch();
        let running = tokio::spawn(load.run(from));
        to.send(Bytes::copy_from_slice(&text.as_bytes()[..30_000]))
            .await
            .unwrap();
        watch
            .wait_for(|status| status.rows_stored >= 500)
            .await
            .unwrap();
        let (_, new) = open(second.path(), &url, &declaration("fence.people", COLUMNS));
        let summary = run(&new, "one", &text).await.unwrap();
        assert_eq!(summary.rows_stored, 3_000);
        pour(
            to,
            Bytes::copy_from_slice(&text.as_bytes()[30_000..]),
            1_000,
        )
        .await;
        let failed = running.await.unwrap().unwrap_err();
        assert!(
            matches!(failed.error, LoadError::Sink(SinkError::TakenOver)),
            "{failed}"
        );
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 3_000);
    });
}

/// Not a test: the process that the next one kills. Loads the file of `OFFLOOP_CHILD_FILE` and
/// prints how many rows are stored, whenever that changes.
#[test]
#[ignore = "the child of a_load_that_is_killed_lands_each_row_once"]
fn child() {
    let Some(file) = variable("OFFLOOP_CHILD_FILE") else {
        return;
    };
    let url = variable("OFFLOOP_TEST_POSTGRES").unwrap();
    let text = std::fs::read(&file).unwrap();
    let folder = Path::new(&file).parent().unwrap();
    runtime().block_on(async {
        let (_, loader) = open(folder, &url, &declaration("killed.people", COLUMNS));
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let (to, from) = feed();
        tokio::spawn(pour(to, Bytes::from(text), 16_384));
        let running = tokio::spawn(load.run(from));
        while watch.changed().await.is_ok() {
            println!("stored {}", watch.borrow_and_update().rows_stored);
        }
        let summary = running.await.unwrap().unwrap();
        println!("ended {} {}", summary.rows_stored, summary.rows_rejected);
    });
}

#[test]
fn a_load_that_is_killed_lands_each_row_once() {
    let Some(url) = server("a_load_that_is_killed_lands_each_row_once") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("people.csv");
    let text = people(60_000, |row| row % 777 == 0);
    std::fs::write(&file, &text).unwrap();
    let runtime = runtime();
    let make = "CREATE TABLE people (id int4, name text)";
    let client = runtime.block_on(schema(&url, "killed", make));
    let spawn = || {
        #[expect(clippy::disallowed_methods, reason = "a process to kill, in a test")]
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--ignored", "--nocapture"])
            .env("OFFLOOP_CHILD_FILE", &file)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let stored_by = |line: &str| -> Option<u64> { line.strip_prefix("stored ")?.parse().ok() };
    let mut before = 0;
    for kill in 1..=6_u64 {
        let mut child = spawn();
        // Until it has stored something more; then wherever it happens to be.
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let stored = stored_by(&line).unwrap_or(0);
            if stored >= before + 1_500 * kill {
                before = stored;
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(
        before > 9_000 && before < 59_000,
        "killed in the middle: {before}"
    );
    let mut child = spawn();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let last = lines
        .map(Result::unwrap)
        .filter(|line| line.starts_with("ended"))
        .last();
    assert!(child.wait().unwrap().success());
    let bad = 60_000 / 777;
    assert_eq!(
        last.as_deref(),
        Some(&*format!("ended {} {bad}", 60_000 - bad))
    );
    runtime.block_on(async {
        assert_eq!(
            number(&client, "SELECT count(*) FROM people").await,
            60_000 - bad
        );
        assert_eq!(
            number(&client, "SELECT count(DISTINCT id) FROM people").await,
            60_000 - bad
        );
        let wrong = "SELECT count(*) FROM people WHERE name <> 'name, \"' || id || '\"'";
        assert_eq!(number(&client, wrong).await, 0);
        let notes = "SELECT count(*) FROM offloop_ingest_batches";
        assert_eq!(number(&client, notes).await, 0);
    });
    let mut rows: Vec<_> = rejects(folder.path(), "one")
        .iter()
        .map(|line| line["row"].as_i64().unwrap())
        .collect();
    rows.sort_unstable();
    let wanted: Vec<_> = (1..=bad).map(|at| at * 777).collect();
    assert_eq!(rows, wanted, "each refused row has one line");
}

/// Real tables of autonomous systems hold 4294967294, which an int4 does not: one such row aborted
/// a whole COPY, and PostgreSQL 17's ON_ERROR would name neither row nor place.
#[test]
fn a_number_that_the_column_cannot_hold_costs_its_row_and_says_where_it_stood() {
    let name = "a_number_that_the_column_cannot_hold_costs_its_row_and_says_where_it_stood";
    let Some(url) = server(name) else { return };
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let make = "CREATE TABLE asn (first inet, last inet, asn int4, country text, name text)";
        let client = schema(&url, "asn", make).await;
        let mut text = Vec::from(*b"first,last,asn,country,name\n");
        let mut bad = Vec::new();
        for row in 1..=4_000_u64 {
            let asn = if row % 1_000 == 77 { 4_294_967_294 } else { 13_335 + row };
            if row % 1_000 == 77 {
                bad.push((row, text.len() as u64));
            }
            let net = format!("10.{}.{}", row / 256, row % 256);
            writeln!(text, "{net}.0,{net}.255,{asn},AU,\"NET, {row}\"").unwrap();
        }
        let text = String::from_utf8(text).unwrap();
        // By the declaration, and where that lets all through, by the table itself.
        for (load, kind, reason, word) in [
            ("declared", "int4", "range", "out of range of int4"),
            ("table", "text", "sink", "22003"),
        ] {
            let columns = format!(
                r#"columns = [{{ name = "first", type = "text" }}, {{ name = "last", type = "text" }}, {{ name = "asn", type = "{kind}" }}, {{ name = "country", type = "text" }}, {{ name = "name", type = "text" }}]"#
            );
            let (_, loader) = open(folder.path(), &url, &declaration("asn.asn", &columns));
            let summary = run(&loader, load, &text).await.unwrap();
            assert_eq!((summary.rows_stored, summary.rows_rejected), (3_996, 4));
            let mut told: Vec<_> = rejects(folder.path(), load)
                .iter()
                .map(|line| {
                    assert_eq!(line["reason"], reason);
                    assert!(line["message"].as_str().unwrap().contains(word), "{line}");
                    assert!(line["raw"].as_str().unwrap().contains(",4294967294,AU,\"NET, "), "{line}");
                    (line["row"].as_u64().unwrap(), line["offset"].as_u64().unwrap())
                })
                .collect();
            told.sort_unstable();
            assert_eq!(told, bad);
            let stored = "SELECT count(*) FROM asn WHERE asn = 13335 + substr(name, 6)::int4";
            assert_eq!(number(&client, stored).await, 3_996);
            client.batch_execute("TRUNCATE asn").await.unwrap();
        }
        // And what the table cannot hold is said before the first byte where the types tell it.
        let columns = r#"columns = [{ name = "asn", type = "int8" }]"#;
        let (_, loader) = open(folder.path(), &url, &declaration("asn.asn", columns));
        let failed = run(&loader, "types", "asn\n1\n").await.unwrap_err();
        assert!(failed.to_string().contains("declare int4"), "{failed}");
    });
}
