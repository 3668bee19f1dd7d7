//! What one turn of a schedule does with the due times that have passed: the one place where missed,
//! overlap and pause meet.
//!
//! Path: the ledger's row -> **decide** -> `ScheduleStore::fire`. Pure: whoever calls it again with the
//! same arguments gets the same turn, and of two nodes that do, the store takes one.

use std::time::Duration;

use offloop_job::{Missed, NewJob, Overlap, ScheduleSpec, ScheduledBy, SkipReason, Timestamp};
use offloop_store::{Entry, Expect, Firing, ScheduleRow, What};

use crate::plan::Plan;

/// Rows of one turn for due times that nobody fired; those before them share one row.
pub const MISSED_ROWS_MAX: usize = 100;
/// Under [`Missed::Skip`], what the last due time may be late: a restart, not an outage.
pub const SKIP_GRACE: Duration = Duration::from_secs(60);

/// What a turn is decided by.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    pub row: &'a ScheduleRow,
    /// Of this row's spec.
    pub plan: &'a Plan,
    pub now: Timestamp,
    /// A job of the schedule is unfinished. Asked for only where the overlap rule cares.
    pub live: bool,
    /// Why its jobs could not be taken in here, if so.
    pub refusal: Option<&'a str>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub struct Turn {
    pub firing: Firing,
    /// Cancel the unfinished jobs: the held due time waits for their end.
    pub cancel: bool,
}

/// `None`: there is nothing to do now.
pub fn decide(seen: Seen<'_>) -> Option<Turn> {
    let Seen { row, plan, now, .. } = seen;
    let spec = &*row.spec;
    let due = row.next_due.filter(|due| plan.planned(*due) <= now);
    let mut desk = Desk {
        seen,
        entries: Vec::new(),
        live: seen.live,
        held: row.held,
        cancel: false,
    };
    let Some(first) = due else {
        desk.look_at_held();
        return desk.finish(row.next_due);
    };
    let keep = match spec.missed {
        Missed::CatchUp { max } => usize::from(max).max(MISSED_ROWS_MAX),
        Missed::Skip | Missed::Once => MISSED_ROWS_MAX,
    };
    let tail = plan.passed(first, now, keep);
    let last = *tail.dues.last()?; // `first` has passed
    let next_due = plan.next_after(last);
    if spec.paused {
        desk.skip_older(tail.older, &SkipReason::Paused);
        if let Some(held) = desk.held.take() {
            desk.skip(held, SkipReason::Paused);
        }
        for due in tail.dues {
            desk.skip(due, SkipReason::Paused);
        }
        return desk.finish(next_due);
    }
    desk.skip_older(tail.older, &SkipReason::Missed);
    let wanted = match spec.missed {
        Missed::Skip if now.since(plan.planned(last)) > SKIP_GRACE => 0,
        Missed::Skip | Missed::Once => 1,
        Missed::CatchUp { max } => max.into(),
    };
    let missed = tail.dues.len().saturating_sub(wanted);
    for due in &tail.dues[..missed] {
        desk.skip(*due, SkipReason::Missed);
    }
    desk.overlap(&tail.dues[missed..]);
    desk.finish(next_due)
}

/// The turn that fires a schedule now, whatever its times and rules say.
pub fn by_hand(row: &ScheduleRow, now: Timestamp) -> Firing {
    Firing {
        name: row.name.clone(),
        expect: Expect::Anything,
        entries: vec![Entry {
            due: now,
            late: Duration::ZERO,
            what: What::Fire(Box::new(job(row, now))),
        }],
        next_due: None,
        held: None,
        unless_live: false,
    }
}

/// The clock went back: times between now and the next due one have their rows already, so the
/// schedule is silent until then.
pub fn waits_for_the_clock(row: &ScheduleRow, plan: &Plan, now: Timestamp) -> bool {
    let Some(next_due) = row.next_due else {
        return false;
    };
    plan.next_after(now).is_some_and(|due| due < next_due)
}

