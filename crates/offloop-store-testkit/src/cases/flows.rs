//! Jobs that wait for others.

use std::time::Duration;

use offloop_job::limits::INPUT_BYTES_MAX;
use offloop_job::{
    FailureClass, FinalReason, JobId, JobState, OnConflict, OnFailure, Parent, UniqueScope,
};
use offloop_store::{
    DoomedWhy, EndIdleOutcome, FAN_OUT_AT_ONCE, IdleEnd, InsertOutcome, InsertRefusal, News,
    Verdict,
};

use crate::groups::{after, behind};
use crate::store::{COMPLETED, EXHAUSTED, created, failed};
use crate::{Draft, Kit, Store, at, job};

use OnFailure::{Continue, Fail, Ignore};

/// Ends the one ready job.
fn end_next(store: &Store<'_>, verdict: Verdict) -> JobId {
    let claimed = store.claim_one(at(5));
    let end = match verdict {
        Verdict::GiveUp { .. } => failed(&claimed, FailureClass::Error, verdict),
        verdict => crate::store::settlement(&claimed, verdict),
    };
    store.settle_one(at(6), end);
    claimed.id
}

/// A job, and one that waits for it.
fn pair(store: &Store<'_>, rule: OnFailure) -> (JobId, JobId) {
    let parent = store.add(at(0), job("t"));
    let child = store.add(at(0), after(&[(parent, rule)]));
    assert_eq!(store.state(child), JobState::Waiting);
    (parent, child)
}

pub fn a_dependent_waits_until_every_parent_has_ended(kit: &Kit) {
    let store = kit.open();
    let one = store.add(at(0), job("t"));
    let other = store.add(at(0), job("u"));
    let child = store.add(at(0), after(&[(one, Fail), (other, Fail)]));
    assert_eq!(end_next(&store, COMPLETED), one);
    assert_eq!(store.state(child), JobState::Waiting);
    assert!(store.claim_ids(at(6)).is_empty());
    let claimed = store.claim(at(6), &["u"], 1).remove(0);
    store.finish(at(7), &claimed, COMPLETED);
    assert_eq!(store.state(child), JobState::Ready);
    assert_eq!(store.job(child).summary.due_at, at(7));
    assert_eq!(store.claim_one(at(8)).id, child);
}

pub fn a_waiting_job_is_counted_and_listed_as_one(kit: &Kit) {
    let store = kit.open();
    let (parent, child) = pair(&store, Fail);
    let counts = store.queue("default").map(|queue| queue.counts);
    let counts = counts.map(|counts| (counts.waiting, counts.ready));
    assert_eq!(counts, Some((1, 1)));
    let filter = offloop_store::JobFilter {
        state: Some(JobState::Waiting),
        ..offloop_store::JobFilter::default()
    };
    assert_eq!(store.list_ids(&filter), [child]);
    let told = store.job(child).options.after;
    assert_eq!(told[0].parent, Parent::Job(parent));
    end_next(&store, COMPLETED);
    let counts = store.queue("default").map(|queue| queue.counts);
    assert_eq!(
        counts.map(|counts| (counts.waiting, counts.ready)),
        Some((0, 1))
    );
}

pub fn a_parent_that_was_final_counts_at_once(kit: &Kit) {
    let rows = [
        (COMPLETED, Fail, JobState::Ready),
        (EXHAUSTED, Fail, JobState::Waiting),
        (EXHAUSTED, Ignore, JobState::Ready),
        (EXHAUSTED, Continue, JobState::Ready),
    ];
    for (verdict, rule, state) in rows {
        let store = kit.open();
        store.add(at(0), job("t"));
        let parent = end_next(&store, verdict);
        let child = store.add(at(7), after(&[(parent, rule)]));
        assert_eq!(store.state(child), state, "{rule:?}");
        let doomed = store.doomed_ids(at(7));
        assert_eq!(doomed.is_empty(), state == JobState::Ready, "{rule:?}");
    }
}

pub fn an_unknown_parent_is_refused(kit: &Kit) {
    let store = kit.open();
    let gone = store.add(at(0), job("t"));
    store.cancel(at(1), gone);
    store.delete(&[gone]);
    let here = store.add(at(1), job("t"));
    let other = JobId::from_parts(here.order(), here.random() ^ 1);
    for parent in [gone, other, JobId::from_parts(3, 3)] {
        let asked = after(&[(here, Fail), (parent, Fail)]);
        let refusal = InsertRefusal::UnknownParent { parent, place: 1 };
        let outcome = store.insert_one(at(2), asked);
        assert_eq!(outcome, InsertOutcome::Refused(refusal));
    }
}

