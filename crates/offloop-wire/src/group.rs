//! What is shown of groups, flows and the inputs of jobs.

use std::collections::BTreeMap;

use offloop_job::{Group, GroupState, Input, JobId, JobState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::raw_or_text;
use crate::time::format_time;

/// A group. Rows of a list leave out `members` and `next_cursor`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupView {
    pub id: String,
    /// `all`, `all_settled`, `race` or `any`.
    pub rule: String,
    /// `open`, `completed`, `failed` or `cancelled`.
    pub state: String,
    /// It stays open, whatever ends, until it is sealed.
    pub hold: bool,
    pub created_at: String,
    pub deadline: Option<String>,
    pub decided_at: Option<String>,
    /// `member`, `deadline`, `empty` or `asked`; of one that failed or was cancelled.
    pub reason: Option<String>,
    /// For a person.
    pub message: Option<String>,
    pub progress: GroupProgress,
    pub counts: GroupCounts,
    /// Members that did not complete before it was decided, by class of failure.
    pub failures: BTreeMap<String, u64>,
    pub then: Option<ThenView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub members: Option<Vec<MemberRow>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Both only grow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupProgress {
    pub done: u64,
    pub total: u64,
}

/// How members have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupCounts {
    pub completed: u64,
    pub failed: u64,
    pub cancelled: u64,
    pub expired: u64,
}

/// The follow-up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ThenView {
    /// `completed`, `failed` or `any`.
    pub on: String,
    pub task: String,
    /// Once it is made.
    pub job: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRow {
    pub id: String,
    /// `null`: it was deleted since.
    pub state: Option<String>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct GroupList {
    pub groups: Vec<GroupView>,
    pub next_cursor: Option<String>,
}

impl From<&Group> for GroupView {
    fn from(from: &Group) -> Self {
        let tally = from.tally;
        let then = from.then_on.zip(from.then_task.as_ref());
        let kinds = from.failures.kinds.iter();
        Self {
            id: from.id.to_string(),
            rule: from.rule.as_str().into(),
            state: from.state.as_str().into(),
            hold: from.hold && from.state == GroupState::Open,
            created_at: format_time(from.created_at),
            deadline: from.deadline.map(format_time),
            decided_at: from.decided_at.map(format_time),
            reason: from.reason.map(|reason| reason.as_str().into()),
            message: from.message(),
            progress: GroupProgress {
                done: tally.done(),
                total: tally.total,
            },
            counts: GroupCounts {
                completed: tally.completed,
                failed: tally.failed,
                cancelled: tally.cancelled,
                expired: tally.expired,
            },
            failures: kinds
                .map(|(kind, count)| (kind.to_string(), *count))
                .collect(),
            then: then.map(|(on, task)| ThenView {
                on: on.as_str().into(),
                task: task.to_string(),
                job: from.then_job.map(|job| job.to_string()),
            }),
            members: None,
            next_cursor: None,
        }
    }
}

impl From<&(JobId, Option<JobState>)> for MemberRow {
    fn from((id, state): &(JobId, Option<JobState>)) -> Self {
        Self {
            id: id.to_string(),
            state: state.map(|state| state.as_str().into()),
        }
    }
}

/// The answer to a flow, in the order of its request.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct FlowView {
    pub jobs: Vec<FlowJob>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct FlowJob {
    #[serde(default, rename = "ref", skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The job that was there already, by its unique or its idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub existing: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<String>,
    /// Why it was not taken in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<crate::Problem>,
}

/// What a job is handed of those that it waited for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputsView {
    pub inputs: Vec<InputRow>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct InputRow {
    pub id: String,
    /// `null`: it was deleted since.
    pub state: Option<String>,
    /// Class of its last failure, if it did not complete.
    pub class: Option<String>,
    pub result: Option<Box<RawValue>>,
    /// Its result would have been over 1 MiB with the others: ask for it by its id.
    pub omitted: bool,
}

impl From<&Input> for InputRow {
    fn from(from: &Input) -> Self {
        Self {
            id: from.id.to_string(),
            state: from.state.map(|state| state.as_str().into()),
            class: from.class.map(|class| class.as_str().into()),
            result: from.result.as_ref().map(|result| raw_or_text(result)),
            omitted: from.omitted,
        }
    }
}
