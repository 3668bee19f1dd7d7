//! A file into a topic and the topic into a table, by the program; psql is the witness.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

mod support;

use support::imports::{self, Schema, address, until};
use support::{Running, program, serve, told};

/// How long a server waits for tasks that run.
const DRAIN: Duration = Duration::from_secs(25);

/// Where both servers are.
struct Servers {
    brokers: String,
    schema: Schema,
}

impl Servers {
    fn new(test: &str) -> Option<Self> {
        Some(Self {
            brokers: address(test, "OFFLOOP_TEST_KAFKA")?,
            schema: Schema::new(test)?,
        })
    }

    fn folder(&self) -> tempfile::TempDir {
        let columns = "columns = [{ name = \"id\", type = \"int4\", null = false }, { name = \"name\", type = \"text\" }]\nkey = \"id\"\n";
        let config = format!(
            "[ingest]\npostgres_file = \"postgres\"\n[ingest.kafka]\nbrokers = \"{}\"\n\
             [ingest.targets.feed]\nsink = \"kafka\"\ntopic = \"{schema}\"\n\
             kafka = {{ create = {{ partitions = 3 }} }}\nbatch = {{ rows = 500 }}\n{columns}\
             [ingest.targets.people]\nsink = \"postgres\"\ntable = \"{schema}.people\"\ncreate = true\n\
             batch = {{ rows = 1000 }}\n{columns}\
             [ingest.consumers.people]\ntopic = \"{schema}\"\ntarget = \"people\"\nsession = \"6s\"\n",
            self.brokers,
            schema = self.schema.name,
        );
        let folder = imports::folder(&config);
        std::fs::write(folder.path().join("postgres"), &self.schema.url).unwrap();
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
    until("the first rows", || servers.schema.rows() > 2_000);
    sending.kill();
    server.kill();
    assert!(servers.schema.rows() < rows, "killed too late");

    // The topic's sender is begun again, and the server killed once more.
    let mut command = program(folder.path());
    let mut sending = Running::new(command.args(words));
    server = serve(folder.path());
    let before = servers.schema.rows();
    until("more rows", || servers.schema.rows() > before);
    server.kill();
    assert!(sending.wait().success());
    server = serve(folder.path());
    until("all rows", || servers.schema.rows() == rows);
    until("no lag", || consumer(&server)["lag"] == 0);
    let sums = format!(
        "SELECT sum(id) || ' ' || count(*) FILTER (WHERE name = 'name, ' || id) FROM {}.people",
        servers.schema.name
    );
    assert_eq!(
        servers.schema.ask(&sums),
        format!("{} {rows}", rows * (rows + 1) / 2)
    );
    let stored = format!(
        "SELECT sum(rows) || ' ' || sum(rejects) FROM {}.offloop_ingest_streams",
        servers.schema.name
    );
    let messages = format!(
        "SELECT sum(next_offset) FROM {}.offloop_ingest_streams",
        servers.schema.name
    );
    assert_eq!(
        servers.schema.ask(&stored),
        format!("{} 0", servers.schema.ask(&messages)),
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
