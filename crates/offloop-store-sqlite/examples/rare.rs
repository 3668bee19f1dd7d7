//! What looking for jobs of a rare state or class costs among many that ended well.
//!
//! `cargo run --release -p offloop-store-sqlite --example rare -- [JOBS]` (default 1,000,000): ten old ones
//! failed, one runs.
#![allow(clippy::unwrap_used, reason = "an example may stop at once")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use offloop_job::{
    Failure, FailureClass, FinalReason, JobOptions, JobState, NewJob, NodeId, TaskName, Timestamp,
};
use offloop_store::{
    ClaimRequest, Claimed, Cursor, InsertBatch, JobFilter, JobQuery, JobStore, ListRequest,
    Settlement, Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{block_on, report};

const BATCH: u64 = 1_000;
const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

fn insert(store: &SqliteStore, jobs: u64) {
    let job = NewJob {
        task: TaskName::parse("report").unwrap(),
        payload: "{\"page\":1}".into(),
        options: JobOptions::default(),
        idempotency: None,
    };
    let batch = InsertBatch {
        now: NOW,
        jobs: vec![job; jobs as usize],
        records: Vec::new(),
        request: None,
    };
    block_on(store.insert(batch)).unwrap();
}

fn claim(store: &SqliteStore, limit: u16) -> Vec<Claimed> {
    let tasks = Arc::from([TaskName::parse("report").unwrap()]);
    let wants = vec![Want { tasks, limit }];
    let node = NodeId("one".into());
    let claims = store.claim(ClaimRequest {
        now: NOW,
        node,
        wants,
    });
    block_on(claims).unwrap().jobs
}

fn settle(store: &SqliteStore, jobs: &[Claimed], verdict: &Verdict, class: Option<FailureClass>) {
    let ends = jobs.iter().map(|job| {
        let mut report = report(job);
        report.failure = class.map(|class| Failure::new(class, "it did not work"));
        Settlement {
            id: job.id,
            lease: job.lease,
            verdict: verdict.clone(),
            report,
            records: Vec::new(),
            follow: Vec::new(),
        }
    });
    block_on(store.settle(NOW, ends.collect())).unwrap();
}

/// Pages of fifty to the end of the list: how many, the longest, all together, and what was found.
fn look(store: &SqliteStore, what: &str, filter: &JobFilter) {
    let (mut cursor, mut pages, mut found) = (None::<Cursor>, 0, 0);
    let (mut longest, began) = (Duration::ZERO, Instant::now());
    loop {
        let page = Instant::now();
        let answer = block_on(store.jobs(ListRequest {
            now: NOW,
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

fn main() {
    let jobs = std::env::args().nth(1).and_then(|text| text.parse().ok());
    let jobs: u64 = jobs.unwrap_or(1_000_000);
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(SqliteOptions::new(folder.path().join("data"), 1)).unwrap();
    insert(&store, 11);
    let old = claim(&store, 11);
    let reason = FinalReason::Exhausted;
    let crashed = Some(FailureClass::Crashed);
    settle(&store, &old[..10], &Verdict::GiveUp { reason }, crashed);
    let began = Instant::now();
    for _ in (0..jobs).step_by(BATCH as usize) {
        insert(&store, BATCH);
        let done = Verdict::Completed { result: None };
        settle(&store, &claim(&store, BATCH as u16), &done, None);
    }
    let rate = jobs as f64 / began.elapsed().as_secs_f64();
    println!("{jobs} whole lives: {rate:.0} a second");
    let of = |state, class| JobFilter {
        state,
        class,
        ..JobFilter::default()
    };
    look(&store, "ten failed", &of(Some(JobState::Failed), None));
    look(&store, "ten of a class", &of(None, crashed));
    look(&store, "one running", &of(Some(JobState::Running), None));
    look(
        &store,
        "none cancelled",
        &of(Some(JobState::Cancelled), None),
    );
    for _ in (0..jobs).step_by(BATCH as usize) {
        insert(&store, BATCH);
    }
    look(
        &store,
        "one running, many ready",
        &of(Some(JobState::Running), None),
    );
}
