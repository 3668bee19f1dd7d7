//! Sums of what attempts cost: each attempt counts once, under every name that it has.

use std::time::Duration;

use offloop_job::{Failure, FailureClass, JobState, Timestamp, Usage};
use offloop_store::{
    Claimed, PruneRule, Settled, Settlement, USAGE_KEEP, USAGE_NAMES_MAX, USAGE_SUM_MAX, UsageAsk,
    UsageBy, UsageRow, UsageSum, Verdict,
};

use crate::store::{COMPLETED, EXHAUSTED, failed, settlement, wait};
use crate::{Draft, Kit, Store, at, job};

const HOUR_MS: u64 = 3_600_000;
/// A class that attempts are settled by, and the verdict.
type End = (Option<FailureClass>, Verdict);

/// The end of an attempt that cost `ms` of everything.
fn cost(claimed: &Claimed, (class, verdict): End, now: Timestamp, ms: u64) -> Settlement {
    let mut end = settlement(claimed, verdict);
    end.report.ended_at = now;
    end.report.wait = Duration::from_millis(ms * 2);
    end.report.usage = Usage {
        wall: Duration::from_millis(ms),
        cpu: Some(Duration::from_micros(ms * 1_500)),
        max_rss_bytes: Some(ms << 20),
        bytes_in: ms * 10,
        bytes_out: ms * 100,
        executor_age: None,
    };
    end.report.failure = class.map(|class| Failure::new(class, "x"));
    end
}

/// Runs a job of task `t` that completes after `ms`.
fn run(store: &Store<'_>, now: Timestamp, asked: offloop_job::NewJob, ms: u64) {
    store.add(now, asked);
    let claimed = store.claim_one(now);
    let end = cost(&claimed, (None, COMPLETED), now, ms);
    assert_eq!(
        store.settle_one(now, end),
        Settled::Done(JobState::Completed)
    );
}

fn names(rows: &[UsageRow]) -> Vec<&str> {
    rows.iter()
        .map(|row| row.name.as_deref().unwrap_or("(rest)"))
        .collect()
}

pub fn without_attempts_there_are_no_rows(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t").tag("x"));
    store.cancel(at(1), id);
    for by in UsageBy::ALL {
        let sums = store.usage(by, at(0));
        assert!(sums.rows.is_empty() && !sums.truncated, "{by:?}: {sums:?}");
    }
}

pub fn an_attempt_counts_under_its_task_queue_and_tags(kit: &Kit) {
    let store = kit.open();
    run(&store, at(0), job("t").queue("q").tag("b").tag("a"), 7);
    run(&store, at(1), job("t").queue("r").tag("a"), 5);
    run(&store, at(2), job("t").queue("q"), 3);
    let total = |by| -> Vec<_> {
        let rows = store.usage(by, at(0)).rows;
        let row = |row: &UsageRow| (row.name.clone().expect("a name"), row.total.wall_us / 1_000);
        rows.iter().map(row).collect()
    };
    assert_eq!(total(UsageBy::Task), [("t".into(), 15)]);
    assert_eq!(total(UsageBy::Queue), [("q".into(), 10), ("r".into(), 5)]);
    assert_eq!(total(UsageBy::Tag), [("a".into(), 12), ("b".into(), 7)]);
}

pub fn every_part_of_the_cost_is_summed(kit: &Kit) {
    let store = kit.open();
    for ms in [3, 9, 4] {
        run(&store, at(ms), job("t"), ms);
    }
    let want = UsageSum {
        attempts: 3,
        wall_us: 16_000,
        cpu_us: Some(24_000),
        wait_us: 32_000,
        max_rss_bytes: Some(9 << 20),
        bytes_in: 160,
        bytes_out: 1_600,
    };
    let sums = store.usage(UsageBy::Task, at(0));
    assert_eq!(sums.rows[0].total, want);
    assert_eq!((sums.rows[0].completed, sums.rows[0].failed.len()), (3, 0));
}

pub fn what_a_lane_cannot_tell_is_not_counted_as_nothing(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, COMPLETED);
    let total = store.usage(UsageBy::Queue, at(0)).rows[0].total;
    assert_eq!((total.cpu_us, total.max_rss_bytes), (None, None));
    run(&store, at(2), job("t"), 4);
    let total = store.usage(UsageBy::Queue, at(0)).rows[0].total;
    assert_eq!(total.cpu_us, Some(6_000));
    assert_eq!(total.max_rss_bytes, Some(4 << 20));
}

