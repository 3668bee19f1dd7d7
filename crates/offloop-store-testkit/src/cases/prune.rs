//! Forgetting finished jobs by age and count.

use std::time::Duration;

use offloop_job::JobId;
use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_store::{IdleEnd, InsertOutcome, PruneRule};

use crate::cases::{STATES, in_state};
use crate::store::{COMPLETED, EXHAUSTED};
use crate::{Draft, Kit, Store, at, job};

const FOREVER: Duration = Duration::MAX;

/// Keeps everything.
pub(crate) const fn keep(now: u64) -> PruneRule {
    PruneRule {
        now: offloop_job::Timestamp::from_millis(crate::T0 + now),
        completed_for: FOREVER,
        others_for: FOREVER,
        rows_max: u64::MAX,
        rows_per_call: 1_000,
    }
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Jobs that were completed one by one, at these times.
fn completed(store: &Store<'_>, times: &[u64]) -> Vec<JobId> {
    let ids: Vec<_> = times.iter().map(|_| store.add(at(0), job("t"))).collect();
    let claimed = store.claim(at(0), &["t"], 1_000);
    for (claimed, now) in claimed.iter().zip(times) {
        store.finish(at(*now), claimed, COMPLETED);
    }
    ids
}

fn left(store: &Store<'_>) -> Vec<JobId> {
    let mut left = store.all_ids();
    left.reverse();
    left
}

pub fn without_a_rule_everything_stays(kit: &Kit) {
    let store = kit.open();
    let ids = completed(&store, &[1, 2, 3]);
    assert_eq!(store.prune(keep(u64::MAX >> 20)), 0);
    assert_eq!(left(&store), ids);
}

pub fn completed_jobs_go_by_their_age(kit: &Kit) {
    let store = kit.open();
    let ids = completed(&store, &[10, 30, 20, 90]);
    let rule = PruneRule {
        completed_for: ms(50),
        ..keep(70)
    };
    assert_eq!(store.prune(rule), 2, "as old as 50, and older");
    assert_eq!(left(&store), [ids[1], ids[3]]);
}

pub fn other_finished_jobs_go_by_their_own_age(kit: &Kit) {
    let store = kit.open();
    let good = completed(&store, &[10])[0];
    let claimed = store.start(at(5));
    store.finish(at(10), &claimed, EXHAUSTED);
    let cancelled = store.add(at(5), job("t"));
    store.cancel(at(10), cancelled);
    let expired = store.add(at(5), job("t"));
    store.end_one(at(10), expired, IdleEnd::Expire);
    let rule = PruneRule {
        completed_for: ms(10),
        others_for: ms(50),
        ..keep(59)
    };
    assert_eq!(store.prune(rule), 1);
    assert_eq!(store.find(good), None);
    assert_eq!(left(&store), [claimed.id, cancelled, expired]);
    let later = PruneRule {
        now: at(60),
        ..rule
    };
    assert_eq!(store.prune(later), 3);
    assert!(left(&store).is_empty());
}

pub fn the_oldest_go_first_by_count(kit: &Kit) {
    let store = kit.open();
    let ids = completed(&store, &[50, 10, 40, 20, 30]);
    let rule = PruneRule {
        rows_max: 2,
        ..keep(60)
    };
    assert_eq!(store.prune(rule), 3);
    assert_eq!(left(&store), [ids[0], ids[2]]);
    let none = PruneRule {
        rows_max: 0,
        ..keep(60)
    };
    assert_eq!(store.prune(none), 2);
    assert!(left(&store).is_empty());
}

pub fn the_count_is_of_what_age_has_left(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, EXHAUSTED);
    completed(&store, &[5, 6]);
    let rule = PruneRule {
        completed_for: ms(1),
        rows_max: 1,
        ..keep(50)
    };
    assert_eq!(store.prune(rule), 2);
    assert_eq!(left(&store), [claimed.id], "the completed ones went by age");
}

pub fn goes_piece_by_piece(kit: &Kit) {
    let store = kit.open();
    let ids = completed(&store, &[10; 25]);
    let rule = PruneRule {
        completed_for: ms(5),
        rows_max: 3,
        rows_per_call: 4,
        ..keep(20)
    };
    assert_eq!(store.prune(rule), ids.len() as u64);
    assert!(left(&store).is_empty());
}

/// Old rows that stay must not hide younger ones that have to go.
pub fn rows_that_stay_do_not_stop_the_others(kit: &Kit) {
    let store = kit.open();
    let kept: Vec<_> = (0..10)
        .map(|_| {
            let id = store.add(at(0), job("t"));
            store.cancel(at(1), id);
            id
        })
        .collect();
    completed(&store, &[5; 10]);
    let rule = PruneRule {
        completed_for: ms(5),
        rows_per_call: 3,
        ..keep(20)
    };
    assert_eq!(store.prune(rule), 10);
    assert_eq!(left(&store), kept);
}

pub fn living_jobs_never_go(kit: &Kit) {
    for state in STATES.into_iter().filter(|state| !state.is_final()) {
        let store = kit.open();
        let id = in_state(&store, state);
        let rule = PruneRule {
            completed_for: ms(0),
            others_for: ms(0),
            rows_max: 0,
            ..keep(1_000_000)
        };
        assert_eq!(store.prune(rule), 0, "{state}");
        assert_eq!(store.state(id), state);
    }
}

pub fn a_revived_job_is_no_finished_one(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    store.cancel(at(1), id);
    store.revive(at(2), &[id]);
    let rule = PruneRule {
        others_for: ms(0),
        rows_max: 0,
        ..keep(50)
    };
    assert_eq!(store.prune(rule), 0);
    assert_eq!(store.claim_ids(at(60)), [id]);
}

pub fn an_idempotency_key_outlives_its_job(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").idempotency("i");
    let id = store.add(at(0), asked.clone());
    store.cancel(at(1), id);
    let rule = PruneRule {
        others_for: ms(0),
        ..keep(2)
    };
    assert_eq!(store.prune(rule), 1);
    let outcome = store.insert_one(at(3), asked);
    let same = offloop_store::SameAs::IdempotencyKey;
    assert_eq!(outcome, InsertOutcome::Existing { id, same });
}

/// Looked at through a clock that steps back: by the time itself a key is not answered anyway.
pub fn idempotency_keys_go_by_their_age(kit: &Kit) {
    let store = kit.open();
    let day = IDEMPOTENCY_KEEP.as_millis() as u64;
    let old: Vec<_> = (0..5)
        .map(|n| job("t").idempotency(&format!("old {n}")))
        .collect();
    let young = job("t").idempotency("young");
    store.insert(at(0), old.clone());
    store.add(at(1), young.clone());
    let rule = PruneRule {
        rows_per_call: 2,
        ..keep(day)
    };
    assert_eq!(store.prune(rule), 0, "no job has ended");
    for outcome in store.insert(at(2), old) {
        let new = matches!(outcome, InsertOutcome::Created { .. });
        assert!(new, "{outcome:?}");
    }
    let outcome = store.insert_one(at(2), young);
    assert!(
        matches!(outcome, InsertOutcome::Existing { .. }),
        "{outcome:?}"
    );
}
