//! What a receiver is told, and the job that tells it.
//!
//! Must never: read the clock, or fail: it is made on the keeper's thread, in the commit that ends a job.

use bytes::Bytes;
use offloop::job::{Backoff, BackoffKind, RetryPolicy, Tag, Webhook};
use offloop::wire::{format_time, raw_or_text};
use offloop::{EndedJob, JobOptions, JobState, NewJob, QueueName, TaskName};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::time::Duration;

/// A larger result is left out, and said to be: the receiver asks for the job.
pub(crate) const RESULT_BYTES_MAX: usize = 64 << 10;
/// Waits between tries, in seconds, after Standard Webhooks: quick ones for a restart, long ones for
/// an outage; three days in all.
const WAITS: [u64; 9] = [5, 60, 300, 1_800, 7_200, 18_000, 36_000, 72_000, 86_400];
/// Up to a fifth earlier, so that an outage does not end in one moment for all.
const JITTER_PERCENT: u8 = 20;

/// The payload of a delivery.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Delivery {
    pub(crate) url: String,
    pub(crate) secret: String,
    /// When the job ended, milliseconds since 1970.
    pub(crate) since_ms: u64,
    /// The body, sent as it is.
    pub(crate) event: Box<RawValue>,
}

#[derive(Serialize)]
struct Event<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    id: String,
    task: &'a str,
    queue: &'a str,
    state: &'static str,
    attempt: u16,
    reason: Option<&'static str>,
    failure: Option<FailureData<'a>>,
    result: Option<Box<RawValue>>,
    /// `too_large` or `private`: ask for the job.
    result_omitted: Option<&'static str>,
    tags: Vec<&'a str>,
    group_key: Option<&'a str>,
}

#[derive(Serialize)]
struct FailureData<'a> {
    class: &'static str,
    message: Option<&'a str>,
}

pub(crate) const fn type_of(state: JobState) -> &'static str {
    match state {
        JobState::Completed => "job.completed",
        JobState::Cancelled => "job.cancelled",
        JobState::Expired => "job.expired",
        _ => "job.failed",
    }
}

/// The body for one end.
pub(crate) fn body(end: &EndedJob<'_>) -> Option<Box<RawValue>> {
    let result = end.result.map(Bytes::as_ref);
    let too_large = result.is_some_and(|result| result.len() > RESULT_BYTES_MAX);
    let omitted = match () {
        () if end.private_result && result.is_some() => Some("private"),
        () if too_large => Some("too_large"),
        () => None,
    };
    let options = end.options;
    let event = Event {
        r#type: type_of(end.state),
        timestamp: format_time(end.at),
        data: Data {
            id: end.id.to_string(),
            task: end.task.as_str(),
            queue: options.queue.as_str(),
            state: end.state.as_str(),
            attempt: end.attempt,
            reason: end.reason.map(offloop::job::FinalReason::as_str),
            failure: end.failure.map(|failure| FailureData {
                class: failure.class.as_str(),
                message: (!end.private_payload).then_some(&*failure.message),
            }),
            result: result.filter(|_| omitted.is_none()).map(raw_or_text),
            result_omitted: omitted,
            tags: options.tags.iter().map(Tag::as_str).collect(),
            group_key: options.group_key.as_ref().map(Tag::as_str),
        },
    };
    serde_json::value::to_raw_value(&event).ok()
}

/// The job that tells `webhook` of this end.
pub(crate) fn delivery(
    task: &TaskName,
    queue: &QueueName,
    end: &EndedJob<'_>,
    webhook: &Webhook,
    host: &str,
) -> Option<NewJob> {
    let delivery = Delivery {
        url: webhook.url.to_string(),
        secret: webhook.secret.as_deref().unwrap_or("default").into(),
        since_ms: end.at.as_millis(),
        event: body(end)?,
    };
    let waits = WAITS.map(Duration::from_secs);
    let options = JobOptions {
        queue: queue.clone(),
        group_key: Tag::parse(host).ok(),
        retry: RetryPolicy {
            max_attempts: WAITS.len() as u16 + 1,
            backoff: Backoff {
                kind: BackoffKind::Custom(waits.into()),
                jitter_percent: JITTER_PERCENT,
                ..Backoff::default()
            },
            ..RetryPolicy::default()
        },
        trace: end.options.trace.clone(),
        ..JobOptions::default()
    };
    Some(NewJob {
        task: task.clone(),
        payload: serde_json::to_vec(&delivery).ok()?.into(),
        options,
        idempotency: None,
    })
}