pub fn a_batch_may_wait_for_its_own(kit: &Kit) {
    let store = kit.open();
    let batch = vec![job("t"), behind(&[0]), behind(&[0]), behind(&[1, 2])];
    let made = store.insert(at(0), batch);
    let ids: Vec<_> = made.iter().map(created).collect();
    assert_eq!(end_next(&store, COMPLETED), ids[0]);
    let middle = store.claim(at(5), &["t"], 9);
    assert_eq!(middle.len(), 2, "both branches");
    for claimed in &middle {
        assert_eq!(store.state(ids[3]), JobState::Waiting);
        store.finish(at(6), claimed, COMPLETED);
    }
    assert_eq!(end_next(&store, COMPLETED), ids[3]);
}

pub fn a_place_that_is_not_earlier_is_refused(kit: &Kit) {
    let store = kit.open();
    let made = store.insert(at(0), vec![behind(&[0]), job("t"), behind(&[5])]);
    let refused = |earlier| InsertOutcome::Refused(InsertRefusal::NotEarlier { earlier, place: 0 });
    assert_eq!((&made[0], &made[2]), (&refused(0), &refused(5)));
}

pub fn a_batch_that_belongs_together_is_taken_whole_or_not(kit: &Kit) {
    let store = kit.open_small(2);
    store.add(at(0), job("t"));
    let made = store.insert(at(0), vec![job("t"), behind(&[0])]);
    let full = |made: &InsertOutcome| {
        matches!(
            made,
            InsertOutcome::Refused(InsertRefusal::QueueFull { .. })
        )
    };
    assert!(made.iter().all(full), "{made:?}");
    assert_eq!(store.all_ids().len(), 1);
    end_next(&store, COMPLETED);
    let made = store.insert(at(0), vec![job("t"), behind(&[0])]);
    assert!(!made.iter().any(full), "{made:?}");
}

pub fn who_waits_for_a_refused_job_is_refused(kit: &Kit) {
    let store = kit.open();
    let nobody = after(&[(JobId::from_parts(3, 3), Fail)]);
    let made = store.insert(at(0), vec![nobody, behind(&[0]), job("t")]);
    let refusal = InsertRefusal::ParentRefused { place: 0 };
    assert_eq!(made[1], InsertOutcome::Refused(refusal));
    created(&made[2]);
}

pub fn a_job_that_was_there_already_is_waited_for(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Keep);
    let there = store.add(at(0), keyed());
    let made = store.insert(at(1), vec![keyed(), behind(&[0])]);
    let child = created(&made[1]);
    assert_eq!(store.job(child).options.after[0].parent, Parent::Job(there));
    end_next(&store, COMPLETED);
    assert_eq!(store.state(child), JobState::Ready);
}

pub fn a_delay_counts_from_the_last_parents_end(kit: &Kit) {
    let store = kit.open();
    let parent = store.add(at(0), job("t"));
    let child = after(&[(parent, Fail)]);
    let child = child.with(|options| options.delay = Some(Duration::from_millis(30)));
    let child = store.add(at(0), child);
    let claimed = store.claim_one(at(100));
    store.finish(at(200), &claimed, COMPLETED);
    assert_eq!(store.state(child), JobState::Scheduled);
    assert_eq!(store.job(child).summary.due_at, at(230));
    let news = store.news(at(200));
    assert!(
        matches!(&news[..], [News::Unblocked { id, due_at, .. }] if *id == child && *due_at == at(230)),
        "{news:?}"
    );
    store.promote(at(230));
    assert_eq!(store.claim_one(at(230)).id, child);
}

pub fn run_at_is_kept_after_the_wait(kit: &Kit) {
    let store = kit.open();
    let parent = store.add(at(0), job("t"));
    let child = store.add(at(0), after(&[(parent, Fail)]).run_at(at(500)));
    end_next(&store, COMPLETED);
    assert_eq!(store.state(child), JobState::Scheduled);
    store.promote(at(500));
    assert_eq!(store.claim_one(at(500)).id, child);
}

pub fn a_failed_parent_fails_its_dependents_unrun(kit: &Kit) {
    let store = kit.open();
    let (parent, child) = pair(&store, Fail);
    let grandchild = store.add(at(0), after(&[(child, Fail)]));
    end_next(&store, EXHAUSTED);
    let doomed = store.doomed(at(7), 9);
    assert_eq!((doomed.len(), doomed[0].id), (1, child));
    assert_eq!(doomed[0].why, DoomedWhy::Dependency);
    store.end_doomed(at(7));
    for id in [child, grandchild] {
        let job = store.job(id);
        assert_eq!(job.summary.state, JobState::Failed);
        assert_eq!(job.summary.reason, Some(FinalReason::Dependency));
        assert_eq!((job.summary.attempt, job.attempts.len()), (0, 0));
    }
    let said = store
        .job(child)
        .summary
        .failure
        .map(|failure| failure.message);
    assert!(said.is_some_and(|said| said.contains(&parent.to_string())));
}

