//! What looking for a tag, a state or a class costs among many jobs, and what tags cost when jobs are
//! taken in.
//!
//! `cargo run --release -p offloop-store-sqlite --example looks -- [JOBS]` (default 1,000,000): each job
//! has two tags, one of a thousand and one of its own; ten old ones have a third. In another store ten
//! old ones failed and one runs, among as many that ended well, and then as many that wait.
#![allow(clippy::unwrap_used, reason = "an example may stop at once")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{FailureClass, JobOptions, JobState, NewJob, NodeId, Tag, TaskName, Timestamp};
use offloop_store::{
    ClaimRequest, Claimed, Cursor, InsertBatch, JobFilter, JobQuery, JobStore, ListRequest, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{COMPLETED, EXHAUSTED, block_on, failed, settlement};

const BATCH: u64 = 1_000;
const T0: u64 = 1_800_000_000_000;

fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

fn batch(from: u64, tagged: bool) -> InsertBatch {
    let jobs = (from..from + BATCH).map(|number| {
        let mut tags = Vec::new();
        if tagged {
            tags.push(tag(&format!("customer:{}", number % 1_000)));
            tags.push(tag(&format!("order:{number}")));
            if number < 10 {
                tags.push(tag("rare"));
            }
        }
        NewJob {
            task: TaskName::parse("report").unwrap(),
            payload: "{\"page\":1}".into(),
            options: JobOptions {
                tags,
                ..JobOptions::default()
            },
            idempotency: None,
        }
    });
    InsertBatch {
        now: Timestamp::from_millis(T0 + from),
        jobs: jobs.collect(),
        records: Vec::new(),
        request: None,
    }
}

fn fill(jobs: u64, tagged: bool) -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1)).unwrap();
    let began = Instant::now();
    for from in (0..jobs).step_by(BATCH as usize) {
        block_on(store.insert(batch(from, tagged))).unwrap();
    }
    let took = began.elapsed();
    let rate = jobs as f64 / took.as_secs_f64();
    println!("insert, tagged {tagged}: {took:.1?}, {rate:.0} jobs/s");
    (folder, store)
}

/// Pages of fifty to the end of the list: how many, the longest, all together, and what was found.
fn look(store: &SqliteStore, what: &str, filter: &JobFilter) {
    let (mut cursor, mut pages, mut found) = (None::<Cursor>, 0, 0);
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    loop {
        let page = Instant::now();
        let answer = block_on(store.jobs(ListRequest {
            now: Timestamp::from_millis(T0),
            filter: filter.clone(),
            limit: 50,
            cursor,
        }));
        let answer = answer.unwrap();
        longest = longest.max(page.elapsed());
        (pages, found) = (pages + 1, found + answer.jobs.len());
        cursor = answer.next;
        if cursor.is_none() {
            break;
        }
    }
    println!(
        "{what}: {found} jobs on {pages} pages, longest {longest:.1?}, all {:.1?}",
        began.elapsed()
    );
}

fn of_tags(tags: &[&str]) -> JobFilter {
    JobFilter {
        tags: tags.iter().map(|text| tag(text)).collect(),
        ..JobFilter::default()
    }
}

fn of_state(state: JobState) -> JobFilter {
    JobFilter {
        state: Some(state),
        ..JobFilter::default()
    }
}

fn claim(store: &SqliteStore, limit: u64) -> Vec<Claimed> {
    let tasks = Arc::from([TaskName::parse("report").unwrap()]);
    let claims = store.claim(ClaimRequest {
        now: Timestamp::from_millis(T0 * 2),
        node: NodeId("one".into()),
        wants: vec![Want {
            tasks,
            limit: limit as u16,
        }],
    });
    block_on(claims).unwrap().jobs
}

fn rare_states(jobs: u64) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1)).unwrap();
    let now = Timestamp::from_millis(T0 * 2);
    block_on(store.insert(batch(0, false))).unwrap();
    let old = claim(&store, 11);
    let crashed = old[1..]
        .iter()
        .map(|job| failed(job, FailureClass::Crashed, EXHAUSTED));
    block_on(store.settle(now, crashed.collect())).unwrap();
    let began = Instant::now();
    for from in (0..jobs).step_by(BATCH as usize) {
        block_on(store.insert(batch(from, false))).unwrap();
        let done = claim(&store, BATCH);
        let done = done.iter().map(|job| settlement(job, COMPLETED));
        block_on(store.settle(now, done.collect())).unwrap();
    }
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    println!("whole lives: {rate:.0} a second");
    look(&store, "ten that failed", &of_state(JobState::Failed));
    let class = JobFilter {
        class: Some(FailureClass::Crashed),
        ..JobFilter::default()
    };
    look(&store, "ten of a class", &class);
    look(&store, "none cancelled", &of_state(JobState::Cancelled));
    for from in (0..jobs).step_by(BATCH as usize) {
        block_on(store.insert(batch(from, false))).unwrap();
    }
    look(&store, "one that runs", &of_state(JobState::Running));
}

fn main() {
    let jobs = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let jobs: u64 = jobs.unwrap_or(1_000_000);
    drop(fill(jobs, false));
    let (_folder, store) = fill(jobs, true);
    for (what, tags) in [
        ("ten old ones", &["rare"][..]),
        ("one of all", &["order:7"]),
        ("one of a thousand", &["customer:7"]),
        ("two together", &["customer:7", "order:7"]),
        ("none", &["nobody"]),
    ] {
        look(&store, what, &of_tags(tags));
    }
    drop(store);
    rare_states(jobs);
}
