//! What doors answer and clients read.

use std::time::Duration;

use offloop_job::{
    Attempt, EventKind, Failure, Job, JobEvent, JobId, JobState, JobSummary, NewJob, ScheduledBy,
    Timestamp,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::bulk::write_number;
use crate::json::raw_or_text;
use crate::limits::LimitView;
use crate::log::last_lines;
use crate::options::OptionsBody;
use crate::time::{format_time, write_time};

/// A job. Rows of a list leave out `payload`, `options`, `attempts`, `progress` and `result`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobView {
    pub id: String,
    pub task: String,
    pub queue: String,
    pub state: String,
    pub priority: u8,
    pub created_at: String,
    pub due_at: String,
    #[serde(default)]
    pub started_at: Option<String>,
    #[serde(default)]
    pub finished_at: Option<String>,
    /// Attempts spent or being spent.
    pub attempt: u16,
    pub max_attempts: u16,
    /// Times in a row that it asked to be run again later.
    #[serde(default)]
    pub snoozes: u16,
    /// Why it failed for good: `exhausted`, `not_retryable` or `poison`.
    #[serde(default)]
    pub reason: Option<String>,
    /// How the last attempt that failed ended.
    #[serde(default)]
    pub failure: Option<EndView>,
    /// It runs, and its executor is being stopped.
    #[serde(default)]
    pub cancelling: bool,
    #[serde(default)]
    pub tags: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<Box<RawValue>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub options: Option<OptionsBody>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempts: Option<Vec<AttemptView>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
    /// What it left for its next attempt, until it is completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<RawValue>>,
    /// The schedule that made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<JobScheduleView>,
}

/// Which due time of which schedule a job was made for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobScheduleView {
    pub name: String,
    /// On the schedule's ledger; the job's own `due_at` is when it became ready.
    pub due_at: String,
}

impl From<&ScheduledBy> for JobScheduleView {
    fn from(from: &ScheduledBy) -> Self {
        Self {
            name: from.name.to_string(),
            due_at: format_time(from.due_at),
        }
    }
}

/// One run of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptView {
    pub number: u16,
    pub node: String,
    pub lane: String,
    pub executor: String,
    pub started_at: String,
    #[serde(default)]
    pub ended_at: Option<String>,
    /// From due to started.
    pub wait_ms: u64,
    pub wall_ms: u64,
    #[serde(default)]
    pub cpu_ms: Option<u64>,
    #[serde(default)]
    pub max_rss_bytes: Option<u64>,
    /// The payload, as the executor was given it.
    #[serde(default)]
    pub bytes_in: u64,
    /// Result, notes and everything that it printed.
    #[serde(default)]
    pub bytes_out: u64,
    /// How old the thread or child was when it began; `null` where none was kept for it.
    #[serde(default)]
    pub executor_age_ms: Option<u64>,
    /// `null` while it runs.
    #[serde(default)]
    pub end: Option<EndView>,
    /// Bytes of output on record, and bytes that did not fit.
    pub log_bytes: u64,
    pub log_dropped_bytes: u64,
    /// The end of its output: at most 10 lines and 2 KiB.
    #[serde(default)]
    pub last_log_lines: Vec<String>,
}

/// How an attempt ended: class `completed`, or one of failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndView {
    pub class: String,
    #[serde(default)]
    pub message: Option<String>,
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
}

/// The last note of a running job.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ProgressView {
    pub at: String,
    pub note: Box<RawValue>,
}

/// `GET /v1/jobs`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JobList {
    pub jobs: Vec<JobView>,
    pub next_cursor: Option<String>,
}

/// `GET /v1/queues`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueList {
    pub queues: Vec<QueueRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueRow {
    pub name: String,
    pub paused: bool,
    /// `open`, `paused` (gives no jobs out) or `draining` (takes none in).
    #[serde(default)]
    pub mode: String,
    pub counts: QueueCountsView,
    /// How long the ready job that waits longest has waited.
    pub oldest_ready_ms: Option<u64>,
    /// What holds its jobs back beside the limits of keys: its own limit, and those of tasks that have
    /// unfinished jobs in it.
    pub limits: Vec<LimitView>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueCountsView {
    pub waiting: u64,
    pub scheduled: u64,
    pub ready: u64,
    pub running: u64,
}

/// `GET /v1/tasks`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskList {
    pub tasks: Vec<TaskRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    pub name: String,
    pub lane: String,
    pub about: String,
    pub timeout_ms: u64,
    /// `open`, `paused` (gives no jobs out) or `draining` (takes none in).
    #[serde(default)]
    pub mode: String,
}

