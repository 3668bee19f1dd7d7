//! A list of URLs of files, fetched into a table: over kills, each row once, and of one answer alone.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;

mod support;

use support::{PATIENCE, Running, end_of, post, serve};

const FILES: usize = 110;
const ROWS: usize = 250;
const KILLS: usize = 9;
/// Calls that a life of the server gets answers to.
const EACH: usize = 8;

/// How often each file was asked for, and how many calls get an answer.
#[derive(Debug)]
struct Calls {
    of: Mutex<(BTreeMap<usize, usize>, usize)>,
    more: Condvar,
}

impl Calls {
    fn all(&self) -> usize {
        self.of.lock().unwrap().0.values().sum()
    }

    /// Answers so many more, and waits until they were asked for.
    fn let_in(&self, more: usize) {
        let mut of = self.of.lock().unwrap();
        of.1 = of.0.values().sum::<usize>().saturating_add(more);
        self.more.notify_all();
        let few = |of: &mut (BTreeMap<usize, usize>, usize)| of.0.values().sum::<usize>() < of.1;
        let (_of, waited) = self.more.wait_timeout_while(of, PATIENCE, few).unwrap();
        assert!(!waited.timed_out(), "in time");
    }

    fn open(&self) {
        self.of.lock().unwrap().1 = usize::MAX;
        self.more.notify_all();
    }

    /// A call is made: how often the file was asked for. Waits until it may be answered.
    fn made(&self, file: usize) -> usize {
        let full = |of: &mut (BTreeMap<usize, usize>, usize)| of.0.values().sum::<usize>() >= of.1;
        let of = self.of.lock().unwrap();
        let mut of = self.more.wait_while(of, full).unwrap();
        let turn = of.0.entry(file).or_default();
        *turn += 1;
        let turn = *turn;
        drop(of);
        self.more.notify_all();
        turn
    }
}

/// Answers `/N` with a file whose every row says which answer it is of.
fn files() -> (SocketAddr, Arc<Calls>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let calls = Arc::new(Calls {
        of: Mutex::default(),
        more: Condvar::new(),
    });
    let all = Arc::clone(&calls);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let calls = Arc::clone(&all);
            std::thread::spawn(move || answer(stream, &calls));
        }
    });
    (at, calls)
}

fn answer(mut stream: TcpStream, calls: &Calls) -> Option<()> {
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    loop {
        let first = lines.next()?.ok()?;
        let path = first.split(' ').nth(1)?.trim_start_matches('/').to_owned();
        while !lines.next()?.ok()?.is_empty() {}
        let Ok(file) = path.parse::<usize>() else {
            stream
                .write_all(b"HTTP/1.1 404 X\r\nContent-Length: 9\r\n\r\nid,answer")
                .ok()?;
            continue;
        };
        let turn = calls.made(file);
        let mut text = String::from("id,answer\n");
        for row in 0..ROWS {
            writeln!(text, "{},{turn}", file * ROWS + row).unwrap();
        }
        let length = text.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all((head + &text).as_bytes()).ok()?;
    }
}

fn configure(folder: &Path, port: u16) {
    let text = format!(
        r#"
[packs.fetch]
allow = ["127.0.0.0/8"]
ports = [{port}]

[ingest.targets.rows]
sink = "sqlite"
path = "rows.db"
table = "rows"
create = true
columns = [{{ name = "id", type = "int8" }}, {{ name = "answer", type = "int4" }}]
batch = {{ rows = 100, time = "20ms" }}
"#
    );
    std::fs::write(folder.join("offloop.toml"), text).unwrap();
}

fn enqueue(server: &Running, payload: &Value) -> String {
    let body = json!({"task": "fetch", "payload": payload, "idempotency_key": "the one"});
    let (status, job) = post(&server.url, body.to_string().as_bytes());
    assert!(matches!(status, 200 | 201), "{status} {job}");
    job["id"].as_str().unwrap().to_owned()
}

/// Rows in the table by now.
fn stored(folder: &Path) -> usize {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let count = || {
        let rows = rusqlite::Connection::open_with_flags(folder.join("rows.db"), flags)?;
        rows.query_row("SELECT count(*) FROM rows", [], |row| row.get(0))
    };
    count().unwrap_or(0) // it is being made
}

/// Bodies that wait for their job.
fn bodies(folder: &Path) -> BTreeSet<OsString> {
    let all = std::fs::read_dir(folder.join("offloop-data/ingest/spool"));
    let names = all
        .into_iter()
        .flatten()
        .flatten()
        .map(|one| one.file_name());
    names
        .filter(|name| name.to_string_lossy().ends_with(".spool"))
        .collect()
}

