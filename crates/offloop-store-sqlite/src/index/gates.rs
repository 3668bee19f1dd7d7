//! What limits hold back, and how the next job is found past it.
//!
//! The rule is told in words at `JobStore::claim`; the memory store does it slowly. Here, what a
//! queue or task holds back is skipped line by line, and what a key holds back is out of its line's
//! rotation (`flows`).

use std::collections::{HashMap, HashSet};

use offloop_job::{
    Bucket, KeyTarget, Limit, LimitTable, LimitTarget, Rate, Tag, TaskName, Timestamp,
};
use offloop_store::{BlockedBy, LimitStatus, Origin};

use super::flows::FlowId;
use super::{Index, LineId, Picked, ReadyKey, Row, Spot};

/// Limits, and what was taken from their rates.
#[derive(Debug, Default)]
pub(crate) struct Gates {
    pub(crate) table: LimitTable,
    /// Those of the configuration.
    pub(crate) declared: HashSet<LimitTarget>,
    /// By concrete target; one that is not here is full.
    buckets: HashMap<LimitTarget, Bucket>,
    /// Changed in this transaction.
    changed: HashSet<LimitTarget>,
    key_limits: bool,
}

impl Gates {
    pub(crate) fn load(&mut self, target: LimitTarget, limit: Limit) {
        self.table.set(target, Some(limit));
        self.key_limits = self.table.has_key_limits();
    }

    pub(crate) fn load_bucket(&mut self, target: LimitTarget, bucket: Bucket) {
        self.buckets.insert(target, bucket);
    }

    /// What changed since the last call, with what it is now; `None`: nothing is left of it.
    pub(crate) fn take_changed(&mut self) -> Vec<(LimitTarget, Option<Bucket>)> {
        let changed = self.changed.drain();
        let buckets = &self.buckets;
        changed
            .map(|target| {
                let bucket = buckets.get(&target).copied();
                (target, bucket)
            })
            .collect()
    }

    fn forget_where(&mut self, gone: impl Fn(&LimitTable, &LimitTarget, &Bucket) -> bool) {
        let (table, changed) = (&self.table, &mut self.changed);
        self.buckets.retain(|target, bucket| {
            let stays = !gone(table, target, bucket);
            if !stays {
                changed.insert(target.clone());
            }
            stays
        });
    }

    fn opens_at(&self, target: &LimitTarget, rate: &Rate, now: Timestamp) -> Option<Timestamp> {
        let bucket = self.buckets.get(target).copied().unwrap_or_default();
        bucket.opens_at(rate, now)
    }

    fn take(&mut self, target: LimitTarget, rate: &Rate, now: Timestamp, cost: u32) {
        let bucket = self.buckets.entry(target.clone()).or_default();
        *bucket = bucket.take(rate, now, cost);
        self.changed.insert(target);
    }

    /// What blocks where `running` jobs run.
    fn check(
        &self,
        limit: &Limit,
        running: u64,
        now: Timestamp,
        target: impl FnOnce() -> LimitTarget,
    ) -> Option<BlockedBy> {
        if limit.concurrency.is_some_and(|most| running >= most.into()) {
            return Some(BlockedBy::Concurrency);
        }
        let rate = limit.rate?;
        self.opens_at(&target(), &rate, now).map(BlockedBy::Rate)
    }
}

/// One want that is being served.
pub(crate) struct Walk {
    lines: Vec<LineId>,
    now: Timestamp,
    /// Jobs that are too late, out of their order for the time being.
    aside: Vec<(Spot, ReadyKey, Row)>,
    /// When the first line that only a rate holds back may go.
    until: Option<Timestamp>,
}

fn key_targets(task: &TaskName, key: &Tag) -> [LimitTarget; 2] {
    let key = KeyTarget::One(key.clone());
    let task_key = LimitTarget::TaskKey {
        task: task.clone(),
        key: key.clone(),
    };
    [LimitTarget::Key(key), task_key]
}

impl Index {
    /// Whether nothing but the order of jobs without a key decides.
    pub(crate) fn is_plain(&self, tasks: &[TaskName]) -> bool {
        let mut wanted = tasks.iter().filter_map(|task| self.task_ids.get(task));
        self.gates.table.is_empty()
            && wanted.all(|task| {
                let mut lines = self.tasks[*task].lines.iter();
                lines.all(|line| self.lines[line.0 as usize].turns.is_empty())
            })
    }

    pub(crate) fn begin_walk(&self, tasks: &[TaskName], now: Timestamp) -> Walk {
        Walk {
            lines: self.wanted(tasks),
            now,
            aside: Vec::new(),
            until: None,
        }
    }

