//! Jobs that ask to be run again later: no attempt spent, no failure on record.

use offloop_job::{FailureClass, JobState};
use offloop_store::{Claimed, EndIdleOutcome, IdleEnd, UsageBy, Verdict};

use crate::store::{COMPLETED, EXHAUSTED, failed, settlement};
use crate::{Draft, Kit, Store, T0, at, job};

/// Ends the attempt with a snooze until then.
fn snooze(store: &Store<'_>, now: u64, claimed: &Claimed, due: u64) -> JobState {
    store.finish(at(now), claimed, Verdict::Snooze { due: at(due) })
}

/// Snoozes and is claimed again.
fn again(store: &Store<'_>, now: u64, claimed: &Claimed) -> Claimed {
    assert_eq!(snooze(store, now, claimed, now + 1), JobState::Scheduled);
    store.promote(at(now + 1));
    store.claim_one(at(now + 1))
}

pub fn waits_for_its_time_and_spends_no_attempt(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    assert_eq!(snooze(&store, 1, &first, 50), JobState::Scheduled);
    let summary = store.job(first.id).summary;
    assert_eq!((summary.due_at, summary.attempt), (at(50), 0));
    assert_eq!(summary.started_at, None);
    store.promote(at(49));
    assert!(store.claim_ids(at(49)).is_empty(), "before its time");
    store.promote(at(50));
    let second = store.claim_one(at(50));
    assert_eq!((second.id, second.history.attempt), (first.id, 1));
    assert!(second.lease > first.lease, "its lease is a new one");
}

pub fn leaves_no_failure_and_no_attempt_on_record(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.retry(at(1), &first, FailureClass::Timeout, at(2));
    store.promote(at(2));
    let second = store.claim_one(at(2));
    let before = store.job(first.id);
    snooze(&store, 3, &second, 9);
    let after = store.job(first.id);
    assert_eq!(
        after.summary.failure, before.summary.failure,
        "the earlier one"
    );
    assert_eq!(after.attempts.len(), 1, "the one that failed");
    assert_eq!(after.summary.attempt, 1);
}

pub fn is_counted_until_an_attempt_is_spent(kit: &Kit) {
    let store = kit.open();
    let mut claimed = store.start(at(0));
    for nth in 1..=3 {
        claimed = again(&store, nth * 10, &claimed);
        assert_eq!(u64::from(claimed.history.snoozes), nth);
        assert_eq!(u64::from(store.job(claimed.id).summary.snoozes), nth);
    }
    store.finish(at(40), &claimed, Verdict::HandBack);
    let back = store.claim_one(at(41));
    assert_eq!(back.history.snoozes, 3, "a hand-back is no attempt either");
    store.retry(at(42), &back, FailureClass::Error, at(43));
    store.promote(at(43));
    assert_eq!(store.claim_one(at(43)).history.snoozes, 0);
}

pub fn a_job_that_ended_still_says_how_often(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let claimed = again(&store, 1, &claimed);
    store.finish(at(3), &claimed, EXHAUSTED);
    assert_eq!(store.job(claimed.id).summary.snoozes, 1);
    store.revive(at(4), &[claimed.id]);
    assert_eq!(store.job(claimed.id).summary.snoozes, 0, "another life");
}

/// A streak of crashes that a snooze would reset is a job that takes the server down for ever.
pub fn does_not_reset_the_crash_streak(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.retry(at(1), &first, FailureClass::Crashed, at(2));
    store.promote(at(2));
    let second = store.claim_one(at(2));
    assert_eq!(second.history.crash_streak, 1);
    assert_eq!(again(&store, 3, &second).history.crash_streak, 1);
}

pub fn of_a_job_whose_cancel_was_answered_ends_it(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let marked = store.cancel(at(1), claimed.id);
    assert!(
        matches!(marked, EndIdleOutcome::Running { .. }),
        "{marked:?}"
    );
    assert_eq!(snooze(&store, 2, &claimed, 9), JobState::Cancelled);
}

pub fn can_be_cancelled_and_can_expire_while_it_sleeps(kit: &Kit) {
    let store = kit.open();
    let asleep = |expires| {
        store.add(at(0), job("t").expires_at(at(expires)));
        let claimed = store.claim_one(at(0));
        snooze(&store, 1, &claimed, 50);
        claimed.id
    };
    let late = asleep(20);
    let overdue = store.overdue(at(21), 10);
    assert_eq!(overdue.iter().map(|job| job.id).collect::<Vec<_>>(), [late]);
    store.end_one(at(21), late, IdleEnd::Expire);
    assert_eq!(store.state(late), JobState::Expired);
    let unwanted = asleep(90);
    store.cancel(at(22), unwanted);
    assert_eq!(store.state(unwanted), JobState::Cancelled);
}

pub fn a_stale_lease_puts_nobody_to_sleep(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    let second = again(&store, 1, &first);
    let stale = settlement(&first, Verdict::Snooze { due: at(90) });
    assert_eq!(
        store.settle_one(at(3), stale),
        offloop_store::Settled::Stale
    );
    assert_eq!(store.finish(at(4), &second, COMPLETED), JobState::Completed);
}

/// A task that looks every minute whether its file is there costs something.
pub fn what_it_cost_is_summed_up(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = settlement(&claimed, Verdict::Snooze { due: at(9) });
    store.settle_one(at(1), end.clone());
    store.settle_one(at(1), end);
    let hour = offloop_job::Timestamp::from_millis(T0);
    let sums = store.usage(UsageBy::Task, hour);
    assert_eq!(
        sums.rows[0].total.attempts, 1,
        "a repeated settlement is one"
    );
    let other = store.start(at(2));
    let error = failed(&other, FailureClass::Error, Verdict::Retry { due: at(5) });
    store.settle_one(at(3), error);
    let sums = store.usage(UsageBy::Task, hour);
    assert_eq!(
        (sums.rows[0].total.attempts, sums.rows[0].completed),
        (2, 1)
    );
}
