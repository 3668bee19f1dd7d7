//! The body of a schedule, and what doors answer about schedules.
//!
//! A body holds the fields of a job but its times, and those of a schedule. The job's are read by the
//! reader of jobs, so that they mean the same and are refused alike.

use std::fmt::Write as _;

use bytes::Bytes;
use offloop_job::limits::{SCHEDULE_AT_MAX, SCHEDULE_CATCH_UP_DEFAULT};
use offloop_job::{
    Missed, Overlap, ScheduleEvent, ScheduleEventKind, ScheduleSpec, TaskName, Timestamp, Timing,
};
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Key, Lit, raw_or_text};
use crate::options::OptionsBody;
use crate::problem::FieldProblem;
use crate::read::{BodyError, JOB_FIELDS, JobReader, Wrong, instant, millis, one_of, small, text};
use crate::time::{format_time, parse_time};

/// The fields of a schedule beside those of its jobs.
pub const SCHEDULE_FIELDS: [&str; 12] = [
    "cron",
    "every_ms",
    "at",
    "timezone",
    "missed",
    "catch_up_max",
    "overlap",
    "jitter_ms",
    "paused",
    "starts_at",
    "ends_at",
    "alert_after_ms",
];

/// Fields of a job that name one instant, or one request.
const NOT_OF_MANY: [&str; 6] = [
    "delay_ms",
    "run_at",
    "deadline",
    "expires_at",
    "idempotency_key",
    "after",
];

/// Reads a body. The payload of the answer is a copy: a schedule is kept for long.
///
/// - `now`: for the reader of jobs; nothing of a schedule counts from it.
pub fn read_schedule(body: &Bytes, now: Timestamp) -> Result<ScheduleSpec, BodyError> {
    let mut draft = Draft::default();
    let mut from = serde_json::Deserializer::from_slice(body);
    from.deserialize_map(Fields(&mut draft))
        .and_then(|()| from.end())
        .map_err(|error| BodyError::Syntax {
            detail: error.to_string(),
        })?;
    draft.finish(now)
}

#[derive(Default)]
struct Draft<'a> {
    /// Fields of the job, as they were written.
    job: Vec<(String, &'a RawValue)>,
    seen: Vec<String>,
    timing: Option<Timing>,
    missed: Option<&'static str>,
    catch_up_max: Option<u16>,
    /// The other fields, on a task that stands for the one that is read later.
    spec: Option<ScheduleSpec>,
    problems: Vec<FieldProblem>,
}

impl<'a> Draft<'a> {
    fn say(&mut self, field: &str, detail: impl Into<String>) {
        let name = &field[..field.floor_char_boundary(64)];
        let name = name.replace('~', "~0").replace('/', "~1");
        self.problems
            .push(FieldProblem::new(format!("/{name}"), detail));
    }

