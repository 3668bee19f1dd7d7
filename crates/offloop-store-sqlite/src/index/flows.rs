//! Jobs with a group key, by flow: a line and a key. And the rotation over flows, in which a line's
//! jobs without a key are one flow.
//!
//! A flow that a limit was found to hold back leaves its line's rotation, until an end of its key or
//! a time brings it back: a claim never looks at it meanwhile, however many such flows there are.

use std::collections::{BTreeSet, HashMap};

use offloop_job::{LimitTarget, Tag, TaskName};

use super::{Index, LineId, ReadyKey, Row};

/// A flow of a key, by its slot. Slots are used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlowId(u32);

/// Where a job waits, in 32 bits: a line, or a flow of one of its keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Spot(u32);

const FLOW_BIT: u32 = 1 << 31;

impl Spot {
    pub(crate) const fn line(id: LineId) -> Self {
        Self(id.0)
    }

    pub(super) const fn flow(id: FlowId) -> Self {
        Self(id.0 | FLOW_BIT)
    }

    pub(super) const fn as_flow(self) -> Option<FlowId> {
        if self.0 & FLOW_BIT == 0 {
            None
        } else {
            Some(FlowId(self.0 & !FLOW_BIT))
        }
    }
}

/// Where a flow is in the rotation.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Turn {
    /// When its last turn ended, by the count of all turns; even numbers.
    pub(super) ended: u64,
    /// Picks of the turn that it is in.
    used: u16,
}

/// Place of a flow in its line's rotation: turn, then its best job.
pub(super) type TurnKey = (u64, ReadyKey, Row, FlowId);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// It has nothing ready.
    Out,
    Turn(TurnKey),
    /// A limit holds it back: a rate until then, or the number that runs.
    Held(Option<u64>),
}

#[derive(Debug)]
pub(super) struct Flow {
    pub(super) line: LineId,
    pub(super) key: u32,
    pub(super) ready: BTreeSet<(ReadyKey, Row)>,
    scheduled: u64,
    pub(super) running: u64,
    turn: Turn,
    place: Place,
}

#[derive(Debug)]
pub(super) struct Key {
    pub(super) name: Tag,
    pub(super) flows: Vec<FlowId>,
}

/// All flows of keys.
#[derive(Debug, Default)]
pub(crate) struct Flows {
    slots: Vec<Option<Flow>>,
    free: Vec<u32>,
    keys: Vec<Option<Key>>,
    free_keys: Vec<u32>,
    key_ids: HashMap<Tag, u32>,
    /// Flows that a rate holds back, by time.
    held: BTreeSet<(u64, FlowId)>,
    /// Flows that lost their last job in this call.
    emptied: Vec<Spot>,
    pub(super) turns_ended: u64,
    /// Of the last claim.
    claimed_at: u64,
}

impl Flows {
    pub(super) fn get(&self, id: FlowId) -> Option<&Flow> {
        self.slots.get(id.0 as usize)?.as_ref()
    }

    fn get_mut(&mut self, id: FlowId) -> Option<&mut Flow> {
        self.slots.get_mut(id.0 as usize)?.as_mut()
    }

    pub(super) fn key(&self, flow: &Flow) -> Option<&Key> {
        self.keys.get(flow.key as usize)?.as_ref()
    }

    pub(super) fn key_of(&self, name: &Tag) -> Option<&Key> {
        self.keys.get(*self.key_ids.get(name)? as usize)?.as_ref()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Flow> {
        self.slots.iter().flatten()
    }

    /// When the first flow that a rate holds back may go.
    pub(super) fn first_held(&self) -> Option<u64> {
        self.held.first().map(|held| held.0)
    }

    fn newcomer(&self) -> Turn {
        Turn {
            ended: self.turns_ended.saturating_sub(1),
            used: 0,
        }
    }

    fn key_id(&mut self, name: &Tag) -> u32 {
        if let Some(id) = self.key_ids.get(name) {
            return *id;
        }
        let key = Some(Key {
            name: name.clone(),
            flows: Vec::new(),
        });
        let id = if let Some(id) = self.free_keys.pop() {
            self.keys[id as usize] = key;
            id
        } else {
            self.keys.push(key);
            self.keys.len() as u32 - 1
        };
        self.key_ids.insert(name.clone(), id);
        id
    }

    fn flow_of(&mut self, line: LineId, name: &Tag) -> FlowId {
        let key = self.key_id(name);
        let flows = self.keys[key as usize].iter().flat_map(|key| &key.flows);
        let mut same = flows.filter(|id| self.get(**id).is_some_and(|flow| flow.line == line));
        if let Some(id) = same.next() {
            return *id;
        }
        let flow = Some(Flow {
            line,
            key,
            ready: BTreeSet::new(),
            scheduled: 0,
            running: 0,
            turn: self.newcomer(),
            place: Place::Out,
        });
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = flow;
            slot
        } else {
            self.slots.push(flow);
            self.slots.len() as u32 - 1
        };
        let id = FlowId(slot);
        if let Some(key) = &mut self.keys[key as usize] {
            key.flows.push(id);
        }
        self.emptied.push(Spot::flow(id)); // in case that no job comes
        id
    }

