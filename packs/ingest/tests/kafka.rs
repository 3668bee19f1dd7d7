//! Loads into topics of a real broker, and of one that fails on demand.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod loads;
mod topics;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use loads::{begin, id, loader, pour, rejects, run, runtime, target};
use offloop_ingest::load::{LoadError, Loader, feed};
use offloop_ingest::sink::SinkError;
use offloop_ingest::sink::kafka::{KafkaOutlet, KafkaSettings};
use rdkafka::bindings::rd_kafka_resp_err_t as Code;
use rdkafka::mocking::MockCluster;
use topics::{
    all, broker, check_order, fresh_name, make, outage, server_does, settings, the_servers,
    variable,
};

/// The broker is everybody's; who stops it wants to be alone.
static BROKER: RwLock<()> = RwLock::new(());

const KEYS: u64 = 37;

fn open(folder: &Path, settings: &KafkaSettings, topic: &str, more: &str) -> Loader {
    let target = target(&format!(
        r#"
        sink = "kafka"
        topic = "{topic}"
        key = "tenant"
        columns = [{{ name = "tenant", type = "text" }}, {{ name = "n", type = "int8" }}, {{ name = "note", type = "text" }}]
        {more}
        "#
    ));
    let outlet = KafkaOutlet::new(&target, settings, folder.join("notes")).unwrap();
    loader(&folder.join("rejects"), &target, Arc::new(outlet))
}

const BATCH: &str = "batch = { rows = 500, bytes = \"64KiB\", time = \"10s\" }";

/// `rows` rows of some tenants; the note of each row that `large` picks has 20,000 bytes.
fn text(rows: u64, large: impl Fn(u64) -> bool) -> String {
    let mut text = String::from("tenant,n,note\n");
    for row in 1..=rows {
        let note = if large(row) {
            "x".repeat(20_000)
        } else {
            format!("note, \"\"{row}\"\"")
        };
        writeln!(text, "t{},{row},\"{note}\"", row * row % KEYS).unwrap();
    }
    text
}

fn keys(rows: u64, but: impl Fn(u64) -> bool) -> BTreeMap<u64, String> {
    let rows = (1..=rows).filter(|row| !but(*row));
    rows.map(|row| (row, format!("t{}", row * row % KEYS)))
        .collect()
}

#[test]
fn every_row_is_one_message_in_the_order_of_its_key() {
    let Some(brokers) = broker("every_row_is_one_message_in_the_order_of_its_key") else {
        return;
    };
    let _shared = BROKER.read().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("order"));
    let more = format!("{BATCH}\nkafka = {{ create = {{ partitions = 3 }} }}");
    let loader = open(folder.path(), &settings(&brokers, ""), &topic, &more);
    let text = text(20_000, |_| false).replace("t4,77,", "t4,bad,");
    let (summary, again) = runtime().block_on(async {
        let summary = run(&loader, "one", &text).await.unwrap();
        (summary, run(&loader, "one", &text).await.unwrap())
    });
    let was_bad = u64::from(77 * 77 % KEYS == 4);
    assert_eq!(summary.rows_stored, 20_000 - was_bad);
    assert_eq!(summary.rows_rejected, was_bad);
    assert!(again.was_stored, "the same load again sends nothing");
    let received = all(&brokers, &topic);
    assert_eq!(
        check_order(&received, &keys(20_000, |row| row == 77 && was_bad == 1)),
        0
    );
    for message in &received {
        let value: serde_json::Value = serde_json::from_str(&message.value).unwrap();
        assert_eq!(value["n"], message.row());
        assert_eq!(value["note"], format!("note, \"{}\"", message.row()));
        assert_eq!(message.headers["offloop-load"], "one");
        let offset: usize = message.headers["offloop-offset"].parse().unwrap();
        let line = format!("{},{},", message.key.as_deref().unwrap(), message.row());
        assert!(text[offset..].starts_with(&line));
    }
    let partitions: std::collections::BTreeSet<_> =
        received.iter().map(|message| message.partition).collect();
    assert_eq!(partitions.len(), 3);
}

