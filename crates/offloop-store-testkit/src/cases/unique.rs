//! Unique keys that are held for a period, debounced, throttled.

use std::time::Duration;

use offloop_job::{FailureClass, JobId, JobState, NewJob, OnConflict, UniqueScope};
use offloop_store::{InsertOutcome, InsertRefusal, ReviveOutcome, SameAs, Verdict};

use crate::store::COMPLETED;
use crate::{Draft, Kit, at, job};

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn held_for(period: u64, rule: OnConflict) -> NewJob {
    job("t").unique("k", UniqueScope::For(ms(period)), rule)
}

fn debounced(payload: &str) -> NewJob {
    let rule = OnConflict::Debounce(ms(100));
    let job = job("t").unique("k", UniqueScope::UntilFinished, rule);
    job.payload(payload.to_owned())
}

fn found(id: JobId, same: SameAs) -> InsertOutcome {
    InsertOutcome::Existing { id, same }
}

pub fn a_period_is_held_after_the_end_and_the_job(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), held_for(1_000, OnConflict::Keep));
    let kept = |now| store.insert_one(at(now), held_for(1_000, OnConflict::Keep));
    assert_eq!(kept(10), found(id, SameAs::UniqueKey));
    let claimed = store.claim_one(at(20));
    assert_eq!(kept(20), found(id, SameAs::UniqueKey));
    store.finish(at(30), &claimed, COMPLETED);
    assert_eq!(kept(40), found(id, SameAs::UniqueKey));
    store.delete(&[id]);
    assert_eq!(kept(999), found(id, SameAs::UniqueKey));
    store.add(at(1_000), held_for(1_000, OnConflict::Keep));
}

pub fn a_period_is_over_although_the_job_still_runs(kit: &Kit) {
    let store = kit.open();
    store.add(at(0), held_for(100, OnConflict::Reject));
    let claimed = store.claim_one(at(1));
    let second = store.add(at(100), held_for(100, OnConflict::Reject));
    store.finish(at(101), &claimed, COMPLETED);
    let refused = InsertRefusal::UniqueConflict { holder: second };
    let outcome = store.insert_one(at(150), held_for(100, OnConflict::Reject));
    assert_eq!(outcome, InsertOutcome::Refused(refused));
}

pub fn throttle_answers_the_first_of_the_period(kit: &Kit) {
    let store = kit.open();
    let asked = || held_for(100, OnConflict::Throttle);
    let first = store.add(at(0), asked());
    assert_eq!(
        store.insert_one(at(50), asked()),
        found(first, SameAs::UniqueKey)
    );
    assert_eq!(
        store.insert_one(at(99), asked()),
        found(first, SameAs::UniqueKey)
    );
    let second = store.add(at(100), asked());
    assert_eq!(
        store.insert_one(at(199), asked()),
        found(second, SameAs::UniqueKey)
    );
}

pub fn a_period_is_replaced_only_while_its_job_is_idle(kit: &Kit) {
    let store = kit.open();
    let asked = || held_for(1_000, OnConflict::Replace);
    let first = store.add(at(0), asked());
    let InsertOutcome::Created { id, replaced, .. } = store.insert_one(at(10), asked()) else {
        panic!("an idle holder is replaced")
    };
    assert_eq!(
        (replaced, store.state(first)),
        (Some(first), JobState::Cancelled)
    );
    let claimed = store.claim_one(at(20));
    assert_eq!(
        store.insert_one(at(30), asked()),
        found(id, SameAs::UniqueKey)
    );
    store.finish(at(40), &claimed, COMPLETED);
    assert_eq!(
        store.insert_one(at(50), asked()),
        found(id, SameAs::UniqueKey)
    );
    store.delete(&[id]);
    assert_eq!(
        store.insert_one(at(60), asked()),
        found(id, SameAs::UniqueKey)
    );
    store.add(at(1_010), asked());
}

pub fn a_period_that_is_over_is_pruned_and_no_other(kit: &Kit) {
    let store = kit.open();
    let asked = || held_for(100, OnConflict::Keep);
    let id = store.add(at(0), asked());
    store.prune_all(at(99));
    assert_eq!(
        store.insert_one(at(99), asked()),
        found(id, SameAs::UniqueKey)
    );
    store.prune_all(at(100));
    store.add(at(100), asked());
}

pub fn a_job_that_is_revived_is_not_in_its_own_way(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), held_for(1_000, OnConflict::Keep));
    store.cancel(at(1), id);
    let revived = store.revive(at(2), &[id]);
    assert!(
        matches!(revived[0], ReviveOutcome::Revived { .. }),
        "{revived:?}"
    );
    store.cancel(at(3), id);
    store.add(at(1_000), held_for(1_000, OnConflict::Keep));
    let revived = store.revive(at(1_001), &[id]);
    assert!(
        matches!(revived[0], ReviveOutcome::UniqueConflict { .. }),
        "{revived:?}"
    );
}