fn job(row: &ScheduleRow, due_at: Timestamp) -> NewJob {
    let spec: &ScheduleSpec = &row.spec;
    let mut options = spec.options.clone();
    options.schedule = Some(Box::new(ScheduledBy {
        name: row.name.clone(),
        due_at,
    }));
    NewJob {
        task: spec.task.clone(),
        payload: spec.payload.clone(),
        options,
        idempotency: None,
    }
}

struct Desk<'a> {
    seen: Seen<'a>,
    entries: Vec<Entry>,
    live: bool,
    held: Option<Timestamp>,
    cancel: bool,
}

impl Desk<'_> {
    fn push(&mut self, due: Timestamp, what: What) {
        let late = self.seen.now.since(self.seen.plan.planned(due));
        self.entries.push(Entry { due, late, what });
    }

    fn skip(&mut self, due: Timestamp, why: SkipReason) {
        self.push(due, What::Skip(why));
    }

    fn skip_older(&mut self, older: Option<crate::plan::Older>, reason: &SkipReason) {
        if let Some(older) = older {
            let (reason, until, count) = (reason.clone(), older.last, older.count);
            self.push(
                older.first,
                What::SkipUntil {
                    reason,
                    until,
                    count,
                },
            );
        }
    }

    fn fire(&mut self, due: Timestamp) {
        if let Some(why) = self.seen.refusal {
            return self.skip(due, SkipReason::Refused(why.into()));
        }
        let job = job(self.seen.row, due);
        self.push(due, What::Fire(Box::new(job)));
        self.live = true;
    }

    /// Nothing has come due; one that was held may be fired now.
    fn look_at_held(&mut self) {
        if self.seen.row.spec.paused {
            if let Some(held) = self.held.take() {
                self.skip(held, SkipReason::Paused);
            }
            return;
        }
        self.overlap(&[]);
    }

    fn overlap(&mut self, dues: &[Timestamp]) {
        match self.seen.row.spec.overlap {
            Overlap::Allow => {
                for due in self.held.take().into_iter().chain(dues.iter().copied()) {
                    self.fire(due);
                }
            }
            Overlap::Skip => {
                for due in self.held.take().into_iter().chain(dues.iter().copied()) {
                    if self.live {
                        self.skip(due, SkipReason::Overlap);
                    } else {
                        self.fire(due);
                    }
                }
            }
            Overlap::QueueOne => {
                for due in self.held.take().into_iter().chain(dues.iter().copied()) {
                    if !self.live {
                        self.fire(due);
                    } else if self.held.is_none() {
                        self.held = Some(due);
                    } else {
                        self.skip(due, SkipReason::Overlap);
                    }
                }
            }
            Overlap::CancelRunning => {
                // Only the newest is worth a cancel.
                let mut newest = self.held.take();
                for due in dues {
                    if let Some(older) = newest.replace(*due) {
                        self.skip(older, SkipReason::Overlap);
                    }
                }
                match newest {
                    Some(due) if self.live => {
                        self.held = Some(due);
                        self.cancel = true;
                    }
                    Some(due) => self.fire(due),
                    None => {}
                }
            }
        }
    }

    fn finish(self, next_due: Option<Timestamp>) -> Option<Turn> {
        let row = self.seen.row;
        if self.entries.is_empty() && self.held == row.held && next_due == row.next_due {
            return None;
        }
        let fires = self
            .entries
            .iter()
            .any(|entry| matches!(entry.what, What::Fire(_)));
        Some(Turn {
            firing: Firing {
                name: row.name.clone(),
                expect: Expect::At {
                    revision: row.revision,
                    next_due: row.next_due,
                    held: row.held,
                },
                entries: self.entries,
                next_due,
                held: self.held,
                unless_live: fires && row.spec.overlap != Overlap::Allow,
            },
            cancel: self.cancel,
        })
    }
}
