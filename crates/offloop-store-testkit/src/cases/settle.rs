//! Ending attempts: under the fence of their lease, once, with everything on record.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::ATTEMPTS_KEPT_MAX;
use offloop_job::{
    Attempt, Failure, FailureClass, FinalReason, JobState, Lease, LogTail, NodeId, Usage,
};
use offloop_store::{AttemptReport, Claimed, Settled, Settlement, Verdict};

use crate::store::{COMPLETED, EXHAUSTED, failed, settlement};
use crate::{Draft, Kit, Store, at, job, record};

/// One verdict of each kind, and the state that it leads to.
pub(crate) fn verdicts() -> [(Verdict, JobState); 5] {
    [
        (COMPLETED, JobState::Completed),
        (Verdict::Retry { due: at(500) }, JobState::Scheduled),
        (EXHAUSTED, JobState::Failed),
        (Verdict::HandBack, JobState::Ready),
        (Verdict::Abort, JobState::Cancelled),
    ]
}

pub fn every_verdict_leads_to_its_state(kit: &Kit) {
    let store = kit.open();
    for (verdict, state) in verdicts() {
        let claimed = store.start(at(0));
        let end = settlement(&claimed, verdict.clone());
        assert_eq!(store.settle_one(at(1), end), Settled::Done(state));
        let shown = store.job(claimed.id).summary;
        assert_eq!(shown.state, state, "{verdict:?}");
        let finished = state.is_final().then_some(at(1));
        assert_eq!(shown.finished_at, finished, "{verdict:?}");
        let started = state.is_final().then_some(at(0));
        assert_eq!(shown.started_at, started, "{verdict:?}");
        store.cancel(at(1), claimed.id);
    }
}

pub fn refuses_a_stale_lease(kit: &Kit) {
    for (verdict, _) in verdicts() {
        let store = kit.open();
        let first = store.start(at(0));
        store.finish(at(1), &first, Verdict::HandBack);
        let second = store.claim_one(at(2));
        let end = settlement(&first, verdict.clone());
        assert_eq!(store.settle_one(at(3), end), Settled::Stale, "{verdict:?}");
        let shown = store.job(first.id);
        assert_eq!(shown.summary.state, JobState::Running);
        assert_eq!((shown.summary.attempt, shown.attempts.len()), (1, 1));
        let state = store.finish(at(4), &second, COMPLETED);
        assert_eq!(state, JobState::Completed);
    }
}

pub fn refuses_a_lease_that_was_never_given(kit: &Kit) {
    let store = kit.open();
    let mut claimed = store.start(at(0));
    let idle = store.add(at(0), job("t"));
    for lease in [0, claimed.lease.0 + 1, u64::MAX >> 1] {
        claimed.lease = Lease(lease);
        let end = settlement(&claimed, COMPLETED);
        assert_eq!(store.settle_one(at(1), end), Settled::Stale, "{lease}");
        let mut end = settlement(&claimed, COMPLETED);
        end.id = idle;
        assert_eq!(store.settle_one(at(1), end), Settled::Stale, "{lease}");
    }
    assert_eq!(store.state(claimed.id), JobState::Running);
    assert_eq!(store.state(idle), JobState::Ready);
}

pub fn refuses_the_lease_of_another_job(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    let second = store.start(at(0));
    let crossed = Claimed {
        lease: second.lease,
        ..first.clone()
    };
    let end = settlement(&crossed, COMPLETED);
    assert_eq!(store.settle_one(at(1), end), Settled::Stale);
    assert_eq!(store.state(first.id), JobState::Running);
    assert_eq!(store.state(second.id), JobState::Running);
}

pub fn refuses_a_job_that_is_gone(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, COMPLETED);
    store.delete(&[claimed.id]);
    let end = settlement(&claimed, COMPLETED);
    assert_eq!(store.settle_one(at(2), end), Settled::Stale);
    assert_eq!(store.find(claimed.id), None);
}

pub fn refuses_the_lease_of_an_earlier_life(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, EXHAUSTED);
    store.revive(at(2), &[claimed.id]);
    let end = settlement(&claimed, COMPLETED);
    assert_eq!(store.settle_one(at(3), end), Settled::Stale);
    assert_eq!(store.state(claimed.id), JobState::Ready);
}

