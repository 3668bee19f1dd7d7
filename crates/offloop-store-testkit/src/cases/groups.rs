//! Jobs that settle together.

use offloop_job::{
    FailureClass, GroupId, GroupReason, GroupRule, GroupState, JobId, JobState, NewGroup,
    OnConflict, ThenOn, UniqueScope,
};
use offloop_store::{
    DoomedWhy, EndIdleOutcome, GroupChange, IdleEnd, InsertOutcome, InsertRefusal, News,
    ReviveOutcome, Verdict,
};

use crate::groups::{held, member_of, rule, then};
use crate::store::{COMPLETED, EXHAUSTED, created, failed};
use crate::{Draft, Kit, Store, at, job};

const RULES: [GroupRule; 4] = GroupRule::ALL;

/// Ends the next member by this verdict.
fn end_next(store: &Store<'_>, verdict: Verdict) -> JobId {
    let claimed = store.claim(at(5), &["t"], 1).remove(0);
    let end = match verdict {
        Verdict::GiveUp { .. } => failed(&claimed, FailureClass::Error, verdict),
        verdict => crate::store::settlement(&claimed, verdict),
    };
    store.settle_one(at(6), end);
    claimed.id
}

fn decisions(store: &Store<'_>) -> Vec<(GroupId, GroupState)> {
    let news = store.news(at(6)).into_iter();
    let decided = news.filter_map(|news| match news {
        News::Decided { group, state } => Some((group, state)),
        _ => None,
    });
    decided.collect()
}

pub fn all_completes_with_its_last_member(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::All), 3);
    for done in 0..3 {
        assert_eq!(store.group_state(id), GroupState::Open, "{done}");
        end_next(&store, COMPLETED);
        assert_eq!(store.group(id).tally.done(), done + 1);
    }
    let group = store.group(id);
    assert_eq!((group.state, group.reason), (GroupState::Completed, None));
    assert_eq!(group.decided_at, Some(at(6)));
    let states = members.iter().map(|id| (*id, Some(JobState::Completed)));
    assert_eq!(store.members(id, 2), states.collect::<Vec<_>>());
}

pub fn all_fails_with_its_first_failure_and_dooms_the_rest(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::All), 4);
    end_next(&store, COMPLETED);
    let bad = end_next(&store, EXHAUSTED);
    let group = store.group(id);
    assert_eq!(group.state, GroupState::Failed);
    assert_eq!(group.reason, Some(GroupReason::Member));
    let said = group.message().unwrap_or_default();
    assert!(said.contains(&bad.to_string()), "{said}");
    assert_eq!(store.doomed_ids(at(7)), members[2..]);
    store.end_doomed(at(7));
    let states = store.members(id, 100).into_iter().map(|member| member.1);
    let want = [
        JobState::Completed,
        JobState::Failed,
        JobState::Cancelled,
        JobState::Cancelled,
    ];
    assert!(states.eq(want.map(Some)));
    assert_eq!(store.group(id).tally.done(), 4, "progress comes to its end");
}

pub fn all_settled_waits_for_every_end_however_it_came(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::AllSettled), 4);
    store.end_one(at(1), members[0], IdleEnd::Expire);
    store.cancel(at(1), members[1]);
    end_next(&store, EXHAUSTED);
    assert_eq!(store.group_state(id), GroupState::Open);
    end_next(&store, COMPLETED);
    let group = store.group(id);
    assert_eq!((group.state, group.reason), (GroupState::Completed, None));
    let tally = group.tally;
    assert_eq!(
        (
            tally.completed,
            tally.failed,
            tally.cancelled,
            tally.expired
        ),
        (1, 1, 1, 1)
    );
}

pub fn race_is_decided_by_the_first_end_good_or_bad(kit: &Kit) {
    for (verdict, state) in [
        (COMPLETED, GroupState::Completed),
        (EXHAUSTED, GroupState::Failed),
    ] {
        let store = kit.open();
        let (id, members) = store.group_with(at(0), rule(GroupRule::Race), 3);
        end_next(&store, verdict);
        assert_eq!(store.group_state(id), state);
        assert_eq!(store.doomed_ids(at(7)), members[1..]);
    }
}

pub fn any_is_decided_by_the_first_success(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::Any), 3);
    end_next(&store, EXHAUSTED);
    assert_eq!(store.group_state(id), GroupState::Open);
    end_next(&store, COMPLETED);
    assert_eq!(store.group_state(id), GroupState::Completed);
    assert_eq!(store.doomed_ids(at(7)), members[2..]);
}

