//! Schedules in the world of the model: what is drawn about them, and how it is played.
//!
//! Turns are drawn without the rules that decide them above the store (`offloop-schedule`), so that
//! engines are asked for what no such rule would ask: due times that have their row, rows of the
//! past, turns of an older spec.

use std::time::Duration;

use offloop_job::{ScheduleName, ScheduleSpec, ScheduledBy, SkipReason, Timestamp, Timing};
use offloop_store::{
    Engine, Entry, Expect, Fired, Firing, LedgerAsk, LedgerOutcome, LedgerRow, Next, Origin,
    PutOutcome, PutSchedule, ScheduleRow, ScheduleStore as _, What,
};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;

use super::draw;
use super::same::{Names, Told};
use super::world::{PAGES_MAX, World, same, wait};
use crate::Draft;
use crate::cases::schedules::{called, rich_spec, spec};

const NAMES: [&str; 3] = ["nightly", "nightly.b", "z"];

/// Milliseconds before or after now.
type Shift = i64;

#[derive(Clone, Debug)]
pub(super) enum Timed {
    Put {
        name: u8,
        /// By the revision that it has; otherwise by an older one, or as if it were new.
        current: bool,
        rich: bool,
        paused: bool,
        every: u8,
        next: Then,
    },
    Delete(u8),
    Fire(Vec<Turn>),
    Look(u8, u16),
    Live,
    Prune,
}

#[derive(Clone, Debug)]
pub(super) struct Turn {
    name: u8,
    expect: Whose,
    entries: Vec<(Shift, Becomes)>,
    next: Option<Shift>,
    held: Option<Shift>,
    unless_live: bool,
}

/// What is due next.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    AsBefore,
    Never,
    In(Shift),
}

#[derive(Clone, Copy, Debug)]
enum Whose {
    Current,
    Older,
    ByHand,
}

#[derive(Clone, Debug)]
enum Becomes {
    /// A job of this task. Without a unique key: a job that another one debounces is alive by its
    /// schedule on disk and not in memory, and nobody has said which is right.
    Fired(u8),
    Skipped(u8),
    /// So long a stretch.
    Stretch(Shift),
}

pub(super) fn timed() -> impl Strategy<Value = Timed> {
    let put = (
        0_u8..3,
        weighted_bool(0.85),
        any::<bool>(),
        weighted_bool(0.2),
        1_u8..4,
        prop_oneof![
            2 => Just(Then::AsBefore),
            1 => Just(Then::Never),
            5 => (-100_i64..300).prop_map(Then::In),
        ],
    );
    let put = put.prop_map(|(name, current, rich, paused, every, next)| Timed::Put {
        name,
        current,
        rich,
        paused,
        every,
        next,
    });
    prop_oneof![
        10 => put,
        1 => (0_u8..3).prop_map(Timed::Delete),
        14 => vec(turn(), 1..4).prop_map(Timed::Fire),
        3 => (0_u8..4, 1_u16..6).prop_map(|(name, limit)| Timed::Look(name, limit)),
        2 => Just(Timed::Live),
        1 => Just(Timed::Prune),
    ]
}

fn weighted_bool(share: f64) -> impl Strategy<Value = bool> {
    prop::bool::weighted(share)
}

fn turn() -> impl Strategy<Value = Turn> {
    let becomes = prop_oneof![
        5 => (0_u8..3).prop_map(Becomes::Fired),
        2 => (0_u8..3).prop_map(Becomes::Skipped),
        1 => (1_i64..500).prop_map(Becomes::Stretch),
    ];
    // Few times, so that some are drawn again; some older than a ledger is kept.
    let due = prop_oneof![
        8 => (-6_i64..2).prop_map(|step| step * 50),
        1 => Just(-500 * 24 * 3_600_000_i64),
    ];
    let expect =
        prop_oneof![8 => Just(Whose::Current), 1 => Just(Whose::Older), 1 => Just(Whose::ByHand)];
    (
        0_u8..3,
        expect,
        vec((due, becomes), 0..4),
        weighted(0.8, -100_i64..300),
        weighted(0.2, -100_i64..100),
        weighted_bool(0.2),
    )
        .prop_map(|(name, expect, entries, next, held, unless_live)| Turn {
            name,
            expect,
            entries,
            next,
            held,
            unless_live,
        })
}

fn named(number: u8) -> ScheduleName {
    called(
        NAMES
            .get(usize::from(number))
            .copied()
            .unwrap_or("never-made"),
    )
}

fn specified(rich: bool, paused: bool, every: u8) -> ScheduleSpec {
    ScheduleSpec {
        paused,
        timing: Timing::Every(Duration::from_secs(every.into())),
        ..if rich { rich_spec() } else { spec() }
    }
}

