//! What workers on other machines write, and what they read: the bodies of `/v1/work`.
//!
//! Leases travel as texts: 64 bits are more than some languages' numbers hold.

use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{
    CHECKPOINT_BYTES_MAX, MESSAGE_BYTES_MAX, PARTIAL_BYTES_MAX, PROGRESS_BYTES_MAX,
    RESULT_BYTES_MAX, SNOOZE_MAX, SNOOZE_MIN,
};
use offloop_job::{FailureClass, JobId, Lease, TaskName};
use serde::Serialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::group::InputRow;
use crate::json::{DEPTH_MAX, Key, Lit, depth, raw_or_text};
use crate::problem::FieldProblem;
use crate::read::{BodyError, Wrong, millis, small, text};

/// Jobs of one claim.
pub const WORK_LIMIT_MAX: u16 = 100;
/// Longest wait of one request: proxies give up at 60 s.
pub const WORK_WAIT_MAX: Duration = Duration::from_secs(55);
pub const WORK_WAIT_DEFAULT: Duration = Duration::from_secs(30);
/// Leases that one request watches over.
pub const WORK_LEASES_MAX: usize = 256;
/// Names of tasks in one claim.
const TASKS_MAX: usize = 64;
const WORKER_BYTES_MAX: usize = 128;
/// Lines of one request; the attempt keeps the first 16 KiB and the last 48 KiB of all.
pub const WORK_LOG_BYTES_MAX: usize = 64 << 10;

pub const WORK_CLAIM_FIELDS: [&str; 4] = ["worker", "tasks", "limit", "wait_ms"];
pub const WORK_EXTEND_FIELDS: [&str; 5] = ["lease", "progress", "partial", "checkpoint", "log"];
pub const WORK_SETTLE_FIELDS: [&str; 7] = [
    "lease",
    "result",
    "error",
    "hand_back",
    "snooze_ms",
    "log",
    "usage",
];
pub const WORK_WATCH_FIELDS: [&str; 2] = ["leases", "wait_ms"];

/// `POST /v1/work/claim`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkClaim {
    pub worker: String,
    pub tasks: Vec<TaskName>,
    pub limit: u16,
    pub wait: Duration,
}

/// `POST /v1/work/{id}/extend`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkExtend {
    pub lease: Lease,
    pub progress: Option<Bytes>,
    pub partial: Option<Bytes>,
    pub checkpoint: Option<Bytes>,
    pub log: Option<Bytes>,
}

/// `POST /v1/work/{id}/settle`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkSettle {
    pub lease: Lease,
    pub end: WorkEnd,
    pub log: Option<Bytes>,
    pub cpu: Option<Duration>,
    pub max_rss_bytes: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkEnd {
    Result(Bytes),
    Error {
        class: FailureClass,
        message: String,
    },
    HandBack,
    Snooze(Duration),
}

/// `POST /v1/work/watch`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkWatch {
    pub leases: Vec<(JobId, Lease)>,
    pub wait: Duration,
}

/// The fields of a body as they were written, and what is wrong with them so far.
struct Fields<'b> {
    known: &'static [&'static str],
    found: Vec<Option<&'b RawValue>>,
    problems: Vec<FieldProblem>,
}

impl<'b> Fields<'b> {
    fn read(body: &'b [u8], known: &'static [&'static str]) -> Result<Self, BodyError> {
        let mut fields = Self {
            known,
            found: vec![None; known.len()],
            problems: Vec::new(),
        };
        let mut from = serde_json::Deserializer::from_slice(body);
        from.deserialize_map(&mut fields)
            .and_then(|()| from.end())
            .map_err(|error| BodyError::Syntax {
                detail: error.to_string(),
            })?;
        Ok(fields)
    }

    fn say(&mut self, field: &str, detail: impl Into<String>) {
        let pointer = format!("/{field}");
        self.problems.push(FieldProblem::new(pointer, detail));
    }

    /// A field that is there and not `null`.
    fn raw(&self, field: &str) -> Option<&'b RawValue> {
        let index = self.known.iter().position(|name| *name == field)?;
        self.found[index].filter(|raw| raw.get() != "null")
    }

