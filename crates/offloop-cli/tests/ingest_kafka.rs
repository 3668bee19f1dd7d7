//! `offloop ingest` into a topic of a real broker. Kafka's own consumer is the witness.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
#![allow(
    clippy::disallowed_methods,
    reason = "the program itself is under test"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

mod support;

use support::imports::{self, COLUMNS, address, people};
use support::{PATIENCE, Running, end_of, program, serve, told};

/// Where the broker is, and its own tools.
struct Broker {
    at: String,
    tools: String,
}

impl Broker {
    fn new(test: &str) -> Option<Self> {
        Some(Self {
            at: address(test, "OFFLOOP_TEST_KAFKA")?,
            tools: address(test, "OFFLOOP_TEST_KAFKA_LIBS")?,
        })
    }

    fn tool(&self, class: &str, words: &[&str]) -> String {
        let mut command = Command::new("java");
        command.args([
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-cp",
            &format!("{}/*", self.tools),
        ]);
        command
            .args([class, "--bootstrap-server", &self.at])
            .args(words);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn has(&self, topic: &str) -> bool {
        let all = self.tool("org.apache.kafka.tools.TopicCommand", &["--list"]);
        all.lines().any(|line| line == topic)
    }

    /// How often each id is in the topic; ends when nothing came for five seconds.
    fn ids(&self, topic: &str) -> BTreeMap<u64, u32> {
        let words = ["--topic", topic, "--from-beginning", "--timeout-ms", "5000"];
        let text = self.tool("org.apache.kafka.tools.consumer.ConsoleConsumer", &words);
        let mut ids = BTreeMap::new();
        for line in text.lines() {
            let row: Value = serde_json::from_str(line).unwrap();
            assert_eq!(row["name"], format!("name {}", row["id"]));
            *ids.entry(row["id"].as_u64().unwrap()).or_default() += 1;
        }
        ids
    }

    fn folder(&self, topic: &str) -> tempfile::TempDir {
        imports::folder(&format!(
            "[ingest.kafka]\nbrokers = \"{}\"\n[ingest.targets.people]\nsink = \"kafka\"\n\
             topic = \"{topic}\"\nkey = \"id\"\nkafka = {{ create = {{ partitions = 2 }} }}\n\
             batch = {{ rows = 200 }}\n\
             {COLUMNS}\n",
            self.at
        ))
    }
}

fn run(folder: &Path, words: &[&str], code: i32) -> String {
    told(&program(folder).args(words).output().unwrap(), words, code)
}

#[test]
fn rows_are_in_the_topic_although_command_and_server_are_killed_and_a_check_makes_none() {
    let Some(broker) = Broker::new("rows_are_in_the_topic") else {
        return;
    };
    let topic = format!("offloop-cli-{}", std::process::id());
    let folder = broker.folder(&topic);
    let text = run(folder.path(), &["check"], 0);
    assert!(text.contains("target  people"), "{text}");
    assert!(!broker.has(&topic), "the check has made the topic");

    let rows = 300_000;
    std::fs::write(folder.path().join("people.csv"), people(rows)).unwrap();
    let notes = folder.path().join("offloop-data/ingest/kafka");
    let noted = || {
        let files = std::fs::read_dir(&notes).into_iter().flatten();
        let sizes = files.map(|file| file.unwrap().metadata().map_or(0, |about| about.len()));
        sizes.sum::<u64>()
    };
    let grown = |from: u64| {
        let deadline = Instant::now() + PATIENCE;
        while noted() < from + 5_000 {
            assert!(Instant::now() < deadline, "in time");
            std::thread::yield_now();
        }
    };
    let words = ["ingest", "people.csv", "--target", "people"];
    let mut command = program(folder.path());
    command.args(words);
    let mut running = Running::new(&mut command);
    grown(0);
    running.kill();
    let text = run(folder.path(), &words, 0);
    assert!(
        text.contains("were stored before"),
        "killed too late: {text}"
    );

    let mut server = serve(folder.path());
    let text: String = (rows + 1..=2 * rows).fold("id,name\n".into(), |mut text, row| {
        writeln!(text, "{row},name {row}").unwrap();
        text
    });
    let mut answer = ureq::post(format!("{}/v1/ingest/people", server.url))
        .header("prefer", "respond-async")
        .send(text.as_bytes())
        .unwrap();
    let view: Value = answer.body_mut().read_json().unwrap();
    grown(noted());
    server.kill();
    server = serve(folder.path());
    let job = end_of(&server.url, view["job"].as_str().unwrap());
    assert_eq!(job["result"]["stored"], rows, "{job}");

    let ids = broker.ids(&topic);
    assert!(
        ids.keys().copied().eq(1..=2 * rows),
        "rows are missing: {}",
        ids.len()
    );
    // At least once: what was under way when the two were killed comes again, some batches each.
    let again: u64 = ids.values().map(|count| u64::from(count - 1)).sum();
    println!("{again} of {} rows came twice", 2 * rows);
    assert!(again <= 2 * 4 * 200 + 2 * 200, "{again} rows came twice");
}

#[test]
fn a_topic_that_is_not_there_is_told_before_the_first_byte() {
    let Some(broker) = Broker::new("a_topic_that_is_not_there") else {
        return;
    };
    let folder = broker.folder("offloop-nobody-made-it");
    let path = folder.path().join("offloop.toml");
    let config = std::fs::read_to_string(&path).unwrap();
    let plain = config.replace("kafka = { create = { partitions = 2 } }\n", "");
    std::fs::write(&path, plain).unwrap();
    let text = run(folder.path(), &["check"], 1);
    assert!(
        text.contains("there is no topic `offloop-nobody-made-it`"),
        "{text}"
    );
    let acks = config.replace(
        "[ingest.targets",
        "[ingest.kafka.properties]\nacks = \"0\"\n[ingest.targets",
    );
    std::fs::write(&path, acks).unwrap();
    let text = run(folder.path(), &["check"], 1);
    assert!(text.contains("ingest.kafka.properties.acks"), "{text}");
}
