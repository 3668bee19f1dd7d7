//! Limits: what runs at once and how fast it starts, by queue, task and key.

use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;

use offloop_job::{FailureClass, JobId, JobState};
use offloop_store::{BlockedBy, Claimed, IdleEnd, LimitSet, Origin, Verdict};

use crate::store::{COMPLETED, want};
use crate::{Draft, Kit, Store, at, job};

fn ids(claimed: &[Claimed]) -> Vec<JobId> {
    claimed.iter().map(|claimed| claimed.id).collect()
}

fn add_many(store: &Store<'_>, count: usize, key: &str) -> Vec<JobId> {
    let jobs = (0..count).map(|_| store.add(at(0), job("t").group_key(key)));
    jobs.collect()
}

pub fn a_queue_never_runs_more_than_it_may(kit: &Kit) {
    let store = kit.open();
    store.limit("queue:default", "2");
    let first: Vec<_> = (0..3).map(|_| store.add(at(0), job("t"))).collect();
    let other_task = store.add(at(0), job("u"));
    let other_queue = store.add(at(0), job("t").queue("other"));
    let claimed = store.claim(at(1), &["t", "u"], 9);
    assert_eq!(ids(&claimed), [first[0], first[1], other_queue]);
    assert!(store.claim(at(2), &["t", "u"], 9).is_empty());
    store.finish(at(3), &claimed[0], COMPLETED);
    assert_eq!(ids(&store.claim(at(4), &["t", "u"], 9)), [first[2]]);
    store.finish(at(5), &claimed[1], COMPLETED);
    assert_eq!(ids(&store.claim(at(6), &["t", "u"], 9)), [other_task]);
}

pub fn a_task_never_runs_more_than_it_may_in_all_queues_together(kit: &Kit) {
    let store = kit.open();
    store.limit("task:t", "1");
    let held = store.add(at(0), job("t"));
    store.add(at(0), job("t").queue("other"));
    let free = store.add(at(0), job("u"));
    assert_eq!(ids(&store.claim(at(1), &["t", "u"], 9)), [held, free]);
}

pub fn each_key_has_its_own_room(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1");
    let a = add_many(&store, 3, "a");
    let b = add_many(&store, 3, "b");
    let free = store.add(at(0), job("t"));
    let claimed = store.claim(at(1), &["t"], 9);
    let mut got = ids(&claimed);
    got.sort_unstable();
    assert_eq!(got, [a[0], b[0], free]);
    let of_a = claimed.iter().find(|claimed| claimed.id == a[0]);
    store.finish(at(2), of_a.expect("a job of a"), COMPLETED);
    assert_eq!(store.claim_ids(at(3)), [a[1]]);
}

pub fn a_key_counts_in_every_task_and_queue(kit: &Kit) {
    let store = kit.open();
    store.limit("key:a", "1");
    let first = store.add(at(0), job("t").group_key("a"));
    store.add(at(0), job("u").group_key("a"));
    store.add(at(0), job("t").group_key("a").queue("other"));
    let other = store.add(at(0), job("u").group_key("b"));
    assert_eq!(ids(&store.claim(at(1), &["t", "u"], 9)), [first, other]);
}

pub fn a_key_within_a_task_does_not_count_elsewhere(kit: &Kit) {
    let store = kit.open();
    store.limit("task:t/key:*", "1");
    let first = store.add(at(0), job("t").group_key("a"));
    store.add(at(0), job("t").group_key("a"));
    let elsewhere = store.add(at(0), job("u").group_key("a"));
    let mut got = ids(&store.claim(at(1), &["t", "u"], 9));
    got.sort_unstable();
    assert_eq!(got, [first, elsewhere]);
}

pub fn the_limit_of_one_key_overrides_that_of_each(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1");
    store.limit("key:a", "3");
    add_many(&store, 5, "a");
    add_many(&store, 5, "b");
    assert_eq!(store.claim(at(1), &["t"], 20).len(), 4);
}

