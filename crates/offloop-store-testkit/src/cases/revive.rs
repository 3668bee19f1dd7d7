//! Another life after the end.

use offloop_job::{FailureClass, History, JobId, JobState, OnConflict, UniqueScope};
use offloop_store::{IdleEnd, ReviveOutcome, Verdict};

use crate::cases::in_state;
use crate::store::{EXHAUSTED, failed};
use crate::{Draft, Kit, at, job, name};

fn revived() -> ReviveOutcome {
    ReviveOutcome::Revived {
        task: name("t"),
        queue: offloop_job::QueueName::default(),
    }
}

pub fn failed_cancelled_and_expired_jobs_are_ready_now(kit: &Kit) {
    for state in [JobState::Failed, JobState::Cancelled, JobState::Expired] {
        let store = kit.open();
        let id = in_state(&store, state);
        assert_eq!(store.revive(at(70), &[id]), [revived()], "{state}");
        let shown = store.job(id).summary;
        assert_eq!((shown.state, shown.due_at), (JobState::Ready, at(70)));
        assert_eq!((shown.started_at, shown.finished_at), (None, None));
        assert_eq!((shown.reason, shown.cancelling), (None, false));
        assert_eq!(store.claim_ids(at(70)), [id], "{state}");
    }
}

pub fn a_job_that_never_came_due_is_ready_now(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").run_at(at(1_000)));
    store.cancel(at(1), id);
    store.revive(at(2), &[id]);
    assert_eq!(store.claim_ids(at(2)), [id]);
}

pub fn living_and_completed_jobs_are_not_touched(kit: &Kit) {
    let states = [
        JobState::Scheduled,
        JobState::Ready,
        JobState::Running,
        JobState::Completed,
    ];
    for state in states {
        let store = kit.open();
        let id = in_state(&store, state);
        let before = store.job(id);
        let want = [ReviveOutcome::NotRevivable(state)];
        assert_eq!(store.revive(at(1), &[id]), want);
        assert_eq!(store.job(id), before, "{state}");
    }
}

pub fn attempts_and_streak_start_at_zero(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    for now in 1..=2 {
        let claimed = store.claim_one(at(now));
        store.retry(at(now), &claimed, FailureClass::Crashed, at(now));
        store.promote(at(now));
    }
    let claimed = store.claim_one(at(5));
    assert_eq!(claimed.history.crash_streak, 2);
    store.settle_one(at(5), failed(&claimed, FailureClass::Crashed, EXHAUSTED));
    store.revive(at(6), &[id]);
    assert_eq!(store.job(id).summary.attempt, 0);
    let fresh = History {
        attempt: 1,
        crash_streak: 0,
        ..History::default()
    };
    assert_eq!(store.claim_one(at(7)).history, fresh);
}

pub fn ends_over_memory_of_an_earlier_life_do_not_count(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    let over = FailureClass::MemoryLimit;
    let claimed = store.claim_one(at(1));
    store.retry(at(1), &claimed, over, at(1));
    store.promote(at(1));
    let claimed = store.claim_one(at(2));
    assert_eq!(claimed.history.memory_ends, 1);
    store.settle_one(at(2), failed(&claimed, over, EXHAUSTED));
    store.revive(at(3), &[id]);
    assert_eq!(store.claim_one(at(4)).history.memory_ends, 0);
}

pub fn earlier_attempts_stay_on_record(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let id = claimed.id;
    store.settle_one(at(1), failed(&claimed, FailureClass::Timeout, EXHAUSTED));
    store.revive(at(2), &[id]);
    let class = |job: &offloop_job::Job| job.summary.failure.as_ref().map(|f| f.class);
    let shown = store.job(id);
    assert_eq!(class(&shown), Some(FailureClass::Timeout));
    assert_eq!(shown.attempts.len(), 1);
    let again = store.claim_one(at(3));
    assert!(again.lease > claimed.lease);
    store.finish(at(4), &again, crate::store::COMPLETED);
    let shown = store.job(id);
    let numbers: Vec<_> = shown
        .attempts
        .iter()
        .map(|attempt| attempt.number)
        .collect();
    assert_eq!(numbers, [1, 1], "one of each life");
    assert_eq!(class(&shown), Some(FailureClass::Timeout));
}

pub fn takes_its_unique_key_again(kit: &Kit) {
    for scope in [UniqueScope::UntilFinished, UniqueScope::UntilStarted] {
        let store = kit.open();
        let asked = || job("t").unique("k", scope, OnConflict::Keep);
        let id = store.add(at(0), asked());
        let claimed = store.claim_one(at(1));
        store.finish(at(2), &claimed, EXHAUSTED);
        assert_eq!(store.revive(at(3), &[id]), [revived()]);
        let outcome = store.insert_one(at(4), asked());
        let same = offloop_store::SameAs::UniqueKey;
        let want = offloop_store::InsertOutcome::Existing { id, same };
        assert_eq!(outcome, want, "{scope:?}");
    }
}

pub fn a_key_that_another_job_holds_is_a_conflict(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let old = store.add(at(0), asked());
    let holder = store.add(at(1), asked());
    let before = store.job(old);
    let want = [ReviveOutcome::UniqueConflict { holder }];
    assert_eq!(store.revive(at(2), &[old]), want);
    assert_eq!(store.job(old), before);
    store.cancel(at(3), holder);
    let want = [revived(), ReviveOutcome::UniqueConflict { holder: old }];
    assert_eq!(store.revive(at(4), &[old, holder]), want);
}

pub fn an_expiry_that_has_passed_is_lifted(kit: &Kit) {
    let store = kit.open();
    let late = store.add(at(0), job("t").expires_at(at(10)));
    let early = store.add(at(0), job("t").expires_at(at(900)));
    store.end_one(at(11), late, IdleEnd::Expire);
    store.cancel(at(11), early);
    store.revive(at(20), &[late, early]);
    assert_eq!(store.job(late).options.expires_at, None);
    assert_eq!(store.job(early).options.expires_at, Some(at(900)));
    assert!(store.overdue(at(20), 9).is_empty());
    assert_eq!(store.claim_ids(at(20)), [late, early]);
}

pub fn goes_past_the_limit_of_the_queue(kit: &Kit) {
    let store = kit.open_small(1);
    let id = store.add(at(0), job("t"));
    store.cancel(at(0), id);
    store.add(at(1), job("t"));
    assert_eq!(store.revive(at(2), &[id]), [revived()]);
    assert_eq!(store.claim_ids(at(3)).len(), 2);
}

pub fn twice_in_one_batch_is_once(kit: &Kit) {
    let store = kit.open();
    let id = in_state(&store, JobState::Cancelled);
    let unknown = JobId::from_parts(5, 5);
    let want = [
        revived(),
        ReviveOutcome::Unknown,
        ReviveOutcome::NotRevivable(JobState::Ready),
    ];
    assert_eq!(store.revive(at(1), &[id, unknown, id]), want);
    assert_eq!(store.claim_ids(at(1)), [id]);
}

pub fn the_second_life_ends_like_the_first(kit: &Kit) {
    let store = kit.open();
    let id = in_state(&store, JobState::Cancelled);
    store.revive(at(1), &[id]);
    let claimed = store.claim_one(at(2));
    let result = Some("1".into());
    store.finish(at(3), &claimed, Verdict::Completed { result });
    let shown = store.job(id);
    assert_eq!(shown.summary.state, JobState::Completed);
    assert_eq!(shown.summary.finished_at, Some(at(3)));
    assert_eq!(shown.result.as_deref(), Some(&b"1"[..]));
    let rows = store.all_ids();
    assert_eq!(rows, [id], "one row, not one per life");
}
