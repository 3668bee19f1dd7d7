//! Bodies of groups and flows: several jobs in one request that belong together.
//!
//! A flow's jobs come out in an order in which each stands behind those that it waits for; a circle
//! is refused by its names.

use std::borrow::Cow;
use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use offloop_job::limits::BATCH_JOBS_MAX;
use offloop_job::{After, GroupRule, NewGroup, NewJob, Parent, Then, ThenOn, Timestamp};
use serde::de::{Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::after::{Awaited, Whom};
use crate::json::Lit;
use crate::problem::FieldProblem;
use crate::read::{BodyError, FlowDraft, JobReader, Wrong, instant, one_of};

/// Every field of the body of a group.
pub const GROUP_FIELDS: [&str; 5] = ["rule", "deadline", "hold", "then", "jobs"];
/// Of its follow-up.
pub const THEN_FIELDS: [&str; 2] = ["on", "job"];
pub const FLOW_FIELDS: [&str; 1] = ["jobs"];

/// A flow that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct FlowBody {
    /// Each behind those that it waits for.
    pub jobs: Vec<NewJob>,
    /// Place of each in the request, and its name there.
    pub places: Vec<(usize, Option<Box<str>>)>,
}

type Fields<'b> = Vec<(Cow<'b, str>, &'b RawValue)>;

struct Collect<'k> {
    known: &'k [&'k str],
    problems: Vec<FieldProblem>,
}

impl<'de> Visitor<'de> for &mut Collect<'_> {
    type Value = Fields<'de>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields<'de>, A::Error> {
        let mut fields: Fields<'de> = Vec::new();
        while let Some(crate::json::Key(key)) = map.next_key()? {
            let name = &key[..key.floor_char_boundary(64)];
            let twice = fields.iter().any(|field| field.0 == key);
            let known = self.known.iter().any(|known| *known == key);
            if known && !twice {
                fields.push((key, map.next_value()?));
                continue;
            }
            let detail = if twice {
                "is given twice; give it once".to_owned()
            } else {
                format!("is unknown; known are {}", self.known.join(", "))
            };
            let problem = FieldProblem::new(format!("/{name}"), detail);
            self.problems.push(problem);
            map.next_value::<IgnoredAny>()?;
        }
        Ok(fields)
    }
}

/// The fields of an object, and what is wrong with their names.
fn fields<'b>(
    text: &'b [u8],
    known: &[&str],
) -> Result<(Fields<'b>, Vec<FieldProblem>), BodyError> {
    let mut collect = Collect {
        known,
        problems: Vec::new(),
    };
    let mut from = serde_json::Deserializer::from_slice(text);
    let fields = from.deserialize_map(&mut collect);
    let fields = fields.and_then(|fields| from.end().map(|()| fields));
    let fields = fields.map_err(|error| BodyError::Syntax {
        detail: error.to_string(),
    })?;
    Ok((fields, collect.problems))
}

fn literal(raw: &RawValue) -> Result<Lit<'_>, Wrong> {
    serde_json::from_str(raw.get()).map_err(|error| Wrong(error.to_string()))
}

/// Says what is wrong with parts of a body by their place in it.
struct Reading<'r> {
    body: &'r Bytes,
    now: Timestamp,
    problems: Vec<FieldProblem>,
}

impl Reading<'_> {
    fn say(&mut self, pointer: &str, detail: impl Into<String>) {
        self.problems.push(FieldProblem::new(pointer, detail));
    }

    fn take<T>(&mut self, pointer: &str, read: Result<T, Wrong>) -> Option<T> {
        read.map_err(|Wrong(detail)| self.say(pointer, detail)).ok()
    }

    fn broken(&mut self, pointer: &str, error: BodyError) {
        match error {
            BodyError::Syntax { detail } => self.say(pointer, format!("is no job: {detail}")),
            BodyError::Fields(problems) => {
                for problem in problems {
                    let own = format!("{pointer}{}", problem.pointer);
                    self.say(&own, problem.detail);
                }
            }
        }
    }

    fn job(&mut self, reader: &mut JobReader, pointer: &str, raw: &RawValue) -> Option<NewJob> {
        let text = self.body.slice_ref(raw.get().as_bytes());
        let range = 0..text.len();
        match reader.read(&text, range, self.now) {
            Ok(job) => Some(job),
            Err(error) => {
                self.broken(pointer, error);
                None
            }
        }
    }

    fn list<'b>(&mut self, raw: &'b RawValue) -> Vec<&'b RawValue> {
        let Ok(list) = serde_json::from_str::<Vec<&RawValue>>(raw.get()) else {
            self.say("/jobs", "is no list; give a list of jobs");
            return Vec::new();
        };
        if list.len() > BATCH_JOBS_MAX {
            let got = list.len();
            let detail = format!(
                "has {got}; the limit of one commit is {BATCH_JOBS_MAX}; send a larger group as application/x-ndjson"
            );
            self.say("/jobs", detail);
            return Vec::new();
        }
        list
    }

    fn then(&mut self, reader: &mut JobReader, raw: &RawValue) -> Option<Then> {
        let Ok((found, problems)) = fields(raw.get().as_bytes(), &THEN_FIELDS) else {
            self.say("/then", "is no object; give {\"on\": .., \"job\": {..}}");
            return None;
        };
        for problem in problems {
            self.say(&format!("/then{}", problem.pointer), problem.detail);
        }
        let (mut on, mut job) = (ThenOn::default(), None);
        for (key, raw) in found {
            if key == "job" {
                job = Some(self.job(reader, "/then/job", raw)?);
                continue;
            }
            let known = ThenOn::ALL.map(ThenOn::as_str);
            let read = literal(raw).and_then(|value| {
                let name = one_of(&value, &known)?;
                let found = ThenOn::ALL.into_iter().find(|on| on.as_str() == name);
                Ok(found.unwrap_or_default())
            });
            on = self.take("/then/on", read)?;
        }
        let Some(job) = job else {
            self.say("/then/job", "is missing; give the job to make");
            return None;
        };
        if job.idempotency.is_some() {
            let detail = "is not needed: a group has one follow-up; leave it out";
            self.say("/then/job/idempotency_key", detail);
        }
        Some(Then { on, job })
    }

    fn finish<T>(self, value: T) -> Result<T, BodyError> {
        if self.problems.is_empty() {
            Ok(value)
        } else {
            Err(BodyError::Fields(self.problems))
        }
    }
}