impl World<'_> {
    pub(super) fn timed(&mut self, timed: &Timed) -> Told<()> {
        match timed {
            Timed::Put {
                name,
                current,
                rich,
                paused,
                every,
                next,
            } => {
                let spec = specified(*rich, *paused, *every);
                self.put(*name, *current, spec, *next)
            }
            Timed::Delete(name) => {
                let now = self.now;
                self.agree(|engine| engine.delete_schedule(now, named(*name), "test".into()))
            }
            Timed::Fire(turns) => self.fire(turns),
            Timed::Look(name, limit) => self.look_at_schedule(&named(*name), *limit),
            Timed::Live => self.live_jobs(),
            Timed::Prune => self.prune_ledgers(),
        }
    }

    fn put(&self, name: u8, current: bool, spec: ScheduleSpec, next: Then) -> Told<()> {
        let known = wait(self.oracle.schedule(named(name)))?;
        let revision = known.map(|row| row.revision);
        let put = PutSchedule {
            name: named(name),
            spec: spec.into(),
            origin: Origin::Api,
            expect: if current {
                revision
            } else {
                revision.and_then(|revision| revision.checked_sub(1))
            },
            next: match next {
                Then::AsBefore => Next::Keep,
                Then::Never => Next::Set(None),
                Then::In(shift) => Next::Set(Some(draw::shifted(self.now, shift))),
            },
            actor: "test".into(),
        };
        let ask = |engine: &dyn Engine, put| engine.put_schedule(self.now, put);
        let (ours, theirs) = self.both(put.clone(), put, ask)?;
        same::<PutOutcome>(&ours, &theirs)
    }

    fn fire(&mut self, turns: &[Turn]) -> Told<()> {
        let mut firings = vec![];
        for turn in turns {
            let row = wait(self.oracle.schedule(named(turn.name)))?;
            firings.push(firing(turn, self.now, row.as_ref()));
        }
        let ask = |engine: &dyn Engine, firings| engine.fire(self.now, firings);
        let (ours, theirs) = self.both(firings.clone(), firings, ask)?;
        let theirs = self.names.fired(&ours, theirs)?;
        let rows = ours.iter().flat_map(|fired| match fired {
            Fired::Done(rows) => &rows[..],
            _ => &[],
        });
        let made = rows.filter_map(|row| match row.outcome {
            LedgerOutcome::Fired { job, .. } => Some(job),
            LedgerOutcome::Skipped { .. } => None,
        });
        self.ids.extend(made);
        same(&ours, &theirs)
    }

    fn look_at_schedule(&self, name: &ScheduleName, limit: u16) -> Told<()> {
        self.agree(|engine| engine.schedule(name.clone()))?;
        let ours = ledger(&self.oracle, name, limit)?;
        let theirs = ledger(self.engine.as_deref().ok_or("no engine")?, name, limit)?;
        let theirs = theirs.map(|rows| self.names.ledger(rows)).transpose()?;
        same(&ours, &theirs)
    }

    fn live_jobs(&self) -> Told<()> {
        let names: Vec<_> = (0..4).map(named).collect();
        let ask = |engine: &dyn Engine, ()| engine.live_jobs(names.clone());
        let (ours, theirs) = self.both((), (), ask)?;
        same(&ours, &self.names.lists(theirs)?)
    }

    /// To the end: how it is cut into pieces is the engine's own affair.
    fn prune_ledgers(&self) -> Told<()> {
        for _ in 0..PAGES_MAX {
            let (ours, theirs) = self.both((), (), |engine, ()| engine.prune_ledger(self.now))?;
            if !ours && !theirs {
                return Ok(());
            }
        }
        Err("pruning ledgers never ends".to_owned())
    }

    /// All that can be seen of schedules.
    pub(super) fn schedules(&self) -> Told<()> {
        let mut after = None;
        for _ in 0..PAGES_MAX {
            let ask = |engine: &dyn Engine, after| engine.schedules(after, 2);
            let (ours, theirs) = self.both(after.clone(), after, ask)?;
            same(&ours, &theirs)?;
            after = ours.last().map(|row| row.name.clone());
            if after.is_none() {
                break;
            }
        }
        for name in 0..4 {
            self.look_at_schedule(&named(name), 3)?;
        }
        self.live_jobs()
    }
}