pub fn any_fails_with_an_aggregate_when_nobody_succeeds(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::Any), 3);
    end_next(&store, EXHAUSTED);
    end_next(&store, EXHAUSTED);
    store.cancel(at(6), members[2]);
    let group = store.group(id);
    assert_eq!(group.state, GroupState::Failed);
    let said = group.message().unwrap_or_default();
    assert!(
        said.starts_with("none of 3 members completed: 1 cancelled, 2 error"),
        "{said}"
    );
    assert!(said.contains("it was error"), "{said}");
}

pub fn a_group_is_decided_once(kit: &Kit) {
    for rule_of in RULES {
        let store = kit.open();
        let (id, _) = store.group_with(at(0), rule(rule_of), 3);
        let claimed = store.claim(at(1), &["t"], 3);
        for claimed in &claimed {
            store.finish(at(2), claimed, EXHAUSTED);
        }
        assert_eq!(decisions(&store).len(), 1, "{rule_of:?}");
        let state = store.group_state(id);
        assert_eq!(store.cancel_group(at(3), id), GroupChange::Decided(state));
        assert_eq!(store.seal(at(3), id), GroupChange::Decided(state));
        assert!(decisions(&store).is_empty(), "{rule_of:?}");
        assert_eq!(store.group(id).tally.done(), 3);
    }
}

pub fn a_cancelled_group_dooms_who_has_not_ended(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::AllSettled), 3);
    end_next(&store, COMPLETED);
    let cancelled = GroupChange::Done(GroupState::Cancelled);
    assert_eq!(store.cancel_group(at(1), id), cancelled);
    assert_eq!(store.group(id).reason, Some(GroupReason::Asked));
    assert_eq!(store.doomed_ids(at(2)), members[1..]);
    assert_eq!(
        store.cancel_group(at(1), GroupId::from_parts(1, 1)),
        GroupChange::Unknown
    );
}

pub fn the_deadline_fails_an_open_group(kit: &Kit) {
    let store = kit.open();
    let group = NewGroup {
        deadline: Some(at(50)),
        ..rule(GroupRule::AllSettled)
    };
    let (id, members) = store.group_with(at(0), group.clone(), 2);
    let (done, _) = store.group_with(at(0), group, 1);
    store.cancel(at(1), store.members(done, 9)[0].0);
    assert_eq!(store.advance(at(49), 9).next_deadline, Some(at(50)));
    assert_eq!(store.group_state(id), GroupState::Open);
    assert_eq!(store.advance(at(50), 9).next_deadline, None);
    let group = store.group(id);
    assert_eq!(group.state, GroupState::Failed);
    assert_eq!(group.reason, Some(GroupReason::Deadline));
    assert_eq!(store.doomed_ids(at(50)), members);
    assert_eq!(store.group_state(done), GroupState::Completed);
}

pub fn members_of_a_decided_group_are_not_handed_out(kit: &Kit) {
    let store = kit.open();
    store.group_with(at(0), rule(GroupRule::Race), 5);
    let other = store.add(at(0), job("t"));
    end_next(&store, COMPLETED);
    // They do not use up the limit either.
    assert_eq!(store.claim(at(7), &["t"], 1)[0].id, other);
    assert!(store.claim_ids(at(7)).is_empty());
    store.end_doomed(at(8));
    assert!(store.doomed(at(8), 9).is_empty());
}

pub fn a_running_member_is_named_until_its_cancel_is_marked(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::Race), 2);
    let claimed = store.claim(at(1), &["t"], 2);
    store.finish(at(2), &claimed[0], COMPLETED);
    assert_eq!(store.doomed_ids(at(3)), members[1..]);
    assert_eq!(
        store.doomed_ids(at(3)),
        members[1..],
        "nobody did anything yet"
    );
    assert_eq!(store.end_doomed(at(3)), members[1..]);
    assert!(store.doomed(at(4), 9).is_empty() && !store.engine().stirred());
    // It does not run again, whatever its end was.
    let state = store.finish(at(4), &claimed[1], Verdict::HandBack);
    assert_eq!(state, JobState::Cancelled);
    assert_eq!(store.group(id).tally.done(), 2);
}

pub fn a_member_that_retries_after_the_decision_is_doomed(kit: &Kit) {
    let store = kit.open();
    let (_, members) = store.group_with(at(0), rule(GroupRule::Race), 2);
    let claimed = store.claim(at(1), &["t"], 2);
    store.finish(at(2), &claimed[0], COMPLETED);
    store.retry(at(2), &claimed[1], FailureClass::Error, at(9));
    store.promote(at(9));
    assert!(store.claim_ids(at(9)).is_empty());
    assert_eq!(store.doomed_ids(at(9)), members[1..]);
    assert!(store.end_doomed(at(9)).is_empty());
    assert_eq!(store.state(members[1]), JobState::Cancelled);
}