    fn forget(&mut self, id: FlowId) {
        let Some(flow) = self.slots[id.0 as usize].take() else {
            return;
        };
        self.free.push(id.0);
        let Some(key) = &mut self.keys[flow.key as usize] else {
            return;
        };
        key.flows.retain(|own| *own != id);
        if key.flows.is_empty() {
            self.key_ids.remove(&key.name);
            self.keys[flow.key as usize] = None;
            self.free_keys.push(flow.key);
        }
    }
}

impl Flow {
    fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.scheduled == 0 && self.running == 0
    }
}

impl Index {
    /// Where jobs of a line wait that have this group key, or none.
    pub(crate) fn spot(&mut self, line: LineId, key: Option<&Tag>) -> Spot {
        match key {
            None => Spot::line(line),
            Some(key) => Spot::flow(self.flows.flow_of(line, key)),
        }
    }

    pub(crate) fn line_of_spot(&self, spot: Spot) -> LineId {
        let flow = spot.as_flow().and_then(|flow| self.flows.get(flow));
        flow.map_or(LineId(spot.0 & !FLOW_BIT), |flow| flow.line)
    }

    pub(super) fn add_ready(&mut self, spot: Spot, key: ReadyKey, row: Row) {
        let id = self.line_of_spot(spot);
        self.begin_turns(id, spot);
        let line = self.line(id);
        let Some(flow) = spot.as_flow() else {
            line.ready.insert((key, row));
            return;
        };
        line.keyed.insert((key.due(), row));
        let held = match self.flows.get_mut(flow) {
            Some(flow) => {
                flow.ready.insert((key, row));
                matches!(flow.place, Place::Held(_))
            }
            None => false,
        };
        if !held {
            self.place(flow);
        }
    }

    /// Whether it was there.
    pub(super) fn remove_ready(&mut self, spot: Spot, key: ReadyKey, row: Row) -> bool {
        let line = self.line_of_spot(spot);
        let line = self.line(line);
        let Some(id) = spot.as_flow() else {
            let found = line.ready.remove(&(key, row));
            self.flows.emptied.push(spot);
            return found;
        };
        line.keyed.remove(&(key.due(), row));
        let flow = self.flows.get_mut(id);
        let found = flow.is_some_and(|flow| flow.ready.remove(&(key, row)));
        self.place(id);
        self.flows.emptied.push(spot);
        found
    }

    pub(super) fn add_scheduled(&mut self, spot: Spot) {
        let id = self.line_of_spot(spot);
        self.begin_turns(id, spot);
        let line = self.line(id);
        line.scheduled += 1;
        match spot.as_flow().and_then(|flow| self.flows.get_mut(flow)) {
            Some(flow) => flow.scheduled += 1,
            None => self.lines[id.0 as usize].plain_scheduled += 1,
        }
    }

    pub(super) fn remove_scheduled(&mut self, spot: Spot) {
        let id = self.line_of_spot(spot);
        self.line(id).scheduled -= 1;
        match spot.as_flow().and_then(|flow| self.flows.get_mut(flow)) {
            Some(flow) => flow.scheduled -= 1,
            None => self.lines[id.0 as usize].plain_scheduled -= 1,
        }
        self.flows.emptied.push(spot);
    }

    pub(crate) fn add_running(&mut self, spot: Spot) {
        let id = self.line_of_spot(spot);
        self.begin_turns(id, spot);
        let line = self.line(id);
        line.running += 1;
        let (queue, task) = (line.queue, line.task_at);
        self.queues[queue].running += 1;
        self.tasks[task].running += 1;
        match spot.as_flow().and_then(|flow| self.flows.get_mut(flow)) {
            Some(flow) => flow.running += 1,
            None => self.lines[id.0 as usize].plain_running += 1,
        }
    }

    /// A job runs no more: flows of its key that were held back are looked at again.
    pub(crate) fn remove_running(&mut self, spot: Spot) {
        let id = self.line_of_spot(spot);
        let line = self.line(id);
        line.running -= 1;
        let (queue, task) = (line.queue, line.task_at);
        self.queues[queue].running -= 1;
        self.tasks[task].running -= 1;
        self.flows.emptied.push(spot);
        let Some(flow) = spot.as_flow().and_then(|flow| self.flows.get_mut(flow)) else {
            self.lines[id.0 as usize].plain_running -= 1;
            return;
        };
        flow.running -= 1;
        let key = flow.key;
        self.release_key(key);
    }

