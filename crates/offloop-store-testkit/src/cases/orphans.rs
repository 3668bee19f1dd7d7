//! Running jobs whose node is dead.

use offloop_job::{FailureClass, JobState};
use offloop_store::{Settled, Verdict};

use crate::store::{COMPLETED, failed, settlement, want};
use crate::{Draft, Kit, Store, at, job};

fn claim_as(store: &Store<'_>, by: &str, limit: u16) -> Vec<offloop_store::Claimed> {
    store.claim_as(by, at(5), vec![want(&["t"], limit)])
}

pub fn finds_the_running_jobs_of_other_nodes(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 6]);
    let mut dead = claim_as(&store, "dead", 2);
    let alive = claim_as(&store, "alive", 2);
    dead.extend(claim_as(&store, "older", 1));
    assert_eq!(store.orphans("alive", 99), dead, "as they were claimed");
    assert_eq!(store.orphans("nobody", 99).len(), 5);
    let _ = alive;
}

pub fn idle_and_finished_jobs_are_no_orphans(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 4]);
    let claimed = claim_as(&store, "dead", 3);
    store.finish(at(6), &claimed[0], COMPLETED);
    store.finish(at(6), &claimed[1], Verdict::HandBack);
    store.retry(at(6), &claimed[2], FailureClass::Error, at(9));
    assert!(store.orphans("alive", 99).is_empty());
}

pub fn keeps_its_limit(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 5]);
    claim_as(&store, "dead", 5);
    for left in [2, 2, 1, 0] {
        let found = store.orphans("alive", 2);
        assert_eq!(found.len(), left);
        for orphan in found {
            store.finish(at(9), &orphan, Verdict::HandBack);
        }
    }
}

pub fn are_settled_by_their_old_lease(kit: &Kit) {
    let store = kit.open();
    store.add(at(0), job("t"));
    let claimed = claim_as(&store, "dead", 1);
    let orphan = store.orphans("alive", 9).remove(0);
    let due = at(20);
    let end = failed(&orphan, FailureClass::Lost, Verdict::Retry { due });
    let state = JobState::Scheduled;
    assert_eq!(store.settle_one(at(10), end), Settled::Done(state));
    store.promote(due);
    let again = store.claim_one(due);
    assert_eq!((again.history.attempt, again.history.crash_streak), (2, 1));
    let late = settlement(&claimed[0], COMPLETED);
    let settled = store.settle_one(at(21), late);
    assert_eq!(settled, Settled::Stale, "the dead node comes back");
}

pub fn say_that_a_cancel_was_asked_for(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t").queue("q"); 2]);
    let claimed = claim_as(&store, "dead", 2);
    store.cancel(at(6), claimed[1].id);
    let found = store.orphans("alive", 9);
    let marks: Vec<_> = found.iter().map(|orphan| orphan.cancelling).collect();
    assert_eq!(marks, [false, true]);
}
