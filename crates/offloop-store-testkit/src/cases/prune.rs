//! Forgetting finished jobs by age and count.

use std::time::Duration;

use offloop_job::JobId;
use offloop_job::limits::{IDEMPOTENCY_KEEP, KEEP_MIN};
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

const MIN: u64 = KEEP_MIN.as_millis() as u64;

/// Ages of the server that let a job go after a minute.
const fn a_minute(now: u64) -> PruneRule {
    PruneRule {
        completed_for: ms(60_000),
        others_for: ms(60_000),
        ..keep(now)
    }
}

/// A job with a time of its own, completed at 0.
fn kept(store: &Store<'_>, keep: u64) -> JobId {
    store.add(at(0), job("t").keep(keep));
    let claimed = store.claim_one(at(0));
    store.finish(at(0), &claimed, COMPLETED);
    claimed.id
}

pub fn a_job_with_a_short_time_of_its_own_goes_before_the_rule(kit: &Kit) {
    let store = kit.open();
    let short = kept(&store, MIN + 5);
    let usual = completed(&store, &[0])[0];
    assert_eq!(store.prune(a_minute(MIN + 4)), 0);
    assert_eq!(store.prune(a_minute(MIN + 5)), 1);
    assert_eq!((store.find(short), left(&store)), (None, vec![usual]));
}

pub fn a_job_with_a_long_time_of_its_own_outlasts_the_rule(kit: &Kit) {
    let store = kit.open();
    let long = kept(&store, 90_000);
    completed(&store, &[0]);
    assert_eq!(store.prune(a_minute(89_999)), 1);
    assert_eq!(left(&store), [long]);
    assert_eq!(store.prune(a_minute(90_000)), 1);
}

pub fn a_job_is_there_for_a_moment_even_if_it_is_not_to_be_kept(kit: &Kit) {
    let store = kit.open();
    let id = kept(&store, 0);
    assert_eq!(store.prune(keep(MIN - 1)), 0);
    assert_eq!(left(&store), [id]);
    assert_eq!(store.prune(keep(MIN)), 1);
}

/// A thousand that stay for a year must not be looked at in front of each one that goes.
pub fn jobs_with_a_time_of_their_own_do_not_stop_the_others(kit: &Kit) {
    let store = kit.open();
    let long: Vec<_> = (0..20).map(|_| kept(&store, 1 << 40)).collect();
    completed(&store, &[1; 20]);
    let rule = PruneRule {
        rows_per_call: 3,
        ..a_minute(70_000)
    };
    assert_eq!(store.prune(rule), 20);
    assert_eq!(left(&store), long);
}

pub fn the_count_takes_the_oldest_of_all(kit: &Kit) {
    let store = kit.open();
    let usual = completed(&store, &[5, 1]);
    store.add(at(0), job("t").keep(1 << 40));
    let claimed = store.claim_one(at(0));
    store.finish(at(3), &claimed, COMPLETED);
    let rule = |rows_max| PruneRule {
        rows_max,
        ..keep(50)
    };
    assert_eq!(store.prune(rule(2)), 1, "the one that ended at 1");
    assert_eq!(left(&store), [usual[0], claimed.id]);
    assert_eq!(store.prune(rule(1)), 1, "the one that ended at 3");
    assert_eq!(left(&store), [usual[0]]);
}

pub fn a_time_of_its_own_holds_for_every_end_and_starts_anew_with_each_life(kit: &Kit) {
    let store = kit.open();
    let short = || job("t").keep(20_000);
    store.add(at(0), short());
    let failed = store.claim_one(at(0));
    store.finish(at(0), &failed, EXHAUSTED);
    let cancelled = store.add(at(0), short());
    store.cancel(at(0), cancelled);
    let expired = store.add(at(0), short());
    store.end_one(at(0), expired, IdleEnd::Expire);
    let revived = store.add(at(0), short());
    store.cancel(at(0), revived);
    store.revive(at(1), &[revived]);
    assert_eq!(store.prune(keep(20_000)), 3);
    assert_eq!(left(&store), [revived], "it lives");
    let claimed = store.claim_one(at(20_000));
    store.finish(at(20_000), &claimed, COMPLETED);
    assert_eq!(store.prune(keep(39_999)), 0);
    assert_eq!(store.prune(keep(40_000)), 1);
}

pub fn a_time_of_its_own_does_not_make_another_request(kit: &Kit) {
    let store = kit.open();
    let asked = |keep| job("t").idempotency("i").keep(keep);
    let id = store.add(at(0), asked(5));
    let same = offloop_store::SameAs::IdempotencyKey;
    let found = store.insert_one(at(1), asked(6));
    assert_eq!(found, InsertOutcome::Existing { id, same });
}
