//! Schedules: a due time has one row, and its row, its job and what is next are one commit.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::limits::{LEDGER_KEEP, LEDGER_ROWS_MAX};
use offloop_job::{JobState, OnConflict, ScheduleSpec, SkipReason, Timing, UniqueScope};
use offloop_store::{
    Entry, Expect, Fired, Firing, LedgerAsk, LedgerOutcome, LedgerPlace, LedgerRow, Next, Origin,
    PutOutcome, ScheduleRow, Stretch, What,
};

pub(crate) use super::schedules_kit::*;
use crate::store::{COMPLETED, wait};
use crate::{Draft, Kit, at};

pub fn a_schedule_comes_back_whole(kit: &Kit) {
    let store = kit.open();
    let made = add(&store, "s", rich_spec());
    assert_eq!(*made.spec, rich_spec());
    assert_eq!((made.revision, made.origin), (1, Origin::Api));
    assert_eq!((made.created_at, made.updated_at), (at(0), at(0)));
    assert_eq!((made.next_due, made.held), (Some(at(10)), None));
    assert_eq!(row(&store, "s"), made);
    for (name, timing) in [
        ("every", Timing::Every(Duration::from_millis(60_001))),
        ("at", Timing::At([at(1), at(2), at(1 << 40)].into())),
    ] {
        let spec = ScheduleSpec { timing, ..spec() };
        add(&store, name, spec.clone());
        assert_eq!(*row(&store, name).spec, spec);
    }
    assert_eq!(wait(store.engine().schedule(called("none"))), None);
}

pub fn a_change_that_another_one_overtook_is_refused(kit: &Kit) {
    let store = kit.open();
    let conflict = |expect| {
        let asked = put(&store, at(1), "s", spec(), expect, Next::Keep);
        assert_eq!(asked, PutOutcome::Conflict);
    };
    conflict(Some(1));
    let first = add(&store, "s", spec());
    conflict(None);
    conflict(Some(2));
    let paused = ScheduleSpec {
        paused: true,
        ..spec()
    };
    let outcome = put(&store, at(5), "s", paused.clone(), Some(1), Next::Keep);
    let want = ScheduleRow {
        spec: Arc::new(paused),
        revision: 2,
        updated_at: at(5),
        ..first
    };
    assert_eq!(outcome, PutOutcome::Put(want.clone()));
    conflict(Some(1));
    assert_eq!(row(&store, "s"), want);
}

pub fn lists_go_by_name_in_pages(kit: &Kit) {
    let store = kit.open();
    for name in ["b", "a", "c", "aa"] {
        add(&store, name, spec());
    }
    let page = |after: Option<&str>, limit| -> Vec<String> {
        let rows = wait(store.engine().schedules(after.map(called), limit));
        rows.iter().map(|row| row.name.to_string()).collect()
    };
    assert_eq!(page(None, 2), ["a", "aa"]);
    assert_eq!(page(Some("aa"), 2), ["b", "c"]);
    assert_eq!(page(Some("c"), 2), [""; 0]);
}

pub fn a_firing_writes_job_row_and_next_due_time(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let rows = done(fire(
        &store,
        at(13),
        turn(&before, vec![fires(&before, 10)], Some(20)),
    ));
    assert_eq!(rows.len(), 1);
    let id = job_of(&rows[0]);
    let made_job = store.job(id);
    assert_eq!(made_job.options, made(&before, 10).options);
    assert_eq!(made_job.summary.state, JobState::Ready);
    let want = LedgerRow {
        due_at: at(10),
        late: Duration::from_millis(3),
        outcome: LedgerOutcome::Fired {
            job: id,
            by_hand: false,
        },
        at: at(13),
    };
    assert_eq!(ledger(&store, "s", 10), [want]);
    let after = row(&store, "s");
    assert_eq!(after.next_due, Some(at(20)));
    assert_eq!(after.revision, before.revision);
}

pub fn of_two_nodes_one_fires(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let both = || turn(&before, vec![fires(&before, 10)], Some(20));
    let mut fired = wait(store.engine().fire(at(10), vec![both(), both()]));
    assert_eq!(fired.remove(1), Fired::Stale(Some(row(&store, "s"))));
    done(fired.remove(0));
    let late = fire(&store, at(11), both());
    assert_eq!(late, Fired::Stale(Some(row(&store, "s"))));
    assert_eq!(store.all_ids().len(), 1);
    assert_eq!(ledger(&store, "s", 10).len(), 1);
}

