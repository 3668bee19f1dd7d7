//! Finding idle jobs that are too late to start.

use offloop_job::{FailureClass, JobId};
use offloop_store::IdleEnd;

use crate::store::COMPLETED;
use crate::{Draft, Kit, Store, at, job};

fn ids(store: &Store<'_>, now: u64) -> Vec<JobId> {
    let found = store.overdue(at(now), 99);
    found.iter().map(|late| late.id).collect()
}

pub fn finds_idle_jobs_past_their_time(kit: &Kit) {
    let store = kit.open();
    let ready = store.add(at(0), job("t").expires_at(at(10)));
    let scheduled = store.add(at(0), job("t").run_at(at(90)).expires_at(at(95)));
    store.add(at(0), job("t"));
    store.add(at(0), job("t").expires_at(at(500)));
    assert!(ids(&store, 10).is_empty());
    assert_eq!(ids(&store, 11), [ready]);
    assert_eq!(ids(&store, 96), [ready, scheduled]);
}

pub fn says_what_they_are(kit: &Kit) {
    let store = kit.open();
    let asked = job("late").queue("q").payload("[7]").expires_at(at(10));
    let id = store.add(at(0), asked.clone());
    let found = store.overdue(at(11), 9);
    let [late] = &found[..] else {
        panic!("one job: {found:?}")
    };
    assert_eq!((late.id, &late.task), (id, &asked.task));
    assert_eq!(late.queue, asked.options.queue);
    assert_eq!(late.payload, asked.payload);
}

pub fn leaves_running_and_finished_jobs_alone(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t").expires_at(at(10)); 3]);
    let claimed = store.claim(at(1), &["t"], 3);
    store.finish(at(2), &claimed[0], COMPLETED);
    store.retry(at(2), &claimed[1], FailureClass::Error, at(50));
    assert_eq!(ids(&store, 20), [claimed[1].id], "only the idle one");
    store.end_one(at(21), claimed[1].id, IdleEnd::Expire);
    assert!(ids(&store, 22).is_empty());
}

pub fn keeps_its_limit_and_comes_back_for_the_rest(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t").expires_at(at(10)); 7]);
    for left in [3, 3, 1, 0] {
        let found = store.overdue(at(11), 3);
        assert_eq!(found.len(), left);
        for late in found {
            store.end_one(at(11), late.id, IdleEnd::Expire);
        }
    }
}
