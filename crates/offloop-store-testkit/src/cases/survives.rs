//! What the next process finds. Passed by engines that declare to leave nothing.

use std::time::Duration;

use offloop_job::limits::IDEMPOTENCY_KEEP;
use offloop_job::{FailureClass, JobId, JobState, Mode, OnConflict, UniqueScope, Usage};
use offloop_store::{
    Claimed, InsertOutcome, PruneRule, SameAs, Settled, Settlement, USAGE_NAMES_MAX, UsageBy,
    Verdict,
};

use crate::cases::insert::rich_options;
use crate::cases::{STATES, in_state};
use crate::store::{COMPLETED, EXHAUSTED, created, failed, settlement, want};
use crate::{Draft, Kit, Store, T0, at, job, record};

/// Both ways to end a process.
const WAYS: [fn(Store<'_>) -> Option<Store<'_>>; 2] = [in_order, by_crash];

fn in_order(store: Store<'_>) -> Option<Store<'_>> {
    store.restart()
}

fn by_crash(store: Store<'_>) -> Option<Store<'_>> {
    store.crash()
}

/// Runs `before`, ends the process, then lets `after` see what `before` answered; for both ways.
pub(crate) fn across<T>(
    kit: &Kit,
    before: impl Fn(&Store<'_>) -> T,
    after: impl Fn(&Store<'_>, T),
) {
    for way in WAYS {
        let store = kit.open();
        let left = before(&store);
        if let Some(store) = way(store) {
            after(&store, left);
        }
    }
}

fn keyed(scope: UniqueScope) -> offloop_job::NewJob {
    job("t").unique("k", scope, OnConflict::Keep)
}

pub fn an_empty_store(kit: &Kit) {
    across(
        kit,
        |_| (),
        |store, ()| {
            assert!(store.all_ids().is_empty());
            store.start(at(0));
        },
    );
}

pub fn every_state(kit: &Kit) {
    let all = |store: &Store<'_>| -> Vec<_> {
        let ids = STATES.into_iter().rev().map(|state| in_state(store, state));
        ids.map(|id| store.job(id)).collect()
    };
    across(kit, all, |store, jobs| {
        for job in jobs {
            assert_eq!(store.job(job.summary.id), job);
        }
    });
}

pub fn options_and_payload(kit: &Kit) {
    let asked = || {
        let job = job("t").payload("{\"ü\":[]}");
        job.with(|options| *options = rich_options())
    };
    across(
        kit,
        |store| store.add(at(0), asked()),
        |store, id| {
            store.promote(at(1_000));
            let claimed = store.claim_one(at(1_000));
            assert_eq!((claimed.id, claimed.payload), (id, asked().payload));
            assert_eq!(*claimed.options, asked().options);
        },
    );
}

pub fn the_order_of_ready_jobs(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let later = store.add(at(5), job("t"));
        let low = store.add(at(1), job("t").priority(9));
        let early = store.add(at(2), job("t"));
        let first = store.add(at(8), job("t").priority(0));
        let due_first = store.add(at(0), job("t").run_at(at(1)));
        store.promote(at(1));
        [first, due_first, early, later, low]
    };
    across(kit, add, |store, order| {
        store.promote(at(9));
        assert_eq!(store.claim_ids(at(9)), order);
    });
}

pub fn the_order_of_due_times(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let ids = [30, 10, 20].map(|due| store.add(at(0), job("t").run_at(at(due))));
        let claimed = store.start(at(0));
        store.retry(at(1), &claimed, FailureClass::Error, at(15));
        [ids[1], claimed.id, ids[2], ids[0]]
    };
    across(kit, add, |store, order| {
        for (due, id) in [10, 15, 20, 30].into_iter().zip(order) {
            assert_eq!(store.promote(at(due - 1)).next_due, Some(at(due)));
            store.promote(at(due));
            assert_eq!(store.claim_ids(at(due)), [id]);
        }
    });
}

pub fn a_promoted_job_is_had_again(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let id = store.add(at(0), job("t").run_at(at(10)));
        store.promote(at(10));
        id
    };
    across(kit, add, |store, id| {
        store.promote(at(10));
        assert_eq!(store.claim_ids(at(10)), [id]);
    });
}

pub fn unique_keys(kit: &Kit) {
    for scope in [UniqueScope::UntilFinished, UniqueScope::UntilStarted] {
        across(
            kit,
            |store| store.add(at(0), keyed(scope)),
            |store, id| {
                let same = SameAs::UniqueKey;
                let held = InsertOutcome::Existing { id, same };
                assert_eq!(store.insert_one(at(1), keyed(scope)), held);
                store.cancel(at(2), id);
                store.add(at(3), keyed(scope));
            },
        );
    }
}

pub fn unique_keys_that_were_released(kit: &Kit) {
    use UniqueScope::{UntilFinished, UntilStarted};
    let retry = Verdict::Retry { due: at(9) };
    let rows = [
        (UntilStarted, Verdict::HandBack, JobState::Ready),
        (UntilStarted, retry, JobState::Scheduled),
        (UntilFinished, COMPLETED, JobState::Completed),
    ];
    for (scope, verdict, state) in rows {
        let run = |store: &Store<'_>| {
            store.add(at(0), keyed(scope));
            let claimed = store.claim_one(at(1));
            store.finish(at(2), &claimed, verdict.clone());
            claimed.id
        };
        across(kit, run, |store, id| {
            assert_eq!(store.state(id), state);
            store.add(at(3), keyed(scope));
        });
    }
}

