//! What is left of limits and unique keys after the end of the process, in order or not.

use std::time::Duration;

use offloop_job::{OnConflict, UniqueScope};
use offloop_store::{InsertOutcome, Origin, SameAs};

use crate::cases::survives::across;
use crate::store::COMPLETED;
use crate::{Draft, Kit, Store, at, job};

pub fn limits_and_their_log(kit: &Kit) {
    let set = |store: &Store<'_>| {
        store.limit("queue:default", "2 3/m burst 4");
        store.limit("task:t/key:*", "4 1/s");
        store.limit("key:\\*", "7");
        store.limit("key:a", "1");
        store.limit("key:a", "");
        (store.limits(at(0)), store.audit(None))
    };
    across(kit, set, |store, (limits, log)| {
        assert_eq!(store.limits(at(0)), limits);
        assert_eq!(store.audit(None), log);
        store.limit("key:b", "1");
        assert!(store.audit(None)[0].0 > log[0].0, "numbers never return");
    });
}

pub fn jobs_that_ran_before_still_count(kit: &Kit) {
    let start = |store: &Store<'_>| {
        store.limit("key:*", "2");
        for _ in 0..4 {
            store.add(at(0), job("t").group_key("a"));
        }
        store.claim(at(1), &["t"], 2)
    };
    across(kit, start, |store, running| {
        assert!(store.claim(at(2), &["t"], 9).is_empty());
        store.finish(at(3), &running[0], COMPLETED);
        assert_eq!(store.claim(at(4), &["t"], 9).len(), 1);
    });
}

pub fn what_was_taken_from_a_rate(kit: &Kit) {
    let take = |store: &Store<'_>| {
        store.limit("key:*", "2/h burst 2");
        store.limit("queue:default", "100/h burst 50");
        for _ in 0..6 {
            store.add(at(0), job("t").group_key("a"));
        }
        assert_eq!(store.claim(at(0), &["t"], 9).len(), 2);
    };
    across(kit, take, |store, ()| {
        assert!(store.claim(at(1_799_999), &["t"], 9).is_empty());
        assert_eq!(store.claim(at(1_800_000), &["t"], 9).len(), 1);
    });
}

pub fn keys_still_take_turns(kit: &Kit) {
    let fill = |store: &Store<'_>| {
        for key in ["a", "a", "a", "b", "b"] {
            store.add(at(0), job("t").group_key(key));
        }
        store.add(at(0), job("t").group_key("c").run_at(at(5)));
    };
    across(kit, fill, |store, ()| {
        store.promote(at(5));
        let claimed = store.claim(at(6), &["t"], 9);
        let keys: Vec<_> = claimed
            .iter()
            .filter_map(|claimed| claimed.options.group_key.as_ref())
            .map(offloop_job::Tag::as_str)
            .collect();
        assert_eq!(keys.concat(), "abcaba");
    });
}

pub fn periods_of_unique_keys(kit: &Kit) {
    let period = UniqueScope::For(Duration::from_secs(10));
    let asked = move || job("t").unique("k", period, OnConflict::Throttle);
    let end = |store: &Store<'_>| {
        let id = store.add(at(0), asked());
        let claimed = store.claim_one(at(1));
        store.finish(at(2), &claimed, COMPLETED);
        id
    };
    across(kit, end, |store, id| {
        let same = SameAs::UniqueKey;
        let outcome = store.insert_one(at(9_999), asked());
        assert_eq!(outcome, InsertOutcome::Existing { id, same });
        store.add(at(10_000), asked());
    });
}

pub fn a_debounced_job_and_who_has_its_key(kit: &Kit) {
    let rule = OnConflict::Debounce(Duration::from_millis(100));
    let asked = move |payload: &str| {
        let job = job("t").unique("k", UniqueScope::UntilFinished, rule);
        job.payload(payload.to_owned())
    };
    let debounce = |store: &Store<'_>| {
        store.add(at(0), asked("1"));
        store.promote(at(100));
        let running = store.claim_one(at(100));
        let second = store.add(at(110), asked("2"));
        store.insert_one(at(120), asked("3"));
        (running, second)
    };
    across(kit, debounce, |store, (running, second)| {
        store.finish(at(130), &running, COMPLETED);
        let same = SameAs::Debounced;
        let outcome = store.insert_one(at(140), asked("4"));
        assert_eq!(outcome, InsertOutcome::Existing { id: second, same });
        store.promote(at(240));
        let claimed = store.claim_one(at(240));
        assert_eq!((claimed.id, &claimed.payload[..]), (second, &b"4"[..]));
    });
}

pub fn whose_limits_they_are(kit: &Kit) {
    let set = |store: &Store<'_>| {
        store.limit_by(Origin::File, "queue:default", "2");
        store.limit_by(Origin::Api, "task:t", "2");
        store.limit_by(Origin::File, "task:t", "2");
        store.limit_by(Origin::Api, "key:a", "1");
        store.limits(at(0))
    };
    across(kit, set, |store, limits| {
        assert_eq!(store.limits(at(0)), limits);
    });
}