fn firing(turn: &Turn, now: Timestamp, row: Option<&ScheduleRow>) -> Firing {
    let at = |shift: Option<Shift>| shift.map(|shift| draw::shifted(now, shift));
    let revision = row.map_or(1, |row| row.revision);
    let (next_due, held) = row.map_or((None, None), |row| (row.next_due, row.held));
    let name = named(turn.name);
    if matches!(turn.expect, Whose::ByHand) {
        // As a trigger is: one job, at an instant that no due time of the plan has.
        return Firing {
            expect: Expect::Anything,
            entries: vec![entry(
                &name,
                now.plus(Duration::from_millis(7)),
                &Becomes::Fired(0),
            )],
            next_due: None,
            held: None,
            unless_live: false,
            name,
        };
    }
    Firing {
        expect: match turn.expect {
            Whose::ByHand => Expect::Anything,
            Whose::Current => Expect::At {
                revision,
                next_due,
                held,
            },
            Whose::Older => Expect::At {
                revision: revision - 1,
                next_due,
                held,
            },
        },
        entries: turn
            .entries
            .iter()
            .map(|(due, what)| entry(&name, draw::shifted(now, *due), what))
            .collect(),
        next_due: at(turn.next),
        held: at(turn.held),
        unless_live: turn.unless_live,
        name,
    }
}

fn entry(name: &ScheduleName, due: Timestamp, becomes: &Becomes) -> Entry {
    let what = match becomes {
        Becomes::Fired(task) => {
            let by = ScheduledBy {
                name: name.clone(),
                due_at: due,
            };
            let job = crate::job(draw::task(*task).as_str());
            let job = job.with(|options| options.schedule = Some(Box::new(by)));
            What::Fire(Box::new(job))
        }
        Becomes::Skipped(why) => What::Skip(skip_reason(*why)),
        Becomes::Stretch(length) => What::SkipUntil {
            reason: SkipReason::Missed,
            until: draw::shifted(due, *length),
            count: (length % 2 == 0).then_some(length.unsigned_abs()),
        },
    };
    Entry {
        due,
        late: Duration::from_millis(due.as_millis() % 7),
        what,
    }
}

fn skip_reason(number: u8) -> SkipReason {
    match number {
        0 => SkipReason::Paused,
        1 => SkipReason::Missed,
        _ => SkipReason::Refused("ž, no".into()),
    }
}

fn ledger(engine: &dyn Engine, name: &ScheduleName, limit: u16) -> Told<Option<Vec<LedgerRow>>> {
    let (mut rows, mut before) = (vec![], None);
    for _ in 0..PAGES_MAX {
        let page = wait(engine.ledger(LedgerAsk {
            name: name.clone(),
            before,
            limit,
        }))?;
        let Some(more) = page.rows else {
            return Ok(None);
        };
        rows.extend(more);
        before = page.next;
        if before.is_none() {
            return Ok(Some(rows));
        }
    }
    Err("the ledger never ends".to_owned())
}

impl Names {
    /// New jobs are learned from the rows that name them.
    fn fired(&mut self, ours: &[Fired], theirs: Vec<Fired>) -> Told<Vec<Fired>> {
        for (ours, theirs) in ours.iter().zip(&theirs) {
            let (Fired::Done(ours), Fired::Done(theirs)) = (ours, theirs) else {
                continue;
            };
            for (own, row) in ours.iter().zip(theirs) {
                if let (LedgerOutcome::Fired { job: own, .. }, LedgerOutcome::Fired { job, .. }) =
                    (&own.outcome, &row.outcome)
                {
                    self.learn(*own, *job)?;
                }
            }
        }
        let told = |fired| {
            Ok(match fired {
                Fired::Done(rows) => Fired::Done(self.ledger(rows)?),
                Fired::Live(ids) => Fired::Live(self.list(ids)?),
                stale @ Fired::Stale(_) => stale,
            })
        };
        theirs.into_iter().map(told).collect()
    }

    fn ledger(&self, rows: Vec<LedgerRow>) -> Told<Vec<LedgerRow>> {
        let told = |row: LedgerRow| {
            let outcome = match row.outcome {
                LedgerOutcome::Fired { job, by_hand } => LedgerOutcome::Fired {
                    job: self.id(job)?,
                    by_hand,
                },
                LedgerOutcome::Skipped { reason, stretch } => LedgerOutcome::Skipped {
                    reason: self.text(&reason),
                    stretch,
                },
            };
            Ok(LedgerRow { outcome, ..row })
        };
        rows.into_iter().map(told).collect()
    }

    fn list(&self, ids: Vec<offloop_job::JobId>) -> Told<Vec<offloop_job::JobId>> {
        ids.into_iter().map(|id| self.id(id)).collect()
    }

    fn lists(&self, lists: Vec<Vec<offloop_job::JobId>>) -> Told<Vec<Vec<offloop_job::JobId>>> {
        lists.into_iter().map(|ids| self.list(ids)).collect()
    }
}
