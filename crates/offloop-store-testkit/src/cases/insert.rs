//! Taking jobs in: what is due when, what is there already, and when a queue is full.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{BATCH_JOBS_MAX, IDEMPOTENCY_KEEP};
use offloop_job::{
    Backoff, BackoffKind, EndStates, FailureClass, JobId, JobOptions, JobState, NewJob, OnConflict,
    QueueName, RetryPolicy, ScheduleName, ScheduledBy, Tag, Unique, UniqueKey, UniqueScope,
    Webhook,
};
use offloop_store::{InsertOutcome, InsertRefusal, SameAs, Verdict};

use crate::store::{COMPLETED, EXHAUSTED, created};
use crate::{Draft, Kit, at, job, record};

/// Every option away from its default, due at 1,000.
pub(crate) fn rich_options() -> JobOptions {
    JobOptions {
        queue: QueueName::parse("photos:thumbs.v2-a_b").expect("a queue"),
        priority: 2,
        run_at: Some(at(1_000)),
        retry: RetryPolicy {
            max_attempts: 17,
            backoff: Backoff {
                kind: BackoffKind::Custom([Duration::from_millis(5), Duration::ZERO].into()),
                base: Duration::from_millis(7),
                cap: Duration::from_secs(60),
                jitter_percent: 33,
            },
            by_class: vec![(FailureClass::Timeout, 1), (FailureClass::Lost, 9)],
        },
        timeout: Some(Duration::from_millis(1_500)),
        cpu_limit: Some(Duration::from_secs(9)),
        memory_limit_bytes: Some(300 << 20),
        stall_timeout: Some(Duration::from_secs(3)),
        cores: 4,
        cost: 250,
        deadline: Some(at(2_000_000)),
        expires_at: Some(at(1_000_000)),
        unique: Some(Unique {
            key: UniqueKey::parse("klíč; 100 %, a=b").expect("a key"),
            scope: UniqueScope::UntilStarted,
            on_conflict: OnConflict::Reject,
        }),
        group_key: Some(Tag::parse("zákazník 42").expect("a tag")),
        tags: ["a,b;c%", "ü"]
            .map(|tag| Tag::parse(tag).expect("a tag"))
            .into(),
        keep: Some(std::time::Duration::from_secs(90)),
        trace: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
        group: None,
        follows: None,
        after: vec![],
        delay: None,
        schedule: Some(Box::new(ScheduledBy {
            name: ScheduleName::parse("nightly:v2").expect("a schedule's name"),
            due_at: at(999),
        })),
        webhook: Some(Box::new(Webhook {
            url: "https://example.com/a;b=c,d:e%20?ü".into(),
            on: EndStates::NONE
                .with(JobState::Failed)
                .with(JobState::Expired),
            secret: Some("own".into()),
        })),
    }
}

const fn same_key(id: JobId) -> InsertOutcome {
    let same = SameAs::UniqueKey;
    InsertOutcome::Existing { id, same }
}

const fn same_request(id: JobId) -> InsertOutcome {
    let same = SameAs::IdempotencyKey;
    InsertOutcome::Existing { id, same }
}

const fn conflict(holder: JobId) -> InsertOutcome {
    InsertOutcome::Refused(InsertRefusal::UniqueConflict { holder })
}

const fn mismatch(holder: JobId) -> InsertOutcome {
    InsertOutcome::Refused(InsertRefusal::IdempotencyMismatch { holder })
}

fn full(queue: &str, limit: u64) -> InsertOutcome {
    let queue = QueueName::parse(queue).expect("a queue");
    InsertOutcome::Refused(InsertRefusal::QueueFull { queue, limit })
}

fn keyed(on_conflict: OnConflict) -> NewJob {
    job("t").unique("k", UniqueScope::UntilFinished, on_conflict)
}

pub fn a_job_for_now_is_ready(kit: &Kit) {
    let store = kit.open();
    for run_at in [None, Some(at(0)), Some(at(50)), Some(at(100))] {
        let asked = job("t").with(|options| options.run_at = run_at);
        let outcome = store.insert_one(at(100), asked);
        let id = created(&outcome);
        let state = JobState::Ready;
        let replaced = None;
        let want = InsertOutcome::Created {
            id,
            state,
            replaced,
        };
        assert_eq!(outcome, want);
        let shown = store.job(id).summary;
        assert_eq!((shown.state, shown.due_at), (state, at(100)));
        assert_eq!(store.claim_ids(at(100)), [id]);
    }
}

