//! What the next process finds of groups and dependencies. Passed by engines that leave nothing.

use offloop_job::{GroupRule, GroupState, JobState, OnConflict, OnFailure, ThenOn, UniqueScope};
use offloop_store::{Asked, FAN_OUT_AT_ONCE, GroupChange, InsertOutcome, Settlement};

use crate::cases::survives::across;
use crate::groups::{after, behind, held, member_of, rule, then};
use crate::store::{COMPLETED, EXHAUSTED, created, settlement};
use crate::{Draft, Kit, Store, at, job};

pub fn an_open_group_and_its_counts(kit: &Kit) {
    across(
        kit,
        |store| {
            let (id, _) = store.group_with(at(0), rule(GroupRule::AllSettled), 3);
            let claimed = store.claim(at(1), &["t"], 2);
            store.finish(at(2), &claimed[0], COMPLETED);
            let end =
                crate::store::failed(&claimed[1], offloop_job::FailureClass::Error, EXHAUSTED);
            store.settle_one(at(2), end);
            (id, store.group(id), store.members(id, 2))
        },
        |store, (id, group, members)| {
            assert_eq!(store.group(id), group);
            assert_eq!(store.members(id, 2), members);
            assert_eq!(store.group_ids(None, 5), [id]);
            store.add(at(3), member_of(id));
            for claimed in store.claim(at(3), &["t"], 9) {
                store.finish(at(4), &claimed, COMPLETED);
            }
            let group = store.group(id);
            assert_eq!(
                (group.state, group.tally.done()),
                (GroupState::Completed, 4)
            );
        },
    );
}

pub fn a_decision_and_its_follow_up(kit: &Kit) {
    across(
        kit,
        |store| {
            let (id, _) = store.group_with(at(0), then(GroupRule::Race, ThenOn::Any), 3);
            let claimed = store.claim(at(1), &["t"], 1).remove(0);
            let end = settlement(&claimed, COMPLETED);
            store.settle_one(at(2), end.clone());
            (id, end, store.group(id))
        },
        |store, (id, end, group): (_, Settlement, _)| {
            assert_eq!(store.group(id), group);
            store.settle_one(at(3), end);
            assert_eq!(store.claim(at(3), &["then"], 9).len(), 1, "one follow-up");
            assert_eq!(
                store.seal(at(3), id),
                GroupChange::Decided(GroupState::Completed)
            );
        },
    );
}

pub fn the_follow_up_of_an_open_group(kit: &Kit) {
    across(
        kit,
        |store| {
            store
                .group_with(at(0), then(GroupRule::All, ThenOn::Completed), 1)
                .0
        },
        |store, id| {
            let claimed = store.claim_one(at(1));
            store.finish(at(2), &claimed, COMPLETED);
            let made = store.claim(at(3), &["then"], 9);
            assert_eq!((made.len(), &made[0].payload[..]), (1, &b"[1]"[..]));
            assert_eq!(made[0].options.follows, Some(id));
            assert_eq!(made[0].inputs.len(), 1);
        },
    );
}

pub fn the_doomed_members_of_a_decided_group(kit: &Kit) {
    across(
        kit,
        |store| {
            let (id, members) = store.group_with(at(0), rule(GroupRule::Race), 40);
            let claimed = store.claim(at(1), &["t"], 3);
            store.finish(at(2), &claimed[0], COMPLETED);
            // One piece of the work was done, and one was only named.
            store.cancel(at(3), members[5]);
            store.cancel(at(3), members[1]);
            store.doomed(at(3), 7);
            (id, members)
        },
        |store, (id, members)| {
            // The running ones belong to a dead node.
            let orphans = store.orphans("n2", 9);
            let marked: Vec<_> = orphans.iter().map(|orphan| orphan.cancelling).collect();
            assert_eq!(marked, [true, false]);
            for orphan in &orphans {
                let due = offloop_store::Verdict::Retry { due: at(4) };
                store.settle_one(
                    at(4),
                    crate::store::failed(orphan, offloop_job::FailureClass::Lost, due),
                );
            }
            store.promote(at(5));
            assert!(store.claim_ids(at(5)).is_empty(), "nobody runs again");
            store.end_doomed(at(5));
            let group = store.group(id);
            assert_eq!((group.tally.cancelled, group.tally.left()), (39, 0));
            assert_eq!(store.members(id, 9).len(), members.len());
        },
    );
}

pub fn a_deadline(kit: &Kit) {
    across(
        kit,
        |store| {
            let group = offloop_job::NewGroup {
                deadline: Some(at(50)),
                ..held(GroupRule::All)
            };
            store.group_of(at(0), group, vec![]).id
        },
        |store, id| {
            assert_eq!(store.advance(at(1), 9).next_deadline, Some(at(50)));
            store.advance(at(50), 9);
            assert_eq!(store.group_state(id), GroupState::Failed);
        },
    );
}