#[test]
fn a_topic_that_is_missing_is_named_and_not_made() {
    let Some(brokers) = broker("a_topic_that_is_missing_is_named_and_not_made") else {
        return;
    };
    let _shared = BROKER.read().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("missing"));
    let loader = open(folder.path(), &settings(&brokers, ""), &topic, BATCH);
    runtime().block_on(async {
        for _ in 0..2 {
            let failed = run(&loader, "one", &text(10, |_| false)).await.unwrap_err();
            assert!(failed.to_string().contains(&format!("no topic `{topic}`")));
            assert!(!failed.error.retry_helps());
        }
    });
}

#[test]
fn a_row_that_is_too_large_costs_one_row_and_is_one_dead_letter() {
    let name = "a_row_that_is_too_large_costs_one_row_and_is_one_dead_letter";
    let Some(brokers) = broker(name) else { return };
    let _shared = BROKER.read().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("large"));
    let is_large = |row| row % 700 == 9;
    let text = text(5_000, is_large);
    let settings = settings(&brokers, "");
    runtime().block_on(async {
        make(&brokers, &topic, 2, &[("max.message.bytes", "10000")]).await;
        // Cut in the middle, so that a second run finds the first one's dead letters.
        let loader = open(folder.path(), &settings, &topic, BATCH);
        let (to, from) = feed();
        let half = Bytes::copy_from_slice(&text.as_bytes()[..text.len() / 2]);
        let pouring = tokio::spawn(async move {
            to.send(half).await.unwrap();
            to.cut("the test").await;
        });
        let failed = begin(&loader, "one").run(from).await.unwrap_err();
        assert!(matches!(failed.error, LoadError::Cut { .. }), "{failed}");
        pouring.await.unwrap();
        // The last notes are lost, as by a crash right before they were written.
        let notes = folder.path().join("notes/one.notes");
        let kept = std::fs::read_to_string(&notes).unwrap();
        let lines: Vec<_> = kept.lines().collect();
        assert!(lines.len() > 4, "{kept}");
        drop(loader);
        std::fs::write(&notes, format!("{}\n", lines[..lines.len() - 2].join("\n"))).unwrap();
        let loader = open(folder.path(), &settings, &topic, BATCH);
        let summary = run(&loader, "one", &text).await.unwrap();
        assert!(summary.resumed_at > 0);
        assert_eq!((summary.rows_stored, summary.rows_rejected), (4_992, 8));
    });
    let again = check_order(&all(&brokers, &topic), &keys(5_000, is_large));
    assert!(
        (1..=1_000).contains(&again),
        "two batches came again: {again}"
    );
    let mut dead: Vec<_> = all(&brokers, &format!("{topic}.dlq"));
    dead.sort_by_key(topics::Received::row);
    let rows: Vec<_> = dead.iter().map(topics::Received::row).collect();
    assert_eq!(rows, [9, 709, 1_409, 2_109, 2_809, 3_509, 4_209, 4_909]);
    for letter in &dead {
        assert!(letter.value.contains(&"x".repeat(20_000)));
        assert!(letter.headers["offloop-reason"].contains("max.message.bytes 10000"));
        assert_eq!(letter.headers["offloop-target"], "people");
    }
    let refused = rejects(&folder.path().join("rejects"), "one");
    assert_eq!(refused.len(), 8);
    assert_eq!(refused[1]["row"], 709);
}

#[test]
fn a_stop_sends_no_row_of_the_batch_with_the_bad_one() {
    let Some(brokers) = broker("a_stop_sends_no_row_of_the_batch_with_the_bad_one") else {
        return;
    };
    let _shared = BROKER.read().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("stop"));
    let more = format!("{BATCH}\non_bad_row = \"stop\"");
    let loader = open(folder.path(), &settings(&brokers, ""), &topic, &more);
    let failed = runtime().block_on(async {
        make(&brokers, &topic, 1, &[("max.message.bytes", "10000")]).await;
        run(&loader, "one", &text(3_000, |row| row == 1_250))
            .await
            .unwrap_err()
    });
    assert!(matches!(
        failed.error,
        LoadError::Sink(SinkError::BadRow { .. })
    ));
    assert!(failed.to_string().contains("row 1250"), "{failed}");
    let stored = failed.summary.stored_to_row;
    assert_eq!(all(&brokers, &topic).len() as u64, stored);
    assert!((1_000..1_250).contains(&stored), "{stored}");
}