pub fn twice_answers_already(kit: &Kit) {
    let store = kit.open();
    for (verdict, state) in verdicts() {
        let claimed = store.start(at(0));
        store.finish(at(1), &claimed, verdict.clone());
        let before = store.job(claimed.id);
        let end = settlement(&claimed, verdict.clone());
        let settled = store.settle_one(at(2), end);
        assert_eq!(settled, Settled::Already(state), "{verdict:?}");
        assert_eq!(store.job(claimed.id), before, "{verdict:?}");
        store.cancel(at(2), claimed.id);
    }
}

pub fn twice_with_another_verdict_changes_nothing(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, COMPLETED);
    let end = settlement(&claimed, EXHAUSTED);
    let settled = store.settle_one(at(2), end);
    assert_eq!(settled, Settled::Already(JobState::Completed));
    assert_eq!(store.job(claimed.id).summary.reason, None);
}

pub fn already_answers_the_state_of_now(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let verdict = Verdict::Retry { due: at(10) };
    store.finish(at(1), &claimed, verdict.clone());
    store.promote(at(10));
    let again = || store.settle_one(at(11), settlement(&claimed, verdict.clone()));
    assert_eq!(again(), Settled::Already(JobState::Ready));
    store.cancel(at(12), claimed.id);
    assert_eq!(again(), Settled::Already(JobState::Cancelled));
}

pub fn twice_in_one_batch_is_applied_once(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = failed(&claimed, FailureClass::Error, Verdict::Retry { due: at(9) });
    let settled = store.settle(at(1), vec![end.clone(), end]);
    let state = JobState::Scheduled;
    assert_eq!(settled, [Settled::Done(state), Settled::Already(state)]);
    assert_eq!(store.job(claimed.id).attempts.len(), 1);
}

pub fn answers_in_the_order_of_the_batch(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 3]);
    let claimed = store.claim(at(1), &["t"], 3);
    let stale = Claimed {
        lease: Lease(claimed[2].lease.0 + 1),
        ..claimed[1].clone()
    };
    let batch = vec![
        settlement(&claimed[2], COMPLETED),
        settlement(&stale, COMPLETED),
        settlement(&claimed[0], EXHAUSTED),
        settlement(&claimed[1], Verdict::Abort),
    ];
    let want = [
        Settled::Done(JobState::Completed),
        Settled::Stale,
        Settled::Done(JobState::Failed),
        Settled::Done(JobState::Cancelled),
    ];
    assert_eq!(store.settle(at(2), batch), want);
    assert!(store.settle(at(2), vec![]).is_empty());
}

pub fn completed_keeps_its_result(kit: &Kit) {
    let store = kit.open();
    for result in [None, Some("null"), Some("{\"ü\":1}")] {
        let result = result.map(|text| Bytes::from_static(text.as_bytes()));
        let claimed = store.start(at(0));
        let verdict = Verdict::Completed {
            result: result.clone(),
        };
        store.finish(at(1), &claimed, verdict);
        assert_eq!(store.job(claimed.id).result, result);
    }
}

pub fn a_retry_waits_for_its_due_time(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.retry(at(1), &claimed, FailureClass::Error, at(100));
    assert_eq!(store.job(claimed.id).summary.due_at, at(100));
    assert_eq!(store.promote(at(99)).next_due, Some(at(100)));
    assert!(store.claim_ids(at(99)).is_empty());
    assert_eq!(store.promote(at(100)).jobs, 1);
    let again = store.claim_one(at(101));
    assert_eq!((again.id, again.due_at), (claimed.id, at(100)));
}

pub fn a_retry_that_is_due_already_is_scheduled_first(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.retry(at(10), &claimed, FailureClass::Error, at(5));
    assert!(store.claim_ids(at(10)).is_empty());
    assert_eq!(store.promote(at(10)).jobs, 1);
    assert_eq!(store.claim_ids(at(10)), [claimed.id]);
}

