//! What a job of the task `fetch` is asked for: its payload, read and checked.
//!
//! Must never: accept what the lane would have to refuse later.

use std::time::Duration;

use offloop::TaskName;
use offloop::store::PayloadProblem;
use serde_json::Value;

use crate::call::{Call, Keep};
use crate::read::{Fields, Problems, read_call, settings};
use crate::runner::Settings;

/// Calls of one job; longer lists are a group of jobs.
pub const JOB_CALLS_MAX: usize = 1_000;

/// What becomes of each answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum OnResult {
    /// Its body is part of the job's result, bounded.
    #[default]
    Inline,
    /// Its SHA-256 is.
    Hash,
    /// Its body is a file of the server, named by its SHA-256.
    Store,
    /// A job of this task, made in the commit that says that the call is done.
    Task(TaskName),
}

impl OnResult {
    pub(crate) const fn keep(&self) -> Keep {
        match self {
            Self::Hash => Keep::Hash,
            Self::Inline | Self::Store | Self::Task(_) => Keep::Bytes,
        }
    }
}

/// A list of calls and how it is made.
#[derive(Clone, Debug)]
pub struct Plan {
    pub calls: Vec<Call>,
    pub settings: Settings,
    pub on_result: OnResult,
}

/// Fields of a payload.
pub(crate) const PLAN_FIELDS: &[&str] = &[
    "requests",
    "urls",
    "limit",
    "per_host",
    "rule",
    "retry",
    "hedge_ms",
    "deadline_ms",
    "item_deadline_ms",
    "timeout_ms",
    "max_response_bytes",
    "redirects",
    "patience_ms",
    "on_result",
    "task",
];

/// What an operator lets one job do.
#[derive(Clone, Copy, Debug)]
pub struct PlanLimits {
    /// Calls at a time.
    pub limit: usize,
    /// Of one answer that is kept whole.
    pub response_bytes: u64,
}

impl Default for PlanLimits {
    fn default() -> Self {
        Self {
            limit: 1_000,
            response_bytes: 64 << 20,
        }
    }
}

/// Bodies in memory at a time: so many bytes each unless the job says otherwise.
const RESPONSE_BYTES_DEFAULT: u64 = 1 << 20;

/// Of an answer that becomes part of another job's payload.
const TASK_BYTES_MAX: u64 = 512 << 10;

/// Reads a payload. `check`: what is wrong with a URL.
pub fn read_plan(
    payload: &[u8],
    limits: PlanLimits,
    check: &dyn Fn(&str) -> Result<(), String>,
) -> Result<Plan, Vec<PayloadProblem>> {
    let mut problems = Problems::default();
    let value: Value = match serde_json::from_slice(payload) {
        Ok(value) => value,
        Err(error) => {
            problems.say("", format!("is no JSON: {error}"));
            return Err(problems.into_vec());
        }
    };
    let plan = plan(&value, limits, check, &mut problems);
    match plan {
        Some(plan) if problems.is_empty() => Ok(plan),
        _ => Err(problems.into_vec()),
    }
}

fn plan(
    value: &Value,
    limits: PlanLimits,
    check: &dyn Fn(&str) -> Result<(), String>,
    problems: &mut Problems,
) -> Option<Plan> {
    let fields = Fields::of(value, "", PLAN_FIELDS, problems)?;
    let on_result = on_result(&fields, problems);
    let limits = match &on_result {
        // The body is part of a payload.
        Some(OnResult::Task(_)) => PlanLimits {
            response_bytes: limits.response_bytes.min(TASK_BYTES_MAX),
            ..limits
        },
        _ => limits,
    };
    let settings = plan_settings(&fields, limits, problems);
    let calls = calls(&fields, check, problems);
    let on_result = on_result?;
    Some(Plan {
        calls: calls?,
        settings: Settings {
            keep: on_result.keep(),
            ..settings
        },
        on_result,
    })
}

/// Those of a job, within what its operator allows.
pub(crate) fn plan_settings(
    fields: &Fields<'_>,
    limits: PlanLimits,
    problems: &mut Problems,
) -> Settings {
    let usual = Settings {
        limit: Settings::default().limit.min(limits.limit),
        response_bytes_max: RESPONSE_BYTES_DEFAULT.min(limits.response_bytes),
        timeout: Duration::from_secs(30),
        ..Settings::default()
    };
    let settings = settings(fields, usual, problems);
    if settings.limit > limits.limit {
        let message = format!("is over {}, the limit of this server", limits.limit);
        problems.say(fields.pointer("limit"), message);
    }
    if settings.response_bytes_max > limits.response_bytes {
        let message = format!(
            "is over {}, the limit of this server",
            limits.response_bytes
        );
        problems.say(fields.pointer("max_response_bytes"), message);
    }
    settings
}

