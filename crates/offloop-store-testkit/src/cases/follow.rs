//! Jobs that come with the end of another.

use offloop_job::{FailureClass, JobState, NewJob, OnConflict, UniqueScope};
use offloop_store::{
    Claimed, DeleteOutcome, EndIdle, EndIdleOutcome, FollowOf, IdleEnd, InsertRefusal, News,
    Settled, Settlement, Verdict,
};

use crate::store::{COMPLETED, EXHAUSTED, settlement};
use crate::{Draft, Kit, Setup, Store, at, job};

fn ended(claimed: &Claimed, verdict: Verdict, follow: Vec<NewJob>) -> Settlement {
    Settlement {
        follow,
        ..settlement(claimed, verdict)
    }
}

fn idle_end(store: &Store<'_>, id: offloop_job::JobId, why: IdleEnd) -> EndIdleOutcome {
    let end = EndIdle {
        id,
        why,
        records: vec![],
        follow: vec![job("next")],
    };
    store.end_idle(at(2), vec![end]).remove(0)
}

/// Jobs of task `next`, all of them.
fn followers(store: &Store<'_>) -> usize {
    store.claim(at(9), &["next"], 100).len()
}

pub fn a_job_comes_with_the_end_in_one_commit(kit: &Kit) {
    for (verdict, state) in [
        (COMPLETED, JobState::Completed),
        (EXHAUSTED, JobState::Failed),
        (Verdict::Abort, JobState::Cancelled),
    ] {
        let store = kit.open();
        let claimed = store.start(at(0));
        let end = ended(&claimed, verdict, vec![job("next").payload("[7]")]);
        assert_eq!(store.settle_one(at(2), end), Settled::Done(state));
        let next = store.claim(at(3), &["next"], 9);
        assert_eq!((next.len(), &next[0].payload[..]), (1, &b"[7]"[..]));
    }
}

pub fn a_job_comes_with_an_idle_end_too(kit: &Kit) {
    for why in [IdleEnd::Cancel, IdleEnd::Expire] {
        let store = kit.open();
        let id = store.add(at(0), job("t"));
        let outcome = idle_end(&store, id, why);
        assert!(matches!(outcome, EndIdleOutcome::Ended { .. }));
        assert_eq!(followers(&store), 1);
    }
}

pub fn nothing_comes_with_an_idle_end_that_was_not_applied(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    store.claim_one(at(1));
    let outcome = idle_end(&store, id, IdleEnd::Cancel);
    assert!(matches!(outcome, EndIdleOutcome::Running { .. }));
    let done = store.add(at(0), job("t"));
    store.cancel(at(1), done);
    idle_end(&store, done, IdleEnd::Cancel);
    assert_eq!(followers(&store), 0);
}

pub fn nothing_comes_with_a_stale_settlement(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.finish(at(1), &first, Verdict::HandBack);
    store.claim_one(at(2));
    let stale = ended(&first, COMPLETED, vec![job("next")]);
    assert_eq!(store.settle_one(at(3), stale), Settled::Stale);
    assert_eq!(followers(&store), 0);
}

pub fn nothing_comes_twice_with_a_repeated_settlement(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = ended(&claimed, COMPLETED, vec![job("next")]);
    let settled = store.settle(at(1), vec![end.clone(), end.clone()]);
    let already = Settled::Already(JobState::Completed);
    assert_eq!(settled, [Settled::Done(JobState::Completed), already]);
    store.settle_one(at(2), end);
    assert_eq!(followers(&store), 1);
}

pub fn what_came_is_told_once(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let later = job("next").run_at(at(50));
    store.settle_one(at(1), ended(&claimed, COMPLETED, vec![later]));
    assert!(store.engine().stirred(), "there is something to tell");
    let news = store.news(at(1));
    let [
        News::Created {
            id, state, due_at, ..
        },
    ] = &news[..]
    else {
        panic!("{news:?}");
    };
    assert_eq!((*state, *due_at), (JobState::Scheduled, at(50)));
    assert_eq!(store.state(*id), JobState::Scheduled);
    assert!(store.news(at(1)).is_empty() && !store.engine().stirred());
}

