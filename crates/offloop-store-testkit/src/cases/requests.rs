//! Requests for several jobs that come twice.

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{GroupRule, GroupState, NewGroup, OnConflict, UniqueScope};
use offloop_store::{Asked, InsertOutcome, InsertRefusal, SameAs};

use crate::draft::request;
use crate::groups::{behind, held, rule};
use crate::store::created;
use crate::{Draft, Kit, at, job};

fn asked_by(key: &str, body: u8, group: NewGroup) -> NewGroup {
    NewGroup {
        request: Some(request(key, body)),
        ..group
    }
}

pub fn a_group_that_is_asked_for_again_is_not_made_again(kit: &Kit) {
    let store = kit.open();
    let ask = |now, key, body| {
        let group = asked_by(key, body, rule(GroupRule::All));
        store.group_of(at(now), group, vec![job("t"), job("t")])
    };
    let first = ask(0, "a", 1);
    assert_eq!((first.asked, first.members.len()), (Asked::First, 2));
    let again = ask(1, "a", 1);
    assert_eq!((again.id, again.asked), (first.id, Asked::Again));
    assert_eq!((again.state, again.members.len()), (GroupState::Open, 0));
    let other = ask(2, "a", 2);
    assert_eq!((other.id, other.asked), (first.id, Asked::Otherwise));
    assert_eq!(store.all_ids().len(), 2, "nothing was done twice");
    // Keys of jobs and of batches are their own.
    store.add(at(3), job("t").idempotency("a"));
    let batch = store.insert_as(at(3), request("a", 1), vec![job("t")]);
    assert!(matches!(batch[0], InsertOutcome::Created { .. }));
    store.cancel_group(at(4), first.id);
    assert_eq!(ask(5, "a", 1).state, GroupState::Cancelled, "as it is now");
    assert_ne!(ask(6, "b", 1).id, first.id);
}

pub fn a_group_that_was_not_made_leaves_its_key_free(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Reject);
    let holder = store.add(at(0), keyed());
    let ask = |now, jobs| store.group_of(at(now), asked_by("a", 1, rule(GroupRule::All)), jobs);
    let none = ask(1, vec![keyed()]);
    assert_eq!(
        (none.state, none.asked),
        (GroupState::Cancelled, Asked::First)
    );
    store.cancel(at(2), holder);
    let made = ask(3, vec![keyed()]);
    assert_eq!((made.state, made.asked), (GroupState::Open, Asked::First));
    // One without members is made too.
    let empty = store.group_of(at(4), asked_by("b", 1, held(GroupRule::All)), vec![]);
    let again = store.group_of(at(5), asked_by("b", 1, held(GroupRule::All)), vec![]);
    assert_eq!((again.id, again.asked), (empty.id, Asked::Again));
}

pub fn the_key_of_a_group_is_forgotten_after_its_time(kit: &Kit) {
    let store = kit.open();
    let ask = |now| store.group_of(now, asked_by("a", 1, held(GroupRule::All)), vec![]);
    let first = ask(at(0));
    let last = at(0)
        .plus(IDEMPOTENCY_KEEP)
        .minus(std::time::Duration::from_millis(1));
    assert_eq!((ask(last).id, ask(last).asked), (first.id, Asked::Again));
    let over = at(0).plus(IDEMPOTENCY_KEEP);
    store.prune_all(over);
    let anew = ask(over);
    assert_eq!(anew.asked, Asked::First);
    assert_ne!(anew.id, first.id);
}

pub fn a_batch_that_is_sent_again_is_answered_and_not_done(kit: &Kit) {
    let store = kit.open_small(2);
    let send = |now| store.insert_as(at(now), request("a", 1), vec![job("t"), behind(&[0])]);
    let made: Vec<_> = send(0).iter().map(created).collect();
    let same = SameAs::IdempotencyKey;
    let want: Vec<_> = made
        .iter()
        .map(|id| InsertOutcome::Existing { id: *id, same })
        .collect();
    assert_eq!(send(1), want, "also where there is no room for it now");
    assert_eq!(store.all_ids().len(), 2);
    store.cancel(at(2), made[0]);
    assert_eq!(send(3), want, "finished ones too");
}

pub fn the_key_of_a_batch_belongs_to_its_whole_request(kit: &Kit) {
    let store = kit.open();
    let first = store.insert_as(at(0), request("a", 1), vec![job("t"), job("t")]);
    let holder = created(&first[0]);
    // The first job is the same in both: the key is of all of it.
    let other = store.insert_as(at(1), request("a", 2), vec![job("t"), job("t"), job("t")]);
    let refusal = InsertRefusal::IdempotencyMismatch { holder };
    assert_eq!(other, vec![InsertOutcome::Refused(refusal); 3]);
    assert_eq!(store.all_ids().len(), 2);
    let later = at(0).plus(IDEMPOTENCY_KEEP);
    let anew = store.insert_as(later, request("a", 2), vec![job("t")]);
    assert!(
        matches!(anew[0], InsertOutcome::Created { .. }),
        "it is forgotten after its time"
    );
    let again = store.insert_as(later, request("a", 2), vec![job("t"), job("t")]);
    let id = created(&anew[0]);
    let same = SameAs::IdempotencyKey;
    assert_eq!(again[0], InsertOutcome::Existing { id, same });
    assert!(
        matches!(again[1], InsertOutcome::Created { .. }),
        "not one of the request before"
    );
}

pub fn what_a_batch_left_out_is_tried_again(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Reject);
    let holder = store.add(at(0), keyed());
    let send = |now| store.insert_as(at(now), request("a", 1), vec![keyed(), job("t")]);
    let none = store.insert_as(at(1), request("b", 1), vec![keyed()]);
    assert!(matches!(none[0], InsertOutcome::Refused(_)));
    let first = send(1);
    assert!(matches!(first[0], InsertOutcome::Refused(_)));
    let made = created(&first[1]);
    store.cancel(at(2), holder);
    let again = send(3);
    let late = created(&again[0]);
    let same = SameAs::IdempotencyKey;
    let existing = |id| InsertOutcome::Existing { id, same };
    assert_eq!(again[1], existing(made));
    assert_eq!(send(4), [existing(late), existing(made)]);
    // A request of which nothing came to be leaves its key free.
    let other = store.insert_as(at(5), request("b", 2), vec![job("t")]);
    assert!(matches!(other[0], InsertOutcome::Created { .. }));
}