pub fn a_job_for_later_is_scheduled(kit: &Kit) {
    let store = kit.open();
    let outcome = store.insert_one(at(100), job("t").run_at(at(101)));
    let id = created(&outcome);
    let state = JobState::Scheduled;
    let replaced = None;
    let want = InsertOutcome::Created {
        id,
        state,
        replaced,
    };
    assert_eq!(outcome, want);
    let shown = store.job(id).summary;
    assert_eq!((shown.state, shown.due_at), (state, at(101)));
}

pub fn a_new_job_is_shown_as_it_was_asked_for(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").with(|options| *options = rich_options());
    let id = store.add(at(7), asked.clone());
    let shown = store.job(id);
    assert_eq!(shown.options, asked.options);
    assert_eq!(shown.payload, asked.payload);
    let row = shown.summary;
    assert_eq!((row.id, &row.task), (id, &asked.task));
    assert_eq!(row.queue, asked.options.queue);
    assert_eq!((row.priority, row.max_attempts, row.attempt), (2, 17, 0));
    assert_eq!(row.tags, asked.options.tags);
    assert_eq!((row.created_at, row.due_at), (at(7), at(1_000)));
    assert_eq!((row.started_at, row.finished_at), (None, None));
    assert_eq!(
        (row.reason, row.failure, row.cancelling),
        (None, None, false)
    );
    assert!(shown.attempts.is_empty());
    assert_eq!((shown.progress, shown.result), (None, None));
}

pub fn ids_grow(kit: &Kit) {
    let store = kit.open();
    let mut last = None;
    for now in [5, 5, 9, 3, 3, 12] {
        let outcomes = store.insert(at(now), vec![job("t"); 3]);
        for id in outcomes.iter().map(created) {
            assert!(Some(id) > last, "{id} after {last:?}");
            last = Some(id);
        }
    }
}

pub fn batch_outcomes_keep_their_order(kit: &Kit) {
    let store = kit.open_small(4);
    let holder = store.add(at(0), keyed(OnConflict::Keep));
    let replay = store.add(at(0), job("t").idempotency("i"));
    let outcomes = store.insert(
        at(1),
        vec![
            job("t"),
            keyed(OnConflict::Reject),
            job("t").idempotency("i"),
            keyed(OnConflict::Keep),
            job("t").run_at(at(9)),
            job("u").idempotency("i"),
            job("t"),
            job("t").queue("other"),
        ],
    );
    let (first, later) = (created(&outcomes[0]), created(&outcomes[4]));
    let other = created(&outcomes[7]);
    let new = |id, state| InsertOutcome::Created {
        id,
        state,
        replaced: None,
    };
    let want = [
        new(first, JobState::Ready),
        conflict(holder),
        same_request(replay),
        same_key(holder),
        new(later, JobState::Scheduled),
        mismatch(replay),
        full("default", 4),
        new(other, JobState::Ready),
    ];
    assert_eq!(outcomes, want);
    assert!(first < later && later < other);
}

pub fn a_full_batch_is_taken_whole(kit: &Kit) {
    let store = kit.open();
    let jobs: Vec<_> = (0..BATCH_JOBS_MAX)
        .map(|n| job("t").payload(n.to_string()))
        .collect();
    let outcomes = store.insert(at(0), jobs);
    let ids: Vec<_> = outcomes.iter().map(created).collect();
    assert_eq!(ids.len(), BATCH_JOBS_MAX);
    let claimed = store.claim(at(1), &["t"], BATCH_JOBS_MAX as u16 + 1);
    for (n, (claimed, id)) in claimed.iter().zip(&ids).enumerate() {
        assert_eq!(claimed.id, *id);
        assert_eq!(claimed.payload, Bytes::from(n.to_string()));
    }
    assert_eq!(claimed.len(), BATCH_JOBS_MAX);
}

pub fn an_empty_batch_is_no_error(kit: &Kit) {
    let store = kit.open();
    assert!(store.insert(at(0), vec![]).is_empty());
    store.insert_with(at(0), vec![], vec![record("a", "NEW", "")]);
    assert!(store.row("a").is_some());
}

pub fn writes_records_in_the_same_commit(kit: &Kit) {
    let store = kit.open();
    let rows = vec![record("a", "NEW", "1"), record("a", "NEW", "2")];
    store.insert_with(at(3), vec![job("t")], rows);
    let row = store.record("a").expect("the record");
    assert_eq!((&row.value[..], row.updated_at), (&b"2"[..], at(3)));
}

pub fn writes_records_even_if_no_job_is_taken(kit: &Kit) {
    let store = kit.open_small(0);
    let outcomes = store.insert_with(at(0), vec![job("t")], vec![record("a", "NEW", "")]);
    assert_eq!(outcomes, [full("default", 0)]);
    assert!(store.row("a").is_some());
}