pub fn a_unique_key_that_was_taken_again(kit: &Kit) {
    let revive = |store: &Store<'_>| {
        let id = store.add(at(0), keyed(UniqueScope::UntilStarted));
        let claimed = store.claim_one(at(1));
        store.finish(at(2), &claimed, EXHAUSTED);
        store.revive(at(3), &[id]);
        id
    };
    across(kit, revive, |store, id| {
        let outcome = store.insert_one(at(4), keyed(UniqueScope::UntilStarted));
        let same = SameAs::UniqueKey;
        assert_eq!(outcome, InsertOutcome::Existing { id, same });
    });
}

pub fn idempotency_keys(kit: &Kit) {
    let asked = || job("t").idempotency("i");
    let add = |store: &Store<'_>| {
        let id = store.add(at(0), asked());
        store.cancel(at(1), id);
        store.delete(&[id]);
        id
    };
    across(kit, add, |store, id| {
        let same = SameAs::IdempotencyKey;
        let found = InsertOutcome::Existing { id, same };
        assert_eq!(store.insert_one(at(2), asked()), found);
        let other = store.insert_one(at(2), asked().payload("1"));
        assert!(matches!(other, InsertOutcome::Refused(_)), "{other:?}");
        store.add(at(0).plus(IDEMPOTENCY_KEEP), asked());
    });
}

pub fn pauses(kit: &Kit) {
    let pause = |store: &Store<'_>| {
        store.set_paused("default", true);
        store.set_paused("q", true);
        store.set_paused("q", false);
        store.add(at(0), job("t"));
        store.add(at(0), job("t").queue("q"))
    };
    across(kit, pause, |store, free| {
        assert_eq!(store.claim_ids(at(1)), [free]);
        let status = |queue| store.queue(queue).expect("listed");
        let modes = (status("default").mode, status("q").mode);
        assert_eq!(modes, (Mode::Paused, Mode::Open));
    });
}

pub fn the_counts_of_queues(kit: &Kit) {
    let add = |store: &Store<'_>| {
        store.insert(at(3), vec![job("t"); 3]);
        store.add(at(0), job("t").run_at(at(99)));
        let claimed = store.claim(at(4), &["t"], 2);
        store.finish(at(5), &claimed[0], COMPLETED);
        store.queue("default")
    };
    across(kit, add, |store, queue| {
        assert_eq!(store.queue("default"), queue);
        let counts = queue.expect("listed").counts;
        assert_eq!((counts.scheduled, counts.ready, counts.running), (1, 1, 1));
    });
}

pub fn the_limit_of_a_queue(kit: &Kit) {
    for way in WAYS {
        let store = kit.open_small(2);
        store.insert(at(0), vec![job("t"), job("t").run_at(at(9))]);
        store.claim_one(at(1));
        let Some(store) = way(store) else { return };
        let outcome = store.insert_one(at(2), job("t"));
        assert!(matches!(outcome, InsertOutcome::Refused(_)), "{outcome:?}");
    }
}

pub fn attempts_history_and_streak(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let id = store.add(at(0), job("t"));
        for now in 1..=2 {
            let claimed = store.claim_one(at(now));
            store.retry(at(now), &claimed, FailureClass::Crashed, at(now));
            store.promote(at(now));
        }
        store.job(id)
    };
    across(kit, run, |store, before| {
        assert_eq!(store.job(before.summary.id).attempts, before.attempts);
        store.promote(at(3));
        let claimed = store.claim_one(at(3));
        let history = claimed.history;
        assert_eq!((history.attempt, history.crash_streak), (3, 2));
        store.settle_one(at(4), failed(&claimed, FailureClass::Lost, EXHAUSTED));
    });
}

pub fn ends_over_memory(kit: &Kit) {
    let run = |store: &Store<'_>| {
        store.add(at(0), job("t"));
        let claimed = store.claim_one(at(1));
        store.retry(at(1), &claimed, FailureClass::MemoryLimit, at(1));
        store.promote(at(1));
        store.claim_one(at(2)).history
    };
    across(kit, run, |store, before| {
        let orphan = store.orphans("new", 9).remove(0);
        assert_eq!((orphan.history, before.memory_ends), (before, 1));
        store.finish(at(3), &orphan, Verdict::HandBack);
        assert_eq!(store.claim_one(at(4)).history, before);
    });
}

