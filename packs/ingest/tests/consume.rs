//! Topics of a real broker into tables of a real PostgreSQL: each message once, whatever is killed.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod consuming;
mod loads;
mod topics;

use std::sync::Arc;

use consuming::{
    COLUMNS, Sender, begin, caught_up, number, person, plan, plan_of, schema, servers, stop, table,
    until,
};
use loads::{runtime, target};
use offloop_ingest::consume::ConsumerState;
use offloop_ingest::pack::try_consumer;
use offloop_ingest::sink::sqlite::{SqliteFile, SqliteOutlet};
use topics::{fresh_name, make};

const PEOPLE: &str = "CREATE TABLE people (id int4 PRIMARY KEY, name text)";

#[test]
fn what_a_producer_sends_twice_is_there_once_and_its_last_word_stands() {
    let name = "what_a_producer_sends_twice_is_there_once_and_its_last_word_stands";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let topic = fresh_name("upsert");
    runtime().block_on(async {
        make(&brokers, &topic, 4, &[]).await;
        let table_client = schema(&url, "upsert", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        for round in 0..3 {
            for id in 0..5_000 {
                let value = person(id, &format!("{id} \"in\"\n\\ round {round}"));
                sender.send(None, &id.to_string(), Some(value.as_bytes()));
            }
        }
        sender.flush();
        let target = table("upsert.people", &format!("key = \"id\"\n{COLUMNS}"));
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = caught_up(&running, 15_000).await;
        assert_eq!((status.stored, status.rejected), (15_000, 0));
        assert_eq!(status.partitions.len(), 4);
        stop(running).await;
        let right = "SELECT count(*) FROM people WHERE name = id || E' \"in\"\\n\\\\ round 2'";
        assert_eq!(number(&table_client, right).await, 5_000);
        assert_eq!(
            number(&table_client, "SELECT count(*) FROM people").await,
            5_000
        );

        // It goes on where the table is, and the group was told.
        sender.send(None, "7", Some(person(7, "at last").as_bytes()));
        sender.flush();
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = caught_up(&running, 15_001).await;
        assert_eq!(
            (status.stored, status.rejected),
            (1, 0),
            "the rest was not read again"
        );
        stop(running).await;
        let told = number(
            &table_client,
            "SELECT sum(next_offset)::int8 FROM offloop_ingest_streams",
        )
        .await;
        assert_eq!(told, 15_001);
        assert_eq!(topics::told(&brokers, &topic), 15_001);
    });
}

#[test]
fn a_message_that_is_no_row_costs_one_message_and_is_one_dead_letter() {
    let name = "a_message_that_is_no_row_costs_one_message_and_is_one_dead_letter";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let topic = fresh_name("poison");
    runtime().block_on(async {
        make(&brokers, &topic, 1, &[("max.message.bytes", "10000000")]).await;
        let make = "CREATE TABLE people (id int4 PRIMARY KEY, name text CHECK (name <> 'no'))";
        let table_client = schema(&url, "poison", make).await;
        let sender = Sender::new(&brokers, &topic);
        let large = person(50, &"x".repeat(2_000_000));
        let bad: &[(&str, &str)] = &[
            ("not_object", "{\"id\": 1, \"name\""),
            ("not_object", "[1]"),
            ("not_object", "\u{0}"),
            ("type", "{\"id\": \"one\", \"name\": \"a\"}"),
            ("range", "{\"id\": 4294967294, \"name\": \"a\"}"),
            ("type", "{\"id\": 1, \"name\": {\"first\": \"a\"}}"),
            ("null", "{\"id\": null, \"name\": \"a\"}"),
            ("missing_field", "{\"id\": 1}"),
            ("unknown_field", "{\"id\": 1, \"name\": \"a\", \"age\": 3}"),
            ("field_twice", "{\"id\": 1, \"id\": 2, \"name\": \"a\"}"),
            ("nul", "{\"id\": 1, \"name\": \"\\u0000\"}"),
            ("encoding", "{\"id\": 1, \"name\": \"\\ud800\"}"),
            ("sink", "{\"id\": 1, \"name\": \"no\"}"),
            ("message_too_long", &large),
        ];
        for (at, (_, value)) in bad.iter().enumerate() {
            let id = 100 + at as u64;
            sender.send(None, "good", Some(person(id, "good").as_bytes()));
            sender.send(None, "bad", Some(value.as_bytes()));
        }
        sender.send(None, "gone", None);
        sender.send(None, "good", Some(person(1_000, "").as_bytes()));
        sender.flush();
        let more = format!("key = \"id\"\n{COLUMNS}\nlimits = {{ record_bytes = \"1MiB\" }}");
        let target = table("poison.people", &more);
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = caught_up(&running, 30).await;
        assert_eq!((status.stored, status.rejected), (15, 15));
        stop(running).await;
        assert_eq!(
            number(&table_client, "SELECT count(*) FROM people").await,
            15
        );
        let empty = "SELECT count(*) FROM people WHERE id = 1000 AND name = ''";
        assert_eq!(
            number(&table_client, empty).await,
            1,
            "an empty text is no null"
        );
        let mut dead = topics::all(&brokers, &format!("{topic}.dlq"));
        dead.sort_by_key(|letter| letter.headers["offloop-offset"].parse::<u64>().unwrap());
        assert_eq!(dead.len(), 15);
        for (at, (reason, value)) in bad.iter().enumerate() {
            let letter = &dead[at];
            assert_eq!(letter.headers["offloop-reason"], *reason, "{letter:?}");
            assert_eq!(letter.headers["offloop-offset"], (2 * at + 1).to_string());
            assert_eq!(letter.headers["offloop-topic"], topic);
            assert_eq!(letter.headers["offloop-partition"], "0");
            assert_eq!(
                (letter.key.as_deref(), &letter.value[..]),
                (Some("bad"), *value)
            );
        }
        assert_eq!(dead[14].headers["offloop-reason"], "no_value");
        assert_eq!(dead[14].key.as_deref(), Some("gone"));
        assert!(
            dead[12].headers["offloop-message"].contains("23514"),
            "{:?}",
            dead[12]
        );
    });
}

#[test]
fn a_stop_names_the_offset_and_stores_what_stands_before_it() {
    let name = "a_stop_names_the_offset_and_stores_what_stands_before_it";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let topic = fresh_name("stop");
    runtime().block_on(async {
        make(&brokers, &topic, 1, &[]).await;
        let table_client = schema(&url, "stops", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        for id in 0..2_000 {
            let value = if id % 500 == 333 {
                "{}".to_owned()
            } else {
                person(id, "x")
            };
            sender.send(None, "k", Some(value.as_bytes()));
        }
        sender.flush();
        for (rule, offset, rows) in [("\"stop\"", 333, 333), ("{ stop_after = 2 }", 1_333, 1_331)] {
            let more = format!("key = \"id\"\n{COLUMNS}\non_bad_row = {rule}");
            let target = table("stops.people", &more);
            let mut running = begin(plan(&brokers, &url, &target, &topic, ""));
            let status = until(&running, |status| status.state == ConsumerState::Failed).await;
            let error = running.ended().await.unwrap_err();
            assert!(error.is_final());
            let told = format!("{topic}[0] offset {offset}: column `id`: is missing");
            assert!(error.to_string().contains(&told), "{error}");
            assert!(status.error.unwrap().contains(&told));
            assert_eq!(
                number(&table_client, "SELECT count(*) FROM people").await,
                rows
            );
        }
    });
}

#[test]
fn a_topic_of_records_goes_into_a_file_and_goes_on_there() {
    let name = "a_topic_of_records_goes_into_a_file_and_goes_on_there";
    let Some(brokers) = topics::broker(name) else {
        return;
    };
    let topic = fresh_name("file");
    let folder = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        make(&brokers, &topic, 2, &[]).await;
        let sender = Sender::new(&brokers, &topic);
        let send = |ids: std::ops::Range<u64>| {
            for id in ids {
                let value = format!("{id},\"name, {id}\"");
                sender.send(None, &id.to_string(), Some(value.as_bytes()));
            }
            sender.flush();
        };
        let path = folder.path().join("people.sqlite");
        let target = target(&format!(
            "sink = \"sqlite\"\npath = \"people.sqlite\"\ntable = \"people\"\ncreate = true\n\
             batch = {{ rows = 500, time = \"200ms\" }}\n{COLUMNS}"
        ));
        let begin = || {
            let file = SqliteFile::new(&path).unwrap();
            let outlet = Arc::new(SqliteOutlet::new(&target, &file).unwrap());
            let more = "value = \"csv\"\nappend = true";
            begin(plan_of(&brokers, &target, outlet, &topic, more))
        };
        send(0..3_000);
        let running = begin();
        caught_up(&running, 3_000).await;
        stop(running).await;
        send(3_000..4_000);
        let running = begin();
        let status = caught_up(&running, 4_000).await;
        assert_eq!(status.stored, 1_000);
        stop(running).await;
        let file = rusqlite::Connection::open(&path).unwrap();
        let ask = "SELECT count(*) || ' ' || count(DISTINCT id) || ' ' || sum(name = 'name, ' || id) FROM people";
        let told: String = file.query_row(ask, [], |row| row.get(0)).unwrap();
        assert_eq!(told, "4000 4000 4000");
    });
}