pub fn a_turn_of_an_old_spec_changes_nothing(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    put(&store, at(1), "s", spec(), Some(1), Next::Keep);
    let old = fire(
        &store,
        at(10),
        turn(&before, vec![fires(&before, 10)], Some(20)),
    );
    assert_eq!(old, Fired::Stale(Some(row(&store, "s"))));
    forget(&store);
    let gone = fire(
        &store,
        at(10),
        turn(&before, vec![fires(&before, 10)], Some(20)),
    );
    assert_eq!(gone, Fired::Stale(None));
    assert!(store.all_ids().is_empty());
}

pub fn a_due_time_that_has_a_row_gets_no_other(kit: &Kit) {
    let store = kit.open();
    let first = add(&store, "s", spec());
    done(fire(
        &store,
        at(10),
        turn(&first, vec![fires(&first, 10)], Some(20)),
    ));
    // A change of the times that leads back over the same ones.
    put(
        &store,
        at(11),
        "s",
        spec(),
        Some(1),
        Next::Set(Some(at(10))),
    );
    let again = row(&store, "s");
    let entries = vec![fires(&again, 10), fires(&again, 15)];
    let rows = done(fire(&store, at(12), turn(&again, entries, Some(20))));
    assert_eq!(dues(&rows), [at(15)]);
    assert_eq!(store.all_ids().len(), 2);
    assert_eq!(dues(&ledger(&store, "s", 10)), [at(10), at(15)]);
}

pub fn skipped_times_say_why_and_make_no_job(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let stretch = Entry {
        due: at(10),
        late: Duration::from_secs(1),
        what: What::SkipUntil {
            reason: SkipReason::Missed,
            until: at(30),
            count: Some(3),
        },
    };
    let entries = vec![
        stretch,
        skips(40, SkipReason::Paused),
        skips(50, SkipReason::Refused("x".repeat(2_000).into())),
    ];
    let rows = done(fire(&store, at(60), turn(&before, entries, None)));
    assert_eq!(ledger(&store, "s", 10), rows);
    let whole = Stretch {
        until: at(30),
        count: Some(3),
    };
    let LedgerOutcome::Skipped { reason, stretch } = &rows[0].outcome else {
        panic!("it was skipped: {rows:?}");
    };
    assert_eq!((&**reason, *stretch), ("missed", Some(whole)));
    assert_eq!(reason_of(&rows[1]), "paused");
    assert!(reason_of(&rows[2]).starts_with("refused: x"));
    assert!(reason_of(&rows[2]).len() <= 512, "a reason has its bound");
    assert!(store.all_ids().is_empty());
    assert_eq!(row(&store, "s").next_due, None);
}

pub fn a_job_that_is_not_taken_in_is_a_skipped_row(kit: &Kit) {
    let store = kit.open_small(1);
    let before = add(&store, "s", spec());
    let keyed = |due: u64| {
        let made = made(&before, due);
        let made = made.unique("k", UniqueScope::UntilFinished, OnConflict::Keep);
        Entry {
            due: at(due),
            late: Duration::ZERO,
            what: What::Fire(Box::new(made)),
        }
    };
    let entries = vec![keyed(10), keyed(20), fires(&before, 30)];
    let rows = done(fire(&store, at(30), turn(&before, entries, Some(40))));
    let holder = job_of(&rows[0]);
    assert_eq!(
        reason_of(&rows[1]),
        format!("unique: job {holder} holds the key")
    );
    assert!(
        reason_of(&rows[2]).starts_with("refused: queue `default` holds 1"),
        "{rows:?}"
    );
    assert_eq!(store.all_ids(), [holder]);
}

pub fn unfinished_jobs_are_known_by_their_schedule(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    assert_eq!(live(&store, "s"), []);
    let entries = vec![fires(&before, 10), fires(&before, 20), fires(&before, 30)];
    let rows = done(fire(&store, at(30), turn(&before, entries, Some(40))));
    let ids: Vec<_> = rows.iter().map(job_of).collect();
    assert_eq!(live(&store, "s"), ids);
    let first = store.claim(at(31), &["t"], 1).remove(0);
    assert_eq!(live(&store, "s"), ids);
    store.finish(at(32), &first, COMPLETED);
    store.cancel(at(33), ids[1]);
    assert_eq!(live(&store, "s"), ids[2..]);
    store.revive(at(34), &ids[1..2]);
    assert_eq!(live(&store, "s"), ids[1..]);
}