/// Reads the body of a group: its rule, and its first members.
///
/// `jobs` may be missing where it is held (`hold`) or where members follow as lines (`lines`).
pub fn read_group(
    reader: &mut JobReader,
    body: &Bytes,
    now: Timestamp,
    lines: bool,
) -> Result<(NewGroup, Vec<NewJob>), BodyError> {
    let (found, problems) = fields(body, &GROUP_FIELDS)?;
    let mut reading = Reading {
        body,
        now,
        problems,
    };
    let (mut group, mut jobs, mut listed) = (NewGroup::default(), Vec::new(), 0);
    for (key, raw) in found {
        if raw.get() == "null" {
            continue; // the same as leaving it out
        }
        match &*key {
            "rule" => {
                let known = GroupRule::ALL.map(GroupRule::as_str);
                let read = literal(raw).and_then(|value| {
                    let name = one_of(&value, &known)?;
                    Ok(GroupRule::from_name(name).unwrap_or_default())
                });
                group.rule = reading.take("/rule", read).unwrap_or_default();
            }
            "deadline" => {
                let read = literal(raw).and_then(|value| instant(&value));
                group.deadline = reading.take("/deadline", read);
            }
            "hold" => {
                let read = literal(raw).and_then(|value| match value {
                    Lit::Bool(hold) => Ok(hold),
                    other => Err(Wrong(format!("is {}; give true or false", other.what()))),
                });
                group.hold = reading.take("/hold", read).unwrap_or_default();
            }
            "then" => group.then = reading.then(reader, raw),
            _ if lines => reading.say(
                "/jobs",
                "excludes jobs as lines; leave it out of the first line",
            ),
            _ => {
                let list = reading.list(raw);
                listed = list.len();
                for (place, raw) in list.into_iter().enumerate() {
                    jobs.extend(reading.job(reader, &format!("/jobs/{place}"), raw));
                }
            }
        }
    }
    if !lines && !group.hold && listed == 0 && reading.problems.is_empty() {
        reading.say(
            "/jobs",
            "is empty; give the members, or \"hold\": true if they come later",
        );
    }
    if group.deadline.is_some_and(|at| at <= now) {
        reading.say("/deadline", "has passed; give a time to come");
    }
    reading.finish((group, jobs))
}

/// Reads the body of a flow and puts its jobs in order.
pub fn read_flow(
    reader: &mut JobReader,
    body: &Bytes,
    now: Timestamp,
) -> Result<FlowBody, BodyError> {
    let (found, problems) = fields(body, &FLOW_FIELDS)?;
    let mut reading = Reading {
        body,
        now,
        problems,
    };
    let mut drafts: Vec<(NewJob, Option<Box<str>>, Vec<Awaited>)> = Vec::new();
    let mut listed = 0;
    for (_, raw) in found {
        let list = reading.list(raw);
        listed = list.len();
        for (place, raw) in list.into_iter().enumerate() {
            let text = body.slice_ref(raw.get().as_bytes());
            let range = 0..text.len();
            match reader.read_of_flow(&text, range, now) {
                Ok(draft) => drafts.push(draft),
                Err(error) => reading.broken(&format!("/jobs/{place}"), error),
            }
        }
    }
    if listed == 0 && reading.problems.is_empty() {
        reading.say("/jobs", "is empty; give the jobs of the flow");
    }
    if !reading.problems.is_empty() {
        return Err(BodyError::Fields(reading.problems));
    }
    let edges = edges(&drafts, &mut reading);
    if !reading.problems.is_empty() {
        return Err(BodyError::Fields(reading.problems));
    }
    let order = match order(&edges) {
        Ok(order) => order,
        Err(circle) => {
            let name = |place: usize| drafts[place].1.as_deref().unwrap_or("?");
            let names: Vec<_> = circle.iter().map(|place| name(*place)).collect();
            let at = edges[circle[0]].iter().find(|edge| edge.0 == circle[1]);
            let pointer = format!("/jobs/{}/after/{}", circle[0], at.map_or(0, |edge| edge.1));
            let circle = names.join(" waits for ");
            reading.say(
                &pointer,
                format!("is a circle: {circle}; take one of them out"),
            );
            return Err(BodyError::Fields(reading.problems));
        }
    };
    Ok(ordered(drafts, &edges, &order))
}

