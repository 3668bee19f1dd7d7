//! Schedules, turns and ledgers for the cases about them.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::{
    JobId, Missed, NewJob, Overlap, ScheduleName, ScheduleSpec, ScheduledBy, SkipReason, Timestamp,
    Timing,
};
use offloop_store::{
    Entry, Expect, Fired, Firing, LedgerAsk, LedgerOutcome, LedgerRow, Next, Origin, PutOutcome,
    PutSchedule, ScheduleRow, What,
};

use crate::store::wait;
use crate::{Draft, Store, at, job, name};

pub(crate) fn called(text: &str) -> ScheduleName {
    ScheduleName::parse(text).expect("a schedule's name that is written in a test")
}

/// Something in every field.
pub(crate) fn rich_spec() -> ScheduleSpec {
    let mut options = crate::cases::insert::rich_options();
    (options.run_at, options.deadline, options.expires_at) = (None, None, None);
    (options.unique, options.schedule) = (None, None);
    ScheduleSpec {
        payload: "{\"ü\":1}".into(),
        options,
        timezone: "Australia/Lord_Howe".into(),
        missed: Missed::CatchUp { max: 7 },
        overlap: Overlap::QueueOne,
        jitter: Duration::from_millis(1_500),
        paused: true,
        starts_at: Some(at(1)),
        ends_at: Some(at(1 << 40)),
        alert_after: Duration::from_secs(90),
        ..ScheduleSpec::new(name("t"), Timing::Cron("0 3 * * MON#1".into()))
    }
}

pub(crate) fn spec() -> ScheduleSpec {
    ScheduleSpec::new(name("t"), Timing::Every(Duration::from_secs(10)))
}

pub(crate) fn put(
    store: &Store<'_>,
    now: Timestamp,
    name: &str,
    spec: ScheduleSpec,
    expect: Option<u64>,
    next: Next,
) -> PutOutcome {
    wait(store.engine().put_schedule(
        now,
        PutSchedule {
            name: called(name),
            spec: Arc::new(spec),
            origin: Origin::Api,
            expect,
            next,
            actor: "test".into(),
        },
    ))
}

pub(crate) fn forget(store: &Store<'_>) -> Option<ScheduleRow> {
    let actor = "somebody".into();
    wait(store.engine().delete_schedule(at(99), called("s"), actor))
}

/// A new schedule whose first due time is 10.
pub(crate) fn add(store: &Store<'_>, name: &str, spec: ScheduleSpec) -> ScheduleRow {
    match put(store, at(0), name, spec, None, Next::Set(Some(at(10)))) {
        PutOutcome::Put(row) => row,
        other => panic!("a new schedule is taken: {other:?}"),
    }
}

pub(crate) fn row(store: &Store<'_>, name: &str) -> ScheduleRow {
    wait(store.engine().schedule(called(name))).expect("the schedule is there")
}

pub(crate) fn made(row: &ScheduleRow, due: u64) -> NewJob {
    let by = ScheduledBy {
        name: row.name.clone(),
        due_at: at(due),
    };
    job("t").with(|options| options.schedule = Some(Box::new(by)))
}

pub(crate) fn fires(row: &ScheduleRow, due: u64) -> Entry {
    Entry {
        due: at(due),
        late: Duration::from_millis(3),
        what: What::Fire(Box::new(made(row, due))),
    }
}

pub(crate) fn skips(due: u64, why: SkipReason) -> Entry {
    Entry {
        due: at(due),
        late: Duration::ZERO,
        what: What::Skip(why),
    }
}

pub(crate) fn turn(row: &ScheduleRow, entries: Vec<Entry>, next: Option<u64>) -> Firing {
    Firing {
        name: row.name.clone(),
        expect: Expect::At {
            revision: row.revision,
            next_due: row.next_due,
            held: row.held,
        },
        entries,
        next_due: next.map(at),
        held: None,
        unless_live: false,
    }
}

pub(crate) fn fire(store: &Store<'_>, now: Timestamp, firing: Firing) -> Fired {
    let mut fired = wait(store.engine().fire(now, vec![firing]));
    assert_eq!(fired.len(), 1, "one outcome per firing");
    fired.remove(0)
}

pub(crate) fn done(fired: Fired) -> Vec<LedgerRow> {
    match fired {
        Fired::Done(rows) => rows,
        other => panic!("the turn is taken: {other:?}"),
    }
}

pub(crate) fn job_of(row: &LedgerRow) -> JobId {
    match row.outcome {
        LedgerOutcome::Fired { job, .. } => job,
        LedgerOutcome::Skipped { .. } => panic!("it was fired: {row:?}"),
    }
}

pub(crate) fn reason_of(row: &LedgerRow) -> &str {
    match &row.outcome {
        LedgerOutcome::Skipped { reason, .. } => reason,
        LedgerOutcome::Fired { .. } => panic!("it was skipped: {row:?}"),
    }
}

/// The whole ledger, oldest first, read in pages of `limit`.
pub(crate) fn ledger(store: &Store<'_>, name: &str, limit: u16) -> Vec<LedgerRow> {
    let mut all = Vec::new();
    let mut before = None;
    loop {
        let page = wait(store.engine().ledger(LedgerAsk {
            name: called(name),
            before,
            limit,
        }));
        all.extend(page.rows.expect("the schedule is there"));
        assert!(all.len() < 10_000, "pages come to an end");
        before = page.next;
        if before.is_none() {
            all.reverse();
            return all;
        }
    }
}

pub(crate) fn dues(rows: &[LedgerRow]) -> Vec<Timestamp> {
    rows.iter().map(|row| row.due_at).collect()
}

pub(crate) fn live(store: &Store<'_>, name: &str) -> Vec<JobId> {
    wait(store.engine().live_jobs(vec![called(name)])).remove(0)
}