pub fn a_turn_that_must_not_overlap_waits_for_the_last_job(kit: &Kit) {
    let store = kit.open();
    let first = add(&store, "s", spec());
    let rows = done(fire(
        &store,
        at(10),
        turn(&first, vec![fires(&first, 10)], Some(20)),
    ));
    let id = job_of(&rows[0]);
    let second = row(&store, "s");
    let alone = Firing {
        unless_live: true,
        ..turn(&second, vec![fires(&second, 20)], Some(30))
    };
    assert_eq!(fire(&store, at(20), alone.clone()), Fired::Live(vec![id]));
    assert_eq!(row(&store, "s"), second);
    store.cancel(at(21), id);
    done(fire(&store, at(22), alone));
}

pub fn a_held_time_is_kept_until_it_is_fired_or_replaced(kit: &Kit) {
    let store = kit.open();
    let first = add(&store, "s", spec());
    let hold = Firing {
        held: Some(at(10)),
        ..turn(&first, vec![], Some(20))
    };
    assert_eq!(done(fire(&store, at(10), hold)), []);
    let held = row(&store, "s");
    assert_eq!((held.held, held.next_due), (Some(at(10)), Some(at(20))));
    put(&store, at(11), "s", spec(), Some(1), Next::Keep);
    assert_eq!(row(&store, "s").held, Some(at(10)));
    put(
        &store,
        at(12),
        "s",
        spec(),
        Some(2),
        Next::Set(Some(at(50))),
    );
    let after = row(&store, "s");
    assert_eq!((after.held, after.next_due), (None, Some(at(50))));
    let rows = ledger(&store, "s", 10);
    assert_eq!((rows.len(), reason_of(&rows[0])), (1, "replaced"));
}

pub fn a_trigger_leaves_what_is_next(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let by_hand = |now: u64| Firing {
        expect: Expect::Anything,
        ..turn(&before, vec![fires(&before, now)], None)
    };
    let rows = done(fire(&store, at(10), by_hand(10)));
    assert!(matches!(
        rows[0].outcome,
        LedgerOutcome::Fired { by_hand: true, .. }
    ));
    assert_eq!(row(&store, "s"), before);
    // The due time of the same instant is another one.
    done(fire(
        &store,
        at(10),
        turn(&before, vec![fires(&before, 10)], Some(20)),
    ));
    let rows = ledger(&store, "s", 1);
    let places: Vec<_> = rows.iter().map(LedgerRow::place).collect();
    let place = |by_hand| LedgerPlace {
        due_at: at(10),
        by_hand,
    };
    assert_eq!(places, [place(false), place(true)]);
}

pub fn the_ledger_has_pages_newest_first(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let entries = (1..=7).map(|nth| skips(nth * 10, SkipReason::Missed));
    let rows = done(fire(&store, at(99), turn(&before, entries.collect(), None)));
    for limit in [1, 3, 7, 8, 500] {
        assert_eq!(ledger(&store, "s", limit), rows);
    }
    let none = wait(store.engine().ledger(LedgerAsk {
        name: called("none"),
        before: None,
        limit: 1,
    }));
    assert_eq!((none.rows, none.next), (None, None));
}

pub fn the_ledger_keeps_its_newest_rows(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let all = u64::from(LEDGER_ROWS_MAX) + 5;
    let entries = (0..all).map(|nth| skips(10 + nth, SkipReason::Missed));
    done(fire(
        &store,
        at(2_000),
        turn(&before, entries.collect(), None),
    ));
    let rows = ledger(&store, "s", 500);
    assert_eq!(rows.len(), LEDGER_ROWS_MAX as usize);
    assert_eq!(rows[0].due_at, at(15));
}

pub fn old_rows_of_the_ledger_go(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let keep = LEDGER_KEEP.as_millis() as u64;
    let entries = vec![skips(10, SkipReason::Missed), skips(11, SkipReason::Missed)];
    done(fire(&store, at(11), turn(&before, entries, Some(20))));
    while wait(store.engine().prune_ledger(at(10 + keep))) {}
    assert_eq!(dues(&ledger(&store, "s", 10)), [at(11)]);
    while wait(store.engine().prune_ledger(at(11 + keep))) {}
    assert_eq!(ledger(&store, "s", 10), []);
    // And the bound still counts right.
    let before = row(&store, "s");
    let entries = (0..u64::from(LEDGER_ROWS_MAX)).map(|nth| skips(20 + nth, SkipReason::Missed));
    done(fire(
        &store,
        at(9_999),
        turn(&before, entries.collect(), None),
    ));
    assert_eq!(ledger(&store, "s", 500).len(), LEDGER_ROWS_MAX as usize);
}