pub(crate) fn on_result(fields: &Fields<'_>, problems: &mut Problems) -> Option<OnResult> {
    let name = fields.text("on_result", problems).unwrap_or("inline");
    let task = fields.text("task", problems);
    if name != "task" && fields.get("task").is_some() {
        problems.say(fields.pointer("task"), "needs on_result task");
    }
    match name {
        "inline" => Some(OnResult::Inline),
        "hash" => Some(OnResult::Hash),
        "store" => Some(OnResult::Store),
        "task" => match task.map(TaskName::parse) {
            Some(Ok(task)) => Some(OnResult::Task(task)),
            Some(Err(error)) => {
                problems.say(fields.pointer("task"), error.to_string());
                None
            }
            None => {
                let message = "is missing; on_result task names the task whose jobs are made";
                problems.say(fields.pointer("task"), message);
                None
            }
        },
        _ => {
            let message = "give one of inline, hash, store, task";
            problems.say(fields.pointer("on_result"), message);
            None
        }
    }
}

fn calls(
    fields: &Fields<'_>,
    check: &dyn Fn(&str) -> Result<(), String>,
    problems: &mut Problems,
) -> Option<Vec<Call>> {
    let (name, value) = match (fields.get("requests"), fields.get("urls")) {
        (Some(value), None) => ("requests", value),
        (None, Some(value)) => ("urls", value),
        (Some(_), Some(_)) => {
            problems.say(
                fields.pointer("urls"),
                "is given beside requests; keep one of them",
            );
            return None;
        }
        (None, None) => {
            problems.say(
                fields.pointer("requests"),
                "is missing; give requests or urls",
            );
            return None;
        }
    };
    let at = fields.pointer(name);
    let list = value
        .as_array()
        .filter(|list| (1..=JOB_CALLS_MAX).contains(&list.len()));
    let Some(list) = list else {
        let message = format!(
            "give a list of 1 to {JOB_CALLS_MAX}; POST /v1/fetch takes longer ones and makes a group of them"
        );
        problems.say(at, message);
        return None;
    };
    let one = |(place, value): (usize, &Value)| {
        let at = format!("{at}/{place}");
        if name == "urls" && !value.is_string() {
            problems.say(at, "is no text");
            return None;
        }
        read_call(value, &at, check, problems)
    };
    list.iter().enumerate().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::Rule;
    use serde_json::json;

    fn read(value: &Value) -> Result<Plan, Vec<String>> {
        let read = read_plan(value.to_string().as_bytes(), PlanLimits::default(), &|_| {
            Ok(())
        });
        read.map_err(|problems| {
            problems
                .into_iter()
                .map(|problem| problem.pointer)
                .collect()
        })
    }

    #[test]
    fn a_payload_that_cannot_be_is_refused_at_the_door_by_field() {
        let many = vec!["https://a/"; JOB_CALLS_MAX + 1];
        #[rustfmt::skip]
        let rows = [
            (json!({}), vec!["/requests"]), (json!([]), vec![""]), (json!({"urls": []}), vec!["/urls"]),
            (json!({"urls": many}), vec!["/urls"]),
            (json!({"urls": ["https://a/"], "requests": []}), vec!["/urls"]),
            (json!({"urls": ["https://a/", {"url": "https://b/"}]}), vec!["/urls/1"]),
            (json!({"requests": [{"url": "https://a/"}, {"uri": "https://b/"}]}), vec!["/requests/1/uri", "/requests/1/url"]),
            (json!({"urls": ["https://a/"], "limit": 1_001}), vec!["/limit"]),
            (json!({"urls": ["https://a/"], "on_result": "print"}), vec!["/on_result"]),
            (json!({"urls": ["https://a/"], "on_result": "task"}), vec!["/task"]),
            (json!({"urls": ["https://a/"], "on_result": "task", "task": "no name"}), vec!["/task"]),
            (json!({"urls": ["https://a/"], "task": "x"}), vec!["/task"]),
            (json!({"urls": ["https://a/"], "max_response_bytes": 100 << 20}), vec!["/max_response_bytes"]),
            (json!({"urls": ["https://a/"], "chunk": 5}), vec!["/chunk"]),
        ];
        for (value, want) in rows {
            let what: String = value.to_string().chars().take(80).collect();
            let mut found = read(&value).unwrap_err();
            found.sort();
            assert_eq!(found, want, "{what}");
        }
    }

    #[test]
    fn what_is_not_said_is_as_the_guide_says() {
        let plan = read(&json!({"urls": ["https://a/", "https://b/"]})).unwrap();
        assert_eq!((plan.calls.len(), plan.settings.limit), (2, 50));
        assert_eq!(plan.settings.rule, Rule::AllSettled);
        assert_eq!(
            (plan.on_result, plan.settings.keep),
            (OnResult::Inline, Keep::Bytes)
        );
    }
}
