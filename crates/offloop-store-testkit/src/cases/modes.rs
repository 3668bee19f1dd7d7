//! Queues and tasks that are paused or drained.

use offloop_job::{FailureClass, Mode, NewJob, OnConflict, QueueName, UniqueScope};
use offloop_store::{Gate, InsertOutcome, InsertRefusal, SameAs, Verdict};

use crate::store::{COMPLETED, EXHAUSTED};
use crate::{Draft, Kit, Store, at, job, name, record};

fn gate_of_queue() -> Gate {
    Gate::Queue(QueueName::default())
}

fn refused(store: &Store<'_>, now: u64, job: NewJob, gate: Gate) {
    let outcome = store.insert_one(at(now), job);
    let want = InsertOutcome::Refused(InsertRefusal::Draining { gate });
    assert_eq!(outcome, want);
}

pub fn a_paused_task_takes_jobs_in_and_gives_none_out(kit: &Kit) {
    let store = kit.open();
    store.set_task_mode("t", Mode::Paused);
    let held = store.add(at(0), job("t"));
    let other = store.add(at(0), job("u"));
    let found = store.claim(at(1), &["t", "u"], 9);
    assert_eq!(found.iter().map(|job| job.id).collect::<Vec<_>>(), [other]);
    store.set_task_mode("t", Mode::Open);
    assert_eq!(store.claim_ids(at(2)), [held]);
}

/// A task in five queues is paused in all of them; a paused queue stays so when the task is resumed.
pub fn a_job_is_given_out_only_if_neither_of_its_gates_is_shut(kit: &Kit) {
    let store = kit.open();
    for queue in ["a", "b"] {
        store.add(at(0), job("t").queue(queue));
    }
    store.set_task_mode("t", Mode::Paused);
    store.set_mode("a", Mode::Paused);
    assert!(store.claim_ids(at(1)).is_empty());
    store.set_task_mode("t", Mode::Open);
    assert_eq!(store.claim_ids(at(2)).len(), 1, "the one in queue b");
    store.set_mode("a", Mode::Open);
    assert_eq!(store.claim_ids(at(3)).len(), 1);
}

pub fn a_draining_queue_refuses_new_jobs_by_name(kit: &Kit) {
    let store = kit.open();
    let held = store.add(at(0), job("t"));
    store.set_mode("default", Mode::Draining);
    refused(&store, 1, job("t"), gate_of_queue());
    store.add(at(1), job("t").queue("other"));
    assert_eq!(store.claim_ids(at(2))[0], held, "what it has is given out");
    store.set_mode("default", Mode::Open);
    store.add(at(3), job("t"));
}

pub fn a_draining_task_refuses_new_jobs_in_every_queue(kit: &Kit) {
    let store = kit.open();
    store.set_task_mode("t", Mode::Draining);
    for queue in ["default", "other"] {
        refused(&store, 0, job("t").queue(queue), Gate::Task(name("t")));
    }
    store.add(at(1), job("u"));
}

pub fn a_draining_line_runs_what_it_has_to_its_end(kit: &Kit) {
    let store = kit.open();
    let running = store.start(at(0));
    let later = store.add(at(0), job("t").run_at(at(20)));
    store.set_mode("default", Mode::Draining);
    store.set_task_mode("t", Mode::Draining);
    store.retry(at(1), &running, FailureClass::Error, at(5));
    store.promote(at(5));
    let again = store.claim_one(at(5));
    store.finish(at(6), &again, Verdict::Snooze { due: at(9) });
    store.promote(at(20));
    let both = store.claim(at(20), &["t"], 9);
    assert_eq!(
        both.iter().map(|job| job.id).collect::<Vec<_>>(),
        [again.id, later]
    );
    store.finish(at(21), &both[0], COMPLETED);
    store.finish(at(21), &both[1], EXHAUSTED);
    let left = store.queue("default").expect("listed");
    assert_eq!(
        (left.mode, left.counts),
        (Mode::Draining, offloop_store::QueueCounts::default())
    );
    store.revive(at(22), &[later]);
    assert_eq!(store.claim_ids(at(23)), [later], "a person asked for it");
}

pub fn draining_does_not_forget_what_was_asked_before(kit: &Kit) {
    let store = kit.open();
    let keyed = job("t").idempotency("i");
    let unique = job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Keep);
    let first = store.add(at(0), keyed.clone());
    let second = store.add(at(0), unique.clone());
    store.set_mode("default", Mode::Draining);
    for (asked, id, same) in [
        (keyed, first, SameAs::IdempotencyKey),
        (unique.clone(), second, SameAs::UniqueKey),
    ] {
        let found = store.insert_one(at(1), asked);
        assert_eq!(found, InsertOutcome::Existing { id, same });
    }
    let replace = job("t").unique("k", UniqueScope::UntilFinished, OnConflict::Replace);
    refused(&store, 2, replace, gate_of_queue());
    assert_eq!(
        store.claim_ids(at(3)).len(),
        2,
        "the holder was not cancelled for nothing"
    );
}

pub fn a_refused_job_holds_up_none_of_its_batch(kit: &Kit) {
    let store = kit.open();
    store.set_mode("default", Mode::Draining);
    let jobs = vec![job("t").queue("a"), job("t"), job("t").queue("b")];
    let outcomes = store.insert_with(at(0), jobs, vec![record("k", "DONE", "v")]);
    let created = |outcome: &InsertOutcome| matches!(outcome, InsertOutcome::Created { .. });
    let made: Vec<_> = outcomes.iter().map(created).collect();
    assert_eq!(made, [true, false, true]);
    assert!(store.row("k").is_some());
}

pub fn the_last_mode_counts_and_is_shown(kit: &Kit) {
    let store = kit.open();
    assert!(store.task_modes().is_empty());
    for mode in [
        Mode::Paused,
        Mode::Draining,
        Mode::Draining,
        Mode::Open,
        Mode::Paused,
    ] {
        store.set_mode("q", mode);
        store.set_task_mode("t", mode);
        assert_eq!(store.queue("q").expect("listed").mode, mode);
        assert_eq!(store.task_modes(), [("t".to_owned(), mode)]);
    }
    store.add(at(0), job("t").queue("z"));
    let line = ("z".to_owned(), "t".to_owned(), 1, 0, true);
    assert_eq!(
        store.backlog(),
        [line],
        "the line of a paused task is paused"
    );
}

pub fn every_change_of_a_mode_is_on_the_audit_log(kit: &Kit) {
    let store = kit.open();
    store.set_mode("a", Mode::Open);
    store.set_mode("a", Mode::Paused);
    store.set_mode("a", Mode::Paused);
    store.set_task_mode("a", Mode::Draining);
    store.set_mode("a", Mode::Draining);
    store.set_mode("a", Mode::Open);
    let log = store.audit(None);
    let told: Vec<_> = log
        .iter()
        .rev()
        .map(|(_, entry)| {
            assert_eq!((&*entry.action, &*entry.actor), ("mode.set", "test"));
            let texts = (entry.before.as_deref(), entry.after.as_deref());
            (&*entry.subject, texts)
        })
        .collect();
    let want = [
        ("queue:a", (Some("open"), Some("paused"))),
        ("task:a", (Some("open"), Some("draining"))),
        ("queue:a", (Some("paused"), Some("draining"))),
        ("queue:a", (Some("draining"), Some("open"))),
    ];
    assert_eq!(told, want);
}
