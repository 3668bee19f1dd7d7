//! Reads one enqueue request into a [`NewJob`]: one pass over the text, nothing copied but names.
//!
//! Text that is not JSON ends the reading; everything else is collected, so that a caller learns
//! of all its mistakes at once. The payload is kept as it was written, key by key: its duplicate
//! keys are the task's affair, those of the request are refused.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use offloop_job::limits::{ATTEMPTS_MAX, TAGS_MAX};
use offloop_job::{
    Backoff, BackoffKind, FailureClass, IdempotencyKey, JobOptions, NameError, NewJob, QueueName,
    RetryPolicy, Tag, TaskName, Timestamp,
};
use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::after::{Awaited, ids, read_after, read_ref};
use crate::json::{DEPTH_MAX, Key, Lit, depth};
use crate::names::NameCache;
use crate::problem::FieldProblem;
use crate::time::parse_time;
use crate::webhook;

/// Why a request is no job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// It is not JSON, or not an object: where and why.
    Syntax { detail: String },
    /// It is an object, and these fields cannot be. Never empty.
    Fields(Vec<FieldProblem>),
}

/// Every field of a request, in the order of the documentation.
pub const JOB_FIELDS: [&str; 25] = [
    "task",
    "payload",
    "queue",
    "priority",
    "delay_ms",
    "run_at",
    "max_attempts",
    "backoff",
    "retry_by_class",
    "timeout_ms",
    "cpu_limit_ms",
    "memory_limit_bytes",
    "stall_timeout_ms",
    "cores",
    "cost",
    "deadline",
    "expires_at",
    "unique",
    "group_key",
    "tags",
    "trace",
    "webhook",
    "keep_ms",
    "idempotency_key",
    "after",
];
/// In a flow, the name of a job among its own.
const REF: &str = "ref";

/// Reads requests; keeps the names of the last ones, so that a batch shares them.
#[derive(Debug)]
pub struct JobReader {
    tasks: NameCache<TaskName>,
    queues: NameCache<QueueName>,
    default_queue: QueueName,
}

impl Default for JobReader {
    fn default() -> Self {
        Self::new()
    }
}

/// A job of a flow, its name there, and whom it waits for.
pub(crate) type FlowDraft = (NewJob, Option<Box<str>>, Vec<Awaited>);

impl JobReader {
    pub fn new() -> Self {
        Self {
            tasks: NameCache::new(),
            queues: NameCache::new(),
            default_queue: QueueName::default(),
        }
    }

    /// Reads the request in `text[range]`. The payload of the answer is a slice of `text`, so that
    /// it is not copied: who keeps it for long copies it then.
    ///
    /// - `now`: what `delay_ms` counts from.
    pub fn read(
        &mut self,
        text: &Bytes,
        range: Range<usize>,
        now: Timestamp,
    ) -> Result<NewJob, BodyError> {
        self.draft(text, range, now, false)?.finish(text)
    }

    /// A job of a flow: with its name there, and whom it waits for.
    pub(crate) fn read_of_flow(
        &mut self,
        text: &Bytes,
        range: Range<usize>,
        now: Timestamp,
    ) -> Result<FlowDraft, BodyError> {
        let mut draft = self.draft(text, range, now, true)?;
        let (name, after) = (draft.name.take(), draft.after.clone());
        Ok((draft.finish(text)?, name, after))
    }

    fn draft<'t>(
        &mut self,
        text: &'t Bytes,
        range: Range<usize>,
        now: Timestamp,
        flow: bool,
    ) -> Result<Draft<'t>, BodyError> {
        let draft = RefCell::new(Draft::new(self.default_queue.clone(), flow));
        let mut from = serde_json::Deserializer::from_slice(&text[range]);
        let read = Fields {
            reader: self,
            draft: &draft,
            now,
        }
        .deserialize(&mut from)
        .and_then(|()| from.end());
        if let Err(error) = read {
            return Err(BodyError::Syntax {
                detail: error.to_string(),
            });
        }
        Ok(draft.into_inner())
    }
}

/// A job that is being read.
struct Draft<'a> {
    task: Option<TaskName>,
    payload: Option<&'a RawValue>,
    options: JobOptions,
    idempotency: Option<IdempotencyKey>,
    /// One bit per field of [`JOB_FIELDS`].
    seen: u32,
    problems: Vec<FieldProblem>,
    /// Of a flow: `ref` is a field, and `after` may name one.
    flow: bool,
    name: Option<Box<str>>,
    after: Vec<Awaited>,
    delay: Option<Duration>,
}

/// A type that does not fit, or a number out of its type's range.
pub(crate) struct Wrong(pub(crate) String);

impl From<NameError> for Wrong {
    fn from(error: NameError) -> Self {
        Self(error.to_string())
    }
}

type Taken = Result<(), Wrong>;

