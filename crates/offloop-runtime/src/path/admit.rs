//! Asks the store for work, and starts it as far as the node's cores and memory allow. Path: enqueue -> claim ->
//! **admit** -> dispatch -> settle -> publish.
//!
//! Only jobs that ask for something count: for more than one core, or with a memory limit. One that
//! does not fit now is held at the head of its lane, and the lane asks for no more until it went, so
//! that smaller ones do not pass it for ever. Lanes whose executors are elsewhere are left out.
//!
//! Must never: settle a job that a lane has, or hold one while nothing of its kind runs.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use offloop_job::{Lease, OptionProblem, StopReason, Timestamp};
use offloop_store::{ClaimRequest, Claims, StoreError, is_sealed};

use crate::config::Budget;
use crate::handle::Shared;
use crate::keeper::{Input, Keeper, Running, earlier};
use crate::path::claim::Asked;
use crate::path::dispatch::{self, Moment};
use crate::path::{claim, settle};

/// What one job asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// 0 for a job of one core: those are bounded by their lane's slots.
    cores: u32,
    memory_bytes: u64,
}

impl Need {
    pub(crate) fn new(cores: u16, memory_bytes: Option<u64>) -> Self {
        Self {
            cores: if cores > 1 { cores.into() } else { 0 },
            memory_bytes: memory_bytes.unwrap_or(0),
        }
    }

    /// Why no node of this budget can ever run it.
    pub(crate) fn problem(self, budget: &Budget) -> Option<OptionProblem> {
        if self.cores > budget.cores {
            return Some(OptionProblem {
                field: "cores",
                message: format!(
                    "is {}; this server gives its jobs {} (admission.cores)",
                    self.cores, budget.cores
                ),
            });
        }
        let most = budget.memory_bytes?;
        (self.memory_bytes > most).then(|| OptionProblem {
            field: "memory_limit_bytes",
            message: format!(
                "is {}; this server gives its jobs {most} bytes together (admission.memory)",
                self.memory_bytes
            ),
        })
    }
}

/// What runs now takes, and who waits for room.
#[derive(Debug)]
pub(crate) struct Admission {
    budget: Budget,
    used: Need,
    by_lease: HashMap<Lease, Need>,
    /// Claimed, not started; by lane, in order.
    held: Vec<VecDeque<Lease>>,
}

impl Admission {
    pub(crate) fn new(budget: Budget, lanes: usize) -> Self {
        Self {
            budget,
            used: Need::default(),
            by_lease: HashMap::new(),
            held: vec![VecDeque::new(); lanes],
        }
    }

    /// What is too large for the budget goes when nothing else of its kind runs: it was taken in
    /// under another one.
    fn fits(&self, need: Need) -> bool {
        let part = |need: u64, used: u64, most: u64| {
            need == 0 || used == 0 || used.saturating_add(need) <= most
        };
        let memory = self.budget.memory_bytes.unwrap_or(u64::MAX);
        let cores = part(
            need.cores.into(),
            self.used.cores.into(),
            self.budget.cores.into(),
        );
        cores && part(need.memory_bytes, self.used.memory_bytes, memory)
    }

    fn take(&mut self, lease: Lease, need: Need) {
        if need != Need::default() {
            self.used.cores += need.cores;
            self.used.memory_bytes += need.memory_bytes;
            self.by_lease.insert(lease, need);
        }
    }

    /// Whether there is more room now.
    pub(crate) fn give_back(&mut self, lease: Lease) -> bool {
        let Some(need) = self.by_lease.remove(&lease) else {
            return false;
        };
        self.used.cores -= need.cores;
        self.used.memory_bytes -= need.memory_bytes;
        true
    }

    /// The lane may start it, or it is held.
    fn admit(&mut self, lane: usize, lease: Lease, need: Need) -> bool {
        let admitted = self.held[lane].is_empty() && self.fits(need);
        if admitted {
            self.take(lease, need);
        } else {
            self.held[lane].push_back(lease);
        }
        admitted
    }

    /// The head of a lane's line, if it fits now.
    fn next(&mut self, lane: usize, need: impl Fn(Lease) -> Need) -> Option<Lease> {
        let lease = *self.held[lane].front()?;
        let need = need(lease);
        if !self.fits(need) {
            return None;
        }
        self.held[lane].pop_front();
        self.take(lease, need);
        Some(lease)
    }

    fn remove(&mut self, lane: usize, lease: Lease) -> bool {
        let held = &mut self.held[lane];
        let before = held.len();
        held.retain(|other| *other != lease);
        held.len() < before
    }