pub fn every_limit_that_holds_must_let_it_go(kit: &Kit) {
    let store = kit.open();
    store.limit("queue:default", "3");
    store.limit("task:t", "2");
    store.limit("key:*", "1");
    add_many(&store, 3, "a");
    add_many(&store, 3, "b");
    add_many(&store, 3, "c");
    assert_eq!(store.claim(at(1), &["t"], 20).len(), 2, "the task's");
    store.limit("task:t", "");
    assert_eq!(store.claim(at(2), &["t"], 20).len(), 1, "the queue's");
    store.limit("queue:default", "");
    assert!(store.claim(at(3), &["t"], 20).is_empty(), "the keys'");
}

pub fn a_held_back_job_does_not_use_up_the_want(kit: &Kit) {
    let store = kit.open();
    store.limit("key:a", "1");
    add_many(&store, 50, "a");
    let free: Vec<_> = (0..3).map(|_| store.add(at(9), job("t"))).collect();
    let got = ids(&store.claim(at(10), &["t"], 4));
    assert_eq!(got.len(), 4);
    assert!(free.iter().all(|id| got.contains(id)));
}

pub fn a_held_back_job_stays_ready_and_can_be_cancelled_or_expire(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1");
    let jobs = add_many(&store, 3, "a");
    let claimed = store.claim(at(1), &["t"], 9);
    assert!(store.claim(at(1), &["t"], 9).is_empty());
    assert_eq!(store.state(jobs[1]), JobState::Ready);
    store.cancel(at(2), jobs[1]);
    store.end_one(at(2), jobs[2], IdleEnd::Expire);
    let late = store.add(at(2), job("t").group_key("a").expires_at(at(5)));
    let last = store.add(at(2), job("t").group_key("a"));
    store.finish(at(3), &claimed[0], COMPLETED);
    assert_eq!(store.claim_ids(at(6)), [last]);
    assert_eq!(store.state(late), JobState::Ready, "until it is ended");
}

pub fn every_way_to_end_an_attempt_frees_its_place(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1");
    store.limit("task:t", "1");
    add_many(&store, 2, "a");
    let verdicts = [
        Verdict::HandBack,
        Verdict::Retry { due: at(100_000) },
        Verdict::Snooze { due: at(100_000) },
        Verdict::Abort,
        COMPLETED,
    ];
    for (step, verdict) in (1_u64..).zip(verdicts) {
        store.add(at(step), job("t").group_key("a"));
        let claimed = store.claim_one(at(step));
        assert!(store.claim(at(step), &["t"], 9).is_empty(), "{verdict:?}");
        store.finish(at(step), &claimed, verdict);
    }
    store.claim_one(at(50));
}

pub fn a_rate_opens_when_it_said(kit: &Kit) {
    let store = kit.open();
    store.limit("queue:default", "10/s burst 2");
    for _ in 0..5 {
        store.add(at(0), job("t"));
    }
    let claims = store.claims_as("n1", at(0), vec![want(&["t"], 9)]);
    assert_eq!(
        (claims.jobs.len(), claims.blocked_until),
        (2, Some(at(100)))
    );
    let claims = store.claims_as("n1", at(99), vec![want(&["t"], 9)]);
    assert_eq!(
        (claims.jobs.len(), claims.blocked_until),
        (0, Some(at(100)))
    );
    let claims = store.claims_as("n1", at(100), vec![want(&["t"], 9)]);
    assert_eq!(
        (claims.jobs.len(), claims.blocked_until),
        (1, Some(at(200)))
    );
    let claims = store.claims_as("n1", at(400), vec![want(&["t"], 9)]);
    assert_eq!((claims.jobs.len(), claims.blocked_until), (2, None));
}

pub fn each_key_has_its_own_rate(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1/s");
    let a = add_many(&store, 3, "a");
    let b = add_many(&store, 3, "b");
    let got = store.claim_ids(at(0));
    assert_eq!(got, [a[0], b[0]]);
    assert!(store.claim_ids(at(999)).is_empty());
    assert_eq!(store.claim_ids(at(1_000)), [a[1], b[1]]);
}

pub fn a_job_takes_its_cost_and_every_attempt_does(kit: &Kit) {
    let store = kit.open();
    store.limit("task:t", "10/s burst 5");
    let dear = store.add(at(0), job("t").with(|options| options.cost = 20));
    let cheap = store.add(at(1), job("t"));
    assert_eq!(store.claim_ids(at(1)), [dear]);
    assert!(store.claim_ids(at(1_600)).is_empty());
    let claimed = store.claim_one(at(1_601));
    assert_eq!(claimed.id, cheap);
    store.retry(at(1_601), &claimed, FailureClass::Error, at(1_602));
    store.promote(at(1_602));
    assert!(store.claim_ids(at(1_602)).is_empty());
    assert_eq!(store.claim_ids(at(1_701)), [cheap]);
}

