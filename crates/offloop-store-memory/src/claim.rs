//! Handing jobs out, and finding those whose holder is dead.

use std::collections::BTreeMap;

use offloop_job::{JobId, JobState, Lease, NodeId, Step, Timestamp, UniqueScope};
use offloop_store::{BlockedBy, ClaimRequest, Claimed, Claims, Promoted, Want};

use crate::state::{Rank, Row, State};
use crate::turns::Flow;

impl State {
    pub(crate) fn promote(&mut self, now: Timestamp) -> Promoted {
        let mut promoted = Promoted::default();
        for row in self.jobs.values_mut() {
            if row.state != JobState::Scheduled {
                continue;
            }
            if row.due_at <= now {
                row.state = JobState::Ready;
                promoted.jobs += 1;
            } else {
                let earliest = promoted.next_due.unwrap_or(row.due_at);
                promoted.next_due = Some(earliest.min(row.due_at));
            }
        }
        self.wake |= promoted.jobs > 0;
        promoted
    }

    pub(crate) fn claim(&mut self, ask: &ClaimRequest) -> Claims {
        let mut claims = Claims::default();
        for want in &ask.wants {
            let until = self.serve(want, ask, &mut claims.jobs);
            claims.blocked_until = claims.blocked_until.into_iter().chain(until).min();
        }
        claims
    }

    /// One job after the other. When the earliest flow that only a rate holds back may go, if the
    /// want was not filled.
    fn serve(
        &mut self,
        want: &Want,
        ask: &ClaimRequest,
        claimed: &mut Vec<Claimed>,
    ) -> Option<Timestamp> {
        let mut flows = self.flows(want, ask.now);
        for _ in 0..want.limit {
            let Some(flow) = self.next_flow(&flows, ask.now) else {
                let held = flows
                    .keys()
                    .filter_map(|flow| self.held_back(flow, ask.now));
                return held
                    .filter_map(|block| match block {
                        BlockedBy::Rate(until) => Some(until),
                        BlockedBy::Concurrency => None,
                    })
                    .min();
            };
            let Some(jobs) = flows.get_mut(&flow) else {
                break;
            };
            let best = jobs.remove(0);
            if jobs.is_empty() {
                flows.remove(&flow);
            }
            claimed.extend(self.claim_one(best.2, &flow, ask));
            self.use_turn(&flow);
        }
        None
    }

    /// What may be handed out if no limit stood against it, the best of each flow first. Ready means
    /// that its time has come: a clock that steps back does not take that away.
    fn flows(&self, want: &Want, now: Timestamp) -> BTreeMap<Flow, Vec<Rank>> {
        let mut flows = BTreeMap::<Flow, Vec<Rank>>::new();
        for row in self.jobs.values() {
            let fits = row.state == JobState::Ready
                && want.tasks.contains(&row.task)
                && !self.is_paused(&row.options.queue, &row.task)
                && !row.is_too_late(now)
                && !self.is_doomed(row);
            if fits {
                flows.entry(row.flow()).or_default().push(row.rank());
            }
        }
        for jobs in flows.values_mut() {
            jobs.sort_unstable();
        }
        flows
    }

    fn next_flow(&self, flows: &BTreeMap<Flow, Vec<Rank>>, now: Timestamp) -> Option<Flow> {
        let open = flows
            .iter()
            .filter(|(flow, _)| self.held_back(flow, now).is_none())
            .map(|(flow, jobs)| (self.turn(flow), jobs[0], flow));
        let (keyed, free): (Vec<_>, Vec<_>) = open.partition(|(_, _, flow)| flow.2.is_some());
        let free = free.into_iter().min_by_key(|(_, rank, _)| *rank);
        let best = keyed.into_iter().chain(free).min()?;
        Some(best.2.clone())
    }

    fn claim_one(&mut self, id: JobId, flow: &Flow, ask: &ClaimRequest) -> Option<Claimed> {
        let cost = self.jobs.get(&id)?.options.cost;
        self.take_cost(flow, cost, ask.now);
        let row = self.jobs.get_mut(&id)?;
        row.state = row.state.after(Step::Claim).ok()?;
        self.last_lease += 1;
        row.lease = Some(Lease(self.last_lease));
        row.node = Some(ask.node.clone());
        row.claimed_at = Some(ask.now);
        row.history.attempt += 1;
        let mut claimed = row.claimed();
        let unique = row.options.unique.as_ref();
        if unique.is_some_and(|unique| unique.scope == UniqueScope::UntilStarted) {
            self.release_unique(id);
        }
        if let (Some(claimed), Some(row)) = (&mut claimed, self.jobs.get(&id)) {
            claimed.inputs = self.inputs(row).into();
        }
        claimed
    }

    pub(crate) fn orphans(&self, alive: &NodeId, limit: u16) -> Vec<Claimed> {
        let running = self.jobs.values().filter_map(Row::claimed);
        let dead = running.filter(|claimed| claimed.node != *alive);
        dead.take(usize::from(limit)).collect()
    }
}