fn costly(claimed: &Claimed, verdict: Verdict, number: u64) -> Settlement {
    let mut end = settlement(claimed, verdict);
    end.report.usage = Usage {
        wall: Duration::from_millis(number),
        bytes_in: number * 3,
        bytes_out: number * 5,
        executor_age: Some(Duration::from_millis(number * 7)),
        ..Usage::default()
    };
    end
}

/// Of the last attempt, of those before it, and of an earlier life.
pub fn what_an_attempt_cost(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let id = store.add(at(0), job("t"));
        let due = at(0);
        for (number, verdict) in [(1, Verdict::Retry { due }), (2, EXHAUSTED)] {
            let claimed = store.claim_one(at(1));
            store.settle_one(at(1), costly(&claimed, verdict, number));
            store.promote(at(1));
        }
        store.revive(at(2), &[id]);
        let claimed = store.claim_one(at(3));
        store.settle_one(at(3), costly(&claimed, COMPLETED, 3));
        store.job(id)
    };
    across(kit, run, |store, before| {
        let shown = store.job(before.summary.id).attempts;
        assert_eq!(shown, before.attempts);
        let costs: Vec<_> = shown.iter().map(|attempt| attempt.usage).collect();
        for (usage, number) in costs.iter().zip(1..) {
            assert_eq!((usage.bytes_in, usage.bytes_out), (number * 3, number * 5));
            let age = Some(Duration::from_millis(number * 7));
            assert_eq!(usage.executor_age, age);
        }
        assert_eq!(costs.len(), 3);
    });
}

pub fn sums_of_usage(kit: &Kit) {
    let all = |store: &Store<'_>| UsageBy::ALL.map(|by| store.usage(by, at(0)));
    let run = |store: &Store<'_>| {
        for number in 1..=3 {
            store.add(at(number), job("t").queue("q").tag("x"));
            let claimed = store.claim_one(at(number));
            store.settle_one(at(number), costly(&claimed, COMPLETED, number));
        }
        all(store)
    };
    across(kit, run, |store, before| {
        assert_eq!(all(store), before);
        assert_eq!(before[2].rows[0].total.attempts, 3);
        let claimed = store.start(at(4));
        store.settle_one(at(4), costly(&claimed, COMPLETED, 10));
        let task = store.usage(UsageBy::Task, at(0)).rows.remove(0);
        assert_eq!((task.total.attempts, task.total.bytes_in), (4, 48));
    });
}

/// The limit of an hour is not given anew by a restart.
pub fn the_names_that_have_sums_of_their_own(kit: &Kit) {
    let run_one = |store: &Store<'_>, tag: &str| {
        store.add(at(0), job("t").tag(tag));
        let claimed = store.claim_one(at(0));
        store.settle_one(at(0), costly(&claimed, COMPLETED, 1));
    };
    let run = |store: &Store<'_>| {
        for number in 0..USAGE_NAMES_MAX {
            run_one(store, &format!("n{number}"));
        }
    };
    across(kit, run, |store, ()| {
        run_one(store, "new");
        run_one(store, "n7");
        let rows = store.usage(UsageBy::Tag, at(0)).rows;
        assert_eq!(rows.len(), USAGE_NAMES_MAX + 1);
        let of = |name: Option<&str>| {
            let row = rows.iter().find(|row| row.name.as_deref() == name);
            row.map(|row| row.total.attempts)
        };
        assert_eq!(
            (of(None), of(Some("n7")), of(Some("new"))),
            (Some(1), Some(2), None)
        );
    });
}

pub fn finished_jobs(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let claimed = store.start(at(0));
        let result = Some("{\"ü\":1}".into());
        store.finish(at(1), &claimed, Verdict::Completed { result });
        let dead = store.start(at(2));
        store.settle_one(at(3), failed(&dead, FailureClass::Timeout, EXHAUSTED));
        [claimed.id, dead.id].map(|id| store.job(id))
    };
    across(kit, run, |store, jobs| {
        let ids = jobs.each_ref().map(|job| job.summary.id);
        assert_eq!(ids.map(|id| store.job(id)), jobs);
        assert_eq!(store.all_ids(), [ids[1], ids[0]]);
    });
}