impl Draft<'_> {
    fn new(queue: QueueName, flow: bool) -> Self {
        // Written out: `JobOptions::default()` would allocate a queue's name for each job.
        let options = JobOptions {
            queue,
            priority: offloop_job::limits::PRIORITY_DEFAULT,
            run_at: None,
            retry: RetryPolicy::default(),
            timeout: None,
            cpu_limit: None,
            memory_limit_bytes: None,
            stall_timeout: None,
            cores: 1,
            cost: 1,
            deadline: None,
            expires_at: None,
            unique: None,
            group_key: None,
            tags: Vec::new(),
            trace: None,
            keep: None,
            group: None,
            follows: None,
            after: Vec::new(),
            delay: None,
            schedule: None,
            webhook: None,
        };
        let problems = Vec::new();
        Self {
            task: None,
            payload: None,
            options,
            idempotency: None,
            seen: 0,
            problems,
            flow,
            name: None,
            after: Vec::new(),
            delay: None,
        }
    }

    fn say(&mut self, pointer: impl Into<String>, detail: impl Into<String>) {
        self.problems.push(FieldProblem::new(pointer, detail));
    }

    /// Whether this is the field's first time.
    fn first(&mut self, index: usize) -> bool {
        let bit = 1 << index;
        let first = self.seen & bit == 0;
        self.seen |= bit;
        first
    }

    fn has(&self, field: &str) -> bool {
        let index = JOB_FIELDS.iter().position(|name| *name == field);
        index.is_some_and(|index| self.seen & (1 << index) != 0)
    }

    /// The fields but `task`, `queue` and `payload`, which the visitor reads.
    fn take(&mut self, field: &str, value: Lit<'_>, now: Timestamp) -> Taken {
        let options = &mut self.options;
        match field {
            "priority" => options.priority = small(&value, u8::MAX.into())? as u8,
            "delay_ms" => {
                let delay = millis(&value)?;
                options.run_at = Some(now.plus(delay));
                self.delay = Some(delay);
            }
            "run_at" => options.run_at = Some(instant(&value)?),
            "max_attempts" => options.retry.max_attempts = small(&value, u16::MAX.into())? as u16,
            "timeout_ms" => options.timeout = Some(millis(&value)?),
            "cpu_limit_ms" => options.cpu_limit = Some(millis(&value)?),
            "memory_limit_bytes" => options.memory_limit_bytes = Some(number(&value)?),
            "stall_timeout_ms" => options.stall_timeout = Some(millis(&value)?),
            "cores" => options.cores = small(&value, u16::MAX.into())? as u16,
            "cost" => options.cost = small(&value, u32::MAX.into())? as u32,
            "deadline" => options.deadline = Some(instant(&value)?),
            "expires_at" => options.expires_at = Some(instant(&value)?),
            "group_key" => options.group_key = Some(Tag::parse(text(&value)?)?),
            "trace" => options.trace = Some(text(&value)?.into()),
            "keep_ms" => options.keep = Some(millis(&value)?),
            "webhook" => match webhook::read(object(value)?) {
                Ok(webhook) => options.webhook = Some(Box::new(webhook)),
                Err((field, Wrong(detail))) => {
                    self.say(format!("/webhook/{}", token(&field)), detail);
                }
            },
            "idempotency_key" => self.idempotency = Some(IdempotencyKey::parse(text(&value)?)?),
            "backoff" => self.take_backoff(value)?,
            "retry_by_class" => self.take_rules(value)?,
            "unique" => self.take_unique(value)?,
            "tags" => self.take_tags(value)?,
            "after" => self.after = read_after(value, self.flow, &mut self.problems)?,
            REF => self.name = Some(read_ref(text(&value)?)?),
            _ => return Err(Wrong("is unknown".into())),
        }
        Ok(())
    }

    fn take_backoff(&mut self, value: Lit<'_>) -> Taken {
        let mut backoff = Backoff::default();
        let mut kind: Option<String> = None;
        let mut waits: Option<Box<[Duration]>> = None;
        for (key, value) in object(value)? {
            let taken = match &*key {
                "kind" => one_of(&value, &["fixed", "exponential", "custom"])
                    .map(|found| kind = Some(found.to_owned())),
                "base_ms" => millis(&value).map(|base| backoff.base = base),
                "cap_ms" => millis(&value).map(|cap| backoff.cap = cap),
                "jitter" => jitter(&value).map(|percent| backoff.jitter_percent = percent),
                "delays_ms" => match &value {
                    Lit::List(items) => {
                        let read: Result<Box<[_]>, _> = items.iter().map(millis).collect();
                        read.map(|read| waits = Some(read))
                    }
                    other => Err(wrong(other, "a list of milliseconds")),
                },
                _ => Err(Wrong(
                    "is unknown; known are kind, base_ms, cap_ms, jitter, delays_ms".into(),
                )),
            };
            if let Err(Wrong(detail)) = taken {
                self.say(format!("/backoff/{}", token(&key)), detail);
            }
        }
        backoff.kind = match (kind.as_deref(), waits) {
            (None | Some("custom"), Some(waits)) => BackoffKind::Custom(waits),
            (Some("custom"), None) => BackoffKind::Custom(Box::default()),
            (Some(_), Some(_)) => {
                self.say(
                    "/backoff/delays_ms",
                    "belongs to the kind `custom` alone; leave one out",
                );
                return Ok(());
            }
            (Some("fixed"), None) => BackoffKind::Fixed,
            _ => BackoffKind::Exponential,
        };
        self.options.retry.backoff = backoff;
        Ok(())
    }

    fn take_rules(&mut self, value: Lit<'_>) -> Taken {
        for (key, value) in object(value)? {
            let pointer = format!("/retry_by_class/{}", token(&key));
            let Some(class) = FailureClass::from_name(&key) else {
                let known = FailureClass::ALL.map(FailureClass::as_str).join(", ");
                self.say(
                    pointer,
                    format!("is no class of failure; known are {known}"),
                );
                continue;
            };
            match small(&value, ATTEMPTS_MAX.into()) {
                Ok(runs) if runs > 0 => self.options.retry.by_class.push((class, runs as u16)),
                Ok(_) => self.say(
                    pointer,
                    format!("is 0; give 1 (no retry) to {ATTEMPTS_MAX}"),
                ),
                Err(Wrong(detail)) => self.say(pointer, detail),
            }
        }
        Ok(())
    }

    fn take_unique(&mut self, value: Lit<'_>) -> Taken {
        let problems = &mut self.problems;
        let mut say = |pointer: String, detail: String| {
            problems.push(FieldProblem::new(pointer, detail));
        };
        self.options.unique = crate::unique::read(value, &mut say)?;
        Ok(())
    }

    fn take_tags(&mut self, value: Lit<'_>) -> Taken {
        let Lit::List(items) = value else {
            return Err(wrong(&value, "a list of texts"));
        };
        if items.len() > TAGS_MAX {
            return Err(Wrong(format!(
                "has {}; the limit is {TAGS_MAX}",
                items.len()
            )));
        }
        for (index, item) in items.iter().enumerate() {
            match text(item).and_then(|text| Ok(Tag::parse(text)?)) {
                Ok(tag) => self.options.tags.push(tag),
                Err(Wrong(detail)) => self.say(format!("/tags/{index}"), detail),
            }
        }
        Ok(())
    }

    /// What concerns several fields, and the whole.
    fn finish(mut self, text: &Bytes) -> Result<NewJob, BodyError> {
        if self.task.is_none()
            && !self
                .problems
                .iter()
                .any(|problem| problem.pointer == "/task")
        {
            self.say(
                "/task",
                "is missing; name the task to run (GET /v1/tasks lists them)",
            );
        }
        if self.has("delay_ms") && self.has("run_at") {
            self.say("/run_at", "excludes delay_ms; give one of them");
        }
        if !self.after.is_empty() && self.delay.is_some() {
            // From the end of the last of them.
            (self.options.delay, self.options.run_at) = (self.delay, None);
        }
        self.options.after = ids(&self.after);
        let payload = match self.payload {
            None => Bytes::from_static(b"null"),
            Some(raw) => {
                let deep = depth(raw.get().as_bytes());
                if deep > DEPTH_MAX {
                    self.say(
                        "/payload",
                        format!("nests {deep} deep; the limit is {DEPTH_MAX}"),
                    );
                }
                text.slice_ref(raw.get().as_bytes())
            }
        };
        if self.problems.is_empty() {
            for problem in self.options.problems() {
                self.say(
                    format!("/{}", problem.field.replace('.', "/")),
                    problem.message,
                );
            }
        }
        match (self.task, self.problems) {
            (Some(task), problems) if problems.is_empty() => Ok(NewJob {
                task,
                payload,
                options: self.options,
                idempotency: self.idempotency,
            }),
            (_, problems) => Err(BodyError::Fields(problems)),
        }
    }
}

