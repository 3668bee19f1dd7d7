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
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};

mod support;

use support::imports::{Schema, until, until_some};
use support::{PATIENCE, Running, end_of, job, post, serve};

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

/// Where the rows go.
enum Store {
    Sqlite,
    Postgres(Schema),
}

impl Store {
    /// `port`: of the files.
    fn configure(&self, folder: &Path, port: u16) {
        let (of_all, sink) = match self {
            Self::Sqlite => (
                "",
                "sink = \"sqlite\"\npath = \"rows.db\"\ntable = \"rows\"".into(),
            ),
            Self::Postgres(schema) => {
                std::fs::write(folder.join("postgres"), &schema.url).unwrap();
                let sink = format!("sink = \"postgres\"\ntable = \"{}.rows\"", schema.name);
                ("postgres_file = \"postgres\"", sink)
            }
        };
        let text = format!(
            r#"
[packs.fetch]
allow = ["127.0.0.0/8"]
ports = [{port}]

[ingest]
tenant_loads = 1
{of_all}

[ingest.targets.rows]
{sink}
create = true
columns = [{{ name = "id", type = "int8" }}, {{ name = "answer", type = "int4" }}]
batch = {{ rows = 100, time = "20ms" }}
"#
        );
        std::fs::write(folder.join("offloop.toml"), text).unwrap();
    }

    /// One number of the table `rows`; 0 while it is being made.
    fn ask(&self, folder: &Path, select: &str) -> usize {
        match self {
            Self::Sqlite => {
                let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
                let ask = || {
                    let rows =
                        rusqlite::Connection::open_with_flags(folder.join("rows.db"), flags)?;
                    rows.query_row(select, [], |row| row.get(0))
                };
                ask().unwrap_or(0)
            }
            Self::Postgres(schema) => {
                let there = format!("SELECT to_regclass('{}.rows') IS NOT NULL", schema.name);
                if schema.ask(&there) == "f" {
                    return 0;
                }
                let path = format!("SET search_path = {}; {select}", schema.name);
                schema.ask(&path).parse().unwrap()
            }
        }
    }

    /// Rows in the table by now.
    fn stored(&self, folder: &Path) -> usize {
        self.ask(folder, "SELECT count(*) FROM rows")
    }
}

/// `about`: further fields of the job.
fn enqueue(server: &Running, payload: &Value, about: &Value) -> String {
    let mut body = json!({"task": "fetch", "payload": payload});
    for (name, value) in about.as_object().into_iter().flatten() {
        body[name] = value.clone();
    }
    let (status, job) = post(&server.url, body.to_string().as_bytes());
    assert!(matches!(status, 200 | 201), "{status} {job}");
    job["id"].as_str().unwrap().to_owned()
}

/// The same job in each life of the server.
fn the_one() -> Value {
    json!({"idempotency_key": "the one"})
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

/// Lost servers in a row are held against a job, the list's and those of its loads; a person gives them
/// their next life.
fn revive(server: &Running) {
    let done = server.run(&["retry", "--state", "failed"]);
    assert!(done.status.success(), "{done:?}");
}

fn over_kills(store: &Store) {
    let folder = tempfile::tempdir().unwrap();
    let (at, calls) = files();
    store.configure(folder.path(), at.port());
    let urls: Vec<_> = (0..FILES)
        .map(|file| format!("http://{at}/{file}"))
        .collect();
    let payload = json!({"urls": urls, "limit": 3, "on_result": "ingest", "target": "rows"});
    for life in 0..KILLS {
        let mut server = serve(folder.path());
        enqueue(&server, &payload, &the_one());
        revive(&server);
        let (before, old) = (store.stored(folder.path()), bodies(folder.path()));
        // Some of them may be those that the life before has in the table.
        calls.let_in(if life % 3 == 2 { EACH * 2 } else { EACH });
        // At once; when a body has come into the spool, before its call is on record; or when some of it is in
        // the table and what was asked for since is under way.
        until("the moment to kill it", || match life % 3 {
            0 => true,
            // One that comes and goes between two looks leaves its rows.
            1 => bodies(folder.path()) != old || store.stored(folder.path()) != before,
            _ => store.stored(folder.path()) >= before + ROWS,
        });
        server.kill();
    }
    calls.open();
    let server = serve(folder.path());
    let id = enqueue(&server, &payload, &the_one());
    revive(&server);
    let job = end_of(&server.url, &id);
    assert_eq!(job["state"], "completed", "{job}");
    let result = &job["result"];
    assert_eq!(result["ok"], FILES, "{result}");
    for load in loads(&server, result) {
        assert_eq!(load["result"]["stored"], ROWS, "{load}");
    }
    drop(server);
    let one = |sql: &str| store.ask(folder.path(), sql);
    assert_eq!(one("SELECT count(*) FROM rows"), FILES * ROWS);
    assert_eq!(one("SELECT count(DISTINCT id) FROM rows"), FILES * ROWS);
    let answers =
        format!("SELECT count(*) FROM (SELECT DISTINCT id / {ROWS}, answer FROM rows) AS each");
    assert_eq!(one(&answers), FILES, "rows of two answers were mixed");
    let again = calls.all() - FILES;
    println!("{again} of {FILES} files were fetched again over {KILLS} kills");
    let left = std::fs::read_dir(folder.path().join("offloop-data/fetch/drafts")).unwrap();
    assert_eq!(left.count(), 0, "a body was left behind");
}

#[test]
fn no_row_of_a_fetched_file_is_stored_twice_or_lost_over_kills() {
    over_kills(&Store::Sqlite);
}

#[test]
fn no_row_of_a_fetched_file_is_in_postgres_twice_or_missing_over_kills() {
    if let Some(schema) = Schema::new("fetched") {
        over_kills(&Store::Postgres(schema));
    }
}

/// Somebody who holds rows of a table back while it lives.
struct Lock(Child);

impl Lock {
    fn new(schema: &Schema, table: &str) -> Self {
        let mut command = Command::new("psql");
        command.args([&schema.url, "-XAt"]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lock = format!("BEGIN; LOCK TABLE {}.{table} IN SHARE MODE;\n", schema.name);
        child
            .stdin
            .as_mut()
            .unwrap()
            .write_all(lock.as_bytes())
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == "LOCK TABLE"));
        Self(child)
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.kill(); // psql has nothing to end in order
        let _ = self.0.wait();
    }
}

