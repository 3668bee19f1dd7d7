//! What jobs leave for their next attempt.

use bytes::Bytes;
use offloop_job::limits::CHECKPOINT_BYTES_MAX;
use offloop_job::{FailureClass, JobId, Lease};
use offloop_store::{CheckpointOutcome, IdleEnd, PruneRule, Verdict};

use crate::store::{COMPLETED, EXHAUSTED};
use crate::{Kit, Store, at};

fn data(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// A running job of task `t` that left `text`.
fn started(store: &Store<'_>, text: &str) -> offloop_store::Claimed {
    let claimed = store.start(at(0));
    assert_eq!(claimed.checkpoint, None, "a new job has none");
    assert_eq!(
        store.checkpoint(at(1), &claimed, text),
        CheckpointOutcome::Kept
    );
    claimed
}

pub fn is_there_after_every_end_that_is_not_the_last(kit: &Kit) {
    let due = at(5);
    for verdict in [
        Verdict::Retry { due },
        Verdict::Snooze { due },
        Verdict::HandBack,
    ] {
        let store = kit.open();
        let first = started(&store, "{\"step\":1}");
        store.finish(at(2), &first, verdict.clone());
        store.promote(at(5));
        let second = store.claim_one(at(5));
        assert_eq!(second.checkpoint, Some(data("{\"step\":1}")), "{verdict:?}");
        assert_eq!(
            store.job(first.id).checkpoint,
            Some(data("{\"step\":1}")),
            "{verdict:?}"
        );
    }
}

pub fn the_newest_one_counts(kit: &Kit) {
    let store = kit.open();
    let first = started(&store, "1");
    let notes = ["2", "3"].map(|text| offloop_store::Checkpoint {
        id: first.id,
        lease: first.lease,
        data: data(text),
        advances: true,
    });
    let kept = [CheckpointOutcome::Kept; 2];
    assert_eq!(store.checkpoints(at(2), notes.to_vec()), kept, "in order");
    store.retry(at(3), &first, FailureClass::Error, at(3));
    store.promote(at(3));
    let second = store.claim_one(at(3));
    assert_eq!(second.checkpoint, Some(data("3")));
    store.checkpoint(at(4), &second, "4");
    store.finish(at(5), &second, Verdict::HandBack);
    assert_eq!(store.claim_one(at(6)).checkpoint, Some(data("4")));
}

/// A slow executor that was given up must not move the place of the one that took over.
pub fn a_stale_lease_moves_nothing(kit: &Kit) {
    let store = kit.open();
    let first = started(&store, "1");
    store.finish(at(2), &first, Verdict::HandBack);
    assert_eq!(
        store.checkpoint(at(3), &first, "x"),
        CheckpointOutcome::Stale,
        "idle"
    );
    let second = store.claim_one(at(4));
    assert_eq!(
        store.checkpoint(at(5), &first, "x"),
        CheckpointOutcome::Stale
    );
    let unknown = offloop_store::Checkpoint {
        id: JobId::from_parts(1, 1),
        lease: second.lease,
        data: Bytes::from_static(b"x"),
        advances: true,
    };
    let never = offloop_store::Checkpoint {
        id: second.id,
        lease: Lease(second.lease.0 + 1),
        ..unknown.clone()
    };
    let stale = [CheckpointOutcome::Stale; 2];
    assert_eq!(store.checkpoints(at(6), vec![unknown, never]), stale);
    assert_eq!(store.job(second.id).checkpoint, Some(data("1")));
}

pub fn a_completed_job_has_none(kit: &Kit) {
    let store = kit.open();
    let claimed = started(&store, "1");
    store.finish(at(2), &claimed, COMPLETED);
    assert_eq!(store.job(claimed.id).checkpoint, None);
}

pub fn the_next_life_goes_on_from_it(kit: &Kit) {
    let ends: [fn(&Store<'_>, &offloop_store::Claimed); 3] = [
        |store, claimed| {
            store.finish(at(2), claimed, EXHAUSTED);
        },
        |store, claimed| {
            store.finish(at(2), claimed, Verdict::Abort);
        },
        |store, claimed| {
            store.finish(at(2), claimed, Verdict::HandBack);
            store.end_one(at(3), claimed.id, IdleEnd::Expire);
        },
    ];
    for end in ends {
        let store = kit.open();
        let claimed = started(&store, "7");
        end(&store, &claimed);
        assert_eq!(store.job(claimed.id).checkpoint, Some(data("7")));
        store.revive(at(4), &[claimed.id]);
        assert_eq!(store.claim_one(at(5)).checkpoint, Some(data("7")));
    }
}

pub fn goes_with_its_job(kit: &Kit) {
    let store = kit.open();
    let claimed = started(&store, "1");
    store.finish(at(2), &claimed, EXHAUSTED);
    store.delete(&[claimed.id]);
    assert_eq!(store.find(claimed.id), None);
    let pruned = started(&store, "1");
    store.finish(at(2), &pruned, EXHAUSTED);
    let everything = PruneRule {
        now: at(10),
        completed_for: std::time::Duration::ZERO,
        others_for: std::time::Duration::ZERO,
        rows_max: 0,
        rows_per_call: 100,
    };
    assert_eq!(store.prune(everything), 1);
    let other = store.start(at(20));
    assert_eq!(other.checkpoint, None);
}

pub fn orphans_bring_theirs(kit: &Kit) {
    let store = kit.open();
    started(&store, "1");
    assert_eq!(store.orphans("n2", 10)[0].checkpoint, Some(data("1")));
}

/// Ends the attempt as a crash; the next one, with the streak that it begins with.
fn crash(store: &Store<'_>, claimed: &offloop_store::Claimed) -> (offloop_store::Claimed, u16) {
    store.retry(at(3), claimed, FailureClass::Lost, at(3));
    store.promote(at(3));
    let next = store.claim_one(at(3));
    let streak = next.history.crash_streak;
    (next, streak)
}

/// A job that gets on between two kills of its server is no poison, however often it is killed.
pub fn one_that_advances_begins_the_crash_streak_anew(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    let (second, streak) = crash(&store, &first);
    assert_eq!(streak, 1);
    let (third, streak) = crash(&store, &second);
    assert_eq!(streak, 2);
    store.checkpoint(at(2), &third, "1");
    let orphan = store.orphans("n2", 10).remove(0);
    assert_eq!(orphan.history.crash_streak, 0, "for whoever rescues it");
    let (fourth, streak) = crash(&store, &third);
    assert_eq!(streak, 1, "its own crash counts");
    assert_eq!(crash(&store, &fourth).1, 2);
}

/// A place that is written again and again is no progress: the job that crashes there is poison.
pub fn one_that_does_not_advance_leaves_the_crash_streak(kit: &Kit) {
    let store = kit.open();
    let first = started(&store, "1");
    let (second, streak) = crash(&store, &first);
    assert_eq!(streak, 1);
    store.checkpoint(at(2), &second, "1");
    let (third, streak) = crash(&store, &second);
    assert_eq!(streak, 2);
    store.checkpoint(at(2), &third, "1");
    assert_eq!(store.orphans("n2", 10)[0].history.crash_streak, 2);
}

pub fn the_longest_one_comes_back_whole(kit: &Kit) {
    let store = kit.open();
    let longest: String = std::iter::repeat_n('7', CHECKPOINT_BYTES_MAX).collect();
    let claimed = started(&store, &longest);
    store.finish(at(2), &claimed, Verdict::HandBack);
    assert_eq!(store.claim_one(at(3)).checkpoint, Some(data(&longest)));
}