/// Drives serde over the fields of one request.
struct Fields<'r, 'd, 'a> {
    reader: &'r mut JobReader,
    draft: &'d RefCell<Draft<'a>>,
    now: Timestamp,
}

impl<'de: 'a, 'a> DeserializeSeed<'de> for Fields<'_, '_, 'a> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de: 'a, 'a> Visitor<'de> for Fields<'_, '_, 'a> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a job: an object such as {\"task\": \"report\", \"payload\": {}}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut draft = self.draft.borrow_mut();
        while let Some(Key(key)) = map.next_key()? {
            let own = (draft.flow && key == REF).then_some(JOB_FIELDS.len());
            let known = JOB_FIELDS.iter().position(|name| *name == key);
            let Some(index) = known.or(own) else {
                map.next_value::<serde::de::IgnoredAny>()?;
                let known = JOB_FIELDS.join(", ");
                let detail = format!("is unknown; known are {known}");
                draft.say(format!("/{}", token(&key)), detail);
                continue;
            };
            let field = JOB_FIELDS.get(index).copied().unwrap_or(REF);
            if !draft.first(index) {
                map.next_value::<serde::de::IgnoredAny>()?;
                draft.say(format!("/{field}"), "is given twice; give it once");
                continue;
            }
            if field == "payload" {
                draft.payload = Some(map.next_value()?);
                continue;
            }
            let value: Lit<'de> = map.next_value()?;
            let taken = match field {
                "task" => text(&value)
                    .and_then(|text| Ok(self.reader.tasks.get(text)?))
                    .map(|task| draft.task = Some(task)),
                _ if value == Lit::Null => {
                    draft.seen &= !(1 << index); // null is the same as leaving it out
                    Ok(())
                }
                "queue" => text(&value)
                    .and_then(|text| Ok(self.reader.queues.get(text)?))
                    .map(|queue| draft.options.queue = queue),
                _ => draft.take(field, value, self.now),
            };
            if let Err(Wrong(detail)) = taken {
                draft.say(format!("/{field}"), detail);
            }
        }
        Ok(())
    }
}