pub fn a_retry_takes_its_place_by_its_new_due_time(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let other = store.add(at(5), job("t"));
    store.retry(at(6), &claimed, FailureClass::Error, at(10));
    store.promote(at(10));
    assert_eq!(store.claim_ids(at(10)), [other, claimed.id]);
}

pub fn hand_back_does_not_spend_the_attempt(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.retry(at(1), &first, FailureClass::Crashed, at(2));
    store.promote(at(2));
    for _ in 0..5 {
        let claimed = store.claim_one(at(3));
        let history = (claimed.history.attempt, claimed.history.crash_streak);
        assert_eq!(history, (2, 1));
        store.finish(at(4), &claimed, Verdict::HandBack);
        assert_eq!(store.job(first.id).summary.attempt, 1);
    }
}

pub fn hand_back_leaves_no_record(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = failed(&claimed, FailureClass::Cancelled, Verdict::HandBack);
    store.settle_one(at(1), end);
    let shown = store.job(claimed.id);
    assert!(shown.attempts.is_empty(), "{shown:?}");
    assert_eq!(
        (shown.summary.failure, shown.summary.started_at),
        (None, None)
    );
}

pub fn hand_back_keeps_its_place_in_the_line(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let other = store.add(at(5), job("t"));
    store.finish(at(9), &claimed, Verdict::HandBack);
    assert_eq!(store.job(claimed.id).summary.due_at, at(0));
    assert_eq!(store.claim_ids(at(10)), [claimed.id, other]);
}

pub fn hand_back_never_gives_a_lease_again(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.finish(at(1), &first, Verdict::HandBack);
    let second = store.claim_one(at(2));
    assert!(second.lease > first.lease);
    let late = settlement(&first, COMPLETED);
    assert_eq!(store.settle_one(at(3), late), Settled::Stale);
}

pub fn keeps_every_failed_attempt(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    let classes = [
        FailureClass::Error,
        FailureClass::Timeout,
        FailureClass::Crashed,
    ];
    let mut leases = vec![];
    for (class, now) in classes.into_iter().zip(1_u64..) {
        let claimed = store.claim_one(at(now));
        leases.push(claimed.lease);
        store.retry(at(now), &claimed, class, at(now));
        store.promote(at(now));
        let failure = store.job(id).summary.failure;
        assert_eq!(failure.map(|failure| failure.class), Some(class));
    }
    let last = store.claim_one(at(9));
    store.finish(at(9), &last, COMPLETED);
    let shown = store.job(id);
    let numbers: Vec<_> = shown.attempts.iter().map(|a| a.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
    let kept: Vec<_> = shown.attempts[..3].iter().map(|a| a.lease).collect();
    assert_eq!(kept, leases);
    let kept = shown.attempts.iter().map(|a| a.failure.as_ref());
    let kept: Vec<_> = kept.map(|failure| failure.map(|f| f.class)).collect();
    let [a, b, c] = classes;
    assert_eq!(kept, [Some(a), Some(b), Some(c), None]);
}

pub fn drops_the_oldest_attempts_over_the_limit(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), job("t"));
    let runs = ATTEMPTS_KEPT_MAX as u64 + 5;
    for now in 1..=runs {
        let claimed = store.claim_one(at(now));
        assert!(store.job(id).attempts.len() <= ATTEMPTS_KEPT_MAX);
        store.retry(at(now), &claimed, FailureClass::Error, at(now));
        store.promote(at(now));
    }
    let shown = store.job(id);
    let numbers = shown
        .attempts
        .iter()
        .map(|attempt| u64::from(attempt.number));
    let kept: Vec<_> = (6..=runs).collect();
    assert_eq!(numbers.collect::<Vec<_>>(), kept);
    assert_eq!(u64::from(shown.summary.attempt), runs);
}