pub fn running_jobs_are_orphans_of_the_old_node(kit: &Kit) {
    let run = |store: &Store<'_>| {
        store.insert(at(0), vec![job("t"); 3]);
        let claimed = store.claim_as("old", at(1), vec![want(&["t"], 2)]);
        store.cancel(at(2), claimed[1].id);
        claimed
    };
    across(kit, run, |store, claimed| {
        let mut orphans = store.orphans("new", 9);
        assert!(!orphans[0].cancelling && orphans[1].cancelling);
        orphans[1].cancelling = false;
        assert_eq!(orphans, claimed);
        assert_eq!(store.claim_ids(at(3)).len(), 1, "not had twice");
        store.finish(at(4), &orphans[0], Verdict::HandBack);
        let end = settlement(&orphans[1], Verdict::HandBack);
        let state = JobState::Cancelled;
        assert_eq!(store.settle_one(at(4), end), Settled::Done(state));
    });
}

pub fn a_settlement_that_was_answered(kit: &Kit) {
    for (verdict, state) in super::settle::verdicts() {
        let run = |store: &Store<'_>| {
            let claimed = store.start(at(0));
            store.finish(at(1), &claimed, verdict.clone());
            claimed
        };
        across(kit, run, |store, claimed| {
            let end = settlement(&claimed, verdict.clone());
            let settled = store.settle_one(at(2), end);
            assert_eq!(settled, Settled::Already(state));
        });
    }
}

pub fn the_last_note(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let claimed = store.start(at(0));
        store.note(at(1), claimed.id, claimed.lease, "\"half\"");
        store.job(claimed.id)
    };
    across(kit, run, |store, before| {
        assert!(before.progress.is_some());
        assert_eq!(store.job(before.summary.id), before);
    });
}

pub fn ids_keep_growing(kit: &Kit) {
    let add = |store: &Store<'_>| {
        let ids = store.insert(at(50), vec![job("t"); 20]);
        let last = created(&ids[19]);
        store.cancel(at(50), last);
        last
    };
    across(kit, add, |store, last| {
        for now in [0, 50, 51] {
            let id = store.add(at(now), job("t"));
            assert!(id > last, "{id} after {last}, at {now}");
        }
    });
}

pub fn leases_keep_growing(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let first = store.start(at(0));
        store.finish(at(1), &first, Verdict::HandBack);
        let second = store.claim_one(at(2));
        store.finish(at(3), &second, COMPLETED);
        let third = store.start(at(4));
        store.finish(at(5), &third, Verdict::HandBack);
        (first, third)
    };
    across(kit, run, |store, (first, third)| {
        let again = store.claim_one(at(6));
        assert_eq!(again.id, third.id);
        assert!(again.lease > third.lease && third.lease > first.lease);
        let late = settlement(&third, COMPLETED);
        assert_eq!(store.settle_one(at(7), late), Settled::Stale);
    });
}

pub fn leases_grow_even_if_no_row_remembers_them(kit: &Kit) {
    let run = |store: &Store<'_>| {
        let claimed = store.start(at(0));
        store.finish(at(1), &claimed, COMPLETED);
        store.delete(&[claimed.id]);
        claimed.lease
    };
    across(kit, run, |store, lease| {
        let claimed = store.start(at(2));
        assert!(claimed.lease > lease);
    });
}

pub fn records(kit: &Kit) {
    let write = |store: &Store<'_>| {
        let rows = ["b", "a", "c"].map(|key| record(key, "NEW", key));
        store.insert_with(at(0), vec![job("t")], rows.into());
        store.write_records(at(1), vec![record("a", "DONE", "2"), crate::remove("c")]);
        store.scan("photos", None, 9)
    };
    across(kit, write, |store, rows| {
        assert_eq!(rows.len(), 2);
        assert_eq!(store.scan("photos", None, 1), rows);
        assert_eq!(store.label_counts("photos").len(), 2);
    });
}

pub fn what_was_pruned_stays_gone(kit: &Kit) {
    let prune = |store: &Store<'_>| {
        let ids: Vec<JobId> = (0..5)
            .map(|_| in_state(store, JobState::Cancelled))
            .collect();
        store.prune(PruneRule {
            now: at(1),
            completed_for: IDEMPOTENCY_KEEP,
            others_for: IDEMPOTENCY_KEEP,
            rows_max: 2,
            rows_per_call: 100,
        });
        ids
    };
    across(kit, prune, |store, ids| {
        let left: Vec<_> = ids[3..].iter().rev().copied().collect();
        assert_eq!(store.all_ids(), left);
    });
}

pub fn several_restarts(kit: &Kit) {
    let mut store = kit.open();
    let mut last = None;
    for step in 0..5_u64 {
        let id = store.add(at(step), job("t").payload(step.to_string()));
        assert!(Some(id) > last);
        last = Some(id);
        let way = WAYS[step as usize % 2];
        let Some(next) = way(store) else { return };
        store = next;
    }
    let claimed = store.claim(at(9), &["t"], 9);
    let payloads: Vec<_> = claimed.iter().map(|claimed| &claimed.payload[..]).collect();
    assert_eq!(payloads, [b"0", b"1", b"2", b"3", b"4"]);
    assert_eq!(claimed[0].id.created().as_millis(), T0);
}
