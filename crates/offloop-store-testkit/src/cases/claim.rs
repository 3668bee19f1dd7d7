//! Handing jobs out: each once, in order, never too early, never too late.

use std::collections::BTreeSet;
use std::thread;

use bytes::Bytes;
use offloop_job::{FailureClass, History, JobId, JobState, OnConflict, UniqueScope};
use offloop_store::{ClaimRequest, Verdict};

use crate::cases::insert::rich_options;
use crate::store::{node, wait, want};
use crate::{Draft, Kit, at, job};

pub fn never_hands_out_a_job_twice(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..50).map(|_| store.add(at(0), job("t"))).collect();
    let mut handed = vec![];
    for _ in 0..10 {
        let claimed = store.claim(at(1), &["t"], 7);
        handed.extend(claimed.iter().map(|claimed| claimed.id));
    }
    assert_eq!(handed, ids, "all of them, once, in their order");
}

pub fn two_callers_at_once_never_get_the_same_job(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 400]);
    let engine = store.engine();
    let claim = |by: &str| {
        wait(engine.claim(ClaimRequest {
            now: at(1),
            node: node(by),
            wants: vec![want(&["t"], 9)],
        }))
        .jobs
    };
    let handed: Vec<_> = thread::scope(|scope| {
        let work = |by| (0..20).flat_map(|_| claim(by)).collect::<Vec<_>>();
        let callers = ["n1", "n2", "n3", "n4"].map(|by| scope.spawn(move || work(by)));
        let handed = callers.map(|caller| caller.join().expect("a caller that ends"));
        handed.into_iter().flatten().collect()
    });
    let ids: BTreeSet<_> = handed.iter().map(|claimed| claimed.id).collect();
    let leases: BTreeSet<_> = handed.iter().map(|claimed| claimed.lease).collect();
    assert_eq!((handed.len(), ids.len(), leases.len()), (400, 400, 400));
}

pub fn serves_priority_then_due_time_then_age(kit: &Kit) {
    let store = kit.open();
    let add = |now, job| store.add(at(now), job);
    let late = add(1, job("t").priority(5).run_at(at(9)));
    let low = add(1, job("t").priority(9));
    let old = add(2, job("t").priority(5));
    let young = add(2, job("t").priority(5));
    let due_early = add(3, job("t").priority(5).run_at(at(7)));
    let first = add(4, job("t").priority(0).run_at(at(9)));
    store.promote(at(20));
    let want = [first, old, young, due_early, late, low];
    assert_eq!(store.claim_ids(at(20)), want);
}

pub fn keeps_one_order_over_all_tasks_of_a_want(kit: &Kit) {
    let store = kit.open();
    let a1 = store.add(at(0), job("a").priority(7));
    let b1 = store.add(at(1), job("b").priority(3));
    let a2 = store.add(at(2), job("a").priority(3));
    let b2 = store.add(at(3), job("b").priority(7));
    let claimed = store.claim(at(4), &["a", "b"], 3);
    let ids: Vec<_> = claimed.iter().map(|claimed| claimed.id).collect();
    assert_eq!(ids, [b1, a2, a1]);
    assert_eq!(store.claim(at(4), &["a", "b"], 3)[0].id, b2);
}

pub fn serves_wants_in_their_order(kit: &Kit) {
    let store = kit.open();
    let ids: Vec<_> = (0..6).map(|_| store.add(at(0), job("t"))).collect();
    let other = store.add(at(0), job("u").priority(0));
    let wants = vec![want(&["t"], 2), want(&["u", "t"], 2), want(&["t"], 1)];
    let claimed = store.claim_as("n1", at(1), wants);
    let got: Vec<_> = claimed.iter().map(|claimed| claimed.id).collect();
    assert_eq!(got, [ids[0], ids[1], other, ids[2], ids[3]]);
}

pub fn never_gives_more_than_the_limit(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 20]);
    for (limit, got) in [(0, 0), (1, 1), (7, 7), (12, 12), (5, 0)] {
        assert_eq!(
            store.claim(at(1), &["t"], limit).len(),
            got,
            "limit {limit}"
        );
    }
}

pub fn gives_only_the_tasks_that_are_wanted(kit: &Kit) {
    let store = kit.open();
    let ours = store.add(at(0), job("t"));
    store.add(at(0), job("t2").priority(0));
    store.add(at(0), job("T").priority(0));
    assert_eq!(store.claim_ids(at(1)), [ours]);
    assert!(store.claim(at(1), &["unknown"], 9).is_empty());
    assert!(store.claim_as("n1", at(1), vec![]).is_empty());
    assert!(store.claim(at(1), &[], 9).is_empty());
}

pub fn skips_paused_queues(kit: &Kit) {
    let store = kit.open();
    store.set_paused("slow", true);
    let held = store.add(at(0), job("t").queue("slow").priority(0));
    let free = store.add(at(0), job("t"));
    assert_eq!(store.claim_ids(at(1)), [free]);
    assert_eq!(store.state(held), JobState::Ready);
    store.set_paused("slow", false);
    assert_eq!(store.claim_ids(at(2)), [held]);
}

pub fn a_paused_queue_does_not_use_up_the_limit(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t").queue("slow").priority(0); 5]);
    store.set_paused("slow", true);
    let free: Vec<_> = (0..3).map(|_| store.add(at(0), job("t"))).collect();
    let claimed = store.claim(at(1), &["t"], 2);
    let ids: Vec<_> = claimed.iter().map(|claimed| claimed.id).collect();
    assert_eq!(ids, free[..2]);
}