pub fn an_attempt_comes_back_whole(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let failure = Failure::new(FailureClass::MemoryLimit, "výše než 300 MiB \u{1F4A5}");
    let report = AttemptReport {
        node: NodeId("node 7".into()),
        lane: "process".into(),
        executor: "pid 4711".into(),
        started_at: at(3),
        ended_at: at(1_234),
        wait: Duration::from_millis(3),
        usage: Usage {
            wall: Duration::from_millis(1_231),
            cpu: Some(Duration::from_millis(2_047)),
            max_rss_bytes: Some(314_572_801),
            bytes_in: 1_048_576,
            bytes_out: 5_000_000_001,
            executor_age: Some(Duration::from_micros(3_600_000_001)),
        },
        failure: Some(failure.with_exit(Some(137), Some(9))),
        log: LogTail {
            head: Bytes::from_static(b"begin\n\xff\x00"),
            tail: Bytes::from_static(b"end\n"),
            dropped_bytes: 5_000_000_000,
        },
    };
    let end = Settlement {
        report: report.clone(),
        ..settlement(&claimed, EXHAUSTED)
    };
    store.settle_one(at(1_300), end);
    let want = Attempt {
        number: 1,
        lease: claimed.lease,
        node: report.node,
        lane: report.lane,
        executor: report.executor,
        started_at: report.started_at,
        ended_at: Some(report.ended_at),
        wait: report.wait,
        usage: report.usage,
        failure: report.failure.clone(),
        log: report.log,
    };
    let shown = store.job(claimed.id);
    assert_eq!(shown.attempts, [want]);
    assert_eq!(shown.summary.failure, report.failure);
}

/// Ends an attempt by `class` and makes the next one ready.
fn fail(store: &Store<'_>, class: Option<FailureClass>) -> Claimed {
    let claimed = store.claim_one(at(1));
    let mut end = settlement(&claimed, Verdict::Retry { due: at(1) });
    end.report.failure = class.map(|class| Failure::new(class, "x"));
    store.settle_one(at(1), end);
    store.promote(at(1));
    claimed
}

pub fn the_crash_streak_grows_and_is_reset(kit: &Kit) {
    use FailureClass::{Crashed, Error, Lost, MemoryLimit, Timeout};
    let store = kit.open();
    store.add(
        at(0),
        job("t").with(|options| options.retry.max_attempts = 99),
    );
    #[rustfmt::skip]
    let rows = [
        (0, Some(Crashed)), (1, Some(Lost)), (2, Some(MemoryLimit)), (3, Some(Error)),
        (0, Some(Crashed)), (1, Some(Timeout)), (0, Some(Lost)), (1, None), (0, None),
    ];
    for (streak_before, class) in rows {
        let claimed = fail(&store, class);
        assert_eq!(
            claimed.history.crash_streak, streak_before,
            "before {class:?}"
        );
    }
}

pub fn only_retried_ends_over_memory_are_counted(kit: &Kit) {
    use FailureClass::{Crashed, Error, MemoryLimit, ProcessLimit};
    let store = kit.open();
    store.add(
        at(0),
        job("t").with(|options| options.retry.max_attempts = 99),
    );
    #[rustfmt::skip]
    let rows = [
        (0, Some(Error)), (0, Some(MemoryLimit)), (1, Some(Crashed)), (1, None),
        (1, Some(ProcessLimit)), (1, Some(MemoryLimit)), (2, Some(Error)),
    ];
    for (ends_before, class) in rows {
        let claimed = fail(&store, class);
        let ends = claimed.history.memory_ends;
        assert_eq!(ends, ends_before, "before {class:?}");
    }
    // An attempt that is handed back has not happened, whatever it says of its end.
    let back = store.claim_one(at(2));
    store.settle_one(at(2), failed(&back, MemoryLimit, Verdict::HandBack));
    assert_eq!(store.claim_one(at(2)).history.memory_ends, 2);
}

pub fn give_up_keeps_its_reason(kit: &Kit) {
    let store = kit.open();
    for reason in FinalReason::ALL {
        let claimed = store.start(at(0));
        let end = failed(&claimed, FailureClass::Crashed, Verdict::GiveUp { reason });
        store.settle_one(at(1), end);
        let shown = store.job(claimed.id);
        assert_eq!(shown.summary.state, JobState::Failed);
        assert_eq!(shown.summary.reason, Some(reason));
        assert_eq!(shown.attempts.len(), 1);
    }
}

