//! What becomes of a consumer's rows when processes, brokers and databases go away in the middle.
#![cfg(feature = "kafka")]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod consuming;
mod loads;
mod topics;

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use consuming::{
    COLUMNS, Sender, begin, caught_up, number, person, plan, schema, servers, stop, table, until,
};
use loads::runtime;
use offloop_ingest::Target;
use offloop_ingest::consume::ConsumerState;
use topics::{fresh_name, make, outage, server_does, the_servers, variable};

/// The servers are everybody's; who stops one wants to be alone.
static SERVERS: RwLock<()> = RwLock::new(());

const PEOPLE: &str = "CREATE TABLE people (id int4 PRIMARY KEY, name text, times int4 DEFAULT 1); \
     CREATE FUNCTION count_it() RETURNS trigger LANGUAGE plpgsql AS \
     'BEGIN NEW.times := OLD.times + 1; RETURN NEW; END'; \
     CREATE TRIGGER count_it BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION count_it()";

fn people(schema: &str) -> Target {
    table(
        &format!("{schema}.people"),
        &format!("key = \"id\"\n{COLUMNS}"),
    )
}

/// Each id once, so that a row that is written twice shows.
fn send(sender: &Sender, ids: std::ops::Range<u64>) {
    for id in ids {
        let value = person(id, &format!("name {id}"));
        sender.send(None, &id.to_string(), Some(value.as_bytes()));
    }
    sender.flush();
}

async fn check(client: &tokio_postgres::Client, rows: i64) {
    assert_eq!(number(client, "SELECT count(*) FROM people").await, rows);
    let wrong = "SELECT count(*) FROM people WHERE name <> 'name ' || id";
    assert_eq!(number(client, wrong).await, 0);
    let sum = number(client, "SELECT sum(id)::int8 FROM people").await;
    assert_eq!(sum, rows * (rows - 1) / 2);
    let twice = "SELECT count(*) FROM people WHERE times <> 1";
    assert_eq!(number(client, twice).await, 0, "a message was stored twice");
}

/// What the children of the next test do; nothing for others.
#[test]
fn child_that_consumes() {
    let Some(topic) = variable("OFFLOOP_TEST_CONSUME_CHILD") else {
        return;
    };
    let (brokers, url) = servers("child_that_consumes").unwrap();
    runtime().block_on(async {
        let target = people("two");
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let mut watch = running.watch();
        loop {
            watch.changed().await.unwrap();
            let status = watch.borrow_and_update();
            let stored = status.stored;
            println!("stored {stored} parts {}", status.partitions.len());
        }
    });
}

#[expect(clippy::disallowed_methods, reason = "the test kills its own children")]
fn child(topic: &str) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_that_consumes", "--nocapture"])
        .env("OFFLOOP_TEST_CONSUME_CHILD", topic)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what the child says until it has stored so many rows; then it is killed.