pub(crate) fn wrong(found: &Lit<'_>, want: &str) -> Wrong {
    Wrong(format!("is {}; give {want}", found.what()))
}

pub(crate) fn text<'l>(value: &'l Lit<'_>) -> Result<&'l str, Wrong> {
    match value {
        Lit::Text(text) => Ok(text),
        other => Err(wrong(other, "a text")),
    }
}

/// Whole numbers; `5.0` is one, as some languages write every number so.
fn number(value: &Lit<'_>) -> Result<u64, Wrong> {
    const WHOLE_MAX: f64 = 9_007_199_254_740_992.0; // 2^53
    match value {
        Lit::Uint(number) => Ok(*number),
        Lit::Float(number) if number.fract() == 0.0 && (0.0..=WHOLE_MAX).contains(number) => {
            Ok(*number as u64)
        }
        other => Err(wrong(other, "a whole number, 0 or more")),
    }
}

pub(crate) fn small(value: &Lit<'_>, max: u64) -> Result<u64, Wrong> {
    let number = number(value)?;
    if number > max {
        Err(Wrong(format!("is {number}, which is too large")))
    } else {
        Ok(number)
    }
}

pub(crate) fn millis(value: &Lit<'_>) -> Result<Duration, Wrong> {
    number(value).map(Duration::from_millis)
}

pub(crate) fn instant(value: &Lit<'_>) -> Result<Timestamp, Wrong> {
    parse_time(text(value)?).map_err(Wrong)
}

/// 0.0 to 1.0, or `true` for full and `false` for none.
fn jitter(value: &Lit<'_>) -> Result<u8, Wrong> {
    let share = match value {
        Lit::Bool(on) => f64::from(u8::from(*on)),
        Lit::Uint(number) => *number as f64,
        Lit::Float(number) => *number,
        other => return Err(wrong(other, "0.0 (none) to 1.0 (full)")),
    };
    if (0.0..=1.0).contains(&share) {
        Ok((share * 100.0).round() as u8)
    } else {
        Err(Wrong(format!("is {share}; give 0.0 (none) to 1.0 (full)")))
    }
}

pub(crate) fn one_of<'k>(value: &Lit<'_>, known: &'k [&'k str]) -> Result<&'k str, Wrong> {
    let found = text(value)?;
    let kept = known.iter().find(|name| **name == found);
    kept.copied()
        .ok_or_else(|| Wrong(format!("is {}; give {}", value.what(), known.join(", "))))
}

/// An object's fields; each key once.
pub(crate) fn object(value: Lit<'_>) -> Result<Vec<(Cow<'_, str>, Lit<'_>)>, Wrong> {
    let Lit::Object(fields) = value else {
        return Err(wrong(&value, "an object"));
    };
    for (at, (key, _)) in fields.iter().enumerate() {
        if at >= 64 {
            return Err(Wrong("has more than 64 fields".into()));
        }
        if fields[..at].iter().any(|(other, _)| other == key) {
            return Err(Wrong(format!("has the key {key:?} twice; give it once")));
        }
    }
    Ok(fields)
}

/// A key as a JSON pointer's token (RFC 6901 §3), cut so that an error stays readable.
pub(crate) fn token(key: &str) -> String {
    key[..key.floor_char_boundary(128)]
        .replace('~', "~0")
        .replace('/', "~1")
}
