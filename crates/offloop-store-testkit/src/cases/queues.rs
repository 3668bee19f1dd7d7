//! Queues: what they hold, and pausing them.

use offloop_job::{FailureClass, Mode, QueueName};
use offloop_store::QueueCounts;

use crate::store::COMPLETED;
use crate::{Draft, Kit, Store, at, job};

fn counts(store: &Store<'_>) -> (u64, u64, u64) {
    let status = store.queue("default");
    let counts = status.map(|status| status.counts).unwrap_or_default();
    assert_eq!(counts.waiting, 0);
    (counts.scheduled, counts.ready, counts.running)
}

pub fn counts_follow_every_step(kit: &Kit) {
    let store = kit.open();
    assert_eq!(counts(&store), (0, 0, 0));
    store.insert(at(0), vec![job("t"), job("t"), job("t").run_at(at(9))]);
    assert_eq!(counts(&store), (1, 2, 0));
    let claimed = store.claim(at(1), &["t"], 2);
    assert_eq!(counts(&store), (1, 0, 2));
    store.retry(at(2), &claimed[0], FailureClass::Error, at(20));
    assert_eq!(counts(&store), (2, 0, 1));
    store.promote(at(9));
    assert_eq!(counts(&store), (1, 1, 1));
    store.finish(at(10), &claimed[1], offloop_store::Verdict::HandBack);
    assert_eq!(counts(&store), (1, 2, 0));
    let last = store.claim(at(11), &["t"], 1);
    store.finish(at(12), &last[0], COMPLETED);
    assert_eq!(counts(&store), (1, 1, 0));
    store.cancel(at(13), claimed[0].id);
    assert_eq!(counts(&store), (0, 1, 0));
    store.revive(at(14), &[claimed[0].id]);
    assert_eq!(counts(&store), (0, 2, 0));
}

pub fn each_queue_has_its_own_row(kit: &Kit) {
    let store = kit.open();
    for (queue, jobs) in [("a", 1), ("b", 2), ("B", 3)] {
        store.insert(at(0), vec![job("t").queue(queue); jobs]);
    }
    let found = store.queues(at(1));
    for (queue, ready) in [("a", 1), ("b", 2), ("B", 3)] {
        let name = QueueName::parse(queue).expect("a queue");
        let want = QueueCounts {
            ready,
            ..QueueCounts::default()
        };
        assert_eq!((found[&name].mode, found[&name].counts), (Mode::Open, want));
    }
}

pub fn the_backlog_is_told_by_queue_and_task(kit: &Kit) {
    let store = kit.open();
    for (queue, task, jobs) in [("a", "t", 1), ("a", "u", 2), ("b", "t", 3)] {
        store.insert(at(5), vec![job(task).queue(queue); jobs]);
    }
    store.set_paused("b", true);
    store.claim(at(6), &["u"], 1);
    let row = |queue: &str, task: &str, ready, running, paused| {
        (queue.to_owned(), task.to_owned(), ready, running, paused)
    };
    let want = [
        row("a", "t", 1, 0, false),
        row("a", "u", 1, 1, false),
        row("b", "t", 3, 0, true),
    ];
    assert_eq!(store.backlog(), want);
    store.claim(at(7), &["t", "u"], 9);
    let want = [
        row("a", "t", 0, 1, false),
        row("a", "u", 0, 2, false),
        row("b", "t", 3, 0, true),
    ];
    assert_eq!(store.backlog(), want);
}

pub fn a_paused_queue_is_listed_without_jobs(kit: &Kit) {
    let store = kit.open();
    store.set_paused("q", true);
    let status = store.queue("q").expect("listed");
    assert_eq!(
        (status.mode, status.counts),
        (Mode::Paused, QueueCounts::default())
    );
    assert_eq!(status.oldest_ready, None);
    store.set_paused("q", false);
    let status = store.queue("q").expect("still listed");
    assert_eq!(status.mode, Mode::Open);
}

pub fn pausing_twice_is_once(kit: &Kit) {
    let store = kit.open();
    store.set_paused("default", true);
    store.set_paused("default", true);
    store.add(at(0), job("t"));
    assert!(store.claim_ids(at(1)).is_empty());
    store.set_paused("default", false);
    assert_eq!(store.claim_ids(at(1)).len(), 1);
}

pub fn a_paused_queue_takes_jobs_in_and_lets_running_ones_end(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.set_paused("default", true);
    let held = store.add(at(1), job("t"));
    store.finish(at(2), &claimed, COMPLETED);
    assert_eq!(counts(&store), (0, 1, 0));
    assert!(store.claim_ids(at(3)).is_empty());
    store.set_paused("default", false);
    assert_eq!(store.claim_ids(at(4)), [held]);
}

pub fn the_oldest_ready_job_is_by_due_time(kit: &Kit) {
    let store = kit.open();
    let oldest = || {
        store
            .queue("default")
            .and_then(|status| status.oldest_ready)
    };
    store.add(at(0), job("t").run_at(at(5)));
    assert_eq!(oldest(), None, "scheduled");
    let urgent = store.add(at(20), job("t").priority(0));
    let lazy = store.add(at(10), job("t").priority(9));
    assert_eq!(oldest(), Some(at(10)));
    store.promote(at(20));
    assert_eq!(oldest(), Some(at(5)));
    let claimed = store.claim(at(21), &["t"], 2);
    assert_eq!(claimed[0].id, urgent);
    assert_eq!(oldest(), Some(at(10)));
    store.cancel(at(22), lazy);
    assert_eq!(oldest(), None);
}