    /// Reads a field; what is wrong with it is noted, and it counts as left out.
    fn take<T>(
        &mut self,
        field: &str,
        read: impl FnOnce(&Lit<'b>) -> Result<T, Wrong>,
    ) -> Option<T> {
        let raw = self.raw(field)?;
        let lit = serde_json::from_str(raw.get()).map_err(|error| Wrong(error.to_string()));
        match lit.and_then(|lit| read(&lit)) {
            Ok(value) => Some(value),
            Err(Wrong(detail)) => {
                self.say(field, detail);
                None
            }
        }
    }

    fn must<T>(
        &mut self,
        field: &str,
        what: &str,
        read: impl FnOnce(&Lit<'b>) -> Result<T, Wrong>,
    ) -> Option<T> {
        if self.raw(field).is_none() {
            self.say(field, format!("is missing; {what}"));
            return None;
        }
        self.take(field, read)
    }

    /// JSON as it was written, within a limit.
    fn json(&mut self, body: &Bytes, field: &str, most: usize) -> Option<Bytes> {
        let index = self.known.iter().position(|name| *name == field)?;
        let raw = self.found[index]?.get();
        if raw.len() > most {
            self.say(
                field,
                format!("has {} bytes; the limit is {most}", raw.len()),
            );
        }
        let deep = depth(raw.as_bytes());
        if deep > DEPTH_MAX {
            self.say(
                field,
                format!("nests {deep} deep; the limit is {DEPTH_MAX}"),
            );
        }
        Some(body.slice_ref(raw.as_bytes()))
    }

    fn lease(&mut self) -> Option<Lease> {
        self.must("lease", "give the one that came with the job", lease)
    }

    fn wait(&mut self) -> Duration {
        let wait = self.take("wait_ms", |value| {
            let wait = millis(value)?;
            if wait > WORK_WAIT_MAX {
                let most = WORK_WAIT_MAX.as_millis();
                return Err(Wrong(format!(
                    "is over {most}, the limit; ask again after it"
                )));
            }
            Ok(wait)
        });
        wait.unwrap_or(WORK_WAIT_DEFAULT)
    }

    fn log(&mut self) -> Option<Bytes> {
        self.take("log", |value| {
            let text = bounded(value, WORK_LOG_BYTES_MAX)?;
            Ok(Bytes::copy_from_slice(text.as_bytes()))
        })
    }

    fn finish<T>(self, read: impl FnOnce() -> Option<T>) -> Result<T, BodyError> {
        match read() {
            Some(value) if self.problems.is_empty() => Ok(value),
            _ => Err(BodyError::Fields(self.problems)),
        }
    }
}

impl<'b> Visitor<'b> for &mut Fields<'b> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "an object with {}", self.known.join(", "))
    }

    fn visit_map<A: MapAccess<'b>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let raw: &'b RawValue = map.next_value()?;
            match self.known.iter().position(|name| *name == key) {
                None => {
                    let name = key[..key.floor_char_boundary(64)].to_owned();
                    let known = self.known.join(", ");
                    self.say(&name, format!("is unknown; known are {known}"));
                }
                Some(index) if self.found[index].is_some() => {
                    self.say(&key, "is given twice; give it once");
                }
                Some(index) => self.found[index] = Some(raw),
            }
        }
        Ok(())
    }
}

fn bounded<'l>(value: &'l Lit<'_>, most: usize) -> Result<&'l str, Wrong> {
    let text = text(value)?;
    if text.len() > most {
        let len = text.len();
        return Err(Wrong(format!("has {len} bytes; the limit is {most}")));
    }
    Ok(text)
}

fn lease(value: &Lit<'_>) -> Result<Lease, Wrong> {
    let digits = bounded(value, 20)?;
    let number = digits.parse().map(Lease);
    number.map_err(|_| Wrong("is no lease; give the text that came with the job".into()))
}

fn worker(value: &Lit<'_>) -> Result<String, Wrong> {
    let name = bounded(value, WORKER_BYTES_MAX)?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Wrong(
            "give 1 to 128 printable characters without spaces, such as host-1:4711".into(),
        ));
    }
    Ok(name.to_owned())
}

fn tasks(value: &Lit<'_>) -> Result<Vec<TaskName>, Wrong> {
    let Lit::List(items) = value else {
        return Err(Wrong(format!("is {}; give a list of names", value.what())));
    };
    if items.len() > TASKS_MAX {
        return Err(Wrong(format!(
            "has {}; the limit is {TASKS_MAX}",
            items.len()
        )));
    }
    items
        .iter()
        .map(|item| Ok(TaskName::parse(text(item)?)?))
        .collect()
}

/// Reads a claim.
pub fn read_work_claim(body: &Bytes) -> Result<WorkClaim, BodyError> {
    let mut fields = Fields::read(body, &WORK_CLAIM_FIELDS)?;
    let worker = fields.must("worker", "say who you are, such as host-1:4711", worker);
    let tasks = fields.take("tasks", tasks).unwrap_or_default();
    let limit = fields.take("limit", |value| match small(value, u64::from(u16::MAX))? {
        limit if (1..=u64::from(WORK_LIMIT_MAX)).contains(&limit) => Ok(limit as u16),
        other => Err(Wrong(format!("is {other}; give 1 to {WORK_LIMIT_MAX}"))),
    });
    let wait = fields.wait();
    fields.finish(|| {
        Some(WorkClaim {
            worker: worker?,
            tasks,
            limit: limit.unwrap_or(1),
            wait,
        })
    })
}

