//! Consumers of a real broker into real tables, for tests.
#![allow(dead_code, reason = "each test takes its part")]

use std::sync::Arc;
use std::time::Duration;

use offloop_ingest::Target;
use offloop_ingest::consume::{ConsumerStatus, Plan, RawConsumer, Running, start};
use offloop_ingest::sink::Outlet;
use offloop_ingest::sink::postgres::{PostgresOutlet, PostgresSettings};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio_postgres::{Client, NoTls};

use crate::loads::target;
use crate::topics::{broker, settings, skipped, variable};

/// Far beyond what any step takes.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// Both servers; prints the line of skipped tests if one is missing.
pub(crate) fn servers(test: &str) -> Option<(String, String)> {
    let brokers = broker(test)?;
    let Some(postgres) = variable("OFFLOOP_TEST_POSTGRES") else {
        skipped(test, "OFFLOOP_TEST_POSTGRES");
        return None;
    };
    Some((brokers, postgres))
}

pub(crate) async fn client(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// A schema of the test's own, empty but for what `make` makes in it.
pub(crate) async fn schema(url: &str, name: &str, make: &str) -> Client {
    let client = client(url).await;
    let fresh = format!(
        "SET client_min_messages = error; DROP SCHEMA IF EXISTS {name} CASCADE; CREATE SCHEMA {name}; SET search_path = {name}; {make}"
    );
    client.batch_execute(&fresh).await.unwrap();
    client
}

pub(crate) async fn number(client: &Client, sql: &str) -> i64 {
    client.query_one(sql, &[]).await.unwrap().get(0)
}

pub(crate) const COLUMNS: &str =
    r#"columns = [{ name = "id", type = "int4", null = false }, { name = "name", type = "text" }]"#;

pub(crate) fn table(name: &str, more: &str) -> Target {
    target(&format!(
        "sink = \"postgres\"\ntable = \"{name}\"\n{more}\n\
         batch = {{ rows = 500, bytes = \"64KiB\", time = \"200ms\" }}\n"
    ))
}

/// A plan for the target `people` at the server `url`.
pub(crate) fn plan(brokers: &str, url: &str, target: &Target, topic: &str, more: &str) -> Plan {
    let outlet = PostgresOutlet::new(target, url, PostgresSettings::default()).unwrap();
    plan_of(brokers, target, Arc::new(outlet), topic, more)
}

pub(crate) fn plan_of(
    brokers: &str,
    target: &Target,
    outlet: Arc<dyn Outlet>,
    topic: &str,
    more: &str,
) -> Plan {
    let text = format!(
        "topic = \"{topic}\"\ngroup = \"{topic}\"\ntarget = \"people\"\nsession = \"6s\"\n{more}"
    );
    let raw: RawConsumer = toml::from_str(&text).unwrap();
    Plan {
        consumer: raw.resolve("one", std::slice::from_ref(target)).unwrap(),
        target: target.clone(),
        outlet,
        kafka: settings(brokers, ""),
        runtime: tokio::runtime::Handle::current(),
    }
}

pub(crate) fn begin(plan: Plan) -> Running {
    start(plan).unwrap()
}

/// Until the status is as it should be; what it was is told where it never is.
pub(crate) async fn until(
    running: &Running,
    is: impl Fn(&ConsumerStatus) -> bool,
) -> ConsumerStatus {
    let mut watch = running.watch();
    let waited = tokio::time::timeout(PATIENCE, watch.wait_for(|status| is(status)))
        .await
        .map(|status| status.unwrap().clone());
    let Ok(status) = waited else {
        panic!("{:#?}", running.watch().borrow());
    };
    status
}

/// Everything that the topic has is in the table.
pub(crate) async fn caught_up(running: &Running, rows: u64) -> ConsumerStatus {
    until(running, |status| {
        let stored: u64 = status
            .partitions
            .iter()
            .map(|part| part.stored + part.rejected)
            .sum();
        stored >= rows && status.lag == Some(0)
    })
    .await
}

pub(crate) async fn stop(mut running: Running) {
    running.stop();
    tokio::time::timeout(PATIENCE, running.ended())
        .await
        .expect("it stops in bounded time")
        .unwrap();
}

/// A producer for tests: what it is given is in the topic when [`Sender::flush`] has returned.
pub(crate) struct Sender {
    producer: BaseProducer,
    topic: String,
}

impl Sender {
    pub(crate) fn new(brokers: &str, topic: &str) -> Self {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", brokers)
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "1000000")
            .set("message.max.bytes", "20000000");
        Self {
            producer: config.create().unwrap(),
            topic: topic.to_owned(),
        }
    }

    pub(crate) fn send(&self, partition: Option<i32>, key: &str, value: Option<&[u8]>) {
        let header = Header {
            key: "from",
            value: Some("tests"),
        };
        let mut record = BaseRecord::to(&self.topic)
            .key(key)
            .headers(OwnedHeaders::new().insert(header));
        record.payload = value;
        record.partition = partition;
        self.producer.send(record).map_err(|error| error.0).unwrap();
    }

    pub(crate) fn flush(&self) {
        self.producer.flush(PATIENCE).unwrap();
    }
}

/// `{"id": ID, "name": NAME}`.
pub(crate) fn person(id: u64, name: &str) -> String {
    serde_json::json!({ "id": id, "name": name }).to_string()
}