#[test]
fn a_tenant_whose_fetched_files_wait_takes_no_place_of_another() {
    let Some(schema) = Schema::new("tenants") else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let (at, calls) = files();
    calls.open();
    schema.ask(&format!(
        "CREATE TABLE {}.slow (id int8, answer int4)",
        schema.name
    ));
    let held = Lock::new(&schema, "slow");
    let store = Store::Postgres(schema);
    store.configure(folder.path(), at.port());
    let config = folder.path().join("offloop.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let (_, target) = text.split_once("[ingest.targets.rows]").unwrap();
    let slow = target.replace(".rows", ".slow");
    std::fs::write(&config, format!("{text}\n[ingest.targets.slow]{slow}")).unwrap();
    let server = serve(folder.path());
    let list = |file: usize, target: &str| json!({"urls": [format!("http://{at}/{file}")], "on_result": "ingest", "target": target});
    let fetched = |file, target, tenant: &str| {
        let id = enqueue(&server, &list(file, target), &json!({"group_key": tenant}));
        let job = end_of(&server.url, &id);
        let one = job["result"]["results"][0].clone();
        assert!(one["load_job"].is_string(), "{job}");
        one
    };
    let load = |one: &Value| {
        let path = format!(
            "{}/v1/ingest/loads/{}",
            server.url,
            one["load"].as_str().unwrap()
        );
        let mut answer = ureq::get(path).call().unwrap();
        answer.body_mut().read_json::<Value>().unwrap()
    };
    let of = |one: &Value| one["load_job"].as_str().unwrap().to_owned();
    let first = fetched(1, "slow", "heron");
    until("it has its tenant's place", || {
        load(&first)["state"] == "running"
    });
    assert_eq!(load(&first)["tenant"], "heron");
    let second = fetched(2, "rows", "heron");
    // It was begun, and put back: its tenant has no place.
    let put_back = until_some("it is put back", || {
        let job = job(&server.url, &of(&second), "");
        (job["state"] == "scheduled").then_some(job)
    });
    let key = &put_back["options"]["group_key"];
    assert_eq!(key, "heron", "limits by key do not count it");
    let third = fetched(3, "rows", "ibis");
    assert_eq!(end_of(&server.url, &of(&third))["result"]["stored"], ROWS);
    assert_eq!(load(&third)["tenant"], "ibis");
    assert_eq!(
        store.stored(folder.path()),
        ROWS,
        "the second went in beside the first"
    );
    drop(held);
    for one in [first, second] {
        let job = end_of(&server.url, &of(&one));
        assert_eq!(job["result"]["stored"], ROWS, "{job}");
    }
}

#[test]
fn a_list_for_a_target_that_is_not_there_calls_nobody_and_an_error_page_is_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let (at, calls) = files();
    calls.open();
    Store::Sqlite.configure(folder.path(), at.port());
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
    let id = enqueue(&server, &list("rows"), &Value::Null);
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