    /// The next job of a want, out of its order. Its claim counts it as running and takes its cost.
    pub(crate) fn next_pick(&mut self, walk: &mut Walk) -> Option<Picked> {
        loop {
            walk.until = None;
            let mut plain: Option<(ReadyKey, Row, LineId)> = None;
            let mut keyed: Option<super::flows::TurnKey> = None;
            for at in 0..walk.lines.len() {
                let id = walk.lines[at];
                if self.lines[id.0 as usize].has_nothing_ready() {
                    continue;
                }
                match self.line_blocked(id, walk.now) {
                    Some(BlockedBy::Concurrency) => continue,
                    Some(BlockedBy::Rate(until)) => {
                        walk.until = walk.until.into_iter().chain([until]).min();
                        continue;
                    }
                    None => {}
                }
                let best = self.best_plain(id, walk);
                plain = plain.into_iter().chain(best).min();
                let best = self.lines[id.0 as usize].turns.first().copied();
                keyed = keyed.into_iter().chain(best).min();
            }
            let plain_first = match (plain, keyed) {
                (None, None) => return None,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some((key, row, line)), Some(keyed)) => {
                    let turn = self.lines[line.0 as usize].turn.ended;
                    (turn, key, row) < (keyed.0, keyed.1, keyed.2)
                }
            };
            if let (true, Some((key, row, line))) = (plain_first, plain) {
                let spot = Spot::line(line);
                self.remove_ready(spot, key, row);
                self.use_turn(spot, 1);
                return Some(Picked { row, spot });
            }
            if let Some((_, _, _, flow)) = keyed
                && let Some(picked) = self.pick_keyed(flow, walk)
            {
                return Some(picked);
            }
        }
    }

    /// The best job of a line without a key that is in time.
    fn best_plain(&mut self, id: LineId, walk: &mut Walk) -> Option<(ReadyKey, Row, LineId)> {
        loop {
            let line = &self.lines[id.0 as usize];
            let (key, row) = line.ready.first().copied()?;
            if !self.is_late(row, walk.now) {
                return Some((key, row, id));
            }
            self.lines[id.0 as usize].ready.pop_first();
            walk.aside.push((Spot::line(id), key, row));
        }
    }

    /// The best job of the flow whose turn it is; `None` if that is held back, or was too late.
    fn pick_keyed(&mut self, id: FlowId, walk: &mut Walk) -> Option<Picked> {
        let flow = self.flows.get(id)?;
        let spot = Spot::flow(id);
        let (key, row) = flow.ready.first().copied()?;
        if self.is_late(row, walk.now) {
            self.take_best(id);
            walk.aside.push((spot, key, row));
            return None;
        }
        if let Some(blocked) = self.key_blocked(id, walk.now) {
            let until = match blocked {
                BlockedBy::Concurrency => None,
                BlockedBy::Rate(until) => Some(until.as_millis()),
            };
            self.hold_back(id, until);
            return None;
        }
        let name = self.flows.key(flow).map(|key| key.name.clone())?;
        let weight = self.gates.table.weight(&name);
        self.remove_ready(spot, key, row);
        self.use_turn(spot, weight);
        Some(Picked { row, spot })
    }

    /// Puts back what was too late. When to ask again, if the want was not filled.
    pub(crate) fn end_walk(&mut self, walk: Walk, filled: bool) -> Option<Timestamp> {
        for (spot, key, row) in walk.aside {
            self.add_ready(spot, key, row);
        }
        let held = self.flows.first_held().map(Timestamp::from_millis);
        let until = walk.until.into_iter().chain(held).min();
        until.filter(|_| !filled)
    }

    /// Or must end for its group's sake.
    fn is_late(&self, row: Row, now: Timestamp) -> bool {
        let expires_at = self.expires_at.get(&row);
        expires_at.is_some_and(|at| *at < now.as_millis()) || self.groups.is_doomed(row)
    }

    fn line_blocked(&self, id: LineId, now: Timestamp) -> Option<BlockedBy> {
        let line = &self.lines[id.0 as usize];
        let (queue, task) = (&self.queues[line.queue], &self.tasks[line.task_at]);
        let by_queue = queue.limit.as_ref().and_then(|limit| {
            let target = || LimitTarget::Queue(queue.name.clone());
            self.gates.check(limit, queue.running, now, target)
        });
        by_queue.or_else(|| {
            let target = || LimitTarget::Task(task.name.clone());
            let limit = task.limit.as_ref()?;
            self.gates.check(limit, task.running, now, target)
        })
    }

    fn key_blocked(&self, id: FlowId, now: Timestamp) -> Option<BlockedBy> {
        if !self.gates.key_limits {
            return None;
        }
        let flow = self.flows.get(id)?;
        let key = &self.flows.key(flow)?.name;
        let task = &self.lines[flow.line.0 as usize].task;
        key_targets(task, key).into_iter().find_map(|target| {
            let limit = self.gates.table.holding(&target)?;
            let running = self.running_under(&target);
            self.gates.check(limit, running, now, || target)
        })
    }

    /// Jobs that run and count under a concrete target.
    fn running_under(&self, target: &LimitTarget) -> u64 {
        let of_key = |key: &Tag, task: Option<&TaskName>| {
            let flows = self.flows.key_of(key).into_iter();
            let flows = flows.flat_map(|key| &key.flows);
            let flows = flows.filter_map(|id| self.flows.get(*id));
            let flows = flows.filter(|flow| {
                task.is_none_or(|task| self.lines[flow.line.0 as usize].task == *task)
            });
            flows.map(|flow| flow.running).sum()
        };
        match target {
            LimitTarget::Queue(name) => {
                let queue = self.queues.iter().find(|queue| queue.name == *name);
                queue.map_or(0, |queue| queue.running)
            }
            LimitTarget::Task(name) => {
                let at = self.task_ids.get(name);
                at.map_or(0, |at| self.tasks[*at].running)
            }
            LimitTarget::Key(KeyTarget::One(key)) => of_key(key, None),
            LimitTarget::TaskKey {
                task,
                key: KeyTarget::One(key),
            } => of_key(key, Some(task)),
            each => self.running_of_each(each),
        }
    }

    fn running_of_each(&self, each: &LimitTarget) -> u64 {
        let governed = self.flows.all().filter(|flow| {
            let key = self.flows.key(flow).map(|key| &key.name);
            let task = &self.lines[flow.line.0 as usize].task;
            key.is_some_and(|key| {
                let mut own = key_targets(task, key).into_iter();
                own.any(|own| self.gates.table.governs(each, &own))
            })
        });
        governed.map(|flow| flow.running).sum()
    }

    /// A job starts: its cost is taken from every rate that holds for it.
    pub(crate) fn take_cost(&mut self, spot: Spot, cost: u32, now: Timestamp) {
        for target in self.targets(spot) {
            let limit = self.gates.table.holding(&target);
            if let Some(rate) = limit.and_then(|limit| limit.rate) {
                self.gates.take(target, &rate, now, cost);
            }
        }
    }

    /// Whether the end of a running job lets another one start.
    pub(crate) fn end_frees(&self, spot: Spot) -> bool {
        if self.gates.table.is_empty() {
            return false;
        }
        let mut targets = self.targets(spot).into_iter();
        targets.any(|target| {
            let limit = self.gates.table.holding(&target);
            let most = limit.and_then(|limit| limit.concurrency);
            most.is_some_and(|most| self.running_under(&target) >= most.into())
        })
    }

    fn targets(&self, spot: Spot) -> Vec<LimitTarget> {
        let line = &self.lines[self.line_of_spot(spot).0 as usize];
        let queue = &self.queues[line.queue].name;
        let flow = spot.as_flow().and_then(|id| self.flows.get(id));
        let key = flow.and_then(|flow| self.flows.key(flow));
        offloop_job::targets_of(queue, &line.task, key.map(|key| &key.name))
    }

    /// Sets or removes a limit; rates that are others than before begin with nothing taken.
    pub(crate) fn set_limit(&mut self, target: &LimitTarget, limit: Option<Limit>) {
        let rate =
            |table: &LimitTable, own: &LimitTarget| table.holding(own).and_then(|limit| limit.rate);
        let table = &self.gates.table;
        let touched = self.gates.buckets.keys();
        let touched = touched.filter(|own| *own == target || target.is_each());
        let before: HashMap<_, _> = touched.map(|own| (own.clone(), rate(table, own))).collect();
        self.gates.table.set(target.clone(), limit);
        self.gates.forget_where(|after, own, _| {
            let before = before.get(own);
            before.is_some_and(|before| *before != rate(after, own))
        });
        self.gates.key_limits = self.gates.table.has_key_limits();
        self.refresh_gates();
        self.release_all();
    }

    /// What lines look at, from the table.
    pub(crate) fn refresh_gates(&mut self) {
        for queue in &mut self.queues {
            let target = LimitTarget::Queue(queue.name.clone());
            queue.limit = self.gates.table.get(&target).copied();
        }
        for task in &mut self.tasks {
            let target = LimitTarget::Task(task.name.clone());
            task.limit = self.gates.table.get(&target).copied();
        }
    }

    /// Forgets the buckets that nothing is left of.
    pub(crate) fn forget_buckets(&mut self, now: Timestamp) {
        self.gates.forget_where(|_, _, bucket| bucket.is_empty(now));
    }

    pub(crate) fn limit_status(
        &self,
        target: &LimitTarget,
        limit: &Limit,
        now: Timestamp,
    ) -> LimitStatus {
        let running = self.running_under(target);
        let blocked = self.gates.check(limit, running, now, || target.clone());
        LimitStatus {
            target: target.clone(),
            limit: *limit,
            origin: if self.gates.declared.contains(target) {
                Origin::File
            } else {
                Origin::Api
            },
            running,
            blocked: blocked.filter(|_| !target.is_each()),
        }
    }
}