pub fn the_doomed_are_named_in_pieces(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::Race), 30);
    end_next(&store, COMPLETED);
    let first = store.doomed(at(7), 4);
    assert_eq!(first.len(), 4);
    assert!(
        first
            .iter()
            .all(|doomed| doomed.why == DoomedWhy::Group(id))
    );
    assert_eq!(first[0].task.as_str(), "t");
    assert!(store.engine().stirred(), "there is more");
    store.end_doomed(at(7));
    let ended = store.members(id, 7).into_iter();
    assert_eq!(
        ended
            .filter(|member| member.1 == Some(JobState::Cancelled))
            .count(),
        29
    );
    assert_eq!(store.members(id, 7).len(), members.len());
}

pub fn members_join_while_it_is_open(kit: &Kit) {
    let store = kit.open();
    let (id, mut members) = store.group_with(at(0), rule(GroupRule::AllSettled), 1);
    members.push(store.add(at(1), member_of(id)));
    assert_eq!(store.group(id).tally.total, 2);
    assert_eq!(store.job(members[1]).options.group, Some(id));
    end_next(&store, COMPLETED);
    assert_eq!(store.group_state(id), GroupState::Open);
    end_next(&store, COMPLETED);
    let state = GroupState::Completed;
    assert_eq!(store.group_state(id), state);
    let refused = InsertRefusal::GroupDecided { group: id, state };
    assert_eq!(
        store.insert_one(at(2), member_of(id)),
        InsertOutcome::Refused(refused)
    );
    let group = GroupId::from_parts(77, 77);
    let unknown = InsertRefusal::UnknownGroup { group };
    assert_eq!(
        store.insert_one(at(2), member_of(group)),
        InsertOutcome::Refused(unknown)
    );
    assert_eq!(store.group(id).tally.total, 2);
}

pub fn a_held_group_stays_open_until_it_is_sealed(kit: &Kit) {
    for (rule_of, sealed) in [
        (GroupRule::All, GroupState::Completed),
        (GroupRule::AllSettled, GroupState::Completed),
    ] {
        let store = kit.open();
        let (id, _) = store.group_with(at(0), held(rule_of), 1);
        end_next(&store, COMPLETED);
        let group = store.group(id);
        assert!(group.hold && group.state == GroupState::Open, "{rule_of:?}");
        store.add(at(1), member_of(id));
        let still = GroupChange::Done(GroupState::Open);
        assert_eq!(store.seal(at(2), id), still, "one has not ended");
        end_next(&store, COMPLETED);
        assert_eq!(store.group_state(id), sealed);
    }
    let store = kit.open();
    let (id, _) = store.group_with(at(0), held(GroupRule::Any), 1);
    end_next(&store, EXHAUSTED);
    assert_eq!(
        store.group_state(id),
        GroupState::Open,
        "another may succeed"
    );
    let failed = GroupChange::Done(GroupState::Failed);
    assert_eq!(store.seal(at(2), id), failed);
}

pub fn a_group_without_members_is_decided_by_its_seal(kit: &Kit) {
    let rows = [
        (GroupRule::All, GroupState::Completed, None),
        (GroupRule::AllSettled, GroupState::Completed, None),
        (
            GroupRule::Race,
            GroupState::Failed,
            Some(GroupReason::Empty),
        ),
        (GroupRule::Any, GroupState::Failed, Some(GroupReason::Empty)),
    ];
    for (rule_of, state, reason) in rows {
        let store = kit.open();
        let made = store.group_of(at(0), held(rule_of), vec![]);
        assert_eq!(made.state, GroupState::Open);
        assert_eq!(store.seal(at(1), made.id), GroupChange::Done(state));
        let made = store.group_of(at(0), rule(rule_of), vec![]);
        assert_eq!(made.state, state, "{rule_of:?}");
        assert_eq!(store.group(made.id).reason, reason);
    }
}