    fn take(&mut self, field: &str, raw: &'a RawValue) {
        if self.seen.iter().any(|seen| seen == field) {
            return self.say(field, "is given twice; give it once");
        }
        self.seen.push(field.to_owned());
        if NOT_OF_MANY.contains(&field) {
            let why = "is of one job, and a schedule makes many; leave it out";
            return self.say(field, why);
        }
        if JOB_FIELDS.contains(&field) {
            return self.job.push((field.to_owned(), raw));
        }
        let Some(field) = SCHEDULE_FIELDS.into_iter().find(|known| *known == field) else {
            let own = JOB_FIELDS.iter().filter(|name| !NOT_OF_MANY.contains(name));
            let known: Vec<_> = SCHEDULE_FIELDS.iter().chain(own).copied().collect();
            return self.say(field, format!("is unknown; known are {}", known.join(", ")));
        };
        let Ok(value) = serde_json::from_str::<Lit<'_>>(raw.get()) else {
            return self.say(field, "nests too deep");
        };
        if value == Lit::Null {
            return; // the same as leaving it out
        }
        match self.set(field, &value) {
            Ok(()) => {}
            Err(Wrong(detail)) => self.say(field, detail),
        }
    }

    fn set(&mut self, field: &'static str, value: &Lit<'_>) -> Result<(), Wrong> {
        if matches!(field, "cron" | "every_ms" | "at") && self.timing.is_some() {
            return Err(Wrong(
                "is one too many; give one of cron, every_ms, at".into(),
            ));
        }
        match field {
            "cron" => self.timing = Some(Timing::Cron(text(value)?.into())),
            "every_ms" => self.timing = Some(Timing::Every(millis(value)?)),
            "at" => self.timing = Some(Timing::At(self.instants(value)?)),
            "missed" => self.missed = Some(one_of(value, &["skip", "once", "catch_up"])?),
            "catch_up_max" => self.catch_up_max = Some(small(value, u16::MAX.into())? as u16),
            _ => return self.set_rest(field, value),
        }
        Ok(())
    }

    fn set_rest(&mut self, field: &str, value: &Lit<'_>) -> Result<(), Wrong> {
        let spec = self.spec();
        match field {
            "timezone" => spec.timezone = text(value)?.into(),
            "overlap" => {
                let known = Overlap::ALL.map(Overlap::as_str);
                let name = one_of(value, &known)?;
                spec.overlap = Overlap::from_name(name).unwrap_or_default();
            }
            "jitter_ms" => spec.jitter = millis(value)?,
            "paused" => match value {
                Lit::Bool(paused) => spec.paused = *paused,
                other => return Err(Wrong(format!("is {}; give true or false", other.what()))),
            },
            "starts_at" => spec.starts_at = Some(instant(value)?),
            "ends_at" => spec.ends_at = Some(instant(value)?),
            _ => spec.alert_after = millis(value)?,
        }
        Ok(())
    }

    fn spec(&mut self) -> &mut ScheduleSpec {
        self.spec.get_or_insert_with(empty)
    }

    fn instants(&mut self, value: &Lit<'_>) -> Result<std::sync::Arc<[Timestamp]>, Wrong> {
        let Lit::List(items) = value else {
            return Err(Wrong(format!(
                "is {}; give a list of times (RFC 3339)",
                value.what()
            )));
        };
        if items.len() > SCHEDULE_AT_MAX {
            let len = items.len();
            return Err(Wrong(format!(
                "has {len} times; the limit is {SCHEDULE_AT_MAX}"
            )));
        }
        let mut instants = Vec::with_capacity(items.len());
        for (nth, item) in items.iter().enumerate() {
            match text(item).and_then(|text| parse_time(text).map_err(Wrong)) {
                Ok(at) => instants.push(at),
                Err(Wrong(detail)) => {
                    self.problems
                        .push(FieldProblem::new(format!("/at/{nth}"), detail));
                }
            }
        }
        instants.sort_unstable();
        instants.dedup();
        Ok(instants.into())
    }

    fn missed(&mut self) -> Missed {
        let max = self.catch_up_max;
        match self.missed {
            Some("catch_up") => Missed::CatchUp {
                max: max.unwrap_or(SCHEDULE_CATCH_UP_DEFAULT),
            },
            rule => {
                if max.is_some() {
                    self.say("catch_up_max", "belongs to missed = catch_up; leave it out");
                }
                match rule {
                    Some("skip") => Missed::Skip,
                    _ => Missed::default(),
                }
            }
        }
    }

    fn finish(mut self, now: Timestamp) -> Result<ScheduleSpec, BodyError> {
        let missed = self.missed();
        let timed = ["cron", "every_ms", "at"]
            .iter()
            .any(|field| self.seen.iter().any(|s| s == field));
        if self.timing.is_none() && !timed {
            self.say("cron", "is missing; give cron, every_ms or at");
        }
        let mut job = String::from("{");
        for (field, raw) in &self.job {
            if job.len() > 1 {
                job.push(',');
            }
            let _ = write!(job, "\"{field}\":{raw}");
        }
        job.push('}');
        let job = Bytes::from(job);
        let job = match JobReader::new().read(&job, 0..job.len(), now) {
            Ok(job) => Some(job),
            Err(BodyError::Fields(found)) => {
                self.problems.extend(found);
                None
            }
            Err(syntax) => return Err(syntax),
        };
        let (Some(job), Some(timing), true) = (job, self.timing.take(), self.problems.is_empty())
        else {
            return Err(BodyError::Fields(self.problems));
        };
        let spec = ScheduleSpec {
            task: job.task,
            payload: Bytes::copy_from_slice(&job.payload),
            options: job.options,
            timing,
            missed,
            ..self.spec.take().unwrap_or_else(empty)
        };
        let found = spec.problems();
        if found.is_empty() {
            return Ok(spec);
        }
        let found = found.into_iter();
        let found = found.map(|one| FieldProblem::new(format!("/{}", one.field), one.message));
        Err(BodyError::Fields(found.collect()))
    }
}

