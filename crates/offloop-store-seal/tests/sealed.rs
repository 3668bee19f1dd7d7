//! What reaches the inner engine, and what comes back.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use offloop_job::{IdempotencyKey, JobOptions, NewJob, NodeId, TaskName, Timestamp};
use offloop_store::{
    ClaimRequest, Engine, InsertBatch, InsertOutcome, InsertRefusal, SameAs, Want, is_sealed,
};
use offloop_store_memory::{MemoryOptions, MemoryStore};
use offloop_store_seal::SealedStore;
use pollster::block_on;

const CANARY: &str = "\"canary-5f1c\"";

fn memory() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(MemoryOptions {
        id_seed: 1,
        queue_jobs_max: 1_000,
    }))
}

fn task(name: &str) -> TaskName {
    TaskName::parse(name).unwrap()
}

fn job(name: &str, key: Option<&str>) -> NewJob {
    NewJob {
        task: task(name),
        payload: Bytes::from_static(CANARY.as_bytes()),
        options: JobOptions::default(),
        idempotency: key.map(|key| IdempotencyKey::parse(key).unwrap()),
    }
}

fn insert(store: &dyn Engine, job: NewJob) -> InsertOutcome {
    let batch = InsertBatch {
        now: Timestamp::from_millis(1_000),
        jobs: vec![job],
        records: Vec::new(),
        request: None,
    };
    block_on(store.insert(batch)).unwrap().remove(0)
}

fn id(outcome: &InsertOutcome) -> offloop_job::JobId {
    match outcome {
        InsertOutcome::Created { id, .. } => *id,
        other => panic!("{other:?}"),
    }
}

fn claim(store: &dyn Engine) -> Vec<offloop_store::Claimed> {
    let ask = ClaimRequest {
        now: Timestamp::from_millis(2_000),
        node: NodeId("n".into()),
        wants: vec![Want {
            tasks: [task("a"), task("open")].into(),
            limit: 10,
        }],
    };
    block_on(store.claim(ask)).unwrap().jobs
}

#[test]
fn the_inner_engine_never_sees_what_a_sealed_task_works_on() {
    let inner = memory();
    let cipher = common::Backwards::new(&[1]);
    let store = SealedStore::new(inner.clone(), cipher, [(task("a"), "k".into())]).unwrap();
    let sealed = id(&insert(&store, job("a", None)));
    let plain = id(&insert(&store, job("open", None)));
    let below = block_on(offloop_store::JobQuery::job(&*inner, sealed)).unwrap();
    assert!(is_sealed(&below.unwrap().payload));
    let below = block_on(offloop_store::JobQuery::job(&*inner, plain)).unwrap();
    assert_eq!(below.unwrap().payload, CANARY);
    let above = block_on(offloop_store::JobQuery::job(&store, sealed)).unwrap();
    assert_eq!(above.unwrap().payload, CANARY);
    for claimed in claim(&store) {
        assert_eq!(claimed.payload, CANARY);
    }
}

#[test]
fn a_repeated_request_is_known_again_also_after_a_rotation() {
    let inner = memory();
    let cipher = common::Backwards::new(&[1]);
    let keys = [(task("a"), "k".into())];
    let store = SealedStore::new(inner, cipher.clone(), keys).unwrap();
    let first = id(&insert(&store, job("a", Some("once"))));
    let again = InsertOutcome::Existing {
        id: first,
        same: SameAs::IdempotencyKey,
    };
    assert_eq!(insert(&store, job("a", Some("once"))), again);
    *cipher.versions.lock().unwrap() = vec![2, 1];
    assert_eq!(
        insert(&store, job("a", Some("once"))),
        again,
        "by the earlier version"
    );
    let mut other = job("a", Some("once"));
    other.payload = Bytes::from_static(b"2");
    let refused = insert(&store, other);
    assert!(matches!(
        refused,
        InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { .. })
    ));
}

#[test]
fn a_missing_key_is_the_affair_of_its_jobs_alone() {
    let inner = memory();
    let cipher = common::Backwards::new(&[1]);
    let keys = [(task("a"), "k".into())];
    let store = SealedStore::new(inner.clone(), cipher.clone(), keys.clone()).unwrap();
    insert(&store, job("a", None));
    insert(&store, job("open", None));
    *cipher.versions.lock().unwrap() = Vec::new();
    let refused = insert(&store, job("a", None));
    let InsertOutcome::Refused(InsertRefusal::Payload { problems, .. }) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        problems[0].message.contains("cannot be sealed"),
        "{problems:?}"
    );
    let claimed = claim(&store);
    assert_eq!(claimed.len(), 2, "the other one goes on");
    let shut: Vec<_> = claimed.iter().map(|one| is_sealed(&one.payload)).collect();
    assert_eq!(shut.iter().filter(|shut| **shut).count(), 1);
    let start = SealedStore::new(inner, cipher, keys).unwrap_err();
    assert!(
        start.to_string().starts_with("tasks.a.encrypt: "),
        "{start}"
    );
}
