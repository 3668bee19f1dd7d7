//! The cases, by what they are about. `list.rs` names every one of them.

pub mod checkpoint;
pub mod claim;
pub mod close;
pub mod delete;
pub mod end_idle;
pub mod flows;
pub mod follow;
pub mod groups;
pub mod insert;
pub mod limited;
pub mod limits;
pub mod model;
pub mod modes;
pub mod orphans;
pub mod overdue;
pub mod progress;
pub mod promote;
pub mod prune;
pub mod query;
pub mod queues;
pub mod records;
pub mod requests;
pub mod revive;
pub mod schedules;
mod schedules_kit;
pub mod schedules_survive;
pub mod settle;
pub mod snooze;
pub mod survives;
pub mod survives_flow;
pub mod survives_limits;
pub mod survives_long;
pub mod turns;
pub mod unique;
pub mod usage;
pub mod wake;

use offloop_job::{JobId, JobState};
use offloop_store::{Claimed, IdleEnd};

use crate::store::{COMPLETED, EXHAUSTED};
use crate::{Draft, Store, at, job};

/// Every state that a call can bring about. No call makes a job wait for others yet.
pub(crate) const STATES: [JobState; 7] = [
    JobState::Scheduled,
    JobState::Ready,
    JobState::Running,
    JobState::Completed,
    JobState::Failed,
    JobState::Cancelled,
    JobState::Expired,
];

pub(crate) const FINAL: [JobState; 4] = [
    JobState::Completed,
    JobState::Failed,
    JobState::Cancelled,
    JobState::Expired,
];

/// A job of task `t` that is brought into `state` at 0; alone, no other may be ready.
pub(crate) fn in_state(store: &Store<'_>, state: JobState) -> JobId {
    match state {
        JobState::Waiting => unreachable!("not one of STATES"),
        JobState::Scheduled => store.add(at(0), job("t").run_at(at(1_000_000))),
        JobState::Ready => store.add(at(0), job("t")),
        JobState::Running => store.start(at(0)).id,
        JobState::Completed => ended(store, |claimed| {
            store.finish(at(0), claimed, COMPLETED);
        }),
        JobState::Failed => ended(store, |claimed| {
            store.finish(at(0), claimed, EXHAUSTED);
        }),
        JobState::Cancelled => idle_end(store, IdleEnd::Cancel),
        JobState::Expired => idle_end(store, IdleEnd::Expire),
    }
}

fn ended(store: &Store<'_>, end: impl FnOnce(&Claimed)) -> JobId {
    let claimed = store.start(at(0));
    end(&claimed);
    claimed.id
}

fn idle_end(store: &Store<'_>, why: IdleEnd) -> JobId {
    let id = store.add(at(0), job("t"));
    store.end_one(at(0), id, why);
    id
}