/// Every default, on a task that is none: names that start with `offloop.` are never asked for here.
fn empty() -> ScheduleSpec {
    let task = TaskName::parse("offloop.none").unwrap_or_else(|_| unreachable!("a sound name"));
    ScheduleSpec::new(task, Timing::At([].into()))
}

struct Fields<'d, 'a>(&'d mut Draft<'a>);

impl<'de> Visitor<'de> for Fields<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a schedule: an object such as {\"task\": \"report\", \"cron\": \"0 3 * * *\"}")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = map.next_key()? {
            let raw: &'de RawValue = map.next_value()?;
            if self.0.problems.len() < 64 {
                self.0.take(&key, raw);
            }
        }
        Ok(())
    }
}

/// A schedule as it was asked for: what `PUT /v1/schedules/{name}` takes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScheduleBody {
    pub task: String,
    pub payload: Box<RawValue>,
    #[serde(flatten)]
    pub options: OptionsBody,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Vec<String>>,
    pub timezone: String,
    pub missed: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub catch_up_max: Option<u16>,
    pub overlap: String,
    pub jitter_ms: u64,
    pub paused: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<String>,
    pub alert_after_ms: u64,
}

impl From<&ScheduleSpec> for ScheduleBody {
    fn from(spec: &ScheduleSpec) -> Self {
        let (mut cron, mut every_ms, mut at) = (None, None, None);
        match &spec.timing {
            Timing::Cron(text) => cron = Some(text.to_string()),
            Timing::Every(every) => every_ms = Some(every.as_millis() as u64),
            Timing::At(list) => at = Some(list.iter().map(|at| format_time(*at)).collect()),
        }
        let (missed, catch_up_max) = match spec.missed {
            Missed::Skip => ("skip", None),
            Missed::Once => ("once", None),
            Missed::CatchUp { max } => ("catch_up", Some(max)),
        };
        Self {
            task: spec.task.to_string(),
            payload: raw_or_text(&spec.payload),
            options: OptionsBody::from(&spec.options),
            cron,
            every_ms,
            at,
            timezone: spec.timezone.to_string(),
            missed: missed.into(),
            catch_up_max,
            overlap: spec.overlap.as_str().into(),
            jitter_ms: spec.jitter.as_millis() as u64,
            paused: spec.paused,
            starts_at: spec.starts_at.map(format_time),
            ends_at: spec.ends_at.map(format_time),
            alert_after_ms: spec.alert_after.as_millis() as u64,
        }
    }
}

/// `GET /v1/schedules/{name}`; rows of a list leave `spec` out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScheduleView {
    pub name: String,
    pub task: String,
    /// `cron 0 3 * * *`, `every 60000 ms`, `at 3 times`.
    pub when: String,
    pub timezone: String,
    pub paused: bool,
    /// `api`, or `config`: declared there, and changed there alone.
    pub origin: String,
    pub revision: u64,
    pub created_at: String,
    pub updated_at: String,
    /// `null`: there is none any more.
    pub next_due_at: Option<String>,
    /// A due time that waits for a job of the schedule to end.
    pub held_due_at: Option<String>,
    /// Why nothing comes from it although it should; `null` when all is well.
    pub silent: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spec: Option<ScheduleBody>,
}

/// `GET /v1/schedules`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ScheduleList {
    pub schedules: Vec<ScheduleView>,
    pub next_cursor: Option<String>,
}

/// `GET /v1/schedules/{name}/ledger`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerView {
    pub ledger: Vec<LedgerRowView>,
    pub next_cursor: Option<String>,
}

/// One due time, or a stretch of skipped ones, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerRowView {
    pub due_at: String,
    /// `fired` or `skipped`.
    pub outcome: String,
    /// Why it was skipped: `paused`, `missed`, `overlap`, `replaced`, `unique: ...`, `refused: ...`.
    pub reason: Option<String>,
    /// Behind the due time and its jitter.
    pub late_ms: u64,
    pub job_id: Option<String>,
    /// It was triggered; `due_at` is when.
    pub by_hand: bool,
    /// The last due time of a stretch.
    pub until: Option<String>,
    /// Due times of a stretch; `null` if there were too many to count.
    pub count: Option<u64>,
    /// When the row was written.
    pub at: String,
}

/// `GET /v1/schedules/{name}/next` and `POST /v1/schedules/preview`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextView {
    pub next: Vec<NextRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextRow {
    pub due_at: String,
    /// With the schedule's jitter: when it is fired.
    pub planned_at: String,
    /// The due time on the clock of the schedule's zone.
    pub local: String,
}