pub fn a_deleted_schedule_leaves_its_jobs(kit: &Kit) {
    let store = kit.open();
    let before = add(&store, "s", spec());
    let rows = done(fire(
        &store,
        at(10),
        turn(&before, vec![fires(&before, 10)], Some(20)),
    ));
    let id = job_of(&rows[0]);
    let last = row(&store, "s");
    assert_eq!(forget(&store), Some(last));
    assert_eq!(forget(&store), None);
    assert_eq!(wait(store.engine().schedule(called("s"))), None);
    assert_eq!(store.job(id).summary.state, JobState::Ready);
    // Another one of that name begins with an empty ledger, and still knows the job for its own.
    add(&store, "s", spec());
    assert_eq!(ledger(&store, "s", 10), []);
    assert_eq!(live(&store, "s"), [id]);
}

pub fn firings_of_one_call_do_not_touch_each_other(kit: &Kit) {
    let store = kit.open();
    let (a, b) = (add(&store, "a", spec()), add(&store, "b", spec()));
    let stale = Firing {
        expect: Expect::At {
            revision: 9,
            next_due: None,
            held: None,
        },
        ..turn(&a, vec![fires(&a, 10)], None)
    };
    let good = turn(&b, vec![fires(&b, 10)], Some(20));
    let fired = wait(store.engine().fire(at(10), vec![stale, good]));
    assert_eq!(fired[0], Fired::Stale(Some(a)));
    assert_eq!(done(fired[1].clone()).len(), 1);
    assert_eq!(row(&store, "b").next_due, Some(at(20)));
}

pub fn every_change_of_a_schedule_is_on_the_audit_log(kit: &Kit) {
    let store = kit.open();
    add(&store, "s", spec());
    put(&store, at(1), "s", spec(), Some(9), Next::Keep);
    let paused = ScheduleSpec {
        paused: true,
        ..spec()
    };
    put(&store, at(2), "s", paused, Some(1), Next::Keep);
    let row = row(&store, "s");
    fire(
        &store,
        at(10),
        turn(&row, vec![skips(10, SkipReason::Paused)], Some(20)),
    );
    forget(&store);
    forget(&store);
    let row = store.audit(Some("schedule:s"));
    let told = row
        .iter()
        .find_map(|(_, entry)| entry.before.is_none().then_some(&entry.after));
    let told = told
        .and_then(|told| told.as_deref())
        .expect("its first entry");
    // Nothing of the payload: an engine may be given it sealed.
    assert_eq!(told, "task t, every 10000, UTC, missed once, overlap allow");
    let paused = format!("{told}, paused");
    let log = store.audit(Some("schedule:s"));
    let log: Vec<_> = log.iter().map(|(_, entry)| entry).collect();
    let shown = log.iter().map(|entry| {
        let texts = (entry.before.as_deref(), entry.after.as_deref());
        (&*entry.action, &*entry.actor, texts)
    });
    let want = [
        ("schedule.delete", "somebody", (Some(&*paused), None)),
        ("schedule.put", "test", (Some(told), Some(&*paused))),
        ("schedule.put", "test", (None, Some(told))),
    ];
    assert_eq!(shown.collect::<Vec<_>>(), want);
    assert_eq!(
        log.iter().map(|entry| entry.at).collect::<Vec<_>>(),
        [at(99), at(2), at(0)]
    );
}

pub fn a_debounced_job_is_of_the_schedule_that_asked_last(kit: &Kit) {
    let store = kit.open();
    let quiet = OnConflict::Debounce(Duration::from_millis(10));
    let asked = |by: Option<&str>| {
        let mut job = crate::job("t").unique("k", UniqueScope::UntilFinished, quiet);
        let made_by = |name| offloop_job::ScheduledBy {
            name: called(name),
            due_at: at(0),
        };
        job.options.schedule = by.map(made_by).map(Box::new);
        job
    };
    let id = store.add(at(0), asked(Some("a")));
    for by in [Some("b"), None, Some("b")] {
        store.insert_one(at(1), asked(by));
        let live = ["a", "b"].map(|name| live(&store, name));
        let want = [vec![], by.map(|_| id).into_iter().collect()];
        assert_eq!(live, want, "{by:?} asked last");
    }
    store.promote(at(11));
    let claimed = store.claim_one(at(11));
    store.finish(at(12), &claimed, COMPLETED);
    assert!(live(&store, "b").is_empty() && live(&store, "a").is_empty());
}
