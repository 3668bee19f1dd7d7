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
    /// Its body is a load into this target of the server.
    Ingest(Box<str>),
}

impl OnResult {
    pub(crate) const fn keep(&self) -> Keep {
        match self {
            Self::Hash => Keep::Hash,
            Self::Inline | Self::Task(_) => Keep::Bytes,
            Self::Store | Self::Ingest(_) => Keep::File,
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

/// Fields that list the calls; a list by lines has its lines instead.
const CALLS_FIELDS: &[&str] = &["requests", "urls"];
/// Fields of every list, however it comes.
const LIST_FIELDS: &[&str] = &[
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
    "target",
];
/// Fields of a list that is made into a group of jobs.
const GROUP_FIELDS: &[&str] = &["chunk", "group_key"];

const fn joined<const N: usize>(parts: [&[&'static str]; 3]) -> [&'static str; N] {
    let mut all = [""; N];
    let (mut part, mut at) = (0, 0);
    while part < parts.len() {
        let mut place = 0;
        while place < parts[part].len() {
            all[at] = parts[part][place];
            (at, place) = (at + 1, place + 1);
        }
        part += 1;
    }
    all
}

/// Fields of a payload.
pub(crate) const PLAN_FIELDS: &[&str] =
    &joined::<{ CALLS_FIELDS.len() + LIST_FIELDS.len() }>([CALLS_FIELDS, LIST_FIELDS, &[]]);
/// Fields of the first line of a list by lines.
pub(crate) const LINES_FIELDS: &[&str] =
    &joined::<{ LIST_FIELDS.len() + GROUP_FIELDS.len() }>([LIST_FIELDS, GROUP_FIELDS, &[]]);
/// Fields of a list for a group in one piece.
pub(crate) const WHOLE_FIELDS: &[&str] = &joined::<
    { CALLS_FIELDS.len() + LIST_FIELDS.len() + GROUP_FIELDS.len() },
>([CALLS_FIELDS, LIST_FIELDS, GROUP_FIELDS]);

/// Whether a field lists calls, and so is no part of what a list says of itself.
pub(crate) fn lists_calls(name: &str) -> bool {
    CALLS_FIELDS.contains(&name)
}

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

/// Bodies in memory: so many bytes each unless the job says otherwise. Those that go to disk while they come
/// have the server's limit.
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
    let (on_result, settings) = list(&fields, limits, problems);
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

/// What every list says of itself.
pub(crate) fn list(
    fields: &Fields<'_>,
    limits: PlanLimits,
    problems: &mut Problems,
) -> (Option<OnResult>, Settings) {
    let on_result = on_result(fields, problems);
    let (limits, usual) = match &on_result {
        // The body is part of a payload.
        Some(OnResult::Task(_)) => (
            PlanLimits {
                response_bytes: limits.response_bytes.min(TASK_BYTES_MAX),
                ..limits
            },
            RESPONSE_BYTES_DEFAULT,
        ),
        Some(OnResult::Store | OnResult::Ingest(_)) => (limits, limits.response_bytes),
        _ => (limits, RESPONSE_BYTES_DEFAULT),
    };
    let settings = plan_settings(fields, limits, usual, problems);
    (on_result, settings)
}

/// Those of a job, within what its operator allows. `usual`: bytes of an answer unless the job says otherwise.
fn plan_settings(
    fields: &Fields<'_>,
    limits: PlanLimits,
    usual: u64,
    problems: &mut Problems,
) -> Settings {
    let usual = Settings {
        limit: Settings::default().limit.min(limits.limit),
        response_bytes_max: usual.min(limits.response_bytes),
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

fn on_result(fields: &Fields<'_>, problems: &mut Problems) -> Option<OnResult> {
    let name = fields.text("on_result", problems).unwrap_or("inline");
    let task = fields.text("task", problems);
    let target = fields.text("target", problems);
    for own in ["task", "target"] {
        let owner = if own == "task" { "task" } else { "ingest" };
        if name != owner && fields.get(own).is_some() {
            problems.say(fields.pointer(own), format!("needs on_result {owner}"));
        }
    }
    match (name, task, target) {
        ("inline", ..) => Some(OnResult::Inline),
        ("hash", ..) => Some(OnResult::Hash),
        ("store", ..) => Some(OnResult::Store),
        ("ingest", _, Some(target)) => Some(OnResult::Ingest(target.into())),
        ("ingest", _, None) => {
            let message =
                "is missing; on_result ingest names the target that bodies are loaded into";
            problems.say(fields.pointer("target"), message);
            None
        }
        ("task", Some(task), _) => match TaskName::parse(task) {
            Ok(task) => Some(OnResult::Task(task)),
            Err(error) => {
                problems.say(fields.pointer("task"), error.to_string());
                None
            }
        },
        ("task", None, _) => {
            let message = "is missing; on_result task names the task whose jobs are made";
            problems.say(fields.pointer("task"), message);
            None
        }
        _ => {
            let message = "give one of inline, hash, store, task, ingest";
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
            (json!({"urls": ["https://a/"], "on_result": "ingest"}), vec!["/target"]),
            (json!({"urls": ["https://a/"], "on_result": "store", "target": "x"}), vec!["/target"]),
            (json!({"urls": ["https://a/"], "on_result": "ingest", "target": 7, "task": "x"}), vec!["/target", "/target", "/task"]),
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
    fn no_field_of_a_list_is_known_to_one_door_and_unknown_to_another() {
        for field in LIST_FIELDS {
            for door in [PLAN_FIELDS, LINES_FIELDS, WHOLE_FIELDS] {
                assert_eq!(door.iter().filter(|name| *name == field).count(), 1);
            }
        }
        assert!(!PLAN_FIELDS.contains(&"chunk") && !LINES_FIELDS.contains(&"urls"));
        let long =
            read(&json!({"urls": ["https://a/"], "on_result": "ingest", "target": "people"}));
        let long = long.unwrap();
        assert_eq!(
            long.settings.response_bytes_max,
            PlanLimits::default().response_bytes
        );
        assert_eq!(long.settings.keep, Keep::File);
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