/// The data of the server-sent events `schedule_silent` and `schedule_back` of `GET /v1/events`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ScheduleEventView {
    pub at: String,
    pub schedule: String,
    /// `schedule_silent` or `schedule_back`.
    pub kind: String,
    /// Of `schedule_silent`: `late`, `clock_went_back` or `unreadable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Of `schedule_silent`, but for `unreadable`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due_at: Option<String>,
    /// Of `schedule_silent`: how long ago that should have been kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_ms: Option<u64>,
}

impl From<&ScheduleEvent> for ScheduleEventView {
    fn from(from: &ScheduleEvent) -> Self {
        let mut view = Self {
            at: format_time(from.at),
            schedule: from.schedule.to_string(),
            kind: from.kind.as_str().into(),
            why: None,
            due_at: None,
            late_ms: None,
        };
        if let ScheduleEventKind::Silent { why, due_at, late } = from.kind {
            view.why = Some(why.as_str().into());
            view.due_at = due_at.map(format_time);
            view.late_ms = Some(u64::try_from(late.as_millis()).unwrap_or(u64::MAX));
        }
        view
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<ScheduleSpec, BodyError> {
        let body = Bytes::copy_from_slice(text.as_bytes());
        read_schedule(&body, Timestamp::from_millis(1))
    }

    fn pointers(text: &str) -> Vec<String> {
        match read(text) {
            Err(BodyError::Fields(found)) => found.into_iter().map(|one| one.pointer).collect(),
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn a_schedule_that_is_shown_can_be_put_again() {
        let text = r#"{"task":"t","payload":{"b":1,"a":[]},"cron":"0 3 * * *","timezone":"Europe/Berlin",
            "missed":"catch_up","catch_up_max":3,"overlap":"queue_one","jitter_ms":5,"paused":true,
            "starts_at":"2027-01-01T00:00:00Z","ends_at":"2028-01-01T00:00:00Z","alert_after_ms":9,
            "priority":2,"tags":["a"],"unique":{"key":"k"},"queue":"q","max_attempts":2}"#;
        let spec = read(text).unwrap();
        let again = serde_json::to_string(&ScheduleBody::from(&spec)).unwrap();
        assert_eq!(read(&again).unwrap(), spec);
        let spec = read(r#"{"task":"t","at":["2027-01-02T00:00:00Z","2027-01-01T00:00:00Z"]}"#);
        let spec = spec.unwrap();
        let again = serde_json::to_string(&ScheduleBody::from(&spec)).unwrap();
        assert_eq!(read(&again).unwrap(), spec);
    }

    #[test]
    fn every_field_that_cannot_be_is_named() {
        #[rustfmt::skip]
        let rows: [(&str, &[&str]); 14] = [
            (r#"{"cron":"@daily"}"#, &["/task"]),
            (r#"{"task":"t"}"#, &["/cron"]),
            (r#"{"task":"t","cron":"@daily","every_ms":1000}"#, &["/every_ms"]),
            (r#"{"task":"t","every_ms":1}"#, &["/every_ms"]),
            (r#"{"task":"t","every_ms":"soon"}"#, &["/every_ms"]),
            (r#"{"task":"t","at":[]}"#, &["/at"]),
            (r#"{"task":"t","at":["2027-01-01T00:00:00Z","x",3]}"#, &["/at/1", "/at/2"]),
            (r#"{"task":"t","cron":"@daily","colour":1,"missed":"maybe"}"#, &["/colour", "/missed"]),
            (r#"{"task":"t","cron":"@daily","catch_up_max":3}"#, &["/catch_up_max"]),
            (r#"{"task":"t","cron":"@daily","missed":"catch_up","catch_up_max":0}"#, &["/catch_up_max"]),
            (r#"{"task":"t","cron":"@daily","run_at":"2027-01-01T00:00:00Z"}"#, &["/run_at"]),
            (r#"{"task":"t","cron":"@daily","paused":1,"priority":77}"#, &["/paused", "/priority"]),
            (r#"{"task":"t","cron":"@daily","cron":"@hourly"}"#, &["/cron"]),
            (r#"{"task":"t","cron":"@daily","starts_at":"2027-01-01T00:00:00Z","ends_at":"2026-01-01T00:00:00Z"}"#, &["/ends_at"]),
        ];
        for (text, want) in rows {
            assert_eq!(pointers(text), want, "{text}");
        }
        assert!(matches!(read("[1]"), Err(BodyError::Syntax { .. })));
        assert!(matches!(read("{"), Err(BodyError::Syntax { .. })));
    }
}
