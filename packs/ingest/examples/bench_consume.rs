//! Rows per second from a topic into a table of PostgreSQL: upserted by key, and appended.
//!
//! `cargo run --release -p offloop-ingest --features kafka --example bench_consume -- [ROWS] [ROUNDS]`
//! with `OFFLOOP_TEST_KAFKA` and `OFFLOOP_TEST_POSTGRES` as `xtask/servers.sh start` prints them.
//!
//! The topic is filled before; a round is from the consumer's start (joining its group included) until
//! all is committed. The rate is that of the middle: from a tenth of the rows to all of them.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_ingest::RawTarget;
use offloop_ingest::consume::{Plan, RawConsumer, start};
use offloop_ingest::sink::kafka::RawKafka;
use offloop_ingest::sink::postgres::{PostgresOutlet, PostgresSettings};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use tokio_postgres::NoTls;

const PARTITIONS: i32 = 4;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default: u64| -> u64 {
        let argument = arguments.next();
        argument.map_or(default, |text| text.parse().expect("a number"))
    };
    let (rows, rounds) = (number(1_000_000), number(3));
    let (brokers, url) = (
        variable("OFFLOOP_TEST_KAFKA"),
        variable("OFFLOOP_TEST_POSTGRES"),
    );
    let topic = format!("bench-consume-{}", std::process::id());
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(fill(&brokers, &topic, rows));
    for round in 0..rounds {
        for (how, more, rule) in [
            ("upsert", "key = \"id\"", ""),
            ("append", "", "append = true"),
        ] {
            let rate = runtime.block_on(consume(&brokers, &url, &topic, rows, round, more, rule));
            println!("round {round}: {how} {rate:.0} rows/s");
        }
    }
}

async fn fill(brokers: &str, topic: &str, rows: u64) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().expect("a client");
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let made = admin.create_topics([&new], &AdminOptions::new()).await;
    made.expect("an answer").remove(0).expect("a topic");
    config.set("linger.ms", "20").set("compression.type", "lz4");
    config.set("queue.buffering.max.messages", "100000");
    let producer: BaseProducer = config.create().expect("a producer");
    for id in 0..rows {
        let key = id.to_string();
        let value = format!(
            "{{\"id\":{id},\"name\":\"somebody with number {id}\",\"age\":{},\"mail\":\"{id}@example.org\"}}",
            id % 90
        );
        let mut record = BaseRecord::to(topic).key(&key).payload(&value);
        while let Err((_full, back)) = producer.send(record) {
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer
        .flush(Duration::from_secs(60))
        .expect("a full topic");
}

async fn consume(
    brokers: &str,
    url: &str,
    topic: &str,
    rows: u64,
    round: u64,
    more: &str,
    rule: &str,
) -> f64 {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .expect("a connection");
    tokio::spawn(connection);
    let fresh = "DROP TABLE IF EXISTS bench_consume, offloop_ingest_streams";
    client.batch_execute(fresh).await.expect("an empty place");
    let target: RawTarget = toml::from_str(&format!(
        "sink = \"postgres\"\ntable = \"bench_consume\"\ncreate = true\n{more}\n\
         columns = [{{ name = \"id\", type = \"int8\" }}, {{ name = \"name\", type = \"text\" }}, {{ name = \"age\", type = \"int4\" }}, {{ name = \"mail\", type = \"text\" }}]"
    ))
    .expect("a target");
    let target = target.resolve("people").expect("a good target");
    let consumer: RawConsumer = toml::from_str(&format!(
        "topic = \"{topic}\"\ntarget = \"people\"\ngroup = \"{topic}-{round}-{}\"\n{rule}",
        rule.len()
    ))
    .expect("a consumer");
    let kafka: RawKafka = toml::from_str(&format!("brokers = \"{brokers}\"")).expect("settings");
    let outlet = PostgresOutlet::new(&target, url, PostgresSettings::default()).expect("a place");
    let mut running = start(Plan {
        consumer: consumer
            .resolve("bench", std::slice::from_ref(&target))
            .expect("a good consumer"),
        target,
        outlet: Arc::new(outlet),
        kafka: kafka.resolve(Path::new("."), None).expect("good settings"),
        runtime: tokio::runtime::Handle::current(),
    })
    .expect("a thread");
    let mut watch = running.watch();
    let early = watch.wait_for(|status| status.stored >= rows / 10).await;
    let before = early.expect("a consumer").stored;
    let begun = Instant::now();
    drop(
        watch
            .wait_for(|status| status.stored >= rows)
            .await
            .expect("a consumer"),
    );
    let rate = (rows - before) as f64 / begun.elapsed().as_secs_f64();
    running.stop();
    running.ended().await.expect("a good end");
    rate
}

#[expect(
    clippy::disallowed_methods,
    reason = "where benchmarks find their servers"
)]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("set {name}"))
}