    pub(crate) fn holds(&self, lane: usize) -> bool {
        !self.held[lane].is_empty()
    }
}

pub(crate) fn need(shared: &Shared, running: &Running) -> Need {
    if shared.lanes[running.lane].demand().is_some() {
        return Need::default();
    }
    let claimed = &running.claimed;
    let memory = dispatch::memory(claimed, shared.defaults_of(&claimed.task));
    Need::new(claimed.options.cores, memory)
}

impl Keeper {
    pub(crate) fn claim(&mut self, now: Timestamp) {
        if self.claiming {
            return;
        }
        let lanes = &self.shared.lanes;
        let (asked, wants) = claim::ask(&mut self.desks, |lane| lanes[lane].demand());
        if wants.is_empty() {
            return;
        }
        self.claiming = true;
        let ask = ClaimRequest {
            now,
            node: self.shared.node.clone(),
            wants,
        };
        let call = self.shared.engine.claim(ask);
        let inbox = self.shared.inbox.clone();
        tokio::task::spawn_local(async move {
            let _ = inbox.send(Input::Claimed {
                asked,
                answer: call.await,
            });
        });
    }

    pub(crate) fn on_claimed(&mut self, asked: &Asked, answer: Result<Claims, StoreError>) {
        self.claiming = false;
        let claimed = match answer {
            Ok(claims) => {
                self.blocked_until = earlier(self.blocked_until, claims.blocked_until);
                claims.jobs
            }
            Err(error) => {
                let none = vec![0; self.desks.len()];
                claim::answered(&mut self.desks, asked, &none);
                claim::wake(&mut self.desks);
                self.store_failed("claim jobs", &error);
                return;
            }
        };
        self.store_works();
        let now = Moment {
            wall: self.shared.clock.now(),
            steady: Instant::now(),
        };
        let mut got = vec![0; self.desks.len()];
        let mut leases = Vec::with_capacity(claimed.len());
        let mut stop_now = Vec::new();
        for claimed in claimed {
            let Some(&lane) = self.shared.routes.get(claimed.task.as_str()) else {
                tracing::error!(job = %claimed.id, task = %claimed.task, "the store gave out a task that was not asked for");
                continue;
            };
            if is_sealed(&claimed.payload) {
                got[lane] += 1;
                self.refuse_sealed(lane, claimed);
                continue;
            }
            let cancelling = self.stop_early.remove(&claimed.lease);
            if cancelling {
                stop_now.push(claimed.lease);
            }
            got[lane] += 1;
            self.desks[lane].work_in(1);
            leases.push(claimed.lease);
            self.running.insert(
                claimed.lease,
                Running {
                    claimed,
                    lane,
                    cancelling,
                },
            );
        }
        self.stop_early.clear(); // no claim is under way: the rest had ended before their stop
        claim::answered(&mut self.desks, asked, &got);
        if std::mem::take(&mut self.hinted) {
            claim::wake(&mut self.desks);
        }
        self.start(leases, now);
        for lease in stop_now {
            self.stop(lease, StopReason::Cancel);
        }
    }

    /// Hands claimed jobs to their lanes, as far as there is room on this node.
    pub(crate) fn start(&mut self, leases: Vec<Lease>, now: Moment) {
        let mut work: Vec<Vec<_>> = self.desks.iter().map(|_| Vec::new()).collect();
        for lease in leases {
            let Some(running) = self.running.get(&lease) else {
                continue;
            };
            let lane = running.lane;
            // A lane that closes hands it back itself.
            let need = need(&self.shared, running);
            if self.closing.is_none() && !self.admission.admit(lane, lease, need) {
                self.desks[lane].set_holding(true);
                continue;
            }
            let defaults = self.shared.defaults_of(&running.claimed.task);
            work[lane].push(dispatch::work(&running.claimed, defaults, now));
        }
        for (lane, work) in work.into_iter().enumerate() {
            if !work.is_empty() {
                self.shared.backlog.moved(lane, now.wall);
                self.shared.lanes[lane].start(work);
            }
        }
    }