/// The broker is killed in the middle and started again; meanwhile nothing is lost, nothing is
/// passed, and the feed waits.
#[test]
fn a_broker_that_was_away_costs_no_row_and_no_order() {
    let name = "a_broker_that_was_away_costs_no_row_and_no_order";
    let Some(brokers) = broker(name) else { return };
    let Some(servers) = the_servers(name) else {
        return;
    };
    let _alone = BROKER.write().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("away"));
    let is_large = |row| row % 20_011 == 9;
    let text = text(150_000, is_large);
    let loader = open(
        folder.path(),
        &settings(&brokers, "memory = \"1MiB\""),
        &topic,
        BATCH,
    );
    let summary = runtime().block_on(async {
        make(&brokers, &topic, 4, &[("max.message.bytes", "10000")]).await;
        let (to, from) = feed();
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let pouring = tokio::spawn(pour(to, Bytes::from(text), 10_000));
        let running = tokio::spawn(load.run(from));
        watch
            .wait_for(|status| status.rows_stored > 20_000)
            .await
            .unwrap();
        server_does("kafka-kill", &servers);
        let at = watch.borrow().rows_in;
        outage().await;
        assert!(
            watch.borrow().rows_in < at + 20_000,
            "read on without a broker"
        );
        server_does("kafka-start", &servers);
        pouring.await.unwrap();
        running.await.unwrap().unwrap()
    });
    let large = (1..=150_000).filter(|row| is_large(*row)).count() as u64;
    assert_eq!(
        (summary.rows_stored, summary.rows_rejected),
        (150_000 - large, large)
    );
    let again = check_order(&all(&brokers, &topic), &keys(150_000, is_large));
    println!("{again} messages came again");
    let dead = all(&brokers, &format!("{topic}.dlq"));
    assert_eq!(dead.len() as u64, large);
    assert!(dead.iter().all(|letter| is_large(letter.row())));
}

/// What brokers answer when replicas are away, leaders move, or a batch is refused as a whole.
#[test]
fn errors_of_the_broker_cost_no_row_and_no_order() {
    use Code::*;
    let cases: &[(&str, &[Code])] = &[
        (
            "retried",
            &[
                RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
                RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS_AFTER_APPEND,
                RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
                RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
                RD_KAFKA_RESP_ERR__TRANSPORT,
            ],
        ),
        ("too-large", &[RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]),
        ("invalid", &[RD_KAFKA_RESP_ERR_INVALID_RECORD]),
        ("fenced", &[RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER]),
    ];
    let check = |case: &str, errors: &[Code]| {
        let cluster = MockCluster::new(3).unwrap();
        let (folder, topic) = (tempfile::tempdir().unwrap(), format!("mock-{case}"));
        cluster.create_topic(&topic, 3, 3).unwrap();
        let brokers = cluster.bootstrap_servers();
        cluster.request_errors(rdkafka::types::RDKafkaApiKey::Produce, errors);
        let loader = open(folder.path(), &settings(&brokers, ""), &topic, BATCH);
        let summary = runtime().block_on(run(&loader, "one", &text(10_000, |_| false)));
        let summary = summary.unwrap_or_else(|failed| panic!("{case}: {failed:?}"));
        assert_eq!(
            (summary.rows_stored, summary.rows_rejected),
            (10_000, 0),
            "{case}"
        );
        let again = check_order(&all(&brokers, &topic), &keys(10_000, |_| false));
        println!("{case}: {again} messages came again");
    };
    std::thread::scope(|scope| {
        for (case, errors) in cases {
            scope.spawn(|| check(case, errors));
        }
    });
}

