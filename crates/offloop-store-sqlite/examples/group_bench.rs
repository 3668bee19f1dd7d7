//! What one member of a group costs, in a small group and in a large one: ends are counted in memory
//! and each touched group's row is written once per commit, so the two should be the same.
//!
//! `cargo run -p offloop-store-sqlite --example group_bench [FOLDER]`

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a measurement that ends at its first failure"
)]

use std::time::{Duration, Instant};

use offloop_job::{
    GroupRule, GroupState, JobOptions, NewGroup, NewJob, NodeId, TaskName, Timestamp,
};
use offloop_store::{
    ClaimRequest, GroupStore as _, InsertBatch, JobStore as _, Settlement, Verdict, Want,
};
use offloop_store_sqlite::{SqliteOptions, SqliteStore};
use offloop_store_testkit::{block_on, report};

const SIZES: [usize; 3] = [1_000, 10_000, 100_000];
const BATCH: usize = 512;

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let mut first = None;
    for size in SIZES {
        let path = folder.path().join(size.to_string());
        let store = SqliteStore::open(SqliteOptions::new(path, 1)).unwrap();
        let (plain, _) = ends(&store, size, false);
        let (grouped, writes) = ends(&store, size, true);
        let per = |span: Duration| span.as_secs_f64() * 1e6 / size as f64;
        let ratio = per(grouped) / *first.get_or_insert(per(grouped));
        println!(
            "{size:>7} members: {:.1} us per end (without a group {:.1}), {ratio:.2} of the first; {writes} commits",
            per(grouped),
            per(plain),
        );
        block_on(store.close()).unwrap();
    }
}

/// How long it takes to settle them all, and in how many commits.
fn ends(store: &SqliteStore, size: usize, grouped: bool) -> (Duration, usize) {
    let now = Timestamp::from_millis(1_800_000_000_000);
    let task = TaskName::parse("t").unwrap();
    let group = grouped.then(|| {
        let group = NewGroup {
            rule: GroupRule::AllSettled,
            hold: true,
            ..NewGroup::default()
        };
        block_on(store.create_group(now, group, vec![])).unwrap().id
    });
    let job = NewJob {
        task: task.clone(),
        payload: "{}".into(),
        options: JobOptions {
            group,
            ..JobOptions::default()
        },
        idempotency: None,
    };
    let mut left = size;
    while left > 0 {
        let count = left.min(BATCH);
        let batch = InsertBatch {
            now,
            jobs: vec![job.clone(); count],
            records: vec![],
            request: None,
        };
        block_on(store.insert(batch)).unwrap();
        left -= count;
    }
    if let Some(id) = group {
        block_on(store.seal_group(offloop_store::GroupOrder {
            now,
            id,
            actor: None,
        }))
        .unwrap();
    }
    let (mut spent, mut commits, mut done) = (Duration::ZERO, 0, 0);
    while done < size {
        let ask = ClaimRequest {
            now,
            node: NodeId("n".into()),
            wants: vec![Want {
                tasks: [task.clone()].into(),
                limit: BATCH as u16,
            }],
        };
        let claimed = block_on(store.claim(ask)).unwrap().jobs;
        let ends: Vec<_> = claimed
            .iter()
            .map(|claimed| Settlement {
                id: claimed.id,
                lease: claimed.lease,
                verdict: Verdict::Completed { result: None },
                report: report(claimed),
                records: vec![],
                follow: vec![],
            })
            .collect();
        done += ends.len();
        commits += 1;
        let began = Instant::now();
        block_on(store.settle(now, ends)).unwrap();
        spent += began.elapsed();
    }
    if let Some(id) = group {
        let group = block_on(store.group(id)).unwrap().unwrap();
        assert_eq!(group.state, GroupState::Completed);
        assert_eq!(group.tally.completed, size as u64);
    }
    (spent, commits)
}