pub fn a_cancelled_or_expired_parent_counts_as_failed(kit: &Kit) {
    for why in [IdleEnd::Cancel, IdleEnd::Expire] {
        for (rule, state) in [
            (Fail, JobState::Failed),
            (Ignore, JobState::Ready),
            (Continue, JobState::Ready),
        ] {
            let store = kit.open();
            let (parent, child) = pair(&store, rule);
            store.end_one(at(1), parent, why);
            store.end_doomed(at(2));
            assert_eq!(store.state(child), state, "{why:?} {rule:?}");
        }
    }
}

pub fn ignore_counts_a_failure_as_done(kit: &Kit) {
    let store = kit.open();
    let other = store.add(at(0), job("u"));
    let parent = store.add(at(0), job("t"));
    let child = store.add(at(0), after(&[(parent, Ignore), (other, Ignore)]));
    end_next(&store, EXHAUSTED);
    assert_eq!(store.state(child), JobState::Waiting);
    store.cancel(at(7), other);
    assert_eq!(store.state(child), JobState::Ready);
}

pub fn continue_lets_go_at_once(kit: &Kit) {
    let store = kit.open();
    let other = store.add(at(0), job("u"));
    let parent = store.add(at(0), job("t"));
    let child = store.add(at(0), after(&[(parent, Continue), (other, Fail)]));
    end_next(&store, EXHAUSTED);
    assert_eq!(store.state(child), JobState::Ready);
    // What the others do is of no consequence any more.
    store.cancel(at(7), other);
    assert!(store.doomed(at(7), 9).is_empty());
    assert_eq!(end_next(&store, COMPLETED), child);
}

pub fn continue_waits_for_one_that_completes(kit: &Kit) {
    let store = kit.open();
    let other = store.add(at(0), job("u"));
    let parent = store.add(at(0), job("t"));
    let child = store.add(at(0), after(&[(parent, Continue), (other, Fail)]));
    end_next(&store, COMPLETED);
    assert_eq!(store.state(child), JobState::Waiting);
}

pub fn a_retry_of_the_parent_lets_nobody_go(kit: &Kit) {
    let store = kit.open();
    let (_, child) = pair(&store, Continue);
    let claimed = store.claim_one(at(1));
    store.retry(at(2), &claimed, FailureClass::Error, at(9));
    assert_eq!(store.state(child), JobState::Waiting);
    store.promote(at(9));
    store.finish(at(10), &store.claim_one(at(9)), Verdict::HandBack);
    assert_eq!(store.state(child), JobState::Waiting);
}

pub fn a_waiting_job_can_be_cancelled_and_expires(kit: &Kit) {
    let store = kit.open();
    let (parent, child) = pair(&store, Fail);
    let late = store.add(at(0), after(&[(parent, Fail)]).expires_at(at(20)));
    let cancelled = store.cancel(at(1), child);
    assert!(matches!(cancelled, EndIdleOutcome::Ended { .. }));
    let overdue: Vec<_> = store.overdue(at(21), 9).iter().map(|job| job.id).collect();
    assert_eq!(overdue, [late]);
    store.end_one(at(21), late, IdleEnd::Expire);
    let counts = store.queue("default").map(|queue| queue.counts.waiting);
    assert_eq!(counts, Some(0));
    end_next(&store, COMPLETED);
    assert_eq!(store.state(child), JobState::Cancelled);
    assert_eq!(store.state(late), JobState::Expired);
}

pub fn only_a_waiting_job_ends_for_its_dependency(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    let outcome = store.end_one(at(1), id, IdleEnd::Dependency);
    assert_eq!(outcome, EndIdleOutcome::Unknown);
    store.claim_one(at(1));
    let outcome = store.end_one(at(1), id, IdleEnd::Dependency);
    assert!(matches!(outcome, EndIdleOutcome::Running { .. }));
    assert!(!store.job(id).summary.cancelling);
}

pub fn a_revived_dependent_waits_for_nobody(kit: &Kit) {
    let store = kit.open();
    let (_, child) = pair(&store, Fail);
    end_next(&store, EXHAUSTED);
    store.end_doomed(at(7));
    store.revive(at(8), &[child]);
    assert_eq!(store.claim_one(at(9)).id, child);
}