/// For each job, whom of the flow it waits for and the place in its `after`.
fn edges(drafts: &[FlowDraft], reading: &mut Reading<'_>) -> Vec<Vec<(usize, usize)>> {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (place, (_, name, _)) in drafts.iter().enumerate() {
        let Some(name) = name else { continue };
        if let Some(other) = names.insert(name, place) {
            let detail = format!("is the ref of job {other} too; give each its own");
            reading.say(&format!("/jobs/{place}/ref"), detail);
        }
    }
    let mut edges = Vec::with_capacity(drafts.len());
    for (place, (_, _, after)) in drafts.iter().enumerate() {
        let mut own: Vec<(usize, usize)> = Vec::new();
        for (at, awaited) in after.iter().enumerate() {
            let Whom::Ref(name) = &awaited.whom else {
                continue;
            };
            let pointer = format!("/jobs/{place}/after/{at}");
            match names.get(&**name) {
                None => reading.say(&pointer, format!("names {name:?}, which is no ref here")),
                Some(other) if own.iter().any(|known| known.0 == *other) => {
                    reading.say(&pointer, format!("names {name:?} twice; name it once"));
                }
                Some(other) => own.push((*other, at)),
            }
        }
        edges.push(own);
    }
    edges
}

/// Places in an order in which each is behind those that it waits for, the first of the request
/// first (Kahn 1962); else a circle, its first place at both ends.
fn order(edges: &[Vec<(usize, usize)>]) -> Result<Vec<usize>, Vec<usize>> {
    let mut children = vec![Vec::new(); edges.len()];
    let mut left: Vec<usize> = edges.iter().map(Vec::len).collect();
    for (place, parents) in edges.iter().enumerate() {
        for (parent, _) in parents {
            children[*parent].push(place);
        }
    }
    let mut free: BTreeSet<usize> = (0..edges.len()).filter(|at| left[*at] == 0).collect();
    let mut order = Vec::with_capacity(edges.len());
    while let Some(place) = free.pop_first() {
        order.push(place);
        for child in &children[place] {
            left[*child] -= 1;
            if left[*child] == 0 {
                free.insert(*child);
            }
        }
    }
    let Some(start) = left.iter().position(|left| *left > 0) else {
        return Ok(order);
    };
    // Each that is left waits for one that is left: walking back comes by itself again.
    let mut walk = vec![start];
    loop {
        let last = walk[walk.len() - 1];
        let next = edges[last].iter().find(|edge| left[edge.0] > 0);
        let next = next.map_or(start, |edge| edge.0);
        if let Some(at) = walk.iter().position(|place| *place == next) {
            walk.push(next);
            return Err(walk.split_off(at));
        }
        walk.push(next);
    }
}

fn ordered(
    drafts: Vec<(NewJob, Option<Box<str>>, Vec<Awaited>)>,
    edges: &[Vec<(usize, usize)>],
    order: &[usize],
) -> FlowBody {
    let mut new_place = vec![0_u16; order.len()];
    for (new, old) in order.iter().enumerate() {
        new_place[*old] = new as u16;
    }
    let mut drafts: Vec<Option<_>> = drafts.into_iter().map(Some).collect();
    let mut flow = FlowBody {
        jobs: Vec::with_capacity(order.len()),
        places: Vec::with_capacity(order.len()),
    };
    for place in order {
        let Some((mut job, name, after)) = drafts[*place].take() else {
            continue;
        };
        let mut refs = edges[*place].iter();
        let resolved = after.iter().filter_map(|awaited| {
            let parent = match awaited.whom {
                Whom::Job(id) => Parent::Job(id),
                Whom::Ref(_) => Parent::Earlier(new_place[refs.next()?.0]),
            };
            let on_failure = awaited.on_failure;
            Some(After { parent, on_failure })
        });
        job.options.after = resolved.collect();
        flow.jobs.push(job);
        flow.places.push((*place, name));
    }
    flow
}