pub fn attempts_are_told_apart_by_their_end(kit: &Kit) {
    use FailureClass::{Crashed, MemoryLimit, OutputLimit};
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    let retry = |class| (Some(class), Verdict::Retry { due: at(0) });
    let ends = [
        retry(OutputLimit),
        retry(MemoryLimit),
        retry(MemoryLimit),
        (Some(Crashed), EXHAUSTED),
    ];
    for end in ends {
        store.promote(at(0));
        let claimed = store.claim_one(at(0));
        store.settle_one(at(0), cost(&claimed, end, at(0), 1));
    }
    run(&store, at(1), job("t"), 1);
    let row = store.usage(UsageBy::Task, at(0)).rows.remove(0);
    let want = [(MemoryLimit, 2), (Crashed, 1), (OutputLimit, 1)];
    assert_eq!((row.completed, row.failed), (1, want.to_vec()));
    assert_eq!(row.total.attempts, 5);
    assert_eq!(store.job(id).attempts.len(), 4);
}

pub fn a_refused_or_repeated_settlement_counts_nothing(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.finish(at(1), &first, Verdict::HandBack);
    let second = store.claim_one(at(2));
    let end = cost(&second, (None, COMPLETED), at(3), 5);
    let stale = cost(&first, (None, COMPLETED), at(3), 5);
    store.settle(at(3), vec![stale.clone(), end.clone(), end.clone(), stale]);
    store.settle_one(at(4), end);
    let rows = store.usage(UsageBy::Task, at(0)).rows;
    assert_eq!((rows.len(), rows[0].total.attempts), (1, 1));
}

pub fn an_attempt_that_was_handed_back_counts_nothing(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, Verdict::HandBack);
    assert!(store.usage(UsageBy::Task, at(0)).rows.is_empty());
    // Applied as an abort, because a cancel was answered: then it has happened.
    let claimed = store.claim_one(at(2));
    store.cancel(at(3), claimed.id);
    let end = failed(&claimed, FailureClass::Cancelled, Verdict::HandBack);
    store.settle_one(at(4), end);
    let rows = store.usage(UsageBy::Task, at(0)).rows;
    assert_eq!(rows[0].failed, [(FailureClass::Cancelled, 1)]);
}

pub fn a_tag_that_is_given_twice_counts_once(kit: &Kit) {
    let store = kit.open();
    run(&store, at(0), job("t").tag("x").tag("y").tag("x"), 3);
    let rows = store.usage(UsageBy::Tag, at(0)).rows;
    assert_eq!(names(&rows), ["x", "y"], "equal sums go by name");
    assert!(rows.iter().all(|row| row.total.attempts == 1));
}

pub fn hours_before_the_first_are_left_out(kit: &Kit) {
    let store = kit.open();
    for hour in 0..3 {
        run(&store, at(hour * HOUR_MS), job("t"), 1);
    }
    // T0 is the start of an hour.
    for (since, first, attempts) in [
        (at(0), at(0), 3),
        (at(HOUR_MS - 1), at(0), 3),
        (at(HOUR_MS), at(HOUR_MS), 2),
        (at(2 * HOUR_MS + 9), at(2 * HOUR_MS), 1),
    ] {
        let sums = store.usage(UsageBy::Task, since);
        assert_eq!(sums.since, first);
        assert_eq!(sums.rows[0].total.attempts, attempts, "since {since}");
    }
    assert!(store.usage(UsageBy::Task, at(3 * HOUR_MS)).rows.is_empty());
}

pub fn an_attempt_of_an_hour_that_was_left_counts_there(kit: &Kit) {
    let store = kit.open();
    for hour in [5, 0, 9, 5, 0, 3, 1, 5] {
        run(&store, at(hour * HOUR_MS), job("t").tag("x"), 1);
    }
    for by in UsageBy::ALL {
        let count = |hour| store.usage(by, at(hour * HOUR_MS)).rows[0].total.attempts;
        assert_eq!([0, 1, 2, 4, 6].map(count), [8, 6, 5, 4, 1], "{by:?}");
    }
}

pub fn the_most_expensive_come_first_and_the_rest_is_told(kit: &Kit) {
    let store = kit.open();
    for (queue, ms) in [("a", 2), ("b", 9), ("c", 2), ("d", 5)] {
        run(&store, at(0), job("t").queue(queue), ms);
    }
    let ask = |limit| {
        let (by, since) = (UsageBy::Queue, at(0));
        wait(store.engine().usage(UsageAsk { by, since, limit }))
    };
    let all = ask(4);
    assert_eq!(names(&all.rows), ["b", "d", "a", "c"]);
    assert!(!all.truncated);
    let some = ask(3);
    assert_eq!((names(&some.rows).len(), some.truncated), (3, true));
    assert_eq!(some.rows[..], all.rows[..3]);
}