pub fn a_revived_parent_changes_nothing_for_its_dependents(kit: &Kit) {
    let store = kit.open();
    let (parent, child) = pair(&store, Fail);
    end_next(&store, EXHAUSTED);
    store.end_doomed(at(7));
    store.revive(at(8), &[parent]);
    end_next(&store, COMPLETED);
    assert_eq!(store.state(child), JobState::Failed);
}

pub fn a_replaced_parent_is_cancelled_for_its_dependents(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let parent = store.add(at(0), keyed());
    let child = store.add(at(0), after(&[(parent, Ignore)]));
    store.add(at(1), keyed());
    assert_eq!(store.state(child), JobState::Ready);
}

pub fn a_job_that_replaces_its_own_parent_does_not_wait_for_ever(kit: &Kit) {
    let store = kit.open();
    let keyed =
        |job: offloop_job::NewJob| job.unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let parent = store.add(at(0), keyed(job("t")));
    let child = store.add(at(1), keyed(after(&[(parent, Ignore)])));
    assert_eq!(store.state(child), JobState::Ready);
}

pub fn many_dependents_are_told_in_pieces_and_each_once(kit: &Kit) {
    let store = kit.open();
    let parent = store.add(at(0), job("t"));
    let count = FAN_OUT_AT_ONCE * 3 + 1;
    let children = vec![after(&[(parent, Fail)]).queue("fan"); count];
    let made: Vec<_> = store.insert(at(0), children).iter().map(created).collect();
    end_next(&store, COMPLETED);
    let mut told = vec![];
    for _ in 0..count {
        let advanced = store.advance(at(7), 50);
        let ids = advanced.news.iter().filter_map(|news| match news {
            News::Unblocked { id, .. } => Some(*id),
            _ => None,
        });
        told.extend(ids);
        if !advanced.more {
            break;
        }
    }
    told.sort();
    assert_eq!(told, made);
    assert_eq!(store.claim_ids(at(8)).len(), count);
}

pub fn a_dependent_sees_what_its_parents_gave(kit: &Kit) {
    let store = kit.open();
    let one = store.add(at(0), job("t"));
    let claimed = store.claim_one(at(0));
    let result = Some("{\"rows\":3}".into());
    store.finish(at(1), &claimed, Verdict::Completed { result });
    let bad = store.add(at(0), job("t"));
    end_next(&store, EXHAUSTED);
    store.add(at(7), after(&[(bad, Ignore), (one, Fail)]));
    let inputs = store.claim_one(at(8)).inputs;
    let seen: Vec<_> = inputs
        .iter()
        .map(|input| (input.id, input.state, input.class, input.result.clone()))
        .collect();
    let (ok, failed) = (Some(JobState::Completed), Some(JobState::Failed));
    let want = [
        (bad, failed, Some(FailureClass::Error), None),
        (one, ok, None, Some("{\"rows\":3}".into())),
    ];
    assert_eq!(seen, want);
}

pub fn results_over_the_limit_are_named_only(kit: &Kit) {
    let store = kit.open();
    // Two fit and three do not, also where an engine keeps them in a form that is a third larger.
    let long = "7".repeat(INPUT_BYTES_MAX * 36 / 100);
    let mut parents = vec![];
    for _ in 0..3 {
        store.add(at(0), job("t"));
        let claimed = store.claim_one(at(0));
        let result = Some(long.clone().into());
        store.finish(at(1), &claimed, Verdict::Completed { result });
        parents.push((claimed.id, Fail));
    }
    store.add(at(2), after(&parents));
    let inputs = store.claim_one(at(3)).inputs;
    let omitted: Vec<_> = inputs.iter().map(|input| input.omitted).collect();
    assert_eq!(omitted, [false, false, true]);
    assert!(inputs[2].result.is_none() && inputs[2].id == parents[2].0);
}

pub fn the_end_of_a_member_that_never_ran_is_counted(kit: &Kit) {
    let store = kit.open();
    let bad = store.add(at(0), job("t"));
    let (group, _) = store.group_with(at(0), crate::groups::held(offloop_job::GroupRule::All), 0);
    let child = after(&[(bad, Fail)]).with(|options| options.group = Some(group));
    store.add(at(0), child);
    end_next(&store, EXHAUSTED);
    store.end_doomed(at(7));
    let group = store.group(group);
    assert_eq!(group.state, offloop_job::GroupState::Failed);
    assert!(
        group
            .message()
            .is_some_and(|said| said.contains("1 dependency"))
    );
}