/// What became of every load of the list.
fn loads(server: &Running, result: &Value) -> Vec<Value> {
    let results = result["results"].as_array().unwrap().iter();
    let end = |one: &Value| end_of(&server.url, one["load_job"].as_str().unwrap());
    results.map(end).collect()
}

#[test]
fn no_row_of_a_fetched_file_is_stored_twice_or_lost_over_kills() {
    let folder = tempfile::tempdir().unwrap();
    let (at, calls) = files();
    configure(folder.path(), at.port());
    let urls: Vec<_> = (0..FILES)
        .map(|file| format!("http://{at}/{file}"))
        .collect();
    let payload = json!({"urls": urls, "limit": 3, "on_result": "ingest", "target": "rows"});
    for life in 0..KILLS {
        let mut server = serve(folder.path());
        let id = enqueue(&server, &payload);
        // Lost servers in a row are held against the job; a person gives it its next life.
        let _refused_while_it_waits = server.run(&["retry", &id]);
        let (before, old) = (stored(folder.path()), bodies(folder.path()));
        // Some of them may be those that the life before has in the table.
        calls.let_in(if life % 3 == 2 { EACH * 2 } else { EACH });
        // At once; when a body has come into the spool, before its call is on record; or when some of it is in
        // the table and what was asked for since is under way.
        let deadline = Instant::now() + PATIENCE;
        let goes_on = || match life % 3 {
            0 => false,
            // One that comes and goes between two looks leaves its rows.
            1 => bodies(folder.path()) == old && stored(folder.path()) == before,
            _ => stored(folder.path()) < before + ROWS,
        };
        while goes_on() {
            assert!(Instant::now() < deadline, "in time");
            std::thread::yield_now();
        }
        server.kill();
    }
    calls.open();
    let server = serve(folder.path());
    let id = enqueue(&server, &payload);
    let _refused_while_it_waits = server.run(&["retry", &id]);
    let job = end_of(&server.url, &id);
    assert_eq!(job["state"], "completed", "{job}");
    let result = &job["result"];
    assert_eq!(result["ok"], FILES, "{result}");
    for load in loads(&server, result) {
        assert_eq!(load["result"]["stored"], ROWS, "{load}");
    }
    drop(server);
    let rows = rusqlite::Connection::open(folder.path().join("rows.db")).unwrap();
    let one = |sql: &str| {
        rows.query_row(sql, [], |row| row.get::<_, usize>(0))
            .unwrap()
    };
    assert_eq!(one("SELECT count(*) FROM rows"), FILES * ROWS);
    assert_eq!(one("SELECT count(DISTINCT id) FROM rows"), FILES * ROWS);
    let answers = format!("SELECT count(*) FROM (SELECT DISTINCT id / {ROWS}, answer FROM rows)");
    assert_eq!(one(&answers), FILES, "rows of two answers were mixed");
    let again = calls.all() - FILES;
    println!("{again} of {FILES} files were fetched again over {KILLS} kills");
    let left = std::fs::read_dir(folder.path().join("offloop-data/fetch/drafts")).unwrap();
    assert_eq!(left.count(), 0, "a body was left behind");
}

#[test]
fn a_list_for_a_target_that_is_not_there_calls_nobody_and_an_error_page_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (at, calls) = files();
    calls.open();
    configure(folder.path(), at.port());
    let server = serve(folder.path());
    let list = |target: &str| {
        json!({"urls": [format!("http://{at}/7"), format!("http://{at}/none")],
            "on_result": "ingest", "target": target})
    };
    let body = json!({"task": "fetch", "payload": list("row")});
    let (status, problem) = post(&server.url, body.to_string().as_bytes());
    let text = problem.to_string();
    assert_eq!(status, 422, "{text}");
    assert!(text.contains("/target") && text.contains("rows"), "{text}");
    assert_eq!(calls.all(), 0);
    let id = enqueue(&server, &list("rows"));
    let job = end_of(&server.url, &id);
    let result = &job["result"];
    assert_eq!(
        (&result["ok"], &result["failed"]),
        (&1.into(), &1.into()),
        "{job}"
    );
    assert!(result["failures"][0].get("load").is_none(), "{result}");
    assert_eq!(loads(&server, result)[0]["result"]["stored"], ROWS);
}