pub fn a_job_that_is_too_late_is_taken_and_never_run(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(10), job("t").expires_at(at(5)));
    assert!(store.claim_ids(at(10)).is_empty());
    assert_eq!(store.overdue(at(10), 9)[0].id, id);
}

// The idempotency key.

pub fn idempotency_finds_a_living_job(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").idempotency("i");
    let id = store.add(at(0), asked.clone());
    assert_eq!(store.insert_one(at(1), asked.clone()), same_request(id));
    let claimed = store.claim_one(at(1));
    assert_eq!(store.insert_one(at(2), asked), same_request(id));
    assert_eq!(claimed.id, id);
    assert_eq!(store.all_ids(), [id]);
}

pub fn idempotency_finds_a_finished_job(kit: &Kit) {
    let store = kit.open();
    for (key, verdict) in [("a", COMPLETED), ("b", EXHAUSTED), ("c", Verdict::Abort)] {
        let asked = job("t").idempotency(key);
        let id = store.add(at(0), asked.clone());
        let claimed = store.claim_one(at(1));
        store.finish(at(2), &claimed, verdict);
        assert_eq!(store.insert_one(at(3), asked), same_request(id), "{key}");
    }
}

pub fn idempotency_outlives_a_deleted_job(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").idempotency("i");
    let id = store.add(at(0), asked.clone());
    store.cancel(at(1), id);
    store.delete(&[id]);
    assert_eq!(store.insert_one(at(2), asked), same_request(id));
    let other = job("u").idempotency("i");
    assert_eq!(store.insert_one(at(2), other), mismatch(id));
}

pub fn idempotency_is_forgotten_after_its_time(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").idempotency("i");
    let old = store.add(at(0), asked.clone());
    let last = at(0).plus(IDEMPOTENCY_KEEP).minus(Duration::from_millis(1));
    assert_eq!(store.insert_one(last, asked.clone()), same_request(old));
    let end = at(0).plus(IDEMPOTENCY_KEEP);
    let new = store.add(end, job("u").idempotency("i"));
    let again = store.insert_one(end.plus(Duration::from_secs(60)), asked);
    assert_eq!(again, mismatch(new), "the newer use counts from now on");
}

pub fn idempotency_refuses_another_request(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").idempotency("i");
    let id = store.add(at(0), asked());
    let others = [
        job("u").idempotency("i"),
        asked().payload("[]"),
        asked().payload(""),
        asked().queue("other"),
        asked().priority(4),
        asked().tag("x"),
        asked().expires_at(at(9_000)),
        asked().with(|options| options.cores = 2),
        asked().with(|options| options.retry.max_attempts = 1),
        asked().with(|options| options.timeout = Some(Duration::from_secs(1))),
        asked().unique("k", UniqueScope::UntilFinished, OnConflict::Keep),
    ];
    for other in others {
        let outcome = store.insert_one(at(1), other.clone());
        assert_eq!(outcome, mismatch(id), "{other:?}");
    }
    assert_eq!(store.insert_one(at(1), asked()), same_request(id));
}

pub fn idempotency_ignores_the_time_of_a_delay_and_the_trace(kit: &Kit) {
    let store = kit.open();
    let asked = |run_at, trace: &str| {
        let trace = Some(trace.into());
        let job = job("t").idempotency("i").run_at(at(run_at));
        job.with(|options| options.trace = trace)
    };
    let id = store.add(at(0), asked(100, "00-a-1-01"));
    let again = store.insert_one(at(5), asked(105, "00-a-2-01"));
    assert_eq!(again, same_request(id));
    let bare = store.insert_one(at(5), job("t").idempotency("i"));
    assert_eq!(bare, same_request(id));
}

pub fn idempotency_counts_within_one_batch(kit: &Kit) {
    let store = kit.open();
    let asked = job("t").idempotency("i");
    let other = job("u").idempotency("i");
    let outcomes = store.insert(at(0), vec![asked.clone(), asked, other]);
    let id = created(&outcomes[0]);
    assert_eq!(outcomes[1..], [same_request(id), mismatch(id)]);
}

pub fn idempotency_of_a_job_that_was_not_made_is_free(kit: &Kit) {
    let store = kit.open_small(1);
    let holder = store.add(at(0), keyed(OnConflict::Keep));
    let keep = keyed(OnConflict::Keep).idempotency("a");
    let reject = keyed(OnConflict::Reject).idempotency("b");
    let over = job("t").idempotency("c");
    let outcomes = store.insert(at(1), vec![keep, reject, over]);
    assert_eq!(
        outcomes,
        [same_key(holder), conflict(holder), full("default", 1)]
    );
    for key in ["a", "b", "c"] {
        store.add(at(2), job("u").queue(key).idempotency(key));
    }
}