pub fn a_clock_that_steps_back_blocks_no_longer_than_a_window(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1/s");
    store.limit("task:t", "2/s");
    let now = |ms: u64| at(3_600_000 + ms);
    let jobs: Vec<_> = (0..2)
        .map(|_| store.add(at(0), job("t").group_key("a")))
        .collect();
    assert_eq!(store.claim_ids(now(0)), [jobs[0]]);
    assert!(store.claim_ids(now(10)).is_empty());
    assert_eq!(store.claim_ids(at(0)), [jobs[1]], "an hour back");
}

pub fn a_changed_rate_begins_anew_and_the_same_one_does_not(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1/h");
    add_many(&store, 9, "a");
    assert_eq!(store.claim_ids(at(0)).len(), 1);
    store.limit("key:*", "1/h");
    assert!(store.claim_ids(at(1)).is_empty());
    store.limit("key:a", "1/h");
    assert!(store.claim_ids(at(2)).is_empty(), "the same rate");
    store.limit("key:a", "2/h burst 2");
    assert_eq!(store.claim_ids(at(3)).len(), 2);
    store.limit("key:a", "");
    assert_eq!(store.claim_ids(at(4)).len(), 1);
    store.limit("key:*", "");
    assert_eq!(store.claim_ids(at(5)).len(), 5);
}

pub fn a_new_limit_counts_what_runs_already(kit: &Kit) {
    let store = kit.open();
    add_many(&store, 4, "a");
    let claimed = store.claim(at(1), &["t"], 2);
    store.limit("key:*", "2");
    store.limit("queue:default", "2");
    store.limit("task:t", "2");
    assert!(store.claim(at(2), &["t"], 9).is_empty());
    store.finish(at(3), &claimed[0], COMPLETED);
    assert_eq!(store.claim(at(4), &["t"], 9).len(), 1);
}

pub fn a_lower_limit_stops_nothing_that_runs(kit: &Kit) {
    let store = kit.open();
    add_many(&store, 4, "a");
    let claimed = store.claim(at(1), &["t"], 3);
    store.limit("key:a", "1");
    assert_eq!(store.state(claimed[2].id), JobState::Running);
    for claimed in &claimed[..2] {
        store.finish(at(2), claimed, COMPLETED);
        assert!(store.claim(at(2), &["t"], 9).is_empty());
    }
    store.finish(at(3), &claimed[2], COMPLETED);
    assert_eq!(store.claim(at(3), &["t"], 9).len(), 1);
}

pub fn what_a_limit_frees_is_hinted_at(kit: &Kit) {
    let store = kit.open();
    let (sender, hints) = mpsc::channel();
    for target in ["queue:default", "task:t", "key:*", "task:t/key:a"] {
        store.limit(target, "1");
        add_many(&store, 2, "a");
        let claimed = store.claim_one(at(1));
        assert!(store.claim(at(1), &["t"], 9).is_empty());
        let sender = sender.clone();
        store.engine().set_hook(Arc::new(move || {
            let _ = sender.send(());
        }));
        let hinted = || {
            let hint = hints.recv_timeout(Duration::from_secs(10));
            assert!(hint.is_ok(), "no hint: {target}");
        };
        store.finish(at(2), &claimed, COMPLETED);
        hinted();
        store.limit(target, "");
        hinted();
        for claimed in store.claim(at(3), &["t"], 9) {
            store.finish(at(3), &claimed, COMPLETED);
        }
        store.engine().set_hook(Arc::new(|| {}));
        while hints.try_recv().is_ok() {}
    }
}