pub fn never_before_its_time(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").run_at(at(100)));
    store.promote(at(99));
    assert!(store.claim_ids(at(99)).is_empty());
    store.promote(at(100));
    assert_eq!(store.claim_ids(at(100)), [id]);
}

pub fn never_before_it_was_promoted(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").run_at(at(100)));
    assert!(store.claim_ids(at(500)).is_empty());
    assert_eq!(store.state(id), JobState::Scheduled);
    store.promote(at(500));
    assert_eq!(store.claim_ids(at(500)), [id]);
}

pub fn never_after_expires_at(kit: &Kit) {
    let store = kit.open();
    let late = store.add(at(0), job("t").expires_at(at(100)));
    let free = store.add(at(0), job("t"));
    assert_eq!(store.claim_ids(at(101)), [free]);
    assert_eq!(store.state(late), JobState::Ready, "until it is ended");
}

pub fn still_at_expires_at_itself(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").expires_at(at(100)));
    assert!(store.overdue(at(100), 9).is_empty());
    assert_eq!(store.claim_ids(at(100)), [id]);
}

pub fn late_jobs_do_not_use_up_the_limit(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t").expires_at(at(5)).priority(0); 5]);
    let free = store.add(at(0), job("t"));
    assert_eq!(store.claim(at(6), &["t"], 1)[0].id, free);
}

pub fn leases_grow_for_all_jobs(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"), job("u"), job("t"), job("u")]);
    let mut last = 0;
    for step in 0..20 {
        let wants = vec![want(&["u"], 1), want(&["t"], 1)];
        let claimed = store.claim_as("n1", at(step), wants);
        assert_eq!(claimed.len(), 2);
        for claimed in claimed {
            assert!(claimed.lease.0 > last, "{:?} after {last}", claimed.lease);
            last = claimed.lease.0;
            store.finish(at(step), &claimed, Verdict::HandBack);
        }
    }
}

pub fn counts_the_attempt_when_it_starts(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let one = History {
        attempt: 1,
        crash_streak: 0,
        ..History::default()
    };
    assert_eq!(claimed.history, one);
    assert_eq!(store.job(claimed.id).summary.attempt, 1);
    store.retry(at(1), &claimed, FailureClass::Error, at(2));
    store.promote(at(2));
    let again = store.claim_one(at(2));
    assert_eq!(again.history.attempt, 2);
    assert_eq!(store.job(claimed.id).summary.attempt, 2);
}

pub fn carries_the_job_as_it_was_asked_for(kit: &Kit) {
    let store = kit.open();
    let payload = Bytes::from_static("{\"name\":\"Žluťoučký\"}".as_bytes());
    let asked = job("t").payload(payload.clone());
    let asked = asked.with(|options| *options = rich_options());
    let id = store.add(at(0), asked.clone());
    store.promote(at(1_000));
    let claimed = store.claim_as("node 7", at(1_005), vec![want(&["t"], 9)]);
    let [claimed] = &claimed[..] else {
        panic!("one job: {claimed:?}")
    };
    assert_eq!((claimed.id, &claimed.task), (id, &asked.task));
    assert_eq!(claimed.payload, payload);
    assert_eq!(*claimed.options, asked.options);
    assert_eq!((claimed.due_at, claimed.claimed_at), (at(1_000), at(1_005)));
    assert_eq!((&*claimed.node.0, claimed.cancelling), ("node 7", false));
}

pub fn a_clock_that_steps_back_keeps_ready_jobs_ready(kit: &Kit) {
    let store = kit.open();
    let now = store.add(at(1_000), job("t"));
    let later = store.add(at(1_000), job("t").run_at(at(2_000)));
    store.promote(at(2_000));
    store.promote(at(500));
    assert_eq!(store.claim_ids(at(500)), [now, later]);
}

pub fn a_running_job_shows_its_attempt(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    assert_eq!(store.job(id).summary.started_at, None);
    let claimed = store.claim_one(at(30));
    let shown = store.job(id);
    assert_eq!(shown.summary.state, JobState::Running);
    assert_eq!(shown.summary.started_at, Some(at(30)));
    assert_eq!(shown.summary.finished_at, None);
    let [attempt] = &shown.attempts[..] else {
        panic!("one attempt: {shown:?}")
    };
    assert_eq!((attempt.number, attempt.lease), (1, claimed.lease));
    assert_eq!(attempt.node, claimed.node);
    assert_eq!((attempt.started_at, attempt.ended_at), (at(30), None));
    assert_eq!(attempt.wait.as_millis(), 30);
}

/// Many tasks and queues in one store: nothing is lost between them.
pub fn every_ready_job_is_handed_out_in_the_end(kit: &Kit) {
    let store = kit.open();
    let tasks = ["a", "b", "c"];
    let mut added = BTreeSet::<JobId>::new();
    for step in 0..90_u64 {
        let task = tasks[step as usize % 3];
        let queue = ["x", "y", "z", "default"][step as usize % 4];
        let priority = (step % 10) as u8;
        let asked = job(task).queue(queue).priority(priority);
        let asked = asked.run_at(at(step * 7 % 50));
        let asked = asked.unique(
            &step.to_string(),
            UniqueScope::UntilStarted,
            OnConflict::Keep,
        );
        added.insert(store.add(at(0), asked));
    }
    store.promote(at(50));
    let mut handed = BTreeSet::new();
    for _ in 0..90 {
        let claimed = store.claim(at(50), &tasks, 1);
        handed.extend(claimed.iter().map(|claimed| claimed.id));
    }
    assert_eq!(handed, added);
}