/// Reads a sign of life.
pub fn read_work_extend(body: &Bytes) -> Result<WorkExtend, BodyError> {
    let mut fields = Fields::read(body, &WORK_EXTEND_FIELDS)?;
    let lease = fields.lease();
    let progress = fields.json(body, "progress", PROGRESS_BYTES_MAX);
    let partial = fields.json(body, "partial", PARTIAL_BYTES_MAX);
    let checkpoint = fields.json(body, "checkpoint", CHECKPOINT_BYTES_MAX);
    let log = fields.log();
    fields.finish(|| {
        Some(WorkExtend {
            lease: lease?,
            progress,
            partial,
            checkpoint,
            log,
        })
    })
}

/// Reads the end of an attempt.
pub fn read_work_settle(body: &Bytes) -> Result<WorkSettle, BodyError> {
    let mut fields = Fields::read(body, &WORK_SETTLE_FIELDS)?;
    let lease = fields.lease();
    let result = fields.json(body, "result", RESULT_BYTES_MAX);
    let error = fields.take("error", error);
    let hand_back = fields.take("hand_back", |value| match value {
        Lit::Bool(yes) => Ok(*yes),
        other => Err(Wrong(format!("is {}; give true", other.what()))),
    });
    let snooze = fields.take("snooze_ms", |value| {
        let after = millis(value)?;
        if (SNOOZE_MIN..=SNOOZE_MAX).contains(&after) {
            return Ok(after);
        }
        let (least, most) = (SNOOZE_MIN.as_millis(), SNOOZE_MAX.as_millis());
        Err(Wrong(format!("give {least} to {most} (30 days)")))
    });
    let log = fields.log();
    let (cpu, max_rss_bytes) = fields.take("usage", usage).unwrap_or_default();
    let mut ends = Vec::new();
    ends.extend(result.map(WorkEnd::Result));
    ends.extend(error.map(|(class, message)| WorkEnd::Error { class, message }));
    ends.extend((hand_back == Some(true)).then_some(WorkEnd::HandBack));
    ends.extend(snooze.map(WorkEnd::Snooze));
    if ends.len() != 1 && fields.problems.is_empty() {
        let many = ends.len();
        let detail =
            format!("give one of result, error, hand_back and snooze_ms; {many} are given");
        fields.say("result", detail);
    }
    fields.finish(|| {
        Some(WorkSettle {
            lease: lease?,
            end: ends.pop()?,
            log,
            cpu,
            max_rss_bytes,
        })
    })
}

fn error(value: &Lit<'_>) -> Result<(FailureClass, String), Wrong> {
    let Lit::Object(given) = value else {
        let what = value.what();
        return Err(Wrong(format!("is {what}; give {{\"message\": ..}}")));
    };
    let (mut class, mut message) = (FailureClass::Error, None);
    for (key, value) in given {
        match &**key {
            "class" => {
                let name = text(value)?;
                class = FailureClass::from_name(name).ok_or_else(|| {
                    let known = FailureClass::ALL.map(FailureClass::as_str).join(", ");
                    Wrong(format!("class {name:?} is unknown; known are {known}"))
                })?;
            }
            "message" => message = Some(bounded(value, MESSAGE_BYTES_MAX)?.to_owned()),
            other => {
                let name = &other[..other.floor_char_boundary(64)];
                return Err(Wrong(format!(
                    "{name:?} is unknown; known are class, message"
                )));
            }
        }
    }
    let message = message.ok_or_else(|| Wrong("has no message; say what happened".into()))?;
    Ok((class, message))
}

fn usage(value: &Lit<'_>) -> Result<(Option<Duration>, Option<u64>), Wrong> {
    let Lit::Object(given) = value else {
        return Err(Wrong(format!("is {}; give an object", value.what())));
    };
    let (mut cpu, mut rss) = (None, None);
    for (key, value) in given {
        match &**key {
            "cpu_ms" => cpu = Some(millis(value)?),
            "max_rss_bytes" => rss = Some(small(value, i64::MAX as u64)?),
            other => {
                let name = &other[..other.floor_char_boundary(64)];
                return Err(Wrong(format!(
                    "{name:?} is unknown; known are cpu_ms, max_rss_bytes"
                )));
            }
        }
    }
    Ok((cpu, rss))
}

