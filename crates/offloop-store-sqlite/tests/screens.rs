//! Screens are answered while the writer cannot be.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use offloop_job::{
    FailureClass, JobOptions, JobState, NewJob, NodeId, QueueName, TaskName, Timestamp,
};
use offloop_store::{
    ClaimRequest, Claimed, Gate, InsertBatch, JobFilter, JobQuery, JobStore, QueueStatus,
    Settlement, Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{COMPLETED, EXHAUSTED, block_on, failed, settlement};

fn batch(queue: &str, jobs: usize) -> InsertBatch {
    let job = NewJob {
        task: TaskName::parse("t").unwrap(),
        payload: "7".into(),
        options: JobOptions {
            queue: QueueName::parse(queue).unwrap(),
            ..JobOptions::default()
        },
        idempotency: None,
    };
    InsertBatch {
        now: Timestamp::from_millis(1_800_000_000_000),
        jobs: vec![job; jobs],
        records: Vec::new(),
        request: None,
    }
}

fn ready(store: &SqliteStore) -> Vec<(String, u64)> {
    let queues = block_on(store.queues(Timestamp::from_millis(0))).unwrap();
    let row = |queue: &QueueStatus| (queue.name.to_string(), queue.counts.ready);
    queues.iter().map(row).collect()
}

#[test]
fn queues_are_shown_while_the_writer_is_held_up() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path(), 1)).unwrap();
    block_on(store.insert(batch("b", 2))).unwrap();
    block_on(store.insert(batch("a", 1))).unwrap();
    let before = [("a".to_owned(), 1), ("b".to_owned(), 2)];
    assert_eq!(ready(&store), before);

    // Another program has the write lock: the next commit waits for it.
    let other = rusqlite::Connection::open(folder.path().join("offloop.db")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let held_up = store.insert(batch("b", 5));
    assert_eq!(ready(&store), before, "nothing that is not committed");
    other.execute_batch("ROLLBACK").unwrap();
    block_on(held_up).unwrap();
    assert_eq!(ready(&store)[1].1, 7, "what was answered is shown");
    block_on(store.close()).unwrap();
}

#[test]
fn a_store_that_was_reopened_shows_its_queues_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let options = || SqliteOptions::new(folder.path(), 1);
    let store = SqliteStore::open(options()).unwrap();
    block_on(store.insert(batch("q", 3))).unwrap();
    let gate = Gate::Queue(QueueName::parse("p").unwrap());
    let change = offloop_store::ModeChange {
        now: Timestamp::from_millis(1),
        gate,
        mode: offloop_job::Mode::Paused,
        actor: "test".into(),
    };
    block_on(store.set_mode(change)).unwrap();
    drop(store);
    let store = SqliteStore::open(options()).unwrap();
    assert_eq!(ready(&store), [("p".to_owned(), 0), ("q".to_owned(), 3)]);
    block_on(store.close()).unwrap();
    let after = block_on(store.queues(Timestamp::from_millis(0)));
    assert!(matches!(after, Err(offloop_store::StoreError::Closed)));
}

/// More jobs than one page looks at, and one old job among them: its page must not come after many that
/// are empty.
#[test]
fn a_rare_tag_is_found_on_the_first_page() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1)).unwrap();
    let rare = offloop_job::Tag::parse("rare").unwrap();
    let mut first = batch("q", 1);
    first.jobs[0].options.tags = vec![rare.clone()];
    block_on(store.insert(first)).unwrap();
    for _ in 0..25 {
        block_on(store.insert(batch("q", 1_000))).unwrap();
    }
    let page = block_on(store.jobs(offloop_store::ListRequest {
        now: offloop_job::Timestamp::from_millis(1),
        filter: offloop_store::JobFilter {
            tags: vec![rare],
            ..offloop_store::JobFilter::default()
        },
        limit: 10,
        cursor: None,
    }));
    assert_eq!(page.unwrap().jobs.len(), 1);
}

const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_500);

fn claimed(store: &SqliteStore, limit: u16) -> Vec<Claimed> {
    let tasks = Arc::from([TaskName::parse("t").unwrap()]);
    let claims = store.claim(ClaimRequest {
        now: NOW,
        node: NodeId("one".into()),
        wants: vec![Want { tasks, limit }],
    });
    block_on(claims).unwrap().jobs
}

fn settle(store: &SqliteStore, ends: Vec<Settlement>) {
    block_on(store.settle(NOW, ends)).unwrap();
}

/// The same of states and classes: what few jobs are is found on the first page, among any number that
/// are done, and among any number that wait.
#[test]
fn a_rare_state_or_class_is_found_on_the_first_page() {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1)).unwrap();
    block_on(store.insert(batch("q", 3))).unwrap();
    let rare = claimed(&store, 3);
    let later = Verdict::Retry {
        due: Timestamp::from_millis(1_900_000_000_000),
    };
    let ends = vec![
        failed(&rare[0], FailureClass::Crashed, EXHAUSTED),
        failed(&rare[1], FailureClass::Timeout, later),
    ];
    settle(&store, ends);
    for _ in 0..25 {
        block_on(store.insert(batch("q", 1_000))).unwrap();
        let jobs = claimed(&store, 1_000);
        let done = jobs.iter().map(|job| settlement(job, COMPLETED));
        settle(&store, done.collect());
    }
    for _ in 0..25 {
        block_on(store.insert(batch("q", 1_000))).unwrap();
    }
    let asked = |state, class| {
        let page = block_on(store.jobs(offloop_store::ListRequest {
            now: NOW,
            filter: JobFilter {
                state,
                class,
                ..JobFilter::default()
            },
            limit: 10,
            cursor: None,
        }));
        let page = page.unwrap();
        assert!(page.next.is_none(), "{state:?} {class:?}: there is no more");
        page.jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    };
    let (crashed, timeout) = (Some(FailureClass::Crashed), Some(FailureClass::Timeout));
    assert_eq!(asked(Some(JobState::Failed), None), [rare[0].id]);
    assert_eq!(asked(Some(JobState::Running), None), [rare[2].id]);
    assert_eq!(asked(Some(JobState::Cancelled), None), []);
    assert_eq!(asked(None, crashed), [rare[0].id]);
    assert_eq!(asked(None, timeout), [rare[1].id]);
    assert_eq!(asked(Some(JobState::Scheduled), timeout), [rare[1].id]);
    assert_eq!(asked(Some(JobState::Failed), timeout), []);
}
