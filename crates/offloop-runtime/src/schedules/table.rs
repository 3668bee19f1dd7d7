//! What is known of every schedule, and which is next. Pure: the clock comes in.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::Duration;

use offloop_job::{Overlap, ScheduleEventKind, ScheduleName, SilentWhy, Timestamp};
use offloop_schedule::{Plan, Seen, Turn, decide, waits_for_the_clock};
use offloop_store::{Firing, ScheduleRow};

/// Between two looks at a due time that waits for a job to end. (Most ends are told at once.)
const HELD_LOOK: Duration = Duration::from_millis(500);

#[derive(Debug)]
struct Item {
    row: ScheduleRow,
    /// `None`: its spec cannot be read by this version (its zone is gone, say).
    plan: Option<Plan>,
    /// When it is looked at next; in `timers` too.
    at: Option<Timestamp>,
    /// Its times until `next_due` were kept by a clock that has gone back since.
    ahead: bool,
}

#[derive(Debug, Default)]
pub(crate) struct Timetable {
    items: HashMap<ScheduleName, Item>,
    timers: BTreeSet<(Timestamp, ScheduleName)>,
}

/// Why nothing comes from a schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// A due time has no row, although it should have been kept long ago.
    Late { due_at: Timestamp, by: Duration },
    /// The clock went back: the times until this one have their rows.
    Ahead { next_due: Timestamp },
    /// This version cannot read its spec.
    Unreadable,
}

impl fmt::Display for Silence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late { due_at, by } => write!(
                f,
                "its due time {due_at} has no row after {by:.0?}; see in this log whether the store \
                 fails, and GET /v1/pulse whether the keeper is blocked"
            ),
            Self::Ahead { next_due } => write!(
                f,
                "the clock went back, and its times until {next_due} were kept before that; if the \
                 clock is right now, resume the schedule: it begins anew from now"
            ),
            Self::Unreadable => f.write_str("this version cannot read it; put it again"),
        }
    }
}

