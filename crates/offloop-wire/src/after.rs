//! Whom a job waits for, as a request writes it: ids of jobs, and in a flow the names that its jobs
//! give each other.

use offloop_job::limits::PARENTS_MAX;
use offloop_job::{After, JobId, OnFailure, Parent};

use crate::json::Lit;
use crate::problem::FieldProblem;
use crate::read::{Wrong, object, one_of, text, wrong};

/// Longest name that a job of a flow has among its own.
pub(crate) const REF_BYTES_MAX: usize = 128;

/// One entry of `after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Awaited {
    pub(crate) whom: Whom,
    pub(crate) on_failure: OnFailure,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Whom {
    Job(JobId),
    /// Of a job of the same flow.
    Ref(Box<str>),
}

/// Reads the list; what is wrong with one entry is said by its place. A bare text is a ref in a
/// flow, else an id.
pub(crate) fn read_after(
    value: Lit<'_>,
    flow: bool,
    problems: &mut Vec<FieldProblem>,
) -> Result<Vec<Awaited>, Wrong> {
    let Lit::List(entries) = value else {
        return Err(wrong(&value, "a list of the jobs to wait for"));
    };
    if entries.len() > PARENTS_MAX {
        let got = entries.len();
        return Err(Wrong(format!(
            "names {got} jobs; the limit is {PARENTS_MAX}"
        )));
    }
    let mut after = Vec::with_capacity(entries.len());
    for (place, entry) in entries.into_iter().enumerate() {
        match read_entry(entry, flow) {
            Ok(awaited) => after.push(awaited),
            Err((field, Wrong(detail))) => {
                let pointer = format!("/after/{place}{field}");
                problems.push(FieldProblem::new(pointer, detail));
            }
        }
    }
    Ok(after)
}

type Misread = (&'static str, Wrong);

fn read_entry(entry: Lit<'_>, flow: bool) -> Result<Awaited, Misread> {
    let own = |wrong| ("", wrong);
    if let Lit::Text(name) = &entry {
        let whom = if flow {
            Whom::Ref(read_ref(name).map_err(own)?)
        } else {
            Whom::Job(read_id(name).map_err(own)?)
        };
        let on_failure = OnFailure::default();
        return Ok(Awaited { whom, on_failure });
    }
    let (mut whom, mut on_failure) = (None, OnFailure::default());
    for (key, value) in object(entry).map_err(own)? {
        let read = |wrong| {
            let field = match &*key {
                "job" => "/job",
                "ref" => "/ref",
                _ => "/on_failure",
            };
            (field, wrong)
        };
        match &*key {
            "job" if whom.is_none() => {
                let id = text(&value).and_then(read_id).map_err(read)?;
                whom = Some(Whom::Job(id));
            }
            "ref" if whom.is_none() && flow => {
                let name = text(&value).and_then(read_ref).map_err(read)?;
                whom = Some(Whom::Ref(name));
            }
            "ref" if !flow => {
                let detail = "names a job of a flow; those are made by POST /v1/flows, give `job`";
                return Err(("/ref", Wrong(detail.into())));
            }
            "job" | "ref" => {
                let detail = "is one too many; give job or ref".to_owned();
                return Err(read(Wrong(detail)));
            }
            "on_failure" => {
                let found = one_of(&value, &["fail", "ignore", "continue"]).map_err(read)?;
                on_failure = OnFailure::from_name(found).unwrap_or_default();
            }
            other => {
                let name = &other[..other.floor_char_boundary(64)];
                let detail =
                    format!("has an unknown field {name:?}; known are job, ref, on_failure");
                return Err(own(Wrong(detail)));
            }
        }
    }
    let whom = whom.ok_or_else(|| own(Wrong("names no job; give its id as `job`".into())))?;
    Ok(Awaited { whom, on_failure })
}

fn read_id(text: &str) -> Result<JobId, Wrong> {
    let shown = &text[..text.floor_char_boundary(64)];
    text.parse()
        .map_err(|error| Wrong(format!("is {shown:?}: {error}")))
}

pub(crate) fn read_ref(text: &str) -> Result<Box<str>, Wrong> {
    if text.is_empty() || text.len() > REF_BYTES_MAX {
        let len = text.len();
        return Err(Wrong(format!(
            "has {len} bytes; a ref has 1 to {REF_BYTES_MAX}"
        )));
    }
    Ok(text.into())
}

/// Ids alone, for a job that stands alone.
pub(crate) fn ids(after: &[Awaited]) -> Vec<After> {
    let ids = after.iter().filter_map(|awaited| match awaited.whom {
        Whom::Job(id) => Some(After {
            parent: Parent::Job(id),
            on_failure: awaited.on_failure,
        }),
        Whom::Ref(_) => None,
    });
    ids.collect()
}