#[test]
fn a_broker_that_never_answers_ends_the_load_and_says_so() {
    let cluster = MockCluster::new(1).unwrap();
    let (folder, topic) = (tempfile::tempdir().unwrap(), "mock-silent");
    cluster.create_topic(topic, 3, 1).unwrap();
    let brokers = cluster.bootstrap_servers();
    let loader = open(
        folder.path(),
        &settings(&brokers, "patience = \"1s\""),
        topic,
        BATCH,
    );
    runtime().block_on(async {
        let (to, from) = feed();
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        let running = tokio::spawn(load.run(from));
        let whole = text(6_000, |_| false);
        let (first, rest) = whole.split_at(whole.len() / 2);
        to.send(Bytes::copy_from_slice(first.as_bytes()))
            .await
            .unwrap();
        watch
            .wait_for(|status| status.rows_stored >= 2_000)
            .await
            .unwrap();
        cluster.broker_down(1).unwrap();
        let pouring = tokio::spawn(pour(to, Bytes::copy_from_slice(rest.as_bytes()), 9_000));
        let failed = running.await.unwrap().unwrap_err();
        assert!(
            matches!(failed.error, LoadError::Sink(SinkError::Unreachable { .. })),
            "{failed}"
        );
        assert!(failed.error.retry_helps());
        pouring.await.unwrap();
        cluster.broker_up(1).unwrap();
        let summary = run(&loader, "one", &whole).await.unwrap();
        assert_eq!(summary.rows_stored, 6_000);
        check_order(&all(&brokers, topic), &keys(6_000, |_| false));
        assert_eq!(loader.status(&id("one")).unwrap().rows_rejected, 0);
    });
}

/// What the child of the next test does; nothing for others.
#[test]
fn child_that_loads() {
    let Some(folder) = variable("OFFLOOP_TEST_KAFKA_CHILD") else {
        return;
    };
    let brokers = broker("child_that_loads").unwrap();
    let topic = variable("OFFLOOP_TEST_KAFKA_TOPIC").unwrap();
    let loader = open(Path::new(&folder), &settings(&brokers, ""), &topic, BATCH);
    runtime().block_on(async {
        let (to, from) = feed();
        let load = begin(&loader, "one");
        let mut watch = load.watch();
        tokio::spawn(async move {
            while watch.changed().await.is_ok() {
                println!("stored {}", watch.borrow_and_update().rows_stored);
            }
        });
        let pouring = tokio::spawn(pour(to, Bytes::from(text(60_000, |_| false)), 5_000));
        load.run(from).await.unwrap();
        pouring.await.unwrap();
    });
}

#[test]
fn a_killed_process_costs_no_row_and_sends_again_only_what_was_under_way() {
    let name = "a_killed_process_costs_no_row_and_sends_again_only_what_was_under_way";
    let Some(brokers) = broker(name) else { return };
    let _shared = BROKER.read().unwrap_or_else(PoisonError::into_inner);
    let (folder, topic) = (tempfile::tempdir().unwrap(), fresh_name("killed"));
    runtime().block_on(make(&brokers, &topic, 4, &[]));
    for stored in [500, 7_000, 21_000] {
        kill_child_at(stored, folder.path(), &topic);
    }
    let loader = open(folder.path(), &settings(&brokers, ""), &topic, BATCH);
    let summary = runtime()
        .block_on(run(&loader, "one", &text(60_000, |_| false)))
        .unwrap();
    assert_eq!(summary.rows_stored, 60_000);
    assert!(summary.resumed_at > 0);
    let again = check_order(&all(&brokers, &topic), &keys(60_000, |_| false));
    println!("{again} messages came again");
    // Three kills, each with as many batches under way as there may be.
    assert!(again <= 3 * 5 * 500, "{again}");
}

#[expect(clippy::disallowed_methods, reason = "the test kills its own child")]
fn kill_child_at(stored: u64, folder: &Path, topic: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_loads", "--nocapture"])
        .env("OFFLOOP_TEST_KAFKA_CHILD", folder)
        .env("OFFLOOP_TEST_KAFKA_TOPIC", topic)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).any(|line| {
        let now = line
            .strip_prefix("stored ")
            .and_then(|now| now.parse::<u64>().ok());
        now.is_some_and(|now| now >= stored)
    });
    assert!(told, "the child ended early");
    child.kill().unwrap();
    child.wait().unwrap();
}