pub fn abort_spends_the_attempt(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    let end = failed(&claimed, FailureClass::Cancelled, Verdict::Abort);
    store.settle_one(at(1), end);
    let shown = store.job(claimed.id);
    assert_eq!((shown.summary.attempt, shown.attempts.len()), (1, 1));
    assert_eq!(
        shown.summary.failure.map(|f| f.class),
        Some(FailureClass::Cancelled)
    );
    assert_eq!(shown.summary.reason, None);
}

pub fn a_job_whose_cancel_was_answered_does_not_run_again(kit: &Kit) {
    for verdict in [Verdict::Retry { due: at(5) }, Verdict::HandBack] {
        let store = kit.open();
        let claimed = store.start(at(0));
        store.cancel(at(1), claimed.id);
        let end = failed(&claimed, FailureClass::Error, verdict.clone());
        let settled = store.settle_one(at(2), end);
        let state = JobState::Cancelled;
        assert_eq!(settled, Settled::Done(state), "{verdict:?}");
        store.promote(at(9));
        assert!(store.claim_ids(at(9)).is_empty(), "{verdict:?}");
        assert_eq!(store.job(claimed.id).attempts.len(), 1, "{verdict:?}");
    }
}

pub fn a_job_whose_cancel_came_too_late_keeps_its_end(kit: &Kit) {
    let store = kit.open();
    for (verdict, state) in [
        (COMPLETED, JobState::Completed),
        (EXHAUSTED, JobState::Failed),
    ] {
        let claimed = store.start(at(0));
        store.cancel(at(1), claimed.id);
        assert_eq!(store.finish(at(2), &claimed, verdict), state);
        let shown = store.job(claimed.id).summary;
        assert_eq!((shown.state, shown.cancelling), (state, false));
    }
}

pub fn writes_records_in_the_same_commit(kit: &Kit) {
    let store = kit.open();
    store.insert(at(0), vec![job("t"); 2]);
    let claimed = store.claim(at(1), &["t"], 2);
    let end = |claimed, value| Settlement {
        records: vec![record("a.jpg", "DONE", value), record(value, "DONE", "")],
        ..settlement(claimed, COMPLETED)
    };
    store.settle(at(7), vec![end(&claimed[0], "1"), end(&claimed[1], "2")]);
    let row = store.record("a.jpg").expect("the record");
    assert_eq!((&row.value[..], row.updated_at), (&b"2"[..], at(7)));
    assert!(store.row("1").is_some() && store.row("2").is_some());
}

pub fn every_applied_verdict_writes_its_records(kit: &Kit) {
    let store = kit.open();
    for (verdict, state) in verdicts() {
        let claimed = store.start(at(0));
        let end = Settlement {
            records: vec![record("row", state.as_str(), "")],
            ..settlement(&claimed, verdict)
        };
        store.settle_one(at(1), end);
        let row = store.row("row").expect("the record");
        assert_eq!(row.0, state.as_str());
        store.cancel(at(1), claimed.id);
    }
}

pub fn a_refused_settlement_writes_no_records(kit: &Kit) {
    let store = kit.open();
    let first = store.start(at(0));
    store.finish(at(1), &first, Verdict::HandBack);
    let second = store.claim_one(at(2));
    let stale = Settlement {
        records: vec![record("stale", "DONE", "")],
        ..settlement(&first, COMPLETED)
    };
    let good = Settlement {
        records: vec![record("good", "DONE", "")],
        ..settlement(&second, COMPLETED)
    };
    store.settle(at(3), vec![stale, good]);
    assert_eq!(store.row("stale"), None);
    assert!(store.row("good").is_some(), "its neighbour is applied");
}

pub fn a_repeated_settlement_writes_no_records(kit: &Kit) {
    let store = kit.open();
    let claimed = store.start(at(0));
    store.finish(at(1), &claimed, COMPLETED);
    store.write_records(at(2), vec![record("row", "NEW", "")]);
    let again = Settlement {
        records: vec![record("row", "OLD", "")],
        ..settlement(&claimed, COMPLETED)
    };
    store.settle_one(at(3), again);
    assert_eq!(store.row("row").map(|row| row.0).as_deref(), Some("NEW"));
}