pub fn who_waits_for_whom(kit: &Kit) {
    across(
        kit,
        |store| {
            let made = store.insert(at(0), vec![job("t"), job("u"), behind(&[0, 1])]);
            let claimed = store.claim(at(1), &["u"], 1).remove(0);
            store.finish(at(2), &claimed, COMPLETED);
            made.iter().map(created).collect::<Vec<_>>()
        },
        |store, ids| {
            assert_eq!(store.state(ids[2]), JobState::Waiting);
            let counts = store.queue("default").map(|queue| queue.counts.waiting);
            assert_eq!(counts, Some(1));
            let claimed = store.claim_one(at(3));
            store.finish(at(4), &claimed, COMPLETED);
            assert_eq!(store.claim_one(at(5)).id, ids[2]);
        },
    );
}

pub fn a_job_that_can_never_run(kit: &Kit) {
    across(
        kit,
        |store| {
            let parent = store.add(at(0), job("t"));
            let child = store.add(at(0), after(&[(parent, OnFailure::Fail)]));
            store.cancel(at(1), parent);
            (parent, child)
        },
        |store, (parent, child)| {
            assert!(store.engine().stirred());
            assert_eq!(store.doomed_ids(at(2)), [child]);
            store.end_doomed(at(2));
            let failure = store.job(child).summary.failure;
            assert!(failure.is_some_and(|said| said.message.contains(&parent.to_string())));
        },
    );
}

pub fn dependents_that_were_not_told_yet(kit: &Kit) {
    let count = FAN_OUT_AT_ONCE * 2;
    across(
        kit,
        |store| {
            let parent = store.add(at(0), job("t"));
            let child = || after(&[(parent, OnFailure::Fail)]);
            let made = store.insert(at(0), (0..count).map(|_| child()).collect());
            assert!(
                made.iter()
                    .all(|made| matches!(made, InsertOutcome::Created { .. }))
            );
            let claimed = store.claim_one(at(1));
            store.finish(at(2), &claimed, COMPLETED);
            store.advance(at(2), 10);
            store.delete(&[parent]);
        },
        |store, ()| {
            store.news(at(3));
            assert_eq!(store.claim_ids(at(4)).len(), count, "each once");
        },
    );
}

pub fn a_request_for_a_group(kit: &Kit) {
    let asked = |body| offloop_job::NewGroup {
        request: Some(crate::draft::request("a", body)),
        ..held(GroupRule::All)
    };
    across(
        kit,
        |store| store.group_of(at(0), asked(1), vec![job("t")]).id,
        |store, id| {
            let again = store.group_of(at(1), asked(1), vec![job("t")]);
            assert_eq!((again.id, again.asked), (id, Asked::Again));
            let other = store.group_of(at(1), asked(2), vec![job("t")]);
            assert_eq!((other.id, other.asked), (id, Asked::Otherwise));
            assert_eq!(store.all_ids().len(), 1);
        },
    );
}

pub fn a_request_for_a_batch(kit: &Kit) {
    let send = |store: &Store<'_>, now, body| {
        let request = crate::draft::request("a", body);
        store.insert_as(at(now), request, vec![job("t"), behind(&[0])])
    };
    across(
        kit,
        |store| send(store, 0, 1),
        |store, made| {
            let ids = made.iter().map(created).collect::<Vec<_>>();
            let again = send(store, 1, 1);
            let found: Vec<_> = again.iter().filter_map(InsertOutcome::job).collect();
            assert_eq!(found, ids);
            assert!(
                again
                    .iter()
                    .all(|one| matches!(one, InsertOutcome::Existing { .. }))
            );
            let other = send(store, 1, 2);
            assert!(
                other
                    .iter()
                    .all(|one| matches!(one, InsertOutcome::Refused(_)))
            );
            assert_eq!(store.all_ids().len(), 2);
        },
    );
}

pub fn ends_that_nobody_has_heard_of(kit: &Kit) {
    let asked = || {
        let (scope, rule) = (UniqueScope::UntilFinished, OnConflict::Replace);
        job("t").unique("k", scope, rule)
    };
    across(
        kit,
        |store| {
            let ids = [0, 1, 2].map(|now| store.add(at(now), asked()));
            store.hear(at(3), ids[0]);
            ids
        },
        |store, ids| {
            assert_eq!(store.unheard(), [ids[1]]);
            assert!(store.engine().stirred());
            store.hear(at(4), ids[1]);
            assert_eq!(store.claim(at(5), &["next"], 9).len(), 2);
            assert!(store.unheard().is_empty());
        },
    );
}