pub fn idempotency_comes_before_unique_key_and_limit(kit: &Kit) {
    let store = kit.open_small(1);
    let asked = keyed(OnConflict::Reject).idempotency("i");
    let id = store.add(at(0), asked.clone());
    assert_eq!(store.insert_one(at(1), asked), same_request(id));
    let other = keyed(OnConflict::Replace).payload("1").idempotency("i");
    assert_eq!(store.insert_one(at(1), other), mismatch(id));
    assert_eq!(store.state(id), JobState::Ready);
}

// The unique key.

pub fn unique_keep_answers_the_holder(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), keyed(OnConflict::Reject));
    let asked = keyed(OnConflict::Keep).payload("[1]");
    assert_eq!(store.insert_one(at(1), asked), same_key(id));
    assert_eq!(store.all_ids(), [id]);
    assert_eq!(&store.job(id).payload[..], b"{}");
}

pub fn unique_reject_names_the_holder(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), keyed(OnConflict::Keep));
    let asked = keyed(OnConflict::Reject);
    assert_eq!(store.insert_one(at(1), asked), conflict(id));
    assert_eq!(store.all_ids(), [id]);
}

pub fn unique_replace_cancels_an_idle_holder(kit: &Kit) {
    let store = kit.open();
    for holder in [
        keyed(OnConflict::Keep),
        keyed(OnConflict::Keep).run_at(at(900)),
    ] {
        let old = store.add(at(0), holder);
        let outcome = store.insert_one(at(1), keyed(OnConflict::Replace));
        let id = created(&outcome);
        let want = InsertOutcome::Created {
            id,
            state: JobState::Ready,
            replaced: Some(old),
        };
        assert_eq!(outcome, want);
        let shown = store.job(old).summary;
        assert_eq!(shown.state, JobState::Cancelled);
        assert_eq!(shown.finished_at, Some(at(1)));
        store.promote(at(1_000));
        assert_eq!(store.claim_ids(at(1_000)), [id]);
        store.cancel(at(1_001), id);
        let claimed = store.orphans("nobody", 9);
        store.finish(at(1_002), &claimed[0], Verdict::Abort);
    }
}

pub fn unique_replace_keeps_a_running_holder(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), keyed(OnConflict::Keep));
    let claimed = store.claim_one(at(1));
    let outcome = store.insert_one(at(2), keyed(OnConflict::Replace));
    assert_eq!(outcome, same_key(id));
    assert_eq!(
        store.finish(at(3), &claimed, COMPLETED),
        JobState::Completed
    );
    store.add(at(4), keyed(OnConflict::Replace));
}

pub fn unique_keys_are_per_task(kit: &Kit) {
    let store = kit.open();
    store.add(at(0), keyed(OnConflict::Reject));
    let other_task = NewJob {
        task: crate::name("u"),
        ..keyed(OnConflict::Reject)
    };
    store.add(at(0), other_task);
    let other_key = job("t").unique("K", UniqueScope::UntilFinished, OnConflict::Reject);
    store.add(at(0), other_key);
    let queue = keyed(OnConflict::Reject).queue("other");
    let outcome = store.insert_one(at(0), queue);
    assert!(matches!(outcome, InsertOutcome::Refused(_)), "{outcome:?}");
}

pub fn unique_until_finished_is_held_through_every_attempt(kit: &Kit) {
    let store = kit.open();
    let id = store.add(at(0), keyed(OnConflict::Reject));
    let held = || store.insert_one(at(9), keyed(OnConflict::Reject)) == conflict(id);
    let claimed = store.claim_one(at(1));
    assert!(held(), "running");
    store.retry(at(2), &claimed, FailureClass::Error, at(3));
    assert!(held(), "waiting for its retry");
    store.promote(at(3));
    assert!(held(), "ready again");
    let claimed = store.claim_one(at(3));
    store.finish(at(4), &claimed, Verdict::HandBack);
    assert!(held(), "handed back");
}

pub fn unique_until_finished_is_free_after_every_end(kit: &Kit) {
    let store = kit.open();
    for verdict in [COMPLETED, EXHAUSTED, Verdict::Abort] {
        store.add(at(0), keyed(OnConflict::Reject));
        let claimed = store.claim_one(at(1));
        store.finish(at(2), &claimed, verdict);
    }
    for why in [
        offloop_store::IdleEnd::Cancel,
        offloop_store::IdleEnd::Expire,
    ] {
        let id = store.add(at(3), keyed(OnConflict::Reject));
        store.end_one(at(4), id, why);
    }
    store.add(at(5), keyed(OnConflict::Reject));
}

