//! Ending jobs that no executor has: every state x why.

use offloop_job::{JobId, JobState};
use offloop_store::{EndIdle, EndIdleOutcome, IdleEnd};

use crate::cases::in_state;
use crate::store::{node, settlement};
use crate::{Draft, Kit, at, job, name, record};

/// What one row of the table does: `ends_in` is `None` where nothing may change.
fn row(kit: &Kit, from: JobState, why: IdleEnd, ends_in: Option<JobState>) {
    let store = kit.open();
    let id = in_state(&store, from);
    let before = store.job(id);
    let records = vec![record("row", "ENDED", "")];
    let outcomes = store.end_idle(
        at(7),
        vec![EndIdle {
            id,
            why,
            records,
            follow: vec![],
        }],
    );
    let after = store.job(id);
    let written = store.row("row").is_some();
    let Some(state) = ends_in else {
        assert_eq!(outcomes, [EndIdleOutcome::AlreadyFinal(from)]);
        assert_eq!((after, written), (before, false));
        return;
    };
    let want = EndIdleOutcome::Ended {
        task: name("t"),
        queue: before.summary.queue,
        state,
    };
    assert_eq!((outcomes, written), (vec![want], true));
    assert_eq!(after.summary.state, state);
    assert_eq!(after.summary.finished_at, Some(at(7)));
    assert_eq!(after.summary.started_at, None);
    store.promote(at(2_000_000));
    assert!(store.claim_ids(at(2_000_000)).is_empty(), "it never runs");
}

pub fn cancel_of_a_scheduled_job_ends_it(kit: &Kit) {
    row(
        kit,
        JobState::Scheduled,
        IdleEnd::Cancel,
        Some(JobState::Cancelled),
    );
}

pub fn cancel_of_a_ready_job_ends_it(kit: &Kit) {
    row(
        kit,
        JobState::Ready,
        IdleEnd::Cancel,
        Some(JobState::Cancelled),
    );
}

pub fn cancel_of_a_completed_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Completed, IdleEnd::Cancel, None);
}

pub fn cancel_of_a_failed_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Failed, IdleEnd::Cancel, None);
}

pub fn cancel_of_a_cancelled_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Cancelled, IdleEnd::Cancel, None);
}

pub fn cancel_of_an_expired_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Expired, IdleEnd::Cancel, None);
}

pub fn expire_of_a_scheduled_job_ends_it(kit: &Kit) {
    row(
        kit,
        JobState::Scheduled,
        IdleEnd::Expire,
        Some(JobState::Expired),
    );
}

pub fn expire_of_a_ready_job_ends_it(kit: &Kit) {
    row(
        kit,
        JobState::Ready,
        IdleEnd::Expire,
        Some(JobState::Expired),
    );
}

pub fn expire_of_a_completed_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Completed, IdleEnd::Expire, None);
}

pub fn expire_of_a_failed_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Failed, IdleEnd::Expire, None);
}

pub fn expire_of_a_cancelled_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Cancelled, IdleEnd::Expire, None);
}

pub fn expire_of_an_expired_job_changes_nothing(kit: &Kit) {
    row(kit, JobState::Expired, IdleEnd::Expire, None);
}

pub fn cancel_of_a_running_job_marks_it(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let (id, why) = (claimed.id, IdleEnd::Cancel);
    let records = vec![record("row", "ENDED", "")];
    let outcomes = store.end_idle(
        at(1),
        vec![EndIdle {
            id,
            why,
            records,
            follow: vec![],
        }],
    );
    let (lease, node) = (claimed.lease, claimed.node.clone());
    let running = vec![EndIdleOutcome::Running { lease, node }];
    assert_eq!(outcomes, running);
    assert_eq!(store.row("row"), None, "it was not ended by this call");
    let shown = store.job(id).summary;
    assert_eq!((shown.state, shown.cancelling), (JobState::Running, true));
    assert_eq!(vec![store.cancel(at(2), id)], running, "asked again");
    let end = settlement(&claimed, offloop_store::Verdict::Abort);
    store.settle_one(at(3), end);
    let shown = store.job(id).summary;
    assert_eq!(
        (shown.state, shown.cancelling),
        (JobState::Cancelled, false)
    );
}

pub fn expire_of_a_running_job_marks_nothing(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let (lease, node) = (claimed.lease, node("n1"));
    let outcome = store.end_one(at(1), claimed.id, IdleEnd::Expire);
    assert_eq!(outcome, EndIdleOutcome::Running { lease, node });
    let shown = store.job(claimed.id).summary;
    assert_eq!((shown.state, shown.cancelling), (JobState::Running, false));
}

pub fn an_unknown_job_is_unknown(kit: &Kit) {
    let store = kit.open();
    let id = JobId::from_parts(5, 5);
    for why in [IdleEnd::Cancel, IdleEnd::Expire] {
        let records = vec![record("row", "ENDED", "")];
        let outcomes = store.end_idle(
            at(0),
            vec![EndIdle {
                id,
                why,
                records,
                follow: vec![],
            }],
        );
        assert_eq!(outcomes, [EndIdleOutcome::Unknown]);
    }
    assert_eq!(store.row("row"), None);
}

pub fn answers_in_the_order_of_the_batch(kit: &Kit) {
    let store = kit.open();
    let done = in_state(&store, JobState::Completed);
    let ready = store.add(at(0), job("u").queue("q"));
    let end = |id, why| EndIdle {
        id,
        why,
        records: vec![],
        follow: vec![],
    };
    let outcomes = store.end_idle(
        at(1),
        vec![
            end(done, IdleEnd::Expire),
            end(ready, IdleEnd::Expire),
            end(JobId::from_parts(5, 5), IdleEnd::Cancel),
            end(ready, IdleEnd::Cancel),
        ],
    );
    let ended = EndIdleOutcome::Ended {
        task: name("u"),
        queue: offloop_job::QueueName::parse("q").expect("a queue"),
        state: JobState::Expired,
    };
    let want = [
        EndIdleOutcome::AlreadyFinal(JobState::Completed),
        ended,
        EndIdleOutcome::Unknown,
        EndIdleOutcome::AlreadyFinal(JobState::Expired),
    ];
    assert_eq!(outcomes, want);
}

pub fn keeps_the_attempts_of_a_job_between_retries(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let class = offloop_job::FailureClass::Timeout;
    store.retry(at(1), &claimed, class, at(100));
    store.cancel(at(2), claimed.id);
    let shown = store.job(claimed.id);
    assert_eq!((shown.attempts.len(), shown.summary.attempt), (1, 1));
    assert_eq!(shown.summary.failure.map(|f| f.class), Some(class));
    assert_eq!(shown.summary.started_at, None);
}
