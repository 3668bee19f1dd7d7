//! Asks for as much work as the lanes have room for. Path: enqueue -> **claim** -> dispatch ->
//! settle -> publish.
//!
//! Must never: ask for more than there is room, or let one full lane hold up another.

use std::sync::Arc;
use std::time::Duration;

use offloop_job::TaskName;
use offloop_lane::{Demand, Slots};
use offloop_store::Want;

/// Jobs asked for in one transaction; larger ones gain nothing (ADR-0002).
const CLAIM_BATCH_JOBS_MAX: u16 = 512;
/// Work that may wait inside a lane, in time: long enough to hide the way to the store, short
/// enough that priorities still mean something.
const AHEAD: Duration = Duration::from_millis(5);
/// Weight of the newest run in the mean.
const MEAN_WEIGHT: f64 = 1.0 / 16.0;

/// The keeper's account of one lane.
#[derive(Debug)]
pub(crate) struct Desk {
    tasks: Arc<[TaskName]>,
    slots: Slots,
    /// Attempts in the lane.
    inside: u32,
    /// Asked for and not yet answered.
    reserved: u32,
    /// Mean run time in seconds, once something ran.
    mean_run: Option<f64>,
    /// The last ask was answered in full: there is likely more.
    hungry: bool,
    /// A job that does not fit on the node stands at its head.
    holding: bool,
}

impl Desk {
    pub(crate) fn new(tasks: Vec<TaskName>, slots: Slots) -> Self {
        let tasks = tasks.into();
        Self {
            tasks,
            slots,
            inside: 0,
            reserved: 0,
            mean_run: None,
            hungry: true,
            holding: false,
        }
    }

    /// How many more attempts it may be given.
    fn room(&self) -> u32 {
        let running = f64::from(self.slots.running);
        let ahead = match self.mean_run {
            // Nothing is known yet: hold nothing back from other lanes or nodes.
            None => 0.0,
            Some(mean) => {
                (running * AHEAD.as_secs_f64() / mean.max(1e-9)).min(f64::from(self.slots.ahead))
            }
        };
        let most = u32::from(self.slots.running) + ahead as u32;
        most.saturating_sub(self.inside + self.reserved)
    }

    pub(crate) fn set_holding(&mut self, holding: bool) {
        self.holding = holding;
    }

    pub(crate) fn work_in(&mut self, jobs: u32) {
        self.inside += jobs;
    }

    pub(crate) fn work_out(&mut self, wall: Duration) {
        self.inside = self.inside.saturating_sub(1);
        let run = wall.as_secs_f64();
        let mean = self.mean_run.unwrap_or(run);
        self.mean_run = Some(mean + (run - mean) * MEAN_WEIGHT);
    }
}

/// What was asked, lane by lane: `(lane, limit)`.
pub(crate) type Asked = Vec<(usize, u16)>;

/// One want per lane with room that may have work, with the room reserved. Empty: nothing to ask.
///
/// A lane that holds more than half of what it may is left alone, so that deep lanes are filled in
/// batches, not one by one. A lane with a demand is asked for just that.
pub(crate) fn ask(
    desks: &mut [Desk],
    demand: impl Fn(usize) -> Option<Vec<Demand>>,
) -> (Asked, Vec<Want>) {
    let mut asked = Vec::new();
    let mut wants = Vec::new();
    for (lane, desk) in desks.iter_mut().enumerate() {
        if !desk.hungry || desk.holding {
            continue;
        }
        if let Some(demand) = demand(lane) {
            let first = wants.len();
            wants.extend(demand.into_iter().map(|wish| Want {
                tasks: wish.tasks,
                limit: wish.jobs.min(CLAIM_BATCH_JOBS_MAX),
            }));
            let limit: u32 = wants[first..]
                .iter()
                .map(|want| u32::from(want.limit))
                .sum();
            if limit > 0 {
                let limit = u16::try_from(limit).unwrap_or(u16::MAX);
                desk.reserved += u32::from(limit);
                asked.push((lane, limit));
            }
            continue;
        }
        let room = desk.room();
        let held = desk.inside + desk.reserved;
        if room == 0 || (held > u32::from(desk.slots.running) && room < held) {
            continue;
        }
        let limit = u16::try_from(room)
            .unwrap_or(u16::MAX)
            .min(CLAIM_BATCH_JOBS_MAX);
        desk.reserved += u32::from(limit);
        asked.push((lane, limit));
        wants.push(Want {
            tasks: Arc::clone(&desk.tasks),
            limit,
        });
    }
    (asked, wants)
}

