//! A request as a client writes it, and a job's options as it reads them back.

use offloop_job::{
    After, BackoffKind, JobOptions, NewJob, OnConflict, Parent, Unique, UniqueScope,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

use crate::json::raw_or_text;
use crate::time::format_time;
use crate::webhook::WebhookBody;

/// One job to enqueue: the body of `POST /v1/jobs`, or one line of its bulk form.
#[derive(Clone, Debug, Default, Serialize)]
pub struct JobBody {
    pub task: String,
    /// Any JSON; kept as it is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    #[serde(flatten)]
    pub options: OptionsBody,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
}

/// Everything about a job but its task and payload. What is `None` has its default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct OptionsBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// 0 first to 9 last; default 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u8>,
    /// From now; excludes `run_at`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_ms: Option<u64>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub run_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backoff: Option<BackoffBody>,
    /// Class of failure to runs in all; 1 means no retry.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub retry_by_class: BTreeMap<String, u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_limit_bytes: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stall_timeout_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cores: Option<u16>,
    /// Units that its start takes of rates; default 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cost: Option<u32>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deadline: Option<String>,
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique: Option<UniqueBody>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group_key: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// W3C traceparent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
    /// How long the finished job is kept; 0: and its result is not, if nobody waits for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookBody>,
    /// Jobs that it waits for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<AfterBody>,
    /// The group that it settles with; shown, not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The group whose follow-up it is; shown, not asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub follows: Option<String>,
}

/// One job that another waits for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AfterBody {
    pub job: String,
    /// `fail`, `ignore` or `continue`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_failure: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BackoffBody {
    /// `fixed`, `exponential` or `custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cap_ms: Option<u64>,
    /// 0.0 none to 1.0 full.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jitter: Option<f64>,
    /// Of the kind `custom`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delays_ms: Option<Vec<u64>>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UniqueBody {
    pub key: String,
    /// `until_started`, `until_finished` or `for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// Of the scope `for`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub for_ms: Option<u64>,
    /// `keep`, `replace`, `reject`, `debounce` or `throttle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub on_conflict: Option<String>,
    /// Of `debounce`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub quiet_ms: Option<u64>,
}

fn after_body(from: &After) -> Option<AfterBody> {
    let Parent::Job(id) = from.parent else {
        return None; // a place of a batch; no job on record has one
    };
    Some(AfterBody {
        job: id.to_string(),
        on_failure: Some(from.on_failure.as_str().into()),
    })
}

fn ms(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Unique> for UniqueBody {
    fn from(from: &Unique) -> Self {
        let (scope, period) = match from.scope {
            UniqueScope::UntilStarted => ("until_started", None),
            UniqueScope::UntilFinished => ("until_finished", None),
            UniqueScope::For(period) => ("for", Some(period)),
        };
        let (on_conflict, quiet) = match from.on_conflict {
            OnConflict::Keep => ("keep", None),
            OnConflict::Replace => ("replace", None),
            OnConflict::Reject => ("reject", None),
            OnConflict::Debounce(quiet) => ("debounce", Some(quiet)),
            OnConflict::Throttle => ("throttle", None),
        };
        Self {
            key: from.key.to_string(),
            scope: Some(scope.into()),
            for_ms: period.map(ms),
            on_conflict: Some(on_conflict.into()),
            quiet_ms: quiet.map(ms),
        }
    }
}

impl From<&JobOptions> for OptionsBody {
    /// Everything that is set, and the retry rule always.
    fn from(from: &JobOptions) -> Self {
        let backoff = &from.retry.backoff;
        let (kind, delays_ms) = match &backoff.kind {
            BackoffKind::Fixed => ("fixed", None),
            BackoffKind::Exponential => ("exponential", None),
            BackoffKind::Custom(waits) => {
                ("custom", Some(waits.iter().map(|wait| ms(*wait)).collect()))
            }
        };
        let rules = from.retry.by_class.iter();
        Self {
            queue: Some(from.queue.to_string()),
            priority: Some(from.priority),
            delay_ms: from.delay.map(ms),
            run_at: from.run_at.map(format_time),
            max_attempts: Some(from.retry.max_attempts),
            backoff: Some(BackoffBody {
                kind: Some(kind.into()),
                base_ms: Some(ms(backoff.base)),
                cap_ms: Some(ms(backoff.cap)),
                jitter: Some(f64::from(backoff.jitter_percent) / 100.0),
                delays_ms,
            }),
            retry_by_class: rules
                .map(|(class, runs)| (class.to_string(), *runs))
                .collect(),
            timeout_ms: from.timeout.map(ms),
            cpu_limit_ms: from.cpu_limit.map(ms),
            memory_limit_bytes: from.memory_limit_bytes,
            stall_timeout_ms: from.stall_timeout.map(ms),
            cores: Some(from.cores),
            cost: Some(from.cost),
            deadline: from.deadline.map(format_time),
            expires_at: from.expires_at.map(format_time),
            unique: from.unique.as_ref().map(UniqueBody::from),
            group_key: from.group_key.as_ref().map(ToString::to_string),
            tags: from.tags.iter().map(ToString::to_string).collect(),
            trace: from.trace.as_deref().map(Into::into),
            keep_ms: from.keep.map(ms),
            webhook: from.webhook.as_deref().map(WebhookBody::from),
            after: from.after.iter().filter_map(after_body).collect(),
            group: from.group.map(|group| group.to_string()),
            follows: from.follows.map(|group| group.to_string()),
        }
    }
}

impl From<&NewJob> for JobBody {
    fn from(from: &NewJob) -> Self {
        Self {
            task: from.task.to_string(),
            payload: Some(raw_or_text(&from.payload)),
            options: OptionsBody::from(&from.options),
            idempotency_key: from.idempotency.as_ref().map(ToString::to_string),
        }
    }
}
