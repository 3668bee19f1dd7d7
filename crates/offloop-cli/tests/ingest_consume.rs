//! A file into a topic and the topic into a table, by the program; psql is the witness.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

mod support;

use support::{PATIENCE, Running, program, serve, told};

/// How long a server waits for tasks that run.
const DRAIN: Duration = Duration::from_secs(25);

/// Where both servers are.
struct Servers {
    brokers: String,
    postgres: String,
    /// Of the test's own.
    schema: String,
}

impl Servers {
    fn new(test: &str) -> Option<Self> {
        let said = |name: &str| {
            let said = std::env::var(name).ok();
            if said.is_none() {
                // Past the capture of the test's output: who reads it is to see it.
                let _told = writeln!(std::io::stderr(), "SKIPPED {test}: set {name} to run it");
            }
            said
        };
        let servers = Self {
            brokers: said("OFFLOOP_TEST_KAFKA")?,
            postgres: said("OFFLOOP_TEST_POSTGRES")?,
            schema: format!("consume_{}_{test}", std::process::id()),
        };
        servers.ask(&format!("CREATE SCHEMA {}", servers.schema));
        Some(servers)
    }

    fn ask(&self, sql: &str) -> String {
        let mut command = Command::new("psql");
        command.args([&self.postgres, "-XAtqc", sql]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn rows(&self) -> u64 {
        let table = format!("{}.people", self.schema);
        let there = self.ask(&format!("SELECT to_regclass('{table}') IS NOT NULL"));
        if there == "f" {
            return 0;
        }
        let count = self.ask(&format!("SELECT count(*) FROM {table}"));
        count.parse().unwrap()
    }

    fn folder(&self) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("postgres"), &self.postgres).unwrap();
        let columns = "columns = [{ name = \"id\", type = \"int4\", null = false }, { name = \"name\", type = \"text\" }]\nkey = \"id\"\n";
        let config = format!(
            "[ingest]\npostgres_file = \"postgres\"\n[ingest.kafka]\nbrokers = \"{}\"\n\
             [ingest.targets.feed]\nsink = \"kafka\"\ntopic = \"{schema}\"\n\
             kafka = {{ create = {{ partitions = 3 }} }}\nbatch = {{ rows = 500 }}\n{columns}\
             [ingest.targets.people]\nsink = \"postgres\"\ntable = \"{schema}.people\"\ncreate = true\n\
             batch = {{ rows = 1000 }}\n{columns}\
             [ingest.consumers.people]\ntopic = \"{schema}\"\ntarget = \"people\"\nsession = \"6s\"\n",
            self.brokers,
            schema = self.schema,
        );
        std::fs::write(folder.path().join("offloop.toml"), config).unwrap();
        folder
    }
}

fn text(url: &str, path: &str) -> String {
    let mut answer = ureq::get(format!("{url}{path}")).call().unwrap();
    answer.body_mut().read_to_string().unwrap()
}

fn consumer(server: &Running) -> Value {
    let view: Value = serde_json::from_str(&text(&server.url, "/v1/ingest/consumers")).unwrap();
    view["consumers"][0].clone()
}

fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "in time: {what}");
        std::thread::yield_now();
    }
}

#[test]
fn a_file_is_in_the_table_once_although_every_process_on_its_way_is_killed() {
    let Some(servers) = Servers::new("killed") else {
        return;
    };
    let folder = servers.folder();
    let rows = 300_000_u64;
    let mut file = String::from("id,name\n");
    for row in 1..=rows {
        writeln!(file, "{row},\"name, {row}\"").unwrap();
    }
    std::fs::write(folder.path().join("people.csv"), file).unwrap();
    let words = ["ingest", "people.csv", "--target", "feed"];
    let checked = program(folder.path()).arg("check").output().unwrap();
    told(&checked, &["check"], 0);

    let mut command = program(folder.path());
    let mut sending = Running::new(command.args(words));
    let notes = folder.path().join("offloop-data/ingest/kafka");
    until("the first notes", || {
        let files = std::fs::read_dir(&notes).into_iter().flatten();
        files
            .flatten()
            .any(|file| file.metadata().is_ok_and(|about| about.len() > 1_000))
    });
    let mut server = serve(folder.path());
    until("the first rows", || servers.rows() > 2_000);
    sending.kill();
    server.kill();
    assert!(servers.rows() < rows, "killed too late");

    // The topic's sender is begun again, and the server killed once more.
    let mut command = program(folder.path());
    let mut sending = Running::new(command.args(words));
    server = serve(folder.path());
    let before = servers.rows();
    until("more rows", || servers.rows() > before);
    server.kill();
    assert!(sending.wait().success());
    server = serve(folder.path());
    until("all rows", || servers.rows() == rows);
    until("no lag", || consumer(&server)["lag"] == 0);
    let sums = format!(
        "SELECT sum(id) || ' ' || count(*) FILTER (WHERE name = 'name, ' || id) FROM {}.people",
        servers.schema
    );
    assert_eq!(
        servers.ask(&sums),
        format!("{} {rows}", rows * (rows + 1) / 2)
    );
    let stored = format!(
        "SELECT sum(rows) || ' ' || sum(rejects) FROM {}.offloop_ingest_streams",
        servers.schema
    );
    let messages = format!(
        "SELECT sum(next_offset) FROM {}.offloop_ingest_streams",
        servers.schema
    );
    assert_eq!(
        servers.ask(&stored),
        format!("{} 0", servers.ask(&messages)),
        "each message once"
    );

    let view = consumer(&server);
    assert_eq!(
        (
            view["state"].as_str(),
            view["partitions"].as_array().unwrap().len()
        ),
        (Some("running"), 3),
        "{view}"
    );
    let figures = text(&server.url, "/metrics");
    let lag = "offloop_ingest_consumer_lag{consumer=\"people\",member=\"0\"} 0";
    assert!(figures.contains(lag), "{figures}");

    // A consumer holds up no shutdown, and its job is there again afterwards.
    let begun = Instant::now();
    server.signal(Signal::TERM);
    assert!(server.wait().success());
    assert!(
        begun.elapsed() < DRAIN,
        "the server waited for a task without an end"
    );
    let server = serve(folder.path());
    until("the next run", || consumer(&server)["state"] == "running");
    let jobs: Value =
        serde_json::from_str(&text(&server.url, "/v1/jobs?task=ingest-consume")).unwrap();
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 1, "{jobs}");
}