/// Reads what a worker watches over.
pub fn read_work_watch(body: &Bytes) -> Result<WorkWatch, BodyError> {
    let mut fields = Fields::read(body, &WORK_WATCH_FIELDS)?;
    let leases = fields.must("leases", "give [{\"id\": .., \"lease\": ..}]", |value| {
        let Lit::List(items) = value else {
            return Err(Wrong(format!("is {}; give a list", value.what())));
        };
        if items.is_empty() || items.len() > WORK_LEASES_MAX {
            let len = items.len();
            return Err(Wrong(format!("has {len}; give 1 to {WORK_LEASES_MAX}")));
        }
        items.iter().map(watched).collect()
    });
    let wait = fields.wait();
    fields.finish(|| {
        Some(WorkWatch {
            leases: leases?,
            wait,
        })
    })
}

fn watched(item: &Lit<'_>) -> Result<(JobId, Lease), Wrong> {
    let Lit::Object(given) = item else {
        return Err(Wrong(format!("holds {}; give objects", item.what())));
    };
    let (mut id, mut held) = (None, None);
    for (key, value) in given {
        match &**key {
            "id" => {
                let read: Result<JobId, _> = text(value)?.parse();
                id = Some(read.map_err(|error| Wrong(error.to_string()))?);
            }
            "lease" => held = Some(lease(value)?),
            other => {
                let name = &other[..other.floor_char_boundary(64)];
                return Err(Wrong(format!("{name:?} is unknown; known are id, lease")));
            }
        }
    }
    let both = id.zip(held);
    both.ok_or_else(|| Wrong("holds one without its id or its lease".into()))
}

/// `{"jobs": [..], "confirm_ms": ..}`.
#[derive(Clone, Debug, Serialize)]
pub struct WorkOffers {
    pub jobs: Vec<WorkOffer>,
    /// Extend each of them within this time, before the work on it begins.
    pub confirm_ms: u64,
}

/// A job that a worker may have.
#[derive(Clone, Debug, Serialize)]
pub struct WorkOffer {
    pub id: String,
    pub lease: String,
    pub task: String,
    pub attempt: u16,
    pub payload: Box<RawValue>,
    /// What an earlier attempt left for this one.
    pub checkpoint: Option<Box<RawValue>>,
    /// What became of the jobs that it waited for, in their order; empty for most.
    pub inputs: Vec<InputRow>,
    /// What each extension gives.
    pub lease_ms: u64,
    /// Wall clock of the attempt.
    pub timeout_ms: u64,
    /// Until nobody waits for the result any more.
    pub deadline_ms: Option<u64>,
    /// W3C traceparent.
    pub trace: Option<String>,
}

impl WorkOffer {
    /// The payload as it is stored: verbatim if it is JSON, else as a text.
    pub fn payload_of(bytes: &[u8]) -> Box<RawValue> {
        raw_or_text(bytes)
    }
}

/// The lease goes on.
#[derive(Clone, Debug, Serialize)]
pub struct WorkExtended {
    /// Until it runs out, unless it is extended again.
    pub lease_ms: u64,
    /// Stop: settle as soon as you can.
    pub cancel: bool,
    /// `cancelled`, `shutdown`, `timeout` or `stalled`.
    pub why: Option<&'static str>,
}

/// The attempt is on record.
#[derive(Clone, Debug, Serialize)]
pub struct WorkSettled {
    /// Of the job, now.
    pub state: &'static str,
    /// It had been settled before: an answer was lost on the way.
    pub already: bool,
}

#[derive(Clone, Debug, Default, Serialize)]
pub struct WorkWatched {
    /// Stop these.
    pub cancel: Vec<WorkNotice>,
    /// Leases that are over: drop the work, nothing of it is taken.
    pub gone: Vec<WorkGone>,
}

#[derive(Clone, Debug, Serialize)]
pub struct WorkNotice {
    pub id: String,
    pub lease: String,
    pub why: &'static str,
    /// Until the lease is withdrawn.
    pub lease_ms: u64,
}

#[derive(Clone, Debug, Serialize)]
pub struct WorkGone {
    pub id: String,
    pub lease: String,
}

/// Who works, for screens.
#[derive(Clone, Debug, Serialize)]
pub struct WorkView {
    pub workers: Vec<WorkWorker>,
    /// Jobs that nobody who waits can take.
    pub queued: u32,
}

#[derive(Clone, Debug, Serialize)]
pub struct WorkWorker {
    pub name: String,
    pub running: u32,
    pub waiting: u32,
}

#[cfg(test)]
mod tests;