    /// Something ended: who was held may go.
    pub(crate) fn start_held(&mut self) {
        let now = Moment {
            wall: self.shared.clock.now(),
            steady: Instant::now(),
        };
        for lane in 0..self.desks.len() {
            let mut work = Vec::new();
            while let Some(lease) = self.admission.next(lane, |lease| {
                let running = self.running.get(&lease);
                running.map_or_else(Need::default, |running| need(&self.shared, running))
            }) {
                if let Some(running) = self.running.get(&lease) {
                    let defaults = self.shared.defaults_of(&running.claimed.task);
                    work.push(dispatch::work(&running.claimed, defaults, now));
                }
            }
            if work.is_empty() {
                continue;
            }
            self.shared.backlog.moved(lane, now.wall);
            self.shared.lanes[lane].start(work);
            if !self.admission.holds(lane) {
                self.desks[lane].set_holding(false);
                claim::wanted(&mut self.desks[lane]);
            }
        }
    }

    /// Ends a job that no lane has yet; whether it was one.
    pub(crate) fn stop_held(&mut self, lease: Lease, reason: StopReason) -> bool {
        let Some(running) = self.running.get(&lease) else {
            return false;
        };
        let lane = running.lane;
        if !self.admission.remove(lane, lease) {
            return false;
        }
        let ended = settle::unbegun(&running.claimed, reason);
        self.on_ended(lane, ended);
        let holds = self.admission.holds(lane);
        self.desks[lane].set_holding(holds);
        true
    }

    /// The server closes: what no lane has goes back unspent.
    pub(crate) fn hand_back_held(&mut self) {
        let held: Vec<Lease> = self.admission.held.iter().flatten().copied().collect();
        for lease in held {
            self.stop_held(lease, StopReason::Shutdown);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn budget() -> Admission {
        let budget = Budget {
            cores: 4,
            memory_bytes: Some(4 * GIB),
        };
        Admission::new(budget, 2)
    }

    #[test]
    fn jobs_that_ask_for_nothing_are_never_held() {
        let mut admission = budget();
        for lease in 0..100 {
            assert!(admission.admit(0, Lease(lease), Need::new(1, None)));
        }
        assert_eq!(admission.used, Need::default());
    }

    #[test]
    fn what_runs_together_never_takes_more_than_there_is() {
        let mut admission = budget();
        assert!(admission.admit(0, Lease(1), Need::new(3, Some(GIB))));
        assert!(!admission.admit(0, Lease(2), Need::new(2, None)), "cores");
        assert!(admission.admit(1, Lease(3), Need::new(1, Some(3 * GIB))));
        assert!(
            !admission.admit(1, Lease(4), Need::new(1, Some(1))),
            "memory"
        );
        assert!(admission.give_back(Lease(1)));
        let need = |_| Need::new(2, None);
        assert_eq!(admission.next(0, need), Some(Lease(2)));
        let need = |_| Need::new(1, Some(1));
        assert_eq!(admission.next(1, need), Some(Lease(4)));
        assert_eq!(admission.next(1, need), None);
    }

    #[test]
    fn a_small_job_does_not_pass_a_large_one_for_ever() {
        let mut admission = budget();
        assert!(admission.admit(0, Lease(1), Need::new(3, None)));
        assert!(!admission.admit(0, Lease(2), Need::new(4, None)));
        assert!(
            !admission.admit(0, Lease(3), Need::new(1, None)),
            "after it"
        );
        assert!(
            admission.admit(1, Lease(4), Need::new(1, None)),
            "another lane"
        );
        assert!(admission.remove(0, Lease(2)));
        assert_eq!(admission.next(0, |_| Need::new(1, None)), Some(Lease(3)));
        assert!(!admission.holds(0));
    }

    #[test]
    fn what_was_taken_in_under_a_larger_budget_runs_alone() {
        let mut admission = budget();
        assert!(admission.admit(0, Lease(1), Need::new(64, None)));
        assert!(!admission.admit(0, Lease(2), Need::new(2, None)));
        admission.give_back(Lease(1));
        assert_eq!(admission.next(0, |_| Need::new(2, None)), Some(Lease(2)));
    }

    #[test]
    fn what_can_never_fit_is_named_with_what_there_is() {
        let budget = Budget {
            cores: 4,
            memory_bytes: Some(GIB),
        };
        let problem = |cores, memory| Need::new(cores, memory).problem(&budget);
        assert_eq!(problem(4, Some(GIB)), None);
        assert_eq!(problem(5, None).map(|p| p.field), Some("cores"));
        let over = problem(1, Some(GIB + 1)).map(|p| p.field);
        assert_eq!(over, Some("memory_limit_bytes"));
        let unbounded = Budget {
            memory_bytes: None,
            ..budget
        };
        assert_eq!(Need::new(1, Some(u64::MAX)).problem(&unbounded), None);
    }
}
