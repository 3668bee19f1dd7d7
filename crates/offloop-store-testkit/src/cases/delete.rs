//! Forgetting single jobs.

use offloop_job::{JobId, OnConflict, UniqueScope};
use offloop_store::DeleteOutcome;

use crate::cases::{FINAL, STATES, in_state};
use crate::{Draft, Kit, at, job, record};

pub fn final_jobs_are_gone(kit: &Kit) {
    for state in FINAL {
        let store = kit.open();
        let id = in_state(&store, state);
        let other = in_state(&store, state);
        assert_eq!(store.delete(&[id]), [DeleteOutcome::Deleted], "{state}");
        assert_eq!(store.find(id), None);
        assert_eq!(store.all_ids(), [other], "its neighbour stays");
    }
}

pub fn living_jobs_are_not_touched(kit: &Kit) {
    for state in STATES.into_iter().filter(|state| !state.is_final()) {
        let store = kit.open();
        let id = in_state(&store, state);
        let before = store.job(id);
        assert_eq!(store.delete(&[id]), [DeleteOutcome::NotFinal(state)]);
        assert_eq!(store.job(id), before);
    }
}

pub fn answers_in_the_order_of_the_batch(kit: &Kit) {
    let store = kit.open();
    let done = in_state(&store, FINAL[0]);
    let ready = store.add(at(0), job("t"));
    let unknown = JobId::from_parts(5, 5);
    let want = [
        DeleteOutcome::Unknown,
        DeleteOutcome::NotFinal(store.state(ready)),
        DeleteOutcome::Deleted,
        DeleteOutcome::Unknown,
    ];
    assert_eq!(store.delete(&[unknown, ready, done, done]), want);
}

pub fn a_deleted_job_is_not_revived(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Reject);
    let id = store.add(at(0), asked.clone());
    store.cancel(at(1), id);
    store.delete(&[id]);
    let want = [offloop_store::ReviveOutcome::Unknown];
    assert_eq!(store.revive(at(2), &[id]), want);
    store.add(at(3), asked);
}

pub fn records_stay(kit: &Kit) {
    let store = kit.open();
    let rows = vec![record("a", "NEW", "")];
    store.insert_with(at(0), vec![job("t")], rows);
    let id = store.all_ids()[0];
    store.cancel(at(1), id);
    store.delete(&[id]);
    assert!(store.row("a").is_some());
}