pub fn debounce_runs_the_last_request_once_it_is_quiet(kit: &Kit) {
    let store = kit.open();
    let outcome = store.insert_one(at(0), debounced("1"));
    let InsertOutcome::Created { id, state, .. } = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!(state, JobState::Scheduled);
    for (now, payload) in [(50, "2"), (140, "3")] {
        let outcome = store.insert_one(at(now), debounced(payload));
        assert_eq!(outcome, found(id, SameAs::Debounced));
    }
    assert_eq!(store.promote(at(239)).next_due, Some(at(240)));
    assert!(store.claim_ids(at(239)).is_empty());
    store.promote(at(240));
    let claimed = store.claim_one(at(240));
    assert_eq!((claimed.id, &claimed.payload[..]), (id, &b"3"[..]));
    assert_eq!(store.all_ids(), [id]);
}

pub fn debounce_takes_the_new_options_in_place(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), debounced("1"));
    let big = "x".repeat(5_000);
    let asked = debounced(&big)
        .queue("other")
        .priority(1)
        .tag("new")
        .group_key("a")
        .expires_at(at(500));
    assert_eq!(
        store.insert_one(at(10), asked.clone()),
        found(id, SameAs::Debounced)
    );
    let shown = store.job(id);
    assert_eq!(
        (&shown.options, &shown.payload),
        (&asked.options, &asked.payload)
    );
    assert_eq!(shown.summary.due_at, at(110));
    let counts: Vec<_> = store
        .queues(at(10))
        .into_values()
        .filter(|queue| queue.counts.scheduled > 0)
        .map(|queue| queue.name.to_string())
        .collect();
    assert_eq!(counts, ["other"]);
    assert_eq!(
        store.insert_one(at(20), debounced("2")),
        found(id, SameAs::Debounced)
    );
    assert_eq!(&store.job(id).payload[..], b"2");
    assert!(store.overdue(at(9_000), 9).is_empty(), "it expires no more");
}

pub fn debounce_makes_a_ready_holder_wait_again(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), debounced("1"));
    store.promote(at(100));
    assert_eq!(store.state(id), JobState::Ready);
    assert_eq!(
        store.insert_one(at(101), debounced("2")),
        found(id, SameAs::Debounced)
    );
    assert_eq!(store.state(id), JobState::Scheduled);
    assert!(store.claim_ids(at(101)).is_empty());
    store.promote(at(201));
    assert_eq!(store.claim_ids(at(201)), [id]);
}

pub fn a_running_job_does_not_swallow_a_debounced_request(kit: &Kit) {
    let store = kit.open();
    let first = store.add(at(0), debounced("1"));
    store.promote(at(100));
    let claimed = store.claim_one(at(100));
    let second = store.add(at(110), debounced("2"));
    assert_eq!(
        store.insert_one(at(120), debounced("3")),
        found(second, SameAs::Debounced)
    );
    store.finish(at(130), &claimed, COMPLETED);
    assert_eq!(
        store.insert_one(at(140), debounced("4")),
        found(second, SameAs::Debounced),
        "the end of the first does not free the key of the second"
    );
    assert_eq!(store.state(first), JobState::Completed);
    store.promote(at(240));
    assert_eq!(&store.claim_one(at(240)).payload[..], b"4");
}

pub fn a_debounced_job_that_waits_for_its_retry_keeps_its_attempts(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), debounced("1"));
    store.promote(at(100));
    let claimed = store.claim_one(at(100));
    store.retry(at(101), &claimed, FailureClass::Error, at(5_000));
    assert_eq!(
        store.insert_one(at(110), debounced("2")),
        found(id, SameAs::Debounced)
    );
    store.promote(at(210));
    let claimed = store.claim_one(at(210));
    assert_eq!(
        (claimed.history.attempt, &claimed.payload[..]),
        (2, &b"2"[..])
    );
    store.finish(at(211), &claimed, Verdict::Abort);
    store.add(at(212), debounced("3"));
}

pub fn debounce_into_a_full_queue_changes_nothing(kit: &Kit) {
    let store = kit.open_small(1);
    let id = store.add(at(0), debounced("1"));
    store.add(at(0), job("t").queue("full"));
    let outcome = store.insert_one(at(1), debounced("2").queue("full"));
    assert!(matches!(outcome, InsertOutcome::Refused(_)), "{outcome:?}");
    assert_eq!(&store.job(id).payload[..], b"1");
    assert_eq!(
        store.insert_one(at(2), debounced("3")),
        found(id, SameAs::Debounced)
    );
}

pub fn a_debounced_request_takes_over_a_key_that_was_held_for_a_period(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), held_for(1_000_000, OnConflict::Keep));
    assert_eq!(
        store.insert_one(at(1), debounced("2")),
        found(id, SameAs::Debounced)
    );
    store.cancel(at(2), id);
    store.add(at(3), held_for(10, OnConflict::Keep));
}

pub fn a_repeated_debounced_request_is_answered_by_its_key(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), debounced("1"));
    let asked = || debounced("2").idempotency("i");
    assert_eq!(
        store.insert_one(at(10), asked()),
        found(id, SameAs::Debounced)
    );
    store.insert_one(at(20), debounced("3"));
    assert_eq!(
        store.insert_one(at(30), asked()),
        found(id, SameAs::IdempotencyKey)
    );
    assert_eq!(&store.job(id).payload[..], b"3");
}