pub fn limits_are_shown_with_what_runs_and_what_blocks(kit: &Kit) {
    let store = kit.open();
    let rate = "1/s";
    store.limit("queue:default", "9");
    store.limit("task:t", rate);
    store.limit("key:a", "1");
    store.limit("key:*", "5");
    add_many(&store, 3, "a");
    add_many(&store, 3, "b");
    store.limit("task:t", "2/s burst 2");
    store.claim(at(1), &["t"], 9);
    let shown = store.limits(at(1));
    let facts: Vec<_> = shown
        .iter()
        .map(|status| (status.target.to_string(), status.running, status.blocked))
        .collect();
    let until = Some(BlockedBy::Rate(at(501)));
    let want = [
        ("queue:default", 2, None),
        ("task:t", 2, until),
        ("key:*", 1, None),
        ("key:a", 1, Some(BlockedBy::Concurrency)),
    ];
    let want = want.map(|(target, running, blocked)| (target.to_owned(), running, blocked));
    assert_eq!(facts, want);
}

pub fn limits_come_page_by_page(kit: &Kit) {
    let store = kit.open();
    for number in 0..7 {
        store.limit(&format!("key:{number}"), "1");
    }
    assert_eq!(store.limits(at(0)).len(), 7);
}

pub fn every_change_is_on_the_audit_log_and_nothing_else(kit: &Kit) {
    let store = kit.open();
    let before = |text: &str| store.limit(text, "2");
    assert_eq!(before("key:a"), LimitSet::Done { before: None });
    store.limit("key:a", "2");
    store.limit("key:a", "3");
    store.limit("key:b", "");
    store.limit("key:a", "");
    let log = store.audit(None);
    let told: Vec<_> = log
        .iter()
        .map(|(_, entry)| {
            (
                &*entry.action,
                entry.before.as_deref(),
                entry.after.as_deref(),
            )
        })
        .collect();
    let want = [
        ("limit.remove", Some("concurrency = 3"), None),
        (
            "limit.set",
            Some("concurrency = 2"),
            Some("concurrency = 3"),
        ),
        ("limit.set", None, Some("concurrency = 2")),
    ];
    assert_eq!(told, want);
    assert!(log.windows(2).all(|pair| pair[0].0 > pair[1].0));
    assert!(log.iter().all(|(_, entry)| &*entry.actor == "test"));
    store.limit("key:c", "1");
    let of_a = store.audit(Some("key:a"));
    assert_eq!(of_a, log);
}

pub fn a_limit_is_of_who_set_it_last(kit: &Kit) {
    let store = kit.open();
    let (file, api) = (Origin::File, Origin::Api);
    let origins = || {
        let shown = store.limits(at(0)).into_iter();
        shown.map(|status| status.origin).collect::<Vec<_>>()
    };
    store.limit_by(file, "key:a", "1");
    store.limit_by(api, "key:b", "1");
    assert_eq!(origins(), [file, api]);
    let entries = store.audit(None).len();
    store.limit_by(api, "key:a", "1");
    store.limit_by(file, "key:b", "1");
    assert_eq!(
        origins(),
        [file, file],
        "the configuration takes over what is so already"
    );
    assert_eq!(store.audit(None).len(), entries, "no limit has changed");
    store.limit_by(api, "key:a", "2");
    assert_eq!(origins(), [api, file]);
    store.limit_by(file, "key:b", "");
    store.limit_by(api, "key:b", "1");
    assert_eq!(
        origins(),
        [api, api],
        "nothing is left of one that was removed"
    );
}

pub fn a_paused_queue_uses_no_rate(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1/h");
    store.set_paused("slow", true);
    store.add(at(0), job("t").queue("slow").group_key("a"));
    let claims = store.claims_as("n1", at(1), vec![want(&["t"], 9)]);
    assert_eq!((claims.jobs.len(), claims.blocked_until), (0, None));
    let free = store.add(at(2), job("t").group_key("a"));
    assert_eq!(store.claim_ids(at(3)), [free]);
}

pub fn pruning_gives_no_rate_anew(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1/h");
    add_many(&store, 3, "a");
    assert_eq!(store.claim_ids(at(0)).len(), 1);
    let hour = at(3_600_000);
    for now in [at(10), hour.minus(Duration::from_millis(1))] {
        store.prune_all(now);
        assert!(store.claim_ids(now).is_empty());
    }
    store.prune_all(hour);
    assert_eq!(store.claim_ids(hour).len(), 1);
    assert!(store.claim_ids(hour).is_empty());
}
