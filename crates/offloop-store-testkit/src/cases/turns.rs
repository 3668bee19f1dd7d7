//! Fairness: keys take turns, so that nobody waits behind all jobs of somebody else.

use offloop_job::JobId;

use crate::store::COMPLETED;
use crate::{Draft, Kit, Store, at, job};

fn add_many(store: &Store<'_>, count: usize, key: &str) -> Vec<JobId> {
    let jobs = (0..count).map(|_| store.add(at(0), job("t").group_key(key)));
    jobs.collect()
}

/// Keys in the order in which jobs are handed out, one at a time.
fn order(store: &Store<'_>, count: usize) -> String {
    let mut keys = String::new();
    for _ in 0..count {
        for claimed in store.claim(at(10), &["t"], 1) {
            let key = claimed.options.group_key.as_ref();
            keys += key.map_or("-", |key| key.as_str());
        }
    }
    keys
}

pub fn keys_take_turns(kit: &Kit) {
    let store = kit.open();
    add_many(&store, 5, "a");
    add_many(&store, 2, "b");
    add_many(&store, 3, "c");
    assert_eq!(order(&store, 10), "abcabcacaa");
}

pub fn a_batch_is_served_as_one_by_one(kit: &Kit) {
    let store = kit.open();
    add_many(&store, 4, "a");
    add_many(&store, 4, "b");
    let claimed = store.claim(at(10), &["t"], 8);
    let keys: Vec<_> = claimed
        .iter()
        .filter_map(|claimed| claimed.options.group_key.as_ref())
        .map(offloop_job::Tag::as_str)
        .collect();
    assert_eq!(keys.concat(), "abababab");
}

pub fn a_first_job_never_waits_behind_the_many_of_another(kit: &Kit) {
    let store = kit.open();
    add_many(&store, 500, "noisy");
    store.claim(at(1), &["t"], 100);
    let quiet = store.add(at(2), job("t").group_key("quiet").priority(9));
    assert_eq!(store.claim_ids(at(3))[0], quiet);
}

pub fn new_keys_without_end_do_not_starve_one_that_waits(kit: &Kit) {
    let store = kit.open();
    let old = add_many(&store, 3, "old");
    let mut waited = 0;
    let mut seen = 0;
    for number in 0..30 {
        store.add(at(1), job("t").group_key(&format!("new {number}")));
        store.add(at(1), job("t").group_key(&format!("newer {number}")));
        let claimed = store.claim(at(2), &["t"], 1);
        waited += 1;
        if old.contains(&claimed[0].id) {
            (waited, seen) = (0, seen + 1);
        }
        assert!(
            waited <= 2 * number + 4,
            "after {seen} of 3, waited {waited}"
        );
    }
    assert!(seen >= 2, "{seen} of 3 in 30 turns");
}

pub fn priority_orders_the_jobs_of_one_key_alone(kit: &Kit) {
    let store = kit.open();
    let add = |key: &str, priority| {
        let asked = job("t").group_key(key).priority(priority);
        store.add(at(0), asked)
    };
    let (a9, a0) = (add("a", 9), add("a", 0));
    let (b5, b9) = (add("b", 5), add("b", 9));
    let got = store.claim_ids(at(1));
    assert_eq!(got, [a0, b5, a9, b9]);
}

pub fn a_key_of_weight_has_as_many_picks_in_its_turn(kit: &Kit) {
    let store = kit.open();
    store.limit("key:a", "weight 3");
    add_many(&store, 7, "a");
    add_many(&store, 3, "b");
    assert_eq!(order(&store, 10), "aaabaaabab");
}

pub fn a_weight_for_each_key_is_not_shared(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "weight 2");
    add_many(&store, 4, "a");
    add_many(&store, 4, "b");
    assert_eq!(order(&store, 8), "aabbaabb");
}

pub fn jobs_without_a_key_share_one_turn_per_line(kit: &Kit) {
    let store = kit.open();
    for _ in 0..4 {
        store.add(at(0), job("t"));
    }
    add_many(&store, 4, "a");
    assert_eq!(order(&store, 8), "-a-a-a-a");
}

pub fn without_keys_the_order_is_by_priority_over_all_lines(kit: &Kit) {
    let store = kit.open();
    let add = |queue: &str, priority| store.add(at(0), job("t").queue(queue).priority(priority));
    let (x1, y1, x2, y2) = (add("x", 2), add("y", 1), add("x", 1), add("y", 3));
    let x3 = add("x", 1);
    assert_eq!(store.claim_ids(at(1)), [y1, x2, x3, x1, y2]);
}

pub fn a_key_that_is_held_back_keeps_its_place_in_the_round(kit: &Kit) {
    let store = kit.open();
    store.limit("key:a", "1");
    add_many(&store, 3, "a");
    add_many(&store, 9, "b");
    add_many(&store, 9, "c");
    let claimed = store.claim(at(1), &["t"], 5);
    let of_a = claimed.iter().find(|claimed| {
        let key = claimed.options.group_key.as_ref();
        key.is_some_and(|key| key.as_str() == "a")
    });
    store.finish(at(2), of_a.expect("a's first"), COMPLETED);
    // After `abcbc`, a has waited longest.
    assert_eq!(order(&store, 4), "abcb");
}

pub fn late_and_paused_jobs_do_not_use_a_turn(kit: &Kit) {
    let store = kit.open();
    store.set_paused("slow", true);
    store.add(at(0), job("t").queue("slow").group_key("a"));
    store.add(at(0), job("t").group_key("a").expires_at(at(5)));
    let a = store.add(at(0), job("t").group_key("a"));
    let b = store.add(at(0), job("t").group_key("b"));
    assert_eq!(store.claim_ids(at(10)), [a, b]);
    store.set_paused("slow", false);
    assert_eq!(order(&store, 2), "a");
}

pub fn many_keys_are_all_served(kit: &Kit) {
    let store = kit.open();
    store.limit("key:*", "1");
    let jobs = (0..900_usize).map(|n| job("t").group_key(&format!("tenant {}", n % 300)));
    store.insert(at(0), jobs.collect());
    let mut running = vec![];
    let mut served = std::collections::BTreeSet::new();
    for _ in 0..30 {
        running.extend(store.claim(at(1), &["t"], 50));
        let half = running.len() / 2;
        for claimed in running.drain(..half) {
            store.finish(at(1), &claimed, COMPLETED);
            served.insert(claimed.id);
        }
    }
    while !running.is_empty() {
        for claimed in running.drain(..) {
            store.finish(at(1), &claimed, COMPLETED);
            served.insert(claimed.id);
        }
        running.extend(store.claim(at(1), &["t"], 50));
    }
    assert_eq!(served.len(), 900);
}
