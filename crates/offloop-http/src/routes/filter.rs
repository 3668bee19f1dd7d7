//! Which jobs a request is about: the same parameters for a list, an export, and orders for many.

use offloop_job::limits::TAGS_MAX;
use offloop_job::{FailureClass, JobState, Tag, Timestamp};
use offloop_store::{JobFilter, TimeRange};
use offloop_wire::parse_since;

use crate::problem::{Kind, Refusal};
use crate::query::Query;

const NAMES: [&str; 10] = [
    "task",
    "queue",
    "state",
    "tag",
    "class",
    "schedule",
    "created_from",
    "created_before",
    "finished_from",
    "finished_before",
];

/// The parameters of a filter, and others beside them.
pub(super) fn with(others: &[&'static str]) -> Vec<&'static str> {
    NAMES.iter().chain(others).copied().collect()
}

/// Whether anything is asked for but all.
pub(super) fn is_given(query: &Query<'_>) -> bool {
    NAMES.iter().any(|name| query.text(name).is_some())
}

fn names(all: impl Iterator<Item = &'static str>) -> String {
    all.collect::<Vec<_>>().join(", ")
}

/// What may be given several times: a job has all of them.
pub(super) const MANY: [&str; 1] = ["tag"];

fn tags(query: &Query<'_>) -> Result<Vec<Tag>, Refusal> {
    let tags = query.each("tag")?;
    if tags.len() > TAGS_MAX {
        let detail = format!(
            "query parameter `tag` is given {} times; a job has {TAGS_MAX} at most",
            tags.len()
        );
        return Err(Kind::InvalidParameter.say(detail).into());
    }
    Ok(tags)
}

/// Times are RFC 3339, or a length before `now`.
pub(super) fn read(query: &Query<'_>, now: Timestamp) -> Result<JobFilter, Refusal> {
    let time = |name: &str| query.with(name, |text| parse_since(text, now));
    Ok(JobFilter {
        task: query.parsed("task")?,
        queue: query.parsed("queue")?,
        state: query.with("state", |text| {
            JobState::from_name(text).ok_or_else(|| {
                let known = names(JobState::ALL.iter().map(|state| state.as_str()));
                format!("is {text:?}; known are {known}")
            })
        })?,
        tags: tags(query)?,
        class: query.with("class", |text| {
            FailureClass::from_name(text).ok_or_else(|| {
                let known = names(FailureClass::ALL.iter().map(|class| class.as_str()));
                format!("is {text:?}; known are {known}")
            })
        })?,
        schedule: query.parsed("schedule")?,
        created: TimeRange {
            from: time("created_from")?,
            before: time("created_before")?,
        },
        finished: TimeRange {
            from: time("finished_from")?,
            before: time("finished_before")?,
        },
    })
}