impl Silence {
    /// As subscribers hear it.
    pub(crate) const fn event(&self) -> ScheduleEventKind {
        let (why, due_at, late) = match *self {
            Self::Late { due_at, by } => (SilentWhy::Late, Some(due_at), by),
            Self::Ahead { next_due } => (SilentWhy::ClockWentBack, Some(next_due), Duration::ZERO),
            Self::Unreadable => (SilentWhy::Unreadable, None, Duration::ZERO),
        };
        ScheduleEventKind::Silent { why, due_at, late }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SilentSchedule {
    pub name: ScheduleName,
    pub why: Silence,
}

impl Timetable {
    pub(crate) fn has(&self, name: &ScheduleName) -> bool {
        self.items.contains_key(name)
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// A row as the store has it. One of an earlier revision than the known one comes late.
    pub(crate) fn set(&mut self, row: ScheduleRow, now: Timestamp) {
        let name = row.name.clone();
        let plan = Plan::new(&name, &row.spec, row.created_at);
        if let Err(problems) = &plan {
            let what: Vec<_> = problems.iter().map(ToString::to_string).collect();
            tracing::error!(schedule = %name, "cannot be read: {}", what.join("; "));
        }
        let mut item = Item {
            row,
            plan: plan.ok(),
            at: None,
            ahead: false,
        };
        item.ahead = item.is_ahead(now);
        if let Some(old) = self.items.get(&name) {
            let same = old.row.created_at == item.row.created_at;
            if same && old.row.revision > item.row.revision {
                return;
            }
        }
        self.remove(&name);
        self.items.insert(name.clone(), item);
        self.arm(&name, now);
    }

    pub(crate) fn remove(&mut self, name: &ScheduleName) {
        if let Some(old) = self.items.remove(name)
            && let Some(at) = old.at
        {
            self.timers.remove(&(at, name.clone()));
        }
    }

    pub(crate) fn names(&self) -> Vec<ScheduleName> {
        self.items.keys().cloned().collect()
    }

    /// Sets its timer by its row.
    fn arm(&mut self, name: &ScheduleName, now: Timestamp) {
        let Some(item) = self.items.get_mut(name) else {
            return;
        };
        let mut at = item.planned();
        if item.row.held.is_some() {
            let look = now.plus(HELD_LOOK);
            at = Some(at.map_or(look, |at| at.min(look)));
        }
        self.arm_at(name, at);
    }

    fn arm_at(&mut self, name: &ScheduleName, at: Option<Timestamp>) {
        let Some(item) = self.items.get_mut(name) else {
            return;
        };
        if let Some(old) = std::mem::replace(&mut item.at, at) {
            self.timers.remove(&(old, name.clone()));
        }
        if let Some(at) = at {
            self.timers.insert((at, name.clone()));
        }
    }

    /// A held due time is looked at in the next turn; whether there is one.
    pub(crate) fn look_at_held(&mut self, name: &ScheduleName) -> bool {
        let held = self
            .items
            .get(name)
            .is_some_and(|item| item.row.held.is_some());
        if held {
            self.arm_at(name, Some(Timestamp::from_millis(0)));
        }
        held
    }

    pub(crate) fn next(&self) -> Option<Timestamp> {
        self.timers.first().map(|timer| timer.0)
    }

    /// Those to look at now, the longest due first; and of each, whether its overlap rule asks for
    /// unfinished jobs.
    pub(crate) fn due(&self, now: Timestamp, limit: usize) -> Vec<(ScheduleName, bool)> {
        let due = self.timers.iter().take_while(|timer| timer.0 <= now);
        let named = due.take(limit).filter_map(|(_, name)| {
            let overlap = self.items.get(name)?.row.spec.overlap;
            Some((name.clone(), overlap != Overlap::Allow))
        });
        named.collect()
    }

    /// What a schedule does now, with its row; its timer is set anew if that is nothing.
    pub(crate) fn turn(
        &mut self,
        name: &ScheduleName,
        now: Timestamp,
        live: bool,
        refusal: impl FnOnce(&ScheduleRow) -> Option<String>,
    ) -> Option<(ScheduleRow, Turn)> {
        let item = self.items.get(name)?;
        let refusal = refusal(&item.row);
        let turn = item.plan.as_ref().and_then(|plan| {
            decide(Seen {
                row: &item.row,
                plan,
                now,
                live,
                refusal: refusal.as_deref(),
            })
        });
        let row = item.row.clone();
        if turn.is_none() {
            self.arm(name, now);
        }
        turn.map(|turn| (row, turn))
    }

    /// A turn was taken. `row`: what it was decided by; if it was changed meanwhile, the change holds.
    pub(crate) fn took(&mut self, row: &ScheduleRow, firing: &Firing, now: Timestamp) {
        let Some(item) = self.items.get_mut(&row.name) else {
            return;
        };
        if item.row != *row {
            return;
        }
        item.row.next_due = firing.next_due;
        item.row.held = firing.held;
        item.ahead = item.is_ahead(now);
        self.arm(&row.name, now);
    }

    /// The clock stepped back: which schedules have kept times that come again?
    pub(crate) fn clock_went_back(&mut self, now: Timestamp) {
        for item in self.items.values_mut() {
            item.ahead = item.is_ahead(now);
        }
    }

    pub(crate) fn silent(&self, now: Timestamp) -> Vec<SilentSchedule> {
        let silent = self.items.values().filter_map(|item| {
            let name = item.row.name.clone();
            Some(SilentSchedule {
                name,
                why: item.silence(now)?,
            })
        });
        let mut silent: Vec<_> = silent.collect();
        silent.sort_by(|a, b| a.name.cmp(&b.name));
        silent
    }
}

impl Item {
    fn planned(&self) -> Option<Timestamp> {
        let due = self.row.next_due?;
        self.plan.as_ref().map(|plan| plan.planned(due))
    }

    fn is_ahead(&self, now: Timestamp) -> bool {
        let plan = self.plan.as_ref();
        plan.is_some_and(|plan| waits_for_the_clock(&self.row, plan, now))
    }

    fn silence(&self, now: Timestamp) -> Option<Silence> {
        if self.plan.is_none() {
            return Some(Silence::Unreadable);
        }
        let (due_at, planned) = (self.row.next_due?, self.planned()?);
        if planned.plus(self.row.spec.alert_after) < now {
            let by = now.since(planned);
            return Some(Silence::Late { due_at, by });
        }
        let still = self.ahead && now < due_at;
        still.then_some(Silence::Ahead { next_due: due_at })
    }
}
