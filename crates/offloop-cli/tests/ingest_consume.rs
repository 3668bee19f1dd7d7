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

use support::imports::{self, Schema, address, until, until_some};
use support::{Running, program, serve, told};

/// How long a server waits for tasks that run.
const DRAIN: Duration = Duration::from_secs(25);

/// Where both servers are.
struct Servers {
    /// `[ingest.kafka]`.
    kafka: String,
    schema: Schema,
}

impl Servers {
    fn new(test: &str) -> Option<Self> {
        Some(Self {
            kafka: format!("brokers = \"{}\"", address(test, "OFFLOOP_TEST_KAFKA")?),
            schema: Schema::new(test)?,
        })
    }

    fn folder(&self) -> tempfile::TempDir {
        let columns = "columns = [{ name = \"id\", type = \"int4\", null = false }, { name = \"name\", type = \"text\" }]\nkey = \"id\"\n";
        let config = format!(
            "[ingest]\npostgres_file = \"postgres\"\n[ingest.kafka]\n{}\n\
             [ingest.targets.feed]\nsink = \"kafka\"\ntopic = \"{schema}\"\n\
             kafka = {{ create = {{ partitions = 3 }} }}\nbatch = {{ rows = 500 }}\n{columns}\
             [ingest.targets.people]\nsink = \"postgres\"\ntable = \"{schema}.people\"\ncreate = true\n\
             batch = {{ rows = 1000 }}\n{columns}\
             [ingest.consumers.people]\ntopic = \"{schema}\"\ntarget = \"people\"\nsession = \"6s\"\n",
            self.kafka,
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

fn jobs(server: &Running) -> Vec<Value> {
    let page: Value =
        serde_json::from_str(&text(&server.url, "/v1/jobs?task=ingest-consume")).unwrap();
    page["jobs"].as_array().unwrap().clone()
}

/// It stood until somebody started the server anew.
#[test]
fn a_consumer_that_stopped_before_a_message_goes_on_by_itself_once_that_is_stepped_over() {
    let Some(servers) = Servers::new("stepped") else {
        return;
    };
    let folder = servers.folder();
    let config = folder.path().join("offloop.toml");
    let stops = std::fs::read_to_string(&config).unwrap().replace(
        "batch = { rows = 1000 }",
        "on_bad_row = \"stop\"\nbatch = { rows = 1000 }",
    );
    // The topic takes larger numbers than the table.
    let stops = stops.replacen("type = \"int4\"", "type = \"int8\"", 1);
    std::fs::write(&config, stops).unwrap();
    let send = |rows: &str| {
        std::fs::write(folder.path().join("people.csv"), format!("id,name\n{rows}")).unwrap();
        let words = ["ingest", "people.csv", "--target", "feed"];
        let sent = program(folder.path()).args(words).output().unwrap();
        told(&sent, &words, 0);
    };
    send("1,Ada\n4294967294,Bad\n2,Grace\n");
    let server = serve(folder.path());
    let stopped = until_some("the stop", || {
        let of = consumer(&server);
        of["next_try_ms"].is_u64().then_some(of)
    });
    let error = stopped["error"].as_str().unwrap();
    assert_eq!(stopped["state"], "failed", "{stopped}");
    assert!(error.contains("stopped by on_bad_row at "), "{stopped}");
    assert!(stopped["next_try_ms"].as_u64().unwrap() <= 30_000);
    let figures = text(&server.url, "/metrics");
    assert!(
        figures.contains("offloop_ingest_consumer_up{consumer=\"people\",member=\"0\"} 0"),
        "{figures}"
    );

    // What the guide says.
    let (_, place) = error.split_once('[').unwrap();
    let (partition, rest) = place.split_once("] offset ").unwrap();
    let (offset, _) = rest.split_once(':').unwrap();
    let offset: u64 = offset.parse().unwrap();
    let stepped = servers.schema.ask(&format!(
        "UPDATE {0}.offloop_ingest_streams SET next_offset = {1} WHERE consumer_group = 'offloop-people' \
         AND topic = '{0}' AND partition = {partition} AND next_offset <= {offset} RETURNING next_offset",
        servers.schema.name,
        offset + 1,
    ));
    assert_eq!(stepped, (offset + 1).to_string());
    until("the other rows", || servers.schema.rows() == 2);
    until("a member", || consumer(&server)["state"] == "running");
    let states: Vec<_> = jobs(&server)
        .iter()
        .map(|job| job["state"].clone())
        .collect();
    assert_eq!(
        states,
        ["running", "failed"],
        "one that runs, one that says why"
    );
}

/// Its servers died under it before it got on: one that came back at once would take the next one down, and
/// one that did not come back would be missed.
#[test]
fn a_consumer_that_three_servers_died_under_says_when_it_is_tried_again_and_no_start_hurries_it() {
    let columns = "columns = [{ name = \"id\", type = \"int4\" }]\nkey = \"id\"\n";
    // Nobody is there, so it never gets on.
    let config = format!(
        "[ingest.kafka]\nbrokers = \"127.0.0.1:9\"\n\
         [ingest.targets.people]\nsink = \"sqlite\"\npath = \"people.db\"\ntable = \"people\"\ncreate = true\n{columns}\
         [ingest.consumers.people]\ntopic = \"people\"\ntarget = \"people\"\n"
    );
    let folder = imports::folder(&config);
    for _ in 0..3 {
        let mut server = serve(folder.path());
        until("an attempt", || {
            let jobs = jobs(&server);
            jobs.first()
                .is_some_and(|job| job["state"] == "running" && job["started_at"].is_string())
        });
        server.kill();
    }
    let mut last = Value::Null;
    for start in 0..2 {
        let mut server = serve(folder.path());
        let jobs = jobs(&server);
        let states: Vec<_> = jobs.iter().map(|job| &job["state"]).collect();
        assert_eq!(states, ["scheduled", "failed"], "start {start}: {jobs:?}");
        assert_eq!(jobs[1]["reason"], "poison", "{jobs:?}");
        if start > 0 {
            assert_eq!(jobs[0], last, "a start changes nothing");
        }
        last = jobs[0].clone();
        let of = consumer(&server);
        assert_eq!(of["state"], "failed", "{of}");
        let why = of["error"].as_str().unwrap();
        assert!(why.contains("ended without a word"), "{of}");
        let wait = of["next_try_ms"].as_u64().unwrap();
        assert!((500_000..=600_000).contains(&wait), "{of}");
        let listed = server.text(&["jobs", "--task", "ingest-consume"], 0);
        let due = jobs[0]["due_at"].as_str().unwrap();
        assert!(listed.contains(&format!("scheduled for {due}")), "{listed}");
        server.kill();
    }
}

#[test]
fn a_consumer_that_is_killed_again_and_again_between_its_messages_never_waits_for_a_person() {
    let Some(servers) = Servers::new("often") else {
        return;
    };
    let folder = servers.folder();
    let mut sent = 0;
    let mut send = || {
        let mut file = String::from("id,name\n");
        for row in sent + 1..=sent + 500 {
            writeln!(file, "{row},\"name, {row}\"").unwrap();
        }
        sent += 500;
        let name = format!("people-{sent}.csv");
        std::fs::write(folder.path().join(&name), file).unwrap();
        let words = ["ingest", &name, "--target", "feed"];
        told(
            &program(folder.path()).args(words).output().unwrap(),
            &words,
            0,
        );
        sent
    };
    for _ in 0..5 {
        let mut server = serve(folder.path());
        let rows = send();
        until("these rows", || servers.schema.rows() == rows);
        // What it has passed is said, and then on disk.
        until("its place", || {
            let id = jobs(&server)[0]["id"].as_str().unwrap().to_owned();
            support::job(&server.url, &id, "")["checkpoint"]["messages"] == rows
        });
        server.kill();
    }
    let server = serve(folder.path());
    let rows = send();
    until("the last rows", || servers.schema.rows() == rows);
    let jobs = jobs(&server);
    assert_eq!(
        (jobs.len(), &jobs[0]["attempt"]),
        (1, &6.into()),
        "{jobs:?}"
    );
}

#[test]
fn a_check_says_that_a_consumers_topic_is_not_there() {
    let Some(servers) = Servers::new("unread") else {
        return;
    };
    let folder = servers.folder();
    let check = |code: i32| {
        let output = program(folder.path()).arg("check").output().unwrap();
        told(&output, &["check"], code)
    };
    let text = check(1);
    let problem = "problem ingest.consumers.people.topic: there is no topic";
    assert!(
        text.contains(problem) && text.contains("not ok: 1 of 1 consumers"),
        "{text}"
    );
    let words = ["ingest", "people.csv", "--target", "feed"];
    std::fs::write(folder.path().join("people.csv"), imports::people(1)).unwrap();
    told(
        &program(folder.path()).args(words).output().unwrap(),
        &words,
        0,
    );
    let text = check(0);
    assert!(text.contains("consumer people"), "{text}");
}

#[cfg(feature = "kafka-tls")]
#[test]
fn a_file_is_in_the_table_by_a_topic_that_asks_for_a_password_within_tls() {
    let test = "by_a_topic_that_asks_for_a_password_within_tls";
    let (Some(mut servers), Some(brokers), Some(tls)) = (
        Servers::new(test),
        address(test, "OFFLOOP_TEST_KAFKA_LOGIN"),
        address(test, "OFFLOOP_TEST_KAFKA_TLS"),
    ) else {
        return;
    };
    servers.kafka = format!(
        "brokers = \"{brokers}\"\ntls = true\nca_file = \"{tls}/ca.pem\"\nuser = \"loader\"\npassword_file = \"password\""
    );
    let folder = servers.folder();
    let run = |words: &[&str], code| {
        let done = program(folder.path()).args(words).output().unwrap();
        told(&done, words, code)
    };
    let password = folder.path().join("password");
    std::fs::write(&password, "guessed\n").unwrap();
    let refused = run(&["check"], 1);
    assert!(
        refused.contains("Authentication failed") && refused.contains("see user, password"),
        "{refused}"
    );
    std::fs::write(&password, "loads and no more\n").unwrap();
    std::fs::write(folder.path().join("people.csv"), imports::people(20_000)).unwrap();
    run(&["ingest", "people.csv", "--target", "feed"], 0);
    run(&["check"], 0);
    let _server = serve(folder.path());
    until("all rows", || servers.schema.rows() == 20_000);
}
