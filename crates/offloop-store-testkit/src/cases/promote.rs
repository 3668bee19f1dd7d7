//! Scheduled jobs fall due.

use offloop_job::JobState;
use offloop_store::Promoted;

use crate::{Draft, Kit, at, job};

const fn promoted(jobs: u32, next_due: Option<offloop_job::Timestamp>) -> Promoted {
    Promoted { jobs, next_due }
}

pub fn makes_due_jobs_ready_and_names_the_next(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = [30, 10, 20, 20]
        .map(|due| store.add(at(0), job("t").run_at(at(due))))
        .into();
    assert_eq!(store.promote(at(9)), promoted(0, Some(at(10))));
    assert_eq!(store.promote(at(10)), promoted(1, Some(at(20))));
    assert_eq!(store.promote(at(25)), promoted(2, Some(at(30))));
    assert_eq!(store.state(ids[0]), JobState::Scheduled);
    assert_eq!(store.promote(at(30)), promoted(1, None));
    assert_eq!(store.promote(at(99)), promoted(0, None));
    let due_order = [ids[1], ids[2], ids[3], ids[0]];
    assert_eq!(store.claim_ids(at(99)), due_order);
}

pub fn an_empty_store_has_nothing_due(kit: &Kit) {
    let store = kit.open();
    assert_eq!(store.promote(at(0)), promoted(0, None));
    store.add(at(0), job("t"));
    assert_eq!(store.promote(at(1)), promoted(0, None));
}

pub fn forgets_jobs_that_ended_before_their_time(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").run_at(at(10)));
    store.add(at(0), job("t").run_at(at(20)));
    store.cancel(at(1), id);
    assert_eq!(store.promote(at(15)), promoted(0, Some(at(20))));
    assert_eq!(store.state(id), JobState::Cancelled);
}

pub fn promotes_in_paused_queues_too(kit: &Kit) {
    let store = kit.open();
    store.set_paused("default", true);
    let id = store.add(at(0), job("t").run_at(at(10)));
    assert_eq!(store.promote(at(10)), promoted(1, None));
    assert_eq!(store.state(id), JobState::Ready);
    assert!(store.claim_ids(at(10)).is_empty());
}

pub fn keeps_the_due_time(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").run_at(at(10)));
    store.promote(at(500));
    assert_eq!(store.job(id).summary.due_at, at(10));
    assert_eq!(store.claim_one(at(501)).due_at, at(10));
}