fn kill_at(mut child: Child, rows: u64) {
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let told = lines.map_while(Result::ok).any(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok());
        words.first() == Some(&"stored") && number(1).is_some_and(|stored| stored >= rows)
    });
    assert!(told, "the child ended early");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_killed_member_of_a_group_costs_no_message_and_doubles_none() {
    let name = "a_killed_member_of_a_group_costs_no_message_and_doubles_none";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let _shared = SERVERS.read().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("killed");
    runtime().block_on(async {
        make(&brokers, &topic, 6, &[]).await;
        let client = schema(&url, "two", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        let first = child(&topic);
        let second = child(&topic);
        // Messages come until both are killed: each gets its share, however soon the other began.
        let killed = Arc::new(AtomicBool::new(false));
        let until_killed = Arc::clone(&killed);
        let sending = std::thread::spawn(move || {
            let mut sent = 0;
            while sent < 60_000 || !until_killed.load(Ordering::Acquire) {
                send(&sender, sent..sent + 2_000);
                sent += 2_000;
            }
            sent
        });
        let one = std::thread::spawn(move || kill_at(first, 3_000));
        let other = std::thread::spawn(move || kill_at(second, 5_000));
        let ends = [one.join(), other.join()];
        killed.store(true, Ordering::Release);
        let sent = sending.join().unwrap();
        assert!(ends.iter().all(Result::is_ok), "{ends:?}");
        let target = people("two");
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let status = caught_up(&running, sent).await;
        assert_eq!(status.partitions.len(), 6);
        assert!(status.stored < sent, "the others have stored something");
        stop(running).await;
        check(&client, sent as i64).await;
    });
}

/// Members join and leave in good order while messages come.
#[test]
fn partitions_that_change_hands_lose_no_message_and_double_none() {
    let name = "partitions_that_change_hands_lose_no_message_and_double_none";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let _shared = SERVERS.read().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("hands");
    runtime().block_on(async {
        make(&brokers, &topic, 6, &[]).await;
        let client = schema(&url, "hands", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        let target = people("hands");
        let plan = || plan(&brokers, &url, &target, &topic, "");
        let one = begin(plan());
        until(&one, |status| status.partitions.len() == 6).await;
        let sending = std::thread::spawn(move || {
            for part in 0..40 {
                send(&sender, part * 1_000..(part + 1) * 1_000);
            }
        });
        until(&one, |status| status.stored > 1_000).await;
        let two = begin(plan());
        until(&two, |status| {
            status.partitions.len() == 3 && status.stored > 0
        })
        .await;
        let shared = until(&one, |status| status.partitions.len() == 3).await;
        assert_eq!(shared.restarts, 0);
        stop(one).await;
        until(&two, |status| status.partitions.len() == 6).await;
        sending.join().unwrap();
        let status = caught_up(&two, 40_000).await;
        assert_eq!((status.restarts, status.rejected), (0, 0));
        stop(two).await;
        check(&client, 40_000).await;
    });
}

/// A process that stood still while its partitions went to another one wakes up with a batch.
#[test]
fn a_process_that_was_believed_dead_cannot_write() {
    let name = "a_process_that_was_believed_dead_cannot_write";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let _shared = SERVERS.read().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("zombie");
    runtime().block_on(async {
        make(&brokers, &topic, 1, &[]).await;
        let client = schema(&url, "zombie", PEOPLE).await;
        let sender = Sender::new(&brokers, &topic);
        let target = people("zombie");
        let plan = || plan(&brokers, &url, &target, &topic, "");
        let one = begin(plan());
        until(&one, |status| status.partitions.len() == 1).await;
        // Its batch waits for the table, where this session stands in the way.
        let blocker = schema_client(&url, "zombie").await;
        blocker.batch_execute("BEGIN; LOCK TABLE people IN SHARE MODE").await.unwrap();
        send(&sender, 0..400);
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'offloop-ingest' AND wait_event_type = 'Lock' AND query LIKE '%zombie%'";
        while number(&client, waits).await == 0 {
            tokio::task::yield_now().await;
        }
        // Somebody takes the partition over, as the group would have it: his first step is to wait
        // for the batch, so the batch is torn from its session first, as the system does with one
        // whose client is silent.
        let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE application_name = 'offloop-ingest' AND wait_event_type = 'Lock' AND query LIKE '%zombie%'";
        let raise = "UPDATE offloop_ingest_streams SET run = run + 1";
        assert!(number(&client, end).await > 0);
        client.batch_execute(raise).await.unwrap();
        blocker.batch_execute("COMMIT").await.unwrap();
        let status = until(&one, |status| status.restarts > 0).await;
        assert_eq!(status.stored, 0);
        // Begun again, it takes the partition back and goes on.
        caught_up(&one, 400).await;
        stop(one).await;
        check(&client, 400).await;
    });
}

async fn schema_client(url: &str, name: &str) -> tokio_postgres::Client {
    let client = consuming::client(url).await;
    let path = format!("SET search_path = {name}");
    client.batch_execute(&path).await.unwrap();
    client
}

#[test]
fn a_broker_that_was_away_costs_no_message_and_doubles_none() {
    let name = "a_broker_that_was_away_costs_no_message_and_doubles_none";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let Some(servers) = the_servers(name) else {
        return;
    };
    let _alone = SERVERS.write().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("away");
    runtime().block_on(async {
        make(&brokers, &topic, 4, &[]).await;
        let client = schema(&url, "away", PEOPLE).await;
        let target = people("away");
        send(&Sender::new(&brokers, &topic), 0..100_000);
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        until(&running, |status| status.stored > 10_000).await;
        server_does("kafka-kill", &servers);
        until(&running, |status| status.error.is_some()).await;
        outage().await;
        server_does("kafka-start", &servers);
        send(&Sender::new(&brokers, &topic), 100_000..110_000);
        caught_up(&running, 110_000).await;
        stop(running).await;
        check(&client, 110_000).await;
    });
}

#[test]
fn a_database_that_was_away_costs_no_message_and_doubles_none() {
    let name = "a_database_that_was_away_costs_no_message_and_doubles_none";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let Some(servers) = the_servers(name) else {
        return;
    };
    let _alone = SERVERS.write().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("dry");
    runtime().block_on(async {
        make(&brokers, &topic, 4, &[]).await;
        let client = schema(&url, "dry", PEOPLE).await;
        let target = people("dry");
        send(&Sender::new(&brokers, &topic), 0..100_000);
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        until(&running, |status| status.stored > 10_000).await;
        drop(client);
        server_does("postgres-kill", &servers);
        let paused = until(&running, |status| status.paused).await;
        assert_eq!(paused.state, ConsumerState::Running);
        outage().await;
        server_does("postgres-start", &servers);
        let status = caught_up(&running, 100_000).await;
        assert_eq!(status.restarts, 0);
        assert_eq!(status.partitions.len(), 4, "it was a member all the time");
        stop(running).await;
        check(&schema_client(&url, "dry").await, 100_000).await;
    });
}

/// The table is not there yet, or not any more: nothing is lost while somebody makes it.
#[test]
fn a_consumer_waits_for_its_table_and_for_its_topic() {
    let name = "a_consumer_waits_for_its_table_and_for_its_topic";
    let Some((brokers, url)) = servers(name) else {
        return;
    };
    let _shared = SERVERS.read().unwrap_or_else(PoisonError::into_inner);
    let topic = fresh_name("waits");
    runtime().block_on(async {
        let client = schema(&url, "waits", "SELECT 1").await;
        let target = people("waits");
        let running = begin(plan(&brokers, &url, &target, &topic, ""));
        let is = |word: &'static str| {
            move |status: &offloop_ingest::consume::ConsumerStatus| {
                status.state == ConsumerState::Waiting
                    && status
                        .error
                        .as_ref()
                        .is_some_and(|error| error.contains(word))
            }
        };
        until(&running, is("there is no topic")).await;
        make(&brokers, &topic, 2, &[]).await;
        send(&Sender::new(&brokers, &topic), 0..1_000);
        until(&running, is("there is no table")).await;
        client.batch_execute(PEOPLE).await.unwrap();
        caught_up(&running, 1_000).await;
        stop(running).await;
        check(&client, 1_000).await;
    });
}