/// A tag per customer must not make a row per customer and hour.
pub fn names_over_the_limit_of_their_hour_are_summed_together(kit: &Kit) {
    let store = kit.open();
    let over = 3;
    for number in 0..USAGE_NAMES_MAX + over {
        run(&store, at(0), job("t").tag(&format!("n{number}")), 1);
    }
    run(&store, at(0), job("t").tag("n0"), 1);
    let rows = store.usage(UsageBy::Tag, at(0)).rows;
    assert_eq!(rows.len(), USAGE_NAMES_MAX + 1);
    let rest = rows.iter().find(|row| row.name.is_none()).expect("a rest");
    assert_eq!(rest.total.attempts, over as u64);
    assert_eq!(names(&rows)[..2], ["(rest)", "n0"]);
    assert_eq!(rows[1].total.attempts, 2, "its place was kept");
    run(&store, at(HOUR_MS), job("t").tag("late"), 1);
    let next = store.usage(UsageBy::Tag, at(HOUR_MS)).rows;
    assert_eq!(names(&next), ["late"], "another hour has room");
    let sum: u64 = rows.iter().map(|row| row.total.attempts).sum();
    assert_eq!(sum, (USAGE_NAMES_MAX + over + 1) as u64);
}

pub fn sums_outlive_their_jobs(kit: &Kit) {
    let store = kit.open();
    run(&store, at(0), job("t").tag("x"), 3);
    run(&store, at(0), job("t").tag("x"), 3);
    let ids = store.all_ids();
    store.delete(&ids[..1]);
    store.prune(prune(at(10), Duration::ZERO));
    assert!(store.all_ids().is_empty());
    for by in UsageBy::ALL {
        assert_eq!(store.usage(by, at(0)).rows[0].total.attempts, 2);
    }
}

const fn prune(now: Timestamp, completed_for: Duration) -> PruneRule {
    PruneRule {
        now,
        completed_for,
        others_for: Duration::MAX,
        rows_max: u64::MAX,
        rows_per_call: 10,
    }
}

pub fn old_hours_are_forgotten(kit: &Kit) {
    let store = kit.open();
    for hour in 0..4 {
        run(&store, at(hour * HOUR_MS), job("t").tag("x"), 1);
    }
    let keep = USAGE_KEEP.as_millis() as u64;
    store.prune(prune(at(keep + HOUR_MS - 1), Duration::MAX));
    let count = |by| store.usage(by, at(0)).rows[0].total.attempts;
    assert_eq!(UsageBy::ALL.map(count), [4; 3], "none is old enough");
    store.prune(prune(at(keep + 2 * HOUR_MS), Duration::MAX));
    assert_eq!(UsageBy::ALL.map(count), [2; 3]);
    // A late one opens its hour again.
    run(&store, at(0), job("t").tag("x"), 1);
    assert_eq!(UsageBy::ALL.map(count), [3; 3]);
}

/// A lane that reports nonsense must not stop the others from being settled.
pub fn a_sum_that_would_overflow_stops_at_its_end(kit: &Kit) {
    let store = kit.open();
    for _ in 0..2 {
        let claimed = store.start(at(0));
        let mut end = settlement(&claimed, COMPLETED);
        end.report.ended_at = at(0);
        end.report.usage = Usage {
            wall: Duration::from_micros(USAGE_SUM_MAX),
            cpu: Some(Duration::from_micros(USAGE_SUM_MAX)),
            max_rss_bytes: Some(USAGE_SUM_MAX),
            bytes_in: USAGE_SUM_MAX,
            bytes_out: USAGE_SUM_MAX,
            executor_age: Some(Duration::from_micros(USAGE_SUM_MAX)),
        };
        let settled = store.settle_one(at(0), end.clone());
        assert_eq!(settled, Settled::Done(JobState::Completed));
        assert_eq!(store.job(claimed.id).attempts[0].usage, end.report.usage);
    }
    let total = store.usage(UsageBy::Task, at(0)).rows[0].total;
    assert_eq!(total.attempts, 2);
    assert_eq!(
        (total.wall_us, total.cpu_us),
        (USAGE_SUM_MAX, Some(USAGE_SUM_MAX))
    );
    assert_eq!(
        (total.bytes_in, total.bytes_out),
        (USAGE_SUM_MAX, USAGE_SUM_MAX)
    );
}