pub fn a_job_that_finds_its_queue_full_never_refuses_the_end(kit: &Kit) {
    let setup = Setup {
        queue_jobs_max: 2,
        ..Setup::default()
    };
    let store = kit.open_with(setup);
    let claimed = store.start(at(0));
    store.add(at(0), job("t"));
    // The end makes room for one of two.
    let end = ended(&claimed, COMPLETED, vec![job("next"), job("next")]);
    let settled = store.settle_one(at(1), end);
    assert_eq!(settled, Settled::Done(JobState::Completed));
    let news = store.news(at(1));
    let refused = |news: &News| match news {
        News::FollowRefused { of, refusal, .. } => {
            assert!(matches!(refusal, InsertRefusal::QueueFull { .. }));
            *of == FollowOf::Job(claimed.id)
        }
        _ => false,
    };
    assert_eq!(
        news.iter().filter(|news| refused(news)).count(),
        1,
        "{news:?}"
    );
    assert_eq!(followers(&store), 1);
}

pub fn a_job_may_take_the_key_that_the_end_lets_go(kit: &Kit) {
    let store = kit.open();
    let keyed = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Reject);
    store.add(at(0), keyed());
    let claimed = store.claim_one(at(0));
    store.settle_one(at(1), ended(&claimed, COMPLETED, vec![keyed()]));
    let news = store.news(at(1));
    assert!(matches!(&news[..], [News::Created { .. }]), "{news:?}");
}

pub fn jobs_come_with_a_retry_too(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = Settlement {
        follow: vec![job("next")],
        ..crate::store::failed(
            &claimed,
            FailureClass::Error,
            Verdict::Retry { due: at(90) },
        )
    };
    assert_eq!(
        store.settle_one(at(1), end),
        Settled::Done(JobState::Scheduled)
    );
    assert_eq!(followers(&store), 1);
}

pub fn the_end_of_a_replaced_job_is_heard_of(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let first = store.add(at(0), asked());
    assert!(store.unheard().is_empty() && !store.engine().stirred());
    store.add(at(1), asked());
    assert_eq!(store.unheard(), [first]);
    assert!(store.engine().stirred(), "somebody is asked soon");
    store.hear(at(2), first);
    assert!(store.unheard().is_empty());
    assert_eq!(followers(&store), 1);
}

pub fn a_cancel_that_meets_another_verdict_is_heard_of(kit: &Kit) {
    for verdict in [
        Verdict::HandBack,
        Verdict::Retry { due: at(9) },
        Verdict::Snooze { due: at(9) },
    ] {
        let store = kit.open();
        let claimed = store.start(at(0));
        store.cancel(at(1), claimed.id);
        let end = settlement(&claimed, verdict);
        let cancelled = Settled::Done(JobState::Cancelled);
        assert_eq!(store.settle_one(at(2), end), cancelled);
        assert_eq!(store.unheard(), [claimed.id]);
        store.hear(at(3), claimed.id);
        assert_eq!(followers(&store), 1);
    }
    // Who settles knows of these.
    for verdict in [COMPLETED, Verdict::Abort] {
        let store = kit.open();
        let claimed = store.start(at(0));
        store.cancel(at(1), claimed.id);
        store.settle_one(at(2), settlement(&claimed, verdict));
        assert!(store.unheard().is_empty());
    }
}

pub fn what_is_heard_twice_follows_once(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    let first = store.add(at(0), asked());
    let second = store.add(at(1), asked());
    for _ in 0..2 {
        store.hear(at(2), first);
        store.hear(at(2), second);
    }
    assert_eq!(followers(&store), 1);
    // One that was deleted has no end to hear of.
    store.add(at(3), asked());
    assert_eq!(store.unheard(), [second]);
    assert_eq!(store.delete(&[second]), [DeleteOutcome::Deleted]);
    assert!(store.unheard().is_empty());
}