    fn release_key(&mut self, key: u32) {
        let flows = self.flows.keys[key as usize].iter();
        let flows: Vec<FlowId> = flows.flat_map(|key| key.flows.iter().copied()).collect();
        for id in flows {
            self.place(id);
        }
    }

    /// Puts a flow where its turn and its best job belong.
    fn place(&mut self, id: FlowId) {
        let place = |flow: &Flow| {
            let best = flow.ready.first();
            best.map_or(Place::Out, |(key, row)| {
                Place::Turn((flow.turn.ended, *key, *row, id))
            })
        };
        if let Some(flow) = self.flows.get(id) {
            let place = place(flow);
            self.move_to(id, place);
        }
    }

    fn move_to(&mut self, id: FlowId, to: Place) {
        let Some(flow) = self.flows.get_mut(id) else {
            return;
        };
        let from = std::mem::replace(&mut flow.place, to);
        if from == to {
            return;
        }
        let line = &mut self.lines[flow.line.0 as usize];
        match from {
            Place::Turn(turn) => {
                line.turns.remove(&turn);
            }
            Place::Held(Some(until)) => {
                self.flows.held.remove(&(until, id));
            }
            Place::Held(None) | Place::Out => {}
        }
        match to {
            Place::Turn(turn) => {
                line.turns.insert(turn);
            }
            Place::Held(Some(until)) => {
                self.flows.held.insert((until, id));
            }
            Place::Held(None) | Place::Out => {}
        }
    }

    /// A limit holds the flow back: out of the rotation.
    pub(super) fn hold_back(&mut self, id: FlowId, until: Option<u64>) {
        self.move_to(id, Place::Held(until));
    }

    /// Brings back what rates held until now; all of it after a step back of the clock.
    pub(crate) fn release_due(&mut self, now: u64) {
        let stepped_back = now < self.flows.claimed_at;
        self.flows.claimed_at = now;
        while let Some((until, id)) = self.flows.held.first().copied() {
            if until > now && !stepped_back {
                break;
            }
            self.place(id);
        }
    }

    /// Limits changed: everything is looked at again.
    pub(super) fn release_all(&mut self) {
        for slot in 0..self.flows.slots.len() {
            self.place(FlowId(slot as u32));
        }
    }

    /// Its best job goes, or is left aside.
    pub(super) fn take_best(&mut self, id: FlowId) -> Option<(ReadyKey, Row)> {
        let flow = self.flows.get_mut(id)?;
        let best = flow.ready.pop_first();
        self.place(id);
        best
    }

    /// A job of a line without a key, or of a flow, was handed out.
    pub(super) fn use_turn(&mut self, spot: Spot, weight: u16) {
        let ended = self.flows.turns_ended + 2;
        let turn = match spot.as_flow().and_then(|id| self.flows.get_mut(id)) {
            Some(flow) => &mut flow.turn,
            None => &mut self.lines[(spot.0 & !FLOW_BIT) as usize].turn,
        };
        turn.used += 1;
        if turn.used >= weight {
            *turn = Turn { ended, used: 0 };
            self.flows.turns_ended = ended;
            if let Some(id) = spot.as_flow() {
                self.place(id);
            }
        }
    }

    /// A line whose jobs without a key were gone has some again.
    fn begin_turns(&mut self, id: LineId, spot: Spot) {
        let newcomer = self.flows.newcomer();
        let line = &mut self.lines[id.0 as usize];
        if spot.as_flow().is_none() && std::mem::take(&mut line.rests) {
            line.turn = newcomer;
        }
    }

    /// Forgets the turns of flows that hold nothing any more. After each call.
    pub(crate) fn forget_emptied(&mut self) {
        while let Some(spot) = self.flows.emptied.pop() {
            let Some(id) = spot.as_flow() else {
                let line = &mut self.lines[spot.0 as usize];
                line.rests = line.has_no_plain_jobs();
                continue;
            };
            if self.flows.get(id).is_some_and(Flow::is_empty) {
                self.flows.forget(id);
            }
        }
    }

    pub(super) fn task_at(&mut self, name: &TaskName) -> usize {
        if let Some(at) = self.task_ids.get(name) {
            return *at;
        }
        self.tasks.push(super::Task {
            name: name.clone(),
            lines: Vec::new(),
            running: 0,
            limit: self
                .gates
                .table
                .get(&LimitTarget::Task(name.clone()))
                .copied(),
        });
        let at = self.tasks.len() - 1;
        self.task_ids.insert(name.clone(), at);
        at
    }
}