/// Messages that were dropped by age are told; a topic that was made anew is not skipped over.
#[test]
fn a_hole_in_a_topic_is_told_and_a_new_topic_is_not_taken_for_the_old_one() {
    let name = "a_hole_in_a_topic_is_told_and_a_new_topic_is_not_taken_for_the_old_one";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let topic = fresh_name("hole");
    runtime().block_on(async {
        make(&brokers, &topic, 1, &[]).await;
        let client = schema(&url, "hole", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        for id in 0..1_000 {
            sender.send(None, "k", Some(person(id, "x").as_bytes()));
        }
        sender.flush();
        let target = table("hole.people", &format!("key = \"id\"\n{COLUMNS}"));
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        caught_up(&running, 1_000).await;
        stop(running).await;
        for id in 1_000..2_000 {
            sender.send(None, "k", Some(person(id, "x").as_bytes()));
        }
        sender.flush();
        topics::drop_before(&brokers, &topic, 0, 1_500).await;
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = caught_up(&running, 1_500).await;
        assert_eq!((status.missed, status.stored), (500, 500));
        stop(running).await;
        client
            .batch_execute("UPDATE offloop_ingest_streams SET next_offset = 5000")
            .await
            .unwrap();
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = until(&running, |status| status.state == ConsumerState::Waiting).await;
        let error = status.error.unwrap();
        assert!(
            error.contains("ends at offset 2000, and offset 5000 is stored already"),
            "{error}"
        );
        stop(running).await;
        assert_eq!(number(&client, "SELECT count(*) FROM people").await, 1_500);
    });
}

/// What a check would have said came to light with the first message, or the first one that was no row.
#[test]
fn a_check_names_the_key_of_a_topic_that_is_not_there_or_takes_no_letters_and_makes_none() {
    let name = "a_check_names_the_key_of_a_topic";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let topic = fresh_name("check");
    runtime().block_on(async {
        let target = table("checked.people", &format!("key = \"id\"\n{COLUMNS}"));
        let check = async |brokers: &str, more: &str| {
            let plan = plan(brokers, &url, &target, &topic, more);
            let tried = try_consumer(&plan.consumer, &plan.kafka).await;
            let problems = tried.err().unwrap_or_default();
            problems.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let missing = check(&brokers, "").await;
        let want = format!("ingest.consumers.one.topic: there is no topic `{topic}` at {brokers}");
        assert!(
            missing.len() == 1 && missing[0].contains(&want),
            "{missing:?}"
        );
        make(&brokers, &topic, 1, &[]).await;
        assert_eq!(check(&brokers, "").await, [""; 0]);
        let letters = format!("{topic}.dlq");
        assert!(!topics::exists(&brokers, &letters), "the check has made it");

        make(&brokers, &letters, 1, &[("cleanup.policy", "compact")]).await;
        let compacted = check(&brokers, "").await;
        let want = "ingest.consumers.one.dead_letters: topic";
        assert!(
            compacted.len() == 1
                && compacted[0].contains(want)
                && compacted[0].contains("compacted"),
            "{compacted:?}"
        );
        // As the broker sees it, not as the declaration does: no topic's name ends it all.
        let gone = check("127.0.0.1:9", "").await;
        assert!(
            gone.len() == 1 && gone[0].starts_with("ingest.kafka.brokers: "),
            "{gone:?}"
        );
    });
}