pub fn the_follow_up_comes_with_the_decision(kit: &Kit) {
    let rows = [
        (ThenOn::Any, COMPLETED, true),
        (ThenOn::Any, EXHAUSTED, true),
        (ThenOn::Completed, COMPLETED, true),
        (ThenOn::Completed, EXHAUSTED, false),
        (ThenOn::Failed, COMPLETED, false),
        (ThenOn::Failed, EXHAUSTED, true),
    ];
    for (on, verdict, comes) in rows {
        let store = kit.open();
        let (id, _) = store.group_with(at(0), then(GroupRule::All, on), 1);
        assert!(store.claim(at(1), &["then"], 9).is_empty(), "not before");
        end_next(&store, verdict);
        let group = store.group(id);
        let made = store.claim(at(7), &["then"], 9);
        assert_eq!(made.len(), usize::from(comes), "{on:?}");
        assert_eq!(group.then_job, made.first().map(|made| made.id));
        let payload = made.first().map(|made| made.payload.clone());
        assert_eq!(payload, comes.then(|| "[1]".into()));
        let told = store.news(at(7)).into_iter();
        let told = told.filter(|news| matches!(news, News::Created { .. }));
        assert_eq!(told.count(), usize::from(comes));
    }
}

pub fn the_follow_up_comes_with_a_cancel_and_a_deadline_too(kit: &Kit) {
    let store = kit.open();
    let (id, _) = store.group_with(at(0), then(GroupRule::All, ThenOn::Failed), 1);
    store.cancel_group(at(1), id);
    let late = NewGroup {
        deadline: Some(at(5)),
        ..then(GroupRule::All, ThenOn::Failed)
    };
    store.group_with(at(0), late, 1);
    store.advance(at(5), 9);
    assert_eq!(store.claim(at(6), &["then"], 9).len(), 2);
}

pub fn the_follow_up_finds_room_in_a_full_queue(kit: &Kit) {
    let store = kit.open_small(1);
    let mut group = then(GroupRule::Race, ThenOn::Any);
    group.then = group.then.map(|then| offloop_job::Then {
        job: then.job.queue("full"),
        ..then
    });
    store.group_with(at(0), group, 1);
    store.add(at(0), job("u").queue("full"));
    end_next(&store, COMPLETED);
    assert_eq!(store.claim(at(7), &["then"], 9).len(), 1);
}

pub fn the_follow_up_sees_the_members(kit: &Kit) {
    let store = kit.open();
    let (_, members) = store.group_with(at(0), then(GroupRule::AllSettled, ThenOn::Any), 2);
    let result = Some("42".into());
    end_next(&store, Verdict::Completed { result });
    end_next(&store, EXHAUSTED);
    let inputs = store.claim(at(7), &["then"], 1).remove(0).inputs;
    let seen: Vec<_> = inputs
        .iter()
        .map(|input| (input.id, input.state, input.class, input.result.clone()))
        .collect();
    let (ok, bad) = (Some(JobState::Completed), Some(JobState::Failed));
    let want = [
        (members[0], ok, None, Some("42".into())),
        (members[1], bad, Some(FailureClass::Error), None),
    ];
    assert_eq!(seen, want);
}

pub fn a_job_that_was_there_already_is_no_member(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Keep);
    let there = store.add(at(0), keyed());
    let made = store.group_of(at(1), rule(GroupRule::All), vec![keyed(), job("t")]);
    assert!(matches!(made.members[0], InsertOutcome::Existing { id, .. } if id == there));
    assert_eq!(store.group(made.id).tally.total, 1);
    assert_eq!(store.members(made.id, 9).len(), 1);
}

pub fn a_group_none_of_whose_members_came_to_be_is_not_made(kit: &Kit) {
    let store = kit.open_small(1);
    store.add(at(0), job("u"));
    let asked = then(GroupRule::All, ThenOn::Any);
    let made = store.group_of(at(1), asked.clone(), vec![job("t"), job("t")]);
    assert!(store.find_group(made.id).is_none() && store.group_ids(None, 9).is_empty());
    assert!(store.claim(at(2), &["then"], 9).is_empty());
    assert!(store.news(at(2)).is_empty());
    // One that is held waits for more.
    let asked = NewGroup {
        hold: true,
        ..asked
    };
    let made = store.group_of(at(1), asked, vec![job("t")]);
    assert_eq!(store.group_state(made.id), GroupState::Open);
}

pub fn a_member_of_an_open_group_is_not_revived(kit: &Kit) {
    let store = kit.open();
    let (group, _) = store.group_with(at(0), rule(GroupRule::AllSettled), 2);
    let bad = end_next(&store, EXHAUSTED);
    let counted = ReviveOutcome::Counted { group };
    assert_eq!(store.revive(at(7), &[bad]), [counted]);
    assert_eq!(store.state(bad), JobState::Failed);
}

