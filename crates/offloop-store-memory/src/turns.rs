//! Whose turn it is: the rotation over flows that `JobStore::claim` tells of.

use std::collections::BTreeSet;

use offloop_job::{JobState, QueueName, Tag, TaskName};

use crate::state::{Row, State};

/// Queue, task and group key.
pub(crate) type Flow = (QueueName, TaskName, Option<Tag>);

/// Where one flow is in the rotation.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    /// When its last turn ended, by the count of all turns; even numbers.
    pub(crate) ended: u64,
    /// Picks of the turn that it is in.
    used: u16,
}

impl Row {
    pub(crate) fn flow(&self) -> Flow {
        let options = &self.options;
        (
            options.queue.clone(),
            self.task.clone(),
            options.group_key.clone(),
        )
    }
}

impl State {
    pub(crate) fn turn(&self, flow: &Flow) -> u64 {
        self.turns.get(flow).map_or(0, |turn| turn.ended)
    }

    /// One job of the flow was handed out.
    pub(crate) fn use_turn(&mut self, flow: &Flow) {
        let weight = flow.2.as_ref().map_or(1, |key| self.limits.weight(key));
        let turn = self.turns.entry(flow.clone()).or_default();
        turn.used += 1;
        if turn.used >= weight {
            self.turns_ended += 2;
            *turn = Turn {
                ended: self.turns_ended,
                used: 0,
            };
        }
    }

    /// Flows that hold nothing any more are forgotten, new ones take their place.
    pub(crate) fn refresh_turns(&mut self) {
        let held = |row: &&Row| {
            matches!(
                row.state,
                JobState::Scheduled | JobState::Ready | JobState::Running
            )
        };
        let flows: BTreeSet<Flow> = self.jobs.values().filter(held).map(Row::flow).collect();
        self.turns.retain(|flow, _| flows.contains(flow));
        let newcomer = Turn {
            ended: self.turns_ended.saturating_sub(1),
            used: 0,
        };
        for flow in flows {
            self.turns.entry(flow).or_insert(newcomer);
        }
    }

    /// As after a restart: all flows are even.
    pub(crate) fn forget_turns(&mut self) {
        self.turns_ended = 0;
        for turn in self.turns.values_mut() {
            *turn = Turn::default();
        }
    }
}