/// This lane wants work again.
pub(crate) fn wanted(desk: &mut Desk) {
    desk.hungry = true;
}

/// Every lane may have work again.
pub(crate) fn wake(desks: &mut [Desk]) {
    for desk in desks {
        desk.hungry = true;
    }
}

/// The answer came: `got` jobs per lane. Room that was not used is free again.
pub(crate) fn answered(desks: &mut [Desk], asked: &Asked, got: &[u32]) {
    for (lane, limit) in asked {
        let desk = &mut desks[*lane];
        desk.reserved -= u32::from(*limit);
        desk.hungry &= got[*lane] >= u32::from(*limit);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn desk(running: u16, ahead: u16) -> Desk {
        Desk::new(
            vec![TaskName::parse("t").unwrap()],
            Slots { running, ahead },
        )
    }

    #[test]
    fn a_lane_is_never_asked_for_more_than_its_room() {
        let mut desks = [desk(2, 0)];
        let (asked, wants) = ask(&mut desks, |_| None);
        assert_eq!((asked.clone(), wants[0].limit), (vec![(0, 2)], 2));
        assert!(
            ask(&mut desks, |_| None).0.is_empty(),
            "room asked for is not asked for twice"
        );
        desks[0].work_in(2);
        answered(&mut desks, &asked, &[2]);
        assert!(ask(&mut desks, |_| None).0.is_empty());
        desks[0].work_out(Duration::from_secs(1));
        assert_eq!(ask(&mut desks, |_| None).0, vec![(0, 1)]);
    }

    #[test]
    fn long_work_is_not_hoarded_and_short_work_is_fetched_ahead() {
        for (run, want) in [
            (Duration::from_secs(1), 2),
            (Duration::from_micros(10), 2 + 512),
        ] {
            let mut desks = [desk(2, 512)];
            desks[0].work_in(1);
            desks[0].work_out(run);
            let mut total = 0;
            for _ in 0..4 {
                let (asked, _) = ask(&mut desks, |_| None);
                let Some((_, limit)) = asked.first().copied() else {
                    break;
                };
                desks[0].work_in(u32::from(limit));
                answered(&mut desks, &asked, &[u32::from(limit)]);
                total += u32::from(limit);
            }
            assert!(
                total <= want && total + 2 >= want.min(512),
                "{run:?}: {total}"
            );
        }
    }

    #[test]
    fn an_empty_answer_stops_the_asking_until_a_wake() {
        let mut desks = [desk(2, 0), desk(1, 0)];
        let (asked, _) = ask(&mut desks, |_| None);
        desks[0].work_in(2);
        answered(&mut desks, &asked, &[2, 0]);
        desks[0].work_out(Duration::ZERO);
        assert_eq!(
            ask(&mut desks, |_| None).0,
            vec![(0, 1)],
            "the full lane does not stop for the empty one"
        );
        wake(&mut desks);
        assert_eq!(ask(&mut desks, |_| None).0, vec![(1, 1)]);
    }

    #[test]
    fn a_lane_whose_workers_come_and_ask_is_given_what_they_ask_for_whatever_its_slots_are() {
        let mut desks = [desk(4_096, 0)];
        let tasks = |name| Arc::from([TaskName::parse(name).unwrap()]);
        let wish = |name, jobs| Demand {
            tasks: tasks(name),
            jobs,
        };
        assert!(ask(&mut desks, |_| Some(Vec::new())).1.is_empty());
        let (asked, wants) = ask(&mut desks, |_| Some(vec![wish("a", 2), wish("b", 1)]));
        let limits: Vec<_> = wants.iter().map(|want| want.limit).collect();
        assert_eq!((asked.clone(), limits), (vec![(0, 3)], vec![2, 1]));
        answered(&mut desks, &asked, &[2]);
        assert!(
            ask(&mut desks, |_| Some(vec![wish("a", 1)])).1.is_empty(),
            "there was no more"
        );
        wanted(&mut desks[0]);
        assert_eq!(ask(&mut desks, |_| Some(vec![wish("a", 1)])).1.len(), 1);
    }
}
