//! How rows go into their place, resolved.

use super::raw::RawTarget;
use super::{OnConflict, PlaceRule};

/// Tells `problem` the field and what is wrong with it.
pub(super) fn rule(raw: &RawTarget, problem: &mut dyn FnMut(&str, String)) -> PlaceRule {
    let is_table = matches!(raw.sink.as_str(), "sqlite" | "postgres");
    let is_jobs = raw.sink == "jobs";
    for (field, is_said, fits) in [
        ("create", raw.create.is_some(), is_table),
        ("on_conflict", raw.on_conflict.is_some(), is_table),
        ("per", raw.per.is_some(), is_jobs),
    ] {
        if is_said && !fits {
            problem(field, format!("sink `{}` has none; leave it out", raw.sink));
        }
    }
    let on_conflict = match raw.on_conflict.as_deref() {
        None if raw.key.is_some() => OnConflict::Update,
        None | Some("reject") => OnConflict::Reject,
        Some("update") => OnConflict::Update,
        Some("keep") => OnConflict::Keep,
        Some(other) => {
            problem("on_conflict", format!("`{other}`; update, keep or reject"));
            OnConflict::Reject
        }
    };
    if raw.key.is_none() && on_conflict != OnConflict::Reject {
        problem(
            "on_conflict",
            "needs `key`, the column by which rows are the same".into(),
        );
    }
    let job_per_batch = match raw.per.as_deref() {
        None | Some("row") => false,
        Some("batch") => true,
        Some(other) => {
            problem("per", format!("`{other}`; row or batch"));
            false
        }
    };
    PlaceRule {
        create: raw.create.unwrap_or(false),
        on_conflict,
        job_per_batch,
    }
}
