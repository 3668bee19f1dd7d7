//! What looking for a tag costs among many jobs, and what the tags cost when jobs are taken in.
//!
//! `cargo run --release -p offloop-store-sqlite --example tags -- [JOBS]` (default 1,000,000): each job
//! has two tags, one of a thousand and one of its own; ten old ones have a third.
#![allow(clippy::unwrap_used, reason = "an example may stop at once")]

use std::time::{Duration, Instant};

use offloop_job::{JobOptions, NewJob, Tag, TaskName, Timestamp};
use offloop_store::{Cursor, InsertBatch, JobFilter, JobQuery, JobStore, ListRequest};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::block_on;

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
fn look(store: &SqliteStore, what: &str, tags: &[&str]) {
    let (mut cursor, mut pages, mut found) = (None::<Cursor>, 0, 0);
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    loop {
        let page = Instant::now();
        let answer = block_on(store.jobs(ListRequest {
            now: Timestamp::from_millis(T0),
            filter: JobFilter {
                tags: tags.iter().map(|text| tag(text)).collect(),
                ..JobFilter::default()
            },
            limit: 50,
            cursor,
        }));
        let answer = answer.unwrap();
        longest = longest.max(page.elapsed());
        (pages, found) = (pages + 1, found + answer.jobs.len());
        cursor = answer.next;
        if cursor.is_none() || pages == 200 {
            break;
        }
    }
    println!(
        "{what}: {found} jobs on {pages} pages, longest {longest:.1?}, all {:.1?}",
        began.elapsed()
    );
}

fn main() {
    let jobs = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let jobs: u64 = jobs.unwrap_or(1_000_000);
    drop(fill(jobs, false));
    let (_folder, store) = fill(jobs, true);
    look(&store, "ten old ones", &["rare"]);
    look(&store, "one of all", &["order:7"]);
    look(&store, "one of a thousand", &["customer:7"]);
    look(&store, "two together", &["customer:7", "order:7"]);
    look(&store, "none", &["nobody"]);
}