/// `GET /v1/nodes`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeList {
    pub nodes: Vec<NodeRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: String,
    pub now: String,
    /// Why it should not be sent work; `null` when it is ready.
    pub trouble: Option<String>,
    pub store: StoreRow,
    pub lanes: Vec<LaneRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreRow {
    pub engine: String,
    /// An acknowledged job survives the death of the process.
    pub survives_process: bool,
    /// An acknowledged job survives a power cut.
    pub survives_power_cut: bool,
    pub shared: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneRow {
    pub name: String,
    pub slots: SlotsView,
    pub running: u32,
    pub queued: u32,
    /// Asked to stop, past their grace, and not ended.
    pub stuck: u32,
    pub executors: u32,
    /// How long the work at the head of the lane's own line has waited.
    #[serde(default)]
    pub head_age_ms: Option<u64>,
    /// Work that ended after its deadline since the server started.
    #[serde(default)]
    pub late: u64,
    /// How often executors left since the server started, by reason.
    #[serde(default)]
    pub exits: std::collections::BTreeMap<String, u64>,
    /// Why it starts no executors at present; `null` when it is well. The node stays ready: its
    /// other lanes go on.
    #[serde(default)]
    pub trouble: Option<String>,
    pub tasks: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotsView {
    pub running: u16,
    pub ahead: u16,
}

/// The data of one server-sent event of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventView {
    pub at: String,
    pub job: String,
    pub task: String,
    pub queue: String,
    /// `enqueued`, `started`, `progress`, `retrying`, `snoozed`, `completed`, `failed`, `handed_back`,
    /// `cancelled`, `expired` or `revived`.
    pub kind: String,
    /// Of `retrying` and `failed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// Of `retrying` and `snoozed`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<&Failure> for EndView {
    fn from(from: &Failure) -> Self {
        Self {
            class: from.class.to_string(),
            message: Some(from.message.to_string()),
            exit_code: from.exit_code,
            signal: from.signal,
        }
    }
}

impl From<&JobSummary> for JobView {
    fn from(from: &JobSummary) -> Self {
        Self {
            id: from.id.to_string(),
            task: from.task.to_string(),
            queue: from.queue.to_string(),
            state: from.state.to_string(),
            priority: from.priority,
            created_at: format_time(from.created_at),
            due_at: format_time(from.due_at),
            started_at: from.started_at.map(format_time),
            finished_at: from.finished_at.map(format_time),
            attempt: from.attempt,
            max_attempts: from.max_attempts,
            snoozes: from.snoozes,
            reason: from.reason.map(|reason| reason.as_str().into()),
            failure: from.failure.as_ref().map(EndView::from),
            cancelling: from.cancelling,
            tags: from.tags.iter().map(ToString::to_string).collect(),
            payload: None,
            options: None,
            attempts: None,
            progress: None,
            result: None,
            checkpoint: None,
            schedule: None,
        }
    }
}

impl From<&Job> for JobView {
    fn from(from: &Job) -> Self {
        Self {
            payload: Some(raw_or_text(&from.payload)),
            options: Some(OptionsBody::from(&from.options)),
            attempts: Some(from.attempts.iter().map(AttemptView::from).collect()),
            progress: from.progress.as_ref().map(|progress| ProgressView {
                at: format_time(progress.at),
                note: raw_or_text(&progress.note),
            }),
            result: from.result.as_ref().map(|result| raw_or_text(result)),
            checkpoint: from.checkpoint.as_ref().map(|data| raw_or_text(data)),
            schedule: from.options.schedule.as_deref().map(JobScheduleView::from),
            ..Self::from(&from.summary)
        }
    }
}

impl From<&Attempt> for AttemptView {
    fn from(from: &Attempt) -> Self {
        let completed = || EndView {
            class: "completed".into(),
            message: None,
            exit_code: None,
            signal: None,
        };
        Self {
            number: from.number,
            node: from.node.to_string(),
            lane: from.lane.to_string(),
            executor: from.executor.to_string(),
            started_at: format_time(from.started_at),
            ended_at: from.ended_at.map(format_time),
            wait_ms: ms(from.wait),
            wall_ms: ms(from.usage.wall),
            cpu_ms: from.usage.cpu.map(ms),
            max_rss_bytes: from.usage.max_rss_bytes,
            bytes_in: from.usage.bytes_in,
            bytes_out: from.usage.bytes_out,
            executor_age_ms: from.usage.executor_age.map(ms),
            end: from
                .failure
                .as_ref()
                .map(EndView::from)
                .or_else(|| from.ended_at.is_some().then(completed)),
            log_bytes: (from.log.head.len() + from.log.tail.len()) as u64,
            log_dropped_bytes: from.log.dropped_bytes,
            last_log_lines: last_lines(&from.log),
        }
    }
}

impl From<&JobEvent> for EventView {
    fn from(from: &JobEvent) -> Self {
        let (class, due_at) = match from.kind {
            EventKind::Retrying { class, due_at } => (Some(class), Some(due_at)),
            EventKind::Snoozed { due_at } => (None, Some(due_at)),
            EventKind::Failed { class } => (Some(class), None),
            _ => (None, None),
        };
        Self {
            at: format_time(from.at),
            job: from.job.to_string(),
            task: from.task.to_string(),
            queue: from.queue.to_string(),
            kind: from.kind.as_str().into(),
            class: class.map(|class| class.to_string()),
            due_at: due_at.map(format_time),
        }
    }
}

/// Appends an [`EventView`] as JSON: the quick way for streams.
pub fn event_json(out: &mut Vec<u8>, event: &JobEvent) {
    out.extend_from_slice(b"{\"at\":\"");
    write_time(out, event.at);
    out.extend_from_slice(b"\",\"job\":\"");
    out.extend_from_slice(event.job.encode(&mut [0; 36]).as_bytes());
    // Names hold no character that JSON would escape.
    for (key, value) in [
        ("\",\"task\":\"", event.task.as_str()),
        ("\",\"queue\":\"", event.queue.as_str()),
        ("\",\"kind\":\"", event.kind.as_str()),
    ] {
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    if let EventKind::Retrying { class, .. } | EventKind::Failed { class } = event.kind {
        out.extend_from_slice(b"\",\"class\":\"");
        out.extend_from_slice(class.as_str().as_bytes());
    }
    if let EventKind::Retrying { due_at, .. } | EventKind::Snoozed { due_at } = event.kind {
        out.extend_from_slice(b"\",\"due_at\":\"");
        write_time(out, due_at);
    }
    out.extend_from_slice(b"\"}");
}

/// A [`JobView`] of a job that was taken in just now, as JSON: the quick way for the answer to an
/// enqueue, without asking the store. `begins`: when it is expected to, which only this answer tells.
pub fn new_job_json(
    id: JobId,
    state: JobState,
    job: &NewJob,
    due_at: Timestamp,
    begins: Option<Timestamp>,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(384);
    out.extend_from_slice(b"{\"id\":\"");
    out.extend_from_slice(id.encode(&mut [0; 36]).as_bytes());
    for (key, value) in [
        ("\",\"task\":\"", job.task.as_str()),
        ("\",\"queue\":\"", job.options.queue.as_str()),
        ("\",\"state\":\"", state.as_str()),
    ] {
        out.extend_from_slice(key.as_bytes());
        out.extend_from_slice(value.as_bytes());
    }
    out.extend_from_slice(b"\",\"priority\":");
    write_number(&mut out, job.options.priority.into());
    out.extend_from_slice(b",\"created_at\":\"");
    write_time(&mut out, id.created());
    out.extend_from_slice(b"\",\"due_at\":\"");
    write_time(&mut out, due_at);
    out.extend_from_slice(
        b"\",\"started_at\":null,\"finished_at\":null,\"attempt\":0,\"max_attempts\":",
    );
    write_number(&mut out, job.options.retry.max_attempts.into());
    out.extend_from_slice(
        b",\"snoozes\":0,\"reason\":null,\"failure\":null,\"cancelling\":false,\"tags\":[",
    );
    for (index, tag) in job.options.tags.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        let _ = serde_json::to_writer(&mut out, tag.as_str()); // a Vec takes everything
    }
    out.push(b']');
    if let Some(begins) = begins {
        out.extend_from_slice(b",\"estimated_start_at\":\"");
        write_time(&mut out, begins);
        out.push(b'"');
    }
    out.push(b'}');
    out
}
