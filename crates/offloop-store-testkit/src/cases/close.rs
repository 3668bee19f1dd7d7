//! The end of an engine.

use offloop_store::{ClaimRequest, InsertBatch, Reply, StoreError};

use crate::store::{node, settlement, wait};
use crate::{Kit, at, block_on, job, record};

fn is_refused<T: std::fmt::Debug>(reply: Reply<T>) {
    let answer = block_on(reply);
    assert!(matches!(answer, Err(StoreError::Closed)), "{answer:?}");
}

pub fn refuses_what_comes_after(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let engine = store.engine();
    wait(engine.close());
    is_refused(engine.insert(InsertBatch {
        now: at(1),
        jobs: vec![job("t")],
        records: vec![],
        request: None,
    }));
    is_refused(engine.claim(ClaimRequest {
        now: at(1),
        node: node("n1"),
        wants: vec![],
    }));
    let end = settlement(&claimed, crate::store::COMPLETED);
    is_refused(engine.settle(at(1), vec![end]));
    is_refused(engine.promote(at(1)));
    is_refused(engine.revive(at(1), vec![claimed.id]));
    is_refused(engine.write_records(at(1), vec![record("a", "NEW", "")]));
}

/// Calls whose answers nobody waited for yet when the engine is closed.
pub fn answers_what_came_before(kit: &Kit) {
    let store = kit.open();
    let engine = store.engine();
    let batch = || InsertBatch {
        now: at(0),
        jobs: vec![job("t")],
        records: vec![],
        request: None,
    };
    let replies: Vec<_> = (0..20).map(|_| engine.insert(batch())).collect();
    wait(engine.close());
    for reply in replies {
        assert_eq!(wait(reply).len(), 1);
    }
}
