//! A real broker for tests: topics, and what is in them.
#![allow(dead_code, reason = "each test takes its part")]

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use offloop_ingest::sink::kafka::{KafkaSettings, RawKafka};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

const ASK: Duration = Duration::from_secs(60);

/// Past the capture of the test's output: who reads it is to see it.
pub(crate) fn skipped(test: &str, variable: &str) {
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED {test}: set {variable} to run it"
    );
}

/// What `name` says; prints the line of skipped tests if it says nothing.
pub(crate) fn said(test: &str, name: &str) -> Option<String> {
    let said = variable(name);
    if said.is_none() {
        skipped(test, name);
    }
    said
}

/// Where the broker is.
pub(crate) fn broker(test: &str) -> Option<String> {
    said(test, "OFFLOOP_TEST_KAFKA")
}

/// The folder of servers that a test may stop and start.
pub(crate) fn the_servers(test: &str) -> Option<String> {
    said(test, "OFFLOOP_TEST_SERVERS")
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test stops and starts its servers"
)]
pub(crate) fn server_does(verb: &str, servers: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../xtask/servers.sh");
    let done = Command::new("bash")
        .arg(script)
        .args([verb, servers])
        .status();
    assert!(done.unwrap().success(), "{verb}");
}

/// How long a server stays away, where somebody wants it longer than it takes to start again.
pub(crate) async fn outage() {
    if let Some(seconds) = variable("OFFLOOP_TEST_OUTAGE_SECONDS") {
        tokio::time::sleep(Duration::from_secs(seconds.parse().unwrap())).await;
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "where the servers of tests are is told by the environment"
)]
pub(crate) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

pub(crate) fn settings(brokers: &str, more: &str) -> KafkaSettings {
    let raw: RawKafka = toml::from_str(&format!("brokers = \"{brokers}\"\n{more}")).unwrap();
    raw.resolve(Path::new("."), None).unwrap()
}

/// No other run's.
pub(crate) fn fresh_name(test: &str) -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let unique = tempfile::Builder::new().rand_bytes(8).tempdir().unwrap();
    let unique = unique.path().file_name().unwrap().to_string_lossy();
    format!("{test}-{count}-{}", unique.trim_start_matches('.'))
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    config
}

pub(crate) async fn make(brokers: &str, topic: &str, partitions: i32, config: &[(&str, &str)]) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    for (name, value) in config {
        new = new.set(name, value);
    }
    let options = AdminOptions::new()
        .request_timeout(Some(ASK))
        .operation_timeout(Some(ASK));
    for made in admin.create_topics([&new], &options).await.unwrap() {
        made.unwrap();
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) value: String,
    pub(crate) headers: BTreeMap<String, String>,
}

impl Received {
    pub(crate) fn row(&self) -> u64 {
        self.headers["offloop-row"].parse().unwrap()
    }
}

/// All messages of a topic, each partition's in its order.
pub(crate) fn all(brokers: &str, topic: &str) -> Vec<Received> {
    let mut config = client(brokers);
    config
        .set("group.id", "tests")
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true");
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), ASK).unwrap();
    let mut assigned = TopicPartitionList::new();
    let mut left = 0;
    for partition in metadata.topics()[0].partitions() {
        let offset = Offset::Beginning;
        assigned
            .add_partition_offset(topic, partition.id(), offset)
            .unwrap();
        left += 1;
    }
    consumer.assign(&assigned).unwrap();
    let mut received = Vec::new();
    while left > 0 {
        match consumer.poll(ASK).expect("the broker answers") {
            Err(KafkaError::PartitionEOF(_)) => left -= 1,
            Err(error) => panic!("{error}"),
            Ok(message) => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let headers = message.headers().into_iter().flat_map(Headers::iter);
                received.push(Received {
                    partition: message.partition(),
                    key: message.key().map(text),
                    value: text(message.payload().unwrap_or_default()),
                    headers: headers
                        .map(|header| {
                            (
                                header.key.to_owned(),
                                text(header.value.unwrap_or_default()),
                            )
                        })
                        .collect(),
                });
            }
        }
    }
    received
}

/// That each of `rows` (key by row number) came, each key's rows in their order; a message that
/// comes again must be one that came before. Returns how many came again.
pub(crate) fn check_order(received: &[Received], rows: &BTreeMap<u64, String>) -> usize {
    let mut due: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for (row, key) in rows {
        due.entry(key).or_default().push(*row);
    }
    let mut came: BTreeMap<&str, usize> = BTreeMap::new();
    let mut again = 0;
    let mut partitions = BTreeMap::new();
    for message in received {
        let key = message.key.as_deref().unwrap();
        let first = *partitions.entry(key).or_insert(message.partition);
        assert_eq!(first, message.partition, "`{key}` is in two partitions");
        let (due, came) = (&due[key], came.entry(key).or_default());
        match due.get(*came) {
            Some(next) if *next == message.row() => *came += 1,
            next => {
                assert!(
                    due[..*came].contains(&message.row()),
                    "of `{key}`, row {} came where {next:?} was due",
                    message.row()
                );
                again += 1;
            }
        }
    }
    for (key, due) in &due {
        assert_eq!(came.get(key).copied().unwrap_or(0), due.len(), "of `{key}`");
    }
    again
}

/// Sum of the offsets that the group of the topic's name was told.
pub(crate) fn told(brokers: &str, topic: &str) -> i64 {
    let mut config = client(brokers);
    config.set("group.id", topic);
    let consumer: BaseConsumer = config.create().unwrap();
    let metadata = consumer.fetch_metadata(Some(topic), ASK).unwrap();
    let mut asked = TopicPartitionList::new();
    for partition in metadata.topics()[0].partitions() {
        asked.add_partition(topic, partition.id());
    }
    let found = consumer.committed_offsets(asked, ASK).unwrap();
    let offsets = found.elements();
    let offsets = offsets
        .iter()
        .filter_map(|element| element.offset().to_raw());
    offsets.filter(|offset| *offset > 0).sum()
}

/// As the broker does with messages that are too old.
pub(crate) async fn drop_before(brokers: &str, topic: &str, partition: i32, offset: i64) {
    let admin: AdminClient<DefaultClientContext> = client(brokers).create().unwrap();
    let mut list = TopicPartitionList::new();
    let offset = Offset::Offset(offset);
    list.add_partition_offset(topic, partition, offset).unwrap();
    let options = AdminOptions::new()
        .request_timeout(Some(ASK))
        .operation_timeout(Some(ASK));
    let done = admin.delete_records(&list, &options).await.unwrap();
    for element in done.elements() {
        element.error().unwrap();
    }
}

/// In the list of all topics, which makes none.
pub(crate) fn exists(brokers: &str, topic: &str) -> bool {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let all = client
        .fetch_metadata(None, Duration::from_secs(10))
        .unwrap();
    all.topics().iter().any(|there| there.name() == topic)
}