pub fn unique_until_started_is_free_after_the_claim(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").unique("k", UniqueScope::UntilStarted, OnConflict::Reject);
    let first = store.add(at(0), asked());
    assert_eq!(store.insert_one(at(0), asked()), conflict(first));
    assert_eq!(store.claim_one(at(1)).id, first);
    let second = store.add(at(2), asked());
    assert_eq!(store.insert_one(at(2), asked()), conflict(second));
}

pub fn unique_until_started_is_not_taken_again(kit: &Kit) {
    let store = kit.open();
    let asked = || job("t").unique("k", UniqueScope::UntilStarted, OnConflict::Reject);
    store.add(at(0), asked());
    let claimed = store.claim_one(at(1));
    store.retry(at(2), &claimed, FailureClass::Error, at(3));
    let second = store.add(at(2), asked());
    let again = store.claim_one(at(2));
    assert_eq!(again.id, second);
    store.finish(at(2), &again, Verdict::HandBack);
    store.add(at(3), asked());
}

pub fn unique_keys_count_within_one_batch(kit: &Kit) {
    let store = kit.open();
    let jobs = vec![
        keyed(OnConflict::Keep),
        keyed(OnConflict::Keep),
        keyed(OnConflict::Reject),
        keyed(OnConflict::Replace),
        keyed(OnConflict::Keep),
    ];
    let outcomes = store.insert(at(0), jobs);
    let first = created(&outcomes[0]);
    let last = created(&outcomes[3]);
    let replacing = InsertOutcome::Created {
        id: last,
        state: JobState::Ready,
        replaced: Some(first),
    };
    let want = [same_key(first), conflict(first), replacing, same_key(last)];
    assert_eq!(outcomes[1..], want);
    assert_eq!(store.state(first), JobState::Cancelled);
    assert_eq!(store.claim_ids(at(1)), [last]);
}

// The limit of a queue.

pub fn queue_full_refuses_what_is_over(kit: &Kit) {
    let store = kit.open_small(3);
    let outcomes = store.insert(at(0), vec![job("t"); 5]);
    let made = outcomes
        .iter()
        .filter(|o| matches!(o, InsertOutcome::Created { .. }));
    assert_eq!(made.count(), 3);
    assert_eq!(outcomes[3..], [full("default", 3), full("default", 3)]);
    assert_eq!(store.all_ids().len(), 3);
}

pub fn queue_full_counts_every_unfinished_job(kit: &Kit) {
    let store = kit.open_small(3);
    store.add(at(0), job("t"));
    let claimed = store.claim_one(at(0));
    store.add(at(0), job("t"));
    store.add(at(0), job("t").run_at(at(99)));
    let is_full = || store.insert_one(at(1), job("t")) == full("default", 3);
    assert!(is_full(), "running, ready and scheduled");
    store.retry(at(1), &claimed, FailureClass::Error, at(50));
    assert!(is_full(), "waiting for its retry");
    store.promote(at(99));
    assert!(is_full(), "promoted");
}

pub fn queue_full_ends_when_a_job_ends(kit: &Kit) {
    let store = kit.open_small(1);
    for verdict in [COMPLETED, EXHAUSTED, Verdict::Abort] {
        let claimed = store.start(at(0));
        assert_eq!(store.insert_one(at(1), job("t")), full("default", 1));
        store.finish(at(1), &claimed, verdict);
    }
    let id = store.add(at(2), job("t"));
    store.cancel(at(2), id);
    store.add(at(2), job("t"));
}

pub fn queue_full_is_per_queue(kit: &Kit) {
    let store = kit.open_small(1);
    for queue in ["a", "b"] {
        store.add(at(0), job("t").queue(queue));
        let outcome = store.insert_one(at(0), job("u").queue(queue));
        assert_eq!(outcome, full(queue, 1));
    }
}

pub fn queue_full_does_not_count_the_job_that_is_replaced(kit: &Kit) {
    let store = kit.open_small(1);
    let old = store.add(at(0), keyed(OnConflict::Keep));
    let outcome = store.insert_one(at(1), keyed(OnConflict::Replace));
    assert!(matches!(outcome, InsertOutcome::Created { replaced, .. } if replaced == Some(old)));
    let holder = created(&outcome);
    store.add(at(1), job("t").queue("other"));
    let elsewhere = keyed(OnConflict::Replace).queue("other");
    assert_eq!(store.insert_one(at(1), elsewhere), full("other", 1));
    assert_eq!(
        store.state(holder),
        JobState::Ready,
        "a refusal touches nobody"
    );
}