pub fn a_revived_member_of_a_decided_group_leaves_it(kit: &Kit) {
    let store = kit.open();
    let (group, members) = store.group_with(at(0), rule(GroupRule::All), 2);
    let bad = end_next(&store, EXHAUSTED);
    store.end_doomed(at(7));
    let before = store.group(group);
    let outcome = store.revive(at(8), &[bad]).remove(0);
    assert!(matches!(outcome, ReviveOutcome::Revived { .. }));
    assert!(store.doomed(at(8), 9).is_empty(), "its new life is its own");
    assert_eq!(store.job(bad).options.group, None);
    assert_eq!(store.claim_one(at(9)).id, bad);
    assert_eq!(store.group(group), before);
    assert_eq!(store.state(members[1]), JobState::Cancelled);
}

pub fn a_deleted_member_is_still_counted(kit: &Kit) {
    let store = kit.open();
    let (id, members) = store.group_with(at(0), rule(GroupRule::All), 2);
    let done = end_next(&store, COMPLETED);
    store.delete(&[done]);
    let shown = [(members[0], None), (members[1], Some(JobState::Ready))];
    assert_eq!(store.members(id, 9), shown);
    end_next(&store, COMPLETED);
    assert_eq!(store.group_state(id), GroupState::Completed);
}

pub fn a_member_that_takes_the_key_of_another_is_doomed_with_its_group(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let made = store.group_of(at(0), rule(GroupRule::All), vec![keyed()]);
    let next = keyed().with(|options| options.group = Some(made.id));
    // The one that it replaces is cancelled, which fails the group.
    let next = created(&store.insert_one(at(1), next));
    assert_eq!(store.group_state(made.id), GroupState::Failed);
    assert_eq!(store.doomed_ids(at(2)), [next]);
    let ended = store.cancel(at(2), next);
    assert!(matches!(ended, EndIdleOutcome::Ended { .. }));
    assert_eq!(store.group(made.id).tally.left(), 0);
}

pub fn lists_show_every_group_once(kit: &Kit) {
    let store = kit.open();
    let make = |ms| store.group_of(at(ms), held(GroupRule::All), vec![]).id;
    let mut ids: Vec<_> = (0..7).map(make).collect();
    ids.reverse();
    store.cancel_group(at(9), ids[2]);
    assert_eq!(store.group_ids(None, 3), ids);
    assert_eq!(store.group_ids(Some(GroupState::Cancelled), 3), ids[2..3]);
    assert_eq!(store.group_ids(Some(GroupState::Open), 4).len(), 6);
    assert!(store.find_group(GroupId::from_parts(9, 9)).is_none());
}

pub fn decided_groups_are_pruned_by_their_age(kit: &Kit) {
    let store = kit.open();
    let (open, _) = store.group_with(at(0), rule(GroupRule::AllSettled), 1);
    let (done, _) = store.group_with(at(0), rule(GroupRule::Race), 600);
    let first = store.members(done, 1)[0].0;
    store.cancel(at(1), first);
    let mut forget = crate::cases::prune::keep(100);
    forget.others_for = std::time::Duration::from_millis(50);
    forget.rows_per_call = 100;
    store.prune(forget);
    assert!(store.find_group(done).is_some(), "members have not ended");
    store.end_doomed(at(2));
    store.prune(forget);
    assert!(store.find_group(done).is_none() && store.members(done, 9).is_empty());
    assert_eq!(store.group_state(open), GroupState::Open);
}

pub fn orders_about_groups_are_on_the_audit_log(kit: &Kit) {
    let store = kit.open();
    let (one, _) = store.group_with(at(0), held(GroupRule::All), 1);
    let (two, _) = store.group_with(at(0), rule(GroupRule::All), 1);
    let empty = store.group_of(at(0), held(GroupRule::All), vec![]).id;
    let quiet = store.group_of(at(0), held(GroupRule::All), vec![]).id;
    for _ in 0..2 {
        store.seal(at(1), one);
        store.seal(at(1), two); // nothing was promised
        store.seal(at(1), empty);
        store.cancel_group(at(2), two);
    }
    let order = offloop_store::GroupOrder {
        actor: None,
        ..crate::groups::order(at(3), quiet)
    };
    crate::store::wait(store.engine().cancel_group(order));
    let log = store.audit(None);
    let told: Vec<_> = log
        .iter()
        .rev()
        .map(|(_, entry)| {
            assert_eq!(
                (&*entry.actor, entry.before.as_deref()),
                ("test", Some("open"))
            );
            let what = (&*entry.action, entry.after.as_deref().unwrap_or_default());
            (entry.subject.to_string(), entry.at, what)
        })
        .collect();
    let named = |id: GroupId| format!("group:{id}");
    let want = [
        (named(one), at(1), ("group.seal", "open")),
        (named(empty), at(1), ("group.seal", "completed")),
        (named(two), at(2), ("group.cancel", "cancelled")),
    ];
    assert_eq!(told, want);
}
